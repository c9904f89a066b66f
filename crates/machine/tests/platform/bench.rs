//! A virtual machine without CPUs that writes down what the platform asks of it. The fuzzers' machine (`src/fuzzing/chips.rs`) is
//! made of it too.

use std::io;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};

use ostler_accel::{
    CpuidLeaf, Error, ExternalInterrupts, IoapicPin, SmiTarget, SyntheticConnection, SyntheticInterrupts,
    SyntheticSource, SystemManagement, Vcpu, Vm,
};
use ostler_bus::{Doorbell, DoorbellRegistry, Msi, MsiSink};
use ostler_machine::{
    Blob, Boot, BootSource, Display, Machine, MachineConfig, MachineEvent, MachineEvents, MachineType,
    Places, SerialBackend,
};
use ostler_memory::{GuestRam, RamSlot};
use ostler_pci::PciFunction;
use vmm_sys_util::eventfd::EventFd;

#[derive(Default)]
pub struct MockVm {
    pub messages: Mutex<Vec<Msi>>,
    pub pins: Mutex<Vec<IoapicPin>>,
    /// The memory map that was set last.
    pub slots: Mutex<Vec<RamSlot>>,
    /// That of system management mode, if there is any.
    pub smm: bool,
    pub smm_slots: Mutex<Vec<RamSlot>>,
    pub smis: Mutex<Vec<SmiTarget>>,
    /// What was asked for of synthetic interrupts, if it has them; those of CPU 255 it refuses.
    pub synthetic: Option<Mutex<Vec<Synthetic>>>,
    /// It takes no other map.
    pub refuses: AtomicBool,
    pub external: Mutex<Option<Arc<dyn ExternalInterrupts>>>,
}

/// A call of [`SyntheticInterrupts`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Synthetic {
    Open(SyntheticSource),
    Close(SyntheticSource),
    Raise(SyntheticSource),
    Connect(SyntheticConnection, SyntheticSource),
    Disconnect(SyntheticConnection),
}

impl MockVm {
    fn note(&self, call: Synthetic) {
        let calls = self.synthetic.as_ref().unwrap();
        calls.lock().unwrap().push(call);
    }

    fn note_to(&self, to: SyntheticSource, call: Synthetic) -> Result<(), Error> {
        self.note(call);
        match to.vcpu {
            255 => Err(Error::Unsupported("no such CPU".into())),
            _ => Ok(()),
        }
    }
}

