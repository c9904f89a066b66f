//! Consoles: what a guest's serial port or virtio console is connected to.
//!
//! A [`Console`] takes the guest's output into a bounded [`History`] and never waits: a vCPU or a device worker
//! appends, and the console's own thread passes bytes on to whoever reads, each at its own pace. A reader that falls
//! further behind than the history reaches loses bytes, which are counted. Input from readers goes to the device as it
//! has room. A console outlives the machine that it is connected to, so that a reset keeps history and readers.

mod history;
mod port;
mod server;

use std::fs::File;
use std::io;
use std::os::fd::OwnedFd;
use std::os::unix::net::{UnixListener, UnixStream};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;

pub use history::History;
pub(crate) use port::PortStream;

use crate::Error;
use crate::bell::Bell;
use crate::handoff::Descriptors;
use crate::spec::ConsoleSpec;

/// Bytes of output that a console remembers.
pub const HISTORY_SIZE: usize = 256 << 10;

/// The device's end of a console: takes input.
pub trait InputSink: Send + Sync {
    /// Takes as many of `bytes` as there is room for, and returns how many. After a short count the device's owner
    /// calls [`Console::input_room`] when there is room again.
    fn push(&self, bytes: &[u8]) -> usize;
}

/// What a console has seen.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct ConsoleCounters {
    /// Bytes from the guest.
    pub output: u64,
    /// Bytes to the guest.
    pub input: u64,
    /// Bytes that readers lost because they were too slow.
    pub lost: u64,
    /// Readers at the moment.
    pub readers: u64,
}

/// Where a console leads.
enum Back {
    Nowhere,
    Stream(OwnedFd),
    File(OwnedFd),
    Listener(UnixListener),
}

#[derive(Default)]
struct Counters {
    input: AtomicU64,
    lost: AtomicU64,
    readers: AtomicU64,
}

struct Shared {
    history: Mutex<History>,
    sink: Mutex<Option<Arc<dyn InputSink>>>,
    /// Rings when the thread has something to do.
    wake: Bell,
    /// The thread has passed on everything that it knows of: the next output must ring.
    idle: AtomicBool,
    finishing: AtomicBool,
    counters: Counters,
}

impl Shared {
    fn history(&self) -> MutexGuard<'_, History> {
        self.history.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn sink(&self) -> MutexGuard<'_, Option<Arc<dyn InputSink>>> {
        self.sink.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// One console of a guest.
pub struct Console {
    shared: Arc<Shared>,
    thread: Mutex<Option<JoinHandle<()>>>,
}

impl Console {
    /// Makes the console that `spec` asks for, its thread named `name`.
    pub fn open(name: &str, spec: &ConsoleSpec, descriptors: &Descriptors) -> Result<Self, Error> {
        let nonblocking = |source| Error::host("make a console's descriptor non-blocking", source);
        let back = match *spec {
            ConsoleSpec::None => Back::Nowhere,
            ConsoleSpec::Terminal { stream } => {
                let stream = UnixStream::from(descriptors.duplicate(stream)?);
                stream.set_nonblocking(true).map_err(nonblocking)?;
                Back::Stream(stream.into())
            }
            ConsoleSpec::File { file } => {
                let file = File::from(descriptors.duplicate(file)?);
                // A named pipe without a reader must not hold the thread; a plain file ignores the flag.
                rustix::io::ioctl_fionbio(&file, true).map_err(|e| nonblocking(e.into()))?;
                Back::File(file.into())
            }
            ConsoleSpec::Socket { listener } => {
                let listener = UnixListener::from(descriptors.duplicate(listener)?);
                listener.set_nonblocking(true).map_err(nonblocking)?;
                Back::Listener(listener)
            }
        };
        Self::start(name, back).map_err(|source| Error::host("start a console", source))
    }

    fn start(name: &str, back: Back) -> io::Result<Self> {
        let shared = Arc::new(Shared {
            history: Mutex::new(History::new(HISTORY_SIZE)),
            sink: Mutex::new(None),
            wake: Bell::new()?,
            idle: AtomicBool::new(false),
            finishing: AtomicBool::new(false),
            counters: Counters::default(),
        });
        let thread = match back {
            Back::Nowhere => None,
            back => {
                let shared = shared.clone();
                let server = std::thread::Builder::new().name(name.into());
                Some(server.spawn(move || server::Server::new(shared, back).run())?)
            }
        };
        Ok(Self {
            shared,
            thread: Mutex::new(thread),
        })
    }

    /// Takes output of the guest. Never waits for a reader.
    pub fn output(&self, bytes: &[u8]) {
        self.shared.history().append(bytes);
        if self.shared.idle.swap(false, Ordering::SeqCst) {
            self.shared.wake.ring();
        }
    }

