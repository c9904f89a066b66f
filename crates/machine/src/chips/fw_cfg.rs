//! The firmware configuration device (QEMU's docs/specs/fw_cfg): items by number, files by name.

use std::collections::BTreeMap;
use std::sync::Arc;

use crate::BootSource;

/// What the DMA address register reads as.
pub const DMA_SIGNATURE: u64 = 0x5145_4d55_2043_4647;

/// Item numbers.
pub mod item {
    /// "QEMU".
    pub const SIGNATURE: u16 = 0x00;
    /// Features of the interface.
    pub const ID: u16 = 0x01;
    /// The machine's UUID.
    pub const UUID: u16 = 0x02;
    /// Bytes of RAM, 64 bits.
    pub const RAM_SIZE: u16 = 0x03;
    /// Whether there is no display, 16 bits.
    pub const NO_GRAPHICS: u16 = 0x04;
    /// Number of CPUs, 16 bits.
    pub const CPUS: u16 = 0x05;
    /// Where the kernel would be loaded.
    pub const KERNEL_ADDRESS: u16 = 0x07;
    /// Bytes of the kernel's payload.
    pub const KERNEL_SIZE: u16 = 0x08;
    /// Bytes of the initrd.
    pub const INITRD_SIZE: u16 = 0x0b;
    /// Whether there is a boot menu, 16 bits.
    pub const BOOT_MENU: u16 = 0x0e;
    /// Most CPUs, 16 bits.
    pub const MAX_CPUS: u16 = 0x0f;
    /// The kernel's payload.
    pub const KERNEL_DATA: u16 = 0x11;
    /// The initrd.
    pub const INITRD_DATA: u16 = 0x12;
    /// Where the command line would be loaded.
    pub const COMMAND_LINE_ADDRESS: u16 = 0x13;
    /// Bytes of the command line with its terminating zero.
    pub const COMMAND_LINE_SIZE: u16 = 0x14;
    /// The command line.
    pub const COMMAND_LINE_DATA: u16 = 0x15;
    /// Where the setup part would be loaded.
    pub const SETUP_ADDRESS: u16 = 0x16;
    /// Bytes of a bzImage's setup part.
    pub const SETUP_SIZE: u16 = 0x17;
    /// A bzImage's setup part.
    pub const SETUP_DATA: u16 = 0x18;
    /// The directory of files.
    pub const FILE_DIRECTORY: u16 = 0x19;
    /// The first file.
    pub const FIRST_FILE: u16 = 0x20;
}

/// The traditional interface, and DMA.
const FEATURES: u32 = 1 | 1 << 1;
/// Bytes of a file's name with its terminating zero.
const NAME: usize = 56;
/// All bits of a selector but the one that asks for a write number an item. (Bit 15 is for items of one architecture, of which there
/// are none here: their numbers are others, not those of common items again.)
const SELECTOR_MASK: u16 = !0x4000;

/// A file that is no constant.
pub trait FileDevice: std::fmt::Debug + Send + Sync {
    /// Fills `data` from `offset`.
    fn read(&self, offset: u64, data: &mut [u8]);

    /// Takes what is written at `offset`, within the file. False if it cannot be.
    fn write(&self, offset: u64, data: &[u8]) -> bool {
        let _ = (offset, data);
        false
    }
}

/// What an item's bytes come from.
#[derive(Debug, Clone)]
pub enum Content {
    /// Bytes in memory.
    Bytes(Vec<u8>),
    /// A part of the kernel file: offset and length.
    Kernel(u64, u64),
    /// The initrd: its length.
    Initrd(u64),
    /// A device, and its length.
    Device(Arc<dyn FileDevice>, u64),
}

/// The items.
#[derive(Debug)]
pub struct Items {
    contents: BTreeMap<u16, Content>,
    files: Vec<(String, u32)>,
    /// What the kernel's items come from.
    boot: Option<Arc<BootSource>>,
}

impl Items {
    /// Signature, features and an empty directory.
    pub fn new(boot: Option<Arc<BootSource>>) -> Self {
        let mut items = Self {
            contents: BTreeMap::new(),
            files: Vec::new(),
            boot,
        };
        items.add(item::SIGNATURE, Content::Bytes(b"QEMU".to_vec()));
        items.add(item::ID, Content::Bytes(FEATURES.to_le_bytes().to_vec()));
        items.write_directory();
        items
    }

