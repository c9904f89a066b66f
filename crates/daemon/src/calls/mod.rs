//! The calls: one function each, in the file of what it is about.

mod agent;
mod connect;
mod console;
mod control;
mod cpu;
mod devices;
mod domain;
mod ends;
mod events;
mod host_interface;
mod interfaces;
mod limits;
mod limits_set;
mod list;
mod metadata;
mod monitor;
mod network;
mod node;
mod node_device;
mod pool;
mod port;
mod screen;
mod secret;
mod security;
mod sizes;
mod stats;
mod tuning;
mod volume;

use std::cell::Cell;
use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::Ordering;

use ostler_libvirt::procedures::{self, Access, Row};
use ostler_libvirt::types::{Domain as WireDomain, StoragePool as WirePool};
use ostler_libvirt::{Code, Header, Procedure, RemoteError, xdr};

use crate::domains::domain::Domain;
use crate::server::Client;
use crate::storage::Pool;
use crate::{Shared, audit};

/// Who calls, and what for.
pub struct Context<'a> {
    /// What calls work on.
    pub shared: &'a Arc<Shared>,
    /// Who calls.
    pub client: &'a Arc<Client>,
    /// The call's header.
    pub header: Header,
    /// What is done once the reply is on its way.
    pub after: Cell<Option<AfterReply>>,
}

/// Something that has to wait for the reply, such as the first packet of a stream.
pub type AfterReply = Box<dyn FnOnce()>;

impl Context<'_> {
    /// The guest that the caller means.
    fn domain(&self, domain: &WireDomain) -> Result<Arc<Domain>, RemoteError> {
        self.shared.domains.get(domain)
    }

    /// The storage pool that the caller means.
    fn pool(&self, pool: &WirePool) -> Result<Arc<Pool>, RemoteError> {
        self.shared.pools.get(pool)
    }

    /// Has `what` done once the reply is on its way, if the call succeeds.
    fn after_reply(&self, what: impl FnOnce() + 'static) {
        self.after.set(Some(Box::new(what)));
    }
}

/// What answers a call.
struct Handler {
    answer: Box<Answer>,
    quick: bool,
}

