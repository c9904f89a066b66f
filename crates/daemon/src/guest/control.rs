//! A client of a guest's control socket: commands from any thread, and a thread that hears answers and events.

use std::collections::HashMap;
use std::io::{self, BufRead, BufReader, IoSlice, Read, Write};
use std::mem::MaybeUninit;
use std::os::fd::BorrowedFd;
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::sync::mpsc::{RecvTimeoutError, SyncSender, sync_channel};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use rustix::net::{SendAncillaryBuffer, SendAncillaryMessage, SendFlags, sendmsg};
use serde_json::{Map, Value, json};
use thiserror::Error;

/// How long a guest's process may take to answer.
const PATIENCE: Duration = Duration::from_secs(15);
/// How long it may take to greet: a process that cannot be spoken to is not waited for.
const GREETING: Duration = Duration::from_secs(5);
/// How the names begin that CPUs get which are plugged in; their numbers follow.
pub const CPU_ID: &str = "vcpu";
/// Longest line, in bytes.
const MAX_LINE: u64 = 4 << 20;

/// What a guest's process tells without having been asked.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Notice {
    /// Its CPUs are held.
    Paused,
    /// They go on.
    Resumed,
    /// It was reset.
    Reset,
    /// It sleeps.
    Asleep,
    /// It is awake.
    Awake,
    /// It is over, by its own wish or not.
    Shutdown {
        /// By its own wish.
        by_guest: bool,
        /// It powered off, rather than being reset for the last time.
        powered_off: bool,
    },
    /// Its kernel panicked.
    Panicked,
    /// It let a device go.
    DeviceDeleted {
        /// The device as its process knows it.
        id: String,
    },
    /// It let a CPU go.
    CpuGone,
    /// Its balloon has another size.
    Balloon {
        /// Bytes that it has.
        actual: u64,
    },
    /// It has another amount of a memory device.
    Memory {
        /// The device as its process knows it.
        id: String,
        /// Bytes that it has.
        size: u64,
    },
    /// The tray of a CD-ROM drive moved.
    TrayMoved {
        /// The drive as its process knows it.
        id: String,
        /// It is open.
        open: bool,
    },
    /// It set its real-time clock.
    RtcSet {
        /// Seconds by which that is ahead of where it was at the start.
        moved: i64,
    },
    /// It let its watchdog run out.
    Watchdog {
        /// What follows.
        action: String,
    },
    /// The process is gone.
    Gone,
}

/// Why a command did not work.
#[derive(Debug, Error)]
pub enum ControlError {
    /// The guest refused, and says why.
    #[error("{0}")]
    Refused(String),
    /// There is no answer.
    #[error("the guest's process does not answer")]
    Silent,
    /// It ended.
    #[error("the guest is over")]
    Over,
}

type Answer = Result<Value, ControlError>;

/// A connection to a guest's control socket.
pub struct Control {
    stream: Mutex<UnixStream>,
    waiting: Mutex<Waiting>,
}

#[derive(Default)]
struct Waiting {
    next: u64,
    over: bool,
    /// Who gets the whole answer to which call.
    calls: HashMap<u64, SyncSender<Value>>,
}

