//! How a command fails: one line for the user, and a status.

use std::error::Error;
use std::fmt::Display;
use std::io::Write;
use std::process::ExitCode;

/// Bad input: an option, a file, a name that cannot be.
pub const BAD_INPUT: u8 = 2;
/// The host or the program failed.
pub const FAILED: u8 = 1;

/// What is said, and the status that the process ends with.
#[derive(Debug, PartialEq, Eq)]
pub struct Failure {
    pub message: String,
    pub status: u8,
}

impl Failure {
    /// What the user gave cannot be.
    pub fn bad_input(message: impl ToString) -> Self {
        Self {
            message: one_line(&message.to_string()),
            status: BAD_INPUT,
        }
    }

    /// Something failed that the user did not get wrong.
    pub fn failed(message: impl ToString) -> Self {
        Self {
            message: one_line(&message.to_string()),
            status: FAILED,
        }
    }

    /// An error with its sources.
    pub fn chained(error: &dyn Error) -> Self {
        let mut message = error.to_string();
        let mut source = error.source();
        while let Some(error) = source {
            let text = error.to_string();
            // Many messages have their source in them already.
            if !message.contains(&text) {
                message = format!("{message}: {text}");
            }
            source = error.source();
        }
        Self::failed(message)
    }
}

impl From<ostler_launch::Error> for Failure {
    fn from(error: ostler_launch::Error) -> Self {
        match error {
            ostler_launch::Error::Input(message) => Self::bad_input(message),
            ostler_launch::Error::Failed(message) => Self::failed(message),
        }
    }
}

/// A line on standard error. Whoever reads it may be gone (a terminal that was closed), and then nothing is lost.
pub fn say(line: impl Display) {
    let _ = std::io::stderr().write_all(format!("{line}\n").as_bytes());
}

/// Text from elsewhere on one line, without what could drive a terminal.
fn one_line(text: &str) -> String {
    let words: Vec<&str> = text.split_whitespace().collect();
    words.join(" ").chars().filter(|c| !c.is_control()).collect()
}

/// Help and version are printed and are no failure; anything else becomes one line.
pub fn from_clap(error: &clap::Error) -> Result<ExitCode, Failure> {
    use clap::error::ErrorKind;
    let is_help = matches!(
        error.kind(),
        ErrorKind::DisplayHelp
            | ErrorKind::DisplayVersion
            | ErrorKind::DisplayHelpOnMissingArgumentOrSubcommand
    );
    if is_help {
        // A reader that went away has seen enough.
        let _ = error.print();
        let status = if error.exit_code() == 0 { 0 } else { BAD_INPUT };
        return Ok(ExitCode::from(status));
    }
    let text = error.render().to_string();
    let first = text.split("\n\n").next().unwrap_or_default();
    let first = first.strip_prefix("error: ").unwrap_or(first);
    Err(Failure::bad_input(format!("{first} (see --help)")))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_message_is_one_line_and_harmless() {
        let failure = Failure::bad_input("no\nsuch \u{1b}[2Jfile");
        assert_eq!(
            failure,
            Failure {
                message: "no such [2Jfile".into(),
                status: 2
            }
        );
    }
}
