//! What firmware finds: its memory, shadow RAM, flash, and what fw_cfg tells it.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use ostler_machine::{Blob, Boot, Error, Firmware, FirmwareChip, PciAddress, Places, Variables, disk_path};
use proptest::prelude::*;
use vm_memory::{Bytes, GuestAddress, VolatileMemory};

use crate::bench::{Bench, Parts};

/// Bytes of the code, and of the variables.
const CODE: usize = 256 << 10;
const STORE: usize = 64 << 10;
const CODE_BASE: u64 = (1 << 32) - CODE as u64;
const STORE_BASE: u64 = CODE_BASE - STORE as u64;

/// What the code has at each address: no two pages are alike.
fn code_byte(offset: u64) -> u8 {
    (offset ^ offset >> 8 ^ offset >> 16) as u8
}

fn code() -> Vec<u8> {
    (0..CODE as u64).map(code_byte).collect()
}

pub fn firmware(chip: FirmwareChip) -> Firmware {
    Firmware {
        code: Blob::Bytes(code()),
        chip,
        smm: false,
        physical_bits: 40,
        boot_order: [1, 2]
            .map(|slot| disk_path(&Places::default(), PciAddress::root(slot)))
            .to_vec(),
        boot_menu: None,
        debug: None,
    }
}

fn bios() -> Bench {
    with(firmware(FirmwareChip::Rom))
}

fn uefi(file: Option<std::fs::File>) -> Bench {
    with(firmware(FirmwareChip::Flash(Variables {
        contents: Blob::Bytes(vec![0x77; STORE]),
        file,
    })))
}

pub fn with(firmware: Firmware) -> Bench {
    parts(firmware).build().unwrap()
}

pub fn parts(firmware: Firmware) -> Parts {
    Parts {
        boot: Some(Boot::Firmware(firmware)),
        cpus: 2,
        test_devices: false,
        ..Parts::default()
    }
}

impl Bench {
    /// Reads a byte as a CPU does: from the memory that is mapped there, else from a device.
    pub fn load(&self, gpa: u64) -> u8 {
        let slots = self.vm.slots.lock().unwrap();
        let slot = slots
            .iter()
            .find(|slot| (slot.gpa..slot.gpa + slot.len).contains(&gpa));
        let mut byte = [0];
        match slot {
            Some(slot) => {
                let at = (slot.offset + gpa - slot.gpa) as usize;
                slot.mapping
                    .as_volatile_slice()
                    .read_slice(&mut byte, at)
                    .unwrap();
            }
            None => {
                drop(slots);
                self.machine.memory().read(gpa, &mut byte);
            }
        }
        byte[0]
    }

    /// Writes a byte as a CPU does.
    pub fn store(&self, gpa: u64, value: u8) {
        let slots = self.vm.slots.lock().unwrap();
        let slot = slots
            .iter()
            .find(|slot| (slot.gpa..slot.gpa + slot.len).contains(&gpa));
        match slot {
            Some(slot) if slot.writable => {
                let at = (slot.offset + gpa - slot.gpa) as usize;
                slot.mapping
                    .as_volatile_slice()
                    .write_slice(&[value], at)
                    .unwrap();
            }
            _ => {
                drop(slots);
                self.machine.memory().write(gpa, &[value]);
            }
        }
    }

    /// Sets a register of the host bridge.
    fn set_host_bridge(&self, register: u32, value: u8) {
        self.set_config(0, 0, register, [value]);
    }

    fn fw_cfg(&self, item: u16, len: usize) -> Vec<u8> {
        self.machine.ports().write(0x510, &item.to_le_bytes());
        (0..len).map(|_| self.inb(0x511)).collect()
    }

    /// The files by their names.
    pub fn files(&self) -> BTreeMap<String, Vec<u8>> {
        let count = u32::from_be_bytes(self.fw_cfg(0x19, 4).try_into().unwrap());
        let directory = self.fw_cfg(0x19, 4 + 64 * count as usize);
        directory[4..]
            .chunks(64)
            .map(|entry| {
                let size = u32::from_be_bytes(entry[..4].try_into().unwrap());
                let item = u16::from_be_bytes(entry[4..6].try_into().unwrap());
                (text(&entry[8..]), self.fw_cfg(item, size as usize))
            })
            .collect()
    }
}

