//! Networks, pools, volumes, secrets, devices of the host and capabilities: read, given back valid by libvirt's schemas, the same when
//! read again.

use std::fs;
use std::path::Path;
use std::process::Command;

use ostler_libvirt_xml::Mac;
use ostler_libvirt_xml::capabilities::{Cell, Guests, Host, HostCpu};
use ostler_libvirt_xml::domain_capabilities::DomainCapabilities;
use ostler_libvirt_xml::network::{Forward, Network};
use ostler_libvirt_xml::node_device::{Capability, NodeDevice};
use ostler_libvirt_xml::secret::Secret;
use ostler_libvirt_xml::storage::{Permissions, Pool, PoolState, PoolType, Volume, VolumeState};

fn fives(bytes: &mut [u8]) {
    bytes.fill(0x55);
}

/// Validates a document by one of libvirt's schemas.
fn validate(schema: &str, xml: &str) {
    let schema = Path::new("/usr/share/libvirt/schemas").join(schema);
    if !schema.exists() || Command::new("xmllint").arg("--version").output().is_err() {
        println!(
            "SKIPPED validation by {}: it needs libvirt0 and libxml2-utils",
            schema.display()
        );
        return;
    }
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("document.xml");
    fs::write(&path, xml).unwrap();
    let output = Command::new("xmllint")
        .arg("--noout")
        .arg("--relaxng")
        .arg(schema)
        .arg(path)
        .output()
        .unwrap();
    assert!(
        output.status.success(),
        "{}\n{xml}",
        String::from_utf8_lossy(&output.stderr)
    );
}

fn network(xml: &str) -> Network {
    let network = Network::define(xml, "virbr9", &mut fives).unwrap_or_else(|error| panic!("{error}\n{xml}"));
    validate("network.rng", &network.xml());
    assert_eq!(
        Network::define(&network.xml(), "virbr7", &mut fives).unwrap(),
        network
    );
    network
}

const DEFAULT: &str = "<network connections='3'>
  <name>default</name>
  <forward mode='nat'/>
  <ip address='192.168.122.1' netmask='255.255.255.0'>
    <dhcp>
      <range start='192.168.122.2' end='192.168.122.254'/>
      <host mac='52:54:00:00:00:01' name='one' ip='192.168.122.10'/>
    </dhcp>
  </ip>
  <ip family='ipv6' address='fd00::1' prefix='64'/>
</network>";

#[test]
fn the_default_network() {
    let network = network(DEFAULT);
    let bridge = network.bridge.as_ref().unwrap();
    assert_eq!(
        (bridge.name.as_str(), bridge.stp, bridge.delay),
        ("virbr9", true, 0)
    );
    assert_eq!(bridge.mac.unwrap().to_string(), "52:54:00:55:55:55");
    assert_eq!(
        network.forward,
        Forward::Nat {
            dev: None,
            ports: (1024, 65535)
        }
    );
    assert_eq!((network.ips[0].prefix, network.ips[1].prefix), (24, 64));
    assert_eq!(network.ips[0].hosts[0].name.as_deref(), Some("one"));
    assert!(network.xml().contains("<port start='1024' end='65535'/>"));
}

