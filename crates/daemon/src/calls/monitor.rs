//! Calls that go to the control socket of a guest's process as they are.

use ostler_libvirt::procedures::*;
use ostler_libvirt::types::MonitorCommandArgs;
use ostler_libvirt::{Code, RemoteError};
use serde_json::{Map, Value, json};

use super::{Context, Dispatcher, check_flags};

/// Flag: the command is a line for people.
const FOR_PEOPLE: u32 = 1;

pub(super) fn add(to: &mut Dispatcher) {
    to.on::<QemuMonitorCommand>(command);
}

fn command(context: &Context<'_>, args: MonitorCommandArgs) -> Result<String, RemoteError> {
    check_flags(args.flags, FOR_PEOPLE)?;
    let control = context.domain(&args.domain)?.control()?;
    let failed = |why: String| RemoteError::new(Code::OperationFailed, why);
    if args.flags & FOR_PEOPLE != 0 {
        let line = json!({ "command-line": args.command });
        let said = control.execute_with("human-monitor-command", line);
        let said = said.map_err(|error| failed(error.to_string()))?;
        return Ok(said.as_str().unwrap_or_default().to_owned());
    }
    let mut answer = control
        .pass(object(&args.command)?)
        .map_err(|error| failed(error.to_string()))?;
    if let Some(id) = answer["id"].as_u64() {
        answer["id"] = format!("libvirt-{id}").into();
    }
    Ok(answer.to_string())
}

fn object(text: &str) -> Result<Map<String, Value>, RemoteError> {
    let wrong = |why: String| {
        let why = format!("the command is no JSON object: {why}; for a line for people there is --hmp");
        RemoteError::new(Code::InvalidArgument, why)
    };
    match serde_json::from_str(text) {
        Ok(Value::Object(object)) => Ok(object),
        Ok(_) => Err(wrong("it is another value".into())),
        Err(error) => Err(wrong(error.to_string())),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_an_object_is_a_command() {
        assert_eq!(object(r#"{"execute":"stop"}"#).unwrap()["execute"], "stop");
        for text in ["", "stop", "[1]", "7", "{", "{} {}"] {
            assert_eq!(object(text).unwrap_err().code, Code::InvalidArgument, "{text}");
        }
    }
}
