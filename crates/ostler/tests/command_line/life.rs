//! How guests begin and end, and what status says so.

use rustix::process::Signal;

use crate::tiny::{Kernel, Tiny, wait_until};

#[test]
fn a_power_off_is_status_0() {
    let ended = Tiny::new(Kernel::new().print("hello\n").power_off()).run();
    assert_eq!(
        (ended.status.code(), ended.output.as_str()),
        (Some(0), "hello\n"),
        "{}",
        ended.errors
    );
    assert!(
        ended.errors.contains("the software CPU runs the guest"),
        "{}",
        ended.errors
    );
}

#[test]
fn a_reboot_starts_the_guest_again() {
    let kernel = Kernel::new()
        .print("up ")
        .wait_for_button()
        .print("reset ")
        .out(0xcf9, 6)
        .halt();
    let mut guest = Tiny::new(kernel).spawn();
    guest.expect("up ");
    guest.signal(Signal::TERM);
    guest.expect("reset up ");
    guest.signal(Signal::TERM);
    let ended = guest.wait();
    assert_eq!(
        ended.status.code(),
        Some(143),
        "the second signal stops the guest: {}",
        ended.errors
    );
}

#[test]
fn no_reboot_ends_with_status_0() {
    let ended = Tiny::new(Kernel::new().print("x").out(0xcf9, 6).halt())
        .args(&["--no-reboot"])
        .run();
    assert_eq!((ended.status.code(), ended.output.as_str()), (Some(0), "x"));
}

#[test]
fn a_panic_has_a_status_and_a_line() {
    let ended = Tiny::new(Kernel::new().out(0x505, 1).halt()).run();
    assert_eq!(ended.status.code(), Some(3), "{}", ended.errors);
    assert!(
        ended.errors.ends_with("ostler: the guest's kernel panicked\n"),
        "{}",
        ended.errors
    );
}

#[test]
fn a_triple_fault_has_a_status_and_a_line() {
    let ended = Tiny::new(Kernel::new().triple_fault()).run();
    assert_eq!(ended.status.code(), Some(4), "{}", ended.errors);
    assert!(
        ended.errors.ends_with("ostler: the guest met a triple fault\n"),
        "{}",
        ended.errors
    );
}

#[test]
fn a_test_guest_chooses_its_status() {
    let ended = Tiny::new(Kernel::new().out(0xf4, 5).halt())
        .args(&["--debug-exit"])
        .run();
    assert_eq!(ended.status.code(), Some(11), "{}", ended.errors);
}

#[test]
fn ports_of_test_devices_are_dead_without_their_options() {
    // The debug exit, then every port of the test device; a power-off shows that the guest got past them.
    let mut kernel = Kernel::new().out(0xf4, 5);
    for port in (0xe0..0xe4)
        .chain([0xe8])
        .chain(0x2000..0x2018)
        .chain(0x3000..0x3004)
    {
        kernel = kernel.out(port, 1);
    }
    let ended = Tiny::new(kernel.read_back(0xe0).print("past\n").power_off()).run();
    assert_eq!(ended.status.code(), Some(0), "{}", ended.errors);
    // What nothing answers reads as all ones.
    assert_eq!(ended.output, "no register\npast\n");
    let kernel = Kernel::new().out(0xe0, 1).read_back(0xe0).power_off();
    let ended = Tiny::new(kernel).args(&["--test-device"]).run();
    assert_eq!(ended.output, "register\n", "{}", ended.errors);
}

#[test]
fn the_help_lists_the_statuses_that_guests_end_with() {
    let output = std::process::Command::new(crate::tiny::OSTLER)
        .args(["run", "--help"])
        .output()
        .unwrap();
    assert_eq!(output.status.code(), Some(0));
    let help = String::from_utf8_lossy(&output.stdout).into_owned();
    let (_, table) = help.split_once("Exit status:").expect(&help);
    let rows: Vec<&str> = table.lines().map(str::trim).collect();
    let panicked = Tiny::new(Kernel::new().out(0x505, 1).halt()).run();
    let tripled = Tiny::new(Kernel::new().triple_fault()).run();
    let refused = Tiny::new(Kernel::new()).args(&["--cpus", "0"]).run();
    let off = Tiny::new(Kernel::new().power_off()).run();
    for (ended, word) in [
        (panicked, "panicked"),
        (tripled, "triple fault"),
        (refused, "mistake"),
        (off, "powered off"),
    ] {
        let status = format!("{} ", ended.status.code().unwrap());
        assert!(
            rows.iter()
                .any(|row| row.starts_with(&status) && row.contains(word)),
            "{status}{word}: {help}"
        );
    }
    for row in ["1 ", "2 V + 1 ", "128 + N "] {
        assert!(rows.iter().any(|r| r.starts_with(row)), "{row}: {help}");
    }
}

