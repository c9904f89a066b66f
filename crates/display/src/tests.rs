//! Registers group by group, and what they put on the screen.

use std::sync::{Arc, Mutex};

use ostler_bus::Device;
use ostler_memory::RamSlot;
use ostler_pci::{PciFunction, regs};

use crate::vbe::number as vbe;
use crate::*;

/// A display with its ports.
struct Bench {
    card: Arc<Card>,
    ports: Arc<dyn Device>,
    vbe: Arc<dyn Device>,
    window: Arc<dyn Device>,
    frame_buffer: Arc<dyn Device>,
}

impl Bench {
    fn new() -> Self {
        let card = Card::new().unwrap();
        Self {
            ports: card.legacy_ports(),
            vbe: card.vbe_ports(),
            window: card.legacy_window(),
            frame_buffer: card.bar(0).unwrap(),
            card,
        }
    }

    fn out(&self, port: u16, value: u8) {
        self.ports.write(u64::from(port) - LEGACY_PORTS, &[value]);
    }

    fn port(&self, port: u16) -> u8 {
        let mut data = [0];
        self.ports.read(u64::from(port) - LEGACY_PORTS, &mut data);
        data[0]
    }

    /// Writes a register behind an index port.
    fn set(&self, index_port: u16, index: u8, value: u8) {
        self.ports
            .write(u64::from(index_port) - LEGACY_PORTS, &[index, value]);
    }

    fn get(&self, index_port: u16, index: u8) -> u8 {
        self.out(index_port, index);
        self.port(index_port + 1)
    }

    fn set_attribute(&self, index: u8, value: u8) {
        self.port(0x3da);
        self.out(0x3c0, index);
        self.out(0x3c0, value);
    }

    fn set_vbe(&self, index: u16, value: u16) {
        self.vbe.write(0, &index.to_le_bytes());
        self.vbe.write(1, &value.to_le_bytes());
    }

    fn get_vbe(&self, index: u16) -> u16 {
        self.vbe.write(0, &index.to_le_bytes());
        let mut data = [0; 2];
        self.vbe.read(1, &mut data);
        u16::from_le_bytes(data)
    }

    fn poke(&self, offset: u64, bytes: &[u8]) {
        self.window.write(offset, bytes);
    }

    fn peek(&self, offset: u64) -> u8 {
        let mut data = [0];
        self.window.read(offset, &mut data);
        data[0]
    }

    /// Sixteen colours of the DAC: entry n is n in red, 2n in green and 3n in blue.
    fn set_palette(&self) {
        for color in 0..16 {
            self.set_attribute(color, color);
        }
        self.out(0x3c8, 0);
        for color in 0..16 {
            for value in [color, 2 * color, 3 * color] {
                self.out(0x3c9, value);
            }
        }
        self.set_attribute(0x12, 0x0f);
        self.port(0x3da);
        self.out(0x3c0, 0x20);
    }

    /// Mode 3: 80 columns and 25 rows of characters of 16 lines (VGA, "Video Modes").
    fn text_mode(&self) {
        self.out(0x3c2, 0x67);
        self.set(0x3d4, 0x11, 0);
        for (index, value) in [
            (0x01, 0x4f),
            (0x07, 0x1f),
            (0x09, 0x4f),
            (0x0a, 0x0d),
            (0x0b, 0x0e),
            (0x12, 0x8f),
            (0x13, 0x28),
        ] {
            self.set(0x3d4, index, value);
        }
        for (index, value) in [(1, 0x00), (2, 0x03), (3, 0x00), (4, 0x02)] {
            self.set(0x3c4, index, value);
        }
        for (index, value) in [(5, 0x10), (6, 0x0e), (8, 0xff)] {
            self.set(0x3ce, index, value);
        }
        self.set_attribute(0x10, 0x0c);
        self.set_palette();
    }

    fn row(&self, y: u32) -> Vec<u8> {
        let mut row = Vec::new();
        self.card.screen().row(y, &mut row);
        row
    }
}

/// Where 0xb8000 is in the window.
const TEXT: u64 = 0x1_8000;

