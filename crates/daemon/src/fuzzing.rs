//! Entries for fuzzers: what is in the log of changes.

use crate::definitions::entry::{self, Entry};
use crate::domains::definition::Definition;

/// Goes through what was found in a log, as a start does.
fn take(entries: Vec<Entry>) {
    let numbers: Vec<_> = entries.iter().map(|entry| entry.number).collect();
    assert!(numbers.windows(2).all(|pair| pair[0] < pair[1]), "{numbers:?}");
    let check = |name: &str, xml: &str| match Definition::read(xml) {
        Ok(definition) if definition.name == name => Ok(()),
        Ok(definition) => Err(definition.name.clone()),
        Err(error) => Err(error.to_string()),
    };
    let mut refused = Vec::new();
    let outcomes = entry::outcomes(entries, check, |why| refused.push(why));
    for name in outcomes.keys() {
        assert!(
            !name.is_empty() && !name.contains(['/', '\0']),
            "{name:?} leads elsewhere"
        );
    }
    assert!(refused.len() <= numbers.len());
}

/// A log: of any bytes, and one whose sums hold and whose changes are the lines of the input.
pub fn changes(input: &[u8]) {
    if let Ok(generation) = entry::generation(input) {
        take(entry::entries(input, generation));
    }
    let mut log = vec![0; entry::FIRST];
    let head = entry::head(1);
    log[entry::place(1)..][..head.len()].copy_from_slice(&head);
    for (number, change) in (1..).zip(input.split(|byte| *byte == b'\n')) {
        log.extend(entry::entry(change, 1, number));
        log.resize(log.len().next_multiple_of(entry::PAGE), 0);
    }
    assert_eq!(entry::generation(&log), Ok(1));
    let entries = entry::entries(&log, 1);
    assert_eq!(entries.len(), input.split(|byte| *byte == b'\n').count());
    take(entries);
}

#[cfg(test)]
mod tests {
    #[test]
    fn what_fuzzers_found_is_survived() {
        ostler_corpus::replay("daemon-changes", super::changes);
    }
}
