//! What the daemon has to say to whoever runs it: lines on standard error.

use std::fmt::Arguments;
use std::io::Write;

/// Says a line. Whoever reads it may be gone, and then nothing is lost.
pub fn say(line: Arguments<'_>) {
    let _ = std::io::stderr().write_all(format!("ostler daemon: {line}\n").as_bytes());
}

/// Says a line, as `format!` makes it.
macro_rules! note {
    ($($part:tt)*) => { $crate::log::say(format_args!($($part)*)) };
}
pub(crate) use note;
