use std::collections::BTreeMap;
use std::fs::OpenOptions;
use std::os::unix::fs::FileExt;
use std::path::PathBuf;

use super::*;
use crate::definitions::entry::{FIRST, head, place};
use crate::files::faults;

/// A definition is `NAME=TEXT` here.
fn name_of(text: &str) -> String {
    text.split('=').next().unwrap_or_default().into()
}

struct Text(String);

fn read(text: &str) -> Result<Text, String> {
    match text.contains('=') {
        true => Ok(Text(text.into())),
        false => Err(format!("{text:?} has no '='")),
    }
}

fn name(text: &Text) -> String {
    name_of(&text.0)
}

type Seen = BTreeMap<String, (String, bool)>;

struct Place {
    folder: tempfile::TempDir,
}

impl Place {
    fn new() -> Self {
        let folder = tempfile::tempdir_in("/dev/shm").or_else(|_| tempfile::tempdir());
        Self {
            folder: folder.unwrap(),
        }
    }

    fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    fn log(&self) -> PathBuf {
        self.path(LOG)
    }

    fn open(&self) -> Logged {
        Logged::open(self.folder.path(), read, name).unwrap()
    }

    /// What a daemon finds that starts now.
    fn found(&self) -> Seen {
        seen(&self.open())
    }

    /// Takes away or cuts off all definitions, and all links.
    fn lose_files(&self) {
        for (number, entry) in fs::read_dir(self.folder.path()).unwrap().flatten().enumerate() {
            if entry.path().extension().is_some_and(|end| end == "xml") {
                match number % 2 {
                    0 => fs::remove_file(entry.path()).unwrap(),
                    _ => fs::write(entry.path(), "").unwrap(),
                }
            }
        }
        for entry in fs::read_dir(self.path("autostart")).unwrap().flatten() {
            fs::remove_file(entry.path()).unwrap();
        }
    }
}

fn seen(definitions: &Logged) -> Seen {
    let all = definitions.load(read, name).unwrap();
    all.into_iter()
        .map(|(text, autostart)| (name_of(&text.0), (text.0, autostart)))
        .collect()
}

/// Few enough changes for one generation.
fn change_a_few(definitions: &Logged) {
    definitions.save("a", "a=1").unwrap();
    definitions.save("b", "b=2").unwrap();
    definitions.save("c", "c=3").unwrap();
    definitions.set_autostart("a", true).unwrap();
    definitions.rename("a", "e", "e=4").unwrap();
    definitions.remove("b").unwrap();
    definitions.save("c", "c=5").unwrap();
    definitions.set_autostart("c", true).unwrap();
}

fn a_few() -> Seen {
    [("c", "c=5"), ("e", "e=4")]
        .map(|(name, text)| (name.to_owned(), (text.to_owned(), true)))
        .into()
}

#[test]
fn what_was_answered_for_is_in_the_log() {
    let place = Place::new();
    let definitions = place.open();
    change_a_few(&definitions);
    // In normal operation everybody can read the files at once.
    assert_eq!(fs::read_to_string(place.path("c.xml")).unwrap(), "c=5");
    assert!(!place.path("a.xml").exists() && place.path("autostart/e.xml").exists());
    drop(definitions);
    place.lose_files();
    assert_eq!(place.found(), a_few());
    // It was emptied by that start, and the files last by themselves.
    place.lose_files();
    assert_eq!(place.found(), Seen::new());
}

#[test]
fn a_daemon_that_ends_well_leaves_nothing_to_the_log() {
    let place = Place::new();
    let definitions = place.open();
    change_a_few(&definitions);
    definitions.settle().unwrap();
    drop(definitions);
    // Somebody edits by hand meanwhile, and that is what counts.
    fs::write(place.path("c.xml"), "c=by hand").unwrap();
    assert_eq!(place.found()["c"].0, "c=by hand");
}

#[test]
fn a_full_log_begins_anew() {
    let place = Place::new();
    let definitions = place.open();
    let mut expected = Seen::new();
    for number in 0..100 {
        let name = format!("n{}", number % 7);
        let text = format!("{name}={number}");
        definitions.save(&name, &text).unwrap();
        expected.insert(name, (text, false));
    }
    assert_eq!(seen(&definitions), expected);
    assert_eq!(fs::metadata(place.log()).unwrap().len(), LENGTH as u64);
    drop(definitions);
    assert_eq!(place.found(), expected);
}

#[test]
fn a_change_that_is_too_long_for_the_log_is_not_undone_by_it() {
    let place = Place::new();
    let definitions = place.open();
    let long = format!("a={}", "x".repeat(LENGTH));
    definitions.save("a", "a=short").unwrap();
    definitions.save("b", "b=short").unwrap();
    definitions.set_autostart("a", true).unwrap();
    definitions.save("a", &long).unwrap();
    definitions.save("b", "b=later").unwrap();
    drop(definitions);
    let found = place.found();
    assert_eq!(found["a"], (long.clone(), true));
    assert_eq!(found["b"].0, "b=later");
    let long = format!("c{}", &long[1..]);
    let definitions = place.open();
    definitions.rename("a", "c", &long).unwrap();
    definitions.rename("c", "d", "d=short").unwrap();
    drop(definitions);
    let found = place.found();
    assert_eq!(found["d"], ("d=short".into(), true));
    assert_eq!(found.len(), 2);
}

