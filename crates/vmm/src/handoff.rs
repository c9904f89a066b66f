//! The hand-over of a guest to its process: the specification and the descriptors that it names.
//!
//! One stream socket carries, in this order, a header (magic, length of the JSON text, number of descriptors, each a
//! little-endian word), the JSON text, and the descriptors as `SCM_RIGHTS` in batches, each on one byte. Afterwards the
//! socket is the [`crate::link`] between the two processes.

use std::io::{IoSlice, IoSliceMut, Read, Write};
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::net::UnixStream;

use rustix::net::{
    RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, ReturnFlags, SendAncillaryBuffer,
    SendAncillaryMessage, SendFlags, recvmsg, sendmsg,
};

use crate::Error;
use crate::spec::{GuestSpec, Slot};

/// First word of a hand-over.
const MAGIC: u32 = u32::from_le_bytes(*b"OSTH");
/// Longest specification, in bytes.
const MAX_SPEC: u32 = 4 << 20;
/// Most descriptors of a guest.
const MAX_DESCRIPTORS: u32 = 1024;
/// Descriptors sent with one byte; Linux takes at most 253.
const BATCH: usize = 64;

/// The descriptors that were handed over.
#[derive(Debug, Default)]
pub struct Descriptors(Vec<OwnedFd>);

impl Descriptors {
    /// An empty set.
    pub fn new() -> Self {
        Self::default()
    }

    /// Adds a descriptor and tells its slot.
    pub fn push(&mut self, descriptor: impl Into<OwnedFd>) -> Slot {
        self.0.push(descriptor.into());
        Slot(self.0.len() as u32 - 1)
    }

    /// How many there are.
    pub fn len(&self) -> usize {
        self.0.len()
    }

    /// True if there are none.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Another descriptor of what `slot` names. The original stays for the guest's next reset.
    pub fn duplicate(&self, slot: Slot) -> Result<OwnedFd, Error> {
        self.borrow(slot)?
            .try_clone_to_owned()
            .map_err(|source| Error::host("duplicate a descriptor", source))
    }

    /// The descriptor in `slot`.
    pub fn borrow(&self, slot: Slot) -> Result<BorrowedFd<'_>, Error> {
        self.0
            .get(slot.0 as usize)
            .map(|descriptor| descriptor.as_fd())
            .ok_or_else(|| Error::Protocol(format!("no descriptor for slot {}", slot.0)))
    }
}

/// Sends `spec` and its descriptors.
pub fn send(socket: &mut UnixStream, spec: &GuestSpec, descriptors: &Descriptors) -> Result<(), Error> {
    let text =
        serde_json::to_vec(spec).map_err(|e| Error::Protocol(format!("no sendable specification ({e})")))?;
    send_text(socket, &text, &descriptors.0)
}

/// Sends a text and its descriptors, whatever they are for.
pub fn send_text(socket: &mut UnixStream, text: &[u8], descriptors: &[OwnedFd]) -> Result<(), Error> {
    let refused = |source| Error::host("hand something to its process", source);
    let mut message = Vec::with_capacity(12 + text.len());
    for word in [MAGIC, text.len() as u32, descriptors.len() as u32] {
        message.extend(word.to_le_bytes());
    }
    message.extend(text);
    socket.write_all(&message).map_err(refused)?;
    for batch in descriptors.chunks(BATCH) {
        let borrowed: Vec<_> = batch.iter().map(AsFd::as_fd).collect();
        let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(BATCH))];
        let mut ancillary = SendAncillaryBuffer::new(&mut space);
        if !ancillary.push(SendAncillaryMessage::ScmRights(&borrowed)) {
            return Err(Error::Protocol("more descriptors than a message holds".into()));
        }
        sendmsg(
            &*socket,
            &[IoSlice::new(&[0])],
            &mut ancillary,
            SendFlags::NOSIGNAL,
        )
        .map_err(|e| refused(e.into()))?;
    }
    Ok(())
}

