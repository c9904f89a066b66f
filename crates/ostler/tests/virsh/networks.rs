//! Networks: defined, started, changed, watched, and found again after the daemon was killed.

use std::process::Command;

use rustix::thread::UnshareFlags;
use serde_json::Value;

use crate::console::Console;
use crate::setup::{Host, LIMIT, Listener, field, linux, wait_until};
use crate::support::{Guest, OSTLER};

/// A network with a switch, a router and one range.
pub fn lan(name: &str, bridge: &str, inside: &str) -> String {
    format!(
        "<network>
  <name>{name}</name>
  <bridge name='{bridge}'/>
  <domain name='{name}.test'/>
  {inside}
  <ip address='10.77.0.1' netmask='255.255.255.0'>
    <dhcp>
      <range start='10.77.0.50' end='10.77.0.60'/>
    </dhcp>
  </ip>
</network>
"
    )
}

impl Host {
    /// What `ostler net` says of a network's switch.
    pub fn net(&self, network: &str, words: &[&str]) -> Value {
        let said = self.try_net(network, words);
        said.unwrap_or_else(|| panic!("the switch of {network} does not answer {words:?}"))
    }

    /// The same, if there is a switch that answers.
    pub fn try_net(&self, network: &str, words: &[&str]) -> Option<Value> {
        let output = Command::new(OSTLER)
            .args(["net", "--json", "--runtime"])
            .arg(self.path("run"))
            .args(words)
            .args([network, "--kind", "switch"])
            .output()
            .unwrap();
        let good = output.status.success();
        if !good {
            eprintln!("{output:?}");
        }
        good.then(|| serde_json::from_slice(&output.stdout).unwrap())
    }

    /// The names that `virsh net-list` shows.
    pub fn networks(&self, options: &str) -> Vec<String> {
        let list = self.virsh(&format!("net-list --name {options}"));
        list.split_whitespace().map(str::to_owned).collect()
    }
}

fn is_alive(pid: &Value) -> bool {
    std::path::Path::new(&format!("/proc/{pid}")).exists()
}

#[test]
fn the_default_network_is_there_from_the_first_start() {
    let mut host = Host::start();
    let list = host.virsh("net-list");
    let words: Vec<&str> = list.lines().nth(2).unwrap().split_whitespace().collect();
    assert_eq!(words, ["default", "active", "yes", "yes"], "{list}");
    let xml = host.virsh("net-dumpxml default");
    for part in [
        "mode='nat'",
        "name='virbr0'",
        "'192.168.122.1'",
        "end='192.168.122.254'",
    ] {
        assert!(xml.contains(part), "{part}: {xml}");
    }
    let uuid = host.virsh("net-uuid default").trim().to_owned();
    assert_eq!(host.virsh(&format!("net-name {uuid}")).trim(), "default");
    let info = host.virsh("net-info default");
    for (name, value) in [
        ("UUID", uuid.as_str()),
        ("Active", "yes"),
        ("Persistent", "yes"),
        ("Autostart", "yes"),
        ("Bridge", "virbr0"),
    ] {
        assert_eq!(field(&info, name), value, "{info}");
    }
    let switch = host.net("default", &["show"]);
    assert_eq!(switch["routers"][0]["address"], "192.168.122.1/24");
    assert_eq!(switch["routers"][0]["restrict"], false);

    // The switch outlives the daemon, and belongs to the next one.
    host.kill_and_restart();
    assert_eq!(host.networks(""), ["default"]);
    assert_eq!(host.net("default", &["show"])["pid"], switch["pid"]);
    assert_eq!(host.virsh("net-uuid default").trim(), uuid);
    host.virsh("net-destroy default");
    wait_until("the switch is gone", || !is_alive(&switch["pid"]));
    assert!(!host.path(&format!("run/networks/{uuid}")).exists());
    let said = host.refused("net-destroy default");
    assert!(said.contains("network 'default' is not active"), "{said}");
    // What its owner ended stays so until the host starts anew.
    host.kill_and_restart();
    assert_eq!(host.networks("--inactive"), ["default"]);
    host.virsh("net-start default");
    assert!(host.refused("net-start default").contains("already active"));
    // Undefined it lasts until it ends, and does not come back.
    host.virsh("net-undefine default");
    assert_eq!(field(&host.virsh("net-info default"), "Persistent"), "no");
    host.kill_and_restart();
    assert_eq!(host.networks("--transient"), ["default"]);
    host.virsh("net-destroy default");
    host.kill_and_restart();
    assert_eq!(host.networks("--all"), [""; 0]);
}

