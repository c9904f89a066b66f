//! A real Linux guest on a tap or a macvtap, in a network namespace that the test makes for itself.

mod support;

use std::io::{Read, Write};
use std::net::TcpStream;
use std::process::Command;
use std::time::{Duration, Instant};

use rustix::thread::UnshareFlags;
use support::process::{guest_process, moved_by_threads};
use support::{Guest, Running};

const LIMIT: Duration = Duration::from_secs(180);
const GUEST_ADDRESS: &str = "10.99.0.2";
/// The guest has this one too.
const OTHER_ADDRESS: &str = "10.99.1.2";
/// Bytes that go to the guest, and come back.
const EXCHANGED: u64 = 1 << 30;

/// Moves this thread into a network namespace of its own, with `tap0` in it, made with `flags`. The namespace ends with its
/// users.
fn enter_namespace(test: &str, flags: &str) -> bool {
    if !rustix::process::geteuid().is_root() || !std::path::Path::new("/dev/net/tun").exists() {
        eprintln!("SKIPPED {test}: needs root and /dev/net/tun for a tap in a network namespace");
        return false;
    }
    // SAFETY: only the network namespace of this thread changes; no file descriptor table is unshared.
    unsafe { rustix::thread::unshare_unsafe(UnshareFlags::NEWNET) }.unwrap();
    for line in [
        "link set lo up",
        &format!("tuntap add dev tap0 mode tap{flags}"),
        "address add 10.99.0.1/24 dev tap0",
        "link set tap0 up",
    ] {
        assert!(
            Command::new("ip")
                .args(line.split(' '))
                .status()
                .unwrap()
                .success(),
            "ip {line}"
        );
    }
    true
}

/// The two ends of a cable, `low` and `far`; on `low` is `beside`, and there will be the guest. Each interface answers for its own address.
const MACVTAPS: &str = "set -e; mount --make-rprivate /; mount -t sysfs sysfs /sys; ip link set lo up; \
    ip link add low type veth peer name far; ip link add link low name beside type macvlan mode bridge; \
    for i in low far beside; do ip link set $i up; echo 1 >/proc/sys/net/ipv4/conf/$i/arp_ignore; done; \
    ip address add 10.99.0.1/24 dev far; ip address add 10.99.1.1/24 dev beside; \
    ip link add link low name probe type macvtap; ip link delete probe";

/// Moves this thread into namespaces of its own with such a cable, and a /sys that shows it.
fn enter_with_macvtaps(test: &str) -> bool {
    if !rustix::process::geteuid().is_root() {
        eprintln!("SKIPPED {test}: a network namespace needs root");
        return false;
    }
    let flags = UnshareFlags::NEWNET | UnshareFlags::NEWNS;
    // SAFETY: only namespaces of this thread change; no file descriptor table is unshared.
    unsafe { rustix::thread::unshare_unsafe(flags) }.unwrap();
    let set_up = Command::new("sh").args(["-c", MACVTAPS]).output().unwrap();
    if !set_up.status.success() {
        eprintln!("SKIPPED {test}: this kernel has no macvtaps: {set_up:?}");
        return false;
    }
    true
}

/// A guest at the tap.
fn echoing_guest(cpus: u32, options: &[&str]) -> Running {
    echoing_guest_at("tap=tap0", cpus, options)
}

/// A guest with the address 10.99.0.2 that echoes what it gets on TCP port 7. At its end it shows what its card counted.
fn echoing_guest_at(net: &str, cpus: u32, options: &[&str]) -> Running {
    // Of the kernel's messages only warnings, which no healthy guest has: others might come in the middle of what is shown.
    let script = format!(
        "dmesg -n 5; ip address add {GUEST_ADDRESS}/24 dev eth0; ip address add {OTHER_ADDRESS}/24 dev eth0\n\
         ip link set eth0 up\n\
         nc -ll -p 7 -e cat &\n\
         echo network up\n\
         read line </dev/console\n\
         echo BEGIN errors; cat /sys/class/net/eth0/statistics/*_errors | sort -u; echo END errors\n\
         echo BEGIN queues; ls /sys/class/net/eth0/queues; echo END queues\n\
         echo BEGIN interrupts; grep put. /proc/interrupts; echo END interrupts\n\
         cd /sys/class/net/eth0/statistics\n\
         echo BEGIN received; cat rx_bytes rx_packets; echo END received\n"
    );
    let mut guest = Guest::new(cpus)
        .args(["--net", &format!("{net},mac=52:54:00:12:34:56")])
        .args(options)
        .script(&script)
        .spawn();
    guest.expect("network up", LIMIT);
    guest
}

