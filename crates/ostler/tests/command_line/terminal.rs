//! A person at a terminal.

use std::fs::File;
use std::io::{Read, Write};
use std::os::fd::OwnedFd;
use std::os::unix::process::ExitStatusExt;
use std::process::Stdio;

use rustix::process::{Pid, Resource, Rlimit, Signal, prlimit};
use rustix::pty::{OpenptFlags, grantpt, openpt, ptsname, unlockpt};
use rustix::termios::{LocalModes, OptionalActions, tcgetattr, tcsetattr};

use crate::tiny::{Kernel, Running, Tiny, wait_until};

struct Terminal {
    person: File,
    guest: Running,
    device: OwnedFd,
}

fn at_a_terminal(kernel: Kernel) -> Terminal {
    let controller = openpt(OpenptFlags::RDWR | OpenptFlags::NOCTTY).unwrap();
    grantpt(&controller).unwrap();
    unlockpt(&controller).unwrap();
    let name = ptsname(&controller, Vec::new()).unwrap().into_string().unwrap();
    let device: OwnedFd = File::options().read(true).write(true).open(name).unwrap().into();
    assert!(is_cooked(&device));
    let mut tiny = Tiny::new(kernel);
    tiny.command.stdin(Stdio::from(device.try_clone().unwrap()));
    tiny.command.stdout(Stdio::from(device.try_clone().unwrap()));
    Terminal {
        person: File::from(controller),
        guest: tiny.spawn(),
        device,
    }
}

fn is_cooked(device: &OwnedFd) -> bool {
    tcgetattr(device)
        .unwrap()
        .local_modes
        .contains(LocalModes::ICANON | LocalModes::ECHO)
}

impl Terminal {
    fn expect(&mut self, text: &str) {
        let mut seen = Vec::new();
        let mut byte = [0];
        while !seen.ends_with(text.as_bytes()) {
            assert_eq!(self.person.read(&mut byte).unwrap(), 1);
            seen.push(byte[0]);
        }
    }

    /// Waits for the end, with this status or by this signal, and looks at the terminal.
    #[track_caller]
    fn assert_ends(self, status: Option<i32>, signal: Option<i32>) {
        let ended = self.guest.wait();
        let how = (ended.status.code(), ended.status.signal());
        assert_eq!(how, (status, signal), "{}", ended.errors);
        assert!(is_cooked(&self.device), "raw after {how:?}");
    }
}

#[test]
fn the_terminal_is_raw_while_the_guest_has_it() {
    let mut terminal = at_a_terminal(Kernel::new().print("up\n").echo().power_off());
    terminal.expect("up\n");
    assert!(!is_cooked(&terminal.device));
    // Ctrl-C is a byte for the guest like any other.
    terminal.person.write_all(b"a\x03b\r").unwrap();
    terminal.expect("a\x03b\r");
    terminal.person.write_all(b"q").unwrap();
    let ended = terminal.guest.wait();
    assert_eq!(ended.status.code(), Some(0), "{}", ended.errors);
    assert!(ended.errors.contains("Ctrl-] leaves"), "{}", ended.errors);
    assert!(is_cooked(&terminal.device));
}

#[test]
fn ctrl_bracket_leaves() {
    let mut terminal = at_a_terminal(Kernel::new().print("up\n").halt());
    terminal.expect("up\n");
    terminal.person.write_all(b"\x1d").unwrap();
    assert_eq!(terminal.guest.wait().status.code(), Some(0));
    assert!(is_cooked(&terminal.device));
}

#[test]
fn the_terminal_comes_back_however_the_guest_ends() {
    for (kernel, status) in [
        (Kernel::new().print("up\n").power_off(), 0),
        (Kernel::new().print("up\n").out(0x505, 1).halt(), 3),
        (Kernel::new().print("up\n").triple_fault(), 4),
    ] {
        let mut terminal = at_a_terminal(kernel);
        terminal.expect("up\n");
        terminal.assert_ends(Some(status), None);
    }
}

#[test]
fn the_terminal_comes_back_when_the_guests_process_is_killed() {
    let mut terminal = at_a_terminal(Kernel::new().print("up\n").halt());
    terminal.expect("up\n");
    let parent = terminal.guest.child.id();
    let children = std::fs::read_to_string(format!("/proc/{parent}/task/{parent}/children")).unwrap();
    let child = children
        .trim()
        .parse()
        .ok()
        .and_then(rustix::process::Pid::from_raw)
        .unwrap();
    rustix::process::kill_process(child, Signal::KILL).unwrap();
    terminal.assert_ends(Some(1), None);
}

