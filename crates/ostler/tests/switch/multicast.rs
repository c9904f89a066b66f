//! Multicast between Linux hosts: their kernels join and leave, the switch overhears.

use crate::support::hosts::{self, Host, Program};
use crate::support::switch::Switch;

/// Joins and leaves groups as it is told, and says which numbers it heard.
const RECEIVER: &str = "
group, port = sys.argv[1], 5007
six = ':' in group
sock = socket.socket(socket.AF_INET6 if six else socket.AF_INET, socket.SOCK_DGRAM)
sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
sock.bind(('::' if six else '', port))
sock.setblocking(False)
index = socket.if_nametoindex('eth0')
if six: wish = socket.inet_pton(socket.AF_INET6, group) + struct.pack('@I', index)
else: wish = socket.inet_aton(group) + struct.pack('@II', 0, index)
level = socket.IPPROTO_IPV6 if six else socket.IPPROTO_IP
join, leave = (20, 21) if six else (35, 36)
say('ready')
for line in sys.stdin:
    what = line.strip()
    if what == 'join': sock.setsockopt(level, join, wish)
    if what == 'leave': sock.setsockopt(level, leave, wish)
    say(what)
";

/// Counts the frames to a group that reach the interface, whoever wants them.
const COUNTER: &str = "
sock = socket.socket(socket.AF_PACKET, socket.SOCK_RAW, socket.htons(3))
sock.bind(('eth0', 3))
sock.setsockopt(263, 1, struct.pack('iHH8s', socket.if_nametoindex('eth0'), 1, 0, b''))
sock.settimeout(20)
say('ready')
for line in sys.stdin:
    last, seen = line.strip().encode(), []
    while True:
        frame = sock.recv(2000)
        at = frame.find(b'number:')
        if at < 0: continue
        text = frame[at + 7:frame.find(b';', at)]
        seen.append(text.decode())
        if text == last: break
    say(' '.join(seen))
";

const SENDER: &str = "
group = sys.argv[1]
six = ':' in group
sock = socket.socket(socket.AF_INET6 if six else socket.AF_INET, socket.SOCK_DGRAM)
index = socket.if_nametoindex('eth0')
if six:
    sock.setsockopt(socket.IPPROTO_IPV6, 17, index)
    sock.setsockopt(socket.IPPROTO_IPV6, 18, 4)
else:
    sock.setsockopt(socket.IPPROTO_IP, socket.IP_MULTICAST_IF, struct.pack('@4sii', b'', 0, index)[:12])
    sock.setsockopt(socket.IPPROTO_IP, socket.IP_MULTICAST_TTL, 4)
every = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
every.setsockopt(socket.SOL_SOCKET, socket.SO_BROADCAST, 1)
say('ready')
for line in sys.stdin:
    what, _, text = line.strip().partition(' ')
    message = ('number:' + text + ';').encode()
    if what == 'group': sock.sendto(message, (group, 5007))
    else: every.sendto(message, ('10.98.0.255', 5008))
    say('sent')
";

fn told(program: &mut Program, line: &str) -> String {
    program.tell(line);
    program.line()
}

fn started(host: &Host, program: &str, group: &str) -> Program {
    let mut program = host.python(program, &[group]);
    assert_eq!(program.line(), "ready");
    program
}

/// The numbers that a counter saw, sent to the group in between; a broadcast marks the end.
fn heard(sender: &mut Program, counters: &mut [Program], round: &mut u32) -> Vec<Vec<String>> {
    *round += 1;
    for part in 0..3 {
        assert_eq!(told(sender, &format!("group {round}.{part}")), "sent");
    }
    assert_eq!(told(sender, &format!("all end{round}")), "sent");
    let seen = counters.iter_mut().map(|counter| {
        let all = told(counter, &format!("end{round}"));
        all.split(' ')
            .filter(|text| !text.starts_with("end"))
            .map(str::to_owned)
            .collect()
    });
    seen.collect()
}

