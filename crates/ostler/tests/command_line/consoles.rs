//! Where the serial port leads.

use std::io::{Read, Write};
use std::os::unix::net::UnixStream;

use rustix::process::Signal;

use crate::control::Client;
use crate::process::listens;
use crate::tiny::{Kernel, Tiny, wait_until};

#[test]
fn standard_input_reaches_the_guest() {
    let mut guest = Tiny::new(Kernel::new().print("up\n").echo().power_off()).spawn();
    guest.expect("up\n");
    let text = "0123456789".repeat(100) + "q";
    guest
        .child
        .stdin
        .as_mut()
        .unwrap()
        .write_all(text.as_bytes())
        .unwrap();
    let ended = guest.wait();
    assert_eq!((ended.output, ended.status.code()), (text, Some(0)));
}

#[test]
fn a_file_keeps_what_was_there() {
    let mut tiny = Tiny::new(Kernel::new().print("new\n").power_off());
    let log = tiny.path_option("--serial", "file=", "log");
    std::fs::write(&log, "old\n").unwrap();
    let ended = tiny.run();
    assert_eq!(
        (ended.status.code(), ended.output.as_str()),
        (Some(0), ""),
        "{}",
        ended.errors
    );
    assert_eq!(std::fs::read_to_string(&log).unwrap(), "old\nnew\n");
}

#[test]
fn each_client_of_a_socket_gets_the_history_first() {
    let mut tiny = Tiny::new(Kernel::new().print("history ").echo().power_off());
    let socket = tiny.path_option("--serial", "socket=", "serial");
    let guest = tiny.spawn();
    wait_until("the console socket", || listens(&socket));
    let mut first = UnixStream::connect(&socket).unwrap();
    let mut got = [0; 8];
    first.read_exact(&mut got).unwrap();
    assert_eq!(&got, b"history ");
    first.write_all(b"echo").unwrap();
    let mut got = [0; 4];
    first.read_exact(&mut got).unwrap();
    let mut second = UnixStream::connect(&socket).unwrap();
    let mut got = [0; 12];
    second.read_exact(&mut got).unwrap();
    assert_eq!(&got, b"history echo");
    second.write_all(b"q").unwrap();
    let ended = guest.wait();
    assert_eq!(ended.status.code(), Some(0), "{}", ended.errors);
    assert!(!socket.exists());
}

#[test]
fn without_a_serial_port_signals_still_work() {
    let mut tiny = Tiny::new(Kernel::new().wait_for_button().power_off()).args(&["--serial", "none"]);
    let control = tiny.path_option("--control", "", "control");
    let guest = tiny.spawn();
    wait_until("the guest to run", || UnixStream::connect(&control).is_ok());
    let mut client = Client::connect(&control);
    wait_until("the guest to run", || {
        client.execute("query-status")["status"] == "running"
    });
    guest.signal(Signal::TERM);
    let ended = guest.wait();
    assert_eq!(ended.status.code(), Some(0), "{}", ended.errors);
    assert_eq!(ended.output, "");
}
