//! What a client that may only look is refused, procedure by procedure, over the wire; and what the audit log has of it.

use std::fs;
use std::io::{Read, Write};
use std::os::unix::net::UnixStream;

use ostler_libvirt::error::WireError;
use ostler_libvirt::frame::{PROGRAM_VERSION, REMOTE_PROGRAM};
use ostler_libvirt::procedures::{self, Access, Procedure, Row};
use ostler_libvirt::types::OpenArgs;
use ostler_libvirt::{Code, Header, Kind, Message, Status, xdr};

use super::{Place, complaint, definition, printed, virsh};

/// A client that says what it wants, and no more than that.
struct Raw(UnixStream);

impl Raw {
    fn call(&mut self, procedure: i32, payload: &[u8]) -> Message {
        self.call_in(REMOTE_PROGRAM, procedure, payload)
    }

    fn call_in(&mut self, program: u32, procedure: i32, payload: &[u8]) -> Message {
        let header = Header {
            program,
            version: PROGRAM_VERSION,
            procedure,
            kind: Kind::Call,
            serial: 7,
            status: Status::Ok,
        };
        let message = Message {
            header,
            payload: payload.to_vec(),
        };
        self.0.write_all(&message.to_bytes()).unwrap();
        Message::read(&mut self.0).unwrap().expect("an answer")
    }

    /// How a call is refused, if it is.
    fn error(&mut self, procedure: i32, payload: &[u8]) -> Option<WireError> {
        self.error_in(REMOTE_PROGRAM, procedure, payload)
    }

    fn error_in(&mut self, program: u32, procedure: i32, payload: &[u8]) -> Option<WireError> {
        let answer = self.call_in(program, procedure, payload);
        (answer.header.status == Status::Error).then(|| xdr::from_bytes(&answer.payload).unwrap())
    }
}

/// Words that procedures have in their names which change something; those that only ask have none of them.
const CHANGES: &[&str] = &[
    "_CREATE",
    "_DEFINE_XML",
    "_DESTROY",
    "_UNDEFINE",
    "_SET_",
    "_SHUTDOWN",
    "_REBOOT",
    "_RESET",
    "_SUSPEND",
    "_RESUME",
    "_ATTACH",
    "_DETACH",
    "_UPDATE",
    "_DELETE",
    "_INJECT",
    "_SEND_",
    "_RENAME",
    "_SAVE",
    "_RESTORE",
    "_MIGRATE",
    "_REVERT",
    "_BUILD",
    "_REFRESH",
    "_UPLOAD",
    "_DOWNLOAD",
    "_RESIZE",
    "_WIPE",
    "_REBASE",
    "_COMMIT",
    "_OPEN_CONSOLE",
    "_OPEN_CHANNEL",
    "_ABORT",
    "_CORE_DUMP",
    "_PEEK",
    "_SCREENSHOT",
    "_NATIVE",
    "SECRET_GET_VALUE",
    "MONITOR_COMMAND",
    "AGENT_COMMAND",
    "GET_HOSTNAME",
    "_FSTRIM",
    "_FSFREEZE",
    "_FSTHAW",
    "DOMAIN_GET_TIME",
    "_GET_FSINFO",
    "_GET_GUEST_INFO",
];

/// Names with such a word that ask all the same.
const ASKS: &[&str] = &[
    "DOMAIN_HAS_MANAGED_SAVE_IMAGE",
    "DOMAIN_SAVE_IMAGE_GET_XML_DESC",
    "DOMAIN_MANAGED_SAVE_GET_XML_DESC",
    "DOMAIN_IS_UPDATED",
    "DOMAIN_MIGRATE_GET_MAX_DOWNTIME",
    "DOMAIN_MIGRATE_GET_MAX_SPEED",
    "DOMAIN_MIGRATE_GET_COMPRESSION_CACHE",
    "CONNECT_GET_HOSTNAME",
];

#[test]
fn every_writing_procedure_is_refused_one_by_one() {
    let place = Place::start("");
    printed(virsh(
        &place.uri(),
        &format!("define {}", definition(&place.path(""), "alpha")),
    ));
    let connect = |name: &str| Raw(UnixStream::connect(place.path(name)).unwrap());
    // By the socket for it, and by the flag.
    let mut by_socket = connect("sock-ro");
    let mut by_flag = connect("sock");
    let open = OpenArgs {
        name: Some("qemu:///system".into()),
        flags: 1,
    };
    let answer = by_flag.call(procedures::ConnectOpen::NUMBER, &xdr::to_bytes(&open).unwrap());
    assert_eq!(answer.header.status, Status::Ok);
    // Whoever opens once more without the flag has gained nothing.
    let again = OpenArgs { flags: 0, ..open };
    for client in [&mut by_flag, &mut by_socket] {
        client.call(procedures::ConnectOpen::NUMBER, &xdr::to_bytes(&again).unwrap());
    }
    let writes = |row: &&Row| row.access == Access::Writes;
    assert!(procedures::TABLE.iter().filter(writes).count() > 15);
    for row in procedures::TABLE {
        // The first is refused before its arguments are looked at; a guest that is there would be found by the second.
        let domain = [&5u32.to_be_bytes()[..], b"alpha\0\0\0", &[0; 20]].concat();
        for (client, payload) in [(&mut by_socket, &[][..]), (&mut by_flag, &domain)] {
            let error = client.error_in(row.program, row.number, payload);
            let denied = error.is_some_and(|error| error.code == Code::OperationDenied as i32);
            assert_eq!(denied, row.access == Access::Writes, "{row:?}");
        }
        if row.access == Access::Writes {
            place.expect_in_log(&format!("call={} object=\"alpha\" refused=", row.name));
        }
        // The table itself, by another measure than itself.
        let changes = CHANGES.iter().any(|word| row.name.contains(word)) && !ASKS.contains(&row.name);
        assert!(
            !changes || row.access == Access::Writes,
            "{row:?} is open to everyone"
        );
    }
    assert_eq!(printed(virsh(&place.uri(), "list --all --name")).trim(), "alpha");
}