    /// Sets an item.
    pub fn add(&mut self, number: u16, content: Content) {
        self.contents.insert(number, content);
    }

    /// Adds a file. Names longer than 55 bytes are cut.
    pub fn add_file(&mut self, name: &str, bytes: Vec<u8>) {
        let len = bytes.len() as u32;
        self.add_named(name, Content::Bytes(bytes), len);
    }

    /// Adds a file of `len` bytes that `device` answers for.
    pub fn add_device(&mut self, name: &str, device: Arc<dyn FileDevice>, len: u32) {
        self.add_named(name, Content::Device(device, len.into()), len);
    }

    fn add_named(&mut self, name: &str, content: Content, len: u32) {
        let number = item::FIRST_FILE + self.files.len() as u16;
        self.files.push((name.into(), len));
        self.add(number, content);
        self.write_directory();
    }

    /// Writes to an item from `offset` on, within its length. False if it cannot be written.
    fn write(&self, number: u16, offset: u64, data: &[u8]) -> bool {
        let room = self.len(number).saturating_sub(offset);
        match self.contents.get(&number) {
            Some(Content::Device(device, _)) if data.len() as u64 <= room => device.write(offset, data),
            _ => false,
        }
    }

    /// Gives a file other contents, or adds it.
    pub fn set_file(&mut self, name: &str, bytes: Vec<u8>) {
        let known = (item::FIRST_FILE..)
            .zip(&mut self.files)
            .find(|(_, (known, _))| known == name);
        let Some((number, (_, size))) = known else {
            return self.add_file(name, bytes);
        };
        *size = bytes.len() as u32;
        self.add(number, Content::Bytes(bytes));
        self.write_directory();
    }

    fn write_directory(&mut self) {
        let mut directory = (self.files.len() as u32).to_be_bytes().to_vec();
        for (number, (name, size)) in (item::FIRST_FILE..).zip(&self.files) {
            directory.extend(size.to_be_bytes());
            directory.extend(number.to_be_bytes());
            directory.extend([0; 2]);
            let mut field = [0; NAME];
            let len = name.len().min(NAME - 1);
            field[..len].copy_from_slice(&name.as_bytes()[..len]);
            directory.extend(field);
        }
        self.add(item::FILE_DIRECTORY, Content::Bytes(directory));
    }

    /// Bytes of an item; none if there is no such item.
    fn len(&self, number: u16) -> u64 {
        match self.contents.get(&number) {
            None => 0,
            Some(Content::Bytes(bytes)) => bytes.len() as u64,
            Some(Content::Kernel(_, len) | Content::Initrd(len) | Content::Device(_, len)) => *len,
        }
    }

    /// Fills `data` from `offset` of an item. What lies past its end, or cannot be read, is zero.
    fn read(&self, number: u16, offset: u64, data: &mut [u8]) {
        data.fill(0);
        let Some(content) = self.contents.get(&number) else {
            return;
        };
        let here = self.len(number).saturating_sub(offset).min(data.len() as u64) as usize;
        let part = &mut data[..here];
        let boot = self.boot.as_deref();
        let done = match (content, boot) {
            _ if here == 0 => return,
            (Content::Bytes(bytes), _) => {
                part.copy_from_slice(&bytes[offset as usize..offset as usize + here]);
                return;
            }
            (Content::Device(device, _), _) => return device.read(offset, part),
            (Content::Kernel(start, _), Some(boot)) => boot.kernel.read_at("kernel", start + offset, part),
            (Content::Initrd(_), Some(boot)) => match &boot.initrd {
                Some(initrd) => initrd.read_at("initrd", offset, part),
                None => return,
            },
            (Content::Kernel(..) | Content::Initrd(_), None) => return,
        };
        if let Err(error) = done {
            tracing::warn!(%error, "the guest read a boot file that is no longer whole");
            part.fill(0);
        }
    }
}

/// Which item is selected, and how far it was read.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Cursor {
    selected: u16,
    offset: u64,
    /// Upper half of a DMA address that is being written.
    pub dma_high: u32,
}

impl Cursor {
    /// Selects an item and starts at its first byte.
    pub fn select(&mut self, selector: u16) {
        self.selected = selector & SELECTOR_MASK;
        self.offset = 0;
    }

    /// Skips bytes.
    pub fn skip(&mut self, bytes: u32) {
        self.offset = self.offset.saturating_add(u64::from(bytes));
    }

