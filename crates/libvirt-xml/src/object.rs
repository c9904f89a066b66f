//! What the documents of smaller objects share: read, check, fill, sort.

use crate::Error;
use crate::domain::sort;
use crate::table::{Schema, check};
use crate::tree::{Element, read};

/// Reads a document of a kind that the table knows.
pub(crate) fn parse(schema: &Schema, xml: &str) -> Result<Element, Error> {
    let tree = read(xml)?;
    check(schema, &tree)?;
    Ok(tree)
}

/// Brings a document in the table's order.
pub(crate) fn sorted(schema: &Schema, mut tree: Element) -> Element {
    sort(schema, &mut tree);
    tree
}

/// `<child>` with a text, if there is one.
pub(crate) fn with_text(element: Element, child: &str, text: Option<&str>) -> Element {
    match text {
        Some(text) => element.with_child(Element::new(child).with_text(text)),
        None => element,
    }
}
