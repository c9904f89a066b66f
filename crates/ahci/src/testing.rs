//! A controller on a bench: guest memory, a driver's few structures, disks that do as they are told.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use ostler_bus::{Device, InterruptLine, Msi, MsiSink};
use ostler_disk::recording::RecordingDisk;
use ostler_disk::{Disk, Engine, RawDisk};
use ostler_memory::{GuestRam, RamOptions, allocate};
use ostler_pci::PciFunction;
use vm_memory::{Bytes, GuestAddress};
use vmm_sys_util::eventfd::EventFd;

use crate::{Ahci, DriveKind, DriveOptions};

pub const RAM: u64 = 16 << 20;
pub const LIST: u64 = 0x1_0000;
pub const RECEIVED: u64 = 0x2_0000;
pub const TABLES: u64 = 0x10_0000;
pub const DATA: u64 = 0x20_0000;
/// Longest that anything may take; no test is about time.
const LIMIT: Duration = Duration::from_secs(30);

pub const GHC: u64 = 0x04;
pub const IS: u64 = 0x08;
pub const PX_CLB: u64 = 0x00;
pub const PX_FB: u64 = 0x08;
pub const PX_IS: u64 = 0x10;
pub const PX_IE: u64 = 0x14;
pub const PX_CMD: u64 = 0x18;
pub const PX_TFD: u64 = 0x20;
pub const PX_SIG: u64 = 0x24;
pub const PX_SSTS: u64 = 0x28;
pub const PX_SCTL: u64 = 0x2c;
pub const PX_SERR: u64 = 0x30;
pub const PX_SACT: u64 = 0x34;
pub const PX_CI: u64 = 0x38;

pub const CMD_RUNNING: u32 = 1 << 15;
pub const CMD_START_RECEIVE: u32 = 1 << 4 | 1;

/// Sees interrupts.
#[derive(Default)]
pub struct Wire {
    pub level: AtomicBool,
    pub messages: AtomicUsize,
}

impl InterruptLine for Wire {
    fn set(&self, level: bool) {
        self.level.store(level, Ordering::SeqCst);
    }
}

impl MsiSink for Wire {
    fn signal(&self, _: Msi) {
        self.messages.fetch_add(1, Ordering::SeqCst);
    }
    fn connect(&self, _: &EventFd, _: Option<Msi>) -> std::io::Result<()> {
        Err(std::io::ErrorKind::Unsupported.into())
    }
}

/// A FIS with a command.
#[derive(Debug, Clone, Copy)]
pub struct Fis {
    pub command: u8,
    pub features: u16,
    pub lba: u64,
    pub device: u8,
    pub count: u16,
}

impl Fis {
    /// One with 48-bit addresses.
    pub fn new(command: u8, lba: u64, count: u16) -> Self {
        let (features, device) = (0, 0x40);
        Self {
            command,
            features,
            lba,
            device,
            count,
        }
    }

    /// One of the drive's queue.
    pub fn queued(command: u8, tag: u8, lba: u64, count: u16) -> Self {
        Self {
            features: count,
            count: u16::from(tag) << 3,
            ..Self::new(command, lba, 0)
        }
    }

    /// A packet command by DMA.
    pub fn packet() -> Self {
        Self {
            features: 1,
            ..Self::new(0xa0, 0, 0)
        }
    }

    pub fn bytes(&self) -> [u8; 20] {
        let (lba, features, count) = (
            self.lba.to_le_bytes(),
            self.features.to_le_bytes(),
            self.count.to_le_bytes(),
        );
        let mut fis = [0; 20];
        fis[..4].copy_from_slice(&[0x27, 0x80, self.command, features[0]]);
        fis[4..7].copy_from_slice(&lba[..3]);
        fis[7] = self.device;
        fis[8..11].copy_from_slice(&lba[3..6]);
        fis[11] = features[1];
        fis[12..14].copy_from_slice(&count);
        fis
    }
}

/// A controller with its driver's memory. Port 0 is what most methods mean.
pub struct Bench {
    pub ram: Arc<GuestRam>,
    pub ahci: Arc<Ahci>,
    pub wire: Arc<Wire>,
    bar: Arc<dyn Device>,
}

impl Bench {
    /// Drives, one a port.
    pub fn new(drives: Vec<(DriveKind, Arc<dyn Disk>)>) -> Self {
        let drives = drives.into_iter().map(|(kind, disk)| (kind, Some(disk)));
        Self::with(drives.collect())
    }

    fn with(drives: Vec<(DriveKind, Option<Arc<dyn Disk>>)>) -> Self {
        let ram = allocate(RAM, RamOptions::default()).unwrap();
        let wire = Arc::new(Wire::default());
        let drives = drives
            .into_iter()
            .map(|(kind, disk)| DriveOptions {
                kind,
                disk,
                serial: "serial".into(),
            })
            .collect();
        let ahci = Ahci::new(drives, ram.clone(), wire.clone()).unwrap();
        ahci.connect_intx(wire.clone());
        let bar = ahci.bar(5).unwrap();
        Self { ram, ahci, wire, bar }
    }

    /// One disk, and its driver has started the port.
    pub fn disk(disk: Arc<dyn Disk>) -> Self {
        let bench = Self::new(vec![(DriveKind::Disk, disk)]);
        bench.start();
        bench
    }

    /// One CD-ROM drive, likewise.
    pub fn cdrom(disk: Arc<dyn Disk>) -> Self {
        let bench = Self::new(vec![(DriveKind::Cdrom, disk)]);
        bench.start();
        bench
    }

    /// A CD-ROM drive without a medium, likewise.
    pub fn empty() -> Self {
        let bench = Self::with(vec![(DriveKind::Cdrom, None)]);
        bench.start();
        bench
    }

