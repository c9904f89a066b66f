//! The daemon is killed at random moments of a busy day, and whoever comes after it finds everything.

mod client;
mod load;
mod look;
mod unsynced;

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant, SystemTime};

use ostler_libvirt::procedures::{DomainDefineXml, DomainDestroy, NetworkDestroy};
use ostler_libvirt::types::{Domain, Network};

use crate::setup::{Host, wait_until};
use client::Client;
use load::{Load, Random};
use look::{Kind, Objects, State};

/// Clients that work at the same time.
const CLIENTS: usize = 3;
/// How many calls a daemon answers at most before it is killed, and how long it works on after that, in ms.
const MOST_CALLS: usize = 30;
const LONGEST: usize = 30;

/// What was seen, in numbers.
#[derive(Default)]
struct Figures {
    kills: usize,
    /// Daemons among them that were killed while they started.
    at_start: usize,
    /// Calls on their way that were not done, and that were.
    before: usize,
    after: usize,
    /// Guests that were found again.
    found: usize,
    /// Files that were lost because they were not synced.
    lost: usize,
}

/// A kernel that sleeps for ever, by Multiboot.
fn write_kernel(path: &Path) {
    const BASE: u32 = 0x10_0000;
    const MAGIC: u32 = 0x1bad_b002;
    const FLAGS: u32 = 1 << 16;
    let checksum = 0u32.wrapping_sub(MAGIC + FLAGS);
    let words = [MAGIC, FLAGS, checksum, BASE, BASE, 0, 0, BASE + 32];
    let mut file: Vec<u8> = words.into_iter().flat_map(u32::to_le_bytes).collect();
    // cli; again: hlt; jmp again
    file.extend([0xfa, 0xf4, 0xeb, 0xfd]);
    fs::write(path, file).unwrap();
}

/// The processes of guests whose names begin so.
fn processes(prefix: &str) -> BTreeMap<String, Vec<u32>> {
    let mut found: BTreeMap<_, Vec<_>> = BTreeMap::new();
    for entry in fs::read_dir("/proc").unwrap().flatten() {
        let pid = entry.file_name().to_str().and_then(|name| name.parse().ok());
        let line = fs::read_to_string(entry.path().join("cmdline")).unwrap_or_default();
        let name = line
            .split_once("vmm\0--\0")
            .map(|(_, name)| name.trim_end_matches('\0'));
        if let (Some(pid), Some(name)) = (pid, name.filter(|name| name.starts_with(prefix))) {
            found.entry(name.to_owned()).or_default().push(pid);
        }
    }
    found
}

/// The guests that run as clients were told, with their processes; without those that may be ending.
fn running(prefix: &str, loads: &[Load]) -> BTreeMap<String, Vec<u32>> {
    let is_on = |objects: &Objects, key: &(Kind, String)| {
        let object = objects.get(key);
        key.0 == Kind::Guest && object.is_some_and(|object| object.state != State::Off)
    };
    let processes = processes(prefix);
    let mut running = BTreeMap::new();
    for load in loads {
        for key in load.objects.keys() {
            let after = load.on_its_way.as_ref().unwrap_or(&load.objects);
            if is_on(&load.objects, key) && is_on(after, key) {
                let process = processes.get(&key.1);
                let process = process.unwrap_or_else(|| panic!("{} has no process", key.1));
                running.insert(key.1.clone(), process.clone());
            }
        }
    }
    running
}

fn files_below(folder: &Path) -> Vec<PathBuf> {
    let mut files = Vec::new();
    for entry in fs::read_dir(folder).unwrap().flatten() {
        match entry.file_type() {
            Ok(kind) if kind.is_dir() => files.extend(files_below(&entry.path())),
            _ => files.push(entry.path()),
        }
    }
    files
}

