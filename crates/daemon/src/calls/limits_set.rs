//! Calls that set what a guest's control group limits: CPU time, memory, disk I/O.

use ostler_libvirt::procedures::*;
use ostler_libvirt::types::{Domain as WireDomain, TypedParameter, TypedValue};
use ostler_libvirt::{Code, RemoteError};
use ostler_libvirt_xml::tree::Element;

use super::limits::UNLIMITED;
use super::stats::STRING_OKAY;
use super::{Context, Dispatcher, check_flags};
use crate::domains::Impact;

/// Parameters of the scheduler, and the elements of `<cputune>`.
const SCHEDULER: [(&str, &str); 7] = [
    ("cpu_shares", "shares"),
    ("vcpu_period", "period"),
    ("vcpu_quota", "quota"),
    ("emulator_period", "emulator_period"),
    ("emulator_quota", "emulator_quota"),
    ("global_period", "global_period"),
    ("global_quota", "global_quota"),
];
/// Parameters of memory, which are elements of `<memtune>`.
const MEMORY: [(&str, &str); 3] = [
    ("hard_limit", "hard_limit"),
    ("soft_limit", "soft_limit"),
    ("swap_hard_limit", "swap_hard_limit"),
];
/// Parameters of disk I/O, which are elements of `<blkiotune>`.
const DISKS: [(&str, &str); 1] = [("weight", "weight")];

pub(super) fn add(to: &mut Dispatcher) {
    to.on::<DomainSetSchedulerParameters>(|context, args| {
        set(
            context,
            &args.domain,
            0,
            &changes(&args.params.0, "cputune", &SCHEDULER)?,
        )
    });
    to.on::<DomainSetSchedulerParametersFlags>(|context, args| {
        let changes = changes(&args.params.0, "cputune", &SCHEDULER)?;
        set(context, &args.domain, args.flags, &changes)
    });
    to.on::<DomainSetMemoryParameters>(|context, args| {
        let changes = changes(&args.params.0, "memtune", &MEMORY)?;
        set(context, &args.domain, args.flags, &changes)
    });
    to.on::<DomainSetBlkioParameters>(|context, args| {
        let changes = changes(&args.params.0, "blkiotune", &DISKS)?;
        set(context, &args.domain, args.flags, &changes)
    });
}

/// What an element is to say.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Change {
    around: &'static str,
    element: &'static str,
    value: i64,
}

impl Change {
    fn make(&self, root: &mut Element) {
        let is_memory = self.around == "memtune";
        let around = root.child_or_new(self.around);
        if is_memory && self.value >= UNLIMITED as i64 {
            around.remove_elements(|element| element.name == self.element);
        } else {
            let element = around.child_or_new(self.element);
            element.set_text(self.value.to_string());
            if is_memory {
                element.set("unit", "KiB");
            }
        }
        root.remove_elements(|element| element.name == self.around && element.elements().next().is_none());
    }
}

fn number(value: &TypedValue) -> Option<i64> {
    match value {
        TypedValue::Int(number) => Some((*number).into()),
        TypedValue::Uint(number) => Some((*number).into()),
        TypedValue::Long(number) => Some(*number),
        TypedValue::Ulong(number) => i64::try_from(*number).ok(),
        TypedValue::Double(_) | TypedValue::Bool(_) | TypedValue::Text(_) => None,
    }
}

/// What parameters mean, by the names that are known.
fn changes(
    params: &[TypedParameter],
    around: &'static str,
    known: &[(&'static str, &'static str)],
) -> Result<Vec<Change>, RemoteError> {
    let change = |param: &TypedParameter| {
        let name: String = param.field.chars().take(80).collect();
        let found = known.iter().find(|(field, _)| *field == param.field);
        let Some((_, element)) = found else {
            let why = format!("'{name}' of a guest cannot be set");
            return Err(RemoteError::new(Code::OperationUnsupported, why));
        };
        let may_be_less = element.ends_with("quota");
        let value = number(&param.value).filter(|value| *value >= 0 || may_be_less);
        let bad = || {
            RemoteError::new(
                Code::InvalidArgument,
                format!("the value of '{name}' is no number that it can be"),
            )
        };
        Ok(Change {
            around,
            element,
            value: value.ok_or_else(bad)?,
        })
    };
    params.iter().map(change).collect()
}

/// Makes changes: in the guest that runs, in its definition, or in both.
fn set(
    context: &Context<'_>,
    domain: &WireDomain,
    flags: u32,
    changes: &[Change],
) -> Result<(), RemoteError> {
    check_flags(flags, Impact::FLAGS | STRING_OKAY)?;
    let domain = context.domain(domain)?;
    let domains = &context.shared.domains;
    let change = |root: &mut Element| changes.iter().for_each(|change| change.make(root));
    let check = |impact: Impact| match impact.live {
        true => domains.limit(&domain, change),
        false => Ok(()),
    };
    domains.edit(&domain, flags & Impact::FLAGS, check, change)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn parameters_become_elements() {
        let params = [
            TypedParameter::ulong("cpu_shares", 7),
            TypedParameter::long("vcpu_quota", -1),
        ];
        let mut root = Element::new("domain");
        for change in changes(&params, "cputune", &SCHEDULER).unwrap() {
            change.make(&mut root);
        }
        let text = |root: &Element, path: &str| root.at(path).map(Element::text);
        assert_eq!(text(&root, "cputune/shares").as_deref(), Some("7"));
        assert_eq!(text(&root, "cputune/quota").as_deref(), Some("-1"));
        let memory =
            |value| changes(&[TypedParameter::ulong("hard_limit", value)], "memtune", &MEMORY).unwrap();
        memory(4096)[0].make(&mut root);
        assert_eq!(text(&root, "memtune/hard_limit").as_deref(), Some("4096"));
        memory(UNLIMITED)[0].make(&mut root);
        assert_eq!(text(&root, "memtune"), None);
    }

    #[test]
    fn what_is_no_parameter_is_refused() {
        for param in [
            TypedParameter::ulong("iothread_period", 1000),
            TypedParameter::long("vcpu_period", -1),
            TypedParameter::ulong("cpu_shares", u64::MAX),
            TypedParameter::text("cpu_shares", "7"),
        ] {
            assert!(
                changes(std::slice::from_ref(&param), "cputune", &SCHEDULER).is_err(),
                "{param:?}"
            );
        }
    }
}
