//! Unix sockets: who may connect, where they are, who has them already, and systemd's.

use std::fs;
use std::io::Read;
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::os::unix::net::{UnixDatagram, UnixListener, UnixStream};
use std::path::Path;
use std::process::{Command, Stdio};

use super::{NOBODY, Place, as_user, can_be_others, complaint, definition, printed, virsh};
use crate::setup::wait_until;
use crate::support::OSTLER;

/// A group that no host has.
const GROUP: &str = "47114711";

#[test]
fn a_group_may_manage_and_everyone_may_look() {
    if !can_be_others("a_group_may_manage_and_everyone_may_look") {
        return;
    }
    let place = Place::start(&format!("group = \"{GROUP}\""));
    let socket = fs::metadata(place.path("sock")).unwrap();
    assert_eq!((socket.uid(), socket.gid().to_string().as_str()), (0, GROUP));
    assert_eq!(socket.permissions().mode() & 0o777, 0o660);
    let readonly = fs::metadata(place.path("sock-ro")).unwrap();
    assert_eq!(readonly.permissions().mode() & 0o777, 0o666);

    let file = definition(&place.path(""), "alpha");
    let define = virsh(&place.uri(), &format!("define {file}"));
    let said = complaint(as_user(&define, NOBODY, NOBODY));
    assert!(said.contains("Permission denied"), "{said}");
    printed(as_user(&define, NOBODY, GROUP));
    place.expect_in_log(&format!("uid={NOBODY} gid={GROUP} pid="));
    let list = virsh(&place.readonly_uri(), "list --all --name");
    assert_eq!(printed(as_user(&list, NOBODY, NOBODY)).trim(), "alpha");
    let undefine = virsh(&place.readonly_uri(), "undefine alpha");
    let said = complaint(as_user(&undefine, NOBODY, NOBODY));
    assert!(said.contains("read only access prevents"), "{said}");
}

#[test]
fn without_a_group_only_the_daemons_user_gets_in() {
    if !can_be_others("without_a_group_only_the_daemons_user_gets_in") {
        return;
    }
    let place = Place::start("group = \"\"");
    assert_eq!(
        fs::metadata(place.path("sock")).unwrap().permissions().mode() & 0o777,
        0o600
    );
    printed(virsh(&place.uri(), "hostname"));
    // Whatever somebody did to the socket, its door is not theirs.
    fs::set_permissions(place.path("sock"), fs::Permissions::from_mode(0o666)).unwrap();
    complaint(as_user(&virsh(&place.uri(), "hostname"), NOBODY, NOBODY));
    place.expect_in_log("connect refused=\"this socket is for the daemon's own user\"");
}

#[test]
fn a_wrong_configuration_is_refused_whole() {
    for (config, says) in [
        ("group = 5", "line 5: invalid type"),
        (
            "mode = \"0660\"\n\nsocket = \"/x\"",
            "line 7: unknown field `socket`",
        ),
        ("group = \"no-such-group\"", "there is no group \"no-such-group\""),
        ("[tls]\nca = \"/none\"", "cannot read \"/none\""),
        (
            "[audit]\nfile = \"/none/audit\"",
            "cannot write the audit log \"/none/audit\"",
        ),
    ] {
        let place = Place::new(config);
        let said = complaint(place.daemon());
        assert!(said.contains(says) && said.lines().count() == 1, "{said}");
        assert!(!place.path("sock").exists());
    }
    let place = Place::new("");
    let mut check = place.daemon();
    check.arg("--check");
    printed(check);
    assert!(!place.path("sock").exists());
}

#[test]
fn several_daemons_run_side_by_side() {
    let uuids = [
        "11111111-2222-4333-8444-555555555555",
        "aaaaaaaa-2222-4333-8444-555555555555",
    ];
    let places = uuids.map(|uuid| {
        let mut place = Place::new("");
        let text = fs::read_to_string(place.path("daemon.toml")).unwrap();
        fs::write(
            place.path("daemon.toml"),
            format!("host-uuid = \"{uuid}\"\n{text}"),
        )
        .unwrap();
        place.run(place.daemon());
        place
    });
    for (number, (place, uuid)) in places.iter().zip(uuids).enumerate() {
        let name = format!("guest{number}");
        printed(virsh(
            &place.uri(),
            &format!("define {}", definition(&place.path(""), &name)),
        ));
        assert_eq!(printed(virsh(&place.uri(), "list --all --name")).trim(), name);
        assert!(printed(virsh(&place.uri(), "capabilities")).contains(&format!("<uuid>{uuid}</uuid>")));
    }
}

