//! Attacks from a port, made with scapy, and hosts that look for what should not reach them.

use crate::support::hosts::{self, Host, Program};
use crate::support::switch::Switch;

/// Sends what it is told to, as scapy's expressions, and says which frames with a mark it received.
const AGENT: &str = "
import logging, threading, random
logging.getLogger('scapy.runtime').setLevel(logging.ERROR)
from scapy.all import *
conf.verb = 0
conf.iface = 'eth0'
me = get_if_hwaddr('eth0')
seen, news = [], threading.Condition()
def note(packet):
    data = raw(packet)
    if data[6:12] != mac2str(me):
        with news:
            seen.append(data)
            news.notify_all()
sniffer = AsyncSniffer(iface='eth0', prn=note, store=False)
sniffer.start()
while not sniffer.running: time.sleep(0.01)
time.sleep(0.3)
out = conf.L2socket(iface='eth0')
def mark(text): return Raw(('mark:' + text + ':').encode().ljust(60, b'.'))
def marks():
    found = []
    for data in seen:
        start = data.find(b'mark:')
        if start >= 0:
            text = data[start + 5:data.find(b':', start + 5)].decode()
            tags = []
            at = 12
            while data[at:at + 2] in (b'\\x81\\x00', b'\\x88\\xa8'):
                tags.append(str(struct.unpack('>H', data[at + 2:at + 4])[0] & 0xfff))
                at += 4
            found.append(text + ''.join('/' + tag for tag in tags))
    return found
say('ready')
for line in sys.stdin:
    what, _, rest = line.strip().partition(' ')
    if what == 'send':
        for packet in eval(rest): out.send(packet)
        say('sent')
    elif what == 'flood':
        raw_out = socket.socket(socket.AF_PACKET, socket.SOCK_RAW)
        raw_out.bind(('eth0', 0))
        # To itself, so that the frames are learned from and go nowhere.
        for n in range(int(rest)):
            raw_out.send(mac2str(me) + bytes([2, 0xee]) + struct.pack('>I', n) + b'\\x88\\xb5' + bytes(46))
        say('sent')
    elif what == 'until':
        with news:
            arrived = news.wait_for(lambda: any(text.partition('/')[0] == rest for text in marks()), 30)
            say(' '.join(marks()) if arrived else 'nothing')
            seen.clear()
sys.exit(0)
";

/// The agent of a host.
struct Agent(Program);

impl Agent {
    fn start(host: &Host) -> Self {
        let mut program = host.python(AGENT, &[]);
        assert_eq!(program.line(), "ready");
        Self(program)
    }

    /// Sends a list of packets.
    fn send(&mut self, packets: &str) {
        self.0.tell(&format!("send {packets}"));
        assert_eq!(self.0.line(), "sent", "{packets}");
    }

    /// The marks of all frames that came until that mark, with the VLANs of their tags.
    fn until(&mut self, mark: &str) -> Vec<String> {
        self.0.tell(&format!("until {mark}"));
        self.0.line().split(' ').map(str::to_owned).collect()
    }
}

fn port(name: &str, more: &str) -> String {
    format!("[[port]]\nname = \"{name}\"\npacket = \"{name}\"\n{more}\n")
}

fn dropped(switch: &Switch, port: &str, reason: &str) -> u64 {
    let port = switch.port(port).unwrap();
    port["counters"]["dropped"][reason].as_u64().unwrap_or(0)
}

const TO_ALL: &str = "Ether(dst='ff:ff:ff:ff:ff:ff')";

