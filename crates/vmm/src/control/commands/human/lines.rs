//! The monitor's commands, but for `help` and `info`.

use serde_json::{Map, Value, json};

use super::{done, misused, text};
use crate::control::arguments::Arguments;
use crate::control::commands::{Answer, Context, Reply, balloon, block, display, machine, media, net, qom};
use crate::control::failure::Failure;
use crate::driver::Request;

/// A line's command: its name, the names of its parameters (with what they have to be, unless that is a text), and what it does.
pub(super) struct Line {
    pub name: &'static str,
    pub short: Option<&'static str>,
    pub parameters: &'static [&'static str],
    pub summary: &'static str,
    pub run: fn(&mut Context, &[&str]) -> Answer,
}

/// In alphabetical order.
pub(super) const LINES: &[Line] = &[
    Line {
        name: "announce_self",
        short: None,
        parameters: &["[interfaces]", "[id]"],
        summary: "trigger GARP/RARP announcements",
        run: announce,
    },
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
        name: "block_resize",
        short: None,
        parameters: &["device:block device name", "size"],
        summary: "resize a block image",
        run: resize,
    },
    Line {
        name: "change",
        short: None,
        parameters: &[
            "device:block device name",
            "[-f]",
            "filename:filename",
            "[format",
            "[read-only-mode]]",
        ],
        summary: "change a removable medium, optional format",
        run: change,
    },
    Line {
        name: "cont",
        short: Some("c"),
        parameters: &[],
        summary: "resume emulation",
        run: |_, _| Ok(Reply::Ask(Request::Resume, json!(""))),
    },
    Line {
        name: "device_add",
        short: None,
        parameters: &["driver[,prop=value][,...]:string"],
        summary: "add device, like -device on the command line",
        run: plug,
    },
    Line {
        name: "device_del",
        short: None,
        parameters: &["device"],
        summary: "remove device",
        run: |context, words| done(context.manager.unplug(words[0])),
    },
    Line {
        name: "eject",
        short: None,
        parameters: &["[-f]", "device:block device name"],
        summary: "eject a removable medium (use -f to force it)",
        run: eject,
    },
    Line {
        name: "netdev_del",
        short: None,
        parameters: &["id"],
        summary: "remove host network device",
        run: |context, words| done(context.manager.netdevs.remove(words[0])),
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
        name: "qom-get",
        short: None,
        parameters: &["path", "property"],
        summary: "print QOM property",
        run: qom_get,
    },
    Line {
        name: "qom-list",
        short: None,
        parameters: &["path"],
        summary: "list QOM properties",
        run: qom_list,
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
        name: "system_wakeup",
        short: None,
        parameters: &[],
        summary: "wakeup guest from suspend",
        run: |context, _| said(machine::wake_up(context, arguments(json!({})))),
    },
    Line {
        name: "watchdog_action",
        short: None,
        parameters: &["reset|shutdown|poweroff|pause|debug|none|inject-nmi"],
        summary: "change watchdog action",
        run: watchdog,
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

/// Arguments of a command for programs.
fn arguments(value: Value) -> Arguments {
    match value {
        Value::Object(members) => Arguments::new(members),
        _ => Arguments::new(Map::new()),
    }
}

/// What people are told of the answer to a command for programs that has nothing to tell.
fn said(answer: Answer) -> Answer {
    match answer {
        Ok(Reply::Ask(request, _)) => Ok(Reply::Ask(request, json!(""))),
        other => done(other.map(|_| ())),
    }
}

fn announce(context: &mut Context, words: &[&str]) -> Answer {
    let mut given = json!({});
    if let Some(interfaces) = words.first() {
        given["interfaces"] = interfaces.split(',').collect();
    }
    said(net::announce(context, arguments(given)))
}

/// A number with QEMU's suffixes, which are powers of 1024; without one, of mebibytes.
fn size(word: &str) -> Option<i64> {
    let digits = word.trim_end_matches(|letter: char| letter.is_ascii_alphabetic());
    let shift = match word[digits.len()..].to_ascii_uppercase().as_str() {
        "B" => 0,
        "K" => 10,
        "" | "M" => 20,
        "G" => 30,
        "T" => 40,
        _ => return None,
    };
    digits.parse::<i64>().ok()?.checked_mul(1 << shift)
}

fn resize(context: &mut Context, words: &[&str]) -> Answer {
    match size(words[1]) {
        Some(size) => said(block::resize(
            context,
            arguments(json!({ "device": words[0], "size": size })),
        )),
        None => misused("block_resize", "invalid size"),
    }
}

/// `eject [-f] device`.
fn eject(context: &mut Context, words: &[&str]) -> Answer {
    let (device, force) = match words {
        ["-f", device] => (device, true),
        [device] => (device, false),
        _ => return misused("eject", "extraneous characters at the end of line"),
    };
    said(media::eject(
        context,
        arguments(json!({ "device": device, "force": force })),
    ))
}

/// `change device [-f] filename [format [read-only-mode]]`.
fn change(context: &mut Context, words: &[&str]) -> Answer {
    let (device, force, rest) = match words {
        [device, "-f", rest @ ..] => (device, true, rest),
        [device, rest @ ..] => (device, false, rest),
        [] => return misused("change", "block device name expected"),
    };
    let mut given = json!({ "device": device, "force": force });
    for (name, word) in ["filename", "format", "read-only-mode"].into_iter().zip(rest) {
        given[name] = (*word).into();
    }
    if rest.len() > 3 {
        return misused("change", "extraneous characters at the end of line");
    }
    said(media::change(context, arguments(given)))
}

/// `device_add driver,name=value,...`: values are texts, as the command for programs takes them too.
fn plug(context: &mut Context, words: &[&str]) -> Answer {
    let mut given = Map::new();
    for (index, option) in words[0].split(',').enumerate() {
        let (name, value) = match option.split_once('=') {
            Some(pair) => pair,
            None if index == 0 => ("driver", option),
            // As of a switch.
            None => (option, "on"),
        };
        given.insert(name.into(), value.into());
    }
    let plugged = context.manager.plug(Arguments::new(given), context.fds);
    done(plugged)
}

fn qom_get(context: &mut Context, words: &[&str]) -> Answer {
    let asked = arguments(json!({ "path": words[0], "property": words[1] }));
    match qom::get(context, asked) {
        Ok(Reply::Value(value)) => text(format!("{value:#}\n")),
        other => said(other),
    }
}

fn qom_list(context: &mut Context, words: &[&str]) -> Answer {
    match qom::list(context, arguments(json!({ "path": words[0] }))) {
        Ok(Reply::Value(list)) => {
            let line = |entry: &Value| {
                let member = |name: &str| entry[name].as_str().unwrap_or("").to_owned();
                format!("{} ({})\n", member("name"), member("type"))
            };
            text(
                list.as_array()
                    .into_iter()
                    .flatten()
                    .map(line)
                    .collect::<String>(),
            )
        }
        other => said(other),
    }
}

fn watchdog(context: &mut Context, words: &[&str]) -> Answer {
    said(machine::set_watchdog_action(
        context,
        arguments(json!({ "action": words[0] })),
    ))
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_are_in_alphabetical_order() {
        assert!(LINES.iter().map(|line| line.name).is_sorted());
    }

    #[test]
    fn sizes_have_suffixes() {
        for (word, bytes) in [
            ("1", Some(1 << 20)),
            ("512B", Some(512)),
            ("4k", Some(4096)),
            ("3G", Some(3 << 30)),
            ("1T", Some(1 << 40)),
            ("", None),
            ("G", None),
            ("1X", None),
            ("-", None),
            ("9999999999T", None),
        ] {
            assert_eq!(size(word), bytes, "{word}");
        }
    }
}
