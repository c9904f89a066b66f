//! A foreign guest, whose front end (QEMU, Cloud Hypervisor) shares its memory by vhost-user.

use std::convert::Infallible;
use std::os::fd::BorrowedFd;
use std::os::unix::net::UnixStream;

use ostler_netio::{Header, Offloads};
use ostler_vhost_user::VhostUserNet;

use super::{Batch, Gone, Link, Lost};

pub(crate) struct VhostUserLink {
    net: VhostUserNet,
    /// As the engine knows it.
    was_up: bool,
}

impl VhostUserLink {
    pub fn new(socket: UnixStream) -> Result<Self, String> {
        let net = VhostUserNet::new(socket).map_err(|error| error.to_string())?;
        Ok(Self { net, was_up: false })
    }

    fn has_changed(&self) -> bool {
        self.net.is_up() != self.was_up
    }
}

fn gone(error: ostler_vhost_user::Error) -> Gone {
    Gone(error.to_string())
}

impl Link for VhostUserLink {
    fn readable(&self) -> BorrowedFd<'_> {
        self.net.readable()
    }

    fn writable(&self) -> Option<BorrowedFd<'_>> {
        None
    }

    fn receive(&mut self, batch: &mut Batch) -> Result<(), Gone> {
        self.net.serve().map_err(gone)?;
        // A guest that has just come is made known before its first frame is taken.
        if self.has_changed() {
            return Ok(());
        }
        while !batch.is_full() {
            let taken = batch.push_with(|bytes| Ok::<_, Infallible>(self.net.take(bytes)));
            if let Ok(false) = taken {
                break;
            }
        }
        self.net.flush().map_err(gone)
    }

    fn send(&mut self, parts: &[&[u8]]) -> bool {
        self.net.send(&Header::default(), parts)
    }

    fn takes(&self) -> Offloads {
        self.net.takes()
    }

    fn send_headed(&mut self, header: &Header, parts: &[&[u8]]) -> bool {
        self.net.send(header, parts)
    }

    fn flush(&mut self) -> Result<(), Gone> {
        self.net.flush().map_err(gone)
    }

    fn has_frames(&self) -> bool {
        self.net.has_work() || self.has_changed()
    }

    fn sleep(&mut self) -> bool {
        self.net.sleep() || self.has_changed()
    }

    fn stay_awake(&mut self) {
        self.net.stay_awake();
    }

    fn lost(&self) -> Lost {
        let lost = self.net.lost();
        Lost {
            received: lost.received,
            sent: lost.sent,
        }
    }

    fn queue_pairs(&self) -> Vec<[u64; 2]> {
        let pairs = self.net.pair_counters().into_iter();
        pairs.map(|pair| [pair.received, pair.sent]).collect()
    }

    fn is_up(&mut self) -> Result<bool, Gone> {
        self.was_up = self.net.is_up();
        Ok(self.was_up)
    }

    fn why_down(&self) -> Option<String> {
        self.net.why_down()
    }

    fn may_change(&self) -> bool {
        self.has_changed()
    }
}
