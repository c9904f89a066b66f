//! The recipe: a machine from top to bottom.

use std::sync::{Arc, Mutex};

use ostler_accel::Vm;
use ostler_bus::{AddressMap, Device, InterruptLine, MsiSink, Range};
use ostler_display::Card;
use ostler_pci::{PciFunction, Root, RootConfig, RootPort, Windows};

use crate::bridges::{HostBridge, LpcBridge, Movable, topology};
use crate::chips::cpu_hotplug;
use crate::chips::cpu_hotplug_bus::{CpuHotplugPorts, Cpus};
use crate::chips::fw_cfg_bus::{self, FwCfg};
use crate::chips::generation_id::GenerationId;
use crate::chips::i6300esb_bus::Watchdog;
use crate::chips::i8042_bus::{CommandPort, DataPort, I8042Bus};
use crate::chips::pit_bus::{PitBus, SystemControlPort};
use crate::chips::pm::Pm;
use crate::chips::pm_bus::{AlarmLine, PmBus, SmiCommandPorts};
use crate::chips::rtc_bus::{self, RtcBus};
use crate::chips::serial_port::SerialPort;
use crate::chips::signals::{
    DebugExit, FastReset, PvPanic, ResetControl, TestLines, TestMemory, TestScratch,
};
use crate::chips::synthetic_test::SyntheticTestPort;
use crate::firmware::Board;
use crate::interrupts::{ElcrPorts, Input, IoapicWindow, PicPorts, Router};
use crate::layout::{
    COM1, COM1_IRQ, CPU_HOTPLUG, ELCR_PORTS, FW_CFG, GENERATION_ID, GENERATION_ID_SIZE, IOAPIC_BASE,
    MAX_CPUS, PCI_CONFIG_PORTS, PIC_PORTS, PVPANIC, SCI, SMI_COMMAND,
};
use crate::machine::{Chips, Machine};
use crate::memory_map::{self, MemoryMap};
use crate::timers::{Clock, TimerThread, Timers};
use crate::{Boot, Display, Error, MachineConfig, PciAddress, PlaceError, Places, SerialBackend};

/// Under which name SeaBIOS looks for the option ROM of a function with these ids (Runtime_config: pciVVVV,DDDD.rom).
const VGA_BIOS_FILE: &str = "pci1234,1111.rom";
/// Most bytes of one: what the memory map leaves between display memory and other option ROMs.
const MAX_VGA_BIOS: u64 = 128 << 10;

/// The buses under construction.
struct Buses {
    ports: Arc<AddressMap>,
    memory: Arc<AddressMap>,
}

impl Buses {
    fn port(&self, base: u64, len: u64, device: Arc<dyn Device>) -> Result<(), Error> {
        Ok(self.ports.insert(Range::new(base, len), device)?)
    }

    fn window(&self, base: u64, len: u64, device: Arc<dyn Device>) -> Result<(), Error> {
        Ok(self.memory.insert(Range::new(base, len), device)?)
    }
}

