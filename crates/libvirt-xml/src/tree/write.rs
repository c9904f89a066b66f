//! A tree to text, laid out as libvirt does: two spaces a level, attributes in single quotes.

use super::{Element, Node};

/// The document, with a newline at its end.
pub fn write(root: &Element) -> String {
    let mut out = String::new();
    element(root, 0, &mut out);
    out
}

fn element(element: &Element, level: usize, out: &mut String) {
    indent(level, out);
    open(element, out);
    if !element.children.is_empty() {
        if element.children.iter().any(|node| matches!(node, Node::Text(_))) {
            element.children.iter().for_each(|node| inline(node, out));
        } else {
            out.push('\n');
            element
                .elements()
                .for_each(|child| self::element(child, level + 1, out));
            indent(level, out);
        }
        close(element, out);
    }
    out.push('\n');
}

/// Where there is text, white space means something, and none is added.
fn inline(node: &Node, out: &mut String) {
    match node {
        Node::Text(text) => escape(text, false, out),
        Node::Element(element) => {
            open(element, out);
            if !element.children.is_empty() {
                element.children.iter().for_each(|child| inline(child, out));
                close(element, out);
            }
        }
    }
}

fn indent(level: usize, out: &mut String) {
    (0..level).for_each(|_| out.push_str("  "));
}

fn open(element: &Element, out: &mut String) {
    out.push('<');
    out.push_str(&element.name);
    for (name, value) in &element.attributes {
        out.push(' ');
        out.push_str(name);
        out.push_str("='");
        escape(value, true, out);
        out.push('\'');
    }
    out.push_str(if element.children.is_empty() { "/>" } else { ">" });
}

fn close(element: &Element, out: &mut String) {
    out.push_str("</");
    out.push_str(&element.name);
    out.push('>');
}

fn escape(text: &str, attribute: bool, out: &mut String) {
    for c in text.chars() {
        match c {
            '&' => out.push_str("&amp;"),
            '<' => out.push_str("&lt;"),
            '>' => out.push_str("&gt;"),
            '\'' if attribute => out.push_str("&apos;"),
            '"' if attribute => out.push_str("&quot;"),
            // A reader would make a space, or a newline, of these.
            '\r' => out.push_str("&#13;"),
            '\n' if attribute => out.push_str("&#10;"),
            '\t' if attribute => out.push_str("&#9;"),
            other => out.push(other),
        }
    }
}
