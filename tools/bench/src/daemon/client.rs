//! A client of the remote protocol that knows nothing of the daemon it talks to.

use std::io::{self, BufReader, Read, Write};
use std::os::unix::net::UnixStream;
use std::path::Path;

use ostler_libvirt::frame::PROGRAM_VERSION;
use ostler_libvirt::procedures::{AuthList, ConnectOpen, Procedure};
use ostler_libvirt::types::OpenArgs;
use ostler_libvirt::{Header, Kind, Message, Status, xdr};

use crate::error::Error;

/// A connection over anything that carries bytes.
pub(super) struct Client<S> {
    stream: BufReader<S>,
    serial: u32,
}

fn failed(error: impl ToString) -> Error {
    Error::Host("a call of the daemon", io::Error::other(error.to_string()))
}

impl Client<UnixStream> {
    /// Connects to a daemon's socket and opens its driver.
    pub(super) fn connect(socket: &Path) -> Result<Self, Error> {
        Self::open(UnixStream::connect(socket).map_err(failed)?)
    }
}

impl<S: Read + Write> Client<S> {
    /// Opens the driver over a connection.
    pub(super) fn open(stream: S) -> Result<Self, Error> {
        let mut client = Self::new(stream);
        client.call::<AuthList>(&())?;
        let name = Some("qemu:///system".into());
        client.call::<ConnectOpen>(&OpenArgs { name, flags: 0 })?;
        Ok(client)
    }

    /// A client that has said nothing yet.
    pub(super) fn new(stream: S) -> Self {
        Self {
            stream: BufReader::with_capacity(1 << 16, stream),
            serial: 0,
        }
    }

    /// Calls, and waits for what comes back.
    pub(super) fn call<P: Procedure>(&mut self, args: &P::Args) -> Result<P::Ret, Error> {
        let call = self.packet::<P>(args)?;
        self.send(&call)?;
        xdr::from_bytes(&self.answer()?.payload).map_err(failed)
    }

    /// The next call's packet.
    pub(super) fn packet<P: Procedure>(&mut self, args: &P::Args) -> Result<Vec<u8>, Error> {
        self.serial += 1;
        let header = Header {
            program: P::PROGRAM,
            version: PROGRAM_VERSION,
            procedure: P::NUMBER,
            kind: Kind::Call,
            serial: self.serial,
            status: Status::Ok,
        };
        Ok(Message::new(header, args).map_err(failed)?.to_bytes())
    }

    /// Sends packets.
    pub(super) fn send(&mut self, packets: &[u8]) -> Result<(), Error> {
        self.stream.get_mut().write_all(packets).map_err(failed)
    }

    /// The next packet; a refusal is an error.
    pub(super) fn answer(&mut self) -> Result<Message, Error> {
        let answer = Message::read(&mut self.stream).map_err(failed)?;
        let answer = answer.ok_or_else(|| failed("it hung up"))?;
        if answer.header.status == Status::Error {
            let error: Result<ostler_libvirt::error::WireError, _> = xdr::from_bytes(&answer.payload);
            let said = error.ok().and_then(|error| error.message);
            return Err(failed(said.unwrap_or_else(|| "it refused".into())));
        }
        Ok(answer)
    }
}
