//! Captures, with Wireshark's and tcpdump's readers as judges.

use std::path::Path;
use std::process::{Child, Command, Stdio};

use crate::support::OSTLER;
use crate::support::switch::{Peer, Switch, broadcast};

const PORTS: &str = "
[[port]]
name = \"a\"
listen = \"FOLDER/a\"
vlan = 10
[[port]]
name = \"b\"
listen = \"FOLDER/b\"
vlan = 20
[[port]]
name = \"trunk\"
listen = \"FOLDER/trunk\"
trunk = \"10,20\"
";

fn peers(switch: &Switch) -> [Peer; 3] {
    ["a", "b", "trunk"].map(|name| switch.peer(name))
}

fn command(switch: &Switch, words: &[&str]) -> Command {
    let mut command = Command::new(OSTLER);
    command
        .args(["net", "capture"])
        .arg(switch.path("control"))
        .args(words);
    command
}

/// Starts a capture into a file, and returns when it has begun.
fn start(switch: &Switch, words: &[&str]) -> Child {
    let mut child = command(switch, words).stderr(Stdio::piped()).spawn().unwrap();
    let mut line = String::new();
    let mut said = std::io::BufReader::new(child.stderr.take().unwrap());
    std::io::BufRead::read_line(&mut said, &mut line).unwrap();
    assert!(line.contains("capturing"), "{line}");
    child
}

/// Ends it as a user would, by Ctrl-C.
fn end(mut child: Child) {
    let pid = rustix::process::Pid::from_child(&child);
    rustix::process::kill_process(pid, rustix::process::Signal::INT).unwrap();
    assert!(child.wait().unwrap().success());
}

/// What a foreign reader says of a file; `None`, said aloud, if there is no such reader.
fn read(test: &str, program: &str, words: &[&str], file: &Path) -> Option<String> {
    let Ok(output) = Command::new(program).args(words).arg(file).output() else {
        eprintln!("SKIPPED {test}: needs Debian's {program} as a reader of captures");
        return None;
    };
    let said = String::from_utf8(output.stdout).unwrap();
    assert!(
        output.status.success(),
        "{program}: {said} {}",
        String::from_utf8_lossy(&output.stderr)
    );
    Some(said)
}

/// A port's frames both ways, and a VLAN's with their ports; the readers find every frame, its length, direction and interface.
#[test]
fn captures_are_read_by_wireshark_and_tcpdump() {
    let test = "captures_are_read_by_wireshark_and_tcpdump";
    let switch = Switch::start(PORTS);
    let [mut a, mut b, mut trunk] = peers(&switch);
    let (of_port, of_vlan, short) = (switch.path("port"), switch.path("vlan"), switch.path("short"));
    let words = |file: &Path| file.to_str().unwrap().to_owned();
    let captures = [
        start(&switch, &["trunk", "-w", &words(&of_port)]),
        start(&switch, &["--vlan", "10", "-w", &words(&of_vlan)]),
        start(
            &switch,
            &["trunk", "--vlan", "20", "-w", &words(&short), "--snaplen", "40"],
        ),
    ];
    a.send(&broadcast(1, None, "one"));
    assert_eq!(trunk.receive(), broadcast(1, Some(10), "one"));
    b.send(&broadcast(2, None, "two"));
    assert_eq!(trunk.receive(), broadcast(2, Some(20), "two"));
    trunk.send(&broadcast(3, Some(10), "three"));
    assert_eq!(a.receive(), broadcast(3, None, "three"));
    trunk.send(&broadcast(3, Some(30), "four"));
    trunk.send(&broadcast(3, Some(10), "five"));
    assert_eq!(a.receive(), broadcast(3, None, "five"));
    captures.into_iter().for_each(end);

    let fields = [
        "-T",
        "fields",
        "-e",
        "frame.interface_name",
        "-e",
        "frame.packet_flags_direction",
        "-e",
        "vlan.id",
        "-e",
        "frame.len",
        "-e",
        "frame.cap_len",
        "-r",
    ];
    let Some(said) = read(test, "tshark", &fields, &of_port) else {
        return;
    };
    let direction = |said: &str| {
        said.replace("0x00000001", "1")
            .replace("0x00000002", "2")
            .replace("0x", "")
    };
    assert_eq!(
        direction(&said),
        "trunk\t2\t10\t64\t64\ntrunk\t2\t20\t64\t64\ntrunk\t1\t10\t64\t64\ntrunk\t1\t30\t64\t64\ntrunk\t1\t10\t64\t64\n"
    );
    let said = read(test, "tshark", &fields, &of_vlan).unwrap();
    assert_eq!(
        direction(&said),
        "a\t1\t\t60\t60\ntrunk\t1\t10\t64\t64\ntrunk\t1\t10\t64\t64\n"
    );
    let said = read(test, "tshark", &fields, &short).unwrap();
    assert_eq!(direction(&said), "trunk\t2\t20\t64\t40\n");
    let said = read(test, "capinfos", &["-M", "-c", "-t", "-E", "-k"], &of_port).unwrap();
    assert!(
        said.contains("pcapng") && said.contains("Number of packets:   5"),
        "{said}"
    );
    let Some(said) = read(test, "tcpdump", &["-e", "-nn", "-r"], &of_port) else {
        return;
    };
    assert_eq!(said.matches("ethertype 802.1Q").count(), 5, "{said}");
    assert!(said.lines().next().unwrap().contains("vlan 10"), "{said}");
}

