//! Which of virsh's commands are tested, and by which test: the count that `docs/clients.md` tells.
//!
//! A command is in the list if a test looks for what it does, or compares what it shows with another witness. What is only refused is not.

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

/// Commands in alphabetical order, each with a test that looks for its effect.
const COMMANDS: &[(&str, &str)] = &[
    ("allocpages", "hugepages::a_guest_is_in_huge_pages"),
    ("attach-device", "devices::an_entropy_source_comes_and_goes"),
    (
        "attach-disk",
        "devices::a_disk_comes_and_goes_while_the_guest_runs",
    ),
    (
        "attach-interface",
        "cards::a_card_on_a_bridge_has_a_tap_that_comes_and_goes_with_it",
    ),
    (
        "autostart",
        "definitions::a_definition_lasts_until_it_is_undefined",
    ),
    ("blkdeviotune", "limits::limits_are_shown_as_they_are"),
    (
        "blkiotune",
        "groups::a_guest_gets_a_group_when_somebody_asks_for_one",
    ),
    ("blockjob", "devices::a_volume_of_a_pool_is_a_disk"),
    (
        "blockresize",
        "devices::a_disk_comes_and_goes_while_the_guest_runs",
    ),
    ("capabilities", "tuning::what_guests_can_have_is_told"),
    (
        "change-media",
        "devices::what_cannot_come_or_go_is_refused_and_changes_nothing",
    ),
    ("connect", "edits::one_client_may_connect_once_more"),
    (
        "console",
        "guests::linux_starts_outlives_the_daemon_and_shuts_down",
    ),
    (
        "cpu-baseline",
        "cpus::what_several_cpus_have_in_common_starts_a_guest",
    ),
    ("cpu-compare", "cpus::a_cpu_is_compared_with_the_hosts"),
    ("cpu-models", "tuning::what_guests_can_have_is_told"),
    (
        "cpu-stats",
        "guests::linux_starts_outlives_the_daemon_and_shuts_down",
    ),
    ("create", "devices::an_entropy_source_comes_and_goes"),
    (
        "define",
        "cards::a_card_on_user_mode_nat_reaches_the_host_and_is_reached",
    ),
    ("desc", "edits::what_an_editor_writes_is_the_definition"),
    (
        "destroy",
        "cards::a_card_on_user_mode_nat_reaches_the_host_and_is_reached",
    ),
    (
        "detach-device",
        "cards::a_card_on_user_mode_nat_reaches_the_host_and_is_reached",
    ),
    ("detach-device-alias", "devices::an_entropy_source_comes_and_goes"),
    (
        "detach-disk",
        "devices::a_disk_comes_and_goes_while_the_guest_runs",
    ),
    (
        "detach-interface",
        "cards::a_card_on_a_bridge_has_a_tap_that_comes_and_goes_with_it",
    ),
    ("domblkerror", "limits::a_disk_that_failed_is_named"),
    ("domblkinfo", "devices::a_volume_of_a_pool_is_a_disk"),
    (
        "domblklist",
        "definitions::a_definition_lasts_until_it_is_undefined",
    ),
    (
        "domblkstat",
        "devices::a_disk_comes_and_goes_while_the_guest_runs",
    ),
    ("domcapabilities", "tuning::what_guests_can_have_is_told"),
    (
        "domcontrol",
        "ends::what_follows_an_end_is_changed_while_the_guest_runs",
    ),
    ("domhostname", "ports::a_networks_ports_are_its_guests_cards"),
    (
        "domid",
        "ends::what_follows_an_end_is_changed_while_the_guest_runs",
    ),
    (
        "domif-getlink",
        "cards::a_card_on_user_mode_nat_reaches_the_host_and_is_reached",
    ),
    (
        "domif-setlink",
        "cards::a_card_on_user_mode_nat_reaches_the_host_and_is_reached",
    ),
    (
        "domifaddr",
        "cards::a_card_on_a_bridge_has_a_tap_that_comes_and_goes_with_it",
    ),
    (
        "domiflist",
        "cards::a_card_on_user_mode_nat_reaches_the_host_and_is_reached",
    ),
    (
        "domifstat",
        "cards::a_card_on_user_mode_nat_reaches_the_host_and_is_reached",
    ),
    ("domiftune", "limits::limits_are_shown_as_they_are"),
    ("dominfo", "definitions::a_definition_lasts_until_it_is_undefined"),
    ("domjobinfo", "devices::a_volume_of_a_pool_is_a_disk"),
    (
        "dommemstat",
        "guests::linux_starts_outlives_the_daemon_and_shuts_down",
    ),
    ("domname", "definitions::a_definition_lasts_until_it_is_undefined"),
    ("domrename", "model::texts_sizes_and_names_are_changed"),
    (
        "domstate",
        "definitions::a_definition_lasts_until_it_is_undefined",
    ),
    (
        "domstats",
        "cards::a_card_on_user_mode_nat_reaches_the_host_and_is_reached",
    ),
    ("domuuid", "definitions::a_definition_lasts_until_it_is_undefined"),
    (
        "dumpxml",
        "cards::a_card_on_a_bridge_has_a_tap_that_comes_and_goes_with_it",
    ),
    ("edit", "edits::what_an_editor_writes_is_the_definition"),
    ("emulatorpin", "tuning::threads_run_where_they_are_pinned"),
    ("event", "devices::a_disk_comes_and_goes_while_the_guest_runs"),
    ("freecell", "host::the_host_is_what_its_kernel_says"),
    ("freepages", "nodedevs::the_firmware_and_pages"),
    ("hostname", "host::every_way_to_connect_works"),
    (
        "hypervisor-cpu-baseline",
        "cpus::what_several_cpus_have_in_common_starts_a_guest",
    ),
    (
        "hypervisor-cpu-compare",
        "cpus::a_cpu_is_compared_with_what_guests_can_have",
    ),
    (
        "iface-dumpxml",
        "interfaces::interfaces_of_the_host_are_shown_as_they_are",
    ),
    (
        "iface-list",
        "interfaces::interfaces_of_the_host_are_shown_as_they_are",
    ),
    (
        "iface-mac",
        "interfaces::interfaces_of_the_host_are_shown_as_they_are",
    ),
    (
        "iface-name",
        "interfaces::interfaces_of_the_host_are_shown_as_they_are",
    ),
    ("inject-nmi", "monitor::commands_go_to_the_guests_control_socket"),
    ("iothreadinfo", "limits::limits_are_shown_as_they_are"),
    ("list", "definitions::a_definition_lasts_until_it_is_undefined"),
    (
        "managedsave-remove",
        "limits::the_most_cpus_and_the_security_model",
    ),
    ("maxvcpus", "limits::the_most_cpus_and_the_security_model"),
    (
        "memtune",
        "groups::what_a_definition_asks_for_is_what_the_kernel_gives",
    ),
    ("metadata", "model::texts_sizes_and_names_are_changed"),
    (
        "net-autostart",
        "networks::a_network_is_defined_started_edited_and_forgotten",
    ),
    (
        "net-create",
        "networks::a_network_is_defined_started_edited_and_forgotten",
    ),
    (
        "net-define",
        "networks::a_network_is_defined_started_edited_and_forgotten",
    ),
    (
        "net-destroy",
        "networks::the_default_network_is_there_from_the_first_start",
    ),
    (
        "net-dhcp-leases",
        "networks::a_guest_gets_an_address_that_virsh_shows",
    ),
    (
        "net-dumpxml",
        "networks::the_default_network_is_there_from_the_first_start",
    ),
    (
        "net-edit",
        "networks::a_network_is_defined_started_edited_and_forgotten",
    ),
    ("net-event", "networks::listeners_hear_of_networks"),
    (
        "net-info",
        "networks::the_default_network_is_there_from_the_first_start",
    ),
    (
        "net-list",
        "networks::the_default_network_is_there_from_the_first_start",
    ),
    (
        "net-name",
        "networks::the_default_network_is_there_from_the_first_start",
    ),
    ("net-port-dumpxml", "ports::a_networks_ports_are_its_guests_cards"),
    ("net-port-list", "ports::a_networks_ports_are_its_guests_cards"),
    (
        "net-start",
        "networks::the_default_network_is_there_from_the_first_start",
    ),
    (
        "net-undefine",
        "networks::the_default_network_is_there_from_the_first_start",
    ),
    (
        "net-update",
        "networks::a_part_of_a_network_is_changed_while_it_runs",
    ),
    (
        "net-uuid",
        "networks::the_default_network_is_there_from_the_first_start",
    ),
    (
        "node-memory-tune",
        "limits::equal_pages_of_the_host_are_counted_by_its_kernel",
    ),
    ("nodecpumap", "host::the_host_is_what_its_kernel_says"),
    ("nodecpustats", "host::the_host_is_what_its_kernel_says"),
    (
        "nodedev-dumpxml",
        "interfaces::interfaces_of_the_host_are_shown_as_they_are",
    ),
    (
        "nodedev-event",
        "nodedevs::listeners_hear_of_devices_that_come_and_go",
    ),
    (
        "nodedev-info",
        "nodedevs::devices_are_those_that_the_kernel_shows",
    ),
    (
        "nodedev-list",
        "nodedevs::devices_are_those_that_the_kernel_shows",
    ),
    ("nodeinfo", "host::the_host_is_what_its_kernel_says"),
    ("nodememstats", "host::the_host_is_what_its_kernel_says"),
    ("numatune", "limits::limits_are_shown_as_they_are"),
    ("perf", "limits::limits_are_shown_as_they_are"),
    ("pool-autostart", "pools::a_pool_from_its_definition_to_its_end"),
    ("pool-build", "edits::what_an_editor_writes_is_the_definition"),
    (
        "pool-capabilities",
        "pools::what_is_no_pool_here_is_refused_by_its_name",
    ),
    ("pool-create", "edits::what_a_document_says_is_made"),
    ("pool-create-as", "pools::a_pool_from_its_definition_to_its_end"),
    ("pool-define", "edits::what_a_document_says_is_made"),
    ("pool-define-as", "edits::what_an_editor_writes_is_the_definition"),
    ("pool-delete", "pools::a_pool_from_its_definition_to_its_end"),
    ("pool-destroy", "devices::a_volume_of_a_pool_is_a_disk"),
    ("pool-dumpxml", "edits::what_an_editor_writes_is_the_definition"),
    ("pool-edit", "edits::what_an_editor_writes_is_the_definition"),
    ("pool-event", "pools::events_of_pools"),
    (
        "pool-info",
        "pools::the_default_pool_is_active_from_the_first_start",
    ),
    ("pool-list", "edits::what_a_document_says_is_made"),
    ("pool-name", "pools::a_pool_from_its_definition_to_its_end"),
    ("pool-refresh", "pools::a_pool_from_its_definition_to_its_end"),
    ("pool-start", "edits::what_an_editor_writes_is_the_definition"),
    (
        "pool-undefine",
        "pools::the_default_pool_is_active_from_the_first_start",
    ),
    ("pool-uuid", "pools::a_pool_from_its_definition_to_its_end"),
    (
        "qemu-monitor-command",
        "monitor::commands_go_to_the_guests_control_socket",
    ),
    ("reboot", "guests::transient_guests_pauses_resets_and_the_axe"),
    ("reset", "guests::transient_guests_pauses_resets_and_the_axe"),
    ("resume", "devices::a_disk_comes_and_goes_while_the_guest_runs"),
    (
        "schedinfo",
        "groups::what_a_definition_asks_for_is_what_the_kernel_gives",
    ),
    (
        "screenshot",
        "screen::a_screen_is_seen_and_keys_of_every_code_set_are_typed",
    ),
    ("secret-define", "secrets::a_secret_lasts_with_its_value"),
    ("secret-dumpxml", "secrets::a_secret_lasts_with_its_value"),
    ("secret-event", "secrets::events_of_secrets"),
    ("secret-get-value", "secrets::a_secret_lasts_with_its_value"),
    ("secret-list", "secrets::a_secret_lasts_with_its_value"),
    ("secret-set-value", "secrets::a_secret_lasts_with_its_value"),
    ("secret-undefine", "secrets::a_secret_lasts_with_its_value"),
    (
        "send-key",
        "screen::a_screen_is_seen_and_keys_of_every_code_set_are_typed",
    ),
    (
        "set-lifecycle-action",
        "ends::what_follows_an_end_is_changed_while_the_guest_runs",
    ),
    ("setmaxmem", "model::texts_sizes_and_names_are_changed"),
    ("setmem", "model::what_a_definition_asks_for_is_there"),
    ("setvcpu", "vcpus::cpus_come_and_go_while_the_guest_runs"),
    ("setvcpus", "vcpus::cpus_come_and_go_while_the_guest_runs"),
    (
        "shutdown",
        "guests::linux_starts_outlives_the_daemon_and_shuts_down",
    ),
    (
        "start",
        "cards::a_card_on_user_mode_nat_reaches_the_host_and_is_reached",
    ),
    ("suspend", "devices::a_disk_comes_and_goes_while_the_guest_runs"),
    (
        "undefine",
        "definitions::a_definition_lasts_until_it_is_undefined",
    ),
    ("update-device", "edits::what_a_document_says_is_made"),
    (
        "update-memory-device",
        "memory_device::a_guest_is_asked_to_have_more_and_less",
    ),
    ("uri", "host::every_way_to_connect_works"),
    ("vcpucount", "vcpus::cpus_come_and_go_while_the_guest_runs"),
    (
        "vcpuinfo",
        "guests::linux_starts_outlives_the_daemon_and_shuts_down",
    ),
    ("vcpupin", "tuning::threads_run_where_they_are_pinned"),
    ("version", "host::every_way_to_connect_works"),
    ("vol-clone", "volumes::a_copy_has_what_its_source_has"),
    ("vol-create", "volumes::a_volume_is_a_file"),
    ("vol-create-as", "devices::a_volume_of_a_pool_is_a_disk"),
    ("vol-create-from", "volumes::a_copy_has_what_its_source_has"),
    (
        "vol-delete",
        "volume_streams::a_client_that_does_not_read_costs_no_memory_and_nobody_else_time",
    ),
    ("vol-download", "volume_streams::bytes_go_in_and_come_out"),
    ("vol-dumpxml", "volumes::a_volume_is_a_file"),
    (
        "vol-info",
        "volume_streams::a_client_that_dies_in_the_middle_harms_no_one",
    ),
    ("vol-key", "volumes::a_volume_is_a_file"),
    ("vol-list", "edits::what_a_document_says_is_made"),
    ("vol-name", "volumes::a_volume_is_a_file"),
    ("vol-path", "volumes::a_volume_is_a_file"),
    ("vol-pool", "volumes::a_volume_is_a_file"),
    ("vol-resize", "volume_streams::holes_stay_holes"),
    ("vol-upload", "devices::a_volume_of_a_pool_is_a_disk"),
    (
        "vol-wipe",
        "volume_streams::a_client_that_dies_in_the_middle_harms_no_one",
    ),
];

