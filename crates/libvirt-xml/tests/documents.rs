//! Real documents through the models: accepted or refused as written down, given back valid by libvirt's own schemas, and the same
//! again when they are read again.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use ostler_libvirt_xml::domain::{Domain, Live, class};
use ostler_libvirt_xml::tree::{Element, Node, read, write};
use ostler_libvirt_xml::{Class, Defaults, Error};

const SCHEMAS: &str = "/usr/share/libvirt/schemas";

fn defaults() -> Defaults {
    Defaults {
        machine: "ostler-q35-1".into(),
        cpu_model: "x86-64-v3".into(),
        memballoon: true,
    }
}

/// Bytes that are not random, and differ.
fn counter() -> impl FnMut(&mut [u8]) {
    let mut next = 0u8;
    move |bytes| {
        for byte in bytes {
            next = next.wrapping_add(1);
            *byte = next;
        }
    }
}

fn define(xml: &str) -> Result<Domain, Error> {
    Domain::define(xml, &defaults(), &mut counter())
}

fn data(folder: &str) -> Vec<(String, String)> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("tests/data")
        .join(folder);
    let mut paths: Vec<PathBuf> = fs::read_dir(folder)
        .unwrap()
        .map(|entry| entry.unwrap().path())
        .collect();
    paths.sort();
    let name = |path: &Path| path.file_stem().unwrap().to_str().unwrap().to_owned();
    let xml = paths
        .iter()
        .filter(|path| path.extension().is_some_and(|extension| extension == "xml"));
    let documents = xml.map(|path| (name(path), fs::read_to_string(path).unwrap()));
    documents
        .filter(|(name, _)| !name.ends_with("capabilities"))
        .collect()
}

/// All documents of domains that are to be accepted.
fn domains() -> Vec<(String, String)> {
    let mut all = data("virt-install");
    assert!(all.len() >= 20, "{} documents of virt-install", all.len());
    all.extend(data("by-hand"));
    all
}

/// Validates documents by one of libvirt's schemas; `None` if the machine lacks them.
fn validate(schema: &str, documents: &[(String, String)]) -> Option<()> {
    let schema = Path::new(SCHEMAS).join(schema);
    if !schema.exists() || Command::new("xmllint").arg("--version").output().is_err() {
        println!(
            "SKIPPED validation by {}: it needs libvirt0 and libxml2-utils",
            schema.display()
        );
        return None;
    }
    let folder = tempfile::tempdir().unwrap();
    let mut command = Command::new("xmllint");
    command.arg("--noout").arg("--relaxng").arg(schema);
    for (name, xml) in documents {
        let path = folder.path().join(format!("{name}.xml"));
        fs::write(&path, xml).unwrap();
        command.arg(path);
    }
    let output = command.output().unwrap();
    let errors = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{errors}");
    Some(())
}

#[test]
fn what_clients_write_is_taken() {
    for (name, xml) in domains() {
        if let Err(error) = define(&xml) {
            panic!("{name}: {error}");
        }
    }
}

#[test]
fn libvirts_schema_takes_what_is_given_back() {
    let mut given = Vec::new();
    for (name, xml) in domains() {
        let domain = define(&xml).unwrap();
        given.push((format!("{name}-live"), domain.live_xml(&live(), true)));
        given.push((name, domain.xml(true).to_string()));
    }
    validate("domain.rng", &given);
}

fn live() -> Live {
    let pair = |alias: &str, value: &str| (alias.to_owned(), value.to_owned());
    Live {
        id: 7,
        ttys: [pair("serial0", "/dev/pts/3"), pair("console0", "/dev/pts/4")].into(),
        ports: [pair("net0", "vnet0"), pair("net1", "vnet1")].into(),
        connected: [("channel0".to_owned(), true)].into(),
        open_trays: [].into(),
        plugged: [("virtiomem0".to_owned(), 64 << 20)].into(),
        clock_moved: 0,
        cid: Some(3),
    }
}

#[test]
fn what_is_given_back_is_a_fixed_point() {
    for (name, xml) in domains() {
        let first = define(&xml).unwrap();
        let second = define(&first.xml(true)).unwrap();
        assert_eq!(first.xml(true), second.xml(true), "{name}");
        assert_eq!(*first, *second, "{name}");
        // What a running guest shows more does not get into the definition.
        let live = Live {
            cid: first.devices.vsock.as_ref().and_then(|vsock| vsock.cid),
            ..live()
        };
        let third = define(&first.live_xml(&live, true)).unwrap();
        assert_eq!(first.xml(true), third.xml(true), "{name}");
    }
}

/// Every element and attribute of the client's is in what is given back, but for what a definition does not have.
#[test]
fn nothing_is_lost() {
    for (name, xml) in domains() {
        let before = read(&xml).unwrap();
        let after = read(&define(&xml).unwrap().xml(true)).unwrap();
        lost(&name, &before, &after);
    }
}

