//! A TCP connection from guest to guest.

use std::io::{self, Read, Write};
use std::net::{TcpListener, TcpStream};
use std::thread;
use std::time::{Duration, Instant};

use crate::report;

/// Bytes of one call.
const CHUNK: usize = 256 << 10;
/// How long somebody who does not listen yet is waited for.
const PATIENCE: Duration = Duration::from_secs(60);

/// Takes one connection and says how many bytes came, and how long they took.
pub fn receive(port: &str) -> Result<(), String> {
    let listener =
        TcpListener::bind(format!("0.0.0.0:{port}")).map_err(|e| format!("listening at {port}: {e}"))?;
    let take = || {
        let (mut stream, _) = listener.accept()?;
        let (start, mut chunk, mut total) = (Instant::now(), vec![0; CHUNK], 0u64);
        loop {
            match stream.read(&mut chunk)? {
                0 => break,
                count => total += count as u64,
            }
        }
        report("received", total, start);
        Ok(())
    };
    take().map_err(|e: io::Error| format!("receiving: {e}"))
}

/// Connects, and sends for so long.
pub fn send(to: &str, seconds: u64) -> Result<(), String> {
    let start = Instant::now();
    let mut stream = loop {
        match TcpStream::connect(to) {
            Ok(stream) => break stream,
            Err(e) if start.elapsed() > PATIENCE => return Err(format!("connecting to {to}: {e}")),
            Err(_) => thread::sleep(Duration::from_millis(20)),
        }
    };
    let (start, chunk) = (Instant::now(), vec![0x5a; CHUNK]);
    while start.elapsed() < Duration::from_secs(seconds) {
        stream
            .write_all(&chunk)
            .map_err(|e| format!("sending to {to}: {e}"))?;
    }
    Ok(())
}
