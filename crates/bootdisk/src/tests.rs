use std::fs;
use std::io::{Cursor, Write};
use std::path::Path;
use std::process::Command;

use proptest::prelude::*;

use crate::Error;
use crate::in_memory::{Whole, find};

const MIB: usize = 1 << 20;
/// More than any test's initial RAM disk has.
const ROOM: u64 = 1 << 20;

/// A FAT file system with these files.
fn fat(size: usize, files: &[(&str, &[u8])]) -> Vec<u8> {
    let mut bytes = Cursor::new(vec![0; size]);
    let options = fatfs::FormatVolumeOptions::new()
        .volume_id(0x1234_abcd)
        .volume_label(*b"BOOT       ");
    fatfs::format_volume(&mut bytes, options).unwrap();
    bytes.set_position(0);
    let volume = fatfs::FileSystem::new(&mut bytes, fatfs::FsOptions::new()).unwrap();
    for (path, contents) in files {
        let parts: Vec<_> = path.split('/').collect();
        for depth in 1..parts.len() {
            volume.root_dir().create_dir(&parts[..depth].join("/")).unwrap();
        }
        let mut file = volume.root_dir().create_file(path).unwrap();
        file.truncate().unwrap();
        file.write_all(contents).unwrap();
    }
    drop(volume);
    bytes.into_inner()
}

/// An ext4 file system with these files and links; `None` where there is no mke2fs.
fn ext4(size: usize, files: &[(&str, &[u8])], links: &[(&str, &str)]) -> Option<Vec<u8>> {
    let folder = tempfile::tempdir().unwrap();
    let root = folder.path().join("root");
    fs::create_dir(&root).unwrap();
    let make = |path: &str| {
        let path = root.join(path);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        path
    };
    for (path, contents) in files {
        fs::write(make(path), contents).unwrap();
    }
    for (path, target) in links {
        std::os::unix::fs::symlink(target, make(path)).unwrap();
    }
    let image = folder.path().join("image");
    fs::write(&image, vec![0; size]).unwrap();
    let program = ["/sbin/mke2fs", "/usr/sbin/mke2fs"]
        .into_iter()
        .find(|path| Path::new(path).exists());
    let Some(program) = program else {
        eprintln!("SKIPPED: there is no mke2fs; install e2fsprogs");
        return None;
    };
    let output = Command::new(program)
        .args([
            "-q",
            "-F",
            "-t",
            "ext4",
            "-L",
            "system",
            "-U",
            "01234567-89ab-cdef-0123-456789abcdef",
            "-d",
        ])
        .args([&root, &image])
        .output()
        .unwrap();
    assert!(
        output.status.success(),
        "{}",
        String::from_utf8_lossy(&output.stderr)
    );
    Some(fs::read(image).unwrap())
}

/// A disk with an MBR and these partitions, the first of them at 1 MiB.
fn with_mbr(partitions: &[&[u8]]) -> Vec<u8> {
    let mut disk = vec![0; MIB];
    for (index, partition) in partitions.iter().enumerate() {
        let (start, sectors) = ((disk.len() / 512) as u32, (partition.len() / 512) as u32);
        let at = 0x1be + 16 * index;
        disk[at + 4] = 0x83;
        disk[at + 8..at + 12].copy_from_slice(&start.to_le_bytes());
        disk[at + 12..at + 16].copy_from_slice(&sectors.to_le_bytes());
        disk.extend(*partition);
    }
    disk[510..512].copy_from_slice(&[0x55, 0xaa]);
    disk
}

/// A disk with a GPT and these partitions. Checksums are left out: nobody looks at them.
fn with_gpt(partitions: &[&[u8]]) -> Vec<u8> {
    let mut disk = vec![0; MIB];
    disk[0x1be + 4] = 0xee;
    disk[0x1be + 8] = 1;
    disk[510..512].copy_from_slice(&[0x55, 0xaa]);
    disk[512..520].copy_from_slice(b"EFI PART");
    disk[512 + 72] = 2;
    disk[512 + 80] = 128;
    disk[512 + 84] = 128;
    for (index, partition) in partitions.iter().enumerate() {
        let start = (disk.len() / 512) as u64;
        let end = start + (partition.len() / 512) as u64 - 1;
        let at = 1024 + 128 * index;
        disk[at] = 1;
        disk[at + 32..at + 40].copy_from_slice(&start.to_le_bytes());
        disk[at + 40..at + 48].copy_from_slice(&end.to_le_bytes());
        disk.extend(*partition);
    }
    disk.extend([0; 64 * 512]);
    disk
}

/// As grub-mkconfig writes it for Debian, without what only draws.
const DEBIAN: &str = r#"
if [ -s $prefix/grubenv ]; then
  set have_grubenv=true
  load_env