    /// Bytes of the selected item that were not read yet.
    pub fn left(&self, items: &Items) -> u64 {
        items.len(self.selected).saturating_sub(self.offset)
    }

    /// Reads on from where the cursor is.
    pub fn read(&mut self, items: &Items, data: &mut [u8]) {
        items.read(self.selected, self.offset, data);
        self.offset = self.offset.saturating_add(data.len() as u64);
    }

    /// Writes on from where the cursor is. False if the item cannot be written so.
    pub fn write(&mut self, items: &Items, data: &[u8]) -> bool {
        let done = items.write(self.selected, self.offset, data);
        self.offset = self.offset.saturating_add(data.len() as u64);
        done
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Blob;
    use proptest::prelude::*;

    fn items() -> Items {
        let boot = BootSource {
            kernel: Blob::Bytes((0..100).collect()),
            initrd: Some(Blob::Bytes(vec![7; 10])),
            command_line: String::new(),
        };
        let mut items = Items::new(Some(Arc::new(boot)));
        items.add(item::KERNEL_DATA, Content::Kernel(20, 30));
        items.add(item::INITRD_DATA, Content::Initrd(10));
        items.add_file("etc/one", vec![1, 2, 3]);
        items.add_file("etc/two", vec![4]);
        items
    }

    #[test]
    fn items_are_read_in_pieces_and_end_in_zeroes() {
        let (items, mut cursor) = (items(), Cursor::default());
        let mut data = [0xff; 3];
        cursor.read(&items, &mut data);
        assert_eq!(&data, b"QEM");
        cursor.read(&items, &mut data);
        assert_eq!(data, [b'U', 0, 0]);
        cursor.select(item::KERNEL_DATA);
        cursor.skip(28);
        cursor.read(&items, &mut data);
        assert_eq!(data, [48, 49, 0]);
        cursor.select(item::INITRD_DATA | 0x4000);
        cursor.read(&items, &mut data);
        assert_eq!(data, [7; 3]);
        for nothing in [0x3fff, 0x8000, 0x8000 | item::INITRD_DATA] {
            cursor.select(nothing);
            cursor.read(&items, &mut data);
            assert_eq!(data, [0; 3]);
        }
    }

    #[test]
    fn the_directory_names_each_file_and_its_number() {
        let (items, mut cursor) = (items(), Cursor::default());
        cursor.select(item::FILE_DIRECTORY);
        let mut directory = [0; 4 + 2 * 64];
        cursor.read(&items, &mut directory);
        assert_eq!(directory[..12], [0, 0, 0, 2, 0, 0, 0, 3, 0, 0x20, 0, 0]);
        assert_eq!(&directory[12..20], b"etc/one\0");
        assert_eq!(directory[68..76], [0, 0, 0, 1, 0, 0x21, 0, 0]);
        cursor.select(0x20);
        let mut data = [0; 3];
        cursor.read(&items, &mut data);
        assert_eq!(data, [1, 2, 3]);
    }

    #[test]
    fn a_file_keeps_its_number_when_its_contents_change() {
        let (mut items, mut cursor) = (items(), Cursor::default());
        items.set_file("etc/one", vec![9; 5]);
        items.set_file("etc/three", vec![8]);
        cursor.select(item::FILE_DIRECTORY);
        let mut directory = [0; 4 + 3 * 64];
        cursor.read(&items, &mut directory);
        assert_eq!(directory[..10], [0, 0, 0, 3, 0, 0, 0, 5, 0, 0x20]);
        assert_eq!(directory[132..138], [0, 0, 0, 1, 0, 0x22]);
        cursor.select(0x20);
        let mut data = [0; 6];
        cursor.read(&items, &mut data);
        assert_eq!(data, [9, 9, 9, 9, 9, 0]);
    }

    proptest! {
        #[test]
        fn any_selection_skip_and_read_stays_in_bounds(
            steps in proptest::collection::vec((any::<u16>(), any::<u32>(), 0usize..100), 0..50)
        ) {
            let (items, mut cursor) = (items(), Cursor::default());
            for (selector, skip, len) in steps {
                cursor.select(selector % 0x40);
                cursor.skip(if selector & 0x100 != 0 { skip } else { skip % 40 });
                cursor.read(&items, &mut vec![0; len]);
            }
        }
    }
}
