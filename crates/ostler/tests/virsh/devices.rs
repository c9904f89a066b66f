//! Disks and other devices that come and go, in a guest that runs and in its definition.

use std::fs;
use std::time::Duration;

use crate::console::Console;
use crate::setup::{Host, Listener, field, linux, wait_until};

fn image(host: &Host, name: &str, byte: u8) -> String {
    let path = host.path(name);
    fs::write(&path, vec![byte; 1 << 20]).unwrap();
    path.to_str().unwrap().into()
}

#[test]
fn a_volume_of_a_pool_is_a_disk() {
    let host = Host::start();
    let bytes = image(&host, "bytes", b'v');
    for name in ["v", "w"] {
        host.virsh(&format!("vol-create-as default {name} 1M"));
        host.virsh(&format!("vol-upload {name} {bytes} --pool default"));
    }
    let disk = |volume: &str, target: &str| {
        format!(
            "<disk type='volume'><source pool='default' volume='{volume}'/><target dev='{target}'/></disk>"
        )
    };
    let file = host.xml("guest.xml", &linux("pooled", &disk("v", "vda")));
    host.virsh(&format!("define {file}"));
    host.virsh("start pooled");
    let mut console = Console::open(&host, "pooled");
    console.expect("OSTLER-GUEST-UP");
    console.expect("# ");
    console.shell_until("head -c 3 /dev/vda 2>/dev/null", "vvv");
    assert_eq!(field(&host.virsh("domblkinfo pooled vda"), "Capacity"), "1048576");
    let stats = host.virsh("domstats pooled --block");
    assert!(
        stats.contains("block.0.path=") && stats.contains("block.0.capacity=1048576"),
        "{stats}"
    );
    // Nothing is done to it in the background.
    assert!(host.virsh("blockjob pooled vda").contains("No current block job"));
    assert_eq!(field(&host.virsh("domjobinfo pooled"), "Job type"), "None");
    assert!(host.refused("domjobabort pooled").contains("no job is active"));
    console.shell("echo written | dd of=/dev/vda conv=notrunc,fsync 2>/dev/null");
    let bytes = fs::read(host.path("images/v")).unwrap();
    assert!(bytes.starts_with(b"written\nvvv"));
    let said = host.refused("vol-delete v --pool default");
    assert!(said.contains("in use"), "{said}");
    // Another one comes while it runs.
    let device = host.xml("disk.xml", &disk("w", "vdb"));
    host.virsh(&format!("attach-device pooled {device} --live"));
    console.shell_until("head -c 3 /dev/vdb 2>/dev/null", "vvv");
    host.virsh("destroy pooled");
    for (volume, says) in [("missing", "missing"), ("../a.img", "../a.img")] {
        let file = host.xml("bad.xml", &linux("bad", &disk(volume, "vda")));
        let said = host.refused(&format!("create {file}"));
        assert!(said.contains(says), "{said}");
    }
    host.virsh("pool-destroy default");
    assert!(host.refused("start pooled").contains("not active"));
}

