//! `qemu+ssh://`: virsh, Debian's ssh and sshd, and our helper or nc at the other end; a host of its own on the loopback interface.

use std::fs::{self, File, Permissions};
use std::net::{TcpListener, TcpStream};
use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

use super::{Place, complaint, definition, printed, virsh};
use crate::setup::wait_until;
use crate::support::OSTLER;

/// A host that only this test sees: its sshd, its /run, and a daemon at the places where clients look.
struct Remote {
    place: Place,
    sshd: Child,
    port: u16,
}

impl Drop for Remote {
    fn drop(&mut self) {
        let _ = self.sshd.kill();
        let _ = self.sshd.wait();
    }
}

/// Where `./test` unpacks Debian's sshd and nc.
fn peers() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../../target/openssh/root")
}

fn run(command: &mut Command) {
    let output = command.output().unwrap();
    assert!(
        output.status.success(),
        "{command:?}: {}",
        String::from_utf8_lossy(&output.stderr)
    );
}

fn key(path: &Path) {
    run(Command::new("ssh-keygen")
        .args(["-q", "-t", "ed25519", "-N", "", "-f"])
        .arg(path));
}

fn script(path: &Path, text: &str) {
    fs::write(path, format!("#!/bin/sh\n{text}\n")).unwrap();
    fs::set_permissions(path, Permissions::from_mode(0o755)).unwrap();
}

impl Remote {
    /// `None` where it cannot be; that is said.
    fn start(test: &str) -> Option<Self> {
        let peers = peers();
        if !rustix::process::geteuid().is_root() || !peers.join("usr/sbin/sshd").exists() {
            eprintln!(
                "SKIPPED {test}: needs root for sshd in a place of its own, and Debian's sshd in target/openssh, which ./test fetches"
            );
            return None;
        }
        let mut place = Place::new("");
        let at = |name: &str| place.path(name);
        key(&at("host_key"));
        key(&at("client_key"));
        fs::copy(at("client_key.pub"), at("authorized_keys")).unwrap();
        fs::create_dir(at("bin")).unwrap();
        let port = TcpListener::bind("127.0.0.1:0")
            .unwrap()
            .local_addr()
            .unwrap()
            .port();
        // What the client checks the host by.
        let host_key = fs::read_to_string(at("host_key.pub")).unwrap();
        fs::write(at("known_hosts"), format!("[127.0.0.1]:{port} {host_key}")).unwrap();
        script(
            &at("ssh"),
            &format!(
                "exec ssh -F none -o UserKnownHostsFile={} \"$@\"",
                at("known_hosts").display()
            ),
        );
        let folder = at("");
        let folder = folder.display();
        fs::write(
            at("sshd_config"),
            format!(
                "Port {port}\nListenAddress 127.0.0.1\nHostKey {folder}host_key\nAuthorizedKeysFile {folder}authorized_keys\n\
                 PidFile none\nUsePAM no\nStrictModes no\nPermitRootLogin yes\nPasswordAuthentication no\n\
                 SetEnv PATH={folder}bin:/usr/bin:/bin\n"
            ),
        )
        .unwrap();
        // sshd wants a user and a folder that its package makes, and a root that is not locked.
        let passwd = fs::read_to_string("/etc/passwd").unwrap();
        fs::write(
            at("passwd"),
            format!("{passwd}sshd:x:65533:65534::/run/sshd:/usr/sbin/nologin\n"),
        )
        .unwrap();
        fs::write(at("shadow"), "root:*:20000:0:99999:7:::\nsshd:!:20000::::::\n").unwrap();
        let libraries = peers.join("usr/lib/x86_64-linux-gnu");
        let enter = format!(
            "set -e; cd {folder}; mount -t tmpfs -o mode=755 tmpfs /run; mkdir -m 755 /run/sshd; mount --bind passwd /etc/passwd; \
             mount --bind shadow /etc/shadow; export LD_LIBRARY_PATH={}; exec {}/usr/sbin/sshd -D -e -f {folder}sshd_config",
            libraries.display(),
            peers.canonicalize().unwrap().display()
        );
        let sshd = Command::new("unshare")
            .args(["--mount", "--propagation", "private", "sh", "-c", &enter])
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(File::create(at("sshd.log")).unwrap())
            .spawn()
            .unwrap();
        wait_until("sshd listens", || {
            let log = fs::read_to_string(place.path("sshd.log")).unwrap();
            TcpStream::connect(("127.0.0.1", port)).is_ok() || panic_if_ended(&log)
        });
        // The daemon at its usual sockets, which in that /run are nobody else's.
        let mut daemon = Command::new("nsenter");
        daemon
            .arg(format!("--mount=/proc/{}/ns/mnt", sshd.id()))
            .args([OSTLER, "daemon", "--definitions"])
            .arg(place.path("definitions"));
        place.run(daemon);
        Some(Self { place, sshd, port })
    }

