//! A document against the table.

use super::{Class, Schema};
use crate::Error;
use crate::error::shorten;
use crate::tree::Element;

/// What the table says of one place of a document.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Finding {
    /// Names from the root on, with `@` before an attribute.
    pub path: String,
    /// The value of an attribute, or the text of an element that has one.
    pub value: String,
    /// Line of the document.
    pub line: u32,
    /// What becomes of it; `None` for what the table does not know, which is refused too.
    pub class: Option<Class>,
    /// Why, or what it means.
    pub note: &'static str,
}

/// Says of every element and attribute of a document what becomes of it. What is kept or refused as a whole is one finding.
pub fn findings(schema: &Schema, root: &Element) -> Vec<Finding> {
    let mut found = Vec::new();
    let mut path = root.name.clone();
    walk(schema, root, &mut path, Below::Known, &mut |finding, _| {
        found.push(finding);
        Ok(())
    })
    .unwrap_or_default();
    found
}

/// Refuses a document with something in it that is refused, unknown, or has a value that it cannot have.
pub(crate) fn check(schema: &Schema, root: &Element) -> Result<(), Error> {
    if root.name != schema.root {
        return Err(Error::Xml(format!(
            "unexpected root element <{}>, expecting <{}>",
            shorten(&root.name),
            schema.root
        )));
    }
    walk(
        schema,
        root,
        &mut root.name.clone(),
        Below::Known,
        &mut |finding, known| match finding.class {
            Some(Class::Refused) => Err(refusal(&finding)),
            Some(_) => Ok(()),
            None => Err(unknown(&finding, known)),
        },
    )
}

/// Whether the table keeps an element with everything in it.
pub(crate) fn is_kept_whole(schema: &Schema, path: &str, element: &Element) -> bool {
    schema.row(path, &element.text()).is_ok_and(|row| row.deep)
}

type Visit<'a> = &'a mut dyn FnMut(Finding, bool) -> Result<(), Error>;

/// What is to be done with what is in a place.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Below {
    /// The table has to know it.
    Known,
    /// What the table does not know is as the place itself.
    Free,
    /// It does not matter.
    Skipped,
}

fn walk(
    schema: &Schema,
    element: &Element,
    path: &mut String,
    above: Below,
    visit: Visit<'_>,
) -> Result<(), Error> {
    let below = look(schema, element.line, path, &element.text(), above, visit)?;
    if below == Below::Skipped {
        return Ok(());
    }
    let length = path.len();
    for (name, value) in element
        .attributes
        .iter()
        .filter(|(name, _)| !name.starts_with("xmlns:"))
    {
        path.push('@');
        path.push_str(name);
        look(schema, element.line, path, value, below, visit)?;
        path.truncate(length);
    }
    for child in element.elements() {
        path.push('/');
        path.push_str(&child.name);
        walk(schema, child, path, below, visit)?;
        path.truncate(length);
    }
    Ok(())
}

/// Looks one place up.
fn look(
    schema: &Schema,
    line: u32,
    path: &str,
    value: &str,
    above: Below,
    visit: Visit<'_>,
) -> Result<Below, Error> {
    let row = schema.row(path, value);
    if above == Below::Free && row.is_err() {
        return Ok(Below::Free);
    }
    let finding = Finding {
        path: path.to_owned(),
        value: value.to_owned(),
        line,
        class: row.ok().map(|row| row.class),
        note: row.map_or("", |row| row.note),
    };
    visit(finding, row.err().unwrap_or(true))?;
    Ok(match row {
        Ok(row) if row.class == Class::Refused => Below::Skipped,
        Ok(row) if row.deep || above == Below::Free => Below::Free,
        Ok(_) => Below::Known,
        Err(_) => Below::Skipped,
    })
}

/// `<a>` or `attribute 'b' of <a>`, with the value where it is the reason.
fn place(path: &str) -> (String, Option<String>) {
    let last = path.rsplit('/').next().unwrap_or(path);
    match last.split_once('@') {
        Some((element, attribute)) => (shorten(element), Some(shorten(attribute))),
        None => (shorten(last), None),
    }
}

fn refusal(finding: &Finding) -> Error {
    let line = finding.line;
    Error::Unsupported(match place(&finding.path) {
        (element, Some(attribute)) => format!(
            "{attribute}='{}' of <{element}> is refused: {} (line {line})",
            shorten(&finding.value),
            finding.note
        ),
        (element, None) if finding.value.is_empty() => {
            format!("<{element}> is refused: {} (line {line})", finding.note)
        }
        (element, None) => format!(
            "<{element}> with '{}' is refused: {} (line {line})",
            shorten(&finding.value),
            finding.note
        ),
    })
}

fn unknown(finding: &Finding, known: bool) -> Error {
    match place(&finding.path) {
        (element, Some(attribute)) if known => {
            Error::attribute(finding.line, &element, &attribute, &finding.value)
        }
        (element, None) if known => Error::text(finding.line, &element, &finding.value),
        (element, Some(attribute)) => Error::Xml(format!(
            "attribute '{attribute}' of element '{element}' is not known (line {})",
            finding.line
        )),
        (element, None) => Error::Xml(format!(
            "element '{element}' is not known in '{}' (line {})",
            shorten(finding.path.rsplit('/').nth(1).unwrap_or("the document")),
            finding.line
        )),
    }
}
