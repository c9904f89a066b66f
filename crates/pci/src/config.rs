//! Configuration space as bytes with write masks (PCI 3.0, 6.1).

use std::sync::{Mutex, MutexGuard};

use crate::bar::BarSpec;
use crate::function::Pin;
use crate::regs;

/// The ids by which a driver finds its device.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Identity {
    /// Vendor id.
    pub vendor: u16,
    /// Device id.
    pub device: u16,
    /// Revision.
    pub revision: u8,
    /// Class, subclass and programming interface, in 24 bits.
    pub class: u32,
    /// Subsystem vendor id.
    pub subsystem_vendor: u16,
    /// Subsystem id.
    pub subsystem: u16,
}

/// The mutable part.
#[derive(Debug, Clone)]
struct Bytes {
    /// What reads return.
    data: Vec<u8>,
    /// Bits that software can change.
    writable: Vec<u8>,
    /// Bits that software clears by writing ones.
    write_one_clears: Vec<u8>,
}

/// The configuration space of one function.
///
/// Accesses of any width and alignment are taken byte by byte; each is atomic against the others.
#[derive(Debug)]
pub struct ConfigSpace {
    bytes: Mutex<Bytes>,
    /// What `reset` goes back to.
    initial: Vec<u8>,
    bars: [Option<BarSpec>; 6],
    bridge: bool,
}

impl ConfigSpace {
    /// Starts the space of an ordinary device (type 0 header).
    pub fn type0(identity: Identity) -> ConfigBuilder {
        let mut builder = ConfigBuilder::new(identity, false);
        builder.put_u16(regs::SUBSYSTEM_VENDOR_ID, identity.subsystem_vendor, 0);
        builder.put_u16(regs::SUBSYSTEM_VENDOR_ID + 2, identity.subsystem, 0);
        builder
    }

    /// Starts the space of a PCI-to-PCI bridge (type 1 header). All its windows are closed.
    pub fn type1(identity: Identity) -> ConfigBuilder {
        let mut builder = ConfigBuilder::new(identity, true);
        builder.put_u8(regs::HEADER_TYPE, 1, 0);
        for offset in [regs::PRIMARY_BUS, regs::SECONDARY_BUS, regs::SUBORDINATE_BUS] {
            builder.put_u8(offset, 0, 0xff);
        }
        // 32-bit I/O decode, 64-bit prefetchable decode; base above limit closes a window.
        builder.put_u8(regs::IO_BASE, 0xf1, 0xf0);
        builder.put_u8(regs::IO_BASE + 1, 0x01, 0xf0);
        builder.put_u16(regs::MEMORY_BASE, 0xfff0, 0xfff0);
        builder.put_u16(regs::MEMORY_BASE + 2, 0, 0xfff0);
        builder.put_u16(regs::PREFETCH_BASE, 0xfff1, 0xfff0);
        builder.put_u16(regs::PREFETCH_BASE + 2, 0x0001, 0xfff0);
        builder.put_u32(regs::PREFETCH_BASE_UPPER, 0, u32::MAX);
        builder.put_u32(regs::PREFETCH_BASE_UPPER + 4, 0, u32::MAX);
        builder.put_u16(regs::IO_BASE_UPPER, 0, u16::MAX);
        builder.put_u16(regs::IO_BASE_UPPER + 2, 0, u16::MAX);
        builder.put_u16(regs::BRIDGE_CONTROL, 0, 0x005f);
        builder.put_w1c_u16(regs::SECONDARY_STATUS, regs::STATUS_W1C);
        builder
    }

