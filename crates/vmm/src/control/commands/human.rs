//! The monitor for people, line by line: what they use most of QEMU's, in its words.

mod info;
mod registers;

use serde_json::{Value, json};

use super::{Answer, Context, Reply, balloon, display};
use crate::control::arguments::Arguments;
use crate::control::failure::Failure;
use crate::driver::Request;

/// Longest line, in bytes.
const MAX_LINE: usize = 4096;

/// A line's command: its name, the names of its parameters, and what it does.
struct Line {
    name: &'static str,
    short: Option<&'static str>,
    parameters: &'static [&'static str],
    summary: &'static str,
    run: fn(&mut Context, &[&str]) -> Answer,
}

const LINES: &[Line] = &[
    Line {
        name: "balloon",
        short: None,
        parameters: &["target"],
        summary: "request VM to change its memory allocation (in MB)",
        run: |context, words| {
            let megabytes = words[0].parse::<i64>().ok();
            match megabytes.and_then(|count| count.checked_mul(1 << 20)) {
                Some(bytes) => done(balloon::set_target(context.manager, bytes)),
                None => text("balloon: integer expected\n"),
            }
        },
    },
    Line {
        name: "cont",
        short: Some("c"),
        parameters: &[],
        summary: "resume emulation",
        run: |_, _| Ok(Reply::Ask(Request::Resume, json!(""))),
    },
    Line {
        name: "device_del",
        short: None,
        parameters: &["device"],
        summary: "remove device",
        run: |context, words| done(context.manager.unplug(words[0])),
    },
    Line {
        name: "nmi",
        short: None,
        parameters: &[],
        summary: "inject an NMI",
        run: |context, _| {
            context.manager.inject_nmi();
            done(Ok(()))
        },
    },
    Line {
        name: "quit",
        short: Some("q"),
        parameters: &[],
        summary: "quit the emulator",
        run: |_, _| Ok(Reply::Ask(Request::Quit, json!(""))),
    },
    Line {
        name: "screendump",
        short: None,
        parameters: &["filename", "[-f", "format]"],
        summary: "save screen from head 'head' of display device 'device' in specified format into image 'filename'",
        run: |context, words| match words[1..] {
            [] => done(display::dump(context.manager, words[0], None)),
            ["-f", format] => done(display::dump(context.manager, words[0], Some(format))),
            _ => text("screendump: write screendump filename [-f format]\n"),
        },
    },
    Line {
        name: "sendkey",
        short: None,
        parameters: &["keys", "[hold_ms]"],
        summary: "send keys to the VM (e.g. 'sendkey ctrl-alt-f1', default hold time=100 ms)",
        run: |context, words| {
            done(display::press_line(
                context.manager,
                words[0],
                words.get(1).copied(),
            ))
        },
    },
    Line {
        name: "set_link",
        short: None,
        parameters: &["name", "on|off"],
        summary: "change the link status of a network adapter",
        run: set_link,
    },
    Line {
        name: "stop",
        short: Some("s"),
        parameters: &[],
        summary: "stop emulation",
        run: |_, _| Ok(Reply::Ask(Request::Pause, json!(""))),
    },
    Line {
        name: "system_powerdown",
        short: None,
        parameters: &[],
        summary: "send system power down event",
        run: |_, _| Ok(Reply::Ask(Request::PowerButton, json!(""))),
    },
    Line {
        name: "system_reset",
        short: None,
        parameters: &[],
        summary: "reset the system",
        run: |_, _| Ok(Reply::Ask(Request::Reset, json!(""))),
    },
    Line {
        name: "x-ostler-screen",
        short: None,
        parameters: &[],
        summary: "show the text on the screen",
        run: |context, _| match display::show_text(context.manager) {
            Ok(lines) => text(lines),
            Err(failure) => done(Err(failure)),
        },
    },
];

/// The parameters that have to be given; the others are in brackets.
fn required(line: &Line) -> usize {
    line.parameters
        .iter()
        .filter(|name| !name.starts_with('[') && !name.ends_with(']'))
        .count()
}

fn text(text: impl Into<String>) -> Answer {
    // People's terminals take it as it is.
    Ok(Reply::Value(Value::String(text.into().replace('\n', "\r\n"))))
}

/// The monitor answers with nothing, or with what went wrong.
fn done(result: Result<(), Failure>) -> Answer {
    match result {
        Ok(()) => text(""),
        Err(failure) => text(format!("Error: {}\n", failure.text)),
    }
}

fn set_link(context: &mut Context, words: &[&str]) -> Answer {
    let up = match words[1] {
        "on" => true,
        "off" => false,
        _ => return text("set_link: up must be on or off\n"),
    };
    match context.manager.card(words[0]) {
        Some(card) => {
            card.control.set_link(up);
            text("")
        }
        None => done(Err(Failure::no_device(words[0]))),
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
            words.extend(line.parameters.iter().map(|word| (*word).to_owned()));
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
        return text(format!(
            "{name}: extraneous characters at the end of line\nTry \"help {name}\" for more information\n"
        ));
    }
    if rest.len() < required(line) {
        return text(format!(
            "{name}: string expected\nTry \"help {name}\" for more information\n"
        ));
    }
    (line.run)(context, rest)
}
