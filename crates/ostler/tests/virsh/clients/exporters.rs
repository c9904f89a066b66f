//! Programs that only watch: the exporter for Prometheus, and collectd.

use std::fs::{self, File};
use std::io::{Read, Write};
use std::net::{Ipv4Addr, TcpListener, TcpStream};
use std::path::Path;
use std::process::{Command, Stdio};

use super::{Ends, unpacked, with_libraries};
use crate::console::Console;
use crate::setup::{Host, linux, wait_until};
use crate::virtinst::uri;

/// A guest with a disk and a card that runs.
fn start_guest(host: &Host) {
    let disk = host.path("disk.img");
    fs::write(&disk, vec![b'd'; 1 << 20]).unwrap();
    let devices = format!(
        "<disk type='file' device='disk'><source file='{}'/><target dev='vda' bus='virtio'/></disk>\
         <interface type='network'><mac address='52:54:00:00:00:0c'/><source network='default'/><model type='virtio'/></interface>",
        disk.display()
    );
    host.virsh(&format!(
        "create {}",
        host.xml("watched.xml", &linux("watched", &devices))
    ));
    let mut console = Console::open(host, "watched");
    console.expect("OSTLER-GUEST-UP");
    console.expect("# ");
    console.shell("cat /dev/vda >/dev/null");
}

/// The pages of a server on the loopback interface, or nothing yet.
fn page(port: u16, path: &str) -> Option<String> {
    let mut client = TcpStream::connect((Ipv4Addr::LOCALHOST, port)).ok()?;
    write!(client, "GET {path} HTTP/1.0\r\n\r\n").ok()?;
    let mut text = String::new();
    client.read_to_string(&mut text).ok()?;
    Some(text)
}

#[test]
fn the_exporter_for_prometheus_tells_of_guests() {
    if !super::is_there("the_exporter_for_prometheus_tells_of_guests") {
        return;
    }
    let host = Host::start();
    start_guest(&host);
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
    let port = listener.local_addr().unwrap().port();
    drop(listener);
    let mut command = Command::new(unpacked().join("usr/bin/prometheus-libvirt-exporter"));
    let exporter = with_libraries(&mut command)
        .arg(format!("--libvirt.uri={}", uri(&host)))
        .arg(format!("--web.listen-address=127.0.0.1:{port}"))
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(File::create(host.path("exporter.log")).unwrap())
        .spawn()
        .unwrap();
    let _exporter = Ends(exporter);
    let mut text = String::new();
    wait_until("the exporter serves", || {
        text = page(port, "/metrics").unwrap_or_default();
        text.contains("libvirt_up")
    });
    let value = |name: &str| -> f64 {
        let line = text.lines().find(|line| line.starts_with(name));
        let line = line.unwrap_or_else(|| panic!("no {name} in:\n{text}"));
        line.rsplit(' ').next().unwrap().parse().unwrap()
    };
    assert_eq!(value("libvirt_up"), 1.0);
    assert_eq!(value("libvirt_domain_info_virtual_cpus{domain=\"watched\""), 2.0);
    assert_eq!(
        value("libvirt_domain_info_maximum_memory_bytes{domain=\"watched\""),
        f64::from(256 << 20)
    );
    assert!(value("libvirt_domain_info_cpu_time_seconds_total{domain=\"watched\"") > 0.0);
    assert!(value("libvirt_domain_block_stats_read_bytes_total{domain=\"watched\"") >= f64::from(1 << 20));
    host.virsh("destroy watched");
}

#[test]
fn collectd_tells_of_guests() {
    if !super::is_there("collectd_tells_of_guests") {
        return;
    }
    let host = Host::start();
    start_guest(&host);
    // It makes no folders below one whose name begins with a dot.
    let place = tempfile::Builder::new().prefix("collectd-").tempdir().unwrap();
    let folder = place.path();
    let root = unpacked();
    let text = format!(
        "BaseDir \"{0}\"\nPIDFile \"{0}/pid\"\nPluginDir \"{1}/usr/lib/collectd\"\nTypesDB \"{1}/usr/share/collectd/types.db\"\n\
         Interval 1\nLoadPlugin csv\nLoadPlugin virt\n<Plugin csv>\nDataDir \"{0}/csv\"\nStoreRates false\n</Plugin>\n\
         <Plugin virt>\nConnection \"{2}\"\nRefreshInterval 1\nHostnameFormat name\nExtraStats \"disk pcpu cpu_util domain_state vcpu\"\n</Plugin>\n",
        folder.display(),
        root.display(),
        uri(&host)
    );
    fs::write(folder.join("collectd.conf"), text).unwrap();
    let mut command = Command::new(root.join("usr/sbin/collectd"));
    let collectd = with_libraries(&mut command)
        .arg("-f")
        .arg("-C")
        .arg(folder.join("collectd.conf"))
        .stdin(Stdio::null())
        .stdout(File::create(folder.join("log")).unwrap())
        .stderr(Stdio::null())
        .spawn()
        .unwrap();
    let _collectd = Ends(collectd);
    let values = folder.join("csv/watched/virt");
    let last = |kind: &str| last_values(&values, kind);
    wait_until("collectd has written", || {
        last("disk_octets-vda").is_some_and(|values| values[0] >= f64::from(1 << 20))
    });
    wait_until("collectd has written memory", || {
        last("memory-total").is_some_and(|values| values[0] == f64::from(256 << 20))
    });
    wait_until("collectd has written CPU times", || {
        last("virt_cpu_total").is_some_and(|values| values[0] > 0.0)
    });
    host.virsh("destroy watched");
}

/// The last line of the file of this kind, without its time.
fn last_values(folder: &Path, kind: &str) -> Option<Vec<f64>> {
    let files = fs::read_dir(folder).ok()?.flatten();
    let mut named = files.filter(|file| file.file_name().to_string_lossy().starts_with(kind));
    let text = fs::read_to_string(named.next()?.path()).ok()?;
    let line = text.lines().last()?;
    line.split(',').skip(1).map(|value| value.parse().ok()).collect()
}
