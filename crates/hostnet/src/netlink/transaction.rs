//! A change of several steps that is made whole or not at all.

use super::{Netlink, Request};
use crate::Error;

/// How a step is taken back.
#[derive(Debug, Clone)]
pub(crate) struct Undo {
    what: String,
    request: Request,
}

impl Undo {
    pub(crate) fn new(what: impl Into<String>, request: Request) -> Self {
        Self {
            what: what.into(),
            request,
        }
    }
}

/// Steps that were made, in order.
pub(crate) struct Transaction<'a> {
    netlink: &'a mut Netlink,
    undo: Vec<Undo>,
}

impl Netlink {
    /// Runs `steps`; if they fail, those that were made are taken back, the last first. Returns how all of it can be taken
    /// back later.
    pub(crate) fn transaction<T>(
        &mut self,
        steps: impl FnOnce(&mut Transaction) -> Result<T, Error>,
    ) -> Result<(T, Vec<Undo>), Error> {
        let mut transaction = Transaction {
            netlink: self,
            undo: Vec::new(),
        };
        let result = steps(&mut transaction);
        let undo = std::mem::take(&mut transaction.undo);
        match result {
            Ok(value) => Ok((value, undo)),
            Err(cause) => Err(match self.take_back(undo) {
                Ok(()) => cause,
                Err(left) => Error::NotUndone {
                    cause: Box::new(cause),
                    left,
                },
            }),
        }
    }

    /// Takes steps back, the last first; goes on where one fails, and says which.
    pub(crate) fn take_back(&mut self, undo: Vec<Undo>) -> Result<(), String> {
        let mut left = Vec::new();
        for step in undo.into_iter().rev() {
            if let Err(error) = self.change(&step.what, &step.request) {
                left.push(error.to_string());
            }
        }
        if left.is_empty() {
            Ok(())
        } else {
            Err(left.join("; "))
        }
    }
}

impl Transaction<'_> {
    /// One step, and how it is taken back (nothing where a step before it does that, too).
    pub(crate) fn step(
        &mut self,
        what: impl Into<String>,
        request: &Request,
        undo: Option<Request>,
    ) -> Result<(), Error> {
        let what = what.into();
        self.netlink.change(&what, request)?;
        if let Some(request) = undo {
            self.undo.push(Undo::new(format!("undoing `{what}`"), request));
        }
        Ok(())
    }

    /// For questions between steps.
    pub(crate) fn netlink(&mut self) -> &mut Netlink {
        self.netlink
    }
}
