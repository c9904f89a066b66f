//! Entries for fuzzers: what is on a disk image.

use std::collections::BTreeMap;
use std::io::{self, Cursor, Write};
use std::path::Path;
use std::process::Command;
use std::sync::LazyLock;

use crate::in_memory::{find, load};
use crate::volume::{Volume, Volumes};
use crate::{Error, Image, Source, entries, grub};

/// Most bytes of initial RAM disks.
const ROOM: u64 = 1 << 20;
const SECTOR: usize = 512;
/// Where the file system begins on the disk that has a table.
const PARTITION: usize = 64 * SECTOR;

const CONFIGURATION: &[u8] = b"set root='hd0,gpt1'\nif [ -s $prefix/grubenv ]; then load_env; fi\nset default=0\n\
    menuentry 'one' --id a {\n search --file /boot/vmlinuz --set=root\n linux /boot/vmlinuz root=/dev/vda1 quiet\n initrd /boot/initrd\n}\n\
    submenu 'more' {\n menuentry 'two' {\n linux /boot/vmlinuz single\n }\n}\n";
const FILES: [(&str, &[u8]); 4] = [
    ("boot/grub/grub.cfg", CONFIGURATION),
    ("boot/grub/grubenv", b"# GRUB Environment Block\nsaved_entry=0\n"),
    ("boot/vmlinuz", b"a kernel"),
    ("boot/initrd", b"an initrd"),
];

/// A FAT file system with a system on it.
fn fat() -> Vec<u8> {
    let mut bytes = Cursor::new(vec![0; 64 << 10]);
    fatfs::format_volume(&mut bytes, fatfs::FormatVolumeOptions::new()).expect("there is room");
    bytes.set_position(0);
    let volume = fatfs::FileSystem::new(&mut bytes, fatfs::FsOptions::new()).expect("it is new");
    for folder in ["boot", "boot/grub", "loader", "loader/entries"] {
        volume.root_dir().create_dir(folder).expect("there is room");
    }
    for (path, contents) in FILES {
        let mut file = volume.root_dir().create_file(path).expect("there is room");
        file.write_all(contents).expect("there is room");
    }
    drop(volume);
    bytes.into_inner()
}

/// An ext4 file system with the same; `None` where there is no mke2fs.
fn ext4() -> Option<Vec<u8>> {
    let program = ["/sbin/mke2fs", "/usr/sbin/mke2fs"];
    let program = program.into_iter().find(|path| Path::new(path).exists())?;
    let folder = std::env::temp_dir().join(format!("ostler-bootdisk-{}", std::process::id()));
    let (root, image) = (folder.join("root"), folder.join("image"));
    let made = || -> io::Result<Vec<u8>> {
        std::fs::create_dir_all(root.join("boot/grub"))?;
        for (path, contents) in FILES {
            std::fs::write(root.join(path), contents)?;
        }
        std::fs::write(&image, vec![0; 256 << 10])?;
        let id = "01234567-89ab-cdef-0123-456789abcdef";
        let status = Command::new(program)
            .env("E2FSPROGS_FAKE_TIME", "1700000000")
            .args([
                "-q",
                "-F",
                "-t",
                "ext4",
                "-O",
                "^has_journal",
                "-b",
                "1024",
                "-U",
                id,
            ])
            .args(["-E", &format!("hash_seed={id}"), "-d"])
            .args([&root, &image])
            .status()?;
        if !status.success() {
            return Err(io::Error::other("mke2fs failed"));
        }
        std::fs::read(&image)
    };
    let made = made();
    let _ = std::fs::remove_dir_all(&folder);
    made.ok()
}

/// A disk with a GPT, or an MBR with a logical partition, around `volume`.
fn divided(volume: &[u8], gpt: bool) -> Vec<u8> {
    let mut disk = vec![0; PARTITION];
    let (start, sectors) = ((PARTITION / SECTOR) as u32, (volume.len() / SECTOR) as u32);
    disk[510..512].copy_from_slice(&[0x55, 0xaa]);
    if gpt {
        disk[0x1be + 4] = 0xee;
        disk[512..520].copy_from_slice(b"EFI PART");
        (disk[512 + 72], disk[512 + 80], disk[512 + 84]) = (2, 8, 128);
        disk[1024] = 1;
        disk[1024 + 32..1024 + 36].copy_from_slice(&start.to_le_bytes());
        disk[1024 + 40..1024 + 44].copy_from_slice(&(start + sectors - 1).to_le_bytes());
    } else {
        let mut entry = |at: usize, kind: u8, start: u32, sectors: u32| {
            disk[at + 4] = kind;
            disk[at + 8..at + 12].copy_from_slice(&start.to_le_bytes());
            disk[at + 12..at + 16].copy_from_slice(&sectors.to_le_bytes());
        };
        // An extended partition from sector 1 on, whose first logical one is the volume.
        entry(0x1be, 5, 1, start + sectors);
        entry(512 + 0x1be, 0x83, start - 1, sectors);
        disk[1022..1024].copy_from_slice(&[0x55, 0xaa]);
    }
    disk.extend_from_slice(volume);
    disk
}

