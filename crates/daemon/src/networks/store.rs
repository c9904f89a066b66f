//! The definitions of networks, in files.

use std::io;
use std::path::{Path, PathBuf};

use super::definition::Definition;
use crate::Error;
use crate::definitions::Definitions;
use crate::files::write_durably;

/// The folder of networks' definitions.
pub struct Store {
    definitions: Definitions,
    folder: PathBuf,
}

impl Store {
    /// Uses `folder`, which is made if it is not there.
    pub fn open(folder: &Path) -> Result<Self, Error> {
        Ok(Self {
            definitions: Definitions::open(folder)?,
            folder: folder.into(),
        })
    }

    /// True as long as [`Store::note_first_start`] was never called.
    pub fn is_first_start(&self) -> bool {
        !self.marker().exists()
    }

    /// Notes that the first start is over.
    pub fn note_first_start(&self) -> io::Result<()> {
        write_durably(&self.marker(), b"")
    }

    fn marker(&self) -> PathBuf {
        self.folder.join(".has-default")
    }

    /// Every definition, and whether it starts with the host. A file that cannot be read is left alone, and noted.
    pub fn load(&self) -> Result<Vec<(Definition, bool)>, Error> {
        self.definitions.load(
            |text| Definition::read(text, "virbr0"),
            |definition| definition.network.name.clone(),
        )
    }

    /// Keeps a definition, in place of the one of that name.
    pub fn save(&self, definition: &Definition) -> io::Result<()> {
        let network = &definition.network;
        self.definitions.save(&network.name, &network.xml())
    }

    /// Forgets a definition.
    pub fn remove(&self, name: &str) -> io::Result<()> {
        self.definitions.remove(name)
    }

    /// Has a network start with the host, or not.
    pub fn set_autostart(&self, name: &str, autostart: bool) -> io::Result<()> {
        self.definitions.set_autostart(name, autostart)
    }
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;

    fn definition(name: &str, mtu: u16) -> Definition {
        let xml = format!(
            "<network><name>{name}</name><uuid>0a1b2c3d-4e5f-6071-8293-a4b5c6d7e8f9</uuid>\
             <bridge name='virbr1'/><mac address='52:54:00:00:00:01'/><mtu size='{mtu}'/></network>"
        );
        Definition::read(&xml, "virbr0").unwrap()
    }

    #[test]
    fn definitions_last_and_go() {
        let folder = tempfile::tempdir().unwrap();
        let folder = folder.path().join("networks");
        let store = Store::open(&folder).unwrap();
        assert!(store.is_first_start());
        store.note_first_start().unwrap();
        assert!(!store.is_first_start());
        store.save(&definition("a", 1500)).unwrap();
        store.save(&definition("a", 9000)).unwrap();
        store.set_autostart("a", true).unwrap();
        store.set_autostart("a", true).unwrap();
        fs::write(folder.join("b.xml.new"), "half of a fi").unwrap();
        fs::write(folder.join("c.xml"), "<network/>").unwrap();
        fs::write(folder.join("d.xml"), definition("a", 1500).network.xml()).unwrap();

        let store = Store::open(&folder).unwrap();
        assert_eq!(store.load().unwrap(), [(definition("a", 9000), true)]);
        assert!(!folder.join("b.xml.new").exists());
        assert!(
            folder.join("c.xml").exists(),
            "what cannot be read is somebody's work"
        );
        store.remove("a").unwrap();
        store.remove("a").unwrap();
        assert!(store.load().unwrap().is_empty());
        assert!(fs::symlink_metadata(folder.join("autostart/a.xml")).is_err());
    }
}
