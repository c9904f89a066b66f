//! A guest: its RAM, its machine, its CPUs, built from the specification and the descriptors.

use std::fs::File;
use std::sync::{Arc, Weak};
use std::time::Duration;

use ostler_accel::model::{self, Topology};
use ostler_accel::{CpuidLeaf, Kind, Profiler, Vm, VmConfig};
use ostler_display::Card;
use ostler_machine::{
    Blob, Boot, BootSource, CpuOutcome, Display, Firmware, FirmwareChip, Machine, MachineConfig,
    MachineEvent, MachineEvents, PciAddress, Places, SMM_MEMORY, SerialBackend, Variables, disk_path,
    sata_path,
};
use ostler_memory::{
    Extras, FileMemory, GuestRam, Pluggable, RamOptions, RamSlot, allocate_all, end_of_extras,
    persistent_slots, plugged_slots,
};
use ostler_pci::PciFunction;
use ostler_softcpu::emulate::Emulator;
use ostler_virtio::Platform;
use ostler_virtio::console::ConsoleControl;
use ostler_virtio::mem::{MemControl, MemoryMapper, block_size};

use crate::Error;
use crate::accelerator;
use crate::bell::Bell;
use crate::console::{Console, InputSink};
use crate::control::ControlServer;
use crate::devices::{self, Devices};
use crate::driver::{DriverHandle, Event, Hardware, Notice};
use crate::gdb::{GdbServer, Parts, Reports};
use crate::handoff::Descriptors;
use crate::manager::{self, CpuNews, Manager, NamedConsole, WatchdogSwitch};
use crate::registers::Registers;
use crate::spec::{BootSpec, ConsoleSpec, DiskBus, DiskSpec, FirmwareSpec, GuestSpec, Guid, PmemSpec, Slot};
use crate::vcpu::{Surroundings, VcpuThread, hold_all, run_all};

/// Port of the debug-exit device, where one is asked for.
const DEBUG_EXIT_PORT: u16 = 0xf4;

/// The consoles of a guest. They outlive its machine.
pub(crate) struct Consoles {
    pub serial: Arc<Console>,
    pub virtio: Arc<Console>,
    /// Named ports, in the order of the specification.
    pub channels: Vec<Arc<Console>>,
    /// The firmware's log.
    pub debug: Arc<Console>,
}

/// A guest that is built.
pub(crate) struct Guest {
    // Dropped in this order: no CPU may touch a machine that is gone, and no debugger a CPU.
    _debugger: Option<GdbServer>,
    vcpus: Vec<VcpuThread>,
    machine: Arc<Machine>,
    /// Those in its list are the manager's, where there is one.
    devices: Devices,
    memory: Option<MemControl>,
    serial: Arc<Console>,
    profiler: Option<Arc<dyn Profiler>>,
    registers: Arc<Registers>,
    platform: Platform,
    watchdog: WatchdogSwitch,
    cpu_news: CpuNews,
    display: Option<Arc<Card>>,
    /// Where each of the devices is.
    places: Vec<PciAddress>,
    control: Option<ControlServer>,
}

