//! The life of a guest as a pure state machine: what comes in, what is to be done.
//!
//! ```text
//!  created ──start──▶ running ◀──resume── paused
//!                     │  ▲  └───pause────▶  │
//!        power button │  │                  │ reset
//!                     ▼  │ reset done       ▼
//!          shutting-down │            resetting ──▶ running or paused, as before
//!                     │  └────────────────┘ ▲
//!                     ├─▶ suspended ──wake──┘
//!                     └─▶ powered-off, panicked (both final)
//! ```
//!
//! A guest that sleeps and is paused is *paused*; it is suspended again when it is resumed.
//!
//! The driver ([`super::Driver`]) is the only caller; it carries the actions out in order, on its one thread.

use crate::link::Outcome;
use crate::spec::{OnReset, WatchdogAction};

/// Where a guest is in its life.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum State {
    /// Built, no instruction executed.
    Created,
    /// Its CPUs run.
    Running,
    /// Its CPUs are held.
    Paused,
    /// Its CPUs run, and its power button was pressed.
    ShuttingDown,
    /// It sleeps (ACPI S3): its CPUs are held, and of the machine only memory is kept.
    Suspended,
    /// The machine is on its way to its reset state, or out of its sleep; then the guest runs, or is paused if it was.
    Resetting {
        /// Whether the CPUs are held afterwards.
        paused: bool,
    },
    /// Over.
    PoweredOff,
    /// Over: its kernel panicked.
    Panicked,
}

impl State {
    /// The name shown to users.
    pub fn name(self) -> &'static str {
        match self {
            Self::Created => "created",
            Self::Running => "running",
            Self::Paused => "paused",
            Self::ShuttingDown => "shutting-down",
            Self::Suspended => "suspended",
            Self::Resetting { .. } => "resetting",
            Self::PoweredOff => "powered-off",
            Self::Panicked => "panicked",
        }
    }

    /// True while the CPUs may execute instructions.
    pub fn is_executing(self) -> bool {
        matches!(self, Self::Running | Self::ShuttingDown)
    }

    /// True once nothing can happen any more.
    pub fn is_final(self) -> bool {
        matches!(self, Self::PoweredOff | Self::Panicked)
    }
}

/// What a user or a client asks for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Request {
    /// Execute the first instruction.
    Start,
    /// Hold the CPUs.
    Pause,
    /// Let them go on.
    Resume,
    /// Press the power button.
    PowerButton,
    /// Press the reset button.
    Reset,
    /// Wake it from its sleep.
    WakeUp,
    /// From now on a reset means this.
    SetOnReset(OnReset),
    /// End now, as a client wants.
    Quit,
    /// End now, as the process that started the guest wants: a signal came, or it is gone.
    Abandon,
}

/// What the machine, or the driver's own work, reports.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Notice {
    /// The guest switched itself off.
    PoweredOff,
    /// The guest reset itself.
    Reset,
    /// The guest went to sleep.
    Suspended,
    /// The machine wants to be woken.
    WakeUp,
    /// The guest's kernel panicked.
    Panicked,
    /// The guest let its watchdog run out, for which this was to happen.
    Watchdog(WatchdogAction),
    /// A CPU met a triple fault.
    TripleFault,
    /// The guest wrote to the debug exit port.
    DebugExit(u8),
    /// The machine that [`Action::ResetMachine`] asked for is in its reset state.
    ResetDone,
    /// The machine that [`Action::WakeMachine`] asked for is awake.
    WakeDone,
    /// A part that the guest cannot do without failed.
    Failed(String),
}