fn groups(switch: &Switch, group: &str) -> Vec<String> {
    let shown = switch.net(&["groups", "lan"]);
    let members = shown["members"].as_array().unwrap().iter();
    let mut ports: Vec<String> = members
        .filter(|member| member["group"] == group)
        .map(|member| member["port"].as_str().unwrap().to_owned())
        .collect();
    ports.sort();
    ports
}

fn play(group: &str, version: Option<&str>) {
    let hosts = [("source", 1), ("a", 2), ("b", 3), ("c", 4)].map(|(name, n)| Host::new(name, n));
    if let Some(version) = version {
        for host in &hosts {
            host.run(&format!("sysctl -q -w {version}"));
        }
    }
    let port = |host: &Host| format!("[[port]]\nname = \"{0}\"\npacket = \"{0}\"\n", host.name);
    let ports: String = hosts.iter().map(port).collect();
    let switch = Switch::start(&format!(
        "[snooping]\nquerier = true\naddress = \"10.98.0.250\"\nquery-interval = 10\nquery-response = 1\n{ports}"
    ));
    for host in &hosts {
        switch.until_up(host.name, true);
    }
    let [source, a, b, c] = &hosts;
    let mut sender = started(source, SENDER, group);
    let mut receivers = [a, b].map(|host| started(host, RECEIVER, group));
    let mut counters = [a, b, c].map(|host| started(host, COUNTER, group));
    let mut round = 0;
    // The switch has asked, and has been answered: silence means that nobody wants the group.
    let quiet = |sender: &mut Program, counters: &mut [Program], round: &mut u32| loop {
        if heard(sender, counters, round).iter().all(Vec::is_empty) {
            break;
        }
        std::thread::sleep(std::time::Duration::from_millis(100));
    };
    quiet(&mut sender, &mut counters, &mut round);
    assert_eq!(told(&mut receivers[0], "join"), "join");
    switch.until("a is a member", |switch| groups(switch, group) == ["a"]);
    let [of_a, of_b, of_c] = &heard(&mut sender, &mut counters, &mut round)[..] else {
        panic!()
    };
    assert_eq!(
        (of_a.len(), of_b.len(), of_c.len()),
        (3, 0, 0),
        "{group} {version:?}"
    );
    assert_eq!(told(&mut receivers[1], "join"), "join");
    switch.until("both are members", |switch| groups(switch, group) == ["a", "b"]);
    let [of_a, of_b, of_c] = &heard(&mut sender, &mut counters, &mut round)[..] else {
        panic!()
    };
    assert_eq!(
        (of_a.len(), of_b.len(), of_c.len()),
        (3, 3, 0),
        "{group} {version:?}"
    );
    assert_eq!(told(&mut receivers[0], "leave"), "leave");
    switch.until("b is left", |switch| groups(switch, group) == ["b"]);
    let [of_a, of_b, of_c] = &heard(&mut sender, &mut counters, &mut round)[..] else {
        panic!()
    };
    assert_eq!(
        (of_a.len(), of_b.len(), of_c.len()),
        (0, 3, 0),
        "{group} {version:?}"
    );
    let queriers = switch.net(&["groups", "lan", "--vlan", "1"])["queriers"].clone();
    assert!(
        queriers
            .as_array()
            .unwrap()
            .iter()
            .all(|querier| querier["own"] == true),
        "{queriers:#}"
    );
    assert_eq!(told(&mut receivers[1], "leave"), "leave");
    switch.until("nobody is left", |switch| groups(switch, group).is_empty());
    quiet(&mut sender, &mut counters, &mut round);
}

/// Each version in which Linux speaks: the stream reaches members only, from the first report to the last leave.
#[test]
fn a_stream_reaches_members_only() {
    if !hosts::enter("a_stream_reaches_members_only", &["socket"]) {
        return;
    }
    play("239.98.1.1", None);
    play("239.98.1.2", Some("net.ipv4.conf.eth0.force_igmp_version=2"));
    play("ff15::98:1", None);
    play("ff15::98:2", Some("net.ipv6.conf.eth0.force_mld_version=1"));
}
