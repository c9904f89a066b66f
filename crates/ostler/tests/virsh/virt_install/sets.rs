//! Sets of options from the list in `crates/libvirt-xml/tests/data/virt-install`, each run by virt-install to its end: the guest boots, is
//! looked at from inside and from outside, and ends when it is asked to.

use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::process::Command;

use crate::console::Console;
use crate::setup::{Host, wait_until};
use crate::support::boot_disk::{make_disk, make_hybrid_image};
use crate::support::guest_folder;
use crate::support::system_disk::{debian, make_bootable_debian};
use crate::virtinst::{self, printed, program};

const BIOS: [&str; 3] = [
    "/usr/share/seabios/bios-256k.bin",
    "/usr/lib/grub/i386-pc/boot.img",
    "/usr/bin/mcopy",
];
const UEFI: [&str; 3] = [
    "/usr/share/OVMF/OVMF_CODE_4M.fd",
    "/usr/lib/grub/x86_64-efi/fat.mod",
    "/usr/bin/mcopy",
];

/// True if virt-install and what a disk is made of are there; else says what is not.
fn is_there(test: &str, paths: &[&str]) -> bool {
    let missing: Vec<_> = paths.iter().filter(|path| !Path::new(path).exists()).collect();
    if !missing.is_empty() {
        eprintln!(
            "SKIPPED {test}: there is no {missing:?}; ./test installs seabios, ovmf, GRUB, xorriso and mtools"
        );
    }
    missing.is_empty() && virtinst::is_there(test)
}

fn is_nightly(test: &str) -> bool {
    let nightly = std::env::var_os("OSTLER_NIGHTLY").is_some();
    if !nightly {
        eprintln!("{test}: only with OSTLER_NIGHTLY, as ./test --nightly sets it");
    }
    nightly
}

/// The options of a set, in words, with files of this test for those that the list names.
fn options(set: &str, files: &[(&str, &Path)]) -> Vec<String> {
    let list = Path::new(env!("CARGO_MANIFEST_DIR")).join("../libvirt-xml/tests/data/virt-install/options");
    let list = fs::read_to_string(list).unwrap();
    let start = format!("{set}: ");
    let line = list.lines().find_map(|line| line.strip_prefix(&start));
    let mut line = line.unwrap_or_else(|| panic!("no set {set}")).to_owned();
    for (listed, file) in files {
        assert!(line.contains(listed), "{listed} is not in {line}");
        line = line.replace(listed, file.to_str().unwrap());
    }
    // The list quotes as a shell does.
    let script = "eval \"set -- $1\"; printf '%s\\n' \"$@\"";
    let words = printed(Command::new("bash").args(["-c", script, "bash", &line]));
    words.lines().map(str::to_owned).collect()
}

/// virt-install with a set, as the list's documents were made of it, but that it makes the guest.
fn install(host: &Host, set: &str, files: &[(&str, &Path)]) -> Command {
    let mut command = program(host, "virt-install");
    command
        .args(["--virt-type", "qemu", "--name", set, "--memory", "512"])
        .args(["--graphics", "none", "--noautoconsole", "--check", "all=off"])
        .args(options(set, files));
    command
}

/// Runs virt-install with a set that has nothing to install, and waits for the shell of the tests' initramfs.
fn start(host: &Host, set: &str, files: &[(&str, &Path)]) -> Console {
    let said = printed(&mut install(host, set, files));
    assert!(said.contains("Domain creation completed"), "{said}");
    assert_eq!(host.virsh("list --name --persistent").trim(), set);
    shell(host, set)
}

fn shell(host: &Host, set: &str) -> Console {
    let mut console = Console::open(host, set);
    console.expect("OSTLER-GUEST-UP");
    console.expect("# ");
    console
}

/// `boot.img` among the images of the pool `default`, with GRUB and the kernel of this guest.
fn boot_disk(host: &Host, guest: &Path, name: &str) -> PathBuf {
    let folder = host.path("making");
    fs::create_dir(&folder).unwrap();
    let disk = host.path("images").join(name);
    fs::rename(make_disk(&folder, guest, &[]), &disk).unwrap();
    disk
}

/// The card that virt-install adds by itself is on the network `default`, which gives the guest an address.
fn gets_an_address(host: &Host, set: &str, console: &mut Console) {
    console.shell("ip link set eth0 up; udhcpc -i eth0 -s /etc/lease -q -n -t 20");
    console.shell_until(
        "ping -c 1 -W 5 192.168.122.1 >/dev/null && echo reached",
        "reached",
    );
    has_an_address(host, set);
}

fn has_an_address(host: &Host, set: &str) {
    let addresses = host.virsh(&format!("domifaddr {set}"));
    assert!(addresses.contains("192.168.122."), "{addresses}");
}

fn shut_down(host: &Host, set: &str) {
    host.virsh(&format!("shutdown {set}"));
    host.wait_for_state(set, "shut off");
    let why = host.virsh(&format!("domstate {set} --reason"));
    assert_eq!(why.trim(), "shut off (shutdown)");
}