/// What the driver is to do.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Action {
    /// Let the CPUs run.
    RunCpus,
    /// Bring the CPUs out of guest mode and hold them.
    HoldCpus,
    /// Press the machine's power button.
    PressPowerButton,
    /// Send every CPU an NMI.
    InjectNmi,
    /// Hold the CPUs, bring every chip to its reset state, load the kernel again, and report [`Notice::ResetDone`].
    ResetMachine,
    /// Hold the CPUs, bring every chip to its reset state and leave memory as it is, and report [`Notice::WakeDone`].
    WakeMachine,
    /// Tell clients.
    Tell(Event),
    /// Hold the CPUs; the guest is over.
    End(Outcome),
}

/// What clients are told.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Event {
    /// The CPUs are held.
    Stop,
    /// The CPUs run again.
    Resume,
    /// The power button was pressed.
    PowerDown,
    /// The guest sleeps.
    Suspend,
    /// The guest is awake.
    WakeUp,
    /// The guest starts anew.
    Reset {
        /// The guest itself asked for it.
        by_guest: bool,
    },
    /// The guest is over.
    Shutdown {
        /// The guest itself asked for it.
        by_guest: bool,
        /// As the control protocol names it.
        reason: &'static str,
    },
    /// The guest's kernel panicked.
    Panicked,
    /// The guest let its watchdog run out.
    Watchdog(WatchdogAction),
}

/// Why a request was not followed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("the guest is {}: {}", .state.name(), .why)]
pub struct Refusal {
    /// Where the guest was.
    pub state: State,
    /// What would be needed.
    pub why: &'static str,
}

/// The state machine.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Lifecycle {
    state: State,
    on_reset: OnReset,
    /// The machine sleeps. A guest that sleeps can be paused too.
    asleep: bool,
}

impl Lifecycle {
    /// A guest that was built and has not started.
    pub fn new(on_reset: OnReset) -> Self {
        Self {
            state: State::Created,
            on_reset,
            asleep: false,
        }
    }

    /// Where the guest is.
    pub fn state(&self) -> State {
        self.state
    }

    /// Follows `request`, or says why not. A request for what is already so succeeds and does nothing.
    pub fn request(&mut self, request: Request) -> Result<Vec<Action>, Refusal> {
        let state = self.state;
        let refuse = |why| Err(Refusal { state, why });
        if state.is_final() {
            return refuse("it is over");
        }
        match request {
            Request::Start => match state {
                State::Created => Ok(self.enter(State::Running, vec![Action::RunCpus])),
                _ => refuse("it has started before"),
            },
            Request::Pause => Ok(self.pause()),
            Request::Resume => Ok(self.resume()),
            Request::PowerButton => match state {
                State::Running | State::ShuttingDown => Ok(self.enter(
                    State::ShuttingDown,
                    vec![Action::PressPowerButton, Action::Tell(Event::PowerDown)],
                )),
                // What comes of it is the machine's wish to wake.
                State::Suspended => Ok(vec![Action::PressPowerButton, Action::Tell(Event::PowerDown)]),
                _ => refuse("its power button can be pressed only while it runs"),
            },
            Request::Reset => match state {
                State::Created | State::Resetting { .. } => Ok(Vec::new()),
                _ => Ok(self.reset(false)),
            },
            Request::WakeUp if self.asleep => Ok(self.wake()),
            Request::WakeUp => refuse("it does not sleep"),
            Request::SetOnReset(on_reset) => {
                self.on_reset = on_reset;
                Ok(Vec::new())
            }
            Request::Quit => Ok(self.over(Outcome::Stopped, false, "host-qmp-quit")),
            Request::Abandon => Ok(self.over(Outcome::Stopped, false, "host-signal")),
        }
    }

