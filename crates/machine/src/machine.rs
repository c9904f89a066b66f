//! A machine: the recipe that builds it, and its life cycle.
//!
//! Life cycle: [`Machine::build`] loads the kernel and leaves every chip in its reset state; the owner makes the vCPUs and
//! gives each its [`Machine::boot_state`]. After [`crate::MachineEvent::Reset`] the owner pauses all vCPUs, calls
//! [`Machine::reset`], and gives the boot states again. All other methods may be called from any thread at any time.

use std::sync::{Arc, Mutex};

use ostler_accel::{CpuState, Vm};
use ostler_bus::{AddressMap, Range};
use ostler_memory::GuestRam;

use crate::boot::{self, BootSource};
use crate::chips::serial_port::SerialPort;
use crate::interrupts::{ElcrPorts, Input, IoapicWindow, PicPorts, Router};
use crate::layout::{COM1, COM1_IRQ, ELCR_PORTS, IOAPIC_BASE, MAX_CPUS, PIC_PORTS};
use crate::registers::lock;
use crate::{Error, MachineConfig, MachineEvents, MachineType};

/// The platform of one guest.
pub struct Machine {
    machine_type: MachineType,
    ports: Arc<AddressMap>,
    memory: Arc<AddressMap>,
    ram: Arc<GuestRam>,
    vm: Arc<dyn Vm>,
    cpus: u32,
    boot: BootSource,
    first_cpu: Mutex<CpuState>,
    router: Arc<Router>,
    serial: Option<Arc<SerialPort>>,
    events: Arc<dyn MachineEvents>,
}

impl Machine {
    /// Builds the platform and loads the kernel.
    pub fn build(config: MachineConfig) -> Result<Machine, Error> {
        let MachineConfig {
            machine_type,
            ram,
            vm,
            cpus,
            boot,
            serial,
            events,
            ..
        } = config;
        if !(1..=MAX_CPUS).contains(&cpus) {
            return Err(Error::Cpus(cpus));
        }
        let ports = Arc::new(AddressMap::new());
        let memory = Arc::new(AddressMap::new());

        let router = Router::new(vm.clone());
        memory.insert(
            Range::new(IOAPIC_BASE, 0x1000),
            Arc::new(IoapicWindow(router.clone())),
        )?;
        for (chip, base) in PIC_PORTS.into_iter().enumerate() {
            ports.insert(
                Range::new(base, 2),
                Arc::new(PicPorts {
                    router: router.clone(),
                    chip,
                }),
            )?;
        }
        ports.insert(Range::new(ELCR_PORTS, 2), Arc::new(ElcrPorts(router.clone())))?;

        let serial =
            serial.map(|backend| Arc::new(SerialPort::new(router.line(Input::Isa(COM1_IRQ)), backend)));
        if let Some(port) = &serial {
            ports.insert(Range::new(COM1, 8), port.clone())?;
        }

        let first_cpu = Mutex::new(boot::load(&ram, &boot)?);
        Ok(Machine {
            machine_type,
            ports,
            memory,
            ram,
            vm,
            cpus,
            boot,
            first_cpu,
            router,
            serial,
            events,
        })
    }

    /// The version of the platform.
    pub fn machine_type(&self) -> MachineType {
        self.machine_type
    }

    /// I/O ports: where [`ostler_accel::Exit::PortRead`] and `PortWrite` go.
    pub fn ports(&self) -> &Arc<AddressMap> {
        &self.ports
    }

    /// Guest-physical memory that is no RAM: where [`ostler_accel::Exit::MmioRead`] and `MmioWrite` go.
    pub fn memory(&self) -> &Arc<AddressMap> {
        &self.memory
    }

    /// The state in which CPU `cpu` starts after a build or a reset; all but CPU 0 wait for a start-up IPI.
    pub fn boot_state(&self, cpu: u32) -> CpuState {
        if cpu == 0 {
            lock(&self.first_cpu).clone()
        } else {
            boot::cpu::firmware_state(cpu)
        }
    }

    /// Carries [`ostler_accel::Exit::EndOfInterrupt`] to the IOAPIC.
    pub fn end_of_interrupt(&self, vector: u8) {
        self.router.end_of_interrupt(vector);
    }

    /// Offers input to the serial port. Returns how many bytes were taken; [`crate::SerialBackend::input_room`] tells
    /// when more may be offered. Without a serial port all input is taken and lost.
    pub fn serial_input(&self, bytes: &[u8]) -> usize {
        self.serial
            .as_ref()
            .map_or(bytes.len(), |port| port.push_input(bytes))
    }

    /// Presses the power button: the guest hears of it by ACPI, if it listens.
    pub fn power_button(&self) {}

    /// Brings every chip to its reset state and loads the kernel again. All vCPUs must be paused.
    pub fn reset(&self) -> Result<(), Error> {
        if let Some(port) = &self.serial {
            port.reset();
        }
        self.router.reset();
        let state = boot::load(&self.ram, &self.boot)?;
        *lock(&self.first_cpu) = state;
        Ok(())
    }
}
