//! fw_cfg on the bus: selector and data at ports 0x510 and 0x511, the DMA address (big-endian) at 0x514.

use std::sync::{Arc, Mutex, PoisonError, RwLock, RwLockReadGuard};

use ostler_bus::Device;
use ostler_memory::GuestRam;
use vm_memory::{Bytes, GuestAddress};

use super::fw_cfg::{Content, Cursor, DMA_SIGNATURE, Items, item};
use crate::boot::memory_map::memory_map;
use crate::boot::setup_part;
use crate::layout::{COMMAND_LINE, HIGH_RAM_START};
use crate::registers::{lock, number};
use crate::{BootSource, Error};

/// Ports that it takes.
pub const SIZE: u64 = 12;

const SELECTOR: u64 = 0;
const DATA: u64 = 1;
const DMA: u64 = 4;
const DMA_LOW: u64 = 8;

const CONTROL_ERROR: u32 = 1;
const CONTROL_READ: u32 = 1 << 1;
const CONTROL_SKIP: u32 = 1 << 2;
const CONTROL_SELECT: u32 = 1 << 3;
const CONTROL_WRITE: u32 = 1 << 4;

/// Bytes moved at a time.
const CHUNK: usize = 64 * 1024;
/// How far a command may read past its item's end, where there are only zeroes: a vCPU's thread does the work.
const MAX_PAST_END: u64 = CHUNK as u64;

/// The device. Lock order: the cursor, then the items.
pub struct FwCfg {
    items: RwLock<Items>,
    cursor: Mutex<Cursor>,
    ram: Arc<GuestRam>,
}

impl FwCfg {
    /// The device of a machine that has so many of so many possible CPUs and boots `boot`, or firmware that adds items of its own.
    pub fn new(
        ram: Arc<GuestRam>,
        boot: Option<Arc<BootSource>>,
        (cpus, most): (u32, u32),
    ) -> Result<Self, Error> {
        let mut items = Items::new(boot.clone());
        let mut bytes = |number: u16, bytes: &[u8]| items.add(number, Content::Bytes(bytes.to_vec()));
        bytes(item::UUID, &[0; 16]);
        bytes(item::RAM_SIZE, &ostler_memory::total_size(&ram).to_le_bytes());
        bytes(item::NO_GRAPHICS, &1u16.to_le_bytes());
        bytes(item::CPUS, &(cpus as u16).to_le_bytes());
        bytes(item::MAX_CPUS, &(most as u16).to_le_bytes());
        if let Some(boot) = boot {
            add_boot_items(&mut items, &boot)?;
            items.add_file("etc/e820", e820(&ram));
        }
        Ok(Self {
            items: RwLock::new(items),
            cursor: Mutex::default(),
            ram,
        })
    }

    /// Changes what the guest can read.
    pub fn change<R>(&self, change: impl FnOnce(&mut Items) -> R) -> R {
        change(&mut self.items.write().unwrap_or_else(PoisonError::into_inner))
    }

    /// From now on there are so many CPUs.
    pub fn set_cpus(&self, cpus: u32) {
        self.change(|items| items.add(item::CPUS, Content::Bytes((cpus as u16).to_le_bytes().to_vec())));
    }

