//! What passes through a plug: the guest's wishes for connections, and connections. A share's plug (virtio-fs) speaks the same, with
//! port 0.
//!
//! A plug is a pair of SEQPACKET sockets. A wish has 8 bytes: an id and the port, little-endian. An answer has 8 bytes too: the id,
//! and 0 with the connection beside it, or the error number of the connection that failed.

use std::io::{self, IoSlice, IoSliceMut};
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use rustix::net::{
    AddressFamily, RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, SendAncillaryBuffer,
    SendAncillaryMessage, SendFlags, SocketFlags, SocketType, recv, recvmsg, send, sendmsg, socketpair,
};

/// Bytes of a message.
const MESSAGE: usize = 8;

/// Both ends of a plug: that of whoever connects, and the guest's.
///
/// # Errors
/// If the host gives no sockets.
pub fn pair() -> io::Result<(OwnedFd, OwnedFd)> {
    Ok(socketpair(
        AddressFamily::UNIX,
        SocketType::SEQPACKET,
        SocketFlags::CLOEXEC,
        None,
    )?)
}

fn message(id: u32, value: u32) -> [u8; MESSAGE] {
    let mut bytes = [0; MESSAGE];
    bytes[..4].copy_from_slice(&id.to_le_bytes());
    bytes[4..].copy_from_slice(&value.to_le_bytes());
    bytes
}

fn words(bytes: [u8; MESSAGE]) -> (u32, u32) {
    let [a, b, c, d, e, f, g, h] = bytes;
    (u32::from_le_bytes([a, b, c, d]), u32::from_le_bytes([e, f, g, h]))
}

/// The other end is gone.
fn gone() -> io::Error {
    io::Error::new(io::ErrorKind::UnexpectedEof, "the other end of the plug is gone")
}

/// Waits for the guest's next wish: its id and the port. An error when the guest is gone.
pub fn wait_for_wish(plug: &OwnedFd) -> io::Result<(u32, u32)> {
    let mut bytes = [0; MESSAGE];
    loop {
        match recv(plug, &mut bytes, RecvFlags::empty()) {
            Ok((MESSAGE, _)) => return Ok(words(bytes)),
            Ok((0, _)) => return Err(gone()),
            Ok(_) | Err(rustix::io::Errno::INTR) => {}
            Err(error) => return Err(error.into()),
        }
    }
}

/// Answers the wish `id` by a connection or an error number.
///
/// # Errors
/// If the guest is gone.
pub fn answer(plug: &OwnedFd, id: u32, connection: Result<BorrowedFd<'_>, i32>) -> io::Result<()> {
    let (value, fds) = match connection {
        Ok(fd) => (0, Some([fd])),
        Err(number) => (u32::try_from(number).unwrap_or(u32::MAX).max(1), None),
    };
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
    let mut ancillary = SendAncillaryBuffer::new(&mut space);
    if let Some(fds) = &fds {
        ancillary.push(SendAncillaryMessage::ScmRights(fds));
    }
    sendmsg(
        plug,
        &[IoSlice::new(&message(id, value))],
        &mut ancillary,
        SendFlags::NOSIGNAL,
    )?;
    Ok(())
}

/// Wishes for a connection to `port`. `WouldBlock` if too many wishes wait.
pub fn wish(plug: &OwnedFd, id: u32, port: u32) -> io::Result<()> {
    send(
        plug,
        &message(id, port),
        SendFlags::NOSIGNAL | SendFlags::DONTWAIT,
    )?;
    Ok(())
}

/// The next answer, if one came: the id of the wish, and the connection or the error's number.
pub fn take(plug: &OwnedFd) -> io::Result<Option<(u32, Result<OwnedFd, u32>)>> {
    let mut bytes = [0; MESSAGE];
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
    let mut ancillary = RecvAncillaryBuffer::new(&mut space);
    let flags = RecvFlags::CMSG_CLOEXEC | RecvFlags::DONTWAIT;
    let got = match recvmsg(
        plug.as_fd(),
        &mut [IoSliceMut::new(&mut bytes)],
        &mut ancillary,
        flags,
    ) {
        Ok(got) => got.bytes,
        Err(rustix::io::Errno::AGAIN | rustix::io::Errno::INTR) => return Ok(None),
        Err(error) => return Err(error.into()),
    };
    if got != MESSAGE {
        return Err(gone());
    }
    let mut fds = ancillary.drain().flat_map(|message| match message {
        RecvAncillaryMessage::ScmRights(fds) => fds.collect::<Vec<_>>(),
        _ => Vec::new(),
    });
    let (id, value) = words(bytes);
    Ok(Some((id, fds.next().ok_or(value))))
}