#[test]
fn who_listens_already_is_named_and_left_alone() {
    let place = Place::start("");
    // A daemon with folders of its own at the same socket, and at one that this test has.
    let other = Place::new("");
    let theirs = other.path("theirs");
    let listener = UnixListener::bind(&theirs).unwrap();
    let daemon = place.daemon.as_ref().unwrap().id();
    for (socket, who) in [
        (
            place.path("sock"),
            format!("\"ostler\" (process {daemon}) listens at"),
        ),
        (
            theirs.clone(),
            format!("(process {}) listens at", std::process::id()),
        ),
    ] {
        let mut second = other.daemon();
        second.arg("--socket").arg(&socket);
        let said = complaint(second);
        assert!(said.contains(&who), "{said}");
    }
    printed(virsh(&place.uri(), "hostname"));
    // Nobody has connected to the test's socket, and whoever does now gets through.
    listener.set_nonblocking(true).unwrap();
    assert!(listener.accept().is_err());
    UnixStream::connect(&theirs).unwrap();
    listener.accept().unwrap();
}

#[test]
fn an_ordinary_user_has_a_session_of_its_own() {
    if !can_be_others("an_ordinary_user_has_a_session_of_its_own") {
        return;
    }
    let mut place = Place::new("");
    let user: u32 = NOBODY.parse().unwrap();
    for folder in ["runtime", "config", "home"] {
        fs::create_dir(place.path(folder)).unwrap();
        std::os::unix::fs::chown(place.path(folder), Some(user), Some(user)).unwrap();
    }
    // Where it was built, others may not look.
    let copy = place.path("ostler");
    fs::copy(OSTLER, &copy).unwrap();
    let as_them = |command: &Command| {
        let mut command = as_user(command, NOBODY, NOBODY);
        command
            .env("XDG_RUNTIME_DIR", place.path("runtime"))
            .env("XDG_CONFIG_HOME", place.path("config"))
            .env("HOME", place.path("home"))
            .env("LIBVIRT_AUTOSTART", "0");
        command
    };
    let mut daemon = Command::new(&copy);
    daemon.arg("daemon");
    let daemon = as_them(&daemon);
    let file = definition(&place.path(""), "mine");
    let session = |arguments: &str| as_them(&virsh("qemu:///session", arguments));
    let commands = [
        session(&format!("define {file}")),
        session("list --all --name"),
        session("uri"),
    ];
    let system = as_them(&virsh(
        &format!(
            "qemu+unix:///system?socket={}",
            place.path("runtime/libvirt/libvirt-sock").display()
        ),
        "hostname",
    ));
    place.run(daemon);
    let [define, list, uri] = commands;
    printed(define);
    assert_eq!(printed(list).trim(), "mine");
    assert_eq!(printed(uri).trim(), "qemu:///session");
    let kept = fs::metadata(place.path("config/ostler/guests/mine.xml")).unwrap();
    assert_eq!(kept.uid(), user);
    let said = complaint(system);
    assert!(said.contains("this daemon serves qemu:///session"), "{said}");
    // Root is no part of it, but may look after it.
    for socket in ["libvirt-sock", "virtqemud-sock"] {
        let socket = place.path("runtime/libvirt").join(socket);
        assert_eq!(fs::metadata(&socket).unwrap().permissions().mode() & 0o777, 0o600);
        let uri = format!("qemu+unix:///session?socket={}", socket.display());
        assert_eq!(printed(virsh(&uri, "list --all --name")).trim(), "mine");
    }
}

/// Whether somebody listens at a socket, without connecting to it.
fn listens(path: &Path) -> bool {
    let list = fs::read_to_string("/proc/net/unix").unwrap();
    list.lines()
        .any(|line| line.ends_with(path.to_str().unwrap()) && line.contains(" 00010000 "))
}

