//! A client of a guest's control socket.

use std::fs::File;
use std::io::{self, BufRead, BufReader, IoSlice, Write};
use std::mem::MaybeUninit;
use std::os::fd::AsFd;
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::time::Duration;

use rustix::net::{SendAncillaryBuffer, SendAncillaryMessage, SendFlags, sendmsg};
use serde_json::{Value, json};

use crate::error::Error;

/// How long an answer may take.
const PATIENCE: Duration = Duration::from_secs(60);

fn failed(error: io::Error) -> Error {
    Error::Host("talking to the control socket", error)
}

/// A connection that has negotiated.
pub(crate) struct Control(BufReader<UnixStream>);

impl Control {
    pub(crate) fn connect(path: &Path) -> Result<Self, Error> {
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
    pub(crate) fn execute(&mut self, command: &str, arguments: Value) -> Result<Value, Error> {
        let call = json!({ "execute": command, "arguments": arguments });
        self.0
            .get_mut()
            .write_all(format!("{call}\n").as_bytes())
            .map_err(failed)?;
        self.answer()
    }

    /// Hands an open file over, which is `/dev/fdset/SET` from then on.
    pub(crate) fn add_fd(&mut self, set: u32, file: &File) -> Result<(), Error> {
        let call = json!({ "execute": "add-fd", "arguments": { "fdset-id": set } });
        let line = format!("{call}\n");
        let fds = [file.as_fd()];
        let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
        let mut ancillary = SendAncillaryBuffer::new(&mut space);
        ancillary.push(SendAncillaryMessage::ScmRights(&fds));
        let text = [IoSlice::new(line.as_bytes())];
        // A line this short is sent in one piece.
        sendmsg(self.0.get_ref(), &text, &mut ancillary, SendFlags::empty()).map_err(|e| failed(e.into()))?;
        self.answer().map(drop)
    }

    fn answer(&mut self) -> Result<Value, Error> {
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
