//! A session at the control socket.

use std::io::{BufRead, BufReader, Write};
use std::os::unix::net::UnixStream;
use std::path::Path;

use serde_json::{Value, json};

use crate::tiny::{Kernel, LIMIT, Tiny};

/// A client that has negotiated.
pub struct Client(BufReader<UnixStream>);

impl Client {
    pub fn connect(path: &Path) -> Self {
        Self::over(UnixStream::connect(path).unwrap())
    }

    /// The client on a connection that has said nothing yet but perhaps blanks.
    pub fn over(stream: UnixStream) -> Self {
        stream.set_read_timeout(Some(LIMIT)).unwrap();
        let mut client = Self(BufReader::new(stream));
        assert!(
            client.hear()["QMP"]["version"]["package"]
                .as_str()
                .unwrap()
                .starts_with("ostler")
        );
        client.say(r#"{"execute":"qmp_capabilities"}"#);
        assert_eq!(client.hear(), json!({ "return": {} }));
        client
    }

    pub fn say(&mut self, text: &str) {
        self.0
            .get_mut()
            .write_all(format!("{text}\r\n").as_bytes())
            .unwrap();
    }

    pub fn hear(&mut self) -> Value {
        let mut line = String::new();
        self.0.read_line(&mut line).unwrap();
        serde_json::from_str(&line).unwrap()
    }

    /// Executes `command`, leaving events out.
    pub fn execute(&mut self, command: &str) -> Value {
        self.execute_with(command, json!({}))
    }

    /// The same with arguments. It must not fail.
    pub fn execute_with(&mut self, command: &str, arguments: Value) -> Value {
        self.say(&json!({ "execute": command, "arguments": arguments }).to_string());
        loop {
            let mut answer = self.hear();
            if answer.get("event").is_none() {
                assert!(answer.get("error").is_none(), "{command}: {answer}");
                return answer["return"].take();
            }
        }
    }

    /// Waits for the event `name`.
    pub fn event(&mut self, name: &str) -> Value {
        loop {
            let heard = self.hear();
            if heard["event"] == name {
                return heard;
            }
        }
    }
}

#[test]
fn a_session_from_greeting_to_quit() {
    let mut tiny =
        Tiny::new(Kernel::new().print("up\n").wait_for_button().power_off()).args(&["--name", "mare"]);
    let control = tiny.path_option("--control", "", "control");
    let mut guest = tiny.spawn();
    guest.expect("up\n");
    let mut one = Client::connect(&control);
    let mut two = Client::connect(&control);
    assert_eq!(one.execute("query-name")["name"], "mare");
    assert_eq!(one.execute("query-status")["status"], "running");
    assert_eq!(one.execute("query-kvm")["enabled"], false);
    one.execute("stop");
    assert!(two.event("STOP")["timestamp"]["seconds"].as_u64().unwrap() > 1_700_000_000);
    assert_eq!(two.execute("query-status")["running"], false);
    two.execute("cont");
    one.event("RESUME");
    one.execute("system_reset");
    two.event("RESET");
    guest.expect("up\n");
    two.execute("system_powerdown");
    let shutdown = one.event("SHUTDOWN");
    assert_eq!(
        shutdown["data"],
        json!({ "guest": true, "reason": "guest-shutdown" })
    );
    assert_eq!(guest.wait().status.code(), Some(0));
}

#[test]
fn a_signal_is_told_as_one() {
    let mut tiny = Tiny::new(Kernel::new().print("up\n").halt());
    let control = tiny.path_option("--control", "", "control");
    let mut guest = tiny.spawn();
    guest.expect("up\n");
    let mut client = Client::connect(&control);
    guest.signal(rustix::process::Signal::TERM);
    client.event("POWERDOWN");
    guest.signal(rustix::process::Signal::TERM);
    let shutdown = client.event("SHUTDOWN");
    assert_eq!(
        shutdown["data"],
        json!({ "guest": false, "reason": "host-signal" })
    );
    guest.wait();
}

#[test]
fn garbage_gets_errors_and_harms_no_one() {
    let mut tiny = Tiny::new(Kernel::new().print("up\n").halt());
    let control = tiny.path_option("--control", "", "control");
    let mut guest = tiny.spawn();
    guest.expect("up\n");
    let mut client = Client::connect(&control);
    let deep = format!("{{\"a\":{}", "[".repeat(10_000));
    let long = format!("{{\"execute\":\"{}\"}}", "x".repeat(100_000));
    let bad = [
        "hello",
        "{1}",
        "{\"execute\":7}",
        "{\"execute\":\"fly\"}",
        "{\"exec\":\"stop\"}",
        &deep,
        &long,
    ];
    for text in bad {
        client.say(text);
        assert!(client.hear()["error"]["class"].is_string(), "{:.40}", text);
    }
    let mut silent: Vec<_> = (0..100).map(|_| UnixStream::connect(&control).unwrap()).collect();
    for stream in &mut silent {
        // Whoever is one too many is hung up on.
        let _ = stream.write_all(b"{\"execute\":");
    }
    assert_eq!(client.execute("query-status")["status"], "running");
    drop(silent);
    client.say(r#"{"execute":"quit","id":"last"}"#);
    assert_eq!(client.event("SHUTDOWN")["data"]["guest"], false);
    assert_eq!(guest.wait().status.code(), Some(0));
}