#[test]
fn miscellaneous_output_says_where_the_crt_controller_is() {
    // VGA, "General Registers".
    let bench = Bench::new();
    bench.out(0x3c2, 0);
    bench.set(0x3b4, 0x0e, 7);
    assert_eq!((bench.get(0x3b4, 0x0e), bench.port(0x3d5)), (7, 0xff));
    bench.out(0x3c2, 1);
    assert_eq!((bench.get(0x3d4, 0x0e), bench.port(0x3b5)), (7, 0xff));
    assert_eq!(bench.port(0x3cc), 1);
    // The feature control register is written beside input status 1, and read elsewhere.
    bench.out(0x3da, 0xff);
    assert_eq!(bench.port(0x3ca), 0x10);
}

#[test]
fn input_status_1_changes_for_who_waits_and_makes_the_attribute_port_an_index() {
    let bench = Bench::new();
    bench.out(0x3c2, 1);
    let states: Vec<u8> = (0..4).map(|_| bench.port(0x3da) & 0x09).collect();
    assert_eq!(states, [9, 0, 9, 0]);
    // Half of an index and data pair is forgotten.
    bench.out(0x3c0, 0x11);
    bench.port(0x3da);
    bench.out(0x3c0, 0x13);
    bench.out(0x3c0, 5);
    assert_eq!((bench.port(0x3c0), bench.port(0x3c1)), (0x13, 5));
}

#[test]
fn sequencer_and_graphics_registers_have_the_bits_that_exist() {
    // VGA, "Sequencer", "Graphics Controller".
    let bench = Bench::new();
    let read = |port, indexes: std::ops::Range<u8>| {
        indexes
            .map(|index| {
                bench.set(port, index, 0xff);
                bench.get(port, index)
            })
            .collect::<Vec<u8>>()
    };
    assert_eq!(read(0x3c4, 0..6), [3, 0x3d, 0x0f, 0x3f, 0x0e, 0]);
    assert_eq!(read(0x3ce, 0..10), [15, 15, 15, 31, 3, 0x7b, 15, 15, 0xff, 0]);
}

#[test]
fn the_crt_controllers_first_registers_can_be_protected() {
    // VGA, "CRT Controller", Vertical Retrace End.
    let bench = Bench::new();
    bench.out(0x3c2, 1);
    for index in 0..8 {
        bench.set(0x3d4, index, 0x20 + index);
    }
    bench.set(0x3d4, 0x11, 0x80);
    for index in 0..9 {
        bench.set(0x3d4, index, 0xff);
    }
    let kept: Vec<u8> = (0..9).map(|index| bench.get(0x3d4, index)).collect();
    assert_eq!(kept, [0x20, 0x21, 0x22, 0x23, 0x24, 0x25, 0x26, 0x37, 0xff]);
    assert_eq!(bench.get(0x3d4, 0xff), 0);
}

#[test]
fn the_palette_is_the_cpus_or_the_screens() {
    // VGA, "Attribute Controller", Address Register.
    let bench = Bench::new();
    bench.out(0x3c2, 1);
    bench.set_attribute(3, 0x7f);
    bench.set_attribute(0x23, 0x11);
    bench.port(0x3da);
    bench.out(0x3c0, 3);
    assert_eq!(bench.port(0x3c1), 0x3f);
    assert_eq!(bench.card.screen().kind(), "dark");
    bench.out(0x3c0, 0);
    bench.out(0x3c0, 0x20);
    assert_eq!(bench.card.screen().kind(), "text");
}

#[test]
fn colours_of_the_dac_are_three_writes_and_three_reads() {
    // VGA, "Video Digital-to-Analog Converter".
    let bench = Bench::new();
    bench.out(0x3c8, 254);
    assert_eq!((bench.port(0x3c7), bench.port(0x3c8)), (0, 254));
    for value in 1..=9 {
        bench.out(0x3c9, value);
    }
    // Two values of the next one change nothing yet.
    bench.out(0x3c9, 50);
    bench.out(0x3c9, 51);
    bench.out(0x3c7, 254);
    assert_eq!(bench.port(0x3c7), 3);
    let read: Vec<u8> = (0..12).map(|_| bench.port(0x3c9)).collect();
    assert_eq!(read, [1, 2, 3, 4, 5, 6, 7, 8, 9, 0, 0, 0]);
    bench.out(0x3c6, 0x0f);
    assert_eq!(bench.port(0x3c6), 0x0f);
}

