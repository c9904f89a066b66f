//! Foreign guests at `ostler switch` by vhost-user: real Linux in QEMU, which shares its memory with the switch.

mod support;

use std::time::Duration;

use support::hosts::{self, Host, TCP_CLIENT, TCP_SERVER};
use support::switch::Switch;
use support::{Running, qemu};

const LIMIT: Duration = Duration::from_secs(600);
/// Bytes that go each way.
const MUCH: u64 = 24 << 20;

/// A switch with the host's interface and a port that listens for a front end.
const CONFIG: &str = "
[[port]]
name = \"host\"
packet = \"host\"
[[port]]
name = \"guest\"
vhost-user = \"FOLDER/guest\"
";

/// QEMU's options of a card with so many queue pairs, whose front end connects to `socket`, again and again. Without MSI-X: where
/// there is no KVM, QEMU 7.2 (Debian 12's) crashes when a vhost device with it starts.
fn card(socket: &str, pairs: u32, more: &str) -> Vec<String> {
    [
        "-chardev",
        &format!("socket,id=c,path={socket},reconnect=1"),
        "-netdev",
        &format!("vhost-user,id=n,chardev=c,queues={pairs}"),
        "-device",
        &format!("virtio-net-pci,netdev=n,mac=52:54:00:98:00:02,mq=on,vectors=0{more}"),
    ]
    .map(str::to_owned)
    .into()
}

/// What a guest does first; it is 10.98.0.2.
const NETWORK: &str = "dmesg -n 1\n\
    until_is() { while [ \"$(cat $2 2>/dev/null)\" != \"$1\" ]; do usleep 20000; done; }\n\
    packets() { cat /sys/class/net/eth0/statistics/$1_packets; }\n\
    ip address add 10.98.0.2/24 dev eth0; ip link set eth0 up\n\
    until_is 1 /sys/class/net/eth0/carrier; echo network up\n";

/// What says how a guest fared, its kernel's complaints included.
const ERRORS: &str = "echo BEGIN errors; cat /sys/class/net/eth0/statistics/*_errors | sort -u; echo END errors\ndmesg -r | grep '^<[0-4]>'\n";

/// The guest sends much to the host, and gets much of it; returns how many packets that took, sent and received.
fn exchange(guest: &mut Running, host: &Host, round: u32) -> [u64; 2] {
    let mut server = host.python(TCP_SERVER, &["10.98.0.1"]);
    assert_eq!(server.line(), "listening");
    guest.type_in("\n");
    let got = server.line();
    guest.expect(&format!("END sent {round}"), LIMIT);
    guest.expect(&format!("listening {round}"), LIMIT);
    // The port is open a little later than that is said.
    let mut sent = loop {
        let program = format!(
            "try:\n{}\nexcept ConnectionRefusedError: say('refused')",
            indented(TCP_CLIENT)
        );
        let mut client = host.python(&program, &["10.98.0.2", &MUCH.to_string()]);
        let said = client.line();
        client.rest();
        if said != "refused" {
            break said;
        }
    };
    guest.expect(&format!("done {round}"), LIMIT);
    let console = guest.console();
    let section = |name: &str| {
        let (begin, end) = (format!("BEGIN {name} {round}\n"), format!("END {name} {round}\n"));
        console
            .split(&begin)
            .nth(1)
            .unwrap()
            .split(&end)
            .next()
            .unwrap()
            .to_owned()
    };
    let hash = |text: &str| text.split_whitespace().next().unwrap().to_owned();
    assert_eq!(got, format!("{MUCH} {}", hash(&section("sent"))));
    assert_eq!(sent.split_off(MUCH.to_string().len() + 1), hash(&section("got")));
    let counts = section("packets");
    let mut counts = counts.split_whitespace().map(|count| count.parse().unwrap());
    [counts.next().unwrap(), counts.next().unwrap()]
}

fn indented(program: &str) -> String {
    program.lines().map(|line| format!("    {line}\n")).collect()
}

