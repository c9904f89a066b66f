//! Which network a name means, and the switches that `create` starts.

use std::path::Path;
use std::process::Command;

use rustix::process::{Signal, kill_process, test_kill_process};
use serde_json::json;

use super::host::enter;
use super::{LIMIT, Net, pid};

#[test]
fn a_name_of_several_networks_asks_for_the_kind() {
    if !enter("a_name_of_several_networks_asks_for_the_kind") {
        return;
    }
    let net = Net::new();
    net.run("create lan");
    assert_eq!(net.json("show lan --seconds 0")["kind"], "switch");
    net.run("create lan --kind bridge");
    let said = net.fails("show lan", 2);
    assert!(
        said.contains("a switch of ours and a bridge of the kernel") && said.contains("--kind"),
        "{said}"
    );
    net.fails("delete lan", 2);
    assert_eq!(net.json("show lan --kind bridge --seconds 0")["kind"], "bridge");
    assert_eq!(net.json("list").as_array().unwrap().len(), 2);
    assert_eq!(net.json("list --kind bridge").as_array().unwrap().len(), 1);
    net.run("delete lan --kind bridge");
    assert_eq!(net.json("show lan --seconds 0")["kind"], "switch");
    net.run("delete lan");
    assert_eq!(net.json("list"), json!([]));
    assert!(net.fails("show lan", 2).contains("no network `lan`"));
}

/// A switch is made with its process and ends with it; one that died is cleared away, or made anew; one of others is left alone.
#[test]
fn a_switch_is_made_and_ended_with_its_process() {
    let net = Net::new();
    net.run("create lan --mode isolated --address 10.9.0.1/24 --stp rstp --priority 4096 --ageing 100");
    let shown = net.json("show lan --seconds 0");
    assert_eq!(shown["stp"]["priority"], 4096);
    assert_eq!(shown["ageing"], 100);
    assert_eq!(
        shown["forward"],
        json!({ "mode": "isolated", "address": "10.9.0.1/24", "ports": null, "out": null })
    );
    assert_eq!(shown["routers"][0]["ranges"], json!(["10.9.0.2-10.9.0.254"]));
    assert!(
        net.run("show lan --seconds 0")
            .contains("router at router: 10.9.0.1/24, isolated; 0 leases")
    );
    assert!(net.fails("create lan", 2).contains("runs already"));
    // It was made without a word of this one.
    assert_eq!(net.json("show lan --seconds 0")["pid"], shown["pid"]);

    // Its process dies; the name is free again.
    kill_process(pid(&shown["pid"]), Signal::KILL).unwrap();
    let end = std::time::Instant::now() + LIMIT;
    while test_kill_process(pid(&shown["pid"])).is_ok() && !is_dead(&shown["pid"]) {
        assert!(std::time::Instant::now() < end);
        std::thread::sleep(std::time::Duration::from_millis(20));
    }
    assert_eq!(net.json("list --kind switch"), json!([]));
    assert!(net.fails("show lan", 2).contains("no switch answers"));
    net.run("create lan");
    net.run("delete lan");
    assert!(net.fails("delete lan", 2).contains("no network `lan`"));
    let left = |folder: &Path| std::fs::read_dir(folder).unwrap().count();
    assert_eq!(left(&net.runtime.path().join("created")), 0);

    // What cannot be made leaves nothing.
    assert!(
        net.fails("create lan --stp rstp --priority 5", 2)
            .contains("multiple of 4096")
    );
    assert!(
        net.fails("create lan --mode route --address 10.9.0.1/24", 2)
            .contains("--kind bridge")
    );
    assert!(net.fails("create lan --mtu 9000", 2).contains("MTU"));
    assert!(
        net.fails("create .. --stp off --hello 1", 2)
            .contains("--stp rstp")
    );
    assert!(net.fails("create a/b", 2).contains("path"));
    assert_eq!(left(&net.runtime.path().join("created")), 0);

    // One that somebody else started.
    let config = net.runtime.path().join("other.toml");
    let control = net.runtime.path().join("switch-other.sock");
    let text = format!("name = \"other\"\ncontrol = \"{}\"\n", control.display());
    std::fs::write(&config, text).unwrap();
    let mut other = Command::new(env!("CARGO_BIN_EXE_ostler"))
        .args(["switch", "run", "--config"])
        .arg(&config)
        .spawn()
        .unwrap();
    net.until("the switch runs", "list --kind switch", |list| {
        list[0]["name"] == "other"
    });
    assert!(net.fails("delete other", 2).contains("did not make `other`"));
    assert!(
        net.fails(&format!("delete {}", control.display()), 2)
            .contains("did not make")
    );
    assert_eq!(net.json(&format!("port list {}", control.display())), json!([]));
    other.kill().unwrap();
    other.wait().unwrap();
}

/// Whether the process is over, though nobody took note of it yet.
fn is_dead(pid: &serde_json::Value) -> bool {
    let status = std::fs::read_to_string(format!("/proc/{pid}/status")).unwrap_or_default();
    status.is_empty() || status.contains("State:\tZ")
}
