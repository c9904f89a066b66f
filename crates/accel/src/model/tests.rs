use super::*;

fn leaf(leaf: u32, eax: u32, ebx: u32, ecx: u32, edx: u32) -> CpuidLeaf {
    CpuidLeaf {
        leaf,
        subleaf: None,
        eax,
        ebx,
        ecx,
        edx,
    }
}

fn sub(number: u32, subleaf: u32, eax: u32, ebx: u32, ecx: u32, edx: u32) -> CpuidLeaf {
    CpuidLeaf {
        subleaf: Some(subleaf),
        ..leaf(number, eax, ebx, ecx, edx)
    }
}

/// An accelerator that has every bit of every word.
fn everything() -> Vec<CpuidLeaf> {
    vec![
        leaf(0, 0x16, 0, 0, 0),
        leaf(1, 0xa2_0f10, 0, u32::MAX, u32::MAX),
        sub(4, 0, 0x121, 0, 0, 0),
        sub(4, 3, 0x163, 0, 0, 0),
        sub(7, 0, 2, u32::MAX, u32::MAX, u32::MAX),
        sub(7, 1, u32::MAX, u32::MAX, u32::MAX, u32::MAX),
        sub(7, 2, 0, 0, 0, u32::MAX),
        leaf(0xa, 0x0830_0805, 0, 0, 0x603),
        sub(0xd, 0, 0xff, 0, 0, 7),
        sub(0xd, 1, 0xf, 1, 1, 1),
        sub(0xd, 2, 256, 576, 0, 0),
        sub(0xd, 5, 64, 1088, 0, 0),
        sub(0xd, 7, 1024, 1664, 0, 0),
        sub(0xd, 9, 8, 2688, 0, 0),
        sub(0x14, 0, 1, 0xf, 7, 0),
        sub(0x1d, 0, 1, 0, 0, 0),
        sub(0x1d, 1, 0x0400_2000, 0x0008_0040, 16, 0),
        sub(0x24, 0, 0, 2, 0, 0),
        leaf(0x4000_0001, u32::MAX, 0, 0, 1),
        leaf(0x8000_0001, 0, 0, u32::MAX, u32::MAX),
        leaf(0x8000_0008, 0x3030, 0, 0, 0),
        sub(0x8000_001d, 3, 0x163, 0, 0, 0),
        leaf(0x8000_001e, 9, 9, 9, 9),
        leaf(0x8000_0021, u32::MAX, u32::MAX, u32::MAX, 0),
        leaf(0x8000_0022, 1, 6, 0, 0),
    ]
}

#[test]
fn an_unknown_name_is_answered_with_the_names_that_exist() {
    let error = build("pentium", &everything(), Topology { cpus: 1 }, 0).unwrap_err();
    assert_eq!(
        error.to_string(),
        "there is no CPU model \"pentium\"; the models are: x86-64-v1, x86-64-v2, x86-64-v3, max, host"
    );
}

#[test]
fn a_host_without_what_the_name_promises_is_told_what_is_missing() {
    let mut host = everything();
    for l in &mut host {
        match l.leaf {
            1 => l.ecx &= !(1 << 28),
            7 => l.ebx &= !(1 << 5),
            _ => {}
        }
    }
    let error = build("x86-64-v3", &host, Topology { cpus: 1 }, 0).unwrap_err();
    assert_eq!(
        error,
        Error::Missing {
            name: "x86-64-v3".into(),
            missing: "avx, avx2".into()
        }
    );
    build("x86-64-v2", &host, Topology { cpus: 1 }, 0).unwrap();
}

#[test]
fn level_2_has_neither_avx_nor_its_state() {
    let leaves = build("x86-64-v2", &everything(), Topology { cpus: 1 }, 0).unwrap();
    for absent in [
        "avx", "avx2", "xsave", "bmi1", "sha_ni", "monitor", "vmx", "svm", "aes",
    ] {
        assert!(!has_feature(&leaves, absent), "{absent}");
    }
    for present in [
        "sse4_2",
        "popcnt",
        "x2apic",
        "tsc_deadline_timer",
        "hypervisor",
        "lm",
        "nx",
        "smep",
    ] {
        assert!(has_feature(&leaves, present), "{present}");
    }
    assert!(find(&leaves, 0xd, 0).is_none());
}

