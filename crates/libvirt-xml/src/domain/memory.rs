//! Memory: `<memory>`, `<currentMemory>`, `<maxMemory>`, `<memoryBacking>`.

use super::devices::MemoryDevice;
use crate::table::{Family, Row, honoured, kept, refused};
use crate::tree::Element;
use crate::{Error, value};

const ROWS: &[Row] = &[
    honoured(
        "maxMemory",
        "",
        "most that the guest can have with its memory devices",
    ),
    honoured("maxMemory@unit", "", ""),
    kept("maxMemory@slots", "", "a guest has one memory device"),
    honoured(
        "memory",
        "",
        "RAM, with the sizes of memory devices; kibibytes where no unit is named",
    ),
    honoured(
        "memory@unit",
        "",
        "`KiB` is 1024 bytes, `KB` 1000; given back in KiB",
    ),
    kept(
        "memory@dumpCore",
        "on|off",
        "core dumps of guests leave it out or not",
    ),
    honoured("currentMemory", "", "what the balloon leaves the guest"),
    honoured("currentMemory@unit", "", ""),
    honoured(
        "memoryBacking/hugepages",
        "",
        "RAM in huge pages that the host has set aside",
    ),
    honoured("memoryBacking/hugepages/page@{size,unit}", "", "their size"),
    kept(
        "memoryBacking/hugepages/page@nodeset",
        "",
        "the guest has one NUMA node",
    ),
    kept("memoryBacking/nosharepages", "", "pages are never merged"),
    honoured("memoryBacking/locked", "", "RAM is never swapped out"),
    kept(
        "memoryBacking/source@type",
        "anonymous|memfd",
        "vhost-user and virtiofs work with ordinary memory",
    ),
    refused("memoryBacking/source@type", "file", "RAM is no file"),
    kept(
        "memoryBacking/access@mode",
        "shared|private",
        "vhost-user and virtiofs work with either",
    ),
    kept(
        "memoryBacking/allocation",
        "",
        "RAM is allocated when it is touched, huge pages at the start",
    )
    .whole(),
    kept("memoryBacking/discard", "", "RAM goes with the guest"),
];

pub(crate) const FAMILY: Family = Family::root("Memory", ROWS);

/// A guest's RAM.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Memory {
    /// All of it, in bytes: what the guest starts with, and the sizes of its memory devices.
    pub bytes: u64,
    /// Most that it may become, in bytes, where memory comes and goes.
    pub max: Option<u64>,
    /// What the balloon leaves the guest at its start, in bytes.
    pub current: u64,
    /// Size of huge pages in bytes; 0 for the host's default.
    pub huge_pages: Option<u64>,
    /// Whether it is locked in the host's RAM.
    pub locked: bool,
    /// Whether other processes may map it.
    pub shared: bool,
}

/// Sizes in KiB, with a unit; the current one is all if none is stated.
pub(crate) fn fill(root: &mut Element) -> Result<(), Error> {
    let Some(memory) = root.child("memory") else {
        return Err(Error::Xml("missing memory element".into()));
    };
    let line = memory.line;
    let total = rounded(value::size(memory, 1024)?, line)?;
    let current = match root.child("currentMemory") {
        Some(current) => rounded(value::size(current, 1024)?, current.line)?,
        None => total,
    };
    if total == 0 {
        return Err(Error::Xml(format!("memory must not be 0 (line {line})")));
    }
    // libvirt lowers it without a word.
    let current = if current == 0 { total } else { current.min(total) };
    for (name, kib) in [("memory", total), ("currentMemory", current)] {
        let element = root.child_or_new(name);
        element.set("unit", "KiB");
        element.set_text(kib.to_string());
    }
    if let Some(most) = root.child_mut("maxMemory") {
        let kib = rounded(value::size(most, 1024)?, most.line)?;
        most.set("unit", "KiB");
        most.set_text(kib.to_string());
    }
    Ok(())
}

/// Bytes to KiB, rounded up.
fn rounded(bytes: u64, line: u32) -> Result<u64, Error> {
    // What a signed 64-bit number of bytes holds.
    if bytes > i64::MAX as u64 {
        return Err(Error::Xml(format!(
            "memory of {bytes} bytes is too large (line {line})"
        )));
    }
    Ok(bytes.div_ceil(1024))
}

impl Memory {
    pub(crate) fn read(root: &Element) -> Result<Self, Error> {
        let stated = |name: &str| {
            root.child(name)
                .map_or(Ok(0), |element| value::size(element, 1024))
        };
        let backing = root.child("memoryBacking");
        let huge = backing.and_then(|backing| backing.child("hugepages"));
        let page = huge
            .and_then(|huge| huge.child("page"))
            .map(page_size)
            .transpose()?;
        Ok(Self {
            bytes: stated("memory")?,
            max: root
                .child("maxMemory")
                .map(|most| value::size(most, 1024))
                .transpose()?,
            current: stated("currentMemory")?,
            huge_pages: huge.map(|_| page.unwrap_or(0)),
            locked: backing.is_some_and(|backing| backing.child("locked").is_some()),
            shared: backing.and_then(|b| b.child_get("access", "mode")) == Some("shared"),
        })
    }
}

impl Memory {
    /// What the guest starts with, in bytes.
    pub fn initial(&self, devices: &[MemoryDevice]) -> u64 {
        self.bytes.saturating_sub(sizes(devices))
    }

    pub(crate) fn check(&self, devices: &[MemoryDevice]) -> Result<(), Error> {
        let refuse = |why: &str| Err(Error::Unsupported(why.into()));
        if self.max.is_some_and(|most| most < self.bytes) {
            return refuse("<maxMemory> must be greater than or equal to <memory>");
        }
        if devices.is_empty() {
            return Ok(());
        }
        if self.max.is_none() {
            return refuse("cannot use/hotplug a memory device when domain 'maxMemory' is not defined");
        }
        if self.initial(devices) == 0 {
            return refuse("Total size of memory devices exceeds the total memory size");
        }
        Ok(())
    }
}

fn sizes(devices: &[MemoryDevice]) -> u64 {
    let sizes = devices.iter().map(|device| device.size);
    sizes.fold(0, u64::saturating_add)
}

fn page_size(page: &Element) -> Result<u64, Error> {
    let size: u64 =
        value::attribute(page, "size")?.ok_or_else(|| Error::missing(page.line, "page", "size"))?;
    let unit = value::unit(page.get("unit"), 1024).and_then(|unit| unit.checked_mul(size));
    unit.filter(|size| size.is_power_of_two())
        .ok_or_else(|| Error::attribute(page.line, "page", "size", &size.to_string()))
}
