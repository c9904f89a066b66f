//! A real Linux guest on CPU models other than the default.

mod support;

use std::time::Duration;

use support::Guest;

const LIMIT: Duration = Duration::from_secs(240);

/// psABI level 2, and what the software CPU gives every model.
const LEVEL_2: &[&str] = &[
    "lm",
    "nx",
    "sse2",
    "syscall",
    "pni",
    "ssse3",
    "cx16",
    "sse4_1",
    "sse4_2",
    "popcnt",
    "lahf_lm",
    "x2apic",
    "tsc_deadline_timer",
    "arat",
    "constant_tsc",
    "hypervisor",
];
/// What level 3 adds.
const LEVEL_3: &[&str] = &[
    "avx", "avx2", "bmi1", "bmi2", "f16c", "fma", "abm", "movbe", "xsave",
];
/// Of no level.
const BEYOND: &[&str] = &["sha_ni", "vaes", "adx", "avx512f", "vmx", "svm"];

/// The flags of /proc/cpuinfo, the same for both CPUs.
fn flags_of(model: &str) -> Vec<String> {
    let outcome = Guest::new(2)
        .args(["--accel", "soft", "--cpu", model])
        .script(
            "echo BEGIN flags; sed -n 's/^flags[^:]*: //p' /proc/cpuinfo | sort | uniq -c; echo END flags\n\
             echo BEGIN work; busybox seq 1 100000 | busybox sha256sum; echo END work\n",
        )
        .run(LIMIT);
    outcome.assert_clean();
    assert_eq!(
        outcome.section("work"),
        "b2bc7d3f8b652d2ec96865b68ad8f80e22cca174abe1aed7889e242a747d590f  -\n"
    );
    let section = outcome.section("flags");
    let mut flags = section.split_whitespace().map(str::to_owned);
    assert_eq!(
        flags.next().as_deref(),
        Some("2"),
        "both CPUs have the same: {section}"
    );
    flags.collect()
}

fn assert_flags(flags: &[String], there: &[&[&str]], absent: &[&[&str]]) {
    for flag in there.concat() {
        assert!(flags.iter().any(|f| f == flag), "no {flag} in {flags:?}");
    }
    for flag in absent.concat() {
        assert!(!flags.iter().any(|f| f == flag), "{flag} in {flags:?}");
    }
}

#[test]
fn level_2_has_no_vectors_of_level_3() {
    let flags = flags_of("x86-64-v2");
    assert_flags(&flags, &[LEVEL_2], &[LEVEL_3, BEYOND]);
}

#[test]
fn level_3_has_what_its_name_promises() {
    if !std::is_x86_feature_detected!("avx2") {
        eprintln!("SKIPPED level_3_has_what_its_name_promises: this host has no AVX2");
        return;
    }
    let flags = flags_of("x86-64-v3");
    assert_flags(&flags, &[LEVEL_2, LEVEL_3], &[BEYOND]);
}
