//! virt-xml, which changes definitions and guests that run, and virt-clone.

use std::fs;
use std::process::Command;

use crate::console::Console;
use crate::setup::{Host, field, linux};
use crate::virtinst::{self, printed, program};

/// `<disk>` with a file of the pool `default` that is full of `letter`.
fn disk(host: &Host, file: &str, target: &str, letter: u8) -> String {
    let path = host.path("images").join(file);
    fs::write(&path, vec![letter; 1 << 20]).unwrap();
    format!(
        "<disk type='file' device='disk'><driver name='qemu' type='raw'/><source file='{}'/><target dev='{target}' bus='virtio'/></disk>",
        path.display()
    )
}

/// virt-xml with its arguments in words.
fn virt_xml(host: &Host, arguments: &str) -> String {
    printed(program(host, "virt-xml").args(arguments.split_whitespace()))
}

#[test]
fn virt_xml_changes_a_definition() {
    if !virtinst::is_there("virt_xml_changes_a_definition") {
        return;
    }
    let host = Host::start();
    let xml = linux("web", &disk(&host, "web.img", "vda", b'w'));
    host.virsh(&format!("define {}", host.xml("web.xml", &xml)));
    let before = host.virsh("dumpxml web");
    let diff = virt_xml(&host, "web --edit --vcpus 3 --print-diff");
    assert!(diff.contains("-  <vcpu") && diff.contains("+  <vcpu"), "{diff}");
    assert_eq!(host.virsh("dumpxml web"), before, "it was only shown");

    for change in ["--vcpus 3", "--memory 384", "--metadata title=Changed"] {
        let said = virt_xml(&host, &format!("web --edit {change}"));
        assert!(said.contains("Domain 'web' defined successfully"), "{said}");
    }
    let info = host.virsh("dominfo web");
    assert_eq!(field(&info, "CPU(s)"), "3");
    assert_eq!(field(&info, "Max memory"), "393216 KiB");
    assert_eq!(host.virsh("desc web --title").trim(), "Changed");

    let second = host.path("images/second.img");
    fs::write(&second, vec![b's'; 1 << 20]).unwrap();
    let add = format!(
        "web --add-device --disk {},format=raw,target.bus=virtio",
        second.display()
    );
    virt_xml(&host, &add);
    assert!(
        host.virsh("domblklist web")
            .contains(&format!("vdb      {}", second.display()))
    );
    virt_xml(&host, "web --edit target=vdb --disk readonly=on,serial=S2");
    virt_xml(
        &host,
        "web --add-device --network network=default,model=virtio,mac=52:54:00:00:00:0a",
    );
    virt_xml(&host, "web --add-device --rng /dev/urandom");
    assert!(host.virsh("domiflist web").contains("52:54:00:00:00:0a"));

    // All of it is there in the guest.
    virt_xml(&host, "web --edit --events on_crash=destroy --start");
    let mut console = Console::open(&host, "web");
    console.expect("OSTLER-GUEST-UP");
    console.expect("# ");
    assert_eq!(console.shell("nproc"), "3");
    assert_eq!(
        console.shell("head -c 2 /dev/vda; head -c 2 /dev/vdb; cat /sys/block/vdb/ro /sys/block/vdb/serial"),
        "wwss1\nS2"
    );
    assert_eq!(
        console.shell("cat /sys/class/net/eth0/address"),
        "52:54:00:00:00:0a"
    );
    host.virsh("destroy web");

    virt_xml(&host, "web --remove-device --disk target=vdb");
    virt_xml(&host, "web --remove-device --rng model=virtio");
    assert!(!host.virsh("domblklist web").contains("vdb"));
    assert!(!host.virsh("dumpxml web").contains("<rng"));
    // What the model does not know is refused, and changes nothing.
    let before = host.virsh("dumpxml web");
    let output = program(&host, "virt-xml")
        .args(["web", "--add-device", "--disk"])
        .arg(format!(
            "{},driver.type=qcow2,target.bus=virtio",
            second.display()
        ))
        .output()
        .unwrap();
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(!output.status.success() && said.contains("raw"), "{said}");
    assert_eq!(host.virsh("dumpxml web"), before);
}

