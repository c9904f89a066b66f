//! Definitions through the model: real documents come back the same, and what they ask for is there in the guest.

use std::fs;
use std::io::{Read, Write};
use std::os::unix::net::UnixStream;
use std::path::Path;

use crate::console::Console;
use crate::setup::{Host, field, linux, wait_until};
use crate::support::guest_folder;
use crate::support::qmp::Qmp;

/// Documents of virt-install and some by hand.
fn documents() -> Vec<(String, String)> {
    let data = Path::new(env!("CARGO_MANIFEST_DIR")).join("../libvirt-xml/tests/data");
    let mut all = Vec::new();
    for folder in ["virt-install", "by-hand"] {
        for entry in fs::read_dir(data.join(folder)).unwrap() {
            let path = entry.unwrap().path();
            let name = path.file_stem().unwrap().to_str().unwrap().to_owned();
            if path.extension().is_some_and(|extension| extension == "xml") && !name.ends_with("capabilities")
            {
                all.push((name, fs::read_to_string(&path).unwrap()));
            }
        }
    }
    all.sort();
    all
}

#[test]
fn real_documents_come_back_the_same() {
    let host = Host::start();
    let all = documents();
    assert!(all.len() >= 30, "{}", all.len());
    for (name, xml) in &all {
        let file = host.xml("one.xml", xml);
        host.virsh(&format!("define {file} --validate"));
        // By its UUID: a name may have blanks.
        let guest = host.virsh("list --all --uuid").trim().to_owned();
        let dump = host.virsh(&format!("dumpxml {guest} --inactive --security-info"));
        let shown = host.virsh(&format!("dumpxml {guest}"));
        assert!(!shown.contains("passwd="), "{name}");
        assert_eq!(shown == dump, !dump.contains("passwd="), "{name}");
        let again = host.xml("again.xml", &dump);
        host.virsh(&format!("define {again}"));
        let after = host.virsh(&format!("dumpxml {guest} --migratable --security-info"));
        assert_eq!(after, dump, "{name}");
        assert!(
            host.virsh(&format!("domblklist {guest}")).contains("Target"),
            "{name}"
        );
        // Nothing that it needs is on this host: it does not start, says why, and leaves nothing.
        let said = host.refused(&format!("start {guest}"));
        assert!(
            said.contains("unsupported configuration") || said.contains("operation failed"),
            "{name}: {said}"
        );
        assert_eq!(fs::read_dir(host.path("run/guests")).unwrap().count(), 0);
        host.virsh(&format!("undefine {guest} --nvram"));
    }
}

#[test]
fn a_document_that_is_none_is_refused_with_its_line() {
    let host = Host::start();
    for (xml, says) in [
        (linux("a", "<sound model='ich9'/><unknown/>"), "unknown"),
        (
            linux(
                "a",
                "<disk><driver name='qemu' type='qcow2'/><source file='/d'/><target dev='vda'/></disk>",
            ),
            "raw",
        ),
        (linux("a", "<hostdev mode='subsystem' type='usb'/>"), "hostdev"),
    ] {
        let file = host.xml("a.xml", &xml);
        let said = host.refused(&format!("define {file}"));
        assert!(said.contains(says) && said.contains("line"), "{said}");
    }
    assert_eq!(host.virsh("list --all --name").trim(), "");
}

/// The guest kernel's module for its balloon.
fn balloon_driver() -> Vec<u8> {
    let versions = guest_folder().join("pc/root/lib/modules");
    let version = fs::read_dir(versions).unwrap().next().unwrap().unwrap().path();
    fs::read(version.join("kernel/drivers/virtio/virtio_balloon.ko")).unwrap()
}

/// Everything beside disks and cards that a guest can have.
fn rich(host: &Host) -> String {
    let (disk, cdrom) = (host.path("disk.img"), host.path("cd.img"));
    // With the driver of the balloon, which the initramfs lacks.
    let mut bytes = vec![b'd'; 4096];
    bytes.extend(balloon_driver());
    bytes.resize(2 << 20, 0);
    fs::write(&disk, bytes).unwrap();
    fs::write(&cdrom, vec![b'c'; 1 << 20]).unwrap();
    let devices = format!(
        "<disk type='file' device='disk'><source file='{}'/><target dev='sda' bus='sata'/><serial>S-1</serial></disk>
         <disk type='file' device='cdrom'><source file='{}'/><target dev='sdb' bus='sata'/></disk>
         <console type='pty'><target type='virtio'/></console>
         <channel type='unix'><source mode='bind' path='{}'/><target type='virtio' name='org.ostler.test'/></channel>
         <rng model='virtio'><backend model='random'>/dev/urandom</backend></rng>
         <watchdog model='i6300esb' action='poweroff'/>
         <memballoon model='virtio' autodeflate='on'><stats period='2'/></memballoon>",
        disk.display(),
        cdrom.display(),
        host.path("channel").display()
    );
    // The kernel of PCs, which has a driver for SATA.
    linux("rich", &devices)
        .replace("/vmlinuz", "/pc/vmlinuz")
        .replace("/initrd.img", "/pc/initrd.img")
        .replace(
            "<memory unit='MiB'>256</memory>",
            "<genid>324e6eaf-d1d1-4bf6-bf41-b9bb6c91fb87</genid><memory unit='MiB'>256</memory>\
         <currentMemory unit='MiB'>192</currentMemory>",
        )
}