#[test]
fn the_memory_map_field_says_where_the_window_is() {
    // VGA, "Graphics Controller", Miscellaneous: at 0xa0000 (128 or 64 KiB), 0xb0000, 0xb8000.
    let bench = Bench::new();
    bench.set(0x3c4, 2, 1);
    for (field, decoded) in [
        (0, [true, true, true]),
        (1, [true, false, false]),
        (2, [false, true, false]),
        (3, [false, false, true]),
    ] {
        bench.set(0x3ce, 6, field << 2);
        for (at, decoded) in [0, 0x1_0000, 0x1_8000].into_iter().zip(decoded) {
            bench.poke(at, &[0x5a]);
            let expected = if decoded { 0x5a } else { 0xff };
            assert_eq!(bench.peek(at), expected, "field {field}, {at:#x}");
            bench.poke(at, &[0]);
        }
    }
}

#[test]
fn write_modes_combine_the_byte_with_the_latches() {
    // VGA, "Graphics Controller", Graphics Mode. Latches are 0x0f, 0xf0, 0xff, 0x00.
    let bench = Bench::new();
    let latches = [0x0f, 0xf0, 0xff, 0x00];
    for (name, registers, value, expected) in [
        ("rotated", [0, 0, 1, 0xff, 0], 0x81, [0xc0; 4]),
        ("set/reset", [5, 3, 0, 0xff, 0], 0x81, [0xff, 0x00, 0x81, 0x81]),
        ("bit mask", [0, 0, 0, 0x3c, 0], 0xff, [0x3f, 0xfc, 0xff, 0x3c]),
        ("and", [0, 0, 0x08, 0xff, 0], 0x3c, [0x0c, 0x30, 0x3c, 0x00]),
        ("or", [0, 0, 0x10, 0xff, 0], 0x3c, [0x3f, 0xfc, 0xff, 0x3c]),
        ("xor", [0, 0, 0x18, 0xff, 0], 0x3c, [0x33, 0xcc, 0xc3, 0x3c]),
        ("copied", [0, 0, 0, 0xff, 1], 0x55, latches),
        ("a colour", [0, 0, 0, 0xff, 2], 0x0a, [0, 0xff, 0, 0xff]),
        // The mask is 0xf0 & 0xcc.
        ("a mask", [9, 0, 0, 0xf0, 3], 0xcc, [0xcf, 0x30, 0x3f, 0xc0]),
    ] {
        bench.set(0x3ce, 6, 0x04);
        bench.set(0x3ce, 5, 0);
        bench.set(0x3ce, 1, 0);
        bench.set(0x3ce, 3, 0);
        bench.set(0x3ce, 8, 0xff);
        for (plane, byte) in latches.into_iter().enumerate() {
            bench.set(0x3c4, 2, 1 << plane);
            bench.poke(0, &[byte]);
        }
        bench.peek(0);
        bench.set(0x3c4, 2, 0x0f);
        for (index, value) in [0, 1, 3, 8, 5].into_iter().zip(registers) {
            bench.set(0x3ce, index, value);
        }
        bench.poke(1, &[value]);
        bench.set(0x3ce, 5, 0);
        let planes = [0, 1, 2, 3].map(|plane| {
            bench.set(0x3ce, 4, plane);
            bench.peek(1)
        });
        assert_eq!(planes, expected, "{name}");
    }
}

