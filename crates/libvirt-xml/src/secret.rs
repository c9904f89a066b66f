//! Secrets: `<secret>`. The value is not in the document.

use std::sync::LazyLock;

use crate::Error;
use crate::object::{parse, sorted};
use crate::table::{Family, Row, Schema, honoured, refused};
use crate::tree::{Element, write};
use crate::value::{Random, Uuid, fill_uuid, is_yes};

const ROWS: &[Row] = &[
    honoured("@ephemeral", "yes|no", "whether it is never written to a disk"),
    honoured("@private", "yes|no", "whether its value is never told"),
    honoured("uuid", "", "made at random if it is missing"),
    honoured("description", "", "a text for people"),
    honoured("usage@type", "none|volume|ceph|iscsi|tls|vtpm", "what it is for"),
    refused("usage@type", "", "there is no such use"),
    honoured("usage/volume", "", ""),
    honoured("usage/name", "", ""),
    honoured("usage/target", "", ""),
];

const FAMILY: Family = Family::root("All", ROWS);

pub(crate) static SCHEMA: LazyLock<Schema> = LazyLock::new(|| Schema::new("secret", vec![&FAMILY]));

/// A secret, without its value.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Secret {
    tree: Element,
    /// Its UUID.
    pub uuid: Uuid,
    /// Whether it is never written to a disk.
    pub ephemeral: bool,
    /// Whether its value is never told.
    pub private: bool,
    /// A text for people.
    pub description: Option<String>,
    /// `none`, `volume`, `ceph`, `iscsi`, `tls` or `vtpm`.
    pub usage: String,
    /// What of that kind it is for.
    pub usage_id: String,
}

impl Secret {
    /// Reads a definition and fills in what it does not say.
    pub fn define(xml: &str, random: Random<'_>) -> Result<Self, Error> {
        let mut tree = parse(&SCHEMA, xml)?;
        fill_uuid(&mut tree, random)?;
        tree.set_default("ephemeral", "no");
        tree.set_default("private", "no");
        let tree = sorted(&SCHEMA, tree);
        let usage = tree.child("usage");
        let kind = match usage {
            Some(usage) => usage
                .get("type")
                .ok_or_else(|| Error::Xml("unknown secret usage type".into()))?
                .to_owned(),
            None => "none".to_owned(),
        };
        let element = match kind.as_str() {
            "volume" => "volume",
            "iscsi" => "target",
            _ => "name",
        };
        let usage_id = usage
            .and_then(|usage| usage.child_text(element))
            .unwrap_or_default();
        if usage_id.is_empty() && kind != "none" {
            return Err(Error::Xml(format!(
                "{kind} usage specified, but {element} is missing"
            )));
        }
        Ok(Self {
            uuid: tree
                .child_text("uuid")
                .and_then(|uuid| uuid.parse().ok())
                .unwrap_or(Uuid([0; 16])),
            ephemeral: is_yes(tree.get("ephemeral")),
            private: is_yes(tree.get("private")),
            description: tree.child_text("description"),
            usage: kind,
            usage_id,
            tree,
        })
    }

    /// The definition.
    pub fn xml(&self) -> String {
        write(&self.tree)
    }
}
