//! Disks and images that Debian's firmware starts from: GRUB, Debian's kernel, and an initramfs of the tests.

use std::fs;
use std::io::Write;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::process::Command;

/// Sectors before the disk's partition, and in all.
pub const PARTITION: u32 = 2048;
const SECTORS: u32 = 48 * 2048;
/// The type of an EFI system partition.
const EFI: u8 = 0xef;

const MODULES: [&str; 9] = [
    "part_msdos",
    "fat",
    "linux",
    "serial",
    "echo",
    "normal",
    "reboot",
    "halt",
    "configfile",
];

/// What the boot loader does as soon as it runs.
pub const GRUB_COMMANDS: &str = "serial --unit=0 --speed=115200\n\
     terminal_input serial\n\
     terminal_output serial\n\
     set root=hd0,msdos1\n\
     echo THE BOOT LOADER IS UP\n\
     linux /vmlinuz console=ttyS0 panic=-1 quiet\n\
     initrd /initrd.img\n\
     boot\n";

/// Runs a program to its good end.
pub fn run(program: &str, args: &[&str], folder: &Path) {
    let output = Command::new(program).args(args).current_dir(folder).output();
    let output = output.unwrap_or_else(|error| panic!("{program}: {error}"));
    assert!(
        output.status.success(),
        "{program} {args:?}: {}",
        String::from_utf8_lossy(&output.stderr)
    );
}

/// `boot.img` in `folder`: GRUB for a BIOS and for UEFI, and a FAT partition with the kernel of `guest` and its initramfs, to which
/// `overlay` is appended.
pub fn make_disk(folder: &Path, guest: &Path, overlay: &[u8]) -> PathBuf {
    fs::write(folder.join("grub.cfg"), GRUB_COMMANDS).unwrap();
    for (format, output, more) in [
        ("i386-pc", "core.img", &["biosdisk"][..]),
        ("x86_64-efi", "bootx64.efi", &[]),
    ] {
        if !Path::new("/usr/lib/grub").join(format).exists() {
            continue;
        }
        let mut args = vec!["-O", format, "-o", output, "-p", "/boot/grub", "-c", "grub.cfg"];
        args.extend(MODULES);
        args.extend(more);
        run("grub-mkimage", &args, folder);
    }
    let disk = folder.join("boot.img");
    fs::File::create(&disk)
        .unwrap()
        .set_len(u64::from(SECTORS) * 512)
        .unwrap();
    if folder.join("core.img").exists() {
        write_boot_code(&disk, &folder.join("core.img"));
    }
    write_mbr(&disk, EFI, SECTORS - PARTITION);
    let at = format!("boot.img@@{}", u64::from(PARTITION) * 512);
    let sectors = (SECTORS - PARTITION).to_string();
    run(
        "mformat",
        &["-i", &at, "-T", &sectors, "-h", "16", "-s", "63", "::"],
        folder,
    );
    run("mmd", &["-i", &at, "::/EFI", "::/EFI/BOOT"], folder);
    if folder.join("bootx64.efi").exists() {
        run(
            "mcopy",
            &["-i", &at, "bootx64.efi", "::/EFI/BOOT/BOOTX64.EFI"],
            folder,
        );
    }
    let kernel = guest.join("vmlinuz");
    run(
        "mcopy",
        &["-i", &at, kernel.to_str().unwrap(), "::/vmlinuz"],
        folder,
    );
    let mut initrd = fs::read(guest.join("initrd.img")).unwrap();
    initrd.extend(overlay);
    fs::write(folder.join("initrd.img"), initrd).unwrap();
    run("mcopy", &["-i", &at, "initrd.img", "::/initrd.img"], folder);
    disk
}

/// GRUB's first sector, and its core after it, where the first sector looks for it.
pub fn write_boot_code(disk: &Path, core: &Path) {
    let core = fs::read(core).unwrap();
    assert!(core.len() < (PARTITION as usize - 1) * 512);
    let mut start = fs::read("/usr/lib/grub/i386-pc/boot.img").unwrap();
    start.extend(core);
    let mut file = fs::OpenOptions::new().write(true).open(disk).unwrap();
    file.write_all(&start).unwrap();
}

/// One partition of this type and of so many sectors, active.
pub fn write_mbr(disk: &Path, kind: u8, sectors: u32) {
    let file = fs::OpenOptions::new().write(true).open(disk).unwrap();
    let mut table = [0; 66];
    table[..8].copy_from_slice(&[0x80, 0xfe, 0xff, 0xff, kind, 0xfe, 0xff, 0xff]);
    table[8..12].copy_from_slice(&PARTITION.to_le_bytes());
    table[12..16].copy_from_slice(&sectors.to_le_bytes());
    table[64..].copy_from_slice(&[0x55, 0xaa]);
    file.write_all_at(&table, 0x1be).unwrap();
}

/// `image.iso` in `folder` of what is in `tree` there: a hybrid image, with El Torito for both kinds of firmware and partition tables
/// for who takes it for a disk. GRUB on it reads `tree/boot/grub/grub.cfg`.
pub fn make_hybrid_image(folder: &Path) -> PathBuf {
    let modules = "linux normal echo read test configfile iso9660 part_msdos part_gpt search halt reboot all_video serial";
    let modules = format!("--install-modules={modules}");
    let words = [
        "--output=image.iso",
        "--locales=",
        "--fonts=",
        "--themes=",
        &modules,
        "tree",
    ];
    run("grub-mkrescue", &words, folder);
    folder.join("image.iso")
}
