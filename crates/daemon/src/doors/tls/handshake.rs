//! The handshake with a client that nobody knows yet: bounded in time, and many stalled ones hold up no one.

use std::collections::VecDeque;
use std::io::{self, Read, Write};
use std::net::{Shutdown, SocketAddr, TcpStream};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use rustls::ServerConnection;

use super::{Tls, name, stream};
use crate::server::{Connection, Peer};

/// How long a client may take for the whole handshake.
const LIMIT: Duration = Duration::from_secs(10);
/// Handshakes at a time. When one more begins, the oldest is hung up on.
const MAX_AT_A_TIME: usize = 128;

/// The handshakes that are going on, the oldest first.
#[derive(Debug, Default)]
pub struct Handshakes {
    going_on: Mutex<(u64, VecDeque<(u64, TcpStream)>)>,
}

impl Handshakes {
    /// Counts a handshake in until the place is dropped.
    pub fn enter(self: &Arc<Self>, socket: &TcpStream) -> io::Result<Place> {
        let socket = socket.try_clone()?;
        let mut state = self.going_on.lock().unwrap_or_else(PoisonError::into_inner);
        let (next, list) = &mut *state;
        *next += 1;
        let number = *next;
        list.push_back((number, socket));
        if list.len() > MAX_AT_A_TIME
            && let Some((_, oldest)) = list.pop_front()
        {
            // It may be gone already.
            let _ = oldest.shutdown(Shutdown::Both);
        }
        Ok(Place {
            handshakes: self.clone(),
            number,
        })
    }
}

/// The place of one handshake.
#[derive(Debug)]
pub struct Place {
    handshakes: Arc<Handshakes>,
    number: u64,
}

impl Drop for Place {
    fn drop(&mut self) {
        let mut state = self
            .handshakes
            .going_on
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        state.1.retain(|(number, _)| *number != self.number);
    }
}

impl Tls {
    /// Shakes hands with whoever connected; or says why it is not let in.
    pub fn accept(&self, mut socket: TcpStream, address: SocketAddr) -> Result<Connection, String> {
        let end = Instant::now() + LIMIT;
        let failed = |error: io::Error| match error.kind() {
            io::ErrorKind::WouldBlock | io::ErrorKind::TimedOut => "the handshake took too long".to_owned(),
            io::ErrorKind::UnexpectedEof => "it hung up during the handshake".to_owned(),
            _ => error.to_string(),
        };
        // A handshake is several short messages, and each would wait for the other side's word that it has the one before.
        socket.set_nodelay(true).map_err(failed)?;
        let mut session = ServerConnection::new(self.config.clone()).map_err(|e| e.to_string())?;
        while session.is_handshaking() {
            flush(
                &mut session,
                &mut Timed {
                    socket: &mut socket,
                    end,
                },
            )
            .map_err(failed)?;
            if !session.wants_read() {
                continue;
            }
            match session
                .read_tls(&mut Timed {
                    socket: &mut socket,
                    end,
                })
                .map_err(failed)?
            {
                0 => return Err("it hung up during the handshake".into()),
                _ => {
                    if let Err(error) = session.process_new_packets() {
                        // The alert tells the client why; whether it listens is its own matter.
                        let _ = flush(
                            &mut session,
                            &mut Timed {
                                socket: &mut socket,
                                end,
                            },
                        );
                        return Err(error.to_string());
                    }
                }
            }
        }
        let certificate = session.peer_certificates().and_then(|chain| chain.first());
        let name = certificate
            .and_then(name::of_certificate)
            .ok_or("its certificate has no name that can be read")?;
        let welcome: Result<&[u8], String> = match self.allows(&name) {
            true => Ok(&[1]),
            false => Err(format!("{name} is not among the allowed names")),
        };
        match &welcome {
            Ok(byte) => session.writer().write_all(byte).map_err(failed)?,
            Err(_) => session.send_close_notify(),
        }
        flush(
            &mut session,
            &mut Timed {
                socket: &mut socket,
                end,
            },
        )
        .map_err(failed)?;
        welcome?;
        let ready = socket
            .set_read_timeout(None)
            .and_then(|()| socket.set_write_timeout(None))
            // A peer whose host is gone is noticed in the end, also if it asked for no pings.
            .and_then(|()| Ok(rustix::net::sockopt::set_socket_keepalive(&socket, true)?))
            .and_then(|()| stream::split(session, socket));
        let (reader, writer, socket) = ready.map_err(failed)?;
        Ok(Connection {
            direct: None,
            reader: Box::new(reader),
            writer: Box::new(writer),
            socket,
            peer: Peer::Remote { address, name },
        })
    }
}

fn flush(session: &mut ServerConnection, to: &mut impl Write) -> io::Result<()> {
    while session.wants_write() {
        session.write_tls(to)?;
    }
    Ok(())
}

/// A socket that is given up at one moment, however often it is read from or written to until then.
struct Timed<'a> {
    socket: &'a mut TcpStream,
    end: Instant,
}

impl Timed<'_> {
    fn left(&self) -> io::Result<Option<Duration>> {
        let left = self.end.saturating_duration_since(Instant::now());
        if left.is_zero() {
            Err(io::ErrorKind::TimedOut.into())
        } else {
            Ok(Some(left))
        }
    }
}

impl Read for Timed<'_> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        self.socket.set_read_timeout(self.left()?)?;
        self.socket.read(buffer)
    }
}

impl Write for Timed<'_> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.socket.set_write_timeout(self.left()?)?;
        self.socket.write(bytes)
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::net::TcpListener;

    #[test]
    fn the_oldest_handshake_makes_room() {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let handshakes = Arc::new(Handshakes::default());
        let mut kept = Vec::new();
        for _ in 0..=MAX_AT_A_TIME {
            let client = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
            let (ours, _) = listener.accept().unwrap();
            let place = handshakes.enter(&ours).unwrap();
            kept.push((client, ours, place));
        }
        assert_eq!(kept[0].0.read(&mut [0]).unwrap(), 0, "the first is hung up on");
        kept[1].0.set_nonblocking(true).unwrap();
        assert!(kept[1].0.read(&mut [0]).is_err(), "the second is not");
        drop(kept);
        assert!(handshakes.going_on.lock().unwrap().1.is_empty());
    }
}