#[test]
fn what_a_definition_asks_for_is_there() {
    let host = Host::start();
    let file = host.xml("rich.xml", &rich(&host));
    host.virsh(&format!("define {file}"));
    host.virsh("start rich");
    let live = host.virsh("dumpxml rich");
    for text in [
        "<genid>324e6eaf-d1d1-4bf6-bf41-b9bb6c91fb87</genid>",
        "<alias name='sata0-0-0'/>",
        "<alias name='balloon0'/>",
        "<alias name='channel0'/>",
        "<address type='pci'",
    ] {
        assert!(live.contains(text), "{text}: {live}");
    }
    // The dump of a guest that runs defines the same guest.
    let again = host.xml("again.xml", &live);
    let before = host.virsh("dumpxml rich --inactive");
    host.virsh(&format!("define {again}"));
    assert_eq!(host.virsh("dumpxml rich --inactive"), before);

    let mut console = Console::open(&host, "rich");
    console.expect("OSTLER-GUEST-UP");
    console.expect("# ");
    assert_eq!(console.shell("ls /sys/block | grep -c '^sd\\|^sr'"), "2");
    assert_eq!(console.shell("head -c 4 /dev/sr0"), "cccc");
    assert_eq!(console.shell("head -c 4 /dev/sda"), "dddd");
    assert_eq!(
        console.shell("grep -c . /sys/class/misc/hw_random/rng_available"),
        "1"
    );
    assert_eq!(
        console.shell("cat /sys/bus/pci/devices/*/device | grep -c 0x25ab"),
        "1",
        "the watchdog"
    );
    let control = fs::read_dir(host.path("run/guests"))
        .unwrap()
        .next()
        .unwrap()
        .unwrap()
        .path()
        .join("control");
    let id = Qmp::connect(&control).execute("query-vm-generation-id", serde_json::json!({}));
    assert_eq!(id["guid"], "324e6eaf-d1d1-4bf6-bf41-b9bb6c91fb87");

    // Two consoles, each by its name; the first is the serial port.
    let mut second = Console::open(&host, "rich --devname console0");
    console.shell("echo to the second >/dev/hvc0");
    second.expect("to the second");
    second.leave();

    // A channel is a socket of the host, and a port by its name in the guest.
    let name = "$(dirname $(grep -l org.ostler.test /sys/class/virtio-ports/*/name))";
    let port = console.shell(&format!("basename {name}"));
    let mut channel = UnixStream::connect(host.path("channel")).unwrap();
    channel.write_all(b"hello\n").unwrap();
    assert_eq!(console.shell(&format!("head -n 1 /dev/{port}")), "hello");
    console.shell(&format!("echo answer >/dev/{port}"));
    let mut answer = [0; 6];
    channel.read_exact(&mut answer).unwrap();
    assert_eq!(&answer, b"answer");

    // The balloon: what the definition leaves the guest, and what it is told later.
    let size = balloon_driver().len();
    let fetch = format!("dd if=/dev/sda bs=4096 skip=1 2>/dev/null | head -c {size} >/balloon.ko");
    assert_eq!(
        console.shell(&format!("{fetch}; insmod /balloon.ko && echo loaded")),
        "loaded"
    );
    let used = || field(&host.virsh("dominfo rich"), "Used memory").to_owned();
    wait_until("the balloon is as the definition has it", || {
        used() == "196608 KiB"
    });
    let info = host.virsh("dominfo rich");
    assert_eq!(field(&info, "Max memory"), "262144 KiB");
    host.virsh("setmem rich 229376 --live");
    wait_until("the guest has given memory back", || used() == "229376 KiB");
    assert!(host.virsh("dommemstat rich").contains("actual 229376\n"));
    assert!(
        host.refused("setmem rich 999999 --live")
            .contains("higher than max memory")
    );
    let live = host.virsh("dumpxml rich");
    assert!(
        live.contains("<currentMemory unit='KiB'>229376</currentMemory>"),
        "{live}"
    );
    host.virsh("destroy rich");
}

