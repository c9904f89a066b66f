use std::cell::RefCell;
use std::fs::File;
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixStream;

use proptest::prelude::*;

use super::*;
use crate::control::commands::COMMANDS;
use crate::control::schema::check::Schema;
use crate::control::schema::schema as described;
use crate::driver::Driver;
use crate::spec::OnReset;
use crate::testing::{self, TestGuest};

#[path = "session_tests/devices.rs"]
mod devices;
#[path = "session_tests/media.rs"]
mod media;
#[path = "session_tests/people.rs"]
mod people;
#[path = "session_tests/schema.rs"]
mod schema;
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
        let mut guest = testing::guest(&driver.handle());
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
        let mut answer = self.execute(command, arguments.clone());
        assert!(answer.get("error").is_none(), "{command}: {answer}");
        assert_as_described(command, arguments, &answer["return"]);
        answer["return"].take()
    }

    /// What clients were told since the last call.
    fn events(&mut self) -> Vec<Value> {
        let told = self.manager.take_events();
        let schema = Schema::of(&described());
        for event in &told {
            let entry = schema.called(event["event"].as_str().unwrap(), "event").unwrap();
            let brings = entry["arg-type"].as_str().unwrap();
            schema.check(&event["data"], brings, "event").unwrap();
        }
        told
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

/// What a command took and what it answered is as the schema says.
fn assert_as_described(command: &str, mut arguments: Value, answer: &Value) {
    let schema = Schema::of(&described());
    let entry = schema.called(command, "command").unwrap();
    let kind = |name: &str| entry[name].as_str().unwrap();
    if command == "device_add" {
        // The properties of devices are not in the schema.
        let known = schema.kind(kind("arg-type"))["members"].as_array().unwrap();
        let map = arguments.as_object_mut().unwrap();
        map.retain(|name, _| known.iter().any(|member| member["name"] == **name));
    }
    schema.check(&arguments, kind("arg-type"), command).unwrap();
    schema.check(answer, kind("ret-type"), command).unwrap();
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
