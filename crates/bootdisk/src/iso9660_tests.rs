//! Images that genisoimage makes, whole and damaged.

use std::fs;
use std::process::Command;

use proptest::prelude::*;

use crate::Error;
use crate::in_memory::find;

const ROOM: u64 = 1 << 20;
const MENU: &str = "set default=1\n\
     menuentry 'another' {\n linux /boot/Another-Kernel\n}\n\
     menuentry 'the system' {\n linux /boot/A-Kernel-6.1.0 quiet\n initrd (cd0)/boot/grub/../initrd.img\n}\n";

/// An image with these files and the options `how`; `None` where there is no genisoimage.
fn image(files: &[(&str, &[u8])], how: &[&str]) -> Option<Vec<u8>> {
    let folder = tempfile::tempdir().unwrap();
    for (path, contents) in files {
        let path = folder.path().join("tree").join(path);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, contents).unwrap();
    }
    let made = Command::new("genisoimage")
        .args(["-quiet", "-V", "MEDIUM", "-o", "image.iso"])
        .args(how)
        .arg("tree")
        .current_dir(folder.path())
        .output();
    let Ok(output) = made else {
        eprintln!("SKIPPED: there is no genisoimage; ./test installs it");
        return None;
    };
    assert!(
        output.status.success(),
        "{}",
        String::from_utf8_lossy(&output.stderr)
    );
    Some(fs::read(folder.path().join("image.iso")).unwrap())
}

fn medium(how: &[&str]) -> Option<Vec<u8>> {
    let kernel: Vec<u8> = (0..50_000u32).map(|n| (n * 7 / 3) as u8).collect();
    let long = format!("boot/{}", "long-name-".repeat(20));
    let files: Vec<(&str, &[u8])> = vec![
        ("boot/grub/grub.cfg", MENU.as_bytes()),
        ("boot/A-Kernel-6.1.0", &kernel),
        ("boot/initrd.img", b"the initrd"),
        (&long, b"long"),
    ];
    image(&files, how)
}

#[test]
fn a_medium_starts_by_its_rock_ridge_names() {
    let Some(disk) = medium(&["-R"]) else { return };
    let system = find(disk, ROOM).unwrap();
    assert_eq!((&*system.title, system.kernel.len()), ("the system", 50_000));
    assert_eq!(system.kernel[49_999], (49_999u32 * 7 / 3) as u8);
    assert_eq!(system.initrd, b"the initrd");
    assert_eq!(system.command_line, "BOOT_IMAGE=/boot/A-Kernel-6.1.0 quiet");
}

#[test]
fn names_without_rock_ridge_are_of_capital_letters() {
    let files: [(&str, &[u8]); 2] = [
        ("boot/grub/grub.cfg", b"linux /boot/vmlinuz a\n"),
        ("boot/vmlinuz", b"kernel"),
    ];
    let Some(disk) = image(&files, &[]) else { return };
    assert_eq!(find(disk, ROOM).unwrap().kernel, b"kernel");
}

#[test]
fn names_that_do_not_fit_into_a_record_go_on_elsewhere() {
    let name = "boot/".to_owned() + &"long-name-".repeat(24);
    let config = format!("linux /{name}\n");
    let files: [(&str, &[u8]); 2] = [("boot/grub/grub.cfg", config.as_bytes()), (&name, b"kernel")];
    let Some(disk) = image(&files, &["-R"]) else {
        return;
    };
    assert_eq!(find(disk, ROOM).unwrap().kernel, b"kernel");
}

#[test]
fn a_folder_of_many_sectors_and_a_search_by_label_and_time() {
    let names: Vec<String> = (0..200)
        .map(|number| format!("pool/package-number-{number}"))
        .collect();
    let config = b"search --label MEDIUM --set=a\nsearch --file /pool/package-number-199 --set=root\nlinux ($a)/pool/package-number-150\n";
    let mut files: Vec<(&str, &[u8])> = names.iter().map(|name| (&**name, name.as_bytes())).collect();
    files.push(("boot/grub/grub.cfg", config));
    let Some(disk) = image(&files, &["-R"]) else {
        return;
    };
    assert_eq!(find(disk, ROOM).unwrap().kernel, b"pool/package-number-150");
}

#[test]
fn a_hybrid_image_is_a_medium_and_has_partitions() {
    let Some(mut disk) = medium(&["-R"]) else { return };
    // A partition table in the area that ISO 9660 leaves to others, with a partition that is no file system.
    disk[0x1be + 4] = 0xef;
    disk[0x1be + 8] = 64;
    disk[0x1be + 12] = 8;
    disk[510..512].copy_from_slice(&[0x55, 0xaa]);
    assert_eq!(find(disk.clone(), ROOM).unwrap().initrd, b"the initrd");
    // One that covers the medium itself.
    disk[0x1be + 8] = 0;
    disk[0x1be + 12..0x1be + 16].copy_from_slice(&400u32.to_le_bytes());
    assert_eq!(find(disk, ROOM).unwrap().initrd, b"the initrd");
}

#[test]
fn what_is_too_large_or_missing_is_named() {
    let Some(disk) = medium(&["-R"]) else { return };
    assert!(matches!(
        find(disk.clone(), 5),
        Err(Error::TooLarge { size: 10, .. })
    ));
    // Half of it: the folders are there, the files are not.
    let Some(disk) = medium(&["-R", "-no-pad"]) else {
        return;
    };
    let short = disk[..disk.len() / 2].to_vec();
    let error = find(short, ROOM).unwrap_err().to_string();
    assert!(error.contains("lies behind its end"), "{error}");
}

#[test]
fn damaged_media_are_read_or_refused() {
    let Some(medium) = medium(&["-R"]) else { return };
    let end = medium.len();
    let mut runner = proptest::test_runner::TestRunner::new(ProptestConfig::with_cases(256));
    // The descriptors and folders are near the start.
    let near = prop::collection::vec((16 * 2048usize..80_000.min(end), any::<u8>()), 1..40);
    let far = prop::collection::vec((16 * 2048usize..end, any::<u8>()), 1..2000);
    let result = runner.run(&prop_oneof![near, far], |changes| {
        let mut disk = medium.clone();
        for (at, byte) in changes {
            disk[at] = byte;
        }
        let _ = find(disk, ROOM);
        Ok(())
    });
    result.unwrap();
}
