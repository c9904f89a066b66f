//! One script of commands at all three back ends: the JSON has the same shape, and says the same where the same was asked for.

use std::process::{Command, Stdio};

use serde_json::{Value, json};

use super::Net;
use super::captures::echoes;
use super::host::{Namespace, OvsDaemons, enter, ip};

/// Two hosts, each at the far end of a veth pair whose near end is here.
struct Hosts([Namespace; 2]);

const MACS: [&str; 2] = ["02:00:00:00:00:01", "02:00:00:00:00:02"];

impl Hosts {
    /// They know each other's addresses: nothing is sent but what the test sends.
    fn new() -> Self {
        let host = |number: usize, near: &str| {
            let host = Namespace::new();
            ip(&format!(
                "link add {near} type veth peer name eth0 netns {}",
                host.path()
            ));
            ip(&format!("link set {near} addrgenmode none up"));
            host.ip(&format!(
                "link set eth0 address {} addrgenmode none up",
                MACS[number]
            ));
            host.ip(&format!("address add 10.9.0.{}/24 dev eth0", number + 1));
            let other = 1 - number;
            host.ip(&format!(
                "neighbour add 10.9.0.{} lladdr {} dev eth0 nud permanent",
                other + 1,
                MACS[other]
            ));
            host
        };
        Self([host(0, "v1"), host(1, "v2")])
    }

    /// How many of three pings from the first to the second are answered, each within so many seconds.
    fn ping(&self, seconds: u32) -> String {
        let command = || {
            let output = Command::new("ping")
                .args(["-c", "3", "-i", "0.2", "-W", &seconds.to_string(), "10.9.0.2"])
                .output();
            String::from_utf8(output.unwrap().stdout).unwrap()
        };
        let said = self.0[0].within(command);
        let received = said.split(", ").find(|part| part.ends_with(" received"));
        received.unwrap_or(&said).to_owned()
    }
}

impl Drop for Hosts {
    fn drop(&mut self) {
        for near in ["v1", "v2"] {
            let _ = Command::new("ip").args(["link", "delete", near]).output();
        }
    }
}

/// Whether both have the same members, as deep as both have any. Maps with names of reasons are left alone.
fn check_same(path: &str, one: &Value, other: &Value) {
    match (one, other) {
        (Value::Object(a), Value::Object(b)) if !path.ends_with("dropped") => {
            let keys = |map: &serde_json::Map<String, Value>| map.keys().cloned().collect::<Vec<_>>();
            assert_eq!(keys(a), keys(b), "{path}");
            for (key, value) in a {
                check_same(&format!("{path}.{key}"), value, &b[key]);
            }
        }
        (Value::Array(a), Value::Array(b)) => {
            for (a, b) in a.iter().zip(b) {
                check_same(&format!("{path}[]"), a, b);
            }
        }
        (Value::Null, _) | (_, Value::Null) => {}
        _ => assert_eq!(
            std::mem::discriminant(one),
            std::mem::discriminant(other),
            "{path}: {one} and {other}"
        ),
    }
}

fn port<'a>(ports: &'a Value, name: &str) -> &'a Value {
    let mut all = ports.as_array().unwrap().iter();
    all.find(|port| port["name"] == name).unwrap()
}

