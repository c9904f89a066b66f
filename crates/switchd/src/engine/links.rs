//! Ports and links that come and go.

use std::fs;
use std::io;
use std::os::fd::AsFd;
use std::os::unix::fs::FileTypeExt;
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::Path;

use ostler_netio::FrameRings;
use ostler_switch::PortIndex;
use ostler_worker::Interest;
use rustix::net::{AddressFamily, SocketAddrUnix, SocketFlags, SocketType};

use super::{Egress, Engine, Gone, LINK, LISTENER, Link, Port, with_core};
use crate::Error;
use crate::config::{PortSpec, Source};
use crate::ports::{GuestLink, PacketLink, RouterLink, StreamLink, TapLink, VhostUserLink};

impl Engine {
    pub(super) fn find_port(&self, name: &str) -> Option<PortIndex> {
        let named = |port: &Option<Port>| port.as_ref().is_some_and(|port| port.spec.name == name);
        self.ports.iter().position(named).and_then(PortIndex::new)
    }

    /// Adds a port, and tries to connect it.
    pub(super) fn add_port(&mut self, spec: PortSpec, temporary: bool) -> Result<PortIndex, Error> {
        let (source, config) = (spec.source()?, spec.config()?);
        if self.find_port(&spec.name).is_some() {
            return Err(Error::port(&spec.name, "there is another port of that name"));
        }
        let listener = match &source {
            Source::Listen(path) | Source::VhostUser(path) => {
                Some(listen(path).map_err(|source| Error::Host {
                    what: "cannot listen at",
                    name: path.display().to_string(),
                    source,
                })?)
            }
            _ => None,
        };
        let pvid = config.vlans.pvid.map(|vlan| vlan.get());
        let port = self.core.add_port(config)?;
        if let Some(listener) = &listener
            && let Err(error) = self.events.add(listener, LISTENER | port.get() as u64)
        {
            with_core!(self, |core, now, out| core.remove_port(port, now, out))?;
            return Err(error.into());
        }
        if self.ports.len() <= port.get() {
            self.ports.resize_with(port.get() + 1, || None);
        }
        self.ports[port.get()] = Some(Port {
            spec,
            source,
            pvid,
            link: None,
            up: false,
            interest: Interest::new(LINK | port.get() as u64),
            wants_room: false,
            listener,
            why_down: "nobody is connected".into(),
            temporary,
            directory: None,
        });
        self.try_to_connect(port);
        Ok(port)
    }

    /// Removes a port with everything that belongs to it.
    pub(super) fn remove_port(&mut self, port: PortIndex) -> Result<(), Error> {
        self.disconnect(port);
        with_core!(self, |core, now, out| core.remove_port(port, now, out))?;
        if let Some(slot) = self.ports[port.get()].take()
            && let Source::Listen(path) | Source::VhostUser(path) = &slot.source
        {
            let _ = fs::remove_file(path);
        }
        self.flush();
        self.captures.forget(port);
        Ok(())
    }

    /// At the end: hangs up on everybody.
    pub(super) fn remove_all_ports(&mut self) {
        for port in (0..self.ports.len()).filter_map(PortIndex::new) {
            let _ = self.remove_port(port);
        }
    }

    /// Connects a guest: a pair of rings, and the socket that it came by. The memory is for the guest.
    pub(super) fn connect_guest(&mut self, port: PortIndex, connection: UnixStream, rings: FrameRings) {
        self.connect(port, Box::new(GuestLink::new(connection, rings)));
    }

    /// Someone connected to the socket of a port.
    pub(super) fn accept(&mut self, port: PortIndex) {
        // The last peer may have gone without our having seen it.
        self.receive(port);
        let Some(slot) = self.slot_mut(port) else { return };
        let Some(listener) = &slot.listener else { return };
        let Ok((socket, _)) = listener.accept() else {
            return;
        };
        // One peer a port: a second one is hung up on.
        if slot.link.is_some() {
            return;
        }
        let link: Result<Box<dyn Link>, String> = match slot.source {
            Source::VhostUser(_) => VhostUserLink::new(socket).map(|link| Box::new(link) as _),
            _ => Ok(Box::new(StreamLink::new(socket))),
        };
        match link {
            Ok(link) => self.connect(port, link),
            Err(why) => slot.why_down = why,
        }
    }

    fn connect(&mut self, port: PortIndex, link: Box<dyn Link>) {
        let Some(slot) = self.ports.get_mut(port.get()).and_then(Option::as_mut) else {
            return;
        };
        slot.wants_room = false;
        if let Err(error) = slot
            .interest
            .set(&self.events, Some(link.readable().as_fd()), None)
        {
            slot.why_down = error.to_string();
            return;
        }
        slot.link = Some(link);
        self.see_whether_up(port);
    }