/// Nothing is there that is not whole, or belongs to nothing.
fn check_files(host: &Host) {
    for path in files_below(host.folder.path()) {
        let text = path.to_str().unwrap();
        assert!(
            !text.ends_with(".new") && !text.ends_with(".renamed") && !text.contains(".ostler-new-"),
            "{text}"
        );
        if text.contains("/autostart/") {
            assert!(path.exists(), "{text} leads nowhere");
        }
        if let Some(secret) = text.strip_suffix(".value") {
            assert!(
                Path::new(&format!("{secret}.xml")).exists(),
                "{text} is no secret's"
            );
        }
    }
}

/// Each object has one file of its definition, and there is no other: it would be something else another time.
fn check_definitions(host: &Host, loads: &[Load]) {
    for (kind, folder, own) in [
        (Kind::Guest, "definitions", 0),
        (Kind::Network, "networks", 1),
        (Kind::Pool, "pools", 1),
        (Kind::Secret, "secrets", 0),
    ] {
        let objects = loads.iter().flat_map(|load| load.objects.keys());
        let count = objects.filter(|(of, _)| *of == kind).count();
        let entries = fs::read_dir(host.path(folder)).unwrap().flatten();
        let files = entries.filter(|entry| entry.path().extension().is_some_and(|end| end == "xml"));
        assert_eq!(files.count(), count + own, "{folder}");
    }
}

fn agree(expected: &Objects, seen: &Objects) -> bool {
    expected.len() == seen.len()
        && expected
            .iter()
            .all(|(key, object)| seen.get(key).is_some_and(|seen| object.is(seen)))
}

/// Whether each guest that runs has one process, and no other guest has any.
fn processes_fit(prefix: &str, seen: &Objects) -> bool {
    let running = seen
        .iter()
        .filter(|((kind, name), object)| {
            *kind == Kind::Guest && name.starts_with(prefix) && object.state != State::Off
        })
        .map(|((_, name), _)| name);
    let processes = processes(prefix);
    processes.values().all(|pids| pids.len() == 1) && running.eq(processes.keys())
}

/// The processes of switches whose configurations are below `folder`, by the UUIDs of their networks.
fn switches(folder: &Path) -> BTreeMap<String, Vec<u32>> {
    let mut found: BTreeMap<_, Vec<_>> = BTreeMap::new();
    let start = format!("switch\0run\0--config\0{}/", folder.display());
    for entry in fs::read_dir("/proc").unwrap().flatten() {
        let pid = entry.file_name().to_str().and_then(|name| name.parse().ok());
        let line = fs::read_to_string(entry.path().join("cmdline")).unwrap_or_default();
        let uuid = line
            .split_once(&start)
            .and_then(|(_, rest)| rest.split('/').next());
        if let (Some(pid), Some(uuid)) = (pid, uuid) {
            found.entry(uuid.replace('-', "")).or_default().push(pid);
        }
    }
    found
}

/// Whether each network that runs has one switch, and no other network has any.
fn switches_fit(host: &Host, seen: &Objects) -> bool {
    let running = seen
        .iter()
        .filter(|((kind, _), object)| *kind == Kind::Network && object.state != State::Off)
        .map(|(_, object)| look::name_of(&object.uuid));
    let running: BTreeSet<_> = running.collect();
    let switches = switches(&host.path("run/networks"));
    switches.values().all(|pids| pids.len() == 1) && running.iter().eq(switches.keys())
}

