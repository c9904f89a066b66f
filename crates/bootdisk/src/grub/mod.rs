//! GRUB 2: its configuration, followed as far as it takes to find what it starts by default.

mod run;
mod script;
mod words;

use run::{Entry, Runner};

use crate::volume::Volumes;
use crate::{Choice, Error};

/// Where `grub-mkconfig` leaves the configuration, on the root file system or on one for /boot.
const FOLDERS: [&str; 4] = ["/boot/grub", "/boot/grub2", "/grub", "/grub2"];

/// What the first configuration starts; `None` if there is no configuration.
pub(crate) fn find(volumes: &Volumes) -> Result<Option<Choice>, Error> {
    for (index, volume) in volumes.iter() {
        for folder in FOLDERS {
            let path = format!("{folder}/grub.cfg");
            if volume.exists(&path)? {
                return follow(volumes, index, folder, &path).map(Some);
            }
        }
        volumes.check()?;
    }
    Ok(None)
}

fn follow(volumes: &Volumes, index: usize, folder: &str, path: &str) -> Result<Choice, Error> {
    let mut runner = Runner::new(volumes, index, folder);
    runner.run_file(index, path)?;
    let entries = runner.take_entries();
    let default = runner.variable("default").to_owned();
    let chosen = match choose(&mut runner, &entries, &default)? {
        None => runner.started("the system"),
        chosen => chosen,
    };
    chosen.ok_or_else(|| Error::Configuration {
        path: path.into(),
        why: "none of its entries starts Linux".into(),
    })
}

/// What the default entry starts; if that is not Linux, the first entry that does start it.
fn choose(runner: &mut Runner<'_>, entries: &[Entry], default: &str) -> Result<Option<Choice>, Error> {
    // What is before a ">" is a submenu's name, and what is after it a name in there.
    let (here, inside) = default.split_once('>').unwrap_or((default, ""));
    let others = entries.iter().filter(|entry| !entry.submenu);
    for entry in pick(entries, here.trim()).into_iter().chain(others) {
        let chosen = if entry.submenu {
            let inner = runner.entries_of(entry)?;
            choose(runner, &inner, inside)?
        } else {
            runner.start(entry)?
        };
        if chosen.is_some() {
            return Ok(chosen);
        }
    }
    Ok(None)
}

/// The entry with this number, id or title; else the first.
fn pick<'a>(entries: &'a [Entry], name: &str) -> Option<&'a Entry> {
    let by_number = name.parse::<usize>().ok().and_then(|number| entries.get(number));
    let by_name = || {
        entries
            .iter()
            .find(|entry| entry.id == name || entry.title == name)
    };
    by_number.or_else(by_name).or_else(|| entries.first())
}
