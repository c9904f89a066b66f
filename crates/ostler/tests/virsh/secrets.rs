//! Secrets.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;

use crate::setup::{Host, Listener};

/// Defines a secret, and returns its UUID.
fn define(host: &Host, xml: &str) -> String {
    let said = host.virsh(&format!("secret-define {}", host.xml("secret.xml", xml)));
    let uuid = said.split_whitespace().nth(1);
    uuid.unwrap_or_else(|| panic!("no UUID in {said}")).to_owned()
}

fn set(host: &Host, uuid: &str, value: &[u8]) {
    let file = host.path("value");
    fs::write(&file, value).unwrap();
    host.virsh(&format!(
        "secret-set-value {uuid} --plain --file {}",
        file.display()
    ));
}

/// What virsh prints of a value, byte for byte.
fn get(host: &Host, uuid: &str) -> Vec<u8> {
    let output = host
        .command(&format!("secret-get-value --plain {uuid}"))
        .output()
        .unwrap();
    assert!(
        output.status.success(),
        "{}",
        String::from_utf8_lossy(&output.stderr)
    );
    output.stdout
}

fn files(folder: &Path) -> Vec<(String, u32)> {
    let entries = fs::read_dir(folder).unwrap().flatten();
    let files = entries.filter(|entry| entry.path().is_file());
    let file = |entry: fs::DirEntry| {
        let mode = entry.metadata().unwrap().permissions().mode() & 0o777;
        (entry.file_name().into_string().unwrap(), mode)
    };
    let mut files: Vec<_> = files.map(file).collect();
    files.sort();
    files
}

#[test]
fn a_secret_lasts_with_its_value() {
    let mut host = Host::start();
    let uuid = define(
        &host,
        "<secret><description>of a disk</description><usage type='volume'><volume>/a.img</volume></usage></secret>",
    );
    let said = host.refused(&format!("secret-get-value {uuid}"));
    assert!(said.contains("does not have a value"), "{said}");
    set(&host, &uuid, b"open\xffsesame");
    host.kill_and_restart();
    // virsh puts a line's end behind it.
    assert!(get(&host, &uuid).starts_with(b"open\xffsesame"));
    let expected = [(format!("{uuid}.value"), 0o600), (format!("{uuid}.xml"), 0o600)];
    assert_eq!(files(&host.path("secrets")), expected);
    assert_eq!(
        host.path("secrets").metadata().unwrap().permissions().mode() & 0o777,
        0o700
    );
    let xml = host.virsh(&format!("secret-dumpxml {uuid}"));
    assert!(
        xml.contains("<volume>/a.img</volume>") && !xml.contains("sesame"),
        "{xml}"
    );
    assert!(host.virsh("secret-list").contains(&uuid));
    // Whoever may only look sees that it is there, and not what it is.
    let query = format!("socket={}", host.path("sock-ro").display());
    let readonly = |arguments: &str| host.command_at(&query, arguments).output().unwrap();
    assert!(readonly(&format!("secret-dumpxml {uuid}")).status.success());
    for command in [
        format!("secret-get-value {uuid}"),
        format!("secret-set-value {uuid} --file {}", host.path("value").display()),
        format!("secret-undefine {uuid}"),
        format!("secret-define {}", host.path("secret.xml").display()),
    ] {
        let output = readonly(&command);
        let said = String::from_utf8_lossy(&output.stderr);
        assert!(said.contains("read only access prevents"), "{command}: {said}");
    }
    host.virsh(&format!("secret-undefine {uuid}"));
    assert_eq!(files(&host.path("secrets")), []);
    let said = host.refused(&format!("secret-dumpxml {uuid}"));
    assert!(
        said.contains(&format!("no secret with matching uuid '{uuid}'")),
        "{said}"
    );
}

#[test]
fn private_and_ephemeral_ones() {
    let mut host = Host::start();
    let usage = |name: &str| format!("<usage type='ceph'><name>{name}</name></usage>");
    let private = define(&host, &format!("<secret private='yes'>{}</secret>", usage("p")));
    let ephemeral = define(&host, &format!("<secret ephemeral='yes'>{}</secret>", usage("e")));
    set(&host, &private, b"never told");
    set(&host, &ephemeral, b"never written");
    let said = host.refused(&format!("secret-get-value {private}"));
    assert!(said.contains("secret is private"), "{said}");
    let open = host.xml(
        "open.xml",
        &format!("<secret><uuid>{private}</uuid>{}</secret>", usage("p")),
    );
    let said = host.refused(&format!("secret-define {open}"));
    assert!(said.contains("cannot change private flag"), "{said}");
    assert!(get(&host, &ephemeral).starts_with(b"never written"));
    for file in files(&host.path("secrets")) {
        assert!(file.0.starts_with(&private), "{file:?}");
    }
    for (filter, has_private, has_ephemeral) in [
        ("--private", true, false),
        ("--no-private", false, true),
        ("--ephemeral", false, true),
        ("--no-ephemeral", true, false),
        ("", true, true),
    ] {
        let list = host.virsh(&format!("secret-list {filter}"));
        assert_eq!(
            (list.contains(&private), list.contains(&ephemeral)),
            (has_private, has_ephemeral),
            "{filter}"
        );
    }
    let again = host.xml("again.xml", &format!("<secret>{}</secret>", usage("p")));
    let said = host.refused(&format!("secret-define {again}"));
    assert!(said.contains("already defined for use with p"), "{said}");
    host.kill_and_restart();
    let list = host.virsh("secret-list");
    assert!(list.contains(&private) && !list.contains(&ephemeral), "{list}");
    let said = host.refused(&format!("secret-get-value {private}"));
    assert!(said.contains("secret is private"), "{said}");
}

#[test]
fn events_of_secrets() {
    let host = Host::start();
    let uuid = define(&host, "<secret/>");
    let values = Listener::start(&host, "secret-event --event value-changed --loop", || {
        set(&host, &uuid, b"a")
    });
    let lives = Listener::start(&host, "secret-event --event lifecycle --loop", || {
        host.virsh(&format!(
            "secret-define {}",
            host.xml("x.xml", &format!("<secret><uuid>{uuid}</uuid></secret>"))
        ));
    });
    set(&host, &uuid, b"b");
    values.until(&format!("event 'value-changed' for secret {uuid}"));
    host.virsh(&format!("secret-undefine {uuid}"));
    lives.until(&format!("event 'lifecycle' for secret {uuid}: Undefined"));
}