/// Looks at everything after a start: each client finds what it was told, and of the call that was on its way all or nothing.
fn check(host: &Host, all: &str, loads: &mut [Load], figures: &mut Figures) {
    let mut client = Client::connect(&host.path("sock")).unwrap();
    let mut seen = Objects::new();
    // A guest whose start or end was on its way may be on its way still.
    wait_until("guests have processes", || {
        seen = look::everything(&mut client).unwrap();
        processes_fit(all, &seen) && switches_fit(host, &seen)
    });
    for load in loads {
        let is_ours = |(kind, name): &(Kind, String), mark: &str| match kind {
            Kind::Secret => mark.starts_with(&load.prefix),
            _ => name.starts_with(&load.prefix),
        };
        let ours = seen.iter().filter(|(key, object)| is_ours(key, &object.mark));
        let ours: Objects = ours.map(|(key, object)| (key.clone(), object.clone())).collect();
        match load.on_its_way.take() {
            None => assert!(agree(&load.objects, &ours), "{:#?} is {ours:#?}", load.objects),
            Some(after) => {
                let (is_before, is_after) = (agree(&load.objects, &ours), agree(&after, &ours));
                assert!(
                    is_before || is_after,
                    "{}: {:#?} or {after:#?} is {ours:#?}",
                    load.call,
                    load.objects
                );
                figures.before += usize::from(is_before);
                figures.after += usize::from(!is_before);
                load.objects = ours;
                settle(&mut client, load, &after);
            }
        }
        for (key, object) in &mut load.objects {
            object.text = seen.get(key).and_then(|seen| seen.text.clone());
        }
    }
}

/// Ends a guest or a network whose start or end was on its way: it may go on by itself.
fn settle(client: &mut Client, load: &mut Load, after: &Objects) {
    for (key, object) in &mut load.objects {
        let other = after.get(key).map(|after| after.state);
        if key.0 == Kind::Guest && load.call.starts_with("DOMAIN_DESTROY") && other == Some(State::Off) {
            let guest = Domain {
                name: key.1.clone(),
                uuid: object.uuid,
                id: -1,
            };
            // It may be over already.
            let _ = client.call::<DomainDestroy>(&guest);
            (object.state, object.plugged) = (State::Off, 0);
        }
        if key.0 == Kind::Network && load.call.starts_with("NETWORK_DESTROY") && other == Some(State::Off) {
            let network = Network {
                name: key.1.clone(),
                uuid: object.uuid,
            };
            // As above.
            let _ = client.call::<NetworkDestroy>(&network);
            object.state = State::Off;
        }
    }
}

/// What was plugged into guests is in their processes.
fn check_devices(host: &Host, loads: &[Load]) {
    for ((kind, name), object) in loads.iter().flat_map(|load| &load.objects) {
        if *kind != Kind::Guest || object.plugged == 0 {
            continue;
        }
        let ask = r#"{"execute":"qom-list","arguments":{"path":"/machine/peripheral"}}"#;
        let said = host.virsh(&format!("qemu-monitor-command {name} {ask}"));
        let there = said.matches("\"name\":\"hot").count();
        assert!(there >= object.plugged, "{name}: {object:?} has {said}");
    }
}

/// What virsh lists is what clients were told.
fn check_lists(host: &Host, loads: &[Load]) {
    for (kind, command, own) in [
        (Kind::Guest, "list --all --name", None),
        (Kind::Network, "net-list --all --name", Some("default")),
        (Kind::Pool, "pool-list --all --name", Some("default")),
        (Kind::Volume, "vol-list default", None),
    ] {
        let expected = loads.iter().flat_map(|load| load.objects.keys());
        let expected = expected
            .filter(|(of, _)| *of == kind)
            .map(|(_, name)| name.clone());
        let expected: BTreeSet<_> = expected.chain(own.map(String::from)).collect();
        let said = host.virsh(command);
        let names = said.lines().filter_map(|line| line.split_whitespace().next());
        let is_heading = |name: &&str| kind == Kind::Volume && (*name == "Name" || name.starts_with("---"));
        let listed: BTreeSet<_> = names.filter(|name| !is_heading(name)).map(String::from).collect();
        assert_eq!(listed, expected, "{command}");
    }
}

/// Waits until so many calls were answered, or for as long as they should have taken.
fn wait_for_calls(answered: &AtomicUsize, calls: usize) {
    let end = Instant::now() + Duration::from_secs(10);
    while answered.load(Ordering::Relaxed) < calls && Instant::now() < end {
        std::thread::sleep(Duration::from_millis(1));
    }
}