#[test]
fn what_an_end_means_is_what_the_definition_says() {
    let host = Host::start();
    let with = |name: &str, life: &str| linux(name, "").replace("<devices>", &format!("{life}<devices>"));
    // A reset is the end.
    let file = host.xml("once.xml", &with("once", "<on_reboot>destroy</on_reboot>"));
    host.virsh(&format!("create {file}"));
    let mut console = Console::open(&host, "once");
    console.expect("# ");
    console.type_in("reboot -f\n");
    console.wait();
    wait_until("the guest is over", || {
        host.virsh("list --all --name").trim().is_empty()
    });
    // A power-off is a start; the run has the same number.
    let file = host.xml("again.xml", &with("again", "<on_poweroff>restart</on_poweroff>"));
    host.virsh(&format!("create {file}"));
    let id = host.virsh("domid again");
    let mut console = Console::open(&host, "again");
    console.expect("# ");
    console.type_in("poweroff -f\n");
    console.wait();
    wait_until("the guest can be talked to again", || {
        let answer = host.command("domcontrol again").output().unwrap();
        answer.status.success() && answer.stdout.starts_with(b"ok")
    });
    Console::open(&host, "again").expect("OSTLER-GUEST-UP");
    assert_eq!(host.virsh("domid again"), id);
    host.virsh("destroy again");
    assert_eq!(host.virsh("list --all --name").trim(), "");
}

#[test]
fn texts_sizes_and_names_are_changed() {
    let host = Host::start();
    let file = host.xml("a.xml", &linux("alpha", ""));
    host.virsh(&format!("define {file}"));
    let uuid = host.virsh("domuuid alpha");
    assert_eq!(host.virsh("desc alpha --title").trim(), "A guest & its kernel");
    host.virsh("desc alpha --config --title --new-desc Short");
    host.virsh("desc alpha --config --new-desc Longer");
    assert_eq!(host.virsh("desc alpha --title").trim(), "Short");
    assert_eq!(host.virsh("desc alpha").trim(), "Longer");
    host.virsh("metadata alpha http://example.org/x --key x --set <app><b/></app> --config");
    let text: String = host
        .virsh("metadata alpha http://example.org/x")
        .split_whitespace()
        .collect();
    assert_eq!(text, "<app><b/></app>");
    assert!(
        host.virsh("dumpxml alpha")
            .contains("<x:app xmlns:x='http://example.org/x'>")
    );
    host.virsh("metadata alpha http://example.org/x --remove --config");
    assert!(
        host.refused("metadata alpha http://example.org/x")
            .contains("not present")
    );

    host.virsh("setmaxmem alpha 524288 --config");
    host.virsh("setmem alpha 131072 --config");
    let info = host.virsh("dominfo alpha");
    assert_eq!(
        (field(&info, "Max memory"), field(&info, "Used memory")),
        ("524288 KiB", "131072 KiB")
    );
    assert!(
        host.refused("setmem alpha 999999 --config")
            .contains("higher than max memory")
    );
    host.virsh("setvcpus alpha 4 --maximum --config");
    host.virsh("setvcpus alpha 3 --config");
    assert_eq!(host.virsh("vcpucount alpha --maximum --config").trim(), "4");
    assert_eq!(host.virsh("vcpucount alpha --current --config").trim(), "3");
    assert!(
        host.refused("setvcpus alpha 9 --config")
            .contains("greater than max")
    );
    assert!(host.refused("setvcpus alpha 2 --live").contains("not running"));

    host.virsh("autostart alpha");
    host.virsh("domrename alpha beta");
    assert_eq!(host.virsh("domuuid beta"), uuid);
    assert!(host.refused("domstate alpha").contains("failed to get domain"));
    assert_eq!(host.virsh("list --all --autostart --name").trim(), "beta");
    let file = host.xml("b.xml", &linux("gamma", ""));
    host.virsh(&format!("define {file}"));
    assert!(host.refused("domrename beta gamma").contains("already exists"));

    let mut host = host;
    host.kill_and_restart();
    assert_eq!(host.virsh("domuuid beta"), uuid);
    assert_eq!(host.virsh("desc beta").trim(), "Longer");
    assert_eq!(host.virsh("list --all --autostart --name").trim(), "beta");
}
