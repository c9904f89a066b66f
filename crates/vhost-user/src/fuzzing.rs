//! Entries for fuzzers: what a front end sends.

use std::io::IoSlice;
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::net::UnixStream;

use ostler_netio::Header;
use rustix::event::{EventfdFlags, eventfd};
use rustix::fs::{MemfdFlags, ftruncate, memfd_create};
use rustix::net::{SendAncillaryBuffer, SendAncillaryMessage, SendFlags, sendmsg};

use crate::VhostUserNet;

/// Bytes of the file that is the guest's memory.
const MEMORY: u64 = 0x2_0000;
/// The largest descriptor count that a piece can say, more than any message may have.
const MOST: u8 = 11;

fn send(socket: &UnixStream, bytes: &[u8], descriptors: &[BorrowedFd<'_>]) {
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(MOST as usize))];
    let mut control = SendAncillaryBuffer::new(&mut space);
    if !descriptors.is_empty() {
        control.push(SendAncillaryMessage::ScmRights(descriptors));
    }
    let flags = SendFlags::DONTWAIT | SendFlags::NOSIGNAL;
    let _ = sendmsg(socket, &[IoSlice::new(bytes)], &mut control, flags);
}

/// What a front end sends, in pieces: how long each is, how many descriptors come with it (from 16 on eventfds, below memory), and its
/// bytes. What is left is in the guest's memory all the while, so that rings can be there.
pub fn front_end(input: &[u8]) {
    play(input);
}

/// The same; says how many frames were taken and given.
fn play(input: &[u8]) -> (usize, usize) {
    let mut moved = (0, 0);
    let (ours, theirs) = UnixStream::pair().expect("there are sockets");
    let memory: OwnedFd = memfd_create("guest", MemfdFlags::CLOEXEC).expect("there is memory");
    ftruncate(&memory, MEMORY).expect("there is memory");
    let event = eventfd(0, EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK).expect("there are eventfds");
    let mut net = VhostUserNet::new(ours).expect("there are epoll sets");
    let _ = rustix::io::pwrite(&memory, input, 0);
    let mut rest = input;
    let mut bytes = Vec::new();
    while let Some((&[len, kind], behind)) = rest.split_first_chunk::<2>() {
        let (piece, behind) = behind.split_at(usize::from(len).min(behind.len()));
        rest = behind;
        let descriptor = if kind >= 16 { event.as_fd() } else { memory.as_fd() };
        let descriptors = vec![descriptor; usize::from(kind % 16).min(MOST.into())];
        send(&theirs, piece, &descriptors);
        if net.serve().is_err() {
            break;
        }
        bytes.clear();
        for _ in 0..8 {
            if net.take(&mut bytes).is_none() {
                break;
            }
            moved.0 += 1;
        }
        net.send(&Header::default(), &[&[2; 60]]);
        net.send(&Header::default(), &[&[2; 60], &[3; 9000]]);
        if net.flush().is_err() {
            break;
        }
        moved.1 = net
            .pair_counters()
            .first()
            .map_or(moved.1, |pair| pair.sent as usize);
        net.sleep();
        net.stay_awake();
        assert!(bytes.len() <= 8 * ostler_netio::MAX_FRAME);
    }
    moved
}

#[cfg(test)]
mod tests {
    const CARD: &[u8] = include_bytes!("../../../tools/fuzz/corpus/vhost-user/card");

    #[test]
    fn what_fuzzers_found_is_survived() {
        ostler_corpus::replay("vhost-user", super::front_end);
    }

    proptest::proptest! {
        /// The conversation of a front end and the rings of its guest, with some bytes of either changed.
        #[test]
        fn a_damaged_conversation_is_survived(
            changes in proptest::collection::vec((0usize..CARD.len(), proptest::prelude::any::<u8>()), 1..24),
            cut in 0usize..CARD.len(),
        ) {
            let mut input = CARD.to_vec();
            for (at, byte) in changes {
                input[at] = byte;
            }
            super::front_end(&input);
            super::front_end(&input[..cut]);
        }

        /// The same with changes in the rings alone, where they meet a card that runs.
        #[test]
        fn damaged_rings_are_survived(
            changes in proptest::collection::vec((0x800usize..CARD.len(), proptest::prelude::any::<u8>()), 1..24),
        ) {
            let mut input = CARD.to_vec();
            for (at, byte) in changes {
                input[at] = byte;
            }
            super::front_end(&input);
        }
    }

    /// Otherwise fuzzing would start far from where frames are.
    #[test]
    fn the_first_input_has_a_card_that_moves_frames() {
        if io_uring::IoUring::new(1).is_err() {
            eprintln!("SKIPPED the_first_input_has_a_card_that_moves_frames: the host refuses io_uring");
            return;
        }
        assert_eq!(super::play(CARD), (2, 2));
    }
}
