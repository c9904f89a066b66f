//! The sockets around the [`Core`]: one thread that waits for all of them.

use std::collections::HashMap;
use std::io::{self, IoSliceMut, Read, Write};
use std::net::{Ipv4Addr, Ipv6Addr, Shutdown, SocketAddr, TcpListener, TcpStream, UdpSocket};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::time::Instant;

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::io::Errno;
use rustix::net::{AddressFamily, SocketFlags, SocketType, ipproto, socket_with};

use crate::cable::{self, Cable, Flow, PipeCable, StreamCable};
use crate::config::{Config, Transport};
use crate::core::{Action, Core, Id, Kind};
use crate::error::Error;
use crate::guests::Handle;
use crate::pipe::Pipe;
use crate::time::Millis;

/// Bytes that one read of a TCP socket takes at most.
const PORTION: usize = 256 << 10;
/// Bytes of the longest datagram, rounded up.
const DATAGRAM: usize = 64 << 10;
/// Bytes of frames that may wait on a cable in memory: for the network, the windows of many connections; and from it.
const ROOM_IN: usize = 8 << 20;
const ROOM_OUT: usize = 1 << 20;
/// Reads of one socket before others have their turn.
const TURNS: usize = 4;
/// How long listeners rest after the host refused to give a connection (it may be out of descriptors).
const REST: Millis = 1000;

/// A connection's socket.
struct Stream {
    socket: TcpStream,
    connecting: bool,
    /// The peer was told that nothing more comes.
    shut: bool,
}

/// What a forwarded port listens with.
enum Listener {
    Tcp(TcpListener),
    Udp(UdpSocket),
}

/// A network whose ports are open.
pub struct Network {
    core: Core,
    cable: Cable,
    listeners: Vec<Listener>,
    streams: HashMap<Id, Stream>,
    /// UDP and ping sockets, connected.
    datagrams: HashMap<Id, OwnedFd>,
    start: Instant,
    listeners_rest: Millis,
    buffer: Box<[u8]>,
}

/// Which descriptor a poll was for.
#[derive(Clone, Copy)]
enum Source {
    Cable,
    Listener(usize),
    Stream(Id),
    Datagrams(Id),
}

impl Network {
    /// The network of `config` on the stream socket `cable`, whose other end is the guest's. Opens the forwarded ports.
    pub fn open(config: Config, cable: OwnedFd) -> Result<Self, Error> {
        // A smaller buffer is only slower.
        let _ = cable::enlarge(&cable);
        Self::with_cable(config, Cable::Stream(StreamCable::new(cable)))
    }

    /// The network of `config` on a cable in memory, whose other end is returned: for a switch of the same process, on another thread.
    pub fn open_beside(config: Config) -> Result<(Self, Pipe), Error> {
        let (theirs, ours) = Pipe::pair(ROOM_IN, ROOM_OUT).map_err(Error::Pipe)?;
        let network = Self::with_cable(config, Cable::Pipe(PipeCable::new(ours)))?;
        Ok((network, theirs))
    }

    fn with_cable(config: Config, cable: Cable) -> Result<Self, Error> {
        let mut listeners = Vec::new();
        for forward in &config.forwards {
            let (name, listener) = match forward.transport {
                Transport::Tcp => (
                    "TCP",
                    TcpListener::bind(forward.listen).and_then(|listener| {
                        listener.set_nonblocking(true)?;
                        Ok(Listener::Tcp(listener))
                    }),
                ),
                Transport::Udp => (
                    "UDP",
                    UdpSocket::bind(forward.listen).and_then(|socket| {
                        socket.set_nonblocking(true)?;
                        Ok(Listener::Udp(socket))
                    }),
                ),
            };
            let refused = |source| Error::Forward {
                transport: name,
                listen: forward.listen,
                source,
            };
            listeners.push(listener.map_err(refused)?);
        }
        Ok(Self {
            core: Core::new(config),
            cable,
            listeners,
            streams: HashMap::new(),
            datagrams: HashMap::new(),
            start: Instant::now(),
            listeners_rest: 0,
            buffer: vec![0; DATAGRAM].into(),
        })
    }

