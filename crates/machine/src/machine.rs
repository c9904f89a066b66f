//! A machine's life cycle.
//!
//! [`Machine::build`] loads the kernel and leaves every chip as firmware would; the owner makes the vCPUs and gives each
//! its [`Machine::boot_state`]. After [`crate::MachineEvent::Reset`] the owner pauses all vCPUs, calls
//! [`Machine::reset`], and gives the boot states again; after [`crate::MachineEvent::WakeUp`] it does the same with
//! [`Machine::wake`]. All other methods may be called from any thread at any time.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use ostler_accel::CpuState;
use ostler_bus::{AddressMap, Device, Range};
use ostler_memory::{GuestRam, RamSlot};
use ostler_pci::{Location, PciFunction, Root, RootPort};

use crate::boot::{self, BootSource};
use crate::bridges::{HostBridge, topology};
use crate::chips::cpu_hotplug::{CpuHotplug, OstReport, Outcome as CpuOutcome};
use crate::chips::cpu_hotplug_bus::Cpus;
use crate::chips::fw_cfg_bus::FwCfg;
use crate::chips::generation_id::GenerationId;
use crate::chips::i6300esb_bus::Watchdog;
use crate::chips::i8042_bus::I8042Bus;
use crate::chips::keys::Key;
use crate::chips::pit_bus::PitBus;
use crate::chips::pm_bus::PmBus;
use crate::chips::rtc::RtcTime;
use crate::chips::rtc_bus::RtcBus;
use crate::chips::serial_port::SerialPort;
use crate::firmware::Board;
use crate::interrupts::Router;
use crate::layout::{ECAM_BASE, ECAM_SIZE, PCI_CONFIG_PORTS};
use crate::memory_map::MemoryMap;
use crate::registers::lock;
use crate::tables::{self, Description};
use crate::timers::TimerThread;
use crate::{Error, MachineType};

/// Inputs of the second 8259 that are level-triggered after boot: the SCI and the PIRQs' (9, 10, 11).
const LEVEL_INPUTS: u8 = 0x0e;

/// Where what real mode reaches ends: no waking vector is beyond.
const CONVENTIONAL_END: u32 = 1 << 20;

/// The chips that the life cycle reaches.
pub(crate) struct Chips {
    pub router: Arc<Router>,
    pub pit: Arc<PitBus>,
    pub rtc: Arc<RtcBus>,
    pub keyboard: Arc<I8042Bus>,
    pub serial: Option<Arc<SerialPort>>,
    pub pm: Arc<PmBus>,
    pub watchdog: Option<Arc<Watchdog>>,
    pub generation_id: Option<Arc<GenerationId>>,
    pub fw_cfg: Arc<FwCfg>,
    pub root: Arc<Root>,
    pub host_bridge: Arc<HostBridge>,
}

/// The platform of one guest.
pub struct Machine {
    pub(crate) machine_type: MachineType,
    pub(crate) ports: Arc<AddressMap>,
    pub(crate) memory: Arc<AddressMap>,
    pub(crate) ram: Arc<GuestRam>,
    pub(crate) memory_map: Arc<MemoryMap>,
    pub(crate) cpus: Arc<Cpus>,
    pub(crate) cpu_hotplug: bool,
    /// What the platform itself loads.
    pub(crate) boot: Option<Arc<BootSource>>,
    /// There is a display with VGA.
    pub(crate) has_vga: bool,
    /// There is the sleep state S3.
    pub(crate) suspend: bool,
    /// What loads everything else instead.
    pub(crate) firmware: Option<Arc<Board>>,
    pub(crate) first_cpu: Mutex<CpuState>,
    pub(crate) chips: Chips,
    /// The root ports' places by their slots' numbers.
    pub(crate) slots: BTreeMap<u8, Location>,
    pub(crate) _timers: TimerThread,
}

impl Machine {
    /// The version of the platform.
    pub fn machine_type(&self) -> MachineType {
        self.machine_type
    }

    /// For each CPU that there can be whether it is there.
    pub fn cpus(&self) -> Vec<bool> {
        self.cpus.present()
    }

