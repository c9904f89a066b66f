//! A look ahead at a batch: where its stations may be in the forwarding table.
//!
//! A large table is not in the processor's caches. What frames need of it is touched for the whole batch first, so that the memory
//! works on many places at once and not on one after the other. The hashes are kept, and nothing is decided here.

use std::hint::black_box;

use super::Switch;
use crate::fdb::{Fdb, Spot};
use crate::frame::{Frame, RxFrame};
use crate::port_set::{PortIndex, PortSet};
use crate::{Mac, Tci, VlanId};

/// Most frames that are looked at.
const FRAMES: usize = 64;
/// A table with fewer stations is in the caches anyway. (Tests have small ones.)
const LARGE: usize = if cfg!(test) { 3 } else { 2048 };

/// The spots of source and destination of each frame of a batch.
pub(super) struct Ahead {
    spots: Box<[[Spot; 2]; FRAMES]>,
    count: usize,
}

impl Ahead {
    pub fn new() -> Self {
        Self {
            spots: Box::new([[Spot::default(); 2]; FRAMES]),
            count: 0,
        }
    }

    /// The spot of the source of frame `index`, or of its destination.
    fn of(&self, fdb: &Fdb, index: usize, side: usize, vlan: VlanId, mac: Mac) -> Spot {
        let seen = self.spots[..self.count].get(index).map(|spots| spots[side]);
        match seen {
            Some(spot) if spot.is_of(vlan, mac) => spot,
            _ => fdb.spot(vlan, mac),
        }
    }

    pub fn source(&self, fdb: &Fdb, index: usize, vlan: VlanId, mac: Mac) -> Spot {
        self.of(fdb, index, 0, vlan, mac)
    }

    pub fn destination(&self, fdb: &Fdb, index: usize, vlan: VlanId, mac: Mac) -> Spot {
        self.of(fdb, index, 1, vlan, mac)
    }
}

impl Switch {
    /// Looks at the frames that `port` received, if that pays.
    pub(super) fn look_ahead<'a>(&mut self, port: PortIndex, frames: impl Iterator<Item = RxFrame<'a>>) {
        self.ahead.count = 0;
        if self.fdb.len() < LARGE {
            return;
        }
        let Some(pvid) = self.slot(port).map(|slot| slot.config.vlans.pvid) else {
            return;
        };
        let mut touched = 0;
        for (spots, rx) in self.ahead.spots.iter_mut().zip(frames) {
            let Some(frame) = Frame::parse(rx.bytes, self.config.tags) else {
                break;
            };
            let number = frame.tag.map_or(0, Tci::vid);
            let Some(vlan) = VlanId::new(number).ok().or(pvid) else {
                break;
            };
            *spots = [frame.source, frame.destination].map(|mac| self.fdb.spot(vlan, mac));
            let members = self.members[usize::from(vlan.get())].as_deref();
            touched |= members.map_or(0, PortSet::touch);
            self.ahead.count += 1;
        }
        let spots = self.ahead.spots[..self.ahead.count].as_flattened();
        black_box(touched | self.fdb.touch(spots));
    }
}
