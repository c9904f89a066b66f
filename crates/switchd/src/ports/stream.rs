//! A peer on a unix stream socket with QEMU's framing: `-netdev stream`, passt, and our own `--net socket=`.

use std::os::fd::{AsFd, BorrowedFd};
use std::os::unix::net::UnixStream;

use ostler_netio::{FrameReader, FrameWriter, Parsed};
use rustix::io::Errno;
use rustix::net::{RecvFlags, SendFlags};

use super::{Batch, Gone, Link};

pub(crate) struct StreamLink {
    socket: UnixStream,
    reader: FrameReader,
    writer: FrameWriter,
    /// The batch was full before the buffer was empty.
    more: bool,
}

impl StreamLink {
    pub fn new(socket: UnixStream) -> Self {
        Self {
            socket,
            reader: FrameReader::new(0),
            writer: FrameWriter::default(),
            more: false,
        }
    }
}

fn closed() -> Gone {
    Gone("the peer closed the connection".into())
}

impl Link for StreamLink {
    fn readable(&self) -> BorrowedFd<'_> {
        self.socket.as_fd()
    }

    fn writable(&self) -> Option<BorrowedFd<'_>> {
        (!self.writer.is_empty()).then(|| self.socket.as_fd())
    }

    fn receive(&mut self, batch: &mut Batch) -> Result<(), Gone> {
        self.more = false;
        loop {
            if batch.is_full() {
                self.more = true;
                return Ok(());
            }
            match self.reader.next_frame() {
                Parsed::Frame(range) => batch.push(self.reader.bytes(range)),
                Parsed::Bad => {}
                Parsed::Incomplete => {
                    match rustix::net::recv(&self.socket, self.reader.room(), RecvFlags::DONTWAIT) {
                        Ok((0, _)) => return Err(closed()),
                        Ok((count, _)) => self.reader.fill(count),
                        Err(Errno::AGAIN | Errno::INTR) => return Ok(()),
                        Err(error) => return Err(Gone(error.to_string())),
                    }
                }
            }
        }
    }

    fn send(&mut self, parts: &[&[u8]]) -> bool {
        self.writer.push(parts)
    }

    fn flush(&mut self) -> Result<(), Gone> {
        while !self.writer.is_empty() {
            let flags = SendFlags::DONTWAIT | SendFlags::NOSIGNAL;
            match rustix::net::send(&self.socket, self.writer.waiting(), flags) {
                Ok(count) => self.writer.sent(count),
                Err(Errno::AGAIN | Errno::INTR | Errno::NOBUFS | Errno::NOMEM) => return Ok(()),
                Err(_) => return Err(closed()),
            }
        }
        Ok(())
    }

    fn has_frames(&self) -> bool {
        self.more
    }

    fn sleep(&mut self) -> bool {
        self.more
    }
}
