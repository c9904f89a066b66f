//! Entry for fuzzers: a guest's accesses to the display's ports, registers and memory, with a look at the screen.

use ostler_pci::PciFunction;

use crate::{Card, Format, write_picture};

/// Each six bytes are an access: what is accessed and how, where (two bytes), and a value (three). The same on VGA and on a plain
/// frame buffer.
pub fn ports(input: &[u8]) {
    for make in [Card::new, Card::plain] {
        access(&make().expect("16 MiB of memory are there"), input);
    }
}

fn access(card: &Card, input: &[u8]) {
    let devices = [
        card.legacy_ports(),
        card.vbe_ports(),
        card.legacy_window(),
        card.bar(0).expect("there is a frame buffer"),
        card.bar(2).expect("there are registers"),
    ];
    for access in input.chunks_exact(6).take(512) {
        let device = &devices[usize::from(access[0] & 7) % devices.len()];
        let offset = u64::from(u16::from_le_bytes([access[1], access[2]])) << (access[0] >> 3 & 1);
        let len = [1, 2, 4, 8][usize::from(access[0] >> 4 & 3)];
        let mut data = [0; 8];
        data[..3].copy_from_slice(&access[3..]);
        match access[0] >> 6 {
            0 => device.read(offset, &mut data[..len]),
            _ => device.write(offset, &data[..len]),
        }
    }
    let screen = card.screen();
    let mut row = Vec::new();
    for y in [0, screen.height() / 2, screen.height() - 1, screen.height()] {
        screen.row(y, &mut row);
        assert_eq!(row.len(), screen.width() as usize * 3);
    }
    let _ = screen.text();
    // A whole picture where that is small.
    if screen.width() * screen.height() <= 1 << 16 {
        for format in [Format::Ppm, Format::Png] {
            write_picture(&screen, format, std::io::sink()).expect("nobody refuses the picture");
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    #[test]
    fn what_fuzzers_found_is_survived() {
        ostler_corpus::replay("display-ports", super::ports);
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(64))]

        #[test]
        fn any_accesses_leave_a_screen_that_can_be_drawn(input in proptest::collection::vec(any::<u8>(), 0..1200)) {
            super::ports(&input);
        }
    }
}
