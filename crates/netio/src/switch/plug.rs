//! What passes through a plug: a byte for a wish, and connections.

use std::io::{self, IoSlice, IoSliceMut, Read};
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::net::UnixStream;

use rustix::net::{
    RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, SendAncillaryBuffer, SendAncillaryMessage,
    SendFlags, recvmsg, sendmsg,
};

use super::gone;

/// The guest wishes for a connection.
pub(super) const WISH: u8 = b'?';
/// A connection comes.
const CONNECTION: u8 = b'+';

/// Sends a connection to a switch and the memory of its rings to the guest at the other end of `plug`.
pub fn plug_in(plug: &UnixStream, connection: &impl AsFd, memory: &impl AsFd) -> io::Result<()> {
    let descriptors = [connection.as_fd(), memory.as_fd()];
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(2))];
    let mut ancillary = SendAncillaryBuffer::new(&mut space);
    ancillary.push(SendAncillaryMessage::ScmRights(&descriptors));
    sendmsg(
        plug,
        &[IoSlice::new(&[CONNECTION])],
        &mut ancillary,
        SendFlags::NOSIGNAL,
    )?;
    Ok(())
}

/// Waits until the guest at the other end of `plug` wishes for a connection. An error when it is gone.
pub fn wait_for_wish(mut plug: &UnixStream) -> io::Result<()> {
    let mut byte = [0];
    match plug.read(&mut byte)? {
        0 => Err(gone()),
        _ => Ok(()),
    }
}

/// What [`plug_in`] sent, if something came: connection and memory.
pub(super) fn take(plug: &OwnedFd) -> io::Result<Option<(OwnedFd, OwnedFd)>> {
    let mut byte = [0];
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(2))];
    let mut ancillary = RecvAncillaryBuffer::new(&mut space);
    let flags = RecvFlags::DONTWAIT | RecvFlags::CMSG_CLOEXEC;
    let got = recvmsg(plug, &mut [IoSliceMut::new(&mut byte)], &mut ancillary, flags);
    match got {
        Ok(message) if message.bytes == 0 => return Err(gone()),
        Ok(_) => {}
        Err(rustix::io::Errno::AGAIN | rustix::io::Errno::INTR) => return Ok(None),
        Err(error) => return Err(error.into()),
    }
    let mut descriptors = ancillary.drain().flat_map(|message| match message {
        RecvAncillaryMessage::ScmRights(descriptors) => descriptors.collect(),
        _ => Vec::new(),
    });
    Ok(match (descriptors.next(), descriptors.next()) {
        (Some(connection), Some(memory)) => Some((connection, memory)),
        _ => None,
    })
}
