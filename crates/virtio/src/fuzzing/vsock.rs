use std::io::{Read, Write};
use std::os::fd::{AsFd, OwnedFd};
use std::os::linux::net::SocketAddrExt;
use std::os::unix::net::{SocketAddr, UnixListener, UnixStream};
use std::sync::atomic::{AtomicU32, Ordering};

use ostler_bus::testing::Input;
use rustix::net::{RecvFlags, recv};

use super::program::play;
use crate::vsock::{Door, VsockDevice, plug};

/// Most clients at a time.
const MOST: usize = 8;

/// The host's side: clients, and what the guest's own wishes lead to.
struct Outside {
    address: SocketAddr,
    plug: Option<OwnedFd>,
    clients: Vec<UnixStream>,
}

impl Outside {
    /// A device's door, and what is before it.
    fn new() -> (Self, Door) {
        static NUMBER: AtomicU32 = AtomicU32::new(0);
        let name = format!(
            "ostler-fuzz-{}-{}",
            std::process::id(),
            NUMBER.fetch_add(1, Ordering::Relaxed)
        );
        let address = SocketAddr::from_abstract_name(name).expect("a short name");
        let listener = UnixListener::bind_addr(&address).expect("a name of our own");
        let (plug, guests) = plug::pair().expect("there are sockets");
        let door = Door::new(listener.into(), Some(guests)).expect("it listens");
        let outside = Self {
            address,
            plug: Some(plug),
            clients: Vec::new(),
        };
        (outside, door)
    }

    fn keep(&mut self, client: UnixStream) {
        client.set_nonblocking(true).expect("a socket");
        if self.clients.len() >= MOST {
            self.clients.remove(0);
        }
        self.clients.push(client);
    }

    fn connect(&mut self, line: &[u8]) {
        // The queue of those who knock is full if the worker never looks.
        if let Ok(mut client) = UnixStream::connect_addr(&self.address) {
            let _ = client.write(line);
            self.keep(client);
        }
    }

    /// Answers the guest's oldest wish.
    fn answer(&mut self, willing: bool) {
        let Some(plug) = &self.plug else { return };
        let mut wish = [0; 8];
        if recv(plug, &mut wish, RecvFlags::DONTWAIT).is_err() {
            return;
        }
        let id = u32::from_le_bytes([wish[0], wish[1], wish[2], wish[3]]);
        let (ours, theirs) = UnixStream::pair().expect("there are sockets");
        let answer = if willing { Ok(theirs.as_fd()) } else { Err(111) };
        let _ = plug::answer(plug, id, answer);
        self.keep(ours);
    }

    fn happen(&mut self, input: &mut Input<'_>) {
        let what = input.u8();
        let which = usize::from(what >> 4) % self.clients.len().max(1);
        match (what & 0xf, self.clients.get_mut(which)) {
            (0 | 1, _) => self.connect(format!("CONNECT {}\n", input.u8() % 4).as_bytes()),
            (2, _) => {
                let count = input.u8().into();
                self.connect(input.take(count));
            }
            (3 | 4, _) => self.answer(true),
            (5, _) => self.answer(false),
            (6, _) => {
                if let Some(plug) = &self.plug {
                    let _ = rustix::io::write(plug, input.take(8));
                }
            }
            (7, _) => self.plug = None,
            (8..=10, Some(client)) => {
                let _ = client.write(&vec![7; input.u16().into()]);
            }
            (11 | 12, Some(client)) => {
                let _ = client.read(&mut vec![0; 1 << 16]);
            }
            (13, Some(client)) => {
                let _ = client.shutdown(std::net::Shutdown::Write);
            }
            (14, Some(_)) => {
                self.clients.remove(which);
            }
            _ => {}
        }
    }
}

/// A driver of a vsock device; outside clients come, speak, listen and go, and wishes are answered.
pub fn vsock(input: &[u8]) {
    let (mut outside, door) = Outside::new();
    let mut device = VsockDevice::new(5, door).expect("an eventfd");
    let control = device.control();
    play(&mut Input::new(input), &mut device, |input| {
        outside.happen(input);
        if outside.clients.len() == MOST {
            control.set_cid(5 + u32::from(input.u8() & 1));
        }
    });
}