    pub fn read(&self, offset: u64) -> u32 {
        let mut data = [0; 4];
        self.bar.read(offset, &mut data);
        u32::from_le_bytes(data)
    }

    pub fn write(&self, offset: u64, value: u32) {
        self.bar.write(offset, &value.to_le_bytes());
    }

    pub fn write_bytes(&self, offset: u64, data: &[u8]) {
        self.bar.write(offset, data);
    }

    pub fn port(&self, register: u64) -> u32 {
        self.read(0x100 + register)
    }

    pub fn set_port(&self, register: u64, value: u32) {
        self.write(0x100 + register, value);
    }

    /// Gives the port its memory, and starts it.
    pub fn start(&self) {
        self.set_port(PX_CLB, LIST as u32);
        self.set_port(PX_CLB + 4, 0);
        self.set_port(PX_FB, RECEIVED as u32);
        self.set_port(PX_FB + 4, 0);
        self.set_port(PX_SERR, u32::MAX);
        self.set_port(PX_IS, u32::MAX);
        self.set_port(PX_IE, u32::MAX);
        self.write(GHC, 2);
        self.set_port(PX_CMD, CMD_START_RECEIVE);
        self.until("the engine runs", || self.port(PX_CMD) & CMD_RUNNING != 0);
    }

    /// Stops the engine, and waits until it stands still.
    pub fn stop(&self) {
        self.set_port(PX_CMD, 1 << 4);
        self.until("the engine stands still", || self.port(PX_CMD) & CMD_RUNNING == 0);
    }

    /// Waits until `done`.
    pub fn until(&self, what: &str, done: impl Fn() -> bool) {
        let start = Instant::now();
        while !done() {
            let registers: Vec<String> = (0x100..0x140)
                .step_by(4)
                .map(|at| format!("{:#x}", self.read(at)))
                .collect();
            assert!(start.elapsed() < LIMIT, "waiting until {what}: {registers:?}");
            std::thread::sleep(Duration::from_micros(200));
        }
    }

    pub fn table(slot: u8) -> u64 {
        TABLES + u64::from(slot) * 0x2000
    }

    /// Puts a command into `slot`; each buffer is an address and its bytes.
    pub fn prepare(&self, slot: u8, fis: &[u8], packet: Option<&[u8]>, buffers: &[(u64, u32)]) {
        let table = Self::table(slot);
        self.put(table, fis);
        if let Some(packet) = packet {
            self.put(table + 0x40, packet);
        }
        for (at, (address, len)) in (0..).zip(buffers) {
            let mut entry = [0; 16];
            entry[..8].copy_from_slice(&address.to_le_bytes());
            entry[12..].copy_from_slice(&len.wrapping_sub(1).to_le_bytes());
            self.put(table + 0x80 + 16 * at, &entry);
        }
        let mut header = [0; 32];
        header[0] = 5 | u8::from(packet.is_some()) << 5;
        header[2..4].copy_from_slice(&(buffers.len() as u16).to_le_bytes());
        header[8..16].copy_from_slice(&table.to_le_bytes());
        self.put(LIST + 32 * u64::from(slot), &header);
    }

    /// Issues a command in slot 0 with one buffer at [`DATA`], and waits for its end. Returns the task file.
    pub fn run(&self, fis: Fis, len: u32) -> u32 {
        self.prepare(0, &fis.bytes(), None, &[(DATA, len)]);
        self.issue_and_wait()
    }

    /// The same with a packet.
    pub fn run_packet(&self, packet: &[u8], len: u32) -> u32 {
        let mut whole = [0; 16];
        whole[..packet.len()].copy_from_slice(packet);
        self.prepare(0, &Fis::packet().bytes(), Some(&whole), &[(DATA, len)]);
        self.issue_and_wait()
    }

    fn issue_and_wait(&self) -> u32 {
        self.set_port(PX_IS, u32::MAX);
        self.set_port(PX_CI, 1);
        self.until("the command is over", || {
            self.port(PX_CI) == 0 || self.port(PX_IS) & 0x7800_0000 != 0
        });
        self.port(PX_TFD)
    }

    /// After an error: a driver's recovery.
    pub fn recover(&self) {
        self.stop();
        self.start();
    }

    /// The drive still answers.
    pub fn assert_alive(&self, identify: u8) {
        self.recover();
        let end = self.run(Fis::new(identify, 0, 0), 512);
        assert_eq!(end, 0x50, "the drive answers");
        assert_eq!(self.get(DATA, 512)[510], 0xa5);
    }

    pub fn put(&self, at: u64, bytes: &[u8]) {
        self.ram.write_slice(bytes, GuestAddress(at)).unwrap();
    }

    pub fn get(&self, at: u64, len: usize) -> Vec<u8> {
        let mut bytes = vec![0; len];
        self.ram.read_slice(&mut bytes, GuestAddress(at)).unwrap();
        bytes
    }
}

/// A raw disk in a file of its own.
pub struct Image {
    pub file: tempfile::NamedTempFile,
}

impl Image {
    pub fn new(contents: &[u8]) -> Self {
        let file = tempfile::NamedTempFile::new().unwrap();
        std::fs::write(file.path(), contents).unwrap();
        Self { file }
    }

    pub fn open(&self, writable: bool) -> Arc<dyn Disk> {
        let file = std::fs::OpenOptions::new()
            .read(true)
            .write(writable)
            .open(self.file.path())
            .unwrap();
        Arc::new(RawDisk::with_engine(file, Engine::Threads).unwrap())
    }

    pub fn contents(&self) -> Vec<u8> {
        std::fs::read(self.file.path()).unwrap()
    }
}

/// A disk that answers when the test says so, even if its queue is drained.
pub fn held() -> Arc<RecordingDisk> {
    RecordingDisk::holding(64 << 20, 512)
}