#[test]
fn the_set_kernel_boots() {
    const NAME: &str = "the_set_kernel_boots";
    if !is_there(NAME, &[]) {
        return;
    }
    let host = Host::start();
    let folder = guest_folder().canonicalize().unwrap();
    let (kernel, initrd) = (folder.join("vmlinuz"), folder.join("initrd.img"));
    let mut console = start(
        &host,
        "kernel",
        &[("/boot/vmlinuz", &kernel), ("/boot/initrd.img", &initrd)],
    );
    assert_eq!(console.shell("cat /proc/cmdline"), "console=ttyS0 quiet");
    assert_eq!(console.shell("nproc"), "2");
    gets_an_address(&host, "kernel", &mut console);
    shut_down(&host, "kernel");
}

#[test]
fn the_set_two_disks_boots_by_a_bios() {
    const NAME: &str = "the_set_two_disks_boots_by_a_bios";
    if !is_there(NAME, &BIOS) {
        return;
    }
    let host = Host::start();
    let first = boot_disk(&host, &guest_folder(), "a.img");
    let second = host.path("images/b.img");
    fs::write(&second, vec![b'b'; 1 << 20]).unwrap();
    let mut console = start(
        &host,
        "two-disks",
        &[("/srv/a.img", &first), ("/srv/b.img", &second)],
    );
    assert!(console.text().contains("THE BOOT LOADER IS UP"));
    assert_eq!(console.shell("test -d /sys/firmware/efi || echo BIOS"), "BIOS");
    let list = host.virsh("domblklist two-disks");
    for (target, disk) in [("vda", &first), ("vdb", &second)] {
        assert!(
            list.contains(&format!("{target}      {}", disk.display())),
            "{list}"
        );
    }
    assert_eq!(
        console.shell("head -c 3 /dev/vdb; cat /sys/block/vdb/serial"),
        "bbbB1"
    );
    assert_eq!(console.shell("cat /sys/block/vda/ro /sys/block/vdb/ro"), "0\n1");
    gets_an_address(&host, "two-disks", &mut console);
    shut_down(&host, "two-disks");
}

#[test]
fn the_set_uefi_boots() {
    const NAME: &str = "the_set_uefi_boots";
    if !is_nightly(NAME) || !is_there(NAME, &UEFI) {
        return;
    }
    let host = Host::start();
    let disk = boot_disk(&host, &guest_folder(), "debian.img");
    let mut console = start(&host, "uefi", &[("/srv/debian.img", &disk)]);
    assert!(console.text().contains("THE BOOT LOADER IS UP"));
    assert_eq!(console.shell("test -d /sys/firmware/efi && echo UEFI"), "UEFI");
    assert_eq!(console.shell("cat /sys/block/vda/size"), "98304");
    gets_an_address(&host, "uefi", &mut console);
    shut_down(&host, "uefi");
    // Its variables are its own, and go with it.
    let uuid = host.virsh("domuuid uefi").trim().to_owned();
    let kept = host.path("definitions/nvram").join(format!("{uuid}.fd"));
    assert!(kept.exists());
    host.virsh("undefine uefi --nvram");
    assert!(!kept.exists());
}

#[test]
fn the_set_sata_boots() {
    const NAME: &str = "the_set_sata_boots";
    if !is_nightly(NAME) || !is_there(NAME, &BIOS) {
        return;
    }
    let host = Host::start();
    // Debian's ordinary kernel, which has the drivers.
    let disk = boot_disk(&host, &guest_folder().join("pc"), "a.img");
    let image = host.path("images/cd.iso");
    fs::write(&image, vec![b'c'; 1 << 20]).unwrap();
    let mut console = start(&host, "sata", &[("/srv/a.img", &disk), ("/tmp/cd.iso", &image)]);
    assert!(console.text().contains("THE BOOT LOADER IS UP"));
    console.shell_until("cat /sys/block/sda/size", "98304");
    console.shell_until("head -c 4 /dev/sr0", "cccc");
    gets_an_address(&host, "sata", &mut console);
    shut_down(&host, "sata");
}

/// What the installation medium does: it writes the disk, and resets the machine as installers do.
const INSTALLER: &str = "until [ -b /dev/sr0 ] && [ -b /dev/vda ]; do usleep 100000; done\n\
     mount -t iso9660 -o ro /dev/sr0 /mnt && dd if=/mnt/disk.img of=/dev/vda bs=1M && sync && echo IT IS INSTALLED\n\
     reboot -f\n";

const MEDIUM_MENU: &str = "serial --unit=0 --speed=115200\n\
     terminal_input serial\n\
     terminal_output serial\n\
     echo THE MEDIUM IS UP\n\
     linux /boot/vmlinuz console=ttyS0 panic=-1 quiet\n\
     initrd /boot/initrd.img\n\
     boot\n";

