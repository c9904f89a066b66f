//! Clients: packets come in, calls go to the workers, replies and events go out.

mod client;
mod connection;
mod outbox;
mod workers;

use std::io;
use std::net::{SocketAddr, TcpStream};
use std::os::unix::net::UnixStream;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError, RwLock, Weak};
use std::time::Duration;

pub use client::{Client, error_message};
pub use connection::{Connection, Peer};
pub use outbox::Outbox;
use workers::Workers;

use crate::doors::tls::{Handshakes, Tls};
use crate::doors::{Door, Kind, Listener};
use crate::{Error, Shared};

/// Most clients of a kind at a time; the next one is hung up on. Each kind has its own, so that everyone who may look, or anyone with
/// a certificate, cannot keep out those who manage the host.
const MAX_CLIENTS: usize = 512;
/// How long accepting rests when the host has no descriptor left.
const REST: Duration = Duration::from_millis(100);

/// The doors, open. Dropping it closes them and hangs up on every client.
pub struct Server {
    core: Arc<Core>,
    doors: Vec<Arc<Door>>,
}

struct Core {
    shared: Arc<Shared>,
    workers: Arc<Workers>,
    /// Replaced as a whole when certificates are read again.
    tls: RwLock<Option<Arc<Tls>>>,
    handshakes: Arc<Handshakes>,
    counts: [AtomicUsize; 3],
    clients: Mutex<Vec<Weak<Client>>>,
    closing: AtomicBool,
}

impl Server {
    /// Serves whoever comes in by `doors`.
    pub fn start(doors: Vec<Door>, tls: Option<Tls>, shared: Arc<Shared>) -> Result<Self, Error> {
        let no_threads = |source| Error::Host {
            action: "start threads",
            source,
        };
        let core = Arc::new(Core {
            shared,
            workers: Workers::start().map_err(no_threads)?,
            tls: RwLock::new(tls.map(Arc::new)),
            handshakes: Arc::default(),
            counts: Default::default(),
            clients: Mutex::default(),
            closing: AtomicBool::new(false),
        });
        let doors = doors.into_iter().map(Arc::new).collect();
        let server = Self { core, doors };
        for door in &server.doors {
            let (core, door) = (server.core.clone(), door.clone());
            std::thread::Builder::new()
                .name("accept".into())
                .spawn(move || core.accept(&door))
                .map_err(no_threads)?;
        }
        Ok(server)
    }
}

impl Server {
    /// Whoever shakes hands from now on meets `tls`; false if nobody can, as there is no door for it.
    pub fn replace_tls(&self, tls: Tls) -> bool {
        let mut current = self.core.tls.write().unwrap_or_else(PoisonError::into_inner);
        let has_door = current.is_some();
        if has_door {
            *current = Some(Arc::new(tls));
        }
        has_door
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        self.core.closing.store(true, Ordering::SeqCst);
        for door in &self.doors {
            door.close();
        }
        let clients = self.core.clients.lock().unwrap_or_else(PoisonError::into_inner);
        for client in clients.iter().filter_map(Weak::upgrade) {
            client.hang_up();
        }
    }
}

impl Core {
    fn tls(&self) -> Option<Arc<Tls>> {
        self.tls.read().unwrap_or_else(PoisonError::into_inner).clone()
    }

    fn accept(self: Arc<Self>, door: &Door) {
        while !self.closing.load(Ordering::SeqCst) {
            let came = match &door.listener {
                Listener::Unix(listener) => listener.accept().map(|(stream, _)| self.greet(stream, door)),
                Listener::Tcp(listener) => listener
                    .accept()
                    .map(|(stream, from)| self.shake_hands(stream, from)),
            };
            match came {
                Ok(Ok(())) => {}
                Ok(Err(error)) => crate::log::note!("cannot serve a client: {error}"),
                Err(_) if self.closing.load(Ordering::SeqCst) => return,
                Err(error) => {
                    crate::log::note!("cannot accept a client: {error}");
                    std::thread::sleep(REST);
                }
            }
        }
    }

    /// Takes a process of this host.
    fn greet(self: &Arc<Self>, stream: UnixStream, door: &Door) -> io::Result<()> {
        let connection = Connection::unix(stream)?;
        if let Peer::Process { uid, .. } = connection.peer
            && door.private
            && uid != 0
            && uid != rustix::process::geteuid().as_raw()
        {
            let why = "this socket is for the daemon's own user";
            self.shared.audit.refused_at_the_door(&connection.peer, &why);
            return Ok(());
        }
        self.admit(connection, door.kind)
    }

    /// Takes somebody from elsewhere, on a thread of its own until it has shown its certificate.
    fn shake_hands(self: &Arc<Self>, stream: TcpStream, from: SocketAddr) -> io::Result<()> {
        let place = self.handshakes.enter(&stream)?;
        let core = self.clone();
        let greet = move || {
            let Some(tls) = core.tls() else { return };
            let met = tls.accept(stream, from);
            drop(place);
            match met {
                Ok(connection) => {
                    if let Err(error) = core.admit(connection, Kind::Tls) {
                        crate::log::note!("cannot serve a client: {error}");
                    }
                }
                Err(why) => core
                    .shared
                    .audit
                    .refused_at_the_door(&format_args!("address={from}"), &why),
            }
        };
        std::thread::Builder::new()
            .name("handshake".into())
            .spawn(greet)?;
        Ok(())
    }

    /// Serves a client on two threads of its own, if there is room for one more.
    fn admit(self: &Arc<Self>, connection: Connection, kind: Kind) -> io::Result<()> {
        let count = &self.counts[kind as usize];
        if count.fetch_add(1, Ordering::SeqCst) >= MAX_CLIENTS {
            count.fetch_sub(1, Ordering::SeqCst);
            let why = format!("{MAX_CLIENTS} clients are connected by this kind of socket");
            self.shared.audit.refused_at_the_door(&connection.peer, &why);
            return Ok(());
        }
        let core = self.clone();
        let gone = move || {
            core.counts[kind as usize].fetch_sub(1, Ordering::SeqCst);
        };
        let client = Client::start(connection, kind, self.shared.clone(), self.workers.clone(), gone)?;
        let mut clients = self.clients.lock().unwrap_or_else(PoisonError::into_inner);
        clients.retain(|other| other.strong_count() > 0);
        clients.push(Arc::downgrade(&client));
        // The end came between: it hung up on those that it knew.
        if self.closing.load(Ordering::SeqCst) {
            client.hang_up();
        }
        Ok(())
    }
}
