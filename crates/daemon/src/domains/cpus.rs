//! CPUs that come and go while a guest runs, and in its definition.
//!
//! Which CPUs there are is in the definition of the run, which follows what the guest's process says.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use ostler_libvirt::{Code, RemoteError};
use ostler_libvirt_xml::domain::Vcpus;
use serde_json::{Value, json};

use super::domain::Domain;
use super::lifecycle::refused;
use super::{Domains, Impact, pins};
use crate::guest::{CPU_ID, Control, GuestProcess};

/// How long a client waits for a guest to let CPUs go; it may let them go later, too.
const PATIENCE: Duration = Duration::from_secs(10);

/// The CPUs that a client wants a guest to have.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Wanted {
    /// So many: the lowest numbers come first, and the highest go first.
    Count(u32),
    /// These come, or go.
    Switch {
        /// Their numbers.
        cpus: Vec<u32>,
        /// They come.
        on: bool,
    },
}

fn invalid(why: String) -> RemoteError {
    RemoteError::new(Code::InvalidArgument, why)
}

impl Wanted {
    /// The numbers of the CPUs that are to be there, of a guest that has `now` and may have `max`. `which`: "live" or "persistent".
    fn of(&self, now: &[u32], max: u32, which: &str) -> Result<Vec<u32>, RemoteError> {
        let mut there = now.to_vec();
        match self {
            Self::Count(0) => return Err(invalid("a guest has one CPU at least".into())),
            Self::Count(count) if *count > max => {
                return Err(invalid(format!(
                    "requested vcpus is greater than max allowable vcpus for the {which} domain: {count} > {max}"
                )));
            }
            Self::Count(count) => {
                let count = *count as usize;
                there.truncate(count);
                let absent = (0..max).filter(|cpu| !now.contains(cpu));
                there.extend(absent.take(count - there.len()));
            }
            Self::Switch { cpus, on } => {
                for cpu in cpus {
                    if *cpu >= max {
                        return Err(invalid(format!(
                            "vcpu '{cpu}' is beyond the {max} that the {which} domain may have"
                        )));
                    }
                    if *cpu == 0 {
                        return Err(invalid("vcpu '0' is always there".into()));
                    }
                    if now.contains(cpu) == *on {
                        return Err(invalid(format!("vcpu '{cpu}' is already in requested state")));
                    }
                }
                match on {
                    true => there.extend(cpus),
                    false => there.retain(|cpu| !cpus.contains(cpu)),
                }
            }
        }
        there.sort_unstable();
        Ok(there)
    }
}

/// What a guest's process says of a CPU that there can be.
struct Place {
    kind: String,
    /// Where it is: socket, core, thread.
    props: Value,
    /// How it is called while it is there.
    path: Option<String>,
}

/// Every CPU that there can be, by its number.
fn places(control: &Control) -> Result<BTreeMap<u32, Place>, RemoteError> {
    let answer = control.execute("query-hotpluggable-cpus").map_err(refused)?;
    let place = |value: &Value| {
        let number = u32::try_from(value["props"]["core-id"].as_u64()?).ok()?;
        let place = Place {
            kind: value["type"].as_str()?.into(),
            props: value["props"].clone(),
            path: value["qom-path"].as_str().map(String::from),
        };
        Some((number, place))
    };
    Ok(answer
        .as_array()
        .into_iter()
        .flatten()
        .filter_map(place)
        .collect())
}

/// Plugs a CPU in.
fn plug(control: &Control, cpu: u32) -> Result<(), RemoteError> {
    let none = || invalid(format!("the guest that runs has no place for a CPU {cpu}"));
    let place = places(control)?.remove(&cpu).ok_or_else(none)?;
    let mut arguments = place.props;
    arguments["driver"] = place.kind.into();
    arguments["id"] = format!("{CPU_ID}{cpu}").into();
    control
        .execute_with("device_add", arguments)
        .map(drop)
        .map_err(refused)
}

/// Asks the guest to let a CPU go.
fn ask_out(control: &Control, cpu: u32) -> Result<(), RemoteError> {
    let Some(path) = places(control)?.remove(&cpu).and_then(|place| place.path) else {
        // It is gone already.
        return Ok(());
    };
    let asked = control.execute_with("device_del", json!({ "id": path }));
    asked.map(drop).map_err(|error| {
        let mut error = refused(error);
        error.detail += " (CPUs come and go in a guest whose <vcpu> had fewer at its start than it may have)";
        error
    })
}

impl Domains {
    /// Has CPUs come or go: in the guest that runs, in its definition, or in both.
    pub fn set_cpus(&self, domain: &Domain, flags: u32, wanted: &Wanted) -> Result<(), RemoteError> {
        let _job = domain.job();
        let (impact, config) = {
            let state = domain.state();
            let impact = Impact::of(flags, &state)?;
            (impact, state.persistent.clone().filter(|_| impact.config))
        };
        let config = match config {
            Some(definition) => {
                let cpus = &definition.vcpus;
                let there = wanted.of(&cpus.there(), cpus.max, "persistent")?;
                Some(definition.edit(|root| Vcpus::write_there(root, &there))?)
            }
            None => None,
        };
        if impact.live {
            self.set_running_cpus(domain, wanted)?;
        }
        match config {
            Some(config) => self.keep_config(domain, config),
            None => Ok(()),
        }
    }

