//! One client's conversation: what a text asks for, and the answer, apart from sockets and threads.
//!
//! The shapes of commands, answers and events are QEMU's (QMP specification 1.1 and its QAPI schema), so that tools which
//! speak QMP need nothing new. What is ours begins with `x-ostler-`.

use serde_json::{Map, Value, json};

use super::arguments::Arguments;
use super::commands::{self, Context, Reply};
use super::failure::{Class, Failure};
use super::framer::Frame;
use super::json;
use crate::driver::{Refusal, Request};
use crate::manager::{ClientFds, Manager};

/// What is to be done with a text.
#[derive(Debug, PartialEq)]
pub(crate) enum Step {
    /// Send this.
    Answer(Value),
    /// Ask the driver for this; then send what [`Promise::kept`] makes of the result.
    Ask(Request, Promise),
}

/// What a client gets once the driver has followed its request.
#[derive(Debug, PartialEq)]
pub(crate) struct Promise {
    value: Value,
    id: Option<Value>,
}

impl Promise {
    pub fn kept(self, result: Result<(), Refusal>) -> Value {
        let result = result.map(|()| self.value);
        answer(
            result.map_err(|refusal| Failure::generic(refusal.to_string())),
            self.id,
        )
    }
}

/// State of a client's conversation.
#[derive(Default)]
pub(crate) struct Session {
    negotiated: bool,
    /// The descriptors that are the client's own.
    pub fds: ClientFds,
}

/// What a client is greeted with.
pub(crate) fn greeting() -> Value {
    json!({ "QMP": { "version": commands::version(), "capabilities": [] } })
}

/// A command as it was sent.
struct Call {
    execute: String,
    arguments: Map<String, Value>,
}

impl Session {
    /// True once the client may get events.
    pub fn is_negotiated(&self) -> bool {
        self.negotiated
    }

    /// Takes one frame.
    pub fn handle(&mut self, frame: Frame, manager: &mut Manager) -> Step {
        let parsed = match frame {
            Frame::Text(text) => json::parse(&text),
            Frame::Garbage(why) => Err(format!("JSON parse error, {why}")),
        };
        let members = match parsed {
            Ok(Value::Object(members)) => members,
            Ok(_) => return refuse("QMP input must be a JSON object"),
            Err(error) => return refuse(&error),
        };
        let id = members.get("id").cloned();
        let called = read_call(members).and_then(|call| self.call(call, manager));
        match called {
            Ok(Reply::Value(value)) => Step::Answer(answer(Ok(value), id)),
            Ok(Reply::Ask(request, value)) => Step::Ask(request, Promise { value, id }),
            Err(failure) => Step::Answer(answer(Err(failure), id)),
        }
    }

    fn call(&mut self, call: Call, manager: &mut Manager) -> Result<Reply, Failure> {
        let not_found = |text: String| Failure::new(Class::CommandNotFound, text);
        let Call { execute, arguments } = call;
        match (execute == "qmp_capabilities", self.negotiated) {
            (true, false) => {
                check_capabilities(Arguments::new(arguments))?;
                self.negotiated = true;
                return Ok(Reply::Value(json!({})));
            }
            (true, true) => {
                return Err(not_found(
                    "Capabilities negotiation is already complete, command ignored".into(),
                ));
            }
            (false, false) => {
                return Err(not_found(
                    "Expecting capabilities negotiation with 'qmp_capabilities'".into(),
                ));
            }
            (false, true) => {}
        }
        let unknown = || not_found(format!("The command {execute} has not been found"));
        let command = commands::find(&execute).ok_or_else(unknown)?;
        let fds = &mut self.fds;
        command.run(&mut Context { manager, fds }, Arguments::new(arguments))
    }
}

/// Takes a call out of the object that was sent.
fn read_call(members: Map<String, Value>) -> Result<Call, Failure> {
    let mut execute = None;
    let mut arguments = Map::new();
    for (name, value) in members {
        match (&*name, value) {
            ("execute", Value::String(command)) => execute = Some(command),
            ("execute", _) => return Err(Failure::generic("QMP input member 'execute' must be a string")),
            ("arguments", Value::Object(given)) => arguments = given,
            ("arguments", _) => {
                return Err(Failure::generic("QMP input member 'arguments' must be an object"));
            }
            ("id", _) => {}
            _ => {
                return Err(Failure::generic(format!(
                    "QMP input member '{name}' is unexpected"
                )));
            }
        }
    }
    let execute = execute.ok_or_else(|| Failure::generic("QMP input lacks member 'execute'"))?;
    Ok(Call { execute, arguments })
}

/// No capability is offered, so none can be enabled.
fn check_capabilities(mut arguments: Arguments) -> Result<(), Failure> {
    let wanted = arguments.strings_if_given("enable")?.unwrap_or_default();
    arguments.finish()?;
    match wanted.first() {
        None => Ok(()),
        Some(name) => Err(Failure::not_accepted("enable", name)),
    }
}

fn refuse(text: &str) -> Step {
    Step::Answer(answer(Err(Failure::generic(text)), None))
}

fn answer(result: Result<Value, Failure>, id: Option<Value>) -> Value {
    let mut answer = match result {
        Ok(value) => json!({ "return": value }),
        Err(failure) => failure.answer(),
    };
    if let Some(id) = id {
        answer["id"] = id;
    }
    answer
}

#[cfg(test)]
#[path = "session_tests.rs"]
mod tests;
