//! Unmodified Debian on the KVM back end, in a host with working KVM that is made in software.

mod support;

use std::time::Duration;

use ostler_guest_image::{SoftwareHost, overlay};
use support::{OSTLER, guest_folder};

/// Everything in there runs at an emulator's speed.
const LIMIT: Duration = Duration::from_secs(600);

/// What the inner guest does: says its line, and anything that its kernel complains about.
const INNER: &str = "#!/bin/sh
echo \"OSTLER-GUEST-UP linux $(uname -r) cpus $(nproc)\"
dmesg -r | grep -E '^<[0-4]>' | sed 's/^/INNER-LOG /'
";

/// What the host does: boots the guest with one CPU and with two, and runs the tiny guests.
const OUTER: &str = "#!/bin/sh
ostler doctor --json
for cpus in 1 2; do
    ostler run --accel auto --cpus $cpus --memory 512M --no-reboot --net none \\
        --kernel /guest/vmlinuz --initrd /guest/initrd.img --append 'console=ttyS0 panic=-1 quiet' </dev/null 2>&1
    echo \"OSTLER-STATUS $cpus $?\"
done
ostler doctor --selftest 2>&1
echo \"SELFTEST-STATUS $?\"
";

#[test]
fn debian_boots_on_kvm_in_a_host_made_in_software() {
    if !SoftwareHost::is_possible() {
        eprintln!(
            "SKIPPED debian_boots_on_kvm_in_a_host_made_in_software: qemu-system-x86_64 is not installed"
        );
        return;
    }
    let folder = guest_folder();
    let mut initrd = std::fs::read(folder.join("initrd.img")).unwrap();
    initrd.extend(overlay(INNER, &[]));
    let host = SoftwareHost::new(&folder.join("root"))
        .program("bin/ostler", OSTLER.as_ref())
        .and_then(|host| host.file("guest/vmlinuz", &folder.join("vmlinuz")))
        .unwrap()
        .contents("guest/initrd.img", initrd);
    let console = host.run(OUTER, LIMIT).unwrap();
    println!("{console}");
    for cpus in [1, 2] {
        let line = format!("cpus {cpus}");
        let up = console
            .lines()
            .any(|text| text.starts_with("OSTLER-GUEST-UP") && text.ends_with(&line));
        assert!(up, "no line of a guest with {cpus} CPUs:\n{console}");
        assert!(console.contains(&format!("OSTLER-STATUS {cpus} 0")), "{console}");
    }
    assert!(console.contains("SELFTEST-STATUS 0"), "{console}");
}