fi
if [ "${next_entry}" ] ; then
   set default="${next_entry}"
   set next_entry=
   save_env next_entry
   set boot_once=true
else
   set default="DEFAULT"
fi
if [ x"${feature_menuentry_id}" = xy ]; then
  menuentry_id_option="--id"
else
  menuentry_id_option=""
fi
export menuentry_id_option
function savedefault {
  if [ -z "${boot_once}" ]; then
    saved_entry="${chosen}"
    save_env saved_entry
  fi
}
function gfxmode {
	set gfxpayload="${1}"
}
if [ "${recordfail}" = 1 ]; then set timeout=30; elif [ x$feature_timeout_style = xy ] ; then set timeout=5
else set timeout=5; fi
menuentry 'Debian GNU/Linux' --class debian --class os $menuentry_id_option 'gnulinux-simple' {
	load_video
	insmod gzio
	if [ x$grub_platform = xxen ]; then insmod xzio; insmod lzopio; fi
	insmod ext2
	set root='hd5,gpt9'
	search --no-floppy --fs-uuid --set=root --hint-bios=hd0,gpt2 01234567-89ab-cdef-0123-456789abcdef
	echo	'Loading Linux 6.1.0-13-amd64 ...'
	linux	/boot/vmlinuz-13 root=UUID=01234567-89ab-cdef-0123-456789abcdef ro  quiet "a b"
	echo	'Loading initial ramdisk ...'
	initrd	/boot/initrd.img-13
}
submenu 'Advanced options' $menuentry_id_option 'advanced' {
	menuentry 'Debian, with Linux 12' $menuentry_id_option 'linux-12' {
		search --label system --set
		linux	/boot/vmlinuz-12 root=/dev/sda1
		initrd	/boot/early /boot/initrd.img-12
	}
	menuentry 'Debian, with Linux 11 (recovery)' --id linux-11 {
		search --file /boot/vmlinuz-12
		linux	/vmlinuz single
	}
}
menuentry "Memory test" --id memtest {
	linux16	/boot/memtest
}
menuentry "System setup" --id fwsetup {
	fwsetup
}
"#;

const ENVIRONMENT: &str = "# GRUB Environment Block\nsaved_entry=advanced>linux-12\n####";

fn debian(default: &str) -> Option<Vec<u8>> {
    let configuration = DEBIAN.replace("DEFAULT", default);
    let kernel = vec![13; 100_000];
    let files: [(&str, &[u8]); 7] = [
        ("boot/grub/grub.cfg", configuration.as_bytes()),
        ("boot/grub/grubenv", ENVIRONMENT.as_bytes()),
        ("boot/vmlinuz-13", &kernel),
        ("boot/vmlinuz-12", b"kernel 12"),
        ("boot/initrd.img-13", b"initrd 13"),
        ("boot/initrd.img-12", b"initrd 12"),
        ("boot/early", b"early"),
    ];
    let long = format!("{}/boot/vmlinuz-12", "/boot/..".repeat(8));
    let links = [("vmlinuz", long.as_str()), ("loop", "loop")];
    ext4(4 * MIB, &files, &links)
}

fn started(disk: Vec<u8>) -> Whole {
    find(disk, ROOM).unwrap()
}

#[test]
fn debians_configuration_starts_its_first_entry() {
    let Some(root) = debian("0") else { return };
    let efi = fat(MIB, &[("EFI/BOOT/BOOTX64.EFI", b"MZ")]);
    for disk in [with_gpt(&[&efi, &root]), with_mbr(&[&efi, &root]), root.clone()] {
        let system = started(disk);
        assert_eq!(system.title, "Debian GNU/Linux");
        assert_eq!(system.kernel, vec![13; 100_000]);
        assert_eq!(system.initrd, b"initrd 13");
        assert_eq!(
            system.command_line,
            "BOOT_IMAGE=/boot/vmlinuz-13 root=UUID=01234567-89ab-cdef-0123-456789abcdef ro quiet \"a b\""
        );
    }
}

#[test]
fn the_default_entry_is_found_by_number_name_and_in_submenus() {
    for (default, title, kernel) in [
        ("1>0", "Debian, with Linux 12", &b"kernel 12"[..]),
        (
            "advanced>linux-11",
            "Debian, with Linux 11 (recovery)",
            b"kernel 12",
        ),
        ("${saved_entry}", "Debian, with Linux 12", b"kernel 12"),
        ("fwsetup", "Debian GNU/Linux", &[13; 100_000]),
        ("no such entry", "Debian GNU/Linux", &[13; 100_000]),
    ] {
        let Some(root) = debian(default) else { return };
        let system = started(with_gpt(&[&root]));
        assert_eq!(system.title, title, "{default}");
        assert_eq!(system.kernel, kernel, "{default}");
    }
    let Some(root) = debian("1>0") else { return };
    let system = started(with_mbr(&[&root]));
    assert_eq!(
        system.initrd, b"early\0\0\0initrd 12",
        "each at a multiple of four"
    );
}

