//! The host loses power while definitions are written: what clients were told is there, whole, whatever was on its way.
//!
//! A daemon's stores do a long script of calls, and each of their steps on files is taken down. Then a disk plays the steps up to
//! a random one and loses its power; a daemon's stores are opened on what may be left, and have to be as they were after the last
//! call that was answered, or after the one that was on its way.

mod disk;
mod random;
mod script;
mod stores;
pub mod tape;

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};

use disk::Disk;
use random::Random;
use script::CALLS;
use stores::{Seen, Stores};
use tape::Step;

/// What a daemon did, and what its clients were told.
struct Recording {
    /// What its folder was called.
    root: PathBuf,
    steps: Vec<Step>,
    /// What was there after each answer; the first is the start's.
    told: Vec<Seen>,
    /// The folder of the pool `default`.
    images: tempfile::TempDir,
}

/// Records a daemon's first start and a script of calls.
fn record() -> Recording {
    let (folder, runtime) = (scratch(), scratch());
    let images = tempfile::tempdir().unwrap();
    tape::begin();
    let stores = Stores::open(folder.path(), runtime.path(), images.path());
    tape::note(Step::Answered);
    let mut told = vec![stores.look()];
    let mut random = Random(1);
    for call in 0..CALLS {
        script::call(&stores, &mut random, call);
        tape::note(Step::Answered);
        told.push(stores.look());
    }
    let steps = tape::end();
    // Nothing was done to the folder that was not taken down.
    let mut disk = Disk::new(folder.path());
    let parts = std::iter::once(folder.path().to_owned()).chain(folders_in(folder.path()));
    let files = files_in(folder.path())
        .into_keys()
        .map(|path| folder.path().join(path));
    let files = files.filter(|path| !path.is_symlink()).map(Step::SyncFile);
    let synced = files.chain(parts.map(Step::SyncFolder)).collect::<Vec<_>>();
    steps.iter().chain(&synced).for_each(|step| disk.play(step));
    let played = scratch();
    disk.lose_power(&mut random, played.path());
    assert_eq!(files_in(folder.path()), files_in(played.path()));
    Recording {
        root: folder.path().into(),
        steps,
        told,
        images,
    }
}

/// A folder in memory, if there is a place for such.
fn scratch() -> tempfile::TempDir {
    tempfile::tempdir_in("/dev/shm")
        .or_else(|_| tempfile::tempdir())
        .unwrap()
}

fn folders_in(folder: &Path) -> Vec<PathBuf> {
    let entries = fs::read_dir(folder).unwrap();
    let folders = entries
        .map(|entry| entry.unwrap().path())
        .filter(|path| !path.is_symlink() && path.is_dir());
    folders
        .flat_map(|path| {
            let mut all = folders_in(&path);
            all.insert(0, path);
            all
        })
        .collect()
}

/// Every file and link below a folder, with its contents.
fn files_in(root: &Path) -> BTreeMap<PathBuf, Vec<u8>> {
    let mut files = BTreeMap::new();
    for folder in std::iter::once(root.to_owned()).chain(folders_in(root)) {
        for entry in fs::read_dir(folder).unwrap() {
            let path = entry.unwrap().path();
            let contents = match fs::read_link(&path) {
                Ok(to) => to.into_os_string().into_encoded_bytes(),
                Err(_) if path.is_dir() => continue,
                Err(_) => fs::read(&path).unwrap(),
            };
            files.insert(path.strip_prefix(root).unwrap().into(), contents);
        }
    }
    files
}

/// Plays the steps up to a random one and starts a daemon on what is left of them; what is wrong with that.
fn replay(recording: &Recording, steps: &[Step], seed: u64) -> Result<(), String> {
    let mut random = Random(seed);
    let cut = random.below(steps.len() + 1);
    let mut disk = Disk::new(&recording.root);
    steps[..cut].iter().for_each(|step| disk.play(step));
    let answers = steps[..cut]
        .iter()
        .filter(|step| **step == Step::Answered)
        .count();
    let left = scratch();
    disk.lose_power(&mut random, left.path());
    let before = files_in(left.path());
    // The second daemon finds what the first one did.
    for start in 1..=2 {
        // What runs is gone with the power.
        let runtime = scratch();
        let seen = Stores::open(left.path(), runtime.path(), recording.images.path()).look();
        let wrong = match answers {
            0 => (seen.names() != recording.told[0].names()).then(|| format!("{seen:#?}")),
            _ => {
                let may_be = &recording.told[answers - 1..recording.told.len().min(answers + 1)];
                (!may_be.contains(&seen)).then(|| may_be[0].difference(&seen))
            }
        };
        if let Some(wrong) = wrong {
            return Err(format!(
                "seed {seed}, step {cut}, start {start}, {answers} answers: {wrong}\nleft was {:?}",
                before.keys()
            ));
        }
        let unfinished = files_in(left.path()).into_keys();
        let unfinished: Vec<_> = unfinished
            .filter(|path| is_unfinished(left.path(), path) || !seen.has(path))
            .collect();
        if !unfinished.is_empty() {
            return Err(format!("seed {seed}, step {cut}: {unfinished:?} is there"));
        }
    }
    Ok(())
}

