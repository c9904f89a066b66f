//! A guest's console as a stream of one client. History and output stay in the guest's process.

use std::io::{Read, Write};
use std::net::Shutdown;
use std::os::unix::net::UnixStream;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{Receiver, SyncSender, TrySendError, sync_channel};
use std::sync::{Arc, Mutex, PoisonError};

use ostler_libvirt::{Code, Header, Kind, Message, RemoteError, Status};

use crate::server::Outbox;
use crate::stream::{Peer, Stream};

/// Packets of input that wait for the guest to take them.
const MAX_PENDING: usize = 64;
/// Bytes of output in one packet.
const CHUNK: usize = 16 << 10;

/// An open console.
pub struct ConsoleStream {
    socket: UnixStream,
    peer: Peer,
    /// Input on its way to the guest; none once the client has ended.
    input: Mutex<Option<SyncSender<Vec<u8>>>>,
    /// The other end of that, until somebody moves it on. The client may send as soon as it has its reply.
    waiting: Mutex<Option<Receiver<Vec<u8>>>>,
    over: AtomicBool,
}

impl ConsoleStream {
    /// Streams between the console behind `socket` and the client whose call `header` is. Nothing moves before
    /// [`ConsoleStream::run`].
    pub fn new(socket: UnixStream, outbox: Arc<Outbox>, call: Header) -> Arc<Self> {
        let (sender, receiver) = sync_channel(MAX_PENDING);
        Arc::new(Self {
            socket,
            peer: Peer::new(outbox, call),
            input: Mutex::new(Some(sender)),
            waiting: Mutex::new(Some(receiver)),
            over: AtomicBool::new(false),
        })
    }

    /// Starts moving bytes both ways; the second time nothing.
    pub fn run(self: &Arc<Self>) -> std::io::Result<()> {
        let waiting = self.waiting.lock().unwrap_or_else(PoisonError::into_inner).take();
        let Some(receiver) = waiting else {
            return Ok(());
        };
        let (mut from, to) = (self.socket.try_clone()?, self.socket.try_clone()?);
        let stream = self.clone();
        std::thread::Builder::new()
            .name("console-out".into())
            .spawn(move || stream.pass_output(&mut from))?;
        std::thread::Builder::new()
            .name("console-in".into())
            .spawn(move || pass_input(&receiver, to))?;
        Ok(())
    }

    fn pass_on(&self, bytes: Vec<u8>) {
        let input = self.input.lock().unwrap_or_else(PoisonError::into_inner);
        let sent = input.as_ref().map(|input| input.try_send(bytes));
        drop(input);
        if let Some(Err(TrySendError::Full(_))) = sent {
            self.fail(&RemoteError::new(
                Code::OperationFailed,
                "the guest takes no more input on its console",
            ));
        }
    }

    /// Ends it with an error for the client.
    pub fn fail(&self, error: &RemoteError) {
        if !self.over.swap(true, Ordering::SeqCst) {
            self.peer.fail(error);
        }
        self.close();
    }

    fn pass_output(&self, from: &mut UnixStream) {
        let mut chunk = vec![0; CHUNK];
        loop {
            // A client that reads slowly is waited for here; the guest is not: its process keeps the history.
            if !self.peer.wait_for_room() {
                return;
            }
            let count = match from.read(&mut chunk) {
                Ok(count) => count,
                Err(error) if error.kind() == std::io::ErrorKind::Interrupted => continue,
                Err(_) => 0,
            };
            if self.is_over() {
                return;
            }
            // Nothing in it: the guest is over, and the client answers with its own end.
            self.peer.data(chunk[..count].to_vec());
            if count == 0 {
                return;
            }
        }
    }
}

impl Stream for ConsoleStream {
    fn take(&self, message: Message) -> bool {
        match (message.header.kind, message.header.status) {
            (Kind::Hole, _) => {
                self.fail(&RemoteError::new(
                    Code::OperationUnsupported,
                    "a console has no holes",
                ));
                false
            }
            (_, Status::Continue) => {
                if !message.payload.is_empty() {
                    self.pass_on(message.payload);
                }
                false
            }
            // The end is answered in kind; an abort waits for an answer too.
            (_, Status::Ok | Status::Error) => {
                self.close();
                self.peer.end();
                true
            }
        }
    }

    fn is_over(&self) -> bool {
        self.over.load(Ordering::SeqCst)
    }

    fn close(&self) {
        self.over.store(true, Ordering::SeqCst);
        *self.input.lock().unwrap_or_else(PoisonError::into_inner) = None;
        // Wakes both threads; the guest may have hung up already.
        let _ = self.socket.shutdown(Shutdown::Both);
    }
}

fn pass_input(receiver: &Receiver<Vec<u8>>, mut to: UnixStream) {
    while let Ok(bytes) = receiver.recv() {
        if to.write_all(&bytes).is_err() {
            return;
        }
    }
}
