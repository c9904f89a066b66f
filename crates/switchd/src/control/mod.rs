//! The control socket: one JSON object a line, as on a guest's.
//!
//! A command is `{"execute": NAME, "arguments": {...}, "id": ANY}`; its answer `{"return": VALUE, "id": ANY}` or
//! `{"error": {"desc": TEXT}, "id": ANY}`. There is no greeting. After the answer to `attach` the connection is a guest's: it carries
//! bytes that wake either side, and its end is the end of the link.

mod client;
pub(crate) mod views;

use std::collections::BTreeMap;
use std::os::unix::net::UnixListener;

use ostler_worker::EventLoop;
use serde::Deserialize;
use serde_json::Value;

pub(crate) use client::Client;

use crate::Error;
use crate::engine::{CLIENT, CONTROL};

/// Most clients at once.
const MAX_CLIENTS: usize = 64;

/// A command.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Command {
    pub execute: String,
    #[serde(default)]
    pub arguments: Value,
    #[serde(default)]
    pub id: Value,
}

/// Whoever is connected.
pub(crate) struct Clients {
    listener: UnixListener,
    clients: BTreeMap<usize, Client>,
    next: usize,
}

impl Clients {
    pub fn new(listener: UnixListener, events: &EventLoop) -> Result<Self, Error> {
        let nonblocking = listener.set_nonblocking(true);
        nonblocking.map_err(|source| Error::Host {
            what: "cannot prepare",
            name: "the control socket".into(),
            source,
        })?;
        events.add(&listener, CONTROL)?;
        Ok(Self {
            listener,
            clients: BTreeMap::new(),
            next: 0,
        })
    }

    /// Someone connected.
    pub fn accept(&mut self, events: &EventLoop) {
        let Ok((stream, _)) = self.listener.accept() else {
            return;
        };
        if self.clients.len() >= MAX_CLIENTS {
            tracing::warn!("a client of the switch is hung up on: there are {MAX_CLIENTS} already");
            return;
        }
        self.next = (self.next + 1) & 0xffff_ffff;
        match Client::new(stream, CLIENT | self.next as u64, events) {
            Ok(client) => drop(self.clients.insert(self.next, client)),
            Err(error) => tracing::warn!("a client of the switch cannot be served: {error}"),
        }
    }

    pub fn get_mut(&mut self, number: usize) -> Option<&mut Client> {
        self.clients.get_mut(&number)
    }

    /// Clients with a whole command that was not served yet.
    pub fn with_commands(&self) -> Vec<usize> {
        let waiting = self.clients.iter().filter(|(_, client)| client.has_line());
        waiting.map(|(&number, _)| number).collect()
    }

    pub fn has_commands(&self) -> bool {
        self.clients.values().any(Client::has_line)
    }

    /// Takes a client out; it is not waited for any more.
    pub fn remove(&mut self, number: usize, events: &EventLoop) -> Option<Client> {
        let mut client = self.clients.remove(&number)?;
        client.forget(events);
        Some(client)
    }
}