    /// True if CPU `cpu` is there.
    pub fn has_cpu(&self, cpu: u32) -> bool {
        self.cpus.access(|cpus| cpus.is_present(cpu))
    }

    /// True if CPUs can come and go.
    pub fn has_cpu_hotplug(&self) -> bool {
        self.cpu_hotplug
    }

    /// Tells the guest that CPU `cpu` is there from now on: it stands in its boot state already. False if it was there, or cannot
    /// be.
    pub fn insert_cpu(&self, cpu: u32) -> bool {
        let inserted = self.cpu_hotplug && self.cpus.access(|cpus| cpus.insert(cpu));
        if inserted {
            self.chips.pm.raise_event(tables::CPU_EVENT);
        }
        inserted
    }

    /// Asks the guest to let CPU `cpu` go. False if it is not there, or is CPU 0.
    pub fn request_cpu_removal(&self, cpu: u32) -> bool {
        let asked = self.cpu_hotplug && self.cpus.access(|cpus| cpus.ask_to_leave(cpu));
        if asked {
            self.chips.pm.raise_event(tables::CPU_EVENT);
        }
        asked
    }

    /// What the guest has said of events of its CPUs since the last call: the last of each CPU.
    pub fn take_cpu_reports(&self) -> Vec<(u32, OstReport)> {
        self.cpus.access(CpuHotplug::take_reports)
    }

    /// Calls `listener` from now on when the guest has let go of a CPU or says what became of an event, on the thread of the CPU
    /// that did so. The listener sees to it that a CPU that was ejected executes no more, waits for nothing, and asks the machine
    /// nothing. A second call changes nothing.
    pub fn listen_to_cpus(&self, listener: impl Fn(CpuOutcome) + Send + Sync + 'static) {
        self.cpus.listen(listener);
    }

    /// Calls `listener` from now on when the guest has set its real-time clock, on the thread of the CPU that did so. A second call
    /// changes nothing.
    pub fn listen_to_rtc(&self, listener: impl Fn() + Send + Sync + 'static) {
        self.chips.rtc.listen(listener);
    }

    /// Seconds by which the guest has set its real-time clock forward since the start.
    pub fn rtc_moved(&self) -> i64 {
        self.chips.rtc.moved()
    }

    /// What the real-time clock shows.
    pub fn rtc_time(&self) -> RtcTime {
        self.chips.rtc.time()
    }

    /// I/O ports: where [`ostler_accel::Exit::PortRead`] and `PortWrite` go.
    pub fn ports(&self) -> &Arc<AddressMap> {
        &self.ports
    }

    /// Guest-physical memory that is no RAM: where [`ostler_accel::Exit::MmioRead`] and `MmioWrite` go.
    pub fn memory(&self) -> &Arc<AddressMap> {
        &self.memory
    }

    /// The state in which CPU `cpu` starts after a build, a reset or a sleep; all but CPU 0 wait for a start-up IPI.
    pub fn boot_state(&self, cpu: u32) -> CpuState {
        if let Some(firmware) = &self.firmware {
            firmware.boot_state(cpu)
        } else if cpu == 0 {
            lock(&self.first_cpu).clone()
        } else {
            boot::cpu::firmware_state(cpu)
        }
    }

    /// The memory map that the accelerator has now, where it is not what the virtual machine was made with.
    pub fn changed_slots(&self) -> Option<Arc<[RamSlot]>> {
        self.memory_map.changed_slots()
    }

    /// Maps `slots` of the memory that comes and goes from now on, and no others of it. When this returns, no CPU uses an older map; so
    /// it must not be called on a CPU's thread. After an error the map is as before.
    pub fn set_plugged_memory(&self, slots: Vec<RamSlot>) -> Result<(), Error> {
        self.memory_map.set_plugged(slots)
    }

    /// Carries [`ostler_accel::Exit::EndOfInterrupt`] to the IOAPIC.
    pub fn end_of_interrupt(&self, vector: u8) {
        self.chips.router.end_of_interrupt(vector);
    }

    /// Offers input to the serial port. Returns how many bytes were taken; [`crate::SerialBackend::input_room`] tells
    /// when more may be offered. Without a serial port all input is taken and lost.
    pub fn serial_input(&self, bytes: &[u8]) -> usize {
        self.chips
            .serial
            .as_ref()
            .map_or(bytes.len(), |port| port.push_input(bytes))
    }