    /// Who has which address and name, to look at while the network runs.
    pub fn handle(&self) -> Handle {
        Handle {
            directory: self.core.directory(),
            counters: self.core.counters(),
            start: self.start,
        }
    }

    fn now(&self) -> Millis {
        self.start.elapsed().as_millis() as Millis
    }

    /// Carries frames until the guest's end of the cable is closed.
    pub fn run(mut self) -> Result<(), Error> {
        loop {
            for (source, ready) in self.wait()? {
                match source {
                    Source::Cable => {
                        if ready.intersects(PollFlags::IN | PollFlags::HUP | PollFlags::ERR)
                            && self.receive_frames()? == Flow::Gone
                        {
                            return Ok(());
                        }
                    }
                    Source::Listener(index) => self.read_listener(index),
                    Source::Stream(id) => self.read_stream(id, ready),
                    Source::Datagrams(id) => self.read_datagrams(id),
                }
            }
            if self.send_frames() == Flow::Gone {
                return Ok(());
            }
        }
    }

    /// Waits until something is to be done, and says what.
    fn wait(&mut self) -> Result<Vec<(Source, PollFlags)>, Error> {
        let now = self.now();
        let mut wanted = PollFlags::IN;
        wanted.set(PollFlags::OUT, self.cable.is_blocked());
        let mut sources = vec![Source::Cable];
        let mut fds = vec![PollFd::new(&self.cable, wanted)];
        let mut deadline = self.core.deadline();
        if self.listeners_rest <= now {
            for (index, listener) in self.listeners.iter().enumerate() {
                sources.push(Source::Listener(index));
                fds.push(PollFd::from_borrowed_fd(listener.as_fd(), PollFlags::IN));
            }
        } else if !self.listeners.is_empty() {
            deadline = Some(deadline.map_or(self.listeners_rest, |at| at.min(self.listeners_rest)));
        }
        for (id, stream) in &self.streams {
            let Some(connection) = self.core.connection(*id) else {
                continue;
            };
            let mut wanted = PollFlags::empty();
            wanted.set(
                PollFlags::IN,
                !stream.connecting && connection.room_for_host() > 0,
            );
            wanted.set(
                PollFlags::OUT,
                stream.connecting || !connection.for_host().is_empty(),
            );
            if wanted.is_empty() {
                // Asked for nothing, a poll would tell of a peer that hung up, again and again.
                continue;
            }
            sources.push(Source::Stream(*id));
            fds.push(PollFd::from_borrowed_fd(stream.socket.as_fd(), wanted));
        }
        for (id, socket) in &self.datagrams {
            sources.push(Source::Datagrams(*id));
            fds.push(PollFd::new(socket, PollFlags::IN));
        }
        let timeout = deadline.map(|at| {
            let left = at.saturating_sub(now);
            Timespec {
                tv_sec: (left / 1000) as i64,
                tv_nsec: (left % 1000 * 1_000_000) as i64,
            }
        });
        match poll(&mut fds, timeout.as_ref()) {
            Ok(_) | Err(Errno::INTR) => {}
            Err(error) => return Err(Error::Wait(error.into())),
        }
        let ready = sources.into_iter().zip(fds.iter().map(PollFd::revents));
        Ok(ready.filter(|(_, ready)| !ready.is_empty()).collect())
    }

    /// Takes frames of the guest.
    fn receive_frames(&mut self) -> Result<Flow, Error> {
        for _ in 0..TURNS {
            let now = self.now();
            let core = &mut self.core;
            let flow = self.cable.receive(|frame| core.input(frame, now))?;
            self.act();
            if flow != Flow::More {
                return Ok(flow);
            }
        }
        Ok(Flow::More)
    }