/// A medium that installs `disk`.
fn installation_medium(host: &Host, disk: &Path) -> PathBuf {
    let folder = host.path("media");
    let boot = folder.join("tree/boot");
    fs::create_dir_all(boot.join("grub")).unwrap();
    fs::write(boot.join("grub/grub.cfg"), MEDIUM_MENU).unwrap();
    let guest = guest_folder().join("pc");
    fs::copy(guest.join("vmlinuz"), boot.join("vmlinuz")).unwrap();
    let mut initrd = fs::read(guest.join("initrd.img")).unwrap();
    initrd.extend(ostler_guest_image::overlay(INSTALLER, &[]));
    fs::write(boot.join("initrd.img"), initrd).unwrap();
    fs::rename(disk, folder.join("tree/disk.img")).unwrap();
    make_hybrid_image(&folder)
}

#[test]
fn the_set_cdrom_install_installs_and_boots() {
    const NAME: &str = "the_set_cdrom_install_installs_and_boots";
    const SET: &str = "cdrom-install";
    let mut needed = BIOS.to_vec();
    needed.extend(["/usr/bin/grub-mkrescue", "/usr/bin/xorriso"]);
    if !is_nightly(NAME) || !is_there(NAME, &needed) {
        return;
    }
    let host = Host::start();
    let medium = installation_medium(&host, &boot_disk(&host, &guest_folder(), "installed.img"));
    // virt-install makes the disk, as a volume of the pool that has its folder.
    let disk = host.path("images/debian.img");
    let log = File::create(host.path("virt-install.log")).unwrap();
    let said = || fs::read_to_string(host.path("virt-install.log")).unwrap();
    let mut running = install(
        &host,
        SET,
        &[("/srv/debian.img", &disk), ("/tmp/cd.iso", &medium)],
    )
    .arg("--wait=-1")
    .stdout(log.try_clone().unwrap())
    .stderr(log)
    .spawn()
    .unwrap();
    wait_until("the installation runs", || {
        let ended = running.try_wait().unwrap();
        assert!(ended.is_none(), "virt-install ended: {}", said());
        host.virsh("list --name").trim() == SET
    });
    let mut console = Console::open(&host, SET);
    console.expect("THE MEDIUM IS UP");
    console.expect("IT IS INSTALLED");
    // The reset ends this run, and virt-install starts the guest again from its disk, and goes.
    let status = running.wait().unwrap();
    let said = said();
    assert!(status.success(), "{said}");
    for line in [
        "Allocating 'debian.img'",
        "Domain has shutdown",
        "Restarting guest",
    ] {
        assert!(said.contains(line), "{line} is not in {said}");
    }
    drop(console);
    let mut console = shell(&host, SET);
    assert!(console.text().contains("THE BOOT LOADER IS UP"));
    assert_eq!(console.shell("cat /sys/block/vda/size"), "2097152");
    let list = host.virsh(&format!("domblklist {SET}"));
    assert!(list.contains("sda      -"), "the drive is empty: {list}");
    assert!(
        host.virsh("vol-info debian.img --pool default")
            .contains("1.00 GiB")
    );
    gets_an_address(&host, SET, &mut console);
    shut_down(&host, SET);
}

/// An installed Debian with systemd: its own boot loader, kernel, login and end.
#[test]
fn the_set_debian_boots_to_its_login() {
    const NAME: &str = "the_set_debian_boots_to_its_login";
    let mut needed = BIOS.to_vec();
    needed.push("/sbin/debugfs");
    if !is_nightly(NAME) || !is_there(NAME, &needed) {
        return;
    }
    let Some(made) = debian(NAME) else { return };
    let host = Host::start();
    let folder = host.path("making");
    fs::create_dir(&folder).unwrap();
    let disk = host.path("images/debian.img");
    fs::rename(make_bootable_debian(&made, &folder), &disk).unwrap();
    let said = printed(&mut install(&host, "debian", &[("/srv/debian.img", &disk)]));
    assert!(said.contains("Domain creation completed"), "{said}");
    let mut console = Console::open(&host, "debian");
    console.expect("Loading Linux ...");
    console.expect("\nostler-debian login: ");
    console.type_in("root\n");
    console.expect("root@ostler-debian:~# ");
    assert_eq!(
        console.shell("findmnt --noheadings --output SOURCE /"),
        "/dev/vda1"
    );
    assert_eq!(
        console
            .shell("systemctl is-system-running --wait; systemctl --failed --no-legend --plain --no-pager"),
        "running"
    );
    // The link of the agent's channel, as the agent looks for it.
    assert_eq!(console.shell("ls /dev/virtio-ports"), "org.qemu.guest_agent.0");
    console.shell(
        "printf '[Match]\\nName=e*\\n[Network]\\nDHCP=yes\\n' >/etc/systemd/network/a.network; systemctl start systemd-networkd",
    );
    console.shell_until("ip -4 -o address show scope global | grep -c 192.168.122.", "1");
    has_an_address(&host, "debian");
    // The power button, as logind hears it.
    shut_down(&host, "debian");
    console.expect("reboot: Power down");
}
