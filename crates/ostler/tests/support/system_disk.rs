//! Debian 12 with systemd (`tools/guest-disk`) as a partition of a disk.

use std::fs;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::time::Duration;

use super::boot_disk::{run, write_boot_code, write_mbr};
use super::{Guest, assert_fsck_clean, guest_folder};

const SECTOR: u64 = 512;
const MIB: u64 = 1 << 20;
/// The type of a partition of Linux.
const LINUX: u8 = 0x83;

/// The folder of the system disk of the tests, if it was made.
pub fn debian(test: &str) -> Option<PathBuf> {
    let made = guest_folder().join("debian");
    if !made.join("recipe").exists() {
        eprintln!("SKIPPED {test}: no system disk under target/guest/debian; ./test makes it, as root");
        return None;
    }
    Some(made)
}

/// `disk.img` in `folder`, of the size of Debian's with `before` bytes before it.
pub fn empty_disk(folder: &Path, made: &Path, before: u64) -> PathBuf {
    let disk = folder.join("disk.img");
    let size = fs::metadata(made.join("disk.img")).unwrap().len();
    fs::File::create(&disk)
        .unwrap()
        .set_len(before + size + MIB)
        .unwrap();
    disk
}

/// Debian's disk as a partition of `disk.img` from byte `start` on, with a table of file systems that names no device, and with these
/// files (path, contents), in which `UUID-OF-ROOT` is the file system's. Returns that.
pub fn copy_debian(made: &Path, folder: &Path, start: u64, files: &[(&str, &str)]) -> String {
    let seek = format!("seek={start}");
    let from = format!("if={}", made.join("disk.img").display());
    run(
        "dd",
        &[
            &from,
            "of=disk.img",
            "bs=1M",
            "conv=sparse,notrunc",
            "oflag=seek_bytes",
            &seek,
            "status=none",
        ],
        folder,
    );
    let mut id = [0; 16];
    let file = fs::File::open(folder.join("disk.img")).unwrap();
    file.read_exact_at(&mut id, start + 1024 + 0x68).unwrap();
    let hex = |bytes: &[u8]| bytes.iter().map(|byte| format!("{byte:02x}")).collect::<String>();
    let uuid = [&id[..4], &id[4..6], &id[6..8], &id[8..10], &id[10..]]
        .map(hex)
        .join("-");
    let image = format!("disk.img?offset={start}");
    let table = format!("UUID={uuid} / ext4 errors=remount-ro 0 1\n");
    for (path, contents) in files.iter().chain(&[("etc/fstab", table.as_str())]) {
        fs::write(folder.join("file"), contents.replace("UUID-OF-ROOT", &uuid)).unwrap();
        let folder_of = path.rsplit_once('/').unwrap().0;
        let mut commands = String::new();
        if folder_of != "etc" {
            commands = format!("mkdir {folder_of}\n");
        } else {
            commands.push_str(&format!("rm {path}\n"));
        }
        commands.push_str(&format!("write file {path}\n"));
        fs::write(folder.join("commands"), commands).unwrap();
        run("/sbin/debugfs", &["-w", "-f", "commands", &image], folder);
    }
    uuid
}

/// One partition of Linux from 1 MiB to the end.
pub fn write_linux_mbr(disk: &Path) {
    let sectors = fs::metadata(disk).unwrap().len() / SECTOR - 2048;
    write_mbr(disk, LINUX, sectors as u32);
}

/// What GRUB does at its start: as grub-mkconfig writes it, but at the serial port.
const GRUB_CONFIGURATION: &str = "\
    serial --unit=0 --speed=115200\n\
    terminal_input serial\n\
    terminal_output serial\n\
    set default=0\n\
    set timeout=1\n\
    menuentry 'Debian GNU/Linux' --class debian --id gnulinux-simple {\n\
    \tinsmod part_msdos\n\tinsmod part_gpt\n\tinsmod ext2\n\
    \tsearch --no-floppy --fs-uuid --set=root UUID-OF-ROOT\n\
    \techo 'Loading Linux ...'\n\
    \tlinux /vmlinuz root=UUID=UUID-OF-ROOT ro console=ttyS0 systemd.default_timeout_start_sec=600\n\
    \tinitrd /initrd.img\n}\n";

