//! A client of `ostler daemon`, by the protocol of libvirt's clients.

use std::fmt;
use std::io::Write;
use std::os::unix::net::UnixStream;

use ostler_libvirt::error::WireError;
use ostler_libvirt::frame::{PROGRAM_VERSION, REMOTE_PROGRAM};
use ostler_libvirt::procedures::{AuthList, ConnectOpen, Procedure};
use ostler_libvirt::types::OpenArgs;
use ostler_libvirt::{Encode, Header, Kind, Message, Status, xdr};

use super::place::Place;
use crate::failure::Failure;
use crate::ssh_helper::connect;

/// A connection.
pub struct Client {
    stream: UnixStream,
    serial: u32,
}

/// Why the daemon refused a call.
#[derive(Debug)]
pub struct Error {
    /// Its kind, by libvirt's numbers.
    pub code: i32,
    message: String,
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.message)
    }
}

impl From<Error> for Failure {
    fn from(error: Error) -> Self {
        Failure::failed(error)
    }
}

/// The connection broke, or its other end does not speak as it should.
fn broken(error: impl fmt::Display) -> Failure {
    Failure::failed(format!("the daemon does not answer: {error}"))
}

/// What an error packet says.
pub fn error_of(payload: &[u8]) -> Result<Error, Failure> {
    let error: WireError = xdr::from_bytes(payload).map_err(broken)?;
    let message = error.message.unwrap_or_else(|| format!("error {}", error.code));
    Ok(Error {
        code: error.code,
        message,
    })
}

impl Client {
    /// Connects to change something.
    pub fn to_change(place: &Place) -> Result<Self, Failure> {
        Self::open(place, false)
    }

    /// Connects to look; it is enough to be allowed that.
    pub fn to_look(place: &Place) -> Result<Self, Failure> {
        Self::open(place, true)
    }

    fn open(place: &Place, only_look: bool) -> Result<Self, Failure> {
        let sockets = place.sockets(only_look)?;
        let (_, stream) = connect(&sockets)?;
        let mut client = Self { stream, serial: 0 };
        client.call::<AuthList>(&())?;
        let flags = only_look.into();
        client.call::<ConnectOpen>(&OpenArgs { name: None, flags })?;
        Ok(client)
    }

    /// Calls, and takes a refusal for a failure.
    pub fn call<P: Procedure>(&mut self, args: &P::Args) -> Result<P::Ret, Failure> {
        Ok(self.try_call::<P>(args)??)
    }

    /// Calls. The daemon's refusal is the inner error.
    pub fn try_call<P: Procedure>(&mut self, args: &P::Args) -> Result<Result<P::Ret, Error>, Failure> {
        self.serial += 1;
        self.send(Kind::Call, P::NUMBER, Status::Ok, args)?;
        // Nothing was asked for that comes by itself.
        let answer = self.receive()?;
        if (answer.header.kind, answer.header.serial) != (Kind::Reply, self.serial) {
            return Err(broken(format_args!("it sent {:?}", answer.header)));
        }
        match answer.header.status {
            Status::Ok => xdr::from_bytes(&answer.payload).map(Ok).map_err(broken),
            _ => error_of(&answer.payload).map(Err),
        }
    }

    /// Sends a packet about the last call.
    pub fn send(
        &mut self,
        kind: Kind,
        procedure: i32,
        status: Status,
        payload: &impl Encode,
    ) -> Result<(), Failure> {
        let header = Header {
            program: REMOTE_PROGRAM,
            version: PROGRAM_VERSION,
            procedure,
            kind,
            serial: self.serial,
            status,
        };
        let message = Message::new(header, payload).map_err(Failure::bad_input)?;
        self.stream.write_all(&message.to_bytes()).map_err(broken)
    }

    /// The next packet.
    pub fn receive(&mut self) -> Result<Message, Failure> {
        Message::read(&mut self.stream)
            .map_err(broken)?
            .ok_or_else(|| broken("it hung up"))
    }

    /// The connection's socket, to wait at.
    pub fn socket(&self) -> &UnixStream {
        &self.stream
    }

    /// A second hand on the connection, which sends about the same call.
    pub fn another(&self) -> Result<Self, Failure> {
        let stream = self.stream.try_clone().map_err(broken)?;
        Ok(Self {
            stream,
            serial: self.serial,
        })
    }
}