#[test]
fn virt_xml_changes_a_guest_that_runs() {
    if !virtinst::is_there("virt_xml_changes_a_guest_that_runs") {
        return;
    }
    let host = Host::start();
    let card = "<interface type='network'><mac address='52:54:00:00:00:0d'/><source network='default'/><model type='virtio'/></interface>";
    let xml = linux("web", &(disk(&host, "web.img", "vda", b'w') + card));
    host.virsh(&format!("define {}", host.xml("web.xml", &xml)));
    host.virsh("start web");
    let mut console = Console::open(&host, "web");
    console.expect("OSTLER-GUEST-UP");
    console.expect("# ");
    // virt-xml has the daemon make the volume.
    let path = host.path("images/live.img");
    let add = format!(
        "web --add-device --update --disk {},size=0.0625,format=raw,target.bus=virtio",
        path.display()
    );
    let said = virt_xml(&host, &add);
    assert!(said.contains("Device hotplug successful"), "{said}");
    console.shell_until("cat /sys/block/vdb/size 2>/dev/null", "131072");
    for which in ["", "--inactive"] {
        assert!(host.virsh(&format!("domblklist web {which}")).contains("vdb"));
    }
    let said = virt_xml(&host, "web --remove-device --update --disk target=vdb");
    assert!(said.contains("Device hotunplug successful"), "{said}");
    console.shell_until("ls /sys/block | grep -c vdb", "0");
    // Its card is pulled out of the network's socket, and put in again.
    for (state, carrier) in [("down", "0"), ("up", "1")] {
        virt_xml(
            &host,
            &format!("web --edit mac=52:54:00:00:00:0d --update --network link.state={state}"),
        );
        console.shell_until("ip link set eth0 up; cat /sys/class/net/eth0/carrier", carrier);
    }
    host.virsh("destroy web");
}

#[test]
fn virt_clone_copies_a_guest_with_its_disks() {
    if !virtinst::is_there("virt_clone_copies_a_guest_with_its_disks") {
        return;
    }
    let host = Host::start();
    let devices = disk(&host, "one.img", "vda", b'1')
        + &disk(&host, "more.img", "vdb", b'm')
        + "<interface type='network'><mac address='52:54:00:00:00:0b'/><source network='default'/><model type='virtio'/></interface>";
    host.virsh(&format!(
        "define {}",
        host.xml("one.xml", &linux("one", &devices))
    ));
    let clone = |arguments: &str| {
        program(&host, "virt-clone")
            .args(arguments.split_whitespace())
            .output()
            .unwrap()
    };

    // Of a guest that writes its disks there is no copy.
    host.virsh("start one");
    let output = clone("--original one --auto-clone");
    assert!(!output.status.success());
    host.virsh("destroy one");

    let output = clone("--original one --name two --auto-clone");
    let said =
        String::from_utf8_lossy(&output.stdout).into_owned() + &String::from_utf8_lossy(&output.stderr);
    assert!(
        output.status.success() && said.contains("Clone 'two' created successfully"),
        "{said}"
    );
    assert_ne!(host.virsh("domuuid one"), host.virsh("domuuid two"));
    assert!(!host.virsh("domiflist two").contains("52:54:00:00:00:0b"));
    let disks = |guest: &str| -> Vec<String> {
        let list = host.virsh(&format!("domblklist {guest}"));
        let sources = list
            .lines()
            .skip(2)
            .filter_map(|line| line.split_whitespace().nth(1));
        sources.map(str::to_owned).collect()
    };
    let (ours, theirs) = (disks("one"), disks("two"));
    assert_eq!((ours.len(), theirs.len()), (2, 2));
    for (one, two) in ours.iter().zip(&theirs) {
        assert_ne!(one, two);
        assert!(Command::new("cmp").args([one, two]).status().unwrap().success());
    }
    // Both run at once, as nothing is shared.
    host.virsh("start one");
    host.virsh("start two");
    let mut console = Console::open(&host, "two");
    console.expect("OSTLER-GUEST-UP");
    console.expect("# ");
    assert_eq!(console.shell("head -c 2 /dev/vda; head -c 2 /dev/vdb"), "11mm");
    host.virsh("destroy one");
    host.virsh("destroy two");
}