#[test]
fn a_disk_comes_and_goes_while_the_guest_runs() {
    let mut host = Host::start();
    let (first, second) = (image(&host, "a.img", b'a'), image(&host, "b.img", b'b'));
    let disk = format!("<disk><source file='{first}'/><target dev='vda'/></disk>");
    let file = host.xml("guest.xml", &linux("plug", &disk));
    host.virsh(&format!("define {file}"));
    host.virsh("start plug");
    let mut console = Console::open(&host, "plug");
    console.expect("OSTLER-GUEST-UP");
    console.expect("# ");
    let poke = || {
        host.virsh("suspend plug");
        host.virsh("resume plug");
    };
    let events = Listener::start(&host, "event --all --loop --timeout 3600", poke);

    host.virsh(&format!("attach-disk plug {second} vdb --live --serial HOT1"));
    console.shell_until("head -c 3 /dev/vdb 2>/dev/null", "bbb");
    assert_eq!(console.shell("cat /sys/block/vdb/serial"), "HOT1");
    let live = host.virsh("domblklist plug");
    assert!(live.contains(&format!("vdb      {second}")), "{live}");
    assert!(!host.virsh("domblklist plug --inactive").contains("vdb"));
    let told = events.until("virtio-disk1");
    assert!(told.iter().any(|line| line == "virtio-disk1"), "{told:?}");
    // What the guest does with it is counted, written, and its image is taken.
    console.shell("echo written by the guest | dd of=/dev/vdb conv=notrunc,fsync 2>/dev/null");
    assert!(fs::read(&second).unwrap().starts_with(b"written by the guest\n"));
    let counted = host.virsh("domblkstat plug vdb");
    assert!(
        !counted.contains("wr_bytes 0\n") && counted.contains("wr_bytes "),
        "{counted}"
    );
    let said = host.refused(&format!("attach-disk plug {second} vdc --live"));
    assert!(said.contains("in use"), "{said}");
    assert!(
        host.refused(&format!("attach-disk plug {first} vdb --live"))
            .contains("duplicated")
    );
    assert!(!host.virsh("domblklist plug").contains("vdc"));
    host.virsh("blockresize plug vdb 2048K");
    console.shell_until("cat /sys/block/vdb/size", "4096");

    // The daemon may die in between.
    drop(events);
    host.kill_and_restart();
    assert!(host.virsh("domblklist plug").contains("vdb"));
    let poke = || {
        host.virsh("suspend plug");
        host.virsh("resume plug");
    };
    let events = Listener::start(&host, "event --all --loop --timeout 3600", poke);
    host.virsh("detach-disk plug vdb --live");
    events.until("virtio-disk1");
    wait_until("the disk is gone", || {
        !host.virsh("domblklist plug").contains("vdb")
    });
    let mut console = Console::open(&host, "plug");
    console.expect("# ");
    console.shell_until("ls /dev/vdb 2>/dev/null | wc -l", "0");
    // Its image is free again, and its name.
    host.virsh(&format!("attach-disk plug {second} vdb --live --persistent"));
    console.shell_until("head -c 7 /dev/vdb 2>/dev/null", "written");
    assert!(host.virsh("domblklist plug --inactive").contains("vdb"));

    // What was there from the start goes like that, too. The next daemon finds it gone, and its image free.
    host.virsh("detach-disk plug vda --live");
    wait_until("the first disk is gone", || {
        !host.virsh("domblklist plug").contains("vda")
    });
    console.shell_until("ls /dev/vda 2>/dev/null | wc -l", "0");
    drop(console);
    drop(events);
    host.kill_and_restart();
    let (live, kept) = (
        host.virsh("domblklist plug"),
        host.virsh("domblklist plug --inactive"),
    );
    assert!(!live.contains("vda") && live.contains("vdb"), "{live}");
    assert!(kept.contains("vda") && kept.contains("vdb"), "{kept}");
    host.virsh(&format!("attach-disk plug {first} vda --live"));
    let mut console = Console::open(&host, "plug");
    console.expect("# ");
    console.shell_until("head -c 3 /dev/vda 2>/dev/null", "aaa");
    host.virsh("reset plug");
    console.expect("OSTLER-GUEST-UP");
    console.expect("# ");
    console.shell_until("cat /sys/block/vda/size /sys/block/vdb/size | wc -l", "2");

    host.virsh("detach-disk plug vda --config");
    assert!(host.virsh("domblklist plug").contains("vda"));
    assert!(!host.virsh("domblklist plug --inactive").contains("vda"));
    host.virsh("destroy plug");
    assert!(!host.virsh("domblklist plug").contains("vda"));
    assert!(host.virsh("domblklist plug").contains("vdb"));
}