    fn items(&self) -> RwLockReadGuard<'_, Items> {
        self.items.read().unwrap_or_else(PoisonError::into_inner)
    }

    /// Back to the reset state.
    pub fn reset(&self) {
        *lock(&self.cursor) = Cursor::default();
    }

    /// Carries out the command at `gpa`; an address outside RAM is dropped. Returns how many bytes were moved.
    fn dma(&self, cursor: &mut Cursor, gpa: u64) -> u64 {
        let mut command = [0; 16];
        if self.ram.read_slice(&mut command, GuestAddress(gpa)).is_err() {
            return 0;
        }
        let word =
            |at: usize| u32::from_be_bytes([command[at], command[at + 1], command[at + 2], command[at + 3]]);
        let (control, length) = (word(0), word(4));
        let address = u64::from(word(8)) << 32 | u64::from(word(12));
        if control & CONTROL_SELECT != 0 {
            cursor.select((control >> 16) as u16);
        }
        let (done, moved) = if control & CONTROL_READ != 0 {
            self.copy(cursor, address, length)
        } else if control & CONTROL_WRITE != 0 {
            self.take(cursor, address, length)
        } else {
            if control & CONTROL_SKIP != 0 {
                cursor.skip(length);
            }
            (true, 0)
        };
        let answer = if done { 0 } else { CONTROL_ERROR };
        // The command was read from there: it is RAM.
        let _ = self.ram.write_slice(&answer.to_be_bytes(), GuestAddress(gpa));
        moved
    }

    /// Writes `length` bytes from `address` to an item. Returns whether it took them, and how many.
    fn take(&self, cursor: &mut Cursor, address: u64, length: u32) -> (bool, u64) {
        let items = self.items();
        // Few items can be written, and those are short.
        if u64::from(length) > cursor.left(&items).min(CHUNK as u64) {
            return (false, 0);
        }
        let mut data = vec![0; length as usize];
        if self.ram.read_slice(&mut data, GuestAddress(address)).is_err() {
            return (false, 0);
        }
        let done = cursor.write(&items, &data);
        (done, if done { length.into() } else { 0 })
    }

    /// Copies `length` bytes to `address`: the item's, then zeroes. Returns whether all of them were, and how many.
    fn copy(&self, cursor: &mut Cursor, address: u64, length: u32) -> (bool, u64) {
        let items = self.items();
        if u64::from(length) > cursor.left(&items) + MAX_PAST_END {
            return (false, 0);
        }
        let mut chunk = vec![0; CHUNK.min(length as usize)];
        let mut done = 0;
        while done < u64::from(length) {
            let here = (u64::from(length) - done).min(CHUNK as u64) as usize;
            let part = &mut chunk[..here];
            cursor.read(&items, part);
            let Some(target) = address.checked_add(done) else {
                return (false, done);
            };
            if self.ram.write_slice(part, GuestAddress(target)).is_err() {
                return (false, done);
            }
            done += here as u64;
        }
        (true, done)
    }
}

impl Device for FwCfg {
    fn read(&self, offset: u64, data: &mut [u8]) {
        match offset {
            DATA => {
                let mut cursor = lock(&self.cursor);
                cursor.read(&self.items(), data);
            }
            DMA..SIZE => {
                let signature = DMA_SIGNATURE.to_be_bytes();
                for (at, byte) in ((offset - DMA) as usize..).zip(data) {
                    *byte = signature.get(at).copied().unwrap_or(0);
                }
            }
            _ => data.fill(0),
        }
    }

    fn write(&self, offset: u64, data: &[u8]) {
        let mut cursor = lock(&self.cursor);
        let big_endian = || (number(data) as u32).swap_bytes();
        match (offset, data.len()) {
            (SELECTOR, 2) => cursor.select(number(data) as u16),
            (DMA, 4) => cursor.dma_high = big_endian(),
            (DMA_LOW, 4) => {
                let gpa = u64::from(std::mem::take(&mut cursor.dma_high)) << 32 | u64::from(big_endian());
                self.dma(&mut cursor, gpa);
            }
            _ => {}
        }
    }
}

/// Kernel, initrd and command line for firmware that boots them itself.
fn add_boot_items(items: &mut Items, boot: &BootSource) -> Result<(), Error> {
    let kernel_len = boot.kernel.len("kernel")?;
    let setup = setup_part(boot)?.min(kernel_len);
    let initrd_len = boot
        .initrd
        .as_ref()
        .map_or(Ok(0), |initrd| initrd.len("initrd"))?;
    let mut line = boot.command_line.clone().into_bytes();
    line.push(0);
    for (number, value) in [
        (item::KERNEL_ADDRESS, HIGH_RAM_START),
        (item::KERNEL_SIZE, kernel_len - setup),
        (item::INITRD_SIZE, initrd_len),
        (item::COMMAND_LINE_ADDRESS, COMMAND_LINE),
        (item::COMMAND_LINE_SIZE, line.len() as u64),
        (item::SETUP_ADDRESS, 0x1_0000),
        (item::SETUP_SIZE, setup),
    ] {
        items.add(number, Content::Bytes((value as u32).to_le_bytes().to_vec()));
    }
    items.add(item::SETUP_DATA, Content::Kernel(0, setup));
    items.add(item::KERNEL_DATA, Content::Kernel(setup, kernel_len - setup));
    items.add(item::INITRD_DATA, Content::Initrd(initrd_len));
    items.add(item::COMMAND_LINE_DATA, Content::Bytes(line));
    Ok(())
}