impl Guest {
    /// Builds what `spec` asks for. The CPUs are held, the kernel is loaded.
    pub fn build(
        spec: &GuestSpec,
        descriptors: &Descriptors,
        driver: &DriverHandle,
        consoles: &Consoles,
    ) -> Result<Self, Error> {
        let accelerator = accelerator::open(&spec.accelerator, descriptors)?;
        let kept = smm_memory(spec)?;
        let extras = Extras {
            pluggable: spec.max_memory.map(|most| pluggable(most - spec.memory)),
            files: file_memory(spec, descriptors)?,
        };
        let ram = allocate_all(
            spec.memory - kept,
            extras,
            RamOptions {
                shared: false,
                huge: true,
                huge_pages: spec.huge_pages,
                keep_free: kept,
            },
        )
        .map_err(|e| Error::part("guest memory", e))?;
        let mut slots = RamSlot::all_of(&ram);
        slots.extend(persistent_slots(&ram));
        let config = VmConfig {
            cpus: spec.most_cpus(),
            slots: slots.clone(),
        };
        let vm = accelerator
            .create_vm(config)
            .map_err(|e| Error::part("the virtual machine", e))?;
        let platform = Platform {
            ram: ram.clone(),
            msi: vm.clone(),
            doorbells: vm.clone(),
        };
        let devices = devices::build(spec, descriptors, &platform, consoles)?;
        let functions = devices.list.iter().map(|device| device.device.pci()).collect();
        let places = spec.places()?;
        debug_assert!(
            devices
                .list
                .iter()
                .map(|device| &device.name)
                .eq(&spec.functions())
        );
        let display = spec.display.map(|display| match display.plain {
            true => Card::plain(),
            false => Card::new(),
        });
        let display = display.transpose();
        let display = display.map_err(|e| Error::part("the display", e))?;
        let watchdog = WatchdogSwitch::new(spec.watchdog.unwrap_or_default());
        let outside = Outside {
            driver: driver.clone(),
            watchdog: watchdog.clone(),
            serial: consoles.serial.clone(),
            debug: consoles.debug.clone(),
        };
        let supported = accelerator
            .supported_cpuid()
            .map_err(|e| Error::part("the CPU model", e))?;
        let physical_bits = physical_bits(&cpuid(spec, &supported, 0)?);
        check_addresses(&ram, physical_bits)?;
        let machine = build_machine(
            spec,
            descriptors,
            outside,
            Inside {
                ram: ram.clone(),
                vm: vm.clone(),
                functions,
                places: places.clone(),
                sata: devices
                    .sata
                    .as_ref()
                    .map(|sata| sata.controller.clone() as Arc<dyn PciFunction>),
                display: display.clone(),
                physical_bits,
            },
        )?;
        let bell = match &spec.gdb {
            Some(_) => {
                Some(Arc::new(Bell::new().map_err(|source| {
                    Error::host("make room for a debugger", source)
                })?))
            }
            None => None,
        };
        let reports = bell.clone().map(|bell| Arc::new(Reports::new(bell)));
        let registers = Arc::<Registers>::default();
        let mut vcpus = Vec::new();
        for index in 0..spec.most_cpus() {
            let cpuid = cpuid(spec, &supported, index)?;
            let emulator =
                (accelerator.kind() == Kind::Kvm).then(|| Emulator::new(index, slots.clone(), &cpuid));
            let surroundings = Surroundings {
                machine: machine.clone(),
                driver: driver.clone(),
                emulator,
                reports: reports.clone(),
                registers: registers.clone(),
            };
            let vcpu = vm
                .create_vcpu(index, &cpuid)
                .map_err(|e| Error::part(format!("CPU {index}"), e))?;
            vcpus.push(VcpuThread::start(
                index,
                vcpu,
                (machine.boot_state(index), !machine.has_cpu(index)),
                surroundings,
            )?);
        }
        let memory = devices.memory().cloned();
        if let Some(memory) = &memory {
            let (machine, ram) = (Arc::downgrade(&machine), ram.clone());
            memory.set_mapper(Arc::new(MemoryMap { machine, ram }));
        }
        let cpu_news = listen_to_cpus(&machine, &vcpus);
        let debugger = match (&spec.gdb, bell, reports) {
            (Some(gdb), Some(bell), Some(reports)) => {
                let parts = Parts {
                    cpus: vcpus.iter().map(VcpuThread::handle).collect(),
                    ram,
                    driver: driver.clone(),
                    reports,
                };
                let listener = descriptors.duplicate(gdb.listener)?;
                Some(GdbServer::start(listener, bell, parts)?)
            }
            _ => None,
        };
        consoles.serial.attach(Arc::new(SerialInput(machine.clone())));
        Ok(Self {
            _debugger: debugger,
            vcpus,
            machine,
            devices,
            memory,
            serial: consoles.serial.clone(),
            profiler: vm.profiler(),
            registers,
            platform,
            watchdog,
            cpu_news,
            display,
            places: places.functions,
            control: None,
        })
    }

    /// Events go to `control` from now on.
    pub fn set_control(&mut self, control: ControlServer) {
        self.control = Some(control);
    }

    fn load_boot_states(&self) {
        for (index, vcpu) in (0..).zip(&self.vcpus) {
            vcpu.load(self.machine.boot_state(index));
        }
    }

