//! The user's terminal: raw while the guest has it, and as it was at every way out.
//!
//! The attendant restores it before the process ends or is stopped, dropping [`RawTerminal`] restores it on errors and
//! panics, and [`super::crash`] restores it when a signal that no one can wait for kills the process. SIGKILL leaves the
//! terminal raw, as no process can do anything about that; `stty sane` mends it.

use std::io;

use rustix::process::getpgrp;
use rustix::termios::{OptionalActions, Termios, isatty, tcgetattr, tcgetpgrp, tcgetwinsize, tcsetattr};

use super::crash;

/// The key that leaves: Ctrl-].
pub const LEAVE_KEY: u8 = 0x1d;

/// Standard input in raw mode. Dropping it brings the terminal back, on a panic as well.
pub struct RawTerminal {
    saved: Termios,
}

impl RawTerminal {
    /// Makes standard input raw, if it is a terminal.
    pub fn enter() -> io::Result<Option<Self>> {
        let input = std::io::stdin();
        if !isatty(&input) {
            return Ok(None);
        }
        crash::restore_terminal_on_fatal_signals()?;
        let terminal = Self {
            saved: tcgetattr(&input)?,
        };
        terminal.make_raw()?;
        Ok(Some(terminal))
    }

    /// Makes the terminal raw again after [`RawTerminal::restore`].
    pub fn make_raw(&self) -> io::Result<()> {
        if is_another_jobs() {
            return Ok(());
        }
        let mut raw = self.saved.clone();
        raw.make_raw();
        Ok(tcsetattr(std::io::stdin(), OptionalActions::Now, &raw)?)
    }

    /// Brings the terminal back to what it was.
    pub fn restore(&self) {
        if is_another_jobs() {
            return;
        }
        // A terminal that is gone needs no restoring.
        let _ = tcsetattr(std::io::stdin(), OptionalActions::Now, &self.saved);
    }
}

/// True if the shell gave the terminal to another job: changing it would stop us, and it has been restored by then. A
/// terminal that does not control us has no jobs.
fn is_another_jobs() -> bool {
    tcgetpgrp(std::io::stdin()).is_ok_and(|foreground| foreground != getpgrp())
}

impl Drop for RawTerminal {
    fn drop(&mut self) {
        self.restore();
        crash::terminal_is_restored();
    }
}

/// Columns and rows of the terminal that shows the console.
pub fn window_size() -> Option<(u16, u16)> {
    let size = tcgetwinsize(std::io::stdout()).ok()?;
    (size.ws_col > 0 && size.ws_row > 0).then_some((size.ws_col, size.ws_row))
}
