//! Documents that are meant to harm: an error or a guest comes of each, never a panic, a hang, or growth.

use ostler_libvirt_xml::Defaults;
use ostler_libvirt_xml::domain::{Domain, class};
use ostler_libvirt_xml::network::Network;
use ostler_libvirt_xml::secret::Secret;
use ostler_libvirt_xml::storage::{Pool, Volume};
use ostler_libvirt_xml::tree::{Element, MAX_DEPTH, MAX_NODES, MAX_SIZE, Node, read, write};
use proptest::prelude::*;

const EVERYTHING: &str = include_str!("data/by-hand/everything.xml");

fn defaults() -> Defaults {
    Defaults {
        machine: "ostler-q35-1".into(),
        cpu_model: "x86-64-v3".into(),
        memballoon: true,
    }
}

/// Reads a document as each kind there is. What is taken has to be a fixed point.
fn read_all(xml: &str) {
    let random = &mut |bytes: &mut [u8]| bytes.fill(7);
    if let Ok(domain) = Domain::define(xml, &defaults(), random) {
        let text = domain.xml(true);
        let again =
            Domain::define(&text, &defaults(), random).unwrap_or_else(|error| panic!("{error}\n{text}"));
        assert_eq!(again.xml(true), text);
    }
    if let Ok(network) = Network::define(xml, "virbr0", random) {
        assert_eq!(
            Network::define(&network.xml(), "virbr1", random).unwrap(),
            network
        );
    }
    let _ = class(xml);
    let _ = Pool::define(xml, random).map(|pool| pool.xml(None));
    let _ = Volume::parse(xml, None);
    let _ = Secret::define(xml, random);
}

fn error(xml: &str) -> String {
    Domain::define(xml, &defaults(), &mut |_| {})
        .unwrap_err()
        .to_string()
}

#[test]
fn text_between_elements_is_dropped() {
    let xml = "<domain>a<name>b</name>c<memory>4096</memory><devices>d<controller type='usb'>e</controller></devices>\
               <metadata><f>g<h/>i</f></metadata></domain>";
    read_all(xml);
    let domain = Domain::define(xml, &defaults(), &mut |_| {}).unwrap();
    assert_eq!(
        domain
            .tree()
            .children
            .iter()
            .filter(|node| node.element().is_none())
            .count(),
        0
    );
    assert!(
        domain.xml(true).contains("<f>g<h/>i</f>"),
        "metadata is its writer's"
    );
}

#[test]
fn depth_size_and_number_are_bounded() {
    let nested = |depth: usize| {
        format!(
            "<domain><name>a</name><memory>4096</memory><metadata>{}{}</metadata></domain>",
            "<a>".repeat(depth),
            "</a>".repeat(depth)
        )
    };
    assert!(Domain::define(&nested(MAX_DEPTH - 2), &defaults(), &mut |_| {}).is_ok());
    assert!(error(&nested(MAX_DEPTH - 1)).contains("nested deeper"));
    assert!(error(&nested(100_000)).contains("nested deeper"));
    assert!(error(&"<a>".repeat(1_000_000)).starts_with("XML error: "));
    assert!(error(&format!("<domain>{}</domain>", "<a/>".repeat(MAX_NODES as usize))).contains("more than"));
    assert!(error(&" ".repeat(MAX_SIZE + 1)).contains("at most 4194304 are read"));
    assert!(error(&format!("<domain {}/>", "a='' ".repeat(100_000))).starts_with("XML error: "));
    let long = "x".repeat(3 << 20);
    let of_name = error(&format!("<domain><{long}/></domain>"));
    assert!(of_name.len() < 300, "{}", of_name.len());
}

/// What takes time that grows with the square of something has a bound on it.
#[test]
fn nothing_takes_time_without_bound() {
    let many = |count: usize, text: &dyn Fn(usize) -> String| (0..count).map(text).collect::<String>();
    let attributes = format!("<domain {}/>", many(300_000, &|i| format!("a{i}='' ")));
    assert!(error(&attributes).contains("more than 256 attributes"));
    let namespaces = format!(
        "<domain>{}</domain>",
        many(100_000, &|i| format!("<a xmlns:a{i}='u'>"))
    );
    assert!(error(&namespaces).contains("more than 256 namespaces"));
    let domain = |devices: String| {
        format!("<domain><name>a</name><memory>4096</memory><devices>{devices}</devices></domain>")
    };
    for device in [
        "<console/>",
        "<serial/>",
        "<disk device='cdrom'/>",
        "<controller type='usb'/>",
        "<channel/>",
        "<rng/>",
    ] {
        let count = if device.len() > 20 { 60_000 } else { 190_000 };
        let error = error(&domain(device.repeat(count)));
        assert!(
            error.contains("at most 2000 devices") || error.contains("more than 200000 nodes"),
            "{device}: {error}"
        );
        // As many as are let in are done with in a moment.
        let _ = Domain::define(&domain(device.repeat(1900)), &defaults(), &mut |_| {});
    }
    let features = many(60_000, &|i| format!("<feature policy='require' name='f{i}'/>"));
    let xml = format!(
        "<domain><name>a</name><memory>4096</memory><cpu mode='host-model'>{features}</cpu></domain>"
    );
    assert!(Domain::define(&xml, &defaults(), &mut |_| {}).is_ok());
    // A comment or text that looks like tags counts for nothing.
    let comment = format!(
        "<domain><name>a</name><!-- <a \" {} --><memory>4096</memory></domain>",
        "b='' ".repeat(500)
    );
    assert!(Domain::define(&comment, &defaults(), &mut |_| {}).is_ok());
}

