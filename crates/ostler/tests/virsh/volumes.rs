//! Volumes.

use std::fs::{self, File};
use std::io::Read;
use std::os::unix::fs::{FileExt, MetadataExt};
use std::path::{Path, PathBuf};
use std::process::Command;

use crate::pools::Loop;
use crate::setup::{Host, field};

pub const MIB: u64 = 1 << 20;

pub fn sha256(path: &Path) -> String {
    let output = Command::new("sha256sum").arg(path).output().unwrap();
    assert!(output.status.success(), "{}", path.display());
    String::from_utf8(output.stdout).unwrap()[..64].to_owned()
}

/// Bytes that a file takes on the disk, once all of it is there.
pub fn taken(path: &Path) -> u64 {
    let file = File::open(path).unwrap();
    file.sync_all().unwrap();
    file.metadata().unwrap().blocks() * 512
}

/// A file of bytes that no compression and no detection of zeroes makes smaller.
pub fn noise(path: &Path, length: usize) -> Vec<u8> {
    let mut word = 0x9e37_79b9_7f4a_7c15u64;
    let mut bytes = Vec::with_capacity(length + 8);
    while bytes.len() < length {
        word ^= word << 13;
        word ^= word >> 7;
        word ^= word << 17;
        bytes.extend(word.to_le_bytes());
    }
    bytes.truncate(length);
    fs::write(path, &bytes).unwrap();
    bytes
}

impl Host {
    pub fn volume(&self, name: &str) -> PathBuf {
        self.path("images").join(name)
    }
}

#[test]
fn a_volume_is_a_file() {
    let host = Host::start();
    host.virsh("vol-create-as default thin 100M --allocation 0");
    let thin = host.volume("thin");
    let meta = thin.metadata().unwrap();
    assert_eq!((meta.len(), meta.mode() & 0o777), (100 * MIB, 0o600));
    assert!(taken(&thin) < MIB);
    // Without an allocation all of it is there from the start.
    host.virsh("vol-create-as default full 3M");
    assert!(taken(&host.volume("full")) >= 3 * MIB);
    let info = host.virsh("vol-info --bytes thin default");
    assert_eq!(field(&info, "Type"), "file");
    assert_eq!(field(&info, "Capacity"), format!("{} bytes", 100 * MIB));
    assert_eq!(field(&info, "Allocation"), format!("{} bytes", taken(&thin)));
    let physical = host.virsh("vol-info --bytes --physical full --pool default");
    assert_eq!(field(&physical, "Physical"), format!("{} bytes", 3 * MIB));
    // QEMU's tool sees the same.
    let seen = Command::new("qemu-img")
        .args(["info", "--output=json"])
        .arg(&thin)
        .output();
    let seen = String::from_utf8(seen.expect("qemu-img (package qemu-utils) runs").stdout).unwrap();
    assert!(
        seen.contains("\"virtual-size\": 104857600") && seen.contains("\"format\": \"raw\""),
        "{seen}"
    );

    let path = thin.display().to_string();
    for command in ["vol-path thin default", "vol-key thin default"] {
        assert_eq!(host.virsh(command).trim(), path);
    }
    assert_eq!(host.virsh(&format!("vol-name {path}")).trim(), "thin");
    assert_eq!(host.virsh(&format!("vol-pool {path}")).trim(), "default");
    let xml = host.virsh("vol-dumpxml thin default");
    for part in [
        "<capacity unit='bytes'>104857600</capacity>",
        "<format type='raw'/>",
        "<mode>0600</mode>",
    ] {
        assert!(xml.contains(part), "{part} in {xml}");
    }
    let list = host.virsh("vol-list default --details");
    assert!(list.contains("full") && list.contains("100.00 MiB"), "{list}");

    // A document with all that a client may say; and names that another place would read differently.
    let document = |name: &str, more: &str| {
        format!(
            "<volume><name>{name}</name><capacity unit='KiB'>64</capacity><allocation>0</allocation>{more}</volume>"
        )
    };
    let permissions = "<target><format type='raw'/><permissions><mode>0640</mode><owner>1</owner><group>2</group></permissions></target>";
    let file = host.xml("v.xml", &document("a b &amp; ç", permissions));
    host.virsh(&format!("vol-create default {file}"));
    let meta = host.volume("a b & ç").metadata().unwrap();
    assert_eq!(
        (meta.len(), meta.mode() & 0o777, meta.uid(), meta.gid()),
        (65536, 0o640, 1, 2)
    );
    for (document, says) in [
        (document("../a", ""), "cannot contain '/'"),
        (document("..", ""), "name '..'"),
        (document("thin", ""), "storage volume exists already: 'thin'"),
        (
            document("q", "<target><format type='qcow2'/></target>"),
            "images have to be raw",
        ),
        (
            document("b", "<backingStore><path>/etc/shadow</path></backingStore>"),
            "a raw image has none",
        ),
        (
            "<volume><name>n</name><capacity unit='EiB'>7</capacity><allocation>0</allocation></volume>"
                .into(),
            "cannot make the volume",
        ),
        ("<volume><name>n</name></volume>".into(), "missing capacity"),
    ] {
        let file = host.xml("v.xml", &document);
        let said = host.refused(&format!("vol-create default {file}"));
        assert!(said.contains(says), "{document}: {said}");
    }
    let said = host.refused("vol-create-as default q 1M --format qcow2");
    assert!(said.contains("images have to be raw"), "{said}");
    assert!(
        host.refused("vol-create-as default p 1M --prealloc-metadata")
            .contains("no metadata")
    );
    assert_eq!(
        fs::read_dir(host.path("images")).unwrap().count(),
        3,
        "nothing of what was refused stays"
    );
    host.virsh("vol-delete thin default");
    assert!(!thin.exists());
    let said = host.refused("vol-delete thin default");
    assert!(said.contains("failed to get vol 'thin'"), "{said}");
}

