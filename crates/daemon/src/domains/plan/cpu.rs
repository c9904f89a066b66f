//! The CPU by our names: a model, with features more or less, and what the guest sees of Hyper-V's interface.

use ostler_accel::model::{check_wishes, is_addition};
use ostler_libvirt_xml::domain as xml;

use super::Lacks;

/// Whether a model that is named, with what it is to be without, has a feature by its name alone.
fn promises(model: &str, feature: &str) -> bool {
    let (name, _) = model.split_once(',').unwrap_or((model, ""));
    let feature = feature.replace(['-', '.'], "_");
    let promised = ostler_accel::model::promises(name);
    promised.is_some_and(|promised| promised.contains(&feature.as_str()))
}

/// The model by its name, without the features that are disabled.
pub(super) fn model(model: &xml::Domain) -> Result<String, Lacks> {
    let cpu = &model.cpu;
    let mut name = match &cpu.mode {
        xml::CpuMode::Custom { model, .. } => model.clone(),
        xml::CpuMode::HostModel | xml::CpuMode::HostPassthrough | xml::CpuMode::Maximum => "max".into(),
    };
    let known = ostler_accel::model::names();
    if !known.contains(&name.as_str()) {
        return Err(format!(
            "there is no CPU model '{name}'; there are {}, and the modes host-model, host-passthrough and maximum",
            known.join(", ")
        ));
    }
    for feature in &cpu.features {
        match feature.policy {
            xml::FeaturePolicy::Disable => name.push_str(&format!(",-{}", feature.name.replace('-', "_"))),
            // What the accelerator has is shown anyway.
            xml::FeaturePolicy::Optional => {}
            xml::FeaturePolicy::Require if promises(&name, &feature.name) => {}
            xml::FeaturePolicy::Require | xml::FeaturePolicy::Force if is_addition(&feature.name) => {
                of_kvm(model, &feature.name)?;
                name.push_str(&format!(",+{}", feature.name));
            }
            _ => {
                return Err(format!(
                    "the CPU feature '{}' cannot be required, forced or forbidden; only disabled",
                    feature.name
                ));
            }
        }
    }
    if let Some(topology) = &cpu.topology
        && (topology.sockets, topology.dies, topology.threads) != (1, 1, 1)
    {
        return Err(
            "the CPUs are cores of one socket: the <topology> must have 1 socket, 1 die and 1 thread".into(),
        );
    }
    // virt-install writes them for every Windows. Without KVM the guest sees none, as with QEMU.
    let shows_hyperv = model.kind == xml::DomainType::Kvm;
    for enlightenment in model.hyperv.iter().filter(|_| shows_hyperv) {
        name.push_str(&format!(",hv-{}", hyperv(enlightenment)));
    }
    check_wishes(&name).map_err(|error| error.to_string())?;
    Ok(name)
}

/// Refuses a feature that the software CPU does not have.
fn of_kvm(model: &xml::Domain, feature: &str) -> Result<(), Lacks> {
    if model.kind == xml::DomainType::Kvm {
        return Ok(());
    }
    Err(format!(
        "the CPU feature '{feature}' is there on KVM alone: leave it out, or make the domain one of type='kvm'"
    ))
}

/// What an enlightenment is by our names.
fn hyperv(enlightenment: &xml::Enlightenment) -> String {
    match enlightenment {
        xml::Enlightenment::Plain(name) => (*name).to_owned(),
        xml::Enlightenment::Spinlocks(retries) => format!("spinlocks={retries}"),
        xml::Enlightenment::StimerDirect => "stimer-direct".to_owned(),
        xml::Enlightenment::Clock => "time".to_owned(),
    }
}
