//! Control groups of guests: what the host gives them of its CPUs, memory and disks.
//!
//! ```text
//! ROOT/UUID            the guest: shares and quota of all, memory, disk I/O
//! ROOT/UUID/emulator   its threads but those of its CPUs: their quota
//! ROOT/UUID/vcpuN      the thread of CPU N: its quota
//! ```
//!
//! A guest has its group from the moment on in which something is asked for: its definition, or a client. Nothing is kept of it
//! but the folders themselves, by which the next daemon finds it.

mod files;
mod tree;

use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::time::Duration;

use ostler_libvirt::types::Uuid;
use ostler_libvirt::{Code, RemoteError};
use ostler_libvirt_xml::domain::{CpuQuota, CpuTune, MemoryTune};

use crate::domains::definition::Definition;
use crate::guest::GuestProcess;
use crate::uuid;
use tree::{Controller, Trees, Version};

/// The group of the threads that are no CPU's.
const EMULATOR: &str = "emulator";
/// How the names begin of the groups of CPUs' threads.
const VCPU: &str = "vcpu";

/// What a definition asks for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Limits {
    cpu: CpuTune,
    memory: MemoryTune,
    io_weight: Option<u32>,
}

impl Limits {
    /// What this one asks for.
    pub fn of(definition: &Definition) -> Self {
        Self {
            cpu: definition.tune.clone(),
            memory: definition.memory_tune,
            io_weight: definition.io_weight,
        }
    }

    /// Whether it asks for anything.
    pub fn ask(&self) -> bool {
        Controller::ALL
            .into_iter()
            .any(|controller| self.need(controller))
    }

    fn need(&self, controller: Controller) -> bool {
        let Self { cpu, memory, .. } = self;
        match controller {
            Controller::Cpu => {
                let quotas = [cpu.vcpu, cpu.others, cpu.whole];
                cpu.shares.is_some() || quotas.iter().any(|quota| quota.is_stated())
            }
            Controller::Memory => *memory != MemoryTune::default(),
            Controller::Io => self.io_weight.is_some(),
        }
    }
}

/// The groups of all guests.
pub struct Groups {
    trees: Trees,
    /// The parent of guests' groups, in each tree; none if there are to be no groups.
    root: Option<PathBuf>,
}

/// The group of a guest.
#[derive(Debug)]
pub struct Group {
    places: Vec<Place>,
}

/// The group as one controller has it.
#[derive(Debug)]
struct Place {
    controller: Controller,
    tree: tree::Tree,
    path: PathBuf,
    /// It has just been made, and nobody is in it.
    is_new: bool,
}

fn failed(why: String) -> RemoteError {
    RemoteError::new(Code::OperationFailed, why)
}

impl Groups {
    /// Groups below `root`, a path in each of the host's trees.
    pub fn new(root: Option<PathBuf>) -> Self {
        let trees = Trees::of_host();
        Self { trees, root }
    }

    /// The group of a guest, made where it is not there, for all that is asked for.
    pub fn make(&self, guest: &Uuid, limits: &Limits) -> Result<Group, RemoteError> {
        let cannot = |why: String| RemoteError::new(Code::ConfigUnsupported, why);
        let mut group = self.find(guest).unwrap_or(Group { places: Vec::new() });
        for controller in Controller::ALL {
            let has = group.places.iter().any(|place| place.controller == controller);
            if has || !limits.need(controller) {
                continue;
            }
            let name = controller.name(Version::One);
            let root = self.root.as_ref().ok_or_else(|| {
                cannot(format!(
                    "limits of '{name}' cannot be set: this daemon makes no control groups; set \"groups\" in its configuration"
                ))
            })?;
            let tree = self.trees.of_controller(controller).ok_or_else(|| {
                cannot(format!(
                    "limits of '{name}' cannot be set: the host has no control groups with this controller"
                ))
            })?;
            let made = Place::make(controller, tree, &root.join(uuid::format(guest)));
            group.places.push(made.map_err(|error| {
                cannot(format!(
                    "limits of '{name}' cannot be set: the daemon cannot make a control group below \"{}\": {error}",
                    tree.mount.join(root).display()
                ))
            })?);
        }
        Ok(group)
    }

    /// The group of a guest, if it has one.
    pub fn find(&self, guest: &Uuid) -> Option<Group> {
        self.find_named(&uuid::format(guest))
    }

    fn find_named(&self, guest: &str) -> Option<Group> {
        let below = self.root.as_ref()?.join(guest);
        let place = |controller: Controller| {
            let tree = self.trees.of_controller(controller)?;
            let path = tree.mount.join(&below);
            let is_there = match (controller, tree.version) {
                (Controller::Cpu, Version::Two) => path.join(EMULATOR).exists(),
                // The folder of version 2 is that of every controller.
                (_, Version::Two) => path.exists() && has_passed_on(&path, controller),
                (_, Version::One) => path.exists(),
            };
            is_there.then(|| Place {
                controller,
                tree: tree.clone(),
                path,
                is_new: false,
            })
        };
        let places: Vec<Place> = Controller::ALL.into_iter().filter_map(place).collect();
        (!places.is_empty()).then_some(Group { places })
    }

