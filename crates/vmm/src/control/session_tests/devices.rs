//! Devices and CPUs that come and go.

use super::*;

#[test]
fn a_disk_comes_and_goes_where_no_guest_listens() {
    let mut talk = Talk::negotiated();
    let image = tempfile::NamedTempFile::new().unwrap();
    image.as_file().set_len(1 << 20).unwrap();
    let open = File::options().read(true).write(true).open(image.path()).unwrap();
    talk.session.fds.receive(OwnedFd::from(open));
    talk.good("add-fd", json!({ "fdset-id": 9, "opaque": "the disk" }));
    assert_eq!(
        talk.good("query-fdsets", json!({}))[0]["fds"][0]["opaque"],
        "the disk"
    );
    let node = json!({ "driver": "raw", "node-name": "n", "file": { "driver": "file", "filename": "/dev/fdset/9" } });
    talk.good("blockdev-add", node);
    let device =
        json!({ "driver": "virtio-blk-pci", "id": "hp", "drive": "n", "bus": "rp2", "serial": "hot" });
    for (property, value, text) in [
        (
            "driver",
            json!("e1000"),
            "'e1000' is not a valid device model name",
        ),
        ("id", json!("1"), "Parameter 'id' expects an identifier"),
        ("id", json!("disk0"), "Duplicate device ID 'disk0'"),
        ("id", json!("rp1"), "Duplicate device ID 'rp1'"),
        ("bus", json!("rp9"), "Bus 'rp9' not found"),
        (
            "bus",
            json!("pcie.0"),
            "Bus 'pcie.0' does not support hotplugging",
        ),
        (
            "drive",
            json!("x"),
            "Property 'virtio-blk-device.drive' can't find value 'x'",
        ),
        ("drive", json!("disk0"), "Node 'disk0' is in use"),
        (
            "bootindex",
            json!(1),
            "Property 'virtio-blk-pci.bootindex' not found",
        ),
        (
            "num-queues",
            json!(99),
            "Parameter 'num-queues' expects a number from 1 to 2",
        ),
        (
            "serial",
            json!("x".repeat(21)),
            "Parameter 'serial' expects at most 20 ASCII characters",
        ),
    ] {
        let mut wrong = device.clone();
        wrong[property] = value;
        assert_eq!(talk.bad("device_add", wrong).1, text);
    }
    talk.good("device_add", device.clone());
    let mut second = device.clone();
    second["id"] = json!("other");
    assert_eq!(
        talk.bad("device_add", second).1,
        "PCI: slot 0 function 0 not available for virtio-blk-pci, in use by virtio-blk-pci,id=hp"
    );
    assert_eq!(
        talk.bad("blockdev-del", json!({ "node-name": "n" })).1,
        "Node n is in use"
    );
    assert_eq!(
        talk.good("query-block", json!({}))[1]["qdev"],
        "/machine/peripheral/hp/virtio-backend"
    );
    let kind = json!({ "path": "/machine/peripheral/hp", "property": "serial" });
    assert_eq!(talk.good("qom-get", kind), "hot");
    talk.good("block_resize", json!({ "node-name": "n", "size": 2 << 20 }));
    assert_eq!(image.as_file().metadata().unwrap().len(), 2 << 20);
    assert!(
        talk.bad("block_resize", json!({ "node-name": "n", "size": 77 }))
            .1
            .contains("77 bytes")
    );

    assert_eq!(
        talk.bad("device_del", json!({ "id": "disk0" })).1,
        "Bus 'pcie.0' does not support hotplugging"
    );
    assert_eq!(talk.bad("device_del", json!({ "id": "x" })).0, "DeviceNotFound");
    // The slot has no power: no one has to be asked.
    talk.good("device_del", json!({ "id": "hp" }));
    assert_eq!(
        talk.events(),
        [json!({ "event": "DEVICE_DELETED", "data": { "device": "hp", "path": "/machine/peripheral/hp" } })]
    );
    talk.good("blockdev-del", json!({ "node-name": "n" }));
    talk.good("remove-fd", json!({ "fdset-id": 9 }));
    ostler_disk::open::open(image.path(), ostler_disk::open::DiskOptions::default()).unwrap();
}

