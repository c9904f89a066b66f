//! TCP between two namespaces.

use std::io::{self, Read, Write};
use std::net::{TcpListener, TcpStream};
use std::thread;
use std::time::{Duration, Instant};

use super::space::{Space, until};
use crate::error::Error;

pub(crate) const PORT: u16 = 5001;
/// Bytes of one call.
const CHUNK: usize = 256 << 10;
/// How long a side waits for the other.
const PATIENCE: Duration = Duration::from_secs(20);

/// Which way the bytes go.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Way {
    /// From who connects.
    Up,
    /// To who connects.
    Down,
}

/// Gbit/s from one namespace to another.
pub(super) fn rate(from: &Space, to: &Space, span: Duration) -> Result<f64, Error> {
    let failed = |e| Error::Host("a stream of TCP", e);
    let listener = to
        .inside(|| TcpListener::bind((&*to.address(), PORT)))?
        .map_err(failed)?;
    let address = to.address();
    let mut stream = None;
    until("connecting from namespace to namespace", || {
        stream = from.inside(|| TcpStream::connect((&*address, PORT)))?.ok();
        Ok(stream.is_some())
    })?;
    let stream = stream.ok_or_else(|| failed(io::ErrorKind::NotConnected.into()))?;
    between(&listener, stream, Way::Up, span).map_err(failed)
}

/// Gbit/s that arrive, when bytes are sent for a while.
pub(super) fn between(
    listener: &TcpListener,
    client: TcpStream,
    way: Way,
    span: Duration,
) -> io::Result<f64> {
    let (server, _) = listener.accept()?;
    let (sender, receiver) = match way {
        Way::Up => (client, server),
        Way::Down => (server, client),
    };
    for stream in [&sender, &receiver] {
        stream.set_read_timeout(Some(PATIENCE))?;
        stream.set_write_timeout(Some(PATIENCE))?;
    }
    thread::scope(|scope| {
        let sends = scope.spawn(|| send(sender, span));
        let received = receive(receiver);
        sends
            .join()
            .unwrap_or_else(|_| Err(io::ErrorKind::Other.into()))?;
        received
    })
}

/// Sends for a while.
pub(crate) fn send(mut stream: TcpStream, span: Duration) -> io::Result<()> {
    let chunk = vec![0x5a; CHUNK];
    let start = Instant::now();
    while start.elapsed() < span {
        stream.write_all(&chunk)?;
    }
    stream.shutdown(std::net::Shutdown::Write)
}

/// Receives to the end: Gbit/s.
pub(crate) fn receive(mut stream: TcpStream) -> io::Result<f64> {
    let mut chunk = vec![0; CHUNK];
    let (mut total, start) = (0u64, Instant::now());
    loop {
        match stream.read(&mut chunk)? {
            0 => return Ok(total as f64 * 8.0 / 1e9 / start.elapsed().as_secs_f64()),
            count => total += count as u64,
        }
    }
}