/// virsh's commands, as it tells them itself.
fn of_virsh() -> BTreeSet<String> {
    let output = Command::new("virsh").env("LC_ALL", "C").arg("help").output();
    let output = output.expect("virsh (package libvirt-clients) runs");
    let text = String::from_utf8(output.stdout).unwrap();
    let commands = text.lines().filter_map(|line| line.strip_prefix("    "));
    let names = commands.filter_map(|line| line.split_whitespace().next());
    names.map(str::to_owned).collect()
}

fn sources() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/virsh")
}

/// A test's body, and all of its file that is no test.
fn body_and_helpers(module: &str, name: &str) -> Option<(String, String)> {
    let path = sources().join(module.replace("::", "/")).with_extension("rs");
    let text = fs::read_to_string(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()));
    let mut body = None;
    let mut helpers = String::new();
    for (number, part) in text.split("#[test]\n").enumerate() {
        // What follows a test's own end is no test.
        let (test, rest) = match number {
            0 => ("", part),
            _ => part.split_once("\n}\n").unwrap_or((part, "")),
        };
        helpers.push_str(rest);
        if test.contains(&format!("fn {name}()")) {
            body = Some(test.to_owned());
        }
    }
    Some((body?, helpers))
}

/// Whether some text in quotes begins with the command.
fn uses(text: &str, command: &str) -> bool {
    let begins = |(at, _): (usize, &str)| {
        let next = text[at + 1 + command.len()..].chars().next();
        next.is_some_and(|next| matches!(next, ' ' | '"' | ';'))
    };
    text.match_indices(&format!("\"{command}")).any(begins)
}