#[test]
fn sigterm_presses_the_power_button() {
    let mut guest = Tiny::new(
        Kernel::new()
            .print("up\n")
            .wait_for_button()
            .print("bye")
            .power_off(),
    )
    .spawn();
    guest.expect("up\n");
    guest.signal(Signal::TERM);
    let ended = guest.wait();
    assert_eq!(
        (ended.status.code(), ended.output.as_str()),
        (Some(0), "bye"),
        "{}",
        ended.errors
    );
}

#[test]
fn a_second_sigterm_stops_a_guest_that_does_not_listen() {
    let mut guest = Tiny::new(Kernel::new().print("up\n").halt()).spawn();
    guest.expect("up\n");
    guest.signal(Signal::TERM);
    guest.signal(Signal::TERM);
    // Two signals that arrive together are one: go on until it has heard two.
    while guest.child.try_wait().unwrap().is_none() {
        guest.signal(Signal::TERM);
        std::thread::sleep(std::time::Duration::from_millis(20));
    }
    let ended = guest.wait();
    assert_eq!(ended.status.code(), Some(143), "{}", ended.errors);
}

#[test]
fn the_guests_process_ends_with_its_parent() {
    let mut tiny = Tiny::new(Kernel::new().print("up\n").halt());
    let control = tiny.path_option("--control", "", "control");
    let mut guest = tiny.spawn();
    guest.expect("up\n");
    guest.child.kill().unwrap();
    wait_until("the guest's process to end", || {
        std::os::unix::net::UnixStream::connect(&control).is_err()
    });
}

#[test]
fn the_guests_process_blocks_only_what_its_parent_decides_about() {
    let mut guest = Tiny::new(Kernel::new().print("up\n").halt()).spawn();
    guest.expect("up\n");
    let parent = guest.child.id();
    let children = std::fs::read_to_string(format!("/proc/{parent}/task/{parent}/children")).unwrap();
    let status = std::fs::read_to_string(format!("/proc/{}/status", children.trim())).unwrap();
    let blocked = status.lines().find_map(|l| l.strip_prefix("SigBlk:")).unwrap();
    let blocked = u64::from_str_radix(blocked.trim(), 16).unwrap();
    let decided = [Signal::HUP, Signal::INT, Signal::QUIT, Signal::TERM];
    let expected: u64 = decided.iter().map(|signal| 1 << (signal.as_raw() - 1)).sum();
    assert_eq!(blocked, expected, "{blocked:#x}");
}

#[test]
fn cpus_are_threads_with_names() {
    let mut tiny = Tiny::new(Kernel::new().print("up\n").halt()).args(&["--cpus", "3"]);
    let control = tiny.path_option("--control", "", "control");
    let mut guest = tiny.spawn();
    guest.expect("up\n");
    let mut client = crate::control::Client::connect(&control);
    let cpus = client.execute("query-cpus-fast");
    for (index, cpu) in cpus.as_array().unwrap().iter().enumerate() {
        let thread = cpu["thread-id"].as_u64().unwrap();
        let name = std::fs::read_to_string(format!("/proc/{thread}/comm")).unwrap();
        assert_eq!(name.trim(), format!("vcpu{index}"));
    }
    assert_eq!(cpus.as_array().unwrap().len(), 3);
}

#[test]
fn the_software_cpu_translates_unless_it_is_told_not_to() {
    for (options, translates) in [
        (&[][..], true),
        (&["--cpu-engine", "translator"], true),
        (&["--cpu-engine", "interpreter"], false),
    ] {
        let mut guest = Tiny::new(Kernel::new().print("up\n").halt())
            .args(options)
            .spawn();
        guest.expect("up\n");
        let parent = guest.child.id();
        let children = std::fs::read_to_string(format!("/proc/{parent}/task/{parent}/children")).unwrap();
        let maps = std::fs::read_to_string(format!("/proc/{}/maps", children.trim())).unwrap();
        // Room for translations is executable, and of no file. The interpreter takes some when it meets a vector instruction.
        let room = maps
            .lines()
            .any(|map| map.contains(" r-xs ") && map.contains("memfd:"));
        assert_eq!(room, translates, "{options:?}: {maps}");
    }
}