    /// Tells the core whether a port's link is up.
    pub(super) fn see_whether_up(&mut self, port: PortIndex) {
        let Some(slot) = self.slot_mut(port) else { return };
        let up = match slot.link.as_mut().map(|link| link.is_up()) {
            Some(Ok(up)) => up,
            Some(Err(gone)) => return self.lose(port, gone),
            None => false,
        };
        if slot.up != up {
            slot.up = up;
            tracing::info!(
                "port \"{}\" is {}",
                slot.spec.name,
                if up { "up" } else { "down" }
            );
            // The port is there, which is all that can be wrong.
            let _ = with_core!(self, |core, now, out| core.set_link(port, up, now, out));
            self.flush();
        }
    }

    /// The other side of a port is gone.
    pub(super) fn lose(&mut self, port: PortIndex, gone: Gone) {
        self.disconnect(port);
        let Some(slot) = self.slot_mut(port) else { return };
        tracing::info!("port \"{}\" is down: {}", slot.spec.name, gone.0);
        slot.why_down = gone.0;
        if slot.temporary {
            let _ = self.remove_port(port);
        }
        self.flush();
    }

    fn disconnect(&mut self, port: PortIndex) {
        let Some(slot) = self.ports.get_mut(port.get()).and_then(Option::as_mut) else {
            return;
        };
        if slot.link.is_some() {
            let _ = slot.interest.set(&self.events, None, None);
            slot.link = None;
            slot.directory = None;
        }
        if std::mem::take(&mut slot.up) {
            let _ = with_core!(self, |core, now, out| core.set_link(port, false, now, out));
        }
    }

    /// Whether some port is to be looked at again and again.
    pub(super) fn has_chores(&self) -> bool {
        let watched = |port: &Port| match port.source {
            Source::Tap(_) | Source::Packet(_) => true,
            Source::Connect(_) | Source::VhostUserConnect(_) | Source::Router(_) => port.link.is_none(),
            Source::Listen(_) | Source::VhostUser(_) | Source::Guest => false,
        };
        self.ports.iter().flatten().any(watched)
    }

    pub(super) fn mind_links(&mut self) {
        for port in (0..self.ports.len()).filter_map(PortIndex::new) {
            match self.slot_mut(port) {
                Some(slot) if slot.link.is_some() => self.see_whether_up(port),
                Some(_) => self.try_to_connect(port),
                None => {}
            }
        }
    }

    fn try_to_connect(&mut self, port: PortIndex) {
        let Some(slot) = self.slot_mut(port) else { return };
        let link: Result<Box<dyn Link>, String> = match &slot.source {
            Source::Tap(name) => TapLink::open(name).map(|link| Box::new(link) as _),
            Source::Packet(name) => PacketLink::open(name)
                .map(|link| Box::new(link) as _)
                .map_err(|error| format!("interface \"{name}\" cannot be used: {error}")),
            Source::Connect(path) => connect_now(path)
                .map(|socket| Box::new(StreamLink::new(socket)) as _)
                .map_err(|error| format!("cannot connect to \"{}\": {error}", path.display())),
            Source::VhostUserConnect(path) => connect_now(path)
                .map_err(|error| format!("cannot connect to \"{}\": {error}", path.display()))
                .and_then(VhostUserLink::new)
                .map(|link| Box::new(link) as _),
            Source::Router(router) => router
                .config()
                .and_then(RouterLink::start)
                .map(|(link, directory)| {
                    slot.directory = Some(directory);
                    Box::new(link) as _
                }),
            Source::Listen(_) | Source::VhostUser(_) | Source::Guest => return,
        };
        match link {
            Ok(link) => self.connect(port, link),
            Err(why) => slot.why_down = why,
        }
    }
}

/// Connects without waiting for a peer that is too busy to accept.
fn connect_now(path: &Path) -> io::Result<UnixStream> {
    let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
    let socket = rustix::net::socket_with(AddressFamily::UNIX, SocketType::STREAM, flags, None)?;
    rustix::net::connect(&socket, &SocketAddrUnix::new(path)?)?;
    Ok(socket.into())
}

/// Listens at `path`, for this user only. A socket that nobody listens at any more is replaced.
pub(crate) fn listen(path: &Path) -> io::Result<UnixListener> {
    if let Ok(meta) = fs::symlink_metadata(path)
        && meta.file_type().is_socket()
        && UnixStream::connect(path).is_err_and(|error| error.kind() == io::ErrorKind::ConnectionRefused)
    {
        fs::remove_file(path)?;
    }
    let before = rustix::process::umask(rustix::fs::Mode::from_raw_mode(0o177));
    let listener = UnixListener::bind(path);
    rustix::process::umask(before);
    let listener = listener?;
    listener.set_nonblocking(true)?;
    Ok(listener)
}