fn locked<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Control {
    /// Connects to the socket at `path`. Notices go nowhere before [`Control::listen`].
    pub fn connect(path: &Path) -> io::Result<(Arc<Self>, Listener)> {
        let stream = UnixStream::connect(path)?;
        stream.set_read_timeout(Some(GREETING))?;
        stream.set_write_timeout(Some(PATIENCE))?;
        let mut reader = BufReader::new(stream.try_clone()?);
        let greeting = read_line(&mut reader)?;
        if greeting.get("QMP").is_none() {
            return Err(io::Error::other("no guest's control socket"));
        }
        (&stream).write_all(b"{\"execute\":\"qmp_capabilities\"}\n")?;
        while read_line(&mut reader)?.get("return").is_none() {}
        stream.set_read_timeout(None)?;
        let control = Arc::new(Self {
            stream: Mutex::new(stream),
            waiting: Mutex::default(),
        });
        Ok((control.clone(), Listener { control, reader }))
    }

    /// Executes a command that takes no arguments.
    pub fn execute(&self, command: &str) -> Answer {
        self.execute_with(command, Value::Null)
    }

    /// Executes a command; `arguments` is an object, or null.
    pub fn execute_with(&self, command: &str, arguments: Value) -> Answer {
        self.call(command, arguments, None)
    }

    /// Executes a command that takes a descriptor.
    pub fn execute_with_fd(&self, command: &str, arguments: Value, fd: BorrowedFd<'_>) -> Answer {
        self.call(command, arguments, Some(fd))
    }

    /// Has a command executed as somebody else wrote it, and returns the whole answer, which may be that it was refused.
    pub fn pass(&self, command: Map<String, Value>) -> Answer {
        self.exchange(command.into(), None)
    }

    fn call(&self, command: &str, arguments: Value, fd: Option<BorrowedFd<'_>>) -> Answer {
        let mut call = json!({ "execute": command });
        if !arguments.is_null() {
            call["arguments"] = arguments;
        }
        let mut answer = self.exchange(call, fd)?;
        match answer.get_mut("return") {
            Some(value) => Ok(value.take()),
            None => {
                let why = answer.pointer("/error/desc").and_then(Value::as_str);
                Err(ControlError::Refused(why.unwrap_or("no reason was given").into()))
            }
        }
    }

    /// Sends an object, which gets the number that its answer is known by.
    fn exchange(&self, mut call: Value, fd: Option<BorrowedFd<'_>>) -> Answer {
        let (sender, receiver) = sync_channel(1);
        let id = {
            let mut waiting = locked(&self.waiting);
            if waiting.over {
                return Err(ControlError::Over);
            }
            waiting.next += 1;
            let id = waiting.next;
            waiting.calls.insert(id, sender);
            id
        };
        call["id"] = id.into();
        let line = format!("{call}\n");
        if write(&mut locked(&self.stream), line.as_bytes(), fd).is_err() {
            locked(&self.waiting).calls.remove(&id);
            return Err(ControlError::Over);
        }
        receiver.recv_timeout(PATIENCE).map_err(|error| {
            locked(&self.waiting).calls.remove(&id);
            match error {
                RecvTimeoutError::Timeout => ControlError::Silent,
                RecvTimeoutError::Disconnected => ControlError::Over,
            }
        })
    }

    fn answered(&self, message: Value) {
        let id = message.get("id").and_then(Value::as_u64);
        let caller = id.and_then(|id| locked(&self.waiting).calls.remove(&id));
        if let Some(caller) = caller {
            // The caller may have lost patience.
            let _ = caller.try_send(message);
        }
    }
}

/// Writes a line, with a descriptor on its first byte.
fn write(stream: &mut UnixStream, line: &[u8], fd: Option<BorrowedFd<'_>>) -> io::Result<()> {
    let mut rest = line;
    if let Some(fd) = fd {
        let fds = [fd];
        let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
        let mut ancillary = SendAncillaryBuffer::new(&mut space);
        if !ancillary.push(SendAncillaryMessage::ScmRights(&fds)) {
            return Err(io::ErrorKind::InvalidInput.into());
        }
        let sent = sendmsg(
            &*stream,
            &[IoSlice::new(line)],
            &mut ancillary,
            SendFlags::NOSIGNAL,
        )?;
        rest = line.get(sent..).unwrap_or_default();
    }
    stream.write_all(rest)
}

/// The end of the connection that hears.
pub struct Listener {
    control: Arc<Control>,
    reader: BufReader<UnixStream>,
}

impl Listener {
    /// Hears answers and notices on a thread of its own, until the guest's process is gone.
    pub fn listen(mut self, mut notice: impl FnMut(Notice) + Send + 'static) -> io::Result<()> {
        std::thread::Builder::new().name("guest".into()).spawn(move || {
            while let Ok(message) = read_line(&mut self.reader) {
                match message.get("event").and_then(Value::as_str) {
                    Some(event) => {
                        if let Some(known) = known(event, &message) {
                            notice(known);
                        }
                    }
                    None => self.control.answered(message),
                }
            }
            let mut waiting = locked(&self.control.waiting);
            waiting.over = true;
            waiting.calls.clear();
            drop(waiting);
            notice(Notice::Gone);
        })?;
        Ok(())
    }
}

/// Whether what is gone is a CPU: one that was there at the start, or one that we plugged in.
fn is_cpu(message: &Value) -> bool {
    let text = |pointer: &str| message.pointer(pointer).and_then(Value::as_str);
    let built = text("/data/path").is_some_and(|path| path.starts_with("/machine/unattached/device["));
    let number = text("/data/device").and_then(|id| id.strip_prefix(CPU_ID));
    built || number.is_some_and(|number| number.parse::<u32>().is_ok())
}