    /// Tells the virtio console how large its terminal is.
    pub fn console_control(&self) -> Option<ConsoleControl> {
        self.devices.console.clone()
    }

    /// The guest as management sees it, which takes the devices over: one that goes is nobody else's.
    pub fn manager(&mut self, spec: &GuestSpec, driver: DriverHandle, consoles: &Consoles) -> Manager {
        let parts = manager::Parts {
            driver,
            machine: self.machine.clone(),
            platform: self.platform.clone(),
            watchdog: self.watchdog.clone(),
            cpus: self.vcpus.iter().map(VcpuThread::view).collect(),
            cpu_news: self.cpu_news.clone(),
            profiler: self.profiler.clone(),
            registers: self.registers.clone(),
            devices: std::mem::take(&mut self.devices.list),
            places: self.places.clone(),
            drives: self
                .devices
                .sata
                .as_ref()
                .map_or_else(Vec::new, |sata| sata.drives.clone()),
            display: self.display.clone(),
            consoles: vec![
                NamedConsole::new("serial", &spec.serial, consoles.serial.clone()),
                NamedConsole::new("console", &spec.console, consoles.virtio.clone()),
            ],
        };
        Manager::new(spec.clone(), parts)
    }
}

impl Drop for Guest {
    fn drop(&mut self) {
        self.serial.detach();
    }
}

impl Hardware for Guest {
    fn run_cpus(&mut self) {
        self.machine.cpus_run();
        run_all(&self.vcpus);
    }

    fn hold_cpus(&mut self) {
        hold_all(&self.vcpus);
        self.machine.cpus_held();
    }

    fn press_power_button(&mut self) {
        self.machine.power_button();
    }

    fn inject_nmi(&mut self) {
        manager::inject_nmi(&*self.platform.msi, &self.machine.cpus());
    }

    fn reset(&mut self) -> Result<(), String> {
        self.machine
            .reset()
            .map_err(|error| format!("the guest cannot start again: {error}"))?;
        if let Some(memory) = &self.memory {
            memory.machine_was_reset();
        }
        self.load_boot_states();
        Ok(())
    }

    fn wake(&mut self) -> Result<(), String> {
        self.machine
            .wake()
            .map_err(|error| format!("the guest cannot wake up: {error}"))?;
        self.load_boot_states();
        Ok(())
    }

    fn tell(&mut self, event: Event) {
        if let Some(control) = &self.control {
            control.announce(event);
        }
    }
}

/// A region that is plugged in blocks, of at most `size` bytes.
fn pluggable(size: u64) -> Pluggable {
    let block_size = block_size(size);
    Pluggable {
        size: size / block_size * block_size,
        block_size,
    }
}

/// The files that are memory.
fn file_memory(spec: &GuestSpec, descriptors: &Descriptors) -> Result<Vec<FileMemory>, Error> {
    let open = |pmem: &PmemSpec| {
        Ok(FileMemory {
            file: File::from(descriptors.duplicate(pmem.file)?),
            size: pmem.size,
            writable: !pmem.readonly,
        })
    };
    spec.pmem.iter().map(open).collect()
}

/// Memory above what the CPU addresses would be none.
fn check_addresses(ram: &GuestRam, bits: u8) -> Result<(), Error> {
    match end_of_extras(ram) {
        Some(end) if 1u64.checked_shl(bits.into()).is_some_and(|most| end > most) => {
            let error = format!(
                "it ends at {end:#x}, and the CPU's addresses have {bits} bits; give the guest less with --memory or --pmem"
            );
            Err(Error::part("guest memory", error))
        }
        _ => Ok(()),
    }
}

/// The CPUs' memory map, which follows what the guest has plugged.
struct MemoryMap {
    machine: Weak<Machine>,
    ram: Arc<GuestRam>,
}

impl MemoryMapper for MemoryMap {
    fn follow(&self) -> Result<(), String> {
        let machine = self.machine.upgrade().ok_or("the guest is over")?;
        let slots = plugged_slots(&self.ram);
        machine
            .set_plugged_memory(slots)
            .map_err(|error| error.to_string())
    }
}

