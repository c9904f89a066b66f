//! The definitions of guests, in files.

use std::io;
use std::path::{Path, PathBuf};

use ostler_libvirt::types::Uuid;

use super::definition::Definition;
use crate::definitions::Logged;
use crate::files::make_private_folder;
use crate::{Error, uuid};

/// The folder of guests' definitions, with `nvram/UUID.fd` for what their firmware keeps.
pub struct Store {
    definitions: Logged,
    variables: PathBuf,
}

fn name(definition: &Definition) -> String {
    definition.name.clone()
}

impl Store {
    /// Uses `folder`, which is made if it is not there.
    pub fn open(folder: &Path) -> Result<Self, Error> {
        let definitions = Logged::open(folder, Definition::read, name)?;
        let variables = folder.join("nvram");
        make_private_folder(&variables)?;
        Ok(Self {
            definitions,
            variables,
        })
    }

    /// Every definition, and whether it starts with the host. A file that cannot be read is left alone, and noted.
    pub fn load(&self) -> Result<Vec<(Definition, bool)>, Error> {
        self.definitions.load(Definition::read, name)
    }

    /// Keeps a definition, in place of the one of that name.
    pub fn save(&self, definition: &Definition) -> io::Result<()> {
        self.definitions.save(&definition.name, &definition.xml)
    }

    /// Keeps a definition that was called `old` until now.
    pub fn rename(&self, old: &str, definition: &Definition) -> io::Result<()> {
        self.definitions.rename(old, &definition.name, &definition.xml)
    }

    /// Forgets a definition.
    pub fn remove(&self, name: &str) -> io::Result<()> {
        self.definitions.remove(name)
    }

    /// Has a guest start with the host, or not.
    pub fn set_autostart(&self, name: &str, autostart: bool) -> io::Result<()> {
        self.definitions.set_autostart(name, autostart)
    }

    /// Has the files last as they are, so that the next start has nothing to do with the log of changes.
    pub fn settle(&self) -> io::Result<()> {
        self.definitions.settle()
    }

    /// The file that keeps the variables of a guest's firmware.
    pub fn variables(&self, uuid: &Uuid) -> PathBuf {
        self.variables.join(format!("{}.fd", uuid::format(uuid)))
    }
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;

    fn definition(name: &str, vcpus: u32) -> Definition {
        let xml = format!(
            "<domain type='qemu'><name>{name}</name><uuid>0a1b2c3d-4e5f-6071-8293-a4b5c6d7e8f9</uuid>\
             <memory>65536</memory><vcpu>{vcpus}</vcpu><os><type>hvm</type><kernel>/k</kernel></os></domain>"
        );
        Definition::read(&xml).unwrap()
    }

    #[test]
    fn definitions_last_and_go() {
        let folder = tempfile::tempdir().unwrap();
        let folder = folder.path().join("definitions");
        let store = Store::open(&folder).unwrap();
        store.save(&definition("a", 1)).unwrap();
        store.save(&definition("a", 2)).unwrap();
        store.set_autostart("a", true).unwrap();
        store.set_autostart("a", true).unwrap();
        fs::write(folder.join("b.xml.new"), "half of a fi").unwrap();
        fs::write(folder.join("c.xml"), "<domain/>").unwrap();
        fs::write(folder.join("d.xml"), &*definition("a", 1).xml).unwrap();

        let store = Store::open(&folder).unwrap();
        assert_eq!(store.load().unwrap(), [(definition("a", 2), true)]);
        assert!(!folder.join("b.xml.new").exists());
        assert!(
            folder.join("c.xml").exists(),
            "what cannot be read is somebody's work"
        );

        // A daemon was killed while it gave a guest another name.
        let renamed = definition("e", 3);
        fs::write(folder.join("a.xml.renamed"), &*renamed.xml).unwrap();
        assert_eq!(store.load().unwrap(), [(renamed, true)]);
        assert!(!folder.join("a.xml").exists() && !folder.join("a.xml.renamed").exists());
        store.rename("e", &definition("a", 2)).unwrap();
        assert_eq!(store.load().unwrap(), [(definition("a", 2), true)]);

        store.remove("a").unwrap();
        store.remove("a").unwrap();
        assert!(store.load().unwrap().is_empty());
        assert!(fs::symlink_metadata(folder.join("autostart/a.xml")).is_err());
    }
}
