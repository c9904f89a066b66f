//! One client: a thread that reads its packets, one that writes, and what it has asked for.

use std::cell::Cell;
use std::collections::{HashMap, VecDeque};
use std::io::{self, BufReader, Read, Write};
use std::os::fd::OwnedFd;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use ostler_libvirt::frame::{KEEPALIVE_PROGRAM, PING, PONG, PROGRAM_VERSION, QEMU_PROGRAM, REMOTE_PROGRAM};
use ostler_libvirt::{FrameError, Header, Kind, Message, RemoteError, Status};

use super::connection::{Connection, Peer};
use super::outbox::{Next, Outbox};
use super::workers::{self, Workers};
use crate::Shared;
use crate::calls::Context;
use crate::doors::Kind as Door;
use crate::stream::Stream;

/// Calls of one client that are executed at a time.
const MAX_RUNNING: usize = 5;
/// Calls of one client that wait for that; with as many it is not read from until one is done.
const MAX_WAITING: usize = 32;
/// Open streams of one client.
const MAX_STREAMS: usize = 16;
/// After so much silence a client that knows pings gets one.
const SILENCE: Duration = Duration::from_secs(5);
/// Pings without an answer after which a client is given up.
const MAX_PINGS: u32 = 5;

/// A client that is connected.
pub struct Client {
    /// Tells clients apart.
    pub number: u64,
    /// Who it is.
    pub peer: Peer,
    /// What is to be written to it.
    pub outbox: Arc<Outbox>,
    /// It may change nothing.
    pub readonly: AtomicBool,
    /// It asked for pings.
    pub wants_pings: AtomicBool,
    socket: OwnedFd,
    shared: Arc<Shared>,
    workers: Arc<Workers>,
    calls: Mutex<Calls>,
    call_done: Condvar,
    streams: Mutex<HashMap<u32, Arc<dyn Stream>>>,
    heard: Mutex<Instant>,
}

#[derive(Default)]
struct Calls {
    running: usize,
    waiting: VecDeque<Message>,
    /// The thread that reads waits for a call to be done.
    is_full: bool,
}