type Answer = dyn Fn(&Context<'_>, &[u8]) -> Result<Vec<u8>, RemoteError> + Send + Sync;

/// Which function answers which call.
pub struct Dispatcher {
    /// By program and number.
    handlers: HashMap<(u32, i32), Handler>,
}

impl Dispatcher {
    /// With all calls that are known.
    pub fn new() -> Self {
        let mut dispatcher = Self {
            handlers: HashMap::new(),
        };
        connect::add(&mut dispatcher);
        node::add(&mut dispatcher);
        list::add(&mut dispatcher);
        domain::add(&mut dispatcher);
        control::add(&mut dispatcher);
        cpu::add(&mut dispatcher);
        stats::add(&mut dispatcher);
        console::add(&mut dispatcher);
        events::add(&mut dispatcher);
        devices::add(&mut dispatcher);
        interfaces::add(&mut dispatcher);
        metadata::add(&mut dispatcher);
        sizes::add(&mut dispatcher);
        tuning::add(&mut dispatcher);
        network::add(&mut dispatcher);
        pool::add(&mut dispatcher);
        volume::add(&mut dispatcher);
        secret::add(&mut dispatcher);
        node_device::add(&mut dispatcher);
        host_interface::add(&mut dispatcher);
        port::add(&mut dispatcher);
        security::add(&mut dispatcher);
        ends::add(&mut dispatcher);
        limits::add(&mut dispatcher);
        limits_set::add(&mut dispatcher);
        agent::add(&mut dispatcher);
        monitor::add(&mut dispatcher);
        screen::add(&mut dispatcher);
        dispatcher
    }

    /// Has `handler` answer procedure `P`.
    fn on<P: Procedure>(
        &mut self,
        handler: impl Fn(&Context<'_>, P::Args) -> Result<P::Ret, RemoteError> + Send + Sync + 'static,
    ) {
        self.add::<P>(handler, false);
    }

    /// Has `handler`, which waits for nothing and is done within microseconds, answer procedure `P`: on the thread that reads the client's
    /// packets.
    fn on_quick<P: Procedure>(
        &mut self,
        handler: impl Fn(&Context<'_>, P::Args) -> Result<P::Ret, RemoteError> + Send + Sync + 'static,
    ) {
        self.add::<P>(handler, true);
    }

    fn add<P: Procedure>(
        &mut self,
        handler: impl Fn(&Context<'_>, P::Args) -> Result<P::Ret, RemoteError> + Send + Sync + 'static,
        quick: bool,
    ) {
        let answer = move |context: &Context<'_>, payload: &[u8]| {
            let args = xdr::from_bytes(payload).map_err(|error| {
                RemoteError::rpc(format!(
                    "Unable to decode message payload of {}: {error}",
                    P::NAME
                ))
            })?;
            let ret = handler(context, args)?;
            xdr::to_bytes(&ret).map_err(|error| {
                RemoteError::rpc(format!("the answer to {} cannot be sent: {error}", P::NAME))
            })
        };
        let answer = Box::new(answer);
        self.handlers
            .insert((P::PROGRAM, P::NUMBER), Handler { answer, quick });
    }

    /// Whether a call waits for nothing.
    pub fn is_quick(&self, program: u32, number: i32) -> bool {
        self.handlers
            .get(&(program, number))
            .is_some_and(|handler| handler.quick)
    }

    /// Executes a call, and returns the payload of its reply.
    pub fn call(&self, context: &Context<'_>, payload: &[u8]) -> Result<Vec<u8>, RemoteError> {
        let (program, number) = (context.header.program, context.header.procedure);
        let handler = self.handlers.get(&(program, number));
        let (Some(row), Some(handler)) = (procedures::find(program, number), handler) else {
            return Err(RemoteError::unknown_procedure(number));
        };
        let answer = self.answer(context, row, handler, payload);
        note_in_audit_log(context, row, payload, &answer);
        answer
    }

    fn answer(
        &self,
        context: &Context<'_>,
        row: &Row,
        handler: &Handler,
        payload: &[u8],
    ) -> Result<Vec<u8>, RemoteError> {
        if row.access == Access::Writes && context.client.readonly.load(Ordering::SeqCst) {
            return Err(RemoteError::new(
                Code::OperationDenied,
                format!("read only access prevents {}", row.name),
            ));
        }
        let reply = (handler.answer)(context, payload)?;
        if reply.len() > ostler_libvirt::frame::MAX_PAYLOAD {
            return Err(RemoteError::rpc(format!(
                "the answer to {} is too long",
                row.name
            )));
        }
        Ok(reply)
    }
}

/// Notes what changed something, or was to, and what was denied.
fn note_in_audit_log(
    context: &Context<'_>,
    row: &Row,
    payload: &[u8],
    answer: &Result<Vec<u8>, RemoteError>,
) {
    let denied = |error: &RemoteError| matches!(error.code, Code::OperationDenied | Code::AuthFailed);
    if row.access != Access::Writes && !answer.as_ref().is_err_and(denied) {
        return;
    }
    // Where a definition was taken, the answer names what it defines; the arguments are the client's word.
    let object = match (audit::text_of(payload).starts_with('<'), answer) {
        (true, Ok(reply)) => audit::object_of(reply),
        _ => audit::object_of(payload),
    };
    let outcome = answer
        .as_ref()
        .map(|_| ())
        .map_err(|error| error as &dyn std::fmt::Display);
    context
        .shared
        .audit
        .call(&context.client.peer, row.name, &object, outcome);
}

/// Refuses flags that are not among `known`: whoever set one expects something to happen.
fn check_flags(flags: u32, known: u32) -> Result<(), RemoteError> {
    match flags & !known {
        0 => Ok(()),
        unknown => Err(RemoteError::new(
            Code::InvalidArgument,
            format!("unsupported flags ({unknown:#x})"),
        )),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_procedure_of_the_table_has_its_function() {
        let dispatcher = Dispatcher::new();
        for row in procedures::TABLE {
            assert!(
                dispatcher.handlers.contains_key(&(row.program, row.number)),
                "{row:?}"
            );
        }
        assert_eq!(dispatcher.handlers.len(), procedures::TABLE.len());
    }
}
