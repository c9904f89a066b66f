//! Sizes as people write them.

/// Reads a size such as `512M`: a whole number and an optional binary unit (K, M, G, T, also as `MiB`).
/// A number alone counts mebibytes, as QEMU's `-m` does.
pub fn parse_size(text: &str) -> Result<u64, String> {
    let digits = text.find(|c: char| !c.is_ascii_digit()).unwrap_or(text.len());
    let (number, unit) = text.split_at(digits);
    let refuse = || format!("{text:?} is no size; write a whole number with a unit, such as 512M or 2G");
    let number: u64 = number.parse().map_err(|_| refuse())?;
    let unit = unit.to_ascii_uppercase();
    let unit = unit.strip_suffix("IB").unwrap_or(&unit);
    let shift = match unit {
        "K" => 10,
        "" | "M" => 20,
        "G" => 30,
        "T" => 40,
        _ => return Err(refuse()),
    };
    number
        .checked_mul(1 << shift)
        .ok_or_else(|| format!("{text} is more memory than addresses reach"))
}

/// Writes a size with the largest unit that leaves a whole number.
pub fn format_size(bytes: u64) -> String {
    for (shift, unit) in [(40, "TiB"), (30, "GiB"), (20, "MiB"), (10, "KiB")] {
        if bytes >= 1 << shift && bytes.is_multiple_of(1 << shift) {
            return format!("{} {unit}", bytes >> shift);
        }
    }
    format!("{bytes} bytes")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn units_are_binary() {
        assert_eq!(parse_size("512M"), Ok(512 << 20));
        assert_eq!(parse_size("512"), Ok(512 << 20));
        assert_eq!(parse_size("2g"), Ok(2 << 30));
        assert_eq!(parse_size("1GiB"), Ok(1 << 30));
        assert_eq!(parse_size("8K"), Ok(8192));
        for bad in [
            "",
            "M",
            "-1M",
            "1.5G",
            "12Q",
            "1 G",
            "99999999999999999999",
            "20000000T",
            "0x10",
            "１M",
        ] {
            assert!(parse_size(bad).is_err(), "{bad}");
        }
    }

    proptest::proptest! {
        #[test]
        fn any_text_is_a_size_or_an_error(text in ".{0,24}") {
            let _ = parse_size(&text);
        }

        #[test]
        fn a_formatted_size_reads_back(kib in 1u64..1 << 40) {
            let text = format_size(kib << 10).replace(' ', "");
            proptest::prop_assert_eq!(parse_size(&text), Ok(kib << 10));
        }
    }
}