/// The `index`th word of an endless, seeded stream (SplitMix64).
fn word(index: u64) -> u64 {
    let mut z = index.wrapping_mul(0x9e37_79b9_7f4a_7c15);
    z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    z ^ (z >> 31)
}

fn fill(block: &mut [u8], at: u64) {
    for (index, chunk) in block.chunks_exact_mut(8).enumerate() {
        chunk.copy_from_slice(&word(at / 8 + index as u64).to_le_bytes());
    }
}

fn connect() -> TcpStream {
    connect_to(GUEST_ADDRESS)
}

fn connect_to(address: &str) -> TcpStream {
    let deadline = Instant::now() + Duration::from_secs(30);
    loop {
        match TcpStream::connect((address, 7)) {
            Ok(stream) => return stream,
            Err(error) => assert!(Instant::now() < deadline, "no echo from the guest: {error}"),
        }
        std::thread::sleep(Duration::from_millis(100));
    }
}

/// Sends `bytes` to the guest by one connection while they come back, each of them right.
fn echo_through(bytes: u64) {
    echo_through_at(GUEST_ADDRESS, bytes);
}

fn echo_through_at(address: &str, bytes: u64) {
    let mut stream = connect_to(address);
    stream.set_read_timeout(Some(Duration::from_secs(60))).unwrap();
    let mut sender = stream.try_clone().unwrap();
    let sending = std::thread::spawn(move || {
        let mut block = vec![0; 1 << 16];
        for at in (0..bytes).step_by(block.len()) {
            fill(&mut block, at);
            sender.write_all(&block).unwrap();
        }
        sender.shutdown(std::net::Shutdown::Write).unwrap();
    });
    let mut got = vec![0; 1 << 16];
    let mut expected = vec![0; 1 << 16];
    for at in (0..bytes).step_by(got.len()) {
        stream.read_exact(&mut got).unwrap();
        fill(&mut expected, at);
        assert!(got == expected, "a wrong byte in the 64 KiB at offset {at}");
    }
    assert_eq!(stream.read(&mut got).unwrap(), 0, "more came back than was sent");
    sending.join().unwrap();
}

#[test]
fn a_gigabyte_by_tcp_without_a_wrong_byte() {
    if !enter_namespace("a_gigabyte_by_tcp_without_a_wrong_byte", "") {
        return;
    }
    let mut guest = echoing_guest(2, &[]);
    echo_through(EXCHANGED);
    guest.type_in("\n");
    let outcome = guest.wait(LIMIT);
    outcome.assert_clean();
    assert_eq!(outcome.section("errors"), "0\n");
}

/// Enough that each queue has some: the tap spreads connections by a hash.
const CONNECTIONS: u64 = 32;

#[test]
fn connections_spread_over_two_queue_pairs() {
    if !enter_namespace("connections_spread_over_two_queue_pairs", " multi_queue") {
        return;
    }
    let mut guest = echoing_guest(2, &[]);
    let mut streams: Vec<_> = (0..CONNECTIONS).map(|_| connect()).collect();
    let mut block = vec![0; 1 << 16];
    for (index, stream) in (0..).zip(&mut streams) {
        stream.set_read_timeout(Some(Duration::from_secs(60))).unwrap();
        fill(&mut block, index << 20);
        stream.write_all(&block).unwrap();
    }
    let mut got = vec![0; 1 << 16];
    for (index, stream) in (0..).zip(&mut streams) {
        stream.read_exact(&mut got).unwrap();
        fill(&mut block, index << 20);
        assert!(got == block, "a wrong byte in connection {index}");
    }
    drop(streams);
    guest.type_in("\n");
    let outcome = guest.wait(LIMIT);
    outcome.assert_clean();
    assert_eq!(outcome.section("errors"), "0\n");
    let queues = outcome.section("queues");
    let queues: Vec<_> = queues.split_whitespace().collect();
    assert_eq!(queues, ["rx-0", "rx-1", "tx-0", "tx-1"]);
    // Both receive queues have an interrupt of their own, and frames came through each.
    let interrupts = outcome.section("interrupts");
    for queue in ["-input.0", "-input.1"] {
        let line = interrupts.lines().find(|line| line.contains(queue));
        let line = line.unwrap_or_else(|| panic!("no {queue} in {interrupts}"));
        let counts = line.split_whitespace().skip(1).take(2);
        let count: u64 = counts.map(|count| count.parse::<u64>().unwrap()).sum();
        assert!(count > 0, "{line}");
    }
}

