//! What the parent does while its guest runs: bytes between the terminal and the console, signals, the guest's messages.

use std::io;
use std::os::fd::AsFd;
use std::os::unix::net::UnixStream;
use std::time::{Duration, Instant};

use ostler_launch::Started;
use ostler_vmm::link::{self, FromGuest, Outcome, ToGuest};
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::io::Errno;

use super::signals::Signals;
use super::terminal::{LEAVE_KEY, RawTerminal, window_size};
use crate::failure::say;

/// Signals that ask the guest to power off, and stop it the second time.
const ENDING: &[libc::c_int] = &[libc::SIGTERM, libc::SIGINT, libc::SIGHUP, libc::SIGQUIT];
/// Signals that mean nothing to us and would end any process at once: they stop the guest.
const STOPPING: &[libc::c_int] = &[
    libc::SIGALRM,
    libc::SIGIO,
    libc::SIGPROF,
    libc::SIGPWR,
    libc::SIGSTKFLT,
    libc::SIGUSR1,
    libc::SIGUSR2,
    libc::SIGVTALRM,
    libc::SIGXCPU,
    libc::SIGXFSZ,
];
/// Signals of the terminal and the shell.
const JOB_CONTROL: &[libc::c_int] = &[libc::SIGWINCH, libc::SIGTSTP, libc::SIGCONT];
/// What a guest's process may take to end once it was told to.
const PATIENCE: Duration = Duration::from_secs(5);
/// What the last console output may take to reach a reader that is slow.
const LINGER: Duration = Duration::from_secs(2);
/// Bytes moved at a time. A pipe or terminal that is ready takes this many without blocking.
const CHUNK: usize = 4096;

/// How it ended, and the signal that made us stop the guest.
pub struct End {
    pub outcome: Outcome,
    pub signal: Option<libc::c_int>,
}

/// Everything that the parent looks after.
pub struct Attendant {
    launched: Started,
    signals: Signals,
    terminal: Option<RawTerminal>,
    console: Option<UnixStream>,
    /// Typed, and not yet taken by the console.
    typed: Vec<u8>,
    /// Said by the console, and not yet taken by standard output.
    said: Vec<u8>,
    input_open: bool,
    output_open: bool,
    asked_to_power_off: bool,
    /// The guest was told to end at once.
    stopping: bool,
    stop_signal: Option<libc::c_int>,
    /// When the guest's process is killed.
    deadline: Option<Instant>,
    outcome: Option<Outcome>,
}

/// The signals that a guest's parent handles. The guest's process inherits them blocked.
pub fn handled_signals() -> Vec<libc::c_int> {
    [ENDING, STOPPING, JOB_CONTROL].concat()
}

impl Attendant {
    /// An attendant for a guest that runs, its console (if any) in this terminal.
    pub fn new(
        launched: Started,
        signals: Signals,
        terminal: Option<RawTerminal>,
        console: Option<UnixStream>,
    ) -> Self {
        let open = console.is_some();
        Self {
            launched,
            signals,
            terminal,
            console,
            typed: Vec::new(),
            said: Vec::new(),
            input_open: open,
            output_open: open,
            asked_to_power_off: false,
            stopping: false,
            stop_signal: None,
            deadline: None,
            outcome: None,
        }
    }

    /// Attends until the guest is over, and brings the terminal back.
    pub fn attend(mut self) -> io::Result<End> {
        self.send_window_size();
        while self.outcome.is_none() {
            self.turn()?;
        }
        self.flush_console()?;
        drop(self.terminal.take());
        // It said its last word; what is left of it is its exit.
        let _ = self.launched.child.wait();
        let outcome = self.outcome.unwrap_or(Outcome::Stopped);
        Ok(End {
            outcome,
            signal: self.stop_signal,
        })
    }

    /// Waits for something to happen and handles it.
    fn turn(&mut self) -> io::Result<()> {
        let ready = self.wait()?;
        if ready.signal {
            while let Some(signal) = self.signals.next() {
                self.handle_signal(signal)?;
            }
        }
        if ready.link || self.launched.receiver.is_buffered() {
            self.hear_from_guest();
        }
        if ready.output {
            self.write_output();
        }
        if ready.console {
            self.move_console();
        }
        if ready.input {
            self.read_input();
        }
        if self.deadline.is_some_and(|end| Instant::now() >= end) {
            let _ = self.launched.child.kill();
            self.deadline = None;
        }
        Ok(())
    }

    fn wait(&self) -> io::Result<Ready> {
        let (input, output) = (std::io::stdin(), std::io::stdout());
        let mut polled = vec![
            PollFd::new(&self.signals, PollFlags::IN),
            PollFd::from_borrowed_fd(self.launched.link.as_fd(), PollFlags::IN),
        ];
        let mut console_at = None;
        if let Some(console) = &self.console {
            let mut flags = PollFlags::empty();
            flags.set(PollFlags::IN, self.said.is_empty());
            flags.set(PollFlags::OUT, !self.typed.is_empty());
            if !flags.is_empty() {
                console_at = Some(polled.len());
                polled.push(PollFd::new(console, flags));
            }
        }
        let input_at = (self.input_open && self.typed.is_empty()).then(|| {
            polled.push(PollFd::new(&input, PollFlags::IN));
            polled.len() - 1
        });
        let output_at = (self.output_open && !self.said.is_empty()).then(|| {
            polled.push(PollFd::new(&output, PollFlags::OUT));
            polled.len() - 1
        });
        let left = self
            .deadline
            .map(|end| end.saturating_duration_since(Instant::now()));
        match poll(
            &mut polled,
            left.and_then(|left| Timespec::try_from(left).ok()).as_ref(),
        ) {
            Ok(_) => {}
            Err(Errno::INTR) => return Ok(Ready::default()),
            Err(error) => return Err(error.into()),
        }
        let is = |at: Option<usize>| at.is_some_and(|at| !polled[at].revents().is_empty());
        Ok(Ready {
            signal: is(Some(0)),
            link: is(Some(1)),
            console: is(console_at),
            input: is(input_at),
            output: is(output_at),
        })
    }

