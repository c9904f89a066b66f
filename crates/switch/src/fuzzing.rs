//! Entries for fuzzers: frames.

use std::time::Duration;

use crate::rstp::BridgeConfig;
use crate::{
    Mac, Output, PortConfig, PortIndex, Protection, Switch, SwitchConfig, TagAction, Time, VlanId, VlanSet,
};

/// Counts what is sent, and keeps nothing.
struct Nowhere<'a> {
    frame: &'a [u8],
}

impl Output for Nowhere<'_> {
    fn send(&mut self, _: PortIndex, index: usize, tag: TagAction) -> bool {
        assert_eq!(index, 0);
        let sent: usize = tag.parts(self.frame).iter().map(|part| part.len()).sum();
        assert!(sent <= self.frame.len() + 4);
        true
    }

    fn originate(&mut self, _: PortIndex, _: &[u8]) -> bool {
        true
    }
}

/// A switch with an access port, two trunks (one with a native VLAN) and a port that is protected in every way there is.
fn switch(now: Time) -> Switch {
    let vlan = |number| VlanId::new(number).expect("a VLAN's number");
    let mac = Mac([0x52, 0x54, 0, 0, 0, 99]);
    let mut config = SwitchConfig::new(mac);
    config.spanning_tree = Some(BridgeConfig::default());
    config.fdb_entries = 64;
    let all: VlanSet = [vlan(1), vlan(5), vlan(7)].into_iter().collect();
    let mut protected = PortConfig::access(vlan(5));
    protected.protection = Protection {
        mac: Some(Mac([2, 0, 0, 0, 0, 1])),
        addresses: Some(vec![[10, 0, 0, 5].into()]),
        dhcp_client_only: true,
        ra_guard: true,
    };
    protected.mac_limit = Some(2);
    let mut switch = Switch::new(config, [1, 2], now).expect("the settings are right");
    for port in [
        PortConfig::access(vlan(1)),
        PortConfig::trunk(all.clone(), None),
        PortConfig::trunk(all, Some(vlan(7))),
        protected,
    ] {
        let port = switch.add_port(port).expect("there is room for a port");
        switch
            .set_link(port, true, now, &mut Nowhere { frame: &[] })
            .expect("the port is there");
    }
    switch
}

/// Frames, each behind a byte for its port and the time before it, and one for its length.
pub fn frames(mut input: &[u8]) {
    let mut now = Time::from_secs(1000);
    let mut switch = switch(now);
    while let Some((&[place, length], rest)) = input.split_first_chunk() {
        let (frame, rest) = rest.split_at(rest.len().min(usize::from(length)));
        input = rest;
        let seconds = u64::from(place >> 3);
        now = now + Duration::from_millis(seconds * seconds * 50);
        let out = &mut Nowhere { frame };
        switch.poll(now, out);
        let port = PortIndex::new(usize::from(place & 3)).expect("a port's number");
        switch.receive(port, frame, now, out);
        for port in switch.ports() {
            let counters = switch.counters(port).expect("the port is there");
            assert!(counters.balance(), "{counters:?}");
        }
    }
    assert!(switch.stations().count() <= 64);
}

#[cfg(test)]
mod tests {
    #[test]
    fn what_fuzzers_found_is_survived() {
        ostler_corpus::replay("switch-frames", super::frames);
    }
}