/// Whether a file has no place among what is whole.
fn is_unfinished(root: &Path, path: &Path) -> bool {
    let text = path.to_str().unwrap();
    let definition = match text.strip_suffix(".value") {
        Some(secret) => format!("{secret}.xml"),
        None => text.replace("/autostart/", "/"),
    };
    text.ends_with(super::UNFINISHED) || text.ends_with(".renamed") || !root.join(definition).exists()
}

#[test]
fn what_clients_were_told_is_there_after_a_power_cut() {
    let recording = record();
    let replays = match std::env::var_os("OSTLER_NIGHTLY") {
        Some(_) => 10_000,
        None => 1000,
    };
    for seed in 0..replays {
        if let Err(wrong) = replay(&recording, &recording.steps, seed) {
            panic!("{wrong}");
        }
    }
    println!(
        "{replays} replays of {} steps, {CALLS} calls, seeds 0 to {}",
        recording.steps.len(),
        replays - 1
    );
}

/// How many of 200 replays lose something that clients were told, if the steps are not done that are `left_out`.
fn losses(left_out: impl Fn(&Step) -> bool) -> usize {
    let recording = record();
    let mut steps = recording.steps.clone();
    steps.retain(|step| !left_out(step));
    (0..200)
        .filter(|seed| replay(&recording, &steps, *seed).is_err())
        .count()
}

/// Whether a path is in the folder of guests, and ends so.
fn is_of_guests(path: &Path, end: &str) -> bool {
    let text = path.to_str().unwrap();
    text.contains("/guests") && text.ends_with(end)
}

#[test]
fn a_daemon_that_does_not_sync_its_log_is_found_out() {
    let losses = losses(|step| matches!(step, Step::SyncFile(path) if is_of_guests(path, ".changes")));
    println!("{losses} of 200 replays lose something");
    assert!(losses > 0);
}

#[test]
fn a_daemon_that_empties_its_log_before_files_last_is_found_out() {
    let of_files = losses(|step| matches!(step, Step::SyncFile(path) if is_of_guests(path, ".xml")));
    let of_names = losses(|step| matches!(step, Step::SyncFolder(path) if is_of_guests(path, "guests")));
    let of_links =
        losses(|step| matches!(step, Step::SyncFolder(path) if is_of_guests(path, "guests/autostart")));
    println!("{of_files}, {of_names} and {of_links} of 200 replays lose something");
    assert!(of_files > 0 && of_names > 0 && of_links > 0);
}

#[test]
fn a_daemon_that_begins_its_log_anew_too_early_is_found_out() {
    // The head of each generation is written before the files of the last change, and those that are synced after it.
    let recording = record();
    let mut steps = recording.steps.clone();
    let is_head =
        |step: &Step| matches!(step, Step::WriteAt(_, at, _) if *at < crate::definitions::entry::FIRST);
    let heads: Vec<_> = (0..steps.len()).filter(|at| is_head(&steps[*at])).collect();
    assert!(heads.len() > 3, "the log was full {} times", heads.len());
    for at in heads {
        let files = steps[..at]
            .iter()
            .rposition(|step| matches!(step, Step::Rename(..)))
            .unwrap();
        steps[files..=at].rotate_right(1);
    }
    let losses = (0..1000)
        .filter(|seed| replay(&recording, &steps, *seed).is_err())
        .count();
    println!("{losses} of 1000 replays lose something");
    assert!(losses > 0);
}

#[test]
fn a_daemon_that_does_not_sync_files_is_found_out() {
    let losses = losses(|step| matches!(step, Step::SyncFile(_)));
    println!("{losses} of 200 replays lose something");
    assert!(losses > 0);
}

#[test]
fn a_daemon_that_does_not_sync_folders_is_found_out() {
    let losses = losses(|step| matches!(step, Step::SyncFolder(_)));
    println!("{losses} of 200 replays lose something");
    assert!(losses > 0);
}
