//! CPUs that come and go while real Linux runs, by ACPI and the control socket.

mod support;

use std::time::Duration;

use serde_json::{Value, json};
use support::Guest;
use support::qmp::Qmp;

const LIMIT: Duration = Duration::from_secs(240);

/// Brings the CPU that comes online, works on it, and lets it go; twice. Then it starts over with a CPU more than at first.
const SCRIPT: &str = "
dmesg -n 1
cpus=/sys/devices/system/cpu
there() { while [ ! -e $1 ]; do usleep 20000; done; }
gone() { while [ -e $1 ]; do usleep 20000; done; }
echo possible $(cat $cpus/possible), present $(cat $cpus/present), online $(cat $cpus/online)
if [ $(cat $cpus/present) = 0 ]; then
	for round in 1 2; do
		echo alone $round
		there $cpus/cpu$round/online
		echo 1 >$cpus/cpu$round/online
		there $cpus/cpu$round/topology
		mask=$((2*round))
		echo online $(cat $cpus/online), core $(cat $cpus/cpu$round/topology/core_id), at work on CPU $(taskset $mask cat /proc/self/stat | cut -d' ' -f39)
		taskset $mask sh -c 'n=0; while [ $n -lt 20000 ]; do n=$((n+1)); done; echo counted to $n'
		echo in use $round
		gone $cpus/cpu$round
	done
	echo left: present $(cat $cpus/present)
	there $cpus/cpu1/online
	echo it starts over
	dmesg | grep -i -e 'BUG' -e 'WARN' -e 'Call Trace'
	reboot -f
fi
dmesg -n 8; dmesg
";

fn cpu(id: &str, core: u32) -> Value {
    json!({ "driver": "max-x86_64-cpu", "id": id, "socket-id": 0, "core-id": core, "thread-id": 0 })
}

/// The cores that are there, by two queries that have to agree, and by what is counted.
fn cores(qmp: &mut Qmp) -> Vec<u64> {
    let fast = qmp.execute("query-cpus-fast", json!({}));
    let core = |cpu: &Value| cpu["props"]["core-id"].as_u64().unwrap();
    let fast: Vec<u64> = fast.as_array().unwrap().iter().map(core).collect();
    let places = qmp.execute("query-hotpluggable-cpus", json!({}));
    let places = places.as_array().unwrap();
    assert_eq!(places.len(), 3);
    let there = places.iter().filter(|place| place.get("qom-path").is_some());
    assert_eq!(there.map(core).collect::<Vec<_>>(), fast);
    let stats = qmp.execute("x-ostler-stats", json!({}));
    let counted = stats["vcpus"].as_array().unwrap().iter();
    let counted: Vec<u64> = counted.map(|vcpu| vcpu["index"].as_u64().unwrap()).collect();
    assert_eq!(counted, fast);
    fast
}

#[test]
fn cpus_come_and_go() {
    let mut guest = Guest::new(1).args(["--rng", "off"]).reboots();
    let control = guest.path_option("--control", "", "control");
    let mut guest = guest.cpus("1,max=3").script(SCRIPT).spawn();
    guest.expect("possible 0-2, present 0, online 0\nalone 1\n", LIMIT);
    let mut qmp = Qmp::connect(&control);
    assert_eq!(cores(&mut qmp), [0]);
    let boot_cpu = "/machine/unattached/device[0]";
    let refused = qmp.refused("device_del", json!({ "id": boot_cpu }));
    assert_eq!(refused["desc"], "Boot CPU is unpluggable");
    // Linux numbers them in the order in which it first sees them.
    for (round, core, online) in [(1, 2, "0-1"), (2, 1, "0,2")] {
        guest.expect(&format!("alone {round}\n"), LIMIT);
        qmp.execute("device_add", cpu("more", core));
        guest.expect(
            &format!(
                "online {online}, core {core}, at work on CPU {round}\ncounted to 20000\nin use {round}\n"
            ),
            LIMIT,
        );
        assert_eq!(cores(&mut qmp), [0, u64::from(core)]);
        assert_eq!(
            qmp.refused("device_add", cpu("other", core))["desc"],
            format!("CPU[{core}] with APIC ID {core} exists already")
        );
        qmp.execute("device_del", json!({ "id": "more" }));
        let deleted = qmp.event("DEVICE_DELETED");
        assert_eq!(
            deleted["data"],
            json!({ "device": "more", "path": "/machine/peripheral/more" })
        );
        assert_eq!(cores(&mut qmp), [0]);
    }
    guest.expect("left: present 0\n", LIMIT);
    qmp.execute("device_add", cpu("stays", 2));
    // A guest that starts over finds it as any other.
    guest.expect("it starts over\n", LIMIT);
    guest.expect("possible 0-2, present 0-1, online 0-1\n", LIMIT);
    let path = qmp.execute("query-cpus-fast", json!({}))[1]["qom-path"].take();
    assert_eq!(path, "/machine/peripheral/stays");
    guest.wait(LIMIT).assert_clean();
}
