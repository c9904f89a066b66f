//! A front end and its guest's driver, well behaved or not.

mod exchange;
mod hostile;

use std::io::{IoSlice, Read};
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::net::UnixStream;
use std::sync::Arc;
use std::sync::atomic::Ordering;

use ostler_memory::{GuestRam, RamOptions};
use ostler_netio::Header;
use rustix::event::{EventfdFlags, eventfd};
use rustix::net::{SendAncillaryBuffer, SendAncillaryMessage, SendFlags, sendmsg};
use vhost::vhost_user::message::FrontendReq;
use vm_memory::{Bytes, GuestAddress, GuestMemoryBackend, GuestMemoryRegion};

use crate::{Error, VhostUserNet};

/// Bytes of the guest's memory.
const MEMORY: u64 = 8 << 20;
/// Where the front end has it in its own process, as far as it says.
const USER: u64 = 0x7000_0000_0000;
/// Entries of each ring.
const SIZE: u16 = 16;
const NEXT: u16 = 1;
const WRITE: u16 = 2;

/// VERSION_1, PROTOCOL_FEATURES and MRG_RXBUF.
const USUAL: u64 = 1 << 32 | 1 << 30 | 1 << 15;
/// MQ, REPLY_ACK, RESET_DEVICE and CONFIGURE_MEM_SLOTS.
const PROTOCOL: u64 = 1 | 1 << 3 | 1 << 13 | 1 << 15;

fn word(value: u64) -> Vec<u8> {
    value.to_ne_bytes().into()
}

fn pair(ring: u32, value: u32) -> Vec<u8> {
    [ring, value].map(u32::to_ne_bytes).concat()
}

fn region(gpa: u64, len: u64, user: u64, offset: u64) -> Vec<u8> {
    [gpa, len, user, offset].map(u64::to_ne_bytes).concat()
}

/// False, and says so, where the host refuses what calls are made with.
pub(crate) fn has_uring(test: &str) -> bool {
    let refused = io_uring::IoUring::new(1).err();
    if let Some(error) = &refused {
        eprintln!("SKIPPED {test}: the host refuses io_uring: {error}");
    }
    refused.is_none()
}

/// A front end that does as it is told, with the back end that it is connected to.
struct Front {
    socket: UnixStream,
    net: VhostUserNet,
    ram: Arc<GuestRam>,
}

impl Front {
    fn new() -> Self {
        let (socket, ours) = UnixStream::pair().unwrap();
        let options = RamOptions {
            shared: true,
            huge: false,
            ..RamOptions::default()
        };
        Self {
            socket,
            net: VhostUserNet::new(ours).unwrap(),
            ram: ostler_memory::allocate(MEMORY, options).unwrap(),
        }
    }

    /// Has negotiated the usual features and these, and shared its memory.
    fn ready(features: u64) -> Self {
        let mut front = Self::new();
        front.tell(FrontendReq::SET_OWNER, &[], &[]);
        front.tell(FrontendReq::SET_FEATURES, &word(USUAL | features), &[]);
        front.tell(FrontendReq::SET_PROTOCOL_FEATURES, &word(PROTOCOL), &[]);
        let memory = front.memory();
        let table = [&pair(1, 0)[..], &region(0, MEMORY, USER, 0)].concat();
        front.tell(FrontendReq::SET_MEM_TABLE, &table, &[memory.as_fd()]);
        front
    }

    /// The file that the memory is in.
    fn memory(&self) -> OwnedFd {
        let region = self.ram.iter().next().unwrap();
        let file = region.file_offset().unwrap().file().try_clone();
        file.unwrap().into()
    }

