//! CPUs that are compared and put together, in the words of the models that guests can have.

use std::fs;

use crate::setup::{Host, linux};

/// What virsh prints, whether or not it takes that for a failure.
fn said(host: &Host, command: &str) -> String {
    let output = host.command(command).output().unwrap();
    String::from_utf8([output.stdout, output.stderr].concat()).unwrap()
}

#[test]
fn a_cpu_is_compared_with_the_hosts() {
    let host = Host::start();
    let capabilities = host.virsh("capabilities");
    let own = host.xml("capabilities.xml", &capabilities);
    // The host's own, by the kernel's list of flags.
    let flags = fs::read_to_string("/proc/cpuinfo").unwrap();
    let flags = flags.lines().find(|line| line.starts_with("flags")).unwrap();
    let has = |flag: &str| flags.split_whitespace().any(|other| other == flag);
    let model = match (has("avx2"), has("sse4_2")) {
        (true, _) => "x86-64-v3",
        (false, true) => "x86-64-v2",
        (false, false) => "x86-64-v1",
    };
    assert!(
        capabilities.contains(&format!("<model>{model}</model>")),
        "{capabilities}"
    );
    assert_eq!(
        capabilities.contains("<feature name='aes'/>"),
        has("aes"),
        "{capabilities}"
    );
    let same = said(&host, &format!("cpu-compare {own}"));
    assert!(same.contains("is identical to host CPU"), "{same}");
    let cpu = |inside: &str| host.xml("cpu.xml", &format!("<cpu><arch>x86_64</arch>{inside}</cpu>"));
    let less = said(&host, &format!("cpu-compare {}", cpu("<model>x86-64-v1</model>")));
    assert!(
        less.contains("Host CPU is a superset of CPU described in"),
        "{less}"
    );
    let lacks = "<model>x86-64-v1</model><feature name='sse4a'/><feature name='sha-ni'/>\
                 <feature name='amx_tile'/><feature name='xfd'/><feature name='sgx_lc'/>";
    let all = ["sse4a", "sha_ni", "amx_tile", "xfd", "sgx_lc"].map(has);
    if all != [true; 5] {
        let other = said(&host, &format!("cpu-compare {}", cpu(lacks)));
        assert!(other.contains("is incompatible with host CPU"), "{other}");
        let why = host.refused(&format!("cpu-compare {} --error", cpu(lacks)));
        assert!(
            why.contains("the CPU is incompatible with host CPU: it lacks"),
            "{why}"
        );
    }
    let foreign = host.xml("foreign.xml", "<cpu><arch>aarch64</arch><model>max</model></cpu>");
    assert!(said(&host, &format!("cpu-compare {foreign}")).contains("incompatible"));
    for (inside, says) in [
        (
            "<model>Skylake-Client</model>",
            "there is no CPU model 'Skylake-Client'",
        ),
        ("", "Missing CPU model name"),
        (
            "<model>max</model><feature name='warp'/>",
            "no CPU feature 'warp'",
        ),
    ] {
        let why = host.refused(&format!("cpu-compare {}", cpu(inside)));
        assert!(why.contains(says), "{why}");
    }
}

/// What guests of the software CPU can have does not depend on the host.
#[test]
fn a_cpu_is_compared_with_what_guests_can_have() {
    let host = Host::start();
    let compare = |inside: &str| {
        let cpu = host.xml("cpu.xml", &format!("<cpu><arch>x86_64</arch>{inside}</cpu>"));
        said(&host, &format!("hypervisor-cpu-compare --virttype qemu {cpu}"))
    };
    assert!(compare("<model>max</model>").contains("is identical to the CPU provided by hypervisor"));
    assert!(compare("<model>x86-64-v2</model>").contains("is a superset of CPU described in"));
    let lacks = compare("<model>x86-64-v2</model><feature name='vmx'/>");
    assert!(
        lacks.contains("is incompatible with the CPU provided by hypervisor"),
        "{lacks}"
    );
    // domcapabilities say the same.
    let all = host.xml("guests.xml", &host.virsh("domcapabilities --virttype qemu"));
    let same = said(&host, &format!("hypervisor-cpu-compare --virttype qemu {all}"));
    assert!(
        same.contains("is identical to the CPU provided by hypervisor"),
        "{same}"
    );
    let cpu = host.xml("cpu.xml", "<cpu><model>max</model></cpu>");
    for (options, says) in [
        ("--virttype xen", "the type 'xen'"),
        ("--arch s390x", "s390x"),
        ("--machine pc", "'pc'"),
    ] {
        let why = host.refused(&format!("hypervisor-cpu-compare {cpu} {options}"));
        assert!(why.contains(says), "{why}");
    }
}

#[test]
fn what_several_cpus_have_in_common_starts_a_guest() {
    let host = Host::start();
    // Several documents in one file, as virsh takes them.
    let several = "<cpu><arch>x86_64</arch><model>x86-64-v2</model><feature name='aes'/></cpu>\
                   <cpu><arch>x86_64</arch><model>max</model></cpu>";
    let several = host.xml("several.xml", several);
    let common = host.virsh(&format!("hypervisor-cpu-baseline --virttype qemu {several}"));
    assert!(
        common.contains("<model fallback='forbid'>x86-64-v2</model>"),
        "{common}"
    );
    assert!(!common.contains("aes"), "{common}");
    let one = host.xml(
        "one.xml",
        "<cpu><arch>x86_64</arch><model>x86-64-v1</model></cpu>",
    );
    assert!(host.virsh(&format!("cpu-baseline {one}")).contains("x86-64-v1"));
    // With the features of the model it is what a guest may ask for, too.
    let features = host.virsh(&format!(
        "hypervisor-cpu-baseline --virttype qemu --features {several}"
    ));
    assert!(
        features.contains("<feature policy='require' name='popcnt'/>"),
        "{features}"
    );
    for (name, cpu) in [("plain", &common), ("long", &features)] {
        let xml = linux(name, "").replace("<os>", &format!("{cpu}<os>"));
        host.virsh(&format!("create {} --paused", host.xml("guest.xml", &xml)));
        assert!(
            host.virsh(&format!("dumpxml {name}"))
                .contains("x86-64-v2</model>")
        );
        host.virsh(&format!("destroy {name}"));
    }
    let bare =
        "<cpu><arch>x86_64</arch><model>x86-64-v1</model><feature policy='disable' name='sse2'/></cpu>";
    let why = host.refused(&format!("cpu-baseline {}", host.xml("bare.xml", bare)));
    assert!(why.contains("CPUs are incompatible"), "{why}");
}

#[test]
fn there_is_no_foreign_format() {
    let host = Host::start();
    let file = host.xml("guest.xml", &linux("guest", ""));
    for command in [
        format!("domxml-to-native qemu-argv --xml {file}"),
        format!("domxml-from-native qemu-argv {file}"),
    ] {
        let why = host.refused(&command);
        assert!(
            why.contains("unsupported config type qemu-argv: guests are started by no command line"),
            "{why}"
        );
    }
}
