//! UUIDs as text, and new ones.

use ostler_libvirt::types::Uuid;

/// A UUID of random bits (RFC 9562, version 4).
pub fn random() -> std::io::Result<Uuid> {
    let mut bytes = [0; 16];
    fill_random(&mut bytes)?;
    bytes[6] = bytes[6] & 0x0f | 0x40;
    bytes[8] = bytes[8] & 0x3f | 0x80;
    Ok(bytes)
}

/// Fills `bytes` at random.
pub fn fill_random(bytes: &mut [u8]) -> std::io::Result<()> {
    let mut filled = 0;
    while filled < bytes.len() {
        filled += rustix::rand::getrandom(&mut bytes[filled..], rustix::rand::GetRandomFlags::empty())?;
    }
    Ok(())
}

/// The text of a UUID, in lower case and with dashes.
pub fn format(uuid: &Uuid) -> String {
    let mut text = String::with_capacity(36);
    for (at, byte) in uuid.iter().enumerate() {
        if matches!(at, 4 | 6 | 8 | 10) {
            text.push('-');
        }
        text.push_str(&format!("{byte:02x}"));
    }
    text
}

/// Reads 32 hexadecimal digits; dashes and spaces between them do not matter.
pub fn parse(text: &str) -> Option<Uuid> {
    let digits: Vec<u8> = text
        .chars()
        .filter(|c| !matches!(c, '-' | ' '))
        .map(|c| c.to_digit(16).map(|digit| digit as u8))
        .collect::<Option<_>>()?;
    if digits.len() != 32 {
        return None;
    }
    let mut uuid = [0; 16];
    for (byte, pair) in uuid.iter_mut().zip(digits.chunks(2)) {
        *byte = pair[0] << 4 | pair[1];
    }
    Some(uuid)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn text_and_bytes() {
        let text = "0a1b2c3d-4e5f-6071-8293-a4b5c6d7e8f9";
        let uuid = parse(text).unwrap();
        assert_eq!(format(&uuid), text);
        assert_eq!(parse(&text.to_uppercase().replace('-', "")), Some(uuid));
        for bad in [
            "",
            "0a",
            "0a1b2c3d-4e5f-6071-8293-a4b5c6d7e8fg",
            &format!("{text}0"),
        ] {
            assert_eq!(parse(bad), None, "{bad}");
        }
        let new = random().unwrap();
        assert_eq!((new[6] >> 4, new[8] >> 6), (4, 2));
        assert_ne!(new, random().unwrap());
    }
}
