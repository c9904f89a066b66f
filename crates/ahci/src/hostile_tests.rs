//! Drivers that do everything wrong. They hurt only themselves: whatever they did, the port works after a reset.

use std::sync::Arc;

use ostler_disk::Disk;
use ostler_pci::PciFunction;
use proptest::prelude::*;

use crate::DriveKind;
use crate::testing::*;

/// The address that the registers have in a real guest: no RAM.
const OWN_REGISTERS: u64 = 0xc000_0000;

const FATAL_BUS: u32 = 1 << 29;
const DATA_BUS: u32 = 1 << 28;
const FATAL_INTERFACE: u32 = 1 << 27;
const OVERFLOW: u32 = 1 << 24;

fn image() -> Image {
    Image::new(&[0x11; 1 << 20])
}

fn issue(bench: &Bench) -> u32 {
    bench.set_port(PX_CI, 1);
    bench.until("there is an error", || bench.port(PX_IS) & 0x7900_0000 != 0);
    bench.port(PX_IS)
}

#[test]
fn structures_outside_of_ram_stop_the_engine() {
    let image = image();
    let bench = Bench::disk(image.open(true));
    for list in [OWN_REGISTERS, RAM, 0xffff_ffff_ffff_fc00, 0xfee0_0000] {
        bench.set_port(PX_CLB, list as u32);
        bench.set_port(PX_CLB + 4, (list >> 32) as u32);
        bench.set_port(PX_CI, 1 << 31);
        bench.until("there is an error", || bench.port(PX_IS) & FATAL_BUS != 0);
        bench.assert_alive(0xec);
    }
    for table in [OWN_REGISTERS, RAM, RAM - 0x80, !0x7f] {
        bench.prepare(0, &Fis::new(0x25, 0, 1).bytes(), None, &[(DATA, 512)]);
        if table == RAM - 0x80 {
            // The FIS is there, the list is not.
            bench.put(table, &Fis::new(0x25, 0, 1).bytes());
        }
        bench.put(LIST + 8, &table.to_le_bytes());
        assert_ne!(issue(&bench) & FATAL_BUS, 0, "{table:#x}");
        bench.assert_alive(0xec);
    }
}

#[test]
fn buffers_outside_of_ram_are_never_touched() {
    let image = image();
    let before = image.contents();
    let bench = Bench::disk(image.open(true));
    let wild: &[&[(u64, u32)]] = &[
        &[(OWN_REGISTERS, 512)],
        &[(RAM, 512)],
        &[(RAM - 256, 512)],
        &[(u64::MAX - 1, 512)],
        &[(DATA, 256), (OWN_REGISTERS + 0x118, 256)],
        &[(0xfee0_0000, 512)],
    ];
    for list in wild {
        for command in [0x25, 0x35, 0x20, 0x30, 0x2f, 0xec] {
            bench.prepare(
                0,
                &Fis::new(command, 0x10 * u64::from(command == 0x2f), 1).bytes(),
                None,
                list,
            );
            assert_ne!(issue(&bench) & DATA_BUS, 0, "{command:#x} {list:x?}");
            bench.recover();
        }
        for command in [0x60, 0x61] {
            bench.prepare(0, &Fis::queued(command, 0, 0, 1).bytes(), None, list);
            bench.set_port(PX_SACT, 1);
            assert_ne!(issue(&bench) & DATA_BUS, 0, "{command:#x} {list:x?}");
            bench.recover();
        }
    }
    assert_eq!(image.contents(), before);
    bench.assert_alive(0xec);
}

#[test]
fn lists_that_are_too_short_move_nothing() {
    let image = image();
    let before = image.contents();
    let bench = Bench::disk(image.open(true));
    bench.put(DATA, &[0xee; 1024]);
    for list in [
        &[][..],
        &[(DATA, 2)],
        &[(DATA, 510)],
        &[(DATA, 256), (DATA + 512, 128)],
    ] {
        for command in [0x25, 0x35, 0x20, 0x30, 0xec] {
            bench.prepare(0, &Fis::new(command, 0, 1).bytes(), None, list);
            assert_ne!(issue(&bench) & OVERFLOW, 0, "{command:#x} {list:x?}");
            bench.recover();
        }
    }
    assert_eq!(image.contents(), before);
    assert_eq!(bench.get(DATA, 1024), [0xee; 1024]);
}

