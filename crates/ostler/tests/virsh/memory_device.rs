//! Memory that comes and goes (virtio-mem) by `virsh update-memory-device`, and files that are memory (virtio-pmem).

use std::cell::Cell;
use std::fs;

use crate::console::Console;
use crate::setup::{Host, Listener, field, linux, linux_with, wait_until};

const DEVICE: &str = "<memory model='virtio-mem'><target><size unit='MiB'>256</size><node>0</node>\
     <block unit='KiB'>2048</block><requested unit='MiB'>64</requested></target></memory>";

/// Loads the driver, before there is a shell.
const SCRIPT: &str = "echo online_movable >/sys/devices/system/memory/auto_online_blocks
insmod /virtio_mem.ko
cd /root
setsid cttyhack sh -l
";

/// A guest that starts with 256 MiB, whose memory with its devices is `all` MiB.
fn with_memory(xml: &str, all: u32) -> String {
    xml.replace(
        "<memory unit='MiB'>256</memory>",
        &format!("<maxMemory slots='4' unit='GiB'>1</maxMemory><memory unit='MiB'>{all}</memory>"),
    )
}

/// What the guest has of its device, in KiB.
fn current(host: &Host) -> String {
    let dump = host.virsh("dumpxml grows");
    let (_, rest) = dump.split_once("<current unit='KiB'>").expect(&dump);
    rest.split('<').next().unwrap().into()
}

#[test]
fn a_guest_is_asked_to_have_more_and_less() {
    let mut host = Host::start();
    let xml = linux_with(&host, "grows", DEVICE, SCRIPT, &["virtio_mem"]);
    let file = host.xml("guest.xml", &with_memory(&xml, 512));
    host.virsh(&format!("define {file} --validate"));
    let definition = host.virsh("dumpxml grows");
    assert!(
        definition.contains("<maxMemory slots='4' unit='KiB'>1048576</maxMemory>"),
        "{definition}"
    );
    assert!(
        definition.contains("<requested unit='KiB'>65536</requested>"),
        "{definition}"
    );
    assert!(!definition.contains("<current unit"), "{definition}");
    host.virsh("start grows");
    let until = |host: &Host, kib: &str| wait_until(kib, || current(host) == kib);
    // What the definition asks for is there, and counted.
    until(&host, "65536");
    assert!(host.virsh("dumpxml grows").contains("<alias name='virtiomem0'/>"));
    let info = host.virsh("dominfo grows");
    assert_eq!(
        (field(&info, "Max memory"), field(&info, "Used memory")),
        ("524288 KiB", "327680 KiB")
    );
    // The balloon is another matter.
    host.virsh("setmem grows 262144 --live");

    let ask = |size: &str| {
        host.virsh(&format!(
            "update-memory-device grows --live --requested-size {size}"
        ))
    };
    let is_more = Cell::new(false);
    let poke = || {
        is_more.set(!is_more.get());
        ask(if is_more.get() { "128M" } else { "64M" });
    };
    let listen = "event --event memory-device-size-change --loop --timeout 3600";
    drop(Listener::start(&host, listen, poke));
    ask("128M");
    until(&host, "131072");
    for (wrong, says) in [("300M", "smaller than or equal"), ("3M", "integer multiple")] {
        let said = host.refused(&format!(
            "update-memory-device grows --live --requested-size {wrong}"
        ));
        assert!(said.contains(says), "{said}");
    }
    // The next daemon knows it, too.
    host.kill_and_restart();
    until(&host, "131072");
    let mut console = Console::open(&host, "grows");
    console.expect("# ");
    wait_until("Linux has more", || {
        let seen = console.shell("grep MemTotal /proc/meminfo");
        let words: Vec<&str> = seen.split_whitespace().collect();
        words.len() == 3 && words[1].parse::<u32>().unwrap() > 320_000
    });
    drop(console);
    host.virsh("update-memory-device grows --live --alias virtiomem0 --requested-size 0");
    until(&host, "0");
    host.virsh("update-memory-device grows --config --requested-size 32M");
    let inactive = host.virsh("dumpxml grows --inactive");
    assert!(
        inactive.contains("<requested unit='KiB'>32768</requested>") && !inactive.contains("<current unit"),
        "{inactive}"
    );
    // The device itself stays while the guest runs.
    let device = host.xml("device.xml", DEVICE);
    for (command, says) in [
        (
            format!("attach-device grows {device} --live"),
            "cannot be plugged in while the guest runs",
        ),
        (
            format!("detach-device grows {device} --live"),
            "stays while the guest runs",
        ),
    ] {
        let said = host.refused(&command);
        assert!(said.contains(says), "{said}");
    }
    host.virsh(&format!("detach-device grows {device} --config"));
    let inactive = host.virsh("dumpxml grows --inactive");
    assert!(
        inactive.contains("<memory unit='KiB'>262144</memory>") && !inactive.contains("virtio-mem"),
        "{inactive}"
    );
    host.virsh("destroy grows");
    host.virsh(&format!("attach-device grows {device} --config"));
    let inactive = host.virsh("dumpxml grows --inactive");
    assert!(
        inactive.contains("<memory unit='KiB'>524288</memory>") && inactive.contains("virtio-mem"),
        "{inactive}"
    );
}

