//! Kernel modules of an unpacked kernel package, and the order in which they load.
//!
//! The package ships no `modules.dep` (Debian makes it at installation), so the dependencies are read from the modules.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};

use crate::Error;

/// The modules below one `lib/modules/VERSION`.
#[derive(Debug)]
pub struct ModuleTree {
    version: String,
    files: BTreeMap<String, PathBuf>,
}

impl ModuleTree {
    /// Finds the one kernel version below `root/lib/modules` and its modules.
    pub fn open(root: &Path) -> Result<Self, Error> {
        let base = root.join("lib/modules");
        let found = fs::read_dir(&base).map_err(|source| Error::Read {
            path: base.clone(),
            source,
        })?;
        let versions: Vec<_> = found.flatten().map(|entry| entry.path()).collect();
        let [directory] = &versions[..] else {
            return Err(Error::KernelVersions {
                path: base,
                count: versions.len(),
            });
        };
        let files = walkdir::WalkDir::new(directory)
            .into_iter()
            .flatten()
            .filter(|entry| entry.path().extension().is_some_and(|ext| ext == "ko"))
            .map(|entry| (module_name(entry.path()), entry.into_path()))
            .collect();
        let version = directory
            .file_name()
            .unwrap_or_default()
            .to_string_lossy()
            .into_owned();
        Ok(Self { version, files })
    }

    /// The kernel's version, as `uname -r` says it.
    pub fn version(&self) -> &str {
        &self.version
    }

    /// The files of `wanted` and all that they depend on, each after what it needs.
    pub fn in_load_order(&self, wanted: &[&str]) -> Result<Vec<PathBuf>, Error> {
        let mut order = Vec::new();
        for name in wanted {
            self.visit(name, &mut order, 0)?;
        }
        Ok(order)
    }

    fn visit(&self, name: &str, order: &mut Vec<PathBuf>, depth: usize) -> Result<(), Error> {
        let unknown = || Error::NoModule {
            name: name.to_owned(),
            version: self.version.clone(),
        };
        let path = self.files.get(&name.replace('-', "_")).ok_or_else(unknown)?;
        if order.contains(path) || depth > 32 {
            return Ok(());
        }
        let contents = fs::read(path).map_err(|source| Error::Read {
            path: path.clone(),
            source,
        })?;
        for needed in dependencies(&contents) {
            self.visit(&needed, order, depth + 1)?;
        }
        order.push(path.clone());
        Ok(())
    }
}

fn module_name(path: &Path) -> String {
    path.file_stem()
        .unwrap_or_default()
        .to_string_lossy()
        .replace('-', "_")
}

/// The `depends=` line of a module's `.modinfo` section.
fn dependencies(module: &[u8]) -> Vec<String> {
    const KEY: &[u8] = b"\0depends=";
    let Some(at) = module.windows(KEY.len()).position(|window| window == KEY) else {
        return Vec::new();
    };
    let value = &module[at + KEY.len()..];
    let end = value.iter().position(|&byte| byte == 0).unwrap_or(value.len());
    let names = String::from_utf8_lossy(&value[..end]).into_owned();
    names
        .split(',')
        .filter(|name| !name.is_empty())
        .map(str::to_owned)
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn dependencies_load_first() {
        let root = tempfile::tempdir().unwrap();
        let kernel = root.path().join("lib/modules/6.1.0-1/kernel/drivers");
        fs::create_dir_all(&kernel).unwrap();
        let write = |name: &str, depends: &str| {
            fs::write(
                kernel.join(name),
                format!("\0license=GPL\0depends={depends}\0name=x\0"),
            )
            .unwrap();
        };
        write("virtio-rng.ko", "virtio");
        write("virtio.ko", "virtio_ring");
        write("virtio_ring.ko", "");
        let tree = ModuleTree::open(root.path()).unwrap();
        assert_eq!(tree.version(), "6.1.0-1");
        let order = tree.in_load_order(&["virtio_rng", "virtio"]).unwrap();
        let names: Vec<_> = order.iter().map(|path| module_name(path)).collect();
        assert_eq!(names, ["virtio_ring", "virtio", "virtio_rng"]);
        assert!(matches!(
            tree.in_load_order(&["nonsense"]),
            Err(Error::NoModule { .. })
        ));
    }
}
