//! Places and names: given once as libvirt gives them, and kept over edits.

use ostler_libvirt_xml::Defaults;
use ostler_libvirt_xml::domain::{
    CharacterSource, CharacterTarget, CpuMode, DiskBus, DiskSource, Domain, Firmware, InterfaceSource, Live,
    MemoryKind, PciAddress,
};

fn defaults() -> Defaults {
    Defaults {
        machine: "ostler-q35-1".into(),
        cpu_model: "x86-64-v3".into(),
        memballoon: true,
    }
}

fn fives(bytes: &mut [u8]) {
    bytes.fill(0x55);
}

fn define(devices: &str) -> Domain {
    let xml =
        format!("<domain><name>a</name><memory unit='MiB'>64</memory><devices>{devices}</devices></domain>");
    Domain::define(&xml, &defaults(), &mut fives).unwrap()
}

fn disk(name: &str) -> String {
    format!("<disk><source file='/srv/{name}.img'/></disk>")
}

/// The places of everything on PCI, by kind.
fn places(domain: &Domain) -> Vec<(String, PciAddress)> {
    let devices = &domain.devices;
    let disks = devices
        .disks
        .iter()
        .map(|disk| (disk.target.clone(), disk.common.address));
    let cards = devices
        .interfaces
        .iter()
        .map(|card| (card.mac.to_string(), card.common.address));
    let balloon = devices
        .memballoon
        .iter()
        .map(|balloon| ("balloon".to_owned(), balloon.common.address));
    let rngs = devices
        .rngs
        .iter()
        .map(|rng| ("rng".to_owned(), rng.common.address));
    let all = disks.chain(cards).chain(balloon).chain(rngs);
    all.filter_map(|(name, address)| Some((name, address?))).collect()
}

#[test]
fn defaults_are_those_of_libvirt() {
    let domain = define("");
    assert_eq!(domain.uuid.to_string(), "55555555-5555-4555-9555-555555555555");
    assert_eq!((domain.memory.bytes, domain.memory.current), (64 << 20, 64 << 20));
    assert_eq!((domain.vcpus.max, domain.vcpus.current), (1, 1));
    assert_eq!(domain.os.machine, "ostler-q35-1");
    assert_eq!(domain.os.firmware, Firmware::Bios);
    let CpuMode::Custom { model, fallback } = &domain.cpu.mode else {
        panic!("{:?}", domain.cpu);
    };
    assert_eq!((model.as_str(), *fallback), ("x86-64-v3", false));
    assert!(
        domain
            .devices
            .memballoon
            .as_ref()
            .is_some_and(|balloon| balloon.present)
    );
    assert!(!domain.features.acpi && !domain.features.apic);
}

#[test]
fn devices_have_root_ports_of_their_own() {
    let domain = define(&format!("{}{}<interface type='user'/>", disk("a"), disk("b")));
    let address = |bus| PciAddress {
        bus,
        slot: 0,
        function: 0,
    };
    let expected = [("vda", 1), ("vdb", 2), ("52:54:00:55:55:55", 3), ("balloon", 4)];
    assert_eq!(
        places(&domain),
        expected.map(|(name, bus)| (name.to_owned(), address(bus)))
    );
    assert_eq!(
        domain.devices.disks[1].common.alias.as_deref(),
        Some("virtio-disk1")
    );
    assert_eq!(domain.devices.interfaces[0].common.alias.as_deref(), Some("net0"));
    let ports: Vec<_> = domain
        .devices
        .controllers
        .iter()
        .map(|c| (c.index, c.common.address))
        .collect();
    let port = |function| {
        Some(PciAddress {
            bus: 0,
            slot: 2,
            function,
        })
    };
    assert_eq!(
        ports,
        [(0, None), (1, port(0)), (2, port(1)), (3, port(2)), (4, port(3))]
    );
}

