//! The state driver: the one task that owns a guest's state.
//!
//! Clients, the parent process and the machine put messages into a bounded queue; the driver takes them one at a time,
//! asks the [`Lifecycle`] what they mean, and carries that out on the guest's [`Hardware`].
//!
//! A guest that asks for a reset goes on until its CPUs are held, and may ask again meanwhile, or run into a triple fault: firmware
//! tries one way after the other. What was reported before a reset is of a guest that is no more.

mod lifecycle;

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::mpsc::{Receiver, SyncSender, TrySendError, sync_channel};
use std::sync::{Arc, Mutex, PoisonError};

pub use lifecycle::{Action, Event, Lifecycle, Notice, Refusal, Request, State};

use crate::link::Outcome;
use crate::spec::OnReset;

/// Messages that may wait. Requests are bounded by the number of clients; a guest that floods its reset port loses
/// notices that say nothing new.
const QUEUE: usize = 256;

/// Called once with what became of a request, on the driver's thread: it must not block.
pub type Reply = Box<dyn FnOnce(Result<(), Refusal>) + Send>;

enum Message {
    Ask(Request, Reply),
    /// And after how many resets it happened.
    Happened(Notice, u64),
}

/// What the driver acts on.
pub trait Hardware {
    /// Lets the CPUs run.
    fn run_cpus(&mut self);
    /// Brings the CPUs out of guest mode; none executes when it returns.
    fn hold_cpus(&mut self);
    /// Presses the power button.
    fn press_power_button(&mut self);
    /// Sends every CPU an NMI.
    fn inject_nmi(&mut self);
    /// Brings the machine, whose CPUs are held, to its reset state. The error is one sentence.
    fn reset(&mut self) -> Result<(), String>;
    /// Brings the machine, whose CPUs are held, out of its sleep. The error is one sentence.
    fn wake(&mut self) -> Result<(), String>;
    /// Tells clients.
    fn tell(&mut self, event: Event);
}

/// The way to the driver, for any thread.
#[derive(Clone)]
pub struct DriverHandle {
    queue: SyncSender<Message>,
    state: Arc<Mutex<State>>,
    /// Resets of the guest so far; waking it is one too.
    resets: Arc<AtomicU64>,
}

impl DriverHandle {
    /// Asks for something; `reply` is called when it is done or refused, or at once if the guest is over.
    pub fn ask(&self, request: Request, reply: Reply) {
        let message = Message::Ask(request, reply);
        if let Err(TrySendError::Full(message) | TrySendError::Disconnected(message)) =
            self.queue.try_send(message)
            && let Message::Ask(_, reply) = message
        {
            reply(Err(Refusal {
                state: self.state(),
                why: "it takes no requests at the moment",
            }));
        }
    }

    /// Reports what happened. Never blocks.
    pub fn notice(&self, notice: Notice) {
        // A full queue holds older notices of the same guest, which decide.
        let resets = self.resets.load(Ordering::SeqCst);
        let _ = self.queue.try_send(Message::Happened(notice, resets));
    }

