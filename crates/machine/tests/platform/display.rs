//! The display in the machine: its frame buffer, the old window and ports, the VGA BIOS; and the keyboard.

use std::fs::File;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use ostler_accel::model::Topology;
use ostler_accel::{Accelerator, Exit, KickSource, Vcpu, VmConfig};
use ostler_display::Card;
use ostler_machine::{
    Blob, Boot, Display, Error, Firmware, FirmwareChip, Key, Machine, MachineConfig, MachineType,
};
use ostler_memory::RamSlot;
use ostler_softcpu::vm::SoftCpu;
use proptest::prelude::*;

use crate::bench::{Bench, Outside, Parts, eventually, machine};
use crate::firmware;

/// Its slot.
pub const SLOT: u32 = 30;
const IDENTITY: u32 = 0x1111_1234;
const FRAME_BUFFER_SIZE: u64 = 16 << 20;

pub fn display(rom: Option<Vec<u8>>) -> Option<Display> {
    Some(Display {
        card: Card::new().unwrap(),
        rom: rom.map(Blob::Bytes),
    })
}

fn with_kernel() -> Bench {
    let parts = Parts {
        display: display(None),
        ..Parts::default()
    };
    parts.build().unwrap()
}

fn with_bios(rom: Vec<u8>) -> Result<Bench, Error> {
    let parts = Parts {
        display: display(Some(rom)),
        ..firmware::parts(firmware::firmware(FirmwareChip::Rom))
    };
    parts.build()
}

/// Where memory of 16 MiB beside RAM and ROM is mapped.
pub fn frame_buffer(bench: &Bench) -> Option<u64> {
    let slots = bench.vm.slots.lock().unwrap();
    let found = slots.iter().find(|slot| slot.len == FRAME_BUFFER_SIZE);
    found.map(|slot| slot.gpa)
}

fn bar(bench: &Bench, number: u32) -> u64 {
    u64::from(bench.config(SLOT, 0x10 + 4 * number) & !0xf)
}

#[test]
fn the_frame_buffer_is_memory_where_its_bar_is() {
    let bench = with_kernel();
    assert_eq!(bench.config(SLOT, 0), IDENTITY);
    let base = bar(&bench, 0);
    assert_eq!(frame_buffer(&bench), Some(base));
    bench.store(base + 5, 0x5a);
    // The same byte by the function's registers: its window through VBE's bank 0.
    for (index, value) in [(1u16, 640u16), (2, 480), (3, 8), (4, 0x81)] {
        bench.machine.ports().write(0x1ce, &index.to_le_bytes());
        bench.machine.ports().write(0x1cf, &value.to_le_bytes());
    }
    assert_eq!(bench.load(0xa_0005), 0x5a);
    // The guest moves it, switches it off, and finds it again.
    let elsewhere = base + 4 * FRAME_BUFFER_SIZE;
    bench.set_config(0, SLOT, 0x10, (elsewhere as u32).to_le_bytes());
    assert_eq!(
        (frame_buffer(&bench), bench.load(elsewhere + 5)),
        (Some(elsewhere), 0x5a)
    );
    bench.set_config(0, SLOT, 4, [0, 0]);
    assert_eq!(frame_buffer(&bench), None);
    bench.set_config(0, SLOT, 4, [2, 0]);
    assert_eq!(frame_buffer(&bench), Some(elsewhere));
    // Over RAM it is nowhere.
    bench.set_config(0, SLOT, 0x10, [0, 0, 0, 1]);
    assert_eq!(frame_buffer(&bench), None);
    bench.machine.reset().unwrap();
    assert_eq!(frame_buffer(&bench), Some(base));
}

