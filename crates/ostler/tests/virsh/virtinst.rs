//! Debian's virt-install and what comes with it (virt-xml, virt-clone, libvirt's bindings for Python), unmodified.

use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use crate::setup::Host;

/// Where `./test` unpacks them.
fn unpacked() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../../target/virt-install")
}

pub fn is_there(test: &str) -> bool {
    let there = unpacked().join("complete").exists();
    if !there {
        eprintln!("SKIPPED {test}: there is no virt-install; ./test unpacks it");
    }
    there
}

/// Python with the modules of the packages, whose programs find `host`'s daemon without being told.
pub fn python(host: &Host) -> Command {
    let root = unpacked().join("root").canonicalize().unwrap();
    let root = |path: &str| root.join(path).display().to_string();
    let mut command = Command::new("python3");
    command
        .env("LC_ALL", "C")
        .env("LIBVIRT_DEFAULT_URI", uri(host))
        .env(
            "PYTHONPATH",
            root("usr/lib/python3/dist-packages") + ":" + &root("usr/share/virt-manager"),
        )
        .env(
            "GI_TYPELIB_PATH",
            root("usr/lib/x86_64-linux-gnu/girepository-1.0"),
        )
        .env("LD_LIBRARY_PATH", root("usr/lib/x86_64-linux-gnu"))
        .env("OSINFO_SYSTEM_DIR", root("usr/share/osinfo"))
        // Nothing of it is kept.
        .env("XDG_CACHE_HOME", host.path("cache"))
        .stdin(Stdio::null());
    command
}

pub fn uri(host: &Host) -> String {
    format!("qemu+unix:///system?socket={}", host.path("sock").display())
}

/// virt-install, virt-xml or virt-clone.
pub fn program(host: &Host, name: &str) -> Command {
    let mut command = python(host);
    command
        .arg(unpacked().join("root/usr/bin").join(name))
        .args(["--connect", &uri(host)]);
    command
}

/// What a command prints when it succeeds.
pub fn printed(command: &mut Command) -> String {
    let output = command.output().unwrap();
    let (said, errors) = (
        String::from_utf8_lossy(&output.stdout),
        String::from_utf8_lossy(&output.stderr),
    );
    assert!(output.status.success(), "{command:?}: {said}{errors}");
    said.into_owned()
}
