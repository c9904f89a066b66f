//! How many instructions the hash loop takes: the guests' program counts them itself, here on the host.

use std::path::Path;
use std::process::Command;

use crate::error::Error;

/// Instructions for one block of the loop.
pub(crate) fn per_block(program: &Path) -> Result<f64, Error> {
    let output = Command::new(program).arg("count").output();
    let output = output.map_err(|e| Error::Start(program.display().to_string(), e))?;
    let line = String::from_utf8_lossy(&output.stdout).trim().to_owned();
    let count = line
        .strip_prefix("BENCH count ")
        .and_then(|number| number.parse().ok());
    count.ok_or(Error::Nonsense {
        side: "the counting program",
        line,
    })
}
