//! The switch and its spanning tree: BPDUs in and out, port states, seconds.

use std::time::Duration;

use super::ingress::{Fate, Transit};
use super::{Output, Switch};
use crate::counters::Drop;
use crate::port_set::PortIndex;
use crate::rstp::{Action, Bpdu, BridgeConfig, MAX_FRAME, PortState};
use crate::{Error, Time};

/// Seconds that are made up for, one by one, if nobody called for a while. After so many all that was heard is too old.
const MOST_SECONDS: u64 = 64;

/// Entries that are freed in a second because they aged. They are not found any more before.
const AGED_A_SECOND: usize = 1 << 16;

impl Switch {
    /// Does what is due by the clock. To be called at [`Switch::next_deadline`], or a little later.
    pub fn poll(&mut self, now: Time, out: &mut impl Output) {
        self.advance(now);
        let mut made_up = 0;
        while self.next_second <= self.now {
            if made_up == MOST_SECONDS {
                self.next_second = self.now + Duration::from_secs(1);
                break;
            }
            made_up += 1;
            self.next_second = self.next_second + Duration::from_secs(1);
            self.second(out);
        }
    }

    /// When [`Switch::poll`] is due.
    pub fn next_deadline(&self) -> Time {
        self.next_second
    }

    fn second(&mut self, out: &mut impl Output) {
        let seconds = self.seconds();
        if self.fast_ageing_until != 0 && seconds > self.fast_ageing_until {
            self.fast_ageing_until = 0;
            self.fdb.set_ageing(self.config.ageing);
        }
        self.fdb.age(seconds, AGED_A_SECOND);
        self.tick_groups(out);
        if let Some(tree) = &mut self.tree {
            tree.tick();
            self.act(out);
        }
    }

    /// Changes the bridge's part in the spanning tree.
    pub fn set_tree(&mut self, config: BridgeConfig, now: Time, out: &mut impl Output) -> Result<(), Error> {
        config.check()?;
        self.advance(now);
        if let Some(tree) = &mut self.tree {
            tree.set_config(config);
            self.act(out);
        }
        Ok(())
    }

    /// Has a port find out again whether its neighbour speaks RSTP (802.1D-2004, 17.19.13).
    pub fn check_migration(
        &mut self,
        port: PortIndex,
        now: Time,
        out: &mut impl Output,
    ) -> Result<(), Error> {
        self.advance(now);
        self.slot(port).ok_or(Error::NoPort(port))?;
        if let Some(tree) = &mut self.tree {
            tree.check_migration(port);
            self.act(out);
        }
        Ok(())
    }

    /// Whether a BPDU from that port is for the switch.
    pub(super) fn listens(&self, port: PortIndex) -> bool {
        self.tree.is_some() || self.slot(port).is_some_and(|slot| slot.config.stp.bpdu_guard)
    }

    pub(super) fn take_bpdu(&mut self, transit: &Transit<'_>, out: &mut impl Output) -> Result<Fate, Drop> {
        let now = self.now;
        let slot = self.slot_mut(transit.from).ok_or(Drop::PortDown)?;
        if !slot.bpdus.take(1, now) {
            return Err(Drop::BadBpdu);
        }
        let frame = &transit.frame;
        let bpdu = Bpdu::parse(frame.ether_type, frame.payload).ok_or(Drop::BadBpdu)?;
        if slot.config.stp.bpdu_guard {
            slot.guarded = true;
            self.enable(transit.from, out);
            return Ok(Fate::Consumed);
        }
        if let Some(tree) = &mut self.tree {
            tree.receive(transit.from, bpdu);
            self.act(out);
        }
        Ok(Fate::Consumed)
    }

    /// Tells tree and sets whether frames pass a port.
    pub(super) fn enable(&mut self, port: PortIndex, out: &mut impl Output) {
        let mirror = self.sets.mirrors.contains(port);
        let enabled = self.slot(port).is_some_and(|slot| slot.enabled() && !mirror);
        if !enabled {
            self.fdb.flush_port(port);
        }
        if let Some(tree) = &mut self.tree {
            tree.set_enabled(port, enabled);
            self.act(out);
        } else {
            self.set_state(
                port,
                if enabled {
                    PortState::Forwarding
                } else {
                    PortState::Discarding
                },
            );
        }
    }

    fn set_state(&mut self, port: PortIndex, state: PortState) {
        self.sets.learning.set(port, state != PortState::Discarding);
        self.sets.forwarding.set(port, state == PortState::Forwarding);
        if state == PortState::Discarding
            && let Some(groups) = &mut self.groups
        {
            groups.forget(port, |_| true);
        }
    }

    /// Does what the tree wants done.
    pub(super) fn act(&mut self, out: &mut impl Output) {
        let mut at = 0;
        while let Some((port, action)) = self.tree.as_mut().and_then(|tree| tree.take_action(at)) {
            at += 1;
            match action {
                Action::Send(bpdu) => self.send_bpdu(port, &bpdu, out),
                Action::State(state) => self.set_state(port, state),
                Action::Flush => {
                    self.fdb.flush_port(port);
                    let seconds = self.seconds();
                    if let Some(groups) = &mut self.groups {
                        groups.ask_again(seconds);
                    }
                }
                Action::AgeFast => self.age_fast(),
            }
        }
    }

    /// 802.1D-2004, 17.19.1: stations age after the forward delay, for as long as the forward delay.
    fn age_fast(&mut self) {
        let Some(tree) = &self.tree else { return };
        let delay = u32::from(tree.times().forward_delay);
        self.fdb.set_ageing(delay.min(self.config.ageing));
        self.fast_ageing_until = self.seconds().saturating_add(delay);
    }

    fn send_bpdu(&mut self, port: PortIndex, bpdu: &Bpdu, out: &mut impl Output) {
        let mut frame = [0; MAX_FRAME];
        let length = bpdu.write(self.config.mac, &mut frame);
        let Some(slot) = self.slot_mut(port) else { return };
        if out.originate(port, &frame[..length]) {
            slot.counters.originated += 1;
        }
    }
}
