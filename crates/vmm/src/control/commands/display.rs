//! The display and the keyboard: pictures and text of the screen, and keys.

use std::fs::File;
use std::time::Duration;

use ostler_display::{Format, Screen, write_picture};
use ostler_machine::Key;
use serde_json::{Value, json};

use super::{Answer, Context, Reply};
use crate::control::arguments::Arguments;
use crate::control::failure::Failure;
use crate::manager::Manager;

/// For how long keys are held if nobody says, in milliseconds.
const HOLD_TIME: i64 = 100;
/// Longest time, in milliseconds.
const MAX_HOLD_TIME: i64 = 60_000;
/// Most keys at once; more than people have fingers.
const MAX_KEYS: usize = 16;

fn screen(manager: &Manager) -> Result<Screen, Failure> {
    let card = manager.display.as_ref();
    let card = card.ok_or_else(|| Failure::generic("There is no console to take a screendump from."))?;
    Ok(card.screen())
}

/// `screendump`.
pub(super) fn screendump(context: &mut Context, mut arguments: Arguments) -> Answer {
    let filename = arguments.string("filename")?;
    let format = arguments.string_if_given("format")?;
    for (name, only) in [("device", "display"), ("head", "0")] {
        let given = match name {
            "head" => arguments.integer_if_given(name)?.map(|head| head.to_string()),
            _ => arguments.string_if_given(name)?,
        };
        if let Some(other) = given.filter(|given| given != only) {
            return Err(Failure::not_accepted(name, &other));
        }
    }
    arguments.finish()?;
    dump(context.manager, &filename, format.as_deref())?;
    Ok(Reply::nothing())
}

/// Writes a picture of the screen to a file that was handed over.
pub(super) fn dump(manager: &Manager, filename: &str, format: Option<&str>) -> Result<(), Failure> {
    let format = match format {
        None => Format::default(),
        Some(name) => Format::from_name(name).ok_or_else(|| Failure::not_accepted("format", name))?,
    };
    let screen = screen(manager)?;
    let file = File::from(manager.fdsets.open_for_writing(filename)?);
    // Whatever else it is may let us wait.
    if !file.metadata().is_ok_and(|meta| meta.is_file()) {
        return Err(Failure::generic(format!(
            "'{filename}' is no regular file; hand over one for the picture"
        )));
    }
    write_picture(&screen, format, file).map_err(|error| Failure::generic(error.to_string()))
}

/// `x-ostler-screen`: what is on the screen, as text where it is text.
pub(super) fn show(context: &mut Context, arguments: Arguments) -> Answer {
    arguments.finish()?;
    let screen = screen(context.manager)?;
    let mut value = json!({
        "kind": screen.kind(),
        "width": screen.width(),
        "height": screen.height(),
    });
    if let Some((text, lines)) = screen.text() {
        value["columns"] = text.columns.into();
        value["rows"] = text.rows.into();
        value["lines"] = lines.into();
        if let Some((column, row)) = text.cursor {
            value["cursor"] = json!({ "column": column, "row": row });
        }
    }
    Ok(Reply::Value(value))
}

/// The same for people.
pub(super) fn show_text(manager: &Manager) -> Result<String, Failure> {
    let screen = screen(manager)?;
    let Some((_, lines)) = screen.text() else {
        let (kind, width, height) = (screen.kind(), screen.width(), screen.height());
        return Ok(format!("{kind}, {width} x {height}\n"));
    };
    Ok(lines.join("\n") + "\n")
}

/// `send-key`.
pub(super) fn send_key(context: &mut Context, mut arguments: Arguments) -> Answer {
    let keys = arguments.any("keys")?;
    let time = arguments.integer_if_given("hold-time")?;
    arguments.finish()?;
    let Value::Array(keys) = keys else {
        return Err(Failure::wrong_type("keys", "array"));
    };
    let keys = keys.iter().enumerate().map(|(index, key)| read_key(index, key));
    press(context.manager, keys.collect::<Result<_, _>>()?, time)?;
    Ok(Reply::nothing())
}

/// A key as `{"type": "qcode", "data": "ret"}` or `{"type": "number", "data": 28}`.
fn read_key(index: usize, key: &Value) -> Result<Key, Failure> {
    let name = |member: &str| format!("keys[{index}].{member}");
    let data = key.get("data").ok_or_else(|| Failure::missing(&name("data")))?;
    let kind = key.get("type").ok_or_else(|| Failure::missing(&name("type")))?;
    let (found, expected) = match kind.as_str() {
        Some("qcode") => (data.as_str().map(Key::from_name), "string"),
        Some("number") => (data.as_i64().map(Key::from_number), "integer"),
        _ => return Err(Failure::not_accepted(&name("type"), &plain(kind))),
    };
    let found = found.ok_or_else(|| Failure::wrong_type(&name("data"), expected))?;
    found.ok_or_else(|| Failure::not_accepted(&name("data"), &plain(data)))
}

fn plain(value: &Value) -> String {
    value.as_str().map_or_else(|| value.to_string(), Into::into)
}

/// Keys as people write them: `ctrl-alt-delete`, or numbers such as `0x1c`.
pub(super) fn press_line(manager: &Manager, line: &str, time: Option<&str>) -> Result<(), Failure> {
    let key = |word: &str| {
        let number = word
            .strip_prefix("0x")
            .map(|digits| i64::from_str_radix(digits, 16).ok());
        let key = match number {
            Some(number) => number.and_then(Key::from_number),
            // The name of the key that people see.
            None if word == "<" => Key::from_name("less"),
            None => Key::from_name(word),
        };
        key.ok_or_else(|| Failure::generic(format!("invalid parameter: {word}")))
    };
    let time = match time {
        None => None,
        Some(time) => Some(
            time.parse()
                .map_err(|_| Failure::expects("hold-time", "a number"))?,
        ),
    };
    press(manager, line.split('-').map(key).collect::<Result<_, _>>()?, time)
}

fn press(manager: &Manager, keys: Vec<Key>, time: Option<i64>) -> Result<(), Failure> {
    let time = time.unwrap_or(HOLD_TIME);
    if !(0..=MAX_HOLD_TIME).contains(&time) {
        return Err(Failure::expects("hold-time", "0 to 60000 milliseconds"));
    }
    if keys.is_empty() || keys.len() > MAX_KEYS {
        return Err(Failure::expects("keys", "1 to 16 keys"));
    }
    let time = Duration::from_millis(time.unsigned_abs());
    if !manager.machine.press_keys(keys, time) {
        return Err(Failure::generic(
            "too many keys wait to be pressed; send the next ones later",
        ));
    }
    Ok(())
}