fn text(bytes: &[u8]) -> String {
    let end = bytes.iter().position(|byte| *byte == 0).unwrap_or(bytes.len());
    String::from_utf8(bytes[..end].to_vec()).unwrap()
}

#[test]
fn cpus_come_out_of_reset_at_the_vector_and_the_code_ends_there() {
    let bench = bios();
    let state = bench.machine.boot_state(0);
    assert_eq!((state.segments[1].base, state.rip), (0xffff_0000, 0xfff0));
    assert_eq!(state.cr0 & 1, 0, "real mode");
    assert_eq!(bench.load(0xffff_fff0), code_byte(CODE as u64 - 16));
    assert_eq!(bench.load(CODE_BASE), code_byte(0));
    let waiting = bench.machine.boot_state(1).mp;
    assert_eq!(waiting, ostler_accel::MpState::Uninitialized);
    // The last 128 KiB show below 1 MiB, and nothing can be written.
    for offset in (0..0x2_0000u64).step_by(0x555) {
        for base in [0xe_0000, 0xfffe_0000u64] {
            bench.store(base + offset, 0x33);
            assert_eq!(
                bench.load(base + offset),
                code_byte(CODE as u64 - 0x2_0000 + offset)
            );
        }
    }
    assert_eq!(
        (bench.load(0xa_0000), bench.load(0xc_0000)),
        (0xff, 0xff),
        "no display, no option ROM"
    );
    bench.store(0x9_ffff, 0x44);
    bench.store(0x10_0000, 0x55);
    assert_eq!((bench.load(0x9_ffff), bench.load(0x10_0000)), (0x44, 0x55));
}

/// Start of each piece of shadow RAM, the register that switches it, and whether by its upper half.
fn pieces() -> Vec<(u64, u32, bool)> {
    let mut pieces: Vec<_> = (0..12u32)
        .map(|n| (0xc_0000 + u64::from(n) * 0x4000, 0x91 + n / 2, n % 2 == 1))
        .collect();
    pieces.push((0xf_0000, 0x90, true));
    pieces
}

#[test]
fn reads_and_writes_of_each_piece_go_where_its_register_says() {
    let bench = bios();
    for (base, register, upper) in pieces() {
        let at = base + 0x123;
        let rom = bench.load(at);
        let neighbours = [
            base.wrapping_sub(1),
            base + if base == 0xf_0000 { 0x1_0000 } else { 0x4000 },
        ];
        let around = neighbours.map(|gpa| bench.load(gpa));
        bench.ram.write_obj(0x11u8, GuestAddress(at)).unwrap();
        let set = |bits: u8| bench.set_host_bridge(register, if upper { bits << 4 } else { bits });
        let in_ram = || bench.ram.read_obj::<u8>(GuestAddress(at)).unwrap();

        bench.store(at, 0x22);
        assert_eq!((bench.load(at), in_ram()), (rom, 0x11), "{base:#x}: ROM");
        set(2);
        bench.store(at, 0x33);
        assert_eq!(
            (bench.load(at), in_ram()),
            (rom, 0x33),
            "{base:#x}: ROM is read, RAM is written"
        );
        set(3);
        assert_eq!(bench.load(at), 0x33);
        bench.store(at, 0x44);
        assert_eq!((bench.load(at), in_ram()), (0x44, 0x44), "{base:#x}: RAM");
        set(1);
        bench.store(at, 0x55);
        assert_eq!(
            (bench.load(at), in_ram()),
            (0x44, 0x44),
            "{base:#x}: RAM that is protected"
        );
        assert_eq!(
            neighbours.map(|gpa| bench.load(gpa)),
            around,
            "{base:#x}: the others stay"
        );
        set(0);
        assert_eq!(bench.load(at), rom);
    }
}

#[test]
fn a_reset_shows_the_rom_again_and_leaves_ram_alone() {
    let bench = bios();
    bench.set_host_bridge(0x90, 0x30);
    bench.store(0xf_fff0, 0x99);
    bench.store(0x20_0000, 0x98);
    bench.machine.reset().unwrap();
    assert_eq!(bench.load(0xf_fff0), code_byte(CODE as u64 - 16));
    assert_eq!(bench.load(0x20_0000), 0x98);
    assert_eq!(bench.config(0, 0x60) & 1, 0, "the configuration window is off");
    assert_eq!(
        bench.config(31, 0x44) & 0x80,
        0,
        "and power management has no ports"
    );
}

