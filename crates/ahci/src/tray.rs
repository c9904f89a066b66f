//! The tray of a CD-ROM drive, between management and the worker of its port.
//!
//! Management leaves an order and waits; the worker carries it out once nothing is in flight, so that no read of one medium ends
//! with bytes of another. What the guest does to the tray is told to a listener.

use std::fmt;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, OnceLock};
use std::time::{Duration, Instant};

use ostler_bus::registers::lock;
use ostler_disk::Disk;

use crate::shared::{PATIENCE, Shared};

/// How long an order waits for what is in flight; then it is withdrawn.
const LIMIT: Duration = Duration::from_secs(5);

/// How a tray stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct TrayState {
    /// It is open.
    pub open: bool,
    /// The guest keeps it from opening (PREVENT ALLOW MEDIUM REMOVAL).
    pub locked: bool,
}

/// Why an order was not followed. Nothing has changed then.
#[derive(Debug, thiserror::Error)]
pub enum TrayError {
    /// The guest locked the tray. It was asked to eject.
    #[error("the guest has locked the tray; it was asked to open it")]
    Locked,
    /// A medium comes and goes only through an open tray.
    #[error("the tray is closed; open it first")]
    Closed,
    /// The drive waits for the host's storage.
    #[error("the drive still waits for a read of its medium; try again when the host's storage answers")]
    Busy,
    /// Nobody works for the drive any more.
    #[error("the drive has stopped; end the guest")]
    Gone,
    /// The host refused what the new medium needs.
    #[error(transparent)]
    Host(#[from] crate::Error),
}

/// What is to be done, in the order of the fields: all of it, or nothing.
#[derive(Clone, Default)]
pub struct Order {
    /// Open the tray; `Some(true)` even if it is locked.
    pub open: Option<bool>,
    /// What lies in the open tray from now on.
    pub medium: Option<Option<Arc<dyn Disk>>>,
    /// Close the tray.
    pub close: bool,
}

impl fmt::Debug for Order {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let medium = self.medium.as_ref().map(Option::is_some);
        write!(
            f,
            "open: {:?}, medium: {medium:?}, close: {}",
            self.open, self.close
        )
    }
}

#[derive(Default)]
struct Mailbox {
    shown: TrayState,
    order: Option<Order>,
    answer: Option<Result<(), TrayError>>,
}

/// The part of a tray that both sides have.
#[derive(Default)]
pub struct Tray {
    mailbox: Mutex<Mailbox>,
    /// Signalled with an answer.
    answered: Condvar,
    /// Held by whoever waits for an answer.
    turn: Mutex<()>,
    listener: OnceLock<Box<dyn Fn() + Send + Sync>>,
}

impl Tray {
    fn mailbox(&self) -> MutexGuard<'_, Mailbox> {
        lock(&self.mailbox)
    }

    /// True if management waits for the worker.
    pub fn is_ordered(&self) -> bool {
        self.mailbox().order.is_some()
    }

    /// The worker's: what is to be done. It has to [`Tray::answer`].
    pub fn take_order(&self) -> Option<Order> {
        self.mailbox().order.take()
    }

    /// The worker's: what came of an order.
    pub fn answer(&self, shown: TrayState, answer: Result<(), TrayError>) {
        let mut mailbox = self.mailbox();
        (mailbox.shown, mailbox.answer) = (shown, Some(answer));
        self.answered.notify_all();
    }

    /// The worker's: how the tray stands after a command of the guest.
    pub fn show(&self, shown: TrayState) {
        let before = std::mem::replace(&mut self.mailbox().shown, shown);
        if before.open != shown.open
            && let Some(listener) = self.listener.get()
        {
            listener();
        }
    }
}

/// Management's hand on the tray of a CD-ROM drive.
#[derive(Clone)]
pub struct TrayControl {
    pub(crate) shared: Arc<Shared>,
    pub(crate) port: usize,
}

impl TrayControl {
    fn tray(&self) -> &Tray {
        &self.shared.trays[self.port]
    }

    /// How the tray stands.
    pub fn state(&self) -> TrayState {
        self.tray().mailbox().shown
    }

    /// `listener` is called, on the thread of the drive's worker, each time after the guest moved the tray. The first listener
    /// stays.
    pub fn listen(&self, listener: impl Fn() + Send + Sync + 'static) {
        let _ = self.tray().listener.set(Box::new(listener));
    }

    /// Has `order` carried out, and waits for it.
    ///
    /// # Errors
    /// If the guest has locked the tray, a medium would go through a closed one, the host refuses a queue for the medium, or the
    /// drive does not answer within seconds.
    pub fn carry_out(&self, order: Order) -> Result<(), TrayError> {
        let tray = self.tray();
        let _turn = lock(&tray.turn);
        let end = Instant::now() + LIMIT;
        let mut mailbox = tray.mailbox();
        (mailbox.order, mailbox.answer) = (Some(order), None);
        self.shared.wake(1 << self.port);
        loop {
            if let Some(answer) = mailbox.answer.take() {
                return answer;
            }
            if self.shared.is_abandoned(self.port) {
                mailbox.order = None;
                return Err(TrayError::Gone);
            }
            // One that was taken has nothing to wait for any more.
            if Instant::now() >= end && mailbox.order.take().is_some() {
                return Err(TrayError::Busy);
            }
            mailbox = match tray.answered.wait_timeout(mailbox, PATIENCE) {
                Ok((mailbox, _)) => mailbox,
                Err(poisoned) => poisoned.into_inner().0,
            };
        }
    }

    /// Puts another medium in, or takes the one out that is there, through a tray that is closed afterwards. A locked tray opens
    /// only by `force`; else the guest is asked to eject.
    ///
    /// # Errors
    /// See [`TrayControl::carry_out`].
    pub fn change_medium(&self, medium: Option<Arc<dyn Disk>>, force: bool) -> Result<(), TrayError> {
        self.carry_out(Order {
            open: Some(force),
            medium: Some(medium),
            close: true,
        })
    }
}
