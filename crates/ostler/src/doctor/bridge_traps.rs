//! What surprises users of the kernel's bridge: frames that a packet filter eats, and BPDUs that get through.

use std::fs;

use super::finding::{Finding, Remedy};
use super::host::Host;

/// br_netfilter: bridged frames go through the packet filter that is meant for routed ones.
pub fn netfilter(host: &Host) -> Finding {
    const NAME: &str = "br-netfilter";
    let tables = ["iptables", "ip6tables", "arptables"];
    let setting = |table: &&str| host.number(&format!("/proc/sys/net/bridge/bridge-nf-call-{table}"));
    if tables.iter().all(|table| setting(table).is_none()) {
        return Finding::good(
            NAME,
            "br_netfilter is not loaded: bridges pass frames by the packet filter",
        );
    }
    let on: Vec<&str> = tables
        .into_iter()
        .filter(|table| setting(table).is_some_and(|n| n != 0))
        .collect();
    if on.is_empty() {
        return Finding::good(
            NAME,
            "br_netfilter is loaded and switched off: bridges pass frames by the packet filter",
        );
    }
    let switches: Vec<String> = on
        .iter()
        .map(|table| format!("net.bridge.bridge-nf-call-{table}=0"))
        .collect();
    Finding::bad(
        NAME,
        format!(
            "br_netfilter sends frames between ports of a bridge through {}: rules that are meant for routed packets drop them silently",
            on.join(", ")
        ),
        Remedy::with_note(
            format!("sudo sysctl {}", switches.join(" ")),
            "Docker and Kubernetes may rely on it; there, allow the bridge in the FORWARD chain instead",
        ),
    )
}

/// A bridge without STP that joins two ports forwards the BPDUs of both sides.
pub fn bpdus(host: &Host) -> Finding {
    const NAME: &str = "bridge-bpdus";
    let mut forwarding = bridges_without_stp(host);
    forwarding.sort();
    let Some(first) = forwarding.first() else {
        return Finding::good(NAME, "no bridge with STP off joins two ports");
    };
    Finding::fair(
        NAME,
        format!(
            "with STP off {} forwards BPDUs: a guest that sends some reaches the switch outside, and a BPDU guard there shuts the port",
            forwarding.join(", ")
        ),
    )
    .or_better_by(format!("sudo ip link set dev {first} type bridge stp_state 1"))
}

fn bridges_without_stp(host: &Host) -> Vec<String> {
    let interfaces = fs::read_dir(host.path("/sys/class/net"))
        .into_iter()
        .flatten()
        .flatten();
    interfaces
        .filter_map(|interface| interface.file_name().into_string().ok())
        .filter(|name| host.number(&format!("/sys/class/net/{name}/bridge/stp_state")) == Some(0))
        .filter(|name| {
            let ports = fs::read_dir(host.path(&format!("/sys/class/net/{name}/brif")));
            ports.is_ok_and(|ports| ports.count() > 1)
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::super::finding::Verdict;
    use super::*;

    fn host(files: &[(&str, &str)]) -> (Host, tempfile::TempDir) {
        let dir = tempfile::tempdir().unwrap();
        for (path, text) in files {
            let path = dir.path().join(path);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(path, text).unwrap();
        }
        (Host::in_folder(dir.path()), dir)
    }

    #[test]
    fn a_filter_on_bridged_frames_is_found_with_what_switches_it_off() {
        let (absent, _dir) = host(&[]);
        assert_eq!(netfilter(&absent).verdict, Verdict::Good);
        let file = |table| format!("proc/sys/net/bridge/bridge-nf-call-{table}");
        let (off, _dir) = host(&[(&file("iptables"), "0\n"), (&file("arptables"), "0\n")]);
        assert_eq!(netfilter(&off).verdict, Verdict::Good);
        let (on, _dir) = host(&[
            (&file("iptables"), "1\n"),
            (&file("arptables"), "0\n"),
            (&file("ip6tables"), "1\n"),
        ]);
        let finding = netfilter(&on);
        assert_eq!(finding.verdict, Verdict::Bad);
        assert_eq!(
            finding.remedy.unwrap().command,
            "sudo sysctl net.bridge.bridge-nf-call-iptables=0 net.bridge.bridge-nf-call-ip6tables=0"
        );
    }

    #[test]
    fn a_bridge_that_forwards_bpdus_is_found() {
        let ports = [
            ("sys/class/net/br0/brif/a/x", ""),
            ("sys/class/net/br0/brif/b/x", ""),
        ];
        let stp = |state| ("sys/class/net/br0/bridge/stp_state", state);
        let (one, _dir) = host(&[stp("0\n"), ports[0]]);
        assert_eq!(bpdus(&one).verdict, Verdict::Good);
        let (speaks, _dir) = host(&[stp("1\n"), ports[0], ports[1]]);
        assert_eq!(bpdus(&speaks).verdict, Verdict::Good);
        let (silent, _dir) = host(&[stp("0\n"), ports[0], ports[1]]);
        let finding = bpdus(&silent);
        assert_eq!(finding.verdict, Verdict::Fair);
        assert!(finding.says.contains("br0"));
        assert_eq!(
            finding.remedy.unwrap().command,
            "sudo ip link set dev br0 type bridge stp_state 1"
        );
    }
}