#[test]
fn what_the_default_entry_names_must_be_there() {
    let Some(root) = debian("memtest") else { return };
    let error = find(with_gpt(&[&root]), ROOM).unwrap_err();
    assert_eq!(
        error.to_string(),
        "names the kernel \"/boot/memtest\" for \"Memory test\", which is not there"
    );
    let Some(root) = debian("0") else { return };
    let error = find(with_gpt(&[&root]), 8).unwrap_err();
    assert!(
        matches!(error, Error::TooLarge { size: 9, most: 8, .. }),
        "{error}"
    );
}

#[test]
fn boot_loader_entries_start_the_newest_or_the_one_that_is_asked_for() {
    let entry = |number: u32| {
        format!(
            "title Linux {number}\nversion {number}\nlinux /k{number}\ninitrd /i\noptions root=LABEL=x\noptions n={number}\n"
        )
    };
    let (nine, ten) = (entry(9), entry(10));
    let mut files: Vec<(&str, &[u8])> = vec![
        ("loader/entries/linux-9.conf", nine.as_bytes()),
        ("loader/entries/linux-10.conf", ten.as_bytes()),
        ("k9", b"nine"),
        ("k10", b"ten"),
        ("i", b"initrd"),
    ];
    let system = started(with_gpt(&[&fat(MIB, &files)]));
    assert_eq!(
        (system.title.as_str(), &system.kernel[..]),
        ("Linux 10", &b"ten"[..])
    );
    assert_eq!(system.command_line, "root=LABEL=x n=10");
    assert_eq!(system.initrd, b"initrd");
    files.push(("loader/loader.conf", b"timeout 3\ndefault linux-9*\n"));
    assert_eq!(started(fat(MIB, &files)).kernel, b"nine");
    // As Fedora has it.
    files.push(("grub2/grub.cfg", b"insmod blscfg\nblscfg\nset default=linux-9\n"));
    assert_eq!(started(with_mbr(&[&fat(MIB, &files)])).title, "Linux 9");
}

#[test]
fn a_configuration_without_entries_starts_what_it_loads() {
    let configuration =
        b"serial --unit=0\nset root=hd0,msdos1\nlinux /vmlinuz console=ttyS0\ninitrd /initrd.img\nboot\n";
    let files: [(&str, &[u8]); 3] = [
        ("boot/grub/grub.cfg", configuration),
        ("vmlinuz", b"kernel"),
        ("initrd.img", b"initrd"),
    ];
    let system = started(with_mbr(&[&fat(MIB, &files)]));
    assert_eq!(system.kernel, b"kernel");
    assert_eq!(system.command_line, "BOOT_IMAGE=/vmlinuz console=ttyS0");
}

#[test]
fn logical_partitions_are_seen() {
    let files: [(&str, &[u8]); 2] = [("grub/grub.cfg", b"linux (hd0,5)/k\n"), ("k", b"kernel")];
    let inner = fat(MIB, &files);
    let mut extended = with_mbr(&[&inner]);
    // Relative to the table before it, which is what with_mbr wrote.
    extended[0x1be + 4] = 0x0c;
    let mut disk = with_mbr(&[&extended]);
    disk[0x1be + 4] = 0x05;
    assert_eq!(started(disk).kernel, b"kernel");
}

#[test]
fn a_disk_without_a_system_says_what_is_there() {
    let message = |disk: Vec<u8>| find(disk, ROOM).unwrap_err().to_string();
    let none = "has no GRUB configuration and no boot loader entries";
    assert_eq!(
        message(vec![0; MIB]),
        format!("{none} (all of it is of an unknown kind)")
    );
    assert_eq!(
        message(Vec::new()),
        format!("{none} (all of it is of an unknown kind)")
    );
    let disk = with_gpt(&[&fat(MIB, &[]), &[0; 4096]]);
    assert_eq!(
        message(disk),
        format!("{none} (partition 1 is FAT, partition 2 is of an unknown kind)")
    );
    let files: [(&str, &[u8]); 1] = [("grub/grub.cfg", b"menuentry x {\n chainloader +1\n}\n")];
    assert!(message(fat(MIB, &files)).contains("none of its entries starts Linux"));
    let files: [(&str, &[u8]); 1] = [("grub/grub.cfg", b"set root=lvm/x\nlinux /vmlinuz\n")];
    assert!(message(fat(MIB, &files)).contains("the device \"lvm/x\""));
}