    /// Presses the power button: the guest hears of it by ACPI, if it listens.
    pub fn power_button(&self) {
        self.chips.pm.press_power_button();
    }

    /// True if the guest can sleep (ACPI S3).
    pub fn can_suspend(&self) -> bool {
        self.suspend
    }

    /// True while the guest sleeps. The write that puts it to sleep is over by then: the vCPU that wrote looks here, and executes
    /// nothing until it has another state.
    pub fn is_asleep(&self) -> bool {
        self.chips.pm.is_asleep()
    }

    /// Presses keys of the keyboard together, and releases them after `time`; one call after the other. False if too many calls
    /// wait already.
    pub fn press_keys(&self, keys: Vec<Key>, time: Duration) -> bool {
        self.chips.keyboard.press(keys, time)
    }

    /// Gives the guest another generation ID, and tells it by ACPI. False if there is no such device.
    pub fn set_generation_id(&self, id: [u8; 16]) -> bool {
        let Some(page) = &self.chips.generation_id else {
            return false;
        };
        if page.set(id) {
            self.chips.pm.raise_event(tables::GENERATION_ID_EVENT);
        }
        true
    }

    /// The CPUs are held from now on: the watchdog does not count meanwhile.
    pub fn cpus_held(&self) {
        if let Some(watchdog) = &self.chips.watchdog {
            watchdog.hold();
        }
    }

    /// The CPUs are about to run.
    pub fn cpus_run(&self) {
        if let Some(watchdog) = &self.chips.watchdog {
            watchdog.go_on();
        }
    }

    /// Puts a device into hotplug slot `slot` (see [`Machine::slots`]) while the guest runs.
    pub fn plug(&self, slot: u8, function: Arc<dyn PciFunction>) -> Result<(), Error> {
        let at = self.slot_location(slot)?;
        if !self.chips.root.port(at)?.has_hotplug() {
            return Err(Error::NoHotplug(slot + 1));
        }
        let line = topology::line_behind(&self.chips.router, at, &*function);
        topology::set_interrupt_line(at, &*function);
        Ok(self.chips.root.plug(at, function, line, false)?)
    }

    /// Asks the guest to let the device in hotplug slot `slot` go (the attention button).
    pub fn request_unplug(&self, slot: u8) -> Result<(), Error> {
        self.hotplug_port(slot)?.press_attention();
        Ok(())
    }

    /// Takes the device out of hotplug slot `slot` at once, whatever the guest is doing with it.
    pub fn pull(&self, slot: u8) -> Result<(), Error> {
        self.chips.root.pull(self.slot_location(slot)?)?;
        Ok(())
    }

    /// The root port of slot `slot`.
    pub fn hotplug_port(&self, slot: u8) -> Result<Arc<RootPort>, Error> {
        Ok(self.chips.root.port(self.slot_location(slot)?)?)
    }

    /// The slots of root ports by their numbers, which are one less than what the bus behind is called, with the ports' places.
    pub fn slots(&self) -> impl Iterator<Item = (u8, Location)> {
        self.slots.iter().map(|(slot, at)| (*slot, *at))
    }

    fn slot_location(&self, slot: u8) -> Result<Location, Error> {
        let at = self.slots.get(&slot).copied();
        at.ok_or(ostler_pci::Error::NoPort(slot).into())
    }

    /// The PCI root complex.
    pub fn pci(&self) -> &Arc<Root> {
        &self.chips.root
    }

    /// Brings every chip to its reset state, and loads the kernel again unless firmware does. All vCPUs must be paused.
    pub fn reset(&self) -> Result<(), Error> {
        self.cpus.access(CpuHotplug::reset);
        self.chips.pm.reset();
        self.chips.root.reset();
        self.reset_chips();
        if let Some(firmware) = &self.firmware {
            firmware.reset();
        }
        self.start_over()
    }

