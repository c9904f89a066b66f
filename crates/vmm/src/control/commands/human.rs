//! The monitor for people, line by line: what they use most of QEMU's, in its words.

mod info;
mod lines;
mod registers;

use serde_json::Value;

use lines::{LINES, Line};

use super::{Answer, Context, Reply};
use crate::control::arguments::Arguments;
use crate::control::failure::Failure;

/// Longest line, in bytes.
const MAX_LINE: usize = 4096;

/// The parameters that have to be given; the others are in brackets.
fn required(line: &Line) -> usize {
    line.parameters.iter().filter(|name| is_required(name)).count()
}

fn is_required(parameter: &str) -> bool {
    !parameter.starts_with('[') && !parameter.ends_with(']')
}

/// What a parameter has to be: what comes after its name, or a text.
fn expected(parameter: &str) -> &str {
    parameter.split_once(':').map_or("string", |(_, kind)| kind)
}

/// A parameter as people are told of it.
fn shown(parameter: &str) -> &str {
    parameter.split_once(':').map_or(parameter, |(name, _)| name)
}

fn text(text: impl Into<String>) -> Answer {
    // People's terminals take it as it is.
    Ok(Reply::Value(Value::String(text.into().replace('\n', "\r\n"))))
}

/// A command with the wrong words after it.
fn misused(name: &str, why: &str) -> Answer {
    text(format!(
        "{name}: {why}\nTry \"help {name}\" for more information\n"
    ))
}

/// The monitor answers with nothing, or with what went wrong.
fn done(result: Result<(), Failure>) -> Answer {
    match result {
        Ok(()) => text(""),
        Err(failure) => text(format!("Error: {}\n", failure.text)),
    }
}

fn help() -> String {
    let mut lines: Vec<String> = LINES
        .iter()
        .map(|line| {
            let names = line
                .short
                .map_or(line.name.into(), |short| format!("{}|{short}", line.name));
            let mut words = vec![names];
            words.extend(line.parameters.iter().map(|word| shown(word).to_owned()));
            format!("{} -- {}\n", words.join(" "), line.summary)
        })
        .collect();
    lines.push("help|? -- show the help\n".into());
    lines.push("info [subcommand] -- show various information about the system state\n".into());
    lines.sort();
    lines.concat()
}

/// `human-monitor-command`.
pub(super) fn run(context: &mut Context, mut arguments: Arguments) -> Answer {
    let line = arguments.string("command-line")?;
    let cpu = arguments.integer_if_given("cpu-index")?.unwrap_or(0);
    arguments.finish()?;
    let cpu = usize::try_from(cpu)
        .ok()
        .filter(|cpu| context.manager.cpu(*cpu).is_some())
        .ok_or_else(|| Failure::expects("cpu-index", "a CPU number"))?;
    if line.len() > MAX_LINE {
        return Err(Failure::expects("command-line", "at most 4096 bytes"));
    }
    let words: Vec<&str> = line.split_whitespace().collect();
    let Some((name, rest)) = words.split_first() else {
        return text("");
    };
    match *name {
        "help" | "?" => return text(help()),
        "info" => return text(info::run(context.manager, cpu, rest)),
        _ => {}
    }
    let found = LINES
        .iter()
        .find(|line| line.name == *name || line.short == Some(*name));
    let Some(line) = found else {
        return text(format!("unknown command: '{name}'\n"));
    };
    if rest.len() > line.parameters.len() {
        return misused(name, "extraneous characters at the end of line");
    }
    // Options have no place of their own.
    let given = rest.iter().filter(|word| !word.starts_with('-')).count();
    let mut needed = line.parameters.iter().filter(|name| is_required(name));
    if given < required(line)
        && let Some(parameter) = needed.nth(given)
    {
        return misused(name, &format!("{} expected", expected(parameter)));
    }
    (line.run)(context, rest)
}
