//! A command's arguments, taken by name and type; what is wrong is said as QEMU says it.

use serde_json::{Map, Value};

use super::failure::Failure;

/// Arguments of a command, or an object among them. Each is taken once; [`Arguments::finish`] refuses what is left.
#[derive(Debug)]
pub(crate) struct Arguments {
    left: Map<String, Value>,
    /// In front of names in messages: "file." in the object `file`.
    prefix: String,
}

impl Arguments {
    pub fn new(left: Map<String, Value>) -> Self {
        let prefix = String::new();
        Self { left, prefix }
    }

    /// The name as messages have it.
    pub fn full(&self, name: &str) -> String {
        format!("{}{name}", self.prefix)
    }

    fn take<T>(
        &mut self,
        name: &str,
        expected: &str,
        read: impl FnOnce(Value) -> Option<T>,
    ) -> Result<Option<T>, Failure> {
        let Some(value) = self.left.remove(name) else {
            return Ok(None);
        };
        match read(value) {
            Some(value) => Ok(Some(value)),
            None => Err(Failure::wrong_type(&self.full(name), expected)),
        }
    }

    /// Fails if a value that must be there is not.
    pub fn need<T>(&self, name: &str, value: Option<T>) -> Result<T, Failure> {
        value.ok_or_else(|| Failure::missing(&self.full(name)))
    }

    pub fn string_if_given(&mut self, name: &str) -> Result<Option<String>, Failure> {
        self.take(name, "string", |value| match value {
            Value::String(text) => Some(text),
            _ => None,
        })
    }

    pub fn string(&mut self, name: &str) -> Result<String, Failure> {
        let value = self.string_if_given(name)?;
        self.need(name, value)
    }

    /// A value of any type.
    pub fn any(&mut self, name: &str) -> Result<Value, Failure> {
        let value = self.left.remove(name);
        self.need(name, value)
    }

    pub fn boolean_if_given(&mut self, name: &str) -> Result<Option<bool>, Failure> {
        self.take(name, "boolean", |value| value.as_bool())
    }

    pub fn boolean(&mut self, name: &str) -> Result<bool, Failure> {
        let value = self.boolean_if_given(name)?;
        self.need(name, value)
    }

    pub fn integer_if_given(&mut self, name: &str) -> Result<Option<i64>, Failure> {
        self.take(name, "integer", |value| value.as_i64())
    }

    pub fn integer(&mut self, name: &str) -> Result<i64, Failure> {
        let value = self.integer_if_given(name)?;
        self.need(name, value)
    }

    /// A list of texts.
    pub fn strings_if_given(&mut self, name: &str) -> Result<Option<Vec<String>>, Failure> {
        let list = self.take(name, "array", |value| match value {
            Value::Array(list) => Some(list),
            _ => None,
        })?;
        let Some(list) = list else { return Ok(None) };
        let text = |(index, value)| match value {
            Value::String(text) => Ok(text),
            _ => Err(Failure::wrong_type(
                &format!("{}[{index}]", self.full(name)),
                "string",
            )),
        };
        list.into_iter()
            .enumerate()
            .map(text)
            .collect::<Result<_, _>>()
            .map(Some)
    }

    /// An object, whose members are taken in turn.
    pub fn object_if_given(&mut self, name: &str) -> Result<Option<Self>, Failure> {
        let prefix = format!("{}{name}.", self.prefix);
        let left = self.take(name, "object", |value| match value {
            Value::Object(left) => Some(left),
            _ => None,
        })?;
        Ok(left.map(|left| Self { left, prefix }))
    }

    /// Whether `name` is given as a text.
    pub fn is_string(&self, name: &str) -> bool {
        self.left.get(name).is_some_and(Value::is_string)
    }

    /// A switch of a device or back end, which people write as `true` or as "on".
    pub fn switch_if_given(&mut self, name: &str) -> Result<Option<bool>, Failure> {
        self.take(name, "boolean", |value| match value {
            Value::Bool(on) => Some(on),
            Value::String(text) => match &*text {
                "on" | "yes" | "true" => Some(true),
                "off" | "no" | "false" => Some(false),
                _ => None,
            },
            _ => None,
        })
    }

    /// A number of a device, which people write as 4 or as "4" or "0x4".
    pub fn number_if_given(&mut self, name: &str) -> Result<Option<u64>, Failure> {
        self.take(name, "integer", |value| match value {
            Value::String(text) => match text.strip_prefix("0x") {
                Some(digits) => u64::from_str_radix(digits, 16).ok(),
                None => text.parse().ok(),
            },
            value => value.as_u64(),
        })
    }

    /// The first name that no one has taken.
    pub fn first_left(&self) -> Option<&str> {
        self.left.keys().next().map(String::as_str)
    }

    /// Refuses what was not taken.
    pub fn finish(self) -> Result<(), Failure> {
        match self.first_left() {
            Some(name) => Err(Failure::unexpected(&self.full(name))),
            None => Ok(()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn arguments(value: Value) -> Arguments {
        match value {
            Value::Object(map) => Arguments::new(map),
            other => panic!("{other} is no object"),
        }
    }

    #[test]
    fn each_wrong_argument_has_qemus_words() {
        let mut some = arguments(json!({ "n": "5", "on": 1, "list": ["a", 2], "file": { "name": 7 } }));
        let text = |failure: Failure| failure.text;
        assert_eq!(
            text(some.string("name").unwrap_err()),
            "Parameter 'name' is missing"
        );
        assert_eq!(
            text(some.integer("n").unwrap_err()),
            "Invalid parameter type for 'n', expected: integer"
        );
        assert_eq!(
            text(some.boolean("on").unwrap_err()),
            "Invalid parameter type for 'on', expected: boolean"
        );
        assert_eq!(
            text(some.strings_if_given("list").unwrap_err()),
            "Invalid parameter type for 'list[1]', expected: string"
        );
        let mut file = some.object_if_given("file").unwrap().unwrap();
        assert_eq!(
            text(file.string("name").unwrap_err()),
            "Invalid parameter type for 'file.name', expected: string"
        );
        let more = arguments(json!({ "surprise": null }));
        assert_eq!(
            text(more.finish().unwrap_err()),
            "Parameter 'surprise' is unexpected"
        );
    }

    #[test]
    fn devices_take_numbers_and_switches_as_texts() {
        let mut some =
            arguments(json!({ "a": "0x10", "b": 3, "c": "on", "d": false, "e": "maybe", "f": "-1" }));
        assert_eq!(some.number_if_given("a").unwrap(), Some(16));
        assert_eq!(some.number_if_given("b").unwrap(), Some(3));
        assert_eq!(some.switch_if_given("c").unwrap(), Some(true));
        assert_eq!(some.switch_if_given("d").unwrap(), Some(false));
        assert!(some.switch_if_given("e").is_err() && some.number_if_given("f").is_err());
        assert_eq!(some.number_if_given("g").unwrap(), None);
        some.finish().unwrap();
    }
}
