//! The screen and the keyboard.

use super::*;

/// A file in set `set`, opened so.
fn give_file(talk: &mut Talk, set: i64, file: File) {
    talk.session.fds.receive(OwnedFd::from(file));
    talk.good("add-fd", json!({ "fdset-id": set }));
}

#[test]
fn the_screen_is_told_and_its_picture_goes_to_files_that_were_handed_over() {
    let mut talk = Talk::negotiated();
    let screen = talk.good("x-ostler-screen", json!({}));
    assert_eq!(screen, json!({ "kind": "dark", "width": 8, "height": 1 }));
    assert_eq!(talk.line("x-ostler-screen"), "dark, 8 x 1\r\n");
    let file = tempfile::NamedTempFile::new().unwrap();
    let open = |path| File::options().write(true).open(path).unwrap();
    give_file(&mut talk, 1, open(file.path()));
    talk.good("screendump", json!({ "filename": "/dev/fdset/1" }));
    let picture = std::fs::read(file.path()).unwrap();
    assert_eq!(picture, [b"P6\n8 1\n255\n", &[0; 24][..]].concat());
    let second = tempfile::NamedTempFile::new().unwrap();
    give_file(&mut talk, 2, open(second.path()));
    assert_eq!(talk.line("screendump /dev/fdset/2 -f png"), "");
    assert!(std::fs::read(second.path()).unwrap().starts_with(b"\x89PNG\r\n"));
    for (arguments, words) in [
        (json!({}), "Parameter 'filename' is missing"),
        (
            json!({ "filename": "/tmp/screen.ppm" }),
            "this process opens no files",
        ),
        (json!({ "filename": "/dev/fdset/7" }), "No such file or directory"),
        (
            json!({ "filename": "/dev/fdset/1", "format": "gif" }),
            "'format' does not accept value 'gif'",
        ),
        (
            json!({ "filename": "/dev/fdset/1", "head": 1 }),
            "'head' does not accept value '1'",
        ),
        (json!({ "filename": "/dev/fdset/1", "x": 1 }), "'x' is unexpected"),
    ] {
        let (_, text) = talk.bad("screendump", arguments);
        assert!(text.contains(words), "{text}");
    }
    // A pipe that nobody reads would let us wait.
    let (_reader, writer) = std::io::pipe().unwrap();
    give_file(&mut talk, 3, File::from(OwnedFd::from(writer)));
    let (_, text) = talk.bad("screendump", json!({ "filename": "/dev/fdset/3" }));
    assert!(text.contains("is no regular file"), "{text}");
    // A file that is only read, and a disk that is full.
    give_file(&mut talk, 4, File::open(file.path()).unwrap());
    let (_, text) = talk.bad("screendump", json!({ "filename": "/dev/fdset/4" }));
    assert!(text.contains("Permission denied"), "{text}");
}

#[test]
fn keys_are_named_as_qemu_names_them() {
    let mut talk = Talk::negotiated();
    let key = |kind: &str, data: Value| json!({ "type": kind, "data": data });
    talk.good(
        "send-key",
        json!({ "keys": [key("qcode", "ctrl".into()), key("number", 0x1c.into())], "hold-time": 0 }),
    );
    assert_eq!(talk.line("sendkey ctrl-alt-f1 1"), "");
    assert_eq!(talk.line("sendkey 0x1c-ret"), "");
    for (keys, words) in [
        (json!([]), "Parameter 'keys' expects 1 to 16 keys"),
        (json!({}), "Invalid parameter type for 'keys', expected: array"),
        (
            json!([{ "type": "qcode" }]),
            "Parameter 'keys[0].data' is missing",
        ),
        (
            json!([key("qcode", "Return".into())]),
            "Parameter 'keys[0].data' does not accept value 'Return'",
        ),
        (
            json!([key("number", 0.into())]),
            "Parameter 'keys[0].data' does not accept value '0'",
        ),
        (
            json!([key("number", "a".into())]),
            "Invalid parameter type for 'keys[0].data', expected: integer",
        ),
        (
            json!([key("mouse", 1.into())]),
            "Parameter 'keys[0].type' does not accept value 'mouse'",
        ),
        (
            Value::Array(vec![key("number", 1.into()); 17]),
            "Parameter 'keys' expects 1 to 16 keys",
        ),
    ] {
        assert_eq!(talk.bad("send-key", json!({ "keys": keys })).1, words);
    }
    let late = json!({ "keys": [key("qcode", "a".into())], "hold-time": 60_001 });
    assert!(talk.bad("send-key", late).1.contains("'hold-time' expects"));
    assert_eq!(
        talk.line("sendkey nothing"),
        "Error: invalid parameter: nothing\r\n"
    );
    assert_eq!(
        talk.line("sendkey a soon"),
        "Error: Parameter 'hold-time' expects a number\r\n"
    );
}
