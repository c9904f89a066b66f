//! What clients of the control socket ask for: one function a command.

use std::io::IoSlice;
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, OwnedFd};

use ostler_netio::FrameRings;
use ostler_switch::{Mac, PortIndex, VlanId};
use rustix::net::{SendAncillaryBuffer, SendAncillaryMessage, SendFlags};
use serde::Deserialize;
use serde::de::DeserializeOwned;
use serde_json::{Value, json};

use super::settings::SetPort;
use super::{CAPTURE, Egress, Engine, Port, with_core};
use crate::Error;
use crate::capture::Wish;
use crate::config::{PortSpec, Source};
use crate::control::{Command, views};
use crate::router::{PlanSpec, show_lease};

/// Commands of a client that are served before frames have their turn.
const TURN: usize = 4;
/// Most stations in one answer.
const MAX_STATIONS: usize = 16_384;
/// Bytes that a capture keeps of a frame: all of the longest one.
const WHOLE: u32 = 1 << 17;
/// Ports of guests with the same name are told apart by numbers up to this.
const MAX_NAMESAKES: usize = 1000;

/// What becomes of a client that a command was served for.
enum Served {
    Answer(Value),
    /// It is a guest's from now on.
    Attached {
        port: PortIndex,
        rings: FrameRings,
        memory: OwnedFd,
        name: String,
    },
    /// It reads a capture from now on.
    Captures(Wish),
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Capture {
    port: Option<String>,
    vlan: Option<u16>,
    snaplen: Option<u32>,
    count: Option<u64>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct OfPort {
    port: String,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Which {
    port: Option<String>,
    vlan: Option<u16>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Entry {
    mac: String,
    vlan: u16,
    port: Option<String>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
struct SetVlans {
    port: String,
    vlan: Option<u16>,
    trunk: Option<String>,
    native: Option<u16>,
}

fn arguments<T: DeserializeOwned>(value: Value) -> Result<T, Failure> {
    let value = if value.is_null() { json!({}) } else { value };
    serde_json::from_value(value).map_err(|error| Failure(error.to_string()))
}

/// Why a command is refused.
struct Failure(String);

impl From<Error> for Failure {
    fn from(error: Error) -> Self {
        Self(error.to_string())
    }
}

impl From<ostler_switch::Error> for Failure {
    fn from(error: ostler_switch::Error) -> Self {
        Self(error.to_string())
    }
}

impl Engine {
    /// Serves clients of whom more commands are here already.
    pub(super) fn serve_more(&mut self) {
        for number in self.clients.with_commands() {
            self.serve(number);
        }
    }

    /// Serves a client of whom something came, or who has room for answers.
    pub(super) fn serve(&mut self, number: usize) {
        let Some(client) = self.clients.get_mut(number) else {
            return;
        };
        if client.flush().is_err() || client.receive().is_err() {
            self.clients.remove(number, &self.events);
            return;
        }
        for _ in 0..TURN {
            let Some(client) = self.clients.get_mut(number) else {
                return;
            };
            let Some(line) = client.next_line() else { break };
            self.serve_line(number, &line);
        }
        if let Some(client) = self.clients.get_mut(number)
            && client.watch(&self.events).is_err()
        {
            self.clients.remove(number, &self.events);
        }
    }

    fn serve_line(&mut self, number: usize, line: &[u8]) {
        let (served, id) = match serde_json::from_slice::<Command>(line) {
            Ok(command) => (self.execute(&command.execute, command.arguments), command.id),
            Err(error) => (Err(Failure(format!("no command: {error}"))), Value::Null),
        };
        let mut answer = match &served {
            Ok(Served::Answer(value)) => json!({ "return": value }),
            Ok(Served::Captures(_)) => json!({ "return": {} }),
            Ok(Served::Attached { name, .. }) => json!({ "return": { "port": name } }),
            Err(Failure(reason)) => json!({ "error": { "desc": reason } }),
        };
        if !id.is_null() {
            answer["id"] = id;
        }
        match served {
            Ok(Served::Attached {
                port, rings, memory, ..
            }) => {
                self.hand_over(number, &format!("{answer}\n"), port, (rings, memory));
            }
            Ok(Served::Captures(wish)) => self.start_capture(number, &format!("{answer}\n"), wish),
            _ => {
                let client = self.clients.get_mut(number);
                if client.is_some_and(|client| client.answer(&answer.to_string()).is_err()) {
                    self.clients.remove(number, &self.events);
                }
            }
        }
    }

    /// Answers with the memory of the rings; the client's connection is the guest's from now on.
    fn hand_over(&mut self, number: usize, answer: &str, port: PortIndex, rings: (FrameRings, OwnedFd)) {
        let (rings, memory) = rings;
        let Some(client) = self.clients.remove(number, &self.events) else {
            return;
        };
        let descriptors = [memory.as_fd()];
        let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
        let mut ancillary = SendAncillaryBuffer::new(&mut space);
        ancillary.push(SendAncillaryMessage::ScmRights(&descriptors));
        let sent = rustix::net::sendmsg(
            &client.stream,
            &[IoSlice::new(answer.as_bytes())],
            &mut ancillary,
            SendFlags::NOSIGNAL | SendFlags::DONTWAIT,
        );
        if sent == Ok(answer.len()) {
            self.connect_guest(port, client.stream, rings);
        } else if self.slot_mut(port).is_some_and(|slot| slot.temporary) {
            let _ = self.remove_port(port);
        }
    }

    /// Answers; the client's connection is the capture's from now on.
    fn start_capture(&mut self, number: usize, answer: &str, wish: Wish) {
        let Some(client) = self.clients.remove(number, &self.events) else {
            return;
        };
        let flags = SendFlags::NOSIGNAL | SendFlags::DONTWAIT;
        if rustix::net::send(&client.stream, answer.as_bytes(), flags) == Ok(answer.len()) {
            self.next_capture = (self.next_capture + 1) & 0xffff_ffff;
            let token = CAPTURE | self.next_capture as u64;
            self.captures
                .add(self.next_capture, token, client.stream, wish, &self.events);
        }
    }

    fn execute(&mut self, command: &str, value: Value) -> Result<Served, Failure> {
        let answer = match command {
            "show" => self.show(),
            "ports" => self.show_ports(&arguments::<Which>(value)?)?,
            "port-add" => {
                let port = self.add_port(arguments(value)?, false)?;
                json!({ "number": port.get() })
            }
            "port-remove" => {
                let port = self.port_named(&arguments::<OfPort>(value)?.port)?;
                self.remove_port(port)?;
                json!({})
            }
            "port-clear-guard" => {
                let port = self.port_named(&arguments::<OfPort>(value)?.port)?;
                with_core!(self, |core, now, out| core.clear_guard(port, now, out))?;
                self.flush();
                json!({})
            }
            "port-set" => {
                let wish: SetPort = arguments(value)?;
                let port = self.port_named(&wish.port)?;
                self.change_port(port, wish)?;
                json!({})
            }
            "stp-set" => {
                if !self.change_tree(&arguments(value)?)? {
                    return Err(Failure(
                        "the switch has no spanning tree; start it with [stp] in its configuration".into(),
                    ));
                }
                json!({})
            }
            "mirrors" => self.show_mirrors(),
            "mirror-set" => {
                self.set_mirror(&arguments(value)?)?;
                json!({})
            }
            "mirror-clear" => {
                let port = self.port_named(&arguments::<OfPort>(value)?.port)?;
                self.clear_mirror(port)?;
                json!({})
            }
            "vlan-set" => self.set_vlans(arguments(value)?)?,
            "groups" => self.show_groups(&arguments(value)?)?,
            "fdb" => self.show_fdb(&arguments::<Which>(value)?)?,
            "fdb-add" => self.add_entry(&arguments(value)?)?,
            "fdb-remove" => self.remove_entry(&arguments(value)?)?,
            "fdb-flush" => self.flush_fdb(&arguments(value)?)?,
            "capture" => return self.capture(&arguments(value)?).map(Served::Captures),
            "leases" => self.show_leases(&arguments::<Which>(value)?)?,
            "router-set" => self.set_router(arguments(value)?)?,
            "quit" => {
                self.quits = true;
                json!({})
            }
            "attach" => return self.attach(arguments(value)?),
            _ => return Err(Failure(format!("there is no command \"{command}\""))),
        };
        Ok(Served::Answer(answer))
    }

    fn port_named(&self, name: &str) -> Result<PortIndex, Failure> {
        self.find_port(name).ok_or_else(|| {
            Failure(format!(
                "there is no port \"{name}\"; list the ports to see their names"
            ))
        })
    }

    pub(super) fn name_of(&self, port: PortIndex) -> String {
        let slot = self.ports.get(port.get()).and_then(Option::as_ref);
        slot.map_or_else(|| port.to_string(), |slot| slot.spec.name.clone())
    }

    fn show(&self) -> Value {
        json!({
            "name": self.name,
            "mac": self.mac.to_string(),
            "ageing": self.ageing,
            "pid": std::process::id(),
            "uptime": self.started.elapsed().as_secs(),
            "ports": self.ports.iter().flatten().count(),
            "stations": self.core.stations().count(),
            "fdb-entries": self.fdb_entries,
            "fdb-evictions": self.core.fdb().evictions(),
            "stp": views::bridge(&self.core, |port| self.name_of(port)),
            "routers": self.ports.iter().flatten().filter_map(show_router).collect::<Vec<_>>(),
        })
    }

    fn show_leases(&self, which: &Which) -> Result<Value, Failure> {
        if let Some(name) = &which.port {
            self.port_named(name)?;
        }
        let wanted = |port: &&Port| which.port.as_ref().is_none_or(|name| *name == port.spec.name);
        let ports = self.ports.iter().flatten().filter(wanted);
        let leases = ports.flat_map(|port| {
            let leases = port.directory.iter().flat_map(|directory| directory.leases());
            leases.map(move |lease| show_lease(&lease, &port.spec.name))
        });
        Ok(leases.collect())
    }

    /// Gives a router another plan, which it follows from now on.
    fn set_router(&mut self, wish: PlanSpec) -> Result<Value, Failure> {
        let port = self.port_named(&wish.port)?;
        let slot = self.slot_mut(port).ok_or(ostler_switch::Error::NoPort(port))?;
        let Source::Router(router) = &mut slot.source else {
            return Err(Failure(format!("port \"{}\" is no router", wish.port)));
        };
        let mut changed = router.clone();
        changed.set_plan(wish);
        let config = changed.config().map_err(Failure)?;
        if let Some(directory) = &slot.directory {
            directory.set_plan(config.plan).map_err(Failure)?;
        }
        router.clone_from(&changed);
        slot.spec.router = Some(changed);
        Ok(json!({}))
    }

    fn show_ports(&self, which: &Which) -> Result<Value, Failure> {
        let only = which
            .port
            .as_deref()
            .map(|name| self.port_named(name))
            .transpose()?;
        let shown = self
            .core
            .ports()
            .filter(|port| only.is_none_or(|only| only == *port));
        Ok(shown.filter_map(|port| self.show_port(port)).collect())
    }

    fn show_port(&self, port: PortIndex) -> Option<Value> {
        let slot = self.ports.get(port.get())?.as_ref()?;
        let config = self.core.port(port)?;
        let (kind, place) = slot.source.describe();
        let why_down = match &slot.link {
            Some(link) => link.why_down(),
            None => Some(slot.why_down.clone()),
        };
        let pairs = slot.link.as_ref().map_or(Vec::new(), |link| link.queue_pairs());
        let pairs = pairs
            .iter()
            .map(|[received, sent]| json!({ "received": received, "sent": sent }));
        Some(json!({
            "name": slot.spec.name,
            "number": port.get(),
            "kind": kind,
            "place": place,
            "up": slot.up,
            "forwarding": self.core.is_forwarding(port),
            "why-down": why_down,
            "temporary": slot.temporary,
            "lost": slot.link.as_ref().map(|link| views::lost(link.lost())),
            "queue-pairs": pairs.collect::<Value>(),
            "mtu": config.mtu,
            "flags": views::flags(config),
            "vlans": views::vlans(config),
            "stp": views::tree_port(&self.core, port),
            "counters": views::counters(self.core.counters(port)?),
        }))
    }

    fn set_vlans(&mut self, wish: SetVlans) -> Result<Value, Failure> {
        let port = self.port_named(&wish.port)?;
        let slot = self.slot_mut(port).ok_or(ostler_switch::Error::NoPort(port))?;
        let spec = PortSpec {
            vlan: wish.vlan,
            trunk: wish.trunk,
            native: wish.native,
            ..slot.spec.clone()
        };
        self.set_spec(port, spec)?;
        Ok(json!({}))
    }

    fn show_groups(&self, which: &Which) -> Result<Value, Failure> {
        let only = which
            .port
            .as_deref()
            .map(|name| self.port_named(name))
            .transpose()?;
        let wanted = |vlan: VlanId| which.vlan.is_none_or(|wanted| wanted == vlan.get());
        let members = self
            .core
            .group_members()
            .filter(|member| only.is_none_or(|port| port == member.port) && wanted(member.vlan));
        let members: Vec<Value> = members
            .take(MAX_STATIONS)
            .map(|member| views::member(&member, &self.name_of(member.port)))
            .collect();
        let queriers: Vec<Value> = self
            .core
            .queriers()
            .filter(|(vlan, ..)| wanted(*vlan))
            .map(|(vlan, family, address, own)| {
                let routers = self.core.router_ports(vlan, family);
                let routers: Vec<String> = routers.iter().map(|port| self.name_of(port)).collect();
                json!({ "vlan": vlan.get(), "address": address, "own": own, "router-ports": routers })
            })
            .collect();
        Ok(json!({ "members": members, "queriers": queriers, "refused": self.core.groups_refused() }))
    }

    fn show_fdb(&self, which: &Which) -> Result<Value, Failure> {
        let only = which
            .port
            .as_deref()
            .map(|name| self.port_named(name))
            .transpose()?;
        let wanted = |station: &ostler_switch::Station| {
            only.is_none_or(|port| port == station.port)
                && which.vlan.is_none_or(|vlan| vlan == station.vlan.get())
        };
        let all = self.core.stations().filter(wanted).count();
        let shown = self.core.stations().filter(wanted).take(MAX_STATIONS);
        let stations: Vec<Value> = shown
            .map(|station| views::station(&station, &self.name_of(station.port)))
            .collect();
        Ok(json!({ "left-out": all - stations.len(), "stations": stations }))
    }

    fn add_entry(&mut self, entry: &Entry) -> Result<Value, Failure> {
        let name = entry.port.as_deref();
        let port = self.port_named(name.ok_or_else(|| Failure("missing field `port`".into()))?)?;
        let (vlan, mac): (_, Mac) = (VlanId::new(entry.vlan)?, entry.mac.parse()?);
        self.core.set_static(vlan, mac, port)?;
        Ok(json!({}))
    }

    fn remove_entry(&mut self, entry: &Entry) -> Result<Value, Failure> {
        let (vlan, mac): (_, Mac) = (VlanId::new(entry.vlan)?, entry.mac.parse()?);
        self.core.fdb_mut().forget(vlan, mac)?;
        Ok(json!({}))
    }

    fn flush_fdb(&mut self, which: &Which) -> Result<Value, Failure> {
        match (&which.port, which.vlan) {
            (Some(name), None) => {
                let port = self.port_named(name)?;
                self.core.fdb_mut().flush_port(port);
            }
            (None, Some(vlan)) => self.core.fdb_mut().flush_vlan(VlanId::new(vlan)?),
            (None, None) => self.core.fdb_mut().flush(),
            (Some(_), Some(_)) => return Err(Failure("give either a port or a VLAN".into())),
        }
        Ok(json!({}))
    }

    fn capture(&self, wish: &Capture) -> Result<Wish, Failure> {
        let refused = |reason: &str| Err(Failure(reason.into()));
        let port = wish
            .port
            .as_deref()
            .map(|name| self.port_named(name))
            .transpose()?;
        let vlan = wish.vlan.map(VlanId::new).transpose()?;
        if port.is_none() && vlan.is_none() {
            return refused("name a port or a VLAN to capture");
        }
        if wish.snaplen == Some(0) || wish.count == Some(0) {
            return refused("snaplen and count are at least 1");
        }
        if !self.captures.has_room() {
            return refused("there are as many captures as may be; end one first");
        }
        Ok(Wish {
            port,
            vlan: vlan.map(VlanId::get),
            snaplen: wish.snaplen.unwrap_or(WHOLE).min(WHOLE),
            count: wish.count,
        })
    }

    /// A guest comes: to the port that was made for it, or to a new one that goes with it.
    fn attach(&mut self, mut spec: PortSpec) -> Result<Served, Failure> {
        let port = match self.find_port(&spec.name) {
            Some(port) if self.is_kept_for_a_guest(port) => {
                if spec.vlan.is_some() || spec.trunk.is_some() {
                    return Err(Failure(format!(
                        "the VLANs of port \"{}\" are configured; leave them out",
                        spec.name
                    )));
                }
                // The last guest may have gone without our having seen it.
                self.receive(port);
                if self.slot_mut(port).is_some_and(|slot| slot.link.is_some()) {
                    return Err(Failure(format!("another guest is at port \"{}\"", spec.name)));
                }
                port
            }
            _ => {
                spec.name = self.free_name(&spec.name)?;
                spec.guest = true;
                self.add_port(spec, true)?
            }
        };
        let name = self.name_of(port);
        match FrameRings::create() {
            Ok((rings, memory)) => Ok(Served::Attached {
                port,
                rings,
                memory,
                name,
            }),
            Err(error) => {
                if self.slot_mut(port).is_some_and(|slot| slot.temporary) {
                    self.remove_port(port)?;
                }
                Err(Failure(error.to_string()))
            }
        }
    }

    fn is_kept_for_a_guest(&self, port: PortIndex) -> bool {
        let slot = self.ports.get(port.get()).and_then(Option::as_ref);
        slot.is_some_and(|slot: &Port| slot.source == Source::Guest && !slot.temporary)
    }

    /// `wish`, with a number behind it if it is taken.
    fn free_name(&self, wish: &str) -> Result<String, Failure> {
        let numbered = (2..MAX_NAMESAKES).map(|number| format!("{wish}.{number}"));
        std::iter::once(wish.to_owned())
            .chain(numbered)
            .find(|name| self.find_port(name).is_none())
            .ok_or_else(|| Failure(format!("there are too many ports named \"{wish}\"")))
    }
}

/// A port's router, if it is one.
fn show_router(port: &Port) -> Option<Value> {
    let Source::Router(router) = &port.source else {
        return None;
    };
    let leases = port.directory.as_ref().map(|directory| directory.leases().len());
    let dropped = port.directory.as_ref().map(|directory| directory.dropped());
    Some(json!({
        "port": port.spec.name,
        "address": router.address,
        "address6": router.address6,
        "dhcp": router.dhcp.unwrap_or(true),
        "ranges": router.ranges,
        "ranges6": router.ranges6,
        "domain": router.domain,
        "restrict": router.restrict,
        "forwards": router.forward,
        "reservations": router.host.len(),
        "leases": leases,
        "dropped-fragments": dropped.map(|dropped| dropped.fragments),
        "dropped-extension-headers": dropped.map(|dropped| dropped.extension_headers),
        "up": port.up,
    }))
}
