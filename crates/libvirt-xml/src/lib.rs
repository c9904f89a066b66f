//! libvirt's XML: strings in, models and strings out. No file is opened here and nothing is started.
//!
//! A document is kept as a tree ([`tree`]) and given back as it came, with what it did not say filled in; models such as
//! [`domain::Domain`] are views of it. Of every element and attribute one table says what becomes of it: it is *honoured*, *kept
//! without effect* or *refused* ([`Class`]); what the table does not know is refused. `docs/xml.md` is that table.

pub mod capabilities;
pub mod domain;
pub mod domain_capabilities;
mod error;
#[cfg(any(test, fuzzing))]
pub mod fuzzing;
pub mod host_interface;
pub mod network;
pub mod node_device;
mod object;
pub mod secret;
pub mod storage;
mod table;
pub mod tree;
mod value;

pub use error::Error;
pub use table::{Class, Family, Finding, Row, manual};
pub use value::{MAX_NAME, Mac, Random, Uuid};

/// What is filled in where a definition does not say it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Defaults {
    /// The newest version of the platform, `ostler-q35-1`.
    pub machine: String,
    /// The CPU model of a guest whose owner names none.
    pub cpu_model: String,
    /// Whether a guest has a balloon unless its owner says `none`, as with libvirt.
    pub memballoon: bool,
}

/// All tables, with titles for people.
pub(crate) fn schemas() -> Vec<(&'static str, &'static table::Schema)> {
    vec![
        ("Domain", &domain::SCHEMA),
        ("Network", &network::SCHEMA),
        ("Storage pool", &storage::POOL),
        ("Storage volume", &storage::VOLUME),
        ("Secret", &secret::SCHEMA),
    ]
}