/// The memory map as QEMU's machines give it to firmware.
fn e820(ram: &GuestRam) -> Vec<u8> {
    let mut bytes = Vec::new();
    for range in memory_map(ram) {
        bytes.extend(range.base.to_le_bytes());
        bytes.extend(range.len.to_le_bytes());
        bytes.extend((range.usage as u32).to_le_bytes());
    }
    bytes
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Blob;
    use proptest::prelude::*;

    fn device() -> FwCfg {
        let ram = ostler_memory::allocate(2 << 20, Default::default()).unwrap();
        let boot = BootSource {
            kernel: Blob::Bytes(vec![0x55; 3000]),
            initrd: Some(Blob::Bytes(vec![0x66; 200_000])),
            command_line: "quiet".into(),
        };
        FwCfg::new(ram, Some(Arc::new(boot)), (3, 3)).unwrap()
    }

    fn command(device: &FwCfg, control: u32, length: u32, address: u64) -> u32 {
        let mut bytes = [control.to_be_bytes(), length.to_be_bytes()].concat();
        bytes.extend(address.to_be_bytes());
        device.ram.write_slice(&bytes, GuestAddress(0x1000)).unwrap();
        device.write(DMA, &[0; 4]);
        device.write(DMA_LOW, &0x1000u32.to_be_bytes());
        u32::from_be(device.ram.read_obj(GuestAddress(0x1000)).unwrap())
    }

    #[test]
    fn ports_read_items_byte_by_byte() {
        let device = device();
        device.write(SELECTOR, &item::CPUS.to_le_bytes());
        let mut byte = [0];
        device.read(DATA, &mut byte);
        assert_eq!(byte, [3]);
        device.write(SELECTOR, &item::ID.to_le_bytes());
        device.read(DATA, &mut byte);
        assert_eq!(byte, [3]);
        let mut signature = [0; 4];
        device.read(DMA, &mut signature);
        assert_eq!(&signature, b"QEMU");
        device.read(DMA_LOW, &mut signature);
        assert_eq!(&signature, b" CFG");
    }

    #[test]
    fn dma_copies_a_whole_file() {
        let device = device();
        let select = u32::from(item::INITRD_DATA) << 16 | CONTROL_SELECT;
        assert_eq!(command(&device, select | CONTROL_READ, 200_000, 0x2_0000), 0);
        let mut copy = vec![0; 200_001];
        device.ram.read_slice(&mut copy, GuestAddress(0x2_0000)).unwrap();
        assert!(copy[..200_000].iter().all(|byte| *byte == 0x66) && copy[200_000] == 0);
        assert_eq!(command(&device, select | CONTROL_SKIP, 199_999, 0), 0);
        assert_eq!(command(&device, CONTROL_READ, 2, 0x3000), 0);
        assert_eq!(device.ram.read_obj::<u16>(GuestAddress(0x3000)).unwrap(), 0x66);
        assert_eq!(command(&device, CONTROL_WRITE, 1, 0x3000), CONTROL_ERROR);
        assert_eq!(
            command(&device, select | CONTROL_READ, 200_000, 0x1f_0000),
            CONTROL_ERROR,
            "the end of RAM"
        );
        assert_eq!(
            command(&device, select | CONTROL_READ, 16, u64::MAX - 3),
            CONTROL_ERROR
        );
    }

    /// Writes a command and carries it out; returns the answer and how many bytes were moved.
    fn work(device: &FwCfg, control: u32, length: u32, address: u64) -> (u32, u64) {
        let mut bytes = [control.to_be_bytes(), length.to_be_bytes()].concat();
        bytes.extend(address.to_be_bytes());
        device.ram.write_slice(&bytes, GuestAddress(0x1000)).unwrap();
        let moved = device.dma(&mut lock(&device.cursor), 0x1000);
        let answer = device.ram.read_obj(GuestAddress(0x1000)).unwrap();
        (u32::from_be(answer), moved)
    }

    #[test]
    fn a_command_of_4_gib_costs_no_more_than_its_item() {
        let device = device();
        let select = |item: u16| u32::from(item) << 16 | CONTROL_SELECT;
        for item in [item::INITRD_DATA, item::KERNEL_DATA, item::SIGNATURE, 0x3fff] {
            let read = select(item) | CONTROL_READ;
            assert_eq!(work(&device, read, u32::MAX, 0x2_0000), (CONTROL_ERROR, 0));
            assert_eq!(work(&device, select(item) | CONTROL_SKIP, u32::MAX, 0), (0, 0));
            assert_eq!(
                work(&device, CONTROL_READ, u32::MAX, 0x2_0000),
                (CONTROL_ERROR, 0)
            );
            assert_eq!(
                work(&device, CONTROL_READ, 16, 0x2_0000),
                (0, 16),
                "zeroes past the end"
            );
        }
        let most = 200_000 + MAX_PAST_END;
        let read = select(item::INITRD_DATA) | CONTROL_READ;
        assert_eq!(work(&device, read, most as u32, 0x2_0000), (0, most));
        assert_eq!(work(&device, read, most as u32 + 1, 0x2_0000), (CONTROL_ERROR, 0));
    }

    #[derive(Debug, Clone)]
    enum Move {
        Read(u64, usize),
        Write(u64, Vec<u8>),
        /// A command at the first address: control, length, second address.
        Command(u64, u32, u32, u64),
    }

    fn moves() -> impl Strategy<Value = Move> {
        let in_ram = || prop_oneof![4 => 0u64..0x20_0010, 1 => any::<u64>()];
        let length = prop_oneof![4 => 0u32..300_000, 1 => any::<u32>()];
        let control =
            (0u32..32, prop_oneof![0u32..0x40, 0u32..0x1_0000]).prop_map(|(bits, item)| bits | item << 16);
        prop_oneof![
            1 => (0..SIZE, 1usize..=8).prop_map(|(offset, len)| Move::Read(offset, len)),
            1 => (0..SIZE, proptest::collection::vec(any::<u8>(), 1..=8))
                .prop_map(|(offset, data)| Move::Write(offset, data)),
            3 => (in_ram(), control, length, in_ram()).prop_map(|(gpa, control, length, address)| {
                Move::Command(gpa, control, length, address)
            }),
        ]
    }

    proptest! {
        #[test]
        fn any_access_is_survived(steps in proptest::collection::vec(moves(), 0..60)) {
            let device = device();
            for step in steps {
                match step {
                    Move::Read(offset, len) => device.read(offset, &mut [0; 8][..len]),
                    Move::Write(offset, data) => device.write(offset, &data),
                    Move::Command(gpa, control, length, address) => {
                        let mut bytes = [control.to_be_bytes(), length.to_be_bytes()].concat();
                        bytes.extend(address.to_be_bytes());
                        // An address that is no RAM is for the device to refuse.
                        let _ = device.ram.write_slice(&bytes, GuestAddress(gpa));
                        device.write(DMA, &((gpa >> 32) as u32).to_be_bytes());
                        device.write(DMA_LOW, &(gpa as u32).to_be_bytes());
                    }
                }
            }
            device.write(SELECTOR, &item::CPUS.to_le_bytes());
            let mut byte = [0];
            device.read(DATA, &mut byte);
            prop_assert_eq!(byte, [3]);
        }
    }
}
