//! Calls about texts that belong to guests: title, description, elements of other programs; and their names.

use ostler_libvirt::procedures::*;
use ostler_libvirt::types::{GetMetadataArgs, RenameArgs, SetMetadataArgs};
use ostler_libvirt::{Code, RemoteError};
use ostler_libvirt_xml::tree::{self, Element, Node};

use super::domain::{CONFIG, LIVE, choose};
use super::{Context, Dispatcher, check_flags};

/// Kinds of texts.
const DESCRIPTION: i32 = 0;
const TITLE: i32 = 1;
const ELEMENT: i32 = 2;

pub(super) fn add(to: &mut Dispatcher) {
    to.on::<DomainGetMetadata>(get);
    to.on::<DomainSetMetadata>(set);
    to.on::<DomainRename>(rename);
}

fn wrong(why: impl Into<String>) -> RemoteError {
    RemoteError::new(Code::InvalidArgument, why)
}

fn get(context: &Context<'_>, args: GetMetadataArgs) -> Result<String, RemoteError> {
    check_flags(args.flags, LIVE | CONFIG)?;
    let domain = context.domain(&args.domain)?;
    let definition = choose(&domain.state(), args.flags)?;
    let (what, text) = match args.kind {
        DESCRIPTION => ("description", definition.description.clone()),
        TITLE => ("title", definition.title.clone()),
        ELEMENT => {
            let uri = args.uri.as_deref().unwrap_or_default();
            let tree = definition.tree();
            let element = tree
                .child("metadata")
                .and_then(|metadata| metadata.elements().find(|element| is_of(element, uri)));
            ("element", element.map(plain))
        }
        _ => return Err(wrong(format!("there is no kind {} of metadata", args.kind))),
    };
    text.ok_or_else(|| {
        RemoteError::new(
            Code::NoMetadata,
            format!("Requested metadata {what} is not present"),
        )
    })
}

/// The declaration of an element's own namespace.
fn declaration(element: &Element) -> String {
    element
        .prefix()
        .map_or_else(|| "xmlns".into(), |prefix| format!("xmlns:{prefix}"))
}

fn is_of(element: &Element, uri: &str) -> bool {
    element.get(&declaration(element)) == Some(uri)
}

/// An element as it was given: without the prefix and the namespace that tell whose it is.
fn plain(element: &Element) -> String {
    let mut plain = element.clone();
    plain.unset(&declaration(element));
    if let Some((_, name)) = element.name.split_once(':') {
        plain.name = name.into();
    }
    tree::write(&plain)
}

fn set(context: &Context<'_>, args: SetMetadataArgs) -> Result<(), RemoteError> {
    check_flags(args.flags, LIVE | CONFIG)?;
    let domain = context.domain(&args.domain)?;
    let text = args.metadata.filter(|text| !text.is_empty());
    let uri = args.uri.clone();
    let change: Box<dyn Fn(&mut Element)> = match args.kind {
        DESCRIPTION => Box::new(move |root| set_text(root, "description", text.as_deref())),
        TITLE => Box::new(move |root| set_text(root, "title", text.as_deref())),
        ELEMENT => {
            let uri = args
                .uri
                .filter(|uri| !uri.is_empty())
                .ok_or_else(|| wrong("whose element it is has to be named"))?;
            let element = text
                .map(|text| own(&text, args.key.as_deref(), &uri))
                .transpose()?;
            Box::new(move |root| set_element(root, &uri, element.as_ref()))
        }
        _ => return Err(wrong(format!("there is no kind {} of metadata", args.kind))),
    };
    context
        .shared
        .domains
        .edit(&domain, args.flags, |_| Ok(()), change)?;
    context
        .shared
        .events
        .metadata(&domain.to_wire(), args.kind, uri.as_deref());
    Ok(())
}

fn set_text(root: &mut Element, name: &str, text: Option<&str>) {
    match text {
        Some(text) => root.child_or_new(name).set_text(text),
        None => root.remove_elements(|element| element.name == name),
    }
}

/// The element in `text`, as one of the namespace `uri`.
fn own(text: &str, key: Option<&str>, uri: &str) -> Result<Element, RemoteError> {
    let mut element = tree::read(text).map_err(|error| crate::domains::definition::refused(&error))?;
    let key = key
        .filter(|key| !key.is_empty())
        .ok_or_else(|| wrong("the element needs a key"))?;
    let good = key.starts_with(|c: char| c.is_ascii_alphabetic() || c == '_')
        && key
            .chars()
            .all(|c| c.is_ascii_alphanumeric() || "-_.".contains(c));
    if !good {
        return Err(wrong(format!("'{key}' is no prefix of a name")));
    }
    let local = element.name.rsplit(':').next().unwrap_or_default();
    element.name = format!("{key}:{local}");
    element.set(&format!("xmlns:{key}"), uri);
    Ok(element)
}

fn set_element(root: &mut Element, uri: &str, element: Option<&Element>) {
    let metadata = root.child_or_new("metadata");
    metadata.remove_elements(|other| is_of(other, uri));
    if let Some(element) = element {
        metadata.children.push(Node::Element(element.clone()));
    }
    root.remove_elements(|element| element.name == "metadata" && element.elements().next().is_none());
}

fn rename(context: &Context<'_>, args: RenameArgs) -> Result<i32, RemoteError> {
    check_flags(args.flags, 0)?;
    let name = args
        .name
        .filter(|name| !name.is_empty())
        .ok_or_else(|| wrong("the guest needs a name"))?;
    let domain = context.domain(&args.domain)?;
    context.shared.domains.rename(&domain, &name)?;
    Ok(0)
}
