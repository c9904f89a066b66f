//! A client of our own: what it asks for is on its way when it wants it to be.

use std::io::Write;
use std::os::unix::net::UnixStream;
use std::path::Path;

use ostler_libvirt::error::WireError;
use ostler_libvirt::frame::{PROGRAM_VERSION, REMOTE_PROGRAM};
use ostler_libvirt::procedures::{AuthList, ConnectOpen, Procedure};
use ostler_libvirt::types::OpenArgs;
use ostler_libvirt::{Header, Kind, Message, Status, xdr};

/// A connection.
pub struct Client {
    stream: UnixStream,
    serial: u32,
}

/// Why a call was not answered as it should.
#[derive(Debug)]
pub enum Failed {
    /// The daemon was gone. Nobody knows whether it did what was asked for.
    Gone,
    /// The daemon refused.
    Refused(String),
}

impl Client {
    /// Connects to the daemon at this socket.
    pub fn connect(socket: &Path) -> Result<Self, Failed> {
        let stream = UnixStream::connect(socket).map_err(|_| Failed::Gone)?;
        let mut client = Self { stream, serial: 0 };
        client.call::<AuthList>(&())?;
        client.call::<ConnectOpen>(&OpenArgs { name: None, flags: 0 })?;
        Ok(client)
    }

    /// Calls, and waits for the answer.
    pub fn call<P: Procedure>(&mut self, args: &P::Args) -> Result<P::Ret, Failed> {
        self.serial += 1;
        let header = Header {
            program: REMOTE_PROGRAM,
            version: PROGRAM_VERSION,
            procedure: P::NUMBER,
            kind: Kind::Call,
            serial: self.serial,
            status: Status::Ok,
        };
        let message = Message::new(header, args).unwrap();
        self.stream
            .write_all(&message.to_bytes())
            .map_err(|_| Failed::Gone)?;
        let answer = Message::read(&mut self.stream)
            .ok()
            .flatten()
            .ok_or(Failed::Gone)?;
        assert_eq!(
            (answer.header.kind, answer.header.serial),
            (Kind::Reply, self.serial)
        );
        match answer.header.status {
            Status::Ok => Ok(xdr::from_bytes(&answer.payload).unwrap()),
            _ => {
                let error: WireError = xdr::from_bytes(&answer.payload).unwrap();
                let why = error.message.unwrap_or_default();
                Err(Failed::Refused(format!("{}: {why}", P::NAME)))
            }
        }
    }
}