impl Machine {
    /// Builds the platform and loads the kernel.
    pub fn build(config: MachineConfig) -> Result<Machine, Error> {
        let MachineConfig {
            machine_type,
            ram,
            vm,
            cpus,
            boot_cpus,
            boot,
            functions,
            sata,
            display,
            watchdog,
            places: layout,
            generation_id,
            rtc_offset,
            suspend,
            serial,
            events,
            debug_exit,
            test_device,
        } = config;
        if !(1..=MAX_CPUS).contains(&cpus) {
            return Err(Error::Cpus(cpus));
        }
        if !(1..=cpus).contains(&boot_cpus) {
            return Err(Error::BootCpus {
                start: boot_cpus,
                most: cpus,
            });
        }
        let cpu_hotplug = boot_cpus < cpus;
        let has_vga = display.as_ref().is_some_and(|display| display.card.is_vga());
        let places = Arc::new(Cpus::new(cpus, boot_cpus));
        let memory_map = MemoryMap::new(vm.clone(), &ram);
        let (boot, firmware) = match boot {
            Boot::Kernel(source) => (Some(Arc::new(source)), None),
            Boot::Firmware(firmware) => {
                let has_id = generation_id.is_some();
                let what = (machine_type, serial.is_some(), has_id, has_vga, suspend);
                let processors = (places.clone(), cpu_hotplug);
                let board = Board::new(firmware, memory_map.clone(), ram.clone(), processors, what)?;
                (None, Some(board))
            }
        };
        let buses = Buses {
            ports: Arc::new(AddressMap::new()),
            memory: Arc::new(AddressMap::new()),
        };
        let clock = Clock::start();
        let (timer_thread, timers) = TimerThread::start(clock)?;

        let router = interrupt_controllers(&buses, &vm)?;
        let isa = |irq: u8| router.line(Input::Isa(irq));
        let pit = timer_chip(&buses, isa(0), &router, clock, &timers)?;
        let more_memory = firmware.as_ref().map_or(0, |board| board.more_memory());
        let smi = firmware.as_ref().and_then(|board| board.smi().cloned());
        let pm = if firmware.is_some() && smi.is_none() {
            Pm::without_smm()
        } else {
            Pm::default()
        };
        let pm = pm.with_sleep(suspend);
        let pm = PmBus::new(pm, isa(SCI), clock, timers.clone(), events.clone());
        let sizes = rtc_bus::Sizes::of(&ram, more_memory, boot_cpus);
        let lines = (isa(8), Arc::new(AlarmLine(pm.clone())) as Arc<dyn InterruptLine>);
        let rtc = RtcBus::new(
            lines,
            clock,
            timers.clone(),
            rtc_offset,
            sizes,
            firmware.is_some(),
        );
        buses.port(0x70, 2, rtc.clone())?;
        let keyboard = I8042Bus::new((isa(1), isa(12)), events.clone(), clock, timers.clone());
        keyboard_controller(&buses, &keyboard)?;
        let serial = serial
            .map(|outside| serial_port(&buses, isa(COM1_IRQ), outside))
            .transpose()?;
        buses.port(SMI_COMMAND, 2, Arc::new(SmiCommandPorts::new(pm.clone(), smi)))?;
        buses.port(0x92, 1, Arc::new(FastReset(events.clone())))?;
        buses.port(PVPANIC, 1, Arc::new(PvPanic(events.clone())))?;
        let fw_cfg = Arc::new(FwCfg::new(ram.clone(), boot.clone(), (boot_cpus, cpus))?);
        buses.port(FW_CFG, fw_cfg_bus::SIZE, fw_cfg.clone())?;
        let generation_id = generation_id.map(|id| Arc::new(GenerationId::new(id)));
        if let Some(page) = &generation_id {
            buses.window(GENERATION_ID, GENERATION_ID_SIZE, page.clone())?;
        }
        if let Some(display) = &display {
            self::display(&buses, display, &memory_map, &fw_cfg)?;
            if firmware.is_none() && has_vga {
                memory_map.set_board(memory_map::without_window(&ram), None)?;
            }
        }
        if let Some(firmware) = &firmware {
            firmware_board(&buses, firmware, &fw_cfg)?;
        }
        if cpu_hotplug {
            let ports = Arc::new(CpuHotplugPorts(places.clone()));
            buses.port(CPU_HOTPLUG, cpu_hotplug::SIZE, ports)?;
        }
        if let Some(port) = debug_exit {
            buses.port(u64::from(port), 4, Arc::new(DebugExit(events.clone())))?;
        }
        if test_device {
            test_device_ports(&buses, &router, &vm)?;
        }

        let layout = match layout {
            Some(layout) => layout,
            None => Places::standard(functions.len(), watchdog, display.is_some())?,
        };
        layout.check()?;
        if watchdog && layout.watchdog.is_none() {
            return Err(PlaceError::Count {
                places: 0,
                devices: 1,
            }
            .into());
        }
        let watchdog = watchdog.then(|| Watchdog::new(clock, timers, events.clone()));
        let windows = firmware
            .as_ref()
            .map_or_else(|| topology::windows(&ram), |board| board.pci_windows());
        let reset_control = Arc::new(ResetControl::new(events));
        let (root, host_bridge) = pci_root(&buses, windows, reset_control, &router, &pm, &firmware)?;
        let ports = Ports {
            root: &root,
            router: &router,
            sink: &(vm as Arc<dyn MsiSink>),
            layout: &layout,
        };
        ports.add()?;
        plug_devices(&ports, &functions)?;
        if let (Some(watchdog), Some(place)) = (&watchdog, layout.watchdog) {
            ports.place(place, watchdog.clone())?;
        }
        if let Some(sata) = sata {
            let line = topology::line(&router, topology::SATA, &*sata);
            root.add(topology::SATA, sata, line)?;
        }
        if let Some(display) = display {
            let at = layout.display.map_or(topology::DISPLAY, PciAddress::location);
            root.add(at, display.card, None)?;
        }
        let slots = layout.ports.iter().map(|port| (port.bus - 1, port.at)).collect();

        let chips = Chips {
            router,
            pit,
            rtc,
            keyboard,
            serial,
            pm,
            watchdog,
            generation_id,
            fw_cfg,
            root,
            host_bridge,
        };
        let machine = Machine {
            machine_type,
            ports: buses.ports,
            memory: buses.memory,
            ram,
            memory_map,
            cpus: places,
            cpu_hotplug,
            boot,
            has_vga,
            suspend,
            firmware,
            first_cpu: Mutex::new(ostler_accel::reset_state(0)),
            chips,
            slots,
            _timers: timer_thread,
        };
        machine.start_over()?;
        Ok(machine)
    }
}

