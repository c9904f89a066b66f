//! The core of our own switch on interfaces of a network namespace, by packet sockets.

use std::ffi::CString;
use std::io;
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use ostler_switch::rstp::{BridgeConfig, PortView};
use ostler_switch::{Mac, Output, PortConfig, PortIndex, Switch, SwitchConfig, TagAction, Time, VlanId};
use rustix::event::{PollFd, PollFlags, Timespec, poll};

/// A packet socket that does not block and does not hear what it sends.
pub struct Wire {
    socket: OwnedFd,
    name: String,
}

impl Wire {
    pub fn open(name: &str) -> Self {
        const PACKET_IGNORE_OUTGOING: libc::c_int = 23;
        let protocol = (libc::ETH_P_ALL as u16).to_be();
        let kind = libc::SOCK_RAW | libc::SOCK_NONBLOCK | libc::SOCK_CLOEXEC;
        // SAFETY: a new descriptor comes back, or an error.
        let socket = unsafe { libc::socket(libc::AF_PACKET, kind, libc::c_int::from(protocol)) };
        assert!(socket >= 0, "{}", io::Error::last_os_error());
        // SAFETY: it was just opened and is nobody else's.
        let socket = unsafe { OwnedFd::from_raw_fd(socket) };
        let text = CString::new(name).unwrap();
        // SAFETY: the name is a C string.
        let index = unsafe { libc::if_nametoindex(text.as_ptr()) };
        // SAFETY: a sockaddr_ll of zeros is one.
        let mut address: libc::sockaddr_ll = unsafe { std::mem::zeroed() };
        address.sll_family = libc::AF_PACKET as u16;
        address.sll_protocol = protocol;
        address.sll_ifindex = index as i32;
        let on: libc::c_int = 1;
        let len = size_of::<libc::sockaddr_ll>() as libc::socklen_t;
        // SAFETY: both calls read a value on this frame, with its size.
        unsafe {
            assert_eq!(
                libc::bind(socket.as_raw_fd(), (&raw const address).cast(), len),
                0
            );
            let size = size_of::<libc::c_int>() as libc::socklen_t;
            let option = libc::SOL_PACKET;
            libc::setsockopt(
                socket.as_raw_fd(),
                option,
                PACKET_IGNORE_OUTGOING,
                (&raw const on).cast(),
                size,
            );
        }
        Self {
            socket,
            name: name.into(),
        }
    }

    /// Whether the interface is up and has a link.
    fn has_link(&self) -> bool {
        let mut request = [0u8; 40];
        request[..self.name.len()].copy_from_slice(self.name.as_bytes());
        // SAFETY: SIOCGIFFLAGS reads and writes an ifreq, which is this long.
        let result =
            unsafe { libc::ioctl(self.socket.as_raw_fd(), libc::SIOCGIFFLAGS, request.as_mut_ptr()) };
        let flags = i32::from(i16::from_ne_bytes([request[16], request[17]]));
        result == 0 && flags & libc::IFF_RUNNING != 0
    }

    pub fn send(&self, frame: &[u8]) -> bool {
        rustix::net::send(&self.socket, frame, rustix::net::SendFlags::empty()).is_ok()
    }

    pub fn receive(&self) -> Option<Vec<u8>> {
        let mut frame = vec![0; 2048];
        let flags = rustix::net::RecvFlags::empty();
        let (len, _) = rustix::net::recv(&self.socket, frame.as_mut_slice(), flags).ok()?;
        frame.truncate(len);
        Some(frame)
    }
}

/// Sends what the switch says.
struct Out<'a> {
    wires: &'a [Wire],
    frame: &'a [u8],
}

impl Output for Out<'_> {
    fn send(&mut self, port: PortIndex, _index: usize, tag: TagAction) -> bool {
        self.wires[port.get()].send(&tag.parts(self.frame).concat())
    }

    fn originate(&mut self, port: PortIndex, frame: &[u8]) -> bool {
        self.wires[port.get()].send(frame)
    }
}

/// A switch that runs in a thread until it is dropped.
pub struct Player {
    switch: Arc<Mutex<Switch>>,
    stop: Arc<AtomicBool>,
    thread: Option<std::thread::JoinHandle<()>>,
}

impl Player {
    pub fn start(interfaces: &[&str], mac: [u8; 6], tree: BridgeConfig) -> Self {
        let mut config = SwitchConfig::new(Mac(mac));
        config.spanning_tree = Some(tree);
        let mut switch = Switch::new(config, [1, 2], Time::from_nanos(0)).unwrap();
        for _ in interfaces {
            switch.add_port(PortConfig::access(VlanId::DEFAULT)).unwrap();
        }
        let wires: Vec<Wire> = interfaces.iter().map(|name| Wire::open(name)).collect();
        let switch = Arc::new(Mutex::new(switch));
        let stop = Arc::new(AtomicBool::new(false));
        let thread = std::thread::spawn({
            let (switch, stop) = (switch.clone(), stop.clone());
            move || play(&switch, &wires, &stop)
        });
        Self {
            switch,
            stop,
            thread: Some(thread),
        }
    }

    pub fn id(&self) -> String {
        self.switch.lock().unwrap().tree().unwrap().id().to_string()
    }

    pub fn root(&self) -> String {
        self.switch.lock().unwrap().tree().unwrap().root().to_string()
    }

    pub fn view(&self, port: usize) -> PortView {
        let switch = self.switch.lock().unwrap();
        switch
            .tree()
            .unwrap()
            .view(PortIndex::new(port).unwrap())
            .unwrap()
    }
}

impl Drop for Player {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

fn play(switch: &Mutex<Switch>, wires: &[Wire], stop: &AtomicBool) {
    let start = Instant::now();
    let now = || Time::from_nanos(start.elapsed().as_nanos() as u64);
    let mut links = vec![false; wires.len()];
    while !stop.load(Ordering::Relaxed) {
        let mut fds: Vec<PollFd> = wires
            .iter()
            .map(|w| PollFd::new(&w.socket, PollFlags::IN))
            .collect();
        let patience = Timespec::try_from(Duration::from_millis(5)).unwrap();
        let _ = poll(&mut fds, Some(&patience));
        let mut switch = switch.lock().unwrap();
        for (place, wire) in wires.iter().enumerate() {
            let port = PortIndex::new(place).unwrap();
            let mut out = Out { wires, frame: &[] };
            let link = wire.has_link();
            if link != links[place] {
                links[place] = link;
                switch.set_link(port, link, now(), &mut out).unwrap();
            }
            // A storm must not keep the clock from going on.
            for _ in 0..64 {
                let Some(frame) = wire.receive() else { break };
                let mut out = Out { wires, frame: &frame };
                switch.receive(port, &frame, now(), &mut out);
            }
        }
        switch.poll(now(), &mut Out { wires, frame: &[] });
    }
}