#[test]
fn a_daemon_that_is_killed_at_any_moment_loses_nothing() {
    let kills = match std::env::var_os("OSTLER_NIGHTLY") {
        Some(_) => 300,
        None => 20,
    };
    let seed = std::env::var("OSTLER_SEED")
        .ok()
        .and_then(|text| text.parse().ok());
    let seed = seed.unwrap_or_else(|| {
        let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH);
        now.unwrap().as_nanos() as u64 & 0xffff_ffff
    });
    println!("OSTLER_SEED={seed}");
    let mut random = Random(seed);
    let mut host = Host::start();
    let kernel = host.path("kernel");
    write_kernel(&kernel);
    // Names that no other test has: guests' processes are found by them.
    let all = format!("k{}-", std::process::id());
    let load = |number: usize| {
        let prefix = format!("{all}{number}-");
        Load::new(prefix, seed + number as u64, &kernel, &host.path("folders"))
    };
    let mut loads: Vec<_> = (0..CLIENTS).map(load).collect();
    let mut figures = Figures::default();
    while figures.kills < kills {
        let (calls, more) = (random.below(MOST_CALLS), random.below(LONGEST));
        let socket = host.path("sock");
        let answered = AtomicUsize::new(0);
        std::thread::scope(|scope| {
            for load in &mut loads {
                scope.spawn(|| load.run(&socket, &answered));
            }
            wait_for_calls(&answered, calls);
            std::thread::sleep(Duration::from_millis(more as u64));
            host.kill();
        });
        figures.kills += 1;
        let running = running(&all, &loads);
        while figures.kills < kills && random.below(4) == 0 {
            host.start_and_kill(Duration::from_millis(random.below(60) as u64));
            figures.kills += 1;
            figures.at_start += 1;
        }
        if random.below(2) == 0 {
            figures.lost += unsynced::lose(&host.path("definitions"), &mut random);
        }
        host.start_again();
        check(&host, &all, &mut loads, &mut figures);
        check_files(&host);
        check_definitions(&host, &loads);
        check_lists(&host, &loads);
        check_devices(&host, &loads);
        // Who ran, runs: the same process.
        let now = processes(&all);
        for (name, process) in &running {
            assert_eq!(now.get(name), Some(process), "{name}");
        }
        figures.found += running.len();
    }
    let answered: usize = loads.iter().map(|load| load.answered).sum();
    println!(
        "{} kills, {} of them while the daemon started; {answered} calls answered; on their way: {} not done, {} done; \
         {} times a guest was found again; {} files were lost and made again",
        figures.kills, figures.at_start, figures.before, figures.after, figures.found, figures.lost
    );
    assert!(answered > kills && figures.found > 0 && figures.lost > 0);
}

/// What the test above would not notice if files were not taken away, or came back from elsewhere.
#[test]
fn files_that_were_not_synced_come_back_from_the_log_alone() {
    let mut host = Host::start();
    let mut client = Client::connect(&host.path("sock")).unwrap();
    let names: Vec<_> = (0..6).map(|number| format!("log-{number}")).collect();
    for name in &names {
        let xml = format!(
            "<domain type='qemu'><name>{name}</name><memory unit='MiB'>16</memory><os><type>hvm</type><kernel>/k</kernel></os></domain>"
        );
        client.call::<DomainDefineXml>(&xml).unwrap();
    }
    let defined = |host: &Host| {
        let said = host.virsh("list --all --name");
        let listed: BTreeSet<_> = said.split_whitespace().map(String::from).collect();
        names.iter().filter(|name| listed.contains(*name)).count()
    };
    host.kill();
    let folder = host.path("definitions");
    let log = fs::read(folder.join(".changes")).unwrap();
    let lost = unsynced::lose(&folder, &mut Random(1));
    assert!(lost > 0);
    let mut without_changes = log.clone();
    without_changes[2 * unsynced::PAGE..].fill(0);
    fs::write(folder.join(".changes"), without_changes).unwrap();
    host.start_again();
    assert_eq!(defined(&host), names.len() - lost);
    host.kill();
    fs::write(folder.join(".changes"), log).unwrap();
    host.start_again();
    assert_eq!(defined(&host), names.len());
}