    /// Ends the guest's sleep: every chip comes to its reset state, memory is as it was. All vCPUs must be paused. CPU 0 starts in
    /// the firmware, or without one where the guest wants to be woken; the guest's drivers set their devices up again. A guest that
    /// did not say where it wants to be woken starts anew.
    pub fn wake(&self) -> Result<(), Error> {
        let chips = &self.chips;
        chips.pm.wake();
        chips.host_bridge.keeping_map(|| chips.root.reset());
        self.reset_chips();
        if let Some(firmware) = &self.firmware {
            firmware.reset();
            chips.rtc.note_sleep();
            return Ok(());
        }
        match tables::waking_vector(&self.ram)? {
            vector @ 1..CONVENTIONAL_END => {
                self.set_level_inputs();
                *lock(&self.first_cpu) = boot::cpu::waking_state(vector);
                Ok(())
            }
            vector => {
                tracing::warn!("the guest cannot be woken at {vector:#x}, and starts anew");
                self.reset()
            }
        }
    }

    /// Brings all chips that are no PCI functions to their reset state, but for power management.
    fn reset_chips(&self) {
        let chips = &self.chips;
        if let Some(port) = &chips.serial {
            port.reset();
        }
        let present = self.cpus.present().iter().filter(|present| **present).count() as u32;
        chips.fw_cfg.reset();
        chips.fw_cfg.set_cpus(present);
        chips.keyboard.reset();
        chips.rtc.reset();
        chips.rtc.set_cpus(present);
        chips.router.reset();
        chips.pit.reset();
    }

    fn set_level_inputs(&self) {
        self.chips
            .router
            .access_pic(|pic| pic.write_elcr(1, LEVEL_INPUTS));
    }

    /// What firmware would do, where there is none: gives PCI its addresses, describes the machine, loads the kernel.
    pub(crate) fn start_over(&self) -> Result<(), Error> {
        let Some(source) = &self.boot else {
            return Ok(());
        };
        let chips = &self.chips;
        chips.root.assign_resources()?;
        for (at, function) in chips.root.functions() {
            topology::set_interrupt_line(at, &*function);
            let child = chips.root.port(at).ok().and_then(|port| port.child());
            if let Some(child) = child {
                topology::set_interrupt_line(at, &*child);
            }
        }
        self.set_level_inputs();
        tables::install(&Description {
            ram: &self.ram,
            machine_type: self.machine_type,
            cpus: &self.cpus.present(),
            cpu_hotplug: self.cpu_hotplug,
            windows: topology::windows(&self.ram),
            ecam: Range::new(ECAM_BASE, ECAM_SIZE),
            serial: chips.serial.is_some(),
            generation_id: chips.generation_id.is_some(),
            suspend: self.suspend,
            display: self.has_vga,
            firmware: false,
            more_memory: 0,
        })?;
        let state = boot::load(&self.ram, source)?;
        if boot::is_multiboot(source)? {
            self.start_bios_timer();
        }
        *lock(&self.first_cpu) = state;
        Ok(())
    }
}

impl Machine {
    /// What a PC's BIOS leaves running: the 8254 interrupts 18.2 times a second by the 8259s, which are set up for real mode
    /// and mask everything else.
    fn start_bios_timer(&self) {
        /// ICW3 and mask of each: the second hangs on input 2 of the first.
        const CHIPS: [[u8; 2]; 2] = [[4, !0x05], [2, 0xff]];
        const COUNTER_0_MODE_3: u8 = 0x36;
        let chips = &self.chips;
        chips.pit.write(3, &[COUNTER_0_MODE_3]);
        // A count of 65536, low byte and high byte.
        chips.pit.write(0, &[0]);
        chips.pit.write(0, &[0]);
        chips.router.access_pic(|pic| {
            for (chip, [cascade, mask]) in CHIPS.into_iter().enumerate() {
                pic.write(chip, 0, 0x11);
                for value in [boot::PIC_VECTORS[chip], cascade, 1, mask] {
                    pic.write(chip, 1, value);
                }
            }
        });
    }
}

impl Drop for Machine {
    /// The maps hold the root complex, and the root complex the maps.
    fn drop(&mut self) {
        self.ports.remove(PCI_CONFIG_PORTS);
        self.chips.host_bridge.detach();
    }
}