/// A pipe into tcpdump, which ends after so many frames; a capture that ends by itself; what is refused.
#[test]
fn captures_end_by_count_and_go_into_pipes() {
    let test = "captures_end_by_count_and_go_into_pipes";
    let switch = Switch::start(PORTS);
    let [mut a, _b, mut trunk] = peers(&switch);
    if let Ok(mut reader) = Command::new("tcpdump")
        .args(["-l", "-nn", "-e", "-c", "2", "-r", "-"])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .spawn()
    {
        let pipe = reader.stdin.take().unwrap();
        let mut capture = command(&switch, &["a", "-w", "-"]).stdout(pipe).spawn().unwrap();
        // Until the reader has had enough, and then until the writer notices.
        while capture.try_wait().unwrap().is_none() {
            a.send(&broadcast(1, None, "again"));
            trunk.receive();
            std::thread::sleep(std::time::Duration::from_millis(2));
        }
        assert!(capture.wait().unwrap().success());
        let output = reader.wait_with_output().unwrap();
        let said = String::from_utf8(output.stdout).unwrap();
        assert_eq!(said.matches("ethertype Unknown").count(), 2, "{said}");
    } else {
        eprintln!("SKIPPED {test}: needs Debian's tcpdump");
    }
    let file = switch.path("three");
    let mut capture = start(&switch, &["a", "-w", file.to_str().unwrap(), "--count", "3"]);
    for _ in 0..10 {
        a.send(&broadcast(1, None, "again"));
        trunk.receive();
    }
    assert!(capture.wait().unwrap().success());
    if let Some(said) = read(test, "capinfos", &["-M", "-c"], &file) {
        assert!(said.contains("Number of packets:   3"), "{said}");
    }
    // A port that is removed ends its capture.
    let mut capture = start(&switch, &["a", "-w", file.to_str().unwrap()]);
    switch.net(&["port", "remove", "lan", "a"]);
    assert!(capture.wait().unwrap().success());
    for (words, reason) in [
        (&["nobody", "-w", "x"][..], "there is no port \"nobody\""),
        (&["b", "--vlan", "4095", "-w", "x"], "4095 is not in 1..=4094"),
        (&["b", "--count", "0", "-w", "x"], "0 is not in 1.."),
        (&["b", "-w", "/nonexistent/x"], "cannot write the capture"),
    ] {
        let output = command(&switch, words).output().unwrap();
        let said = String::from_utf8(output.stderr).unwrap();
        assert!(
            !output.status.success() && said.contains(reason),
            "{words:?}: {said}"
        );
        assert_eq!(said.lines().count(), 1, "{said}");
    }
}

/// Who does not read his capture loses frames of it, and nobody else does: the stream says how many are missing.
#[test]
fn a_capture_that_is_not_read_slows_nobody() {
    let test = "a_capture_that_is_not_read_slows_nobody";
    let switch = Switch::start(PORTS);
    let [mut a, _b, mut trunk] = peers(&switch);
    let client = ostler_switchd::client::Client::connect(&switch.path("control")).unwrap();
    let (mut stream, start) = client.capture(serde_json::json!({ "port": "a" })).unwrap();
    let mut frame = broadcast(1, None, "large");
    frame.resize(1514, 7);
    const FRAMES: u32 = 6000;
    for _ in 0..FRAMES {
        a.send(&frame);
        assert_eq!(trunk.receive().len(), 1518);
    }
    // Now it reads, and ends.
    stream.shutdown(std::net::Shutdown::Write).unwrap();
    let mut bytes = start;
    std::io::Read::read_to_end(&mut stream, &mut bytes).unwrap();
    assert!(bytes.len() < 6 << 20, "{} bytes are kept", bytes.len());
    let file = switch.path("slow");
    std::fs::write(&file, &bytes).unwrap();
    let Some(said) = read(test, "capinfos", &["-M", "-c"], &file) else {
        return;
    };
    let count: u64 = said
        .lines()
        .find_map(|line| line.strip_prefix("Number of packets:"))
        .unwrap()
        .trim()
        .parse()
        .unwrap();
    assert!(count > 1000 && count < u64::from(FRAMES), "{count}");
    // The statistics of the interface: frames that were seen and those that are missing (options 4 and 5 of block 5).
    let word = |at: usize| u32::from_le_bytes(bytes[at..at + 4].try_into().unwrap()) as usize;
    let (mut at, mut statistics) = (0, None);
    while at < bytes.len() {
        if word(at) == 5 {
            statistics = Some((word(at + 36), word(at + 48)));
        }
        at += word(at + 4);
    }
    assert_eq!(
        statistics,
        Some((FRAMES as usize, FRAMES as usize - count as usize))
    );
}