/// As QEMU's bochs-display: VBE's registers in BAR 2 are all there is beside the frame buffer.
#[test]
fn a_plain_frame_buffer_has_no_vga() {
    let parts = Parts {
        display: Some(Display {
            card: Card::plain().unwrap(),
            rom: None,
        }),
        ..Parts::default()
    };
    let card = parts.display.as_ref().unwrap().card.clone();
    let bench = parts.build().unwrap();
    assert_eq!(bench.config(SLOT, 0), IDENTITY);
    assert_eq!(bench.config(SLOT, 8) >> 8, 0x03_8000);
    let (memory, registers) = (bar(&bench, 0), bar(&bench, 2));
    assert_eq!(frame_buffer(&bench), Some(memory));
    assert_eq!(card.screen().kind(), "dark");
    // No ports, and RAM where a display's window would be.
    assert_eq!((bench.inb(0x3cc), bench.inl(0x1ce)), (0xff, u32::MAX));
    let slots = bench.vm.slots.lock().unwrap().clone();
    assert!(slots.iter().any(|slot| (slot.gpa, slot.len) == (0, 64 << 20)));
    // A mode, by registers in memory; VGA's are not there.
    let vbe = |index: u64, value: u16| {
        let at = registers + 0x500 + 2 * index;
        bench.machine.memory().write(at, &value.to_le_bytes());
    };
    bench.writel(registers + 0x40c, u32::MAX);
    assert_eq!(bench.readl(registers + 0x40c), 0);
    assert_eq!(bench.readl(registers + 0x500) & 0xfff0, 0xb0c0);
    for (index, value) in [(1, 640), (2, 480), (3, 32), (4, 0x41)] {
        vbe(index, value);
    }
    bench.store(memory + 2, 0xff);
    let screen = card.screen();
    assert_eq!(
        (screen.kind(), screen.width(), screen.height()),
        ("graphics", 640, 480)
    );
    let mut row = Vec::new();
    screen.row(0, &mut row);
    assert_eq!(row[..6], [0xff, 0, 0, 0, 0, 0]);
}

#[test]
fn ram_makes_room_for_the_window_and_nothing_else_moves() {
    let bench = with_kernel();
    let ranges: Vec<(u64, u64)> = {
        let slots = bench.vm.slots.lock().unwrap();
        slots.iter().map(|slot| (slot.gpa, slot.gpa + slot.len)).collect()
    };
    assert_eq!(ranges[..2], [(0, 0xa_0000), (0xc_0000, 64 << 20)]);
    // A cell of text: the attribute is behind the character. Text is at 0xb8000 once the memory map field says so.
    for (port, value) in [
        (0x3ce, 6),
        (0x3cf, 0x0e),
        (0x3c4, 2),
        (0x3c5, 3),
        (0x3ce, 5),
        (0x3cf, 0x10),
    ] {
        bench.outb(port, value);
    }
    bench.store(0xb_8000, b'A');
    bench.store(0xb_8001, 7);
    assert_eq!((bench.load(0xb_8000), bench.load(0xb_8001)), (b'A', 7));
    // Without a display it is RAM as ever, and there is no such function.
    let bench = machine(crate::bench::kernel(), 1);
    assert!(bench.vm.slots.lock().unwrap().is_empty());
    assert_eq!(bench.config(SLOT, 0), 0xffff_ffff);
    assert_eq!(bench.inb(0x3cc), 0xff);
}

#[test]
fn a_bios_finds_the_vga_bios_and_the_display() {
    let bench = with_bios(vec![0x55, 0xaa, 4]).unwrap();
    assert_eq!(bench.files()["pci1234,1111.rom"], [0x55, 0xaa, 4]);
    assert_eq!(bench.config(SLOT, 0), IDENTITY);
    // Firmware gives the addresses; shadow RAM moves beside the frame buffer and not with it.
    assert_eq!(frame_buffer(&bench), None);
    bench.set_config(0, SLOT, 0x10, 0xd000_0000u32.to_le_bytes());
    bench.set_config(0, SLOT, 4, [2, 0]);
    bench.set_config(0, 0, 0x91, [0x33]);
    assert_eq!(frame_buffer(&bench), Some(0xd000_0000));
    bench.store(0xd000_0000, 1);
    assert_eq!(bench.load(0xd000_0000), 1);
    bench.machine.reset().unwrap();
    assert_eq!(frame_buffer(&bench), None);
    let refused = with_bios(vec![0; (128 << 10) + 1]).err().unwrap().to_string();
    assert!(
        refused.contains("131073 bytes, more than the 128 KiB"),
        "{refused}"
    );
}

#[test]
fn acpi_says_whether_there_is_vga() {
    // ACPI 6.4, 5.2.9.3: IA-PC boot architecture flags, bit 2.
    let flags = |bench: &Bench| {
        let tables = bench.files()["etc/acpi/tables"].clone();
        let at = tables.windows(4).position(|bytes| bytes == b"FACP").unwrap() + 109;
        u16::from_le_bytes([tables[at], tables[at + 1]])
    };
    let without = firmware::parts(firmware::firmware(FirmwareChip::Rom))
        .build()
        .unwrap();
    assert_eq!(flags(&without), 0x17);
    assert_eq!(flags(&with_bios(Vec::new()).unwrap()), 0x13);
}

