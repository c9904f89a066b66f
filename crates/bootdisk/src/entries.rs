//! Boot loader entries (UAPI.1, the Boot Loader Specification, type 1), as systemd-boot and Fedora's GRUB read them.

use std::cmp::{Ordering, Reverse};
use std::collections::HashMap;

use crate::volume::{Volume, Volumes};
use crate::{Choice, Error, MAX_TEXT, Place};

/// Where entries are, on the EFI system partition, on one for /boot, or on the root file system.
const FOLDERS: [&str; 2] = ["/loader/entries", "/boot/loader/entries"];
/// Entries that are read, and lines of one.
const MAX_ENTRIES: usize = 256;
const MAX_LINES: usize = 256;
/// Longest name of a file that is an entry, in bytes.
const MAX_NAME: usize = 255;

/// The entry that is started by default; `None` if there is none.
pub(crate) fn find(volumes: &Volumes) -> Result<Option<Choice>, Error> {
    let mut entries = all(volumes, &HashMap::new())?;
    let wanted = default_pattern(volumes)?;
    let matches = |id: &str| {
        wanted
            .as_deref()
            .is_some_and(|pattern| matches_pattern(pattern, id))
    };
    let at = entries.iter().position(|(id, _)| matches(id)).unwrap_or(0);
    Ok((at < entries.len()).then(|| entries.swap_remove(at).1))
}

/// Every entry with its id, the best first. `variables` are what options may name with a dollar sign.
pub(crate) fn all(
    volumes: &Volumes,
    variables: &HashMap<String, String>,
) -> Result<Vec<(String, Choice)>, Error> {
    let mut entries = Vec::new();
    for (index, volume) in volumes.iter() {
        for folder in FOLDERS {
            for name in volume.names(folder)? {
                let Some(id) = name.strip_suffix(".conf").filter(|_| name.len() <= MAX_NAME) else {
                    continue;
                };
                if entries.len() >= MAX_ENTRIES {
                    break;
                }
                let text = volume
                    .read(&format!("{folder}/{name}"), MAX_TEXT)?
                    .unwrap_or_default();
                entries.extend(Entry::parse(
                    id,
                    &String::from_utf8_lossy(&text),
                    index,
                    variables,
                ));
            }
            volumes.check()?;
        }
    }
    entries.sort_by(|a, b| b.compare(a));
    Ok(entries
        .into_iter()
        .map(|entry| (entry.id, entry.choice))
        .collect())
}

/// What loader.conf wants to be started.
fn default_pattern(volumes: &Volumes) -> Result<Option<String>, Error> {
    let read = |volume: &dyn Volume| volume.read("/loader/loader.conf", MAX_TEXT);
    for (_, volume) in volumes.iter() {
        let text = read(volume)?.unwrap_or_default();
        let text = String::from_utf8_lossy(&text).into_owned();
        let mut lines = text.lines().take(MAX_LINES).filter_map(key_and_value);
        if let Some((_, pattern)) = lines.find(|(key, _)| *key == "default") {
            return Ok(Some(pattern.trim_end_matches(".conf").into()));
        }
    }
    Ok(None)
}

fn key_and_value(line: &str) -> Option<(&str, &str)> {
    let line = line.trim();
    let (key, value) = line.split_once([' ', '\t'])?;
    (!key.starts_with('#')).then(|| (key, value.trim()))
}

#[derive(Debug)]
struct Entry {
    id: String,
    sort_key: String,
    machine_id: String,
    version: String,
    /// It may be tried so often and no more, and has been.
    is_bad: bool,
    choice: Choice,
}

impl Entry {
    /// `None` for an entry that is not of a Linux kernel for this machine.
    fn parse(id: &str, text: &str, volume: usize, variables: &HashMap<String, String>) -> Option<Self> {
        let (id, is_bad) = without_counter(id);
        let mut entry = Self {
            id: id.into(),
            sort_key: String::new(),
            machine_id: String::new(),
            version: String::new(),
            is_bad,
            choice: Choice::default(),
        };
        let place = |path: &str| Place {
            volume,
            path: path.into(),
        };
        let choice = &mut entry.choice;
        let mut options = Vec::new();
        for (key, value) in text.lines().take(MAX_LINES).filter_map(key_and_value) {
            match key {
                "title" => choice.title = value.into(),
                "version" => entry.version = value.into(),
                "machine-id" => entry.machine_id = value.into(),
                "sort-key" => entry.sort_key = value.into(),
                "architecture" if !value.eq_ignore_ascii_case("x64") => return None,
                "linux" => choice.kernel = place(value),
                // Fedora's say $tuned_initrd too.
                "initrd" => {
                    let paths = value.split_whitespace().filter(|path| !path.starts_with('$'));
                    choice.initrds.extend(paths.map(place));
                }
                "options" => options.push(with_variables(value, variables)),
                _ => {}
            }
        }
        choice.command_line = options.join(" ");
        if choice.title.is_empty() {
            choice.title = entry.id.clone();
        }
        (!entry.choice.kernel.path.is_empty()).then_some(entry)
    }

