//! Guests of ours whose card has a back end of vhost-user: real Linux, at ports of `ostler switch` that are such back ends, at
//! DPDK's, and at back ends that lie.

mod support;

use std::io::{Read, Write};
use std::os::unix::net::UnixListener;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use support::switch::Switch;
use support::{Guest, Running};

const LIMIT: Duration = Duration::from_secs(600);
/// Megabytes that go from guest to guest.
const MEGABYTES: u32 = 32;

/// False, and says so, where the host refuses what the switch's port and the card signal with.
fn has_uring(test: &str) -> bool {
    let allowed = std::fs::read_to_string("/proc/sys/kernel/io_uring_disabled");
    let refused = allowed.is_ok_and(|word| word.trim() == "2");
    if refused {
        eprintln!("SKIPPED {test}: the host refuses io_uring");
    }
    !refused
}

/// A guest with this last number in its address that says when its network is up and then does `script`.
fn guest(net: &str, number: u8, files: &[(&str, &[u8])], script: &str) -> Running {
    let script = format!(
        "dmesg -n 5\n\
         until_is() {{ while [ \"$(cat $2 2>/dev/null)\" != \"$1\" ]; do usleep 20000; done; }}\n\
         ip address add 10.95.0.{number}/24 dev eth0; ip link set eth0 up\n\
         until_is 1 /sys/class/net/eth0/carrier; echo network up\n\
         {script}\n\
         echo BEGIN errors; cat /sys/class/net/eth0/statistics/*_errors | sort -u; echo END errors\n"
    );
    let net = format!("{net},mac=52:54:00:95:00:0{number}");
    Guest::new(1)
        .args(["--accel", "soft", "--net", &net, "--name"])
        .args([format!("guest{number}")])
        .script_with(&script, files)
        .spawn()
}

/// What a guest prints between BEGIN and END.
fn first_word(section: String) -> String {
    section.split_whitespace().next().unwrap().to_owned()
}

