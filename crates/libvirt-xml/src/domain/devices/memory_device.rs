//! Memory among the devices: memory that comes and goes, and files that are memory.

use super::Common;
use crate::table::{Family, Row, honoured, kept, refused};
use crate::tree::Element;
use crate::{Error, value};

const ROWS: &[Row] = &[
    honoured(
        "@model",
        "virtio-mem",
        "the guest has as much of it as it is asked to",
    ),
    honoured(
        "@model",
        "virtio-pmem",
        "a file that is memory of the guest, and keeps what is written there",
    ),
    refused(
        "@model",
        "dimm",
        "memory comes and goes by virtio-mem, not by DIMMs",
    ),
    refused("@model", "nvdimm", "persistent memory is virtio-pmem"),
    refused("@model", "sgx-epc", "the CPUs have no SGX"),
    kept(
        "@access",
        "shared|private",
        "that of `virtio-pmem` has to be `shared`; other memory works with either",
    ),
    kept("@discard", "yes|no", "the host has the memory back at once"),
    kept("uuid", "", "of other architectures"),
    honoured(
        "source/path",
        "",
        "the file of `virtio-pmem`; made where it is not there",
    ),
    kept(
        "source/pagesize",
        "",
        "memory that comes and goes is in the host's usual pages",
    ),
    kept("source/pagesize@unit", "", ""),
    kept("source/nodemask", "", "memory comes from where the host has it"),
    refused("source/alignsize", "", "of NVDIMMs"),
    refused("source/pmem", "", "of NVDIMMs"),
    honoured("target/size", "", "most that the guest can have of it"),
    honoured("target/size@unit", "", ""),
    kept("target/node", "", "the guest has one NUMA node"),
    honoured("target/block", "", "what it comes and goes in, at least"),
    honoured("target/block@unit", "", ""),
    honoured("target/requested", "", "how much of it the guest is to have"),
    honoured("target/requested@unit", "", ""),
    honoured(
        "target/current",
        "",
        "how much of it a guest that runs has; no part of a definition",
    ),
    honoured("target/current@unit", "", ""),
    refused("target/label", "", "of NVDIMMs"),
    honoured(
        "target/readonly",
        "",
        "what the guest writes to the file's memory is dropped",
    ),
    kept(
        "target/address@base",
        "",
        "the place in the guest's memory is given anew",
    ),
];

pub(crate) const FAMILY: Family = Family::device("devices/memory", ROWS);

/// Memory among the devices. Sizes are in bytes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct MemoryDevice {
    /// What all devices have.
    pub common: Common,
    /// Most that there can be of it.
    pub size: u64,
    /// What kind of memory.
    pub kind: MemoryKind,
}

/// Kinds of memory among the devices.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum MemoryKind {
    /// It comes and goes.
    Pluggable {
        /// What it comes and goes in.
        block: u64,
        /// How much of it the guest is to have.
        requested: u64,
    },
    /// It is a file.
    Persistent {
        /// The file.
        path: String,
        /// What the guest writes is dropped.
        readonly: bool,
    },
}

/// Sizes in KiB.
pub(crate) fn fill(memory: &mut Element) -> Result<(), Error> {
    let Some(target) = memory.child_mut("target") else {
        return Ok(());
    };
    for name in ["size", "block", "requested", "current"] {
        if let Some(element) = target.child_mut(name) {
            let bytes = value::size(element, 1024)?;
            element.set("unit", "KiB");
            element.set_text(bytes.div_ceil(1024).to_string());
        }
    }
    Ok(())
}

impl MemoryDevice {
    pub(crate) fn read(memory: &Element) -> Result<Self, Error> {
        let line = memory.line;
        let refuse = |why: &str| Error::Unsupported(format!("{why} (line {line})"));
        let size = needed(memory, "size")?;
        if size == 0 {
            return Err(refuse("the <size> of a memory device must not be 0"));
        }
        let target = memory.child("target");
        let kind = match memory.get("model") {
            None => return Err(Error::missing(line, "memory", "model")),
            Some("virtio-pmem") => {
                let path = memory
                    .child("source")
                    .and_then(|source| source.child_text("path"));
                let path = path.filter(|path| !path.is_empty());
                let path = path.ok_or_else(|| refuse("path is required for model 'virtio-pmem'"))?;
                if memory.get("access") != Some("shared") {
                    return Err(refuse("shared access mode required for virtio-pmem device"));
                }
                MemoryKind::Persistent {
                    path,
                    readonly: target.is_some_and(|target| target.child("readonly").is_some()),
                }
            }
            Some(_) => {
                let block = needed(memory, "block")?;
                let requested = stated(memory, "requested")?.unwrap_or(0);
                if !block.is_power_of_two() || !size.is_multiple_of(block) {
                    return Err(refuse(
                        "memory's size must be an integer multiple of its block size, a power of two",
                    ));
                }
                if requested > size {
                    return Err(refuse(
                        "requested size must be smaller than or equal to the memory's size",
                    ));
                }
                if !requested.is_multiple_of(block) {
                    return Err(refuse("requested size must be an integer multiple of block size"));
                }
                MemoryKind::Pluggable { block, requested }
            }
        };
        Ok(Self {
            common: Common::read(memory)?,
            size,
            kind,
        })
    }
}

/// A size of the target, in bytes.
fn stated(memory: &Element, name: &str) -> Result<Option<u64>, Error> {
    let element = memory.child("target").and_then(|target| target.child(name));
    element.map(|element| value::size(element, 1024)).transpose()
}

fn needed(memory: &Element, name: &str) -> Result<u64, Error> {
    stated(memory, name)?.ok_or_else(|| {
        Error::Xml(format!(
            "a <memory> of the devices needs the element '{name}' in its <target> (line {})",
            memory.line
        ))
    })
}
