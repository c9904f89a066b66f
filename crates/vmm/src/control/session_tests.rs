use std::cell::RefCell;
use std::fs::File;
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixStream;

use proptest::prelude::*;

use super::*;
use crate::control::commands::COMMANDS;
use crate::driver::Driver;
use crate::spec::OnReset;
use crate::testing::{self, TestGuest};

#[path = "session_tests/screen.rs"]
mod screen;

/// A client of a guest that no driver drives.
struct Talk {
    session: Session,
    manager: Manager,
    _guest: TestGuest,
    _driver: Driver,
}

impl Talk {
    fn new() -> Self {
        let driver = Driver::new(OnReset::Restart);
        let guest = testing::guest(&driver.handle());
        Self {
            session: Session::default(),
            manager: guest.manager(),
            _guest: guest,
            _driver: driver,
        }
    }

    fn negotiated() -> Self {
        let mut talk = Self::new();
        let answer = talk.answer(r#"{"execute":"qmp_capabilities","id":1}"#);
        assert_eq!(answer, json!({ "return": {}, "id": 1 }));
        talk
    }

    fn ask(&mut self, text: &str) -> Step {
        let frame = Frame::Text(text.as_bytes().to_vec());
        self.session.handle(frame, &mut self.manager)
    }

    fn answer(&mut self, text: &str) -> Value {
        match self.ask(text) {
            Step::Answer(value) => value,
            step => panic!("{text} led to {step:?}"),
        }
    }

    fn execute(&mut self, command: &str, arguments: Value) -> Value {
        self.answer(&json!({ "execute": command, "arguments": arguments }).to_string())
    }

    /// What comes of a command that must succeed.
    fn good(&mut self, command: &str, arguments: Value) -> Value {
        let mut answer = self.execute(command, arguments);
        assert!(answer.get("error").is_none(), "{command}: {answer}");
        answer["return"].take()
    }

    /// Class and text of a command that must fail.
    fn bad(&mut self, command: &str, arguments: Value) -> (String, String) {
        let answer = self.execute(command, arguments);
        let member = |name: &str| answer["error"][name].as_str().map(str::to_owned);
        match (member("class"), member("desc")) {
            (Some(class), Some(text)) => (class, text),
            _ => panic!("{command}: {answer}"),
        }
    }

    fn line(&mut self, line: &str) -> String {
        let said = self.good("human-monitor-command", json!({ "command-line": line }));
        said.as_str().unwrap().to_owned()
    }
}

#[test]
fn nothing_goes_before_the_negotiation() {
    let mut talk = Talk::new();
    let refused = talk.answer(r#"{"execute":"query-status","id":"a"}"#);
    assert_eq!(
        refused,
        json!({ "error": { "class": "CommandNotFound",
            "desc": "Expecting capabilities negotiation with 'qmp_capabilities'" }, "id": "a" })
    );
    for wrong in [
        json!({ "enable": ["oob"] }),
        json!({ "enable": "oob" }),
        json!({ "x": 1 }),
    ] {
        assert_eq!(talk.bad("qmp_capabilities", wrong).0, "GenericError");
    }
    assert!(!talk.session.is_negotiated());
    talk.good("qmp_capabilities", json!({ "enable": [] }));
    assert!(talk.session.is_negotiated());
    assert_eq!(talk.bad("qmp_capabilities", json!({})).0, "CommandNotFound");
}

/// What QEMU 7.2 says to the same texts.
#[test]
fn malformed_texts_are_refused_in_qemus_words() {
    let mut talk = Talk::negotiated();
    for (text, class, words) in [
        ("[1]", "GenericError", "QMP input must be a JSON object"),
        ("5", "GenericError", "QMP input must be a JSON object"),
        ("\"s\"", "GenericError", "QMP input must be a JSON object"),
        (
            r#"{"execute":7}"#,
            "GenericError",
            "QMP input member 'execute' must be a string",
        ),
        (
            r#"{"exec":"stop"}"#,
            "GenericError",
            "QMP input member 'exec' is unexpected",
        ),
        ("{}", "GenericError", "QMP input lacks member 'execute'"),
        (
            r#"{"execute":"stop","arguments":5}"#,
            "GenericError",
            "QMP input member 'arguments' must be an object",
        ),
        (
            r#"{"execute":"stop","arguments":{"x":1}}"#,
            "GenericError",
            "Parameter 'x' is unexpected",
        ),
        (
            r#"{"execute":"stop","foo":{"x":1}}"#,
            "GenericError",
            "QMP input member 'foo' is unexpected",
        ),
        (
            r#"{"execute":"stop","execute":"stop"}"#,
            "GenericError",
            "JSON parse error, duplicate key",
        ),
        (
            r#"{"exec-oob":"stop"}"#,
            "GenericError",
            "QMP input member 'exec-oob' is unexpected",
        ),
        (
            r#"{"execute":"fly"}"#,
            "CommandNotFound",
            "The command fly has not been found",
        ),
    ] {
        assert_eq!(
            talk.answer(text)["error"],
            json!({ "class": class, "desc": words }),
            "{text}"
        );
    }
    for text in ["hello", "{1}", "{\"execute\":", "\u{0}"] {
        let answer = talk.answer(text);
        let words = answer["error"]["desc"].as_str().unwrap();
        assert!(words.starts_with("JSON parse error, "), "{text}: {words}");
    }
}

#[test]
fn every_command_is_there_and_refuses_what_it_does_not_know() {
    let mut talk = Talk::negotiated();
    let listed = talk.good("query-commands", json!({}));
    let names: Vec<_> = listed
        .as_array()
        .unwrap()
        .iter()
        .map(|entry| &entry["name"])
        .collect();
    assert_eq!(names.len(), COMMANDS.len());
    assert!(COMMANDS.is_sorted_by_key(|command| command.name));
    for command in COMMANDS {
        let text = json!({ "execute": command.name, "arguments": { "zz-surprise": 1 }, "id": 5 }).to_string();
        let answer = talk.answer(&text);
        assert!(answer["error"]["desc"].is_string(), "{}: {answer}", command.name);
        assert_eq!(answer["id"], 5);
    }
}

#[test]
fn the_manual_lists_every_command() {
    let manual = include_str!("../../../../docs/qmp.md");
    let listed: Vec<_> = manual
        .lines()
        .filter_map(|line| line.strip_prefix("| `")?.split_once('`'))
        .map(|(name, _)| name)
        .collect();
    for command in COMMANDS {
        assert!(
            listed.contains(&command.name),
            "docs/qmp.md lacks {}",
            command.name
        );
    }
}

#[test]
fn queries_answer_in_qemus_shape() {
    let mut talk = Talk::negotiated();
    assert_eq!(talk.good("query-name", json!({})), json!({ "name": "mare" }));
    assert_eq!(talk.good("query-status", json!({}))["status"], "prelaunch");
    assert_eq!(talk.good("query-kvm", json!({}))["enabled"], false);
    let cpus = talk.good("query-cpus-fast", json!({}));
    assert!(cpus[1]["thread-id"].as_i64().unwrap() > 0);
    assert_eq!(cpus[1]["props"]["core-id"], 1);
    assert_eq!(
        talk.good("query-memory-size-summary", json!({}))["base-memory"],
        16 << 20
    );
    let block = talk.good("query-block", json!({}));
    assert_eq!(block[0]["inserted"]["node-name"], "disk0");
    assert_eq!(block[0]["inserted"]["image"]["virtual-size"], testing::DISK_SIZE);
    let stats = talk.good("query-blockstats", json!({}));
    assert_eq!(stats[0]["stats"]["rd_operations"], 0);
    let filters = talk.good("query-rx-filter", json!({ "name": "net0" }));
    assert_eq!(filters[0]["main-mac"], "52:54:00:01:02:03");
    let pci = talk.good("query-pci", json!({}));
    let disk = pci[0]["devices"]
        .as_array()
        .unwrap()
        .iter()
        .find(|d| d["qdev_id"] == "disk0")
        .unwrap();
    assert_eq!(
        (&disk["slot"], &disk["id"]["device"]),
        (&json!(1), &json!(0x1042))
    );
    assert_eq!(disk["regions"][0]["type"], "memory");
}

#[test]
fn changes_go_to_the_driver() {
    let mut talk = Talk::negotiated();
    match talk.ask(r#"{"execute":"stop","id":7}"#) {
        Step::Ask(Request::Pause, promise) => {
            assert_eq!(promise.kept(Ok(())), json!({ "return": {}, "id": 7 }));
        }
        step => panic!("{step:?}"),
    }
    match talk.ask(r#"{"execute":"human-monitor-command","arguments":{"command-line":"system_reset"}}"#) {
        Step::Ask(Request::Reset, promise) => assert_eq!(promise.kept(Ok(())), json!({ "return": "" })),
        step => panic!("{step:?}"),
    }
}

#[test]
fn links_are_set_and_announced_by_name() {
    let mut talk = Talk::negotiated();
    for (arguments, text) in [
        (json!({}), "Parameter 'name' is missing"),
        (json!({ "name": "net0" }), "Parameter 'up' is missing"),
        (
            json!({ "name": 5, "up": true }),
            "Invalid parameter type for 'name', expected: string",
        ),
        (
            json!({ "name": "net0", "up": "yes" }),
            "Invalid parameter type for 'up', expected: boolean",
        ),
        (
            json!({ "name": "net0", "up": true, "now": 1 }),
            "Parameter 'now' is unexpected",
        ),
        (json!({ "name": "net7", "up": true }), "Device 'net7' not found"),
    ] {
        assert_eq!(talk.bad("set_link", arguments).1, text);
    }
    talk.good("set_link", json!({ "name": "net0", "up": false }));
    assert!(talk.line("info network").contains("link=down"));
    talk.good("set_link", json!({ "name": "net0", "up": true }));
    let times = json!({ "initial": 50, "max": 550, "rounds": 5, "step": 50 });
    talk.good("announce-self", times);
    talk.good("announce-self", json!({ "interfaces": ["net0"] }));
    assert_eq!(
        talk.bad("announce-self", json!({ "interfaces": ["net7"] })).0,
        "DeviceNotFound"
    );
}

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
        talk.manager.take_events(),
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
    let events = talk.manager.take_events();
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
    assert_eq!(talk.manager.devices().len(), 4 + 3);
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
fn the_balloon_is_told_its_size_and_asked_for_statistics() {
    let mut talk = Talk::negotiated();
    let balloon = talk.manager.balloon().unwrap().clone();
    assert_eq!(
        talk.good("query-balloon", json!({})),
        json!({ "actual": 16 << 20 })
    );
    for (bytes, pages) in [(12 << 20, 1024), (1, 4095), (i64::MAX, 0), ((16 << 20) - 4095, 0)] {
        talk.good("balloon", json!({ "value": bytes }));
        assert_eq!(balloon.wanted(), pages, "{bytes}");
    }
    for bytes in [0, -1, i64::MIN] {
        assert_eq!(
            talk.bad("balloon", json!({ "value": bytes })).1,
            "Parameter 'target' expects a size"
        );
    }
    assert_eq!(talk.line("balloon 10"), "");
    assert_eq!(balloon.wanted(), 6 << 8);
    assert_eq!(talk.line("balloon x"), "balloon: integer expected\r\n");
    assert_eq!(
        talk.line(&format!("balloon {}", i64::MAX)),
        "balloon: integer expected\r\n"
    );
    assert_eq!(talk.line("info balloon"), "balloon: actual=16\r\n");

    let path = "/machine/peripheral/balloon";
    let stats = talk.good("qom-get", json!({ "path": path, "property": "guest-stats" }));
    assert_eq!(
        (&stats["last-update"], &stats["stats"]["stat-free-memory"]),
        (&json!(0), &json!(u64::MAX))
    );
    assert_eq!(stats["stats"].as_object().unwrap().len(), 10);
    let mut set = |name: &str, value: Value| {
        talk.execute(
            "qom-set",
            json!({ "path": path, "property": name, "value": value }),
        )
    };
    let interval = "guest-stats-polling-interval";
    assert_eq!(set(interval, json!(3)), json!({ "return": {} }));
    for (name, value, words) in [
        (interval, json!(-1), "timer value must be greater than zero"),
        (interval, json!(1u64 << 32), "timer value is too big"),
        (
            interval,
            json!("3"),
            "Invalid parameter type for 'guest-stats-polling-interval', expected: integer",
        ),
        (
            "guest-stats",
            json!(1),
            "Insufficient permission to perform this operation",
        ),
        ("air", json!(1), "Property 'virtio-balloon-pci.air' not found"),
    ] {
        assert_eq!(set(name, value)["error"]["desc"], words);
    }
    assert_eq!(balloon.interval(), 3);
}

#[test]
fn the_watchdogs_action_and_the_generation_id_can_be_changed() {
    let mut talk = Talk::negotiated();
    talk.good("watchdog-set-action", json!({ "action": "inject-nmi" }));
    assert_eq!(talk.manager.watchdog.action().name(), "inject-nmi");
    let refused = talk.bad("watchdog-set-action", json!({ "action": "bark" }));
    assert_eq!(refused.1, "Parameter 'action' does not accept value 'bark'");
    talk.good(
        "set-action",
        json!({ "watchdog": "none", "shutdown": "poweroff" }),
    );
    assert_eq!(talk.manager.watchdog.action().name(), "none");
    for (name, value) in [
        ("reboot", "twice"),
        ("shutdown", "pause"),
        ("panic", "none"),
        ("watchdog", "bark"),
    ] {
        let refused = talk.bad("set-action", json!({ name: value }));
        assert_eq!(
            refused.1,
            format!("Parameter '{name}' does not accept value '{value}'")
        );
    }
    match talk.ask(r#"{"execute":"set-action","arguments":{"reboot":"shutdown"}}"#) {
        Step::Ask(Request::SetOnReset(OnReset::End), promise) => {
            assert_eq!(promise.kept(Ok(())), json!({ "return": {} }));
        }
        step => panic!("{step:?}"),
    }
    let id = talk.good("query-vm-generation-id", json!({}));
    assert_eq!(id["guid"], "07070707-0707-0707-0707-070707070707");
    let new = json!({ "guid": "324e6eaf-d1d1-4bf6-bf41-b9bb6c91fb87" });
    talk.good("x-ostler-set-vm-generation-id", new.clone());
    assert_eq!(talk.good("query-vm-generation-id", json!({})), new);
    let refused = talk.bad("x-ostler-set-vm-generation-id", json!({ "guid": "new" }));
    assert!(refused.1.contains("is no GUID"), "{refused:?}");
}

#[test]
fn the_object_tree_can_be_walked() {
    let mut talk = Talk::negotiated();
    let mut todo = vec!["/".to_owned()];
    let mut seen = Vec::new();
    while let Some(path) = todo.pop() {
        for entry in talk.good("qom-list", json!({ "path": path })).as_array().unwrap() {
            let name = entry["name"].as_str().unwrap();
            let found = talk.good("qom-get", json!({ "path": path, "property": name }));
            if entry["type"].as_str().unwrap().starts_with("child<") {
                todo.push(format!("{}/{name}", path.trim_end_matches('/')));
                assert_eq!(found, todo.last().unwrap().replace("//", "/"));
            }
        }
        seen.push(path);
    }
    for path in [
        "/machine/peripheral/disk0",
        "/machine/peripheral/rp4",
        "/machine/unattached/device[1]",
    ] {
        assert!(seen.iter().any(|seen| seen == path), "{seen:?}");
    }
    assert_eq!(
        talk.bad("qom-list", json!({ "path": "/nope" })).0,
        "DeviceNotFound"
    );
    let nope = json!({ "path": "/machine", "property": "nope" });
    assert_eq!(
        talk.bad("qom-get", nope).1,
        "Property 'ostler-q35-1-machine.nope' not found"
    );
}

#[test]
fn a_sata_drive_is_shown_with_its_medium_and_keeps_its_size() {
    let mut talk = Talk::negotiated();
    let block = talk.good("query-block", json!({}));
    let drive = &block[1];
    assert_eq!(drive["device"], "disk1");
    assert_eq!(
        (&drive["removable"], &drive["tray_open"]),
        (&json!(true), &json!(false))
    );
    assert_eq!(drive["inserted"]["node-name"], "disk1");
    assert_eq!(drive["inserted"]["ro"], true);
    let stats = talk.good("x-ostler-stats", json!({}));
    let named = |device: &&Value| device["name"] == "disk1";
    let device = stats["devices"].as_array().unwrap().iter().find(named).unwrap();
    assert_eq!(device["kind"], "cdrom");
    let (_, refused) = talk.bad("block_resize", json!({ "device": "disk1", "size": 4096 }));
    assert!(refused.contains("SATA"), "{refused}");
}

/// An image for reading, in a set of descriptors.
fn hand_over(talk: &mut Talk, image: &tempfile::NamedTempFile, set: u32) {
    let open = File::open(image.path()).unwrap();
    talk.session.fds.receive(OwnedFd::from(open));
    talk.good("add-fd", json!({ "fdset-id": set }));
}

fn medium() -> tempfile::NamedTempFile {
    let image = tempfile::NamedTempFile::new().unwrap();
    image.as_file().set_len(1 << 20).unwrap();
    image
}

/// Nobody has the image for reading any more: it can be had for writing.
fn assert_free(image: &tempfile::NamedTempFile) {
    ostler_disk::open::open(image.path(), ostler_disk::open::DiskOptions::default()).unwrap();
}

fn moved(open: bool) -> Value {
    json!({ "event": "DEVICE_TRAY_MOVED",
            "data": { "device": "disk1", "id": "/machine/sata/0", "tray-open": open } })
}

#[test]
fn a_medium_is_changed_and_ejected() {
    let mut talk = Talk::negotiated();
    let (first, second) = (medium(), medium());
    hand_over(&mut talk, &first, 1);
    hand_over(&mut talk, &second, 2);
    let change =
        |set: u32| json!({ "device": "disk1", "filename": format!("/dev/fdset/{set}"), "format": "raw" });
    talk.good("blockdev-change-medium", change(1));
    assert_eq!(talk.manager.take_events(), [moved(true), moved(false)]);
    talk.good("remove-fd", json!({ "fdset-id": 1 }));
    let shown = |talk: &mut Talk| talk.good("query-block", json!({}))[1].take();
    let drive = shown(&mut talk);
    assert_eq!(drive["inserted"]["file"], first.path().to_str().unwrap());
    assert_eq!(
        (&drive["tray_open"], &drive["locked"]),
        (&json!(false), &json!(false))
    );
    // What was there before is gone, also from the list of nodes.
    let nodes = talk.good("query-named-block-nodes", json!({}));
    assert_eq!(nodes.as_array().unwrap().len(), 2);
    talk.good(
        "blockdev-change-medium",
        json!({ "id": "/machine/sata/0", "filename": "/dev/fdset/2", "read-only-mode": "read-only", "force": true }),
    );
    assert_free(&first);
    talk.good("remove-fd", json!({ "fdset-id": 2 }));
    talk.manager.take_events();
    talk.good("eject", json!({ "device": "disk1" }));
    assert_eq!(talk.manager.take_events(), [moved(true)]);
    let drive = shown(&mut talk);
    assert_eq!(drive.get("inserted"), None);
    assert_eq!(drive["tray_open"], true);
    assert_free(&second);
    // Once more is no error, and the open tray takes another one.
    talk.good("eject", json!({ "id": "disk1", "force": true }));
    hand_over(&mut talk, &first, 3);
    talk.good("blockdev-change-medium", change(3));
    assert_eq!(talk.manager.take_events(), [moved(false)]);
}

#[test]
fn a_medium_goes_and_comes_step_by_step() {
    let mut talk = Talk::negotiated();
    let image = medium();
    let id = || json!({ "id": "disk1" });
    let insert = |node: &str| json!({ "id": "disk1", "node-name": node });
    assert_eq!(
        talk.bad("blockdev-remove-medium", id()).1,
        "Tray of device 'disk1' is not open"
    );
    talk.good("blockdev-open-tray", id());
    talk.good("blockdev-open-tray", id());
    assert_eq!(talk.manager.take_events(), [moved(true)]);
    hand_over(&mut talk, &image, 1);
    talk.good(
        "blockdev-add",
        json!({ "driver": "raw", "node-name": "cd", "read-only": true,
                "file": { "driver": "file", "filename": "/dev/fdset/1", "read-only": true } }),
    );
    assert_eq!(
        talk.bad("blockdev-insert-medium", insert("cd")).1,
        "There already is a medium in device 'disk1'"
    );
    talk.good("blockdev-remove-medium", id());
    talk.good("blockdev-remove-medium", id());
    assert_eq!(
        talk.bad("blockdev-insert-medium", insert("none")).1,
        "Node 'none' not found"
    );
    assert_eq!(
        talk.bad("blockdev-insert-medium", insert("disk0")).1,
        "Node 'disk0' is already in use by 'disk0'"
    );
    talk.good("blockdev-insert-medium", insert("cd"));
    talk.good("blockdev-close-tray", id());
    talk.good("blockdev-close-tray", id());
    assert_eq!(talk.manager.take_events(), [moved(false)]);
    let drive = talk.good("query-block", json!({}))[1].take();
    assert_eq!(drive["inserted"]["node-name"], "cd");
    assert_eq!(
        talk.bad("blockdev-del", json!({ "node-name": "cd" })).1,
        "Node cd is in use"
    );
    assert_eq!(
        talk.bad("blockdev-insert-medium", insert("cd")).1,
        "Node 'cd' is already in use by 'disk1'"
    );
    // A client's own node stays when it is out.
    talk.good("eject", id());
    talk.good("blockdev-del", json!({ "node-name": "cd" }));
    talk.good("remove-fd", json!({ "fdset-id": 1 }));
    assert_free(&image);
}

#[test]
fn what_is_wrong_with_a_medium_changes_nothing() {
    let mut talk = Talk::negotiated();
    let before = talk.good("query-block", json!({}));
    let file = "/dev/fdset/1";
    for (command, arguments, text) in [
        ("eject", json!({}), "Need exactly one of 'device' and 'id'"),
        (
            "eject",
            json!({ "device": "disk1", "id": "disk1" }),
            "Need exactly one of 'device' and 'id'",
        ),
        ("eject", json!({ "device": "cd" }), "Device 'cd' not found"),
        (
            "eject",
            json!({ "device": "disk0" }),
            "Device 'disk0' is not removable",
        ),
        (
            "blockdev-open-tray",
            json!({ "id": "disk0" }),
            "Device 'disk0' is not removable",
        ),
        (
            "blockdev-close-tray",
            json!({ "id": "/machine/sata/5" }),
            "Device '/machine/sata/5' not found",
        ),
        (
            "blockdev-remove-medium",
            json!({ "device": "disk1" }),
            "Parameter 'id' is missing",
        ),
        (
            "blockdev-change-medium",
            json!({ "id": "disk1" }),
            "Parameter 'filename' is missing",
        ),
        (
            "blockdev-change-medium",
            json!({ "id": "disk1", "filename": file, "format": "qcow2" }),
            "Parameter 'format' does not accept value 'qcow2'",
        ),
        (
            "blockdev-change-medium",
            json!({ "id": "disk1", "filename": file, "read-only-mode": "read-write" }),
            "Parameter 'read-only-mode' does not accept value 'read-write'",
        ),
        (
            "blockdev-change-medium",
            json!({ "id": "disk1", "filename": file }),
            "Could not dup FD for /dev/fdset/1 flags 0: No such file or directory",
        ),
    ] {
        assert_eq!(
            talk.bad(command, arguments.clone()).1,
            text,
            "{command} {arguments}"
        );
    }
    let path = json!({ "id": "disk1", "filename": "/etc/passwd" });
    assert!(
        talk.bad("blockdev-change-medium", path)
            .1
            .contains("opens no files")
    );
    // Nor does an image that somebody else writes to.
    let image = medium();
    let other = ostler_disk::open::open(image.path(), ostler_disk::open::DiskOptions::default()).unwrap();
    hand_over(&mut talk, &image, 1);
    let change = json!({ "id": "disk1", "filename": file });
    let refused = talk.bad("blockdev-change-medium", change).1;
    assert!(refused.contains("in use by another guest"), "{refused}");
    drop(other);
    assert_eq!(talk.good("query-block", json!({})), before);
    assert_eq!(talk.manager.take_events(), [] as [Value; 0]);
    assert_eq!(
        talk.good("query-named-block-nodes", json!({}))
            .as_array()
            .unwrap()
            .len(),
        2
    );
}

#[test]
fn people_get_lines() {
    let mut talk = Talk::negotiated();
    assert_eq!(talk.line(""), "");
    assert_eq!(talk.line("fly"), "unknown command: 'fly'\r\n");
    assert_eq!(talk.line("info fly"), "unknown command: 'info fly'\r\n");
    assert_eq!(talk.line("info status"), "VM status: paused (prelaunch)\r\n");
    assert_eq!(talk.line("info name"), "mare\r\n");
    assert_eq!(
        talk.line("system_reset now"),
        "system_reset: extraneous characters at the end of line\r\nTry \"help system_reset\" for more information\r\n"
    );
    assert!(talk.line("set_link net0").contains("expected"));
    assert_eq!(
        talk.line("set_link net9 off"),
        "Error: Device 'net9' not found\r\n"
    );
    assert_eq!(talk.line("set_link net0 off"), "");
    for (line, words) in [
        ("help", "system_reset"),
        ("info", "info registers"),
        ("info cpus", "* CPU #0: thread_id="),
        ("info version", "(ostler "),
        ("info block", "disk0: "),
        ("info network", "model=virtio-net-pci"),
        ("info pci", "id \"disk0\""),
        ("info mtree", "disk0 BAR 4"),
        ("info registers", "CPU#0"),
        ("info registers -a", "CPU#1"),
        ("info registers 1", "EFER="),
    ] {
        let said = talk.line(line);
        assert!(said.contains(words), "{line}: {said}");
        assert!(
            said.ends_with("\r\n") && !said.replace("\r\n", "").contains('\n'),
            "{line}"
        );
    }
    let far = json!({ "command-line": "info registers", "cpu-index": 7 });
    assert_eq!(
        talk.bad("human-monitor-command", far).1,
        "Parameter 'cpu-index' expects a CPU number"
    );
}

#[test]
fn a_profile_is_of_some_seconds() {
    let mut talk = Talk::negotiated();
    talk.good("x-ostler-hot", json!({}));
    talk.good("x-ostler-hot", json!({ "seconds": 3600 }));
    for wrong in [
        json!(0),
        json!(3601),
        json!(-1),
        json!(1.5),
        json!("1"),
        json!(null),
    ] {
        let refused = talk.bad("x-ostler-hot", json!({ "seconds": wrong }));
        assert_eq!(refused.0, "GenericError", "{wrong}");
    }
}

#[test]
fn registers_are_counted_on_request() {
    let mut talk = Talk::negotiated();
    for count in [json!({}), json!({ "count": true }), json!({ "count": false })] {
        let told = talk.good("x-ostler-registers", count);
        assert_eq!(told, json!({ "registers": [], "elsewhere": 0 }));
    }
    talk.bad("x-ostler-registers", json!({ "count": 1 }));
    talk.bad("x-ostler-registers", json!({ "on": true }));
}

/// A value that a client could send as an argument.
fn value() -> impl Strategy<Value = Value> {
    let leaf = prop_oneof![
        Just(Value::Null),
        any::<bool>().prop_map(Value::from),
        any::<i64>().prop_map(Value::from),
        ".{0,12}".prop_map(Value::from),
        proptest::sample::select(vec![
            "disk0",
            "net0",
            "/dev/fdset/0",
            "raw",
            "file",
            "rp1",
            "virtio-blk-pci",
            "tap",
            "info pci"
        ])
        .prop_map(Value::from),
    ];
    leaf.prop_recursive(3, 12, 4, |inner| {
        prop_oneof![
            proptest::collection::vec(inner.clone(), 0..4).prop_map(Value::from),
            proptest::collection::hash_map(argument(), inner, 0..4)
                .prop_map(|map| Value::Object(map.into_iter().collect())),
        ]
    })
}

/// A name that some command knows, or none.
fn argument() -> impl Strategy<Value = String> {
    prop_oneof![
        4 => proptest::sample::select(vec![
            "name", "up", "id", "driver", "bus", "drive", "netdev", "file", "filename", "node-name", "type", "fd",
            "fdset-id", "fdname", "path", "property", "command-line", "device", "size", "interfaces", "addr", "cache",
            "value", "action", "guid",
        ]).prop_map(str::to_owned),
        1 => ".{0,8}",
    ]
}

#[test]
fn whatever_is_asked_has_one_answer() {
    let talk = RefCell::new(Talk::negotiated());
    let mut runner = proptest::test_runner::TestRunner::default();
    let names: Vec<&str> = COMMANDS.iter().map(|command| command.name).collect();
    let calls = (
        proptest::sample::select(names),
        proptest::collection::hash_map(argument(), value(), 0..5),
    );
    let result = runner.run(&calls, |(execute, arguments)| {
        let text = json!({ "execute": execute, "arguments": arguments, "id": "echo" }).to_string();
        if let Step::Answer(answer) = talk.borrow_mut().ask(&text) {
            prop_assert_eq!(&answer["id"], "echo");
            prop_assert!(answer.get("return").is_some() != answer.get("error").is_some());
        }
        Ok(())
    });
    result.unwrap();
    let result = runner.run(&proptest::collection::vec(any::<u8>(), 0..200), |bytes| {
        let Talk { session, manager, .. } = &mut *talk.borrow_mut();
        session.handle(Frame::Text(bytes), manager);
        Ok(())
    });
    result.unwrap();
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
    talk.good("device_add", device.clone());
    let twice = talk.bad("device_add", with("id", json!("t"))).1;
    assert!(twice.contains("another share has the tag"), "{twice}");
    let path = "/machine/peripheral/s";
    assert_eq!(
        talk.good("qom-get", json!({ "path": path, "property": "tag" })),
        "src"
    );
    talk.good("device_del", json!({ "id": "s" }));
}
