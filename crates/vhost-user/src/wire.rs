//! The socket of a front end: messages are put together from whatever pieces come, with their descriptors. No call ever blocks.

use std::io::IoSliceMut;
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::net::UnixStream;

use rustix::io::Errno;
use rustix::net::{
    RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, ReturnFlags, SendFlags, recvmsg, send,
};

use crate::Error;
use crate::message::{HEADER_LEN, Header, MAX_PAYLOAD, MAX_REGIONS, answer};

pub(crate) struct Wire {
    socket: UnixStream,
    bytes: [u8; HEADER_LEN + MAX_PAYLOAD],
    filled: usize,
    /// Once it is whole.
    header: Option<Header>,
    descriptors: Vec<OwnedFd>,
}

/// A message as it came.
pub(crate) struct Message {
    pub header: Header,
    pub payload: Vec<u8>,
    pub descriptors: Vec<OwnedFd>,
}

impl Wire {
    pub fn new(socket: UnixStream) -> Self {
        Self {
            socket,
            bytes: [0; HEADER_LEN + MAX_PAYLOAD],
            filled: 0,
            header: None,
            descriptors: Vec::new(),
        }
    }

    pub fn socket(&self) -> BorrowedFd<'_> {
        self.socket.as_fd()
    }

    /// The next message, if all of it is there. No byte behind it is read, so that its descriptors are its own.
    pub fn next(&mut self) -> Result<Option<Message>, Error> {
        loop {
            let wanted = HEADER_LEN + self.header.map_or(0, |header| header.len);
            if self.filled < wanted {
                if !self.fill(wanted)? {
                    return Ok(None);
                }
                continue;
            }
            let Some(header) = self.header else {
                let mut bytes = [0; HEADER_LEN];
                bytes.copy_from_slice(&self.bytes[..HEADER_LEN]);
                self.header = Some(Header::parse(&bytes)?);
                continue;
            };
            (self.filled, self.header) = (0, None);
            return Ok(Some(Message {
                header,
                payload: self.bytes[HEADER_LEN..wanted].to_vec(),
                descriptors: std::mem::take(&mut self.descriptors),
            }));
        }
    }

    /// Reads towards `wanted` bytes in all. False if none are there.
    fn fill(&mut self, wanted: usize) -> Result<bool, Error> {
        let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(MAX_REGIONS))];
        let mut control = RecvAncillaryBuffer::new(&mut space);
        let mut parts = [IoSliceMut::new(&mut self.bytes[self.filled..wanted])];
        let flags = RecvFlags::DONTWAIT | RecvFlags::CMSG_CLOEXEC;
        let received = match recvmsg(&self.socket, &mut parts, &mut control, flags) {
            Ok(received) => received,
            Err(Errno::AGAIN | Errno::INTR) => return Ok(false),
            Err(Errno::CONNRESET) => return Err(Error::Closed),
            Err(error) => return Err(error.into()),
        };
        for message in control.drain() {
            if let RecvAncillaryMessage::ScmRights(descriptors) = message {
                self.descriptors.extend(descriptors);
            }
        }
        if received.flags.contains(ReturnFlags::CTRUNC) || self.descriptors.len() > MAX_REGIONS {
            return Err(Error::TooManyDescriptors);
        }
        match (received.bytes, self.filled) {
            (0, 0) => Err(Error::Closed),
            (0, _) => Err(Error::CutShort),
            (count, _) => {
                self.filled += count;
                Ok(true)
            }
        }
    }

    /// Answers a request.
    pub fn answer(&mut self, request: u32, payload: &[u8]) -> Result<(), Error> {
        let bytes = answer(request, payload);
        let flags = SendFlags::DONTWAIT | SendFlags::NOSIGNAL;
        match send(&self.socket, &bytes, flags) {
            Ok(count) if count == bytes.len() => Ok(()),
            // There is room for hundreds of answers.
            Ok(_) | Err(Errno::AGAIN | Errno::NOBUFS) => Err(Error::DeafFrontEnd),
            Err(Errno::PIPE | Errno::CONNRESET) => Err(Error::Closed),
            Err(error) => Err(error.into()),
        }
    }
}