#[test]
fn a_network_is_defined_started_edited_and_forgotten() {
    let mut host = Host::start();
    let file = host.xml("lan.xml", &lan("lan", "virbr7", ""));
    assert!(
        host.virsh(&format!("net-define {file}"))
            .contains("Network lan defined")
    );
    let uuid = host.virsh("net-uuid lan").trim().to_owned();
    assert_eq!(host.networks("--inactive"), ["lan"]);
    assert_eq!(host.networks("--all"), ["default", "lan"]);
    let text = std::fs::read_to_string(host.path("networks/lan.xml")).unwrap();
    assert_eq!(text.trim(), host.virsh("net-dumpxml lan").trim());
    host.virsh("net-autostart lan");
    assert_eq!(host.networks("--all --autostart"), ["default", "lan"]);
    host.virsh("net-autostart lan --disable");
    assert_eq!(host.networks("--all --no-autostart"), ["lan"]);

    host.virsh("net-start lan");
    let router = &host.net("lan", &["show"])["routers"][0];
    assert_eq!(router["restrict"], true, "it has no <forward>");
    assert_eq!(router["domain"], "lan.test");

    // An edit is for the next start.
    let mut edit = host.command("net-edit lan");
    edit.env("EDITOR", "sed -i s/10.77.0.60/10.77.0.70/");
    assert!(edit.output().unwrap().status.success());
    assert!(host.virsh("net-dumpxml lan --inactive").contains("10.77.0.70"));
    assert!(host.virsh("net-dumpxml lan").contains("10.77.0.60"));
    host.virsh("net-destroy lan");
    host.virsh("net-start lan");
    let ranges = &host.net("lan", &["show"])["routers"][0]["ranges"];
    assert_eq!(ranges[0], "10.77.0.50-10.77.0.70");
    host.kill_and_restart();
    assert_eq!(host.virsh("net-uuid lan").trim(), uuid);
    assert_eq!(host.networks(""), ["default", "lan"]);

    // Others of the same name, bridge or UUID.
    let other = lan("lan", "virbr8", "");
    let said = host.refused(&format!("net-define {}", host.xml("a.xml", &other)));
    assert!(said.contains("network 'lan' already exists with uuid"), "{said}");
    let other = lan("other", "virbr7", "");
    let said = host.refused(&format!("net-define {}", host.xml("b.xml", &other)));
    assert!(said.contains("bridge name 'virbr7' already in use"), "{said}");
    let other = lan("other", "virbr8", &format!("<uuid>{uuid}</uuid>"));
    let said = host.refused(&format!("net-define {}", host.xml("c.xml", &other)));
    assert!(
        said.contains("network 'lan' is already defined with uuid"),
        "{said}"
    );

    // One that is there while it runs only.
    let transient = host.xml("d.xml", &lan("short", "virbr9", ""));
    assert!(
        host.virsh(&format!("net-create {transient}"))
            .contains("Network short created")
    );
    assert_eq!(host.networks("--transient"), ["short"]);
    for (command, says) in [
        ("net-undefine short", "transient"),
        ("net-autostart short", "transient"),
    ] {
        assert!(host.refused(command).contains(says));
    }
    host.virsh("net-destroy short");
    host.virsh("net-destroy lan");
    assert!(
        host.virsh("net-undefine lan")
            .contains("Network lan has been undefined")
    );
    assert_eq!(host.networks("--all"), ["default"]);
    assert!(!host.path("networks/lan.xml").exists());
    assert!(
        host.refused("net-info lan")
            .contains("no network with matching name 'lan'")
    );
}

