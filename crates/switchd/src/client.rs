//! A client of a switch's control socket.

use std::io::{IoSliceMut, Write};
use std::mem::MaybeUninit;
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::time::Duration;

use rustix::net::{RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, recvmsg};
use serde_json::{Value, json};

use crate::Error;
use crate::config::PortSpec;

/// How long a switch may take to answer.
const PATIENCE: Duration = Duration::from_secs(10);
/// Longest answer, in bytes.
const MAX_ANSWER: usize = 32 << 20;

/// A connection to a switch.
pub struct Client {
    stream: UnixStream,
    path: PathBuf,
    /// Bytes behind the last answer.
    input: Vec<u8>,
    /// Descriptors that came.
    received: Vec<OwnedFd>,
}

/// A guest's way to the switch, to be passed to its process.
#[derive(Debug)]
pub struct Attached {
    /// What the port is called there.
    pub port: String,
    /// The connection.
    pub connection: OwnedFd,
    /// The memory of the rings.
    pub memory: OwnedFd,
}

impl Client {
    /// Connects to the switch whose control socket is at `path`.
    pub fn connect(path: &Path) -> Result<Self, Error> {
        let refused = |source| Error::NoSwitch {
            path: path.into(),
            source,
        };
        let stream = UnixStream::connect(path).map_err(refused)?;
        stream.set_read_timeout(Some(PATIENCE)).map_err(refused)?;
        stream.set_write_timeout(Some(PATIENCE)).map_err(refused)?;
        Ok(Self {
            stream,
            path: path.into(),
            input: Vec::new(),
            received: Vec::new(),
        })
    }

    /// Executes a command and returns its answer.
    pub fn execute(&mut self, command: &str, arguments: Value) -> Result<Value, Error> {
        let call = json!({ "execute": command, "arguments": arguments });
        let line = format!("{call}\n");
        self.stream
            .write_all(line.as_bytes())
            .map_err(|error| self.lost(error))?;
        let answer = self.receive_line()?;
        let mut answer: Value =
            serde_json::from_slice(&answer).map_err(|error| Error::Protocol(error.to_string()))?;
        if let Some(value) = answer.get_mut("return") {
            return Ok(value.take());
        }
        match answer.pointer("/error/desc").and_then(Value::as_str) {
            Some(reason) => Err(Error::Refused {
                command: command.into(),
                reason: reason.into(),
            }),
            None => Err(Error::Protocol("an answer without a result".into())),
        }
    }

    /// Makes this connection that of a guest, at a port as `spec` describes it.
    pub fn attach(mut self, spec: &PortSpec) -> Result<Attached, Error> {
        let arguments = serde_json::to_value(spec).map_err(|error| Error::Protocol(error.to_string()))?;
        let answer = self.execute("attach", arguments)?;
        let memory = self.received.pop();
        let memory = memory.ok_or_else(|| Error::Protocol("no memory came with the answer".into()))?;
        let port = answer.get("port").and_then(Value::as_str).unwrap_or(&spec.name);
        let port = port.to_owned();
        // The times to wait belong to the open socket, and nobody waits on it from now on.
        Ok(Attached {
            port,
            connection: self.stream.into(),
            memory,
        })
    }

    /// Makes this connection that of a capture, as `arguments` describe it: the stream, and what of it came already. It ends when this side
    /// shuts it down for writing and has read the rest.
    pub fn capture(mut self, arguments: Value) -> Result<(UnixStream, Vec<u8>), Error> {
        self.execute("capture", arguments)?;
        let waits = self.stream.set_read_timeout(None);
        waits.map_err(|error| self.lost(error))?;
        Ok((self.stream, self.input))
    }

    fn lost(&self, source: std::io::Error) -> Error {
        Error::Host {
            what: "lost the switch at",
            name: self.path.display().to_string(),
            source,
        }
    }

    fn receive_line(&mut self) -> Result<Vec<u8>, Error> {
        let mut searched = 0;
        loop {
            if let Some(end) = self.input[searched..].iter().position(|&byte| byte == b'\n') {
                return Ok(self.input.drain(..=searched + end).collect());
            }
            searched = self.input.len();
            if searched > MAX_ANSWER {
                return Err(Error::Protocol("an answer without end".into()));
            }
            let mut chunk = [0; 16 << 10];
            let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(4))];
            let mut ancillary = RecvAncillaryBuffer::new(&mut space);
            let received = recvmsg(
                &self.stream,
                &mut [IoSliceMut::new(&mut chunk)],
                &mut ancillary,
                RecvFlags::CMSG_CLOEXEC,
            );
            let count = received.map_err(|error| self.lost(error.into()))?.bytes;
            if count == 0 {
                return Err(Error::Protocol("it hung up".into()));
            }
            self.input.extend_from_slice(&chunk[..count]);
            for message in ancillary.drain() {
                if let RecvAncillaryMessage::ScmRights(descriptors) = message {
                    self.received.extend(descriptors);
                }
            }
        }
    }
}
