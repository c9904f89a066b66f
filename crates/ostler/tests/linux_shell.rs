//! A real Linux guest with a person at its console.

mod support;

use std::time::Duration;

use support::Guest;

const LIMIT: Duration = Duration::from_secs(120);
/// The interpreter takes several times as long as the translator.
const INTERPRETED: Duration = Duration::from_secs(400);

#[test]
fn a_person_gets_a_shell_and_powers_off() {
    let mut guest = Guest::new(2).spawn();
    guest.expect("OSTLER-GUEST-UP", LIMIT);
    guest.expect("# ", LIMIT);
    guest.type_in("echo answer $((6 * 7)); nproc; uname -m\n");
    guest.expect("answer 42\n2\nx86_64\n", LIMIT);
    guest.type_in("poweroff -f\n");
    guest.wait(LIMIT).assert_clean();
}

#[test]
fn eight_cpus_come_up() {
    let outcome =
        Guest::new(8).script("echo BEGIN cpus; nproc; grep -c ^processor /proc/cpuinfo; echo END cpus\n");
    let outcome = outcome.run(LIMIT);
    outcome.assert_clean();
    assert_eq!(outcome.section("cpus"), "8\n8\n");
}

#[test]
fn a_guest_boots_in_the_interpreter_alone() {
    let outcome = Guest::new(1)
        .args(["--accel", "soft", "--cpu-engine", "interpreter"])
        .script("dmesg -n 5; echo BEGIN up; uname -s; echo $((6 * 7)); echo END up\n")
        .run(INTERPRETED);
    outcome.assert_clean();
    assert_eq!(outcome.section("up"), "Linux\n42\n");
}