    fn lock(&self) -> MutexGuard<'_, Bytes> {
        self.bytes.lock().unwrap_or_else(|poisoned| poisoned.into_inner())
    }

    /// What software reads at `offset`. Bytes past the end read as ones.
    pub fn read(&self, offset: u16, data: &mut [u8]) {
        let bytes = self.lock();
        for (i, byte) in data.iter_mut().enumerate() {
            *byte = bytes.data.get(usize::from(offset) + i).copied().unwrap_or(0xff);
        }
    }

    /// A write by software: read-only bits stay, write-one-to-clear bits clear.
    pub fn write(&self, offset: u16, data: &[u8]) {
        let bytes = &mut *self.lock();
        for (i, &value) in data.iter().enumerate() {
            let at = usize::from(offset) + i;
            let Some(byte) = bytes.data.get_mut(at) else {
                return;
            };
            let mask = bytes.writable[at];
            *byte = (*byte & !mask) | (value & mask);
            *byte &= !(value & bytes.write_one_clears[at]);
        }
    }

    /// The byte at `offset`.
    pub fn u8(&self, offset: u16) -> u8 {
        let mut data = [0; 1];
        self.read(offset, &mut data);
        data[0]
    }

    /// The 16-bit register at `offset`.
    pub fn u16(&self, offset: u16) -> u16 {
        let mut data = [0; 2];
        self.read(offset, &mut data);
        u16::from_le_bytes(data)
    }

    /// The 32-bit register at `offset`.
    pub fn u32(&self, offset: u16) -> u32 {
        let mut data = [0; 4];
        self.read(offset, &mut data);
        u32::from_le_bytes(data)
    }

    /// Sets bytes as the device itself, whatever the masks say.
    pub fn set(&self, offset: u16, data: &[u8]) {
        let mut bytes = self.lock();
        for (i, &value) in data.iter().enumerate() {
            if let Some(byte) = bytes.data.get_mut(usize::from(offset) + i) {
                *byte = value;
            }
        }
    }

    /// Clears and then sets bits of a 16-bit register as the device itself, in one step.
    pub fn update_u16(&self, offset: u16, clear: u16, set: u16) {
        let mut bytes = self.lock();
        let at = usize::from(offset);
        if let Some(register) = bytes.data.get_mut(at..at + 2) {
            let value = (u16::from_le_bytes([register[0], register[1]]) & !clear) | set;
            register.copy_from_slice(&value.to_le_bytes());
        }
    }

    /// Back to the state after power-on.
    pub fn reset(&self) {
        let mut bytes = self.lock();
        let several = bytes.data[usize::from(regs::HEADER_TYPE)] & regs::HEADER_MULTIFUNCTION;
        bytes.data.copy_from_slice(&self.initial);
        bytes.data[usize::from(regs::HEADER_TYPE)] |= several;
    }

    /// Marks the device as one of several functions from now on, over resets too: where it is placed decides, not what it is.
    pub(crate) fn mark_multifunction(&self) {
        self.lock().data[usize::from(regs::HEADER_TYPE)] |= regs::HEADER_MULTIFUNCTION;
    }

    /// True for a type 1 header.
    pub fn is_bridge(&self) -> bool {
        self.bridge
    }

    /// The function's BARs.
    pub fn bars(&self) -> &[Option<BarSpec>; 6] {
        &self.bars
    }

    /// The address in BAR `index`, whether or not it is decoded; `None` if there is no such BAR.
    pub fn bar_address(&self, index: usize) -> Option<u64> {
        let spec = self.bars.get(index).copied().flatten()?;
        let register = regs::BAR0 + 4 * index as u16;
        let low = u64::from(self.u32(register));
        let high = if spec.is_64bit() {
            u64::from(self.u32(register + 4))
        } else {
            0
        };
        Some((low | high << 32) & spec.writable_mask())
    }

    /// Where BAR `index` is decoded now: its address if the command register enables its space.
    pub fn decoded_bar(&self, index: usize) -> Option<u64> {
        let spec = self.bars.get(index).copied().flatten()?;
        let needed = match spec.space() {
            ostler_bus::Space::Port => regs::COMMAND_IO,
            ostler_bus::Space::Memory => regs::COMMAND_MEMORY,
        };
        if self.u16(regs::COMMAND) & needed == 0 {
            return None;
        }
        self.bar_address(index)
    }

    /// Writes an address into BAR `index`, as firmware would.
    pub fn assign_bar(&self, index: usize, address: u64) {
        if let Some(spec) = self.bars.get(index).copied().flatten() {
            let register = regs::BAR0 + 4 * index as u16;
            self.write(register, &(address as u32).to_le_bytes());
            if spec.is_64bit() {
                self.write(register + 4, &((address >> 32) as u32).to_le_bytes());
            }
        }
    }
}

/// Builds a [`ConfigSpace`].
///
/// # Panics
/// The methods panic on layouts that cannot be: they are fixed by the device's author, never by a guest.
#[derive(Debug)]
pub struct ConfigBuilder {
    bytes: Bytes,
    bars: [Option<BarSpec>; 6],
    bridge: bool,
    /// Where the last capability's "next" byte is.
    link: usize,
    /// First free byte for a capability.
    free: usize,
    /// The last extended capability, and the first free byte for one.
    extended: Option<usize>,
    extended_free: usize,
}

