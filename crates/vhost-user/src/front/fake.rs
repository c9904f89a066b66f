//! A back end for tests: it serves whatever comes, with good manners or bad ones.

use std::fs::File;
use std::io::{IoSliceMut, Read, Write};
use std::mem::MaybeUninit;
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixStream;
use std::sync::atomic::Ordering;
use std::sync::mpsc;
use std::thread;
use std::time::Duration;

use rustix::net::{RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, recvmsg};
use vhost::vhost_user::message::FrontendReq;
use vm_memory::{Bytes, FileOffset, MmapRegion, VolatileMemory};

use super::arena::BASE;
use crate::message::{HEADER_LEN, NEED_REPLY, REPLY, VERSION};

/// How it behaves. What is none, zero or false is as it should be.
#[derive(Clone)]
pub(crate) struct Manners {
    pub features: u64,
    pub rings: u64,
    pub acknowledgement: u64,
    pub reply_request: Option<u32>,
    pub reply_flags: u32,
    pub reply_len: Option<usize>,
    /// How many requests are answered; the others are only taken.
    pub answers: usize,
    pub head: Option<u32>,
    pub len: Option<u32>,
    /// By how many the used index is too far.
    pub ahead: u16,
    /// It says something before it answers.
    pub unasked: bool,
}

impl Default for Manners {
    fn default() -> Self {
        Self {
            features: 1 << 32 | 1 << 30,
            rings: 2,
            acknowledgement: 0,
            reply_request: None,
            reply_flags: VERSION | REPLY,
            reply_len: None,
            answers: usize::MAX,
            head: None,
            len: None,
            ahead: 0,
            unasked: false,
        }
    }
}

/// It serves on a thread of its own until it is dropped, or its front end goes.
pub(crate) struct Fake {
    socket: UnixStream,
    requests: mpsc::Receiver<()>,
    thread: Option<thread::JoinHandle<()>>,
}

impl Fake {
    pub fn serve(socket: UnixStream, manners: Manners) -> Self {
        let (sender, requests) = mpsc::channel();
        let theirs = socket.try_clone().unwrap();
        theirs.set_nonblocking(false).unwrap();
        let thread = thread::spawn(move || {
            Serving {
                socket: theirs,
                manners,
                memory: None,
                rings: [Ring::default(), Ring::default()],
                requests: sender,
                served: 0,
            }
            .run();
        });
        Self {
            socket,
            requests,
            thread: Some(thread),
        }
    }

    /// Waits until it has taken a request that it does not answer.
    pub fn wait_for_request(&self) {
        self.requests.recv_timeout(Duration::from_secs(240)).unwrap();
    }

    /// True if it has taken no other request than those that were answered or waited for.
    pub fn has_heard_of_no_more(&self) -> bool {
        self.requests.try_recv().is_err()
    }
}

impl Drop for Fake {
    fn drop(&mut self) {
        let _ = self.socket.shutdown(std::net::Shutdown::Both);
        let _ = self.thread.take().unwrap().join();
    }
}

#[derive(Default)]
struct Ring {
    descriptors: u64,
    available: u64,
    used: u64,
    size: u16,
    next: u16,
    call: Option<File>,
    runs: bool,
}

struct Serving {
    socket: UnixStream,
    manners: Manners,
    memory: Option<MmapRegion<()>>,
    rings: [Ring; 2],
    requests: mpsc::Sender<()>,
    served: usize,
}

impl Serving {
    fn run(&mut self) {
        loop {
            // Without waiting for kicks: it looks all the time.
            let mut poll = [rustix::event::PollFd::new(
                &self.socket,
                rustix::event::PollFlags::IN,
            )];
            let short = rustix::event::Timespec {
                tv_sec: 0,
                tv_nsec: 1_000_000,
            };
            let _ = rustix::event::poll(&mut poll, Some(&short));
            let said = !poll[0].revents().is_empty();
            if said && self.message().is_none() {
                return;
            }
            for ring in 0..2 {
                while self.rings[ring].runs && self.request(ring) {}
            }
        }
    }