#[test]
fn other_networks() {
    let isolated = network(
        "<network><name>i</name><domain name='lab' localOnly='yes'/><dns><host ip='10.0.0.9'><hostname>nine</hostname></host></dns><ip address='10.0.0.1'/></network>",
    );
    assert_eq!((isolated.forward, isolated.ips[0].prefix), (Forward::Isolated, 8));
    assert_eq!(isolated.domain, Some(("lab".into(), true)));
    assert_eq!(isolated.dns_hosts[0].1, ["nine"]);
    let bridged = network("<network><name>b</name><forward mode='bridge'/><bridge name='br0'/></network>");
    assert_eq!(bridged.forward, Forward::Bridge);
    assert_eq!(bridged.bridge.unwrap().mac, None);
    let ovs = network(
        "<network><name>o</name><forward mode='bridge'/><bridge name='ovs0'/><virtualport type='openvswitch'/>\
         <vlan trunk='yes'><tag id='7'/><tag id='8' nativeMode='untagged'/></vlan>\
         <portgroup name='web' default='yes'><vlan><tag id='42'/></vlan><bandwidth><inbound average='100'/></bandwidth></portgroup></network>",
    );
    assert!(ovs.bridge.as_ref().unwrap().openvswitch && ovs.port_groups[0].default);
    assert_eq!(ovs.port_groups[0].vlan.as_ref().unwrap().tags, [42]);
    assert_eq!(ovs.port.vlan.as_ref().unwrap().native, Some((8, false)));
    let direct = network(
        "<network><name>d</name><forward mode='passthrough'><interface dev='eth0'/><interface dev='eth1'/></forward></network>",
    );
    assert_eq!(
        direct.forward,
        Forward::Direct {
            mode: "passthrough".into(),
            devs: vec!["eth0".into(), "eth1".into()]
        }
    );
    let route = network(
        "<network><name>r</name><forward mode='route' dev='eth0'/><mtu size='9000'/><ip address='10.1.0.1' prefix='16'/></network>",
    );
    assert_eq!(
        (route.forward, route.mtu),
        (
            Forward::Route {
                dev: Some("eth0".into())
            },
            Some(9000)
        )
    );
}

#[test]
fn networks_that_cannot_be() {
    let wrong = [
        (
            "<network><ip address='1.2.3.4'/></network>",
            "missing name information",
        ),
        (
            "<network><name>a</name><ip address='1.2.3'/></network>",
            "'address' in element 'ip': '1.2.3'",
        ),
        (
            "<network><name>a</name><ip address='10.0.0.1' netmask='255.0.255.0'/></network>",
            "'netmask'",
        ),
        (
            "<network><name>a</name><ip address='10.0.0.1' prefix='33'/></network>",
            "Invalid value",
        ),
        (
            "<network><name>a</name><forward mode='hostdev'/></network>",
            "unsupported configuration: mode='hostdev'",
        ),
        (
            "<network><name>a</name><bridge name='a/b'/></network>",
            "Invalid value for attribute 'name'",
        ),
        (
            "<network><name>a</name><ip address='10.0.0.1' prefix='24'><dhcp><range start='10.0.1.2' end='10.0.1.9'/></dhcp></ip></network>",
            "is not within network 10.0.0.1/24",
        ),
    ];
    for (xml, expected) in wrong {
        let error = Network::define(xml, "virbr0", &mut fives)
            .unwrap_err()
            .to_string();
        assert!(error.contains(expected), "{xml}: {error}");
    }
}

#[test]
fn pools() {
    let state = PoolState {
        capacity: 100,
        allocation: 60,
        available: 40,
    };
    let documents = [
        (
            "<pool type='dir'><name>default</name><capacity>7</capacity><target><path>/srv/images</path><permissions><mode>0711</mode><owner>0</owner><group>0</group></permissions></target></pool>",
            PoolType::Dir,
        ),
        (
            "<pool type='fs'><name>fs</name><source><device path='/dev/sdb1'/><format type='ext4'/></source><target><path>/mnt/fs</path></target></pool>",
            PoolType::Fs,
        ),
        (
            "<pool type='logical'><source><name>vg0</name><device path='/dev/sdb'/></source></pool>",
            PoolType::Logical,
        ),
    ];
    for (xml, kind) in documents {
        let pool = Pool::define(xml, &mut fives).unwrap_or_else(|error| panic!("{error}\n{xml}"));
        assert_eq!(pool.kind, kind);
        for text in [pool.xml(None), pool.xml(Some(&state))] {
            validate("storagepool.rng", &text);
            assert_eq!(Pool::define(&text, &mut fives).unwrap(), pool);
        }
        assert!(
            pool.xml(Some(&state))
                .contains("<available unit='bytes'>40</available>")
        );
    }
    let wrong = [
        ("<pool type='dir'><name>a</name></pool>", "target path"),
        (
            "<pool type='dir'><name>a</name><target><path>/srv/../etc</path></target></pool>",
            "without '..'",
        ),
        (
            "<pool type='dir'><name>a</name><target><path>/srv</path><permissions><mode>9</mode></permissions></target></pool>",
            "octal mode",
        ),
        ("<pool type='rbd'><name>a</name></pool>", "type='rbd'"),
        (
            "<pool type='fs'><name>a</name><target><path>/a</path></target></pool>",
            "source device",
        ),
        ("<pool><name>a</name></pool>", "'type' in element 'pool'"),
        (
            "<pool type='logical'><name>../a</name></pool>",
            "cannot contain '/'",
        ),
    ];
    for (xml, expected) in wrong {
        let error = Pool::define(xml, &mut fives).unwrap_err().to_string();
        assert!(error.contains(expected), "{xml}: {error}");
    }
}