#[test]
fn a_log_of_another_length_is_read_and_made_anew() {
    for pages in [-3i64, 5] {
        let place = Place::new();
        change_a_few(&place.open());
        let log = OpenOptions::new().write(true).open(place.log()).unwrap();
        let length = LENGTH as i64 + pages * PAGE as i64;
        log.set_len(length as u64).unwrap();
        if pages > 0 {
            log.write_all_at(&vec![0xa5; 5 * PAGE], LENGTH as u64).unwrap();
        }
        if pages > 0 {
            place.lose_files();
        }
        assert_eq!(place.found(), a_few(), "{pages}");
        assert_eq!(fs::metadata(place.log()).unwrap().len(), LENGTH as u64);
    }
}

#[test]
fn a_damaged_change_costs_itself_and_no_other() {
    let place = Place::new();
    change_a_few(&place.open());
    let log = OpenOptions::new().write(true).open(place.log()).unwrap();
    // The second text of "c", after six changes.
    log.write_all_at(b"?", (FIRST + 6 * PAGE + 40) as u64).unwrap();
    place.lose_files();
    let mut expected = a_few();
    expected.insert("c".into(), ("c=3".into(), true));
    assert_eq!(place.found(), expected);
}

#[test]
fn a_log_without_a_head_is_set_aside() {
    let place = Place::new();
    change_a_few(&place.open());
    fs::write(place.log(), vec![0x5a; LENGTH]).unwrap();
    assert_eq!(place.found(), a_few());
    let aside = fs::read(place.path(".changes.damaged")).unwrap();
    assert_eq!(aside, vec![0x5a; LENGTH]);
    fs::write(place.log(), "").unwrap();
    assert_eq!(place.found(), a_few());
}

#[test]
fn a_log_of_a_later_version_ends_the_start() {
    let place = Place::new();
    change_a_few(&place.open());
    let mut bytes = fs::read(place.log()).unwrap();
    let mut newer = head(2)[..20].to_vec();
    newer[8] = 2;
    newer.extend(crc32fast::hash(&newer).to_le_bytes());
    bytes[self::place(2)..][..24].copy_from_slice(&newer);
    fs::write(place.log(), &bytes).unwrap();
    let error = Logged::open(place.folder.path(), read, name)
        .err()
        .unwrap()
        .to_string();
    assert!(error.contains("format 2"), "{error}");
    assert_eq!(fs::read(place.log()).unwrap(), bytes);
}

#[test]
fn a_log_that_cannot_be_read_ends_the_start() {
    let place = Place::new();
    fs::create_dir(place.log()).unwrap();
    let error = Logged::open(place.folder.path(), read, name)
        .err()
        .unwrap()
        .to_string();
    assert!(error.contains(".changes"), "{error}");
}

/// A change, and what there is before and after it.
type Act = (&'static str, fn(&Logged) -> io::Result<()>);

const ACTS: [Act; 7] = [
    ("new", |definitions| definitions.save("n", "n=1")),
    ("other", |definitions| definitions.save("c", "c=other")),
    ("remove", |definitions| definitions.remove("c")),
    ("rename", |definitions| definitions.rename("c", "f", "f=5")),
    ("rename of one without a link", |definitions| {
        definitions.rename("g", "h", "h=5")
    }),
    ("autostart", |definitions| definitions.set_autostart("g", true)),
    ("no autostart", |definitions| {
        definitions.set_autostart("c", false)
    }),
];

/// Makes a change on a disk on which a step fails, and says whether that had its turn.
fn on_a_bad_disk(act: Act, fill: usize, after: usize, for_good: bool) -> bool {
    let (what, act) = act;
    let place = Place::new();
    let definitions = place.open();
    change_a_few(&definitions);
    definitions.save("g", "g=1").unwrap();
    definitions.settle().unwrap();
    for number in 0..fill {
        definitions.save("filler", &format!("filler={number}")).unwrap();
    }
    let before = seen(&definitions);
    faults::fail(after, for_good);
    let done = act(&definitions);
    let is_over = faults::end();
    let now = seen(&definitions);
    drop(definitions);
    let later = place.found();
    let after_it = {
        let good = Place::new();
        let definitions = good.open();
        for (name, (text, autostart)) in &before {
            definitions.save(name, text).unwrap();
            definitions.set_autostart(name, *autostart).unwrap();
        }
        act(&definitions).unwrap();
        seen(&definitions)
    };
    assert_ne!(before, after_it);
    let case = format!("{what}, {fill} changes before, step {after} fails, for good: {for_good}: {done:?}");
    match (&done, for_good) {
        (Ok(()), _) => assert_eq!((&now, &later), (&after_it, &after_it), "{case}"),
        (Err(_), false) => assert_eq!((&now, &later), (&before, &before), "{case}"),
        // A disk that does nothing any more cannot even be told that something is refused.
        (Err(_), true) => {
            assert!(later == before || later == after_it, "{case}: {later:?}");
        }
    }
    !is_over
}

#[test]
fn a_change_on_a_bad_disk_is_done_or_refused() {
    let mut cases = 0;
    for act in ACTS {
        // With room in the log, and with a log that is full.
        for fill in [0, 9] {
            for for_good in [false, true] {
                let failed = (0..100)
                    .take_while(|after| on_a_bad_disk(act, fill, *after, for_good))
                    .count();
                assert!(failed > 2, "{}", act.0);
                cases += failed;
            }
        }
    }
    println!("{cases} steps that fail");
}
