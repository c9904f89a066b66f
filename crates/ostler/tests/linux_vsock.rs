//! Linux guests and the host talk by AF_VSOCK. The guest's program is this file's own test program, which is copied into the guest.

mod support;

use std::fs;
use std::io::{self, Read, Write};
use std::net::Shutdown;
use std::os::fd::{AsFd, AsRawFd, FromRawFd, OwnedFd};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};
use std::thread;
use std::time::Duration;

use serde_json::json;
use support::qmp::Qmp;
use support::{Guest, Running, guest_folder};

const LIMIT: Duration = Duration::from_secs(300);
const CID: u32 = 42;

/// Where the guest listens: what comes is sent back.
const ECHO: u32 = 1000;
/// Where the host listens: it sends back what comes; it takes its time; nobody; it says whether to start again.
const HOST_ECHO: u32 = 2000;
const HOST_SLOW: u32 = 2001;
const HOST_NOBODY: u32 = 2002;
const HOST_WORD: u32 = 2003;

/// Bytes of a long transfer, and of each of many.
const LONG: usize = 8 << 20;
const SHORT: usize = 64 << 10;
const MANY: usize = 60;

/// Set in the guest only.
const IN_GUEST: &str = "OSTLER_IN_VSOCK_GUEST";

/// Bytes that depend on `seed`, and repeat nowhere near.
fn pattern(seed: usize, len: usize) -> Vec<u8> {
    let mut state = seed as u64 + 1;
    let words = (0..len.div_ceil(8)).flat_map(|_| {
        state = state
            .wrapping_mul(6_364_136_223_846_793_005)
            .wrapping_add(1_442_695_040_888_963_407);
        (state ^ state >> 29).to_le_bytes()
    });
    words.take(len).collect()
}

/// Sends a pattern, ends, and takes it back; an error if anything else comes.
fn exchange(stream: UnixStream, seed: usize, len: usize) -> io::Result<()> {
    let bytes = pattern(seed, len);
    let mut writer = stream.try_clone()?;
    let sent = bytes.clone();
    let sender = thread::spawn(move || {
        writer.write_all(&sent)?;
        writer.shutdown(Shutdown::Write)
    });
    let mut back = Vec::new();
    (&stream).read_to_end(&mut back)?;
    sender.join().expect("the sender does not panic")?;
    match back == bytes {
        true => Ok(()),
        false => Err(io::Error::other(format!(
            "{} bytes came back, not the same {len}",
            back.len()
        ))),
    }
}

/// Sends back what comes, to its end.
fn echo(mut stream: UnixStream) -> io::Result<()> {
    let mut writer = stream.try_clone()?;
    io::copy(&mut stream, &mut writer)?;
    writer.shutdown(Shutdown::Write)
}

// The guest's side.

/// A vsock socket. Streams of any family are read and written alike: it goes on as a `UnixStream`.
fn vsock() -> io::Result<OwnedFd> {
    // SAFETY: a call without pointers.
    let fd = unsafe { libc::socket(libc::AF_VSOCK, libc::SOCK_STREAM | libc::SOCK_CLOEXEC, 0) };
    if fd < 0 {
        return Err(io::Error::last_os_error());
    }
    // SAFETY: the descriptor is new, and nobody else has it.
    Ok(unsafe { OwnedFd::from_raw_fd(fd) })
}

fn address(cid: u32, port: u32) -> libc::sockaddr_vm {
    // SAFETY: the structure is plain numbers.
    let mut address: libc::sockaddr_vm = unsafe { std::mem::zeroed() };
    address.svm_family = libc::AF_VSOCK as libc::sa_family_t;
    address.svm_cid = cid;
    address.svm_port = port;
    address
}

fn check(result: i32) -> io::Result<()> {
    match result {
        0 => Ok(()),
        _ => Err(io::Error::last_os_error()),
    }
}

fn connect(cid: u32, port: u32) -> io::Result<UnixStream> {
    let socket = vsock()?;
    let address = address(cid, port);
    let size = size_of_val(&address) as libc::socklen_t;
    // SAFETY: the address is of its family's type, and lives as long as the call.
    check(unsafe { libc::connect(socket.as_raw_fd(), (&raw const address).cast(), size) })?;
    Ok(socket.into())
}

