//! A guest that runs, and what it says.

use std::io::{BufRead, BufReader, Read, Write};
use std::process::{Child, ChildStdin, Command, Stdio};
use std::sync::mpsc::{self, Receiver, RecvTimeoutError, Sender};
use std::thread;
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal, kill_process};

use crate::error::Error;
use crate::proc;
use crate::side::Side;

/// How long any one thing may take.
const PATIENCE: Duration = Duration::from_secs(300);
/// Lines shown when something goes wrong.
const TAIL: usize = 15;

/// A process on one of the sides. Dropping it ends it.
pub(crate) struct Running {
    pub(crate) side: Side,
    child: Child,
    input: Option<ChildStdin>,
    lines: Receiver<String>,
    seen: Vec<String>,
}

impl Running {
    /// Starts `command` and reads its console by lines.
    pub(crate) fn start(side: Side, command: &mut Command) -> Result<Self, Error> {
        Self::start_with(side, command, Stdio::null())
    }

    /// The same for a guest that is told what to do.
    pub(crate) fn start_with_input(side: Side, command: &mut Command) -> Result<Self, Error> {
        Self::start_with(side, command, Stdio::piped())
    }

    fn start_with(side: Side, command: &mut Command, input: Stdio) -> Result<Self, Error> {
        let mut child = spawn(command, input)?;
        let (sender, lines) = mpsc::channel();
        if let Some(stdout) = child.stdout.take() {
            read_lines(stdout, sender.clone());
        }
        if let Some(stderr) = child.stderr.take() {
            read_lines(stderr, sender);
        }
        Ok(Self {
            side,
            input: child.stdin.take(),
            child,
            lines,
            seen: Vec::new(),
        })
    }

    /// Types a line at the guest's console.
    pub(crate) fn say(&mut self, line: &str) -> Result<(), Error> {
        let failed = |e| Error::Host("typing at a guest's console", e);
        match &mut self.input {
            Some(input) => input.write_all(format!("{line}\n").as_bytes()).map_err(failed),
            None => Err(failed(std::io::ErrorKind::NotConnected.into())),
        }
    }

    pub(crate) fn pid(&self) -> u32 {
        self.child.id()
    }

    /// Waits for a line that begins with `start`, and returns the rest of it.
    pub(crate) fn expect(&mut self, start: &str) -> Result<String, Error> {
        let deadline = Instant::now() + PATIENCE;
        loop {
            let line = self.line(deadline, start)?;
            if let Some(rest) = line.strip_prefix(start) {
                return Ok(rest.trim().to_owned());
            }
        }
    }

    /// All lines up to one that begins with `end`; each of them may take as long as anything may.
    pub(crate) fn lines_until(&mut self, end: &str) -> Result<Vec<String>, Error> {
        let mut lines = Vec::new();
        loop {
            let line = self.line(Instant::now() + PATIENCE, end)?;
            if line.starts_with(end) {
                return Ok(lines);
            }
            lines.push(line);
        }
    }

    /// The next line; `wanted` is what the caller hopes for.
    fn line(&mut self, deadline: Instant, wanted: &str) -> Result<String, Error> {
        let left = deadline.saturating_duration_since(Instant::now());
        match self.lines.recv_timeout(left) {
            Ok(line) => {
                self.seen.push(line.clone());
                Ok(line)
            }
            Err(RecvTimeoutError::Timeout) => Err(self.silent(wanted, "waited too long")),
            Err(RecvTimeoutError::Disconnected) => Err(self.silent(wanted, "it ended")),
        }
    }

    /// Waits for `BENCH name count nanoseconds`, and returns the count a second.
    pub(crate) fn rate(&mut self, name: &str) -> Result<f64, Error> {
        let rest = self.expect(&format!("BENCH {name} "))?;
        let numbers: Vec<f64> = rest.split(' ').filter_map(|word| word.parse().ok()).collect();
        match numbers[..] {
            [count, nanoseconds] if count > 0.0 && nanoseconds > 0.0 => Ok(count * 1e9 / nanoseconds),
            _ => Err(Error::Nonsense {
                side: self.side.name(),
                line: rest,
            }),
        }
    }

    fn silent(&self, wanted: &str, reason: &'static str) -> Error {
        let from = self.seen.len().saturating_sub(TAIL);
        let tail = self.seen[from..].join("\n");
        Error::Silent {
            side: self.side.name(),
            wanted: wanted.into(),
            reason,
            tail,
        }
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        end(&mut self.child);
    }
}

/// From the start of `command` to the first byte of its console that is `sign`, in milliseconds.
pub(crate) fn milliseconds_to(side: Side, command: &mut Command, sign: u8) -> Result<f64, Error> {
    let since = Instant::now();
    let mut child = spawn(command, Stdio::null())?;
    let (sender, found) = mpsc::channel();
    if let Some(mut stdout) = child.stdout.take() {
        thread::spawn(move || {
            let mut bytes = [0; 256];
            while let Ok(count @ 1..) = stdout.read(&mut bytes) {
                if bytes[..count].contains(&sign) {
                    let _ = sender.send(since.elapsed());
                    return;
                }
            }
        });
    }
    let elapsed = found.recv_timeout(PATIENCE);
    end(&mut child);
    let mut tail = String::new();
    if let Some(stderr) = &mut child.stderr {
        let _ = stderr.take(4096).read_to_string(&mut tail);
    }
    elapsed
        .map(|elapsed| elapsed.as_secs_f64() * 1e3)
        .map_err(|_| Error::Silent {
            side: side.name(),
            wanted: char::from(sign).to_string(),
            reason: "it ended, or was waited for too long",
            tail,
        })
}

fn spawn(command: &mut Command, input: Stdio) -> Result<Child, Error> {
    command.stdin(input).stdout(Stdio::piped()).stderr(Stdio::piped());
    command
        .spawn()
        .map_err(|e| Error::Start(command.get_program().display().to_string(), e))
}

/// Ends the process and all that it started; they may have ended by themselves.
fn end(child: &mut Child) {
    for pid in proc::tree(child.id()) {
        if let Some(pid) = i32::try_from(pid).ok().and_then(Pid::from_raw) {
            let _ = kill_process(pid, Signal::KILL);
        }
    }
    let _ = child.wait();
}

fn read_lines(stream: impl Read + Send + 'static, into: Sender<String>) {
    thread::spawn(move || {
        let mut reader = BufReader::new(stream);
        let mut line = Vec::new();
        while let Ok(1..) = reader.read_until(b'\n', &mut line) {
            let text = String::from_utf8_lossy(&line).trim_end().to_owned();
            line.clear();
            if into.send(text).is_err() {
                return;
            }
        }
    });
}
