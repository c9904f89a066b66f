//! What networks of the kernel's need (`ostler net create --kind bridge --mode ...`).

use super::finding::Finding;
use super::host::Host;

/// The program that enters rules in the firewall.
pub fn nft(host: &Host) -> Finding {
    const NAME: &str = "nftables";
    let places = ["/usr/sbin/nft", "/sbin/nft", "/usr/bin/nft"];
    match places.into_iter().find(|place| host.path(place).exists()) {
        Some(place) => Finding::good(
            NAME,
            format!("{place} is there: networks of the kernel's get their rules"),
        ),
        None => Finding::fair(
            NAME,
            "nft is not there: no network of the kernel's can be made (`ostler net create --kind bridge --mode ...`)",
        )
        .or_better_by("sudo apt-get install nftables"),
    }
}

/// Whether packets are passed on between interfaces.
pub fn forwarding(host: &Host) -> Finding {
    const NAME: &str = "ip-forward";
    match host.number("/proc/sys/net/ipv4/ip_forward") {
        Some(1..) => Finding::good(NAME, "the host forwards packets of IPv4 between its interfaces"),
        Some(_) => Finding::fair(
            NAME,
            "the host forwards no packets of IPv4: stations of a bridge reach nobody beyond it; a network with nat, route or open switches it on",
        )
        .or_better_by("sudo sysctl net.ipv4.ip_forward=1"),
        None => Finding::fair(NAME, "this kernel does not tell whether it forwards packets of IPv4"),
    }
}

#[cfg(test)]
mod tests {
    use super::super::finding::Verdict;
    use super::*;
    use std::fs;

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
    fn what_networks_need_is_found_or_has_its_command() {
        let (bare, _dir) = host(&[("proc/sys/net/ipv4/ip_forward", "0\n")]);
        let (ready, _dir2) = host(&[("proc/sys/net/ipv4/ip_forward", "1\n"), ("usr/sbin/nft", "")]);
        for (finding, command) in [
            (nft(&bare), "sudo apt-get install nftables"),
            (forwarding(&bare), "sudo sysctl net.ipv4.ip_forward=1"),
        ] {
            assert_eq!(finding.verdict, Verdict::Fair);
            assert_eq!(finding.remedy.unwrap().command, command);
        }
        assert_eq!(nft(&ready).verdict, Verdict::Good);
        assert_eq!(forwarding(&ready).verdict, Verdict::Good);
    }
}