/// What is in GRUB's core, beside what it reads from its folder, for any firmware.
const GRUB_MODULES: [&str; 14] = [
    "part_msdos",
    "part_gpt",
    "ext2",
    "normal",
    "linux",
    "serial",
    "terminal",
    "echo",
    "test",
    "configfile",
    "search",
    "search_fs_uuid",
    "halt",
    "reboot",
];

/// GRUB's core in `folder` for one kind of firmware, whose folder is on this partition.
fn make_grub(folder: &Path, format: &str, output: &str, partition: &str, more: &[&str]) {
    let prefix = format!("(hd0,{partition})/boot/grub");
    let mut args = vec!["-O", format, "-o", output, "-p", &prefix];
    args.extend(GRUB_MODULES);
    args.extend(more);
    run("grub-mkimage", &args, folder);
}

/// Where Debian begins on a disk for a BIOS.
pub const BIOS_ROOT: u64 = MIB;

/// `disk.img` in `folder`: Debian on one partition, with GRUB for a BIOS, as an installation leaves it.
pub fn make_bootable_debian(made: &Path, folder: &Path) -> PathBuf {
    let disk = empty_disk(folder, made, BIOS_ROOT);
    copy_debian(
        made,
        folder,
        BIOS_ROOT,
        &[("boot/grub/grub.cfg", GRUB_CONFIGURATION)],
    );
    make_grub(folder, "i386-pc", "core.img", "msdos1", &["biosdisk"]);
    write_boot_code(&disk, &folder.join("core.img"));
    write_linux_mbr(&disk);
    disk
}

/// Sectors of the partition for EFI on a disk that has one, from 1 MiB on; and where Debian begins there.
pub const EFI_SECTORS: u64 = 64 * MIB / SECTOR;
pub const UEFI_ROOT: u64 = MIB + EFI_SECTORS * SECTOR;

/// Makes the partition for EFI on `disk.img` in `folder`, with these folders and files (from, to).
pub fn make_efi_partition(folder: &Path, folders: &[&str], files: &[(&Path, &str)]) {
    let at = format!("disk.img@@{MIB}");
    let sectors = EFI_SECTORS.to_string();
    run(
        "mformat",
        &["-i", &at, "-T", &sectors, "-h", "16", "-s", "63", "::"],
        folder,
    );
    run("mmd", &[&["-i", &at], folders].concat(), folder);
    for (from, to) in files {
        run("mcopy", &["-i", &at, from.to_str().unwrap(), to], folder);
    }
}

/// The same with a GPT and GRUB for UEFI, on a partition for EFI.
pub fn make_debian_for_uefi(made: &Path, folder: &Path) -> PathBuf {
    let disk = empty_disk(folder, made, UEFI_ROOT);
    copy_debian(
        made,
        folder,
        UEFI_ROOT,
        &[("boot/grub/grub.cfg", GRUB_CONFIGURATION)],
    );
    make_grub(folder, "x86_64-efi", "bootx64.efi", "gpt2", &[]);
    make_efi_partition(
        folder,
        &["::/EFI", "::/EFI/BOOT"],
        &[(Path::new("bootx64.efi"), "::/EFI/BOOT/BOOTX64.EFI")],
    );
    let size = fs::metadata(made.join("disk.img")).unwrap().len() / SECTOR;
    write_gpt(&disk, &[(MIB / SECTOR, EFI_SECTORS), (UEFI_ROOT / SECTOR, size)]);
    disk
}

/// CRC-32 as GPT has it.
fn crc32(bytes: &[u8]) -> u32 {
    !bytes.iter().fold(!0u32, |crc, byte| {
        (0..8).fold(crc ^ u32::from(*byte), |crc, _| {
            (crc >> 1) ^ (0xedb8_8320 * (crc & 1))
        })
    })
}

