//! MSI-X: the vector table and pending bits as registers, masking, delivery (PCI 3.0, 6.8.2).

use std::io;
use std::sync::{Arc, Mutex, MutexGuard};

use ostler_bus::{Device, Msi, MsiSink};
use vmm_sys_util::eventfd::EventFd;

use crate::config::{ConfigBuilder, ConfigSpace};
use crate::regs;

const ENTRY_SIZE: u64 = 16;
const CONTROL_ENABLE: u16 = 1 << 15;
const CONTROL_MASK_ALL: u16 = 1 << 14;

/// One entry of the table, as the guest writes it.
#[derive(Debug, Clone, Copy)]
struct Entry {
    msi: Msi,
    control: u32,
}

impl Entry {
    fn masked(&self) -> bool {
        self.control & 1 != 0
    }

    fn to_bytes(self) -> [u8; 16] {
        let mut bytes = [0; 16];
        bytes[..8].copy_from_slice(&self.msi.address.to_le_bytes());
        bytes[8..12].copy_from_slice(&self.msi.data.to_le_bytes());
        bytes[12..].copy_from_slice(&self.control.to_le_bytes());
        bytes
    }

    fn patch(&mut self, offset: usize, value: u8) {
        let mut bytes = self.to_bytes();
        bytes[offset] = value;
        let [a0, a1, a2, a3, a4, a5, a6, a7, d0, d1, d2, d3, c0, ..] = bytes;
        self.msi.address = u64::from_le_bytes([a0, a1, a2, a3, a4, a5, a6, a7]) & !3;
        self.msi.data = u32::from_le_bytes([d0, d1, d2, d3]);
        self.control = u32::from(c0) & 1;
    }
}

struct Vector {
    entry: Entry,
    pending: bool,
    /// An event that delivers this vector without us (irqfd).
    event: Option<EventFd>,
}

struct Table {
    vectors: Vec<Vector>,
    enabled: bool,
    mask_all: bool,
}

/// The MSI-X structures of one function: a [`Device`] with the table at offset 0 and the pending bits behind it.
///
/// The lock is held while a message goes out, so that a message never leaves after its vector was masked. Lock order:
/// this table, then the accelerator's sink.
pub struct Msix {
    table: Mutex<Table>,
    sink: Arc<dyn MsiSink>,
    /// Offset of the capability, once added.
    capability: u16,
}

impl Msix {
    /// Adds the capability to `config`, with table and pending bits in BAR `bar`, and makes the structures.
    /// The BAR itself, of [`Msix::region_size`] bytes, is declared by the caller.
    ///
    /// # Panics
    /// If `vectors` is 0 or above 2048.
    pub fn new(config: &mut ConfigBuilder, bar: u8, vectors: u16, sink: Arc<dyn MsiSink>) -> Self {
        assert!((1..=2048).contains(&vectors), "MSI-X has 1 to 2048 vectors");
        let mut body = [0; 10];
        body[..2].copy_from_slice(&(vectors - 1).to_le_bytes());
        body[2..6].copy_from_slice(&u32::from(bar).to_le_bytes());
        body[6..].copy_from_slice(&(Self::pending_offset(vectors) as u32 | u32::from(bar)).to_le_bytes());
        let capability = config.capability(regs::CAP_MSIX, &body, &[0, 0xc0]);
        let empty = || Vector {
            entry: Entry {
                msi: Msi::default(),
                control: 1,
            },
            pending: false,
            event: None,
        };
        let vector_list = std::iter::repeat_with(empty).take(usize::from(vectors)).collect();
        let table = Table {
            vectors: vector_list,
            enabled: false,
            mask_all: false,
        };
        Self {
            table: Mutex::new(table),
            sink,
            capability,
        }
    }

    fn pending_offset(vectors: u16) -> u64 {
        (u64::from(vectors) * ENTRY_SIZE).next_multiple_of(2048)
    }

    /// Bytes of the BAR that holds `vectors` vectors.
    pub fn region_size(vectors: u16) -> u64 {
        (Self::pending_offset(vectors) + u64::from(vectors).div_ceil(64) * 8)
            .next_power_of_two()
            .max(4096)
    }

    /// True while the guest has MSI-X on (INTx is silent then).
    pub fn enabled(&self) -> bool {
        self.lock().enabled
    }

    /// To be called after each guest write to the configuration space: takes over the control register.
    pub fn config_written(&self, config: &ConfigSpace) {
        let control = config.u16(self.capability + 2);
        let mut table = self.lock();
        let (enabled, mask_all) = (control & CONTROL_ENABLE != 0, control & CONTROL_MASK_ALL != 0);
        if (enabled, mask_all) != (table.enabled, table.mask_all) {
            table.enabled = enabled;
            table.mask_all = mask_all;
            for vector in 0..table.vectors.len() {
                self.settle(&mut table, vector);
            }
        }
    }