#[test]
fn what_a_network_cannot_be_is_refused_by_name() {
    let host = Host::start();
    for (inside, says) in [
        ("<forward mode='private' dev='eth0'/>", "forward mode 'private'"),
        ("<forward mode='hostdev'/>", "hostdev"),
        (
            "<forward mode='passthrough' dev='eth0'/>",
            "forward mode 'passthrough'",
        ),
        (
            "<route address='10.1.0.0' prefix='16' gateway='10.77.0.9'/>",
            "<route>",
        ),
        ("<virtualport type='802.1Qbh'/>", "802.1Qbh"),
    ] {
        let bridge = match inside.contains(" dev=") {
            true => "",
            false => "<bridge name='virbr5'/>",
        };
        let xml = lan("n", "virbr5", inside).replace("<bridge name='virbr5'/>", bridge);
        let file = host.xml("n.xml", &xml);
        for command in ["net-define", "net-create"] {
            let said = host.refused(&format!("{command} {file}"));
            assert!(
                said.contains("unsupported configuration") && said.contains(says),
                "{inside}: {said}"
            );
        }
    }
    let file = host.xml("bad.xml", "<network><name>bad</name>");
    assert!(host.refused(&format!("net-define {file}")).contains("XML error"));
    assert_eq!(host.networks("--all"), ["default"]);
    // Who may only look.
    for what in [
        "net-destroy default",
        "net-undefine default",
        "net-autostart default --disable",
    ] {
        let output = host.command(&format!("-r {what}")).output().unwrap();
        let said = String::from_utf8_lossy(&output.stderr).into_owned();
        assert!(said.contains("read only access prevents"), "{what}: {said}");
    }
    assert_eq!(host.networks("--autostart"), ["default"]);
}

#[test]
fn a_part_of_a_network_is_changed_while_it_runs() {
    let mut host = Host::start();
    let file = host.xml("lan.xml", &lan("lan", "virbr7", ""));
    host.virsh(&format!("net-define {file}"));
    host.virsh("net-start lan");
    let update = |host: &Host, words: &str, xml: &str| {
        let file = host.xml("part.xml", xml);
        host.virsh(&format!("net-update lan {words} {file}"));
    };
    let web = "<host mac='52:54:00:77:00:01' name='web' ip='10.77.0.9'/>";
    update(&host, "add ip-dhcp-host --live --config", web);
    for inactive in ["", "--inactive"] {
        let xml = host.virsh(&format!("net-dumpxml lan {inactive}"));
        assert!(xml.contains("name='web'"), "{xml}");
    }
    let router = |host: &Host| host.net("lan", &["show"])["routers"][0].clone();
    assert_eq!(router(&host)["reservations"], 1);
    // Of the one that runs alone, and of the definition alone.
    update(
        &host,
        "add ip-dhcp-range --live",
        "<range start='10.77.0.80' end='10.77.0.90'/>",
    );
    update(
        &host,
        "add-first ip-dhcp-range --config",
        "<range start='10.77.0.20' end='10.77.0.30'/>",
    );
    assert_eq!(
        router(&host)["ranges"],
        serde_json::json!(["10.77.0.50-10.77.0.60", "10.77.0.80-10.77.0.90"])
    );
    let inactive = host.virsh("net-dumpxml lan --inactive");
    assert!(
        inactive.contains("10.77.0.20") && !inactive.contains("10.77.0.80"),
        "{inactive}"
    );
    let printer = "<host ip='10.77.0.8'><hostname>printer</hostname></host>";
    update(&host, "add dns-host --live --config", printer);
    assert!(
        host.virsh("net-dumpxml lan")
            .contains("<hostname>printer</hostname>")
    );

    // A daemon that was killed finds it as it is now.
    host.kill_and_restart();
    assert!(host.virsh("net-dumpxml lan").contains("10.77.0.80"));
    let moved = web.replace("10.77.0.9", "10.77.0.19");
    update(&host, "modify ip-dhcp-host --live --config", &moved);
    assert!(host.virsh("net-dumpxml lan --inactive").contains("10.77.0.19"));
    update(&host, "delete ip-dhcp-host --live --config", "<host name='web'/>");
    update(&host, "delete dns-host --live --config", printer);
    assert_eq!(router(&host)["reservations"], 0);
    let xml = host.virsh("net-dumpxml lan");
    assert!(!xml.contains("web") && !xml.contains("printer"), "{xml}");

    for (words, xml, says) in [
        (
            "delete ip-dhcp-host",
            "<host name='web'/>",
            "couldn't locate a matching dhcp host entry",
        ),
        (
            "modify ip-dhcp-range",
            "<range start='10.77.0.1' end='10.77.0.2'/>",
            "cannot be modified",
        ),
        (
            "add ip-dhcp-range",
            "<range start='10.78.0.1' end='10.78.0.2'/>",
            "is not within network",
        ),
        (
            "add ip-dhcp-host",
            "<host mac='52:54:00:77:00:01' ip='10.78.0.9'/>",
            "10.78.0.9",
        ),
        (
            "add portgroup",
            "<portgroup name='a'/>",
            "only ip-dhcp-host, ip-dhcp-range and dns-host",
        ),
        ("add dns-host", "<domain/>", "expecting <host>"),
    ] {
        let before = host.virsh("net-dumpxml lan");
        let file = host.xml("part.xml", xml);
        let said = host.refused(&format!("net-update lan {words} {file} --live --config"));
        assert!(said.contains(says), "{words}: {said}");
        assert_eq!(host.virsh("net-dumpxml lan"), before);
    }
}

