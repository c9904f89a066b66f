//! One client's conversation: what a text asks for, and the answer, apart from sockets and threads.
//!
//! The shapes of commands, answers and events are QEMU's (QMP specification 1.1 and its QAPI schema), so that tools which
//! speak QMP need nothing new. What is ours begins with `x-ostler-`.

use std::time::Duration;

use ostler_virtio::net::NetControl;
use serde::Deserialize;
use serde_json::{Map, Value, json};

use super::framer::Frame;
use crate::driver::{Event, Request, State};

/// What a session may look at without asking the driver.
pub trait View: Send + Sync {
    /// Where the guest is.
    fn state(&self) -> State;
    /// The guest's name.
    fn name(&self) -> &str;
    /// "kvm" or "soft".
    fn accelerator(&self) -> &str;
    /// Thread id of each vCPU.
    fn vcpu_threads(&self) -> Vec<i32>;
    /// Everything that is counted.
    fn stats(&self) -> Value;
    /// Where guest code was found in the last `newest`; null where that cannot be seen. Watches on for that long.
    fn hot(&self, newest: Duration) -> Value;
    /// The network cards' control sides, by name.
    fn nets(&self) -> &[(String, NetControl)];
}

/// What is to be done with a text.
#[derive(Debug, PartialEq)]
pub enum Step {
    /// Send this.
    Answer(Value),
    /// Ask the driver for this; then send what [`finished`] makes of the result and the id.
    Ask(Request, Option<Value>),
}

/// State of a client's conversation.
#[derive(Debug, Default)]
pub struct Session {
    negotiated: bool,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Call {
    execute: String,
    #[serde(default)]
    arguments: Map<String, Value>,
    id: Option<Value>,
}

const COMMANDS: &[&str] = &[
    "announce-self",
    "cont",
    "qmp_capabilities",
    "query-commands",
    "query-cpus-fast",
    "query-kvm",
    "query-name",
    "query-status",
    "query-version",
    "quit",
    "set_link",
    "stop",
    "system_powerdown",
    "system_reset",
    "x-ostler-hot",
    "x-ostler-stats",
];

/// The commands that take arguments, and their names.
const ARGUMENTS: &[(&str, &[&str])] = &[
    ("announce-self", &["interfaces"]),
    ("set_link", &["name", "up"]),
    ("x-ostler-hot", &["seconds"]),
];

/// Longest time that a profile can be of, in seconds.
const LONGEST_LOOK: u64 = 3600;

fn takes(command: &str, argument: &str) -> bool {
    ARGUMENTS
        .iter()
        .any(|(known, names)| *known == command && names.contains(&argument))
}

/// What a client is greeted with.
pub fn greeting() -> Value {
    json!({ "QMP": { "version": version(), "capabilities": [] } })
}

impl Session {
    /// True once the client may get events.
    pub fn is_negotiated(&self) -> bool {
        self.negotiated
    }

    /// Takes one frame.
    pub fn handle(&mut self, frame: Frame, view: &dyn View) -> Step {
        let text = match frame {
            Frame::Text(text) => text,
            Frame::Garbage(why) => return failure("GenericError", &format!("not understood: {why}"), None),
        };
        let value: Value = match serde_json::from_slice(&text) {
            Ok(value) => value,
            Err(error) => return failure("GenericError", &format!("not understood: {error}"), None),
        };
        let id = value.get("id").cloned();
        match serde_json::from_value::<Call>(value) {
            Ok(call) => self.call(call, view),
            Err(error) => failure("GenericError", &format!("not understood: {error}"), id),
        }
    }

