//! Definitions in files: one readable XML file each, and a link to those that start with the host.

pub mod entry;
mod log;
mod logged;

pub use logged::Logged;

use std::fmt::Display;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use crate::Error;
use crate::files::{
    UNFINISHED, link_if_not_there, make_private_folder, names_in, remove_if_there, sync_folder, write_durably,
};

/// How the name of a file ends that has what a definition is to be called and to say from now on. Before it is the old name.
const RENAMED: &str = ".xml.renamed";

/// A folder of definitions: `NAME.xml`, and `autostart/NAME.xml` for those that start with the host.
pub struct Definitions {
    folder: PathBuf,
    autostart: PathBuf,
}

impl Definitions {
    /// Uses `folder`, which is made if it is not there.
    pub fn open(folder: &Path) -> Result<Self, Error> {
        let autostart = folder.join("autostart");
        make_private_folder(folder)?;
        make_private_folder(&autostart)?;
        // A daemon may have been killed before it got to this, and others are told what we read.
        for folder in [folder, &autostart] {
            sync_folder(folder).map_err(Error::file("write", folder))?;
        }
        Ok(Self {
            folder: folder.into(),
            autostart,
        })
    }

    /// Every definition as `read` makes it of its text, and whether it starts with the host. `name` is what its file has to be
    /// called. A file that cannot be read is left alone, and noted. What a daemon that was killed had begun is finished, or undone.
    pub fn load<T, E: Display>(
        &self,
        read: impl Fn(&str) -> Result<T, E>,
        name: impl Fn(&T) -> String,
    ) -> Result<Vec<(T, bool)>, Error> {
        let list_failed = || Error::file("list", &self.folder);
        for file in names_in(&self.folder).map_err(list_failed())? {
            if file.ends_with(UNFINISHED) {
                // Nobody was told that this is there.
                let _ = remove_if_there(&self.folder.join(&file));
            } else if let Some(old) = file.strip_suffix(RENAMED) {
                self.finish_rename(old, &read, &name);
            }
        }
        let mut found = Vec::new();
        for file in names_in(&self.folder).map_err(list_failed())? {
            let Some(file) = file.strip_suffix(".xml") else {
                continue;
            };
            let path = self.file(file);
            let text = match fs::read_to_string(&path) {
                Ok(text) => text,
                Err(error) => {
                    crate::log::note!("cannot read \"{}\": {error}", path.display());
                    continue;
                }
            };
            match read(&text) {
                Ok(definition) if name(&definition) == file => {
                    found.push((definition, is_there(&self.link(file))));
                }
                Ok(other) => {
                    crate::log::note!("\"{}\" defines \"{}\"; rename it", path.display(), name(&other))
                }
                Err(error) => crate::log::note!("\"{}\" is no definition: {error}", path.display()),
            }
        }
        if let Err(error) = self.remove_loose_links() {
            crate::log::note!("cannot tidy \"{}\": {error}", self.autostart.display());
        }
        Ok(found)
    }

    /// Keeps a definition, in place of the one of that name.
    pub fn save(&self, name: &str, xml: &str) -> io::Result<()> {
        write_durably(&self.file(name), xml.as_bytes())
    }

    /// Forgets a definition.
    pub fn remove(&self, name: &str) -> io::Result<()> {
        // The link last: should we be killed in between, it leads nowhere, and goes when definitions are read.
        remove_if_there(&self.file(name))?;
        sync_folder(&self.folder)?;
        self.set_autostart(name, false)
    }

    /// Keeps a definition under another name and forgets it under the old one: both or neither, whenever we are killed.
    pub fn rename(&self, old: &str, new: &str, xml: &str) -> io::Result<()> {
        // From here on it is renamed: who finds this file does the rest.
        write_durably(&self.renamed(old), xml.as_bytes())?;
        match self.carry_out_rename(old, new, xml) {
            Err(error) if is_there(&self.file(old)) => {
                let undone = self.remove(new).and_then(|()| self.forget_rename(old));
                if let Err(error) = undone {
                    crate::log::note!("\"{old}\" may be called \"{new}\" after the next start: {error}");
                }
                Err(error)
            }
            Err(error) => {
                crate::log::note!("\"{old}\" is called \"{new}\" now, and something of it is left: {error}");
                Ok(())
            }
            Ok(()) => Ok(()),
        }
    }

    fn carry_out_rename(&self, old: &str, new: &str, xml: &str) -> io::Result<()> {
        self.save(new, xml)?;
        if is_there(&self.link(old)) {
            self.set_autostart(new, true)?;
        }
        self.remove(old)?;
        self.forget_rename(old)
    }

    fn forget_rename(&self, old: &str) -> io::Result<()> {
        remove_if_there(&self.renamed(old))?;
        sync_folder(&self.folder)
    }

    /// Does what a daemon that was killed left to do.
    fn finish_rename<T, E: Display>(
        &self,
        old: &str,
        read: impl Fn(&str) -> Result<T, E>,
        name: impl Fn(&T) -> String,
    ) {
        let path = self.renamed(old);
        let failed = |why: &dyn Display| {
            crate::log::note!("\"{}\" cannot be carried out: {why}", path.display());
        };
        let text = match fs::read_to_string(&path) {
            Ok(text) => text,
            Err(error) => return failed(&error),
        };
        match read(&text).map(|definition| name(&definition)) {
            Ok(new) => {
                if let Err(error) = self.carry_out_rename(old, &new, &text) {
                    failed(&error);
                }
            }
            Err(error) => failed(&error),
        }
    }

    /// Has what is defined start with the host, or not.
    pub fn set_autostart(&self, name: &str, autostart: bool) -> io::Result<()> {
        match autostart {
            true => link_if_not_there(&self.file(name), &self.link(name))?,
            false => remove_if_there(&self.link(name))?,
        }
        sync_folder(&self.autostart)
    }

    /// Removes links to definitions that are not there: who defines one of that name anew did not ask for it.
    fn remove_loose_links(&self) -> io::Result<()> {
        for file in names_in(&self.autostart)? {
            let link = self.autostart.join(&file);
            if link.is_symlink() && !is_there(&self.folder.join(&file)) {
                remove_if_there(&link)?;
            }
        }
        sync_folder(&self.autostart)
    }

    fn file(&self, name: &str) -> PathBuf {
        self.folder.join(format!("{name}.xml"))
    }

    fn renamed(&self, old: &str) -> PathBuf {
        self.folder.join(format!("{old}{RENAMED}"))
    }

    fn link(&self, name: &str) -> PathBuf {
        self.autostart.join(format!("{name}.xml"))
    }
}

/// Whether there is anything, a link that leads nowhere included.
fn is_there(path: &Path) -> bool {
    fs::symlink_metadata(path).is_ok()
}