/// Does the script with a network of that kind, and gives what was shown, by command.
fn script(test: &str, net: &Net, kind: &str) -> Vec<(&'static str, Value)> {
    let hosts = Hosts::new();
    let datapath = if kind == "ovs" { "--datapath netdev" } else { "" };
    net.run(&format!(
        "create net1 --kind {kind} {datapath} --stp stp --priority 4096 --hello 1 --max-age 6 --forward-delay 4 --ageing 60"
    ));
    net.run("port add net1 v1 path-cost=77");
    net.run("port add net1 v2");
    net.run("port set net1 v2 isolated=on path-cost=88");
    net.run("fdb net1 add 02:00:00:00:00:09 --port v1");
    net.until("both ports forward", "port list net1", |ports| {
        ports
            .as_array()
            .unwrap()
            .iter()
            .filter(|port| port["forwarding"] == true)
            .count()
            == 2
    });
    assert_eq!(hosts.ping(60), "3 received", "{kind}");

    let mut shown = Vec::new();
    // Traffic while the rates are taken.
    let mut ping = hosts.0[0].within(|| {
        let mut command = Command::new("ping");
        command
            .args(["-i", "0.2", "-w", "600", "10.9.0.2"])
            .stdout(Stdio::null())
            .spawn()
            .unwrap()
    });
    let view = net.until("traffic has a rate", "show net1", |view| {
        ["v1", "v2"]
            .iter()
            .all(|name| port(&view["ports"], name)["rates"]["received"].as_f64() > Some(0.0))
    });
    let drawn = net.run("show net1");
    ping.kill().unwrap();
    ping.wait().unwrap();
    for part in [
        &format!("net1 ({kind}), up, 2 ports"),
        "the root, STP",
        "├─ v1",
        "└─ v2",
        "designated",
        "bit/s",
    ] {
        assert!(drawn.contains(part), "{kind}, {part}: {drawn}");
    }
    shown.push(("show", view));
    for (name, line) in [
        ("list", "list"),
        ("port list", "port list net1"),
        ("stp", "stp net1"),
        ("counters", "counters net1"),
        ("vlan", "vlan net1"),
    ] {
        shown.push((name, net.json(line)));
    }
    let counted = &net.json("counters net1 v1")[0]["counters"];
    assert!(
        counted["received"].as_u64() >= Some(6) && counted["sent-bytes"].as_u64() > Some(300),
        "{kind}: {counted}"
    );
    assert_eq!(net.fails("counters net1 c", 2).matches("no port").count(), 1);

    stations(net, kind, &mut shown);
    capture(net, kind, &hosts);
    net.run("stp net1 set --priority 8192");
    let stp = net.until("the other priority", "stp net1", |tree| {
        tree["stp"]["root"]
            .as_str()
            .is_some_and(|root| root.starts_with("2000."))
    });
    assert_eq!(stp["stp"]["priority"], 8192);
    let filters = kind != "bridge"
        || net
            .command("set net1 --vlan-filtering on")
            .output()
            .unwrap()
            .status
            .success();
    match filters {
        true => vlans(net, kind, &hosts, &mut shown),
        false => eprintln!("SKIPPED {test}, VLANs of the kernel's bridge: this kernel's has none"),
    }
    net.run("port remove net1 v1");
    assert_eq!(net.json("port list net1").as_array().unwrap().len(), 1);
    net.fails("port remove net1 v1", 2);
    net.run("delete net1");
    assert_eq!(net.json("list"), json!([]), "{kind}");
    shown
}