    fn call(&mut self, call: Call, view: &dyn View) -> Step {
        let Call {
            execute,
            arguments,
            id,
        } = call;
        if execute == "qmp_capabilities" {
            return self.negotiate(&arguments, id);
        }
        if !self.negotiated {
            let wanted = "negotiate first: execute qmp_capabilities";
            return failure("CommandNotFound", wanted, id);
        }
        if COMMANDS.contains(&execute.as_str())
            && let Some(unknown) = arguments.keys().find(|name| !takes(&execute, name))
        {
            return failure(
                "GenericError",
                &format!("{execute} takes no argument \"{unknown}\""),
                id,
            );
        }
        let answer = match execute.as_str() {
            "stop" => return Step::Ask(Request::Pause, id),
            "cont" => return Step::Ask(Request::Resume, id),
            "system_powerdown" => return Step::Ask(Request::PowerButton, id),
            "system_reset" => return Step::Ask(Request::Reset, id),
            "quit" => return Step::Ask(Request::Quit, id),
            "announce-self" => return announce(&arguments, view, id),
            "set_link" => return set_link(&arguments, view, id),
            "query-commands" => COMMANDS.iter().map(|name| json!({ "name": name })).collect(),
            "query-cpus-fast" => cpus(view),
            "query-kvm" => {
                json!({ "enabled": view.accelerator() == "kvm", "present": view.accelerator() == "kvm" })
            }
            "query-name" => json!({ "name": view.name() }),
            "query-status" => status(view.state()),
            "query-version" => version(),
            "x-ostler-hot" => match look_time(&arguments) {
                Some(newest) => view.hot(newest),
                None => {
                    let wanted = format!("seconds is a number from 1 to {LONGEST_LOOK}");
                    return failure("GenericError", &wanted, id);
                }
            },
            "x-ostler-stats" => view.stats(),
            _ => {
                return failure(
                    "CommandNotFound",
                    &format!("there is no command \"{execute}\""),
                    id,
                );
            }
        };
        Step::Answer(with_id(json!({ "return": answer }), id))
    }

    fn negotiate(&mut self, arguments: &Map<String, Value>, id: Option<Value>) -> Step {
        if self.negotiated {
            return failure("CommandNotFound", "capabilities were negotiated before", id);
        }
        let enable = arguments.get("enable").and_then(Value::as_array);
        if let Some(first) = enable.and_then(|list| list.first()) {
            return failure("GenericError", &format!("there is no capability {first}"), id);
        }
        self.negotiated = true;
        Step::Answer(with_id(json!({ "return": {} }), id))
    }
}

/// The answer to a request that the driver has followed or refused.
pub fn finished(result: Result<(), impl ToString>, id: Option<Value>) -> Value {
    match result {
        Ok(()) => with_id(json!({ "return": {} }), id),
        Err(refusal) => error("GenericError", &refusal.to_string(), id),
    }
}

/// An event as clients get it; `now` is the time since 1970.
pub fn event(event: Event, now: std::time::Duration) -> Value {
    let (name, data) = match event {
        Event::Stop => ("STOP", None),
        Event::Resume => ("RESUME", None),
        Event::PowerDown => ("POWERDOWN", None),
        Event::Reset { by_guest } => {
            let reason = if by_guest {
                "guest-reset"
            } else {
                "host-qmp-system-reset"
            };
            ("RESET", Some(json!({ "guest": by_guest, "reason": reason })))
        }
        Event::Shutdown { by_guest, reason } => {
            ("SHUTDOWN", Some(json!({ "guest": by_guest, "reason": reason })))
        }
        Event::Panicked => ("GUEST_PANICKED", Some(json!({ "action": "poweroff" }))),
    };
    let mut value = json!({
        "event": name,
        "timestamp": { "seconds": now.as_secs(), "microseconds": now.subsec_micros() },
    });
    if let Some(data) = data {
        value["data"] = data;
    }
    value
}

/// What a profile is to be of.
fn look_time(arguments: &Map<String, Value>) -> Option<Duration> {
    let seconds = match arguments.get("seconds") {
        None => 1,
        Some(seconds) => seconds.as_u64()?,
    };
    (1..=LONGEST_LOOK)
        .contains(&seconds)
        .then(|| Duration::from_secs(seconds))
}

/// Asks guests' drivers to tell the network where they are; the driver decides how often it says so.
fn announce(arguments: &Map<String, Value>, view: &dyn View, id: Option<Value>) -> Step {
    let wanted: Option<Vec<&str>> = match arguments.get("interfaces") {
        None => Some(view.nets().iter().map(|(name, _)| &**name).collect()),
        Some(list) => list
            .as_array()
            .and_then(|list| list.iter().map(Value::as_str).collect()),
    };
    let Some(wanted) = wanted else {
        return failure("GenericError", "interfaces is no list of names", id);
    };
    let mut cards = Vec::new();
    for name in wanted {
        match card(view, name) {
            Some(card) => cards.push(card),
            None => return no_card(name, id),
        }
    }
    for card in cards {
        // A driver that cannot is left alone, as by QEMU.
        card.announce();
    }
    Step::Answer(with_id(json!({ "return": {} }), id))
}

fn set_link(arguments: &Map<String, Value>, view: &dyn View, id: Option<Value>) -> Step {
    let name = arguments.get("name").and_then(Value::as_str);
    let up = arguments.get("up").and_then(Value::as_bool);
    let (Some(name), Some(up)) = (name, up) else {
        let wanted = "set_link takes \"name\", a text, and \"up\", true or false";
        return failure("GenericError", wanted, id);
    };
    let Some(card) = card(view, name) else {
        return no_card(name, id);
    };
    card.set_link(up);
    Step::Answer(with_id(json!({ "return": {} }), id))
}

fn card<'a>(view: &'a dyn View, name: &str) -> Option<&'a NetControl> {
    let mut nets = view.nets().iter();
    nets.find(|(known, _)| known == name).map(|(_, card)| card)
}