#[test]
fn listeners_hear_of_networks() {
    let host = Host::start();
    let file = host.xml("lan.xml", &lan("lan", "virbr7", ""));
    host.virsh(&format!("net-define {file}"));
    let poke = || drop(host.virsh(&format!("net-define {file}").replace("lan.xml", "same.xml")));
    host.xml("same.xml", &host.virsh("net-dumpxml lan"));
    let listener = Listener::start(&host, "net-event --network lan --event lifecycle --loop", poke);
    host.virsh("net-start lan");
    // Another network is not what was asked for.
    host.virsh("net-destroy default");
    host.virsh("net-destroy lan");
    host.virsh("net-undefine lan");
    let told = |step: &str| format!("event 'lifecycle' for network lan: {step}");
    let mut heard = listener.until(&told("Undefined"));
    heard.retain(|step| *step != told("Defined"));
    assert_eq!(heard, ["Started", "Stopped", "Undefined"].map(told));
}

/// A guest of `ostler run` at the network's switch gets an address, which virsh shows, also after the daemon was killed.
#[test]
fn a_guest_gets_an_address_that_virsh_shows() {
    let mut host = Host::start();
    let reserved = "<host mac='52:54:00:77:00:01' name='web' ip='10.77.0.9'/>";
    let xml = lan("lan", "virbr7", "<forward mode='nat'/>").replace("</dhcp>", &format!("{reserved}</dhcp>"));
    host.virsh(&format!("net-define {}", host.xml("lan.xml", &xml)));
    host.virsh("net-start lan");
    let control = host.path("run/switch-lan.sock");
    let net = format!("switch={},mac=52:54:00:77:00:02", control.display());
    let mut guest = Guest::new(1)
        .args(["--accel", "soft", "--name", "vm", "--net", &net])
        .script(
            "dmesg -n 5; ip link set eth0 up\n\
             printf '#!/bin/sh\\n[ \"$1\" = bound ] && echo got $ip via $router in $domain\\n' >/lease; chmod +x /lease\n\
             udhcpc -i eth0 -s /lease -q -n -t 20 -x hostname:vm\n\
             echo asked; read line </dev/console\n",
        )
        .spawn();
    guest.expect("asked", LIMIT);
    host.kill_and_restart();
    let leases = host.virsh("net-dhcp-leases lan");
    let lease: Vec<&str> = leases.lines().nth(2).unwrap().split_whitespace().collect();
    assert_eq!(
        lease[2..6],
        ["52:54:00:77:00:02", "ipv4", "10.77.0.50/24", "vm"],
        "{leases}"
    );
    let other = host.virsh("net-dhcp-leases lan 52:54:00:77:00:01");
    assert!(!other.contains("10.77"), "{other}");
    assert!(host.virsh("net-dhcp-leases default").lines().count() < 4);
    guest.type_in("\n");
    let outcome = guest.wait(LIMIT);
    outcome.assert_clean();
    let console = outcome.console;
    assert!(
        console.contains("got 10.77.0.50 via 10.77.0.1 in lan.test"),
        "{console}"
    );
}

/// A card of a guest that the daemon starts, at the network.
pub fn card(network: &str, mac: u8, more: &str) -> String {
    format!(
        "<interface type='network'><mac address='52:54:00:77:00:{mac:02x}'/><source network='{network}'{more}</interface>"
    )
}

