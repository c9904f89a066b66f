//! A router: user-mode NAT on a thread of its own, at the other end of a cable in memory.

use std::os::fd::{AsFd, BorrowedFd};

use ostler_netio::{HEADER_LEN, Header, Offloads};
use ostler_usernet::{Config, Handle, Network, Pipe};

use super::{Batch, Gone, Link};

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
    pipe: Pipe,
}

impl RouterLink {
    /// Starts the router. The other value tells who has which address.
    pub fn start(config: Config) -> Result<(Self, Handle), String> {
        let (network, pipe) = Network::open_beside(config).map_err(|error| error.to_string())?;
        let handle = network.handle();
        let thread = std::thread::Builder::new().name("router".into());
        let run = move || {
            if let Err(error) = network.run() {
                tracing::warn!("a router ended: {error}");
            }
        };
        let started = thread.spawn(run);
        started.map_err(|error| format!("cannot start the router: {error}"))?;
        Ok((Self { pipe }, handle))
    }
}

impl Link for RouterLink {
    fn readable(&self) -> BorrowedFd<'_> {
        self.pipe.as_fd()
    }

    fn writable(&self) -> Option<BorrowedFd<'_>> {
        // What finds no room is dropped.
        None
    }

    fn receive(&mut self, batch: &mut Batch) -> Result<(), Gone> {
        for buffer in batch.take_spare() {
            self.pipe.recycle(buffer);
        }
        while !batch.is_full() {
            let Some(frame) = self.pipe.receive() else {
                let over = self.pipe.is_over();
                return if over {
                    Err(Gone("the router ended".into()))
                } else {
                    Ok(())
                };
            };
            if let Some(header) = frame.get(..HEADER_LEN).and_then(Header::read) {
                batch.push_own(&header, frame, HEADER_LEN);
            }
        }
        Ok(())
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
        let mut frame = self.pipe.buffer();
        frame.reserve(HEADER_LEN + parts.iter().map(|part| part.len()).sum::<usize>());
        frame.extend_from_slice(&told);
        parts.iter().for_each(|part| frame.extend_from_slice(part));
        self.pipe.send(frame).is_ok()
    }

    fn flush(&mut self) -> Result<(), Gone> {
        self.pipe.flush();
        Ok(())
    }

    fn has_frames(&self) -> bool {
        self.pipe.has_frames()
    }

    fn sleep(&mut self) -> bool {
        self.pipe.has_frames()
    }
}