/// A CPU that the guest lets go of executes nothing from then on. The news are handed on to management.
fn listen_to_cpus(machine: &Machine, vcpus: &[VcpuThread]) -> CpuNews {
    let fresh = (0..).map(|cpu| machine.boot_state(cpu));
    let cpus: Vec<_> = vcpus.iter().map(VcpuThread::handle).zip(fresh).collect();
    let news = CpuNews::default();
    let to_tell = news.clone();
    machine.listen_to_cpus(move |outcome| {
        if let CpuOutcome::Ejected(cpu) = outcome
            && let Some((handle, fresh)) = cpus.get(cpu as usize)
        {
            handle.take_out(fresh.clone());
        }
        to_tell.tell(outcome);
    });
    news
}

/// What CPU `index` answers CPUID by.
fn cpuid(spec: &GuestSpec, supported: &[CpuidLeaf], index: u32) -> Result<Vec<CpuidLeaf>, Error> {
    let topology = Topology {
        cpus: spec.most_cpus(),
    };
    model::build(&spec.cpu_model, supported, topology, index).map_err(|e| Error::Specification(e.to_string()))
}

/// Bits of a physical address that every x86-64 CPU has.
const LEAST_PHYSICAL_BITS: u8 = 36;

/// Bits of a physical address that a CPU with these answers has.
fn physical_bits(cpuid: &[CpuidLeaf]) -> u8 {
    const ADDRESS_SIZES: u32 = 0x8000_0008;
    cpuid
        .iter()
        .find(|leaf| leaf.leaf == ADDRESS_SIZES)
        .map_or(LEAST_PHYSICAL_BITS, |leaf| leaf.eax as u8)
}

/// Whom the machine talks to.
struct Outside {
    driver: DriverHandle,
    watchdog: WatchdogSwitch,
    serial: Arc<Console>,
    debug: Arc<Console>,
}

/// What the machine is made of.
struct Inside {
    ram: Arc<GuestRam>,
    vm: Arc<dyn Vm>,
    functions: Vec<Arc<dyn PciFunction>>,
    places: Places,
    sata: Option<Arc<dyn PciFunction>>,
    display: Option<Arc<Card>>,
    physical_bits: u8,
}

fn file(descriptors: &Descriptors, slot: Slot) -> Result<File, Error> {
    descriptors.duplicate(slot).map(File::from)
}

/// Bytes of the guest's memory that the machine keeps for system management mode.
fn smm_memory(spec: &GuestSpec) -> Result<u64, Error> {
    const LEAST: u64 = 4 * SMM_MEMORY;
    match &spec.boot {
        BootSpec::Firmware(firmware) if firmware.smm => {
            if spec.memory < LEAST {
                return Err(Error::Specification(format!(
                    "firmware with system management mode needs {} MiB of memory at least; give the guest more with --memory",
                    LEAST >> 20
                )));
            }
            Ok(SMM_MEMORY)
        }
        _ => Ok(0),
    }
}

/// What firmware tries to start from: these disks, or all as the user gave them.
fn boot_order(disks: &[DiskSpec], order: &[u32], places: &Places) -> Vec<String> {
    // Virtio disks are the first functions.
    let (mut functions, mut ports) = (places.functions.iter(), 0..);
    let paths = disks.iter().filter_map(|disk| match disk.bus {
        DiskBus::Virtio => functions.next().map(|place| disk_path(places, *place)),
        DiskBus::Sata => ports.next().map(sata_path),
    });
    let paths: Vec<String> = paths.collect();
    if order.is_empty() {
        return paths;
    }
    let chosen = order.iter().filter_map(|&index| paths.get(index as usize));
    chosen.cloned().collect()
}

fn open_firmware(
    spec: &FirmwareSpec,
    descriptors: &Descriptors,
    debug: &Arc<Console>,
) -> Result<Firmware, Error> {
    let chip = match &spec.variables {
        None => FirmwareChip::Rom,
        Some(variables) => FirmwareChip::Flash(Variables {
            contents: Blob::File(file(descriptors, variables.file)?),
            file: variables
                .kept
                .then(|| file(descriptors, variables.file))
                .transpose()?,
        }),
    };
    let log: Arc<dyn SerialBackend> = Arc::new(SerialOutput(debug.clone()));
    Ok(Firmware {
        code: Blob::File(file(descriptors, spec.code)?),
        chip,
        smm: spec.smm,
        physical_bits: LEAST_PHYSICAL_BITS,
        boot_order: Vec::new(),
        boot_menu: spec.boot_menu.map(|time| Duration::from_millis(time.into())),
        debug: (spec.debug != ConsoleSpec::None).then_some(log),
    })
}