#[test]
fn a_ping_of_65000_bytes_passes() {
    if !enter_namespace("a_ping_of_65000_bytes_passes", "") {
        return;
    }
    let mut guest = echoing_guest(1, &[]);
    let ping = Command::new("ping")
        .args(["-c", "10", "-i", "0.2", "-s", "65000", "-W", "5", GUEST_ADDRESS])
        .output();
    let said = String::from_utf8(ping.unwrap().stdout).unwrap();
    assert!(said.contains("10 received, 0% packet loss"), "{said}");
    guest.type_in("\n");
    guest.wait(LIMIT).assert_clean();
}

/// Bytes and frames.
#[derive(Debug, Clone, Copy)]
struct Traffic {
    bytes: u64,
    frames: u64,
}

impl Traffic {
    /// From two lines of numbers, as Linux counts them: a segment that passes whole is one frame.
    fn parse(lines: &str) -> Self {
        let numbers: Vec<u64> = lines.lines().map(|line| line.parse().unwrap()).collect();
        let [bytes, frames] = numbers[..] else {
            panic!("two numbers: {lines:?}");
        };
        Self { bytes, frames }
    }

    /// What the tap counts in one direction, as the host sees it.
    fn of_tap(direction: &str) -> Self {
        Self::of("tap0", direction)
    }

    /// What an interface of the host counts in one direction.
    fn of(interface: &str, direction: &str) -> Self {
        // By a program of this thread's namespace; /sys shows that of who mounted it.
        let shown = Command::new("ip")
            .args(["-s", "-j", "link", "show", interface])
            .output()
            .unwrap();
        let shown: serde_json::Value = serde_json::from_slice(&shown.stdout).unwrap();
        let count = |what: &str| shown[0]["stats64"][direction][what].as_u64().unwrap();
        Self {
            bytes: count("bytes"),
            frames: count("packets"),
        }
    }
}

#[test]
fn large_segments_pass_whole() {
    const MEGABYTES: u64 = 32;
    if !enter_namespace("large_segments_pass_whole", "") {
        return;
    }
    let mut guest = echoing_guest(1, &[]);
    echo_through(MEGABYTES << 20);
    let (from_guest, to_guest) = (Traffic::of_tap("rx"), Traffic::of_tap("tx"));
    guest.type_in("\n");
    let outcome = guest.wait(LIMIT);
    outcome.assert_clean();
    assert_eq!(outcome.section("errors"), "0\n");
    let received = Traffic::parse(&outcome.section("received"));
    assert_large(&[from_guest, to_guest, received], MEGABYTES << 20);
}

/// That on average more bytes than a frame of the wire holds were in those of what the guest sent, of what the host sent, and of what
/// arrived in the guest.
fn assert_large(all: &[Traffic], bytes: u64) {
    /// The largest frame without segmentation offload: Ethernet's header and its MTU.
    const WIRE: u64 = 14 + 1500;
    for traffic in all {
        println!("{traffic:?}: {} bytes a frame", traffic.bytes / traffic.frames);
        assert!(traffic.bytes >= bytes, "{traffic:?}");
        assert!(traffic.bytes > traffic.frames * WIRE, "{traffic:?}");
    }
}

/// With the other end of the cable, and with one on the same interface: no byte is wrong, and segments pass whole. The macvtap goes with
/// the guest.
#[test]
fn a_macvtap_carries_large_segments_both_ways() {
    const MEGABYTES: u64 = 32;
    if !enter_with_macvtaps("a_macvtap_carries_large_segments_both_ways") {
        return;
    }
    let mut guest = echoing_guest_at("direct=low", 2, &[]);
    assert!(macvtaps().contains("macvtap0@low"), "{}", macvtaps());
    for address in [GUEST_ADDRESS, OTHER_ADDRESS] {
        echo_through_at(address, MEGABYTES << 20);
    }
    let (from_guest, to_guest) = (Traffic::of("macvtap0", "tx"), Traffic::of("macvtap0", "rx"));
    guest.type_in("\n");
    let outcome = guest.wait(LIMIT);
    outcome.assert_clean();
    assert_eq!(outcome.section("errors"), "0\n");
    let received = Traffic::parse(&outcome.section("received"));
    assert_large(&[from_guest, to_guest, received], (2 * MEGABYTES) << 20);
    assert_eq!(macvtaps(), "");
}

