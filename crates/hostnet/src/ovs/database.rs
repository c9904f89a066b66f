//! The database `Open_vSwitch` (RFC 7047; `ovs-vswitchd.conf.db(5)`).

use std::collections::BTreeMap;
use std::path::Path;
use std::time::{Duration, Instant};

use serde_json::{Map, Value, json};

use super::rpc::Rpc;
use crate::{Error, Kind};

/// How long `ovs-vswitchd` may take to do what the database says.
const PATIENCE: Duration = Duration::from_secs(10);

pub(super) struct Database {
    rpc: Rpc,
}

/// One row, column by column.
pub(super) struct Row(Map<String, Value>);

impl Database {
    pub(super) fn connect(path: &Path) -> Result<Self, Error> {
        Ok(Self {
            rpc: Rpc::connect(path)?,
        })
    }

    /// Does all of `operations` or none.
    pub(super) fn transact(&mut self, what: &str, operations: Vec<Value>) -> Result<Vec<Value>, Error> {
        let wanted = operations.len();
        let mut params = vec![json!("Open_vSwitch")];
        params.extend(operations);
        let refused = |why: String| Error::Database {
            what: what.into(),
            why,
        };
        let result = self
            .rpc
            .call("transact", Value::Array(params))?
            .map_err(refused)?;
        let Value::Array(results) = result else {
            return Err(misunderstood("a transaction without results"));
        };
        // An operation that failed has an error; those after it have null; a commit that failed is one result more.
        if let Some(error) = results.iter().find(|r| r.get("error").is_some()) {
            let why = [&error["error"], &error["details"]];
            let why: Vec<&str> = why.iter().filter_map(|v| v.as_str()).collect();
            return Err(refused(why.join(": ")));
        }
        if results.len() != wanted {
            return Err(misunderstood(
                "a transaction with other results than it had operations",
            ));
        }
        Ok(results)
    }

    /// Whole tables.
    pub(super) fn select<const N: usize>(&mut self, tables: [&str; N]) -> Result<[Vec<Row>; N], Error> {
        let operations = tables.map(|table| json!({"op": "select", "table": table, "where": []}));
        let results = self.transact("reading its tables", operations.into())?;
        let mut rows = results.into_iter().map(rows);
        Ok(std::array::from_fn(|_| rows.next().unwrap_or_default()))
    }

    /// Does all of `operations` and waits until `ovs-vswitchd` has done it, too.
    pub(super) fn change(&mut self, what: &str, operations: Vec<Value>) -> Result<(), Error> {
        let number = self.begin(what, operations)?;
        self.wait(what, number)
    }

    /// Does all of `operations`, and gives the number of the configuration for [`Self::wait`].
    pub(super) fn begin(&mut self, what: &str, mut operations: Vec<Value>) -> Result<i64, Error> {
        operations.push(json!({
            "op": "mutate", "table": "Open_vSwitch", "where": [], "mutations": [["next_cfg", "+=", 1]],
        }));
        operations.push(json!({
            "op": "select", "table": "Open_vSwitch", "where": [], "columns": ["next_cfg"],
        }));
        let mut results = self.transact(what, operations)?;
        let rows = rows(results.pop().unwrap_or_default());
        let number = rows.first().and_then(|row| row.number("next_cfg"));
        number.ok_or_else(|| misunderstood("no row of Open_vSwitch"))
    }

    /// Waits until `ovs-vswitchd` has done what the database says.
    pub(super) fn wait(&mut self, what: &str, wanted: i64) -> Result<(), Error> {
        let deadline = Instant::now() + PATIENCE;
        loop {
            let [all] = self.select(["Open_vSwitch"])?;
            let now = all.first().and_then(|row| row.number("cur_cfg"));
            if now.is_some_and(|done| done >= wanted) {
                return Ok(());
            }
            if Instant::now() >= deadline {
                return Err(Error::Database {
                    what: what.into(),
                    why: "its daemon ovs-vswitchd does not do it; is it running?".into(),
                });
            }
            std::thread::sleep(Duration::from_millis(10));
        }
    }
}

