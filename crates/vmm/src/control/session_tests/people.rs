//! The monitor for people.

use super::*;

#[test]
fn people_get_lines() {
    let mut talk = Talk::negotiated();
    assert_eq!(talk.line(""), "");
    assert_eq!(talk.line("fly"), "unknown command: 'fly'\r\n");
    assert_eq!(talk.line("info fly"), "unknown command: 'info fly'\r\n");
    assert_eq!(talk.line("info status"), "VM status: paused (prelaunch)\r\n");
    assert_eq!(talk.line("info name"), "mare\r\n");
    assert_eq!(
        talk.line("system_reset now"),
        "system_reset: extraneous characters at the end of line\r\nTry \"help system_reset\" for more information\r\n"
    );
    assert!(talk.line("set_link net0").contains("expected"));
    assert_eq!(
        talk.line("set_link net9 off"),
        "Error: Device 'net9' not found\r\n"
    );
    assert_eq!(talk.line("set_link net0 off"), "");
    for (line, words) in [
        ("help", "system_reset"),
        ("info", "info registers"),
        ("info cpus", "* CPU #0: thread_id="),
        ("info version", "(ostler "),
        ("info block", "disk0: "),
        ("info network", "model=virtio-net-pci"),
        ("info pci", "id \"disk0\""),
        ("info mtree", "disk0 BAR 4"),
        ("info registers", "CPU#0"),
        ("info registers -a", "CPU#1"),
        ("info registers 1", "EFER="),
        ("info chardev", "control: filename=unix"),
        ("info hotpluggable-cpus", "core-id: \"0\""),
        ("info memory_size_summary", "base memory: 16777216"),
        ("info vm-generation-id", "07070707-0707-0707-0707-070707070707"),
        ("qom-list /machine", "peripheral (child<container>)"),
        ("qom-get /machine/peripheral/disk0 realized", "true"),
    ] {
        let said = talk.line(line);
        assert!(said.contains(words), "{line}: {said}");
        assert!(
            said.ends_with("\r\n") && !said.replace("\r\n", "").contains('\n'),
            "{line}"
        );
    }
    assert_eq!(talk.line("watchdog_action none"), "");
    assert_eq!(talk.manager.watchdog.action().name(), "none");
    assert_eq!(talk.line("announce_self net0"), "");
    assert_eq!(talk.line("device_add virtio-rng-pci,id=dice,bus=rp2"), "");
    assert!(talk.line("qom-list /machine/peripheral").contains("dice"));
    assert!(
        talk.line("device_add virtio-rng-pci,id=two,bus=rp2")
            .contains("in use by")
    );
    for (line, why) in [
        ("block_resize disk0 much", "invalid size"),
        ("block_resize disk0", "string expected"),
        ("eject", "block device name expected"),
        ("qom-get /machine", "string expected"),
    ] {
        let name = line.split(' ').next().unwrap();
        let said = format!("{name}: {why}\r\nTry \"help {name}\" for more information\r\n");
        assert_eq!(talk.line(line), said);
    }
    let far = json!({ "command-line": "info registers", "cpu-index": 7 });
    assert_eq!(
        talk.bad("human-monitor-command", far).1,
        "Parameter 'cpu-index' expects a CPU number"
    );
}
