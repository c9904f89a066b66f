//! A guest's console: at this terminal, or what it has said.

use std::io::{Read, Write};
use std::os::fd::AsFd;
use std::process::ExitCode;

use ostler_libvirt::procedures::{DomainOpenConsole, Procedure};
use ostler_libvirt::types::{Domain, OpenConsoleArgs};
use ostler_libvirt::{Encode, Kind, Status, XdrError};
use rustix::event::{PollFd, PollFlags, Timespec, poll};

use super::client::{Client, error_of};
use crate::failure::{Failure, say};
use crate::run::{LEAVE_KEY, RawTerminal, Signals};

/// Flag of DOMAIN_OPEN_CONSOLE: take it from who has it.
const FORCE: u32 = 1;
/// So long after the last thing that it said, a console has said everything.
const SILENCE: Timespec = Timespec {
    tv_sec: 1,
    tv_nsec: 0,
};
/// Bytes of input in one packet.
const CHUNK: usize = 4096;

/// What goes in a stream: bytes as they are.
struct Bytes<'a>(&'a [u8]);

impl Encode for Bytes<'_> {
    fn encode(&self, output: &mut Vec<u8>) -> Result<(), XdrError> {
        output.extend_from_slice(self.0);
        Ok(())
    }
}

fn open(client: &mut Client, domain: Domain, force: bool) -> Result<(), Failure> {
    let flags = if force { FORCE } else { 0 };
    client.call::<DomainOpenConsole>(&OpenConsoleArgs {
        domain,
        device: None,
        flags,
    })
}

/// Tells the other end that nothing more will come.
fn finish(client: &mut Client) -> Result<(), Failure> {
    client.send(Kind::Stream, DomainOpenConsole::NUMBER, Status::Ok, &())
}

/// Passes one packet on; false at the end.
fn pass(client: &mut Client, to: &mut impl Write) -> Result<bool, Failure> {
    let message = client.receive()?;
    match (message.header.kind, message.header.status) {
        (Kind::Stream, Status::Continue) if !message.payload.is_empty() => {
            // A reader that went away has seen enough.
            Ok(to.write_all(&message.payload).and_then(|()| to.flush()).is_ok())
        }
        (Kind::Stream, Status::Error) => Err(error_of(&message.payload)?.into()),
        (Kind::Stream, _) => Ok(false),
        _ => Ok(true),
    }
}

/// Connects this terminal to the console until the guest ends, or the key to leave is pressed.
pub fn attend(mut client: Client, domain: Domain, force: bool) -> Result<ExitCode, Failure> {
    let failed = |e: std::io::Error| Failure::failed(format!("cannot prepare the terminal: {e}"));
    // Blocked here, and so in the thread below: they end the wait, and the terminal comes back.
    let signals =
        Signals::take(&[libc::SIGTERM, libc::SIGINT, libc::SIGHUP, libc::SIGQUIT]).map_err(failed)?;
    let name = super::plain(&domain.name);
    open(&mut client, domain, force)?;
    let terminal = RawTerminal::enter().map_err(failed)?;
    if terminal.is_some() {
        say(format_args!("ostler: console of {name}; Ctrl-] leaves it\r"));
    }
    let mut other = client.another()?;
    std::thread::Builder::new()
        .name("input".into())
        // The connection's end is the other thread's to tell of.
        .spawn(move || drop(pass_input(&mut other)))
        .map_err(failed)?;
    let mut output = std::io::stdout();
    loop {
        let mut ready = [
            PollFd::new(&signals, PollFlags::IN),
            PollFd::from_borrowed_fd(client.socket().as_fd(), PollFlags::IN),
        ];
        // A signal that ends the wait is found by the loop.
        let _ = poll(&mut ready, None);
        let readable = !ready[1].revents().is_empty();
        if signals.next().is_some() || readable && !pass(&mut client, &mut output)? {
            break;
        }
    }
    Ok(ExitCode::SUCCESS)
}

fn pass_input(client: &mut Client) -> Result<(), Failure> {
    let mut input = std::io::stdin();
    let mut chunk = [0; CHUNK];
    loop {
        let count = input.read(&mut chunk).unwrap_or(0);
        let typed = &chunk[..count];
        let end = typed.iter().position(|byte| *byte == LEAVE_KEY).unwrap_or(count);
        if end > 0 {
            client.send(
                Kind::Stream,
                DomainOpenConsole::NUMBER,
                Status::Continue,
                &Bytes(&typed[..end]),
            )?;
        }
        if count == 0 || end < count {
            return finish(client);
        }
    }
}

/// Writes what the console has said, and if `follow` what it says, to `to`.
pub fn show(
    mut client: Client,
    domain: Domain,
    follow: bool,
    to: &mut impl Write,
) -> Result<ExitCode, Failure> {
    open(&mut client, domain, false)?;
    loop {
        let limit = (!follow).then_some(&SILENCE);
        let socket = client.socket().as_fd();
        let ready = poll(&mut [PollFd::from_borrowed_fd(socket, PollFlags::IN)], limit);
        match ready {
            Err(rustix::io::Errno::INTR) => {}
            Ok(0) | Err(_) => break,
            Ok(_) => {
                if !pass(&mut client, to)? {
                    break;
                }
            }
        }
    }
    Ok(ExitCode::SUCCESS)
}
