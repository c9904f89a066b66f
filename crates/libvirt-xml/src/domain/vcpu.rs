//! How many CPUs: `<vcpu>`, `<vcpus>`, `<iothreads>`.

use crate::table::{Family, Row, honoured, kept, refused};
use crate::tree::Element;
use crate::{Error, value};

const ROWS: &[Row] = &[
    honoured("vcpu", "", "most CPUs"),
    kept("vcpu@placement", "static|auto", "there is no numad to ask"),
    honoured("vcpu@cpuset", "", "host CPUs that vCPU threads may run on"),
    honoured("vcpu@current", "", "CPUs at the start"),
    honoured(
        "vcpus/vcpu@{id,enabled}",
        "",
        "which of them are there at the start",
    ),
    kept("vcpus/vcpu@{hotpluggable,order}", "", ""),
    kept("iothreads", "", "each queue has a worker of its own"),
    kept("iothreadids", "", "").whole(),
    kept("defaultiothread", "", "").whole(),
    refused("bootloader", "", "of another hypervisor"),
    refused("bootloader_args", "", "of another hypervisor"),
];

pub(crate) const FAMILY: Family = Family::root("Number of CPUs", ROWS);

/// Most CPUs that a document may ask for; a machine has less.
const MAX: u32 = 4096;

/// CPUs.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Vcpus {
    /// Most that it can have.
    pub max: u32,
    /// Those at the start.
    pub current: u32,
    /// Host CPUs that their threads may run on; empty for all.
    pub cpuset: String,
}

/// One CPU, if nothing else is said; `current` goes where it says what is so anyway.
pub(crate) fn fill(root: &mut Element) {
    let vcpu = root.child_or_new("vcpu");
    vcpu.set_default("placement", "static");
    if vcpu.text().is_empty() {
        vcpu.set_text("1");
    }
    if vcpu.get("current") == Some(&vcpu.text()) {
        vcpu.unset("current");
    }
}

impl Vcpus {
    pub(crate) fn read(root: &Element) -> Result<Self, Error> {
        let Some(vcpu) = root.child("vcpu") else {
            return Err(Error::Xml("missing vcpu element".into()));
        };
        let text = vcpu.text();
        let max = value::number(&text).filter(|max| (1..=MAX).contains(max));
        let max = max.ok_or_else(|| Error::text(vcpu.line, "vcpu", &text))?;
        let current = value::attribute(vcpu, "current")?.unwrap_or(max);
        if current == 0 || current > max {
            return Err(Error::Xml(format!(
                "maxvcpus must not be less than current vcpus ({max} < {current})"
            )));
        }
        Ok(Self {
            max,
            current,
            cpuset: vcpu.get("cpuset").unwrap_or_default().to_owned(),
        })
    }
}
