//! A virtual machine without CPUs that writes down what the platform asks of it.

use std::io;
use std::sync::{Arc, Mutex};

use ostler_accel::{CpuidLeaf, Error, ExternalInterrupts, IoapicPin, Vcpu, Vm};
use ostler_bus::{Doorbell, DoorbellRegistry, Msi, MsiSink};
use ostler_machine::{
    Blob, BootSource, Machine, MachineConfig, MachineEvent, MachineEvents, MachineType, SerialBackend,
};
use ostler_memory::{GuestRam, RamSlot};
use vmm_sys_util::eventfd::EventFd;

#[derive(Default)]
pub struct MockVm {
    pub messages: Mutex<Vec<Msi>>,
    pub pins: Mutex<Vec<IoapicPin>>,
    pub external: Mutex<Option<Arc<dyn ExternalInterrupts>>>,
}

impl MsiSink for MockVm {
    fn signal(&self, msi: Msi) {
        self.messages.lock().unwrap().push(msi);
    }
    fn connect(&self, _: &EventFd, _: Option<Msi>) -> io::Result<()> {
        Err(io::ErrorKind::Unsupported.into())
    }
}

impl DoorbellRegistry for MockVm {
    fn add(&self, _: Doorbell, _: &EventFd) -> io::Result<()> {
        Ok(())
    }
    fn remove(&self, _: Doorbell, _: &EventFd) -> io::Result<()> {
        Ok(())
    }
}

impl Vm for MockVm {
    fn create_vcpu(&self, _: u32, _: &[CpuidLeaf]) -> Result<Box<dyn Vcpu>, Error> {
        Err(Error::Unsupported("this machine has no CPUs".into()))
    }
    fn set_slots(&self, _: Vec<RamSlot>) -> Result<(), Error> {
        Ok(())
    }
    fn set_ioapic_pins(&self, pins: &[IoapicPin]) -> Result<(), Error> {
        *self.pins.lock().unwrap() = pins.to_vec();
        Ok(())
    }
    fn set_external_interrupts(&self, source: Arc<dyn ExternalInterrupts>) {
        *self.external.lock().unwrap() = Some(source);
    }
    fn external_interrupt_raised(&self) {}
    fn set_dirty_log(&self, _: bool) -> Result<(), Error> {
        Ok(())
    }
    fn sync_dirty(&self) -> Result<(), Error> {
        Ok(())
    }
    fn clock(&self) -> Result<u64, Error> {
        Ok(0)
    }
    fn set_clock(&self, _: u64) -> Result<(), Error> {
        Ok(())
    }
}

#[derive(Default)]
pub struct Outside {
    pub output: Mutex<Vec<u8>>,
    pub events: Mutex<Vec<MachineEvent>>,
}

impl SerialBackend for Outside {
    fn output(&self, bytes: &[u8]) {
        self.output.lock().unwrap().extend(bytes);
    }
    fn input_room(&self) {}
}

impl MachineEvents for Outside {
    fn notify(&self, event: MachineEvent) {
        self.events.lock().unwrap().push(event);
    }
}

pub struct Bench {
    pub machine: Machine,
    pub vm: Arc<MockVm>,
    pub outside: Arc<Outside>,
    pub ram: Arc<GuestRam>,
}

/// A machine of 64 MiB and `cpus` CPUs that boots `kernel`.
pub fn machine(kernel: Vec<u8>, cpus: u32) -> Bench {
    let ram = ostler_memory::allocate(64 << 20, Default::default()).unwrap();
    let (vm, outside) = (Arc::new(MockVm::default()), Arc::new(Outside::default()));
    let machine = Machine::build(MachineConfig {
        machine_type: MachineType::default(),
        ram: ram.clone(),
        vm: vm.clone(),
        cpus,
        boot: BootSource {
            kernel: Blob::Bytes(kernel),
            initrd: None,
            command_line: "quiet".into(),
        },
        functions: Vec::new(),
        serial: Some(outside.clone()),
        events: outside.clone(),
        debug_exit: Some(0xf4),
        test_device: true,
    })
    .unwrap();
    Bench {
        machine,
        vm,
        outside,
        ram,
    }
}

/// A bzImage header with a payload that says nothing.
pub fn kernel() -> Vec<u8> {
    let mut image = vec![0; 6 * 512 + 1000];
    let mut put = |at: usize, bytes: &[u8]| image[at..at + bytes.len()].copy_from_slice(bytes);
    put(0x1f1, &[5]);
    put(0x1f4, &63u32.to_le_bytes());
    put(0x1fe, &[0x55, 0xaa, 0xeb, 0x6a]);
    put(0x202, b"HdrS");
    put(0x206, &0x20fu16.to_le_bytes());
    put(0x211, &[1]);
    put(0x22c, &0x7fff_ffffu32.to_le_bytes());
    put(0x230, &0x20_0000u32.to_le_bytes());
    put(0x234, &[1, 0, 1]);
    put(0x238, &2047u32.to_le_bytes());
    put(0x258, &0x100_0000u64.to_le_bytes());
    put(0x260, &0x100_0000u32.to_le_bytes());
    image
}

impl Bench {
    pub fn outb(&self, port: u64, value: u8) {
        self.machine.ports().write(port, &[value]);
    }
    pub fn inb(&self, port: u64) -> u8 {
        let mut data = [0];
        self.machine.ports().read(port, &mut data);
        data[0]
    }
    pub fn outl(&self, port: u64, value: u32) {
        self.machine.ports().write(port, &value.to_le_bytes());
    }
    pub fn inl(&self, port: u64) -> u32 {
        let mut data = [0; 4];
        self.machine.ports().read(port, &mut data);
        u32::from_le_bytes(data)
    }
    pub fn readl(&self, gpa: u64) -> u32 {
        let mut data = [0; 4];
        self.machine.memory().read(gpa, &mut data);
        u32::from_le_bytes(data)
    }
    pub fn writel(&self, gpa: u64, value: u32) {
        self.machine.memory().write(gpa, &value.to_le_bytes());
    }
    pub fn config(&self, device: u32, register: u32) -> u32 {
        self.outl(0xcf8, 1 << 31 | device << 11 | register);
        self.inl(0xcfc)
    }
    pub fn ioapic(&self, pin: u32, entry: u64) {
        for (half, value) in [(1, entry >> 32), (0, entry)] {
            self.writel(0xfec0_0000, 0x10 + 2 * pin + half);
            self.writel(0xfec0_0010, value as u32);
        }
    }
}