    /// Sends `vector`'s message, or notes it as pending while it is masked. Vectors that do not exist (0xffff is
    /// virtio's "none") are dropped, and so is everything while MSI-X is off.
    pub fn trigger(&self, vector: u16) {
        let mut table = self.lock();
        match table.message(vector.into()) {
            Some(msi) => self.sink.signal(msi),
            None if table.enabled => {
                if let Some(vector) = table.vectors.get_mut(usize::from(vector)) {
                    vector.pending = true;
                }
            }
            None => {}
        }
    }

    /// Lets each write to `event` deliver `vector`, as long as it is not masked. `None` disconnects.
    ///
    /// # Errors
    /// `Unsupported` if the accelerator has no such path; the caller then waits on the event and calls
    /// [`Msix::trigger`]. `InvalidInput` if there is no such vector.
    pub fn connect(&self, vector: u16, event: Option<&EventFd>) -> io::Result<()> {
        let mut table = self.lock();
        let message = table.message(vector.into());
        let slot = table
            .vectors
            .get_mut(usize::from(vector))
            .ok_or(io::ErrorKind::InvalidInput)?;
        if let Some(old) = slot.event.take() {
            self.sink.connect(&old, None)?;
        }
        if let Some(event) = event {
            let event = event.try_clone()?;
            self.sink.connect(&event, message)?;
            slot.event = Some(event);
        }
        Ok(())
    }

    /// Everything masked, off, nothing pending; connected events are let go.
    pub fn reset(&self) {
        let mut table = self.lock();
        table.enabled = false;
        table.mask_all = false;
        for vector in &mut table.vectors {
            vector.entry = Entry {
                msi: Msi::default(),
                control: 1,
            };
            vector.pending = false;
            if let Some(event) = vector.event.take()
                && let Err(error) = self.sink.connect(&event, None)
            {
                tracing::warn!("an interrupt event could not be disconnected: {error}");
            }
        }
    }

    fn lock(&self) -> MutexGuard<'_, Table> {
        self.table.lock().unwrap_or_else(|poisoned| poisoned.into_inner())
    }

    /// After a change to `index` or the control register: sends what was pending, and reconnects its event.
    fn settle(&self, table: &mut Table, index: usize) {
        let message = table.message(index);
        let Some(vector) = table.vectors.get_mut(index) else {
            return;
        };
        if let Some(event) = &vector.event
            && let Err(error) = self.sink.connect(event, message)
        {
            tracing::warn!("an interrupt event could not be connected again: {error}");
        }
        if let Some(msi) = message
            && std::mem::take(&mut vector.pending)
        {
            self.sink.signal(msi);
        }
    }
}

impl Table {
    /// The message of a vector that may be sent now.
    fn message(&self, index: usize) -> Option<Msi> {
        let vector = self.vectors.get(index)?;
        (self.enabled && !self.mask_all && !vector.entry.masked()).then_some(vector.entry.msi)
    }

    fn byte(&self, offset: u64) -> u8 {
        let table_end = self.vectors.len() as u64 * ENTRY_SIZE;
        if offset < table_end {
            let entry = self.vectors[(offset / ENTRY_SIZE) as usize].entry;
            return entry.to_bytes()[(offset % ENTRY_SIZE) as usize];
        }
        let pending_start = Msix::pending_offset(self.vectors.len() as u16);
        let Some(pending_byte) = offset.checked_sub(pending_start) else {
            return 0;
        };
        let first = (pending_byte as usize).saturating_mul(8);
        (0..8)
            .filter(|bit| {
                self.vectors
                    .get(first.saturating_add(*bit))
                    .is_some_and(|vector| vector.pending)
            })
            .fold(0, |byte, bit| byte | 1 << bit)
    }
}

impl Device for Msix {
    fn read(&self, offset: u64, data: &mut [u8]) {
        let table = self.lock();
        for (i, byte) in data.iter_mut().enumerate() {
            *byte = table.byte(offset.saturating_add(i as u64));
        }
    }