impl SyntheticInterrupts for MockVm {
    fn open(&self, source: SyntheticSource) -> Result<(), Error> {
        self.note_to(source, Synthetic::Open(source))
    }
    fn close(&self, source: SyntheticSource) {
        self.note(Synthetic::Close(source));
    }
    fn raise(&self, source: SyntheticSource) {
        self.note(Synthetic::Raise(source));
    }
    fn connect(&self, connection: SyntheticConnection, to: SyntheticSource) -> Result<(), Error> {
        self.note_to(to, Synthetic::Connect(connection, to))
    }
    fn disconnect(&self, connection: SyntheticConnection) {
        self.note(Synthetic::Disconnect(connection));
    }
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

impl MockVm {
    fn take_map(&self) -> Result<(), Error> {
        match self.refuses.load(Ordering::SeqCst) {
            true => Err(Error::Unsupported("no other memory map".into())),
            false => Ok(()),
        }
    }
}

impl Vm for MockVm {
    fn create_vcpu(&self, _: u32, _: &[CpuidLeaf]) -> Result<Box<dyn Vcpu>, Error> {
        Err(Error::Unsupported("this machine has no CPUs".into()))
    }
    fn set_slots(&self, slots: Vec<RamSlot>) -> Result<(), Error> {
        self.take_map()?;
        *self.slots.lock().unwrap() = slots;
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
    fn synthetic_interrupts(&self) -> Option<&dyn SyntheticInterrupts> {
        self.synthetic
            .is_some()
            .then_some(self as &dyn SyntheticInterrupts)
    }
    fn system_management(&self) -> Option<&dyn SystemManagement> {
        self.smm.then_some(self)
    }
}

impl SystemManagement for MockVm {
    fn set_slots(&self, normal: Vec<RamSlot>, smm: Vec<RamSlot>) -> Result<(), Error> {
        self.take_map()?;
        *self.slots.lock().unwrap() = normal;
        *self.smm_slots.lock().unwrap() = smm;
        Ok(())
    }
    fn raise_smi(&self, to: SmiTarget) {
        self.smis.lock().unwrap().push(to);
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

/// What a test may choose about its machine.
pub struct Parts {
    pub machine_type: MachineType,
    pub kernel: Vec<u8>,
    /// What it boots instead of the kernel.
    pub boot: Option<Boot>,
    pub cpus: u32,
    /// How many of them are there at the start; all, if it does not say.
    pub boot_cpus: Option<u32>,
    pub ram: Arc<GuestRam>,
    pub functions: Vec<Arc<dyn PciFunction>>,
    pub display: Option<Display>,
    pub watchdog: bool,
    /// Where functions, watchdog and display are; without, where they always are.
    pub places: Option<Places>,
    pub generation_id: Option<[u8; 16]>,
    pub suspend: bool,
    /// The devices that are off by default: debug exit and test device.
    pub test_devices: bool,
}

impl Default for Parts {
    /// One CPU, 64 MiB, a kernel that says nothing.
    fn default() -> Self {
        Self {
            machine_type: MachineType::default(),
            kernel: kernel(),
            boot: None,
            cpus: 1,
            boot_cpus: None,
            ram: ostler_memory::allocate(64 << 20, Default::default()).unwrap(),
            functions: Vec::new(),
            display: None,
            watchdog: false,
            places: None,
            generation_id: None,
            suspend: false,
            test_devices: true,
        }
    }
}

impl Parts {
    pub fn build(self) -> Result<Bench, ostler_machine::Error> {
        self.build_over(MockVm::default())
    }

    /// The same over an accelerator with system management mode.
    pub fn build_with_smm(self) -> Result<Bench, ostler_machine::Error> {
        self.build_over(MockVm {
            smm: true,
            ..MockVm::default()
        })
    }

    /// The same over one with Hyper-V's synthetic interrupts.
    pub fn build_with_synthetic(self) -> Result<Bench, ostler_machine::Error> {
        self.build_over(MockVm {
            synthetic: Some(Mutex::default()),
            ..MockVm::default()
        })
    }

    fn build_over(self, vm: MockVm) -> Result<Bench, ostler_machine::Error> {
        let (vm, outside) = (Arc::new(vm), Arc::new(Outside::default()));
        let kernel = Boot::Kernel(BootSource {
            kernel: Blob::Bytes(self.kernel),
            initrd: None,
            command_line: "quiet".into(),
        });
        let machine = Machine::build(MachineConfig {
            machine_type: self.machine_type,
            ram: self.ram.clone(),
            vm: vm.clone(),
            cpus: self.cpus,
            boot_cpus: self.boot_cpus.unwrap_or(self.cpus),
            boot: self.boot.unwrap_or(kernel),
            functions: self.functions,
            sata: None,
            display: self.display,
            watchdog: self.watchdog,
            places: self.places,
            generation_id: self.generation_id,
            rtc_offset: 0,
            suspend: self.suspend,
            serial: Some(outside.clone()),
            events: outside.clone(),
            debug_exit: self.test_devices.then_some(0xf4),
            test_device: self.test_devices,
        })?;
        Ok(Bench {
            machine,
            vm,
            outside,
            ram: self.ram,
        })
    }
}

/// A machine of 64 MiB and `cpus` CPUs that boots `kernel`.
pub fn machine(kernel: Vec<u8>, cpus: u32) -> Bench {
    let parts = Parts {
        kernel,
        cpus,
        ..Parts::default()
    };
    parts.build().unwrap()
}

/// Waits for `condition`. Fails the test after a long time.
pub fn eventually(what: &str, condition: impl Fn() -> bool) {
    for _ in 0..20_000 {
        if condition() {
            return;
        }
        std::thread::sleep(std::time::Duration::from_millis(1));
    }
    panic!("{what} did not come within 20 seconds");
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
        self.config_on(0, device, register)
    }
    pub fn config_on(&self, bus: u32, device: u32, register: u32) -> u32 {
        self.outl(0xcf8, 1 << 31 | bus << 16 | device << 11 | register & !3);
        self.inl(0xcfc)
    }
    /// Writes `N` bytes of configuration space on bus 0, or behind a port.
    pub fn set_config<const N: usize>(&self, bus: u32, device: u32, register: u32, bytes: [u8; N]) {
        self.outl(0xcf8, 1 << 31 | bus << 16 | device << 11 | register & !3);
        self.machine
            .ports()
            .write(0xcfc + u64::from(register & 3), &bytes);
    }
    /// The messages sent since the last call.
    pub fn messages(&self) -> Vec<Msi> {
        std::mem::take(&mut *self.vm.messages.lock().unwrap())
    }
    /// Sets the 8259 pair up with vectors 0x30 and 0x38 and the first one's mask, as PC kernels do.
    pub fn set_up_pics(&self, mask: u8) -> Arc<dyn ExternalInterrupts> {
        for (port, values) in [(0x20, [0x11, 0x30, 4, 1]), (0xa0, [0x11, 0x38, 2, 1])] {
            self.outb(port, values[0]);
            for value in &values[1..] {
                self.outb(port + 1, *value);
            }
        }
        self.outb(0x21, mask);
        self.vm.external.lock().unwrap().clone().unwrap()
    }
    /// The inputs of the 8259 pair that ask, without the cascade.
    pub fn isa_requests(&self) -> u16 {
        for port in [0x20, 0xa0] {
            self.outb(port, 0x0a);
        }
        (u16::from(self.inb(0x20)) | u16::from(self.inb(0xa0)) << 8) & !(1 << 2)
    }
    pub fn ioapic(&self, pin: u32, entry: u64) {
        for (half, value) in [(1, entry >> 32), (0, entry)] {
            self.writel(0xfec0_0000, 0x10 + 2 * pin + half);
            self.writel(0xfec0_0010, value as u32);
        }
    }
}