#[test]
fn level_3_has_avx_state_of_832_bytes_and_nothing_above() {
    let leaves = build("x86-64-v3", &everything(), Topology { cpus: 1 }, 0).unwrap();
    let xsave = find(&leaves, 0xd, 0).unwrap();
    assert_eq!((xsave.eax, xsave.ebx, xsave.ecx, xsave.edx), (7, 576, 832, 0));
    assert_eq!(find(&leaves, 0xd, 1).unwrap().eax, 7);
    assert!(find(&leaves, 0xd, 5).is_none());
    assert_eq!(xsave_size(&leaves, 3), 576);
    assert_eq!(xsave_size(&leaves, 7), 832);
}

#[test]
fn max_is_everything_but_nested_virtualization_and_monitor() {
    let leaves = build("max", &everything(), Topology { cpus: 1 }, 0).unwrap();
    let never = 1 << 2 | 1 << 3 | 1 << 4 | 1 << 5 | 1 << 6 | 1 << 15;
    assert_eq!(find(&leaves, 1, 0).unwrap().ecx, !never);
    assert_eq!(find(&leaves, 0xd, 0).unwrap().eax, 0xe7);
    assert_eq!(find(&leaves, 0xd, 0).unwrap().ecx, 1664 + 1024);
    assert!(find(&leaves, 0xd, 9).is_none());
    assert_eq!(
        leaves,
        build("host", &everything(), Topology { cpus: 1 }, 0).unwrap()
    );
}

#[test]
fn counters_and_traces_are_never_offered() {
    for model in names() {
        let leaves = build(model, &everything(), Topology { cpus: 1 }, 0).unwrap();
        for number in [0xa, 0x14, 0x8000_0022] {
            assert!(find(&leaves, number, 0).is_none(), "{model} {number:#x}");
        }
        for name in ["pdcm", "perfctr_core", "perfctr_nb", "intel_pt", "arch_lbr"] {
            assert!(!has_feature(&leaves, name), "{model} {name}");
        }
    }
}

#[test]
fn a_feature_goes_with_its_state() {
    for model in names() {
        let leaves = build(model, &everything(), Topology { cpus: 1 }, 0).unwrap();
        for name in [
            "pku",
            "ospke",
            "amx_tile",
            "amx_bf16",
            "amx_int8",
            "amx_fp16",
            "amx_complex",
            "xsaves",
            "xfd",
        ] {
            assert!(!has_feature(&leaves, name), "{model} {name}");
        }
        assert!(find(&leaves, 0x1d, 1).is_none(), "{model}");
    }
}

#[test]
fn a_named_model_has_no_bit_that_it_does_not_know() {
    for model in ["x86-64-v1", "x86-64-v2", "x86-64-v3"] {
        let leaves = build(model, &everything(), Topology { cpus: 1 }, 0).unwrap();
        let later = find(&leaves, 7, 1).unwrap();
        assert_eq!(
            (later.eax, later.ebx, later.ecx, later.edx),
            (0, 0, 0, 0),
            "{model}"
        );
        assert_eq!(find(&leaves, 7, 2).unwrap().edx, 0, "{model}");
        assert_eq!(find(&leaves, 0x8000_0021, 0).unwrap().ebx, 0, "{model}");
        assert!(find(&leaves, 0x24, 0).is_none(), "{model}");
    }
}

#[test]
fn paravirtual_features_are_those_of_both_accelerators() {
    for model in names() {
        let leaves = build(model, &everything(), Topology { cpus: 1 }, 0).unwrap();
        let offered = find(&leaves, 0x4000_0001, 0).unwrap();
        assert_eq!((offered.eax, offered.edx), (PARAVIRTUAL_FEATURES, 0), "{model}");
        let asynchronous_faults_and_polling = 1 << 4 | 1 << 10 | 1 << 12 | 1 << 14;
        assert_eq!(offered.eax & asynchronous_faults_and_polling, 0);
    }
}