/// The macvtaps of this namespace, as `ip` lists them.
fn macvtaps() -> String {
    let shown = Command::new("ip")
        .args(["-br", "link", "show", "type", "macvtap"])
        .output();
    String::from_utf8(shown.unwrap().stdout).unwrap()
}

/// But for that of a guest that runs, and those that no guest of ours had: one without a mark, and one with that of another namespace.
#[test]
fn the_next_start_deletes_the_macvtap_of_a_guest_that_was_killed() {
    const STRANGERS: &str = "set -e; for i in plain elsewhere; do ip link add link low name $i type macvtap mode bridge; done; \
        ip link set elsewhere alias 'ostler-run 1 00000000000000000000000000000001'";
    if !enter_with_macvtaps("the_next_start_deletes_the_macvtap_of_a_guest_that_was_killed") {
        return;
    }
    let made = Command::new("sh").args(["-c", STRANGERS]).status();
    assert!(made.unwrap().success());
    let start = |mac: &str| {
        let mut guest = Guest::new(1)
            .args(["--net", &format!("direct=low,mac={mac}")])
            .script("echo it runs; read line </dev/console\n")
            .spawn();
        guest.expect("it runs", LIMIT);
        guest
    };
    let names = || {
        let shown = macvtaps();
        let mut names: Vec<_> = shown
            .lines()
            .filter_map(|line| line.split('@').next().map(str::to_owned))
            .collect();
        names.sort();
        names
    };
    let number = || std::fs::read_to_string("/sys/class/net/macvtap0/ifindex").unwrap();
    // The kernel takes an address once on an interface: with what is left there, the next guest with it would not start.
    let killed = start("52:54:00:12:34:56");
    killed.signal(rustix::process::Signal::KILL);
    killed.wait(LIMIT);
    assert_eq!(names(), ["elsewhere", "macvtap0", "plain"]);
    let left = number();
    let first = start("52:54:00:12:34:56");
    assert_eq!(names(), ["elsewhere", "macvtap0", "plain"]);
    let new = number();
    assert_ne!(new, left);
    let second = start("52:54:00:12:34:57");
    assert_eq!(names(), ["elsewhere", "macvtap0", "macvtap1", "plain"]);
    assert_eq!(number(), new);
    for mut guest in [first, second] {
        guest.type_in("\n");
        let outcome = guest.wait(LIMIT);
        outcome.assert_clean();
    }
    assert_eq!(names(), ["elsewhere", "plain"]);
}

#[test]
fn no_cpu_thread_moves_a_cards_frames() {
    const NAME: &str = "no_cpu_thread_moves_a_cards_frames";
    const MEGABYTES: u64 = 64;
    if !enter_namespace(NAME, "") {
        return;
    }
    // On the software CPU: there no vhost-net moves the frames in the host's kernel.
    let mut guest = echoing_guest(2, &["--accel", "soft"]);
    let process = guest_process(guest.child.id());
    let before = moved_by_threads(process, "");
    if before.is_empty() {
        eprintln!("SKIPPED {NAME}: this host's kernel does not tell what a thread reads and writes");
        return;
    }
    echo_through(MEGABYTES << 20);
    let after = moved_by_threads(process, "");
    let moved = |prefix: &str| -> Vec<(&str, u64, u64)> {
        let threads = after.iter().filter(|(name, _)| name.starts_with(prefix));
        threads
            .map(|(name, now)| {
                let then = before.get(name).copied().unwrap_or_default();
                (&**name, now.read - then.read, now.written - then.written)
            })
            .collect()
    };
    let cpus = moved("vcpu");
    assert_eq!(cpus.len(), 2, "{after:?}");
    for (name, read, written) in cpus {
        // Eight bytes for each event that wakes a worker, and nothing else.
        assert!(read + written < 1 << 20, "{name} moved {} bytes", read + written);
    }
    let workers = moved("net");
    let total = |amounts: Vec<u64>| amounts.iter().sum::<u64>();
    let (read, written) = (
        total(workers.iter().map(|worker| worker.1).collect()),
        total(workers.iter().map(|worker| worker.2).collect()),
    );
    assert!(
        read >= MEGABYTES << 20 && written >= MEGABYTES << 20,
        "the card's workers moved too little: {workers:?}"
    );
    guest.type_in("\n");
    guest.wait(LIMIT).assert_clean();
}