fn lost(name: &str, before: &Element, after: &Element) {
    for (attribute, value) in &before.attributes {
        let kept = after.get(attribute);
        let changed = matches!(
            (before.name.as_str(), attribute.as_str()),
            ("type", "machine" | "arch")
                | ("memory" | "currentMemory", "unit")
                | ("target", "type")
                | ("domain", "id")
        );
        let same_number = kept.is_some_and(|kept| {
            kept.trim_start_matches("0x").trim_start_matches('0')
                == value.trim_start_matches("0x").trim_start_matches('0')
        });
        assert!(
            changed || same_number,
            "{name}: {attribute}='{value}' of <{}> became {kept:?}",
            before.name
        );
    }
    let given_at_a_start = |child: &Element| child.get("dev").is_some_and(|dev| dev.starts_with("vnet"));
    for child in before.elements().filter(|child| !given_at_a_start(child)) {
        let twins: Vec<&Element> = before.all(&child.name).collect();
        let place = twins.iter().position(|twin| std::ptr::eq(*twin, child)).unwrap();
        let mut same = after.all(&child.name).collect::<Vec<_>>();
        if child.name == "controller" && child.get("index").is_some() {
            let is_same = |name: &str, other: &Element| {
                child.get(name).is_none_or(|value| other.get(name) == Some(value))
            };
            same.retain(|other| ["type", "index", "model"].iter().all(|name| is_same(name, other)));
            lost(name, child, same.first().expect("the controller is there"));
            continue;
        }
        if child.name == "controller" {
            same.retain(|c| {
                c.get("type") == child.get("type")
                    && c.get("model").or(child.get("model")) == child.get("model")
            });
            assert!(!same.is_empty(), "{name}: a controller is lost");
            continue;
        }
        let Some(twin) = same.get(place) else {
            panic!("{name}: <{}> of <{}> is lost", child.name, before.name);
        };
        lost(name, child, twin);
    }
}

/// Each element in turn gets a name that no one knows: the document is refused with the element's name, or it is in a place where
/// everything is kept, and is given back.
#[test]
fn no_element_is_lost_in_silence() {
    let (mut refused, mut kept) = (0, 0);
    for (name, xml) in domains() {
        let tree = read(&xml).unwrap();
        for place in 0..count(&tree) {
            let mut changed = tree.clone();
            let (old, path) = rename(&mut changed, &mut { place }, String::new()).unwrap();
            let document = write(&changed);
            match define(&document) {
                Ok(domain) => {
                    assert!(domain.xml(true).contains("nonsense"), "{name}: <{old}> was lost");
                    assert!(
                        is_kept_whole(&document, &path),
                        "{name}: <nonsense> for {path} is not kept by the table"
                    );
                    kept += 1;
                }
                Err(error) => {
                    assert!(error.to_string().contains("nonsense"), "{name}: {old}: {error}");
                    refused += 1;
                }
            }
        }
    }
    assert!(refused > 500 && kept > 50, "{refused} refused, {kept} kept");
}

fn count(element: &Element) -> usize {
    1 + element.elements().map(count).sum::<usize>()
}

/// Renames the element of this number, in the document's order; gives its old name and path.
fn rename(element: &mut Element, place: &mut usize, above: String) -> Option<(String, String)> {
    let path = format!("{above}/{}", element.name);
    if *place == 0 {
        return Some((std::mem::replace(&mut element.name, "nonsense".into()), path));
    }
    *place -= 1;
    element.children.iter_mut().find_map(|node| match node {
        Node::Element(child) => rename(child, place, path.clone()),
        Node::Text(_) => None,
    })
}

/// Whether the nearest place above that the table has a row for is kept, or is metadata.
fn is_kept_whole(document: &str, path: &str) -> bool {
    let findings = class(document).unwrap();
    let path = path.trim_start_matches('/');
    let above = findings
        .iter()
        .filter(|finding| path.starts_with(&format!("{}/", finding.path)));
    let nearest = above.max_by_key(|finding| finding.path.len()).unwrap();
    nearest.class == Some(Class::Kept) || nearest.path == "domain/metadata"
}

#[test]
fn every_place_of_a_document_has_a_class() {
    for (name, xml) in domains() {
        let findings = class(&xml).unwrap();
        assert!(findings.len() >= 3, "{name}");
        for finding in findings {
            assert!(
                matches!(finding.class, Some(Class::Honoured | Class::Kept)),
                "{name}: {} is {:?}",
                finding.path,
                finding.class
            );
        }
    }
}

/// What has to be refused, in `refused`, and the sentences that say so, in `refused/expected`.
#[test]
fn what_would_change_the_guest_is_refused_by_name() {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/data/refused");
    let expected = fs::read_to_string(folder.join("expected")).unwrap();
    let mut seen = 0;
    for (name, xml) in data("refused") {
        let line = expected
            .lines()
            .find_map(|line| line.strip_prefix(&format!("{name}: ")));
        match define(&xml) {
            Err(error) => assert_eq!(Some(error.to_string().as_str()), line, "{name}"),
            Ok(_) => panic!("{name} was taken"),
        }
        seen += 1;
    }
    assert_eq!(seen, expected.lines().count());
}

#[test]
fn the_manual_has_the_table() {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../docs/xml.md");
    let manual = fs::read_to_string(&path).unwrap();
    let (text, tables) = manual.split_once(MARK).expect("the manual has the mark");
    if tables.trim() != ostler_libvirt_xml::manual().trim() {
        if std::env::var_os("OSTLER_WRITE_MANUAL").is_some() {
            fs::write(&path, format!("{text}{MARK}\n\n{}", ostler_libvirt_xml::manual())).unwrap();
            return;
        }
        panic!("docs/xml.md differs from the table; run this test with OSTLER_WRITE_MANUAL=1");
    }
}

const MARK: &str = "<!-- What follows is written by a test from the table in crates/libvirt-xml. -->";