pub(super) fn misunderstood(why: &str) -> Error {
    Error::Answer {
        who: Kind::OpenVSwitch,
        why: why.into(),
    }
}

fn rows(mut result: Value) -> Vec<Row> {
    let Some(Value::Array(rows)) = result.get_mut("rows").map(Value::take) else {
        return Vec::new();
    };
    let row = |value| match value {
        Value::Object(map) => Some(Row(map)),
        _ => None,
    };
    rows.into_iter().filter_map(row).collect()
}

impl Row {
    /// The column as it is on the wire; null where there is none.
    pub(super) fn raw(&self, column: &str) -> Value {
        self.0.get(column).cloned().unwrap_or_default()
    }

    /// The values of a column: those of a set, or the one (RFC 7047, 5.1).
    pub(super) fn values(&self, column: &str) -> Vec<&Value> {
        match self.0.get(column) {
            None => Vec::new(),
            Some(value) => match value.as_array().map(Vec::as_slice) {
                Some([Value::String(kind), Value::Array(values)]) if kind == "set" => values.iter().collect(),
                _ => vec![value],
            },
        }
    }

    pub(super) fn text(&self, column: &str) -> Option<&str> {
        self.values(column).first()?.as_str()
    }

    pub(super) fn number(&self, column: &str) -> Option<i64> {
        self.values(column).first()?.as_i64()
    }

    pub(super) fn flag(&self, column: &str) -> bool {
        self.values(column)
            .first()
            .and_then(|v| v.as_bool())
            .unwrap_or(false)
    }

    pub(super) fn numbers<T: TryFrom<i64>>(&self, column: &str) -> Vec<T> {
        let values = self.values(column).into_iter();
        values.filter_map(|v| T::try_from(v.as_i64()?).ok()).collect()
    }

    /// References to rows of other tables.
    pub(super) fn references(&self, column: &str) -> Vec<&str> {
        let values = self.values(column).into_iter();
        values.filter_map(reference).collect()
    }

    /// The row's own number.
    pub(super) fn id(&self) -> &str {
        self.0.get("_uuid").and_then(reference).unwrap_or_default()
    }

    /// A map of numbers; what is none, or below zero, is left out.
    pub(super) fn counts(&self, column: &str) -> BTreeMap<&str, u64> {
        let pairs = match self.0.get(column).and_then(Value::as_array).map(Vec::as_slice) {
            Some([Value::String(kind), Value::Array(pairs)]) if kind == "map" => pairs.as_slice(),
            _ => &[],
        };
        fn pair(pair: &Value) -> Option<(&str, u64)> {
            match pair.as_array().map(Vec::as_slice) {
                Some([Value::String(key), value]) => Some((key, value.as_u64()?)),
                _ => None,
            }
        }
        pairs.iter().filter_map(pair).collect()
    }

    pub(super) fn map(&self, column: &str) -> BTreeMap<&str, &str> {
        let pairs = match self.0.get(column).and_then(Value::as_array).map(Vec::as_slice) {
            Some([Value::String(kind), Value::Array(pairs)]) if kind == "map" => pairs.as_slice(),
            _ => &[],
        };
        fn pair(pair: &Value) -> Option<(&str, &str)> {
            match pair.as_array().map(Vec::as_slice) {
                Some([Value::String(key), Value::String(value)]) => Some((key, value)),
                _ => None,
            }
        }
        pairs.iter().filter_map(pair).collect()
    }
}

fn reference(value: &Value) -> Option<&str> {
    match value.as_array()?.as_slice() {
        [Value::String(kind), Value::String(id)] if kind == "uuid" => Some(id),
        _ => None,
    }
}

/// A condition that a row is that one.
pub(super) fn is(id: &str) -> Value {
    json!([["_uuid", "==", ["uuid", id]]])
}

/// A set on the wire.
pub(super) fn set(values: impl IntoIterator<Item = Value>) -> Value {
    json!(["set", values.into_iter().collect::<Vec<_>>()])
}
