//! A client's text to a tree. `roxmltree` reads it; document types, and entities with them, are refused.

use roxmltree::{Document, ParsingOptions};

use super::{Element, Node};
use crate::Error;

/// Longest document in bytes: libvirt's limit of a string in its protocol.
pub const MAX_SIZE: usize = 4 << 20;
/// Deepest element; the root has depth 1. What libvirt's schemas know is less than 12 deep.
pub const MAX_DEPTH: usize = 64;
/// Most elements and texts together. A guest of thousands of devices has fewer.
pub const MAX_NODES: u32 = 200_000;

/// Reads a document.
pub fn read(xml: &str) -> Result<Element, Error> {
    if xml.len() > MAX_SIZE {
        return Err(Error::Xml(format!(
            "the document has {} bytes, at most {MAX_SIZE} are read",
            xml.len()
        )));
    }
    super::bounds::check(xml)?;
    let options = ParsingOptions {
        allow_dtd: false,
        nodes_limit: MAX_NODES,
        ..ParsingOptions::default()
    };
    let document = Document::parse_with_options(xml, options).map_err(|error| syntax(&error))?;
    let mut lines = Lines { xml, at: 0, line: 1 };
    element(document.root_element(), &mut lines, 1)
}

fn syntax(error: &roxmltree::Error) -> Error {
    let what = match error {
        roxmltree::Error::DtdDetected => "a document type declaration is not allowed".into(),
        roxmltree::Error::NodesLimitReached => format!("the document has more than {MAX_NODES} nodes"),
        other => {
            let text = other.to_string();
            let place = format!(" at {}", other.pos());
            crate::error::shorten(text.strip_suffix(&place).unwrap_or(&text))
        }
    };
    match error.pos().row {
        0 | 1
            if matches!(
                error,
                roxmltree::Error::DtdDetected | roxmltree::Error::NodesLimitReached
            ) =>
        {
            Error::Xml(what)
        }
        line => Error::Xml(format!("line {line}: {what}")),
    }
}

/// Lines of places that are asked for in the order of the document.
struct Lines<'a> {
    xml: &'a str,
    at: usize,
    line: u32,
}

impl Lines<'_> {
    fn of(&mut self, place: usize) -> u32 {
        let between = self.xml.as_bytes().get(self.at..place).unwrap_or_default();
        self.line += between.iter().filter(|&&byte| byte == b'\n').count() as u32;
        self.at = self.at.max(place);
        self.line
    }
}

fn element(node: roxmltree::Node<'_, '_>, lines: &mut Lines<'_>, depth: usize) -> Result<Element, Error> {
    let place = node.range().start;
    let mut element = Element::new(name_at(lines.xml, place));
    element.line = lines.of(place);
    if depth > MAX_DEPTH {
        return Err(Error::Xml(format!(
            "line {}: elements are nested deeper than {MAX_DEPTH}",
            element.line
        )));
    }
    let tag = &lines.xml[place..];
    // Values have no `<` in them.
    let tag = &tag[..tag[1..].find('<').map_or(tag.len(), |end| end + 1)];
    if tag.contains("xmlns") {
        element.attributes = declarations(node);
    }
    for attribute in node.attributes() {
        let name = lines.xml[attribute.range_qname()].to_owned();
        element.attributes.push((name, attribute.value().to_owned()));
    }
    for child in node.children() {
        if child.is_element() {
            element
                .children
                .push(Node::Element(self::element(child, lines, depth + 1)?));
        } else if let Some(text) = child.text().filter(|_| child.is_text()) {
            match element.children.last_mut() {
                // A comment stood between the two.
                Some(Node::Text(before)) => before.push_str(text),
                _ => element.children.push(Node::Text(text.to_owned())),
            }
        }
    }
    drop_layout(&mut element);
    Ok(element)
}

/// The name of a tag as it is written, with its prefix.
fn name_at(xml: &str, place: usize) -> &str {
    let tag = xml.get(place + 1..).unwrap_or_default();
    let end = tag
        .find(|c: char| c.is_whitespace() || c == '/' || c == '>')
        .unwrap_or(tag.len());
    &tag[..end]
}

/// The namespaces that an element declares itself.
fn declarations(node: roxmltree::Node<'_, '_>) -> Vec<(String, String)> {
    let parent = node.parent_element();
    let inherited = |name: Option<&str>, uri: &str| {
        parent.is_some_and(|parent| {
            parent
                .lookup_namespace_uri(name)
                .is_some_and(|known| known == uri)
        })
    };
    let own = node
        .namespaces()
        .filter(|ns| ns.name() != Some("xml") && !inherited(ns.name(), ns.uri()));
    own.map(|ns| match ns.name() {
        Some(prefix) => (format!("xmlns:{prefix}"), ns.uri().to_owned()),
        None => ("xmlns".to_owned(), ns.uri().to_owned()),
    })
    .collect()
}

/// White space between elements is layout; where an element has text of its own, or nothing but space, it is kept.
fn drop_layout(element: &mut Element) {
    let blank = |node: &Node| matches!(node, Node::Text(text) if text.trim().is_empty());
    let has_elements = element.elements().next().is_some();
    let has_text = element
        .children
        .iter()
        .any(|node| matches!(node, Node::Text(_)) && !blank(node));
    if has_elements && !has_text {
        element.children.retain(|node| !blank(node));
    }
}