    /// Connects the device's end; input that waits goes there.
    pub fn attach(&self, sink: Arc<dyn InputSink>) {
        *self.shared.sink() = Some(sink);
        self.shared.wake.ring();
    }

    /// Disconnects the device's end; input waits until the next [`Console::attach`].
    pub fn detach(&self) {
        *self.shared.sink() = None;
    }

    /// The device has room for input again.
    pub fn input_room(&self) {
        self.shared.wake.ring();
    }

    /// What was seen so far.
    pub fn counters(&self) -> ConsoleCounters {
        let read = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
        let counters = &self.shared.counters;
        ConsoleCounters {
            output: self.shared.history().end(),
            input: read(&counters.input),
            lost: read(&counters.lost),
            readers: read(&counters.readers),
        }
    }

    /// Passes on what readers still take, waiting a short while for slow ones, and stops the thread.
    pub fn finish(&self) {
        self.shared.finishing.store(true, Ordering::SeqCst);
        self.shared.wake.ring();
        let thread = self.thread.lock().unwrap_or_else(PoisonError::into_inner).take();
        if let Some(thread) = thread {
            // A thread that panicked has nothing left to pass on.
            let _ = thread.join();
        }
    }
}

impl Drop for Console {
    fn drop(&mut self) {
        self.detach();
        self.finish();
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::{Read, Seek, SeekFrom, Write};
    use std::sync::Condvar;

    /// A device with room for `capacity` bytes.
    #[derive(Default)]
    struct Device {
        got: Mutex<Vec<u8>>,
        capacity: AtomicU64,
        arrived: Condvar,
    }

    impl InputSink for Device {
        fn push(&self, bytes: &[u8]) -> usize {
            let mut got = self.got.lock().unwrap();
            let room = self.capacity.load(Ordering::SeqCst) as usize - got.len();
            let taken = room.min(bytes.len());
            got.extend(&bytes[..taken]);
            self.arrived.notify_all();
            taken
        }
    }

    impl Device {
        fn wait_for(&self, expected: &[u8]) {
            let mut got = self.got.lock().unwrap();
            while got.len() < expected.len() {
                got = self.arrived.wait(got).unwrap();
            }
            assert_eq!(&got[..], expected);
        }
    }

    fn socket_console() -> (Console, std::path::PathBuf, tempfile::TempDir) {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("console");
        let listener = UnixListener::bind(&path).unwrap();
        listener.set_nonblocking(true).unwrap();
        (
            Console::start("console", Back::Listener(listener)).unwrap(),
            path,
            dir,
        )
    }

    #[test]
    fn each_reader_sees_the_history_first() {
        let (console, path, _dir) = socket_console();
        console.output(b"early ");
        let mut first = UnixStream::connect(&path).unwrap();
        let mut got = [0; 6];
        first.read_exact(&mut got).unwrap();
        console.output(b"late");
        let mut second = UnixStream::connect(&path).unwrap();
        let mut all = [0; 10];
        second.read_exact(&mut all).unwrap();
        assert_eq!(&all, b"early late");
        let mut rest = [0; 4];
        first.read_exact(&mut rest).unwrap();
        assert_eq!(&rest, b"late");
    }

    #[test]
    fn a_reader_that_never_reads_holds_no_one_up() {
        let (console, path, _dir) = socket_console();
        let stalled = UnixStream::connect(&path).unwrap();
        let mut good = UnixStream::connect(&path).unwrap();
        let line = [b'x'; 1000];
        let mut got = vec![0; line.len()];
        for _ in 0..4 * HISTORY_SIZE / line.len() {
            console.output(&line);
            good.read_exact(&mut got).unwrap();
        }
        drop(stalled);
        assert_eq!(
            console.counters().output as usize,
            4 * HISTORY_SIZE / line.len() * line.len()
        );
    }

    #[test]
    fn input_waits_for_room_and_loses_nothing() {
        let (console, path, _dir) = socket_console();
        let device = Arc::new(Device::default());
        device.capacity.store(3, Ordering::SeqCst);
        let mut client = UnixStream::connect(&path).unwrap();
        client.write_all(b"hello").unwrap();
        console.attach(device.clone());
        device.wait_for(b"hel");
        device.capacity.store(100, Ordering::SeqCst);
        console.input_room();
        device.wait_for(b"hello");
        client.write_all(b"!").unwrap();
        device.wait_for(b"hello!");
    }

    #[test]
    fn finishing_writes_everything_to_a_file() {
        let mut file = tempfile::tempfile().unwrap();
        let console = Console::start("console", Back::File(file.try_clone().unwrap().into())).unwrap();
        console.output(&[b'y'; 100_000]);
        console.finish();
        let mut text = Vec::new();
        file.seek(SeekFrom::Start(0)).unwrap();
        file.read_to_end(&mut text).unwrap();
        assert_eq!(text, [b'y'; 100_000]);
    }
}
