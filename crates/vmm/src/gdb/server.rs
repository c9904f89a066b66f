//! The debugger's thread: one client at a time, none of which can hold up the guest for longer than it wants to.

use std::collections::VecDeque;
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::io::Errno;
use rustix::net::{RecvFlags, SendFlags, SocketFlags};

use super::guest::{Debugged, Parts};
use super::packet::{Frame, Framer, packet};
use super::registers::Architecture;
use super::session::{Session, Step};
use super::target::Gone;
use crate::Error;
use crate::bell::Bell;

/// Bytes that wait for a client until its next packets have to wait too.
const MUCH_WAITING: usize = 64 << 10;
/// How long the client may take the last words of a guest that is over.
const LINGER: Duration = Duration::from_millis(500);

/// The debugger's socket.
pub(crate) struct GdbServer {
    bell: Arc<Bell>,
    finishing: Arc<AtomicBool>,
    thread: Option<JoinHandle<()>>,
}

impl GdbServer {
    /// Serves the listening stream socket `listener` on a thread of its own. `bell` is that of the reports.
    pub fn start(listener: OwnedFd, bell: Arc<Bell>, parts: Parts) -> Result<Self, Error> {
        let refused = |source| Error::host("start the debugger's socket", source);
        rustix::io::ioctl_fionbio(&listener, true).map_err(|e| refused(e.into()))?;
        let finishing = Arc::new(AtomicBool::new(false));
        let server = Server {
            bell: bell.clone(),
            finishing: finishing.clone(),
            listener,
            target: Debugged::new(parts),
            architecture: Architecture::default(),
            client: None,
        };
        let thread = std::thread::Builder::new()
            .name("gdb".into())
            .spawn(move || server.run());
        Ok(Self {
            bell,
            finishing,
            thread: Some(thread.map_err(refused)?),
        })
    }
}

impl Drop for GdbServer {
    fn drop(&mut self) {
        self.finishing.store(true, Ordering::SeqCst);
        self.bell.ring();
        if let Some(thread) = self.thread.take() {
            // A thread that panicked has no more to send.
            let _ = thread.join();
        }
    }
}

struct Client {
    stream: OwnedFd,
    framer: Framer,
    session: Session,
    backlog: VecDeque<Frame>,
    waiting: VecDeque<u8>,
    /// To be sent once more if it arrived damaged.
    last: Vec<u8>,
    /// Hung up on once everything is sent.
    leaving: bool,
    gone: bool,
}

struct Server {
    bell: Arc<Bell>,
    finishing: Arc<AtomicBool>,
    listener: OwnedFd,
    target: Debugged,
    architecture: Architecture,
    client: Option<Client>,
}

impl Server {
    fn run(mut self) {
        loop {
            if self.finishing.load(Ordering::SeqCst) {
                return self.finish();
            }
            self.work_off();
            self.tell_stops();
            self.write_and_drop();
            if let Err(error) = self.wait(None) {
                tracing::error!("the debugger's socket cannot wait for its client: {error}");
                return self.leave();
            }
        }
    }

    /// The guest is over: a client that waits for it to stop is told.
    fn finish(&mut self) {
        let Some(client) = &mut self.client else { return };
        if client.session.waits() {
            client.send(b"W00");
        }
        let end = Instant::now() + LINGER;
        loop {
            client.write();
            let left = end.saturating_duration_since(Instant::now());
            if client.gone || client.waiting.is_empty() || left.is_zero() {
                return;
            }
            let mut polled = [PollFd::new(&client.stream, PollFlags::OUT)];
            let left = Timespec::try_from(left).ok();
            if poll(&mut polled, left.as_ref()).is_err() {
                return;
            }
        }
    }

    fn wait(&mut self, limit: Option<&Timespec>) -> io::Result<()> {
        // While one client is there, the next waits in line: it may be the same one, which comes back.
        let mut next = PollFlags::empty();
        next.set(PollFlags::IN, self.client.is_none());
        let mut polled = vec![
            PollFd::new(&self.bell, PollFlags::IN),
            PollFd::new(&self.listener, next),
        ];
        if let Some(client) = &self.client {
            let mut flags = PollFlags::empty();
            flags.set(
                PollFlags::IN,
                client.waiting.is_empty() && client.backlog.is_empty(),
            );
            flags.set(PollFlags::OUT, !client.waiting.is_empty());
            polled.push(PollFd::from_borrowed_fd(client.stream.as_fd(), flags));
        }
        match poll(&mut polled, limit) {
            Ok(_) => {}
            Err(Errno::INTR) => return Ok(()),
            Err(error) => return Err(error.into()),
        }
        let ready: Vec<PollFlags> = polled.iter().map(PollFd::revents).collect();
        if ready[0].contains(PollFlags::IN) {
            self.bell.silence();
        }
        if let (Some(client), Some(flags)) = (&mut self.client, ready.get(2)) {
            if flags.contains(PollFlags::IN) {
                client.read();
            } else if flags.intersects(PollFlags::HUP | PollFlags::ERR | PollFlags::NVAL) {
                client.gone = true;
            }
        }
        if ready[1].contains(PollFlags::IN) {
            self.accept();
        }
        Ok(())
    }

