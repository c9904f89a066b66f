//! Systems on disks that start without firmware: `ostler run --disk` finds the kernel as the disk's boot loader would.

mod support;

use std::fs;
use std::path::Path;
use std::process::Command;
use std::time::Duration;

use support::system_disk::{
    EFI_SECTORS, Seen, UEFI_ROOT, boot_to_the_prompt, copy_debian, debian, empty_disk, make_efi_partition,
    write_gpt, write_linux_mbr,
};
use support::{Guest, OSTLER, guest_folder};

/// The nextest profile ends a hang before.
const LIMIT: Duration = Duration::from_secs(600);
const SECTOR: u64 = 512;
const MIB: u64 = 1 << 20;

fn is_there(test: &str, programs: &[&str]) -> bool {
    let missing: Vec<_> = programs.iter().filter(|path| !Path::new(path).exists()).collect();
    if !missing.is_empty() {
        eprintln!("SKIPPED {test}: there is no {missing:?}; ./test installs mtools and e2fsprogs");
    }
    missing.is_empty()
}

/// A FAT partition for EFI at 1 MiB of `disk` with a boot loader entry for `kernel` and `initrd`.
fn write_efi_partition(folder: &Path, kernel: &Path, initrd: &Path, options: &str) {
    let entry = format!(
        "title Debian\nversion 12\nlinux /debian/vmlinuz\ninitrd /debian/initrd.img\noptions {options}\n"
    );
    fs::write(folder.join("entry"), entry).unwrap();
    make_efi_partition(
        folder,
        &["::/loader", "::/loader/entries", "::/debian"],
        &[
            (Path::new("entry"), "::/loader/entries/debian-12.conf"),
            (kernel, "::/debian/vmlinuz"),
            (initrd, "::/debian/initrd.img"),
        ],
    );
}

#[test]
fn boot_loader_entries_on_an_efi_partition_start_linux() {
    let test = "boot_loader_entries_on_an_efi_partition_start_linux";
    if !is_there(test, &["/usr/bin/mcopy"]) {
        return;
    }
    let guest = Guest::new(1).memory("512M").starts_from_disk();
    let folder = guest.folder.path().to_owned();
    let disk = folder.join("disk.img");
    fs::File::create(&disk).unwrap().set_len(UEFI_ROOT + MIB).unwrap();
    let script = "echo BEGIN line; cat /proc/cmdline; echo END line; cat /sys/block/vda/vda1/size";
    let mut initrd = fs::read(guest_folder().join("initrd.img")).unwrap();
    initrd.extend(ostler_guest_image::overlay(script, &[]));
    fs::write(folder.join("initrd"), initrd).unwrap();
    write_efi_partition(
        &folder,
        &guest_folder().join("vmlinuz"),
        Path::new("initrd"),
        "console=ttyS0 panic=-1",
    );
    write_gpt(&disk, &[(2048, EFI_SECTORS)]);
    let guest = guest
        .append("ostler.test=1")
        .args(["--accel", "soft", "--disk", disk.to_str().unwrap()]);
    let outcome = guest.run(LIMIT);
    outcome.assert_clean();
    assert_eq!(outcome.section("line"), "console=ttyS0 panic=-1 ostler.test=1\n");
    assert!(outcome.console.contains("\n131072\n"), "{}", outcome.console);
}

fn direct(guest: Guest, disk: &Path) -> Guest {
    guest.append("systemd.default_timeout_start_sec=600").args([
        "--accel",
        "soft",
        "--disk",
        disk.to_str().unwrap(),
    ])
}

#[test]
fn debian_starts_by_its_grub_configuration_from_an_mbr_disk() {
    let test = "debian_starts_by_its_grub_configuration_from_an_mbr_disk";
    let Some(made) = debian(test) else { return };
    if !is_there(test, &["/sbin/debugfs"]) {
        return;
    }
    let guest = Guest::new(2).memory("1G").starts_from_disk();
    let folder = guest.folder.path().to_owned();
    let disk = empty_disk(&folder, &made, MIB);
    // As grub-mkconfig writes it, for the links that Debian has in its root.
    let configuration = "\
        if [ -s $prefix/grubenv ]; then\n  load_env\nfi\nset default=\"0\"\n\
        menuentry 'Debian GNU/Linux' --class debian --id gnulinux-simple {\n\
        \tinsmod part_msdos\n\tinsmod ext2\n\tset root='hd0,msdos1'\n\
        \tsearch --no-floppy --fs-uuid --set=root --hint-bios=hd0,msdos1 UUID-OF-ROOT\n\
        \techo 'Loading Linux ...'\n\
        \tlinux /vmlinuz root=UUID=UUID-OF-ROOT ro console=ttyS0 quiet\n\
        \tinitrd /initrd.img\n}\n";
    let uuid = copy_debian(&made, &folder, MIB, &[("boot/grub/grub.cfg", configuration)]);
    write_linux_mbr(&disk);
    let Seen { line, root, .. } = boot_to_the_prompt(direct(guest, &disk), &disk, MIB, LIMIT);
    assert_eq!(
        line,
        format!(
            "BOOT_IMAGE=/vmlinuz root=UUID={uuid} ro console=ttyS0 quiet systemd.default_timeout_start_sec=600\n"
        )
    );
    assert!(root.starts_with("/dev/vda1 rw,"), "{root}");
}

#[test]
fn debian_starts_by_a_boot_loader_entry_from_a_gpt_disk() {
    let test = "debian_starts_by_a_boot_loader_entry_from_a_gpt_disk";
    if std::env::var_os("OSTLER_NIGHTLY").is_none() {
        eprintln!("{test}: only with OSTLER_NIGHTLY, as ./test --nightly sets it");
        return;
    }
    let Some(made) = debian(test) else { return };
    if !is_there(test, &["/sbin/debugfs", "/usr/bin/mcopy"]) {
        return;
    }
    let guest = Guest::new(2).memory("1G").starts_from_disk();
    let folder = guest.folder.path().to_owned();
    let start = UEFI_ROOT;
    let disk = empty_disk(&folder, &made, start);
    let options = "root=PARTUUID=02020202-0202-0202-0202-020202020202 ro console=ttyS0 quiet";
    write_efi_partition(&folder, &made.join("vmlinuz"), &made.join("initrd.img"), options);
    copy_debian(&made, &folder, start, &[]);
    let size = fs::metadata(made.join("disk.img")).unwrap().len() / SECTOR;
    write_gpt(&disk, &[(2048, EFI_SECTORS), (start / SECTOR, size)]);
    let Seen { line, root, .. } = boot_to_the_prompt(direct(guest, &disk), &disk, start, LIMIT);
    assert_eq!(line, format!("{options} systemd.default_timeout_start_sec=600\n"));
    assert!(root.starts_with("/dev/vda2 rw,"), "{root}");
}

#[test]
fn a_disk_without_a_system_is_refused_in_one_sentence() {
    let folder = tempfile::tempdir().unwrap();
    fs::write(folder.path().join("empty.img"), vec![0; 1 << 20]).unwrap();
    let output = Command::new(OSTLER)
        .args(["run", "--accel", "soft", "--disk", "empty.img"])
        .current_dir(folder.path())
        .output()
        .unwrap();
    assert_eq!(output.status.code(), Some(2));
    assert_eq!(
        String::from_utf8_lossy(&output.stderr),
        "ostler: the disk \"empty.img\" has no GRUB configuration and no boot loader entries (all of it is of an unknown kind); \
         start it with --firmware bios or --firmware uefi, or name a --kernel\n"
    );
}