    /// Where the guest is.
    pub fn state(&self) -> State {
        *self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The driver of one guest.
pub struct Driver {
    life: Lifecycle,
    queue: Receiver<Message>,
    handle: DriverHandle,
}

impl Driver {
    /// A driver for a guest that was built and has not started.
    pub fn new(on_reset: OnReset) -> Self {
        let life = Lifecycle::new(on_reset);
        let (sender, queue) = sync_channel(QUEUE);
        let handle = DriverHandle {
            queue: sender,
            state: Arc::new(Mutex::new(life.state())),
            resets: Arc::default(),
        };
        Self { life, queue, handle }
    }

    /// A way to this driver.
    pub fn handle(&self) -> DriverHandle {
        self.handle.clone()
    }

    /// Drives `hardware` until the guest is over.
    pub fn run(mut self, hardware: &mut dyn Hardware) -> Outcome {
        loop {
            // The driver holds a sender of its own, so the queue never hangs up.
            let Ok(message) = self.queue.recv() else {
                return Outcome::Failed {
                    message: "the state driver lost its queue".into(),
                };
            };
            let (actions, reply) = match message {
                Message::Happened(notice, resets) if self.is_stale(&notice, resets) => continue,
                Message::Happened(notice, _) => (self.life.notice(notice), None),
                Message::Ask(request, reply) => match self.life.request(request) {
                    Ok(actions) => (actions, Some(reply)),
                    Err(refusal) => {
                        reply(Err(refusal));
                        continue;
                    }
                },
            };
            self.publish();
            let outcome = self.carry_out(actions, hardware);
            self.publish();
            if let Some(reply) = reply {
                reply(Ok(()));
            }
            if let Some(outcome) = outcome {
                return outcome;
            }
        }
    }

    /// True if a reset has made `notice`, which is of the time after so many of them, meaningless. What failed on the host has not
    /// come right by that.
    fn is_stale(&self, notice: &Notice, resets: u64) -> bool {
        resets != self.handle.resets.load(Ordering::SeqCst) && !matches!(notice, Notice::Failed(_))
    }

    fn carry_out(&mut self, actions: Vec<Action>, hardware: &mut dyn Hardware) -> Option<Outcome> {
        for action in actions {
            match action {
                Action::RunCpus => hardware.run_cpus(),
                Action::HoldCpus => hardware.hold_cpus(),
                Action::PressPowerButton => hardware.press_power_button(),
                Action::InjectNmi => hardware.inject_nmi(),
                Action::Tell(event) => hardware.tell(event),
                Action::ResetMachine | Action::WakeMachine => {
                    hardware.hold_cpus();
                    self.handle.resets.fetch_add(1, Ordering::SeqCst);
                    let done = match action {
                        Action::WakeMachine => hardware.wake().map(|()| Notice::WakeDone),
                        _ => hardware.reset().map(|()| Notice::ResetDone),
                    };
                    let next = self.life.notice(done.unwrap_or_else(Notice::Failed));
                    if let Some(outcome) = self.carry_out(next, hardware) {
                        return Some(outcome);
                    }
                }
                Action::End(outcome) => {
                    hardware.hold_cpus();
                    return Some(outcome);
                }
            }
        }
        None
    }

    fn publish(&self) {
        *self.handle.state.lock().unwrap_or_else(PoisonError::into_inner) = self.life.state();
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::mpsc::channel;

    #[derive(Default)]
    struct Log {
        calls: Vec<String>,
        reset_fails: bool,
        /// What happens each time that the CPUs run.
        then: Option<(DriverHandle, Vec<Notice>)>,
    }

    impl Hardware for Log {
        fn run_cpus(&mut self) {
            self.calls.push("run".into());
            if let Some((handle, notices)) = &self.then {
                notices.iter().for_each(|notice| handle.notice(notice.clone()));
            }
        }
        fn hold_cpus(&mut self) {
            self.calls.push("hold".into());
        }
        fn press_power_button(&mut self) {
            self.calls.push("button".into());
        }
        fn inject_nmi(&mut self) {
            self.calls.push("nmi".into());
        }
        fn reset(&mut self) -> Result<(), String> {
            self.calls.push("reset".into());
            if self.reset_fails {
                Err("the kernel is gone".into())
            } else {
                Ok(())
            }
        }
        fn wake(&mut self) -> Result<(), String> {
            self.calls.push("wake".into());
            Ok(())
        }
        fn tell(&mut self, event: Event) {
            self.calls.push(format!("{event:?}"));
        }
    }

    fn ignore() -> Reply {
        Box::new(|_| ())
    }

    #[test]
    fn requests_and_notices_are_carried_out_in_order() {
        let driver = Driver::new(OnReset::Restart);
        let handle = driver.handle();
        let (sender, replies) = channel();
        handle.ask(Request::Start, ignore());
        handle.ask(
            Request::Resume,
            Box::new(move |result| sender.send(result).unwrap()),
        );
        handle.notice(Notice::Reset);
        handle.ask(Request::PowerButton, ignore());
        // What is of before the reset does not count.
        let mut log = Log {
            then: Some((driver.handle(), vec![Notice::PoweredOff])),
            ..Log::default()
        };
        assert_eq!(driver.run(&mut log), Outcome::PoweredOff);
        assert_eq!(
            log.calls,
            [
                "run",
                "Reset { by_guest: true }",
                "hold",
                "reset",
                "run",
                "button",
                "PowerDown",
                "Shutdown { by_guest: true, reason: \"guest-shutdown\" }",
                "hold"
            ]
        );
        assert_eq!(replies.recv().unwrap(), Ok(()));
        assert_eq!(handle.state(), State::PoweredOff);
        let (sender, replies) = channel();
        handle.ask(
            Request::Pause,
            Box::new(move |result| sender.send(result).unwrap()),
        );
        assert!(replies.recv().unwrap().is_err(), "nothing is left to pause");
    }

    /// As SeaBIOS does it: ACPI's reset register, the keyboard controller, port 0xcf9, a triple fault.
    #[test]
    fn what_a_guest_does_after_it_asked_for_a_reset_is_of_no_account() {
        let driver = Driver::new(OnReset::Restart);
        driver.handle().ask(Request::Start, ignore());
        let attempts = vec![Notice::Reset, Notice::Reset, Notice::TripleFault];
        let mut log = Log {
            then: Some((driver.handle(), attempts)),
            ..Log::default()
        };
        let handle = driver.handle();
        let ended = std::thread::scope(|scope| {
            let guest = scope.spawn(|| driver.run(&mut log));
            // It starts over for as long as nobody stops it.
            while handle.resets.load(Ordering::SeqCst) < 100 && !guest.is_finished() {
                std::thread::yield_now();
            }
            handle.ask(Request::Quit, ignore());
            guest.join().unwrap()
        });
        assert_eq!(ended, Outcome::Stopped);
        let pairs = log.calls.chunks_exact(4).take(100);
        for calls in pairs {
            assert_eq!(calls, ["run", "Reset { by_guest: true }", "hold", "reset"]);
        }
    }

    #[test]
    fn a_guest_sleeps_and_is_woken() {
        let driver = Driver::new(OnReset::Restart);
        let handle = driver.handle();
        handle.ask(Request::Start, ignore());
        handle.notice(Notice::Suspended);
        handle.notice(Notice::WakeUp);
        // Of before the waking, which it asks for again.
        handle.notice(Notice::WakeUp);
        handle.ask(Request::Quit, ignore());
        let mut log = Log::default();
        assert_eq!(driver.run(&mut log), Outcome::Stopped);
        let calls = ["run", "hold", "Suspend", "hold", "wake", "run", "WakeUp"];
        assert_eq!(log.calls[..calls.len()], calls);
    }

    #[test]
    fn a_triple_fault_after_a_reset_ends_the_guest() {
        let driver = Driver::new(OnReset::Restart);
        driver.handle().ask(Request::Start, ignore());
        driver.handle().ask(Request::Reset, ignore());
        let mut log = Log {
            then: Some((driver.handle(), vec![Notice::TripleFault])),
            ..Log::default()
        };
        assert_eq!(driver.run(&mut log), Outcome::TripleFault);
        let runs = log.calls.iter().filter(|call| *call == "run").count();
        assert_eq!(
            runs, 2,
            "that of before the reset does not count: {:?}",
            log.calls
        );
    }

    #[test]
    fn a_host_that_failed_before_a_reset_has_failed() {
        let driver = Driver::new(OnReset::Restart);
        let failed = Notice::Failed("disk gone".into());
        driver.handle().ask(Request::Start, ignore());
        let mut log = Log {
            then: Some((driver.handle(), vec![Notice::Reset, failed])),
            ..Log::default()
        };
        let message = "disk gone".into();
        assert_eq!(driver.run(&mut log), Outcome::Failed { message });
    }

    #[test]
    fn a_reset_that_fails_ends_the_guest() {
        let driver = Driver::new(OnReset::Restart);
        driver.handle().ask(Request::Start, ignore());
        driver.handle().ask(Request::Reset, ignore());
        let mut log = Log {
            reset_fails: true,
            ..Log::default()
        };
        assert_eq!(
            driver.run(&mut log),
            Outcome::Failed {
                message: "the kernel is gone".into()
            }
        );
    }

    #[test]
    fn a_flood_of_notices_is_bounded() {
        let driver = Driver::new(OnReset::End);
        driver.handle().ask(Request::Start, ignore());
        for _ in 0..100_000 {
            driver.handle().notice(Notice::Reset);
        }
        assert_eq!(driver.run(&mut Log::default()), Outcome::Reset);
    }
}
