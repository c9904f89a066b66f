//! The order of the output: that of the table.

use crate::table::{Schema, is_kept_whole};
use crate::tree::{Element, Node};

/// Sorts what is in an element by the table, and what is in that. Elements of one name keep their order. Text between elements,
/// which means nothing, goes; libvirt does not read it either.
pub(crate) fn sort(schema: &Schema, root: &mut Element) {
    let mut path = root.name.clone();
    below(schema, root, &mut path);
}

fn below(schema: &Schema, element: &mut Element, path: &mut String) {
    if is_kept_whole(schema, path, element) || element.elements().next().is_none() {
        return;
    }
    element.children.retain(|node| node.element().is_some());
    let length = path.len();
    let mut rank = |node: &Node| match node {
        Node::Element(child) => {
            path.push('/');
            path.push_str(&child.name);
            let rank = schema.rank(path);
            path.truncate(length);
            (rank, number(child))
        }
        Node::Text(_) => (0, 0),
    };
    element.children.sort_by_cached_key(|node| rank(node));
    for child in element.elements_mut() {
        path.push('/');
        path.push_str(&child.name);
        below(schema, child, path);
        path.truncate(length);
    }
}

/// PCI controllers stand in the order of their numbers, after others.
fn number(element: &Element) -> u32 {
    if element.name != "controller" || element.get("type") != Some("pci") {
        return 0;
    }
    element
        .get("index")
        .and_then(|index| index.parse().ok())
        .map_or(u32::MAX, |index: u32| index.saturating_add(1))
}
