//! Counts what the reader's time grows with the square of, before it reads: attributes of a tag and declarations of namespaces.

use crate::Error;

/// Most attributes of an element, declarations of namespaces among them.
pub const MAX_ATTRIBUTES: usize = 256;
/// Most declarations of namespaces in a document.
pub const MAX_NAMESPACES: usize = 256;

/// Refuses a document with too much of them. It is right about documents that are well-formed; of others the reader finds the fault,
/// at the latest where the two begin to differ.
pub(super) fn check(xml: &str) -> Result<(), Error> {
    let mut rest = xml;
    let mut namespaces = 0;
    while let Some(start) = rest.find('<') {
        rest = &rest[start..];
        let opaque = [("<!--", "-->"), ("<![CDATA[", "]]>"), ("<?", "?>")];
        if let Some((open, close)) = opaque.iter().find(|(open, _)| rest.starts_with(open)) {
            let inside = &rest[open.len()..];
            rest = inside.find(close).map_or("", |end| &inside[end + close.len()..]);
            continue;
        }
        let length = tag_length(rest);
        let tag = &rest[..length];
        namespaces += tag.matches("xmlns").count();
        if attributes(tag) > MAX_ATTRIBUTES {
            return Err(Error::Xml(format!(
                "an element has more than {MAX_ATTRIBUTES} attributes"
            )));
        }
        if namespaces > MAX_NAMESPACES {
            return Err(Error::Xml(format!(
                "the document declares more than {MAX_NAMESPACES} namespaces"
            )));
        }
        rest = &rest[length..];
    }
    Ok(())
}

/// Bytes of a tag, which begins with `<`: up to the `>` that is in no value.
fn tag_length(tag: &str) -> usize {
    let mut quote = None;
    for (place, byte) in tag.bytes().enumerate() {
        match (byte, quote) {
            (b'\'' | b'"', None) => quote = Some(byte),
            (b'>', None) => return place + 1,
            (byte, Some(open)) if byte == open => quote = None,
            _ => {}
        }
    }
    tag.len()
}

/// The number of `=` outside of values.
fn attributes(tag: &str) -> usize {
    let mut quote = None;
    let mut count = 0;
    for byte in tag.bytes() {
        match (byte, quote) {
            (b'\'' | b'"', None) => quote = Some(byte),
            (b'=', None) => count += 1,
            (byte, Some(open)) if byte == open => quote = None,
            _ => {}
        }
    }
    count
}