#[test]
fn entities_are_refused() {
    let bomb = "<!DOCTYPE a [<!ENTITY a 'aaaaaaaaaa'><!ENTITY b '&a;&a;&a;&a;&a;&a;&a;&a;'>]><domain><name>&b;</name></domain>";
    assert_eq!(
        error(bomb),
        "XML error: a document type declaration is not allowed"
    );
    let outside = "<!DOCTYPE a SYSTEM 'file:///etc/passwd'><domain/>";
    assert_eq!(
        error(outside),
        "XML error: a document type declaration is not allowed"
    );
    assert!(
        error("<domain xmlns:xi='http://www.w3.org/2001/XInclude'><xi:include href='/etc/passwd'/></domain>")
            .contains("not known")
    );
}

#[test]
fn names_cannot_lead_elsewhere() {
    for name in ["../a", "a/b", ".", "..", "a\u{7}b", "", "  ", "a&#10;b"] {
        let xml = format!("<domain><name>{name}</name><memory>4096</memory></domain>");
        assert!(
            Domain::define(&xml, &defaults(), &mut |_| {}).is_err(),
            "{name:?}"
        );
    }
    let long = format!(
        "<domain><name>{}</name><memory>4096</memory></domain>",
        "n".repeat(129)
    );
    assert!(Domain::define(&long, &defaults(), &mut |_| {}).is_err());
}

/// A number that chooses an element of a document.
fn element_at(element: &mut Element, place: usize) -> &mut Element {
    let names: Vec<usize> = (0..element.children.len())
        .filter(|&i| element.children[i].element().is_some())
        .collect();
    if names.is_empty() || place % (names.len() + 1) == names.len() {
        return element;
    }
    match &mut element.children[names[place % (names.len() + 1)]] {
        Node::Element(child) => element_at(child, place / (names.len() + 1)),
        Node::Text(_) => unreachable!("texts were left out"),
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(400))]

    #[test]
    fn any_text_is_an_error_or_a_guest(xml in "\\PC{0,200}") {
        read_all(&xml);
    }

    #[test]
    fn bytes_of_a_document_changed(changes in prop::collection::vec((0..EVERYTHING.len(), any::<u8>()), 1..6)) {
        let mut bytes = EVERYTHING.as_bytes().to_vec();
        for (place, byte) in changes {
            bytes[place] = byte;
        }
        read_all(&String::from_utf8_lossy(&bytes));
    }

    #[test]
    fn a_piece_of_a_document_taken_away(start in 0..EVERYTHING.len(), length in 0usize..400) {
        let end = (start + length).min(EVERYTHING.len());
        let bytes = [&EVERYTHING.as_bytes()[..start], &EVERYTHING.as_bytes()[end..]].concat();
        read_all(&String::from_utf8_lossy(&bytes));
    }

    #[test]
    fn values_and_elements_of_a_document_changed(
        places in prop::collection::vec((any::<usize>(), 0usize..4, prop::sample::select(vec![
            "", "0", "-1", "1", "2", "7", "31", "255", "0x1f", "65536", "4294967296", "99999999999999999999", "0x", "pci", "yes", "virtio", "vda", "sdz", "é", "\0x01", "'<&>\"\n",
        ])), 1..5),
    ) {
        let mut tree = read(EVERYTHING).unwrap();
        for (place, what, value) in places {
            let element = element_at(&mut tree, place);
            match what {
                0 if !element.attributes.is_empty() => {
                    let which = place % element.attributes.len();
                    if !element.attributes[which].0.starts_with("xmlns") {
                        element.attributes[which].1 = value.replace('\0', "");
                    }
                }
                1 => element.set_text(value.replace('\0', "")),
                2 if !element.children.is_empty() => {
                    let which = place % element.children.len();
                    element.children.remove(which);
                }
                _ if !element.children.is_empty() => {
                    let twice = element.children[place % element.children.len()].clone();
                    element.children.push(twice);
                }
                _ => {}
            }
        }
        read_all(&write(&tree));
    }

    #[test]
    fn a_tree_written_and_read_is_the_same(text in "[ -~é\n\t\r]{0,40}", value in "[ -~é\n\t\r]{0,40}") {
        let text = format!("x{text}");
        let tree = Element::new("a").with("b", value).with_child(Element::new("c").with_text(text));
        prop_assert_eq!(read(&write(&tree)).unwrap(), tree);
    }
}