fn known(event: &str, message: &Value) -> Option<Notice> {
    Some(match event {
        "STOP" => Notice::Paused,
        "RESUME" => Notice::Resumed,
        "RESET" => Notice::Reset,
        "SUSPEND" => Notice::Asleep,
        "WAKEUP" => Notice::Awake,
        "SHUTDOWN" => Notice::Shutdown {
            by_guest: message.pointer("/data/guest").and_then(Value::as_bool) == Some(true),
            powered_off: message.pointer("/data/reason").and_then(Value::as_str) == Some("guest-shutdown"),
        },
        "GUEST_PANICKED" => Notice::Panicked,
        "DEVICE_DELETED" if is_cpu(message) => Notice::CpuGone,
        "DEVICE_DELETED" => Notice::DeviceDeleted {
            id: message.pointer("/data/device")?.as_str()?.into(),
        },
        "BALLOON_CHANGE" => Notice::Balloon {
            actual: message.pointer("/data/actual")?.as_u64()?,
        },
        "MEMORY_DEVICE_SIZE_CHANGE" => Notice::Memory {
            id: message.pointer("/data/id")?.as_str()?.into(),
            size: message.pointer("/data/size")?.as_u64()?,
        },
        "DEVICE_TRAY_MOVED" => Notice::TrayMoved {
            id: message.pointer("/data/device")?.as_str()?.into(),
            open: message.pointer("/data/tray-open")?.as_bool()?,
        },
        "RTC_CHANGE" => Notice::RtcSet {
            moved: message.pointer("/data/offset")?.as_i64()?,
        },
        "WATCHDOG" => Notice::Watchdog {
            action: message.pointer("/data/action")?.as_str()?.into(),
        },
        _ => return None,
    })
}

fn read_line(reader: &mut impl BufRead) -> io::Result<Value> {
    let mut line = Vec::new();
    reader.by_ref().take(MAX_LINE).read_until(b'\n', &mut line)?;
    if line.is_empty() {
        return Err(io::ErrorKind::UnexpectedEof.into());
    }
    Ok(serde_json::from_slice(&line)?)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::net::UnixListener;
    use std::sync::mpsc::channel;

    #[test]
    fn commands_and_events_pass_each_other() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("control");
        let listener = UnixListener::bind(&path).unwrap();
        let guest = std::thread::spawn(move || {
            let mut stream = listener.accept().unwrap().0;
            let mut reader = BufReader::new(stream.try_clone().unwrap());
            stream.write_all(b"{\"QMP\":{}}\n").unwrap();
            assert_eq!(read_line(&mut reader).unwrap()["execute"], "qmp_capabilities");
            stream
                .write_all(b"{\"event\":\"RESUME\"}\n{\"return\":{}}\n")
                .unwrap();
            let call = read_line(&mut reader).unwrap();
            assert_eq!(call["execute"], "stop");
            let answer = json!({ "return": { "done": 1 }, "id": call["id"] });
            let text = format!("{{\"event\":\"STOP\"}}\n{answer}\n");
            stream.write_all(text.as_bytes()).unwrap();
            let call = read_line(&mut reader).unwrap();
            let refusal =
                json!({ "error": { "class": "GenericError", "desc": "not now" }, "id": call["id"] });
            let shutdown = r#"{"event":"SHUTDOWN","data":{"guest":true,"reason":"guest-shutdown"}}"#;
            stream
                .write_all(format!("{refusal}\n{shutdown}\n").as_bytes())
                .unwrap();
            read_line(&mut reader).unwrap();
        });
        let (control, listener) = Control::connect(&path).unwrap();
        let (sender, notices) = channel();
        listener
            .listen(move |notice| sender.send(notice).unwrap())
            .unwrap();
        assert_eq!(control.execute("stop").unwrap(), json!({ "done": 1 }));
        let refused = control.execute("cont").unwrap_err();
        assert!(matches!(refused, ControlError::Refused(why) if why == "not now"));
        // It hangs up instead of answering.
        assert!(matches!(control.execute("quit"), Err(ControlError::Over)));
        guest.join().unwrap();
        let all: Vec<Notice> = notices.iter().collect();
        assert_eq!(
            all,
            [
                Notice::Paused,
                Notice::Shutdown {
                    by_guest: true,
                    powered_off: true
                },
                Notice::Gone
            ]
        );
        assert!(matches!(control.execute("quit"), Err(ControlError::Over)));
    }

    #[test]
    fn someone_else_behind_the_socket_is_no_guest() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("control");
        let listener = UnixListener::bind(&path).unwrap();
        let other = std::thread::spawn(move || listener.accept().unwrap().0.write_all(b"220 mail\n"));
        assert!(Control::connect(&path).is_err());
        let _ = other.join();
        assert!(Control::connect(&folder.path().join("nothing")).is_err());
    }
}
