//! A person at a terminal.

use std::fs::File;
use std::io::{Read, Write};
use std::os::fd::OwnedFd;
use std::process::Stdio;

use rustix::process::Signal;
use rustix::pty::{OpenptFlags, grantpt, openpt, ptsname, unlockpt};
use rustix::termios::{LocalModes, tcgetattr};

use crate::tiny::{Kernel, Running, Tiny};

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
fn the_terminal_comes_back_after_signals_panics_and_crashes() {
    let mut terminal = at_a_terminal(Kernel::new().print("up\n").wait_for_button().out(0x505, 1).halt());
    terminal.expect("up\n");
    terminal.guest.signal(Signal::TERM);
    assert_eq!(terminal.guest.wait().status.code(), Some(3));
    assert!(is_cooked(&terminal.device));

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
    let ended = terminal.guest.wait();
    assert_eq!(ended.status.code(), Some(1), "{}", ended.errors);
    assert!(is_cooked(&terminal.device));
}
