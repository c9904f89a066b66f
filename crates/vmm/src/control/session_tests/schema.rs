//! What the schema says that commands take.

use super::*;
use crate::control::schema::check::Schema;

/// A value of the type `kind`; `None` if there is none.
fn value(schema: &Schema, kind: &str) -> Option<Value> {
    let entry = schema.kind(kind);
    Some(match entry["meta-type"].as_str().unwrap() {
        "builtin" => match kind {
            "str" => json!("x"),
            "bool" => json!(false),
            "null" => Value::Null,
            _ => json!(0),
        },
        "enum" => entry["values"].get(0)?.clone(),
        "array" => {
            let element = value(schema, entry["element-type"].as_str().unwrap());
            element.into_iter().collect()
        }
        "alternate" => value(schema, entry["members"][0]["type"].as_str().unwrap())?,
        _ => required(schema, entry, entry["variants"][0].get("case"))?,
    })
}

/// An object of which there is only what has to be.
fn required(schema: &Schema, entry: &Value, case: Option<&Value>) -> Option<Value> {
    let mut object = json!({});
    for member in schema.members(entry, case.unwrap_or(&Value::Null)) {
        if member.get("default").is_none() {
            let name = member["name"].as_str().unwrap();
            object[name] = value(schema, member["type"].as_str().unwrap())?;
        }
    }
    if let (Some(tag), Some(case)) = (entry["tag"].as_str(), case) {
        object[tag] = case.clone();
    }
    Some(object)
}

/// What comes of a command, as text.
fn outcome(talk: &mut Talk, command: &str, arguments: &Value) -> String {
    let text = json!({ "execute": command, "arguments": arguments }).to_string();
    match talk.ask(&text) {
        Step::Answer(answer) => answer["error"]["desc"].as_str().unwrap_or("").to_owned(),
        Step::Ask(..) => String::new(),
    }
}

#[test]
fn every_argument_of_the_schema_is_taken_in_its_type_and_with_all_its_values() {
    let mut talk = Talk::negotiated();
    let schema = Schema::of(&talk.good("query-qmp-schema", json!({})));
    let mut tried = 0;
    for command in COMMANDS {
        let entry = schema.called(command.name, "command").unwrap();
        let takes = schema.kind(entry["arg-type"].as_str().unwrap());
        let variants = takes["variants"].as_array();
        let cases: Vec<Option<&Value>> = match variants {
            Some(list) => list.iter().map(|variant| Some(&variant["case"])).collect(),
            None => vec![None],
        };
        for case in cases {
            let Some(arguments) = required(&schema, takes, case) else {
                continue;
            };
            for member in schema.members(takes, case.unwrap_or(&Value::Null)) {
                let (name, kind) = (member["name"].as_str().unwrap(), member["type"].as_str().unwrap());
                let is_tag = takes["tag"] == name;
                let one = value(&schema, kind).map(|value| vec![value]);
                let values = match schema.kind(kind)["values"].as_array() {
                    // Its values are the cases.
                    Some(_) if is_tag => continue,
                    Some(values) => values.clone(),
                    None => one.unwrap_or_default(),
                };
                for value in values {
                    let mut arguments = arguments.clone();
                    arguments[name] = value.clone();
                    let said = outcome(&mut talk, command.name, &arguments);
                    let mut wrong = vec!["is unexpected", "Invalid parameter type", "is missing"];
                    let refused = format!("Parameter '{name}' does not accept value");
                    if schema.kind(kind)["meta-type"] == "enum" {
                        wrong.push(&refused);
                    }
                    assert!(
                        !wrong.iter().any(|words| said.contains(words)),
                        "{} {arguments}: {said}",
                        command.name
                    );
                    tried += 1;
                }
            }
        }
    }
    assert!(tried > 80, "{tried} arguments");
}