#[test]
fn changes_and_refusals_are_in_the_audit_log() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("audit");
    fs::write(&file, "what was there before\n").unwrap();
    let place = Place::start(&format!("[audit]\nfile = \"{}\"", file.display()));
    let xml = definition(&place.path(""), "alpha");
    printed(virsh(&place.uri(), &format!("define {xml}")));
    printed(virsh(&place.uri(), "dominfo alpha"));
    complaint(virsh(&place.readonly_uri(), "autostart alpha"));
    complaint(virsh(&place.uri(), "destroy alpha"));
    // A name that would like to be a line of its own.
    let mut raw = Raw(UnixStream::connect(place.path("sock")).unwrap());
    let name = String::from("x\n2026 uid=0 call=DOMAIN_DESTROY object=\"y\" done");
    let domain = [&xdr::to_bytes(&name).unwrap()[..], &[0; 20]].concat();
    assert!(raw.error(procedures::DomainCreate::NUMBER, &domain).is_some());

    let text = fs::read_to_string(&file).unwrap();
    let mut lines = text.lines();
    assert_eq!(lines.next(), Some("what was there before"));
    let uid = rustix::process::geteuid().as_raw();
    for what in [
        "call=DOMAIN_DEFINE_XML object=\"alpha\" done",
        "call=DOMAIN_SET_AUTOSTART object=\"alpha\" refused=\"operation forbidden: read only access prevents DOMAIN_SET_AUTOSTART\"",
        "call=DOMAIN_DESTROY object=\"alpha\" refused=\"Requested operation is not valid: ",
        "call=DOMAIN_CREATE object=\"x\\u{a}2026 uid=0 call=DOMAIN_DESTROY object=\\\"y\\\" done\" refused=",
    ] {
        let line = lines.next().unwrap_or_default();
        assert!(
            line.contains(what) && line.contains(&format!("Z uid={uid} gid=")),
            "{line:?} is not {what}"
        );
    }
    assert_eq!(lines.next(), None, "who only asked is not in it");
    // Standard error has them where there is no file.
    assert!(!place.log().contains("audit:"));
}

#[test]
fn calls_with_the_same_number_are_answered_each() {
    let place = Place::start("");
    let mut client = Raw(UnixStream::connect(place.path("sock")).unwrap());
    let header = Header {
        program: REMOTE_PROGRAM,
        version: PROGRAM_VERSION,
        procedure: procedures::ConnectGetHostname::NUMBER,
        kind: Kind::Call,
        serial: 3,
        status: Status::Ok,
    };
    let call = Message {
        header,
        payload: Vec::new(),
    }
    .to_bytes();
    client.0.write_all(&call.repeat(3)).unwrap();
    for _ in 0..3 {
        let answer = Message::read(&mut client.0).unwrap().unwrap();
        assert_eq!((answer.header.serial, answer.header.status), (3, Status::Ok));
    }
    // A stream that nobody opened is nothing; another version of the program is not served.
    let stream = Header {
        kind: Kind::Stream,
        status: Status::Continue,
        ..header
    };
    client
        .0
        .write_all(
            &Message {
                header: stream,
                payload: vec![1; 100],
            }
            .to_bytes(),
        )
        .unwrap();
    let other = Header { version: 2, ..header };
    client
        .0
        .write_all(
            &Message {
                header: other,
                payload: Vec::new(),
            }
            .to_bytes(),
        )
        .unwrap();
    let answer = Message::read(&mut client.0).unwrap().unwrap();
    assert_eq!(answer.header.status, Status::Error);
    let error: WireError = xdr::from_bytes(&answer.payload).unwrap();
    assert!(error.message.unwrap().contains("version 2"));
    // An answer, which only servers send, ends the connection.
    let reply = Header {
        kind: Kind::Reply,
        ..header
    };
    client
        .0
        .write_all(
            &Message {
                header: reply,
                payload: Vec::new(),
            }
            .to_bytes(),
        )
        .unwrap();
    assert_eq!(client.0.read(&mut [0]).unwrap_or(0), 0);
}
