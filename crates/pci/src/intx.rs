//! A function's INTx pin (PCI 3.0, 2.2.6 and 6.2.4).

use std::sync::{Arc, Mutex, OnceLock};

use ostler_bus::InterruptLine;

use crate::config::ConfigSpace;
use crate::regs;

/// Drives a function's interrupt line from what the device wants and what the command register allows.
#[derive(Default)]
pub struct Intx {
    line: OnceLock<Arc<dyn InterruptLine>>,
    /// What the device wants; held while the line is driven, so that two changes cannot cross.
    wanted: Mutex<bool>,
}

impl Intx {
    /// An unconnected pin.
    pub fn new() -> Self {
        Self::default()
    }

    /// Connects the pin; a second call changes nothing.
    pub fn connect(&self, line: Arc<dyn InterruptLine>) {
        let _ = self.line.set(line);
    }

    /// The device wants attention, or no longer does.
    pub fn set(&self, config: &ConfigSpace, level: bool) {
        let mut wanted = self
            .wanted
            .lock()
            .unwrap_or_else(|poisoned| poisoned.into_inner());
        *wanted = level;
        self.drive(config, level);
    }

    /// The command register may have changed: drives the line anew.
    pub fn config_written(&self, config: &ConfigSpace) {
        let wanted = self
            .wanted
            .lock()
            .unwrap_or_else(|poisoned| poisoned.into_inner());
        self.drive(config, *wanted);
    }

    fn drive(&self, config: &ConfigSpace, level: bool) {
        config.update_u16(
            regs::STATUS,
            regs::STATUS_INTX,
            if level { regs::STATUS_INTX } else { 0 },
        );
        let disabled = config.u16(regs::COMMAND) & regs::COMMAND_INTX_DISABLE != 0;
        if let Some(line) = self.line.get() {
            line.set(level && !disabled);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::Identity;
    use std::sync::atomic::{AtomicBool, Ordering};

    #[derive(Default)]
    struct Wire(AtomicBool);
    impl InterruptLine for Wire {
        fn set(&self, level: bool) {
            self.0.store(level, Ordering::Relaxed);
        }
    }

    #[test]
    fn the_disable_bit_silences_the_line_but_not_the_status() {
        let config = ConfigSpace::type0(Identity::default()).build();
        let wire = Arc::new(Wire::default());
        let intx = Intx::new();
        intx.connect(wire.clone());
        intx.set(&config, true);
        assert!(wire.0.load(Ordering::Relaxed));
        config.write(regs::COMMAND, &regs::COMMAND_INTX_DISABLE.to_le_bytes());
        intx.config_written(&config);
        assert!(!wire.0.load(Ordering::Relaxed));
        assert_ne!(config.u16(regs::STATUS) & regs::STATUS_INTX, 0);
        config.write(regs::COMMAND, &[0, 0]);
        intx.config_written(&config);
        assert!(wire.0.load(Ordering::Relaxed));
        intx.set(&config, false);
        assert!(!wire.0.load(Ordering::Relaxed));
        assert_eq!(config.u16(regs::STATUS) & regs::STATUS_INTX, 0);
    }
}