#[test]
fn a_long_transfer_over_the_same_page_is_bounded() {
    let image = Image::new(&vec![0x22; 40 << 20]);
    let bench = Bench::disk(image.open(true));
    // 32 MiB, the longest that a command can ask for, in buffers of one page: 8,192 of them, all the same.
    let table = RAM - (1 << 20);
    bench.prepare(0, &[], None, &[]);
    bench.put(table, &Fis::new(0x25, 0, 0).bytes());
    let mut entry = [0; 16];
    entry[..8].copy_from_slice(&DATA.to_le_bytes());
    entry[12..].copy_from_slice(&4095u32.to_le_bytes());
    for at in 0..8192 {
        bench.put(table + 0x80 + 16 * at, &entry);
    }
    bench.put(LIST + 2, &8192u16.to_le_bytes());
    bench.put(LIST + 8, &table.to_le_bytes());
    bench.set_port(PX_CI, 1);
    bench.until("it is over", || bench.port(PX_CI) == 0);
    assert_eq!(bench.get(LIST + 4, 4), (32u32 << 20).to_le_bytes());
    assert_eq!(bench.get(DATA, 4096), [0x22; 4096]);
    // The same with a list of the most entries that a header can name, and each of two bytes.
    entry[12..].copy_from_slice(&1u32.to_le_bytes());
    bench.put(LIST + 2, &u16::MAX.to_le_bytes());
    for at in 0..(1 << 16) - 16 {
        bench.put(table + 0x80 + 16 * at, &entry);
    }
    assert_ne!(issue(&bench) & (OVERFLOW | FATAL_BUS), 0);
    bench.assert_alive(0xec);
}

#[test]
fn buffers_over_the_drivers_own_structures_hurt_only_the_driver() {
    let image = image();
    let bench = Bench::disk(image.open(true));
    for target in [
        LIST,
        Bench::table(0),
        Bench::table(0) + 0x80,
        RECEIVED,
        RECEIVED + 0x40,
    ] {
        bench.prepare(0, &Fis::new(0x25, 0, 1).bytes(), None, &[(target, 512)]);
        bench.set_port(PX_CI, 1);
        bench.until("it is over", || bench.port(PX_CI) == 0);
        bench.assert_alive(0xec);
    }
}

#[test]
fn a_received_area_outside_of_ram_is_an_error() {
    let image = image();
    let bench = Bench::disk(image.open(true));
    bench.stop();
    bench.set_port(PX_FB, OWN_REGISTERS as u32);
    bench.set_port(PX_CMD, CMD_START_RECEIVE);
    bench.prepare(0, &Fis::new(0xe7, 0, 0).bytes(), None, &[]);
    assert_ne!(issue(&bench) & FATAL_BUS, 0);
    bench.assert_alive(0xec);
}

#[test]
fn garbage_in_place_of_a_fis_is_refused() {
    let image = image();
    let bench = Bench::disk(image.open(true));
    // Type, then length in dwords.
    for (kind, dwords) in [
        (0x34, 5),
        (0x46, 5),
        (0x58, 5),
        (0xff, 5),
        (0, 5),
        (0x27, 0),
        (0x27, 1),
        (0x27, 4),
        (0x27, 17),
        (0x27, 31),
    ] {
        let mut fis = Fis::new(0x25, 0, 1).bytes();
        fis[0] = kind;
        bench.prepare(0, &fis, None, &[(DATA, 512)]);
        bench.put(LIST, &[dwords]);
        assert_ne!(issue(&bench) & FATAL_INTERFACE, 0, "{kind:#x} {dwords}");
        bench.recover();
    }
    bench.assert_alive(0xec);
}