#[test]
fn a_change_of_one_piece_leaves_the_memory_around_it_mapped() {
    let bench = bios();
    let key = |slot: &ostler_memory::RamSlot| (slot.gpa, slot.len, slot.host_ptr() as u64, slot.writable);
    let slots = || -> Vec<_> { bench.vm.slots.lock().unwrap().iter().map(key).collect() };
    let before = slots();
    bench.set_host_bridge(0x94, 0x30);
    let after = slots();
    let gone: Vec<_> = before.iter().filter(|slot| !after.contains(slot)).collect();
    let new: Vec<_> = after.iter().filter(|slot| !before.contains(slot)).collect();
    assert!(gone.is_empty(), "nothing was at 0xdc000: {gone:x?}");
    assert!(matches!(new[..], [(0xd_c000, 0x4000, _, true)]), "{new:x?}");
}

#[test]
fn flash_is_memory_until_a_command_and_again_after_read_array() {
    let bench = uefi(None);
    let mapped = |gpa: u64| {
        let slots = bench.vm.slots.lock().unwrap();
        slots.iter().any(|slot| slot.gpa == gpa && !slot.writable)
    };
    assert!(mapped(CODE_BASE) && mapped(STORE_BASE));
    assert_eq!(bench.load(STORE_BASE + 5), 0x77);
    bench.store(STORE_BASE, 0x70);
    assert!(!mapped(STORE_BASE) && mapped(CODE_BASE));
    assert_eq!(bench.load(STORE_BASE + 5), 0x80, "the status");
    bench.store(STORE_BASE, 0xff);
    assert!(mapped(STORE_BASE));

    // Program two bytes, then erase their block.
    for (at, value) in [(5, 0x12), (6, 0x34)] {
        bench.store(STORE_BASE + at, 0x10);
        bench.store(STORE_BASE + at, value);
    }
    bench.store(STORE_BASE, 0xff);
    assert_eq!(
        [4, 5, 6].map(|at| bench.load(STORE_BASE + at)),
        [0x77, 0x12, 0x34]
    );
    bench.store(STORE_BASE + 9, 0x20);
    bench.store(STORE_BASE + 9, 0xd0);
    bench.machine.reset().unwrap();
    assert!(mapped(STORE_BASE), "the reset pin");
    assert_eq!(
        [0, 5, 4095, 4096].map(|at| bench.load(STORE_BASE + at)),
        [0xff, 0xff, 0xff, 0x77]
    );
}

#[test]
fn the_codes_flash_is_protected() {
    let bench = uefi(None);
    bench.store(CODE_BASE + 7, 0x10);
    bench.store(CODE_BASE + 7, 0);
    assert_eq!(
        bench.load(CODE_BASE + 7),
        0x90,
        "ready, and a program that failed"
    );
    assert_eq!(
        bench.load(0xf_fff0),
        code_byte(CODE as u64 - 16),
        "the copy below 1 MiB is always there"
    );
    bench.store(CODE_BASE + 7, 0xff);
    assert_eq!(bench.load(CODE_BASE + 7), code_byte(7));
}

#[test]
fn changes_of_variables_are_in_their_file_at_once() {
    let path = tempfile::NamedTempFile::new().unwrap();
    std::fs::write(path.path(), vec![0x77; STORE]).unwrap();
    let file = std::fs::OpenOptions::new().write(true).open(path.path()).unwrap();
    let bench = uefi(Some(file));
    bench.store(STORE_BASE + 0x1003, 0x20);
    bench.store(STORE_BASE + 0x1003, 0xd0);
    bench.store(STORE_BASE + 0x1004, 0x40);
    bench.store(STORE_BASE + 0x1004, 0x5a);
    let mut expected = vec![0x77; STORE];
    expected[0x1000..0x2000].fill(0xff);
    expected[0x1004] = 0x5a;
    assert!(std::fs::read(path.path()).unwrap() == expected);
}

