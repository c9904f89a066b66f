//! libvirt-dbus, through which cockpit-machines sees a host: at a bus of its own, and with the usual sockets in a /run of its own.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use super::{Ends, unpacked, with_libraries};
use crate::setup::{Host, linux, wait_until};
use crate::virtinst::{self, printed, python};

/// A bus at which everyone may do everything.
fn start_bus(host: &Host) -> (Ends, PathBuf) {
    let (configuration, socket) = (host.path("bus.conf"), host.path("bus"));
    let text = format!(
        "<!DOCTYPE busconfig PUBLIC '-//freedesktop//DTD D-Bus Bus Configuration 1.0//EN' \
         'http://www.freedesktop.org/standards/dbus/1.0/busconfig.dtd'>\n\
         <busconfig><listen>unix:path={}</listen><auth>EXTERNAL</auth>\
         <policy context='default'><allow send_destination='*'/><allow receive_sender='*'/><allow own='*'/></policy></busconfig>",
        socket.display()
    );
    fs::write(&configuration, text).unwrap();
    let mut command = Command::new(unpacked().join("usr/bin/dbus-daemon"));
    let bus = with_libraries(&mut command)
        .arg("--nofork")
        .arg(format!("--config-file={}", configuration.display()))
        .stdin(Stdio::null())
        .spawn()
        .unwrap();
    wait_until("the bus is there", || socket.exists());
    (Ends(bus), socket)
}

/// libvirt-dbus for the system, which finds the daemon where it looks for it.
fn start_libvirt_dbus(host: &Host, bus: &Path) -> Ends {
    let usual = format!(
        "set -e; mount -t tmpfs -o mode=755 tmpfs /run; mkdir /run/libvirt; ln -s {0} /run/libvirt/libvirt-sock; \
         ln -s {0} /run/libvirt/virtqemud-sock; exec {1}/usr/sbin/libvirt-dbus --system",
        host.path("sock").display(),
        unpacked().display()
    );
    let mut command = Command::new("unshare");
    let child = with_libraries(&mut command)
        .args(["--mount", "--propagation", "private", "sh", "-c", &usual])
        .env("DBUS_SYSTEM_BUS_ADDRESS", format!("unix:path={}", bus.display()))
        .env(
            "VIRT_DBUS_INTERFACES_DIR",
            unpacked().join("usr/share/dbus-1/interfaces"),
        )
        .stdin(Stdio::null())
        .spawn();
    Ends(child.unwrap())
}

#[test]
fn libvirt_dbus_shows_what_there_is_and_changes_it() {
    const NAME: &str = "libvirt_dbus_shows_what_there_is_and_changes_it";
    if !super::is_there(NAME) || !virtinst::is_there(NAME) {
        return;
    }
    if !rustix::process::geteuid().is_root() {
        eprintln!("SKIPPED {NAME}: a mount namespace needs root");
        return;
    }
    let host = Host::start();
    let (_bus, socket) = start_bus(&host);
    let _libvirt_dbus = start_libvirt_dbus(&host, &socket);
    let guest = host.xml("seen.xml", &linux("seen", ""));
    let program = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/virsh/clients/bus.py");
    printed(
        python(&host)
            .arg(program)
            .arg(format!("unix:path={}", socket.display()))
            .arg(guest),
    );
    assert_eq!(host.virsh("list --all --name").trim(), "");
}