#[test]
fn a_cpu_comes_where_there_is_room_and_what_is_wrong_with_one_is_said() {
    let mut talk = Talk::negotiated();
    let cpu = |more: Value| {
        let mut cpu =
            json!({ "driver": "max-x86_64-cpu", "id": "cpu2", "socket-id": 0, "core-id": 2, "thread-id": 0 });
        let members = more.as_object().unwrap().clone();
        cpu.as_object_mut().unwrap().extend(members);
        cpu.as_object_mut().unwrap().retain(|_, value| !value.is_null());
        cpu
    };
    for (wrong, words) in [
        (
            json!({ "driver": "qemu64-x86_64-cpu" }),
            "Invalid CPU type, expected cpu type: 'max-x86_64-cpu'",
        ),
        (json!({ "id": null }), "Parameter 'id' is missing"),
        (json!({ "id": "disk0" }), "Duplicate device ID 'disk0'"),
        (json!({ "id": "rp1" }), "Duplicate device ID 'rp1'"),
        (json!({ "core-id": null }), "CPU core-id is not set"),
        (
            json!({ "core-id": 3 }),
            "Invalid CPU core-id: 3 must be in range 0:2",
        ),
        (
            json!({ "socket-id": 1 }),
            "Invalid CPU socket-id: 1 must be in range 0:0",
        ),
        (json!({ "core-id": 1 }), "CPU[1] with APIC ID 1 exists already"),
        (
            json!({ "drive": "x" }),
            "Property 'max-x86_64-cpu.drive' not found",
        ),
    ] {
        assert_eq!(talk.bad("device_add", cpu(wrong)).1, words);
    }
    talk.good("device_add", cpu(json!({ "die-id": 0 })));
    assert_eq!(
        talk.bad("device_add", cpu(json!({ "core-id": 1 }))).1,
        "Duplicate device ID 'cpu2'"
    );
    let paths: Vec<Value> = talk
        .good("query-cpus-fast", json!({}))
        .as_array()
        .unwrap()
        .iter()
        .map(|cpu| cpu["qom-path"].clone())
        .collect();
    assert_eq!(
        paths,
        [
            "/machine/unattached/device[0]",
            "/machine/unattached/device[1]",
            "/machine/peripheral/cpu2"
        ]
    );
    let shown = talk.good("qom-list", json!({ "path": "/machine/peripheral" }));
    assert!(shown.to_string().contains("child<max-x86_64-cpu>"), "{shown}");
    let hotplugged = json!({ "path": "/machine/peripheral/cpu2", "property": "hotplugged" });
    assert_eq!(talk.good("qom-get", hotplugged), true);
    assert!(talk.line("info cpus").contains("CPU #2"));
    assert_eq!(
        talk.bad("device_del", json!({ "id": "/machine/unattached/device[0]" }))
            .1,
        "Boot CPU is unpluggable"
    );
    talk.good("device_del", json!({ "id": "cpu2" }));
    // The guest does what its ACPI methods would.
    let ports = talk.manager.machine.ports().clone();
    ports.write(0xcd8, &2u32.to_le_bytes());
    ports.write(0xcdc, &[8]);
    talk.manager.collect_ejected_cpus();
    let events = talk.events();
    assert_eq!(
        events,
        [
            json!({ "event": "DEVICE_DELETED", "data": { "device": "cpu2", "path": "/machine/peripheral/cpu2" } })
        ]
    );
    assert!(talk.manager.cpu(2).is_none());
    talk.good("device_add", cpu(json!({})));
}

#[test]
fn a_guest_is_asked_to_have_more_memory() {
    let mut talk = Talk::negotiated();
    let set = |value: Value| json!({ "path": "vmem0", "property": "requested-size", "value": value });
    let block = 2u64 << 20;
    for (wrong, words) in [
        (
            json!(block + 1),
            "'requested-size' has to be multiples of 'block-size' (0x200000)",
        ),
        (
            json!(9 * block),
            "'requested-size' cannot exceed the memory backend size(0x1000000)",
        ),
        (
            json!(-1),
            "Invalid parameter type for 'requested-size', expected: integer",
        ),
        (
            json!("all"),
            "Invalid parameter type for 'requested-size', expected: integer",
        ),
    ] {
        assert_eq!(talk.bad("qom-set", set(wrong)).1, words);
    }
    talk.good("qom-set", set(json!(3 * block)));
    let devices = talk.good("query-memory-devices", json!({}));
    let expected = json!({ "id": "vmem0", "memaddr": 4u64 << 30, "requested-size": 3 * block, "size": 0,
        "max-size": 8 * block, "block-size": block, "node": 0, "memdev": "/objects/vmem0" });
    let persistent =
        json!({ "id": "pmem0", "memaddr": 5u64 << 30, "size": 2 << 20, "memdev": "/objects/pmem0" });
    assert_eq!(
        devices,
        json!([
            { "type": "virtio-mem", "data": expected },
            { "type": "virtio-pmem", "data": persistent },
        ])
    );
    let get = json!({ "path": "/machine/peripheral/vmem0", "property": "requested-size" });
    assert_eq!(talk.good("qom-get", get), 3 * block);
    let address = json!({ "path": "/machine/peripheral/pmem0", "property": "memaddr" });
    assert_eq!(talk.good("qom-get", address), 5u64 << 30);
    assert!(
        talk.line("info mtree")
            .contains("0000000140000000-00000001401fffff: persistent")
    );
    let summary = talk.good("query-memory-size-summary", json!({}));
    assert_eq!(summary, json!({ "base-memory": 16 << 20, "plugged-memory": 0 }));
    assert_eq!(
        talk.bad("device_del", json!({ "id": "vmem0" })).1,
        "Bus 'pcie.0' does not support hotplugging"
    );
}