#[test]
fn every_command_that_is_counted_is_tested() {
    let known = of_virsh();
    let console = fs::read_to_string(sources().join("console.rs")).unwrap();
    for (command, test) in COMMANDS {
        assert!(known.contains(*command), "virsh has no command {command}");
        let (module, name) = test.rsplit_once("::").unwrap();
        let (body, helpers) =
            body_and_helpers(module, name).unwrap_or_else(|| panic!("there is no test {test}"));
        let used = uses(&body, command)
            || uses(&helpers, command)
            || body.contains("Console::open") && uses(&console, command)
            || uses(&body.replace("; ", "\""), command);
        assert!(used, "{test} does not use virsh {command}");
    }
    let names: Vec<&str> = COMMANDS.iter().map(|(command, _)| *command).collect();
    assert!(
        names.is_sorted() && names.windows(2).all(|pair| pair[0] != pair[1]),
        "each once, in order"
    );
}

#[test]
fn the_guide_tells_how_many_commands_are_tested() {
    let guide = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../docs/clients.md");
    let text = fs::read_to_string(guide).unwrap();
    let words: Vec<&str> = text.split_whitespace().collect();
    let count = format!(
        "{} of the {} commands that virsh has",
        COMMANDS.len(),
        of_virsh().len()
    );
    assert!(
        words.join(" ").contains(&count),
        "docs/clients.md does not say: {count}"
    );
}

#[test]
fn a_command_is_used_where_a_text_begins_with_it() {
    assert!(uses("host.virsh(\"edit alpha\")", "edit") && uses("[\"list\"]", "list"));
    assert!(!uses("host.virsh(\"net-edit lan\")", "edit") && !uses("(\"editor x\")", "edit"));
    assert!(body_and_helpers("counted", "nothing_of_this_name").is_none());
}