impl ConfigBuilder {
    fn new(identity: Identity, bridge: bool) -> Self {
        let zeroes = vec![0; regs::CONFIG_SIZE];
        let mut builder = Self {
            bytes: Bytes {
                data: zeroes.clone(),
                writable: zeroes.clone(),
                write_one_clears: zeroes,
            },
            bars: [None; 6],
            bridge,
            link: usize::from(regs::CAPABILITIES),
            free: 0x40,
            extended: None,
            extended_free: usize::from(regs::EXTENDED),
        };
        builder.put_u16(regs::VENDOR_ID, identity.vendor, 0);
        builder.put_u16(regs::DEVICE_ID, identity.device, 0);
        builder.put_u32(
            regs::REVISION,
            identity.class << 8 | u32::from(identity.revision),
            0,
        );
        builder.put_u16(regs::COMMAND, 0, regs::COMMAND_WRITABLE);
        builder.put_w1c_u16(regs::STATUS, regs::STATUS_W1C);
        builder.put_u8(0x0c, 0, 0xff); // cache line size: scratch
        builder.put_u8(regs::INTERRUPT_LINE, 0, 0xff);
        builder
    }

    /// Sets bytes and which of their bits software can write.
    pub fn put(&mut self, offset: u16, data: &[u8], writable: &[u8]) -> &mut Self {
        let at = usize::from(offset);
        self.bytes.data[at..at + data.len()].copy_from_slice(data);
        self.bytes.writable[at..at + writable.len()].copy_from_slice(writable);
        self
    }

    /// An 8-bit register.
    pub fn put_u8(&mut self, offset: u16, value: u8, writable: u8) -> &mut Self {
        self.put(offset, &[value], &[writable])
    }

    /// A 16-bit register.
    pub fn put_u16(&mut self, offset: u16, value: u16, writable: u16) -> &mut Self {
        self.put(offset, &value.to_le_bytes(), &writable.to_le_bytes())
    }

    /// A 32-bit register.
    pub fn put_u32(&mut self, offset: u16, value: u32, writable: u32) -> &mut Self {
        self.put(offset, &value.to_le_bytes(), &writable.to_le_bytes())
    }

    /// Bits of a 16-bit register that software clears by writing ones.
    pub fn put_w1c_u16(&mut self, offset: u16, bits: u16) -> &mut Self {
        let at = usize::from(offset);
        self.bytes.write_one_clears[at..at + 2].copy_from_slice(&bits.to_le_bytes());
        self
    }

    /// Declares BAR `index`.
    pub fn bar(&mut self, index: usize, spec: BarSpec) -> &mut Self {
        spec.check();
        let registers = if self.bridge { 2 } else { 6 };
        assert!(
            index + usize::from(spec.is_64bit()) < registers,
            "BAR {index} does not fit"
        );
        let register = regs::BAR0 + 4 * index as u16;
        let mask = spec.writable_mask();
        self.put_u32(register, spec.flags(), mask as u32);
        if spec.is_64bit() {
            self.put_u32(register + 4, 0, (mask >> 32) as u32);
        }
        self.bars[index] = Some(spec);
        self
    }

    /// Says which INTx pin the function uses.
    pub fn interrupt_pin(&mut self, pin: Pin) -> &mut Self {
        self.put_u8(regs::INTERRUPT_PIN, pin.number(), 0)
    }

    /// Marks the device as one of several functions.
    pub fn multifunction(&mut self) -> &mut Self {
        self.bytes.data[usize::from(regs::HEADER_TYPE)] |= regs::HEADER_MULTIFUNCTION;
        self
    }

    /// Adds a capability: `body` is what follows id and next pointer. Returns the offset of its id.
    pub fn capability(&mut self, id: u8, body: &[u8], writable: &[u8]) -> u16 {
        let at = self.free;
        let end = at + 2 + body.len();
        assert!(
            end <= usize::from(regs::EXTENDED),
            "no room for capability {id:#x}"
        );
        self.bytes.data[self.link] = at as u8;
        self.link = at + 1;
        self.free = end.next_multiple_of(4);
        self.put_u8(at as u16, id, 0);
        self.put(at as u16 + 2, body, writable);
        self.bytes.data[usize::from(regs::STATUS)] |= regs::STATUS_CAPABILITIES as u8;
        at as u16
    }

    /// Adds an extended capability: `body` is what follows the header. Returns the offset of the header.
    pub fn extended_capability(&mut self, id: u16, version: u8, body: &[u8], writable: &[u8]) -> u16 {
        let at = self.extended_free;
        let end = at + 4 + body.len();
        assert!(
            end <= regs::CONFIG_SIZE,
            "no room for extended capability {id:#x}"
        );
        if let Some(last) = self.extended {
            let next = (at as u16) << 4;
            self.bytes.data[last + 2] |= next as u8;
            self.bytes.data[last + 3] = (next >> 8) as u8;
        }
        self.extended = Some(at);
        self.extended_free = end.next_multiple_of(4);
        self.put_u32(at as u16, u32::from(id) | u32::from(version & 0xf) << 16, 0);
        self.put(at as u16 + 4, body, writable);
        at as u16
    }