fn build_machine(
    spec: &GuestSpec,
    descriptors: &Descriptors,
    outside: Outside,
    inside: Inside,
) -> Result<Arc<Machine>, Error> {
    let boot = match &spec.boot {
        BootSpec::Kernel(kernel) => {
            let open = |slot| file(descriptors, slot).map(Blob::File);
            Boot::Kernel(BootSource {
                kernel: open(kernel.kernel)?,
                initrd: kernel.initrd.map(open).transpose()?,
                command_line: kernel.command_line.clone(),
            })
        }
        BootSpec::Firmware(firmware) => {
            let order = boot_order(&spec.disks, &firmware.boot_order, &inside.places);
            let mut firmware = open_firmware(firmware, descriptors, &outside.debug)?;
            firmware.physical_bits = inside.physical_bits;
            firmware.boot_order = order;
            Boot::Firmware(firmware)
        }
    };
    let display = match (&spec.display, inside.display) {
        (Some(display), Some(card)) => Some(Display {
            card,
            rom: display
                .rom
                .map(|slot| file(descriptors, slot))
                .transpose()?
                .map(Blob::File),
        }),
        _ => None,
    };
    let backend: Arc<dyn SerialBackend> = Arc::new(SerialOutput(outside.serial));
    let machine = Machine::build(MachineConfig {
        machine_type: spec.machine_type()?,
        ram: inside.ram,
        vm: inside.vm,
        cpus: spec.most_cpus(),
        boot_cpus: spec.cpus,
        boot,
        functions: inside.functions,
        places: Some(inside.places),
        sata: inside.sata,
        display,
        watchdog: spec.watchdog.is_some(),
        generation_id: spec.generation_id.map(Guid::in_memory),
        rtc_offset: spec.rtc_offset,
        suspend: spec.suspend && spec.boot.can_wake(),
        serial: (spec.serial != ConsoleSpec::None).then_some(backend),
        events: Arc::new(Events {
            driver: outside.driver,
            watchdog: outside.watchdog,
        }),
        debug_exit: spec.debug_exit.then_some(DEBUG_EXIT_PORT),
        test_device: spec.test_device,
    });
    // What the machine refuses is what the user gave it: a kernel, an initrd, a command line that do not fit.
    machine
        .map(Arc::new)
        .map_err(|e| Error::Specification(e.to_string()))
}

/// The UART's way out.
struct SerialOutput(Arc<Console>);

impl SerialBackend for SerialOutput {
    fn output(&self, bytes: &[u8]) {
        self.0.output(bytes);
    }

    fn input_room(&self) {
        self.0.input_room();
    }
}

/// The UART's way in.
struct SerialInput(Arc<Machine>);

impl InputSink for SerialInput {
    fn push(&self, bytes: &[u8]) -> usize {
        self.0.serial_input(bytes)
    }
}

/// What the machine reports, as the driver understands it.
struct Events {
    driver: DriverHandle,
    watchdog: WatchdogSwitch,
}

impl MachineEvents for Events {
    fn notify(&self, event: MachineEvent) {
        self.driver.notice(match event {
            MachineEvent::PowerOff => Notice::PoweredOff,
            MachineEvent::Reset => Notice::Reset,
            MachineEvent::Suspend => Notice::Suspended,
            MachineEvent::WakeUp => Notice::WakeUp,
            MachineEvent::Panic => Notice::Panicked,
            MachineEvent::Watchdog => {
                let action = self.watchdog.action();
                tracing::info!(
                    "the guest let its watchdog run out; what follows is: {}",
                    action.name()
                );
                Notice::Watchdog(action)
            }
            MachineEvent::DebugExit(value) => Notice::DebugExit(value as u8),
            // The crash kernel decides what becomes of the guest.
            MachineEvent::CrashKernel => return,
        });
    }
}
