//! CPUs as clients describe them, beside the one that there is: whether it can be, and what several have in common.
//!
//! A CPU is a set of features. A model's name stands for those that it promises.

use std::collections::BTreeSet;
use std::fs;

use ostler_accel::CpuidLeaf;
use ostler_accel::model::{self, features};
use ostler_libvirt::{Code, RemoteError};
use ostler_libvirt_xml::tree::{self, Element};

/// Names of features, as /proc/cpuinfo spells them.
pub type Features = BTreeSet<String>;

/// How a CPU that is described compares with the one that there is (`virCPUCompareResult`).
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Comparison {
    /// It cannot be, for this reason.
    Incompatible(String),
    /// It is the same.
    Identical,
    /// There is more than is described.
    Superset,
}

/// What the CPU of this host has, of the features that have a name here.
pub fn of_host() -> Features {
    let text = fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
    flags(&text)
}

fn flags(cpuinfo: &str) -> Features {
    let line = cpuinfo.lines().find_map(|line| {
        let (name, flags) = line.split_once(':')?;
        (name.trim() == "flags").then_some(flags)
    });
    let flags = line.unwrap_or_default().split_whitespace();
    let known = flags.filter(|flag| features::named(flag).is_some());
    known.map(str::to_owned).collect()
}

/// The vendor of this host's CPU, as definitions have it.
pub fn vendor() -> Option<String> {
    let text = fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
    let id = text.lines().find_map(|line| line.strip_prefix("vendor_id"))?;
    match id.trim_start_matches([' ', '\t', ':']).trim() {
        "GenuineIntel" => Some("Intel".into()),
        "AuthenticAMD" => Some("AMD".into()),
        "HygonGenuine" => Some("Hygon".into()),
        _ => None,
    }
}

/// What a guest can have at most of an accelerator that supports these leaves.
pub fn of_guests(supported: &[CpuidLeaf]) -> Result<Features, RemoteError> {
    let one = model::Topology { cpus: 1 };
    let leaves = model::build("max", supported, one, 0)
        .map_err(|error| RemoteError::new(Code::Internal, error.to_string()))?;
    let all = features::FEATURES.iter().filter(|feature| feature.is_in(&leaves));
    Ok(all.map(|feature| feature.name.to_owned()).collect())
}

/// The highest model that promises nothing beyond `features`, and what they have beyond it.
pub fn nearest(features: &Features) -> Option<(&'static str, Features)> {
    let fits = |name: &&str| {
        let promised = model::promises(name);
        promised.is_some_and(|promised| promised.iter().all(|one| features.contains(*one)))
    };
    let name = model::names().into_iter().rfind(fits)?;
    let promised = model::promises(name).unwrap_or_default();
    let more = features.iter().filter(|one| !promised.contains(&one.as_str()));
    Some((name, more.cloned().collect()))
}

/// A CPU as a document describes it.
struct Described {
    /// Another architecture, if it is one.
    foreign: Option<String>,
    required: Features,
    forbidden: Features,
    /// The host may not have more.
    strict: bool,
}

impl Described {
    /// Reads `<cpu>`; `all` are the features of the CPU that there is.
    fn read(xml: &str, all: &Features) -> Result<Self, RemoteError> {
        let wrong = |why: String| RemoteError::new(Code::Xml, why);
        let cpu = tree::read(xml).map_err(|error| wrong(error.to_string()))?;
        if cpu.name != "cpu" {
            return Err(wrong("the document is no <cpu>".into()));
        }
        let arch = cpu.child_text("arch");
        let mut required = promised(&cpu, all)?;
        let mut forbidden = Features::new();
        for feature in cpu.all("feature") {
            let name = feature.get("name").unwrap_or_default();
            // As definitions spell them.
            let name = name.to_ascii_lowercase().replace(['-', '.'], "_");
            if features::named(&name).is_none() {
                let shown: String = name.chars().take(80).collect();
                let why = format!("there is no CPU feature '{shown}' here");
                return Err(RemoteError::new(Code::ConfigUnsupported, why));
            }
            match feature.get("policy") {
                None | Some("require" | "force") => drop(required.insert(name)),
                Some("disable") => drop(required.remove(&name)),
                Some("forbid") => {
                    required.remove(&name);
                    forbidden.insert(name);
                }
                Some("optional") => {}
                Some(_) => return Err(wrong("Invalid CPU feature policy".into())),
            }
        }
        Ok(Self {
            foreign: arch.filter(|arch| arch != "x86_64"),
            required,
            forbidden,
            strict: cpu.get("match") == Some("strict"),
        })
    }
}