#[test]
fn a_read_compares_colours() {
    // VGA, "Graphics Controller", Color Compare and Color Don't Care.
    let bench = Bench::new();
    bench.set(0x3ce, 6, 0x04);
    for (plane, byte) in [0xf0, 0xcc, 0x00, 0xff].into_iter().enumerate() {
        bench.set(0x3c4, 2, 1 << plane);
        bench.poke(0, &[byte]);
    }
    bench.set(0x3ce, 5, 0x08);
    bench.set(0x3ce, 2, 0x0b);
    bench.set(0x3ce, 7, 0x0f);
    assert_eq!(bench.peek(0), 0xc0);
    bench.set(0x3ce, 7, 0x0d);
    assert_eq!(bench.peek(0), 0xf0);
    bench.set(0x3ce, 7, 0);
    assert_eq!(bench.peek(0), 0xff);
}

#[test]
fn planes_are_chained_as_a_mode_with_256_colours_has_them() {
    // VGA, "Sequencer", Memory Mode: an address's two low bits are the plane.
    let bench = Bench::new();
    bench.set(0x3ce, 6, 0x05);
    bench.set(0x3c4, 4, 0x0e);
    bench.set(0x3c4, 2, 0x0b);
    bench.poke(0x100, &[1, 2, 3, 4]);
    let read: Vec<u8> = (0x100..0x104).map(|at| bench.peek(at)).collect();
    assert_eq!(read, [1, 2, 0, 4]);
}

#[test]
fn text_is_read_and_drawn() {
    let bench = Bench::new();
    bench.text_mode();
    // A font in plane 2, as firmware loads it: 'A' has bits 0x81 in line 3, and 0xdb (a block) 0xff.
    for (index, value) in [(2, 4), (4, 6)] {
        bench.set(0x3c4, index, value);
    }
    for (index, value) in [(5, 0), (6, 4)] {
        bench.set(0x3ce, index, value);
    }
    bench.poke(0x41 * 32 + 3, &[0x81]);
    bench.poke(0xdb * 32 + 3, &[0xff]);
    bench.text_mode();
    bench.poke(TEXT, b"B\x07o\x07o\x07t\x07 \x07\xdb\x1e\xe9\x07");
    bench.poke(TEXT + 162, b" \x07");
    bench.poke(TEXT + (24 * 80 + 78) * 2, b"A\x2f");
    bench.set(0x3d4, 0x0e, 0);
    bench.set(0x3d4, 0x0f, 81);
    let screen = bench.card.screen();
    assert_eq!(
        (screen.kind(), screen.width(), screen.height()),
        ("text", 720, 400)
    );
    let (text, lines) = screen.text().unwrap();
    assert_eq!((text.columns, text.rows, text.cursor), (80, 25, Some((1, 1))));
    assert_eq!(lines.len(), 25);
    assert_eq!(lines[0], "Boot █Θ");
    assert_eq!(lines[24], format!("{}A", " ".repeat(78)));
    // The 'A': white on green, its ninth dot background; colours of six bits are widened.
    let widened = |color: u8| [color, 2 * color, 3 * color].map(|v| v << 2 | v >> 4);
    let row = bench.row(24 * 16 + 3);
    let dots: Vec<&[u8]> = row.chunks(3).skip(78 * 9).take(9).collect();
    for (place, dot) in dots.iter().enumerate() {
        let color = if place == 0 || place == 7 { 15 } else { 2 };
        assert_eq!(*dot, widened(color), "dot {place}");
    }
    // The block is line graphics: its ninth dot is as the eighth.
    let row = bench.row(3);
    assert!(row.chunks(3).skip(5 * 9).take(9).all(|dot| dot == widened(14)));
    // The cursor is in lines 13 and 14.
    let lit = |line: u32| bench.row(16 + line)[9 * 3..18 * 3].to_vec();
    let in_gray: Vec<u8> = [widened(0); 9].concat();
    assert_eq!(lit(12), in_gray);
    assert_ne!(lit(13), in_gray);
}

