//! Storage: pools and the volumes in them.

mod pool;
mod volume;

pub use pool::{Pool, PoolState, PoolType};
pub use volume::{Volume, VolumeState};

pub(crate) use pool::SCHEMA as POOL;
pub(crate) use volume::SCHEMA as VOLUME;

use crate::Error;
use crate::tree::Element;

/// Owner and mode of a file.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Permissions {
    /// The mode's bits.
    pub mode: Option<u32>,
    /// User.
    pub owner: Option<u32>,
    /// Group.
    pub group: Option<u32>,
}

impl Permissions {
    /// Those of a `<target>`.
    fn read(tree: &Element) -> Result<Self, Error> {
        let Some(permissions) = tree.at("target/permissions") else {
            return Ok(Self::default());
        };
        let wrong = |name: &str, text: &str| {
            Error::Xml(format!("malformed {name} '{}'", crate::error::shorten(text)))
        };
        let mode = permissions.child_text("mode").map(|mode| {
            u32::from_str_radix(&mode, 8)
                .ok()
                .filter(|mode| *mode <= 0o7777)
                .ok_or_else(|| wrong("octal mode", &mode))
        });
        let id = |name: &str| match permissions.child_text(name).as_deref() {
            // Nobody in particular.
            None | Some("-1") => Ok(None),
            Some(id) => id.parse().map(Some).map_err(|_| wrong(name, id)),
        };
        Ok(Self {
            mode: mode.transpose()?,
            owner: id("owner")?,
            group: id("group")?,
        })
    }
}

/// A size in bytes as an element.
fn bytes(name: &str, bytes: u64) -> Element {
    Element::new(name)
        .with("unit", "bytes")
        .with_text(bytes.to_string())
}