/// Bytes of the keyboard's codes for `a`, pressed and released.
const A: [u8; 2] = [0x1e, 0x9e];

#[test]
fn keys_are_pressed_and_released_and_each_byte_interrupts() {
    let bench = machine(crate::bench::kernel(), 1);
    bench.ioapic(1, 0x21);
    bench.messages();
    let a = Key::from_name("a").unwrap();
    assert!(bench.machine.press_keys(vec![a], Duration::ZERO));
    let mut read = Vec::new();
    for count in 1..=A.len() {
        eventually("an interrupt", || {
            bench.vm.messages.lock().unwrap().len() >= count
        });
        eventually("a byte", || bench.inb(0x64) & 1 != 0);
        read.push(bench.inb(0x60));
    }
    assert_eq!((read, bench.inb(0x64) & 1), (A.to_vec(), 0));
    // Two keys are released in the other order; each byte is an edge though the line stays busy.
    let before = bench.vm.messages.lock().unwrap().len();
    let down = Key::from_name("down").unwrap();
    assert!(bench.machine.press_keys(vec![a, down], Duration::ZERO));
    let mut read = Vec::new();
    while read.len() < 6 {
        eventually("a byte", || bench.inb(0x64) & 1 != 0);
        read.push(bench.inb(0x60));
    }
    assert_eq!(read, [0x1e, 0xe0, 0x50, 0xe0, 0xd0, 0x9e]);
    eventually("six interrupts", || {
        bench.vm.messages.lock().unwrap().len() == before + 6
    });
}

#[test]
fn strokes_that_nobody_waits_for_are_refused_at_last() {
    let bench = machine(crate::bench::kernel(), 1);
    let key = Key::from_name("shift").unwrap();
    let long = Duration::from_secs(3600);
    let taken = (0..1000)
        .take_while(|_| bench.machine.press_keys(vec![key], long))
        .count();
    // One is held, the others wait.
    assert_eq!(taken, 65);
}

fn any_place() -> impl Strategy<Value = (bool, u64)> {
    prop_oneof![
        (0x3b0u64..0x3e0).prop_map(|port| (true, port)),
        (0x1ceu64..0x1d1).prop_map(|port| (true, port)),
        (0x60u64..0x65).prop_map(|port| (true, port)),
        (0xcf8u64..0xd00).prop_map(|port| (true, port)),
        (0x9_fff8u64..0xc_0008).prop_map(|gpa| (false, gpa)),
        (0xb000_0000u64..0xd800_0000).prop_map(|gpa| (false, gpa)),
        (0xb00f_0000u64..0xb00f_0040).prop_map(|gpa| (false, gpa)),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(60))]

    #[test]
    fn any_accesses_leave_the_display_standing(
        accesses in prop::collection::vec((any::<bool>(), any_place(), any::<[u8; 8]>(), 0u32..4), 0..300)
    ) {
        let bench = with_kernel();
        for (is_write, (on_ports, place), mut data, width) in accesses {
            let map = if on_ports { bench.machine.ports() } else { bench.machine.memory() };
            let data = &mut data[..1 << if on_ports { width.min(2) } else { width }];
            if is_write {
                map.write(place, data);
            } else {
                map.read(place, data);
            }
        }
        bench.machine.reset().unwrap();
        prop_assert_eq!(bench.config(SLOT, 0), IDENTITY);
        prop_assert_eq!(frame_buffer(&bench), Some(bar(&bench, 0)));
    }
}

/// Debian's BIOS and VGA BIOS.
const SEABIOS: [&str; 2] = [
    "/usr/share/seabios/bios-256k.bin",
    "/usr/share/seabios/vgabios-stdvga.bin",
];

