//! A client of a guest's control socket.

use std::io::{self, BufRead, BufReader, Write};
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::time::Duration;

use serde_json::{Value, json};

use crate::error::Error;

/// How long an answer may take.
const PATIENCE: Duration = Duration::from_secs(60);

/// A connection that has negotiated.
pub(super) struct Control(BufReader<UnixStream>);

impl Control {
    pub(super) fn connect(path: &Path) -> Result<Self, Error> {
        let connect = || {
            let stream = UnixStream::connect(path)?;
            stream.set_read_timeout(Some(PATIENCE))?;
            Ok(stream)
        };
        let stream = connect().map_err(|e| Error::Host("connecting to the control socket", e))?;
        let mut control = Self(BufReader::new(stream));
        control.execute("qmp_capabilities", json!({}))?;
        Ok(control)
    }

    /// What a command returns. Greeting and events are passed over.
    pub(super) fn execute(&mut self, command: &str, arguments: Value) -> Result<Value, Error> {
        let failed = |e| Error::Host("talking to the control socket", e);
        let call = json!({ "execute": command, "arguments": arguments });
        self.0
            .get_mut()
            .write_all(format!("{call}\n").as_bytes())
            .map_err(failed)?;
        loop {
            let mut line = String::new();
            self.0.read_line(&mut line).map_err(failed)?;
            let mut said: Value =
                serde_json::from_str(&line).map_err(|_| failed(io::ErrorKind::UnexpectedEof.into()))?;
            if let Some(value) = said.get_mut("return") {
                return Ok(value.take());
            }
            if said.get("error").is_some() {
                return Err(Error::Nonsense {
                    side: "the control socket",
                    line,
                });
            }
        }
    }
}
