//! The CPU that the guest sees: `<cpu>`.

use std::collections::BTreeSet;

use crate::table::{Family, Row, honoured, kept, refused};
use crate::tree::Element;
use crate::{Error, value};

const ROWS: &[Row] = &[
    honoured(
        "@mode",
        "custom|host-model|host-passthrough|maximum",
        "`maximum` is all that the accelerator can do",
    ),
    honoured(
        "@match",
        "exact|minimum|strict",
        "whether the host may have more; with a custom model only",
    ),
    kept(
        "@check",
        "none|partial|full",
        "what a guest needs is always checked",
    ),
    kept(
        "@migratable",
        "on|off",
        "only features that can be moved are shown",
    ),
    honoured("model", "", "a named model, with `custom`"),
    honoured("model@fallback", "allow|forbid", "whether another model may do"),
    kept("model@vendor_id", "", "the vendor is the model's"),
    kept("vendor", "", "which vendor the host has to have"),
    honoured(
        "topology@{sockets,dies,cores,threads}",
        "",
        "their product is the number of CPUs",
    ),
    kept(
        "cache@{level,mode}",
        "",
        "caches are shown as the accelerator does",
    ),
    kept(
        "maxphysaddr@{mode,bits}",
        "",
        "physical addresses are as wide as the accelerator's",
    ),
    honoured(
        "feature@policy",
        "force|require|optional|disable|forbid",
        "a feature more, or less, than the model's",
    ),
    honoured("feature@name", "", ""),
    refused("numa", "", "a guest has one NUMA node"),
];

pub(crate) const FAMILY: Family = Family::of("cpu", ROWS);

/// The CPU that the guest sees.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Cpu {
    /// Where its features come from.
    pub mode: CpuMode,
    /// How it must match a named model.
    pub matching: CpuMatch,
    /// Sockets, dies a socket, cores a die, threads a core.
    pub topology: Option<Topology>,
    /// Features that are other than the model's.
    pub features: Vec<CpuFeature>,
}

/// Where the features of a CPU come from.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum CpuMode {
    /// A named model.
    Custom {
        /// Its name.
        model: String,
        /// Whether another may stand in for it.
        fallback: bool,
    },
    /// The named model that is nearest the host's, with features more.
    HostModel,
    /// The host's own.
    HostPassthrough,
    /// All that the accelerator can do.
    Maximum,
}

/// Whether the host may have more than a model.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum CpuMatch {
    /// The guest sees the model.
    Exact,
    /// The guest sees what the host has more, too.
    Minimum,
    /// The host may not have more.
    Strict,
}

/// How CPUs are put together.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Topology {
    /// Sockets.
    pub sockets: u32,
    /// Dies in a socket.
    pub dies: u32,
    /// Cores in a die.
    pub cores: u32,
    /// Threads in a core.
    pub threads: u32,
}

/// What is wanted of a feature.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum FeaturePolicy {
    /// It is shown, whether or not the host has it.
    Force,
    /// It is shown, or the guest does not start.
    Require,
    /// It is shown if the host has it.
    Optional,
    /// It is not shown.
    Disable,
    /// The guest does not start where the host has it.
    Forbid,
}

/// A feature of a CPU.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CpuFeature {
    /// Its name.
    pub name: String,
    /// What is wanted of it.
    pub policy: FeaturePolicy,
}

/// Defaults of a mode; where no CPU is stated, the caller's model.
pub(crate) fn fill(root: &mut Element, model: &str) {
    let cpu = root.child_or_new("cpu");
    let named = cpu.child("model").is_some();
    if cpu.get("mode").is_none() {
        cpu.set("mode", "custom");
    }
    if cpu.get("mode") == Some("custom") {
        if !named {
            let fallback = Element::new("model").with("fallback", "forbid").with_text(model);
            cpu.children.insert(0, crate::tree::Node::Element(fallback));
            cpu.set_default("match", "exact");
            cpu.set_default("check", "none");
        }
        cpu.set_default("match", "exact");
        cpu.set_default("check", "partial");
        cpu.child_or_new("model").set_default("fallback", "allow");
    } else if cpu.get("mode") == Some("host-model") {
        cpu.set_default("check", "partial");
    } else {
        cpu.set_default("check", "none");
        cpu.set_default("migratable", "on");
    }
    if let Some(topology) = cpu.child_mut("topology") {
        topology.set_default("dies", "1");
    }
}

impl Cpu {
    pub(crate) fn read(root: &Element, vcpus: u32) -> Result<Self, Error> {
        let empty = Element::new("cpu");
        let cpu = root.child("cpu").unwrap_or(&empty);
        let mode = match cpu.get("mode") {
            Some("host-model") => CpuMode::HostModel,
            Some("host-passthrough") => CpuMode::HostPassthrough,
            Some("maximum") => CpuMode::Maximum,
            _ => CpuMode::Custom {
                model: cpu
                    .child_text("model")
                    .ok_or_else(|| Error::Xml(format!("Missing CPU model name (line {})", cpu.line)))?,
                fallback: cpu.child_get("model", "fallback") != Some("forbid"),
            },
        };
        let matching = match cpu.get("match") {
            Some("minimum") => CpuMatch::Minimum,
            Some("strict") => CpuMatch::Strict,
            _ => CpuMatch::Exact,
        };
        let topology = cpu
            .child("topology")
            .map(|topology| Topology::read(topology, vcpus))
            .transpose()?;
        let features = cpu
            .all("feature")
            .map(CpuFeature::read)
            .collect::<Result<Vec<_>, _>>()?;
        let mut names = BTreeSet::new();
        if let Some(twice) = features.iter().find(|feature| !names.insert(&feature.name)) {
            let name = crate::error::shorten(&twice.name);
            return Err(Error::Xml(format!(
                "CPU feature '{name}' specified more than once"
            )));
        }
        Ok(Self {
            mode,
            matching,
            topology,
            features,
        })
    }
}

impl Topology {
    fn read(element: &Element, vcpus: u32) -> Result<Self, Error> {
        let count = |name: &str| -> Result<u32, Error> {
            let count = value::attribute(element, name)?;
            let count = if name == "dies" { count.or(Some(1)) } else { count };
            count.filter(|&count| count > 0).ok_or_else(|| {
                Error::Xml(format!(
                    "Missing '{name}' attribute in CPU topology (line {})",
                    element.line
                ))
            })
        };
        let topology = Self {
            sockets: count("sockets")?,
            dies: count("dies")?,
            cores: count("cores")?,
            threads: count("threads")?,
        };
        let product = [topology.dies, topology.cores, topology.threads]
            .into_iter()
            .try_fold(topology.sockets, u32::checked_mul);
        if product != Some(vcpus) {
            return Err(Error::Unsupported(
                "CPU topology doesn't match maximum vcpu count".into(),
            ));
        }
        Ok(topology)
    }
}

impl CpuFeature {
    fn read(element: &Element) -> Result<Self, Error> {
        let name = element.get("name").filter(|name| !name.is_empty());
        Ok(Self {
            name: name
                .ok_or_else(|| Error::Xml(format!("Invalid CPU feature name (line {})", element.line)))?
                .to_owned(),
            policy: match element.get("policy") {
                Some("force") => FeaturePolicy::Force,
                Some("optional") => FeaturePolicy::Optional,
                Some("disable") => FeaturePolicy::Disable,
                Some("forbid") => FeaturePolicy::Forbid,
                _ => FeaturePolicy::Require,
            },
        })
    }
}
