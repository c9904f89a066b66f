//! Media of CD-ROM drives.

use super::*;

/// An image for reading, in a set of descriptors.
fn hand_over(talk: &mut Talk, image: &tempfile::NamedTempFile, set: u32) {
    let open = File::open(image.path()).unwrap();
    talk.session.fds.receive(OwnedFd::from(open));
    talk.good("add-fd", json!({ "fdset-id": set }));
}

fn medium() -> tempfile::NamedTempFile {
    let image = tempfile::NamedTempFile::new().unwrap();
    image.as_file().set_len(1 << 20).unwrap();
    image
}

/// Nobody has the image for reading any more: it can be had for writing.
fn assert_free(image: &tempfile::NamedTempFile) {
    ostler_disk::open::open(image.path(), ostler_disk::open::DiskOptions::default()).unwrap();
}

fn moved(open: bool) -> Value {
    json!({ "event": "DEVICE_TRAY_MOVED",
            "data": { "device": "disk1", "id": "/machine/sata/0", "tray-open": open } })
}

#[test]
fn a_medium_is_changed_and_ejected() {
    let mut talk = Talk::negotiated();
    let (first, second) = (medium(), medium());
    hand_over(&mut talk, &first, 1);
    hand_over(&mut talk, &second, 2);
    let change =
        |set: u32| json!({ "device": "disk1", "filename": format!("/dev/fdset/{set}"), "format": "raw" });
    talk.good("blockdev-change-medium", change(1));
    assert_eq!(talk.events(), [moved(true), moved(false)]);
    talk.good("remove-fd", json!({ "fdset-id": 1 }));
    let shown = |talk: &mut Talk| talk.good("query-block", json!({}))[1].take();
    let drive = shown(&mut talk);
    assert_eq!(drive["inserted"]["file"], first.path().to_str().unwrap());
    assert_eq!(
        (&drive["tray_open"], &drive["locked"]),
        (&json!(false), &json!(false))
    );
    // What was there before is gone, also from the list of nodes.
    let nodes = talk.good("query-named-block-nodes", json!({}));
    assert_eq!(nodes.as_array().unwrap().len(), 2);
    talk.good(
        "blockdev-change-medium",
        json!({ "id": "/machine/sata/0", "filename": "/dev/fdset/2", "read-only-mode": "read-only", "force": true }),
    );
    assert_free(&first);
    talk.good("remove-fd", json!({ "fdset-id": 2 }));
    talk.events();
    talk.good("eject", json!({ "device": "disk1" }));
    assert_eq!(talk.events(), [moved(true)]);
    let drive = shown(&mut talk);
    assert_eq!(drive.get("inserted"), None);
    assert_eq!(drive["tray_open"], true);
    assert_free(&second);
    // Once more is no error, and the open tray takes another one.
    talk.good("eject", json!({ "id": "disk1", "force": true }));
    hand_over(&mut talk, &first, 3);
    talk.good("blockdev-change-medium", change(3));
    assert_eq!(talk.events(), [moved(false)]);
}

#[test]
fn a_medium_goes_and_comes_step_by_step() {
    let mut talk = Talk::negotiated();
    let image = medium();
    let id = || json!({ "id": "disk1" });
    let insert = |node: &str| json!({ "id": "disk1", "node-name": node });
    assert_eq!(
        talk.bad("blockdev-remove-medium", id()).1,
        "Tray of device 'disk1' is not open"
    );
    talk.good("blockdev-open-tray", id());
    talk.good("blockdev-open-tray", id());
    assert_eq!(talk.events(), [moved(true)]);
    hand_over(&mut talk, &image, 1);
    talk.good(
        "blockdev-add",
        json!({ "driver": "raw", "node-name": "cd", "read-only": true,
                "file": { "driver": "file", "filename": "/dev/fdset/1", "read-only": true } }),
    );
    assert_eq!(
        talk.bad("blockdev-insert-medium", insert("cd")).1,
        "There already is a medium in device 'disk1'"
    );
    talk.good("blockdev-remove-medium", id());
    talk.good("blockdev-remove-medium", id());
    assert_eq!(
        talk.bad("blockdev-insert-medium", insert("none")).1,
        "Node 'none' not found"
    );
    assert_eq!(
        talk.bad("blockdev-insert-medium", insert("disk0")).1,
        "Node 'disk0' is already in use by 'disk0'"
    );
    talk.good("blockdev-insert-medium", insert("cd"));
    talk.good("blockdev-close-tray", id());
    talk.good("blockdev-close-tray", id());
    assert_eq!(talk.events(), [moved(false)]);
    let drive = talk.good("query-block", json!({}))[1].take();
    assert_eq!(drive["inserted"]["node-name"], "cd");
    assert_eq!(
        talk.bad("blockdev-del", json!({ "node-name": "cd" })).1,
        "Node cd is in use"
    );
    assert_eq!(
        talk.bad("blockdev-insert-medium", insert("cd")).1,
        "Node 'cd' is already in use by 'disk1'"
    );
    // A client's own node stays when it is out.
    talk.good("eject", id());
    talk.good("blockdev-del", json!({ "node-name": "cd" }));
    talk.good("remove-fd", json!({ "fdset-id": 1 }));
    assert_free(&image);
}

