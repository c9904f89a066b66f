//! CPUs that come and go while the guest runs, by ACPI.
//!
//! ```text
//! device_add ─▶ the CPU stands in its boot state ─▶ the guest hears of it, and starts it as any other
//! device_del ─▶ the guest hears of it, lets go, and ejects the CPU ─▶ it stays at its gate, DEVICE_DELETED
//! ```
//!
//! Every CPU that there can be has its thread from the start. Those that are not there execute nothing, whatever a guest sends them.

use std::sync::{Arc, OnceLock};

use ostler_machine::CpuOutcome;
use serde_json::json;

use super::Manager;
use super::nodes::is_identifier;
use crate::control::{Arguments, Failure};
use crate::vcpu::CpuView;

/// How every CPU's type ends.
const TYPE: &str = "-x86_64-cpu";

type Listener = Box<dyn Fn(CpuOutcome) + Send + Sync>;

/// Hands on what a guest does with its CPUs, once someone listens.
#[derive(Clone, Default)]
pub(crate) struct CpuNews(Arc<OnceLock<Listener>>);

impl CpuNews {
    pub fn tell(&self, outcome: CpuOutcome) {
        if let Some(listener) = self.0.get() {
            listener(outcome);
        }
    }

    /// Calls `listener` from now on, on a CPU's thread; a second call changes nothing.
    pub fn listen(&self, listener: impl Fn(CpuOutcome) + Send + Sync + 'static) {
        let _ = self.0.set(Box::new(listener));
    }
}

/// A CPU that there can be.
pub(crate) struct Seat {
    pub view: CpuView,
    /// Of one that was plugged in.
    id: Option<String>,
    /// Clients know it as present.
    present: bool,
}

impl Seat {
    pub fn new(view: CpuView, present: bool) -> Self {
        let id = None;
        Self { view, id, present }
    }

    pub fn is_hotplugged(&self) -> bool {
        self.id.is_some()
    }
}

/// True if `driver` names a kind of CPU.
pub(super) fn is_cpu(driver: &str) -> bool {
    driver.ends_with(TYPE)
}

impl Manager {
    /// The type of the CPUs in the object tree, without the features that their model was given or denied.
    pub fn cpu_type(&self) -> String {
        let model = self.spec.cpu_model.split(',').next().unwrap_or_default();
        format!("{model}{TYPE}")
    }

    /// Each CPU that there can be, whether it is there or not, by its number.
    pub fn seats(&self) -> impl Iterator<Item = (usize, &Seat)> {
        self.seats.iter().enumerate()
    }

    /// The CPUs that are there.
    pub fn cpus(&self) -> impl Iterator<Item = (usize, &Seat)> {
        self.seats().filter(|(_, seat)| seat.present)
    }

    /// CPU `index`, if it is there.
    pub fn cpu(&self, index: usize) -> Option<&CpuView> {
        let seat = self.seats.get(index)?;
        seat.present.then_some(&seat.view)
    }

    /// Where a CPU that is there is in the object tree.
    pub fn cpu_path(&self, index: usize) -> String {
        match self.seats.get(index).and_then(|seat| seat.id.as_ref()) {
            Some(id) => format!("/machine/peripheral/{id}"),
            None => format!("/machine/unattached/device[{index}]"),
        }
    }

    /// The CPU that is at `path`, or has this id.
    pub fn cpu_at(&self, path: &str) -> Option<usize> {
        let mut cpus = self.cpus();
        let found =
            cpus.find(|(index, seat)| seat.id.as_deref() == Some(path) || self.cpu_path(*index) == path);
        found.map(|(index, _)| index)
    }

    /// `device_add` of a CPU.
    pub(super) fn plug_cpu(&mut self, driver: &str, mut properties: Arguments) -> Result<(), Failure> {
        let expected = self.cpu_type();
        if driver != expected {
            return Err(Failure::generic(format!(
                "Invalid CPU type, expected cpu type: '{expected}'"
            )));
        }
        self.collect_ejected_cpus();
        let id = properties.string_if_given("id")?;
        let id = properties.need("id", id)?;
        if !is_identifier(&id) {
            return Err(Failure::expects("id", "an identifier"));
        }
        self.check_id_is_free(&id)?;
        let mut place = [0; 4];
        let names = ["socket-id", "die-id", "core-id", "thread-id"];
        for (number, name) in place.iter_mut().zip(names) {
            let given = properties.number_if_given(name)?;
            // There is one die, which need not be said.
            let default = (name == "die-id").then_some(0);
            *number = given
                .or(default)
                .ok_or_else(|| Failure::generic(format!("CPU {name} is not set")))?;
            let most = if name == "core-id" {
                self.seats.len() as u64 - 1
            } else {
                0
            };
            if *number > most {
                return Err(Failure::generic(format!(
                    "Invalid CPU {name}: {number} must be in range 0:{most}"
                )));
            }
        }
        if let Some(name) = properties.first_left() {
            return Err(Failure::generic(format!("Property '{driver}.{name}' not found")));
        }
        let cpu = place[2] as u32;
        let seat = &mut self.seats[cpu as usize];
        if seat.present {
            return Err(Failure::generic(format!(
                "CPU[{cpu}] with APIC ID {cpu} exists already"
            )));
        }
        if self.driver.state().is_final() {
            return Err(Failure::generic(
                "the guest is over: nothing can be plugged in now",
            ));
        }
        seat.view.handle().put_in(self.machine.boot_state(cpu));
        seat.present = true;
        seat.id = Some(id);
        self.machine.insert_cpu(cpu);
        Ok(())
    }

    /// `device_del` of a CPU: asks the guest to let it go.
    pub(super) fn unplug_cpu(&mut self, index: usize) -> Result<(), Failure> {
        if index == 0 {
            return Err(Failure::generic("Boot CPU is unpluggable"));
        }
        if !self.machine.has_cpu_hotplug() {
            return Err(Failure::generic(
                "the CPUs of this guest stay: it was not started with --cpus N,max=M",
            ));
        }
        self.machine.request_cpu_removal(index as u32);
        Ok(())
    }

    /// Takes leave of the CPUs that the guest has ejected.
    pub fn collect_ejected_cpus(&mut self) {
        let there = self.machine.cpus();
        let known = self.seats.iter().zip(there).enumerate();
        let gone = known.filter(|(_, (seat, there))| seat.present && !there);
        let gone: Vec<usize> = gone.map(|(index, _)| index).collect();
        for index in gone {
            let path = self.cpu_path(index);
            self.seats[index].present = false;
            let mut data = json!({ "path": path });
            if let Some(id) = self.seats[index].id.take() {
                data["device"] = id.into();
            }
            self.tell("DEVICE_DELETED", data);
        }
    }

    /// Tells what the guest said of events of its CPUs.
    pub fn note_cpu_reports(&mut self) {
        for (cpu, report) in self.machine.take_cpu_reports() {
            let mut info = json!({
                "slot": cpu.to_string(),
                "slot-type": "CPU",
                "source": report.event,
                "status": report.status,
            });
            let seat = self.seats.get(cpu as usize);
            if let Some(id) = seat.and_then(|seat| seat.id.as_ref()) {
                info["device"] = id.as_str().into();
            }
            self.tell("ACPI_DEVICE_OST", json!({ "info": info }));
        }
    }
}
