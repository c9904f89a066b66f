//! What a guest starts with.

pub use ostler_launch::firmware::Choice as FirmwareOption;

/// What `--firmware` takes.
const SYNTAX: &str = "write bios, uefi, uefi,secure-boot=on, FILE or FILE,smm=on";

pub(super) fn parse_firmware(text: &str) -> Result<FirmwareOption, String> {
    if let Some(path) = text.strip_suffix(",smm=on") {
        return match path {
            "" | "bios" | "uefi" => Err(format!("\"smm=on\" is for a FILE; {SYNTAX}")),
            path => Ok(FirmwareOption::FileWithSmm(path.into())),
        };
    }
    match text {
        "" => Err("the firmware is missing; write bios, uefi or a file".into()),
        "bios" => Ok(FirmwareOption::Bios),
        "uefi" | "uefi,secure-boot=off" => Ok(FirmwareOption::Uefi),
        "uefi,secure-boot=on" => Ok(FirmwareOption::SecureUefi),
        _ if text.starts_with("uefi,") || text.starts_with("bios,") => {
            Err(format!("{text:?} is not known; {SYNTAX}"))
        }
        path => Ok(FirmwareOption::File(path.into())),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn secure_boot_and_system_management_mode_are_asked_for() {
        for (text, choice) in [
            ("uefi", FirmwareOption::Uefi),
            ("uefi,secure-boot=off", FirmwareOption::Uefi),
            ("uefi,secure-boot=on", FirmwareOption::SecureUefi),
            ("/a,b.fd", FirmwareOption::File("/a,b.fd".into())),
            ("/a.fd,smm=on", FirmwareOption::FileWithSmm("/a.fd".into())),
        ] {
            assert_eq!(parse_firmware(text).unwrap(), choice, "{text}");
        }
        for text in [
            "uefi,secure-boot=yes",
            "bios,secure-boot=on",
            "uefi,smm=on",
            ",smm=on",
            "uefi,",
        ] {
            let refused = parse_firmware(text).unwrap_err();
            assert!(refused.contains("uefi,secure-boot=on"), "{text}: {refused}");
        }
    }
}
