//! What we say of our commands beside what QEMU says of its own: a client that reads the schema and finds something there can use it as
//! it would with QEMU.

use std::collections::HashSet;

use serde_json::{Value, json};

use crate::control::Client;
use crate::qmp_like_qemu::{OURS, Qemu};
use crate::tiny::{Kernel, Tiny};

#[path = "../../../vmm/src/control/schema/check.rs"]
mod check;

pub use check::Schema;

/// Which way a value goes.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
enum Way {
    /// Into a command: whatever ours takes, QEMU's takes too.
    In,
    /// Out of it: what ours tells is what QEMU may tell, and what QEMU always tells is there.
    Out,
}

/// Compares our types with QEMU's.
struct Comparison {
    ours: Schema,
    theirs: Schema,
    /// Pairs of types that were compared, or are being.
    seen: HashSet<(String, String, Way)>,
    different: Vec<String>,
}

fn text<'a>(entry: &'a Value, name: &str) -> &'a str {
    entry[name].as_str().unwrap_or("")
}

impl Comparison {
    fn types(&mut self, ours: &str, theirs: &str, way: Way, at: &str) {
        if !self.seen.insert((ours.into(), theirs.into(), way)) {
            return;
        }
        let (a, b) = (self.ours.kind(ours).clone(), self.theirs.kind(theirs).clone());
        match (text(&a, "meta-type"), text(&b, "meta-type")) {
            (_, "builtin") if text(&b, "json-type") == "value" => {}
            ("builtin", "builtin") => {
                if a["json-type"] != b["json-type"] {
                    self.differ(at, format!("{} here, {} there", a["json-type"], b["json-type"]));
                }
            }
            // Some of their texts.
            ("enum", "builtin") if text(&b, "json-type") == "string" => {}
            ("enum", "enum") => {
                let known = b["values"].as_array().unwrap();
                for value in a["values"].as_array().unwrap() {
                    if !known.contains(value) && !value.as_str().unwrap().starts_with("x-ostler-") {
                        self.differ(at, format!("{value} is no value there"));
                    }
                }
            }
            ("array", "array") => {
                self.types(text(&a, "element-type"), text(&b, "element-type"), way, at);
            }
            ("object", "object") => self.objects(&a, &b, way, at),
            ("alternate", "alternate") => self.alternates(&a, &b, way, at),
            (here, there) => self.differ(at, format!("{here} here, {there} there")),
        }
    }

    /// Alternatives are told apart by their kinds: each of ours is one of theirs.
    fn alternates(&mut self, a: &Value, b: &Value, way: Way, at: &str) {
        let kinds = |list: &Value| -> Vec<String> {
            let members = list["members"].as_array().unwrap().iter();
            members.map(|member| text(member, "type").to_owned()).collect()
        };
        for here in kinds(a) {
            let same = |there: &String| {
                let (a, b) = (self.ours.kind(&here), self.theirs.kind(there));
                a["meta-type"] == b["meta-type"] && a["json-type"] == b["json-type"]
            };
            match kinds(b).into_iter().find(same) {
                Some(there) => self.types(&here, &there, way, at),
                None => self.differ(at, format!("{here} is no alternative there")),
            }
        }
    }

    fn objects(&mut self, a: &Value, b: &Value, way: Way, at: &str) {
        let mut cases = vec![Value::Null];
        if let Some(variants) = a["variants"].as_array() {
            cases = variants.iter().map(|variant| variant["case"].clone()).collect();
            // What is ours alone has nothing to be compared with.
            cases.retain(|case| !case.as_str().unwrap().starts_with("x-ostler-"));
            if a["tag"] != b["tag"] {
                self.differ(at, format!("the tag is {} there", b["tag"]));
            }
        }
        for case in cases {
            let at = match case.as_str() {
                Some(case) => format!("{at}({case})"),
                None => at.to_owned(),
            };
            // Without variants here their common members are meant, or those of the only value that the tag has here.
            let here = self.ours.members(a, &case);
            let there = self.theirs.members(b, &case);
            let named =
                |list: &[Value], name: &Value| list.iter().find(|member| member["name"] == *name).cloned();
            for member in &here {
                let name = text(member, "name");
                if name.starts_with("x-ostler-") {
                    continue;
                }
                let at = format!("{at}.{name}");
                match named(&there, &member["name"]) {
                    Some(other) => self.types(text(member, "type"), text(&other, "type"), way, &at),
                    None => self.differ(&at, "it is not there".into()),
                }
            }
            for other in there.iter().filter(|other| other.get("default").is_none()) {
                let here = named(&here, &other["name"]);
                let kept = match way {
                    // Ours may ask for less.
                    Way::In => true,
                    Way::Out => here.is_some_and(|member| member.get("default").is_none()),
                };
                if !kept {
                    self.differ(&at, format!("{} is always told there", other["name"]));
                }
            }
        }
    }

    fn differ(&mut self, at: &str, how: String) {
        self.different.push(format!("{at}: {how}"));
    }
}

#[test]
fn whatever_the_schema_says_fits_what_qemus_says() {
    let Some(mut qemu) = Qemu::start("whatever_the_schema_says_fits_what_qemus_says") else {
        return;
    };
    let theirs = Schema::of(&qemu.ask(r#"{"execute":"query-qmp-schema"}"#)["return"]);
    let mut tiny = Tiny::new(Kernel::new().print("up\n").halt());
    let control = tiny.path_option("--control", "", "control");
    let mut guest = tiny.spawn();
    guest.expect("up\n");
    let mut client = Client::connect(&control);
    let list = client.execute("query-qmp-schema");
    let (mut commands, mut events) = (0, 0);
    let mut comparison = Comparison {
        ours: Schema::of(&list),
        theirs,
        seen: HashSet::new(),
        different: Vec::new(),
    };
    for entry in list.as_array().unwrap() {
        let (name, kind) = (text(entry, "name"), text(entry, "meta-type"));
        if !matches!(kind, "command" | "event") || OURS.contains(&name) {
            continue;
        }
        let Some(other) = comparison.theirs.called(name, kind).cloned() else {
            comparison.differ(name, format!("there is no such {kind} there"));
            continue;
        };
        let way = if kind == "command" { Way::In } else { Way::Out };
        comparison.types(text(entry, "arg-type"), text(&other, "arg-type"), way, name);
        if kind == "command" {
            comparison.types(text(entry, "ret-type"), text(&other, "ret-type"), Way::Out, name);
            commands += 1;
        } else {
            events += 1;
        }
    }
    assert!(
        comparison.different.is_empty(),
        "{}",
        comparison.different.join("\n")
    );
    let listed = client.execute("query-commands");
    assert_eq!(listed.as_array().unwrap().len(), commands + OURS.len());
    assert!(events >= 11, "{events} events");
    client.execute_with("quit", json!({}));
    assert_eq!(guest.wait().status.code(), Some(0));
}