#[test]
fn places_are_kept_over_edits() {
    let random = &mut fives;
    let first = define(&format!("{}{}<rng/>", disk("a"), disk("b")));
    let before = places(&first);
    let more = first.attach(&disk("c"), &defaults(), random).unwrap();
    let after = places(&more);
    assert!(
        before.iter().all(|place| after.contains(place)),
        "{before:?} {after:?}"
    );
    assert_eq!(more.devices.disks[2].target, "vdc");
    // The place of a disk that goes is free for the next, and that of others stays.
    let less = more
        .detach("<disk><target dev='vda'/></disk>", &defaults(), random)
        .unwrap();
    assert_eq!(less.devices.disks.len(), 2);
    let card = "<interface type='user'><mac address='52:54:00:00:00:01'/></interface>";
    let other = less.attach(card, &defaults(), random).unwrap();
    assert_eq!(
        other.devices.interfaces[0].common.address,
        first.devices.disks[0].common.address
    );
    assert!(places(&less).iter().all(|place| places(&other).contains(place)));
    // An update keeps the place.
    let medium = "<disk><source file='/srv/other.img'/><target dev='vdb'/></disk>";
    let updated = other.update(medium, &defaults(), random).unwrap();
    let vdb = |domain: &Domain| {
        domain
            .devices
            .disks
            .iter()
            .find(|disk| disk.target == "vdb")
            .unwrap()
            .clone()
    };
    assert_eq!(vdb(&updated).common.address, vdb(&other).common.address);
    assert_eq!(
        vdb(&updated).source,
        Some(DiskSource::File("/srv/other.img".into()))
    );
    // And read again, all is as it was.
    let again = Domain::define(&updated.xml(true), &defaults(), random).unwrap();
    assert_eq!(
        again,
        Domain::define(&again.xml(true), &defaults(), random).unwrap()
    );
    assert_eq!(places(&again), places(&updated));
}

#[test]
fn what_is_not_there_cannot_be_detached() {
    let domain = define(&disk("a"));
    for xml in [
        "<disk><target dev='vdq'/></disk>",
        "<rng/>",
        "<frob/>",
        "<hostdev/>",
    ] {
        assert!(domain.detach(xml, &defaults(), &mut fives).is_err(), "{xml}");
    }
    let two = define("<interface type='user'/><interface type='user'/>");
    let error = two
        .detach("<interface type='user'/>", &defaults(), &mut fives)
        .unwrap_err();
    assert_eq!(
        (error.code(), error.to_string()),
        (
            99,
            "device not found: more than one <interface> of this guest matches; name its address or alias"
                .into()
        )
    );
}

#[test]
fn a_hundred_devices_have_places_and_300_are_one_clear_error() {
    let many = |count: usize| (0..count).map(|i| disk(&i.to_string())).collect::<String>();
    let domain = define(&many(100));
    let mut all: Vec<_> = places(&domain).into_iter().map(|(_, address)| address).collect();
    all.extend(
        domain
            .devices
            .controllers
            .iter()
            .filter_map(|controller| controller.common.address),
    );
    all.sort();
    assert!(all.windows(2).all(|two| two[0] != two[1]));
    assert_eq!(domain.devices.disks[99].target, "vdcv");
    let xml = format!(
        "<domain><name>a</name><memory>4096</memory><devices>{}</devices></domain>",
        many(300)
    );
    let error = Domain::define(&xml, &defaults(), &mut fives).unwrap_err();
    assert_eq!(error.to_string(), "XML error: No more available PCI slots");
}

#[test]
fn names_follow_the_bus() {
    let domain = define(
        "<disk><source file='/a'/><target bus='sata'/></disk><disk device='cdrom'/><disk><source file='/b'/></disk>\
         <disk><source file='/c'/><target dev='sdd'/></disk><disk device='cdrom'><target dev='hdc'/></disk>",
    );
    let names: Vec<_> = domain
        .devices
        .disks
        .iter()
        .map(|disk| (disk.target.as_str(), disk.bus))
        .collect();
    let sata = |port| DiskBus::Sata { port };
    assert_eq!(
        names,
        [
            ("sda", sata(0)),
            ("sdb", sata(1)),
            ("vda", DiskBus::Virtio),
            ("sdd", sata(3)),
            ("hdc", sata(2))
        ]
    );
    let sata = domain
        .devices
        .controllers
        .iter()
        .find(|controller| controller.kind == "sata")
        .unwrap();
    assert_eq!(
        sata.common.address,
        Some(PciAddress {
            bus: 0,
            slot: 0x1f,
            function: 2
        })
    );
}

