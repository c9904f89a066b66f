//! Our QMP against the one of the QEMU that is installed: the shapes of answers by its own schema, and its words for what is wrong.

use std::io::{BufRead, BufReader, Write};
use std::process::{Child, ChildStdin, ChildStdout, Command, Stdio};

use serde_json::{Value, json};

use crate::control::Client;
use crate::qmp_schema::Schema;
use crate::tiny::{Kernel, Tiny};

/// QEMU before its first instruction, with QMP at its standard streams.
pub struct Qemu {
    child: Child,
    input: ChildStdin,
    output: BufReader<ChildStdout>,
}

impl Qemu {
    /// `None`, with a word to the reader, where there is none.
    pub fn start(test: &str) -> Option<Self> {
        let spawned = Command::new("qemu-system-x86_64")
            .args([
                "-M",
                "q35",
                "-m",
                "16",
                "-S",
                "-nodefaults",
                "-display",
                "none",
                "-qmp",
                "stdio",
            ])
            .args(["-device", "pcie-root-port,id=rp1,chassis=1,slot=1"])
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .spawn();
        let Ok(mut child) = spawned else {
            eprintln!("SKIPPED {test}: qemu-system-x86_64 is not installed");
            return None;
        };
        let input = child.stdin.take().unwrap();
        let output = BufReader::new(child.stdout.take().unwrap());
        let mut qemu = Self { child, input, output };
        assert!(qemu.hear()["QMP"].is_object());
        qemu.ask(r#"{"execute":"qmp_capabilities"}"#);
        Some(qemu)
    }

    fn hear(&mut self) -> Value {
        let mut line = String::new();
        self.output.read_line(&mut line).unwrap();
        serde_json::from_str(&line).unwrap()
    }

    pub fn ask(&mut self, text: &str) -> Value {
        writeln!(self.input, "{text}").unwrap();
        loop {
            let heard = self.hear();
            if heard.get("event").is_none() {
                return heard;
            }
        }
    }
}

impl Drop for Qemu {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// The names of the commands that we have and QEMU has not.
pub const OURS: [&str; 6] = [
    "x-ostler-hot",
    "x-ostler-plug",
    "x-ostler-registers",
    "x-ostler-screen",
    "x-ostler-set-vm-generation-id",
    "x-ostler-stats",
];

#[test]
fn answers_and_events_have_the_shapes_of_qemus_schema() {
    let Some(mut qemu) = Qemu::start("answers_and_events_have_the_shapes_of_qemus_schema") else {
        return;
    };
    let schema = Schema::of(&qemu.ask(r#"{"execute":"query-qmp-schema"}"#)["return"]);
    let mut tiny = Tiny::new(Kernel::new().print("up\n").wait_for_button().power_off());
    let control = tiny.path_option("--control", "", "control");
    let folder = tiny.folder.clone();
    let socket = folder.path().join("cable");
    let listener = std::os::unix::net::UnixListener::bind(&socket).unwrap();
    let disk = folder.path().join("disk.img");
    std::fs::File::create(&disk).unwrap().set_len(1 << 20).unwrap();
    tiny = tiny.args(&["--disk", disk.to_str().unwrap()]);
    tiny = tiny.args(&["--net", &format!("socket={}", socket.display())]);
    tiny = tiny.args(&[
        "--balloon",
        "on",
        "--vm-generation-id",
        "auto",
        "--watchdog",
        "action=none",
    ]);
    let mut guest = tiny.spawn();
    let _cable = listener.accept().unwrap();
    guest.expect("up\n");
    let mut client = Client::connect(&control);
    client.execute_with("device_add", json!({ "driver": "virtio-rng-pci", "id": "dice" }));

    let listed = client.execute("query-commands");
    let names: Vec<&str> = listed
        .as_array()
        .unwrap()
        .iter()
        .map(|c| c["name"].as_str().unwrap())
        .collect();
    let mut looked_at = 0;
    for name in names.iter().filter(|name| !OURS.contains(name)) {
        let entry = schema
            .called(name, "command")
            .unwrap_or_else(|| panic!("QEMU has no {name}"));
        // Whatever only looks and needs no arguments.
        if !name.starts_with("query-") {
            continue;
        }
        let answer = client.execute(name);
        schema
            .check(&answer, entry["ret-type"].as_str().unwrap(), name)
            .unwrap();
        looked_at += 1;
    }
    assert!(looked_at >= 20, "{looked_at} queries");
    for (name, arguments) in [
        ("qom-list", json!({ "path": "/machine/peripheral" })),
        (
            "qom-get",
            json!({ "path": "/machine/peripheral/dice", "property": "type" }),
        ),
        ("human-monitor-command", json!({ "command-line": "info pci" })),
        ("balloon", json!({ "value": 1 << 30 })),
        ("watchdog-set-action", json!({ "action": "inject-nmi" })),
        (
            "qom-set",
            json!({ "path": "/machine/peripheral/balloon", "property": "guest-stats-polling-interval", "value": 2 }),
        ),
    ] {
        let answer = client.execute_with(name, arguments.clone());
        let entry = schema.called(name, "command").unwrap();
        schema
            .check(&answer, entry["ret-type"].as_str().unwrap(), name)
            .unwrap();
        schema
            .check(&arguments, entry["arg-type"].as_str().unwrap(), name)
            .unwrap();
    }

    client.say(r#"{"execute":"device_del","arguments":{"id":"dice"}}"#);
    for command in ["stop", "cont", "system_reset", "system_powerdown"] {
        client.say(&json!({ "execute": command }).to_string());
    }
    let wanted = [
        "DEVICE_DELETED",
        "STOP",
        "RESUME",
        "RESET",
        "POWERDOWN",
        "SHUTDOWN",
    ];
    let mut seen = Vec::new();
    while !seen.contains(&"SHUTDOWN".to_owned()) {
        let mut heard = client.hear();
        let Some(name) = heard["event"].as_str().map(str::to_owned) else {
            continue;
        };
        let entry = schema
            .called(&name, "event")
            .unwrap_or_else(|| panic!("QEMU has no event {name}"));
        let data = heard.get_mut("data").map_or(json!({}), Value::take);
        schema
            .check(&data, entry["arg-type"].as_str().unwrap(), &name)
            .unwrap();
        let stamp = &heard["timestamp"];
        assert!(
            stamp["seconds"].is_u64() && stamp["microseconds"].as_u64() < Some(1_000_000),
            "{heard}"
        );
        seen.push(name);
    }
    assert_eq!(seen, wanted);
    assert_eq!(guest.wait().status.code(), Some(0));
}

/// Texts to which both say the same, word by word.
const WRONG: &[&str] = &[
    "[1]",
    "5",
    r#""s""#,
    "{}",
    r#"{"execute":7}"#,
    r#"{"exec":"stop"}"#,
    r#"{"execute":"fly"}"#,
    r#"{"execute":"stop","arguments":5}"#,
    r#"{"execute":"stop","arguments":{"x":1}}"#,
    r#"{"execute":"stop","foo":{"x":1}}"#,
    r#"{"execute":"stop","execute":"stop"}"#,
    r#"{"execute":"qmp_capabilities","id":[1]}"#,
    r#"{"execute":"set_link","id":{"a":null}}"#,
    r#"{"execute":"set_link","arguments":{"name":5,"up":true}}"#,
    r#"{"execute":"set_link","arguments":{"name":"a","up":"yes"}}"#,
    r#"{"execute":"set_link","arguments":{"name":"a","up":true,"now":1}}"#,
    r#"{"execute":"set_link","arguments":{"name":"a","up":true}}"#,
    r#"{"execute":"device_del","arguments":{"id":"x"}}"#,
    r#"{"execute":"device_add","arguments":{"id":"x"}}"#,
    r#"{"execute":"device_add","arguments":{"driver":"foo"}}"#,
    r#"{"execute":"device_add","arguments":{"driver":"virtio-blk-pci","id":"a","bus":"rp9"}}"#,
    r#"{"execute":"device_add","arguments":{"driver":"virtio-blk-pci","id":"a","bus":"pcie.0"}}"#,
    r#"{"execute":"device_add","arguments":{"driver":"virtio-blk-pci","id":"a","bus":"rp1"}}"#,
    r#"{"execute":"device_add","arguments":{"driver":"virtio-blk-pci","id":"a","bus":"rp1","drive":"nope"}}"#,
    r#"{"execute":"device_add","arguments":{"driver":"virtio-rng-pci","id":"a","bus":"rp1","foo":1}}"#,
    r#"{"execute":"device_add","arguments":{"driver":"virtio-net-pci","id":"a","bus":"rp1","netdev":"nope"}}"#,
    r#"{"execute":"device_add","arguments":{"driver":"virtio-rng-pci","id":"1a","bus":"rp1"}}"#,
    r#"{"execute":"blockdev-del","arguments":{"node-name":"x"}}"#,
    r#"{"execute":"blockdev-add","arguments":{"driver":"raw","node-name":"x"}}"#,
    r#"{"execute":"blockdev-add","arguments":{"driver":"foo","node-name":"x"}}"#,
    r#"{"execute":"blockdev-add","arguments":{"driver":"raw","node-name":"x","file":{"driver":"file"}}}"#,
    r#"{"execute":"blockdev-add","arguments":{"driver":"file","filename":"/dev/fdset/1"}}"#,
    r#"{"execute":"blockdev-add","arguments":{"driver":"file","node-name":"x","filename":"/dev/fdset/1"}}"#,
    r#"{"execute":"blockdev-add","arguments":{"driver":"file","node-name":"x","filename":"/dev/fdset/1","foo":1}}"#,
    r#"{"execute":"blockdev-add","arguments":{"driver":"raw","node-name":"x","file":"y"}}"#,
    r#"{"execute":"blockdev-add","arguments":{"driver":"file","node-name":"1x","filename":"/dev/fdset/1"}}"#,
    r#"{"execute":"netdev_add","arguments":{"type":"tap"}}"#,
    r#"{"execute":"netdev_add","arguments":{"type":"foo","id":"n"}}"#,
    r#"{"execute":"netdev_add","arguments":{"type":"tap","id":"n","fd":"f"}}"#,
    r#"{"execute":"netdev_add","arguments":{"type":"socket","id":"n","fd":"f"}}"#,
    r#"{"execute":"netdev_del","arguments":{"id":"n"}}"#,
    r#"{"execute":"block_resize","arguments":{"device":"n","size":512}}"#,
    r#"{"execute":"block_resize","arguments":{"node-name":"n","size":-1}}"#,
    r#"{"execute":"block_resize","arguments":{"size":512}}"#,
    r#"{"execute":"eject"}"#,
    r#"{"execute":"eject","arguments":{"device":"n","id":"n"}}"#,
    r#"{"execute":"eject","arguments":{"device":"n"}}"#,
    r#"{"execute":"eject","arguments":{"id":"n","force":1}}"#,
    r#"{"execute":"blockdev-open-tray","arguments":{"id":"n"}}"#,
    r#"{"execute":"blockdev-close-tray","arguments":{"id":"n"}}"#,
    r#"{"execute":"blockdev-close-tray","arguments":{"id":"n","force":true}}"#,
    r#"{"execute":"blockdev-remove-medium","arguments":{"id":"n"}}"#,
    r#"{"execute":"blockdev-remove-medium","arguments":{"device":"n"}}"#,
    r#"{"execute":"blockdev-insert-medium","arguments":{"id":"n"}}"#,
    r#"{"execute":"blockdev-insert-medium","arguments":{"id":"n","node-name":"x"}}"#,
    r#"{"execute":"blockdev-change-medium","arguments":{"id":"n"}}"#,
    r#"{"execute":"blockdev-change-medium","arguments":{"id":"n","filename":"/dev/fdset/1"}}"#,
    r#"{"execute":"blockdev-change-medium","arguments":{"id":"n","filename":"/dev/fdset/1","read-only-mode":"never"}}"#,
    r#"{"execute":"block_resize","arguments":{"node-name":"n"}}"#,
    r#"{"execute":"block_resize","arguments":{"node-name":"n","size":"1"}}"#,
    r#"{"execute":"getfd","arguments":{"fdname":"n"}}"#,
    r#"{"execute":"closefd","arguments":{"fdname":"n"}}"#,
    r#"{"execute":"add-fd","arguments":{}}"#,
    r#"{"execute":"remove-fd","arguments":{"fdset-id":1}}"#,
    r#"{"execute":"remove-fd","arguments":{"fdset-id":1,"fd":4}}"#,
    r#"{"execute":"query-fdsets","id":"same"}"#,
    r#"{"execute":"query-iothreads"}"#,
    r#"{"execute":"query-memory-devices"}"#,
    r#"{"execute":"query-balloon"}"#,
    r#"{"execute":"balloon"}"#,
    r#"{"execute":"balloon","arguments":{"value":"much"}}"#,
    r#"{"execute":"balloon","arguments":{"value":1}}"#,
    r#"{"execute":"watchdog-set-action","arguments":{"action":"bark"}}"#,
    r#"{"execute":"query-vm-generation-id"}"#,
    r#"{"execute":"qom-set","arguments":{"path":"/nope","property":"a","value":1}}"#,
    r#"{"execute":"qom-set","arguments":{"path":"/machine","property":"a"}}"#,
    r#"{"execute":"system_wakeup"}"#,
    r#"{"execute":"qom-list","arguments":{"path":"/nope"}}"#,
    r#"{"execute":"query-rx-filter","arguments":{"name":"q"}}"#,
    r#"{"execute":"human-monitor-command","arguments":{"command-line":""}}"#,
    r#"{"execute":"human-monitor-command","arguments":{"command-line":"fly"}}"#,
    r#"{"execute":"human-monitor-command","arguments":{"command-line":"info fly"}}"#,
    r#"{"execute":"human-monitor-command","arguments":{"command-line":"system_reset now"}}"#,
    r#"{"execute":"human-monitor-command","arguments":{"command-line":"eject"}}"#,
    r#"{"execute":"human-monitor-command","arguments":{"command-line":"eject -f n"}}"#,
    r#"{"execute":"human-monitor-command","arguments":{"command-line":"eject n n"}}"#,
    r#"{"execute":"human-monitor-command","arguments":{"command-line":"change n"}}"#,
    r#"{"execute":"human-monitor-command","arguments":{"command-line":"change n /dev/fdset/1 raw retain"}}"#,
    r#"{"execute":"human-monitor-command","arguments":{"command-line":"device_add foo,id=a"}}"#,
    r#"{"execute":"human-monitor-command","arguments":{"command-line":"device_del"}}"#,
    r#"{"execute":"human-monitor-command","arguments":{"command-line":"netdev_del n"}}"#,
    r#"{"execute":"human-monitor-command","arguments":{"command-line":"qom-list /nope"}}"#,
    r#"{"execute":"human-monitor-command","arguments":{"command-line":"block_resize n 1M"}}"#,
    r#"{"execute":"human-monitor-command","arguments":{"command-line":"system_wakeup"}}"#,
    r#"{"execute":"human-monitor-command","arguments":{"command-line":"info registers","cpu-index":7}}"#,
];

#[test]
fn what_is_wrong_is_said_in_qemus_words() {
    let Some(mut qemu) = Qemu::start("what_is_wrong_is_said_in_qemus_words") else {
        return;
    };
    let mut tiny = Tiny::new(Kernel::new().print("up\n").halt());
    let control = tiny.path_option("--control", "", "control");
    let mut guest = tiny.spawn();
    guest.expect("up\n");
    let mut client = Client::connect(&control);
    let mut different = Vec::new();
    for text in WRONG {
        client.say(text);
        let (ours, theirs) = (client.hear(), qemu.ask(text));
        if ours != theirs {
            different.push(format!("{text}\n  ours:   {ours}\n  QEMU's: {theirs}"));
        }
    }
    assert!(different.is_empty(), "{}", different.join("\n"));
    client.say(r#"{"execute":"quit"}"#);
    assert_eq!(guest.wait().status.code(), Some(0));
}
