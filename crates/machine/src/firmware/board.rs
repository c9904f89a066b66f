//! What a machine with firmware has on its board beyond other machines.

use std::sync::{Arc, OnceLock};

use ostler_accel::{CpuState, reset_state};
use ostler_bus::{Device, Range};
use ostler_memory::{GuestRam, PAGE_SIZE};
use ostler_pci::Windows;

use super::layout::is_large_enough;
use super::pam;
use super::{Firmware, FirmwareChip, MemoryLayout, Rom, ShadowWindow, items};
use crate::bridges::topology::{self, WINDOW32_END};
use crate::chips::cpu_hotplug_bus::Cpus;
use crate::chips::debug_console::DebugConsole;
use crate::chips::fw_cfg::Items;
use crate::chips::fw_cfg_bus::FwCfg;
use crate::chips::pflash_bus::Flash;
use crate::chips::smi::Smi;
use crate::chips::smram::Visible;
use crate::layout::{DEBUG_CONSOLES, ECAM_BASE, ECAM_SIZE};
use crate::memory_map::MemoryMap;
use crate::tables::Description;
use crate::{Error, MachineType};

/// Where firmware ends.
const TOP: u64 = 1 << 32;
/// The lowest address that it may reach down to.
const FLOOR: u64 = 0xff00_0000;
/// The least that a reset vector and what it jumps to take.
const LEAST: u64 = 64 << 10;
/// Bits of an address that x86-64 allows.
const LEAST_BITS: u8 = 36;
const MOST_BITS: u8 = 52;
/// I/O ports that firmware may give to PCI devices.
const IO_WINDOW: Range = Range::new(0x1000, 0xf000);

/// The local APIC's register of its LINT0 pin, and the value by which the 8259 reaches the CPU through it.
const LINT0: usize = 0x350;
const EXTINT: u32 = 0x700;

/// Firmware with its memory.
pub struct Board {
    firmware: Firmware,
    layout: Arc<MemoryLayout>,
    flashes: Vec<(Range, Arc<Flash>)>,
    /// There is system management mode.
    smi: Option<Arc<Smi>>,
    ram: Arc<GuestRam>,
    machine_type: MachineType,
    cpus: Arc<Cpus>,
    cpu_hotplug: bool,
    serial: bool,
    generation_id: bool,
    display: bool,
    suspend: bool,
    /// There once the device is.
    fw_cfg: OnceLock<Arc<FwCfg>>,
}

impl Board {
    /// The board with `firmware`. It gives the accelerator its memory map.
    pub fn new(
        firmware: Firmware,
        map: Arc<MemoryMap>,
        ram: Arc<GuestRam>,
        (cpus, cpu_hotplug): (Arc<Cpus>, bool),
        (machine_type, serial, generation_id, display, suspend): (MachineType, bool, bool, bool, bool),
    ) -> Result<Arc<Self>, Error> {
        if !is_large_enough(&ram) {
            return Err(Error::NoMemory(crate::layout::HIGH_RAM_START));
        }
        let code = load(TOP, "firmware", &firmware.code, LEAST)?;
        let mut roms = vec![code.clone()];
        let variables = match &firmware.chip {
            FirmwareChip::Flash(variables) => {
                let rom = load(code.base, "variable store", &variables.contents, PAGE_SIZE as u64)?;
                roms.push(rom.clone());
                Some((rom, variables.file.as_ref().map(std::fs::File::try_clone)))
            }
            FirmwareChip::Rom => None,
        };
        let smm = firmware.smm;
        if smm && cpu_hotplug {
            return Err(Error::SmmWithCpuHotplug);
        }
        let smi = smm.then(|| Arc::new(Smi::new(map.vm().clone())));
        let layout = Arc::new(MemoryLayout::new(map, ram.clone(), roms, smm)?);
        let place = |rom: &Rom| Range::new(rom.base, rom.len());
        let mut flashes = Vec::new();
        if let Some((rom, file)) = variables {
            let file = file.transpose().map_err(|source| Error::Host {
                what: "descriptor for the variable store",
                source,
            })?;
            let range = place(&code);
            let chip = Flash::new(code, (true, smm), None, layout.clone(), 0);
            flashes.push((range, Arc::new(chip)));
            let range = place(&rom);
            let chip = Flash::new(rom, (false, smm), file, layout.clone(), 1);
            flashes.push((range, Arc::new(chip)));
        }
        Ok(Arc::new(Self {
            firmware,
            layout,
            flashes,
            smi,
            ram,
            machine_type,
            cpus,
            cpu_hotplug,
            serial,
            generation_id,
            display,
            suspend,
            fw_cfg: OnceLock::new(),
        }))
    }

