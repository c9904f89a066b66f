//! Network interfaces of the host, as the kernel shows them in /sys and /proc. Nothing is changed here.

use std::fs;
use std::path::Path;

use ostler_libvirt::types::MAX_HOST_INTERFACES;
use ostler_libvirt_xml::host_interface::{HostInterface, InterfaceKind};

/// Flag of an interface that its owner switched on (IFF_UP).
const UP: u32 = 1;

/// All that are not ports of a bridge, by name.
pub fn all() -> Vec<HostInterface> {
    read(Path::new("/sys/class/net"), Path::new("/proc/net/vlan"))
}

fn read(sys: &Path, vlans: &Path) -> Vec<HostInterface> {
    let entries = fs::read_dir(sys).into_iter().flatten().flatten();
    let names = entries.filter_map(|entry| entry.file_name().into_string().ok());
    // Some files there are no interfaces: bonding_masters.
    let mut names: Vec<String> = names.filter(|name| sys.join(name).join("mtu").exists()).collect();
    names.sort();
    let free = names
        .into_iter()
        .filter(|name| !sys.join(name).join("brport").exists());
    free.map(|name| interface(name, sys, vlans))
        .take(MAX_HOST_INTERFACES)
        .collect()
}

fn interface(name: String, sys: &Path, vlans: &Path) -> HostInterface {
    let folder = sys.join(&name);
    let line = |file: &str| {
        let text = fs::read_to_string(folder.join(file)).unwrap_or_default();
        text.trim().to_owned()
    };
    let flags = line("flags");
    let switched_on = u32::from_str_radix(flags.trim_start_matches("0x"), 16).unwrap_or(0) & UP != 0;
    HostInterface {
        mac: line("address").parse().ok(),
        mtu: line("mtu").parse().unwrap_or(0),
        // One that does not tell its state is up once it is switched on (RFC 2863).
        up: match line("operstate").as_str() {
            "up" => true,
            "unknown" => switched_on,
            _ => false,
        },
        // -1 where it is unknown.
        speed: line("speed").parse().ok().filter(|speed| *speed > 0),
        kind: if folder.join("bridge").exists() {
            bridge(&folder, &line)
        } else {
            vlan(&vlans.join(&name)).unwrap_or(InterfaceKind::Ethernet)
        },
        name,
    }
}

fn bridge(folder: &Path, line: &dyn Fn(&str) -> String) -> InterfaceKind {
    let ports = fs::read_dir(folder.join("brif")).into_iter().flatten().flatten();
    let mut ports: Vec<String> = ports
        .filter_map(|port| port.file_name().into_string().ok())
        .collect();
    ports.sort();
    let centiseconds: u32 = line("bridge/forward_delay").parse().unwrap_or(0);
    InterfaceKind::Bridge {
        stp: !matches!(line("bridge/stp_state").as_str(), "0" | ""),
        delay: centiseconds.saturating_mul(10),
        ports,
    }
}

/// `NAME  VID: 5  REORD_HDR: 1 ...`, and a line `Device: eth0`.
fn vlan(file: &Path) -> Option<InterfaceKind> {
    let text = fs::read_to_string(file).ok()?;
    let after = |word: &str| {
        let mut words = text.split_whitespace();
        words.find(|found| *found == word)?;
        words.next()
    };
    Some(InterfaceKind::Vlan {
        tag: after("VID:")?.parse().ok()?,
        on: after("Device:")?.to_owned(),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bridges_vlans_and_plain_interfaces_are_told_apart() {
        let folder = tempfile::tempdir().unwrap();
        let write = |path: &str, text: &str| {
            let path = folder.path().join(path);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(path, text).unwrap();
        };
        for name in ["br0", "eth0", "eth0.5", "lo", "tap0"] {
            write(&format!("sys/{name}/mtu"), "1500\n");
            write(&format!("sys/{name}/address"), "52:54:00:00:00:01\n");
            write(&format!("sys/{name}/flags"), "0x1003\n");
            write(&format!("sys/{name}/operstate"), "up\n");
        }
        write("sys/lo/operstate", "unknown\n");
        write("sys/eth0/speed", "1000\n");
        write("sys/eth0.5/operstate", "lowerlayerdown\n");
        write("sys/eth0.5/speed", "-1\n");
        write("sys/br0/bridge/stp_state", "1\n");
        write("sys/br0/bridge/forward_delay", "1500\n");
        write("sys/br0/brif/tap0/port_no", "0x1\n");
        write("sys/tap0/brport/port_no", "0x1\n");
        write("sys/bonding_masters", "\n");
        write("vlan/eth0.5", "eth0.5  VID: 5\t REORD_HDR: 1\nDevice: eth0\n");
        let found = read(&folder.path().join("sys"), &folder.path().join("vlan"));
        let names: Vec<&str> = found.iter().map(|interface| interface.name.as_str()).collect();
        assert_eq!(names, ["br0", "eth0", "eth0.5", "lo"], "a port is its bridge's");
        let ups: Vec<bool> = found.iter().map(|interface| interface.up).collect();
        assert_eq!(ups, [true, true, false, true]);
        assert_eq!((found[1].speed, found[2].speed), (Some(1000), None));
        let xml = found[0].xml();
        assert!(
            xml.contains("<bridge stp='on' delay='15.000'>") && xml.contains("name='tap0'"),
            "{xml}"
        );
        let xml = found[2].xml();
        assert!(
            xml.contains("<vlan tag='5'>") && xml.contains("<interface name='eth0'/>"),
            "{xml}"
        );
        assert!(found[1].xml().contains("<link speed='1000' state='up'/>"));
    }
}
