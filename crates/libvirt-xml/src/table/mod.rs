//! One table says of every element and attribute what becomes of it. Reading checks a document against it, `class` lists what
//! it says of a document, its order is the order of the output, and `docs/xml.md` is made from it.
//!
//! The rows stand beside the code that reads them, a family of elements a file.

mod check;
mod manual;
mod schema;

pub use check::{Finding, findings};
pub(crate) use check::{check, is_kept_whole};
pub use manual::manual;
pub(crate) use schema::Schema;

/// What becomes of an element, an attribute, or one of its values.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Class {
    /// It is in the model, for whoever starts the guest to do.
    Honoured,
    /// It is kept and given back, and has no effect.
    Kept,
    /// A document with it is refused by its name.
    Refused,
}

impl Class {
    /// The name that users read.
    pub fn name(self) -> &'static str {
        match self {
            Self::Honoured => "honoured",
            Self::Kept => "kept without effect",
            Self::Refused => "refused",
        }
    }
}

/// A row: where, which values, what becomes of it.
#[derive(Debug, Clone, Copy)]
pub struct Row {
    /// Names below the family's element, with `@` before an attribute; alternatives in braces: `driver@{cache,io}`. Nothing
    /// is the family's element itself.
    pub path: &'static str,
    /// The values that the row is for, with `|` between them; a `*` at the end of one stands for any rest. Nothing is any value.
    pub values: &'static str,
    /// What becomes of it.
    pub class: Class,
    /// Whether that goes for all that is in it, too.
    pub deep: bool,
    /// What it means to us.
    pub note: &'static str,
}

impl Row {
    const fn new(path: &'static str, values: &'static str, class: Class, note: &'static str) -> Self {
        Self {
            path,
            values,
            class,
            deep: false,
            note,
        }
    }

    /// The same for everything below.
    pub(crate) const fn whole(mut self) -> Self {
        self.deep = true;
        self
    }
}

/// A row of what is in the model.
pub(crate) const fn honoured(path: &'static str, values: &'static str, note: &'static str) -> Row {
    Row::new(path, values, Class::Honoured, note)
}

/// A row of what is only kept.
pub(crate) const fn kept(path: &'static str, values: &'static str, note: &'static str) -> Row {
    Row::new(path, values, Class::Kept, note)
}

/// A row of what is refused, and why.
pub(crate) const fn refused(path: &'static str, values: &'static str, note: &'static str) -> Row {
    Row::new(path, values, Class::Refused, note)
}

/// The rows of one element and what belongs to it.
#[derive(Debug, Clone, Copy)]
pub struct Family {
    /// The names above its rows: `devices/disk`; nothing for the root's own.
    pub base: &'static str,
    /// What it is about, where `base` does not say it.
    pub title: &'static str,
    /// Whether it is a device, with what every device may have.
    pub device: bool,
    /// Its rows, in the order of the output.
    pub rows: &'static [Row],
}

impl Family {
    /// A family that is no device.
    pub(crate) const fn of(base: &'static str, rows: &'static [Row]) -> Self {
        Self {
            base,
            title: "",
            device: false,
            rows,
        }
    }

    /// A family of the root's own elements.
    pub(crate) const fn root(title: &'static str, rows: &'static [Row]) -> Self {
        Self {
            base: "",
            title,
            device: false,
            rows,
        }
    }

    /// A device.
    pub(crate) const fn device(base: &'static str, rows: &'static [Row]) -> Self {
        Self {
            base,
            title: "",
            device: true,
            rows,
        }
    }
}

/// What every device may have, after its own rows.
pub(crate) const DEVICE_ROWS: &[Row] = &[
    kept(
        "driver@{iommu,ats,packed,page_per_vq,queue_size,event_idx,ioeventfd}",
        "",
        "tuning of virtio",
    ),
    honoured("boot@order", "", "its place among what the guest boots from"),
    kept("boot@loadparm", "", "of other architectures"),
    kept("rom", "", "option ROMs are not shown to guests").whole(),
    kept("acpi@index", "", "the index by which a guest may name the device"),
    honoured(
        "alias@name",
        "",
        "`ua-` names are kept; others are given anew when a guest starts",
    ),
    honoured(
        "address@type",
        "pci|drive|virtio-serial|isa|usb|ccid",
        "places are given once and kept; only addresses of PCI are checked",
    ),
    refused(
        "address@type",
        "ccw|spapr-vio|virtio-mmio|dimm|unassigned",
        "there is no such bus",
    ),
    honoured(
        "address@{domain,bus,slot,function,controller,target,unit,port,iobase,irq}",
        "",
        "on PCI as the guest sees it, from `ostler-q35-2` on",
    ),
    kept(
        "address@multifunction",
        "",
        "function 0 says by itself whether there are others; root ports share slots by it",
    ),
    kept("address/zpci", "", "of other architectures").whole(),
];
