//! What many stations and VLANs cost: the core alone, one thread, nothing sent.

use std::io;
use std::time::{Duration, Instant};

use ostler_switch::{
    Mac, Output, PortConfig, PortIndex, PortVlans, RxFrame, Switch, SwitchConfig, TagAction, Time, VlanId,
    VlanSet,
};

use crate::beside::Figures;
use crate::error::Error;

/// So few that each has several even of few stations, and no frame is like the one before.
const PORTS: usize = 4;
/// Few and many: stations, and VLANs that each trunk is a member of.
const FEW: (usize, usize) = (10, 1);
const MANY: (usize, usize) = (50_000, 4_000);
const BATCH: usize = 64;
const LEN: usize = 64;

/// Counts what would be sent.
#[derive(Default)]
struct Counted(u64);

impl Output for Counted {
    fn send(&mut self, _port: PortIndex, _index: usize, _tag: TagAction) -> bool {
        self.0 += 1;
        true
    }

    fn originate(&mut self, _port: PortIndex, _frame: &[u8]) -> bool {
        true
    }
}

/// Time of a frame with few stations and with many, and the memory of an entry.
pub(super) fn measure(span: Duration, figures: &mut Figures) -> Result<(), Error> {
    for (name, (stations, vlans)) in [("few", FEW), ("many", MANY)] {
        let (nanoseconds, bytes, _) = forward(stations, vlans, span)
            .map_err(|e| Error::Host("setting up the switch's core", io::Error::other(e.to_string())))?;
        figures.add("stations", name, nanoseconds);
        if (stations, vlans) == MANY {
            figures.add("entry", "ours", bytes as f64);
        }
    }
    Ok(())
}

/// Where a station is: its VLAN, its address, its port.
fn station(number: usize, vlans: usize) -> (u16, [u8; 6], usize) {
    let [_, a, b, c] = (number as u32).to_be_bytes();
    let vlan = 1 + (number % vlans) as u16;
    (vlan, [2, 0, 0, a, b, c], (number + number / vlans) % PORTS)
}

/// Another station of its VLAN at another port, far away in the table.
fn partner(number: usize, stations: usize, vlans: usize) -> usize {
    let first = number % vlans;
    let mates = (stations - first).div_ceil(vlans);
    let at = station(number, vlans).2;
    (0..mates)
        .map(|step| first + (number / vlans + mates / 2 + step) % mates * vlans)
        .find(|other| station(*other, vlans).2 != at)
        .unwrap_or(number)
}

/// Frames from all stations, each with the port where it comes in; as many with few stations as with many, so that only the table differs.
fn frames(stations: usize, vlans: usize) -> Vec<(usize, [u8; LEN])> {
    let frame = |number: usize| {
        let number = number % stations;
        let (vlan, from, at) = station(number, vlans);
        let to = station(partner(number, stations, vlans), vlans).1;
        let mut frame = [0; LEN];
        frame[..6].copy_from_slice(&to);
        frame[6..12].copy_from_slice(&from);
        frame[12..14].copy_from_slice(&[0x81, 0]);
        frame[14..16].copy_from_slice(&vlan.to_be_bytes());
        frame[16..18].copy_from_slice(&[0x88, 0xb5]);
        (at, frame)
    };
    (0..MANY.0).map(frame).collect()
}

/// A switch whose ports are all trunks with these VLANs.
fn switch(vlans: usize, out: &mut Counted) -> Result<(Switch, Vec<PortIndex>), ostler_switch::Error> {
    let mut config = SwitchConfig::new(Mac([2, 0, 0, 0xff, 0, 1]));
    config.fdb_entries = 1 << 16;
    let mut switch = Switch::new(config, [1, 2], Time::default())?;
    let mut members = VlanSet::empty();
    for vlan in 1..=vlans {
        members.insert(VlanId::new(vlan as u16)?);
    }
    let mut ports = Vec::new();
    for _ in 0..PORTS {
        let port = switch.add_port(PortConfig::new(PortVlans::trunk(members.clone(), None)))?;
        switch.set_link(port, true, Time::default(), out)?;
        ports.push(port);
    }
    Ok((switch, ports))
}

/// CPU time of this thread.
fn cpu_time() -> Duration {
    let time = rustix::time::clock_gettime(rustix::time::ClockId::ThreadCPUTime);
    Duration::new(time.tv_sec as u64, time.tv_nsec as u32)
}

/// Nanoseconds of a frame, bytes of an entry, and how many frames were to be sent for each that came.
fn forward(stations: usize, vlans: usize, span: Duration) -> Result<(f64, usize, f64), ostler_switch::Error> {
    let mut out = Counted::default();
    let (mut switch, ports) = switch(vlans, &mut out)?;
    let frames = frames(stations, vlans);
    let mut by_port = vec![Vec::new(); PORTS];
    for number in 0..frames.len() {
        // In no order. Those of a port stand together: a frame that just came in is in the cache.
        let (at, frame) = &frames[number * 7919 % frames.len()];
        switch.receive(ports[*at], frame, Time::default(), &mut out);
        by_port[*at].push(*frame);
    }
    by_port
        .iter_mut()
        .for_each(|frames| frames.truncate(frames.len() / BATCH * BATCH));
    out.0 = 0;
    let (start, before, mut count, mut turn) = (Instant::now(), cpu_time(), 0u64, 0);
    while start.elapsed() < span {
        let now = Time::from_nanos(start.elapsed().as_nanos() as u64);
        for (frames, port) in by_port
            .iter()
            .zip(&ports)
            .filter(|(frames, _)| !frames.is_empty())
        {
            let from = turn % frames.len();
            let batch = frames[from..from + BATCH].iter().map(|frame| RxFrame {
                bytes: &frame[..],
                wire_len: LEN,
            });
            switch.receive_batch(*port, batch, now, &mut out);
            count += BATCH as u64;
        }
        turn += BATCH;
    }
    let nanoseconds = (cpu_time() - before).as_nanos() as f64 / count as f64;
    Ok((
        nanoseconds,
        switch.fdb().bytes_per_entry(),
        out.0 as f64 / count as f64,
    ))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_frame_goes_to_one_port() {
        for (stations, vlans) in [FEW, MANY] {
            let (_, _, copies) = forward(stations, vlans, Duration::from_millis(50)).unwrap();
            assert_eq!(copies, 1.0, "{stations} stations in {vlans} VLANs");
        }
    }
}
