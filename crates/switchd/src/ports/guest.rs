//! A guest of ours, at the other end of a pair of rings.

use std::os::fd::{AsFd, BorrowedFd};
use std::os::unix::net::UnixStream;

use ostler_netio::{FrameRings, Header, Offloads, RingBroken};
use rustix::io::Errno;
use rustix::net::{RecvFlags, SendFlags};

use super::{Batch, Gone, Link};

/// Bytes that wake us are taken so many at a time; a peer that sends more only wakes us again.
const WAKES: usize = 64;

pub(crate) struct GuestLink {
    connection: UnixStream,
    rings: FrameRings,
    broken: bool,
}

impl GuestLink {
    pub fn new(connection: UnixStream, rings: FrameRings) -> Self {
        // What a port further on does not take is done there.
        rings.announce(Offloads::ALL);
        Self {
            connection,
            rings,
            broken: false,
        }
    }
}

fn broke(RingBroken: RingBroken) -> Gone {
    Gone("the guest does not keep to the rules of the ring".into())
}

impl Link for GuestLink {
    fn readable(&self) -> BorrowedFd<'_> {
        self.connection.as_fd()
    }

    fn writable(&self) -> Option<BorrowedFd<'_>> {
        None
    }

    fn receive(&mut self, batch: &mut Batch) -> Result<(), Gone> {
        while !batch.is_full() {
            let popped = batch.push_with(|bytes| Ok(self.rings.pop_headed(bytes)?.map(|(header, _)| header)));
            if !popped.map_err(broke)? {
                let mut bytes = [0; WAKES];
                return match rustix::net::recv(&self.connection, &mut bytes, RecvFlags::DONTWAIT) {
                    Ok((0, _)) => Err(Gone("the guest closed the connection".into())),
                    Ok(_) | Err(Errno::AGAIN | Errno::INTR) => Ok(()),
                    Err(error) => Err(Gone(error.to_string())),
                };
            }
        }
        Ok(())
    }

    fn send(&mut self, parts: &[&[u8]]) -> bool {
        let pushed = self.rings.push(parts);
        self.broken |= pushed.is_err();
        pushed == Ok(true)
    }

    fn takes(&self) -> Offloads {
        self.rings.peer_takes()
    }

    fn send_headed(&mut self, header: &Header, parts: &[&[u8]]) -> bool {
        let pushed = self.rings.push_headed(header, parts);
        self.broken |= pushed.is_err();
        pushed == Ok(true)
    }

    fn flush(&mut self) -> Result<(), Gone> {
        if self.broken {
            return Err(broke(RingBroken));
        }
        if self.rings.must_wake() {
            let flags = SendFlags::DONTWAIT | SendFlags::NOSIGNAL;
            match rustix::net::send(&self.connection, &[0], flags) {
                // A guest that does not take the bytes that wake it has enough of them.
                Ok(_) | Err(Errno::AGAIN | Errno::INTR | Errno::NOBUFS | Errno::NOMEM) => {}
                Err(error) => return Err(Gone(error.to_string())),
            }
        }
        Ok(())
    }

    fn has_frames(&self) -> bool {
        self.rings.has_frames()
    }

    fn sleep(&mut self) -> bool {
        self.rings.sleep()
    }

    fn stay_awake(&mut self) {
        self.rings.stay_awake();
    }
}
