//! The program `nft`: commands in JSON go in, JSON comes out (libnftables-json(5)).

use std::io::{self, Write};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use serde_json::{Value, json};

use crate::Error;

/// Where Linux distributions have it; ordinary users often have none of these in their PATH.
const PLACES: [&str; 3] = ["/usr/sbin/nft", "/sbin/nft", "/usr/bin/nft"];
/// Bytes of what it said that an error repeats.
const MAX_SAID: usize = 500;

/// The program, which works in the network namespace of the thread that runs it.
#[derive(Clone, Debug)]
pub(crate) struct Nft {
    program: PathBuf,
}

impl Nft {
    /// The host's.
    pub(crate) fn of_host() -> Self {
        let found = PLACES.into_iter().find(|place| Path::new(place).exists());
        Self {
            program: found.unwrap_or("nft").into(),
        }
    }

    #[cfg(test)]
    pub(crate) fn at(program: impl Into<PathBuf>) -> Self {
        Self {
            program: program.into(),
        }
    }

    /// Executes commands, all or none of them. Returns what it says to them: null for nothing.
    pub(crate) fn run(&self, what: &str, commands: &[Value]) -> Result<Value, Error> {
        let failed = |source: io::Error| match source.kind() {
            io::ErrorKind::NotFound => Error::NoNft,
            _ => Error::io(format!("{what} by nft"))(source),
        };
        let mut child = Command::new(&self.program)
            .args(["-j", "-f", "-"])
            // Its words are read here.
            .env("LC_ALL", "C")
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .map_err(failed)?;
        let text = json!({ "nftables": commands }).to_string();
        if let Some(mut input) = child.stdin.take() {
            // A program that does not read says why when it ends.
            let _ = input.write_all(text.as_bytes());
        }
        let output = child.wait_with_output().map_err(failed)?;
        if !output.status.success() {
            return Err(Error::Firewall {
                what: what.into(),
                why: reason(&output.stderr).unwrap_or_else(|| format!("nft ended with {}", output.status)),
            });
        }
        if output.stdout.trim_ascii().is_empty() {
            return Ok(Value::Null);
        }
        serde_json::from_slice(&output.stdout).map_err(|error| Error::Firewall {
            what: what.into(),
            why: format!("nft's answer cannot be understood: {error}"),
        })
    }
}

/// The first line of an error, without the place in a file that there is not.
fn reason(said: &[u8]) -> Option<String> {
    let said = String::from_utf8_lossy(&said[..said.len().min(MAX_SAID)]);
    let line = said.lines().find(|line| !line.trim().is_empty())?;
    let line = line.split_once("Error: ").map_or(line, |(_, why)| why);
    Some(line.trim().to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_error_is_one_line_without_a_place() {
        let said = b"internal:0:0-0: Error: Could not process rule: No such file or directory\n\n^^^\n";
        let said = reason(said).unwrap();
        assert_eq!(said, "Could not process rule: No such file or directory");
        assert_eq!(reason(b"\n \n"), None);
        assert_eq!(reason(&[0xff; 2000]).unwrap().chars().count(), MAX_SAID);
    }

    #[test]
    fn a_program_that_is_not_there_or_fails_is_said() {
        let gone = Nft::at("/nonexistent/nft").run("testing", &[]);
        assert!(matches!(gone, Err(Error::NoNft)), "{gone:?}");
        let Err(fails) = Nft::at("/bin/false").run("testing", &[]) else {
            panic!("it did not fail");
        };
        assert!(fails.to_string().contains("testing"), "{fails}");
        assert_eq!(Nft::at("/bin/true").run("testing", &[]).unwrap(), Value::Null);
    }
}