#[test]
fn guests_of_the_daemon_meet_at_a_network() {
    let mut host = Host::start();
    let groups = "<portgroup name='red'><vlan><tag id='10'/></vlan></portgroup>";
    host.virsh(&format!(
        "net-define {}",
        host.xml("lan.xml", &lan("lan", "virbr7", groups))
    ));
    let one = host.xml("one.xml", &linux("one", &card("lan", 0x11, "/>")));
    let said = host.refused(&format!("create {one}"));
    assert!(said.contains("network 'lan' is not active"), "{said}");
    host.virsh("net-start lan");
    host.virsh(&format!("create {one}"));
    let two = linux("two", &card("lan", 0x12, " portgroup='red'/>"));
    host.virsh(&format!("create {}", host.xml("two.xml", &two)));
    assert!(
        host.virsh("net-dumpxml lan")
            .contains("<network connections='2'>")
    );
    let list = host.virsh("domiflist one");
    assert!(list.contains("network") && list.contains("lan"), "{list}");
    let ports = |host: &Host| {
        let ports = host.net("lan", &["port", "list"]);
        let port = |port: &Value| {
            (
                port["name"].as_str().unwrap().to_owned(),
                port["vlans"]["pvid"].clone(),
            )
        };
        // The router has one too.
        let cards = ports
            .as_array()
            .unwrap()
            .iter()
            .map(port)
            .filter(|(name, _)| name.contains('/'));
        let mut cards: Vec<_> = cards.collect();
        cards.sort_by(|one, other| one.0.cmp(&other.0));
        cards
    };
    let at = |name: &str, vlan: u16| (name.to_owned(), Value::from(vlan));
    assert_eq!(
        ports(&host),
        [at("one/52:54:00:77:00:11", 1), at("two/52:54:00:77:00:12", 10)]
    );

    let mut consoles = ["one", "two"].map(|name| {
        let mut console = Console::open(&host, name);
        console.expect("OSTLER-GUEST-UP");
        console.expect("# ");
        console
    });
    let [one, two] = &mut consoles;
    // The network gives it an address, which is known.
    assert!(!host.virsh("domifaddr one").contains("10.77"));
    one.shell(
        "ip link set eth0 up; udhcpc -i eth0 -s /bin/true -q -n -t 20 -x hostname:one 2>&1 | grep obtained",
    );
    let addresses = host.virsh("domifaddr one");
    assert!(
        addresses.contains("52:54:00:77:00:11") && addresses.contains("10.77.0.50/24"),
        "{addresses}"
    );
    one.shell("ip address add 10.77.0.11/24 dev eth0");
    one.shell_until("ping -c 1 -W 5 10.77.0.1 >/dev/null && echo reached", "reached");
    // The other one is in a VLAN of its own, until it gets a card beside the first guest's.
    two.shell("ip address add 10.77.0.12/24 dev eth0; ip link set eth0 up");
    assert_eq!(
        two.shell("ping -c 1 -W 2 10.77.0.11 >/dev/null || echo alone"),
        "alone"
    );
    host.virsh("attach-interface two network lan --model virtio --mac 52:54:00:77:00:13 --live");
    assert!(host.virsh("net-dumpxml lan").contains("connections='3'"));
    two.shell_until("cat /sys/class/net/eth1/address 2>/dev/null", "52:54:00:77:00:13");
    two.shell("ip link set eth0 down; ip address add 10.77.0.13/24 dev eth1; ip link set eth1 up");
    two.shell_until("ping -c 1 -W 5 10.77.0.11 >/dev/null && echo reached", "reached");

    // A network that is started anew has the guests again.
    host.virsh("net-destroy lan");
    assert_eq!(
        two.shell("ping -c 1 -W 2 10.77.0.11 >/dev/null || echo alone"),
        "alone"
    );
    host.virsh("net-start lan");
    two.shell_until("ping -c 1 -W 5 10.77.0.11 >/dev/null && echo reached", "reached");
    host.virsh("detach-interface two network --mac 52:54:00:77:00:13 --live");
    wait_until("the card is gone", || ports(&host).len() == 2);
    // They go on without a daemon, and the next one counts them, and connects them again as the last one would.
    host.kill_and_restart();
    let mut one = Console::open(&host, "one");
    one.expect("# ");
    host.virsh("net-destroy lan");
    one.shell_until("cat /sys/class/net/eth0/carrier", "0");
    host.virsh("net-start lan");
    one.shell_until("ping -c 1 -W 5 10.77.0.1 >/dev/null && echo reached", "reached");
    wait_until("both are connected again", || ports(&host).len() == 2);
    assert!(host.virsh("net-dumpxml lan").contains("connections='2'"));
    host.virsh("destroy two");
    wait_until("its port is gone", || {
        ports(&host) == [at("one/52:54:00:77:00:11", 1)]
    });
    assert!(host.virsh("net-dumpxml lan").contains("connections='1'"));
    host.virsh("destroy one");
}