/// Tags of every kind from an access port and from a trunk: nothing is seen in another VLAN, and nothing with a tag inside.
#[test]
fn no_tag_leads_into_another_vlan() {
    if !hosts::enter("no_tag_leads_into_another_vlan", &["scapy.all"]) {
        return;
    }
    let hosts = [("evil", 1), ("ten", 2), ("twenty", 3), ("trunk", 4)].map(|(name, n)| Host::new(name, n));
    let switch = Switch::start(
        &(port("evil", "vlan = 10")
            + &port("ten", "vlan = 10")
            + &port("twenty", "vlan = 20")
            + &port("trunk", "trunk = \"10,20\"\nnative = 10")),
    );
    for host in &hosts {
        switch.until_up(host.name, true);
    }
    let [mut evil, mut ten, mut twenty, mut trunk] = hosts.each_ref().map(Agent::start);
    let tagged = |tags: &str, mark: &str| format!("{TO_ALL}/{tags}/mark('{mark}')");
    let attacks = [
        ("Dot1Q(vlan=20)", "own20"),
        ("Dot1Q(vlan=10)", "own10"),
        ("Dot1Q(vlan=4095)", "own4095"),
        ("Dot1Q(vlan=10)/Dot1Q(vlan=20)", "double1020"),
        ("Dot1Q(vlan=0)/Dot1Q(vlan=20)", "double0020"),
        ("Dot1Q(vlan=20)/Dot1Q(vlan=10)", "double2010"),
        ("Dot1AD(vlan=20)", "service20"),
        ("Dot1AD(vlan=10)/Dot1Q(vlan=20)", "service1020"),
        ("Dot1Q(vlan=0)/Dot1AD(vlan=20)", "inner20"),
        ("Dot1Q(vlan=10)/Dot1Q(vlan=20)/Dot1Q(vlan=20)", "triple"),
    ];
    let frames: Vec<String> = attacks.iter().map(|(tags, mark)| tagged(tags, mark)).collect();
    evil.send(&format!("[{}]", frames.join(", ")));
    evil.send(&format!(
        "[{TO_ALL}/Dot1Q(vlan=0, prio=5)/mark('priority'), {TO_ALL}/mark('plain')]"
    ));
    // Ends that each may see: one of its own VLAN, behind all that could have come before.
    trunk.send(&format!(
        "[{TO_ALL}/Dot1Q(vlan=20)/mark('end20'), {TO_ALL}/mark('end10')]"
    ));
    assert_eq!(ten.until("end10"), ["priority", "plain", "end10"]);
    assert_eq!(twenty.until("end20"), ["end20"]);
    assert_eq!(trunk.until("plain"), ["priority", "plain"]);
    assert_eq!(
        dropped(&switch, "evil", "double-tag")
            + dropped(&switch, "evil", "not-admitted")
            + dropped(&switch, "evil", "reserved-vlan"),
        attacks.len() as u64
    );

    // From the trunk: the native VLAN is where a second tag would lead elsewhere once the first one is taken off.
    let attacks = [
        ("Dot1Q(vlan=10)/Dot1Q(vlan=20)", "hop1020"),
        ("Dot1Q(vlan=20)/Dot1Q(vlan=10)", "hop2010"),
        ("Dot1Q(vlan=30)", "own30"),
        ("Dot1Q(vlan=4095)", "own4095"),
        ("Dot1Q(vlan=0)/Dot1Q(vlan=20)", "hop0020"),
    ];
    let frames: Vec<String> = attacks.iter().map(|(tags, mark)| tagged(tags, mark)).collect();
    trunk.send(&format!("[{}]", frames.join(", ")));
    trunk.send(&format!(
        "[{TO_ALL}/Dot1Q(vlan=20, prio=3)/mark('end20'), {TO_ALL}/Dot1Q(vlan=10)/mark('end10')]"
    ));
    assert_eq!(ten.until("end10"), ["end10"]);
    assert_eq!(twenty.until("end20"), ["end20"]);
    // Both VLANs arrive at the trunk, the native one without a tag, the other with its own.
    ten.send(&format!("[{TO_ALL}/mark('from10')]"));
    assert_eq!(trunk.until("from10"), ["from10"]);
    twenty.send(&format!("[{TO_ALL}/mark('from20')]"));
    assert_eq!(trunk.until("from20"), ["from20/20"]);
}

