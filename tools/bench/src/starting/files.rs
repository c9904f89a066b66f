//! What the guests are started from.

use std::fs;
use std::io::{self, Seek, SeekFrom, Write};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use tempfile::TempDir;

use crate::Common;
use crate::error::Error;
use crate::first::SIGN;
use crate::side::Machine;

/// Linux's command line, the same on the disk as beside it: its first line is not held back.
const APPEND: &str = "console=ttyS0 earlyprintk=ttyS0,115200 panic=-1";

/// Sizes of Debian's SeaBIOS and of its OVMF with variables, in bytes.
const FIRMWARE: [(&str, usize); 2] = [("bios", 256 << 10), ("uefi", 4 << 20)];
/// Where firmware starts, before its end: the reset vector.
const RESET: usize = 16;
/// What it does there, in real mode.
const CODE: [u8; 10] = [
    0xba, 0xf8, 0x03, // mov dx, 0x3f8
    0xb0, SIGN, // mov al, SIGN
    0xee, // out dx, al
    0xfa, // cli
    0xf4, // hlt
    0xeb, 0xfd, // jmp to the hlt
];

const SECTOR: u64 = 512;
/// First sector of the partition, and bytes of the disk that it is on.
const PARTITION: u64 = 2048;
const DISK_LEN: u64 = 256 << 20;
const PLUGGED_LEN: usize = 64 << 20;

/// A folder of images, and the kernel.
pub(super) struct Files {
    folder: TempDir,
    kernel: PathBuf,
    initrd: PathBuf,
    plugged: PathBuf,
}

impl Files {
    pub(super) fn prepare(common: &Common) -> Result<Self, Error> {
        let folder = tempfile::tempdir().map_err(|e| Error::Host("making a temporary folder", e))?;
        let path = |name: &str| folder.path().join(name);
        let (initrd, plugged) = (path("initrd.img"), path("plugged.img"));
        let read = |path: &Path| fs::read(path).map_err(|e| Error::Read(path.into(), e));
        let write =
            |path: &Path, bytes: Vec<u8>| fs::write(path, bytes).map_err(|e| Error::Write(path.into(), e));
        let overlay = ostler_guest_image::overlay(&super::script(), &[]);
        let base = read(&common.guest.join("initrd.img"))?;
        write(&initrd, [base, overlay].concat())?;
        write(&plugged, vec![0x5a; PLUGGED_LEN])?;
        for (name, len) in FIRMWARE {
            write(&path(name), firmware(len))?;
        }
        let kernel = common.guest.join("vmlinuz");
        make_bootable(folder.path(), &kernel, &initrd)?;
        Ok(Self {
            folder,
            kernel,
            initrd,
            plugged,
        })
    }

    /// Images of firmware that say so at once, by the names of their figures.
    pub(super) fn firmware(&self) -> [(&'static str, PathBuf); 2] {
        FIRMWARE.map(|(name, _)| (name, self.folder.path().join(name)))
    }

    /// A guest with the disk to boot from, whose kernel stands beside it.
    pub(super) fn machine(&self) -> Machine<'_> {
        Machine {
            initrd: Some(&self.initrd),
            append: APPEND,
            ..Machine::bare(&self.kernel)
        }
    }

    /// The disk with that kernel on it.
    pub(super) fn bootable(&self) -> PathBuf {
        bootable(self.folder.path())
    }

    /// The disk that is plugged in.
    pub(super) fn plugged(&self) -> &Path {
        &self.plugged
    }
}

/// Firmware of this size, which ends at 4 GiB and starts in its last bytes.
fn firmware(len: usize) -> Vec<u8> {
    let mut image = vec![0xff; len];
    image[len - RESET..][..CODE.len()].copy_from_slice(&CODE);
    image
}

fn bootable(folder: &Path) -> PathBuf {
    folder.join("bootable.img")
}

/// Makes a disk with one partition, with ext4, GRUB's configuration and the kernel on it.
fn make_bootable(folder: &Path, kernel: &Path, initrd: &Path) -> Result<(), Error> {
    let failed = |e| Error::Host("making a disk to boot from", e);
    let tree = folder.join("tree");
    let grub = tree.join("boot/grub");
    fs::create_dir_all(&grub).map_err(failed)?;
    fs::copy(kernel, tree.join("boot/vmlinuz")).map_err(failed)?;
    fs::copy(initrd, tree.join("boot/initrd.img")).map_err(failed)?;
    let configuration = format!(
        "set default=0\nset timeout=0\nmenuentry 'Linux' {{\n\tlinux /boot/vmlinuz {APPEND}\n\tinitrd /boot/initrd.img\n}}\n"
    );
    fs::write(grub.join("grub.cfg"), configuration).map_err(failed)?;
    let disk = bootable(folder);
    write_partition_table(&disk).map_err(failed)?;
    let mke2fs = Command::new("/sbin/mke2fs")
        .args(["-q", "-F", "-t", "ext4", "-d"])
        .arg(&tree)
        .args(["-E", &format!("offset={}", PARTITION * SECTOR)])
        .arg(&disk)
        .arg(format!("{}k", (DISK_LEN - PARTITION * SECTOR) / 1024))
        .stdout(Stdio::null())
        .status();
    match mke2fs.map_err(|e| Error::Start("mke2fs".into(), e))? {
        status if status.success() => Ok(()),
        _ => Err(failed(io::ErrorKind::InvalidData.into())),
    }
}

/// A disk with one partition of Linux, by an MBR.
fn write_partition_table(disk: &Path) -> io::Result<()> {
    let mut file = fs::File::create(disk)?;
    file.set_len(DISK_LEN)?;
    let sectors = DISK_LEN / SECTOR - PARTITION;
    let number = |sectors: u64| u32::try_from(sectors).map_err(io::Error::other);
    let mut table = [0; 66];
    table[..8].copy_from_slice(&[0x80, 0xfe, 0xff, 0xff, 0x83, 0xfe, 0xff, 0xff]);
    table[8..12].copy_from_slice(&number(PARTITION)?.to_le_bytes());
    table[12..16].copy_from_slice(&number(sectors)?.to_le_bytes());
    table[64..].copy_from_slice(&[0x55, 0xaa]);
    file.seek(SeekFrom::Start(0x1be))?;
    file.write_all(&table)
}