#[test]
fn a_card_that_is_no_virtio_device() {
    let host = Host::start();
    let card = card("default", 0x21, "/><model type='e1000e'/>");
    host.virsh(&format!("create {}", host.xml("old.xml", &linux("old", &card))));
    assert!(host.virsh("domiflist old").contains("e1000e"));
    let mut console = Console::open(&host, "old");
    console.expect("OSTLER-GUEST-UP");
    console.expect("# ");
    assert_eq!(
        console.shell("cat /sys/bus/pci/devices/*/device | grep -c 0x10d3"),
        "1"
    );
    host.virsh("attach-interface old network default --model e1000e --mac 52:54:00:77:00:22 --live");
    console.shell_until("cat /sys/bus/pci/devices/*/device | grep -c 0x10d3", "2");
    host.virsh("destroy old");
}

#[test]
fn a_network_on_a_bridge_of_the_host() {
    if !rustix::process::geteuid().is_root() {
        eprintln!("SKIPPED a_network_on_a_bridge_of_the_host: needs root for a network namespace");
        return;
    }
    // The daemon is started by this thread, in its namespace.
    // SAFETY: only the network namespace of this thread changes; no file descriptor table is unshared.
    unsafe { rustix::thread::unshare_unsafe(UnshareFlags::NEWNET) }.unwrap();
    let ip = |words: &str| {
        let output = Command::new("ip")
            .args(words.split_whitespace())
            .output()
            .unwrap();
        assert!(output.status.success(), "ip {words}: {output:?}");
    };
    let mut host = Host::start();
    let xml = "<network><name>wire</name><forward mode='bridge'/><bridge name='br0'/></network>";
    host.virsh(&format!("net-define {}", host.xml("wire.xml", xml)));
    let said = host.refused("net-start wire");
    assert!(said.contains("the bridge 'br0' cannot be used"), "{said}");
    ip("link add br0 type bridge");
    host.virsh("net-start wire");
    assert_eq!(field(&host.virsh("net-info wire"), "Bridge"), "br0");
    // A guest's card is a port of it.
    let guest = linux("wired", &card("wire", 0x31, "/><port isolated='yes'/>"));
    host.virsh(&format!("create {}", host.xml("wired.xml", &guest)));
    assert!(host.virsh("domiflist wired").contains("vnet0"));
    let port = Command::new("bridge")
        .args(["-d", "link", "show", "dev", "vnet0"])
        .output()
        .unwrap();
    let port = String::from_utf8(port.stdout).unwrap();
    assert!(
        port.contains("master br0") && port.contains("isolated on"),
        "{port}"
    );
    assert!(host.virsh("net-dumpxml wire").contains("connections='1'"));
    host.virsh("destroy wired");
    let gone = Command::new("ip")
        .args(["link", "show", "vnet0"])
        .output()
        .unwrap();
    assert!(!gone.status.success(), "the tap goes with the guest");
    let tagged = card("wire", 0x32, "/><vlan><tag id='4'/></vlan>");
    // A card has a VLAN where the kernel's bridge filters them.
    let created = host.run(&format!(
        "create {}",
        host.xml("tagged.xml", &linux("tagged", &tagged))
    ));
    if created.status.success() {
        host.virsh("destroy tagged");
    } else {
        let said = String::from_utf8_lossy(&created.stderr);
        assert!(said.contains("VLAN"), "{said}");
    }
    assert!(!host.path("run/switch-wire.sock").exists(), "it has no switch");
    host.kill_and_restart();
    assert_eq!(host.networks(""), ["default", "wire"]);
    host.virsh("net-destroy wire");
    assert_eq!(host.networks("--inactive"), ["wire"]);
    ip("link show br0");
}