#[test]
fn what_a_guest_was_started_with_goes_and_comes_again() {
    let host = Host::start();
    let devices = [
        (
            "<interface type='user'><mac address='52:54:00:00:00:21'/><model type='virtio'/></interface>",
            "0x1041",
        ),
        (
            "<vsock model='virtio'><cid auto='no' address='77'/></vsock>",
            "0x1053",
        ),
        (
            "<rng model='virtio'><backend model='random'>/dev/urandom</backend></rng>",
            "0x1044",
        ),
    ];
    let all: String = devices.iter().map(|(xml, _)| *xml).collect();
    let balloon = "<memballoon model='virtio'/>";
    let file = host.xml("guest.xml", &linux("leaving", &format!("{all}{balloon}")));
    host.virsh(&format!("create {file}"));
    let mut console = Console::open(&host, "leaving");
    console.expect("OSTLER-GUEST-UP");
    console.expect("# ");
    for (xml, device) in devices {
        let file = host.xml("device.xml", xml);
        let count = format!("grep -l {device} /sys/bus/pci/devices/*/device | wc -l");
        console.shell_until(&count, "1");
        host.virsh(&format!("detach-device leaving {file} --live"));
        console.shell_until(&count, "0");
        host.virsh(&format!("attach-device leaving {file} --live"));
        console.shell_until(&count, "1");
    }
    // As with libvirt, this stays.
    let file = host.xml("device.xml", balloon);
    let said = host.refused(&format!("detach-device leaving {file} --live"));
    assert!(said.contains("cannot be taken out"), "{said}");
    // A guest may let go of what it wants.
    let place = "$(basename $(dirname $(grep -l 0x1041 /sys/bus/pci/devices/*/device)) | cut -d. -f1)";
    console.shell(&format!(
        "for s in /sys/bus/pci/slots/*; do [ $(cat $s/address) != {place} ] || echo 0 > $s/power; done"
    ));
    wait_until("the card is gone", || {
        !host.virsh("dumpxml leaving").contains("<interface")
    });
    host.virsh("destroy leaving");
}

#[test]
fn what_cannot_come_or_go_is_refused_and_changes_nothing() {
    let host = Host::start();
    let medium = image(&host, "cd.img", b'c');
    let drive = format!("<disk device='cdrom'><source file='{medium}'/><target dev='sda'/></disk>");
    let file = host.xml("guest.xml", &linux("fixed", &drive));
    host.virsh(&format!("define {file}"));
    host.virsh("start fixed");
    let before = host.virsh("dumpxml fixed");
    let device = |xml: &str| host.xml("device.xml", xml);
    for (command, xml, says) in [
        ("attach-device", "<watchdog model='i6300esb'/>", "<watchdog>"),
        (
            "attach-device",
            "<disk><source file='/none'/><target dev='vdz'/></disk>",
            "/none",
        ),
        (
            "attach-device",
            "<disk><source file='/none'/><target dev='sdz'/></disk>",
            "only virtio",
        ),
        (
            "attach-device",
            "<interface type='direct'><source dev='lo'/></interface>",
            "macvtap",
        ),
        (
            "attach-device",
            "<interface type='network'><source network='n'/></interface>",
            "name 'n'",
        ),
        ("attach-device", "<nonsense/>", "nonsense"),
        (
            "detach-device",
            "<disk><source file='/none'/><target dev='vdq'/></disk>",
            "device not found",
        ),
        (
            "update-device",
            "<disk device='cdrom'><source file='/other'/><target dev='sda'/></disk>",
            "/other",
        ),
        (
            "update-device",
            "<disk device='cdrom'><source file='/other'/><target dev='sda'/><serial>S</serial></disk>",
            "only the medium",
        ),
    ] {
        let said = host.refused(&format!("{command} fixed {} --live", device(xml)));
        assert!(said.contains(says), "{command} {xml}: {said}");
    }
    assert_eq!(host.virsh("dumpxml fixed"), before);
    // In the definition a medium is changed, and taken out.
    host.virsh("change-media fixed sda /other.iso --config --update");
    assert!(host.virsh("domblklist fixed --inactive").contains("/other.iso"));
    host.virsh("change-media fixed sda --eject --config");
    assert!(!host.virsh("domblklist fixed --inactive").contains("/other.iso"));
    let said = host.refused("detach-device-alias fixed none0 --live");
    assert!(said.contains("device not found"), "{said}");
    host.virsh("destroy fixed");
    // It starts with an empty drive, too.
    host.virsh("start fixed");
    assert!(host.virsh("domblklist fixed").contains("sda      -"));
    host.virsh("destroy fixed");
}