#[test]
fn a_file_that_cannot_be_written_is_told_by_the_status() {
    let path = tempfile::NamedTempFile::new().unwrap();
    let bench = uefi(Some(std::fs::File::open(path.path()).unwrap()));
    bench.store(STORE_BASE, 0x10);
    bench.store(STORE_BASE, 1);
    assert_eq!(bench.load(STORE_BASE), 0x90);
    bench.store(STORE_BASE, 0x20);
    assert_eq!(bench.load(STORE_BASE), 0xb0);
}

/// What firmware makes of the linker script, in a memory of its own: where each file is, with its bytes.
fn link(files: &BTreeMap<String, Vec<u8>>, bases: [u64; 2]) -> BTreeMap<String, (u64, Vec<u8>)> {
    let mut placed = BTreeMap::<String, (u64, Vec<u8>)>::new();
    let (mut bases, mut summed) = (bases.into_iter(), Vec::new());
    for command in files["etc/table-loader"].chunks(128) {
        assert_eq!(command.len(), 128);
        let word = |at: usize| u32::from_le_bytes(command[at..at + 4].try_into().unwrap()) as usize;
        let name = |at: usize| text(&command[at..at + 56]);
        match word(0) {
            1 => {
                let base = bases.next().expect("two files");
                assert_eq!(base % word(60) as u64, 0);
                assert!(matches!(command[64], 1 | 2), "a zone");
                assert!(placed.insert(name(4), (base, files[&name(4)].clone())).is_none());
            }
            2 => {
                let (file, at, size) = (name(4), word(116), usize::from(command[120]));
                let target = placed[&name(60)].0;
                let bytes = &mut placed.get_mut(&file).expect("placed before").1;
                assert!(
                    !summed
                        .iter()
                        .any(|(known, start, len)| *known == file && (*start..start + len).contains(&at)),
                    "a pointer that is changed after its table was summed up"
                );
                let mut value = [0; 8];
                value[..size].copy_from_slice(&bytes[at..at + size]);
                let value = u64::from_le_bytes(value) + target;
                bytes[at..at + size].copy_from_slice(&value.to_le_bytes()[..size]);
            }
            3 => {
                let (file, at, start, len) = (name(4), word(60), word(64), word(68));
                let bytes = &mut placed.get_mut(&file).expect("placed before").1;
                assert_eq!(bytes[at], 0, "EDK II sums over the field");
                bytes[at] = bytes[start..start + len]
                    .iter()
                    .fold(0u8, |sum, byte| sum.wrapping_sub(*byte));
                summed.push((file, start, len));
            }
            other => panic!("command {other}"),
        }
    }
    placed
}

fn sum(bytes: &[u8]) -> u8 {
    bytes.iter().fold(0, |sum, byte| sum.wrapping_add(*byte))
}

/// The tables that the RSDP leads to, by signature, after firmware has linked them.
fn linked_tables(bench: &Bench) -> BTreeMap<String, Vec<u8>> {
    let (rsdp_base, base) = (0xf_5a00, 0x7ff_0000);
    let placed = link(&bench.files(), [rsdp_base, base]);
    let (at, rsdp) = &placed["etc/acpi/rsdp"];
    assert_eq!((*at, &rsdp[..8], rsdp.len()), (rsdp_base, &b"RSD PTR "[..], 36));
    assert_eq!((sum(&rsdp[..20]), sum(rsdp)), (0, 0));
    let bytes = &placed["etc/acpi/tables"].1;
    let table = |address: u64| {
        let at = (address - base) as usize;
        let len = u32::from_le_bytes(bytes[at + 4..at + 8].try_into().unwrap()) as usize;
        bytes[at..at + len].to_vec()
    };
    let dword =
        |bytes: &[u8], at: usize| u64::from(u32::from_le_bytes(bytes[at..at + 4].try_into().unwrap()));
    let qword = |bytes: &[u8], at: usize| u64::from_le_bytes(bytes[at..at + 8].try_into().unwrap());
    let xsdt = table(qword(rsdp, 24));
    let mut all: Vec<Vec<u8>> = xsdt[36..].chunks(8).map(|entry| table(qword(entry, 0))).collect();
    let fadt = all.iter().find(|table| &table[..4] == b"FACP").unwrap();
    assert_eq!(dword(fadt, 40), qword(fadt, 140), "both pointers to the DSDT");
    let facs = table(dword(fadt, 36));
    assert_eq!(
        (&facs[..4], facs.len(), dword(fadt, 36) % 64),
        (&b"FACS"[..], 64, 0)
    );
    all.push(table(dword(fadt, 40)));
    all.push(xsdt);
    for table in &all {
        assert_eq!(sum(table), 0, "{}", text(&table[..4]));
    }
    all.into_iter().map(|table| (text(&table[..4]), table)).collect()
}

