//! Starting a guest's process and waiting until the guest runs.

use std::io;
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixStream;
use std::os::unix::process::CommandExt;
use std::process::{Child, Command, Stdio};

use ostler_vmm::handoff;
use ostler_vmm::link::{FromGuest, Outcome, Receiver};

use super::open::Opened;
use crate::failure::Failure;

/// A guest's process whose guest runs.
pub struct Launched {
    pub child: Child,
    /// To the process.
    pub link: UnixStream,
    /// From the process.
    pub receiver: Receiver,
}

/// Starts the process of the guest that `opened` describes. The descriptors are handed over, and closed here.
pub fn launch(opened: &mut Opened) -> Result<Launched, Failure> {
    let refused = |error: io::Error| Failure::failed(format!("cannot start the guest's process: {error}"));
    let (mut link, theirs) = UnixStream::pair().map_err(refused)?;
    let child = Command::new("/proc/self/exe")
        .arg0("ostler")
        .arg("vmm")
        .arg("--")
        .arg(&opened.spec.name)
        .stdin(Stdio::from(OwnedFd::from(theirs)))
        .stdout(Stdio::null())
        // Keys that send signals in the terminal are for this process, which decides what the guest hears of them.
        .process_group(0)
        .spawn()
        .map_err(refused)?;
    let receiver = Receiver::new(link.try_clone().map_err(refused)?);
    let mut launched = Launched {
        child,
        link: link.try_clone().map_err(refused)?,
        receiver,
    };
    let handed = handoff::send(&mut link, &opened.spec, &opened.descriptors);
    opened.descriptors = Default::default();
    // A process that could not take it over says why itself, or died.
    let answer = launched.receiver.receive::<FromGuest>();
    match (handed, answer) {
        (Ok(()), Ok(Some(FromGuest::Started))) => Ok(launched),
        (_, Ok(Some(FromGuest::Refused { message }))) => Err(launched.give_up(Failure::bad_input(message))),
        (_, Ok(Some(FromGuest::Ended(Outcome::Failed { message })))) => {
            Err(launched.give_up(Failure::failed(message)))
        }
        (Err(error), _) => Err(launched.give_up(Failure::chained(&error))),
        (_, answer) => {
            let end = launched
                .child
                .wait()
                .map_or_else(|e| e.to_string(), |status| status.to_string());
            Err(Failure::failed(format!(
                "the guest's process ended before its guest ran: {answer:?}, {end}"
            )))
        }
    }
}

impl Launched {
    /// Sees the process to its end; `failure` is what the user is told.
    fn give_up(mut self, failure: Failure) -> Failure {
        let _ = self.child.kill();
        let _ = self.child.wait();
        failure
    }
}