#[test]
fn a_folder_that_leads_in_circles_ends() {
    let mut disk = fat(MIB, &[("grub/x", b"x")]);
    // FAT12: two tables of one or more sectors after the boot sector. Every entry leads to cluster 2, the folder's own.
    let tables = u16::from_le_bytes([disk[22], disk[23]]) as usize * 2 * 512;
    for byte in disk[512..512 + tables].chunks_exact_mut(3) {
        byte.copy_from_slice(&[0x02, 0x20, 0x00]);
    }
    // A folder without an end, and a file in the root that never ends either.
    let data = 512 + tables + u16::from_le_bytes([disk[17], disk[18]]) as usize * 32;
    for entry in disk[data..data + 2048].chunks_exact_mut(32) {
        entry.copy_from_slice(b"Y          \x20\0\0\0\0\0\0\0\0\0\0\0\0\0\0\x02\0\xff\xff\xff\xff");
    }
    assert!(find(disk, ROOM).is_err());
}

#[test]
fn sizes_that_would_exhaust_the_host_are_refused() {
    let Some(root) = debian("0") else { return };
    let spoils: &[(usize, &[u8])] = &[
        (0x18, &[21, 0, 0, 0]),
        (0x4, &[0xff; 4]),
        (0x20, &[1, 0, 0, 0]),
        (0xe0, &[9, 0, 0, 0]),
    ];
    for (at, bytes) in spoils {
        let mut disk = root.clone();
        disk[1024 + at..1024 + at + bytes.len()].copy_from_slice(bytes);
        let error = find(disk, ROOM).unwrap_err();
        assert!(matches!(error, Error::Damaged(_)), "{at:#x}: {error}");
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(256))]

    #[test]
    fn a_damaged_fat_image_is_read_or_refused(changes in prop::collection::vec((0usize..40_000, any::<u8>()), 1..40)) {
        let files: [(&str, &[u8]); 3] = [
            ("boot/grub/grub.cfg", DEBIAN.as_bytes()),
            ("boot/vmlinuz-13", b"kernel"),
            ("loader/entries/a long name of an entry.conf", b"linux /k\n"),
        ];
        let mut disk = fat(256 << 10, &files);
        for (at, byte) in changes {
            disk[at] = byte;
        }
        let _ = find(disk, ROOM);
    }

    #[test]
    fn a_damaged_table_of_partitions_is_read_or_refused(changes in prop::collection::vec((0x1be_usize..1600, any::<u8>()), 1..40), gpt: bool) {
        let files: [(&str, &[u8]); 2] = [("grub/grub.cfg", b"linux /k\n"), ("k", b"kernel")];
        let part = fat(128 << 10, &files);
        let mut disk = if gpt { with_gpt(&[&part, &part]) } else { with_mbr(&[&part, &part]) };
        for (at, byte) in changes {
            if !(508..520).contains(&at) {
                disk[at] = byte;
            }
        }
        let _ = find(disk, ROOM);
    }

    #[test]
    fn any_script_is_followed_or_refused(
        lines in prop::collection::vec(prop::sample::select(vec![
            "if", "then", "else", "elif", "fi", "{", "}", "menuentry x", "submenu y", "function f", "for a in b", "do", "done",
            "[ -e /k ]", "linux /k a", "linux $root", "initrd /k /k", "search -f /k", "search --set", "set default=$default>1",
            "set a=\"$a$a$a x\"", "configfile /grub/grub.cfg", "load_env -f /k", "blscfg", "\"", "'", "\\", "$", "${", ";", "!", "#",
        ]), 0..60),
    ) {
        let text = lines.join("\n");
        let files: [(&str, &[u8]); 2] = [("grub/grub.cfg", text.as_bytes()), ("k", b"a=b\nlinux /k\n")];
        let _ = find(fat(128 << 10, &files), ROOM);
    }

    #[test]
    fn any_text_is_a_script_or_none(text in ".{0,200}") {
        let files: [(&str, &[u8]); 2] = [("grub/grub.cfg", text.as_bytes()), ("loader/entries/a.conf", text.as_bytes())];
        let _ = find(fat(128 << 10, &files), ROOM);
    }
}

#[test]
fn damaged_ext4_images_are_read_or_refused() {
    let Some(root) = debian("0") else { return };
    let mut runner = proptest::test_runner::TestRunner::new(ProptestConfig::with_cases(256));
    // The superblock, group descriptors, and inodes with extents; then anything.
    let near = prop::collection::vec((1024usize..200_000, any::<u8>()), 1..60);
    let far = prop::collection::vec((1024usize..4 * MIB, any::<u8>()), 1..2000);
    let superblock = prop::collection::vec((1024usize..1400, any::<u8>()), 1..6);
    let changes = prop_oneof![near, far, superblock];
    let result = runner.run(&changes, |changes| {
        let mut disk = root.clone();
        for (at, byte) in changes {
            disk[at] = byte;
        }
        let _ = find(disk, ROOM);
        Ok(())
    });
    result.unwrap();
}