    /// The finished space.
    pub fn build(&self) -> ConfigSpace {
        ConfigSpace {
            initial: self.bytes.data.clone(),
            bytes: Mutex::new(self.bytes.clone()),
            bars: self.bars,
            bridge: self.bridge,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sample() -> ConfigSpace {
        let mut builder = ConfigSpace::type0(Identity {
            vendor: 0x1af4,
            device: 0x1042,
            ..Default::default()
        });
        builder
            .bar(0, BarSpec::memory32(0x1000))
            .bar(2, BarSpec::memory64(0x20_0000_0000))
            .bar(4, BarSpec::io(32));
        builder.capability(regs::CAP_VENDOR, &[1, 2, 3], &[0, 0xff, 0]);
        builder.capability(regs::CAP_MSIX, &[0; 10], &[0; 10]);
        builder.extended_capability(3, 1, &[9; 8], &[0; 8]);
        builder.extended_capability(4, 1, &[8; 4], &[0; 4]);
        builder.build()
    }

    #[test]
    fn sizing_a_bar_shows_its_size_and_kind() {
        let config = sample();
        for register in [0x10, 0x18, 0x1c, 0x20, 0x14] {
            config.write(register, &[0xff; 4]);
        }
        assert_eq!(config.u32(0x10), 0xffff_f000);
        assert_eq!(config.u32(0x14), 0, "no BAR 1");
        assert_eq!(config.u32(0x18), 0x0000_000c);
        assert_eq!(config.u32(0x1c), 0xffff_ffe0);
        assert_eq!(config.u32(0x20), 0xffff_ffe1);
    }

    #[test]
    fn a_bar_decodes_only_when_the_command_register_says_so() {
        let config = sample();
        config.assign_bar(0, 0xe000_1000);
        config.assign_bar(4, 0xc040);
        assert_eq!(config.decoded_bar(0), None);
        config.write(regs::COMMAND, &regs::COMMAND_MEMORY.to_le_bytes());
        assert_eq!(config.decoded_bar(0), Some(0xe000_1000));
        assert_eq!(config.decoded_bar(4), None);
        assert_eq!(config.decoded_bar(1), None);
        assert_eq!(config.bar_address(4), Some(0xc040));
        config.reset();
        assert_eq!(config.bar_address(0), Some(0));
    }

    #[test]
    fn capabilities_are_linked() {
        let config = sample();
        assert_ne!(config.u16(regs::STATUS) & regs::STATUS_CAPABILITIES, 0);
        let first = u16::from(config.u8(regs::CAPABILITIES));
        assert_eq!(config.u8(first), regs::CAP_VENDOR);
        let second = u16::from(config.u8(first + 1));
        assert_eq!(config.u8(second), regs::CAP_MSIX);
        assert_eq!(config.u8(second + 1), 0);
        config.write(first + 2, &[0xaa; 3]);
        assert_eq!(
            [config.u8(first + 2), config.u8(first + 3), config.u8(first + 4)],
            [1, 0xaa, 3]
        );
        assert_eq!(config.u32(0x100), 3 | 1 << 16 | 0x10c << 20);
        assert_eq!(config.u32(0x10c), 4 | 1 << 16);
    }

    #[test]
    fn status_bits_clear_by_ones_and_the_end_reads_as_ones() {
        let config = sample();
        config.update_u16(regs::STATUS, 0, 0x8000);
        config.write(regs::STATUS, &[0xff, 0x00]);
        assert_eq!(config.u16(regs::STATUS) & 0x8000, 0x8000);
        config.write(regs::STATUS, &[0xff, 0xff]);
        assert_eq!(config.u16(regs::STATUS), regs::STATUS_CAPABILITIES);
        let mut data = [0; 4];
        config.read(0xffe, &mut data);
        assert_eq!(data, [0, 0, 0xff, 0xff]);
        config.write(0xffe, &data);
        config.write(u16::MAX, &data);
    }

    proptest::proptest! {
        #[test]
        fn read_only_bits_survive_any_writes(
            writes in proptest::collection::vec((0u16..0x1010, proptest::collection::vec(0u8.., 0..9)), 0..64)
        ) {
            let config = sample();
            for (offset, data) in &writes {
                config.write(*offset, data);
            }
            proptest::prop_assert_eq!(config.u32(0), 0x1042_1af4);
            proptest::prop_assert_eq!(config.u32(0x10) & 0xfff, 0);
            proptest::prop_assert_eq!(config.u32(0x18) & 0xf, 0xc);
            proptest::prop_assert_eq!(config.u8(regs::CAPABILITIES), 0x40);
            proptest::prop_assert_eq!(config.u32(0x100), 3 | 1 << 16 | 0x10c << 20);
        }
    }
}
