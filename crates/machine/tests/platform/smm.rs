//! System management mode: who sees its memory, what raises its interrupt, who may write to flash.

use std::sync::Arc;

use ostler_accel::{Initiator, SmiTarget, set_initiator};
use ostler_machine::{Blob, Boot, Error, Firmware, FirmwareChip, SMM_MEMORY, Variables};
use ostler_memory::RamSlot;
use vm_memory::{Bytes, GuestAddress, GuestMemoryBackend, VolatileMemory};

use crate::bench::{Bench, Parts};

const CODE: usize = 256 << 10;
const STORE: usize = 64 << 10;
const STORE_BASE: u64 = (1 << 32) - (CODE + STORE) as u64;
/// End of the RAM that devices reach, and of what firmware takes for RAM.
pub const LOW_END: u64 = 48 << 20;
const TOP: u64 = LOW_END + SMM_MEMORY;

pub const SMRAM: u32 = 0x9d;
const EXTENDED: u32 = 0x9e;

fn firmware() -> Firmware {
    Firmware {
        code: Blob::Bytes(vec![0x90; CODE]),
        chip: FirmwareChip::Flash(Variables {
            contents: Blob::Bytes(vec![0x77; STORE]),
            file: None,
        }),
        smm: true,
        physical_bits: 40,
        boot_order: Vec::new(),
        boot_menu: None,
        debug: None,
    }
}

pub fn parts() -> Parts {
    Parts {
        boot: Some(Boot::Firmware(firmware())),
        cpus: 2,
        ram: ostler_memory::allocate(LOW_END, Default::default()).unwrap(),
        test_devices: false,
        ..Parts::default()
    }
}

fn machine() -> Bench {
    parts().build_with_smm().unwrap()
}

pub fn sees(slots: &[RamSlot], gpa: u64) -> bool {
    slots
        .iter()
        .any(|slot| (slot.gpa..slot.gpa + slot.len).contains(&gpa))
}

impl Bench {
    /// Whether CPUs see memory at `gpa`: outside, and in system management mode.
    pub fn seen(&self, gpa: u64) -> (bool, bool) {
        let outside = sees(&self.vm.slots.lock().unwrap(), gpa);
        (outside, sees(&self.vm.smm_slots.lock().unwrap(), gpa))
    }

    pub fn bridge(&self, register: u32, value: u8) {
        self.set_config(0, 0, register, [value]);
    }

    fn bridge_byte(&self, register: u32) -> u8 {
        (self.config(0, register) >> (8 * (register & 3))) as u8
    }

    fn smis(&self) -> Vec<SmiTarget> {
        std::mem::take(&mut *self.vm.smis.lock().unwrap())
    }

    /// Puts the power management block to port 0x600.
    fn place_pm(&self) {
        self.set_config(0, 31, 0x40, 0x601u32.to_le_bytes());
        self.set_config(0, 31, 0x44, [0x80]);
    }

    /// Carries out a command of fw_cfg that was put to `gpa`. Returns true if it succeeded.
    fn fw_cfg_command(&self, control: u32, length: u32, address: u64) -> bool {
        let mut command = Vec::new();
        command.extend(control.to_be_bytes());
        command.extend(length.to_be_bytes());
        command.extend(address.to_be_bytes());
        self.ram.write_slice(&command, GuestAddress(0x1000)).unwrap();
        self.outl(0x518, 0x1000u32.swap_bytes());
        let mut answer = [0; 4];
        self.ram.read_slice(&mut answer, GuestAddress(0x1000)).unwrap();
        answer == [0; 4]
    }

    fn file_number(&self, name: &str) -> u32 {
        self.machine.ports().write(0x510, &0x19u16.to_le_bytes());
        let next = |len: usize| -> Vec<u8> { (0..len).map(|_| self.inb(0x511)).collect() };
        let count = u32::from_be_bytes(next(4).try_into().unwrap());
        for _ in 0..count {
            let entry = next(64);
            if entry[8..].starts_with(name.as_bytes()) {
                return u32::from(u16::from_be_bytes([entry[4], entry[5]]));
            }
        }
        panic!("no file {name}");
    }
}

#[test]
fn an_accelerator_without_it_is_refused() {
    let error = parts().build().err().unwrap();
    assert!(matches!(error, Error::NoSmm), "{error}");
    assert!(
        error.to_string().contains("the host's KVM does not have"),
        "{error}"
    );
}

