//! A router: user-mode NAT on a thread of its own, at the other end of a stream of frames with their virtio-net headers.

use std::io;
use std::os::fd::BorrowedFd;
use std::os::unix::net::UnixStream;

use ostler_netio::{HEADER_LEN, Header, Offloads};
use ostler_usernet::{Config, Handle, Network};

use super::{Batch, Gone, Link, StreamLink};

/// Pieces of a frame at most, with the header.
const MAX_PARTS: usize = 5;
/// Bytes that may wait for the router: the windows of many connections. It loses nothing, and its TCP counts on that.
const ROOM: usize = 8 << 20;
/// What the router takes over.
const TAKES: Offloads = Offloads {
    checksum: true,
    tso4: true,
    tso6: true,
    ..Offloads::NONE
};
/// In the header of each frame to the router: what we take over (`ostler_netio::SocketNet::with_headers`), checksums and large
/// segments of both kinds.
const WE_TAKE: (usize, u8) = (10, 7);

/// Our end. The router ends when it is dropped.
pub(crate) struct RouterLink {
    stream: StreamLink,
}

impl RouterLink {
    /// Starts the router. The other value tells who has which address.
    pub fn start(config: Config) -> Result<(Self, Handle), String> {
        let failed = |error: io::Error| format!("cannot start the router: {error}");
        let (ours, theirs) = UnixStream::pair().map_err(failed)?;
        let network = Network::open(config, theirs.into()).map_err(|error| error.to_string())?;
        let handle = network.handle();
        let thread = std::thread::Builder::new().name("router".into());
        let run = move || {
            if let Err(error) = network.run() {
                tracing::warn!("a router ended: {error}");
            }
        };
        thread.spawn(run).map_err(failed)?;
        let stream = StreamLink::with_headers(ours, ROOM);
        Ok((Self { stream }, handle))
    }
}

impl Link for RouterLink {
    fn readable(&self) -> BorrowedFd<'_> {
        self.stream.readable()
    }

    fn writable(&self) -> Option<BorrowedFd<'_>> {
        self.stream.writable()
    }

    fn receive(&mut self, batch: &mut Batch) -> Result<(), Gone> {
        self.stream.receive(batch)
    }

    fn send(&mut self, parts: &[&[u8]]) -> bool {
        self.send_headed(&Header::default(), parts)
    }

    fn takes(&self) -> Offloads {
        TAKES
    }

    fn send_headed(&mut self, header: &Header, parts: &[&[u8]]) -> bool {
        let mut told: [u8; HEADER_LEN] = *header.bytes();
        told[WE_TAKE.0] = WE_TAKE.1;
        let mut all: [&[u8]; MAX_PARTS] = [&[]; MAX_PARTS];
        all[0] = &told;
        for (place, part) in all[1..].iter_mut().zip(parts) {
            *place = part;
        }
        self.stream.send(&all)
    }

    fn flush(&mut self) -> Result<(), Gone> {
        self.stream.flush()
    }

    fn has_frames(&self) -> bool {
        self.stream.has_frames()
    }

    fn sleep(&mut self) -> bool {
        self.stream.sleep()
    }
}
