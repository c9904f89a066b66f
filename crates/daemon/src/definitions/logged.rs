//! Definitions with a log of changes before them: a change lasts with one write in place, and the files follow.
//!
//! 1. The text is written to `NAME.xml.new`: whoever has no room for it is refused here.
//! 2. The change is added to the log, which is synced. From here on it is there, whenever we are killed or the host loses power.
//! 3. The file gets its name, links are made or removed. Nothing of that is synced.
//! 4. The client is answered: everybody can read the file now.
//!
//! When the log is full, and when the daemon ends, the files that were changed are synced and the log begins anew. A daemon that starts
//! makes the files what the log says.

use std::borrow::Cow;
use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Display;
use std::fs::{self, File};
use std::io;
use std::path::Path;
use std::sync::{Mutex, MutexGuard, PoisonError};

use super::entry::{Change, Outcome, PAGE, outcomes};
use super::log::Log;
use super::{Definitions, is_there};
use crate::Error;
use crate::files::{
    begin_writing, forget_beside, link_if_not_there, put_in_place, remove_if_there, steps, sync_folder,
    write_beside,
};

/// The log's name in the folder of definitions.
const LOG: &str = ".changes";
/// Bytes of the log: 510 changes of usual length. Tests fill it often.
const LENGTH: usize = if cfg!(test) { 12 * PAGE } else { 2 << 20 };

/// Definitions, and the log of their changes.
pub struct Logged {
    definitions: Definitions,
    behind: Mutex<Behind>,
}

/// What the files are behind.
struct Behind {
    /// Without one, files are synced at once.
    log: Option<Log>,
    /// The names whose files are not known to last as they are.
    names: BTreeSet<String>,
}

impl Logged {
    /// Uses `folder`, which is made if it is not there, and makes of its files what the log says. `name` is what `read` makes of a
    /// definition's text.
    pub fn open<T, E: Display>(
        folder: &Path,
        read: impl Fn(&str) -> Result<T, E>,
        name: impl Fn(&T) -> String,
    ) -> Result<Self, Error> {
        let definitions = Definitions::open(folder)?;
        let path = folder.join(LOG);
        let (log, entries) = match Log::open(&path, LENGTH) {
            Ok((log, entries)) => (Some(log), entries),
            Err(error) if is_there(&path) => return Err(error),
            Err(error) => {
                crate::log::note!("definitions are kept without a log of changes: {error}");
                (None, Vec::new())
            }
        };
        let check = |wanted: &str, xml: &str| match read(xml).map(|definition| name(&definition)) {
            Ok(name) if name == wanted => Ok(()),
            Ok(name) => Err(format!("it defines \"{name}\" as \"{wanted}\"")),
            Err(error) => Err(format!("what it says of \"{wanted}\" is no definition: {error}")),
        };
        let is_empty = entries.is_empty();
        let refused = |why: String| crate::log::note!("\"{}\": {why}", path.display());
        let outcomes = outcomes(entries, check, refused);
        let names = outcomes.keys().cloned().collect();
        let logged = Self {
            definitions,
            behind: Mutex::new(Behind { log, names }),
        };
        logged
            .replay(&outcomes)
            .map_err(Error::file("carry out", &path))?;
        let mut behind = logged.behind();
        let failed = Error::file("empty", &path);
        if !is_empty {
            logged.sync_files(&behind.names).map_err(&failed)?;
            behind.names.clear();
        }
        if let Some(log) = &mut behind.log {
            if log.length() != LENGTH {
                *log = Log::make(&path, LENGTH).map_err(&failed)?;
            } else if !is_empty {
                log.begin_generation().map_err(&failed)?;
            }
        }
        drop(behind);
        Ok(logged)
    }

    /// Every definition, as [`Definitions::load`] has it.
    pub fn load<T, E: Display>(
        &self,
        read: impl Fn(&str) -> Result<T, E>,
        name: impl Fn(&T) -> String,
    ) -> Result<Vec<(T, bool)>, Error> {
        self.definitions.load(read, name)
    }

    /// Keeps a definition, in place of the one of that name.
    pub fn save(&self, name: &str, xml: &str) -> io::Result<()> {
        self.change(&Change::Save {
            name: name.into(),
            xml: xml.into(),
        })
    }