#[test]
fn rows_start_where_the_crt_controller_says() {
    let bench = Bench::new();
    bench.text_mode();
    bench.poke(TEXT + 160, b"l\x07a\x07t\x07e\x07r\x07");
    bench.set(0x3d4, 0x0c, 0);
    bench.set(0x3d4, 0x0d, 80);
    let lines = bench.card.screen().text().unwrap().1;
    assert_eq!(lines[0], "later");
    // Past the end of the planes it starts over.
    bench.poke(TEXT, b"f\x07");
    bench.set(0x3d4, 0x0c, 0xff);
    bench.set(0x3d4, 0x0d, 0xff);
    assert_eq!(bench.card.screen().text().unwrap().1[0], " f");
}

#[test]
fn planes_are_dots_of_sixteen_colours() {
    // Mode 12h: 640 by 480.
    let bench = Bench::new();
    bench.text_mode();
    for (index, value) in [(0x07, 0x3e), (0x09, 0x40), (0x12, 0xdf), (0x13, 0x28)] {
        bench.set(0x3d4, index, value);
    }
    bench.set(0x3ce, 5, 0);
    bench.set(0x3ce, 6, 5);
    bench.set(0x3c4, 4, 6);
    bench.set(0x3c4, 2, 0x0a);
    bench.poke(80 + 1, &[0x80]);
    let screen = bench.card.screen();
    assert_eq!(
        (screen.kind(), screen.width(), screen.height()),
        ("graphics", 640, 480)
    );
    let row = bench.row(1);
    assert_eq!(row[8 * 3..10 * 3], [40, 81, 121, 0, 0, 0]);
}

#[test]
fn vbe_registers_are_found_and_tell_their_limits() {
    let bench = Bench::new();
    assert_eq!(bench.get_vbe(vbe::ID), 0xb0c5);
    bench.set_vbe(vbe::ID, 0xb0c2);
    assert_eq!(bench.get_vbe(vbe::ID), 0xb0c2);
    bench.set_vbe(vbe::ID, 0x1234);
    assert_eq!(bench.get_vbe(vbe::ID), 0xb0c2);
    assert_eq!(bench.get_vbe(vbe::MEMORY), 256);
    bench.set_vbe(vbe::ENABLE, 2);
    let limits = [vbe::WIDTH, vbe::HEIGHT, vbe::DEPTH].map(|index| bench.get_vbe(index));
    assert_eq!(limits, [MAX_WIDTH, MAX_HEIGHT, 32]);
    assert_eq!(bench.get_vbe(0xffff), 0);
}

#[test]
fn a_geometry_that_does_not_fit_is_made_to_fit() {
    for (asked, got) in [
        // Width, height, depth, virtual width, x, y.
        ([1024, 768, 32, 1024, 0, 0], [1024, 768, 32, 1024, 0, 0]),
        ([1025, 768, 24, 0, 0, 0], [1024, 768, 24, 1024, 0, 0]),
        ([0, 0, 0, 0, 9, 9], [8, 1, 8, 8, 0, 9]),
        (
            [0xffff, 0xffff, 0xffff, 0xffff, 0xffff, 0xffff],
            [4096, 4096, 8, 4096, 0, 0],
        ),
        (
            [2560, 1600, 32, 4096, 9999, 9999],
            [2560, 1024, 32, 4096, 1536, 0],
        ),
        ([800, 600, 4, 800, 0, 100], [800, 600, 4, 800, 0, 55]),
    ] {
        let bench = Bench::new();
        for (index, value) in [vbe::WIDTH, vbe::HEIGHT, vbe::DEPTH].into_iter().zip(asked) {
            bench.set_vbe(index, value);
        }
        bench.set_vbe(vbe::ENABLE, 0x41);
        let rest = [vbe::VIRTUAL_WIDTH, vbe::X_OFFSET, vbe::Y_OFFSET];
        for (index, value) in rest.into_iter().zip(&asked[3..]) {
            bench.set_vbe(index, *value);
        }
        let registers = [vbe::WIDTH, vbe::HEIGHT, vbe::DEPTH].into_iter().chain(rest);
        let read: Vec<u16> = registers.map(|index| bench.get_vbe(index)).collect();
        assert_eq!(read, got, "{asked:?}");
    }
}

