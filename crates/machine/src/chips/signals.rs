//! Ports by which a guest tells its host something: reset, panic, the debug exit.

use std::sync::atomic::{AtomicU8, Ordering};
use std::sync::{Arc, Mutex};

use ostler_bus::{Device, InterruptLine};

use crate::interrupts::{Input, Router};
use crate::registers::{fill, lock, number};
use crate::{MachineEvent, MachineEvents};

/// Reset control (port 0xcf9, ICH9 13.7.5): a reset when bit 2 is written as one.
pub struct ResetControl {
    events: Arc<dyn MachineEvents>,
    value: AtomicU8,
}

/// What the FADT tells a guest to write there: a full reset.
pub const RESET_VALUE: u8 = 0x0f;
const RESET_CPU: u8 = 0x04;
const RESET_STORED: u8 = 0x0a;

impl ResetControl {
    /// The register in its reset state.
    pub fn new(events: Arc<dyn MachineEvents>) -> Self {
        Self {
            events,
            value: AtomicU8::new(0),
        }
    }
}

impl Device for ResetControl {
    fn read(&self, _: u64, data: &mut [u8]) {
        data.fill(self.value.load(Ordering::Relaxed));
    }

    fn write(&self, _: u64, data: &[u8]) {
        let Some(&value) = data.first() else { return };
        self.value.store(value & RESET_STORED, Ordering::Relaxed);
        if value & RESET_CPU != 0 {
            self.events.notify(MachineEvent::Reset);
        }
    }
}

/// Port 0x92: the fast reset. A20 is always on, as on every machine of this age.
pub struct FastReset(pub Arc<dyn MachineEvents>);

impl Device for FastReset {
    fn read(&self, _: u64, data: &mut [u8]) {
        data.fill(0x02);
    }

    fn write(&self, _: u64, data: &[u8]) {
        if data.first().is_some_and(|value| value & 1 != 0) {
            self.0.notify(MachineEvent::Reset);
        }
    }
}

/// The pvpanic device (QEMU's docs/specs/pvpanic): one port.
pub struct PvPanic(pub Arc<dyn MachineEvents>);

const PANICKED: u8 = 1;
const CRASH_LOADED: u8 = 2;

impl Device for PvPanic {
    fn read(&self, _: u64, data: &mut [u8]) {
        data.fill(PANICKED | CRASH_LOADED);
    }

    fn write(&self, _: u64, data: &[u8]) {
        match data.first() {
            Some(value) if value & PANICKED != 0 => self.0.notify(MachineEvent::Panic),
            Some(value) if value & CRASH_LOADED != 0 => self.0.notify(MachineEvent::CrashKernel),
            _ => {}
        }
    }
}

/// The debug-exit device of QEMU's ISA bus.
pub struct DebugExit(pub Arc<dyn MachineEvents>);

impl Device for DebugExit {
    fn read(&self, _: u64, data: &mut [u8]) {
        data.fill(0);
    }

    fn write(&self, _: u64, data: &[u8]) {
        self.0.notify(MachineEvent::DebugExit(number(data) as u32));
    }
}

/// The test device's scratch register (ports 0xe0 and 0xe8): any width, any byte of it.
#[derive(Default)]
pub struct TestScratch(Mutex<u32>);

impl Device for TestScratch {
    fn read(&self, offset: u64, data: &mut [u8]) {
        let value = *lock(&self.0);
        fill(data, u64::from(value) >> (8 * (offset & 3)));
    }

    fn write(&self, offset: u64, data: &[u8]) {
        let shift = 8 * (offset & 3);
        let mask = ((1u64 << (8 * data.len().min(4))) - 1) << shift;
        let mut value = lock(&self.0);
        *value = (u64::from(*value) & !mask | number(data) << shift & mask) as u32;
    }
}

/// The test device's interrupt lines: a write to port 0x2000 + n sets IOAPIC input n.
pub struct TestLines(Vec<Arc<dyn InterruptLine>>);

impl TestLines {
    /// Lines to all IOAPIC inputs.
    pub const COUNT: u8 = 24;

    /// Connects the lines.
    pub fn new(router: &Arc<Router>) -> Self {
        Self((0..Self::COUNT).map(|gsi| router.line(Input::Gsi(gsi))).collect())
    }
}

impl Device for TestLines {
    fn read(&self, _: u64, data: &mut [u8]) {
        data.fill(0xff);
    }

    fn write(&self, offset: u64, data: &[u8]) {
        if let Some(line) = usize::try_from(offset).ok().and_then(|index| self.0.get(index)) {
            line.set(number(data) != 0);
        }
    }
}

/// The test device's memory: 64 KiB that every access leaves guest mode for.
pub struct TestMemory(Mutex<Vec<u8>>);

impl TestMemory {
    /// Its size.
    pub const SIZE: u64 = 0x1_0000;
}

impl Default for TestMemory {
    fn default() -> Self {
        Self(Mutex::new(vec![0; Self::SIZE as usize]))
    }
}

impl Device for TestMemory {
    fn read(&self, offset: u64, data: &mut [u8]) {
        let memory = lock(&self.0);
        for (at, byte) in (offset as usize..).zip(data) {
            *byte = memory.get(at).copied().unwrap_or(0xff);
        }
    }

    fn write(&self, offset: u64, data: &[u8]) {
        let mut memory = lock(&self.0);
        for (at, value) in (offset as usize..).zip(data) {
            if let Some(byte) = memory.get_mut(at) {
                *byte = *value;
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[derive(Default)]
    struct Heard(Mutex<Vec<MachineEvent>>);

    impl MachineEvents for Heard {
        fn notify(&self, event: MachineEvent) {
            lock(&self.0).push(event);
        }
    }

    #[test]
    fn each_port_tells_its_event() {
        let heard = Arc::new(Heard::default());
        ResetControl::new(heard.clone()).write(0, &[0x02]);
        ResetControl::new(heard.clone()).write(0, &[0x06]);
        FastReset(heard.clone()).write(0, &[0x02]);
        FastReset(heard.clone()).write(0, &[0x03]);
        PvPanic(heard.clone()).write(0, &[1]);
        PvPanic(heard.clone()).write(0, &[2]);
        DebugExit(heard.clone()).write(0, &[0x10, 0x20, 0, 0]);
        assert_eq!(
            *lock(&heard.0),
            [
                MachineEvent::Reset,
                MachineEvent::Reset,
                MachineEvent::Panic,
                MachineEvent::CrashKernel,
                MachineEvent::DebugExit(0x2010)
            ]
        );
    }

    #[test]
    fn scratch_and_memory_take_any_width() {
        let scratch = TestScratch::default();
        scratch.write(0, &[1, 2, 3, 4]);
        scratch.write(1, &[9]);
        let mut data = [0; 4];
        scratch.read(0, &mut data);
        assert_eq!(data, [1, 9, 3, 4]);
        scratch.read(2, &mut data);
        assert_eq!(data, [3, 4, 0, 0]);
        let memory = TestMemory::default();
        memory.write(0xfffe, &[1, 2, 3, 4]);
        memory.read(0xfffe, &mut data);
        assert_eq!(data, [1, 2, 0xff, 0xff]);
    }
}
