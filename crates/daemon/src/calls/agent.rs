//! Calls that an agent inside of the guest would answer. Nobody speaks to one yet, which is said in the words that clients know.

use ostler_libvirt::procedures::*;
use ostler_libvirt::types::Domain as WireDomain;
use ostler_libvirt::{Code, RemoteError};

use super::{Context, Dispatcher};
use crate::domains::definition::Definition;

/// The channel that an agent listens at.
const CHANNEL: &str = "org.qemu.guest_agent.0";

pub(super) fn add(to: &mut Dispatcher) {
    to.on::<DomainGetTime>(|context, args| Err(refusal(context, &args.domain)));
    to.on::<DomainSetTime>(|context, args| Err(refusal(context, &args.domain)));
    to.on::<DomainGetFsInfo>(|context, args| Err(refusal(context, &args.domain)));
    to.on::<DomainFsFreeze>(|context, args| Err(refusal(context, &args.domain)));
    to.on::<DomainFsThaw>(|context, args| Err(refusal(context, &args.domain)));
    to.on::<DomainFsTrim>(|context, args| Err(refusal(context, &args.domain)));
    to.on::<DomainSetUserPassword>(|context, args| Err(refusal(context, &args.domain)));
    to.on::<DomainGetGuestInfo>(|context, args| Err(refusal(context, &args.domain)));
    to.on::<DomainGetGuestVcpus>(|context, args| Err(refusal(context, &args.domain)));
    to.on::<DomainSetGuestVcpus>(|context, args| Err(refusal(context, &args.domain)));
    to.on::<DomainPmSuspendForDuration>(|context, args| Err(refusal(context, &args.domain)));
    to.on::<QemuAgentCommand>(|context, args| Err(refusal(context, &args.domain)));
}

/// Why a guest's agent is not asked.
pub(super) fn refusal(context: &Context<'_>, domain: &WireDomain) -> RemoteError {
    let definition = context
        .domain(domain)
        .and_then(|domain| domain.with_live(|live| live.definition.clone()));
    match definition {
        Ok(definition) if has_channel(&definition) => RemoteError::new(
            Code::AgentUnresponsive,
            "QEMU guest agent is not connected: this daemon speaks to no agents",
        ),
        Ok(_) => RemoteError::new(Code::ArgumentUnsupported, "QEMU guest agent is not configured"),
        Err(error) => error,
    }
}

fn has_channel(definition: &Definition) -> bool {
    let tree = definition.tree();
    let devices = tree.child("devices");
    let mut channels = devices
        .iter()
        .flat_map(|devices| devices.elements())
        .filter(|device| device.name == "channel");
    channels.any(|channel| channel.child_get("target", "name") == Some(CHANNEL))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_channel_for_an_agent_is_known_by_its_name() {
        let with = |name: &str| {
            let xml = format!(
                "<domain type='qemu'><name>a</name><memory unit='MiB'>64</memory><devices>\
                 <channel type='unix'><target type='virtio' name='{name}'/></channel></devices></domain>"
            );
            has_channel(&Definition::read(&xml).unwrap())
        };
        assert!(with(CHANNEL));
        assert!(!with("org.example"));
    }
}
