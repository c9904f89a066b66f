//! What a guest starts with.

pub use ostler_launch::firmware::Choice as FirmwareOption;

pub(super) fn parse_firmware(text: &str) -> Result<FirmwareOption, String> {
    match text {
        "" => Err("the firmware is missing; write bios, uefi or a file".into()),
        "bios" => Ok(FirmwareOption::Bios),
        "uefi" => Ok(FirmwareOption::Uefi),
        path => Ok(FirmwareOption::File(path.into())),
    }
}