    /// Removes the group of a guest whose process is about to be gone.
    pub fn remove(&self, guest: &str) {
        const TRIES: u32 = 200;
        let Some(group) = self.find_named(guest) else {
            return;
        };
        for place in &group.places {
            let mut tries = 0;
            while let Err(error) = remove_folder(&place.path) {
                tries += 1;
                if error.kind() != io::ErrorKind::ResourceBusy || tries == TRIES {
                    crate::log::note!("the control group \"{}\" stays: {error}", place.path.display());
                    break;
                }
                // The kernel takes leave of a process after others have seen its end.
                std::thread::sleep(Duration::from_millis(20));
            }
        }
    }
}

/// Whether the group above a group of version 2 gives it the controller.
fn has_passed_on(group: &Path, controller: Controller) -> bool {
    let controllers = fs::read_to_string(group.join("cgroup.controllers")).unwrap_or_default();
    let name = controller.name(Version::Two);
    controllers.split_whitespace().any(|other| other == name)
}

/// Removes a group and those in it. One that is gone is gone.
fn remove_folder(path: &Path) -> io::Result<()> {
    let entries = match fs::read_dir(path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
        entries => entries?,
    };
    for entry in entries {
        let entry = entry?;
        if entry.file_type()?.is_dir() {
            fs::remove_dir(entry.path())?;
        }
    }
    fs::remove_dir(path)
}

impl Place {
    fn make(controller: Controller, tree: &tree::Tree, below: &Path) -> io::Result<Self> {
        let path = tree.make(below, controller)?;
        if controller == Controller::Cpu {
            tree.make_for_threads(&path, EMULATOR)?;
        }
        Ok(Self {
            controller,
            tree: tree.clone(),
            path,
            is_new: true,
        })
    }
}

impl Group {
    /// Takes a process with all its threads into what is new of the group.
    pub fn enter(&self, process: u32) -> Result<(), RemoteError> {
        if process == 0 {
            // To the kernel that would be us.
            return Err(failed("the guest's process is not known".into()));
        }
        for place in self.places.iter().filter(|place| place.is_new) {
            if place.tree.version == Version::Two || place.controller != Controller::Cpu {
                files::put(&place.path, "cgroup.procs", process)?;
            }
            if place.controller == Controller::Cpu {
                files::put(&place.path.join(EMULATOR), "cgroup.procs", process)?;
            }
        }
        Ok(())
    }

    /// Takes the threads of a guest's CPUs into groups of their own.
    pub fn enter_vcpus(&self, process: &GuestProcess) -> Result<(), RemoteError> {
        let Some(place) = self.place(Controller::Cpu) else {
            return Ok(());
        };
        for (number, thread) in process.vcpu_threads() {
            let made = place
                .tree
                .make_for_threads(&place.path, &format!("{VCPU}{number}"));
            let group =
                made.map_err(|error| failed(format!("cannot make a control group for a CPU: {error}")))?;
            let file = match place.tree.version {
                Version::One => "tasks",
                Version::Two => "cgroup.threads",
            };
            files::put(&group, file, *thread)?;
        }
        Ok(())
    }

    /// Sets what is asked for; what is not is as the kernel has it.
    pub fn limit(&self, limits: &Limits) -> Result<(), RemoteError> {
        if let Some(place) = self.place(Controller::Cpu) {
            let version = place.tree.version;
            let cpu = &limits.cpu;
            // A group's quota has to be at least that of those in it.
            files::lift_quota(&place.path, version);
            for group in inner(&place.path).map_err(|error| failed(error.to_string()))? {
                let is_vcpu = group
                    .file_name()
                    .is_some_and(|name| name.to_string_lossy().starts_with(VCPU));
                let quota = if is_vcpu { cpu.vcpu } else { cpu.others };
                // Version 1 refuses one that is more than that of the group around it, which holds anyway.
                let quota = match version {
                    Version::One if files::is_more(quota, cpu.whole) => CpuQuota::default(),
                    _ => quota,
                };
                files::set_quota(&group, version, quota)?;
            }
            files::set_quota(&place.path, version, cpu.whole)?;
            files::set_shares(&place.path, version, cpu.shares)?;
        }
        if let Some(place) = self.place(Controller::Memory) {
            files::set_memory(&place.path, place.tree.version, limits.memory)?;
        }
        match (self.place(Controller::Io), limits.io_weight) {
            (Some(place), Some(weight)) => files::set_io_weight(&place.path, place.tree.version, weight),
            _ => Ok(()),
        }
    }

    fn place(&self, controller: Controller) -> Option<&Place> {
        self.places.iter().find(|place| place.controller == controller)
    }
}

/// The groups in a group.
fn inner(group: &Path) -> io::Result<Vec<PathBuf>> {
    let mut inner = Vec::new();
    for entry in fs::read_dir(group)? {
        let entry = entry?;
        if entry.file_type()?.is_dir() {
            inner.push(entry.path());
        }
    }
    Ok(inner)
}

#[cfg(test)]
mod tests;