    fn message(&mut self) -> Option<()> {
        let mut header = [0; HEADER_LEN];
        let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(4))];
        let mut control = RecvAncillaryBuffer::new(&mut space);
        let flags = RecvFlags::CMSG_CLOEXEC | RecvFlags::WAITALL;
        let got = recvmsg(
            &self.socket,
            &mut [IoSliceMut::new(&mut header)],
            &mut control,
            flags,
        )
        .ok()?;
        if got.bytes != HEADER_LEN {
            return None;
        }
        let descriptor: Option<OwnedFd> = control.drain().find_map(|message| match message {
            RecvAncillaryMessage::ScmRights(mut all) => all.next(),
            _ => None,
        });
        let word = |at: usize| u32::from_ne_bytes(header[at..at + 4].try_into().unwrap());
        let (request, flags, len) = (word(0), word(4), word(8) as usize);
        let mut payload = vec![0; len];
        self.socket.read_exact(&mut payload).ok()?;
        let u32_at = |at: usize| u32::from_ne_bytes(payload[at..at + 4].try_into().unwrap());
        let u64_at = |at: usize| u64::from_ne_bytes(payload[at..at + 8].try_into().unwrap());
        match FrontendReq::try_from(request).unwrap() {
            FrontendReq::GET_FEATURES => self.reply(request, self.manners.features)?,
            FrontendReq::GET_PROTOCOL_FEATURES => self.reply(request, 1 | 1 << 3)?,
            FrontendReq::GET_QUEUE_NUM => self.reply(request, self.manners.rings)?,
            FrontendReq::GET_VRING_BASE => {
                self.rings[u32_at(0) as usize].runs = false;
                self.reply(request, 0)?;
            }
            FrontendReq::SET_MEM_TABLE => {
                let file = FileOffset::new(File::from(descriptor?), 0);
                self.memory = Some(MmapRegion::from_file(file, u64_at(16) as usize).unwrap());
            }
            FrontendReq::SET_VRING_NUM => self.rings[u32_at(0) as usize].size = u32_at(4) as u16,
            FrontendReq::SET_VRING_BASE => self.rings[u32_at(0) as usize].next = u32_at(4) as u16,
            FrontendReq::SET_VRING_ADDR => {
                let ring = &mut self.rings[u32_at(0) as usize];
                ring.descriptors = u64_at(8) - BASE;
                ring.used = u64_at(16) - BASE;
                ring.available = u64_at(24) - BASE;
            }
            FrontendReq::SET_VRING_CALL => {
                self.rings[payload[0] as usize].call = descriptor.map(File::from);
            }
            FrontendReq::SET_VRING_ENABLE => self.rings[u32_at(0) as usize].runs = true,
            _ => {}
        }
        if flags & NEED_REPLY != 0 {
            self.reply(request, self.manners.acknowledgement)?;
        }
        Some(())
    }

    fn reply(&mut self, request: u32, value: u64) -> Option<()> {
        let len = self.manners.reply_len.unwrap_or(8);
        let said = if len == usize::MAX { 8 } else { len };
        let mut bytes = Vec::new();
        for word in [
            self.manners.reply_request.unwrap_or(request),
            self.manners.reply_flags,
            said as u32,
        ] {
            bytes.extend(word.to_ne_bytes());
        }
        bytes.extend(&value.to_ne_bytes()[..said.min(8)]);
        if len == usize::MAX {
            bytes.truncate(15);
        }
        self.socket.write_all(&bytes).ok()?;
        // A message that is cut short is the last.
        (len != usize::MAX).then_some(())
    }

    /// Takes the next request, and answers with its bytes turned around. False if there is none.
    fn request(&mut self, number: usize) -> bool {
        let Some(memory) = &self.memory else { return false };
        let shared = memory.as_volatile_slice();
        let ring = &mut self.rings[number];
        let u16_at = |at: u64| shared.load::<u16>(at as usize, Ordering::Acquire).unwrap();
        if u16_at(ring.available + 2) == ring.next {
            return false;
        }
        let slot = u64::from(ring.next % ring.size);
        let head = u16_at(ring.available + 4 + 2 * slot);
        ring.next = ring.next.wrapping_add(1);
        let get = |at: u64, bytes: &mut [u8]| {
            let slice = memory.get_slice(at as usize, bytes.len()).unwrap();
            slice.copy_to(bytes);
        };
        let (mut sent, mut room, mut index) = (Vec::new(), Vec::new(), head);
        loop {
            let mut raw = [0; 16];
            get(ring.descriptors + 16 * u64::from(index), &mut raw);
            let gpa = u64::from_le_bytes(raw[..8].try_into().unwrap()) - BASE;
            let len = u32::from_le_bytes(raw[8..12].try_into().unwrap()) as usize;
            let flags = u16::from_le_bytes(raw[12..14].try_into().unwrap());
            if flags & 2 == 0 {
                let mut part = vec![0; len];
                get(gpa, &mut part);
                sent.extend(part);
            } else {
                room.push((gpa, len));
            }
            if flags & 1 == 0 {
                break;
            }
            index = u16::from_le_bytes(raw[14..].try_into().unwrap());
        }
        self.served += 1;
        if self.served > self.manners.answers {
            let _ = self.requests.send(());
            return true;
        }
        let mut answer: Vec<u8> = if sent.len() == 40 {
            // As FUSE has it: no error, and the request's number.
            let mut answer = vec![0; 64];
            answer[8..16].copy_from_slice(&sent[8..16]);
            answer
        } else {
            sent.iter().rev().copied().collect()
        };
        answer.truncate(room.iter().map(|(_, len)| len).sum());
        let (mut rest, len) = (&answer[..], answer.len() as u32);
        for (gpa, room) in room {
            let here = room.min(rest.len());
            memory
                .get_slice(gpa as usize, here)
                .unwrap()
                .copy_from(&rest[..here]);
            rest = &rest[here..];
        }
        if self.manners.unasked {
            let _ = self.socket.write_all(&[0; 12]);
            return true;
        }
        let index = u16_at(ring.used + 2);
        let at = (ring.used + 4 + 8 * u64::from(index % ring.size)) as usize;
        let head = self.manners.head.unwrap_or(head.into());
        let len = self.manners.len.unwrap_or(len);
        shared.store(head, at, Ordering::Relaxed).unwrap();
        shared.store(len, at + 4, Ordering::Relaxed).unwrap();
        let next = index.wrapping_add(1).wrapping_add(self.manners.ahead);
        shared
            .store(next, (ring.used + 2) as usize, Ordering::Release)
            .unwrap();
        if let Some(call) = &mut ring.call {
            call.write_all(&1u64.to_ne_bytes()).unwrap();
        }
        true
    }
}