#[test]
fn each_cpu_sees_its_own_ids() {
    for (cpus, bits) in [(1, 0), (2, 1), (3, 2), (8, 3)] {
        for cpu in 0..cpus {
            let leaves = build("x86-64-v2", &everything(), Topology { cpus }, cpu).unwrap();
            let one = find(&leaves, 1, 0).unwrap();
            assert_eq!(one.ebx >> 24, cpu);
            assert_eq!(one.ebx >> 8 & 0xff, 8, "CLFLUSH line of 64 bytes");
            assert_eq!(has_feature(&leaves, "ht"), cpus > 1);
            let cores = find(&leaves, 0xb, 1).unwrap();
            assert_eq!(
                (cores.eax, cores.ebx, cores.ecx, cores.edx),
                (bits, cpus, 0x201, cpu)
            );
            let end = find(&leaves, 0xb, 2).unwrap();
            assert_eq!((end.ebx, end.ecx, end.edx), (0, 2, cpu));
            assert_eq!(
                find(&leaves, 0x8000_0008, 0).unwrap().ecx,
                (cpus - 1) | bits << 12
            );
            assert_eq!(find(&leaves, 0x8000_001e, 0).unwrap().eax, cpu);
            assert_eq!(find(&leaves, 0x8000_001d, 3).unwrap().eax >> 14 & 0xfff, cpus - 1);
            assert_eq!(
                find(&leaves, 4, 0).unwrap().eax >> 14 & 0xfff,
                0,
                "level 1 is a core's own"
            );
            assert_eq!(find(&leaves, 4, 3).unwrap().eax >> 14 & 0xfff, (1 << bits) - 1);
        }
    }
}

#[test]
fn impossible_topologies_are_refused() {
    for (cpus, cpu) in [(0, 0), (2, 2), (MAX_CPUS + 1, 0), (255, 0), (1000, 999)] {
        let refused = build("max", &everything(), Topology { cpus }, cpu);
        assert_eq!(refused, Err(Error::Topology { cpu, cpus }));
    }
}

#[test]
fn the_most_cpus_have_ids_below_the_broadcast() {
    let last = MAX_CPUS - 1;
    let leaves = build("max", &everything(), Topology { cpus: MAX_CPUS }, last).unwrap();
    assert_eq!(find(&leaves, 1, 0).unwrap().ebx >> 24, last);
    assert_eq!(find(&leaves, 0xb, 1).unwrap().ebx, MAX_CPUS);
    assert_eq!(MAX_CPUS, 240, "the machine's limit: the two must agree");
}

#[test]
fn the_saved_msrs_follow_the_features() {
    let all = saved_msrs(&build("max", &everything(), Topology { cpus: 1 }, 0).unwrap());
    for msr in [
        0x10,
        0x3b,
        0x48,
        0x6e0,
        0x4b56_4d01,
        0x4b56_4d03,
        0x4b56_4d04,
        0xc000_0103,
        0x200,
        0x26f,
    ] {
        assert!(all.contains(&msr), "{msr:#x}");
    }
    let few = saved_msrs(&[]);
    for msr in [0x3b, 0x48, 0x6e0, 0x4b56_4d01, 0xc000_0103] {
        assert!(!few.contains(&msr), "{msr:#x}");
    }
}