    fn virsh(&self, query: &str, arguments: &str) -> Command {
        let (key, ssh) = (self.place.path("client_key"), self.place.path("ssh"));
        let uri = format!(
            "qemu+ssh://root@127.0.0.1:{}/system?keyfile={}&command={}&no_tty=1&{query}",
            self.port,
            key.display(),
            ssh.display()
        );
        virsh(&uri, arguments)
    }

    /// A command where the daemon is.
    fn inside(&self, command: &Command) -> Command {
        let mut inside = Command::new("nsenter");
        inside
            .arg(format!("--mount=/proc/{}/ns/mnt", self.sshd.id()))
            .arg(command.get_program())
            .args(command.get_args())
            .env("LC_ALL", "C")
            .stdin(Stdio::null());
        inside
    }
}

fn panic_if_ended(log: &str) -> bool {
    assert!(
        !log.contains("fatal") && !log.contains("cannot") && !log.contains("mount:"),
        "sshd: {log}"
    );
    false
}

#[test]
fn virsh_comes_by_ssh_with_our_helper_and_with_nc() {
    let Some(remote) = Remote::start("virsh_comes_by_ssh_with_our_helper_and_with_nc") else {
        return;
    };
    let bin = remote.place.path("bin");
    let name = rustix::system::uname().nodename().to_str().unwrap().to_owned();
    // Where the other end has neither, the client says what it looked for.
    complaint(remote.virsh("proxy=native", "hostname"));

    symlink(OSTLER, bin.join("virt-ssh-helper")).unwrap();
    for proxy in ["proxy=auto", "proxy=native"] {
        assert_eq!(printed(remote.virsh(proxy, "hostname")).trim(), name);
    }
    let file = definition(&remote.place.path(""), "alpha");
    printed(remote.virsh("proxy=native", &format!("define {file}")));
    assert!(remote.place.path("definitions/alpha.xml").exists());
    // Who may only look gets the socket for that, by the helper's option.
    let said = complaint(remote.virsh("proxy=native", "-r undefine alpha"));
    assert!(said.contains("read only access prevents"), "{said}");
    remote.place.expect_in_log("by ReadOnly");
    // Much at once, and both ways at the same time.
    let xml = printed(remote.virsh("proxy=native", "dumpxml alpha"));
    assert!(xml.contains("<name>alpha</name>"), "{xml}");

    fs::remove_file(bin.join("virt-ssh-helper")).unwrap();
    script(
        &bin.join("nc"),
        &format!(
            "LD_LIBRARY_PATH={0}/usr/lib/x86_64-linux-gnu exec {0}/bin/nc.openbsd \"$@\"",
            peers().canonicalize().unwrap().display()
        ),
    );
    for proxy in ["proxy=auto", "proxy=netcat"] {
        assert_eq!(printed(remote.virsh(proxy, "list --all --name")).trim(), "alpha");
    }
    printed(remote.virsh("proxy=netcat", "undefine alpha"));
    assert!(!remote.place.path("definitions/alpha.xml").exists());
}

#[test]
fn clients_find_the_daemon_at_the_usual_places() {
    let Some(remote) = Remote::start("clients_find_the_daemon_at_the_usual_places") else {
        return;
    };
    let name = rustix::system::uname().nodename().to_str().unwrap().to_owned();
    for uri in [
        "qemu:///system",
        "qemu:///system?mode=auto",
        "qemu:///system?mode=legacy",
        "qemu:///system?mode=direct",
    ] {
        for arguments in ["hostname", "-r hostname"] {
            assert_eq!(
                printed(remote.inside(&virsh(uri, arguments))).trim(),
                name,
                "{uri}"
            );
        }
    }
    // The helper says in one line where it looked.
    let mut helper = Command::new(OSTLER);
    helper.args(["ssh-helper", "qemu:///session"]);
    let mut helper = remote.inside(&helper);
    helper.env("XDG_RUNTIME_DIR", remote.place.path("nowhere"));
    let said = complaint(helper);
    assert!(
        said.lines().count() == 1 && said.contains("nowhere/libvirt/libvirt-sock"),
        "{said}"
    );
}