    fn set_running_cpus(&self, domain: &Domain, wanted: &Wanted) -> Result<(), RemoteError> {
        let devices = domain.devices();
        // What was let go since is news here.
        self.follow_cpus(domain)?;
        let (control, run, definition) =
            domain.with_live(|live| (live.control.clone(), live.id, live.definition.clone()))?;
        let now = definition.vcpus.there();
        let there = wanted.of(&now, definition.vcpus.max, "live")?;
        let mut new = there.iter().filter(|cpu| !now.contains(cpu));
        let plugged = new.try_for_each(|cpu| plug(&control, *cpu));
        // Those that came are there, whatever became of others.
        self.follow_cpus(domain)?;
        plugged?;
        let mut old = now.iter().rev().filter(|cpu| !there.contains(cpu));
        old.try_for_each(|cpu| ask_out(&control, *cpu))?;
        // Whoever strikes them out has to get the devices.
        drop(devices);
        match domain.wait_for_cpus(run, &there, PATIENCE) {
            true => Ok(()),
            false => Err(RemoteError::new(
                Code::OperationTimeout,
                "vcpu unplug request timed out. Unplug result must be manually inspected in the domain",
            )),
        }
    }

    /// Plugs in the CPUs of a guest that has just been started which it could not be started with.
    pub(super) fn plug_later_cpus(&self, domain: &Domain, cpus: &[u32]) -> Result<(), RemoteError> {
        if cpus.is_empty() {
            return Ok(());
        }
        let _devices = domain.devices();
        let (control, definition, process) = domain.with_live(|live| {
            (
                live.control.clone(),
                live.definition.clone(),
                live.process.clone(),
            )
        })?;
        let there = process.vcpu_numbers();
        for cpu in cpus {
            match there.contains(cpu) {
                // By a daemon that was killed then.
                true => pins::apply_to_new(&definition, &process, *cpu)?,
                false => plug(&control, *cpu)?,
            }
        }
        self.follow_cpus(domain)
    }

    /// The guest let a CPU go: on the thread that listens to it, which must not wait.
    pub(super) fn cpu_gone_soon(self: &Arc<Self>, domain: &Arc<Domain>, run: i32) {
        let (domains, domain) = (self.clone(), domain.clone());
        let follow = move || {
            let _devices = domain.devices();
            let is_it = domain.with_live(|live| live.id == run).unwrap_or(false);
            if is_it && let Err(error) = domains.follow_cpus(&domain) {
                crate::log::note!("a CPU that is gone is still listed: {error}");
            }
        };
        if let Err(error) = std::thread::Builder::new().name("cpus".into()).spawn(follow) {
            crate::log::note!("a CPU that is gone is still listed: {error}");
        }
    }

    /// Takes in which CPUs came and went while no daemon was there.
    pub(super) fn find_cpus(&self, domain: &Domain) {
        let _devices = domain.devices();
        if let Err(error) = self.follow_cpus(domain) {
            crate::log::note!("the CPUs of a guest are not known: {error}");
        }
    }

    /// Has the definition of the run say which CPUs there are. The caller has the devices.
    fn follow_cpus(&self, domain: &Domain) -> Result<(), RemoteError> {
        let (control, definition, before) = domain.with_live(|live| {
            (
                live.control.clone(),
                live.definition.clone(),
                live.process.clone(),
            )
        })?;
        let process = Arc::new(GuestProcess::find(&control).map_err(refused)?);
        let there = process.vcpu_numbers();
        let (listed, had) = (definition.vcpus.there(), before.vcpu_numbers());
        domain.with_live(|live| live.process = process.clone())?;
        // Before they are listed: by those that are not, the next daemon sees which are new.
        let is_new = |cpu: &&u32| !(listed.contains(cpu) && had.contains(cpu));
        let mut new = there.iter().filter(is_new);
        let bound = new.try_for_each(|cpu| pins::apply_to_new(&definition, &process, *cpu));
        let limited = bound.and_then(|()| self.limit_threads(domain));
        if there != listed {
            let edited = definition.edit(|root| Vcpus::write_there(root, &there))?;
            self.keep_live(domain, edited)?;
            domain.tell_end();
        }
        limited
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_become_cpus() {
        let count = |count, now: &[u32]| Wanted::Count(count).of(now, 4, "live").map_err(|e| e.detail);
        assert_eq!(count(3, &[0, 2]).unwrap(), [0, 1, 2]);
        assert_eq!(count(4, &[0]).unwrap(), [0, 1, 2, 3]);
        assert_eq!(count(1, &[0, 2, 3]).unwrap(), [0]);
        assert_eq!(count(2, &[0, 2, 3]).unwrap(), [0, 2]);
        assert!(count(0, &[0]).unwrap_err().contains("one CPU at least"));
        assert!(count(5, &[0]).unwrap_err().contains("live domain: 5 > 4"));
        let switch = |cpus: &[u32], on| {
            let cpus = cpus.to_vec();
            let wanted = Wanted::Switch { cpus, on };
            wanted.of(&[0, 2], 4, "live").map_err(|e| e.detail)
        };
        assert_eq!(switch(&[3, 1], true).unwrap(), [0, 1, 2, 3]);
        assert_eq!(switch(&[2], false).unwrap(), [0]);
        assert!(switch(&[4], true).unwrap_err().contains("beyond"));
        assert!(switch(&[0], false).unwrap_err().contains("always there"));
        assert!(switch(&[2], true).unwrap_err().contains("already"));
        assert!(switch(&[1], false).unwrap_err().contains("already"));
    }
}