#[test]
fn the_first_console_is_the_first_serial_port() {
    for devices in [
        "<console type='pty'/>",
        "<serial type='pty'/>",
        "<serial/><console/>",
    ] {
        let domain = define(devices);
        let [serial] = &domain.devices.serials[..] else {
            panic!("{devices}");
        };
        let [console] = &domain.devices.consoles[..] else {
            panic!("{devices}");
        };
        for stream in [serial, console] {
            assert_eq!(
                (&stream.source, &stream.target),
                (&CharacterSource::Pty, &CharacterTarget::Serial(0))
            );
        }
    }
    assert!(define("").devices.serials.is_empty());
}

#[test]
fn a_running_guest_shows_what_it_was_given() {
    let domain = define(
        "<serial/><interface type='network'><source network='default'/></interface><disk><source file='/a'/></disk>\
         <disk device='cdrom'><target dev='sda' tray='open'/></disk><disk device='cdrom'><target dev='sdb'/></disk><vsock/>",
    );
    let live = Live {
        clock_moved: 0,
        id: 7,
        ttys: [("serial0".to_owned(), "/dev/pts/3".to_owned())].into(),
        ports: [("net0".to_owned(), "vnet0".to_owned())].into(),
        connected: [].into(),
        open_trays: ["sata0-0-1".to_owned()].into(),
        plugged: [].into(),
        cid: Some(5),
    };
    let xml = domain.live_xml(&live, false);
    for part in [
        "<domain type='kvm' id='7'>",
        "<source path='/dev/pts/3'/>",
        "<console type='pty' tty='/dev/pts/3'>",
        "<target dev='vnet0'/>",
        "<alias name='virtio-disk0'/>",
        "<alias name='pci.1'/>",
        "<cid auto='yes' address='5'/>",
        // What a client says of a tray is not what there is.
        "<target dev='sda' bus='sata'/>",
        "<target dev='sdb' bus='sata' tray='open'/>",
    ] {
        assert!(xml.contains(part), "{part}\n{xml}");
    }
    assert_eq!(
        Domain::define(&xml, &defaults(), &mut fives).unwrap().xml(false),
        domain.xml(false)
    );
}

#[test]
fn passwords_are_for_those_who_may_see_them() {
    let domain = define("<graphics type='vnc' passwd='hush'/>");
    assert!(domain.xml(true).contains("hush") && !domain.xml(false).contains("hush"));
    assert!(!domain.live_xml(&Live::default(), false).contains("hush"));
}

#[test]
fn metadata_comes_back_as_it_went_in() {
    let metadata = "<metadata>\n    <a:one xmlns:a='urn:a' a:x='1' y='2'>\n      <a:two>mixed <b xmlns='urn:b'>text</b> &amp; more</a:two>\n      <a:three/>\n    </a:one>\n  </metadata>";
    let xml = format!("<domain><name>a</name>{metadata}<memory>4096</memory></domain>");
    let domain = Domain::define(&xml, &defaults(), &mut fives).unwrap();
    assert!(domain.xml(true).contains(metadata), "{}", domain.xml(true));
}