fn firmware_board(buses: &Buses, board: &Board, fw_cfg: &Arc<FwCfg>) -> Result<(), Error> {
    for (range, device) in board.windows() {
        buses.window(range.base, range.len, device)?;
    }
    for (range, device) in board.ports() {
        buses.port(range.base, range.len, device)?;
    }
    board.connect(fw_cfg.clone())
}

/// What VGA has beyond its PCI function: the old ports, and the window below 1 MiB. SMRAM, where there is some, is mapped over the
/// window by the board.
fn vga(buses: &Buses, card: &Card) -> Result<(), Error> {
    buses.port(
        ostler_display::LEGACY_PORTS,
        ostler_display::LEGACY_PORT_COUNT,
        card.legacy_ports(),
    )?;
    buses.port(
        ostler_display::VBE_PORTS,
        ostler_display::VBE_PORT_COUNT,
        card.vbe_ports(),
    )?;
    let (window, size) = (ostler_display::LEGACY_WINDOW, ostler_display::LEGACY_WINDOW_SIZE);
    buses.window(window, size, card.legacy_window())
}

/// Connects a display; a BIOS finds what it runs for it.
fn display(buses: &Buses, display: &Display, map: &Arc<MemoryMap>, fw_cfg: &FwCfg) -> Result<(), Error> {
    let card = &display.card;
    card.connect(map.clone());
    if card.is_vga() {
        vga(buses, card)?;
    }
    let Some(rom) = &display.rom else { return Ok(()) };
    let what = "VGA BIOS";
    let size = rom.len(what)?;
    if size > MAX_VGA_BIOS {
        return Err(Error::VgaBiosSize(size));
    }
    let mut contents = vec![0; size as usize];
    rom.read_at(what, 0, &mut contents)?;
    fw_cfg.change(|items| items.add_file(VGA_BIOS_FILE, contents));
    Ok(())
}

fn interrupt_controllers(buses: &Buses, vm: &Arc<dyn Vm>) -> Result<Arc<Router>, Error> {
    let router = Router::new(vm.clone());
    buses.window(IOAPIC_BASE, 0x1000, Arc::new(IoapicWindow(router.clone())))?;
    for (chip, base) in PIC_PORTS.into_iter().enumerate() {
        buses.port(
            base,
            2,
            Arc::new(PicPorts {
                router: router.clone(),
                chip,
            }),
        )?;
    }
    buses.port(ELCR_PORTS, 2, Arc::new(ElcrPorts(router.clone())))?;
    Ok(router)
}

fn timer_chip(
    buses: &Buses,
    line: Arc<dyn InterruptLine>,
    router: &Arc<Router>,
    clock: Clock,
    timers: &Timers,
) -> Result<Arc<PitBus>, Error> {
    let pit = PitBus::new(line, router.clone(), clock, timers.clone());
    buses.port(0x40, 4, pit.clone())?;
    buses.port(0x61, 1, Arc::new(SystemControlPort(pit.clone())))?;
    Ok(pit)
}