/// Writes a GPT with these partitions (first sector, sectors), of which the first is that for EFI.
pub fn write_gpt(disk: &Path, partitions: &[(u64, u64)]) {
    let file = fs::OpenOptions::new().write(true).open(disk).unwrap();
    let sectors = file.metadata().unwrap().len() / SECTOR;
    let mut protective = [0; 66];
    protective[..8].copy_from_slice(&[0, 0, 2, 0, 0xee, 0xff, 0xff, 0xff]);
    protective[8..12].copy_from_slice(&1u32.to_le_bytes());
    protective[12..16].copy_from_slice(&(sectors as u32 - 1).to_le_bytes());
    protective[64..].copy_from_slice(&[0x55, 0xaa]);
    file.write_all_at(&protective, 0x1be).unwrap();
    const EFI: [u8; 16] = [
        0x28, 0x73, 0x2a, 0xc1, 0x1f, 0xf8, 0xd2, 0x11, 0xba, 0x4b, 0, 0xa0, 0xc9, 0x3e, 0xc9, 0x3b,
    ];
    const ROOT: [u8; 16] = [
        0xaf, 0x3d, 0xc6, 0x0f, 0x83, 0x84, 0x72, 0x47, 0x8e, 0x79, 0x3d, 0x69, 0xd8, 0x47, 0x7d, 0xe4,
    ];
    let mut entries = vec![0; 128 * 128];
    for (index, (start, count)) in partitions.iter().enumerate() {
        let entry = &mut entries[128 * index..128 * (index + 1)];
        entry[..16].copy_from_slice(if index == 0 { &EFI } else { &ROOT });
        entry[16..32].copy_from_slice(&[index as u8 + 1; 16]);
        entry[32..40].copy_from_slice(&start.to_le_bytes());
        entry[40..48].copy_from_slice(&(start + count - 1).to_le_bytes());
    }
    file.write_all_at(&entries, 2 * SECTOR).unwrap();
    let mut header = [0; 92];
    header[..8].copy_from_slice(b"EFI PART");
    header[8..16].copy_from_slice(&[0, 0, 1, 0, 92, 0, 0, 0]);
    let mut put = |at: usize, word: u64| header[at..at + 8].copy_from_slice(&word.to_le_bytes());
    put(24, 1);
    put(32, sectors - 1);
    put(40, 34);
    put(48, sectors - 34);
    put(72, 2);
    put(80, 128 | 128 << 32);
    header[56..72].copy_from_slice(&[9; 16]);
    header[88..].copy_from_slice(&crc32(&entries).to_le_bytes());
    let sum = crc32(&header);
    header[16..20].copy_from_slice(&sum.to_le_bytes());
    file.write_all_at(&header, SECTOR).unwrap();
}

/// What Debian says of its start.
pub struct Seen {
    /// The kernel's command line.
    pub line: String,
    /// What is mounted as the root, and how.
    pub root: String,
    /// "UEFI" or "BIOS", and by whom the tables of DMI are, a line each.
    pub firmware: String,
    pub console: String,
}

/// Debian from its disk, on which it begins at byte `start`, to its prompt and to its end, each step within `limit`.
pub fn boot_to_the_prompt(guest: Guest, disk: &Path, start: u64, limit: Duration) -> Seen {
    let mut guest = guest.spawn();
    guest.expect("\nostler-debian login: ", limit);
    guest.type_in("root\n");
    guest.expect("root@ostler-debian:~# ", limit);
    guest.type_in("echo BEGIN line; cat /proc/cmdline; echo END line; echo BEGIN root; findmnt -no SOURCE,OPTIONS /; echo END root\n");
    guest.expect("\nEND root\n", limit);
    guest.type_in("echo BEGIN firmware; test -d /sys/firmware/efi && echo UEFI || echo BIOS; cat /sys/class/dmi/id/bios_vendor; echo END firmware\n");
    guest.expect("\nEND firmware\n", limit);
    guest.type_in("poweroff\n");
    let folder = tempfile::tempdir().unwrap();
    let root = folder.path().join("root.img");
    // The guest's own folder goes with it.
    let kept = folder.path().join("disk.img");
    fs::hard_link(disk, &kept)
        .or_else(|_| fs::copy(disk, &kept).map(drop))
        .unwrap();
    let outcome = guest.wait(limit);
    outcome.assert_clean();
    let from = format!("if={}", kept.display());
    let to = format!("of={}", root.display());
    let skip = format!("skip={start}");
    run(
        "dd",
        &[
            &from,
            &to,
            "bs=1M",
            "conv=sparse",
            "iflag=skip_bytes",
            &skip,
            "status=none",
        ],
        folder.path(),
    );
    let size = fs::metadata(&root).unwrap().len();
    let whole = fs::OpenOptions::new().write(true).open(&root).unwrap();
    whole.set_len(size.next_multiple_of(MIB)).unwrap();
    assert_fsck_clean(&root);
    Seen {
        line: outcome.section("line"),
        root: outcome.section("root"),
        firmware: outcome.section("firmware"),
        console: outcome.console,
    }
}