/// What the model of a CPU promises.
fn promised(cpu: &Element, all: &Features) -> Result<Features, RemoteError> {
    if let Some("host-model" | "host-passthrough" | "maximum") = cpu.get("mode") {
        return Ok(all.clone());
    }
    let name = cpu
        .child_text("model")
        .ok_or_else(|| RemoteError::new(Code::Xml, "Missing CPU model name"))?;
    let name = name.trim();
    match model::promises(name) {
        Some(promised) => Ok(promised.into_iter().map(str::to_owned).collect()),
        None if model::names().contains(&name) => Ok(all.clone()),
        None => {
            let shown: String = name.chars().take(80).collect();
            let known = model::names().join(", ");
            let why = format!("there is no CPU model '{shown}'; there are {known}");
            Err(RemoteError::new(Code::ConfigUnsupported, why))
        }
    }
}

/// Compares the CPU of a document with one that has `all`.
pub fn compare(xml: &str, all: &Features) -> Result<Comparison, RemoteError> {
    let cpu = Described::read(xml, all)?;
    if let Some(arch) = cpu.foreign {
        let shown: String = arch.chars().take(80).collect();
        return Ok(Comparison::Incompatible(format!(
            "it is of the architecture {shown}"
        )));
    }
    let list = |features: Vec<&String>| {
        let names: Vec<&str> = features.into_iter().map(String::as_str).collect();
        names.join(", ")
    };
    let missing: Vec<_> = cpu.required.difference(all).collect();
    if !missing.is_empty() {
        return Ok(Comparison::Incompatible(format!("it lacks {}", list(missing))));
    }
    let unwanted: Vec<_> = cpu.forbidden.intersection(all).collect();
    if !unwanted.is_empty() {
        return Ok(Comparison::Incompatible(format!("it has {}", list(unwanted))));
    }
    let more: Vec<_> = all.difference(&cpu.required).collect();
    if more.is_empty() {
        return Ok(Comparison::Identical);
    }
    Ok(match cpu.strict {
        true => Comparison::Incompatible(format!("it has more: {}", list(more))),
        false => Comparison::Superset,
    })
}

