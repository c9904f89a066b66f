//! What is in the log of changes: bytes, and what they say. Nothing here touches a file.
//!
//! The log has a fixed size, in pages of 4096 bytes. The first two are for the heads of even and of odd generations; the one with the
//! higher generation counts. The rest is for changes, one after the other, each from the beginning of a page, so that writing one
//! touches no byte of another. Numbers are little-endian; sums are CRC-32.
//!
//! | head | | entry | |
//! |--:|---|--:|---|
//! | 0 | `ostlerCL` | 0 | `chng` |
//! | 8 | version, 4 bytes: 1 | 4 | bytes of the change, 4 bytes |
//! | 12 | generation, 8 bytes | 8 | generation, 8 bytes |
//! | 20 | sum of these 20 bytes | 16 | number in its generation from 1 on, 8 bytes |
//! | | | 24 | sum of the change |
//! | | | 28 | sum of these 28 bytes |
//! | | | 32 | the change in JSON |
//!
//! A generation begins when all files last that the one before changed. What is left of earlier ones has another generation, and what a
//! power cut has torn has a sum that does not hold: neither counts.

use std::borrow::Cow;
use std::collections::{BTreeMap, BTreeSet};

use serde::{Deserialize, Serialize};
use thiserror::Error;

/// Bytes of a page.
pub const PAGE: usize = 4096;
/// Where changes begin.
pub const FIRST: usize = 2 * PAGE;
/// The format that is written and read.
pub const VERSION: u32 = 1;

const MAGIC: &[u8; 8] = b"ostlerCL";
const HEAD: usize = 24;
const ENTRY_MAGIC: &[u8; 4] = b"chng";
const ENTRY_HEAD: usize = 32;
/// More generations than a log will ever have.
const MAX_GENERATION: u64 = 1 << 62;
/// Longest name that a file of a definition can have, in bytes.
const MAX_NAME: usize = 240;

/// A change of definitions, as it is kept.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
pub enum Change<'a> {
    /// A definition, in place of the one of that name.
    Save {
        /// Whose.
        name: Cow<'a, str>,
        /// What it says.
        xml: Cow<'a, str>,
    },
    /// There is none of that name any more.
    Remove {
        /// Whose.
        name: Cow<'a, str>,
    },
    /// One has another name.
    Rename {
        /// It was called.
        old: Cow<'a, str>,
        /// It is called.
        new: Cow<'a, str>,
        /// What it says now.
        xml: Cow<'a, str>,
        /// It starts with the host, as before.
        autostart: bool,
    },
    /// What starts with the host.
    Autostart {
        /// Whose.
        name: Cow<'a, str>,
        /// It does, or does no more.
        on: bool,
    },
    /// A change could not be made after all, and whoever asked for it was told so.
    Void {
        /// Its number in this generation.
        number: u64,
    },
}

/// Something that was found in the log.
#[derive(Debug, PartialEq, Eq)]
pub struct Entry {
    /// Its number in its generation.
    pub number: u64,
    /// What it says, or in a sentence why that is not known.
    pub change: Result<Change<'static>, String>,
}

/// What all changes come to for one name.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Outcome {
    /// What the definition says; inside, nothing if there is none any more.
    pub text: Option<Option<String>>,
    /// Whether it starts with the host.
    pub autostart: Option<bool>,
}

/// Why nothing in a log can be read.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Error)]
pub enum Unreadable {
    /// Both heads are damaged.
    #[error("it has no head that is whole")]
    NoHead,
    /// It was written by another version of the daemon.
    #[error("it is of format {0}, and only {VERSION} is known here")]
    Version(u32),
}

fn word(bytes: &[u8], at: usize) -> Option<u32> {
    Some(u32::from_le_bytes(*bytes.get(at..)?.first_chunk()?))
}

fn long(bytes: &[u8], at: usize) -> Option<u64> {
    Some(u64::from_le_bytes(*bytes.get(at..)?.first_chunk()?))
}

/// Where the head of a generation is.
pub fn place(generation: u64) -> usize {
    (generation % 2) as usize * PAGE
}

/// The head of a generation.
pub fn head(generation: u64) -> Vec<u8> {
    let mut bytes = MAGIC.to_vec();
    bytes.extend(VERSION.to_le_bytes());
    bytes.extend(generation.to_le_bytes());
    bytes.extend(crc32fast::hash(&bytes).to_le_bytes());
    bytes
}

