//! What a power cut may take after the daemon was killed: the files that it did not sync, because its log of changes has them.

use std::collections::BTreeSet;
use std::fs;
use std::path::Path;

use serde_json::Value;

use super::load::Random;

/// Bytes of a page of the log; the first two have its heads.
pub const PAGE: usize = 4096;
/// Bytes before the text of a change.
const HEAD: usize = 32;

fn word(bytes: &[u8], at: usize) -> usize {
    u32::from_le_bytes(bytes[at..][..4].try_into().unwrap()) as usize
}

fn long(bytes: &[u8], at: usize) -> u64 {
    u64::from_le_bytes(bytes[at..][..8].try_into().unwrap())
}

/// The changes of the last generation, as docs/daemon.md has the format.
fn changes(log: &[u8]) -> Vec<Value> {
    let generation = long(log, 12).max(long(log, PAGE + 12));
    let pages = log.chunks_exact(PAGE).skip(2);
    let ours = pages
        .enumerate()
        .filter(|(_, page)| page.starts_with(b"chng") && long(page, 8) == generation);
    ours.map(|(number, page)| {
        let text = &log[(number + 2) * PAGE + HEAD..][..word(page, 4)];
        serde_json::from_slice(text).unwrap()
    })
    .collect()
}

/// Takes away or cuts off some of the files that are in the log, and leaves half a change at its end. Returns how many files.
pub fn lose(folder: &Path, random: &mut Random) -> usize {
    let path = folder.join(".changes");
    // A daemon that was killed at its first start has none.
    let Ok(mut log) = fs::read(&path) else { return 0 };
    let changes = changes(&log);
    let mut names = BTreeSet::new();
    for change in &changes {
        for part in ["save", "rename", "autostart"] {
            let names_of = ["name", "new"].map(|key| change[part][key].as_str());
            names.extend(names_of.into_iter().flatten());
        }
    }
    let mut lost = 0;
    for name in names {
        let saved = |change: &Value| {
            let text = &change["save"]["name"];
            text == name || change["rename"]["new"] == name
        };
        let file = folder.join(format!("{name}.xml"));
        let Ok(text) = fs::read(&file) else { continue };
        if !changes.iter().any(saved) || random.below(3) == 0 {
            continue;
        }
        match random.below(2) {
            0 => fs::remove_file(&file).unwrap(),
            _ => fs::write(&file, &text[..random.below(text.len())]).unwrap(),
        }
        lost += 1;
    }
    // What was on its way into the log, and did not come to last whole.
    let pages = log.len() / PAGE;
    let end = (2..pages)
        .rev()
        .find(|page| log[page * PAGE..].starts_with(b"chng"));
    if let Some(end) = end.filter(|end| end + 2 < pages) {
        let torn = log[end * PAGE..][..20 + random.below(100)].to_vec();
        log[(end + 1) * PAGE..][..torn.len()].copy_from_slice(&torn);
        fs::write(&path, log).unwrap();
    }
    lost
}