    fn write(&self, offset: u64, data: &[u8]) {
        let mut table = self.lock();
        let end = table.vectors.len() as u64 * ENTRY_SIZE;
        let mut touched = None;
        for (i, &value) in data.iter().enumerate() {
            let at = offset.saturating_add(i as u64);
            if at >= end {
                break;
            }
            let index = (at / ENTRY_SIZE) as usize;
            if touched.is_some_and(|before| before != index) {
                self.settle(&mut table, index - 1);
            }
            touched = Some(index);
            table.vectors[index]
                .entry
                .patch((at % ENTRY_SIZE) as usize, value);
        }
        if let Some(index) = touched {
            self.settle(&mut table, index);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::bar::BarSpec;
    use crate::config::Identity;
    use proptest::prelude::*;

    #[derive(Default)]
    struct Sink {
        sent: Mutex<Vec<Msi>>,
        connected: Mutex<Vec<Option<Msi>>>,
    }

    impl MsiSink for Sink {
        fn signal(&self, msi: Msi) {
            self.sent.lock().unwrap().push(msi);
        }
        fn connect(&self, _: &EventFd, msi: Option<Msi>) -> io::Result<()> {
            self.connected.lock().unwrap().push(msi);
            Ok(())
        }
    }

    fn setup(vectors: u16) -> (Arc<Sink>, ConfigSpace, Msix) {
        let sink = Arc::new(Sink::default());
        let mut builder = ConfigSpace::type0(Identity::default());
        builder.bar(1, BarSpec::memory32(Msix::region_size(vectors)));
        let msix = Msix::new(&mut builder, 1, vectors, sink.clone());
        (sink, builder.build(), msix)
    }

    fn control(config: &ConfigSpace, msix: &Msix, value: u16) {
        config.write(msix.capability + 2, &value.to_le_bytes());
        msix.config_written(config);
    }

    #[test]
    fn a_vector_that_fires_while_masked_is_sent_at_unmask() {
        let (sink, config, msix) = setup(3);
        control(&config, &msix, CONTROL_ENABLE);
        msix.write(16, &0xfee0_1000u64.to_le_bytes());
        msix.write(24, &0x41u32.to_le_bytes());
        msix.trigger(1);
        let mut pending = [0; 8];
        msix.read(2048, &mut pending);
        assert_eq!(pending[0], 0b010);
        assert!(sink.sent.lock().unwrap().is_empty());
        msix.write(28, &0u32.to_le_bytes());
        assert_eq!(
            *sink.sent.lock().unwrap(),
            [Msi {
                address: 0xfee0_1000,
                data: 0x41
            }]
        );
        msix.read(2048, &mut pending);
        assert_eq!(pending[0], 0);
        control(&config, &msix, CONTROL_ENABLE | CONTROL_MASK_ALL);
        msix.trigger(1);
        msix.trigger(1);
        assert_eq!(sink.sent.lock().unwrap().len(), 1);
        control(&config, &msix, CONTROL_ENABLE);
        assert_eq!(sink.sent.lock().unwrap().len(), 2);
        control(&config, &msix, 0);
        msix.trigger(1);
        msix.trigger(0xffff);
        assert_eq!(sink.sent.lock().unwrap().len(), 2);
    }

    #[test]
    fn a_connected_event_follows_the_mask() {
        let (sink, config, msix) = setup(1);
        let event = EventFd::new(0).unwrap();
        msix.connect(0, Some(&event)).unwrap();
        assert!(msix.connect(1, Some(&event)).is_err());
        control(&config, &msix, CONTROL_ENABLE);
        msix.write(0, &0xfee0_0000u64.to_le_bytes());
        msix.write(12, &[0]);
        let last = *sink.connected.lock().unwrap().last().unwrap();
        assert_eq!(
            last,
            Some(Msi {
                address: 0xfee0_0000,
                data: 0
            })
        );
        msix.reset();
        assert_eq!(*sink.connected.lock().unwrap().last().unwrap(), None);
    }

    #[test]
    fn the_capability_describes_the_region() {
        let (_, config, msix) = setup(2048);
        assert_eq!(config.u16(msix.capability + 2), 2047);
        assert_eq!(config.u32(msix.capability + 4), 1);
        assert_eq!(config.u32(msix.capability + 8), 0x8001);
        assert_eq!(Msix::region_size(2048), 0x10000);
        assert_eq!(Msix::region_size(3), 4096);
    }

    proptest! {
        #[test]
        fn any_access_is_harmless(ops in proptest::collection::vec((0u64..0x1100, 1usize..9, any::<u64>()), 0..100)) {
            let (sink, config, msix) = setup(5);
            control(&config, &msix, CONTROL_ENABLE);
            for (offset, width, value) in ops {
                msix.write(offset, &value.to_le_bytes()[..width]);
                let mut data = [0; 8];
                msix.read(offset, &mut data[..width]);
                msix.trigger(offset as u16 % 8);
            }
            msix.read(u64::MAX - 3, &mut [0; 8]);
            for msi in sink.sent.lock().unwrap().iter() {
                prop_assert_eq!(msi.address & 3, 0);
            }
        }

        #[test]
        fn the_table_reads_back(index in 0u64..5, address in any::<u64>(), data in any::<u32>()) {
            let (_, _, msix) = setup(5);
            msix.write(index * 16, &address.to_le_bytes());
            msix.write(index * 16 + 8, &data.to_le_bytes());
            let mut read = [0; 8];
            msix.read(index * 16, &mut read);
            prop_assert_eq!(u64::from_le_bytes(read), address & !3);
            msix.read(index * 16 + 8, &mut read);
            prop_assert_eq!(u64::from_le_bytes(read), u64::from(data) | 1 << 32);
        }
    }
}