/// The CPU that guests can have wherever one of those in the documents is: a model, with all that its name promises if `expand` asks
/// for it. Features beyond a model are not in it, as no guest can require them.
pub fn baseline<'a>(
    documents: impl IntoIterator<Item = &'a str>,
    all: &Features,
    expand: bool,
) -> Result<String, RemoteError> {
    let mut common: Option<Features> = None;
    for xml in documents {
        let cpu = Described::read(xml, all)?;
        if let Some(arch) = cpu.foreign {
            let shown: String = arch.chars().take(80).collect();
            let why = format!("no guest can have the architecture '{shown}'");
            return Err(RemoteError::new(Code::ConfigUnsupported, why));
        }
        common = Some(match common {
            None => cpu.required,
            Some(common) => common.intersection(&cpu.required).cloned().collect(),
        });
    }
    let common = common.ok_or_else(|| RemoteError::new(Code::InvalidArgument, "No CPUs given"))?;
    let Some((name, _)) = nearest(&common) else {
        return Err(RemoteError::new(Code::OperationFailed, "CPUs are incompatible"));
    };
    let mut cpu = Element::new("cpu")
        .with("mode", "custom")
        .with("match", "exact")
        .with_child(Element::new("model").with("fallback", "forbid").with_text(name));
    if expand {
        for feature in model::promises(name).unwrap_or_default() {
            let feature = Element::new("feature")
                .with("policy", "require")
                .with("name", feature);
            cpu = cpu.with_child(feature);
        }
    }
    Ok(tree::write(&cpu))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn model_and(name: &str, more: &[&str]) -> Features {
        let promised = model::promises(name).unwrap();
        promised
            .into_iter()
            .chain(more.iter().copied())
            .map(str::to_owned)
            .collect()
    }

    #[test]
    fn cpus_are_compared() {
        let all = model_and("x86-64-v2", &["aes"]);
        let compare = |xml: &str| compare(xml, &all).unwrap();
        let cpu = |inside: &str| compare(&format!("<cpu><arch>x86_64</arch>{inside}</cpu>"));
        assert_eq!(cpu("<model>x86-64-v2</model>"), Comparison::Superset);
        assert_eq!(
            cpu("<model>x86-64-v2</model><feature name='aes'/>"),
            Comparison::Identical
        );
        assert_eq!(cpu("<model>max</model>"), Comparison::Identical);
        assert_eq!(compare("<cpu mode='host-passthrough'/>"), Comparison::Identical);
        for (xml, why) in [
            ("<cpu><model>x86-64-v3</model></cpu>", "it lacks abm, avx"),
            (
                "<cpu><arch>aarch64</arch><model>max</model></cpu>",
                "architecture aarch64",
            ),
            (
                "<cpu match='strict'><model>x86-64-v2</model></cpu>",
                "it has more: aes",
            ),
            (
                "<cpu><model>x86-64-v1</model><feature policy='forbid' name='aes'/></cpu>",
                "it has aes",
            ),
            (
                "<cpu><model>x86-64-v1</model><feature name='sse4a'/></cpu>",
                "it lacks sse4a",
            ),
        ] {
            match compare(xml) {
                Comparison::Incompatible(said) => assert!(said.contains(why), "{xml}: {said}"),
                other => panic!("{xml}: {other:?}"),
            }
        }
        let less = "<cpu><model>x86-64-v3</model>";
        let lacks: String = [
            "avx", "avx2", "bmi1", "bmi2", "f16c", "fma", "abm", "movbe", "xsave",
        ]
        .map(|name| format!("<feature policy='disable' name='{name}'/>"))
        .concat();
        assert_eq!(compare(&format!("{less}{lacks}</cpu>")), Comparison::Superset);
        for (xml, says) in [
            ("<cpu/>", "Missing CPU model name"),
            (
                "<cpu><model>Skylake-Client</model></cpu>",
                "no CPU model 'Skylake-Client'",
            ),
            (
                "<cpu><model>max</model><feature name='warp'/></cpu>",
                "no CPU feature 'warp'",
            ),
            ("<domain/>", "no <cpu>"),
        ] {
            let said = super::compare(xml, &all).unwrap_err();
            assert!(said.detail.contains(says), "{xml}: {said}");
        }
    }

    #[test]
    fn what_several_have_in_common() {
        let all = model_and("x86-64-v3", &[]);
        let v2 = "<cpu><model>x86-64-v2</model><feature name='aes'/></cpu>";
        let common = baseline(["<cpu><model>max</model></cpu>", v2], &all, false).unwrap();
        assert!(
            common.contains("<model fallback='forbid'>x86-64-v2</model>"),
            "{common}"
        );
        assert!(!common.contains("feature"), "{common}");
        let common = baseline([v2], &all, true).unwrap();
        assert!(
            common.contains("<feature policy='require' name='popcnt'/>"),
            "{common}"
        );
        assert_eq!(
            compare(&common, &model_and("x86-64-v2", &[])).unwrap(),
            Comparison::Identical
        );
        let bare = "<cpu><model>x86-64-v1</model><feature policy='disable' name='sse2'/></cpu>";
        assert!(baseline([v2, bare], &all, false).is_err());
        assert!(baseline([], &all, false).is_err());
    }

    #[test]
    fn the_hosts_flags_that_have_a_name() {
        let found = flags("processor\t: 0\nflags\t\t: fpu sse2 unheard_of\nbugs\t: none\n");
        assert_eq!(found.into_iter().collect::<Vec<_>>(), ["fpu", "sse2"]);
        assert!(flags("").is_empty());
    }

    proptest! {
        #[test]
        fn any_text_is_a_cpu_or_an_error(text in any::<String>(), name in "[a-z0-9-]{0,9}", policy in "(require|force|disable|forbid|optional|x)") {
            let all = model_and("x86-64-v2", &[]);
            let _ = compare(&text, &all);
            let xml = format!("<cpu><model>x86-64-v1</model><feature policy='{policy}' name='{name}'/></cpu>");
            let _ = compare(&xml, &all);
            let _ = baseline([&*xml, &*text], &all, true);
        }
    }
}