/// A machine that starts with Debian's BIOS and offers its menu for as long as it can, with its CPU.
fn with_seabios() -> (Arc<Machine>, Arc<Card>, Box<dyn Vcpu>) {
    let ram = ostler_memory::allocate(64 << 20, Default::default()).unwrap();
    let outside = Arc::new(Outside::default());
    let accelerator = SoftCpu::default();
    let slots = RamSlot::all_of(&ram);
    let vm = accelerator.create_vm(VmConfig { cpus: 1, slots }).unwrap();
    let card = Card::new().unwrap();
    let file = |path| Blob::File(File::open(path).unwrap());
    let machine = Machine::build(MachineConfig {
        machine_type: MachineType::default(),
        places: None,
        ram,
        vm: vm.clone(),
        cpus: 1,
        boot_cpus: 1,
        boot: Boot::Firmware(Firmware {
            code: file(SEABIOS[0]),
            boot_menu: Some(Duration::from_secs(65)),
            ..firmware::firmware(FirmwareChip::Rom)
        }),
        functions: Vec::new(),
        sata: None,
        display: Some(Display {
            card: card.clone(),
            rom: Some(file(SEABIOS[1])),
        }),
        watchdog: false,
        generation_id: None,
        rtc_offset: 0,
        suspend: false,
        serial: Some(outside.clone()),
        events: outside.clone(),
        debug_exit: None,
        test_device: false,
    })
    .unwrap();
    let host = accelerator.supported_cpuid().unwrap();
    let cpuid = ostler_accel::model::build("max", &host, Topology { cpus: 1 }, 0).unwrap();
    let mut vcpu = vm.create_vcpu(0, &cpuid).unwrap();
    vcpu.set_state(&machine.boot_state(0)).unwrap();
    (Arc::new(machine), card, vcpu)
}

/// Answers exits until a kick.
fn run(machine: &Machine, vcpu: &mut dyn Vcpu, over: &AtomicBool) {
    while !over.load(Ordering::SeqCst) {
        match vcpu.run().unwrap() {
            Exit::PortRead { port, width, data } => {
                for item in data.chunks_mut(width.into()) {
                    machine.ports().read(port.into(), item);
                }
            }
            Exit::PortWrite { port, width, data } => {
                for item in data.chunks(width.into()) {
                    machine.ports().write(port.into(), item);
                }
            }
            Exit::MmioRead { gpa, data } => {
                machine.memory().read(gpa, data);
            }
            Exit::MmioWrite { gpa, data } => {
                machine.memory().write(gpa, data);
            }
            Exit::EndOfInterrupt { vector } => machine.end_of_interrupt(vector),
            Exit::Kicked => {}
            exit => panic!("{exit:?}"),
        }
    }
}

#[test]
fn seabios_shows_its_text_and_its_menu_comes_by_a_key() {
    let name = "seabios_shows_its_text_and_its_menu_comes_by_a_key";
    if let Some(missing) = SEABIOS.iter().find(|path| !Path::new(path).exists()) {
        eprintln!("SKIPPED {name}: there is no {missing}; ./test installs seabios");
        return;
    }
    let (machine, card, mut vcpu) = with_seabios();
    let over = AtomicBool::new(false);
    let kicker = vcpu.kicker();
    let text = || {
        card.screen()
            .text()
            .map(|(_, lines)| lines.join("\n"))
            .unwrap_or_default()
    };
    let wait_for = |words: &str| {
        let begun = Instant::now();
        while !text().contains(words) && begun.elapsed() < Duration::from_secs(240) {
            std::thread::sleep(Duration::from_millis(20));
        }
        text()
    };
    let (banner, menu, screen) = std::thread::scope(|scope| {
        scope.spawn(|| run(&machine, &mut *vcpu, &over));
        let banner = wait_for("Press ESC for boot menu.");
        machine.press_keys(vec![Key::from_name("esc").unwrap()], Duration::from_millis(50));
        let menu = wait_for("Select boot device:");
        let screen = card.screen();
        over.store(true, Ordering::SeqCst);
        kicker.kick(KickSource::Control);
        (banner, menu, screen)
    });
    assert!(
        banner.contains("SeaBIOS (version ") && banner.contains("Press ESC"),
        "{banner}"
    );
    assert!(menu.contains("Select boot device:"), "{menu}");
    // Drawn with the font that the VGA BIOS has loaded.
    assert_eq!((screen.width(), screen.height()), (720, 400));
    let mut row = Vec::new();
    let lit = (0..16).map(|y| {
        screen.row(y, &mut row);
        row.chunks(3).filter(|dot| dot != &[0; 3]).count()
    });
    let lit: usize = lit.sum();
    assert!(lit > 200, "{lit} dots of the first row are lit");
}