#[test]
fn cards_and_entropy_sources_fill_the_ports() {
    let mut talk = Talk::negotiated();
    let (ours, _cable) = UnixStream::pair().unwrap();
    talk.session.fds.receive(OwnedFd::from(ours));
    talk.good("getfd", json!({ "fdname": "cable" }));
    talk.good(
        "netdev_add",
        json!({ "type": "socket", "id": "n1", "fd": "cable" }),
    );
    let card = |id: &str| json!({ "driver": "virtio-net-pci", "id": id, "netdev": "n1", "mac": "52:54:00:00:00:09" });
    talk.good("device_add", card("c1"));
    assert!(talk.bad("device_add", card("c2")).1.contains("in use"));
    assert!(talk.bad("netdev_del", json!({ "id": "n1" })).1.contains("in use"));
    for id in ["r1", "r2", "r3"] {
        talk.good("device_add", json!({ "driver": "virtio-rng-pci", "id": id }));
    }
    let full = talk.bad("device_add", json!({ "driver": "virtio-rng-pci", "id": "r4" }));
    assert_eq!(full.1, "No root port is free; unplug a device first");
    assert!(talk.line("info network").contains("macaddr=52:54:00:00:00:09"));
    talk.good("set_link", json!({ "name": "n1", "up": false }));
    talk.good("device_del", json!({ "id": "/machine/peripheral/c1" }));
    talk.good("netdev_del", json!({ "id": "n1" }));
    assert_eq!(talk.manager.devices().len(), 6 + 3);
}

#[test]
fn a_card_at_a_switch_gets_another_plug() {
    let mut talk = Talk::negotiated();
    let plug = |talk: &mut Talk, name: &str| {
        let (ours, theirs) = UnixStream::pair().unwrap();
        talk.session.fds.receive(OwnedFd::from(theirs));
        talk.good("getfd", json!({ "fdname": name }));
        ours
    };
    let first = plug(&mut talk, "first");
    let netdev = json!({ "type": "x-ostler-switch", "id": "n1", "fd": "first" });
    talk.good("netdev_add", netdev);
    talk.good(
        "device_add",
        json!({ "driver": "e1000e", "id": "c1", "netdev": "n1", "mac": "52:54:00:00:00:09" }),
    );
    drop(first);
    let second = plug(&mut talk, "second");
    talk.good("x-ostler-plug", json!({ "id": "c1", "fd": "second" }));
    // It has no link, and asks for one.
    ostler_netio::wait_for_wish(&second).unwrap();
    let none = talk.bad("x-ostler-plug", json!({ "id": "c2", "fd": "second" }));
    assert_eq!(none.0, "DeviceNotFound");
    let unnamed = talk.bad("x-ostler-plug", json!({ "id": "c1", "fd": "third" }));
    assert!(unnamed.1.contains("'third' has not been found"), "{unnamed:?}");
    // Another way out has none.
    let _socket = plug(&mut talk, "socket");
    talk.good(
        "netdev_add",
        json!({ "type": "socket", "id": "n2", "fd": "socket" }),
    );
    let card = json!({ "driver": "virtio-net-pci", "id": "c2", "netdev": "n2" });
    talk.good("device_add", card);
    let _third = plug(&mut talk, "third");
    let refused = talk.bad("x-ostler-plug", json!({ "id": "c2", "fd": "third" }));
    assert!(refused.1.contains("not at a switch"), "{refused:?}");
}

