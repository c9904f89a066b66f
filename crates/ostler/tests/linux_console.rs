//! A real Linux guest with its virtio console.

mod support;

use std::io::{Read, Write};
use std::os::unix::net::UnixStream;
use std::time::{Duration, Instant};

use support::Guest;

const LIMIT: Duration = Duration::from_secs(120);

/// Reads until `text` has come.
fn expect(stream: &mut UnixStream, text: &str) -> String {
    let deadline = Instant::now() + LIMIT;
    stream.set_read_timeout(Some(Duration::from_secs(1))).unwrap();
    let mut seen = Vec::new();
    let mut buffer = [0; 4096];
    loop {
        match stream.read(&mut buffer) {
            Ok(count @ 1..) => seen.extend_from_slice(&buffer[..count]),
            Ok(_) => panic!("the console ended; it showed {}", String::from_utf8_lossy(&seen)),
            Err(error) => assert!(
                Instant::now() < deadline,
                "waiting for {text:?}: {error}; the console showed {}",
                String::from_utf8_lossy(&seen)
            ),
        }
        let shown = String::from_utf8_lossy(&seen).replace('\r', "");
        if shown.contains(text) {
            return shown;
        }
    }
}

#[test]
fn a_shell_at_a_socket() {
    let mut guest = Guest::new(2).append("console=hvc0");
    let socket = guest.path_option("--console", "socket=", "console");
    let mut guest = guest.spawn();
    // The serial port shows the boot up to where the virtio console comes.
    guest.expect("printk: console [hvc0] enabled", LIMIT);
    let mut person = UnixStream::connect(&socket).unwrap();
    let shown = expect(&mut person, "OSTLER-GUEST-UP");
    // The modules after its own say their lines here already.
    assert!(shown.contains("] ACPI: button: Power Button"), "{shown}");
    person.write_all(b"tty; echo answer $((6 * 7))\n").unwrap();
    let shown = expect(&mut person, "answer 42\n");
    assert!(
        shown.contains("echo answer $((6 * 7))\n"),
        "the line is echoed: {shown}"
    );
    assert!(shown.contains("/dev/hvc0\n"), "{shown}");
    // Whoever comes later sees what was there before, and types in the same shell.
    let mut other = UnixStream::connect(&socket).unwrap();
    expect(&mut other, "answer 42\n");
    other.write_all(b"poweroff -f\n").unwrap();
    guest.wait(LIMIT).assert_clean();
}

#[test]
fn the_guest_sees_the_size_of_the_terminal() {
    let (mut guest, screen) = Guest::new(1)
        .args(["--console", "stdio"])
        .append("console=hvc0 quiet")
        .spawn_in_terminal(132, 43);
    guest.expect("OSTLER-GUEST-UP", LIMIT);
    guest.expect("# ", LIMIT);
    guest.type_in("stty size\n");
    guest.expect("\n43 132\n", LIMIT);
    screen.resize(100, 37);
    // The change travels on its own: ask until it has come.
    guest.type_in("until stty size | grep '^37 '; do usleep 100000; done; echo res''ized\n");
    guest.expect("resized\n", LIMIT);
    guest.expect("\n37 100\n", LIMIT);
    guest.type_in("poweroff -f\n");
    guest.wait(LIMIT).assert_clean();
}
