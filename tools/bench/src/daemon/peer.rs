//! Debian's libvirtd, unpacked and not installed.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use crate::error::Error;
use crate::net::space::run_command;

/// Where `./bench` unpacked it.
const ROOT: &str = "target/libvirtd/root";
const DRIVERS: &str = "usr/lib/x86_64-linux-gnu/libvirt";
/// Where it keeps what lasts, and what is to be put there from the benchmark's folder.
const KEPT: [(&str, &str); 3] = [
    ("/etc/libvirt", "etc"),
    ("/var/lib/libvirt", "lib"),
    ("/var/cache/libvirt", "cache"),
];
const SOCKET: &str = "/run/libvirt/libvirt-sock";

/// In the mount namespace of the benchmark: a /run of its own, and the user that Debian's libvirtd looks for.
const PREPARE: &str = r#"
set -e
mount --make-rprivate /
mount -t tmpfs tmpfs /run
mkdir -p /run/libvirt /etc/libvirt /var/lib/libvirt /var/cache/libvirt
for file in passwd group; do cp /etc/$file /run/$file; done
grep -q ^libvirt-qemu: /run/passwd || echo 'libvirt-qemu:x:64055:64055::/:/bin/false' >>/run/passwd
grep -q ^libvirt-qemu: /run/group || echo 'libvirt-qemu:x:64055:' >>/run/group
grep -q ^kvm: /run/group || echo 'kvm:x:64056:' >>/run/group
for file in passwd group; do mount --bind /run/$file /etc/$file; done
"#;

/// Prepares the namespace.
pub(super) fn prepare() -> Result<(), Error> {
    run_command(Command::new("sh").args(["-c", PREPARE])).map(drop)
}

/// The command of a libvirtd whose definitions are in `folder`, and its socket.
pub(super) fn command(folder: &Path) -> Result<(Command, PathBuf), Error> {
    for (place, name) in KEPT {
        let kept = folder.join(name);
        fs::create_dir_all(&kept).map_err(|e| Error::Write(kept.clone(), e))?;
        // Over the one before, which is of the same folder or of one that is gone.
        run_command(Command::new("mount").arg("--bind").arg(&kept).arg(place))?;
    }
    let files = [
        (
            "libvirtd.conf",
            "unix_sock_group = \"root\"\nauth_unix_rw = \"none\"\nauth_unix_ro = \"none\"\nmax_clients = 5000\n",
        ),
        (
            "qemu.conf",
            "user = \"root\"\ngroup = \"root\"\nsecurity_driver = \"none\"\n",
        ),
    ];
    for (name, text) in files {
        let path = Path::new("/etc/libvirt").join(name);
        fs::write(&path, text).map_err(|e| Error::Write(path, e))?;
    }
    let absolute = |path: PathBuf| std::path::absolute(&path).map_err(|e| Error::Read(path, e));
    let root = absolute(PathBuf::from(ROOT))?;
    let mut command = Command::new(root.join("usr/sbin/libvirtd"));
    command
        .env("LD_LIBRARY_PATH", root.join("usr/lib/x86_64-linux-gnu"))
        .env("LIBVIRT_DRIVER_DIR", root.join(DRIVERS).join("connection-driver"))
        .env(
            "LIBVIRT_STORAGE_BACKEND_DIR",
            root.join(DRIVERS).join("storage-backend"),
        );
    Ok((command, PathBuf::from(SOCKET)))
}
