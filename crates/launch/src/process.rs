//! Starting a guest's process and waiting until the guest runs.

use std::fs::File;
use std::io;
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixStream;
use std::os::unix::process::CommandExt;
use std::process::{Child, Command, Stdio};

use ostler_vmm::handoff::{self, Descriptors};
use ostler_vmm::link::{FromGuest, Outcome, Receiver};
use ostler_vmm::spec::GuestSpec;

use crate::Error;

/// A guest's process whose guest runs.
pub struct Started {
    /// The process.
    pub child: Child,
    /// To the process.
    pub link: UnixStream,
    /// From the process.
    pub receiver: Receiver,
}

/// The same as [`start_placed`], in no special place.
pub fn start(spec: &GuestSpec, descriptors: Descriptors, log: Option<File>) -> Result<Started, Error> {
    start_placed(spec, descriptors, log, |_| Ok(()))
}

/// Starts the process of the guest that `spec` describes; it has `log` as its standard error, or ours. The descriptors are handed
/// over, and closed here. `place` is given the process's number before it has anything of the guest, its memory neither.
pub fn start_placed(
    spec: &GuestSpec,
    descriptors: Descriptors,
    log: Option<File>,
    place: impl FnOnce(u32) -> Result<(), String>,
) -> Result<Started, Error> {
    let refused = |error: io::Error| Error::Failed(format!("cannot start the guest's process: {error}"));
    let (mut link, theirs) = UnixStream::pair().map_err(refused)?;
    let receiver = Receiver::new(link.try_clone().map_err(refused)?);
    let mut child = Command::new("/proc/self/exe")
        .arg0("ostler")
        .args(["vmm", "--"])
        .arg(&spec.name)
        .stdin(Stdio::from(OwnedFd::from(theirs)))
        .stdout(Stdio::null())
        .stderr(log.map_or_else(Stdio::inherit, Stdio::from))
        // Keys that send signals in the terminal are for this process, which decides what the guest hears of them.
        .process_group(0)
        .spawn()
        .map_err(refused)?;
    if let Err(why) = place(child.id()) {
        let _ = child.kill();
        let _ = child.wait();
        return Err(Error::Failed(why));
    }
    let handed = handoff::send(&mut link, spec, &descriptors);
    drop(descriptors);
    let mut started = Started {
        child,
        link,
        receiver,
    };
    // A process that could not take it over says why itself, or died.
    let answer = started.receiver.receive::<FromGuest>();
    match (handed, answer) {
        (Ok(()), Ok(Some(FromGuest::Started))) => Ok(started),
        (_, Ok(Some(FromGuest::Refused { message }))) => Err(started.give_up(Error::Input(message))),
        (_, Ok(Some(FromGuest::Ended(Outcome::Failed { message })))) => {
            Err(started.give_up(Error::Failed(message)))
        }
        (Err(error), _) => Err(started.give_up(Error::Failed(error.to_string()))),
        (_, answer) => {
            let end = started.child.wait();
            let end = end.map_or_else(|e| e.to_string(), |status| status.to_string());
            Err(Error::Failed(format!(
                "the guest's process ended before its guest ran: {answer:?}, {end}"
            )))
        }
    }
}

impl Started {
    /// Sees the process to its end; `why` is what the user is told.
    fn give_up(mut self, why: Error) -> Error {
        let _ = self.child.kill();
        let _ = self.child.wait();
        why
    }
}