#[test]
fn the_model_has_what_the_document_says() {
    let xml = include_str!("data/by-hand/everything.xml");
    let domain = Domain::define(xml, &defaults(), &mut fives).unwrap();
    assert_eq!(domain.name, "everything & more");
    assert_eq!(
        (domain.memory.bytes, domain.memory.current),
        (2 << 30, 976_563 << 10)
    );
    assert_eq!(domain.memory.huge_pages, Some(2 << 20));
    assert!(domain.memory.locked && domain.memory.shared && domain.life.dump_core);
    assert_eq!(
        (
            domain.vcpus.max,
            domain.vcpus.current,
            domain.vcpus.cpuset.as_str()
        ),
        (4, 2, "0-1")
    );
    let sources: Vec<_> = domain
        .devices
        .interfaces
        .iter()
        .map(|card| &card.source)
        .collect();
    assert!(
        matches!(sources[0], InterfaceSource::Network { network, portgroup: Some(_) } if network == "default")
    );
    assert_eq!(sources[1], &InterfaceSource::Bridge("ovs0".into()));
    assert!(matches!(
        sources[2],
        InterfaceSource::VhostUser { server: false, .. }
    ));
    assert_eq!(sources[3], &InterfaceSource::User);
    assert!(matches!(sources[4], InterfaceSource::Direct { mode, .. } if mode == "bridge"));
    assert_eq!(sources[5], &InterfaceSource::Ethernet);
    let card = &domain.devices.interfaces[0];
    assert_eq!(
        (card.target.as_deref(), card.mtu, card.link, card.queues),
        (None, Some(9000), false, Some(2))
    );
    assert_eq!(
        card.bandwidth
            .inbound
            .map(|rate| (rate.average, rate.peak, rate.burst)),
        Some((1000, Some(5000), Some(1024)))
    );
    let vlan = domain.devices.interfaces[1].vlan.as_ref().unwrap();
    assert_eq!(
        (vlan.trunk, &vlan.tags[..], vlan.native),
        (true, &[42, 123][..], Some((123, false)))
    );
    let boots: Vec<_> = domain
        .boot_disks()
        .iter()
        .map(|disk| disk.target.as_str())
        .collect();
    assert_eq!(boots[..2], ["hdc", "vda"]);
    assert_eq!(
        domain
            .devices
            .disks
            .iter()
            .find(|disk| disk.target == "hdc")
            .unwrap()
            .source,
        None
    );
}

#[test]
fn memory_counts_what_its_devices_can_have() {
    let device = "<memory model='virtio-mem'><target><size unit='MiB'>32</size><block unit='MiB'>2</block>\
         <requested unit='MiB'>4</requested></target></memory>";
    let xml = "<domain><name>a</name><maxMemory slots='2' unit='MiB'>128</maxMemory><memory unit='MiB'>64</memory></domain>";
    let domain = Domain::define(xml, &defaults(), &mut fives).unwrap();
    assert_eq!(domain.memory.max, Some(128 << 20));
    let more = domain.attach(device, &defaults(), &mut fives).unwrap();
    let memories = &more.devices.memories;
    assert_eq!(memories.len(), 1);
    let kind = |requested| MemoryKind::Pluggable {
        block: 2 << 20,
        requested,
    };
    assert_eq!((memories[0].size, &memories[0].kind), (32 << 20, &kind(4 << 20)));
    assert!(memories[0].common.address.is_some());
    assert_eq!(
        (more.memory.bytes, more.memory.initial(memories)),
        (96 << 20, 64 << 20)
    );
    // Of a guest that runs it is known how much it has, which is no part of a definition.
    let live = Live {
        clock_moved: 0,
        plugged: [("virtiomem0".to_owned(), 2 << 20)].into(),
        ..Live::default()
    };
    let shown = more.started().live_xml(&live, true);
    assert!(shown.contains("<current unit='KiB'>2048</current>"), "{shown}");
    let again = Domain::define(&shown, &defaults(), &mut fives).unwrap();
    assert_eq!(again.xml(true), more.xml(true));
    let asked = shown.replace("<requested unit='KiB'>4096<", "<requested unit='KiB'>8192<");
    let start = asked.find("<memory model").unwrap();
    let end = asked[start..].find("</memory>").unwrap() + start + "</memory>".len();
    let updated = more.update(&asked[start..end], &defaults(), &mut fives).unwrap();
    assert_eq!(updated.devices.memories[0].kind, kind(8 << 20));
    assert_eq!(updated.memory.bytes, 96 << 20);
    let less = more.detach(device, &defaults(), &mut fives).unwrap();
    assert_eq!(less.memory.bytes, 64 << 20);
    let started = more.started();
    let less = started
        .detach_alias("virtiomem0", &defaults(), &mut fives)
        .unwrap();
    assert_eq!((less.memory.bytes, less.devices.memories.len()), (64 << 20, 0));
    // A file that is memory counts, too.
    let file = "<memory model='virtio-pmem' access='shared'><source><path>/a</path></source>\
         <target><size unit='MiB'>16</size><readonly/></target></memory>";
    let both = more.attach(file, &defaults(), &mut fives).unwrap();
    assert_eq!((both.memory.bytes, both.devices.memories.len()), (112 << 20, 2));
    let persistent = MemoryKind::Persistent {
        path: "/a".into(),
        readonly: true,
    };
    assert_eq!(both.devices.memories[1].kind, persistent);
    assert!(both.started().xml(true).contains("<alias name='virtiopmem0'/>"));
}