    fn send(&self, bytes: &[u8], descriptors: &[BorrowedFd<'_>]) {
        let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(64))];
        let mut control = SendAncillaryBuffer::new(&mut space);
        if !descriptors.is_empty() {
            assert!(control.push(SendAncillaryMessage::ScmRights(descriptors)));
        }
        let sent = sendmsg(
            &self.socket,
            &[IoSlice::new(bytes)],
            &mut control,
            SendFlags::NOSIGNAL,
        );
        assert_eq!(sent.unwrap(), bytes.len());
    }

    /// Sends a request, and has it served.
    fn try_tell(
        &mut self,
        request: FrontendReq,
        payload: &[u8],
        fds: &[BorrowedFd<'_>],
    ) -> Result<(), Error> {
        let words = [u32::from(request), 1, payload.len() as u32].map(u32::to_ne_bytes);
        self.send(&[&words.concat()[..], payload].concat(), fds);
        self.net.serve()
    }

    fn tell(&mut self, request: FrontendReq, payload: &[u8], fds: &[BorrowedFd<'_>]) {
        self.try_tell(request, payload, fds).unwrap();
    }

    /// The answer to a request.
    fn ask(&mut self, request: FrontendReq, payload: &[u8]) -> Vec<u8> {
        self.tell(request, payload, &[]);
        self.answer(request)
    }

    fn answer(&mut self, request: FrontendReq) -> Vec<u8> {
        let mut header = [0; 12];
        self.socket.read_exact(&mut header).unwrap();
        assert_eq!(
            header[..8],
            [u32::from(request), 5].map(u32::to_ne_bytes).concat()
        );
        let mut payload = vec![0; usize::from(header[8])];
        self.socket.read_exact(&mut payload).unwrap();
        payload
    }

    /// Describes ring `number`, and starts it.
    fn start(&mut self, number: u32) -> Driver {
        let driver = Driver::new(self.ram.clone(), number);
        self.describe(number, &driver);
        self.tell(
            FrontendReq::SET_VRING_CALL,
            &word(number.into()),
            &[driver.call.as_fd()],
        );
        self.tell(
            FrontendReq::SET_VRING_KICK,
            &word(number.into()),
            &[driver.kick.as_fd()],
        );
        self.tell(FrontendReq::SET_VRING_ENABLE, &pair(number, 1), &[]);
        driver
    }

    fn describe(&mut self, number: u32, driver: &Driver) {
        self.tell(FrontendReq::SET_VRING_NUM, &pair(number, SIZE.into()), &[]);
        self.tell(
            FrontendReq::SET_VRING_BASE,
            &pair(number, driver.available.into()),
            &[],
        );
        self.tell(
            FrontendReq::SET_VRING_ADDR,
            &address(number, USER + driver.base),
            &[],
        );
    }

    /// Both rings of the first pair, started.
    fn card(features: u64) -> (Self, Driver, Driver) {
        let mut front = Self::ready(features);
        let (receives, sends) = (front.start(0), front.start(1));
        assert!(front.net.is_up());
        (front, receives, sends)
    }

    /// The next frame that the guest sent.
    fn taken(&mut self) -> Option<Vec<u8>> {
        self.net.serve().unwrap();
        let mut bytes = Vec::new();
        let taken = self.net.take(&mut bytes);
        self.net.flush().unwrap();
        taken.map(|_| bytes)
    }

    /// Sends a frame to the guest.
    fn give(&mut self, frame: &[u8]) -> bool {
        let sent = self.net.send(&Header::default(), &[frame]);
        self.net.flush().unwrap();
        sent
    }
}

/// The payload of SET_VRING_ADDR for the layout of a [`Driver`] at `user`.
fn address(number: u32, user: u64) -> Vec<u8> {
    let parts = [user, user + 0x6000, user + 0x4000, 0]
        .map(u64::to_ne_bytes)
        .concat();
    [&pair(number, 0)[..], &parts].concat()
}

/// The guest's driver of one ring: descriptors, then from 0x4000 on what is available, from 0x6000 on what was used, then buffers.
struct Driver {
    ram: Arc<GuestRam>,
    base: u64,
    available: u16,
    used: u16,
    kick: OwnedFd,
    call: OwnedFd,
}

impl Driver {
    fn new(ram: Arc<GuestRam>, number: u32) -> Self {
        let event = || eventfd(0, EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK).unwrap();
        Self {
            ram,
            base: 0x10_0000 * u64::from(number + 1),
            available: 0,
            used: 0,
            kick: event(),
            call: event(),
        }
    }

    fn write(&self, offset: u64, bytes: &[u8]) {
        self.ram
            .write_slice(bytes, GuestAddress(self.base + offset))
            .unwrap();
    }

    fn read(&self, offset: u64, len: usize) -> Vec<u8> {
        let mut bytes = vec![0; len];
        self.ram
            .read_slice(&mut bytes, GuestAddress(self.base + offset))
            .unwrap();
        bytes
    }

    fn descriptor(&self, index: u16, gpa: u64, len: u32, flags: u16, next: u16) {
        let parts = [
            &gpa.to_le_bytes()[..],
            &len.to_le_bytes(),
            &flags.to_le_bytes(),
            &next.to_le_bytes(),
        ];
        self.write(16 * u64::from(index), &parts.concat());
    }

    fn set_available(&self, index: u16) {
        let at = GuestAddress(self.base + 0x4002);
        self.ram.store(index.to_le(), at, Ordering::Release).unwrap();
    }

    /// Makes a chain available, and kicks.
    fn offer(&mut self, head: u16) {
        self.write(0x4004 + 2 * u64::from(self.available % SIZE), &head.to_le_bytes());
        self.available = self.available.wrapping_add(1);
        self.set_available(self.available);
        let _ = rustix::io::write(&self.kick, &1u64.to_ne_bytes());
    }

    /// Where buffer `index` is, of 64 KiB each.
    fn buffer(index: u16) -> u64 {
        0x8000 + 0x1000 * u64::from(index)
    }

    /// Sends a frame with this header.
    fn send_headed(&mut self, header: &[u8], frame: &[u8]) {
        let index = self.available % SIZE;
        let bytes = [header, frame].concat();
        self.write(Self::buffer(index), &bytes);
        self.descriptor(index, self.base + Self::buffer(index), bytes.len() as u32, 0, 0);
        self.offer(index);
    }

    fn send(&mut self, frame: &[u8]) {
        self.send_headed(&[0; 12], frame);
    }

    /// Gives a buffer of `len` bytes, up to 4 KiB.
    fn give_buffer(&mut self, len: u32) {
        let index = self.available % SIZE;
        self.descriptor(index, self.base + Self::buffer(index), len, WRITE, 0);
        self.offer(index);
    }

    /// The bytes of the next chain that was used.
    fn next_used(&mut self) -> Option<Vec<u8>> {
        let index = self
            .ram
            .load::<u16>(GuestAddress(self.base + 0x6002), Ordering::Acquire);
        if index.unwrap() == self.used {
            return None;
        }
        let element = self.read(0x6004 + 8 * u64::from(self.used % SIZE), 8);
        self.used = self.used.wrapping_add(1);
        let (head, len) = (element[0], &element[4..]);
        let len = u32::from_le_bytes(len.try_into().unwrap());
        Some(self.read(Self::buffer(head.into()), len as usize))
    }

    /// How often it was called since the last question.
    fn calls(&self) -> u64 {
        let mut count = [0; 8];
        match rustix::io::read(&self.call, &mut count) {
            Ok(_) => u64::from_ne_bytes(count),
            Err(_) => 0,
        }
    }
}

/// A frame that can be told from others.
fn frame(number: u8, len: usize) -> Vec<u8> {
    let mut frame = [&[2, 0, 0, 0, 0, 1, 2, 0, 0, 0, 0, 2, 0x88, 0xb5][..], &[number]].concat();
    frame.resize(len, number);
    frame
}