#[test]
fn a_vsock_device_is_made_of_descriptors_and_there_is_one() {
    let mut talk = Talk::negotiated();
    let folder = tempfile::tempdir().unwrap();
    let door = || std::os::unix::net::UnixListener::bind(folder.path().join("door")).unwrap();
    let device = json!({ "driver": "vhost-vsock-pci", "id": "v", "guest-cid": 3, "vhostfd": "door" });
    let without = |name: &str| {
        let mut device = device.clone();
        device.as_object_mut().unwrap().remove(name);
        device
    };
    let with = |name: &str, value: Value| {
        let mut device = device.clone();
        device[name] = value;
        device
    };
    for (wrong, text) in [
        (without("guest-cid"), "guest-cid property must be greater than 2"),
        (with("guest-cid", json!(2)), "the host has 2"),
        (with("guest-cid", json!(u32::MAX)), "a guest's CID is one of"),
        (without("vhostfd"), "this process opens no sockets"),
        (device.clone(), "File descriptor named 'door' has not been found"),
        (
            with("seqpacket", json!(true)),
            "Property 'vhost-vsock-pci.seqpacket' not found",
        ),
    ] {
        let said = talk.bad("device_add", wrong).1;
        assert!(said.contains(text), "{said}");
    }
    // A socket that does not listen.
    let (ours, _other) = UnixStream::pair().unwrap();
    talk.session.fds.receive(OwnedFd::from(ours));
    talk.good("getfd", json!({ "fdname": "door" }));
    let said = talk.bad("device_add", device.clone()).1;
    assert!(said.contains("vhostfd cannot be used"), "{said}");
    talk.session.fds.receive(OwnedFd::from(door()));
    talk.good("getfd", json!({ "fdname": "door" }));
    talk.good("device_add", device.clone());
    let second = talk.bad("device_add", with("id", json!("w"))).1;
    assert!(second.contains("one vsock device"), "{second}");
    let path = "/machine/peripheral/v";
    let cid = |value: Value| json!({ "path": path, "property": "guest-cid", "value": value });
    talk.good("qom-set", cid(json!(9)));
    assert_eq!(
        talk.good("qom-get", json!({ "path": path, "property": "guest-cid" })),
        9
    );
    for wrong in [json!(1), json!("9"), json!(-1)] {
        talk.bad("qom-set", cid(wrong));
    }
    talk.good("device_del", json!({ "id": "v" }));
}

#[test]
fn a_share_is_made_of_a_tag_and_a_plug() {
    let mut talk = Talk::negotiated();
    let device = json!({ "driver": "vhost-user-fs-pci", "id": "s", "tag": "src", "plugfd": "plug" });
    let with = |name: &str, value: Value| {
        let mut device = device.clone();
        device[name] = value;
        device
    };
    for (wrong, text) in [
        (with("tag", json!("")), "1 to 36 bytes"),
        (with("tag", json!("x".repeat(37))), "1 to 36 bytes"),
        (device.clone(), "File descriptor named 'plug' has not been found"),
        (
            with("chardev", json!("c")),
            "Property 'vhost-user-fs-pci.chardev' not found",
        ),
        (with("x-ostler-readonly", json!("perhaps")), "x-ostler-readonly"),
    ] {
        let said = talk.bad("device_add", wrong).1;
        assert!(said.contains(text), "{said}");
    }
    let plug = |talk: &mut Talk, fd: OwnedFd| {
        talk.session.fds.receive(fd);
        talk.good("getfd", json!({ "fdname": "plug" }));
    };
    let (ours, _other) = UnixStream::pair().unwrap();
    plug(&mut talk, ours.into());
    let said = talk.bad("device_add", device.clone()).1;
    assert!(said.contains("no SEQPACKET socket"), "{said}");
    let (_mine, guests) = ostler_virtio::vsock::plug::pair().unwrap();
    plug(&mut talk, guests);
    talk.good("device_add", with("x-ostler-readonly", json!(true)));
    let twice = talk.bad("device_add", with("id", json!("t"))).1;
    assert!(twice.contains("another share has the tag"), "{twice}");
    let path = "/machine/peripheral/s";
    assert_eq!(
        talk.good("qom-get", json!({ "path": path, "property": "tag" })),
        "src"
    );
    talk.good("device_del", json!({ "id": "s" }));
}