#[test]
fn features_can_be_left_out_of_a_model() {
    let build = |model: &str| build(model, &everything(), Topology { cpus: 1 }, 0);
    for model in ["max", "x86-64-v2"] {
        let leaves = build(&format!("{model},-x2apic,-pcid")).unwrap();
        for name in OPTIONAL {
            let without = matches!(*name, "x2apic" | "pcid");
            assert_eq!(has_feature(&leaves, name), !without, "{name} of {model}");
        }
        let mut expected = build(model).unwrap();
        for name in ["x2apic", "pcid"] {
            clear(&mut expected, named(name).unwrap());
        }
        assert_eq!(leaves, expected, "nothing else changes");
    }
    for wish in [
        "x2apic",
        "+x2apic",
        "-fpu",
        "-sse2",
        "-",
        "-x2apic -pcid",
        "-pku",
        "+monitor",
        "+",
    ] {
        let error = build(&format!("max,{wish}")).unwrap_err();
        assert_eq!(
            error.to_string(),
            format!(
                "--cpu cannot do \"{wish}\"; behind the model's name these are understood: -x2apic, \
                 -tsc_deadline_timer, -pcid, -invpcid, -smep, -umip, +pku, +svm, +vmx, +kvm-asyncpf, hv-relaxed, \
                 hv-vapic, hv-vpindex, hv-runtime, hv-synic, hv-stimer, hv-stimer-direct, hv-time, hv-reset, \
                 hv-frequencies, hv-tlbflush, hv-ipi, hv-spinlocks=RETRIES"
            )
        );
    }
}

#[test]
fn protection_keys_come_with_their_state_to_who_asks_for_them() {
    let mut host = everything();
    for leaf in host.iter_mut().filter(|l| l.leaf == 0xd && l.subleaf == Some(0)) {
        leaf.eax |= 1 << 9;
    }
    let build = |model: &str, host: &[CpuidLeaf]| build(model, host, Topology { cpus: 1 }, 0);
    for model in ["max", "x86-64-v3"] {
        let plain = build(model, &host).unwrap();
        assert!(!has_feature(&plain, "pku"));
        let with = build(&format!("{model},+pku"), &host).unwrap();
        assert!(has_feature(&with, "pku"));
        assert!(!has_feature(&with, "ospke"), "that follows CR4");
        let (before, after) = (find(&plain, 0xd, 0).unwrap(), find(&with, 0xd, 0).unwrap());
        assert_eq!(after.eax, before.eax | 1 << 9);
        assert_eq!(after.ecx, 2688 + 8);
        assert_eq!(find(&with, 0xd, 9).unwrap().eax, 8);
    }
    for leaf in host.iter_mut().filter(|l| l.leaf == 7) {
        leaf.ecx &= !(1 << 3);
    }
    assert_eq!(
        build("max,-x2apic,+pku", &host).unwrap_err().to_string(),
        "what +pku in --cpu \"max,-x2apic,+pku\" asks for is not there: KVM has it on some hosts, the software CPU on none; \
         leave it out"
    );
}

#[test]
fn nested_virtualization_and_asynchronous_faults_are_for_who_asks_for_them() {
    let mut host = everything();
    host.push(leaf(0x8000_000a, 1, 8, 0, 9));
    let built = |model: &str, host: &[CpuidLeaf]| build(model, host, Topology { cpus: 1 }, 0);
    let plain = built("x86-64-v3", &host).unwrap();
    assert!(!has_feature(&plain, "svm") && !has_feature(&plain, "vmx"));
    assert!(find(&plain, 0x8000_000a, 0).is_none());
    let svm = built("x86-64-v3,+svm", &host).unwrap();
    assert!(has_feature(&svm, "svm") && !has_feature(&svm, "vmx"));
    assert_eq!(find(&svm, 0x8000_000a, 0), host.last());
    let vmx = built("max,+vmx", &host).unwrap();
    assert!(has_feature(&vmx, "vmx") && !has_feature(&vmx, "svm"));
    let faults = built("max,+kvm-asyncpf", &host).unwrap();
    let offered = find(&faults, 0x4000_0001, 0).unwrap();
    assert_eq!(
        (offered.eax, offered.edx),
        (PARAVIRTUAL_FEATURES | 1 << 4 | 1 << 14, 0)
    );
    // Without the interrupt there is none of it.
    for leaf in host.iter_mut().filter(|l| l.leaf == 0x4000_0001) {
        leaf.eax &= !(1 << 14);
    }
    let absent = |wish: &str| Error::Absent {
        wish: wish.into(),
        model: format!("max,{wish}"),
    };
    assert_eq!(
        built("max,+kvm-asyncpf", &host).unwrap_err(),
        absent("+kvm-asyncpf")
    );
    assert_eq!(built("max,+svm", &[]).unwrap_err(), absent("+svm"));
}