/// The version and the generation of a head that is whole.
fn read_head(log: &[u8], at: usize) -> Option<(u32, u64)> {
    let bytes = log.get(at..)?.get(..HEAD)?;
    let is_whole = bytes.starts_with(MAGIC) && word(bytes, HEAD - 4)? == crc32fast::hash(&bytes[..HEAD - 4]);
    let generation = long(bytes, 12)?;
    (is_whole && generation <= MAX_GENERATION).then_some((word(bytes, 8)?, generation))
}

/// The generation that counts.
pub fn generation(log: &[u8]) -> Result<u64, Unreadable> {
    let heads = [0, PAGE].into_iter().filter_map(|at| read_head(log, at));
    match heads.max_by_key(|(_, generation)| *generation) {
        Some((VERSION, generation)) => Ok(generation),
        Some((version, _)) => Err(Unreadable::Version(version)),
        None => Err(Unreadable::NoHead),
    }
}

/// Bytes that a change of so many takes in the log.
pub fn room_for(change: usize) -> usize {
    (ENTRY_HEAD + change).next_multiple_of(PAGE)
}

/// A change as it stands in the log; what follows up to the end of its last page does not matter.
pub fn entry(change: &[u8], generation: u64, number: u64) -> Vec<u8> {
    let mut bytes = ENTRY_MAGIC.to_vec();
    bytes.extend((change.len() as u32).to_le_bytes());
    bytes.extend(generation.to_le_bytes());
    bytes.extend(number.to_le_bytes());
    bytes.extend(crc32fast::hash(change).to_le_bytes());
    bytes.extend(crc32fast::hash(&bytes).to_le_bytes());
    bytes.extend(change);
    bytes
}

/// The number and the length of the entry that begins here, if one of this generation does.
fn read_entry_head(bytes: &[u8], generation: u64) -> Option<(u64, usize)> {
    let head = bytes.get(..ENTRY_HEAD)?;
    let is_whole =
        head.starts_with(ENTRY_MAGIC) && word(head, 28)? == crc32fast::hash(&head[..ENTRY_HEAD - 4]);
    let is_ours = is_whole && long(head, 8)? == generation;
    is_ours.then_some((long(head, 16)?, word(head, 4)? as usize))
}

fn read_change(bytes: &[u8], length: usize) -> Result<Change<'static>, String> {
    let change = bytes[ENTRY_HEAD..].get(..length);
    let change = change.ok_or("it goes on after the end of the log")?;
    if word(bytes, 24) != Some(crc32fast::hash(change)) {
        return Err("its checksum does not hold".into());
    }
    let change: Change<'_> =
        serde_json::from_slice(change).map_err(|error| format!("it is no change: {error}"))?;
    change.check()?;
    Ok(change)
}

/// What a generation has, in order. What is damaged is an entry with an error; what follows it is found nevertheless.
pub fn entries(log: &[u8], generation: u64) -> Vec<Entry> {
    let (mut found, mut last, mut at) = (Vec::new(), 0, FIRST);
    while let Some(bytes) = log.get(at..).filter(|bytes| !bytes.is_empty()) {
        at += PAGE;
        let Some((number, length)) = read_entry_head(bytes, generation).filter(|(number, _)| *number > last)
        else {
            continue;
        };
        if number - last > 1 {
            found.push(Entry {
                number: last + 1,
                change: Err(format!(
                    "{} changes from here on are not there",
                    number - last - 1
                )),
            });
        }
        let change = read_change(bytes, length);
        if change.is_ok() {
            at += room_for(length) - PAGE;
        }
        found.push(Entry { number, change });
        last = number;
    }
    found
}

/// Whether files of definitions may have this name, and stay in their folder.
fn check_name(name: &str) -> Result<(), String> {
    let bad = name.is_empty() || name.len() > MAX_NAME || name.chars().any(|c| c.is_control() || c == '/');
    match bad {
        true => Err(format!("{name:?} is no name of a definition")),
        false => Ok(()),
    }
}