    /// Takes in what happened. After the end nothing matters any more.
    pub fn notice(&mut self, notice: Notice) -> Vec<Action> {
        if self.state.is_final() {
            return Vec::new();
        }
        match notice {
            Notice::PoweredOff => self.over(Outcome::PoweredOff, true, "guest-shutdown"),
            Notice::DebugExit(value) => self.over(Outcome::DebugExit { value }, true, "guest-shutdown"),
            Notice::TripleFault => self.over(Outcome::TripleFault, true, "guest-reset"),
            Notice::Failed(message) => self.over(Outcome::Failed { message }, false, "host-error"),
            Notice::Panicked => {
                let mut actions = vec![Action::Tell(Event::Panicked)];
                actions.extend(self.over(Outcome::Panicked, true, "guest-panic"));
                self.enter(State::Panicked, actions)
            }
            Notice::Reset => match self.state {
                // CPUs that have not started, or are on their way out, cannot ask for one more.
                State::Created | State::Resetting { .. } => Vec::new(),
                _ => self.reset(true),
            },
            Notice::Watchdog(action) if self.state.is_executing() => self.watchdog(action),
            Notice::Watchdog(_) => Vec::new(),
            Notice::Suspended => self.suspend(),
            Notice::WakeUp if self.asleep => self.wake(),
            Notice::WakeUp => Vec::new(),
            Notice::ResetDone => self.go_on(),
            Notice::WakeDone => {
                let mut actions = self.go_on();
                actions.push(Action::Tell(Event::WakeUp));
                actions
            }
        }
    }

    fn suspend(&mut self) -> Vec<Action> {
        match self.state {
            State::Running | State::ShuttingDown => {
                self.asleep = true;
                let actions = vec![Action::HoldCpus, Action::Tell(Event::Suspend)];
                self.enter(State::Suspended, actions)
            }
            // It was on its way when it was paused.
            State::Paused if !self.asleep => {
                self.asleep = true;
                vec![Action::Tell(Event::Suspend)]
            }
            _ => Vec::new(),
        }
    }

    fn wake(&mut self) -> Vec<Action> {
        self.asleep = false;
        let paused = self.state == State::Paused;
        self.enter(State::Resetting { paused }, vec![Action::WakeMachine])
    }

    /// After a reset or a sleep.
    fn go_on(&mut self) -> Vec<Action> {
        match self.state {
            State::Resetting { paused: true } => self.enter(State::Paused, Vec::new()),
            State::Resetting { paused: false } => self.enter(State::Running, vec![Action::RunCpus]),
            _ => Vec::new(),
        }
    }

    fn watchdog(&mut self, action: WatchdogAction) -> Vec<Action> {
        let mut actions = vec![Action::Tell(Event::Watchdog(action))];
        actions.extend(match action {
            WatchdogAction::Reset => self.reset(true),
            WatchdogAction::Poweroff => self.over(Outcome::PoweredOff, true, "guest-shutdown"),
            WatchdogAction::Pause => self.pause(),
            WatchdogAction::InjectNmi => vec![Action::InjectNmi],
            WatchdogAction::None | WatchdogAction::Debug => Vec::new(),
            WatchdogAction::Shutdown => {
                let pressed = vec![Action::PressPowerButton, Action::Tell(Event::PowerDown)];
                self.enter(State::ShuttingDown, pressed)
            }
        });
        actions
    }

    fn pause(&mut self) -> Vec<Action> {
        match self.state {
            State::Running | State::ShuttingDown => {
                self.enter(State::Paused, vec![Action::HoldCpus, Action::Tell(Event::Stop)])
            }
            State::Created => self.enter(State::Paused, Vec::new()),
            State::Suspended => self.enter(State::Paused, vec![Action::Tell(Event::Stop)]),
            State::Resetting { .. } => self.enter(State::Resetting { paused: true }, Vec::new()),
            _ => Vec::new(),
        }
    }

    fn resume(&mut self) -> Vec<Action> {
        match self.state {
            State::Paused if self.asleep => self.enter(State::Suspended, vec![Action::Tell(Event::Resume)]),
            State::Paused => self.enter(State::Running, vec![Action::RunCpus, Action::Tell(Event::Resume)]),
            State::Created => self.enter(State::Running, vec![Action::RunCpus]),
            State::Resetting { .. } => self.enter(State::Resetting { paused: false }, Vec::new()),
            _ => Vec::new(),
        }
    }