#[test]
fn an_entropy_source_comes_and_goes() {
    let host = Host::start();
    let file = host.xml("guest.xml", &linux("random", ""));
    host.virsh(&format!("create {file}"));
    let mut console = Console::open(&host, "random");
    console.expect("OSTLER-GUEST-UP");
    console.expect("# ");
    let count = "grep -l 0x1044 /sys/bus/pci/devices/*/device | wc -l";
    assert_eq!(console.shell(count), "0");
    let device = host.xml(
        "rng.xml",
        "<rng model='virtio'><backend model='random'>/dev/urandom</backend></rng>",
    );
    host.virsh(&format!("attach-device random {device} --live"));
    console.shell_until(count, "1");
    assert!(host.virsh("dumpxml random").contains("<alias name='rng0'/>"));
    host.virsh("detach-device-alias random rng0 --live");
    console.shell_until(count, "0");
    wait_until("the device is gone", || {
        !host.virsh("dumpxml random").contains("rng0")
    });
    host.virsh("destroy random");
}

#[test]
fn a_guest_has_several_entropy_sources() {
    let host = Host::start();
    let source = "<rng model='virtio'><backend model='random'>/dev/urandom</backend></rng>";
    host.virsh(&format!(
        "define {}",
        host.xml("guest.xml", &linux("random", source))
    ));
    host.virsh("start random");
    let device = host.xml("rng.xml", source);
    host.virsh(&format!("attach-device random {device} --live --config"));
    let count = "grep -l 0x1044 /sys/bus/pci/devices/*/device | wc -l";
    for _ in ["plugged in", "from the start"] {
        // What else a guest is asked for goes on.
        let mut console = Console::open(&host, "random");
        console.expect("# ");
        console.shell_until(count, "2");
        drop(console);
        host.virsh("domstats random");
        host.virsh("destroy random");
        host.virsh("start random");
    }
    let told = host.virsh("dumpxml random");
    assert!(
        told.contains("<alias name='rng0'/>") && told.contains("<alias name='rng1'/>"),
        "{told}"
    );
    host.virsh("destroy random");
}

/// Linux uses a device before its slot's indicator stops blinking, and until then takes no request to let it go.
#[test]
fn a_device_is_let_go_at_any_moment_of_its_coming() {
    let host = Host::start();
    let file = host.xml("guest.xml", &linux("brief", ""));
    host.virsh(&format!("create {file}"));
    let mut console = Console::open(&host, "brief");
    console.expect("OSTLER-GUEST-UP");
    console.expect("# ");
    let device = host.xml(
        "rng.xml",
        "<rng model='virtio'><backend model='random'>/dev/urandom</backend></rng>",
    );
    for milliseconds in [0, 20, 80, 160, 320] {
        host.virsh(&format!("attach-device brief {device} --live"));
        std::thread::sleep(Duration::from_millis(milliseconds));
        host.virsh(&format!("detach-device brief {device} --live"));
        wait_until("the device is gone", || {
            !host.virsh("dumpxml brief").contains("<rng")
        });
    }
    console.shell_until("grep -l 0x1044 /sys/bus/pci/devices/*/device | wc -l", "0");
    host.virsh("destroy brief");
}