#[test]
fn the_linker_script_places_points_and_sums_up_in_this_order() {
    let tables = linked_tables(&bios());
    let signatures: Vec<&str> = tables.keys().map(|name| &name[..]).collect();
    assert_eq!(signatures, ["APIC", "DSDT", "FACP", "MCFG", "WAET", "XSDT"]);
    // The tables without pointers are those of a guest without firmware.
    let direct = crate::tables::tables(&crate::bench::machine(crate::bench::kernel(), 2));
    for name in ["APIC", "MCFG", "WAET"] {
        assert!(direct.contains(&tables[name]), "{name}");
    }
}

#[test]
fn the_tables_follow_the_configuration_window() {
    let bench = bios();
    let mcfg = |bench: &Bench| {
        let table = linked_tables(bench).remove("MCFG").unwrap();
        (u64::from_le_bytes(table[44..52].try_into().unwrap()), table[55])
    };
    assert_eq!(mcfg(&bench), (0xb000_0000, 255));
    let before = bench.files()["etc/acpi/tables"].len();
    bench.set_config(0, 0, 0x60, 0xe000_0005u32.to_le_bytes());
    assert_eq!(mcfg(&bench), (0xe000_0000, 63), "64 buses");
    assert_eq!(bench.readl(0xe000_0000), 0x29c0_8086);
    assert_eq!(
        bench.files()["etc/acpi/tables"].len(),
        before,
        "firmware may have noted the size"
    );
    bench.machine.reset().unwrap();
    assert_eq!(mcfg(&bench), (0xb000_0000, 255));
}

#[test]
fn fw_cfg_tells_what_firmware_asks_for() {
    let mut firmware = firmware(FirmwareChip::Rom);
    firmware.boot_menu = Some(Duration::from_secs(3));
    let bench = with(firmware);
    let files = bench.files();
    assert_eq!(
        files["bootorder"],
        b"/pci@i0cf8/scsi@1/disk@0,0\n/pci@i0cf8/scsi@2/disk@0,0\0"
    );
    assert_eq!(files["etc/boot-menu-wait"], 3000u16.to_le_bytes());
    assert_eq!(files["etc/sercon-port"], 0x3f8u16.to_le_bytes());
    assert_eq!(files["etc/system-states"][3] & 0x80, 0, "no S3");
    assert_eq!(bench.fw_cfg(0x0e, 2), [1, 0]);
    assert_eq!(bench.fw_cfg(0x05, 2), [2, 0], "CPUs");
    assert_eq!(bench.fw_cfg(0x0f, 2), [2, 0]);
    assert_eq!(bench.fw_cfg(0x11, 4), [0; 4], "no kernel");
    let ram: Vec<u64> = files["etc/e820"]
        .chunks(20)
        .filter(|entry| entry[16] == 1)
        .map(|entry| u64::from_le_bytes(entry[8..16].try_into().unwrap()))
        .collect();
    assert_eq!(ram, [64 << 20]);
    let anchor = &files["etc/smbios/smbios-anchor"];
    assert_eq!(
        (&anchor[..4], anchor.len(), sum(anchor), sum(&anchor[16..])),
        (&b"_SM_"[..], 31, 0, 0)
    );
    let structures = &files["etc/smbios/smbios-tables"];
    assert_eq!(
        u16::from_le_bytes([anchor[22], anchor[23]]) as usize,
        structures.len()
    );
    assert_eq!(structures[0], 1, "type 0 is the firmware's own");
    // RAM above 16 MiB in the battery-backed memory, in units of 64 KiB; boot from a hard disk first.
    let cmos = |index: u8| {
        bench.outb(0x70, index);
        bench.inb(0x71)
    };
    assert_eq!(
        u16::from_le_bytes([cmos(0x34), cmos(0x35)]),
        (48 << 20 >> 16) as u16
    );
    assert_eq!(cmos(0x3d) & 0xf, 2);
}

