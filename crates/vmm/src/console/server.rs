//! The thread of a console: passes output on to readers and input to the device.

use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::net::UnixListener;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::io::Errno;

use super::{Back, Shared};

/// Most clients of one console socket.
const MAX_READERS: usize = 16;
/// Bytes of input taken from a reader at a time, and held while the device has no room.
const INPUT_CHUNK: usize = 4096;
/// Guests write byte by byte: waiting this long after the first one turns hundreds of wake-ups into one.
const GATHER: Duration = Duration::from_micros(500);
/// How long slow readers may take the last bytes.
const LINGER: Duration = Duration::from_secs(2);

struct Reader {
    descriptor: OwnedFd,
    /// Next byte of the history to pass on.
    position: u64,
    /// Takes no more now; wait until it is writable.
    full: bool,
    /// False once it has no input for us.
    has_input: bool,
    /// Bytes that cannot be written (a full file system) are dropped, and the reader stays.
    is_file: bool,
}

pub(super) struct Server {
    shared: Arc<Shared>,
    listener: Option<UnixListener>,
    readers: Vec<Reader>,
    /// Input for which the device had no room.
    pending: Vec<u8>,
}

impl Server {
    pub(super) fn new(shared: Arc<Shared>, back: Back) -> Self {
        let mut server = Self {
            shared,
            listener: None,
            readers: Vec::new(),
            pending: Vec::new(),
        };
        match back {
            Back::Nowhere => {}
            Back::Stream(stream) => server.add_reader(stream, false),
            Back::File(file) => server.add_reader(file, true),
            Back::Listener(listener) => server.listener = Some(listener),
        }
        server
    }

    pub(super) fn run(mut self) {
        let mut deadline = None;
        loop {
            self.pass_output();
            self.pass_input();
            if self.shared.finishing.load(Ordering::SeqCst) {
                let end = *deadline.get_or_insert_with(|| Instant::now() + LINGER);
                if self.readers.iter().all(|r| self.is_served(r)) || Instant::now() >= end {
                    return;
                }
            }
            self.shared.idle.store(true, Ordering::SeqCst);
            // Output that came before the flag was up rings no bell.
            let end = self.shared.history().end();
            if self.readers.iter().any(|r| r.position < end && !r.full) {
                self.shared.idle.store(false, Ordering::SeqCst);
                continue;
            }
            if let Err(error) = self.wait(deadline) {
                tracing::error!("a console cannot wait for its readers: {error}");
                return;
            }
        }
    }

    fn is_served(&self, reader: &Reader) -> bool {
        reader.position >= self.shared.history().end()
    }

    fn add_reader(&mut self, descriptor: OwnedFd, is_file: bool) {
        let position = self.shared.history().start();
        self.readers.push(Reader {
            descriptor,
            position,
            full: false,
            has_input: !is_file,
            is_file,
        });
        self.shared
            .counters
            .readers
            .store(self.readers.len() as u64, Ordering::Relaxed);
    }

    /// Sleeps until there is something to do, and takes it in.
    fn wait(&mut self, deadline: Option<Instant>) -> io::Result<()> {
        let wants_input = self.pending.is_empty();
        let mut polled = vec![PollFd::new(&self.shared.wake, PollFlags::IN)];
        if let Some(listener) = &self.listener {
            polled.push(PollFd::new(listener, PollFlags::IN));
        }
        let first_reader = polled.len();
        for reader in &self.readers {
            let mut flags = PollFlags::empty();
            flags.set(PollFlags::IN, wants_input && reader.has_input);
            flags.set(PollFlags::OUT, reader.full);
            polled.push(PollFd::from_borrowed_fd(reader.descriptor.as_fd(), flags));
        }
        let timeout = deadline.map(|end| end.saturating_duration_since(Instant::now()));
        let timeout = timeout.and_then(|left| Timespec::try_from(left).ok());
        match poll(&mut polled, timeout.as_ref()) {
            Ok(_) => {}
            Err(Errno::INTR) => return Ok(()),
            Err(error) => return Err(error.into()),
        }
        let ready: Vec<PollFlags> = polled.iter().map(PollFd::revents).collect();
        if ready[0].contains(PollFlags::IN) {
            self.shared.wake.silence();
            std::thread::sleep(GATHER);
        }
        if first_reader == 2 && ready[1].contains(PollFlags::IN) {
            self.accept();
        }
        self.serve(&ready[first_reader..]);
        Ok(())
    }