fn no_card(name: &str, id: Option<Value>) -> Step {
    failure(
        "DeviceNotFound",
        &format!("there is no network card \"{name}\""),
        id,
    )
}

fn version() -> Value {
    let number = |text: &str| text.parse::<u32>().unwrap_or(0);
    json!({
        "qemu": {
            "major": number(env!("CARGO_PKG_VERSION_MAJOR")),
            "minor": number(env!("CARGO_PKG_VERSION_MINOR")),
            "micro": number(env!("CARGO_PKG_VERSION_PATCH")),
        },
        "package": concat!("ostler ", env!("CARGO_PKG_VERSION")),
    })
}

fn status(state: State) -> Value {
    let name = match state {
        State::Created => "prelaunch",
        State::Running | State::ShuttingDown | State::Resetting { paused: false } => "running",
        State::Paused | State::Resetting { paused: true } => "paused",
        State::PoweredOff => "shutdown",
        State::Panicked => "guest-panicked",
    };
    json!({ "status": name, "running": name == "running", "singlestep": false, "x-ostler-state": state.name() })
}

fn cpus(view: &dyn View) -> Value {
    view.vcpu_threads()
        .into_iter()
        .enumerate()
        .map(|(index, thread)| {
            json!({
                "cpu-index": index,
                "thread-id": thread,
                "target": "x86_64",
                "qom-path": format!("/machine/unattached/device[{index}]"),
                "props": { "socket-id": 0, "core-id": index, "thread-id": 0 },
            })
        })
        .collect()
}

fn failure(class: &str, text: &str, id: Option<Value>) -> Step {
    Step::Answer(error(class, text, id))
}

fn error(class: &str, text: &str, id: Option<Value>) -> Value {
    with_id(json!({ "error": { "class": class, "desc": text } }), id)
}

