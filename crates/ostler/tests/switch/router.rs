//! A router of the switch for a Linux host that is no guest of ours: its frames come with large segments and checksums left undone, in bursts.

use crate::support::hosts::{self, Host, TCP_CLIENT, TCP_SERVER, ip};
use crate::support::switch::Switch;

const MEGABYTE: u64 = 1 << 20;

/// A tap, and between it and a port of the switch a cable that loses, repeats and delays frames, both ways; whatever it does can be had again
/// by its seed.
const BAD_CABLE: &str = "
import fcntl, os, random, select, subprocess
tap = os.open('/dev/net/tun', os.O_RDWR)
fcntl.ioctl(tap, 0x400454ca, struct.pack('16sH', b'bad0', 0x1002))
for line in ('link set dev bad0 up', 'address add 10.97.0.1/24 dev bad0'):
    subprocess.check_call(['ip'] + line.split())
port = socket.socket(socket.AF_UNIX)
port.connect(sys.argv[1])
chance = random.Random(7)
late = {tap: [], port: []}
def put(to, frame):
    if to is tap: os.write(tap, frame)
    else: port.sendall(struct.pack('>I', len(frame)) + frame)
def carry(to, frame):
    fate = chance.random()
    if fate < 0.06: late[to].append([chance.randrange(1, 6), frame])
    elif fate > 0.02 + 0.06: put(to, frame)
    if fate > 0.98: put(to, frame)
    for held in late[to]: held[0] -= 1
    for held in [held for held in late[to] if held[0] < 0]:
        late[to].remove(held)
        put(to, held[1])
say('ready')
buffer = b''
while True:
    ready = select.select([tap, port, sys.stdin], [], [], 0.005)[0]
    if sys.stdin in ready: break
    if tap in ready: carry(port, os.read(tap, 65536))
    if port in ready:
        buffer += port.recv(1 << 20)
        while len(buffer) >= 4 and len(buffer) >= 4 + struct.unpack('>I', buffer[:4])[0]:
            end = 4 + struct.unpack('>I', buffer[:4])[0]
            carry(tap, buffer[4:end])
            buffer = buffer[end:]
    if not ready:
        for to in late:
            for held in late[to]: put(to, held[1])
            late[to] = []
";

/// 100 MB out to the host's loopback and 100 MB in by a forwarded port: every byte, and not a frame lost on the way to the router.
#[test]
fn a_host_exchanges_much_with_the_outside() {
    if !hosts::enter("a_host_exchanges_much_with_the_outside", &["socket"]) {
        return;
    }
    ip("link set lo up");
    let (inside, outside) = (Host::new("inside", 1), Host::here());
    let switch = Switch::start(
        "[[port]]\nname = \"inside\"\npacket = \"inside\"\n\
         [[port]]\nname = \"router\"\n\
         [port.router]\naddress = \"10.98.0.254/24\"\n\
         forward = [\"tcp:127.0.0.2:5000:10.98.0.1:5000\"]\n",
    );
    switch.until_up("inside", true);
    switch.until_up("router", true);
    // Who listens where, who connects from where to which address.
    for (server, at, client, to) in [
        (&outside, "127.0.0.1", &inside, "10.98.0.254"),
        (&inside, "10.98.0.1", &outside, "127.0.0.2"),
    ] {
        let mut server = server.python(TCP_SERVER, &[at]);
        assert_eq!(server.line(), "listening");
        let bytes = (100 * MEGABYTE).to_string();
        let mut client = client.python(TCP_CLIENT, &[to, &bytes]);
        let sent = client.line();
        assert_eq!(server.line(), sent);
        eprintln!(
            "TCP through a router from a packet port, to {to}: {}",
            client.line()
        );
    }
    for port in ["inside", "router"] {
        let shown = switch.port(port).unwrap();
        let lost = shown["counters"]["egress-dropped"].as_object().unwrap();
        match port {
            "router" => assert!(lost.is_empty(), "on the way to the router: {lost:?}"),
            // Where the host that listens gets no processor for a while, its interface is full for once. More than a few of these
            // would say that the router does not mind what it is told.
            _ => {
                let lost: u64 = lost.values().map(|count| count.as_u64().unwrap()).sum();
                assert!(lost < 100, "on the way to the host: {lost} frames");
            }
        }
        let received = shown["counters"]["received"].as_u64().unwrap();
        assert!(
            received < 200 * MEGABYTE / 1460,
            "{port}: segments passed whole: {received} frames"
        );
    }
}

/// Linux' TCP and ours over a cable that loses, repeats and delays: every byte both ways, and without many waits for a timer, which would take
/// longer than the programs wait.
#[test]
fn a_host_at_a_bad_cable_exchanges_all() {
    let test = "a_host_at_a_bad_cable_exchanges_all";
    if !hosts::enter(test, &["socket"]) {
        return;
    }
    if !std::path::Path::new("/dev/net/tun").exists() {
        println!("SKIPPED {test}: needs /dev/net/tun");
        return;
    }
    ip("link set lo up");
    let (inside, outside) = (Host::new("inside", 1), Host::here());
    let switch = Switch::start(
        "[[port]]\nname = \"cable\"\nlisten = \"FOLDER/cable\"\n\
         [[port]]\nname = \"router\"\n\
         [port.router]\naddress = \"10.97.0.254/24\"\n\
         forward = [\"tcp:127.0.0.2:5000:10.97.0.1:5000\"]\n",
    );
    let port = switch.path("cable");
    let mut cable = inside.python(BAD_CABLE, &[port.to_str().unwrap()]);
    assert_eq!(cable.line(), "ready");
    switch.until_up("cable", true);
    for (server, at, client, to) in [
        (&outside, "127.0.0.1", &inside, "10.97.0.254"),
        (&inside, "10.97.0.1", &outside, "127.0.0.2"),
    ] {
        let mut server = server.python(TCP_SERVER, &[at]);
        assert_eq!(server.line(), "listening");
        let mut client = client.python(TCP_CLIENT, &[to, &(8 * MEGABYTE).to_string()]);
        let sent = client.line();
        assert_eq!(server.line(), sent);
        eprintln!(
            "TCP through a router over a bad cable, to {to}: {}",
            client.line()
        );
    }
}