#[test]
fn firmware_finds_that_there_is_no_smm_to_set_up() {
    let bench = bios();
    bench.set_config(0, 31, 0x40, 0x601u32.to_le_bytes());
    bench.set_config(0, 31, 0x44, [0x80]);
    assert_eq!(bench.inl(0x630) & 0x20, 0x20);
    bench.outl(0x630, 0);
    bench.machine.reset().unwrap();
    bench.set_config(0, 31, 0x40, 0xb001u32.to_le_bytes());
    bench.set_config(0, 31, 0x44, [0x80]);
    assert_eq!(bench.inl(0xb030) & 0x20, 0x20);
}

#[test]
fn the_debug_ports_are_there_for_who_listens() {
    let mut firmware = firmware(FirmwareChip::Rom);
    let log = Arc::new(crate::bench::Outside::default());
    firmware.debug = Some(log.clone());
    let bench = with(firmware);
    for port in [0x402, 0xe9] {
        assert_eq!(bench.inb(port), 0xe9);
        bench.outb(port, port as u8);
    }
    assert_eq!(*log.output.lock().unwrap(), [0x02, 0xe9]);
    assert_eq!((bios().inb(0x402), bios().inb(0xe9)), (0xff, 0xff));
}

#[test]
fn firmware_of_a_wrong_size_is_one_clear_error() {
    for size in [0, 4096, (64 << 10) + 1, (16 << 20) + 4096] {
        let mut bad = firmware(FirmwareChip::Rom);
        bad.code = Blob::Bytes(vec![0; size]);
        assert!(
            matches!(parts(bad).build(), Err(Error::FirmwareSize { .. })),
            "{size}"
        );
    }
    let bad = firmware(FirmwareChip::Flash(Variables {
        contents: Blob::Bytes(vec![0; 100]),
        file: None,
    }));
    assert!(matches!(
        parts(bad).build(),
        Err(Error::FirmwareSize {
            what: "variable store",
            ..
        })
    ));
    let mut small = parts(firmware(FirmwareChip::Rom));
    small.ram = ostler_memory::allocate(1 << 20, Default::default()).unwrap();
    assert!(matches!(small.build(), Err(Error::NoMemory(_))));
}

#[test]
fn a_guest_without_firmware_has_none_of_it() {
    let bench = crate::bench::machine(crate::bench::kernel(), 1);
    assert!(
        bench.vm.slots.lock().unwrap().is_empty(),
        "its memory map never changes"
    );
    assert!(bench.machine.changed_slots().is_none());
    assert!(!bench.files().contains_key("etc/table-loader"));
    let mut byte = [0];
    assert!(!bench.machine.memory().read(0xf_0000, &mut byte));
}

proptest! {
    #[test]
    fn any_accesses_leave_flash_and_shadow_ram_standing(
        steps in proptest::collection::vec((0u8..5, any::<u32>(), any::<u64>(), 1usize..=8), 0..100)
    ) {
        let bench = uefi(None);
        for (kind, at, value, len) in steps {
            let data = &value.to_le_bytes()[..len];
            let at = u64::from(at);
            match kind {
                0 => bench.set_host_bridge(0x90 + at as u32 % 7, value as u8),
                1 => { bench.machine.memory().write(STORE_BASE + at % (STORE + CODE) as u64, data); }
                2 => { bench.machine.memory().read(STORE_BASE + at % (STORE + CODE) as u64, &mut [0; 8][..len]); }
                3 => { bench.machine.memory().write(0xc_0000 + at % 0x4_0000, data); }
                _ => { bench.machine.memory().read(0xc_0000 + at % 0x4_0000, &mut [0; 8][..len]); }
            }
        }
        bench.machine.reset().unwrap();
        prop_assert_eq!(bench.load(0xffff_fff0), code_byte(CODE as u64 - 16));
        prop_assert_eq!(bench.load(0xf_fff0), code_byte(CODE as u64 - 16));
    }
}