fn with_id(mut answer: Value, id: Option<Value>) -> Value {
    if let Some(id) = id {
        answer["id"] = id;
    }
    answer
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    struct Fixed;

    impl View for Fixed {
        fn state(&self) -> State {
            State::Paused
        }
        fn name(&self) -> &str {
            "quiet"
        }
        fn accelerator(&self) -> &str {
            "soft"
        }
        fn vcpu_threads(&self) -> Vec<i32> {
            vec![10, 11]
        }
        fn stats(&self) -> Value {
            json!({ "vcpus": [] })
        }
        fn hot(&self, newest: Duration) -> Value {
            json!({ "seconds": newest.as_secs() })
        }
        fn nets(&self) -> &[(String, NetControl)] {
            &[]
        }
    }

    fn ask(session: &mut Session, text: &str) -> Step {
        session.handle(Frame::Text(text.as_bytes().to_vec()), &Fixed)
    }

    fn answer(session: &mut Session, text: &str) -> Value {
        match ask(session, text) {
            Step::Answer(value) => value,
            step => panic!("{text} led to {step:?}"),
        }
    }

    fn negotiated() -> Session {
        let mut session = Session::default();
        assert_eq!(
            answer(&mut session, r#"{"execute":"qmp_capabilities","id":1}"#),
            json!({"return":{},"id":1})
        );
        session
    }

    #[test]
    fn nothing_goes_before_the_negotiation() {
        let mut session = Session::default();
        let refused = answer(&mut session, r#"{"execute":"query-status","id":"a"}"#);
        assert_eq!(refused["error"]["class"], "CommandNotFound");
        assert_eq!(refused["id"], "a");
        assert!(!session.is_negotiated());
        let bad = answer(
            &mut session,
            r#"{"execute":"qmp_capabilities","arguments":{"enable":["oob"]}}"#,
        );
        assert_eq!(bad["error"]["class"], "GenericError");
    }

    #[test]
    fn queries_answer_in_qemus_shape() {
        let mut session = negotiated();
        let status = answer(&mut session, r#"{"execute":"query-status"}"#);
        assert_eq!(status["return"]["status"], "paused");
        assert_eq!(status["return"]["running"], false);
        let cpus = answer(&mut session, r#"{"execute":"query-cpus-fast","arguments":{}}"#);
        assert_eq!(cpus["return"][1]["thread-id"], 11);
        assert_eq!(
            answer(&mut session, r#"{"execute":"query-name"}"#)["return"]["name"],
            "quiet"
        );
        assert_eq!(
            answer(&mut session, r#"{"execute":"query-kvm"}"#)["return"]["enabled"],
            false
        );
        for command in COMMANDS {
            let mut session = negotiated();
            let step = ask(&mut session, &format!("{{\"execute\":\"{command}\"}}"));
            let unknown =
                matches!(&step, Step::Answer(value) if value["error"]["class"] == "CommandNotFound");
            assert!(!unknown || *command == "qmp_capabilities", "{command}: {step:?}");
        }
    }

    #[test]
    fn changes_go_to_the_driver() {
        let mut session = negotiated();
        assert_eq!(
            ask(&mut session, r#"{"execute":"stop","id":7}"#),
            Step::Ask(Request::Pause, Some(json!(7)))
        );
        assert_eq!(
            finished(Ok::<(), String>(()), Some(json!(7))),
            json!({"return":{},"id":7})
        );
        let bad = answer(&mut session, r#"{"execute":"stop","arguments":{"now":true}}"#);
        assert_eq!(bad["error"]["class"], "GenericError");
        let unknown = answer(&mut session, r#"{"execute":"migrate"}"#);
        assert_eq!(unknown["error"]["class"], "CommandNotFound");
    }

    #[test]
    fn links_are_set_and_announced_by_name() {
        let mut session = negotiated();
        let mut class = |execute: &str, arguments: Value| {
            let text = json!({ "execute": execute, "arguments": arguments }).to_string();
            answer(&mut session, &text)["error"]["class"]
                .as_str()
                .map(str::to_owned)
        };
        for (arguments, expected) in [
            (json!({}), "GenericError"),
            (json!({ "name": "net0" }), "GenericError"),
            (json!({ "name": 5, "up": true }), "GenericError"),
            (json!({ "name": "net0", "up": "yes" }), "GenericError"),
            (json!({ "name": "net0", "up": true, "now": 1 }), "GenericError"),
            (json!({ "name": "net0", "up": true }), "DeviceNotFound"),
        ] {
            assert_eq!(class("set_link", arguments).as_deref(), Some(expected));
        }
        for (arguments, expected) in [
            (json!({}), None),
            (json!({ "interfaces": [] }), None),
            (json!({ "interfaces": ["net0"] }), Some("DeviceNotFound")),
            (json!({ "interfaces": "net0" }), Some("GenericError")),
            (json!({ "interfaces": [1] }), Some("GenericError")),
            (json!({ "rounds": 5 }), Some("GenericError")),
        ] {
            assert_eq!(class("announce-self", arguments).as_deref(), expected);
        }
    }

    #[test]
    fn a_profile_is_of_some_seconds() {
        let mut session = negotiated();
        let mut hot = |arguments: Value| {
            let text = json!({ "execute": "x-ostler-hot", "arguments": arguments }).to_string();
            answer(&mut session, &text)
        };
        assert_eq!(hot(json!({}))["return"]["seconds"], 1);
        assert_eq!(hot(json!({ "seconds": 3600 }))["return"]["seconds"], 3600);
        for wrong in [
            json!(0),
            json!(3601),
            json!(-1),
            json!(1.5),
            json!("1"),
            json!(null),
        ] {
            let refused = hot(json!({ "seconds": wrong }));
            assert_eq!(refused["error"]["class"], "GenericError", "{wrong}");
        }
    }

    #[test]
    fn events_carry_their_time() {
        let now = std::time::Duration::from_micros(5_000_007);
        let value = event(Event::Reset { by_guest: true }, now);
        assert_eq!(value["event"], "RESET");
        assert_eq!(value["data"]["guest"], true);
        assert_eq!(value["timestamp"], json!({"seconds": 5, "microseconds": 7}));
    }

    proptest! {
        #[test]
        fn any_bytes_get_one_answer(bytes in proptest::collection::vec(any::<u8>(), 0..200)) {
            negotiated().handle(Frame::Text(bytes), &Fixed);
        }

        #[test]
        fn any_object_gets_one_answer(execute in ".{0,12}", key in ".{0,6}", value in any::<i64>()) {
            let text = json!({ "execute": execute, "arguments": { key: value }, "id": value });
            let answer = answer(&mut negotiated(), &text.to_string());
            prop_assert!(answer.get("error").is_some());
            prop_assert_eq!(&answer["id"], &json!(value));
        }
    }
}
