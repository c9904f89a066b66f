//! The socket: one request at a time, answered by an acknowledgement or a dump.

use std::io;
use std::os::fd::{AsRawFd, OwnedFd};
use std::time::Duration;

use rustix::net::{AddressFamily, RecvFlags, SendFlags, SocketFlags, SocketType};

use super::codec::{HEADER, Request, attribute, messages, text, u32_of};
use super::constants::{NLM_F_DUMP, NLM_F_DUMP_INTR, NLMSG_DONE, NLMSG_ERROR, NLMSGERR_ATTR_MSG};
use crate::{Error, Kind};

/// Longer than any datagram of a dump (32 KiB).
const BUFFER: usize = 1 << 16;
/// How long the kernel may take. It answers while the call lasts; this is for a kernel that is broken.
const PATIENCE: Duration = Duration::from_secs(10);
/// How often a dump is begun anew because what it lists changed meanwhile.
const DUMPS: usize = 10;

/// A socket of the network namespace in which it was opened.
pub(crate) struct Netlink {
    socket: OwnedFd,
    sequence: u32,
    buffer: Vec<u8>,
    /// Lets the request after so many others fail, once.
    #[cfg(test)]
    pub(crate) fail_after: Option<usize>,
}

impl Netlink {
    pub(crate) fn open() -> Result<Self, Error> {
        let failed = || Error::io("opening a netlink socket");
        let socket = rustix::net::socket_with(
            AddressFamily::NETLINK,
            SocketType::RAW,
            SocketFlags::CLOEXEC,
            // NETLINK_ROUTE is number 0.
            None,
        )
        .map_err(|e| failed()(e.into()))?;
        rustix::net::sockopt::set_socket_timeout(
            &socket,
            rustix::net::sockopt::Timeout::Recv,
            Some(PATIENCE),
        )
        .map_err(|e| failed()(e.into()))?;
        // The kernel's own words with an error, and errors without the request in them. Kernels without these do without.
        for option in [libc::NETLINK_EXT_ACK, libc::NETLINK_CAP_ACK] {
            set_option(&socket, option);
        }
        Ok(Self {
            socket,
            sequence: 0,
            buffer: vec![0; BUFFER],
            #[cfg(test)]
            fail_after: None,
        })
    }

    /// A change.
    pub(crate) fn change(&mut self, what: &str, request: &Request) -> Result<(), Error> {
        #[cfg(test)]
        if let Some(left) = self.fail_after {
            self.fail_after = left.checked_sub(1);
            if left == 0 {
                return Err(Error::Refused {
                    what: what.into(),
                    source: io::Error::other("injected"),
                });
            }
        }
        self.send(request)?;
        loop {
            let (answers, _) = self.receive()?;
            for answer in answers {
                if let Answer::End(result) = answer {
                    return result.map_err(|source| Error::Refused {
                        what: what.into(),
                        source,
                    });
                }
            }
        }
    }

    /// All objects of a kind: `read` gets each message's body.
    pub(crate) fn dump<T>(
        &mut self,
        what: &str,
        kind: u16,
        request: impl Fn(u16, u16) -> Request,
        mut read: impl FnMut(&[u8]) -> Option<T>,
    ) -> Result<Vec<T>, Error> {
        for _ in 0..DUMPS {
            self.send(&request(kind, NLM_F_DUMP))?;
            let mut found = Vec::new();
            let mut changed = false;
            let result = 'dump: loop {
                let (answers, interrupted) = self.receive()?;
                changed |= interrupted;
                for answer in answers {
                    match answer {
                        Answer::End(result) => break 'dump result,
                        Answer::Object(body) => found.extend(read(&body)),
                    }
                }
            };
            match result {
                Ok(()) if !changed => return Ok(found),
                Ok(()) => {}
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(source) => {
                    return Err(Error::Refused {
                        what: what.into(),
                        source,
                    });
                }
            }
        }
        Err(Error::Answer {
            who: Kind::Kernel,
            why: format!("{what}: it changes all the time; try again"),
        })
    }

    fn send(&mut self, request: &Request) -> Result<(), Error> {
        self.sequence = self.sequence.wrapping_add(1);
        let bytes = request.finish(self.sequence);
        // Without an address it goes to the kernel.
        rustix::net::send(&self.socket, &bytes, SendFlags::empty())
            .map(drop)
            .map_err(|e| Error::io("asking the kernel by netlink")(e.into()))
    }

    /// The next datagram that belongs to the request that was sent last, and whether its dump was disturbed.
    fn receive(&mut self) -> Result<(Vec<Answer>, bool), Error> {
        let flags = RecvFlags::TRUNC;
        let (len, _) =
            rustix::io::retry_on_intr(|| rustix::net::recv(&self.socket, self.buffer.as_mut_slice(), flags))
                .map_err(|e| Error::io("waiting for the kernel's answer by netlink")(e.into()))?;
        let datagram = self.buffer.get(..len).ok_or_else(|| Error::Answer {
            who: Kind::Kernel,
            why: format!("a datagram of {len} bytes"),
        })?;
        let mut answers = Vec::new();
        let mut interrupted = false;
        for message in messages(datagram).filter(|m| m.sequence == self.sequence) {
            interrupted |= message.flags & NLM_F_DUMP_INTR != 0;
            answers.push(match message.kind {
                NLMSG_ERROR | NLMSG_DONE => Answer::End(verdict(message.kind, message.body)),
                _ => Answer::Object(message.body.to_vec()),
            });
        }
        Ok((answers, interrupted))
    }
}

enum Answer {
    Object(Vec<u8>),
    End(io::Result<()>),
}

/// What an acknowledgement or the end of a dump says: an error number, and the kernel's words where it has some.
fn verdict(kind: u16, body: &[u8]) -> io::Result<()> {
    let number = u32_of(body).map_or(0, |n| n as i32);
    if number >= 0 {
        return Ok(());
    }
    let error = io::Error::from_raw_os_error(number.wrapping_neg());
    let attributes = if kind == NLMSG_ERROR { 4 + HEADER } else { 4 };
    let words = body
        .get(attributes..)
        .and_then(|a| attribute(a, NLMSGERR_ATTR_MSG));
    match words.map(text) {
        Some(words) if !words.is_empty() => Err(Told::wrap(error, words)),
        _ => Err(error),
    }
}

/// An error number with the kernel's words.
#[derive(Debug)]
pub(crate) struct Told {
    pub(crate) number: io::Error,
    words: String,
}

impl Told {
    fn wrap(number: io::Error, words: String) -> io::Error {
        io::Error::new(number.kind(), Self { number, words })
    }
}

impl std::fmt::Display for Told {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{} ({})", self.number, self.words)
    }
}

impl std::error::Error for Told {}

fn set_option(socket: &OwnedFd, option: libc::c_int) {
    let on: libc::c_int = 1;
    // SAFETY: the option takes an int, which is on this frame, with its size.
    unsafe {
        libc::setsockopt(
            socket.as_raw_fd(),
            libc::SOL_NETLINK,
            option,
            (&raw const on).cast(),
            size_of::<libc::c_int>() as libc::socklen_t,
        )
    };
}