/// The card connects to a port of the switch: pings, much by TCP both ways with the right hash, in large segments; the switch is
/// restarted; the guest ends.
#[test]
fn a_guest_at_a_back_end_that_is_restarted() {
    if !has_uring("a_guest_at_a_back_end_that_is_restarted") {
        return;
    }
    let mut switch = Switch::start("[[port]]\nname = \"card\"\nvhost-user = \"FOLDER/card\"\n");
    let block = support::lan::block();
    let send = |to: &str, port: u32| {
        format!(
            "mkfifo /copy{port}; md5sum </copy{port} >/sum &\n\
             before=$(cat /sys/class/net/eth0/statistics/tx_packets)\n\
             i=0; while [ $i -lt {MEGABYTES} ]; do echo $i; cat /block; i=$((i+1)); done | tee /copy{port} | nc {to} {port}\n\
             wait; echo BEGIN sent; cat /sum; echo END sent\n\
             echo BEGIN packets; echo $(($(cat /sys/class/net/eth0/statistics/tx_packets) - before)); echo END packets\n"
        )
    };
    let receive = |port: u32| {
        format!(
            "mkfifo /never; exec 9<>/never; nc -l -p {port} </never | md5sum >/got &\n\
             until cat /proc/net/tcp* | grep -q ':{port:04X} .* 0A '; do usleep 20000; done; echo listening\n\
             wait; echo BEGIN got; cat /got; echo END got; echo all came\n"
        )
    };
    let files: &[(&str, &[u8])] = &[("block", &block)];
    let other = format!("switch={}", switch.path("control").display());
    let mut other = guest(
        &other,
        1,
        files,
        &format!(
            "{}read line </dev/console\n{}read line </dev/console",
            receive(5000),
            send("10.95.0.2", 5001)
        ),
    );
    let net = format!("vhost-user={}", switch.path("card").display());
    let mut card = guest(
        &net,
        2,
        files,
        &format!(
            "read line </dev/console\n\
             echo BEGIN pings; ping -c 3 -W 20 10.95.0.1; ping -c 2 -W 20 -s 20000 10.95.0.1; echo END pings\n\
             {}{}\
             read line </dev/console\n\
             until_is 0 /sys/class/net/eth0/carrier; echo link lost\n\
             until_is 1 /sys/class/net/eth0/carrier; echo link back\n\
             read line </dev/console\n\
             echo BEGIN again; ping -c 3 -W 20 10.95.0.1; echo END again; echo pinged again\n\
             read line </dev/console",
            send("10.95.0.1", 5000),
            receive(5001)
        ),
    );
    other.expect("listening", LIMIT);
    card.expect("network up", LIMIT);
    switch.until_up("card", true);
    switch.until_up("guest1/net0", true);
    card.type_in("\n");
    other.expect("all came", LIMIT);
    card.expect("listening", LIMIT);
    other.type_in("\n");
    card.expect("all came", LIMIT);
    let pairs = switch.port("card").unwrap()["queue-pairs"].clone();
    assert_eq!(pairs.as_array().map(Vec::len), Some(1), "{pairs}");

    // The back end goes, and comes again.
    card.type_in("\n");
    switch.end();
    card.expect("link lost", LIMIT);
    switch.start_again();
    card.expect("link back", LIMIT);
    switch.until_up("card", true);
    switch.until_up("guest1/net0", true);
    card.type_in("\n");
    card.expect("pinged again", LIMIT);
    for guest in [&mut other, &mut card] {
        guest.type_in("\n");
    }
    let (other, card) = (other.wait(LIMIT), card.wait(LIMIT));
    for outcome in [&other, &card] {
        outcome.assert_clean();
        assert_eq!(outcome.section("errors"), "0\n");
    }
    let pings = card.section("pings");
    assert!(
        pings.contains("3 packets transmitted, 3 packets received")
            && pings.contains("2 packets transmitted, 2 packets received"),
        "{pings}"
    );
    let hash = first_word;
    assert_eq!(hash(card.section("sent")), hash(other.section("got")));
    assert_eq!(hash(other.section("sent")), hash(card.section("got")));
    // Segments are left to others: in frames of the usual size it would be 23,000 packets.
    let packets: u32 = card.section("packets").trim().parse().unwrap();
    assert!(packets < 15_000, "{packets} packets for {MEGABYTES} MiB");
    let again = card.section("again");
    assert!(
        again.contains("3 packets transmitted, 3 packets received"),
        "{again}"
    );
    switch.until_up("card", false);
}

/// The back end connects to the guest.
#[test]
fn a_back_end_that_connects_to_the_guest() {
    if !has_uring("a_back_end_that_connects_to_the_guest") {
        return;
    }
    let switch = Switch::start(
        "[[port]]\nname = \"one\"\nvhost-user-connect = \"FOLDER/one\"\n\
         [[port]]\nname = \"two\"\nvhost-user-connect = \"FOLDER/two\"\n",
    );
    let net = |name: &str| format!("vhost-user={},mode=server", switch.path(name).display());
    let mut one = guest(&net("one"), 1, &[], "read line </dev/console");
    let mut two = guest(
        &net("two"),
        2,
        &[],
        "read line </dev/console\n\
         echo BEGIN pings; ping -c 3 -W 20 10.95.0.1; ping -c 2 -W 20 -s 20000 10.95.0.1; echo END pings; echo all pinged\n\
         read line </dev/console",
    );
    for (guest, port) in [(&mut one, "one"), (&mut two, "two")] {
        guest.expect("network up", LIMIT);
        switch.until_up(port, true);
    }
    two.type_in("\n");
    two.expect("all pinged", LIMIT);
    for guest in [&mut one, &mut two] {
        guest.type_in("\n");
    }
    let (one, two) = (one.wait(LIMIT), two.wait(LIMIT));
    one.assert_clean();
    two.assert_clean();
    let pings = two.section("pings");
    assert!(
        pings.contains("3 packets transmitted, 3 packets received")
            && pings.contains("2 packets transmitted, 2 packets received"),
        "{pings}"
    );
    // The sockets go with the guests.
    switch.until("the sockets gone", |switch| {
        !switch.path("one").exists() && !switch.path("two").exists()
    });
}

