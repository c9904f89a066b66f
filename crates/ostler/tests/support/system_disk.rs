//! Debian 12 with systemd (`tools/guest-disk`) as a partition of a disk.

use std::fs;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};

use super::boot_disk::{run, write_boot_code, write_mbr};
use super::guest_folder;

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
    \tinsmod part_msdos\n\tinsmod ext2\n\
    \tsearch --no-floppy --fs-uuid --set=root UUID-OF-ROOT\n\
    \techo 'Loading Linux ...'\n\
    \tlinux /vmlinuz root=UUID=UUID-OF-ROOT ro console=ttyS0 systemd.default_timeout_start_sec=600\n\
    \tinitrd /initrd.img\n}\n";

/// What is in GRUB's core, beside what it reads from its folder.
const GRUB_MODULES: [&str; 14] = [
    "biosdisk",
    "part_msdos",
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

/// `disk.img` in `folder`: Debian on one partition, with GRUB for a BIOS, as an installation leaves it.
pub fn make_bootable_debian(made: &Path, folder: &Path) -> PathBuf {
    let disk = empty_disk(folder, made, MIB);
    copy_debian(made, folder, MIB, &[("boot/grub/grub.cfg", GRUB_CONFIGURATION)]);
    let prefix = "(hd0,msdos1)/boot/grub";
    let mut args = vec!["-O", "i386-pc", "-o", "core.img", "-p", prefix];
    args.extend(GRUB_MODULES);
    run("grub-mkimage", &args, folder);
    write_boot_code(&disk, &folder.join("core.img"));
    write_linux_mbr(&disk);
    disk
}