    /// Forgets a definition.
    pub fn remove(&self, name: &str) -> io::Result<()> {
        self.change(&Change::Remove { name: name.into() })
    }

    /// Keeps a definition under another name and forgets it under the old one.
    pub fn rename(&self, old: &str, new: &str, xml: &str) -> io::Result<()> {
        self.change(&Change::Rename {
            old: old.into(),
            new: new.into(),
            xml: xml.into(),
            autostart: is_there(&self.definitions.link(old)),
        })
    }

    /// Has what is defined start with the host, or not.
    pub fn set_autostart(&self, name: &str, on: bool) -> io::Result<()> {
        self.change(&Change::Autostart {
            name: name.into(),
            on,
        })
    }

    /// Has the files last as they are, so that nothing is left to be done by the log.
    pub fn settle(&self) -> io::Result<()> {
        self.settle_behind(&mut self.behind())
    }

    fn behind(&self) -> MutexGuard<'_, Behind> {
        self.behind.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Makes a change that lasts. One at a time: what is before a change in the log was done before it.
    fn change(&self, change: &Change<'_>) -> io::Result<()> {
        let mut behind = self.behind();
        let bytes = serde_json::to_vec(change)?;
        if !behind.log.as_ref().is_some_and(|log| log.could_hold(bytes.len())) {
            // Nothing in the log may come after this, as this is not in there.
            self.settle_behind(&mut behind)?;
            return self.change_at_once(change);
        }
        self.prepare(change)?;
        let changed = self
            .log_change(&mut behind, &bytes)
            .and_then(|number| self.carry_out_or_take_back(&mut behind, number, change));
        if changed.is_err()
            && let Some((name, _)) = text_of(change)
        {
            forget_beside(&self.definitions.file(name));
        }
        changed
    }

    /// The files, each step synced.
    fn change_at_once(&self, change: &Change<'_>) -> io::Result<()> {
        match change {
            Change::Save { name, xml } => self.definitions.save(name, xml),
            Change::Remove { name } => self.definitions.remove(name),
            Change::Rename { old, new, xml, .. } => self.definitions.rename(old, new, xml),
            Change::Autostart { name, on } => self.definitions.set_autostart(name, *on),
            Change::Void { .. } => Ok(()),
        }
    }

    /// Writes the text beside the file that is to have it.
    fn prepare(&self, change: &Change<'_>) -> io::Result<()> {
        match text_of(change) {
            Some((name, xml)) => write_beside(&self.definitions.file(name), xml.as_bytes()).map(drop),
            None => Ok(()),
        }
    }

    /// Has a change last, and returns its number.
    fn log_change(&self, behind: &mut Behind, bytes: &[u8]) -> io::Result<u64> {
        if !behind.log.as_ref().is_some_and(|log| log.has_room(bytes.len())) {
            self.settle_behind(behind)?;
        }
        let Some(log) = &mut behind.log else {
            return Err(io::ErrorKind::NotFound.into());
        };
        log.append(bytes).inspect_err(|_| {
            // It is refused, and must not come back from what may have been written of it.
            if let Err(error) = self.settle_behind(behind) {
                crate::log::note!("a change that is refused may be there after the next start: {error}");
            }
        })
    }

    fn carry_out_or_take_back(
        &self,
        behind: &mut Behind,
        number: u64,
        change: &Change<'_>,
    ) -> io::Result<()> {
        behind.names.extend(change.names().into_iter().map(String::from));
        self.carry_out(change).inspect_err(|_| {
            let void = serde_json::to_vec(&Change::Void { number }).unwrap_or_default();
            let taken_back = match &mut behind.log {
                Some(log) => log.append(&void).map(drop),
                None => Ok(()),
            };
            if let Err(error) = taken_back.or_else(|_| self.settle_behind(behind)) {
                crate::log::note!(
                    "change {number}, which is refused, may be there after the next start: {error}"
                );
            }
        })
    }

