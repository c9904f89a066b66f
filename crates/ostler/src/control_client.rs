//! A client of a guest's control socket.

use std::io::{BufRead, BufReader, Read, Write};
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::time::Duration;

use serde_json::{Value, json};

use crate::failure::Failure;

/// How long a guest's process may take to answer.
const PATIENCE: Duration = Duration::from_secs(10);
/// Longest line that is read, in bytes.
const MAX_LINE: u64 = 4 << 20;

/// A connection that has negotiated.
pub struct ControlClient {
    stream: BufReader<UnixStream>,
}

impl ControlClient {
    /// Connects to the guest whose control socket is at `path`.
    pub fn connect(path: &Path) -> Result<Self, Failure> {
        let refused = |e: std::io::Error| {
            Failure::bad_input(format!(
                "no guest answers at \"{}\": {e}; start one with --control",
                path.display()
            ))
        };
        let stream = UnixStream::connect(path).map_err(refused)?;
        stream.set_read_timeout(Some(PATIENCE)).map_err(refused)?;
        let mut client = Self {
            stream: BufReader::new(stream),
        };
        client.receive()?;
        client.execute("qmp_capabilities", Value::Null)?;
        Ok(client)
    }

    /// Executes a command and returns its answer. `arguments` is an object, or null if it takes none.
    pub fn execute(&mut self, command: &str, arguments: Value) -> Result<Value, Failure> {
        let mut call = json!({ "execute": command });
        if !arguments.is_null() {
            call["arguments"] = arguments;
        }
        let line = format!("{call}\n");
        self.stream.get_mut().write_all(line.as_bytes()).map_err(gone)?;
        loop {
            let mut answer = self.receive()?;
            if let Some(value) = answer.get_mut("return") {
                return Ok(value.take());
            }
            if let Some(why) = answer.pointer("/error/desc").and_then(Value::as_str) {
                return Err(Failure::failed(format!("the guest refused {command}: {why}")));
            }
        }
    }

    fn receive(&mut self) -> Result<Value, Failure> {
        let mut line = String::new();
        (&mut self.stream)
            .take(MAX_LINE)
            .read_line(&mut line)
            .map_err(gone)?;
        if line.is_empty() {
            return Err(Failure::failed("the guest is over"));
        }
        serde_json::from_str(&line)
            .map_err(|e| Failure::failed(format!("the control socket speaks no QMP: {e}")))
    }
}

fn gone(error: std::io::Error) -> Failure {
    Failure::failed(format!("the guest does not answer: {error}"))
}
