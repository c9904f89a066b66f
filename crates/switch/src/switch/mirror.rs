//! Mirrors: copies of what ports receive and send, for one port that does nothing else.

use super::ingress::Transit;
use super::{Output, Switch};
use crate::port_set::{PortIndex, PortSet};
use crate::vlan::TagAction;
use crate::{Error, Time};

/// A mirror. Its destination sends copies only, takes nothing in and is outside of VLANs and spanning tree, so that no
/// copy is ever copied or forwarded.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Mirror {
    /// Where copies go.
    pub to: PortIndex,
    /// Ports of whose received frames copies are made, as they came.
    pub ingress: PortSet,
    /// Ports of whose sent frames copies are made, as they are sent.
    pub egress: PortSet,
}

impl Switch {
    /// Sets up a mirror, in place of any other to the same port.
    pub fn set_mirror(&mut self, mirror: Mirror, now: Time, out: &mut impl Output) -> Result<(), Error> {
        self.advance(now);
        let to = mirror.to;
        self.slot(to).ok_or(Error::NoPort(to))?;
        let sources = mirror.ingress.or(&mirror.egress);
        if sources.contains(to) {
            return Err(Error::MirrorLoop(to));
        }
        if let Some(missing) = sources.iter().find(|&port| self.slot(port).is_none()) {
            return Err(Error::NoPort(missing));
        }
        self.mirrors.retain(|other| other.to != to);
        self.mirrors.push(mirror);
        self.sets.mirrors.set(to, true);
        self.fdb.flush_port(to);
        self.enable(to, out);
        Ok(())
    }

    /// Ends the mirror to that port, which is an ordinary port again.
    pub fn clear_mirror(&mut self, to: PortIndex, now: Time, out: &mut impl Output) -> Result<(), Error> {
        self.advance(now);
        self.slot(to).ok_or(Error::NoPort(to))?;
        self.mirrors.retain(|mirror| mirror.to != to);
        self.sets.mirrors.set(to, false);
        self.enable(to, out);
        Ok(())
    }

    /// The mirrors.
    pub fn mirrors(&self) -> &[Mirror] {
        &self.mirrors
    }

    pub(super) fn forget_mirrors_of(&mut self, port: PortIndex) {
        self.mirrors.retain(|mirror| mirror.to != port);
        self.sets.mirrors.set(port, false);
        for mirror in &mut self.mirrors {
            mirror.ingress.set(port, false);
            mirror.egress.set(port, false);
        }
    }

    pub(super) fn mirror_ingress(&mut self, transit: &Transit<'_>, out: &mut impl Output) {
        for at in 0..self.mirrors.len() {
            if self.mirrors[at].ingress.contains(transit.from) {
                self.copy(self.mirrors[at].to, transit, TagAction::Keep, out);
            }
        }
    }

    pub(super) fn mirror_egress(
        &mut self,
        transit: &Transit<'_>,
        port: PortIndex,
        tag: TagAction,
        out: &mut impl Output,
    ) {
        for at in 0..self.mirrors.len() {
            if self.mirrors[at].egress.contains(port) {
                self.copy(self.mirrors[at].to, transit, tag, out);
            }
        }
    }

    fn copy(&mut self, to: PortIndex, transit: &Transit<'_>, tag: TagAction, out: &mut impl Output) {
        let Some(slot) = self.slot_mut(to).filter(|slot| slot.up) else {
            return;
        };
        if out.send(to, transit.index, tag) {
            slot.counters.mirrored += 1;
        }
    }
}