#[test]
fn volumes() {
    let xml = "<volume type='file'><name>a.img</name><capacity unit='GiB'>2</capacity><allocation>0</allocation><target><format type='raw'/><permissions><mode>0600</mode></permissions></target></volume>";
    let volume = Volume::parse(xml, None).unwrap();
    assert_eq!(
        (volume.capacity, volume.allocation, volume.permissions.mode),
        (2 << 30, 0, Some(0o600))
    );
    for name in ["../a", "a/b", ".."] {
        assert!(
            Volume::parse(
                &format!("<volume><name>{name}</name><capacity>1</capacity></volume>"),
                None
            )
            .is_err(),
            "{name}"
        );
    }
    let copied = "<volume><name>a</name></volume>";
    assert!(Volume::parse(copied, None).is_err());
    assert_eq!(Volume::parse(copied, Some(7)).unwrap().capacity, 7);
    let qcow2 =
        "<volume><name>a</name><capacity>1</capacity><target><format type='qcow2'/></target></volume>";
    assert!(
        Volume::parse(qcow2, None)
            .unwrap_err()
            .to_string()
            .contains("images have to be raw")
    );
    let mut state = VolumeState {
        name: "a & b.img".into(),
        path: "/srv/images/a & b.img".into(),
        block: false,
        format: "raw".into(),
        capacity: 2 << 30,
        allocation: 4096,
        physical: 2 << 30,
        permissions: Permissions {
            mode: Some(0o644),
            owner: Some(0),
            group: Some(64055),
        },
        times: Some([(1, 2), (3, 4), (5, 999_999_999)]),
    };
    validate("storagevol.rng", &state.xml());
    assert_eq!(Volume::parse(&state.xml(), None).unwrap().name, state.name);
    state.times = None;
    state.permissions = Permissions::default();
    validate("storagevol.rng", &state.xml());
}

#[test]
fn secrets() {
    let documents = [
        "<secret ephemeral='yes' private='yes'><description>of a disk</description><usage type='volume'><volume>/srv/a.img</volume></usage></secret>",
        "<secret><usage type='ceph'><name>client</name></usage></secret>",
        "<secret><usage type='iscsi'><target>t</target></usage></secret>",
        "<secret/>",
    ];
    for xml in documents {
        let secret = Secret::define(xml, &mut fives).unwrap();
        validate("secret.rng", &secret.xml());
        assert_eq!(Secret::define(&secret.xml(), &mut fives).unwrap(), secret);
    }
    assert!(Secret::define("<secret><usage type='volume'/></secret>", &mut fives).is_err());
}

#[test]
fn devices_of_the_host() {
    let text = |text: &str| Some(text.to_owned());
    let device = |name: &str, capability| NodeDevice {
        name: name.into(),
        path: text("/sys/devices/x"),
        parent: text("computer"),
        driver: None,
        capability,
    };
    let computer = NodeDevice {
        path: None,
        parent: None,
        ..device(
            "computer",
            Capability::System {
                hardware: [text("Vendor"), None, text("1")],
                uuid: "11111111-2222-3333-4444-555555555555".into(),
                firmware: [text("Vendor"), text("2"), text("01/01/2020")],
            },
        )
    };
    let pci = Capability::Pci {
        address: (0, 0, 31, 2),
        class: 0x010601,
        product: (0x2922, text("82801IR")),
        vendor: (0x8086, None),
    };
    let net = Capability::Net {
        interface: "eth0".into(),
        address: Some(Mac([0x52, 0x54, 0, 1, 2, 3])),
    };
    let storage = Capability::Storage {
        block: "/dev/vda".into(),
        drive: "disk".into(),
        model: None,
        serial: text("s1"),
        size: 1 << 30,
    };
    let stick = Capability::UsbDevice {
        bus: 1,
        device: 7,
        product: (0x5583, text("Ultra Fit")),
        vendor: (0x0781, None),
    };
    let interface = Capability::Usb {
        number: 0,
        class: (8, 6, 80),
        description: text("Mass Storage"),
    };
    let mut disk = device("block_vda_s1", storage);
    disk.driver = text("virtio_blk");
    let unknown = NodeDevice {
        capability: Capability::System {
            hardware: [None, None, None],
            uuid: "11111111-2222-3333-4444-555555555555".into(),
            firmware: [None, None, None],
        },
        ..computer.clone()
    };
    for device in [
        computer,
        unknown,
        device("pci_0000_00_1f_2", pci),
        device("net_eth0_52_54_00_01_02_03", net),
        device("usb_1_2", stick),
        device("usb_1_2_1_0", interface),
        disk,
    ] {
        validate("nodedev.rng", &device.xml());
    }
}