#[test]
fn the_terminal_comes_back_after_a_signal_that_the_guest_follows() {
    for signal in [Signal::TERM, Signal::INT, Signal::HUP, Signal::QUIT] {
        let mut terminal = at_a_terminal(Kernel::new().print("up\n").wait_for_button().power_off());
        terminal.expect("up\n");
        terminal.guest.signal(signal);
        terminal.assert_ends(Some(0), None);
    }
}

#[test]
fn the_terminal_comes_back_after_a_second_signal() {
    for signal in [Signal::TERM, Signal::INT, Signal::HUP, Signal::QUIT] {
        let mut terminal = at_a_terminal(Kernel::new().print("up\n").halt());
        terminal.expect("up\n");
        // Two signals that arrive together are one: go on until it has heard two.
        wait_until("the guest to be stopped", || {
            let ended = terminal.guest.child.try_wait().unwrap().is_some();
            if !ended {
                terminal.guest.signal(signal);
            }
            ended
        });
        terminal.assert_ends(Some(128 + signal.as_raw()), None);
    }
}

#[test]
fn the_terminal_comes_back_after_signals_that_stop_the_guest_at_once() {
    for signal in [
        Signal::ALARM,
        Signal::IO,
        Signal::POWER,
        Signal::PROF,
        Signal::STKFLT,
        Signal::USR1,
        Signal::USR2,
        Signal::VTALARM,
        Signal::XCPU,
        Signal::XFSZ,
    ] {
        let mut terminal = at_a_terminal(Kernel::new().print("up\n").halt());
        terminal.expect("up\n");
        terminal.guest.signal(signal);
        terminal.assert_ends(Some(128 + signal.as_raw()), None);
    }
}

#[test]
fn the_terminal_comes_back_after_faults_and_aborts() {
    for signal in [
        Signal::ABORT,
        Signal::BUS,
        Signal::FPE,
        Signal::ILL,
        Signal::SEGV,
        Signal::SYS,
        Signal::TRAP,
        // A real-time signal.
        rt_signal(),
    ] {
        let mut terminal = at_a_terminal(Kernel::new().print("up\n").halt());
        terminal.expect("up\n");
        // No file of its memory is to be left behind.
        let pid = Pid::from_child(&terminal.guest.child);
        let none = Rlimit {
            current: Some(0),
            maximum: Some(0),
        };
        prlimit(Some(pid), Resource::Core, none).unwrap();
        terminal.guest.signal(signal);
        terminal.assert_ends(None, Some(signal.as_raw()));
    }
}

#[test]
fn the_terminal_is_cooked_while_the_guest_is_suspended() {
    let mut terminal = at_a_terminal(Kernel::new().print("up\n").echo().power_off());
    terminal.expect("up\n");
    assert!(!is_cooked(&terminal.device));
    for _ in 0..2 {
        terminal.guest.signal(Signal::TSTP);
        wait_until("it to be suspended", || is_suspended(&terminal.guest));
        assert!(is_cooked(&terminal.device));
        terminal.guest.signal(Signal::CONT);
        wait_until("the terminal to be raw again", || !is_cooked(&terminal.device));
    }
    // A stop that no process can prepare for leaves the terminal raw; a shell sees to itself, and to what we find.
    terminal.guest.signal(Signal::STOP);
    wait_until("it to be stopped", || is_suspended(&terminal.guest));
    cook(&terminal.device);
    terminal.guest.signal(Signal::CONT);
    wait_until("the terminal to be raw again", || !is_cooked(&terminal.device));
    terminal.person.write_all(b"still\r").unwrap();
    terminal.expect("still\r");
    terminal.person.write_all(b"q").unwrap();
    terminal.assert_ends(Some(0), None);
}

fn rt_signal() -> Signal {
    // SAFETY: a real-time signal that the C library leaves to programs.
    unsafe { Signal::from_raw_unchecked(libc::SIGRTMIN() + 3) }
}

/// What the shell does when one of its jobs was stopped.
fn cook(device: &OwnedFd) {
    let mut state = tcgetattr(device).unwrap();
    state.local_modes |= LocalModes::ICANON | LocalModes::ECHO;
    tcsetattr(device, OptionalActions::Now, &state).unwrap();
}

/// proc(5): state T.
fn is_suspended(guest: &Running) -> bool {
    let stat = std::fs::read_to_string(format!("/proc/{}/stat", guest.child.id())).unwrap();
    stat.rsplit_once(')')
        .is_some_and(|(_, rest)| rest.trim_start().starts_with('T'))
}