#[test]
fn what_is_no_raw_image_is_told_as_such_and_left_alone() {
    let host = Host::start();
    let image = host.volume("disk.qcow2");
    let made = Command::new("qemu-img")
        .args(["create", "-q", "-f", "qcow2"])
        .arg(&image)
        .arg("7M")
        .status();
    assert!(made.expect("qemu-img (package qemu-utils) runs").success());
    let before = sha256(&image);
    let xml = host.virsh("vol-dumpxml disk.qcow2 default");
    assert!(xml.contains("<format type='qcow2'/>"), "{xml}");
    assert!(xml.contains("<capacity unit='bytes'>7340032</capacity>"), "{xml}");
    for command in ["vol-resize disk.qcow2 8M default", "vol-wipe disk.qcow2 default"] {
        let said = host.refused(command);
        assert!(said.contains("is a qcow2 image, and only raw ones"), "{said}");
    }
    host.refused("vol-clone disk.qcow2 copy default");
    assert_eq!(sha256(&image), before);
    // Links are no volumes, wherever they lead.
    fs::write(host.path("outside"), "secret").unwrap();
    std::os::unix::fs::symlink(host.path("outside"), host.volume("link")).unwrap();
    assert!(!host.virsh("vol-list default").contains("link"));
    assert!(
        host.refused("vol-info link default")
            .contains("failed to get vol")
    );
    let got = host.path("got");
    host.refused(&format!(
        "vol-download {} {}",
        host.volume("link").display(),
        got.display()
    ));
    assert!(fs::read(&got).unwrap_or_default().is_empty());
}

#[test]
fn a_copy_has_what_its_source_has() {
    let host = Host::start();
    host.virsh("vol-create-as default fs 64M --allocation 0");
    let source = host.volume("fs");
    let mke2fs = Command::new("/sbin/mke2fs")
        .args(["-q", "-F", "-t", "ext4", "-d", "/usr/share/doc/bash"])
        .arg(&source)
        .status();
    assert!(mke2fs.expect("mke2fs (package e2fsprogs) runs").success());
    // All of it allocated, most of it zeroes: the copy is sparse nevertheless.
    let allocated = File::options().write(true).open(&source).unwrap();
    rustix::fs::fallocate(&allocated, rustix::fs::FallocateFlags::empty(), 0, 64 * MIB).unwrap();
    drop(allocated);
    assert!(taken(&source) >= 64 * MIB);
    host.virsh("vol-clone fs copy default");
    let copy = host.volume("copy");
    assert_eq!(sha256(&copy), sha256(&source));
    assert!(taken(&copy) < 32 * MIB, "{}", taken(&copy));
    let checked = Command::new("/sbin/e2fsck")
        .args(["-f", "-n"])
        .arg(&copy)
        .output()
        .unwrap();
    assert!(
        checked.status.success(),
        "{}",
        String::from_utf8_lossy(&checked.stdout)
    );

    // Into another pool, larger, and from there back.
    host.virsh(&format!(
        "pool-create-as other dir --target {} --build",
        host.path("other").display()
    ));
    let larger = host.xml(
        "v.xml",
        "<volume><name>larger</name><capacity unit='MiB'>80</capacity></volume>",
    );
    host.virsh(&format!("vol-create-from other {larger} fs --inputpool default"));
    let larger = host.path("other/larger");
    assert_eq!(larger.metadata().unwrap().len(), 80 * MIB);
    let compared = Command::new("cmp")
        .args(["-n", "67108864"])
        .arg(&source)
        .arg(&larger)
        .status()
        .unwrap();
    assert!(compared.success());
    let smaller = host.xml(
        "v.xml",
        "<volume><name>smaller</name><capacity>1</capacity></volume>",
    );
    host.virsh(&format!(
        "vol-create-from default {smaller} larger --inputpool other"
    ));
    assert_eq!(
        sha256(&host.volume("smaller")),
        sha256(&larger),
        "no copy is cut off"
    );
    // Where blocks cannot be shared, a copy that has to share them is none.
    let output = host
        .command("vol-clone fs shared default --reflink")
        .output()
        .unwrap();
    match output.status.success() {
        true => assert_eq!(sha256(&host.volume("shared")), sha256(&source)),
        false => {
            let said = String::from_utf8_lossy(&output.stderr);
            assert!(said.contains("with its blocks shared"), "{said}");
            assert!(!host.volume("shared").exists());
        }
    }
    assert!(
        host.refused("vol-clone fs copy default")
            .contains("exists already")
    );
}