fn locked<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Client {
    /// Serves `connection` until it ends, and then calls `gone`.
    pub fn start(
        connection: Connection,
        door: Door,
        shared: Arc<Shared>,
        workers: Arc<Workers>,
        gone: impl FnOnce() + Send + 'static,
    ) -> io::Result<Arc<Self>> {
        static NUMBER: AtomicU64 = AtomicU64::new(0);
        let Connection {
            reader: incoming,
            writer: outgoing,
            direct,
            socket,
            peer,
        } = connection;
        let client = Arc::new(Self {
            number: NUMBER.fetch_add(1, Ordering::Relaxed),
            outbox: Arc::new(Outbox::new(direct)),
            peer,
            readonly: AtomicBool::new(door == Door::ReadOnly),
            wants_pings: AtomicBool::new(false),
            socket,
            shared,
            workers,
            calls: Mutex::default(),
            call_done: Condvar::new(),
            streams: Mutex::default(),
            heard: Mutex::new(Instant::now()),
        });
        crate::log::note!("client {}: {} by {door:?}", client.number, client.peer);
        let writer = client.clone();
        std::thread::Builder::new()
            .name("write".into())
            .spawn(move || writer.write(outgoing))?;
        let reader = client.clone();
        std::thread::Builder::new().name("read".into()).spawn(move || {
            if let Err(error) = reader.read(incoming) {
                crate::log::note!("client {}: {error}", reader.number);
            }
            reader.end();
            gone();
        })?;
        Ok(client)
    }

    /// Ends the connection.
    pub fn hang_up(&self) {
        self.outbox.close();
        // It may be gone already.
        let _ = rustix::net::shutdown(&self.socket, rustix::net::Shutdown::Both);
    }

    /// Makes the stream of the call `serial` known, so that its packets find it.
    pub fn add_stream(&self, serial: u32, stream: Arc<dyn Stream>) -> Result<(), RemoteError> {
        let mut streams = locked(&self.streams);
        // The client's end closes the outbox first, and takes the streams after that.
        if self.outbox.is_closed() {
            return Err(RemoteError::rpc("the client is gone"));
        }
        // Those that ended with an error have nothing more to say, and many a client does not end them on its side.
        streams.retain(|_, stream| !stream.is_over());
        if streams.len() >= MAX_STREAMS {
            return Err(RemoteError::rpc(format!(
                "a client has at most {MAX_STREAMS} open streams"
            )));
        }
        streams.insert(serial, stream);
        Ok(())
    }

    fn write(&self, mut outgoing: impl Write) {
        let mut written = 0;
        let mut pings = 0;
        loop {
            match self.outbox.next(written, SILENCE) {
                Next::Write(bytes) => {
                    written = bytes.len();
                    if outgoing.write_all(&bytes).is_err() {
                        break;
                    }
                }
                Next::Idle => written = 0,
                Next::Closed => break,
            }
            if !self.wants_pings.load(Ordering::Relaxed) {
                continue;
            }
            let silence = locked(&self.heard).elapsed();
            if silence < SILENCE {
                pings = 0;
            } else if silence < SILENCE * (pings + 1) {
                // The last ping still has time.
            } else if pings < MAX_PINGS {
                pings += 1;
                self.outbox.push(&Message::keepalive(PING));
            } else {
                crate::log::note!("client {} answers no pings", self.number);
                break;
            }
        }
        self.hang_up();
    }

    fn read(self: &Arc<Self>, incoming: impl Read) -> Result<(), FrameError> {
        let mut incoming = BufReader::with_capacity(16 << 10, incoming);
        while self.outbox.wait_for_room() {
            let Some(message) = Message::read(&mut incoming)? else {
                break;
            };
            *locked(&self.heard) = Instant::now();
            if !self.take(message) {
                break;
            }
        }
        Ok(())
    }

    /// Takes a packet; false ends the connection.
    fn take(self: &Arc<Self>, message: Message) -> bool {
        let Header {
            program,
            version,
            procedure,
            kind,
            ..
        } = message.header;
        match (program, kind) {
            (KEEPALIVE_PROGRAM, Kind::Event) => {
                if procedure == PING {
                    self.outbox.push(&Message::keepalive(PONG));
                }
            }
            (REMOTE_PROGRAM | QEMU_PROGRAM, Kind::Call) if version == PROGRAM_VERSION => self.queue(message),
            (REMOTE_PROGRAM, Kind::Stream | Kind::Hole) => self.take_stream(message),
            (_, Kind::Call) => {
                let error = RemoteError::rpc(format!("Cannot find program {program} version {version}"));
                self.answer(message.header, Err(error));
            }
            _ => return false,
        }
        true
    }

    /// Has a call executed as soon as it may be.
    fn queue(self: &Arc<Self>, message: Message) {
        let Header {
            program, procedure, ..
        } = message.header;
        if self.shared.dispatcher.is_quick(program, procedure) {
            // It is over before another thread would have begun with it.
            workers::execute(|| self.call(&message));
            return;
        }
        let mut calls = locked(&self.calls);
        while calls.waiting.len() >= MAX_WAITING {
            calls.is_full = true;
            calls = self.call_done.wait(calls).unwrap_or_else(PoisonError::into_inner);
        }
        if calls.running < MAX_RUNNING {
            calls.running += 1;
            self.submit(message);
        } else {
            calls.waiting.push_back(message);
        }
    }

    fn submit(self: &Arc<Self>, message: Message) {
        let client = self.clone();
        self.workers.submit(Box::new(move || {
            // Also when the call panics, the next one has its turn.
            let _done = Done(client.clone());
            client.call(&message);
        }));
    }

    fn call(self: &Arc<Self>, message: &Message) {
        let context = Context {
            shared: &self.shared,
            client: self,
            header: message.header,
            after: Cell::default(),
        };
        let answer = self.shared.dispatcher.call(&context, &message.payload);
        let done = answer.is_ok();
        self.answer(message.header, answer);
        if let Some(then) = context.after.take().filter(|_| done) {
            then();
        }
    }

    fn answer(&self, call: Header, answer: Result<Vec<u8>, RemoteError>) {
        let header = Header {
            kind: Kind::Reply,
            status: Status::Ok,
            ..call
        };
        match answer {
            Ok(payload) => self.outbox.push(&Message { header, payload }),
            Err(error) => self.outbox.push(&error_message(header, &error)),
        }
    }

    fn take_stream(&self, message: Message) {
        let serial = message.header.serial;
        let stream = locked(&self.streams).get(&serial).cloned();
        // One that is over already; its last packets may cross ours.
        let Some(stream) = stream else { return };
        if stream.take(message) {
            locked(&self.streams).remove(&serial);
        }
    }

    fn call_ended(self: &Arc<Self>) {
        let mut calls = locked(&self.calls);
        match calls.waiting.pop_front() {
            Some(message) => self.submit(message),
            None => calls.running -= 1,
        }
        let was_full = std::mem::take(&mut calls.is_full);
        drop(calls);
        // Waking costs a call of the kernel's even if nobody sleeps.
        if was_full {
            self.call_done.notify_all();
        }
    }

    fn end(&self) {
        self.hang_up();
        locked(&self.calls).waiting.clear();
        self.shared.forget_client(self.number);
        for (_, stream) in locked(&self.streams).drain() {
            stream.close();
        }
    }
}

struct Done(Arc<Client>);

impl Drop for Done {
    fn drop(&mut self) {
        self.0.call_ended();
    }
}

/// A packet with an error, otherwise like `header`.
pub fn error_message(header: Header, error: &RemoteError) -> Message {
    let header = Header {
        status: Status::Error,
        ..header
    };
    // Only a text that is no text could fail here, and then the error goes without one.
    Message::new(header, &error.to_wire()).unwrap_or(Message {
        header,
        payload: Vec::new(),
    })
}
