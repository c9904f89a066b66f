//! The forwarding table, which only `ovs-vswitchd` knows: its control socket takes the commands of `ovs-appctl`.

use std::fs::File;
use std::io::Read;
use std::path::{Path, PathBuf};

use serde_json::json;

use super::database::misunderstood;
use super::rpc::Rpc;
use super::view::Tables;
use crate::{Error, Mac, Source, Station};

/// The control socket has the daemon's process number in its name.
fn socket(run: &Path) -> Result<PathBuf, Error> {
    let path = run.join("ovs-vswitchd.pid");
    let mut text = String::new();
    File::open(&path)
        .and_then(|file| file.take(32).read_to_string(&mut text))
        .map_err(Error::io(format!("reading {}", path.display())))?;
    let process: u32 = text
        .trim()
        .parse()
        .map_err(|_| misunderstood("no process number in ovs-vswitchd.pid"))?;
    Ok(run.join(format!("ovs-vswitchd.{process}.ctl")))
}

/// A command of `ovs-appctl`, and what it prints.
pub(super) fn call(run: &Path, command: &str, arguments: &[&str]) -> Result<String, Error> {
    let mut rpc = Rpc::connect(&socket(run)?)?;
    let result = rpc
        .call(command, json!(arguments))?
        .map_err(|why| Error::Database {
            what: format!("`{command} {}`", arguments.join(" ")),
            why: why.trim().into(),
        })?;
    let text = result
        .as_str()
        .ok_or_else(|| misunderstood("a command without text"))?;
    Ok(text.into())
}

pub(super) fn stations(run: &Path, tables: &Tables, bridge: &str) -> Result<Vec<Station>, Error> {
    let text = call(run, "fdb/show", &[bridge])?;
    let mut stations: Vec<Station> = text
        .lines()
        .filter_map(|line| {
            station(
                line,
                |number| tables.port_of_number(bridge, number).map(str::to_owned),
                bridge,
            )
        })
        .collect();
    stations.sort_by_key(|station| (station.vlan, station.mac));
    Ok(stations)
}

/// Takes an entry out. Only static ones are deleted by name, so a learned one is made static first.
pub(super) fn forget(run: &Path, bridge: &str, station: &Station) -> Result<(), Error> {
    let (vlan, mac) = (station.vlan.unwrap_or(0).to_string(), station.mac.to_string());
    if station.source == Source::Learned {
        call(run, "fdb/add", &[bridge, &station.port, &vlan, &mac])?;
    }
    call(run, "fdb/del", &[bridge, &vlan, &mac]).map(drop)
}

/// A line: port, VLAN, address, age in seconds or `static`. Others, such as the head, are none.
pub(crate) fn station(line: &str, name: impl Fn(i64) -> Option<String>, bridge: &str) -> Option<Station> {
    let mut words = line.split_whitespace();
    let (port, vlan, mac, age) = (words.next()?, words.next()?, words.next()?, words.next()?);
    let mac: Mac = mac.parse().ok()?;
    let vlan: u16 = vlan.parse().ok()?;
    let is_local = port == "LOCAL";
    let age: Option<f64> = age.parse().ok();
    Some(Station {
        mac,
        vlan: Some(vlan).filter(|v| *v != 0),
        port: if is_local {
            bridge.into()
        } else {
            name(port.parse().ok()?)?
        },
        source: match age {
            _ if is_local => Source::Own,
            Some(_) => Source::Learned,
            None => Source::Static,
        },
        age: age.filter(|_| !is_local),
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn the_table_is_read() {
        let name = |number| (number == 7).then(|| "v0".to_owned());
        let read = |line| station(line, name, "br0");
        assert_eq!(read(" port  VLAN  MAC                Age"), None);
        let learned = read("    7    10  52:54:00:00:00:01    3").unwrap();
        assert_eq!(
            (learned.port.as_str(), learned.vlan, learned.age),
            ("v0", Some(10), Some(3.0))
        );
        let fixed = read("    7     0  52:54:00:00:00:01  static").unwrap();
        assert_eq!(
            (fixed.source, fixed.vlan, fixed.age),
            (Source::Static, None, None)
        );
        assert_eq!(
            read("LOCAL     0  52:54:00:00:00:01    3").unwrap().source,
            Source::Own
        );
        assert_eq!(read("    8     0  52:54:00:00:00:01    3"), None);
    }

    proptest! {
        #[test]
        fn any_line_is_read_or_passed_over(line in "\\PC{0,60}") {
            let _ = station(&line, |_| Some(String::new()), "br0");
        }
    }
}