#[test]
fn a_mode_starts_black_unless_it_is_told_not_to() {
    let bench = Bench::new();
    bench.set_vbe(vbe::WIDTH, 64);
    bench.set_vbe(vbe::HEIGHT, 8);
    bench.set_vbe(vbe::DEPTH, 32);
    let mut data = [0; 4];
    bench.frame_buffer.write(64 * 8 * 4 - 4, &[1, 2, 3, 4, 5, 6]);
    bench.set_vbe(vbe::ENABLE, 0xc1);
    bench.frame_buffer.read(64 * 8 * 4 - 4, &mut data);
    assert_eq!(data, [1, 2, 3, 4]);
    bench.set_vbe(vbe::ENABLE, 0);
    bench.set_vbe(vbe::ENABLE, 0x41);
    bench.frame_buffer.read(64 * 8 * 4 - 2, &mut data);
    assert_eq!(data, [0, 0, 5, 6]);
}

#[test]
fn the_window_shows_the_bank_of_a_vbe_mode() {
    let bench = Bench::new();
    bench.set_vbe(vbe::WIDTH, 640);
    bench.set_vbe(vbe::HEIGHT, 480);
    bench.set_vbe(vbe::ENABLE, 1);
    bench.set_vbe(vbe::BANK, 3);
    bench.poke(5, &[0x77]);
    let mut byte = [0];
    bench.frame_buffer.read(0x3_0005, &mut byte);
    assert_eq!((byte, bench.peek(5), bench.peek(0x1_0005)), ([0x77], 0x77, 0xff));
    bench.set_vbe(vbe::BANK, 0xffff);
    assert_eq!(bench.get_vbe(vbe::BANK), 255);
}

#[test]
fn dots_of_each_depth_have_their_colours() {
    for (depth, bytes, expected) in [
        (8, vec![5], [20, 40, 60]),
        (15, vec![0x1f, 0x7c], [255, 0, 255]),
        (16, vec![0xe0, 0x07], [0, 255, 0]),
        (16, vec![0x00, 0x80], [132, 0, 0]),
        (24, vec![1, 2, 3], [3, 2, 1]),
        (32, vec![1, 2, 3, 9], [3, 2, 1]),
    ] {
        let bench = Bench::new();
        bench.text_mode();
        bench.set_vbe(vbe::WIDTH, 16);
        bench.set_vbe(vbe::HEIGHT, 4);
        bench.set_vbe(vbe::DEPTH, depth);
        bench.set_vbe(vbe::ENABLE, 0x41);
        bench.set_vbe(vbe::Y_OFFSET, 1);
        bench.set_vbe(vbe::X_OFFSET, 0);
        let pitch = 16 * bytes.len() as u64;
        // Line 2 of the screen is line 3 of the memory; its second dot.
        bench.frame_buffer.write(3 * pitch + bytes.len() as u64, &bytes);
        let row = bench.row(2);
        assert_eq!(
            (row.len(), &row[..3], &row[3..6]),
            (48, &[0; 3][..], &expected[..]),
            "{depth}"
        );
    }
}

#[test]
fn the_dac_may_have_eight_bits() {
    let bench = Bench::new();
    bench.text_mode();
    bench.out(0x3c8, 1);
    for value in [200, 100, 50] {
        bench.out(0x3c9, value);
    }
    bench.set_vbe(vbe::WIDTH, 8);
    bench.set_vbe(vbe::HEIGHT, 1);
    bench.set_vbe(vbe::ENABLE, 0x61);
    bench.frame_buffer.write(0, &[1]);
    assert_eq!(bench.row(0)[..3], [200, 100, 50]);
}

