//! Debian's virt-install, unmodified, at `ostler daemon`.

mod sets;

use std::fs;
use std::path::Path;
use std::process::Command;

use crate::console::Console;
use crate::firmware::boot_sector;
use crate::setup::Host;
use crate::support::guest_folder;
use crate::virtinst::{is_there, printed, program};

/// Runs virt-install; its options are separated by blanks. `boot` is the value of `--boot`.
fn virt_install(host: &Host, name: &str, options: &str, boot: Option<&str>) {
    let mut command = program(host, "virt-install");
    command
        .args(["--virt-type", "qemu", "--name", name, "--import"])
        .args(["--osinfo", "linux2022", "--graphics", "none"])
        .args(["--noautoconsole", "--check", "all=off"])
        .args(options.split_whitespace());
    if let Some(boot) = boot {
        command.args(["--boot", boot]);
    }
    let said = printed(&mut command);
    assert!(said.contains("Domain creation completed"), "{said}");
}

/// A kernel of this folder with its arguments, for `--boot`.
fn kernel(folder: &Path, arguments: &str) -> String {
    let folder = folder.canonicalize().unwrap();
    format!(
        "kernel={0}/vmlinuz,initrd={0}/initrd.img,kernel_args={arguments}",
        folder.display()
    )
}

#[test]
fn virt_install_imports_a_disk_and_starts_it_by_firmware() {
    if !is_there("virt_install_imports_a_disk_and_starts_it_by_firmware") {
        return;
    }
    let host = Host::start();
    let disk = host.path("disk.img");
    fs::write(&disk, boot_sector("BOOTED-imported\r\n")).unwrap();
    let options = format!(
        "--memory 256 --vcpus 1 --disk type=file,source.file={},driver.type=raw,target.bus=virtio --network user,model=virtio",
        disk.display()
    );
    virt_install(&host, "imported", &options, None);
    assert_eq!(host.virsh("list --name").trim(), "imported");
    assert_eq!(host.virsh("list --all --persistent --name").trim(), "imported");
    Console::open(&host, "imported").expect("BOOTED-imported");
    host.virsh("destroy imported");
    host.virsh("start imported");
    Console::open(&host, "imported").expect("BOOTED-imported");
    host.virsh("destroy imported");
}

#[test]
fn virt_install_starts_linux_by_its_kernel_with_all_that_it_adds_by_itself() {
    if !is_there("virt_install_starts_linux_by_its_kernel_with_all_that_it_adds_by_itself") {
        return;
    }
    let host = Host::start();
    let disk = host.path("disk.img");
    fs::write(&disk, vec![b'd'; 4 << 20]).unwrap();
    let options = format!(
        "--memory 320 --vcpus 2 --disk type=file,source.file={},driver.type=raw,target.bus=virtio,serial=VI1 --network user,model=virtio",
        disk.display()
    );
    virt_install(
        &host,
        "linux",
        &options,
        Some(&kernel(&guest_folder(), "console=ttyS0 quiet")),
    );
    let mut console = Console::open(&host, "linux");
    console.expect("OSTLER-GUEST-UP");
    console.expect("# ");
    assert_eq!(console.shell("nproc"), "2");
    assert_eq!(
        console.shell("head -c 3 /dev/vda; cat /sys/block/vda/serial"),
        "dddVI1"
    );
    assert_eq!(console.shell("ls /sys/class/net | grep -c eth0"), "1");
    // The channel of an agent, an entropy source and a balloon are there without having been asked for.
    assert_eq!(
        console.shell("cat /sys/class/virtio-ports/*/name"),
        "org.qemu.guest_agent.0"
    );
    assert!(host.virsh("dommemstat linux").contains("actual 327680"));
    host.virsh("shutdown linux");
    host.wait_for_state("linux", "shut off");
}

/// The installed system of Debian 12, up to a shell in it.
#[test]
fn virt_install_imports_debian() {
    const NAME: &str = "virt_install_imports_debian";
    let made = guest_folder().join("debian");
    if !is_there(NAME) || !made.join("recipe").exists() {
        eprintln!("SKIPPED {NAME}: no system disk under target/guest/debian; ./test makes it, as root");
        return;
    }
    let host = Host::start();
    let disk = host.path("disk.img");
    let copied = Command::new("cp")
        .arg("--sparse=always")
        .args([&made.join("disk.img"), &disk])
        .status();
    assert!(copied.unwrap().success(), "the disk is copied");
    let options = format!(
        "--memory 1024 --vcpus 2 --disk type=file,source.file={},driver.type=raw,target.bus=virtio --network user,model=virtio",
        disk.display()
    );
    let boot = kernel(
        &made,
        "root=/dev/vda rw console=ttyS0 systemd.default_timeout_start_sec=600",
    );
    virt_install(&host, "debian", &options, Some(&boot));
    let mut console = Console::open(&host, "debian");
    console.expect("\nostler-debian login: ");
    console.type_in("root\n");
    console.expect("root@ostler-debian:~# ");
    assert_eq!(
        console.shell("findmnt --noheadings --output SOURCE /"),
        "/dev/vda"
    );
    assert_eq!(console.shell("systemd-detect-virt --vm >/dev/null; nproc"), "2");
    host.virsh("shutdown debian");
    host.wait_for_state("debian", "shut off");
}

#[test]
fn virt_install_makes_an_empty_drive_that_takes_a_medium_later() {
    if !is_there("virt_install_makes_an_empty_drive_that_takes_a_medium_later") {
        return;
    }
    let host = Host::start();
    let (disk, iso) = (host.path("disk.img"), host.path("cd.iso"));
    fs::write(&disk, boot_sector("BOOTED-beside-a-drive\r\n")).unwrap();
    fs::write(&iso, vec![b'i'; 1 << 20]).unwrap();
    let options = format!(
        "--memory 256 --vcpus 1 --disk type=file,source.file={},driver.type=raw,target.bus=virtio --disk device=cdrom,target.bus=sata --network none",
        disk.display()
    );
    virt_install(&host, "drive", &options, None);
    // Firmware does not wait for a medium.
    Console::open(&host, "drive").expect("BOOTED-beside-a-drive");
    let list = host.virsh("domblklist drive");
    assert!(list.contains("sda      -"), "{list}");
    host.virsh(&format!(
        "change-media drive sda {} --insert --live --config",
        iso.display()
    ));
    for which in ["", "--inactive"] {
        let list = host.virsh(&format!("domblklist drive {which}"));
        assert!(list.contains(&format!("sda      {}", iso.display())), "{list}");
    }
    host.virsh("destroy drive");
}