#[test]
fn every_command_of_both_drives_ends() {
    for (kind, identify) in [(DriveKind::Disk, 0xec), (DriveKind::Cdrom, 0xa1)] {
        let image = image();
        let bench = Bench::new(vec![(kind, image.open(true))]);
        bench.start();
        for command in 0..=255u8 {
            let buffers = [(DATA, 1 << 20)];
            let packet = [command; 16];
            bench.prepare(0, &Fis::new(command, 0x4f, 1).bytes(), Some(&packet), &buffers);
            bench.set_port(PX_SACT, 1);
            bench.set_port(PX_CI, 1);
            bench.until("it is over", || {
                bench.port(PX_CI) | bench.port(PX_SACT) == 0 && bench.port(PX_CI) == 0
                    || bench.port(PX_CI) == 0 && !matches!(command, 0x60 | 0x61)
                    || bench.port(PX_IS) & 0x7900_0000 != 0
            });
            bench.recover();
        }
        bench.assert_alive(identify);
    }
}

#[test]
fn every_packet_ends() {
    let image = image();
    for bench in [Bench::cdrom(image.open(false)), Bench::empty()] {
        for operation in 0..=255u8 {
            for filler in [0, 1, 0x2a, 0xff] {
                let mut packet = [filler; 16];
                packet[0] = operation;
                bench.run_packet(&packet, 4 << 20);
                if bench.port(PX_IS) & 0x7900_0000 != 0 {
                    bench.recover();
                }
            }
        }
        bench.assert_alive(0xa1);
    }
}

#[test]
fn commands_without_a_drive_or_with_a_wrong_tag_harm_no_one() {
    let image = image();
    let bench = Bench::disk(image.open(true));
    // A port without a drive: the command stays, until the engine is stopped.
    bench.write(0x180 + PX_CMD, CMD_START_RECEIVE);
    bench.write(0x180 + PX_CI, 1);
    assert_eq!(bench.read(0x180 + PX_CI), 1);
    bench.write(0x180 + PX_CMD, 0);
    assert_eq!(bench.read(0x180 + PX_CI), 0);
    // A tag that is not its slot's.
    bench.prepare(0, &Fis::queued(0x60, 7, 0, 1).bytes(), None, &[(DATA, 512)]);
    bench.set_port(PX_SACT, 1);
    issue(&bench);
    assert_eq!(bench.port(PX_TFD), 0x0451);
    bench.assert_alive(0xec);
}

/// What a driver may do, one step at a time.
#[derive(Debug, Clone)]
enum Step {
    Register(u64, u32, usize),
    Memory(u64, Vec<u8>),
    Command(u8, Fis, Vec<(u64, u32)>),
    Issue(u32),
    Read(u64),
    Config(u16, u32),
    /// Somebody takes the medium of the second port's drive out.
    Eject(bool),
}

fn address() -> impl Strategy<Value = u64> {
    prop_oneof![
        4 => (0..RAM).prop_map(|at| at & !0x7f),
        1 => Just(OWN_REGISTERS),
        1 => Just(LIST),
        1 => Just(RECEIVED),
        1 => Just(Bench::table(0)),
        1 => RAM - 0x1000..RAM + 0x1000,
        1 => any::<u64>(),
    ]
}

fn fis() -> impl Strategy<Value = Fis> {
    let command = prop_oneof![
        3 => prop::sample::select(vec![
            0x06u8, 0x20, 0x24, 0x25, 0x2f, 0x30, 0x34, 0x35, 0x3d, 0x60, 0x61, 0xa0, 0xa1, 0xb0, 0xe0, 0xe7, 0xea, 0xec, 0xef,
        ]),
        1 => any::<u8>(),
    ];
    let lba = prop_oneof![3 => 0u64..2100, 1 => 0u64..1 << 48];
    (
        command,
        any::<u16>(),
        lba,
        any::<u8>(),
        prop_oneof![3 => 0u16..20, 1 => any::<u16>()],
    )
        .prop_map(|(command, features, lba, device, count)| Fis {
            command,
            features,
            lba,
            device,
            count,
        })
}