fn listen(port: u32) -> io::Result<OwnedFd> {
    let socket = vsock()?;
    let address = address(libc::VMADDR_CID_ANY, port);
    let size = size_of_val(&address) as libc::socklen_t;
    // SAFETY: the address is of its family's type, and lives as long as the call.
    check(unsafe { libc::bind(socket.as_raw_fd(), (&raw const address).cast(), size) })?;
    // SAFETY: a call without pointers.
    check(unsafe { libc::listen(socket.as_raw_fd(), 128) })?;
    Ok(socket)
}

fn accept(listener: &OwnedFd) -> io::Result<UnixStream> {
    // SAFETY: the address of the peer is not asked for.
    let fd = unsafe { libc::accept(listener.as_raw_fd(), std::ptr::null_mut(), std::ptr::null_mut()) };
    if fd < 0 {
        return Err(io::Error::last_os_error());
    }
    // SAFETY: the descriptor is new, and nobody else has it.
    Ok(unsafe { UnixStream::from_raw_fd(fd) })
}

/// The CID that the guest's kernel knows.
fn own_cid() -> io::Result<u32> {
    /// `IOCTL_VM_SOCKETS_GET_LOCAL_CID`.
    const GET_LOCAL_CID: libc::c_ulong = 0x7b9;
    let device = fs::File::open("/dev/vsock")?;
    let mut cid = 0u32;
    // SAFETY: the call writes one word to where the pointer leads.
    check(unsafe { libc::ioctl(device.as_raw_fd(), GET_LOCAL_CID, &raw mut cid) })?;
    Ok(cid)
}

fn say(what: &str) {
    println!("{what}");
    let _ = io::stdout().flush();
}

fn serve_echo() -> io::Result<()> {
    let listener = listen(ECHO)?;
    thread::spawn(move || {
        while let Ok(stream) = accept(&listener) {
            thread::spawn(|| echo(stream));
        }
    });
    Ok(())
}

fn read_line() -> String {
    let mut line = String::new();
    io::stdin().read_line(&mut line).unwrap();
    line.trim().into()
}

fn everything() -> io::Result<()> {
    say(&format!("cid {}", own_cid()?));
    serve_echo()?;
    exchange(connect(2, HOST_ECHO)?, 1, LONG)?;
    say("long good");
    let many = (0..MANY).map(|seed| thread::spawn(move || exchange(connect(2, HOST_ECHO)?, seed, SHORT)));
    let many: Vec<_> = many.collect();
    for one in many {
        one.join().expect("no panic")?;
    }
    say("many good");
    let nobody = connect(2, HOST_NOBODY)
        .map(drop)
        .map_err(|error| error.raw_os_error());
    say(&format!("nobody {}", nobody == Err(Some(libc::ECONNRESET))));

    // The host does not read: there is an end to what can be sent, and then everything arrives.
    let mut slow = connect(2, HOST_SLOW)?;
    slow.set_nonblocking(true)?;
    let bytes = pattern(7, LONG);
    let mut sent = 0;
    let mut quiet = 0;
    while quiet < 20 {
        match slow.write(&bytes[sent..]) {
            Ok(count) => (sent, quiet) = (sent + count, 0),
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                quiet += 1;
                thread::sleep(Duration::from_millis(50));
            }
            Err(error) => return Err(error),
        }
    }
    say(&format!("held back {}", sent < LONG));
    // It reads from here on.
    exchange(connect(2, HOST_ECHO)?, 3, 100)?;
    slow.set_nonblocking(false)?;
    slow.write_all(&bytes[sent..])?;
    slow.shutdown(Shutdown::Write)?;
    let mut word = [0; 4];
    slow.read_exact(&mut word)?;
    say(&format!("slow {}", String::from_utf8_lossy(&word)));
    say("ready");
    read_line();
    Ok(())
}

/// Echoes until it is told to end; with one connection to the host that a new CID breaks.
fn plugged() -> io::Result<()> {
    // The driver may come later than this program.
    let wait = || {
        for _ in 0..6000 {
            if own_cid().is_ok_and(|cid| cid != u32::MAX) {
                return;
            }
            thread::sleep(Duration::from_millis(50));
        }
    };
    serve_echo()?;
    say("waiting");
    wait();
    say(&format!("cid {}", own_cid()?));
    let mut stream = connect(2, HOST_ECHO)?;
    stream.write_all(b"x")?;
    stream.read_exact(&mut [0])?;
    say("connected");
    say(&format!("broken {}", stream.read(&mut [0]).is_err()));
    say(&format!("now {}", own_cid()?));
    read_line();
    Ok(())
}

