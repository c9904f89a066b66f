//! The two directions of a TLS connection, for a thread each.
//!
//! The session's state is common to both. Neither waits for the network while it holds it. What TLS itself has to say (the answer to
//! an update of keys) goes out with the next thing that is written.

use std::io::{self, Read, Write};
use std::net::TcpStream;
use std::ops::Range;
use std::os::fd::OwnedFd;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use rustls::ServerConnection;

/// Bytes that are read from the network at a time.
const CHUNK: usize = 16 << 10;

type Session = Arc<Mutex<ServerConnection>>;

fn locked(session: &Session) -> MutexGuard<'_, ServerConnection> {
    session.lock().unwrap_or_else(PoisonError::into_inner)
}

/// What the peer says.
pub struct TlsReader {
    session: Session,
    socket: TcpStream,
    chunk: Vec<u8>,
    /// What of the chunk is still to be decrypted.
    left: Range<usize>,
}

/// What the peer is told.
pub struct TlsWriter {
    session: Session,
    socket: TcpStream,
}

/// Divides a connection into its directions and the socket under them.
pub fn split(session: ServerConnection, socket: TcpStream) -> io::Result<(TlsReader, TlsWriter, OwnedFd)> {
    let session = Arc::new(Mutex::new(session));
    let reader = TlsReader {
        session: session.clone(),
        socket: socket.try_clone()?,
        chunk: vec![0; CHUNK],
        left: 0..0,
    };
    let writer = TlsWriter {
        session,
        socket: socket.try_clone()?,
    };
    Ok((reader, writer, socket.into()))
}

impl Read for TlsReader {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        loop {
            match locked(&self.session).reader().read(buffer) {
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                done => return done,
            }
            if self.left.is_empty() {
                let count = self.socket.read(&mut self.chunk)?;
                // libvirt's clients hang up without a word; packets have lengths, so that none is taken for whole that is not.
                if count == 0 {
                    return Ok(0);
                }
                self.left = 0..count;
            }
            let mut session = locked(&self.session);
            self.left.start += session.read_tls(&mut &self.chunk[self.left.clone()])?;
            session.process_new_packets().map_err(io::Error::other)?;
        }
    }
}

impl Write for TlsWriter {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let mut records = Vec::new();
        let mut session = locked(&self.session);
        let count = session.writer().write(bytes)?;
        while session.wants_write() {
            session.write_tls(&mut records)?;
        }
        drop(session);
        self.socket.write_all(&records)?;
        Ok(count)
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}