/// A host that pretends to be another: by MAC, ARP, IPv4, IPv6, as a DHCP server, as a router. What is its own passes.
#[test]
fn who_pretends_to_be_another_is_not_heard() {
    if !hosts::enter("who_pretends_to_be_another_is_not_heard", &["scapy.all"]) {
        return;
    }
    let hosts = [("evil", 1), ("good", 2)].map(|(name, n)| Host::new(name, n));
    let switch = Switch::start(
        &(port(
            "evil",
            "mac = \"02:00:00:00:00:01\"\naddresses = [\"10.98.0.1\", \"fd98::1\"]\ndhcp-client-only = true\nra-guard = true\nmulticast-router = \"never\"",
        ) + &port("good", "")),
    );
    for host in &hosts {
        switch.until_up(host.name, true);
    }
    let [mut evil, mut good] = hosts.each_ref().map(Agent::start);
    let own = "Ether(src='02:00:00:00:00:01', dst='ff:ff:ff:ff:ff:ff')";
    let attacks = [
        "Ether(src='02:00:00:00:00:02', dst='ff:ff:ff:ff:ff:ff')/mark('mac')".to_owned(),
        "Ether(src='01:00:5e:00:00:01', dst='ff:ff:ff:ff:ff:ff')/mark('group')".to_owned(),
        "Ether(src='00:00:00:00:00:00', dst='ff:ff:ff:ff:ff:ff')/mark('nobody')".to_owned(),
        format!("{own}/ARP(op=2, hwsrc='02:00:00:00:00:01', psrc='10.98.0.2')/mark('arp-ip')"),
        format!("{own}/ARP(op=2, hwsrc='02:00:00:00:00:02', psrc='10.98.0.1')/mark('arp-mac')"),
        format!(
            "{own}/ARP(op=1, hwsrc='02:00:00:00:00:01', psrc='10.98.0.254', pdst='10.98.0.254')/mark('gratuitous')"
        ),
        format!("{own}/IP(src='10.98.0.2', dst='10.98.0.255')/UDP(sport=9, dport=9)/mark('ip')"),
        format!("{own}/IP(src='10.98.0.1', dst='10.98.0.255')/UDP(sport=67, dport=68)/mark('dhcp')"),
        format!("{own}/IPv6(src='fd98::2', dst='ff02::1')/UDP(sport=9, dport=9)/mark('ip6')"),
        format!("{own}/IPv6(src='fd98::1', dst='ff02::1')/ICMPv6ND_NA(tgt='fd98::2', S=0)/mark('na')"),
        format!("{own}/IPv6(src='fd98::1', dst='ff02::1')/ICMPv6ND_RA()/mark('ra')"),
        format!(
            "{own}/IPv6(src='fd98::1', dst='ff02::1')/IPv6ExtHdrDestOpt()/ICMPv6ND_RA()/mark('ra-hidden')"
        ),
        format!(
            "{own}/IPv6(src='fd98::1', dst='ff02::1')/ICMPv6ND_Redirect(tgt='fd98::2', dst='fd98::3')/mark('redirect')"
        ),
        format!("{own}/IPv6(src='fd98::1', dst='ff02::1')/UDP(sport=547, dport=546)/mark('dhcp6')"),
        format!(
            "{own}/IPv6(src='fd98::1', dst='ff02::1')/IPv6ExtHdrFragment(m=1)/ICMPv6ND_RA()/mark('ra-fragment')"
        ),
        format!("{own}/Dot1Q(vlan=0)/Dot1Q(vlan=1)/IP(src='10.98.0.2', dst='10.98.0.255')/mark('tagged')"),
    ];
    evil.send(&format!("[{}]", attacks.join(", ")));
    let honest = [
        format!("{own}/IP(src='10.98.0.1', dst='10.98.0.255')/UDP(sport=9, dport=9)/mark('honest-ip')"),
        format!("{own}/ARP(op=2, hwsrc='02:00:00:00:00:01', psrc='10.98.0.1')/mark('honest-arp')"),
        format!("{own}/IPv6(src='fd98::1', dst='ff02::1')/UDP(sport=9, dport=9)/mark('honest-ip6')"),
        format!("{own}/IP(src='0.0.0.0', dst='255.255.255.255')/UDP(sport=68, dport=67)/mark('honest-dhcp')"),
        format!("{own}/mark('end')"),
    ];
    evil.send(&format!("[{}]", honest.join(", ")));
    assert_eq!(
        good.until("end"),
        ["honest-ip", "honest-arp", "honest-ip6", "honest-dhcp", "end"]
    );
    let counted: u64 = ["spoofed-mac", "spoofed-ip", "rogue", "double-tag", "bad-source"]
        .iter()
        .map(|reason| dropped(&switch, "evil", reason))
        .sum();
    assert!(counted >= attacks.len() as u64, "{counted}");
    assert!(hosts[0].reaches("10.98.0.2") && hosts[1].reaches("10.98.0.1"));
}