    /// Passes on what the guest sent, and sends what it is to get.
    fn send_frames(&mut self) -> Flow {
        let ids: Vec<Id> = self.streams.keys().copied().collect();
        for id in ids {
            self.write_stream(id);
        }
        loop {
            let now = self.now();
            self.core.poll(now);
            self.act();
            let any = self.core.has_frames();
            let flow = self.cable.send(&mut self.core);
            if flow != Flow::More || !any {
                return flow;
            }
        }
    }

    /// Does what the core wishes.
    fn act(&mut self) {
        while let Some(action) = self.core.next_action() {
            match action {
                Action::Connect { connection, to } => match connect(to) {
                    Ok(socket) => self.add_stream(connection, socket, true),
                    Err(_) => self.core.host_failed(connection),
                },
                Action::Close { connection, reset } => {
                    if let Some(stream) = self.streams.remove(&connection)
                        && reset
                    {
                        // The host's peer hears of a reset by a reset.
                        let linger = Some(std::time::Duration::ZERO);
                        let _ = rustix::net::sockopt::set_socket_linger(&stream.socket, linger);
                    }
                }
                Action::Send {
                    flow,
                    kind,
                    to,
                    payload,
                } => {
                    if !self.datagrams.contains_key(&flow)
                        && let Ok(socket) = open_datagrams(kind, to)
                    {
                        self.datagrams.insert(flow, socket);
                    }
                    if let Some(socket) = self.datagrams.get(&flow) {
                        // Datagrams may be lost, this one is.
                        let flags = rustix::net::SendFlags::DONTWAIT;
                        let _ = rustix::net::send(socket, &payload, flags);
                    }
                }
                Action::Reply { forward, to, payload } => {
                    if let Some(Listener::Udp(socket)) = self.listeners.get(forward) {
                        let _ = socket.send_to(&payload, to);
                    }
                }
                Action::Forget { flow } => drop(self.datagrams.remove(&flow)),
            }
        }
    }

    fn add_stream(&mut self, id: Id, socket: TcpStream, connecting: bool) {
        let _ = socket.set_nodelay(true);
        let _ = rustix::net::sockopt::set_socket_keepalive(&socket, true);
        self.streams.insert(
            id,
            Stream {
                socket,
                connecting,
                shut: false,
            },
        );
    }

    fn read_listener(&mut self, index: usize) {
        let now = self.now();
        for _ in 0..TURNS {
            match &self.listeners[index] {
                Listener::Tcp(listener) => match listener.accept() {
                    Ok((socket, client)) => {
                        if socket.set_nonblocking(true).is_ok()
                            && let Some(id) = self.core.forwarded(index, client.port(), now)
                        {
                            self.add_stream(id, socket, false);
                        }
                    }
                    Err(error) if error.kind() == io::ErrorKind::WouldBlock => return,
                    Err(_) => {
                        self.listeners_rest = now + REST;
                        return;
                    }
                },
                Listener::Udp(socket) => match socket.recv_from(&mut self.buffer) {
                    Ok((count, client)) => {
                        self.core
                            .forwarded_datagram(index, client, &self.buffer[..count], now);
                    }
                    Err(_) => return,
                },
            }
        }
    }

    fn read_datagrams(&mut self, id: Id) {
        let now = self.now();
        for _ in 0..TURNS {
            let Some(socket) = self.datagrams.get(&id) else {
                return;
            };
            match rustix::net::recv(socket, &mut *self.buffer, rustix::net::RecvFlags::DONTWAIT) {
                Ok((count, _)) => self.core.datagram(id, &self.buffer[..count], now),
                // That nobody is there is told once, and then forgotten by the socket.
                Err(_) => return,
            }
        }
    }