#[test]
fn pictures_are_what_is_on_the_screen() {
    let bench = Bench::new();
    bench.text_mode();
    bench.set_vbe(vbe::WIDTH, 8);
    bench.set_vbe(vbe::HEIGHT, 2);
    bench.set_vbe(vbe::DEPTH, 24);
    bench.set_vbe(vbe::ENABLE, 0x41);
    let dots: Vec<u8> = (0..48).collect();
    bench.frame_buffer.write(0, &dots);
    let colors: Vec<u8> = dots.chunks(3).flat_map(|dot| [dot[2], dot[1], dot[0]]).collect();
    let screen = bench.card.screen();
    let mut ppm = Vec::new();
    write_picture(&screen, Format::Ppm, &mut ppm).unwrap();
    assert_eq!(ppm, [b"P6\n8 2\n255\n", &colors[..]].concat());
    let mut file = Vec::new();
    write_picture(&screen, Format::Png, &mut file).unwrap();
    let mut reader = png::Decoder::new(std::io::Cursor::new(file)).read_info().unwrap();
    let mut read = vec![0; 48];
    let info = reader.next_frame(&mut read).unwrap();
    assert_eq!((info.width, info.height, read), (8, 2, colors));
    struct Full;
    impl std::io::Write for Full {
        fn write(&mut self, _: &[u8]) -> std::io::Result<usize> {
            Err(std::io::ErrorKind::StorageFull.into())
        }
        fn flush(&mut self) -> std::io::Result<()> {
            Ok(())
        }
    }
    for format in [Format::Ppm, Format::Png] {
        let error = write_picture(&screen, format, Full).unwrap_err().to_string();
        assert!(
            error.starts_with("the picture of the screen cannot be written: "),
            "{error}"
        );
    }
}

#[test]
fn the_functions_registers_are_vgas_and_vbes() {
    let bench = Bench::new();
    let registers = bench.card.bar(2).unwrap();
    let read = |at: u64, len: usize| {
        let mut data = [0; 8];
        registers.read(at, &mut data[..len]);
        u64::from_le_bytes(data)
    };
    // VBE's at 0x500, 16 bits each, in halves too.
    assert_eq!((read(0x500, 2), read(0x514, 2)), (0xb0c5, 256));
    registers.write(0x502, &1024u16.to_le_bytes());
    registers.write(0x505, &[0x02]);
    registers.write(0x504, &[0x58]);
    assert_eq!(
        (read(0x502, 2), read(0x504, 2), read(0x502, 4)),
        (1024, 0x258, 0x0258_0400)
    );
    // VGA's from 0x3c0 on at 0x400; then what QEMU has beyond.
    registers.write(0x402, &[1]);
    assert_eq!((read(0x40c, 1), bench.port(0x3cc)), (1, 1));
    assert_eq!((read(0x600, 4), read(0x604, 4)), (8, 0x1e1e_1e1e));
    registers.write(0x604, &[0xbe; 4]);
    assert_eq!((read(0x604, 4), read(0xffc, 4), read(0, 8)), (0x1e1e_1e1e, 0, 0));
    assert!(bench.card.bar(1).is_none() && bench.card.bar(9).is_none());
}

#[test]
fn the_frame_buffer_is_mapped_where_its_bar_is() {
    #[derive(Default)]
    struct Map(Mutex<Vec<Option<RamSlot>>>);
    impl FrameBufferMap for Map {
        fn place_frame_buffer(&self, slot: Option<RamSlot>) {
            self.0.lock().unwrap().push(slot);
        }
    }
    let bench = Bench::new();
    let map = Arc::new(Map::default());
    bench.card.connect(map.clone());
    bench.card.bar_moved(2, Some(0xc000_0000));
    bench.card.bar_moved(0, Some(0xd000_0000));
    bench.card.bar_moved(0, None);
    let placed = map.0.lock().unwrap();
    let first = placed[0].as_ref().unwrap();
    assert_eq!(
        (first.gpa, first.len, first.writable),
        (0xd000_0000, 16 << 20, true)
    );
    assert!(placed.len() == 2 && placed[1].is_none());
}

#[test]
fn a_reset_brings_the_registers_back() {
    let bench = Bench::new();
    bench.text_mode();
    bench.set_vbe(vbe::ENABLE, 1);
    bench.card.config().write(regs::COMMAND, &[2, 0]);
    bench.card.reset();
    assert_eq!(bench.card.screen().kind(), "dark");
    assert_eq!(
        (bench.get_vbe(vbe::ENABLE), bench.card.config().u16(regs::COMMAND)),
        (0, 0)
    );
}