/// Starts the guest again in the middle of a connection, as long as the host says so.
fn restarted() -> io::Result<()> {
    serve_echo()?;
    exchange(connect(2, HOST_ECHO)?, 1, SHORT)?;
    let mut stream = connect(2, HOST_WORD)?;
    let mut word = [0; 5];
    stream.read_exact(&mut word)?;
    if &word == b"again" {
        // SAFETY: a call without pointers; nothing is mounted that could be lost.
        check(unsafe { libc::reboot(libc::RB_AUTOBOOT) })?;
    }
    Ok(())
}

#[test]
#[ignore = "runs in the guest, by the other tests"]
fn the_guests_side() {
    let Ok(part) = std::env::var(IN_GUEST) else {
        eprintln!("the_guests_side: runs in the guest only");
        return;
    };
    let done = match part.as_str() {
        "everything" => everything(),
        "plugged" => plugged(),
        "restarted" => restarted(),
        part => panic!("{part}"),
    };
    done.unwrap_or_else(|error| panic!("{error}"));
    say("guest done");
}

// The host's side.

/// A guest that loads the drivers and runs `part`.
fn guest(part: &str) -> Guest {
    let versions = guest_folder().join("root/lib/modules");
    let version = fs::read_dir(&versions).unwrap().next().unwrap().unwrap().path();
    let mut script = String::new();
    let mut files: Vec<(String, Vec<u8>)> = Vec::new();
    for name in [
        "vsock",
        "vmw_vsock_virtio_transport_common",
        "vmw_vsock_virtio_transport",
    ] {
        let module = version.join(format!("kernel/net/vmw_vsock/{name}.ko"));
        files.push((format!("{name}.ko"), fs::read(module).unwrap()));
        script.push_str(&format!("insmod /{name}.ko\n"));
    }
    let program = std::env::current_exe().unwrap();
    for library in ostler_guest_image::shared_libraries(&program).unwrap() {
        files.push((library.to_string_lossy().into_owned(), fs::read(library).unwrap()));
    }
    files.push(("guest-program".into(), fs::read(program).unwrap()));
    script.push_str(&format!(
        "chmod 755 /guest-program\n{IN_GUEST}={part} /guest-program --ignored --exact the_guests_side --nocapture </dev/console\n"
    ));
    let files: Vec<_> = files
        .iter()
        .map(|(path, bytes)| (path.as_str(), bytes.as_slice()))
        .collect();
    Guest::new(2)
        .args(["--accel", "soft"])
        .memory("768M")
        .script_with(&script, &files)
}

/// Echoes at the port of the host beside `path`.
fn echo_at(path: &Path, port: u32) {
    let listener = UnixListener::bind(beside(path, port)).unwrap();
    thread::spawn(move || {
        for stream in listener.incoming() {
            let stream = stream.unwrap();
            thread::spawn(|| echo(stream));
        }
    });
}

fn beside(path: &Path, port: u32) -> PathBuf {
    format!("{}_{port}", path.display()).into()
}

/// Connects to the guest's `port`.
fn reach(path: &Path, port: u32) -> io::Result<UnixStream> {
    let mut stream = UnixStream::connect(path)?;
    stream.write_all(format!("CONNECT {port}\n").as_bytes())?;
    let mut line = String::new();
    let mut byte = [0];
    while !line.ends_with('\n') {
        if stream.read(&mut byte)? == 0 {
            return Err(io::ErrorKind::ConnectionRefused.into());
        }
        line.push(char::from(byte[0]));
    }
    let good = line
        .strip_prefix("OK ")
        .and_then(|port| port.trim().parse::<u32>().ok());
    assert!(good.is_some(), "{line:?}");
    Ok(stream)
}

fn assert_many_reach(path: &Path) {
    let many = (0..MANY).map(|seed| {
        let path = path.to_owned();
        thread::spawn(move || exchange(reach(&path, ECHO)?, 100 + seed, SHORT))
    });
    for one in many.collect::<Vec<_>>() {
        one.join().unwrap().unwrap();
    }
}

fn end(mut guest: Running) {
    guest.type_in("end\n");
    guest.expect("guest done\n", LIMIT);
    guest.wait(LIMIT).assert_clean();
}

