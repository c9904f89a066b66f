//! How real Linux guests begin, idle and end.

mod support;

use std::fs;
use std::time::Duration;

use rustix::process::Signal;
use support::process::{cpu_seconds, guest_process};
use support::{Guest, assert_fsck_clean, make_ext4};

const LIMIT: Duration = Duration::from_secs(240);

#[test]
fn a_kernel_panic_has_a_status_and_a_line() {
    let outcome = Guest::new(2)
        .script("echo c >/proc/sysrq-trigger; echo still here\n")
        .run(LIMIT);
    assert_eq!(
        outcome.status.code(),
        Some(3),
        "{}{}",
        outcome.errors,
        outcome.console
    );
    assert!(
        outcome.errors.ends_with("ostler: the guest's kernel panicked\n"),
        "{}",
        outcome.errors
    );
    let console = &outcome.console;
    assert!(
        console.contains("Kernel panic - not syncing: sysrq triggered crash"),
        "{console}"
    );
    assert!(!console.contains("still here"), "{console}");
}

#[test]
fn a_reboot_boots_again_and_keeps_the_disk() {
    let mut guest = Guest::new(2).reboots();
    let disk = guest.folder.path().join("disk.img");
    fs::write(&disk, vec![0; 1 << 20]).unwrap();
    guest = guest.args(["--disk", disk.to_str().unwrap()]);
    let outcome = guest
        .script(
            "echo started as $(head -c 6 /dev/vda | tr '\\0' .)\n\
             if ! grep -q second /dev/vda; then\n\
                 printf second | dd of=/dev/vda conv=fsync,notrunc 2>/dev/null\n\
                 reboot -f\n\
             fi\n\
             echo BEGIN end; nproc; uname -m; echo END end\n",
        )
        .run(LIMIT);
    outcome.assert_clean();
    let console = &outcome.console;
    assert!(console.contains("started as ......\n"), "{console}");
    assert!(console.contains("started as second\n"), "{console}");
    assert_eq!(console.matches("] Linux version ").count(), 2, "{console}");
    assert_eq!(console.matches("OSTLER-INIT").count(), 2, "{console}");
    assert_eq!(outcome.section("end"), "2\nx86_64\n");
}

/// What a person does, in one boot: a shell, a disk, a pause, and SIGTERM from outside.
#[test]
fn a_shell_with_a_disk_idles_cheaply_and_ends_by_the_power_button() {
    let mut guest = Guest::new(2).args(["--accel", "soft"]).append("quiet");
    let disk = guest.folder.path().join("disk.img");
    make_ext4(&disk, 64);
    // It is looked at after the guest and its folder are gone.
    let kept = fs::File::open(&disk).unwrap();
    guest = guest.args(["--disk", disk.to_str().unwrap()]);
    let mut guest = guest.spawn();
    guest.expect("OSTLER-GUEST-UP", LIMIT);
    guest.expect("# ", LIMIT);
    guest.type_in("umount /mnt; mount -t ext4 /dev/vda /mnt && echo mounted: $(grep -c /mnt /proc/mounts)\n");
    guest.expect("mounted: 1\n", LIMIT);
    guest.type_in("cp /bin/busybox /mnt/copy && cmp /bin/busybox /mnt/copy && echo cop''ied\n");
    guest.expect("copied\n", LIMIT);
    guest.type_in("sync; echo set''tled\n");
    guest.expect("settled\n", LIMIT);

    assert_idle(guest.child.id());

    guest.signal(Signal::TERM);
    let outcome = guest.wait(LIMIT);
    outcome.assert_clean();
    // The button reached the guest's kernel by an ACPI interrupt, and from there its daemon.
    let console = &outcome.console;
    assert!(console.contains("power button: shutting down"), "{console}");
    assert!(console.contains("reboot: Power down"), "{console}");

    let folder = tempfile::tempdir().unwrap();
    let copy = folder.path().join("disk.img");
    std::io::copy(&mut &kept, &mut fs::File::create(&copy).unwrap()).unwrap();
    assert_fsck_clean(&copy);
}

/// CPU time, not wall time: an idle guest uses less than 2 % of a core. The first seconds after a boot may hold work that
/// the guest has put off, so the least of a few windows counts.
fn assert_idle(parent: u32) {
    const WINDOW: Duration = Duration::from_secs(10);
    let used = || cpu_seconds(parent) + cpu_seconds(guest_process(parent));
    let mut shares = Vec::new();
    for _ in 0..4 {
        let (before, began) = (used(), std::time::Instant::now());
        std::thread::sleep(WINDOW);
        shares.push((used() - before) / began.elapsed().as_secs_f64());
        if shares.last().is_some_and(|share| *share < 0.02) {
            return;
        }
    }
    panic!("an idle guest used these shares of a core: {shares:?}");
}