    fn read_stream(&mut self, id: Id, ready: PollFlags) {
        let now = self.now();
        let Some(stream) = self.streams.get_mut(&id) else {
            return;
        };
        if stream.connecting {
            match stream.socket.take_error() {
                Ok(None) if ready.contains(PollFlags::OUT) => {
                    stream.connecting = false;
                    if let Some(connection) = self.core.connection(id) {
                        connection.connected(now);
                    }
                }
                Ok(None) => {}
                Ok(Some(_)) | Err(_) => self.core.host_failed(id),
            }
            return;
        }
        for _ in 0..TURNS {
            let Some(connection) = self.core.connection(id) else {
                return;
            };
            let room = connection.room_for_host().min(PORTION);
            if room == 0 {
                return;
            }
            // Straight to where they wait for the guest.
            let mut places = connection.place_for_host(room).map(IoSliceMut::new);
            match stream.socket.read_vectored(&mut places) {
                Ok(count) => {
                    connection.host_filled(count, now);
                    if count < room {
                        return;
                    }
                }
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return,
                Err(_) => return self.core.host_failed(id),
            }
        }
    }

    /// Writes what the host's socket takes, and tells it when nothing more comes.
    fn write_stream(&mut self, id: Id) {
        let now = self.now();
        let (Some(stream), Some(connection)) = (self.streams.get_mut(&id), self.core.connection(id)) else {
            return;
        };
        if stream.connecting {
            return;
        }
        while !connection.for_host().is_empty() {
            match stream.socket.write(connection.for_host()) {
                Ok(count) => connection.host_took(count, now),
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return,
                Err(_) => return self.core.host_failed(id),
            }
        }
        if connection.wants_shutdown() && !stream.shut {
            stream.shut = true;
            // One that is gone already is noticed when it is read.
            let _ = stream.socket.shutdown(Shutdown::Write);
        }
    }
}

impl AsFd for Listener {
    fn as_fd(&self) -> BorrowedFd<'_> {
        match self {
            Self::Tcp(listener) => listener.as_fd(),
            Self::Udp(socket) => socket.as_fd(),
        }
    }
}

/// A socket that connects to `to`; it is writable when it has, or has failed.
fn connect(to: SocketAddr) -> io::Result<TcpStream> {
    let family = match to {
        SocketAddr::V4(_) => AddressFamily::INET,
        SocketAddr::V6(_) => AddressFamily::INET6,
    };
    let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
    let socket = socket_with(family, SocketType::STREAM, flags, None)?;
    match rustix::net::connect(&socket, &to) {
        Ok(()) | Err(Errno::INPROGRESS | Errno::INTR) => Ok(socket.into()),
        Err(error) => Err(error.into()),
    }
}

/// A socket whose datagrams go to `to`, and come from there only.
fn open_datagrams(kind: Kind, to: SocketAddr) -> io::Result<OwnedFd> {
    match kind {
        Kind::Udp => {
            let any: SocketAddr = match to {
                SocketAddr::V4(_) => (Ipv4Addr::UNSPECIFIED, 0).into(),
                SocketAddr::V6(_) => (Ipv6Addr::UNSPECIFIED, 0).into(),
            };
            let socket = UdpSocket::bind(any)?;
            socket.connect(to)?;
            Ok(socket.into())
        }
        Kind::Ping => {
            // For the groups in net.ipv4.ping_group_range; most distributions allow it to everyone.
            let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
            let (family, protocol) = match to {
                SocketAddr::V4(_) => (AddressFamily::INET, ipproto::ICMP),
                SocketAddr::V6(_) => (AddressFamily::INET6, ipproto::ICMPV6),
            };
            let socket = socket_with(family, SocketType::DGRAM, flags, Some(protocol))?;
            rustix::net::connect(&socket, &to)?;
            Ok(socket)
        }
    }
}

/// The first name server that the host's own resolver asks, from the text of /etc/resolv.conf.
pub fn name_server(text: &str) -> Option<SocketAddr> {
    let mut words = text.lines().map(str::split_whitespace);
    words.find_map(|mut words| {
        let is_server = words.next() == Some("nameserver");
        let address = words.next()?.parse().ok()?;
        is_server.then_some(SocketAddr::new(address, 53))
    })
}

#[cfg(test)]
mod tests {
    use std::net::IpAddr;
    use std::os::unix::net::UnixStream;

