//! Settings that are changed while the switch runs: of ports, of the spanning tree, and mirrors.

use ostler_switch::{Mirror, PortIndex, PortSet, VlanId};
use serde::Deserialize;
use serde_json::{Map, Value, json};

use super::{Egress, Engine, with_core};
use crate::Error;
use crate::config::{MirrorSpec, PortSpec, StpSpec};

/// What a port is called and where it leads stays as it is for as long as it is there.
const FIXED: [&str; 8] = [
    "name",
    "tap",
    "packet",
    "listen",
    "connect",
    "vhost-user",
    "vhost-user-connect",
    "guest",
];

/// Settings of a port by their names in the configuration file; null is the usual value.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct SetPort {
    pub port: String,
    settings: Map<String, Value>,
}

impl Engine {
    /// Changes a port.
    pub(super) fn change_port(&mut self, port: PortIndex, wish: SetPort) -> Result<(), Error> {
        let refused = |reason: &dyn std::fmt::Display| Error::port(&wish.port, reason);
        if let Some(fixed) = FIXED.iter().find(|fixed| wish.settings.contains_key(**fixed)) {
            let reason = format!("its {fixed} cannot be changed; remove the port and add it anew");
            return Err(refused(&reason));
        }
        let slot = self.slot_mut(port).ok_or(ostler_switch::Error::NoPort(port))?;
        let mut all = serde_json::to_value(&slot.spec).map_err(|error| refused(&error))?;
        if let Some(all) = all.as_object_mut() {
            for (name, value) in wish.settings {
                // What is left out has its usual value.
                if value.is_null() {
                    all.remove(&name);
                } else {
                    all.insert(name, value);
                }
            }
        }
        let spec: PortSpec = serde_json::from_value(all).map_err(|error| Error::port(&wish.port, error))?;
        self.set_spec(port, spec)
    }

    /// Gives a port the settings of `spec`.
    pub(super) fn set_spec(&mut self, port: PortIndex, spec: PortSpec) -> Result<(), Error> {
        let config = spec.config()?;
        let pvid = config.vlans.pvid.map(VlanId::get);
        with_core!(self, |core, now, out| core.set_port(port, config, now, out))?;
        if let Some(slot) = self.slot_mut(port) {
            slot.spec = spec;
            slot.pvid = pvid;
        }
        self.flush();
        Ok(())
    }

    /// Changes the bridge's part in the spanning tree. False if there is none.
    pub(super) fn change_tree(&mut self, wish: &StpSpec) -> Result<bool, Error> {
        let Some(tree) = &self.tree else {
            return Ok(false);
        };
        let tree = wish.bridge(tree.clone());
        let config = tree.clone();
        with_core!(self, |core, now, out| core.set_tree(config, now, out))?;
        self.tree = Some(tree);
        self.flush();
        Ok(true)
    }

    fn ports_named(&self, names: &[String]) -> Result<PortSet, Error> {
        let find = |name: &String| {
            let missing = || Error::port(name, "there is no such port; list the ports to see their names");
            self.find_port(name).ok_or_else(missing)
        };
        names.iter().map(find).collect()
    }

    /// Sets up a mirror, in place of any other to the same port.
    pub(super) fn set_mirror(&mut self, wish: &MirrorSpec) -> Result<(), Error> {
        let to = self.ports_named(std::slice::from_ref(&wish.to))?;
        let mirror = Mirror {
            to: to
                .iter()
                .next()
                .ok_or_else(|| Error::port(&wish.to, "it is gone"))?,
            ingress: self.ports_named(&wish.ingress)?,
            egress: self.ports_named(&wish.egress)?,
        };
        if mirror.ingress.is_empty() && mirror.egress.is_empty() {
            return Err(Error::port(&wish.to, "a mirror needs ports to copy from"));
        }
        with_core!(self, |core, now, out| core.set_mirror(mirror, now, out))?;
        self.flush();
        Ok(())
    }

    /// Ends the mirror to a port.
    pub(super) fn clear_mirror(&mut self, to: PortIndex) -> Result<(), Error> {
        with_core!(self, |core, now, out| core.clear_mirror(to, now, out))?;
        self.flush();
        Ok(())
    }

    pub(super) fn show_mirrors(&self) -> Value {
        let names =
            |ports: &PortSet| -> Vec<String> { ports.iter().map(|port| self.name_of(port)).collect() };
        let show = |mirror: &Mirror| {
            json!({
                "to": self.name_of(mirror.to),
                "ingress": names(&mirror.ingress),
                "egress": names(&mirror.egress),
            })
        };
        self.core.mirrors().iter().map(show).collect()
    }
}