fn stations(net: &Net, kind: &str, shown: &mut Vec<(&'static str, Value)>) {
    let listed = |line: &str| -> Vec<(String, String, String)> {
        let answer = net.json(line);
        let all = answer["stations"].as_array().unwrap().iter();
        let text = |value: &Value| value.as_str().unwrap().to_owned();
        all.filter(|station| station["source"] != "own")
            .map(|station| {
                (
                    text(&station["mac"]),
                    text(&station["port"]),
                    text(&station["source"]),
                )
            })
            .collect()
    };
    let entry = |mac: &str, port: &str, source: &str| (mac.to_owned(), port.to_owned(), source.to_owned());
    let own = entry("02:00:00:00:00:09", "v1", "static");
    let mut all = listed("fdb net1");
    all.sort();
    assert_eq!(
        all,
        [
            entry(MACS[0], "v1", "learned"),
            entry(MACS[1], "v2", "learned"),
            own.clone()
        ],
        "{kind}"
    );
    assert_eq!(
        listed("fdb net1 --port v2"),
        [entry(MACS[1], "v2", "learned")],
        "{kind}"
    );
    assert_eq!(listed("fdb net1 --vlan 4000"), [], "{kind}");
    let mut answer = net.json("fdb net1 --port v1");
    answer["stations"]
        .as_array_mut()
        .unwrap()
        .retain(|station| station["source"] != "own");
    shown.push(("fdb", answer));
    net.run("fdb net1 flush --port v2");
    assert_eq!(listed("fdb net1 --port v2"), [], "{kind}");
    net.run("fdb net1 flush");
    assert_eq!(listed("fdb net1"), [own], "{kind}");
    net.run("fdb net1 remove 02:00:00:00:00:09");
    assert_eq!(listed("fdb net1"), [], "{kind}");
    net.fails("fdb net1 remove 02:00:00:00:00:09", 2);
}

/// Three pings pass the port: the questions come in, the answers go out.
fn capture(net: &Net, kind: &str, hosts: &Hosts) {
    let file = net.runtime.path().join("a.pcapng");
    let mut child = net.capture(&format!("capture net1 v1 -w {}", file.display()));
    assert_eq!(hosts.ping(60), "3 received", "{kind}");
    let pid = rustix::process::Pid::from_child(&child);
    rustix::process::kill_process(pid, rustix::process::Signal::INT).unwrap();
    assert!(child.wait().unwrap().success());
    assert_eq!(echoes(&file), [3, 3], "{kind}");
    assert!(
        net.fails("capture net1 c -w /dev/null", 2)
            .contains("there is no port \"c\""),
        "{kind}"
    );
}

fn vlans(net: &Net, kind: &str, hosts: &Hosts, shown: &mut Vec<(&'static str, Value)>) {
    let of = |name: &str| port(&net.json("vlan net1")["ports"], name)["vlans"].clone();
    let access = |vlan: u16| json!({ "pvid": vlan, "tagged": "", "untagged": vlan.to_string() });
    net.run("vlan net1 set v1 --vlan 10");
    net.run("vlan net1 set v2 --vlan 20");
    assert_eq!((of("v1"), of("v2")), (access(10), access(20)), "{kind}");
    assert_eq!(hosts.ping(1), "0 received", "{kind}");
    net.run("vlan net1 set v2 --vlan 10");
    assert_eq!(hosts.ping(60), "3 received", "{kind}");
    net.run("vlan net1 add v2 30-32");
    assert_eq!(
        of("v2"),
        json!({ "pvid": 10, "tagged": "30-32", "untagged": "10" }),
        "{kind}"
    );
    net.run("vlan net1 remove v2 31");
    assert_eq!(
        of("v2"),
        json!({ "pvid": 10, "tagged": "30,32", "untagged": "10" }),
        "{kind}"
    );
    net.fails("vlan net1 remove v2 31", 2);
    net.run("vlan net1 remove v2 10");
    assert_eq!(
        of("v2"),
        json!({ "pvid": null, "tagged": "30,32", "untagged": "" }),
        "{kind}"
    );
    net.run("vlan net1 add v2 40 --untagged --pvid");
    assert_eq!(
        of("v2"),
        json!({ "pvid": 40, "tagged": "30,32", "untagged": "40" }),
        "{kind}"
    );
    let stations = net.json("fdb net1 --vlan 10");
    assert!(
        !stations["stations"].as_array().unwrap().is_empty(),
        "{kind}: {stations}"
    );
    net.run("fdb net1 flush --vlan 10");
    let of_ten = |answer: &Value| {
        let all = answer["stations"].as_array().unwrap().iter();
        all.filter(|station| station["source"] == "learned").count()
    };
    assert_eq!(of_ten(&net.json("fdb net1 --vlan 10")), 0, "{kind}");
    net.run("port set net1 v2 --trunk 1,10-12 --native 10");
    assert_eq!(
        of("v2"),
        json!({ "pvid": 10, "tagged": "1,11-12", "untagged": "10" }),
        "{kind}"
    );
    assert_eq!(hosts.ping(60), "3 received", "{kind}");
    shown.push(("vlan", net.json("vlan net1")));
}

#[test]
fn one_script_at_all_back_ends_is_told_the_same() {
    const NAME: &str = "one_script_at_all_back_ends_is_told_the_same";
    let daemons = OvsDaemons::start(NAME);
    if daemons.is_none() && !enter(NAME) {
        return;
    }
    let net = match &daemons {
        Some(daemons) => Net::with_ovs(daemons.run()),
        None => Net::new(),
    };
    let of_switch = script(NAME, &net, "switch");
    let mut others = vec!["bridge"];
    others.extend(daemons.as_ref().map(|_| "ovs"));
    for kind in others {
        let of_other = script(NAME, &net, kind);
        for (command, other) in &of_other {
            let (_, ours) = of_switch.iter().find(|(name, _)| name == command).unwrap();
            check_same(command, ours, other);
        }
        for (command, path) in EQUAL {
            let value = |shown: &[(&str, Value)]| {
                let shown = shown.iter().find(|(name, _)| *name == command).unwrap();
                shown.1.pointer(path).cloned()
            };
            let ours = value(&of_switch);
            assert!(ours.is_some(), "{command}{path}");
            assert_eq!(ours, value(&of_other), "{kind}: {command}{path}");
        }
    }
}

/// What has to be the same, by command and place. The ageing time is not: the kernel shows the short one while it tells of a change of the
/// topology.
const EQUAL: [(&str, &str); 34] = [
    ("list", "/0/name"),
    ("list", "/0/up"),
    ("list", "/0/ports"),
    ("list", "/0/protocol"),
    ("list", "/0/forward"),
    ("show", "/name"),
    ("show", "/up"),
    ("show", "/stations"),
    ("show", "/stp/protocol"),
    ("show", "/stp/priority"),
    ("show", "/stp/is-root"),
    ("show", "/stp/root-port"),
    ("show", "/stp/max-age"),
    ("show", "/stp/hello"),
    ("show", "/stp/forward-delay"),
    ("show", "/ports/0/name"),
    ("show", "/ports/0/place"),
    ("show", "/ports/0/up"),
    ("show", "/ports/0/forwarding"),
    ("show", "/ports/0/why-down"),
    ("show", "/ports/0/mtu"),
    ("show", "/ports/0/flags"),
    ("show", "/ports/1/flags"),
    ("show", "/ports/0/stp/role"),
    ("show", "/ports/0/stp/state"),
    ("show", "/ports/0/stp/path-cost"),
    ("show", "/ports/1/stp/path-cost"),
    ("stp", "/stp/protocol"),
    ("stp", "/ports/1/stp/state"),
    ("counters", "/1/name"),
    ("fdb", "/left-out"),
    ("fdb", "/stations/0/mac"),
    ("fdb", "/stations/0/port"),
    ("fdb", "/stations/1/source"),
];