#[test]
fn the_top_segment_is_hidden_once_it_is_enabled_and_stays_so_once_it_is_locked() {
    let bench = machine();
    // Firmware asks for the size; without that it is none.
    assert_eq!(bench.config(0, 0x50) & 0xffff, 0);
    bench.set_config(0, 0, 0x50, [0xff, 0xff]);
    assert_eq!(bench.config(0, 0x50) & 0xffff, 16);
    let inside = LOW_END + 0x1000;
    assert_eq!(bench.seen(inside), (true, true), "it is RAM at first");
    bench.bridge(SMRAM, 0x08);
    bench.bridge(EXTENDED, 0x07);
    assert_eq!(bench.seen(inside), (false, true));
    assert_eq!(bench.seen(TOP - 1), (false, true));
    assert_eq!(bench.seen(LOW_END - 1), (true, true));
    assert_eq!(bench.seen(TOP), (false, false));
    // One of 8 MiB leaves what is below it.
    bench.bridge(EXTENDED, 0x05);
    assert_eq!(bench.seen(inside), (true, true));
    assert_eq!(bench.seen(TOP - (8 << 20)), (false, true));
    bench.bridge(EXTENDED, 0x07);
    // What is not there reads as ones, and goes nowhere.
    let mut bytes = [0; 4];
    assert!(!bench.machine.memory().read(inside, &mut bytes));

    // What firmware notes for itself stays as well.
    bench.set_config(0, 0, 0xac, 0x0300_0000u32.to_le_bytes());
    assert_eq!(bench.config(0, 0xac), 0x0300_0000);
    bench.bridge(SMRAM, 0x18);
    bench.set_config(0, 0, 0xac, 0u32.to_le_bytes());
    assert_eq!(bench.config(0, 0xac), 0x0300_0000);
    for (register, value) in [(EXTENDED, 0), (SMRAM, 0), (SMRAM, 0x48), (0x51, 0xff), (0x50, 1)] {
        bench.bridge(register, value);
        assert_eq!(bench.seen(inside), (false, true), "register {register:#x}");
    }
    assert_eq!(
        (bench.bridge_byte(SMRAM), bench.bridge_byte(EXTENDED)),
        (0x1a, 0x3f)
    );
    assert_eq!(bench.config(0, 0x50) & 0xffff, 16);
    // A reset of the whole machine ends it.
    bench.machine.reset().unwrap();
    assert_eq!(bench.seen(inside), (true, true));
}

#[test]
fn the_compatible_segment_is_where_the_display_is() {
    let bench = machine();
    let inside = 0xa_8000;
    assert_eq!(bench.seen(inside), (false, false));
    bench.bridge(SMRAM, 0x48);
    assert_eq!(bench.seen(inside), (true, true), "open");
    bench.bridge(SMRAM, 0x08);
    assert_eq!(bench.seen(inside), (false, true), "closed");
    bench.bridge(EXTENDED, 0x80);
    assert_eq!(bench.seen(inside), (false, false), "it is elsewhere");
    assert_eq!(bench.seen(0xfeda_8000), (false, true));
    bench.bridge(EXTENDED, 0);
    bench.bridge(SMRAM, 0x58);
    assert_eq!(bench.seen(inside), (false, true), "what is locked is not open");
}

/// Whatever the guest tells a device, its memory is not system management RAM.
#[test]
fn no_device_reaches_the_memory_of_system_management_mode() {
    let bench = machine();
    assert_eq!(bench.ram.last_addr().0, LOW_END - 1);
    let mut slots = bench.vm.smm_slots.lock().unwrap().clone();
    slots.retain(|slot| (LOW_END..TOP).contains(&slot.gpa));
    assert_eq!(slots.len(), 1);
    let ram = bench.ram.find_region(GuestAddress(0)).unwrap();
    assert!(!Arc::ptr_eq(&slots[0].mapping, &ram.get_mmap()));
    // fw_cfg copies what it is asked for: not there, even before it is hidden.
    assert!(!bench.fw_cfg_command(2 | 8, 4, LOW_END));
    assert!(bench.fw_cfg_command(2 | 8, 4, 0x2000));
}