fn step() -> impl Strategy<Value = Step> {
    let value = prop_oneof![
        any::<u32>(),
        Just(0),
        Just(1),
        Just(u32::MAX),
        Just(CMD_START_RECEIVE),
        Just(LIST as u32),
        Just(0x301),
        Just(0x300),
    ];
    let buffer = (
        address(),
        prop_oneof![Just(512u32), Just(4096), 0..70_000u32, any::<u32>()],
    );
    prop_oneof![
        4 => (0u64..0x1010, value, 1usize..9).prop_map(|(at, value, len)| Step::Register(at, value, len)),
        // The ports' registers that matter.
        4 => (0u64..3, prop::sample::select(vec![PX_CMD, PX_SCTL, PX_CI, PX_SACT, PX_IS, PX_IE, PX_SERR]),
              prop_oneof![any::<u32>(), Just(0), Just(1), Just(CMD_START_RECEIVE), Just(CMD_START_RECEIVE | 8)])
            .prop_map(|(port, register, value)| Step::Register(0x100 + 0x80 * port + register, value, 4)),
        1 => (0u64..0x1010).prop_map(Step::Read),
        2 => (address(), prop::collection::vec(any::<u8>(), 0..64)).prop_map(|(at, bytes)| Step::Memory(at, bytes)),
        6 => (0u8..32, fis(), prop::collection::vec(buffer, 0..4)).prop_map(|(slot, fis, list)| Step::Command(slot, fis, list)),
        6 => any::<u32>().prop_map(Step::Issue),
        1 => (0u16..0x110, any::<u32>()).prop_map(|(at, value)| Step::Config(at, value)),
        1 => any::<bool>().prop_map(Step::Eject),
    ]
}

fn take(bench: &Bench, step: &Step) {
    match step {
        Step::Register(at, value, len) => {
            let bytes = u64::from(*value).to_le_bytes();
            bench.write_bytes(*at, &bytes[..*len]);
        }
        Step::Read(at) => {
            bench.read(*at);
        }
        Step::Memory(at, bytes) => {
            if at.checked_add(bytes.len() as u64).is_some_and(|end| end <= RAM) {
                bench.put(*at, bytes);
            }
        }
        Step::Command(slot, fis, list) => {
            bench.prepare(*slot, &fis.bytes(), Some(&[fis.command; 16]), list);
        }
        Step::Issue(slots) => {
            bench.set_port(PX_SACT, *slots);
            bench.set_port(PX_CI, *slots);
            bench.write(0x180 + PX_CI, *slots);
        }
        Step::Eject(force) => {
            // The driver may have locked it.
            let _ = bench.ahci.tray(1).unwrap().change_medium(None, *force);
        }
        Step::Config(at, value) => bench.ahci.config_write(*at, &value.to_le_bytes()),
    }
}

proptest! {
    #![proptest_config(ProptestConfig {
        cases: 96,
        max_shrink_iters: 100,
        ..ProptestConfig::default()
    })]

    #[test]
    fn any_driver_leaves_a_controller_that_works_after_a_reset(
        steps in prop::collection::vec(step(), 1..160)
    ) {
        let image = image();
        let disk: Arc<dyn Disk> = image.open(true);
        let bench = Bench::new(vec![(DriveKind::Disk, disk), (DriveKind::Cdrom, image.open(false))]);
        bench.start();
        bench.write(0x180 + PX_CLB, LIST as u32);
        bench.write(0x180 + PX_FB, RECEIVED as u32 + 0x100);
        bench.write(0x180 + PX_CMD, CMD_START_RECEIVE);
        for step in &steps {
            take(&bench, step);
        }
        bench.write(GHC, 1);
        bench.until("the reset is over", || bench.read(GHC) & 1 == 0);
        for port in [0x100, 0x180] {
            prop_assert_eq!(bench.read(port + PX_CI), 0);
            prop_assert_eq!(bench.read(port + PX_CMD) & CMD_RUNNING, 0);
        }
        bench.start();
        bench.assert_alive(0xec);
        bench.ahci.reset();
        prop_assert_eq!(image.contents().len(), 1 << 20);
    }
}