/// What answers and is no back end, or hangs up at once: the guest runs on without a link, and gets the next one.
#[test]
fn a_back_end_that_lies_first() {
    if !has_uring("a_back_end_that_lies_first") {
        return;
    }
    let mut switch = Switch::start("[[port]]\nname = \"card\"\nvhost-user = \"FOLDER/card\"\n");
    let path = switch.path("card");
    switch.end();
    let _ = std::fs::remove_file(&path);
    let listener = UnixListener::bind(&path).unwrap();
    let net = format!("vhost-user={}", path.display());
    let mut card = guest(&net, 1, &[], "read line </dev/console");
    for answer in [&b""[..], b"HTTP/1.0 400 Bad Request\r\n\r\n", &[0xff; 4096]] {
        let (mut client, _) = listener.accept().unwrap();
        let mut asked = [0; 12];
        client.read_exact(&mut asked).unwrap();
        let _ = client.write_all(answer);
        let _ = client.shutdown(std::net::Shutdown::Write);
        // Until it has hung up.
        let _ = client.read_to_end(&mut Vec::new());
    }
    drop(listener);
    std::fs::remove_file(&path).unwrap();
    switch.start_again();
    card.expect("network up", LIMIT);
    switch.until_up("card", true);
    card.type_in("\n");
    card.wait(LIMIT).assert_clean();
}

/// DPDK's testpmd, which answers ARP and pings at a socket where it listens.
struct Testpmd(Child);

impl Testpmd {
    /// None if this host has no such program.
    fn start(socket: &Path) -> Option<Self> {
        let device = format!("net_vhost0,iface={}", socket.display());
        let mut command = Command::new("dpdk-testpmd");
        // One thread that reads from standard input, and one that looks at the rings all the time.
        command
            .args(["-l", "0,1", "--no-shconf", "--no-huge", "-m", "128"])
            .args(["--no-pci", "--no-telemetry", "--vdev", &device, "--"])
            .args([
                "--forward-mode=icmpecho",
                "--auto-start",
                "--total-num-mbufs=4096",
            ])
            .env("RUNTIME_DIRECTORY", socket.parent().unwrap());
        let child = command.stdin(Stdio::piped()).stdout(Stdio::null()).spawn();
        child.ok().map(Self)
    }
}

impl Drop for Testpmd {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// A back end that is not ours, gone and there again.
#[test]
fn a_back_end_of_dpdk_answers_pings() {
    const NAME: &str = "a_back_end_of_dpdk_answers_pings";
    if !has_uring(NAME) {
        return;
    }
    if std::thread::available_parallelism().is_ok_and(|cpus| cpus.get() < 2) {
        eprintln!("SKIPPED {NAME}: dpdk-testpmd needs two processors");
        return;
    }
    let folder = tempfile::tempdir().unwrap();
    let socket = folder.path().join("back-end");
    let Some(testpmd) = Testpmd::start(&socket) else {
        eprintln!("SKIPPED {NAME}: there is no dpdk-testpmd (Debian's package dpdk-dev)");
        return;
    };
    let ping = |section: &str| {
        format!(
            "echo BEGIN {section}; for size in 56 1400; do ping -c 3 -W 20 -s $size 10.95.0.9; done; echo END {section}\n"
        )
    };
    let script = format!(
        "{}echo pinged once\n\
         until_is 0 /sys/class/net/eth0/carrier; echo link lost\n\
         until_is 1 /sys/class/net/eth0/carrier\n\
         {}",
        ping("pings"),
        ping("again")
    );
    let mut card = guest(&format!("vhost-user={}", socket.display()), 1, &[], &script);
    card.expect("pinged once", LIMIT);
    drop(testpmd);
    card.expect("link lost", LIMIT);
    let _ = std::fs::remove_file(&socket);
    let _testpmd = Testpmd::start(&socket).unwrap();
    let card = card.wait(LIMIT);
    card.assert_clean();
    for section in ["pings", "again"] {
        let said = card.section(section);
        let answered = said.matches("3 packets transmitted, 3 packets received").count();
        assert_eq!(answered, 2, "{said}");
    }
    assert_eq!(card.section("errors"), "0\n");
}
