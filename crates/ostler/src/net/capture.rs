//! `ostler net capture`: frames of a network as a pcapng file, or into a pipe.

use std::fs::File;
use std::io::{self, Read, Write};
use std::net::Shutdown;
use std::os::fd::AsFd;
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};

use clap::Args;
use ostler_switchd::client::Client;
use rustix::event::{PollFd, PollFlags, poll};
use serde_json::json;

use super::interface_capture::{Interface, InterfaceCapture};
use super::model::Network;
use crate::failure::{Failure, say};
use crate::run::Signals;

/// Signals that end a capture.
const ENDING: &[libc::c_int] = &[libc::SIGINT, libc::SIGTERM, libc::SIGHUP];
/// Bytes of the longest frame, all of which are kept where nobody says otherwise.
const WHOLE: u32 = 1 << 17;

/// Options of `ostler net capture`.
#[derive(Args)]
pub struct CaptureArgs {
    /// The network.
    pub network: String,
    /// The port whose frames are copied, those that it receives and those that it sends. Without one: what all ports receive in a VLAN.
    #[arg(required_unless_present = "vlan")]
    port: Option<String>,
    /// The file; `-` is standard output, for a pipe into tcpdump or wireshark.
    #[arg(long, short, value_name = "FILE")]
    write: PathBuf,
    /// Only frames of this VLAN.
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u16).range(1..=4094))]
    vlan: Option<u16>,
    /// Bytes that are kept of each frame. [default: all]
    #[arg(long, value_name = "BYTES", value_parser = clap::value_parser!(u32).range(1..))]
    snaplen: Option<u32>,
    /// End after so many frames.
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u64).range(1..))]
    count: Option<u64>,
}

impl CaptureArgs {
    /// Of a switch of ours, which makes the stream itself.
    pub fn of_switch(&self, client: Client) -> Result<(), Failure> {
        let arguments = json!({
            "port": self.port, "vlan": self.vlan, "snaplen": self.snaplen, "count": self.count,
        });
        let signals = take_signals()?;
        let (stream, start) = client.capture(arguments).map_err(Failure::bad_input)?;
        let mut file = self.open()?;
        let copied = file
            .write_all(&start)
            .and_then(|()| copy(stream, &mut *file, &signals));
        self.ended(copied)
    }

    /// Of ports that are interfaces of the host.
    pub fn of_interfaces(&self, network: &Network) -> Result<(), Failure> {
        let ports: Vec<_> = match &self.port {
            None => network.ports.iter().collect(),
            Some(name) => vec![network.port(name).ok_or_else(|| {
                Failure::bad_input(format!(
                    "there is no port \"{name}\"; `ostler net port list {}` shows its ports",
                    network.name
                ))
            })?],
        };
        let signals = take_signals()?;
        let interfaces = ports.into_iter().map(|port| Interface {
            name: port.name.clone(),
            pvid: port.vlans.as_ref().and_then(|vlans| vlans.pvid),
        });
        let snaplen = self.snaplen.unwrap_or(WHOLE).min(WHOLE);
        let mut capture = InterfaceCapture::open(interfaces, snaplen)?;
        capture.vlan = self.vlan;
        capture.count = self.count;
        // Each frame once.
        capture.received_only = self.port.is_none();
        let mut file = self.open()?;
        let copied = capture.run(&mut *file, &signals);
        self.ended(copied)
    }

    fn to_pipe(&self) -> bool {
        self.write == Path::new("-")
    }

    fn open(&self) -> Result<Box<dyn Write>, Failure> {
        if self.to_pipe() {
            return Ok(Box::new(io::stdout()));
        }
        let file = File::create(&self.write).map_err(|error| self.not_written(error))?;
        say(format_args!("ostler: capturing; end it with Ctrl-C"));
        Ok(Box::new(file))
    }

    fn not_written(&self, error: io::Error) -> Failure {
        Failure::failed(format!(
            "cannot write the capture \"{}\": {error}",
            self.write.display()
        ))
    }

    fn ended(&self, copied: io::Result<()>) -> Result<(), Failure> {
        match copied {
            // A reader that went away has seen enough.
            Err(error) if self.to_pipe() && error.kind() == io::ErrorKind::BrokenPipe => Ok(()),
            copied => copied.map_err(|error| self.not_written(error)),
        }
    }
}

fn take_signals() -> Result<Signals, Failure> {
    Signals::take(ENDING).map_err(|e| Failure::failed(format!("cannot take signals: {e}")))
}

/// Copies the stream to its end. A signal ends the capture, and the rest of it still comes.
fn copy(mut stream: UnixStream, file: &mut dyn Write, signals: &Signals) -> io::Result<()> {
    let mut bytes = vec![0; 256 << 10];
    let mut ended = false;
    loop {
        let mut events = [
            PollFd::from_borrowed_fd(stream.as_fd(), PollFlags::IN),
            PollFd::from_borrowed_fd(signals.as_fd(), PollFlags::IN),
        ];
        let watched = if ended { &mut events[..1] } else { &mut events[..] };
        match poll(watched, None) {
            Ok(_) | Err(rustix::io::Errno::INTR) => {}
            Err(error) => return Err(error.into()),
        }
        let [came, signal] = events.map(|event| !event.revents().is_empty());
        if signal && !ended && signals.next().is_some() {
            ended = true;
            stream.shutdown(Shutdown::Write)?;
        }
        if came {
            match stream.read(&mut bytes)? {
                0 => return file.flush(),
                count => {
                    file.write_all(&bytes[..count])?;
                    file.flush()?;
                }
            }
        }
    }
}