/// What the guest does for [`exchange`]; `how` is a program before each that moves bytes. `cat` hands the file to the kernel as a whole: of
/// the small pieces that `nc` reads no large segments are made when the receiver is quick.
fn exchanging(round: u32, how: &str) -> String {
    let megabytes = MUCH >> 20;
    format!(
        "dd if=/dev/urandom of=/much bs=1M count={megabytes} 2>/dev/null\n\
         mkfifo /never{round}; exec 9<>/never{round}\n\
         echo ready {round}; read line </dev/console\n\
         sent=$(packets tx)\n\
         {how} nc 10.98.0.1 5000 -e cat /much\n\
         sent=$(($(packets tx)-sent))\n\
         echo BEGIN sent {round}; sha256sum </much; echo END sent {round}\n\
         received=$(packets rx); echo listening {round}\n\
         echo BEGIN got {round}; {how} nc -l -p 5000 </never{round} | sha256sum; echo END got {round}\n\
         received=$(($(packets rx)-received))\n\
         echo BEGIN packets {round}; echo $sent $received; echo END packets {round}; echo done {round}\n"
    )
}

/// One pair of queues: pings, much by TCP both ways in large segments with the right hash, the switch's restart, the guest's end.
#[test]
fn a_guest_of_qemu_with_one_queue_pair() {
    const NAME: &str = "a_guest_of_qemu_with_one_queue_pair";
    if !hosts::enter(NAME, &[]) || !qemu::is_there(NAME) {
        return;
    }
    let host = Host::new("host", 1);
    let mut switch = Switch::start(CONFIG);
    let socket = switch.path("guest");
    let script = format!(
        "{NETWORK}\
         echo BEGIN pings; ping -c 3 -W 20 10.98.0.1; ping -c 2 -W 20 -s 20000 10.98.0.1; echo END pings\n\
         {}read line </dev/console\n\
         until_is 0 /sys/class/net/eth0/carrier; echo link lost\n\
         until_is 1 /sys/class/net/eth0/carrier; echo link back\n\
         read line </dev/console\n\
         echo BEGIN again; ping -c 3 -W 20 10.98.0.1; echo END again\n{ERRORS}",
        exchanging(1, "")
    );
    let mut guest = qemu::spawn(1, &card(socket.to_str().unwrap(), 1, ""), &script);
    guest.expect("network up", LIMIT);
    switch.until_up("guest", true);
    guest.expect("ready 1", LIMIT);
    let [sent, received] = exchange(&mut guest, &host, 1);
    eprintln!(
        "{} MiB each way took {sent} packets to the host and {received} from it",
        MUCH >> 20
    );
    assert!(sent < MUCH / 1600, "large segments were sent: {sent} packets");
    assert!(
        received < MUCH / 1600,
        "large segments were received: {received} packets"
    );
    let port = switch.port("guest").unwrap();
    assert_eq!(port["kind"], "vhost-user", "{port:#}");
    assert!(
        port["counters"]["received-bytes"].as_u64().unwrap() > MUCH,
        "{port:#}"
    );
    assert!(
        port["counters"]["sent-bytes"].as_u64().unwrap() > MUCH,
        "{port:#}"
    );
    assert_eq!(port["lost"]["received"], 0, "{port:#}");

    guest.type_in("\n");
    switch.end();
    guest.expect("link lost", LIMIT);
    switch.start_again();
    guest.expect("link back", LIMIT);
    switch.until_up("guest", true);
    switch.until_up("host", true);
    guest.type_in("\n");
    let outcome = guest.wait(LIMIT);
    outcome.assert_clean();
    switch.until_up("guest", false);
    assert_eq!(outcome.section("errors"), "0\n");
    let pings = outcome.section("pings");
    assert!(
        pings.contains("3 packets transmitted, 3 packets received"),
        "{pings}"
    );
    assert!(
        pings.contains("2 packets transmitted, 2 packets received"),
        "{pings}"
    );
    let again = outcome.section("again");
    assert!(
        again.contains("3 packets transmitted, 3 packets received"),
        "{again}"
    );
}