fn keyboard_controller(buses: &Buses, controller: &Arc<I8042Bus>) -> Result<(), Error> {
    buses.port(0x60, 1, Arc::new(DataPort(controller.clone())))?;
    buses.port(0x64, 1, Arc::new(CommandPort(controller.clone())))
}

fn serial_port(
    buses: &Buses,
    line: Arc<dyn InterruptLine>,
    outside: Arc<dyn SerialBackend>,
) -> Result<Arc<SerialPort>, Error> {
    let port = Arc::new(SerialPort::new(line, outside));
    buses.port(COM1, 8, port.clone())?;
    Ok(port)
}

/// The ports of QEMU's pc-testdev and hyperv-testdev, as kvm-unit-tests uses them.
fn test_device_ports(buses: &Buses, router: &Arc<Router>, vm: &Arc<dyn Vm>) -> Result<(), Error> {
    buses.port(0xe0, 4, Arc::new(TestScratch::default()))?;
    buses.port(0xe8, 1, Arc::new(TestScratch::default()))?;
    buses.port(
        0x2000,
        u64::from(TestLines::COUNT),
        Arc::new(TestLines::new(router)),
    )?;
    buses.port(
        0x3000,
        SyntheticTestPort::SIZE,
        Arc::new(SyntheticTestPort::new(vm.clone())),
    )?;
    buses.window(0xff00_0000, TestMemory::SIZE, Arc::new(TestMemory::default()))
}

fn pci_root(
    buses: &Buses,
    windows: Windows,
    reset_control: Arc<dyn Device>,
    router: &Arc<Router>,
    pm: &Arc<PmBus>,
    firmware: &Option<Arc<Board>>,
) -> Result<(Arc<Root>, Arc<HostBridge>), Error> {
    let root = Root::new(RootConfig {
        memory: buses.memory.clone(),
        ports: buses.ports.clone(),
        windows,
    });
    buses.port(PCI_CONFIG_PORTS, 8, root.config_ports(Some(reset_control)))?;

    let host_bridge = Arc::new(HostBridge::new(
        Movable::new(buses.memory.clone(), root.ecam()),
        firmware.clone(),
    ));
    root.add(topology::HOST_BRIDGE, host_bridge.clone(), None)?;
    let lpc_bridge = LpcBridge::new(
        router.clone(),
        (Movable::new(buses.ports.clone(), pm.clone()), pm.clone()),
        (
            firmware.is_some(),
            firmware.as_ref().is_some_and(|board| board.smi().is_some()),
        ),
    );
    root.add(topology::LPC_BRIDGE, Arc::new(lpc_bridge), None)?;
    Ok((root, host_bridge))
}

/// Bus 0 and the root ports on it.
struct Ports<'a> {
    root: &'a Root,
    router: &'a Arc<Router>,
    sink: &'a Arc<dyn MsiSink>,
    layout: &'a Places,
}

impl Ports<'_> {
    fn add(&self) -> Result<(), Error> {
        for port in &self.layout.ports {
            let bridge = RootPort::with(port.identity, self.sink.clone());
            let line = topology::line(self.router, port.at, &*bridge as &dyn PciFunction);
            self.root.add_port(port.at, bridge, line)?;
        }
        Ok(())
    }

    /// Puts a device where it belongs before the guest runs.
    fn place(&self, place: PciAddress, function: Arc<dyn PciFunction>) -> Result<(), Error> {
        let Some(port) = self.layout.port(place.bus) else {
            let at = place.location();
            let line = topology::line(self.router, at, &*function);
            return Ok(self.root.add(at, function, line)?);
        };
        let line = topology::line_behind(self.router, port.at, &*function);
        Ok(self.root.plug(port.at, function, line, true)?)
    }
}

fn plug_devices(ports: &Ports<'_>, functions: &[Arc<dyn PciFunction>]) -> Result<(), Error> {
    let places = &ports.layout.functions;
    if places.len() != functions.len() {
        return Err(PlaceError::Count {
            places: places.len(),
            devices: functions.len(),
        }
        .into());
    }
    for (place, function) in places.iter().zip(functions) {
        ports.place(*place, function.clone())?;
    }
    Ok(())
}