/// Receives what [`send`] sent, and checks it.
pub fn receive(socket: &mut UnixStream) -> Result<(GuestSpec, Descriptors), Error> {
    let (text, descriptors) = receive_text(socket)?;
    let spec: GuestSpec =
        serde_json::from_slice(&text).map_err(|e| Error::Protocol(format!("a bad specification ({e})")))?;
    spec.validate(descriptors.len())?;
    Ok((spec, Descriptors(descriptors)))
}

/// Receives what [`send_text`] sent.
pub fn receive_text(socket: &mut UnixStream) -> Result<(Vec<u8>, Vec<OwnedFd>), Error> {
    let refused = |source| Error::host("receive a specification", source);
    let mut header = [0; 12];
    socket.read_exact(&mut header).map_err(refused)?;
    let word = |n: usize| u32::from_le_bytes([header[n], header[n + 1], header[n + 2], header[n + 3]]);
    let (magic, length, count) = (word(0), word(4), word(8));
    if magic != MAGIC || length > MAX_SPEC || count > MAX_DESCRIPTORS {
        return Err(Error::Protocol("something that is no specification".into()));
    }
    let mut text = vec![0; length as usize];
    socket.read_exact(&mut text).map_err(refused)?;
    let mut descriptors = Vec::new();
    while descriptors.len() < count as usize {
        receive_batch(socket, &mut descriptors)?;
    }
    Ok((text, descriptors))
}

fn receive_batch(socket: &UnixStream, descriptors: &mut Vec<OwnedFd>) -> Result<(), Error> {
    let mut byte = [0];
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(BATCH))];
    let mut ancillary = RecvAncillaryBuffer::new(&mut space);
    let got = recvmsg(
        socket,
        &mut [IoSliceMut::new(&mut byte)],
        &mut ancillary,
        RecvFlags::CMSG_CLOEXEC,
    )
    .map_err(|e| Error::host("receive the guest's descriptors", e))?;
    let before = descriptors.len();
    for message in ancillary.drain() {
        if let RecvAncillaryMessage::ScmRights(rights) = message {
            descriptors.extend(rights);
        }
    }
    if got.bytes == 0 || got.flags.contains(ReturnFlags::CTRUNC) || descriptors.len() == before {
        return Err(Error::Protocol("fewer descriptors than it named".into()));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::spec::tests::{kernel, spec};
    use std::fs::File;
    use std::io::{Seek, SeekFrom};

    #[test]
    fn specification_and_descriptors_arrive() {
        let (mut ours, mut theirs) = UnixStream::pair().unwrap();
        let mut descriptors = Descriptors::new();
        for number in 0..150u32 {
            let mut file = tempfile::tempfile().unwrap();
            file.write_all(&number.to_le_bytes()).unwrap();
            assert_eq!(descriptors.push(file), Slot(number));
        }
        let mut sent = spec();
        sent.boot = kernel(149, "");
        send(&mut ours, &sent, &descriptors).unwrap();
        let (got, descriptors) = receive(&mut theirs).unwrap();
        assert_eq!(got, sent);
        assert_eq!(descriptors.len(), 150);
        let mut file = File::from(descriptors.duplicate(Slot(149)).unwrap());
        file.seek(SeekFrom::Start(0)).unwrap();
        let mut bytes = [0; 4];
        file.read_exact(&mut bytes).unwrap();
        assert_eq!(u32::from_le_bytes(bytes), 149);
        assert!(descriptors.duplicate(Slot(150)).is_err());
    }

    #[test]
    fn garbage_and_missing_descriptors_are_refused() {
        let (mut ours, mut theirs) = UnixStream::pair().unwrap();
        ours.write_all(b"GET / HTTP/1.1\r\n\r\n").unwrap();
        assert!(matches!(receive(&mut theirs), Err(Error::Protocol(_))));

        let (mut ours, mut theirs) = UnixStream::pair().unwrap();
        let text = serde_json::to_vec(&spec()).unwrap();
        for word in [MAGIC, text.len() as u32, 1] {
            ours.write_all(&word.to_le_bytes()).unwrap();
        }
        ours.write_all(&text).unwrap();
        ours.write_all(&[0]).unwrap();
        assert!(matches!(receive(&mut theirs), Err(Error::Protocol(_))));
    }
}
