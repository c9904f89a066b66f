//! What there is to say at the control socket, as `query-qmp-schema` tells it: commands, events, and the types of both.
//!
//! The shape is QEMU's (QAPI, "Client JSON Protocol introspection"). Types have names that people can read, where QEMU's are numbers:
//! clients find them by those of commands and members. What a command takes is what it takes here, which is less than QEMU's.

mod interface;
mod types;

use std::collections::BTreeSet;
use std::sync::LazyLock;

use serde_json::{Value, json};

use interface::{COMMANDS, EVENTS};
use types::TYPES;

/// Members of an object, by name and type. A name that ends with "?" may be left out; a type in brackets is a list of that.
type Members = &'static [(&'static str, &'static str)];

/// What a type is.
enum Shape {
    Object(Members),
    /// With more members, which depend on the value of one of them, the tag: values with the objects that have these members.
    Union {
        members: Members,
        tag: &'static str,
        variants: Members,
    },
    Enum(fn() -> Vec<&'static str>),
    /// One of these, told apart by what JSON has in the place.
    Alternate(&'static [&'static str]),
}

/// What a command takes, or an event brings along.
enum Data {
    Members(Members),
    Type(&'static str),
}

struct Command {
    name: &'static str,
    takes: Data,
    returns: &'static str,
}

struct Event {
    name: &'static str,
    brings: Members,
}

/// The type of what has nothing in it.
const EMPTY: &str = "empty";

/// Types of JSON's own, with what they are in JSON.
const BUILTIN: [(&str, &str); 6] = [
    ("any", "value"),
    ("bool", "boolean"),
    ("int", "int"),
    ("null", "null"),
    ("number", "number"),
    ("str", "string"),
];

/// Everything, made once.
static ALL: LazyLock<Value> = LazyLock::new(describe);

/// `query-qmp-schema`.
pub(super) fn schema() -> Value {
    ALL.clone()
}

fn describe() -> Value {
    let mut list = Entries::default();
    for command in COMMANDS {
        let takes = list.data(&command.takes, command.name);
        list.add(
            command.name,
            "command",
            json!({ "arg-type": takes, "ret-type": command.returns }),
        );
        list.refer(command.returns);
    }
    for event in EVENTS {
        let brings = list.data(&Data::Members(event.brings), event.name);
        list.add(event.name, "event", json!({ "arg-type": brings }));
    }
    list.object(EMPTY, &[], json!({}));
    for (name, shape) in TYPES {
        list.shape(name, shape);
    }
    for element in std::mem::take(&mut list.arrays) {
        list.add(
            &format!("[{element}]"),
            "array",
            json!({ "element-type": element }),
        );
    }
    for (name, json) in BUILTIN {
        list.add(name, "builtin", json!({ "json-type": json }));
    }
    list.entries.into()
}

#[derive(Default)]
struct Entries {
    entries: Vec<Value>,
    /// Types of which there are lists.
    arrays: BTreeSet<&'static str>,
}

impl Entries {
    fn add(&mut self, name: &str, kind: &str, mut entry: Value) {
        entry["name"] = name.into();
        entry["meta-type"] = kind.into();
        self.entries.push(entry);
    }

    /// A type is used.
    fn refer(&mut self, name: &'static str) {
        if let Some(element) = name.strip_prefix('[').and_then(|name| name.strip_suffix(']')) {
            self.arrays.insert(element);
        }
    }

    /// The name of the type of what `of` takes or brings.
    fn data(&mut self, data: &Data, of: &str) -> String {
        match data {
            Data::Members([]) => EMPTY.into(),
            Data::Members(members) => {
                let name = format!("{of}-arg");
                self.object(&name, members, json!({}));
                name
            }
            Data::Type(name) => (*name).into(),
        }
    }

    fn object(&mut self, name: &str, members: Members, mut entry: Value) {
        let member = |(name, kind): &(&'static str, &'static str)| match name.strip_suffix('?') {
            Some(name) => json!({ "name": name, "type": kind, "default": null }),
            None => json!({ "name": name, "type": kind }),
        };
        entry["members"] = members.iter().map(member).collect();
        for (_, kind) in members {
            self.refer(kind);
        }
        self.add(name, "object", entry);
    }

    fn shape(&mut self, name: &'static str, shape: &Shape) {
        match shape {
            Shape::Object(members) => self.object(name, members, json!({})),
            Shape::Union {
                members,
                tag,
                variants,
            } => {
                let variant =
                    |(case, kind): &(&'static str, &'static str)| json!({ "case": case, "type": kind });
                let variants: Vec<Value> = variants.iter().map(variant).collect();
                self.object(name, members, json!({ "tag": tag, "variants": variants }));
            }
            Shape::Enum(values) => {
                let values = values();
                let members: Vec<Value> = values.iter().map(|value| json!({ "name": value })).collect();
                self.add(name, "enum", json!({ "members": members, "values": values }));
            }
            Shape::Alternate(kinds) => {
                let members: Vec<Value> = kinds.iter().map(|kind| json!({ "type": kind })).collect();
                self.add(name, "alternate", json!({ "members": members }));
            }
        }
    }
}

#[cfg(test)]
pub(super) mod check;
#[cfg(test)]
mod tests;
