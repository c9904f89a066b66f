//! Stations of the test behind ports of a network: who hears what was sent, and how often.

use std::time::{Duration, Instant};

use crate::player::Wire;

/// Longer than a frame needs to go round some thousand times.
const A_THOUSAND_ROUNDS: Duration = Duration::from_millis(500);
const PATIENCE: Duration = Duration::from_secs(90);

/// A time without a way.
pub struct Outage {
    pub took: Duration,
    /// Frames that were sent meanwhile, one each 5 ms.
    sent: u32,
    /// How many of them were lost.
    lost: u32,
}

impl std::fmt::Debug for Outage {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let Self { took, sent, lost } = self;
        write!(f, "{took:?} and {lost} of {sent} frames")
    }
}

pub struct Stations {
    wires: Vec<Wire>,
    sent: u32,
}

impl Stations {
    /// Stations at these interfaces.
    pub fn new(interfaces: &[&str]) -> Self {
        Self {
            wires: interfaces.iter().map(|name| Wire::open(name)).collect(),
            sent: 0,
        }
    }

    /// A frame to all from one station's interface, each time from another address: Open vSwitch remembers what it did with the frames
    /// of a station for as long as they keep coming, and may have looked just before a port began to forward.
    fn send(&mut self, from: usize) -> u32 {
        self.sent += 1;
        let [.., a, b] = self.sent.to_be_bytes();
        let mut frame = vec![0xff; 6];
        frame.extend([0x52, 0x54, 0xb0 | from as u8, 0xbb, a, b, 0x88, 0xb5]);
        frame.extend(self.sent.to_be_bytes());
        frame.resize(60, 0);
        assert!(self.wires[from].send(&frame));
        self.sent
    }

    /// The numbers of the frames that came in at a station.
    fn heard(&self, at: usize) -> Vec<u32> {
        let ours = |frame: Vec<u8>| {
            let number = frame.get(14..18)?.try_into().ok()?;
            (frame[12..14] == [0x88, 0xb5]).then(|| u32::from_be_bytes(number))
        };
        std::iter::from_fn(|| self.wires[at].receive())
            .filter_map(ours)
            .collect()
    }

    /// Waits until frames that are sent from now on get from the first station to all others. `None` if they never do.
    pub fn reach(&mut self) -> Option<Outage> {
        let start = Instant::now();
        let first = self.sent + 1;
        let mut heard = vec![0; self.wires.len()];
        let mut took = None;
        loop {
            if took.is_none() {
                self.send(0);
            }
            std::thread::sleep(Duration::from_millis(5));
            // On a loaded machine one may be on its way for longer than that.
            for (at, heard) in heard.iter_mut().enumerate().skip(1) {
                *heard += self.heard(at).iter().filter(|number| **number >= first).count() as u32;
            }
            match took {
                None if heard[1..].iter().all(|count| *count > 0) => took = Some(start.elapsed()),
                // Those on their way have arrived.
                Some(took) if start.elapsed() > took + Duration::from_millis(100) => {
                    let sent = self.sent + 1 - first;
                    let least = heard[1..].iter().min().copied().unwrap_or_default();
                    return Some(Outage {
                        took,
                        sent,
                        lost: sent.saturating_sub(least),
                    });
                }
                _ => {}
            }
            if took.is_none() && start.elapsed() > PATIENCE {
                return None;
            }
        }
    }

    /// Each frame arrives once at each other station: there is a way and no loop.
    pub fn hear_each_other_once(&mut self) {
        std::thread::sleep(Duration::from_millis(200));
        let all = 0..self.wires.len();
        for at in all.clone() {
            self.heard(at);
        }
        for from in all.clone() {
            let sent: Vec<u32> = (0..20).map(|_| self.send(from)).collect();
            std::thread::sleep(A_THOUSAND_ROUNDS);
            for to in all.clone() {
                let heard = self.heard(to);
                if to == from {
                    assert_eq!(heard, [] as [u32; 0], "station {to} hears itself");
                } else {
                    assert_eq!(heard, sent, "from {from} to {to}");
                }
            }
        }
    }
}
