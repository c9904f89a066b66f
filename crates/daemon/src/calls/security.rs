//! Calls about labels that keep guests apart: the host gives them none.

use ostler_libvirt::procedures::*;
use ostler_libvirt::types::{SecurityLabel, SecurityModel, WideText};

use super::Dispatcher;

pub(super) fn add(to: &mut Dispatcher) {
    // As clients know it of a host without SELinux and AppArmor.
    to.on::<NodeGetSecurityModel>(|_, ()| {
        Ok(SecurityModel {
            model: WideText("none".into()),
            domain: WideText("0".into()),
        })
    });
    to.on::<DomainGetSecurityLabel>(|context, domain| {
        context.domain(&domain)?;
        Ok(SecurityLabel {
            label: WideText::default(),
            enforcing: 0,
        })
    });
}