    fn accept(&mut self) {
        let Some(listener) = &self.listener else { return };
        // A client that is gone again, or one too many, is no one's problem but its own.
        let Ok((client, _)) = listener.accept() else {
            return;
        };
        if self.readers.len() < MAX_READERS && client.set_nonblocking(true).is_ok() {
            self.add_reader(client.into(), false);
        }
    }

    /// Looks at what poll said of each reader; those that are gone are taken out.
    fn serve(&mut self, ready: &[PollFlags]) {
        let mut gone = Vec::new();
        for (number, flags) in ready.iter().enumerate() {
            let reader = &mut self.readers[number];
            if flags.contains(PollFlags::OUT) {
                reader.full = false;
            }
            if flags.contains(PollFlags::IN) {
                if !read_input(reader, &mut self.pending) {
                    gone.push(number);
                }
            } else if flags.intersects(PollFlags::HUP | PollFlags::ERR | PollFlags::NVAL) && !reader.is_file {
                gone.push(number);
            }
        }
        for number in gone.into_iter().rev() {
            self.readers.remove(number);
        }
        self.shared
            .counters
            .readers
            .store(self.readers.len() as u64, Ordering::Relaxed);
    }

    fn pass_output(&mut self) {
        let shared = self.shared.clone();
        self.readers.retain_mut(|reader| {
            while !reader.full {
                // The copy lets the history go before the write, which may take its time.
                let (from, piece) = {
                    let history = shared.history();
                    let (from, piece) = history.read(reader.position);
                    (from, piece[..piece.len().min(16 << 10)].to_vec())
                };
                shared
                    .counters
                    .lost
                    .fetch_add(from - reader.position, Ordering::Relaxed);
                reader.position = from;
                if piece.is_empty() {
                    return true;
                }
                match rustix::io::write(&reader.descriptor, &piece) {
                    Ok(written) => reader.position += written as u64,
                    Err(Errno::AGAIN) => reader.full = true,
                    Err(Errno::INTR) => {}
                    Err(_) if reader.is_file => {
                        shared
                            .counters
                            .lost
                            .fetch_add(piece.len() as u64, Ordering::Relaxed);
                        reader.position += piece.len() as u64;
                    }
                    Err(_) => return false,
                }
            }
            true
        });
    }

    fn pass_input(&mut self) {
        if self.pending.is_empty() {
            return;
        }
        let Some(sink) = self.shared.sink().clone() else {
            return;
        };
        let taken = sink.push(&self.pending).min(self.pending.len());
        self.pending.drain(..taken);
        self.shared
            .counters
            .input
            .fetch_add(taken as u64, Ordering::Relaxed);
    }
}

/// Takes input of a reader; false when it has hung up.
fn read_input(reader: &mut Reader, pending: &mut Vec<u8>) -> bool {
    let mut chunk = [0; INPUT_CHUNK];
    if pending.len() >= INPUT_CHUNK {
        return true;
    }
    match rustix::io::read(&reader.descriptor, &mut chunk) {
        Ok(0) => {
            // A client may close its writing half and read on; one that is gone shows as a hang-up.
            reader.has_input = false;
            true
        }
        Ok(count) => {
            pending.extend_from_slice(&chunk[..count]);
            true
        }
        Err(error) => matches!(error, Errno::AGAIN | Errno::INTR),
    }
}
