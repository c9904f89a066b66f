//! The CPUs that there can be, on the bus: the registers' ports, and who hears of what the guest does.

use std::sync::{Arc, Mutex, OnceLock};

use ostler_bus::Device;

use super::cpu_hotplug::{CpuHotplug, Outcome};
use crate::registers::{lock, read_dwords, write_dwords};

type Listener = Box<dyn Fn(Outcome) + Send + Sync>;

/// Which CPUs there are.
pub struct Cpus {
    state: Mutex<CpuHotplug>,
    /// Takes a CPU out of the guest. It is called with the lock held, so that nobody can put the CPU in meanwhile.
    listener: OnceLock<Listener>,
}

impl Cpus {
    /// `possible` CPUs, of which the first `present` are there.
    pub fn new(possible: u32, present: u32) -> Self {
        Self {
            state: Mutex::new(CpuHotplug::new(possible, present)),
            listener: OnceLock::new(),
        }
    }

    /// Calls `listener` from now on when the guest does something; a second call changes nothing.
    pub fn listen(&self, listener: impl Fn(Outcome) + Send + Sync + 'static) {
        let _ = self.listener.set(Box::new(listener));
    }

    /// Looks at the CPUs, or changes them.
    pub fn access<R>(&self, access: impl FnOnce(&mut CpuHotplug) -> R) -> R {
        access(&mut lock(&self.state))
    }

    /// For each CPU whether it is there.
    pub fn present(&self) -> Vec<bool> {
        self.access(|state| state.present())
    }
}

/// The ports.
pub struct CpuHotplugPorts(pub Arc<Cpus>);

impl Device for CpuHotplugPorts {
    fn read(&self, offset: u64, data: &mut [u8]) {
        let state = lock(&self.0.state);
        read_dwords(offset, data, |register| state.read(register));
    }

    fn write(&self, offset: u64, data: &[u8]) {
        let mut state = lock(&self.0.state);
        write_dwords(offset, data, |register, written| {
            let outcome = state.write(register, written);
            if let (Some(outcome), Some(listener)) = (outcome, self.0.listener.get()) {
                listener(outcome);
            }
        });
    }
}
