use std::collections::BTreeSet;

use super::check::Schema;
use super::*;
use crate::control::commands;
use crate::control::events;
use crate::driver::Event as Told;
use crate::spec::WatchdogAction;

#[test]
fn every_command_is_described_and_nothing_else() {
    let there: Vec<&str> = commands::COMMANDS.iter().map(|command| command.name).collect();
    let described: Vec<&str> = COMMANDS.iter().map(|command| command.name).collect();
    assert_eq!(described, there);
    for list in [
        described,
        EVENTS.iter().map(|event| event.name).collect(),
        TYPES.iter().map(|(name, _)| *name).collect(),
    ] {
        assert!(list.is_sorted(), "{list:?}");
    }
}

/// The names of types that an entry has in it.
fn used(entry: &Value) -> Vec<&str> {
    let own = ["arg-type", "ret-type", "element-type"]
        .into_iter()
        .map(|name| &entry[name]);
    let lists = [&entry["members"], &entry["variants"]];
    let members = lists.into_iter().filter_map(Value::as_array).flatten();
    own.chain(members.map(|member| &member["type"]))
        .filter_map(Value::as_str)
        .collect()
}

#[test]
fn each_type_is_there_once_and_needed() {
    let all = schema();
    let entries = all.as_array().unwrap();
    let name = |entry: &Value| entry["name"].as_str().unwrap().to_owned();
    let names: BTreeSet<String> = entries.iter().map(name).collect();
    assert_eq!(names.len(), entries.len(), "a name is there twice");
    let needed: BTreeSet<&str> = entries.iter().flat_map(used).collect();
    for name in &needed {
        assert!(names.contains(*name), "there is no type {name}");
    }
    for entry in entries {
        let is_type = entry["meta-type"] != "command" && entry["meta-type"] != "event";
        assert!(!is_type || needed.contains(&*name(entry)), "nobody needs {entry}");
    }
}

#[test]
fn the_schema_is_as_it_says_itself() {
    let all = schema();
    Schema::of(&all).check(&all, "[SchemaInfo]", "schema").unwrap();
    // One message, with room for what else waits for a client.
    assert!(all.to_string().len() < 64 << 10);
}

#[test]
fn what_the_driver_tells_is_as_the_schema_says() {
    let schema = Schema::of(&schema());
    let told = [
        Told::Stop,
        Told::Resume,
        Told::PowerDown,
        Told::Reset { by_guest: true },
        Told::Reset { by_guest: false },
        Told::Panicked,
        Told::Shutdown {
            by_guest: true,
            reason: "guest-shutdown",
        },
    ];
    let watchdog = WatchdogAction::ALL.map(Told::Watchdog);
    for event in told.into_iter().chain(watchdog) {
        let value = events::of_driver(event);
        let entry = schema.called(value["event"].as_str().unwrap(), "event").unwrap();
        let data = value.get("data").cloned().unwrap_or(json!({}));
        schema
            .check(&data, entry["arg-type"].as_str().unwrap(), "event")
            .unwrap();
    }
}
