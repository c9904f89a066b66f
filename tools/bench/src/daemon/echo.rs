//! A server that answers every call with as many bytes as the daemon and does nothing else: what the socket and the two processes cost.

use std::io::{Read, Write};
use std::os::unix::net::UnixListener;
use std::path::Path;
use std::time::Duration;

use ostler_libvirt::procedures::{ConnectGetLibVersion, Procedure};
use ostler_libvirt::{Header, Kind, Message, Status};
use rustix::process::{Pid, Signal, kill_process};

use super::client::Client;
use super::work;
use crate::error::Error;

/// Bytes of a call without arguments: its length and six words.
const CALL: usize = 28;

/// Simple calls a second, one after the other, of a server in a process of its own.
pub(super) fn sequential(folder: &Path, span: Duration) -> Result<f64, Error> {
    let failed = |e| Error::Host("an echo server", e);
    let socket = folder.join("echo.sock");
    let listener = UnixListener::bind(&socket).map_err(failed)?;
    let server = fork_server(&listener).map_err(failed)?;
    let stream = std::os::unix::net::UnixStream::connect(&socket).map_err(failed)?;
    let rate = work::sequential(&mut Client::new(stream), span);
    let _ = kill_process(server, Signal::KILL);
    let _ = rustix::process::waitpid(Some(server), rustix::process::WaitOptions::empty());
    rate
}

/// A daemon is a process of its own, and so is this.
fn fork_server(listener: &UnixListener) -> std::io::Result<Pid> {
    let header = Header {
        program: ConnectGetLibVersion::PROGRAM,
        version: 1,
        procedure: ConnectGetLibVersion::NUMBER,
        kind: Kind::Reply,
        serial: 0,
        status: Status::Ok,
    };
    let answer = Message::new(header, &0u64)
        .map_err(std::io::Error::other)?
        .to_bytes();
    // SAFETY: this process has one thread when it measures on echo servers, so that the child can go on as it likes.
    match unsafe { libc::fork() } {
        -1 => Err(std::io::Error::last_os_error()),
        0 => {
            serve(listener, &answer);
            std::process::exit(0)
        }
        child => Pid::from_raw(child).ok_or_else(|| std::io::ErrorKind::InvalidData.into()),
    }
}

fn serve(listener: &UnixListener, answer: &[u8]) {
    let Ok((mut stream, _)) = listener.accept() else {
        return;
    };
    let mut call = [0; CALL];
    while stream.read_exact(&mut call).is_ok() && stream.write_all(answer).is_ok() {}
}