/// What inputs are changes of.
static DISKS: LazyLock<Vec<Vec<u8>>> = LazyLock::new(|| {
    let fat = fat();
    let (gpt, mbr) = (divided(&fat, true), divided(&fat, false));
    [Some(fat), Some(gpt), Some(mbr), ext4()]
        .into_iter()
        .flatten()
        .collect()
});

/// A disk with other bytes in some places.
struct Changed {
    disk: &'static [u8],
    changes: Vec<(usize, Vec<u8>)>,
}

impl Image for Changed {
    fn size(&self) -> io::Result<u64> {
        Ok(self.disk.len() as u64)
    }

    fn read_at(&self, offset: u64, into: &mut [u8]) -> io::Result<()> {
        let start = usize::try_from(offset).unwrap_or(usize::MAX);
        let end = start.saturating_add(into.len());
        into.copy_from_slice(self.disk.get(start..end).ok_or(io::ErrorKind::UnexpectedEof)?);
        for (at, bytes) in &self.changes {
            for (place, byte) in (*at..).zip(bytes) {
                if let Some(target) = place.checked_sub(start).and_then(|place| into.get_mut(place)) {
                    *target = *byte;
                }
            }
        }
        Ok(())
    }
}

/// A disk with changes. The first byte says which (FAT, FAT in a GPT, FAT in an MBR, ext4); a change is three bytes of its place, one
/// of its length, and its bytes.
pub fn image(input: &[u8]) {
    let Some((&which, mut rest)) = input.split_first() else {
        return;
    };
    let disk = &DISKS[usize::from(which) % DISKS.len()];
    let mut changes = Vec::new();
    while let Some((&[a, b, c, len], behind)) = rest.split_first_chunk::<4>() {
        let place = u32::from_le_bytes([a, b, c, 0]) as usize % disk.len();
        let (bytes, behind) = behind.split_at(usize::from(len).min(behind.len()));
        changes.push((place, bytes.to_vec()));
        rest = behind;
    }
    let system = find(Changed { disk, changes }, ROOM);
    if let Ok(system) = system {
        assert!(system.initrd.len() as u64 <= ROOM);
    }
}

/// A file system that is a list of files.
struct Files(BTreeMap<String, Vec<u8>>);

impl Volume for Files {
    fn kind(&self) -> &'static str {
        "a list"
    }
    fn uuid(&self) -> String {
        "01234567-89ab-cdef-0123-456789abcdef".into()
    }
    fn label(&self) -> String {
        "system".into()
    }
    fn copy(&self, path: &str, most: u64, into: &mut dyn Write) -> Result<Option<u64>, Error> {
        let Some(bytes) = self.0.get(path) else {
            return Ok(None);
        };
        let bytes = &bytes[..bytes.len().min(most as usize)];
        into.write_all(bytes).map_err(Error::Write)?;
        Ok(Some(bytes.len() as u64))
    }
    fn names(&self, path: &str) -> Result<Vec<String>, Error> {
        let folder = format!("{path}/");
        let inside = self.0.keys().filter_map(|name| name.strip_prefix(&folder));
        Ok(inside.map(str::to_owned).collect())
    }
    fn exists(&self, path: &str) -> Result<bool, Error> {
        Ok(self.0.contains_key(path))
    }
}

/// Configurations: GRUB's, its environment, another file that it may load, and two boot loader entries, with zero bytes between them.
pub fn configuration(input: &[u8]) {
    const PATHS: [&str; 6] = [
        "/boot/grub/grub.cfg",
        "/boot/grub/grubenv",
        "/boot/grub/other.cfg",
        "/loader/loader.conf",
        "/loader/entries/a-1.conf",
        "/loader/entries/b-2.conf",
    ];
    let texts = input.split(|byte| *byte == 0);
    let mut files: BTreeMap<String, Vec<u8>> = PATHS
        .into_iter()
        .zip(texts)
        .filter(|(_, text)| !text.is_empty())
        .map(|(path, text)| (path.to_owned(), text.to_vec()))
        .collect();
    for (path, contents) in &FILES[2..] {
        files.insert(format!("/{path}"), contents.to_vec());
    }
    let Ok(source) = Source::new(Vec::new()) else {
        return;
    };
    let volumes = Volumes::of(Box::new(Files(files)), source);
    let chosen = match grub::find(&volumes) {
        Ok(None) => entries::find(&volumes),
        other => other,
    };
    if let Ok(Some(choice)) = chosen {
        let _ = load(&volumes, choice, ROOM);
    }
    // Both are followed, whichever counts.
    let _ = entries::find(&volumes);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_fuzzers_found_is_survived() {
        ostler_corpus::replay("bootdisk-image", image);
        ostler_corpus::replay("bootdisk-configuration", configuration);
    }

    /// Otherwise fuzzing would start far from where systems are.
    #[test]
    fn the_disks_that_are_changed_have_a_system() {
        for (at, disk) in DISKS.iter().enumerate() {
            let changes = Vec::new();
            let system =
                find(Changed { disk, changes }, ROOM).unwrap_or_else(|error| panic!("disk {at}: {error}"));
            assert_eq!(
                (&*system.kernel, &*system.initrd),
                (FILES[2].1, FILES[3].1),
                "disk {at}"
            );
        }
    }
}
