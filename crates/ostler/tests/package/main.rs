//! The Debian package that `./package` makes: what is in it, and that a fresh Debian with it serves virsh.

#[path = "../support/mod.rs"]
mod support;
mod systemd;

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use support::OSTLER;

fn repository() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../..")
}

/// What a command prints when it succeeds.
fn printed(command: &mut Command) -> String {
    let output = command.output().unwrap_or_else(|e| panic!("{command:?}: {e}"));
    let errors = String::from_utf8_lossy(&output.stderr);
    let said = String::from_utf8_lossy(&output.stdout).into_owned();
    assert!(output.status.success(), "{command:?}: {errors}{said}");
    said
}

/// The package, made of the binary under test.
fn package(folder: &Path) -> PathBuf {
    printed(
        Command::new(repository().join("package"))
            .env("OSTLER", OSTLER)
            .arg(folder),
    );
    let made = fs::read_dir(folder).unwrap().next().unwrap().unwrap().path();
    assert_eq!(made.extension().unwrap(), "deb");
    made
}

#[test]
fn the_package_has_what_it_takes() {
    const NAME: &str = "the_package_has_what_it_takes";
    if Command::new("dpkg-deb").arg("--version").output().is_err() {
        eprintln!("SKIPPED {NAME}: this machine has no dpkg-deb");
        return;
    }
    let folder = tempfile::tempdir().unwrap();
    let package = package(&folder.path().join("package"));
    let listed = printed(Command::new("dpkg-deb").arg("--contents").arg(&package));
    for file in [
        "./usr/bin/ostler",
        "./usr/bin/virt-ssh-helper -> ostler",
        "./lib/systemd/system/ostler.service",
        "./lib/systemd/system/ostler-ro.socket",
        "./etc/ostler/daemon.toml",
        "./usr/share/man/man1/ostler.1.gz",
        "./usr/share/man/man1/ostler-daemon.1.gz",
        "./usr/share/bash-completion/completions/ostler",
        "./usr/share/doc/ostler/copyright",
    ] {
        assert!(
            listed.lines().any(|line| line.ends_with(file)),
            "{file} is not in\n{listed}"
        );
    }
    assert!(
        listed.lines().all(|line| line.contains(" root/root ")),
        "{listed}"
    );
    let root = folder.path().join("root");
    printed(Command::new("dpkg-deb").arg("--extract").arg(&package).arg(&root));
    for (program, name) in [("ostler", "ostler"), ("virt-ssh-helper", "virt-ssh-helper")] {
        let version = printed(Command::new(root.join("usr/bin").join(program)).arg("--version"));
        assert_eq!(version.trim(), format!("{name} {}", env!("CARGO_PKG_VERSION")));
    }
    // The configuration that comes along says what is usual: with everything in it said, nothing is wrong.
    let text = fs::read_to_string(root.join("etc/ostler/daemon.toml")).unwrap();
    let said: String = text
        .lines()
        .filter(|line| !line.starts_with("# "))
        .map(|line| line.trim_start_matches('#').to_owned() + "\n")
        .collect();
    let file = folder.path().join("daemon.toml");
    fs::write(&file, said).unwrap();
    for file in [file, root.join("etc/ostler/daemon.toml")] {
        printed(
            Command::new(OSTLER)
                .args(["daemon", "--check", "--config"])
                .arg(file),
        );
    }
}

/// What is done in the fresh Debian. Each step ends the script if it fails.
const SCRIPT: &str = "
set -e
export LC_ALL=C
mount -t proc proc /proc
mount -t tmpfs -o mode=755 tmpfs /run
dpkg --install /ostler.deb
getent group libvirt
for unit in ostler.service ostler.socket ostler-ro.socket; do systemctl is-enabled $unit; done
if systemctl is-enabled ostler-tls.socket; then exit 1; fi
systemd-analyze verify --man=no ostler.service ostler.socket ostler-ro.socket ostler-tls.socket
ostler daemon &
daemon=$!
while ! [ -S /run/libvirt/virtqemud-sock-ro ]; do sleep 0.1; kill -0 $daemon; done
echo \"socket: $(stat -c '%a %U:%G' /run/libvirt/libvirt-sock)\"
virsh --connect qemu:///system list --all
virsh --connect qemu:///system --readonly hostname
printf '<domain type=\"qemu\"><name>inn</name><memory>65536</memory><os><type>hvm</type></os></domain>' >/inn.xml
virsh --connect qemu:///system define /inn.xml
ostler ps --all
echo \"networks: $(virsh --connect qemu:///system net-list --autostart --name)\"
echo \"pools: $(virsh --connect qemu:///system pool-list --autostart --name)\"
ostler doctor
kill $daemon
wait $daemon
dpkg --remove ostler
if [ -e /usr/bin/ostler ]; then exit 1; fi
[ -e /etc/ostler/daemon.toml ]
[ -e /var/lib/ostler/guests/inn.xml ]
dpkg --purge ostler
if [ -e /etc/ostler ]; then exit 1; fi
echo all of it
";

/// Whether this machine and this run may make a Debian; says so if not.
fn can_make_a_debian(test: &str) -> bool {
    if std::env::var_os("OSTLER_NIGHTLY").is_none() {
        eprintln!("SKIPPED {test}: it makes a Debian, which takes a minute or two; ./test --nightly does so");
        return false;
    }
    let can =
        rustix::process::geteuid().is_root() && Command::new("mmdebstrap").arg("--version").output().is_ok();
    if !can {
        eprintln!("SKIPPED {test}: needs root, and mmdebstrap to make a Debian");
    }
    can
}

/// A Debian with these packages, separated by commas, in a new folder.
fn make_a_debian(root: &Path, packages: &str) {
    printed(
        Command::new("mmdebstrap")
            .args(["--quiet", "--variant=minbase", "--dpkgopt=force-unsafe-io"])
            .arg(format!("--include={packages}"))
            .args([
                "--dpkgopt=path-exclude=/usr/share/doc/*",
                "--dpkgopt=path-exclude=/usr/share/locale/*",
            ])
            .arg("bookworm")
            .arg(root),
    );
}

#[test]
fn a_fresh_debian_with_the_package_serves_virsh() {
    const NAME: &str = "a_fresh_debian_with_the_package_serves_virsh";
    if !can_make_a_debian(NAME) {
        return;
    }
    let folder = tempfile::tempdir().unwrap();
    let package = package(&folder.path().join("package"));
    let root = folder.path().join("root");
    make_a_debian(&root, "libvirt-clients,systemd");
    fs::copy(&package, root.join("ostler.deb")).unwrap();
    let said = printed(
        Command::new("unshare")
            .args(["--mount", "--pid", "--fork", "--kill-child", "chroot"])
            .arg(&root)
            .args(["sh", "-c", SCRIPT]),
    );
    for line in [
        "socket: 660 root:libvirt",
        "Domain 'inn' defined from /inn.xml",
        "networks: default",
        "pools: default",
        "--accel auto takes ",
        "all of it",
    ] {
        assert!(said.contains(line), "{line} is not in\n{said}");
    }
}