fn host() -> Host {
    Host {
        uuid: "11111111-2222-3333-4444-555555555555".into(),
        model: Some("Haswell-noTSX".into()),
        vendor: Some("Intel".into()),
        features: vec!["vmx".into()],
        topology: [1, 1, 2, 1],
        pages: vec![4, 2048],
        migration: vec!["tcp".into()],
        cells: vec![Cell {
            id: 0,
            memory: 1 << 20,
            cpus: (0..2)
                .map(|id| HostCpu {
                    id,
                    place: [0, 0, id],
                    siblings: id.to_string(),
                })
                .collect(),
        }],
        guests: Guests {
            emulator: "/usr/local/bin/ostler".into(),
            machines: vec!["ostler-q35-1".into()],
            max_cpus: 240,
            kvm: true,
        },
    }
}

#[test]
fn capabilities() {
    let mut host = host();
    validate("capability.rng", &host.xml());
    assert!(host.xml().contains("<domain type='kvm'/>"));
    host.guests.kvm = false;
    host.model = None;
    host.migration.clear();
    validate("capability.rng", &host.xml());
    assert!(!host.xml().contains("kvm") && !host.xml().contains("migration"));
}

#[test]
fn capabilities_of_domains() {
    let list = |values: &[&str]| values.iter().map(|&value| value.to_owned()).collect::<Vec<_>>();
    let full = DomainCapabilities {
        emulator: "/usr/local/bin/ostler".into(),
        kvm: true,
        machine: "ostler-q35-1".into(),
        max_cpus: 240,
        firmware: list(&["bios", "efi"]),
        loaders: list(&["/usr/share/OVMF/OVMF_CODE_4M.fd"]),
        secure_boot: true,
        host_passthrough: true,
        models: vec![("x86-64-v2".into(), true), ("x86-64-v4".into(), false)],
        host_model: None,
        memory_sources: list(&["anonymous", "memfd"]),
        disk_devices: list(&["disk", "cdrom"]),
        disk_buses: list(&["virtio", "sata"]),
        video: list(&["vga", "none", "bochs"]),
        rng: list(&["virtio"]),
        filesystem: vec![],
        hyperv: list(&["relaxed", "spinlocks"]),
        channel: list(&["pty", "unix"]),
    };
    validate("domaincaps.rng", &full.xml());
    assert!(
        full.xml()
            .contains("<model usable='no' vendor='unknown'>x86-64-v4</model>")
    );
    assert!(full.xml().contains("<filesystem supported='no'/>"));
    let plain = DomainCapabilities {
        secure_boot: false,
        ..full.clone()
    };
    validate("domaincaps.rng", &plain.xml());
    let yes = |xml: &str| xml.matches("<value>yes</value>").count();
    assert_eq!(yes(&plain.xml()) + 1, yes(&full.xml()));
    assert!(full.xml().contains("<value>bochs</value>"));
    assert!(full.xml().contains("<value>spinlocks</value>"));
    let bare = DomainCapabilities {
        emulator: "/x".into(),
        machine: "ostler-q35-1".into(),
        ..DomainCapabilities::default()
    };
    validate("domaincaps.rng", &bare.xml());
    assert!(!bare.xml().contains("hyperv"));
    assert!(bare.xml().contains("<video supported='no'/>"));
    assert!(bare.xml().contains("<disk supported='no'/>") && bare.xml().contains("<domain>qemu</domain>"));
}