#[test]
fn another_size_and_no_contents() {
    let host = Host::start();
    host.virsh("vol-create-as default v 4M --allocation 0");
    let path = host.volume("v");
    noise(&host.path("noise"), 3 << 20);
    host.virsh(&format!("vol-upload v {} default", host.path("noise").display()));
    let length = || path.metadata().unwrap().len();
    // Nothing is cut off by an upload that is shorter.
    assert_eq!(length(), 4 * MIB);
    for (arguments, size) in [
        ("8M", 8),
        ("2M --delta", 10),
        ("--capacity=-1M --delta --shrink", 9),
        ("4M --shrink", 4),
        ("6M --allocate", 6),
    ] {
        host.virsh(&format!("vol-resize v {arguments} --pool default"));
        assert_eq!(length(), size * MIB, "{arguments}");
    }
    assert!(
        taken(&path) >= 5 * MIB,
        "what was added last is allocated: {}",
        taken(&path)
    );
    let said = host.refused("vol-resize v 1M default");
    assert!(said.contains("shrink"), "{said}");
    let said = host.refused("vol-resize v 7E default");
    assert!(said.contains("cannot resize 'v'"), "{said}");
    assert_eq!(length(), 6 * MIB);
    let mut begin = vec![0; 3 << 20];
    File::open(&path).unwrap().read_exact_at(&mut begin, 0).unwrap();
    assert!(
        begin == fs::read(host.path("noise")).unwrap(),
        "the contents changed"
    );

    let said = host.refused("vol-wipe v --algorithm dod default");
    assert!(said.contains("with zeroes only"), "{said}");
    host.virsh("vol-wipe v default");
    assert_eq!(length(), 6 * MIB);
    let mut wiped = Vec::new();
    File::open(&path).unwrap().read_to_end(&mut wiped).unwrap();
    assert!(wiped.iter().all(|byte| *byte == 0));
    assert!(taken(&path) >= 3 * MIB, "overwritten, not forgotten");
}

/// On XFS, which can do that.
#[test]
fn copies_share_their_blocks_where_the_file_system_can() {
    let skipped = |why: &str| println!("SKIPPED copies_share_their_blocks_where_the_file_system_can: {why}");
    let host = Host::start();
    let image = host.path("xfs.img");
    // As small as the tool makes one.
    File::create(&image).unwrap().set_len(320 * MIB).unwrap();
    match Command::new("/sbin/mkfs.xfs").arg("-q").arg(&image).status() {
        Ok(status) => assert!(status.success()),
        Err(_) => return skipped("it needs xfsprogs"),
    }
    let Some(device) = Loop::new(&image) else {
        return skipped("the host gives no loop device");
    };
    let target = host.path("mnt");
    host.virsh(&format!(
        "pool-create-as x fs --source-dev {} --source-format xfs --target {} --build",
        device.0,
        target.display()
    ));
    let source = target.join("source");
    host.virsh("vol-create-as x source 100M --allocation 0");
    noise(&source, 100 << 20);
    let available = || {
        let info = host.virsh("pool-info --bytes x");
        field(&info, "Available").parse::<u64>().unwrap()
    };
    assert!(taken(&source) >= 100 * MIB);
    let before = available();
    host.virsh("vol-clone source shared x --reflink");
    host.virsh("vol-clone source also x");
    assert!(taken(&target.join("shared")) >= 100 * MIB);
    assert!(
        before.abs_diff(available()) < 16 * MIB,
        "{before} {}",
        available()
    );
    assert_eq!(sha256(&target.join("also")), sha256(&source));
    // What is written to one is not in the other.
    host.virsh("vol-wipe source x");
    assert_ne!(sha256(&target.join("shared")), sha256(&source));
    assert_eq!(sha256(&target.join("also")), sha256(&target.join("shared")));
    host.virsh("pool-destroy x");
}