    fn accept(&mut self) {
        let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
        // A client that is gone again is no one's problem but its own.
        let Ok(stream) = rustix::net::accept_with(&self.listener, flags) else {
            return;
        };
        // A unix socket has no such option.
        let _ = rustix::net::sockopt::set_tcp_nodelay(&stream, true);
        self.target.attach();
        self.client = Some(Client {
            stream,
            framer: Framer::default(),
            session: Session::new(self.architecture),
            backlog: VecDeque::new(),
            waiting: VecDeque::new(),
            last: Vec::new(),
            leaving: false,
            gone: false,
        });
    }

    /// Answers what the client sent, as long as it takes the answers.
    fn work_off(&mut self) {
        let Some(client) = &mut self.client else { return };
        while !client.leaving
            && client.waiting.len() < MUCH_WAITING
            && let Some(frame) = client.backlog.pop_front()
        {
            let step = match frame {
                Frame::Packet(body) => {
                    client.acknowledge(b'+');
                    client.session.handle(&body, &mut self.target)
                }
                Frame::Damaged => {
                    client.acknowledge(b'-');
                    Step::Quiet
                }
                Frame::Interrupt => client.session.interrupt(&mut self.target),
                Frame::Again => {
                    client.waiting.extend(&client.last);
                    Step::Quiet
                }
            };
            match step {
                Step::Quiet => {}
                Step::Answer(body) => client.send(&body),
                Step::Detach(body) => {
                    client.send(&body);
                    client.leaving = true;
                }
                Step::Close => client.leaving = true,
            }
        }
    }

    /// Holds the guest and tells the client, if a CPU met something.
    fn tell_stops(&mut self) {
        let Some(client) = &mut self.client else { return };
        match self.target.take_stop() {
            Ok(None) => {}
            Ok(Some(stop)) => {
                if let Some(body) = client.session.stopped(stop) {
                    client.send(&body);
                }
            }
            Err(Gone) => {
                if client.session.waits() {
                    client.send(b"W00");
                }
                client.leaving = true;
            }
        }
    }

    fn write_and_drop(&mut self) {
        let Some(client) = &mut self.client else { return };
        client.write();
        if client.gone || client.leaving && client.waiting.is_empty() {
            self.leave();
        }
    }

    /// The client is gone: the guest goes on without it.
    fn leave(&mut self) {
        if let Some(client) = self.client.take() {
            let next = client.session.next_architecture();
            // One that wants other registers comes back for them.
            let comes_back = std::mem::replace(&mut self.architecture, next) != next;
            self.target.detach(!client.session.waits() && !comes_back);
        }
    }
}

impl Client {
    fn read(&mut self) {
        let mut chunk = [0; 4096];
        match rustix::net::recv(&self.stream, &mut chunk, RecvFlags::empty()) {
            Ok((0, _)) => self.gone = true,
            Ok((count, _)) => {
                let mut frames = Vec::new();
                self.framer.feed(&chunk[..count], &mut frames);
                self.backlog.extend(frames);
            }
            Err(Errno::AGAIN | Errno::INTR) => {}
            Err(_) => self.gone = true,
        }
    }

    fn acknowledge(&mut self, sign: u8) {
        if self.session.acknowledges() {
            self.waiting.push_back(sign);
        }
    }

    fn send(&mut self, body: &[u8]) {
        self.last = packet(body);
        self.waiting.extend(&self.last);
    }

    fn write(&mut self) {
        while !self.gone && !self.waiting.is_empty() {
            let (piece, _) = self.waiting.as_slices();
            match rustix::net::send(&self.stream, piece, SendFlags::NOSIGNAL) {
                Ok(written) => drop(self.waiting.drain(..written)),
                Err(Errno::AGAIN) => return,
                Err(Errno::INTR) => {}
                Err(_) => self.gone = true,
            }
        }
    }
}