/// Two pairs and two CPUs: each CPU sends by a queue of its own, and the answers come by the same pair. Then without offloads: the
/// switch does the work of them.
#[test]
fn a_guest_of_qemu_with_two_queue_pairs() {
    const NAME: &str = "a_guest_of_qemu_with_two_queue_pairs";
    if !hosts::enter(NAME, &[]) || !qemu::is_there(NAME) {
        return;
    }
    let host = Host::new("host", 1);
    let switch = Switch::start(CONFIG);
    let socket = switch.path("guest");
    let script = format!(
        "{NETWORK}\
         echo BEGIN queues; ls /sys/class/net/eth0/queues; echo END queues\n\
         {}{}read line </dev/console\n{ERRORS}",
        exchanging(1, "taskset 1"),
        exchanging(2, "taskset 2")
    );
    let mut guest = qemu::spawn(2, &card(socket.to_str().unwrap(), 2, ""), &script);
    for round in [1, 2] {
        guest.expect(&format!("ready {round}"), LIMIT);
        let [sent, received] = exchange(&mut guest, &host, round);
        assert!(sent < MUCH / 1600, "large segments were sent: {sent} packets");
        assert!(
            received < MUCH / 1600,
            "large segments were received: {received} packets"
        );
    }
    guest.expect("done 2", LIMIT);
    let pairs = switch.port("guest").unwrap()["queue-pairs"].clone();
    for pair in 0..2 {
        for direction in ["received", "sent"] {
            let frames = pairs[pair][direction].as_u64().unwrap();
            assert!(frames > 100, "both pairs are used: {pairs:#}");
        }
    }
    guest.type_in("\n");
    let outcome = guest.wait(LIMIT);
    outcome.assert_clean();
    assert_eq!(outcome.section("errors"), "0\n");
    let queues = outcome.section("queues");
    for queue in ["rx-0", "rx-1", "tx-0", "tx-1"] {
        assert!(queues.contains(queue), "{queues}");
    }
    switch.until_up("guest", false);

    // The same guest without anything left to the other side, with one buffer a frame and without indirect descriptors.
    let plain = ",csum=off,gso=off,guest_csum=off,guest_tso4=off,guest_tso6=off,guest_ecn=off,host_tso4=off,\
                 host_tso6=off,host_ecn=off,mrg_rxbuf=off,indirect_desc=off,event_idx=off";
    let script = format!("{NETWORK}{}{ERRORS}", exchanging(1, ""));
    let mut guest = qemu::spawn(1, &card(socket.to_str().unwrap(), 1, plain), &script);
    guest.expect("ready 1", LIMIT);
    let [sent, received] = exchange(&mut guest, &host, 1);
    assert!(sent > MUCH / 1600, "no large segments were sent: {sent} packets");
    assert!(
        received > MUCH / 1600,
        "no large segments were received: {received} packets"
    );
    let outcome = guest.wait(LIMIT);
    outcome.assert_clean();
    assert_eq!(outcome.section("errors"), "0\n");
}

/// A front end that listens is connected to; a guest that is killed takes its port down at once.
#[test]
fn a_front_end_that_listens() {
    const NAME: &str = "a_front_end_that_listens";
    if !qemu::is_there(NAME) {
        return;
    }
    let switch = Switch::start("[[port]]\nname = \"peer\"\nlisten = \"FOLDER/peer\"\n");
    let socket = switch.path("front-end");
    let path = socket.to_str().unwrap();
    switch.net(&["port", "add", "lan", "guest", "--vhost-user-connect", path]);
    assert_eq!(switch.port("guest").unwrap()["up"], false);
    let mut devices = card(path, 1, "");
    devices[1] = format!("socket,id=c,path={path},server=on");
    for _ in 0..2 {
        let mut guest = qemu::spawn(1, &devices, &format!("{NETWORK}read line </dev/console\n"));
        guest.expect("network up", LIMIT);
        switch.until_up("guest", true);
        guest.child.kill().unwrap();
        guest.child.wait().unwrap();
        switch.until_up("guest", false);
    }
}