    /// Greater is better. Entries with a sort key come first, by it; the rest by what their files are called.
    fn compare(&self, other: &Self) -> Ordering {
        let by_key = match (self.sort_key.is_empty(), other.sort_key.is_empty()) {
            (true, true) => Ordering::Equal,
            (has_none, other_has_none) if has_none != other_has_none => other_has_none.cmp(&has_none),
            _ => Reverse(&self.sort_key)
                .cmp(&Reverse(&other.sort_key))
                .then_with(|| Reverse(&self.machine_id).cmp(&Reverse(&other.machine_id)))
                .then_with(|| compare_versions(&self.version, &other.version)),
        };
        let good = (!self.is_bad).cmp(&!other.is_bad);
        good.then(by_key)
            .then_with(|| compare_versions(&self.id, &other.id))
    }
}

/// An id without its counter of tries, "+LEFT" or "+LEFT-DONE"; true if no try is left.
fn without_counter(id: &str) -> (&str, bool) {
    let Some((name, counter)) = id.rsplit_once('+') else {
        return (id, false);
    };
    let left = counter.split('-').next().unwrap_or_default();
    match left.parse::<u32>() {
        Ok(left) => (name, left == 0),
        Err(_) => (id, false),
    }
}

/// Words that begin with a dollar sign are variables of GRUB's.
fn with_variables(options: &str, variables: &HashMap<String, String>) -> String {
    let words = options
        .split_whitespace()
        .filter_map(|word| match word.strip_prefix('$') {
            None => Some(word),
            Some(name) => variables
                .get(name.trim_matches(['{', '}']))
                .map(String::as_str)
                .filter(|value| !value.is_empty()),
        });
    words.collect::<Vec<_>>().join(" ")
}

/// Compares versions: runs of digits as numbers, what is between them as text.
fn compare_versions(left: &str, right: &str) -> Ordering {
    let (mut left, mut right) = (left, right);
    loop {
        let (text, other_text) = (take_run(&mut left, false), take_run(&mut right, false));
        let (number, other_number) = (take_run(&mut left, true), take_run(&mut right, true));
        let (number, other_number) = (
            number.trim_start_matches('0'),
            other_number.trim_start_matches('0'),
        );
        let ordering = text
            .cmp(other_text)
            .then(number.len().cmp(&other_number.len()))
            .then(number.cmp(other_number));
        if ordering != Ordering::Equal || (left.is_empty() && right.is_empty()) {
            return ordering;
        }
    }
}

/// Takes the characters off that are digits, or that are none.
fn take_run<'a>(text: &mut &'a str, digits: bool) -> &'a str {
    let end = text
        .find(|c: char| c.is_ascii_digit() != digits)
        .unwrap_or(text.len());
    let (run, rest) = text.split_at(end);
    *text = rest;
    run
}

/// True if `name` is what a pattern with asterisks says.
fn matches_pattern(pattern: &str, name: &str) -> bool {
    let mut parts = pattern.split('*');
    let first = parts.next().unwrap_or_default();
    let Some(mut rest) = name.strip_prefix(first) else {
        return false;
    };
    let mut parts = parts.peekable();
    if parts.peek().is_none() {
        return rest.is_empty();
    }
    while let Some(part) = parts.next() {
        if parts.peek().is_none() {
            return rest.ends_with(part);
        }
        match rest.find(part) {
            Some(at) => rest = &rest[at + part.len()..],
            None => return false,
        }
    }
    true
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn versions_are_compared_by_their_numbers() {
        for (less, greater) in [
            ("6.1.0-9", "6.1.0-13"),
            ("debian-6.1.9-1", "debian-6.1.10-1"),
            ("a", "b"),
            ("a1", "a1b"),
            ("", "1"),
        ] {
            assert_eq!(
                compare_versions(less, greater),
                Ordering::Less,
                "{less} {greater}"
            );
            assert_eq!(
                compare_versions(greater, less),
                Ordering::Greater,
                "{less} {greater}"
            );
        }
        assert_eq!(compare_versions("007", "7"), Ordering::Equal);
    }

    #[test]
    fn patterns_have_asterisks() {
        for (pattern, name, is) in [
            ("debian-*", "debian-6.1", true),
            ("*-6.1", "debian-6.1", true),
            ("*", "", true),
            ("a*b*c", "a-b-b-c", true),
            ("a*b", "ab", true),
            ("debian", "debian-6.1", false),
            ("a*b*c", "acb", false),
        ] {
            assert_eq!(matches_pattern(pattern, name), is, "{pattern} {name}");
        }
    }

    #[test]
    fn counters_of_tries_are_no_part_of_the_name() {
        assert_eq!(without_counter("debian+3-1"), ("debian", false));
        assert_eq!(without_counter("debian+0"), ("debian", true));
        assert_eq!(without_counter("c++"), ("c++", false));
    }

    #[test]
    fn an_entry_is_read_and_one_for_another_machine_passed_over() {
        let text = "# a comment\ntitle Debian 12\nversion 6.1\nlinux /vmlinuz\ninitrd /a /b $tuned_initrd\n\
                    options root=/dev/vda1 $kernelopts\noptions quiet $none\n";
        let variables = HashMap::from([("kernelopts".to_owned(), "ro console=ttyS0".to_owned())]);
        let entry = Entry::parse("debian", text, 3, &variables).unwrap();
        assert_eq!(entry.choice.title, "Debian 12");
        assert_eq!(entry.choice.command_line, "root=/dev/vda1 ro console=ttyS0 quiet");
        assert_eq!(entry.choice.initrds.len(), 2);
        assert_eq!(entry.choice.kernel.volume, 3);
        assert!(Entry::parse("x", "linux /k\narchitecture aa64\n", 0, &variables).is_none());
        assert!(Entry::parse("x", "efi /shellx64.efi\n", 0, &variables).is_none());
    }
}
