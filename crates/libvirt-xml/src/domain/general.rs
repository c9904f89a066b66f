//! What a guest is called: `<domain>` itself, `<name>`, `<uuid>`, `<title>`, `<description>`, `<metadata>`.

use crate::error::shorten;
use crate::table::{Family, Row, honoured, kept, refused};
use crate::tree::Element;
use crate::value::Random;
use crate::{Error, Uuid};

const ROWS: &[Row] = &[
    honoured(
        "@type",
        "kvm|qemu",
        "which accelerator: `qemu` asks for the one in software",
    ),
    refused("@type", "", "there is no such hypervisor here"),
    kept("@id", "", "number of a guest that runs; given anew at each start"),
    honoured(
        "name",
        "",
        "1 to 128 bytes without slashes and control characters",
    ),
    honoured("uuid", "", "made at random if it is missing"),
    honoured(
        "genid",
        "",
        "the VM generation ID; made at random if none is given",
    ),
    honoured("title", "", "a line for people"),
    honoured("description", "", "a text for people"),
    honoured("metadata", "", "given back as it came, with its namespaces").whole(),
];

pub(crate) const FAMILY: Family = Family::root("What it is called", ROWS);

/// What the guest's owner wants to run it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum DomainType {
    /// `kvm`.
    Kvm,
    /// `qemu`: in software.
    Software,
}

/// A generation ID where one is asked for and not given.
pub(crate) fn fill(root: &mut Element, random: Random<'_>) {
    if let Some(id) = root.child_mut("genid")
        && id.text().is_empty()
    {
        id.set_text(Uuid::random(random).to_string());
    }
}

pub(crate) fn generation_id(root: &Element) -> Result<Option<Uuid>, Error> {
    let Some(text) = root.child("genid").map(Element::text) else {
        return Ok(None);
    };
    let id = text.parse().map(Some);
    id.map_err(|()| Error::Xml(format!("malformed genid element '{}'", shorten(&text))))
}