    fn reset(&mut self, by_guest: bool) -> Vec<Action> {
        if self.on_reset == OnReset::End {
            return self.over(
                Outcome::Reset,
                by_guest,
                if by_guest {
                    "guest-reset"
                } else {
                    "host-qmp-system-reset"
                },
            );
        }
        self.asleep = false;
        let paused = self.state == State::Paused;
        self.enter(
            State::Resetting { paused },
            vec![Action::Tell(Event::Reset { by_guest }), Action::ResetMachine],
        )
    }

    fn over(&mut self, outcome: Outcome, by_guest: bool, reason: &'static str) -> Vec<Action> {
        let told = Action::Tell(Event::Shutdown { by_guest, reason });
        self.enter(State::PoweredOff, vec![told, Action::End(outcome)])
    }

    fn enter(&mut self, state: State, actions: Vec<Action>) -> Vec<Action> {
        self.state = state;
        actions
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn running(on_reset: OnReset) -> Lifecycle {
        let mut life = Lifecycle::new(on_reset);
        assert_eq!(life.request(Request::Start), Ok(vec![Action::RunCpus]));
        life
    }

    #[test]
    fn a_reset_boots_again_and_keeps_a_pause() {
        let mut life = running(OnReset::Restart);
        assert_eq!(
            life.notice(Notice::Reset),
            [
                Action::Tell(Event::Reset { by_guest: true }),
                Action::ResetMachine
            ]
        );
        assert_eq!(life.notice(Notice::Reset), [], "one reset at a time");
        assert_eq!(life.notice(Notice::ResetDone), [Action::RunCpus]);
        life.request(Request::Pause).unwrap();
        life.request(Request::Reset).unwrap();
        assert_eq!(life.notice(Notice::ResetDone), []);
        assert_eq!(life.state(), State::Paused);
    }

    #[test]
    fn without_restart_a_reset_ends_the_guest() {
        let mut life = running(OnReset::End);
        assert!(life.notice(Notice::Reset).contains(&Action::End(Outcome::Reset)));
        assert!(life.request(Request::Resume).is_err());
    }

    #[test]
    fn what_a_reset_means_can_be_changed() {
        let mut life = running(OnReset::Restart);
        assert_eq!(life.request(Request::SetOnReset(OnReset::End)), Ok(Vec::new()));
        assert_eq!(life.state(), State::Running);
        assert!(life.notice(Notice::Reset).contains(&Action::End(Outcome::Reset)));
        assert!(life.request(Request::SetOnReset(OnReset::Restart)).is_err());
    }

    #[test]
    fn a_panic_is_told_before_the_end() {
        let mut life = running(OnReset::Restart);
        let actions = life.notice(Notice::Panicked);
        assert_eq!(actions.first(), Some(&Action::Tell(Event::Panicked)));
        assert_eq!(actions.last(), Some(&Action::End(Outcome::Panicked)));
        assert_eq!(life.state(), State::Panicked);
    }

    #[test]
    fn the_power_button_needs_a_guest_that_runs() {
        let mut life = running(OnReset::Restart);
        assert!(
            life.request(Request::PowerButton)
                .unwrap()
                .contains(&Action::PressPowerButton)
        );
        assert_eq!(life.state(), State::ShuttingDown);
        life.request(Request::Pause).unwrap();
        assert_eq!(
            life.request(Request::PowerButton).unwrap_err().state,
            State::Paused
        );
        assert!(
            life.notice(Notice::PoweredOff)
                .contains(&Action::End(Outcome::PoweredOff))
        );
    }

    #[test]
    fn the_watchdog_does_what_was_chosen() {
        for action in WatchdogAction::ALL {
            let mut life = running(OnReset::Restart);
            let actions = life.notice(Notice::Watchdog(action));
            assert_eq!(actions.first(), Some(&Action::Tell(Event::Watchdog(action))));
            let (state, does) = match action {
                WatchdogAction::Reset => (State::Resetting { paused: false }, Some(Action::ResetMachine)),
                WatchdogAction::Shutdown => (State::ShuttingDown, Some(Action::PressPowerButton)),
                WatchdogAction::Poweroff => (State::PoweredOff, Some(Action::End(Outcome::PoweredOff))),
                WatchdogAction::Pause => (State::Paused, Some(Action::HoldCpus)),
                WatchdogAction::InjectNmi => (State::Running, Some(Action::InjectNmi)),
                WatchdogAction::None | WatchdogAction::Debug => (State::Running, None),
            };
            assert_eq!(life.state(), state, "{action:?}");
            assert!(
                does.is_none_or(|does| actions.contains(&does)),
                "{action:?}: {actions:?}"
            );
        }
        let mut life = running(OnReset::Restart);
        life.request(Request::Pause).unwrap();
        assert_eq!(
            life.notice(Notice::Watchdog(WatchdogAction::Reset)),
            [],
            "it came too late"
        );
    }

    fn sleeping() -> Lifecycle {
        let mut life = running(OnReset::Restart);
        assert_eq!(
            life.notice(Notice::Suspended),
            [Action::HoldCpus, Action::Tell(Event::Suspend)]
        );
        assert_eq!(life.state(), State::Suspended);
        life
    }

    #[test]
    fn a_sleep_ends_by_the_machines_wish_or_a_clients() {
        let mut by_machine = sleeping();
        assert_eq!(by_machine.notice(Notice::WakeUp), [Action::WakeMachine]);
        let mut by_client = sleeping();
        assert_eq!(by_client.request(Request::WakeUp), Ok(vec![Action::WakeMachine]));
        for mut life in [by_machine, by_client] {
            assert_eq!(life.notice(Notice::WakeUp), [], "one waking at a time");
            assert_eq!(
                life.notice(Notice::WakeDone),
                [Action::RunCpus, Action::Tell(Event::WakeUp)]
            );
            assert_eq!(life.state(), State::Running);
            assert!(life.request(Request::WakeUp).is_err());
        }
        let mut pressed = sleeping();
        assert_eq!(
            pressed.request(Request::PowerButton),
            Ok(vec![Action::PressPowerButton, Action::Tell(Event::PowerDown)])
        );
        assert_eq!(
            pressed.state(),
            State::Suspended,
            "the machine says what comes of it"
        );
    }

    #[test]
    fn a_guest_that_sleeps_can_be_paused_reset_and_ended() {
        let mut life = sleeping();
        assert_eq!(life.request(Request::Pause), Ok(vec![Action::Tell(Event::Stop)]));
        assert_eq!(life.state(), State::Paused);
        assert_eq!(
            life.request(Request::Resume),
            Ok(vec![Action::Tell(Event::Resume)])
        );
        assert_eq!(life.state(), State::Suspended, "it sleeps on");
        life.request(Request::Pause).unwrap();
        assert_eq!(life.notice(Notice::WakeUp), [Action::WakeMachine]);
        assert_eq!(life.notice(Notice::WakeDone), [Action::Tell(Event::WakeUp)]);
        assert_eq!(life.state(), State::Paused);
        assert_eq!(
            life.request(Request::Resume),
            Ok(vec![Action::RunCpus, Action::Tell(Event::Resume)])
        );

        let mut life = sleeping();
        assert!(
            life.request(Request::Reset)
                .unwrap()
                .contains(&Action::ResetMachine)
        );
        assert_eq!(life.notice(Notice::ResetDone), [Action::RunCpus]);
        assert!(life.request(Request::WakeUp).is_err(), "a reset ends the sleep");

        let ended = sleeping().request(Request::Quit).unwrap();
        assert!(ended.contains(&Action::End(Outcome::Stopped)));
    }

    #[test]
    fn a_guest_that_is_paused_on_its_way_to_sleep_sleeps_when_it_is_resumed() {
        let mut life = running(OnReset::Restart);
        life.request(Request::Pause).unwrap();
        assert_eq!(life.notice(Notice::Suspended), [Action::Tell(Event::Suspend)]);
        assert_eq!(life.notice(Notice::Suspended), []);
        assert_eq!(life.state(), State::Paused);
        life.request(Request::Resume).unwrap();
        assert_eq!(life.state(), State::Suspended);
    }

    #[derive(Debug, Clone)]
    enum Input {
        Ask(Request),
        Happens(Notice),
    }

    fn input() -> impl Strategy<Value = Input> {
        prop_oneof![
            8 => prop_oneof![
                Just(Request::Start),
                Just(Request::Pause),
                Just(Request::Resume),
                Just(Request::PowerButton),
                Just(Request::Reset),
                Just(Request::WakeUp),
                Just(Request::SetOnReset(OnReset::End)),
            ].prop_map(Input::Ask),
            6 => prop_oneof![
                Just(Notice::Reset),
                Just(Notice::ResetDone),
                Just(Notice::Suspended),
                Just(Notice::WakeUp),
                Just(Notice::WakeDone),
            ].prop_map(Input::Happens),
            2 => proptest::sample::select(WatchdogAction::ALL.to_vec())
                .prop_map(|action| Input::Happens(Notice::Watchdog(action))),
            1 => prop_oneof![
                Just(Input::Ask(Request::Quit)),
                Just(Input::Ask(Request::Abandon)),
                Just(Input::Happens(Notice::PoweredOff)),
                Just(Input::Happens(Notice::Panicked)),
                Just(Input::Happens(Notice::TripleFault)),
                any::<u8>().prop_map(|value| Input::Happens(Notice::DebugExit(value))),
                Just(Input::Happens(Notice::Failed("disk gone".into()))),
            ],
        ]
    }

    proptest! {
        /// What the driver is told to do matches the state at every step, and there is one end.
        #[test]
        fn the_cpus_follow_the_state(
            restart in any::<bool>(),
            inputs in proptest::collection::vec(input(), 0..60),
        ) {
            let on_reset = if restart { OnReset::Restart } else { OnReset::End };
            let mut life = Lifecycle::new(on_reset);
            let (mut cpus_run, mut resetting, mut ends) = (false, false, 0);
            for input in inputs {
                let before = life.state();
                let actions = match input {
                    Input::Ask(request) => life.request(request).unwrap_or_default(),
                    // The driver reports a finished reset or waking only after it was asked for one.
                    Input::Happens(Notice::ResetDone | Notice::WakeDone) if !resetting => continue,
                    Input::Happens(notice) => {
                        resetting &= !matches!(notice, Notice::ResetDone | Notice::WakeDone);
                        life.notice(notice)
                    }
                };
                prop_assert!(!before.is_final() || actions.is_empty());
                for action in actions {
                    match action {
                        Action::RunCpus => {
                            prop_assert!(!cpus_run && !resetting);
                            cpus_run = true;
                        }
                        Action::HoldCpus => {
                            prop_assert!(cpus_run);
                            cpus_run = false;
                        }
                        Action::ResetMachine | Action::WakeMachine => {
                            prop_assert!(!resetting);
                            (resetting, cpus_run) = (true, false);
                        }
                        Action::End(_) => (cpus_run, ends) = (false, ends + 1),
                        Action::PressPowerButton => {
                            prop_assert!(cpus_run || life.state() == State::Suspended)
                        }
                        Action::InjectNmi => prop_assert!(cpus_run),
                        Action::Tell(_) => {}
                    }
                }
                prop_assert_eq!(cpus_run, life.state().is_executing());
                prop_assert_eq!(ends, usize::from(life.state().is_final()));
            }
        }
    }
}
