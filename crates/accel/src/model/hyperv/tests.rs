use super::super::{Topology, build};
use super::*;

/// What KVM lists, with both interfaces.
fn host() -> Vec<CpuidLeaf> {
    vec![
        leaf(1, [0; 4]),
        leaf(FIRST, [FIRST + 1, 0x4b4d_564b, 0x564b_4d56, 0x4d]),
        leaf(FIRST + 1, [u32::MAX, 0, 0, 1]),
        // "Linux KVM Hv"
        leaf(OFFERED, [FIRST + 10, 0x756e_694c, 0x564b_2078, 0x7648_204d]),
        leaf(OFFERED + 1, [INTERFACE, 0, 0, 0]),
        leaf(OFFERED + VERSION, [0x3839, 0xa_0000, 0, 0]),
        leaf(OFFERED + FEATURES, [u32::MAX; 4]),
        leaf(OFFERED + RECOMMENDATIONS, [u32::MAX, 0xfff, 0, 0]),
        leaf(OFFERED + LIMITS, [1024, 64, 0, 0]),
        leaf(OFFERED + 10, [1, 0, 0, 0]),
    ]
}

fn with(wishes: &str) -> Result<Vec<CpuidLeaf>, Error> {
    build(&format!("max,{wishes}"), &host(), Topology { cpus: 1 }, 0)
}

#[test]
fn who_does_not_ask_sees_nothing_of_it() {
    let leaves = with("").unwrap();
    assert!(!is_shown(&leaves));
    assert_eq!(find(&leaves, FIRST, 0), Some(&host()[1]));
    assert!(
        !leaves
            .iter()
            .any(|leaf| (SECOND..SECOND + 0x100).contains(&leaf.leaf))
    );
}

#[test]
fn it_is_first_and_kvms_own_is_second() {
    let leaves = with("hv-relaxed").unwrap();
    assert!(is_shown(&leaves) && !has_synic(&leaves));
    assert_eq!(find(&leaves, FIRST, 0).unwrap().eax, FIRST + LIMITS);
    assert_eq!(find(&leaves, FIRST + 1, 0).unwrap().eax, INTERFACE);
    assert_eq!(find(&leaves, FIRST + VERSION, 0).unwrap().ebx, 0xa_0000);
    assert_eq!(find(&leaves, FIRST + LIMITS, 0).unwrap().eax, 1024);
    assert!(find(&leaves, FIRST + 10, 0).is_none());
    let second = find(&leaves, SECOND, 0).unwrap();
    assert_eq!((second.eax, second.ebx), (SECOND + 1, 0x4b4d_564b));
    assert_eq!(
        find(&leaves, SECOND + 1, 0).unwrap().eax,
        super::super::PARAVIRTUAL_FEATURES
    );
}

#[test]
fn a_guest_has_what_was_asked_for_and_no_more() {
    let bits = |wishes: &str| {
        let leaves = with(wishes).unwrap();
        let features = find(&leaves, FIRST + FEATURES, 0).unwrap();
        let told = find(&leaves, FIRST + RECOMMENDATIONS, 0).unwrap();
        (features.eax, features.ebx, features.edx, told.eax, told.ebx)
    };
    assert_eq!(bits("hv-relaxed"), (1 << 5, 0, 1 << 3, 1 << 5, u32::MAX));
    assert_eq!(bits("hv-spinlocks=8191"), (1 << 5, 0, 1 << 3, 0, 8191));
    assert_eq!(
        bits("hv-vapic,hv-time"),
        (1 << 5 | 1 << 4 | 1 << 1 | 1 << 9, 0, 1 << 3, 1 << 3, u32::MAX)
    );
    let all: Vec<_> = ENLIGHTENMENTS.iter().map(|e| e.name).collect();
    assert_eq!(
        bits(&all.join(",")),
        (
            0xaff,
            0x30,
            1 << 3 | 1 << 8 | 1 << 19,
            1 << 2 | 1 << 3 | 1 << 5 | 1 << 10 | 1 << 11,
            u32::MAX
        )
    );
    assert!(has_synic(&with("hv-vpindex,hv-synic").unwrap()));
}

#[test]
fn what_stands_on_something_else_needs_it() {
    for (wishes, sentence) in [
        ("hv-synic", "hv-synic of a CPU model needs hv-vpindex besides"),
        (
            "hv-stimer,hv-synic,hv-vpindex",
            "hv-stimer of a CPU model needs hv-time besides",
        ),
        (
            "hv-stimer-direct",
            "hv-stimer-direct of a CPU model needs hv-stimer besides",
        ),
        ("hv-ipi", "hv-ipi of a CPU model needs hv-vpindex besides"),
    ] {
        assert_eq!(with(wishes).unwrap_err().to_string(), sentence);
    }
}

#[test]
fn a_host_without_it_says_so_by_name() {
    let without = |leaves: Vec<CpuidLeaf>, wishes: &str| {
        build(&format!("max,{wishes}"), &leaves, Topology { cpus: 1 }, 0)
            .unwrap_err()
            .to_string()
    };
    let mut none = host();
    none.retain(|leaf| leaf.leaf < OFFERED);
    for wish in ["hv-relaxed", "hv-spinlocks=8191"] {
        let name = wish.split('=').next().unwrap();
        assert_eq!(
            without(none.clone(), wish),
            format!(
                "what {name} in --cpu \"max,{wish}\" asks for is not there: KVM has it on some hosts, the software CPU on none; \
                 leave it out"
            )
        );
    }
    assert_eq!(names_in(&none).count(), 0);
    let mut old = host();
    old[6].edx &= !(1 << 19);
    assert_eq!(names_in(&host()).count(), ENLIGHTENMENTS.len() + 1);
    assert!(names_in(&old).all(|name| name != "hv-stimer-direct"));
    let said = without(old, "hv-vpindex,hv-synic,hv-time,hv-stimer,hv-stimer-direct");
    assert!(said.starts_with("what hv-stimer-direct in"), "{said}");
}

#[test]
fn what_is_no_enlightenment_is_refused() {
    for wish in [
        "hv-passthrough",
        "+hv-relaxed",
        "hv-spinlocks",
        "hv-spinlocks=",
        "hv-spinlocks=4094",
        "hv-spinlocks=4294967296",
        "hv-relaxed=on",
    ] {
        assert!(
            matches!(with(wish), Err(Error::Wish { wish: said, .. }) if said == wish),
            "{wish}"
        );
    }
}