#[test]
fn guest_and_host_exchange_megabytes_on_many_connections() {
    let mut guest = guest("everything");
    let path = guest.path_option("--vsock", &format!("cid={CID},socket="), "vsock");
    echo_at(&path, HOST_ECHO);
    let slow = UnixListener::bind(beside(&path, HOST_SLOW)).unwrap();
    // It reads when the guest has found out how much it can send.
    let (go, wait) = std::sync::mpsc::channel::<()>();
    let reader = thread::spawn(move || {
        let (mut stream, _) = slow.accept().unwrap();
        wait.recv().unwrap();
        let mut bytes = Vec::new();
        stream.read_to_end(&mut bytes).unwrap();
        stream
            .write_all(if bytes == pattern(7, LONG) {
                b"good"
            } else {
                b"bad!"
            })
            .unwrap();
    });
    let mut guest = guest.spawn();
    guest.expect(&format!("cid {CID}\n"), LIMIT);
    guest.expect("long good\n", LIMIT);
    guest.expect("many good\n", LIMIT);
    guest.expect("nobody true\n", LIMIT);
    guest.expect("held back true\n", LIMIT);
    go.send(()).unwrap();
    guest.expect("slow good\n", LIMIT);
    reader.join().unwrap();
    guest.expect("ready\n", LIMIT);
    exchange(reach(&path, ECHO).unwrap(), 5, LONG).unwrap();
    assert_many_reach(&path);
    let refused = reach(&path, ECHO + 1).unwrap_err();
    assert_eq!(refused.kind(), io::ErrorKind::ConnectionRefused);
    end(guest);
}

#[test]
fn a_guest_that_reboots_loses_its_connections_and_makes_new_ones() {
    let mut guest = guest("restarted").reboots();
    let path = guest.path_option("--vsock", &format!("cid={CID},socket="), "vsock");
    echo_at(&path, HOST_ECHO);
    let words = UnixListener::bind(beside(&path, HOST_WORD)).unwrap();
    let mut guest = guest.spawn();
    for word in [b"again", b"there"] {
        let (mut stream, _) = words.accept().unwrap();
        let mut client = reach(&path, ECHO).unwrap();
        stream.write_all(word).unwrap();
        // Both ends of before are over, whichever way they were made.
        assert_eq!(stream.read(&mut [0]).unwrap_or(0), 0);
        assert_eq!(client.read(&mut [0]).unwrap_or(0), 0);
    }
    guest.expect("guest done\n", LIMIT);
    let outcome = guest.wait(LIMIT);
    outcome.assert_clean();
    assert_eq!(
        outcome.console.matches("running 1 test").count(),
        2,
        "{}",
        outcome.console
    );
}

#[test]
fn a_vsock_device_is_plugged_in_gets_another_cid_and_goes() {
    let mut guest = guest("plugged");
    let control = guest.path_option("--control", "", "control");
    let path = guest.folder.path().join("vsock");
    echo_at(&path, HOST_ECHO);
    let listener = UnixListener::bind(&path).unwrap();
    let (plug, guests) = ostler_virtio::vsock::plug::pair().unwrap();
    // What `ostler run` does for a device that it is started with.
    let server = beside(&path, HOST_ECHO);
    thread::spawn(move || {
        use ostler_virtio::vsock::plug as wire;
        while let Ok((id, _)) = wire::wait_for_wish(&plug) {
            let stream = UnixStream::connect(&server).unwrap();
            wire::answer(&plug, id, Ok(stream.as_fd())).unwrap();
        }
    });
    let mut guest = guest.spawn();
    guest.expect("waiting\n", LIMIT);
    let mut qmp = Qmp::connect(&control);
    qmp.execute_with("getfd", json!({ "fdname": "door" }), listener);
    qmp.execute_with("getfd", json!({ "fdname": "plug" }), guests);
    let device = json!({ "driver": "vhost-vsock-pci", "id": "v0", "guest-cid": 7, "vhostfd": "door", "plugfd": "plug" });
    qmp.execute("device_add", device);
    guest.expect("cid 7\n", LIMIT);
    guest.expect("connected\n", LIMIT);
    exchange(reach(&path, ECHO).unwrap(), 5, SHORT).unwrap();
    let object = json!({ "path": "/machine/peripheral/v0", "property": "guest-cid" });
    assert_eq!(qmp.execute("qom-get", object), json!(7));
    qmp.execute(
        "qom-set",
        json!({ "path": "/machine/peripheral/v0", "property": "guest-cid", "value": 8 }),
    );
    guest.expect("broken true\n", LIMIT);
    guest.expect("now 8\n", LIMIT);
    assert_many_reach(&path);
    qmp.execute("device_del", json!({ "id": "v0" }));
    qmp.event("DEVICE_DELETED");
    assert!(
        UnixStream::connect(&path).is_err(),
        "nobody lets clients in any more"
    );
    end(guest);
}
