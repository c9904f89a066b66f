//! Whether values are as a schema says: for the tests here, and for those in `ostler` that have QEMU's schema.

use std::collections::HashMap;

use serde_json::Value;

/// What `query-qmp-schema` tells, by name.
pub struct Schema(HashMap<String, Value>);

impl Schema {
    /// From the answer.
    pub fn of(list: &Value) -> Self {
        let named = |entry: &Value| (entry["name"].as_str().unwrap().to_owned(), entry.clone());
        Self(list.as_array().unwrap().iter().map(named).collect())
    }

    /// The entry of a command or an event.
    pub fn called(&self, name: &str, kind: &str) -> Option<&Value> {
        self.0.get(name).filter(|entry| entry["meta-type"] == kind)
    }

    /// The entry of a type.
    pub fn kind(&self, name: &str) -> &Value {
        self.0.get(name).unwrap_or_else(|| panic!("there is no {name}"))
    }

    /// Says what about `value` is not of the type named `kind`.
    pub fn check(&self, value: &Value, kind: &str, at: &str) -> Result<(), String> {
        let entry = self.kind(kind);
        let wrong = |what: &str| Err(format!("{at}: {what}: {value}"));
        match entry["meta-type"].as_str().unwrap() {
            "builtin" => {
                let good = match entry["json-type"].as_str().unwrap() {
                    "string" => value.is_string(),
                    "int" => value.is_i64() || value.is_u64(),
                    "number" => value.is_number(),
                    "boolean" => value.is_boolean(),
                    "null" => value.is_null(),
                    _ => true,
                };
                if good {
                    Ok(())
                } else {
                    wrong(&format!("no {kind}"))
                }
            }
            "enum" => {
                let known = entry["values"].as_array().unwrap();
                if known.contains(value) {
                    Ok(())
                } else {
                    wrong("not one of the values")
                }
            }
            "array" => {
                let Some(list) = value.as_array() else {
                    return wrong("no list");
                };
                let element = entry["element-type"].as_str().unwrap();
                let mut items = list.iter().enumerate();
                items.try_for_each(|(index, item)| self.check(item, element, &format!("{at}[{index}]")))
            }
            "alternate" => {
                let members = entry["members"].as_array().unwrap();
                let kinds = members.iter().map(|member| member["type"].as_str().unwrap());
                let good = kinds.into_iter().any(|kind| self.check(value, kind, at).is_ok());
                if good { Ok(()) } else { wrong("of no alternative") }
            }
            "object" => self.check_object(value, entry, at),
            other => wrong(&format!("a {other} is no type of a value")),
        }
    }

    /// The members of an object, with those that it has if its tag is `case`.
    pub fn members(&self, entry: &Value, case: &Value) -> Vec<Value> {
        let mut members = entry["members"].as_array().unwrap().clone();
        let mut variants = entry["variants"].as_array().into_iter().flatten();
        if let Some(variant) = variants.find(|variant| variant["case"] == *case) {
            let more = self.kind(variant["type"].as_str().unwrap());
            members.extend(more["members"].as_array().unwrap().iter().cloned());
        }
        members
    }

    fn check_object(&self, value: &Value, entry: &Value, at: &str) -> Result<(), String> {
        let Some(map) = value.as_object() else {
            return Err(format!("{at}: no object: {value}"));
        };
        let case = entry["tag"].as_str().and_then(|tag| map.get(tag));
        let members = self.members(entry, case.unwrap_or(&Value::Null));
        for member in &members {
            let name = member["name"].as_str().unwrap();
            match map.get(name) {
                Some(value) => {
                    self.check(value, member["type"].as_str().unwrap(), &format!("{at}.{name}"))?
                }
                None if member.get("default").is_some() => {}
                None => return Err(format!("{at}: {name} is missing")),
            }
        }
        let known =
            |name: &str| name.starts_with("x-ostler-") || members.iter().any(|member| member["name"] == name);
        match map.keys().find(|name| !known(name)) {
            Some(name) => Err(format!("{at}: {name} is unknown")),
            None => Ok(()),
        }
    }
}
