//! `ostler net capture`: frames of a switch as a pcapng file, or into a pipe.

use std::fs::File;
use std::io::{self, Read, Write};
use std::net::Shutdown;
use std::os::fd::AsFd;
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use clap::Args;
use ostler_switchd::client::Client;
use rustix::event::{PollFd, PollFlags, poll};
use serde_json::json;

use crate::failure::{Failure, say};
use crate::run::Signals;

/// Signals that end a capture.
const ENDING: &[libc::c_int] = &[libc::SIGINT, libc::SIGTERM, libc::SIGHUP];

/// Options of `ostler net capture`.
#[derive(Args)]
pub struct CaptureArgs {
    /// The port whose frames are copied, those that it receives and those that it sends. Without one: what all ports receive in a VLAN.
    #[arg(required_unless_present = "vlan")]
    port: Option<String>,
    /// The file; `-` is standard output, for a pipe into tcpdump or wireshark.
    #[arg(long, short, value_name = "FILE")]
    write: PathBuf,
    /// Only frames of this VLAN.
    #[arg(long, value_name = "N")]
    vlan: Option<u16>,
    /// Bytes that are kept of each frame. [default: all]
    #[arg(long, value_name = "BYTES")]
    snaplen: Option<u32>,
    /// End after so many frames.
    #[arg(long, value_name = "N")]
    count: Option<u64>,
}

/// Captures until its end.
pub fn run(args: CaptureArgs, client: Client) -> Result<ExitCode, Failure> {
    let arguments = json!({
        "port": args.port, "vlan": args.vlan, "snaplen": args.snaplen, "count": args.count,
    });
    let signals = Signals::take(ENDING).map_err(|e| Failure::failed(format!("cannot take signals: {e}")))?;
    let (stream, start) = client.capture(arguments).map_err(Failure::bad_input)?;
    let to_pipe = args.write == Path::new("-");
    let written = |error: io::Error| {
        Failure::failed(format!(
            "cannot write the capture \"{}\": {error}",
            args.write.display()
        ))
    };
    let mut file: Box<dyn Write> = if to_pipe {
        Box::new(io::stdout())
    } else {
        Box::new(File::create(&args.write).map_err(written)?)
    };
    if !to_pipe {
        say(format_args!("ostler: capturing; end it with Ctrl-C"));
    }
    let copied = file
        .write_all(&start)
        .and_then(|()| copy(stream, &mut *file, &signals));
    match copied {
        // A reader that went away has seen enough.
        Err(error) if to_pipe && error.kind() == io::ErrorKind::BrokenPipe => Ok(ExitCode::SUCCESS),
        copied => copied.map(|()| ExitCode::SUCCESS).map_err(written),
    }
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