    /// The devices in guest-physical memory.
    pub fn windows(&self) -> impl Iterator<Item = (Range, Arc<dyn Device>)> {
        let shadow: Arc<dyn Device> = Arc::new(ShadowWindow(self.layout.clone()));
        let flashes = self
            .flashes
            .iter()
            .map(|(range, flash)| (*range, flash.clone() as Arc<dyn Device>));
        std::iter::once((Range::new(pam::START, ShadowWindow::SIZE), shadow)).chain(flashes)
    }

    /// The devices at ports.
    pub fn ports(&self) -> impl Iterator<Item = (Range, Arc<dyn Device>)> {
        let debug = self.firmware.debug.clone();
        DEBUG_CONSOLES.into_iter().filter_map(move |port| {
            let console: Arc<dyn Device> = Arc::new(DebugConsole(debug.clone()?));
            Some((Range::new(port, 1), console))
        })
    }

    /// What of the address space may be given to PCI devices: firmware decides itself where its windows are.
    pub fn pci_windows(&self) -> Windows {
        let windows = topology::windows(&self.ram);
        let start = ostler_memory::MMIO_GAP_START;
        let end = 1u64 << self.firmware.physical_bits.clamp(LEAST_BITS, MOST_BITS);
        Windows {
            io: IO_WINDOW,
            memory32: Range::new(start, WINDOW32_END - start),
            memory64: Range::new(windows.memory64.base, end.saturating_sub(windows.memory64.base)),
        }
    }

    /// The state in which a CPU comes out of its reset.
    pub fn boot_state(&self, cpu: u32) -> CpuState {
        let mut state = reset_state(cpu);
        if cpu == 0 {
            // As machines of this kind have it: firmware gets the timer's interrupts before it knows of the local APIC.
            state.lapic.registers[LINT0..LINT0 + 4].copy_from_slice(&EXTINT.to_le_bytes());
        }
        state
    }

    /// Tells firmware about the machine through `fw_cfg`, from now on.
    pub fn connect(&self, fw_cfg: Arc<FwCfg>) -> Result<(), Error> {
        let present = self.cpus.present();
        let machine = self.description(None, &present);
        fw_cfg.change(|items: &mut Items| {
            items::add(items, &self.firmware, &machine);
            if let Some(smi) = &self.smi {
                smi.add_files(items);
            }
            items::describe(items, &machine)
        })?;
        let _ = self.fw_cfg.set(fw_cfg);
        Ok(())
    }

    /// The host bridge's PAM registers were written.
    pub fn set_shadow(&self, registers: [u8; pam::REGISTERS]) {
        self.layout.set_shadow(pam::decode(registers));
    }

    /// The line of system management interrupts, where there are any.
    pub fn smi(&self) -> Option<&Arc<Smi>> {
        self.smi.as_ref()
    }

    /// The host bridge's registers of system management RAM were written.
    pub fn set_smram(&self, visible: Visible) {
        self.layout.set_smram(visible);
    }

    /// Bytes of memory right above low RAM.
    pub fn more_memory(&self) -> u64 {
        if self.smi.is_some() { super::SMM_MEMORY } else { 0 }
    }

    /// The window for configuration space is elsewhere now: the tables have to say so.
    pub fn ecam_moved(&self, ecam: Option<Range>) {
        let Some(fw_cfg) = self.fw_cfg.get() else { return };
        let present = self.cpus.present();
        let machine = self.description(ecam, &present);
        if let Err(error) = fw_cfg.change(|items| items::describe(items, &machine)) {
            tracing::error!(%error, "the tables cannot follow the configuration window");
        }
    }

    fn description<'a>(&'a self, ecam: Option<Range>, cpus: &'a [bool]) -> Description<'a> {
        Description {
            ram: &self.ram,
            machine_type: self.machine_type,
            cpus,
            cpu_hotplug: self.cpu_hotplug,
            windows: self.pci_windows(),
            ecam: ecam.unwrap_or(Range::new(ECAM_BASE, ECAM_SIZE)),
            serial: self.serial,
            generation_id: self.generation_id,
            suspend: self.suspend,
            display: self.display,
            firmware: true,
            more_memory: self.more_memory(),
        }
    }

    /// Brings the flash chips to their reset state. What is in them stays. The tables tell of the CPUs that are there now.
    pub fn reset(&self) {
        if self.cpu_hotplug {
            self.ecam_moved(None);
        }
        for (_, flash) in &self.flashes {
            flash.reset();
        }
        if let Some(smi) = &self.smi {
            smi.reset();
        }
    }
}

/// Loads an image so that it ends at `end`.
fn load(end: u64, what: &'static str, image: &crate::Blob, least: u64) -> Result<Rom, Error> {
    let size = image.len(what)?;
    let most = end - FLOOR;
    if size < least || size > most || !size.is_multiple_of(PAGE_SIZE as u64) {
        return Err(Error::FirmwareSize {
            what,
            size,
            least,
            most,
        });
    }
    Rom::below(end, what, image)
}