    fn hear_from_guest(&mut self) {
        match self.launched.receiver.receive::<FromGuest>() {
            Ok(Some(FromGuest::Ended(outcome))) => self.outcome = Some(outcome),
            Ok(Some(FromGuest::Note { message })) => {
                // The terminal is raw: a line needs its own carriage return.
                say(format_args!("\rostler: {message}\r"));
            }
            Ok(Some(FromGuest::Started | FromGuest::Refused { .. })) => {}
            Ok(None) | Err(_) => self.outcome = Some(self.unexpected_end()),
        }
    }

    /// The link broke: the process is gone, or does not make sense any more.
    fn unexpected_end(&mut self) -> Outcome {
        if self.stopping {
            return Outcome::Stopped;
        }
        let _ = self.launched.child.kill();
        let end = self
            .launched
            .child
            .wait()
            .map_or_else(|e| e.to_string(), |status| status.to_string());
        Outcome::Failed {
            message: format!("its process ended ({end})"),
        }
    }

    fn handle_signal(&mut self, signal: libc::c_int) -> io::Result<()> {
        match signal {
            libc::SIGWINCH => self.send_window_size(),
            libc::SIGTSTP => {
                if let Some(terminal) = &self.terminal {
                    terminal.restore();
                }
                rustix::process::kill_process(rustix::process::getpid(), rustix::process::Signal::STOP)?;
            }
            // Whatever stopped us: the shell may have changed the terminal since.
            libc::SIGCONT => {
                if let Some(terminal) = &self.terminal {
                    terminal.make_raw()?;
                }
                self.send_window_size();
            }
            _ if self.asked_to_power_off || STOPPING.contains(&signal) => {
                self.stop_signal = Some(signal);
                self.stop();
            }
            _ => {
                self.asked_to_power_off = true;
                self.tell_guest(&ToGuest::PowerButton);
            }
        }
        Ok(())
    }

    fn stop(&mut self) {
        self.stopping = true;
        self.deadline.get_or_insert_with(|| Instant::now() + PATIENCE);
        self.tell_guest(&ToGuest::Stop);
    }

    fn tell_guest(&self, message: &ToGuest) {
        // A process that is gone shows on the link.
        let _ = link::send(&self.launched.link, message);
    }

    fn send_window_size(&self) {
        if let Some((columns, rows)) = window_size() {
            self.tell_guest(&ToGuest::WindowSize { columns, rows });
        }
    }

    fn read_input(&mut self) {
        let mut chunk = [0; CHUNK];
        match rustix::io::read(std::io::stdin(), &mut chunk) {
            Ok(0) => self.input_open = false,
            Ok(count) => {
                let mut typed = &chunk[..count];
                if self.terminal.is_some()
                    && let Some(at) = typed.iter().position(|&byte| byte == LEAVE_KEY)
                {
                    typed = &typed[..at];
                    self.input_open = false;
                    self.stop();
                }
                self.typed.extend_from_slice(typed);
            }
            Err(Errno::INTR | Errno::AGAIN) => {}
            Err(_) => self.input_open = false,
        }
    }

    /// Moves bytes between our buffers and the console, as far as both ends are ready.
    fn move_console(&mut self) {
        let Some(console) = &self.console else { return };
        use rustix::net::{RecvFlags, SendFlags};
        if !self.typed.is_empty() {
            let flags = SendFlags::DONTWAIT | SendFlags::NOSIGNAL;
            match rustix::net::send(console, &self.typed, flags) {
                Ok(count) => drop(self.typed.drain(..count)),
                Err(Errno::AGAIN | Errno::INTR) => {}
                Err(_) => self.typed.clear(),
            }
        }
        if self.said.is_empty() {
            let mut chunk = [0; CHUNK];
            match rustix::net::recv(console, &mut chunk, RecvFlags::DONTWAIT) {
                Ok((0, _)) => self.console = None,
                Ok((count, _)) if self.output_open => self.said.extend_from_slice(&chunk[..count]),
                Ok(_) | Err(Errno::AGAIN | Errno::INTR) => {}
                Err(_) => self.console = None,
            }
        }
    }

    fn write_output(&mut self) {
        let piece = &self.said[..self.said.len().min(CHUNK)];
        match rustix::io::write(std::io::stdout(), piece) {
            Ok(count) => drop(self.said.drain(..count)),
            Err(Errno::INTR | Errno::AGAIN) => {}
            // No one reads any more; the guest goes on.
            Err(_) => {
                self.output_open = false;
                self.said.clear();
            }
        }
    }

    /// After the guest's last word its console is closed: passes on what is still in it.
    fn flush_console(&mut self) -> io::Result<()> {
        self.input_open = false;
        self.typed.clear();
        self.deadline = Some(Instant::now() + LINGER);
        while self.output_open && (self.console.is_some() || !self.said.is_empty()) {
            let ready = self.wait()?;
            if ready.output {
                self.write_output();
            }
            if ready.console {
                self.move_console();
            }
            if self.deadline.is_some_and(|end| Instant::now() >= end) {
                break;
            }
            if !ready.output && !ready.console && (ready.link || ready.signal) {
                // The link stays readable once it is closed: do not spin on it.
                std::thread::sleep(Duration::from_millis(1));
            }
        }
        Ok(())
    }
}

#[derive(Default)]
struct Ready {
    signal: bool,
    link: bool,
    console: bool,
    input: bool,
    output: bool,
}
