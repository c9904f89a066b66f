//! What a machine is made from, and whom it tells what happens to it.

use std::sync::Arc;

use ostler_accel::Vm;
use ostler_display::Card;
use ostler_memory::GuestRam;
use ostler_pci::PciFunction;

use crate::{Blob, BootSource, Firmware, Places};

/// A version of the platform. A guest keeps its version for life; new ones are added here, old ones stay.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum MachineType {
    /// The first subset of Q35.
    #[default]
    Q35V1,
    /// The same; what has a place on PCI in a definition is there.
    Q35V2,
}

impl MachineType {
    /// Every version, the oldest first.
    pub const ALL: [MachineType; 2] = [MachineType::Q35V1, MachineType::Q35V2];
    /// The newest version.
    pub const NEWEST: MachineType = MachineType::Q35V2;

    /// The version with this name.
    pub fn from_name(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|machine| machine.name() == name)
    }

    /// The name used in specifications and saved states.
    pub fn name(self) -> &'static str {
        match self {
            MachineType::Q35V1 => "ostler-q35-1",
            MachineType::Q35V2 => "ostler-q35-2",
        }
    }
}

/// Something that happened to the machine and that its owner decides about.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum MachineEvent {
    /// The guest switched the power off (ACPI S5).
    PowerOff,
    /// The guest went to sleep (ACPI S3): the vCPU that wrote this is to execute nothing any more, the others are to be paused.
    Suspend,
    /// The clock's alarm or the power button ends the sleep: pause the vCPUs, call [`crate::Machine::wake`], load the boot states.
    WakeUp,
    /// The guest asked for a reset: pause the vCPUs, call [`crate::Machine::reset`], load the boot states.
    Reset,
    /// The guest's kernel says that it panicked (pvpanic).
    Panic,
    /// The guest's kernel panicked and starts a crash kernel (pvpanic).
    CrashKernel,
    /// The guest did not restart its watchdog in time.
    Watchdog,
    /// A test guest wrote this value to the debug-exit port.
    DebugExit(u32),
}

/// Receives machine events. Called on a vCPU's thread in the middle of a port write, or on that of the timers, and with a chip's lock
/// held: note it, kick, return, and ask the machine nothing.
pub trait MachineEvents: Send + Sync {
    /// `event` happened.
    fn notify(&self, event: MachineEvent);
}

/// The outside end of a serial port.
pub trait SerialBackend: Send + Sync {
    /// The guest sent `bytes`. Called on a vCPU's thread: buffer them, never wait for a reader.
    fn output(&self, bytes: &[u8]);

    /// The guest took input: [`crate::Machine::serial_input`] has room again. Called on a vCPU's thread, only after a
    /// push that did not fit whole.
    fn input_room(&self);
}

/// What a machine starts with.
pub enum Boot {
    /// A kernel with initrd and command line; what firmware would do is done for it.
    Kernel(BootSource),
    /// Firmware, which finds out itself what to boot.
    Firmware(Firmware),
}

/// A display.
pub struct Display {
    /// The display itself.
    pub card: Arc<Card>,
    /// What a BIOS runs for it (a VGA BIOS); firmware of other kinds has drivers of its own.
    pub rom: Option<Blob>,
}

/// What a machine is built from.
pub struct MachineConfig {
    /// Version of the platform.
    pub machine_type: MachineType,
    /// Guest RAM, as [`ostler_memory::allocate`] lays it out.
    pub ram: Arc<GuestRam>,
    /// The virtual machine, mapped onto the same RAM.
    pub vm: Arc<dyn Vm>,
    /// Number of CPUs that there can be, with APIC ids 0 to `cpus - 1`.
    pub cpus: u32,
    /// How many of them are there at the start, the first ones. If not all are, CPUs come and go.
    pub boot_cpus: u32,
    /// What it starts with.
    pub boot: Boot,
    /// PCI functions of the guest's devices.
    pub functions: Vec<Arc<dyn PciFunction>>,
    /// The SATA controller, placed where Q35 has it (slot 31, function 2).
    pub sata: Option<Arc<dyn PciFunction>>,
    /// The display, if there is one.
    pub display: Option<Display>,
    /// Whether there is a watchdog (i6300esb).
    pub watchdog: bool,
    /// Where functions, watchdog and display are, and which root ports there are. Without: functions in slots 1 to 15 in their order,
    /// the watchdog after them, the display in slot 30, and four root ports for what comes while the guest runs.
    pub places: Option<Places>,
    /// The VM generation ID, as its bytes are in memory; without one there is no such device.
    pub generation_id: Option<[u8; 16]>,
    /// Seconds by which the real-time clock is ahead of the host's (UTC) at the start.
    pub rtc_offset: i64,
    /// Whether the guest can sleep (ACPI S3).
    pub suspend: bool,
    /// Outside end of COM1; without one the port has no device.
    pub serial: Option<Arc<dyn SerialBackend>>,
    /// Who hears of power-off, reset, panic.
    pub events: Arc<dyn MachineEvents>,
    /// Port of the debug-exit device (0xf4 or 0x501 by custom), for test guests.
    pub debug_exit: Option<u16>,
    /// The test-device ports that kvm-unit-tests uses.
    pub test_device: bool,
}