#[test]
fn what_is_wrong_with_a_medium_changes_nothing() {
    let mut talk = Talk::negotiated();
    let before = talk.good("query-block", json!({}));
    let file = "/dev/fdset/1";
    for (command, arguments, text) in [
        ("eject", json!({}), "Need exactly one of 'device' and 'id'"),
        (
            "eject",
            json!({ "device": "disk1", "id": "disk1" }),
            "Need exactly one of 'device' and 'id'",
        ),
        ("eject", json!({ "device": "cd" }), "Device 'cd' not found"),
        (
            "eject",
            json!({ "device": "disk0" }),
            "Device 'disk0' is not removable",
        ),
        (
            "blockdev-open-tray",
            json!({ "id": "disk0" }),
            "Device 'disk0' is not removable",
        ),
        (
            "blockdev-close-tray",
            json!({ "id": "/machine/sata/5" }),
            "Device '/machine/sata/5' not found",
        ),
        (
            "blockdev-remove-medium",
            json!({ "device": "disk1" }),
            "Parameter 'id' is missing",
        ),
        (
            "blockdev-change-medium",
            json!({ "id": "disk1" }),
            "Parameter 'filename' is missing",
        ),
        (
            "blockdev-change-medium",
            json!({ "id": "disk1", "filename": file, "format": "qcow2" }),
            "Parameter 'format' does not accept value 'qcow2'",
        ),
        (
            "blockdev-change-medium",
            json!({ "id": "disk1", "filename": file, "read-only-mode": "read-write" }),
            "Parameter 'read-only-mode' does not accept value 'read-write'",
        ),
        (
            "blockdev-change-medium",
            json!({ "id": "disk1", "filename": file }),
            "Could not dup FD for /dev/fdset/1 flags 0: No such file or directory",
        ),
    ] {
        assert_eq!(
            talk.bad(command, arguments.clone()).1,
            text,
            "{command} {arguments}"
        );
    }
    let path = json!({ "id": "disk1", "filename": "/etc/passwd" });
    assert!(
        talk.bad("blockdev-change-medium", path)
            .1
            .contains("opens no files")
    );
    // Nor does an image that somebody else writes to.
    let image = medium();
    let other = ostler_disk::open::open(image.path(), ostler_disk::open::DiskOptions::default()).unwrap();
    hand_over(&mut talk, &image, 1);
    let change = json!({ "id": "disk1", "filename": file });
    let refused = talk.bad("blockdev-change-medium", change).1;
    assert!(refused.contains("in use by another guest"), "{refused}");
    drop(other);
    assert_eq!(talk.good("query-block", json!({})), before);
    assert_eq!(talk.events(), [] as [Value; 0]);
    assert_eq!(
        talk.good("query-named-block-nodes", json!({}))
            .as_array()
            .unwrap()
            .len(),
        2
    );
}

#[test]
fn people_change_and_eject_media() {
    let mut talk = Talk::negotiated();
    let image = medium();
    hand_over(&mut talk, &image, 1);
    assert_eq!(talk.line("change disk1 -f /dev/fdset/1 raw read-only"), "");
    assert_eq!(talk.events(), [moved(true), moved(false)]);
    let shown = talk.line("info block");
    let path = image.path().display();
    assert!(shown.contains(&format!("disk1: {path} (")), "{shown}");
    assert!(
        shown.contains("Removable device: not locked, tray closed"),
        "{shown}"
    );
    assert_eq!(talk.line("eject disk1"), "");
    assert_eq!(talk.events(), [moved(true)]);
    let shown = talk.line("info block");
    assert!(
        shown.contains("disk1: [not inserted]") && shown.contains("tray open"),
        "{shown}"
    );
    assert_eq!(talk.line("eject -f disk1"), "");
    for (line, said) in [
        ("eject disk0", "Error: Device 'disk0' is not removable\r\n"),
        ("eject disk9", "Error: Device 'disk9' not found\r\n"),
        (
            "change disk1 /dev/fdset/1 qcow2",
            "Error: Parameter 'format' does not accept value 'qcow2'\r\n",
        ),
        (
            "change disk1",
            "change: filename expected\r\nTry \"help change\" for more information\r\n",
        ),
        (
            "eject disk1 -f",
            "eject: extraneous characters at the end of line\r\nTry \"help eject\" for more information\r\n",
        ),
    ] {
        assert_eq!(talk.line(line), said);
    }
}