#[test]
fn systemd_hands_over_sockets_and_hears_when_it_is_ready() {
    const NAME: &str = "systemd_hands_over_sockets_and_hears_when_it_is_ready";
    if Command::new("systemd-socket-activate")
        .arg("--version")
        .output()
        .is_err()
    {
        eprintln!("SKIPPED {NAME}: this machine has no systemd-socket-activate");
        return;
    }
    let mut place = Place::new("");
    let notify = UnixDatagram::bind(place.path("notify")).unwrap();
    let (activated, activated_ro) = (place.path("activated"), place.path("activated-ro"));
    let daemon = place.daemon();
    let activate = |names: &str| {
        let mut command = Command::new("systemd-socket-activate");
        command
            .arg("-l")
            .arg(&activated)
            .arg("-l")
            .arg(&activated_ro)
            .arg(format!("--fdname={names}"))
            .arg("-E")
            .arg(format!("NOTIFY_SOCKET={}", place.path("notify").display()))
            .arg(daemon.get_program())
            .args(daemon.get_args());
        command
    };
    // Names that say nothing.
    let mut wrong = activate("a:b")
        .stdin(Stdio::null())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    wait_until("systemd listens", || UnixStream::connect(&activated).is_ok());
    assert!(!wrong.wait().unwrap().success());
    let mut said = String::new();
    wrong.stderr.take().unwrap().read_to_string(&mut said).unwrap();
    assert!(said.contains("has to be read-write, read-only or tls"), "{said}");

    let _ = fs::remove_file(&activated);
    let _ = fs::remove_file(&activated_ro);
    let command = activate("read-write:read-only");
    let log = fs::File::create(place.path("log")).unwrap();
    place.daemon = Some({
        let mut command = command;
        command
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(log)
            .spawn()
            .unwrap()
    });
    wait_until("systemd listens", || {
        listens(&activated) && listens(&activated_ro)
    });
    // The first client starts it, and waits meanwhile.
    let at = |socket: &Path| format!("qemu+unix:///system?socket={}", socket.display());
    printed(virsh(
        &at(&activated),
        &format!("define {}", definition(&place.path(""), "alpha")),
    ));
    let mut told = [0; 64];
    let count = notify.recv(&mut told).unwrap();
    assert_eq!(&told[..count], b"READY=1");
    assert_eq!(
        printed(virsh(&at(&activated_ro), "list --all --name")).trim(),
        "alpha"
    );
    let said = complaint(virsh(&at(&activated_ro), "undefine alpha"));
    assert!(said.contains("read only access prevents"), "{said}");
    assert!(
        !place.path("sock").exists(),
        "sockets that were handed over take the place of those of the file"
    );

    let pid = rustix::process::Pid::from_child(place.daemon.as_ref().unwrap());
    rustix::process::kill_process(pid, rustix::process::Signal::TERM).unwrap();
    assert!(place.daemon.as_mut().unwrap().wait().unwrap().success());
    let count = notify.recv(&mut told).unwrap();
    assert_eq!(&told[..count], b"STOPPING=1");
    assert!(activated.exists(), "systemd's socket is systemd's to remove");
}

#[test]
fn too_many_of_one_kind_keep_out_no_other() {
    let place = Place::start("");
    let name = rustix::system::uname().nodename().to_str().unwrap().to_owned();
    // Everyone may look; 512 do, and those after them are hung up on.
    let mut crowd: Vec<_> = (0..600)
        .map(|_| UnixStream::connect(place.path("sock-ro")).expect("accepted by the kernel"))
        .collect();
    for stream in &mut crowd[512..] {
        assert_eq!(stream.read(&mut [0]).unwrap_or(0), 0);
    }
    place.expect_in_log("512 clients are connected by this kind of socket");
    complaint(virsh(&place.readonly_uri(), "hostname"));
    assert_eq!(printed(virsh(&place.uri(), "hostname")).trim(), name);
    drop(crowd);
    wait_until("there is room again", || {
        virsh(&place.readonly_uri(), "hostname")
            .output()
            .unwrap()
            .status
            .success()
    });
}

#[test]
fn an_audit_log_that_takes_nothing_stops_no_one() {
    let place = Place::start("[audit]\nfile = \"/dev/full\"");
    printed(virsh(
        &place.uri(),
        &format!("define {}", definition(&place.path(""), "alpha")),
    ));
    place.expect_in_log(
        "call=DOMAIN_DEFINE_XML object=\"alpha\" done (not in the audit log: No space left on device",
    );
    assert_eq!(printed(virsh(&place.uri(), "list --all --name")).trim(), "alpha");
}