#[test]
fn firmware_takes_that_memory_for_ram_and_learns_its_size() {
    let bench = machine();
    // CMOS: 64 KiB pieces above 16 MiB.
    bench.outb(0x70, 0x34);
    let low = bench.inb(0x71);
    bench.outb(0x70, 0x35);
    let pieces = u64::from(bench.inb(0x71)) << 8 | u64::from(low);
    assert_eq!((16 << 20) + (pieces << 16), TOP);
    bench.machine.ports().write(0x510, &3u16.to_le_bytes());
    let size: Vec<u8> = (0..8).map(|_| bench.inb(0x511)).collect();
    assert_eq!(size, TOP.to_le_bytes());
}

#[test]
fn a_command_raises_an_smi_where_that_is_on_and_on_all_cpus_once_that_is_agreed() {
    let bench = machine();
    bench.place_pm();
    set_initiator(Initiator { vcpu: 1, smm: false });
    assert_eq!(bench.inl(0x630), 0, "none are on after a reset");
    bench.outb(0xb2, 0x55);
    assert!(bench.smis().is_empty());
    bench.outl(0x630, 0x21);
    bench.outb(0xb2, 0x55);
    assert_eq!(bench.smis(), [SmiTarget::One(1)]);
    // The commands of ACPI are carried out here.
    bench.outb(0xb2, 2);
    bench.outb(0xb2, 3);
    assert!(bench.smis().is_empty());
    // Locked: they cannot be turned off.
    bench.set_config(0, 31, 0xa0, [0x10]);
    bench.outl(0x630, 0);
    assert_eq!(bench.inl(0x630), 1);
    bench.set_config(0, 31, 0xa0, [0]);
    assert_eq!(bench.config(0x1f, 0xa0) & 0x10, 0x10, "the lock stays");
    bench.outl(0x630, 0x21);

    let (requested, ok) = (
        bench.file_number("etc/smi/requested-features"),
        bench.file_number("etc/smi/features-ok"),
    );
    let wish = |bits: u64| {
        bench
            .ram
            .write_slice(&bits.to_le_bytes(), GuestAddress(0x2000))
            .unwrap();
        bench.fw_cfg_command(requested << 16 | 8 | 16, 8, 0x2000)
    };
    let agreed = || {
        bench.machine.ports().write(0x510, &(ok as u16).to_le_bytes());
        bench.inb(0x511)
    };
    assert!(wish(0x80) && agreed() == 0, "there is no such feature");
    assert!(wish(1) && agreed() == 1);
    assert!(!wish(0), "it is settled");
    assert!(
        !bench.fw_cfg_command(ok << 16 | 8 | 16, 1, 0x2000),
        "that is no file to write to"
    );
    assert!(
        !bench.fw_cfg_command(requested << 16 | 8 | 16, 9, 0x2000),
        "nor is it longer"
    );
    bench.outb(0xb2, 0x55);
    assert_eq!(bench.smis(), [SmiTarget::All]);
    bench.machine.reset().unwrap();
    assert_eq!(agreed(), 1, "nothing is wished for, which is all right");
    assert_eq!(bench.config(0x1f, 0xa0) & 0x10, 0);
}

#[test]
fn flash_takes_commands_from_system_management_mode_only() {
    let bench = machine();
    let program = |value: u8| {
        bench.machine.memory().write(STORE_BASE + 16, &[0x40]);
        bench.machine.memory().write(STORE_BASE + 16, &[value]);
        bench.machine.memory().write(STORE_BASE + 16, &[0xff]);
    };
    let contents = || {
        let slots = bench.vm.slots.lock().unwrap();
        let slot = slots.iter().find(|slot| slot.gpa == STORE_BASE).unwrap();
        let mut byte = [0];
        let memory = slot.mapping.get_slice(slot.offset as usize + 16, 1).unwrap();
        memory.read_slice(&mut byte, 0).unwrap();
        byte[0]
    };
    set_initiator(Initiator { vcpu: 0, smm: false });
    program(0x11);
    assert_eq!(contents(), 0x77);
    set_initiator(Initiator { vcpu: 0, smm: true });
    program(0x11);
    assert_eq!(contents(), 0x11);
    // While it shows its status to system management mode, others see the contents.
    bench.machine.memory().write(STORE_BASE, &[0x70]);
    let mut byte = [0];
    bench.machine.memory().read(STORE_BASE, &mut byte);
    assert_eq!(byte, [0x80], "its status");
    set_initiator(Initiator { vcpu: 1, smm: false });
    bench.machine.memory().read(STORE_BASE, &mut byte);
    assert_eq!(byte, [0x77]);
}