fn file(path: &std::path::Path, more: &str) -> String {
    format!(
        "<memory model='virtio-pmem' access='shared'><source><path>{}</path></source>\
         <target><size unit='MiB'>32</size>{more}</target></memory>",
        path.display()
    )
}

#[test]
fn a_file_is_memory_of_a_guest() {
    let host = Host::start();
    let (kept, old) = (host.path("kept"), host.path("old"));
    fs::write(&old, vec![b'o'; 32 << 20]).unwrap();
    let devices = format!("{}{}", file(&kept, ""), file(&old, "<readonly/>"));
    let xml = with_memory(&linux("lasts", &devices), 320);
    host.virsh(&format!("define {} --validate", host.xml("guest.xml", &xml)));
    host.virsh("start lasts");
    let dump = host.virsh("dumpxml lasts");
    assert!(dump.contains("<alias name='virtiopmem1'/>"), "{dump}");
    assert_eq!(kept.metadata().unwrap().len(), 32 << 20);
    let list = host.virsh("qemu-monitor-command lasts {\"execute\":\"query-memory-devices\"}");
    assert_eq!(list.matches("\"type\":\"virtio-pmem\"").count(), 2, "{list}");
    let mut console = Console::open(&host, "lasts");
    console.expect("# ");
    // Virtio's device type 27, as the guest's PCI shows it: 0x1040 and more.
    let found = console.shell("grep -l 0x105b /sys/bus/pci/devices/*/device | wc -l");
    assert_eq!(found, "2");
    // Nobody else has the file meanwhile.
    let other = with_memory(&linux("other", &file(&kept, "")), 288);
    let said = host.refused(&format!("create {}", host.xml("other.xml", &other)));
    assert!(said.contains("in use"), "{said}");
    host.virsh("destroy lasts");
    // A file that was made for a guest that does not start goes.
    let made = host.path("made");
    let other = with_memory(&linux("other", &file(&made, "")), 288);
    let other = other.replace(
        "<devices>",
        "<devices><interface type='network'><source network='none'/></interface>",
    );
    host.refused(&format!("create {}", host.xml("other.xml", &other)));
    assert!(!made.exists());
}

#[test]
fn what_makes_no_sense_is_refused() {
    let host = Host::start();
    let memory = file(&host.path("file"), "");
    for (from, to, says) in [
        ("virtio-mem", "dimm", "dimm"),
        ("virtio-mem", "nvdimm", "nvdimm"),
        ("<maxMemory slots='4' unit='GiB'>1</maxMemory>", "", "maxMemory"),
        ("'GiB'>1<", "'MiB'>500<", "greater than or equal"),
        ("<size unit='MiB'>256", "<size unit='MiB'>512", "exceeds"),
        ("<block unit='KiB'>2048", "<block unit='KiB'>3000", "power of two"),
        ("<block unit='KiB'>2048</block>", "", "block"),
        (
            "<requested unit='MiB'>64",
            "<requested unit='MiB'>65",
            "integer multiple",
        ),
        (
            DEVICE,
            &memory.replace("access='shared'", "access='private'"),
            "shared access",
        ),
        (
            DEVICE,
            &memory
                .replace("<source>", "<source><!--")
                .replace("</source>", "--></source>"),
            "path is required",
        ),
    ] {
        let xml = with_memory(&linux("wrong", DEVICE), 512);
        assert!(xml.contains(from), "{from}");
        let file = host.xml("guest.xml", &xml.replace(from, to));
        let said = host.refused(&format!("define {file}"));
        assert!(said.contains(says), "{to}: {said}");
    }
    let two = with_memory(&linux("wrong", &DEVICE.repeat(2)), 768);
    let said = host.refused(&format!("create {}", host.xml("two.xml", &two)));
    assert!(said.contains("one <memory model='virtio-mem'>"), "{said}");
    let odd = with_memory(&linux("wrong", &memory.replace("'MiB'>32<", "'MiB'>33<")), 289);
    let said = host.refused(&format!("create {}", host.xml("odd.xml", &odd)));
    assert!(said.contains("multiple of 2 MiB"), "{said}");
    assert!(!host.path("file").exists());
}