    /// Does with the files what is in the log already: all of it, or nothing and an error.
    fn carry_out(&self, change: &Change<'_>) -> io::Result<()> {
        let definitions = &self.definitions;
        match change {
            Change::Save { name, .. } => put_in_place(&definitions.file(name)),
            Change::Remove { name } => {
                remove_if_there(&definitions.file(name))?;
                // A link without its definition goes when definitions are read.
                note_if_it_stays(remove_if_there(&definitions.link(name)), name);
                Ok(())
            }
            Change::Rename {
                old, new, autostart, ..
            } => {
                put_in_place(&definitions.file(new))?;
                let link = || match autostart {
                    true => link_if_not_there(&definitions.file(new), &definitions.link(new)),
                    false => Ok(()),
                };
                link()
                    .and_then(|()| remove_if_there(&definitions.file(old)))
                    .inspect_err(|_| {
                        note_if_it_stays(remove_if_there(&definitions.file(new)), new);
                        note_if_it_stays(remove_if_there(&definitions.link(new)), new);
                    })?;
                note_if_it_stays(remove_if_there(&definitions.link(old)), old);
                Ok(())
            }
            Change::Autostart { name, on } => self.link(name, *on),
            Change::Void { .. } => Ok(()),
        }
    }

    fn link(&self, name: &str, on: bool) -> io::Result<()> {
        let link = self.definitions.link(name);
        match on {
            true => link_if_not_there(&self.definitions.file(name), &link),
            false => remove_if_there(&link),
        }
    }

    /// Makes of the files what the log says; those that are so already are left alone.
    fn replay(&self, outcomes: &BTreeMap<String, Outcome>) -> io::Result<()> {
        for (name, outcome) in outcomes {
            let file = self.definitions.file(name);
            match &outcome.text {
                Some(Some(xml)) if fs::read(&file).ok().as_deref() != Some(xml.as_bytes()) => {
                    crate::log::note!("\"{}\" is made what was defined last", file.display());
                    write_beside(&file, xml.as_bytes())?;
                    put_in_place(&file)?;
                }
                Some(None) => remove_if_there(&file)?,
                _ => {}
            }
            if let Some(on) = outcome.autostart {
                self.link(name, on)?;
            }
        }
        Ok(())
    }

    fn settle_behind(&self, behind: &mut Behind) -> io::Result<()> {
        if behind.log.as_ref().is_none_or(Log::is_empty) && behind.names.is_empty() {
            return Ok(());
        }
        self.sync_files(&behind.names)?;
        if let Some(log) = &mut behind.log {
            log.begin_generation()?;
        }
        behind.names.clear();
        Ok(())
    }

    /// Has what belongs to these names last.
    fn sync_files(&self, names: &BTreeSet<String>) -> io::Result<()> {
        let paths: Vec<_> = names.iter().map(|name| self.definitions.file(name)).collect();
        // All of them are on their way to the disk before the first is waited for.
        for path in &paths {
            if let Ok(file) = File::open(path) {
                begin_writing(&file);
            }
        }
        let synced = paths.iter().zip(steps::sync_files(&paths));
        // Each of them is looked at, whatever becomes of others.
        let synced: Vec<_> = synced
            .map(|(path, synced)| synced.inspect_err(|_| write_again(path)))
            .collect();
        synced.into_iter().collect::<io::Result<()>>()?;
        sync_folder(&self.definitions.folder)?;
        sync_folder(&self.definitions.autostart)
    }
}

/// The kernel tells once that contents could not be written, and takes them for written from then on.
fn write_again(path: &Path) {
    let written = fs::read(path).and_then(|text| write_beside(path, &text).and_then(|_| put_in_place(path)));
    if let Err(error) = written {
        crate::log::note!("\"{}\" may not last: {error}", path.display());
    }
}

/// The name and the text of a definition that a change brings.
fn text_of<'a>(change: &'a Change<'_>) -> Option<(&'a str, &'a Cow<'a, str>)> {
    match change {
        Change::Save { name, xml } | Change::Rename { new: name, xml, .. } => Some((name, xml)),
        _ => None,
    }
}

fn note_if_it_stays(removed: io::Result<()>, name: &str) {
    if let Err(error) = removed {
        crate::log::note!("something of \"{name}\" is left: {error}");
    }
}

#[cfg(test)]
mod tests;