/// Guests number buses in the order of the ports' places, so no port comes before one that is there.
#[test]
fn root_ports_to_come_are_after_the_others() {
    let port = |index: u8, slot: u8, function: u8| {
        format!(
            "<controller type='pci' index='{index}' model='pcie-root-port'><target port='{index}'/>\
             <address type='pci' bus='0' slot='{slot}' function='{function}' multifunction='on'/></controller>"
        )
    };
    let place = |slot, function| PciAddress {
        bus: 0,
        slot,
        function,
    };
    // There is room beside the first port, but before the second.
    let ports = [port(1, 2, 0), port(2, 3, 0)].concat();
    let domain = define(&[ports, disk("a"), disk("b")].concat());
    let balloon = domain.devices.memballoon.as_ref().unwrap();
    assert_eq!(balloon.common.address.map(|address| address.bus), Some(3));
    let places: Vec<_> = domain
        .devices
        .controllers
        .iter()
        .filter(|controller| controller.index > 0)
        .map(|controller| (controller.index, controller.common.address, controller.port))
        .collect();
    let third = (3, Some(place(3, 1)), 3 << 3 | 1);
    assert_eq!(
        places,
        [(1, Some(place(2, 0)), 1), (2, Some(place(3, 0)), 2), third]
    );
    // What would be added is what is added.
    let spare = domain.spare_ports(3);
    assert_eq!(spare, [(4, place(3, 2)), (5, place(3, 3)), (6, place(3, 4))]);
    let random = &mut fives;
    let mut more = domain;
    for (index, place) in spare {
        more = more
            .attach("<rng><backend model='random'/></rng>", &defaults(), random)
            .unwrap();
        let port = more
            .devices
            .controllers
            .iter()
            .find(|port| port.kind == "pci" && port.index == index.into());
        assert_eq!(port.unwrap().common.address, Some(place));
        let rng = more.devices.rngs.last().unwrap();
        assert_eq!(rng.common.address.map(|address| address.bus), Some(index));
    }
    // Ports without a device count.
    let free = define(&[port(1, 2, 0), port(2, 2, 1), port(3, 2, 2)].concat());
    assert_eq!(free.spare_ports(4), [(4, place(2, 3)), (5, place(2, 4))]);
    assert_eq!(free.spare_ports(2), []);
    let last = define(&[port(1, 0x1e, 0), port(2, 0x1e, 7)].concat());
    assert_eq!(
        last.spare_ports(2),
        [(3, place(0x1e, 1))],
        "somewhere, where there is nothing after them"
    );
    // A port that nothing comes into is none of them, and is given to who asks for it only: the balloon has one of its own.
    let fixed = define(&port(1, 2, 0).replace("<target ", "<target hotplug='off' "));
    assert_eq!(fixed.spare_ports(1), [(3, place(2, 2))]);
    let rng = "<rng><backend model='random'/></rng>";
    let more = fixed.attach(rng, &defaults(), &mut fives).unwrap();
    let at = more.devices.rngs[0].common.address;
    assert_eq!(at.map(|address| address.bus), Some(3));
    let asking = rng.replace(
        "</rng>",
        "<address type='pci' bus='0x01' slot='0x00' function='0x0'/></rng>",
    );
    let more = fixed.attach(&asking, &defaults(), &mut fives).unwrap();
    let at = more.devices.rngs[0].common.address;
    assert_eq!(at.map(|address| address.bus), Some(1));
}