/// A flood of addresses does not turn the switch into a hub for others, whether the port has a limit or not.
#[test]
fn a_flood_of_addresses_overhears_nobody() {
    if !hosts::enter("a_flood_of_addresses_overhears_nobody", &["scapy.all"]) {
        return;
    }
    let hosts = [("evil", 1), ("a", 2), ("b", 3)].map(|(name, n)| Host::new(name, n));
    for limit in ["", "mac-limit = 50"] {
        let config =
            String::from("fdb-entries = 256\n") + &port("evil", limit) + &port("a", "") + &port("b", "");
        let switch = Switch::start(&config);
        for host in &hosts {
            switch.until_up(host.name, true);
        }
        let [mut evil, mut a, mut b] = hosts.each_ref().map(Agent::start);
        a.send(&format!("[{TO_ALL}/mark('here')]"));
        b.send(&format!("[{TO_ALL}/mark('here too')]"));
        evil.until("here too");
        switch.net(&["fdb", "lan", "add", "02:00:00:00:00:01", "--port", "evil"]);
        evil.0.tell("flood 20000");
        assert_eq!(evil.0.line(), "sent");
        for round in 0..5 {
            a.send(&format!("[Ether(dst='02:00:00:00:00:03')/mark('secret{round}')]"));
            b.send(&format!("[Ether(dst='02:00:00:00:00:02')/mark('answer{round}')]"));
            for (host, mark) in [
                (&mut b, format!("secret{round}")),
                (&mut a, format!("answer{round}")),
            ] {
                let heard = host.until(&mark);
                let shown = || {
                    switch.net(&["fdb", "lan", "--port", "a"]).to_string()
                        + &switch.net(&["counters", "lan"]).to_string()
                };
                assert!(heard.contains(&mark), "{limit}: {heard:?} {}", shown());
            }
        }
        a.send(&format!("[{TO_ALL}/mark('end')]"));
        assert_eq!(evil.until("end"), ["end"], "{limit}");
        let stations = switch.net(&["show", "lan", "--seconds", "0"])["stations"]
            .as_u64()
            .unwrap();
        assert!(stations <= 256, "{stations}");
    }
}

/// Frames to the addresses that bridges keep to themselves; a BPDU at a port with a guard shuts that port and no other.
#[test]
fn reserved_addresses_and_bpdus_of_a_guest_go_nowhere() {
    if !hosts::enter(
        "reserved_addresses_and_bpdus_of_a_guest_go_nowhere",
        &["scapy.all"],
    ) {
        return;
    }
    let hosts = [("evil", 1), ("a", 2), ("b", 3)].map(|(name, n)| Host::new(name, n));
    let bpdu =
        "Dot3(src=me, dst='01:80:c2:00:00:00')/LLC(dsap=0x42, ssap=0x42, ctrl=3)/STP(rootid=0, bridgeid=0)";
    for stp in ["", "[stp]\n"] {
        let switch = Switch::start(
            &(stp.to_owned()
                + &port("evil", "edge = \"on\"\nbpdu-guard = true")
                + &port("a", "edge = \"on\"")
                + &port("b", "edge = \"on\"")),
        );
        for host in &hosts {
            switch.until(host.name, |switch| {
                switch.port(host.name).unwrap()["forwarding"] == true
            });
        }
        let [mut evil, mut a, mut b] = hosts.each_ref().map(Agent::start);
        let frames: Vec<String> = (1..16)
            .map(|x| format!("Ether(dst='01:80:c2:00:00:{x:02x}')/mark('reserved{x}')"))
            .collect();
        evil.send(&format!("[{}]", frames.join(", ")));
        evil.send("[Ether(dst='01:80:c2:00:00:10')/mark('not reserved')]");
        evil.send(&format!("[{TO_ALL}/mark('end')]"));
        assert_eq!(a.until("end"), ["not", "reserved", "end"]);
        assert_eq!(dropped(&switch, "evil", "reserved"), 15);
        evil.send(&format!("[{bpdu}, {bpdu}/mark('behind')]"));
        switch.until("the port shut", |switch| {
            switch.port("evil").unwrap()["forwarding"] == false
        });
        evil.send(&format!("[{TO_ALL}/mark('shut')]"));
        b.send(&format!("[{TO_ALL}/mark('end')]"));
        assert_eq!(a.until("end"), ["end"]);
        assert_ne!(
            switch.net(&["show", "lan", "--seconds", "0"])["stp"]["is-root"],
            false
        );
        switch.net(&["port", "clear-guard", "lan", "evil"]);
        switch.until("the port open", |switch| {
            switch.port("evil").unwrap()["forwarding"] == true
        });
        evil.send(&format!("[{TO_ALL}/mark('open')]"));
        assert_eq!(a.until("open"), ["open"]);
    }
}