    use super::*;
    use crate::config::{FIRST_GUEST, FIRST_GUEST6, GATEWAY, GATEWAY6, OUR_MAC};
    use crate::output::Output;

    /// Sends a frame of a guest over its end of the cable.
    fn send(cable: &mut UnixStream, frame: &[u8]) {
        cable.write_all(&(frame.len() as u32).to_be_bytes()).unwrap();
        cable.write_all(frame).unwrap();
    }

    /// The next frame that ends so.
    fn receive(cable: &mut UnixStream, end: &[u8]) -> Vec<u8> {
        loop {
            let mut len = [0; 4];
            cable.read_exact(&mut len).unwrap();
            let mut frame = vec![0; u32::from_be_bytes(len) as usize];
            cable.read_exact(&mut frame).unwrap();
            if frame.ends_with(end) {
                return frame;
            }
        }
    }

    /// A datagram to `gateway` goes out to a server on the host's loopback, and its answer comes back.
    fn exchange_datagrams(guest_address: IpAddr, gateway: IpAddr, echo: &UdpSocket) {
        let port = echo.local_addr().unwrap().port();
        let (mut guest, cable) = UnixStream::pair().unwrap();
        let mac = [0x52, 0x54, 0, 1, 2, 3];
        let config = Config::for_guest(mac, "vm", FIRST_GUEST);
        let network = Network::open(config, cable.into()).unwrap();
        let running = std::thread::spawn(|| network.run());
        let mut output = Output::new(mac, FIRST_GUEST);
        output.learn(gateway, OUR_MAC);
        let from = SocketAddr::new(guest_address, 4000);
        output.udp(from, SocketAddr::new(gateway, port), b"there");
        send(&mut guest, &output.pop().unwrap());
        let mut datagram = [0; 100];
        let (count, client) = echo.recv_from(&mut datagram).unwrap();
        assert_eq!(&datagram[..count], b"there");
        echo.send_to(b"back", client).unwrap();
        receive(&mut guest, b"back");
        drop(guest);
        running.join().unwrap().unwrap();
    }

    #[test]
    fn a_datagram_goes_out_and_back_and_the_network_ends_with_its_cable() {
        let echo = UdpSocket::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
        exchange_datagrams(FIRST_GUEST.into(), GATEWAY.into(), &echo);
    }

    #[test]
    fn a_datagram_goes_out_and_back_over_ipv6() {
        let Ok(echo) = UdpSocket::bind((Ipv6Addr::LOCALHOST, 0)) else {
            println!("SKIPPED a_datagram_goes_out_and_back_over_ipv6: this machine has no ::1");
            return;
        };
        exchange_datagrams(FIRST_GUEST6.into(), GATEWAY6.into(), &echo);
    }

    #[test]
    fn what_is_no_frame_ends_the_network_and_a_taken_port_is_named() {
        let taken = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
        let listen = taken.local_addr().unwrap();
        let config = |forwards| Config {
            forwards,
            ..Config::for_guest([2; 6], "vm", FIRST_GUEST)
        };
        let (mut guest, cable) = UnixStream::pair().unwrap();
        let network = Network::open(config(Vec::new()), cable.into()).unwrap();
        guest.write_all(&[0xff; 100]).unwrap();
        assert!(matches!(network.run(), Err(Error::Cable(0xffff_ffff))));
        let (_guest, cable) = UnixStream::pair().unwrap();
        let forward = format!("tcp:{listen}:22").parse().unwrap();
        let refused = Network::open(config(vec![forward]), cable.into()).err().unwrap();
        assert!(refused.to_string().contains(&listen.to_string()), "{refused}");
    }

    #[test]
    fn the_first_name_server_is_found() {
        let text = "# nameserver 9.9.9.9\nsearch x\nnameserver fe80::1%eth0\nnameserver 192.0.2.1\nnameserver 192.0.2.2\n";
        assert_eq!(name_server(text), Some(([192, 0, 2, 1], 53).into()));
        assert_eq!(name_server("search x\n"), None);
    }
}