impl Change<'_> {
    /// The names that it is about.
    pub fn names(&self) -> Vec<&str> {
        match self {
            Self::Save { name, .. } | Self::Remove { name } | Self::Autostart { name, .. } => vec![name],
            Self::Rename { old, new, .. } => vec![old, new],
            Self::Void { .. } => Vec::new(),
        }
    }

    fn check(&self) -> Result<(), String> {
        self.names().into_iter().try_for_each(check_name)
    }
}

/// What changes come to, one after the other. `check` says of a name and a text what is wrong with them; what is not taken is told to
/// `refused`, in a sentence.
pub fn outcomes(
    entries: Vec<Entry>,
    check: impl Fn(&str, &str) -> Result<(), String>,
    mut refused: impl FnMut(String),
) -> BTreeMap<String, Outcome> {
    let voided = entries.iter().filter_map(|entry| match entry.change {
        Ok(Change::Void { number }) => Some(number),
        _ => None,
    });
    let voided: BTreeSet<u64> = voided.collect();
    let mut outcomes: BTreeMap<String, Outcome> = BTreeMap::new();
    for Entry { number, change } in entries {
        if voided.contains(&number) {
            continue;
        }
        let change = change.and_then(|change| match &change {
            Change::Save { name, xml } | Change::Rename { new: name, xml, .. } => {
                check(name, xml).map(|()| change)
            }
            _ => Ok(change),
        });
        match change {
            Err(why) => refused(format!("change {number} is left out: {why}")),
            Ok(Change::Save { name, xml }) => of(&mut outcomes, name).text = Some(Some(xml.into_owned())),
            Ok(Change::Remove { name }) => *of(&mut outcomes, name) = Outcome::gone(),
            Ok(Change::Autostart { name, on }) => of(&mut outcomes, name).autostart = Some(on),
            Ok(Change::Rename {
                old,
                new,
                xml,
                autostart,
            }) => {
                *of(&mut outcomes, old) = Outcome::gone();
                *of(&mut outcomes, new) = Outcome {
                    text: Some(Some(xml.into_owned())),
                    autostart: Some(autostart),
                };
            }
            Ok(Change::Void { .. }) => {}
        }
    }
    outcomes
}

fn of<'a>(outcomes: &'a mut BTreeMap<String, Outcome>, name: Cow<'_, str>) -> &'a mut Outcome {
    outcomes.entry(name.into_owned()).or_default()
}

