//! The user's terminal: raw while the guest has it, and as it was at every way out.

use std::io;

use rustix::termios::{OptionalActions, Termios, isatty, tcgetattr, tcgetwinsize, tcsetattr};

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
        let terminal = Self {
            saved: tcgetattr(&input)?,
        };
        terminal.make_raw()?;
        Ok(Some(terminal))
    }

    /// Makes the terminal raw again after [`RawTerminal::restore`].
    pub fn make_raw(&self) -> io::Result<()> {
        let mut raw = self.saved.clone();
        raw.make_raw();
        Ok(tcsetattr(std::io::stdin(), OptionalActions::Now, &raw)?)
    }

    /// Brings the terminal back to what it was.
    pub fn restore(&self) {
        // A terminal that is gone needs no restoring.
        let _ = tcsetattr(std::io::stdin(), OptionalActions::Now, &self.saved);
    }
}

impl Drop for RawTerminal {
    fn drop(&mut self) {
        self.restore();
    }
}

/// Columns and rows of the terminal that shows the console.
pub fn window_size() -> Option<(u16, u16)> {
    let size = tcgetwinsize(std::io::stdout()).ok()?;
    (size.ws_col > 0 && size.ws_row > 0).then_some((size.ws_col, size.ws_row))
}