impl Outcome {
    fn gone() -> Self {
        Self {
            text: Some(None),
            autostart: Some(false),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn save(name: &str, xml: &str) -> Change<'static> {
        Change::Save {
            name: name.to_owned().into(),
            xml: xml.to_owned().into(),
        }
    }

    /// A log of one generation.
    fn log(changes: &[Change<'_>], generation: u64) -> Vec<u8> {
        let mut log = vec![0; FIRST];
        log[place(generation)..][..HEAD].copy_from_slice(&head(generation));
        for (number, change) in (1..).zip(changes) {
            log.extend(entry(&serde_json::to_vec(change).unwrap(), generation, number));
            log.resize(log.len().next_multiple_of(PAGE), 0);
        }
        log
    }

    fn good(entries: &[Entry]) -> Vec<Change<'static>> {
        entries
            .iter()
            .filter_map(|entry| entry.change.clone().ok())
            .collect()
    }

    fn three() -> [Change<'static>; 3] {
        // The second takes three pages.
        [
            save("a", "<a/>"),
            save("b", &"b".repeat(2 * PAGE)),
            save("c", "<c/>"),
        ]
    }

    #[test]
    fn a_log_that_is_torn_in_the_middle_gives_the_rest() {
        let changes = three();
        let whole = log(&changes, 7);
        assert_eq!(good(&entries(&whole, 7)), changes);
        // The head of the second, its text, its last page, and the log's end.
        for (from, to, says) in [
            (
                FIRST + PAGE,
                FIRST + PAGE + 1,
                "1 changes from here on are not there",
            ),
            (
                FIRST + PAGE + 100,
                FIRST + PAGE + 101,
                "its checksum does not hold",
            ),
            (
                FIRST + 3 * PAGE,
                FIRST + 3 * PAGE + 1,
                "its checksum does not hold",
            ),
        ] {
            let mut torn = whole.clone();
            torn[from..to].fill(0xff);
            let found = entries(&torn, 7);
            assert_eq!(found.len(), 3);
            assert_eq!(good(&found), [changes[0].clone(), changes[2].clone()]);
            assert_eq!(
                found[1],
                Entry {
                    number: 2,
                    change: Err(says.into())
                }
            );
        }
        let found = entries(&whole[..FIRST + 2 * PAGE], 7);
        assert_eq!(found[1].change, Err("it goes on after the end of the log".into()));
        assert_eq!(found.len(), 2);
    }

    #[test]
    fn what_is_left_of_earlier_generations_does_not_count() {
        let mut old = log(&three(), 4);
        let new = log(&[save("d", "<d/>")], 5);
        // The new generation was written over the beginning of the old one.
        old[PAGE..new.len()].copy_from_slice(&new[PAGE..]);
        assert_eq!(generation(&old), Ok(5));
        assert_eq!(good(&entries(&old, 5)), [save("d", "<d/>")]);
        // As long as its head is not whole, the old one counts, whose files last.
        old[PAGE + 13] ^= 1;
        assert_eq!(generation(&old), Ok(4));
        old[3] = 0;
        assert_eq!(generation(&old), Err(Unreadable::NoHead));
        assert_eq!(generation(b"ostlerCL"), Err(Unreadable::NoHead));
    }

    #[test]
    fn another_version_is_told() {
        let mut log = log(&three(), 1);
        let mut newer = MAGIC.to_vec();
        newer.extend(2u32.to_le_bytes());
        newer.extend(2u64.to_le_bytes());
        newer.extend(crc32fast::hash(&newer).to_le_bytes());
        log[..HEAD].copy_from_slice(&newer);
        assert_eq!(generation(&log), Err(Unreadable::Version(2)));
    }

    #[test]
    fn changes_come_to_what_the_last_ones_say() {
        let rename = Change::Rename {
            old: "b".into(),
            new: "c".into(),
            xml: "<c/>".into(),
            autostart: true,
        };
        let autostart = |name: &'static str, on| Change::Autostart {
            name: name.into(),
            on,
        };
        let changes = [
            save("a", "<a/>"),
            autostart("a", true),
            save("b", "<b/>"),
            rename,
            Change::Remove { name: "a".into() },
            save("a", "<again/>"),
            save("bad", "x"),
            save("c", "<voided/>"),
            Change::Void { number: 8 },
            save("../../etc/passwd", "<a/>"),
            autostart("d", false),
        ];
        let mut refused = Vec::new();
        let check = |_: &str, xml: &str| match xml {
            "x" => Err("x is no definition".into()),
            _ => Ok(()),
        };
        let found = outcomes(entries(&log(&changes, 1), 1), check, |why| refused.push(why));
        let outcome = |text: Option<Option<&str>>, autostart| Outcome {
            text: text.map(|text| text.map(String::from)),
            autostart,
        };
        let expected = [
            ("a", outcome(Some(Some("<again/>")), Some(false))),
            ("b", outcome(Some(None), Some(false))),
            ("c", outcome(Some(Some("<c/>")), Some(true))),
            ("d", outcome(None, Some(false))),
        ];
        assert_eq!(
            found,
            expected.map(|(name, outcome)| (name.to_owned(), outcome)).into()
        );
        assert_eq!(
            refused,
            [
                "change 7 is left out: x is no definition",
                "change 10 is left out: \"../../etc/passwd\" is no name of a definition"
            ]
        );
    }

    proptest! {
        #[test]
        fn changes_read_back(texts in proptest::collection::vec(("[^/\\x00-\\x1f\\x7f-\\x9f]{1,40}", any::<String>()), 0..6)) {
            let changes: Vec<_> = texts.iter().map(|(name, xml)| save(name, xml)).collect();
            let log = log(&changes, 3);
            prop_assert_eq!(generation(&log), Ok(3));
            prop_assert_eq!(good(&entries(&log, 3)), changes);
        }

        #[test]
        fn one_wrong_byte_costs_one_change(at in 0..8 * PAGE, bit in 0..8u32) {
            let changes = three();
            let mut log = log(&changes, 2);
            let at = at % log.len();
            log[at] ^= 1 << bit;
            let found = good(&entries(&log, 2));
            prop_assert!(found.len() >= 2, "{:?}", found.len());
            prop_assert!(found.iter().all(|change| changes.contains(change)));
        }
    }
}
