//! The host's files, below a root that tests choose.

use std::fs;
use std::io::Read;
use std::path::PathBuf;

/// Where the doctor looks.
pub struct Host {
    root: PathBuf,
}

impl Host {
    /// This machine.
    pub fn this() -> Self {
        Self { root: "/".into() }
    }

    /// A machine whose files are in `root`.
    #[cfg(test)]
    pub fn in_folder(root: &std::path::Path) -> Self {
        Self { root: root.into() }
    }

    /// Where an absolute path is.
    pub fn path(&self, path: &str) -> PathBuf {
        self.root.join(path.trim_start_matches('/'))
    }

    /// Text of a small file; `None` if it cannot be read.
    pub fn text(&self, path: &str) -> Option<String> {
        let mut text = String::new();
        fs::File::open(self.path(path))
            .ok()?
            .take(4 << 20)
            .read_to_string(&mut text)
            .ok()?;
        Some(text)
    }

    /// A file that holds one number.
    pub fn number(&self, path: &str) -> Option<i64> {
        self.text(path)?.trim().parse().ok()
    }

    /// True if there is such a file or folder.
    pub fn has(&self, path: &str) -> bool {
        self.path(path).exists()
    }

    /// True if `module` is loaded, or built in and visible.
    pub fn has_module(&self, module: &str) -> bool {
        self.has(&format!("/sys/module/{module}"))
    }

    /// True if the running kernel could load `module`, or has it built in.
    pub fn could_have_module(&self, module: &str) -> bool {
        let release = self.text("/proc/sys/kernel/osrelease").unwrap_or_default();
        let file = format!("/{}.ko", module.replace('-', "_"));
        ["modules.dep", "modules.builtin"].iter().any(|list| {
            let path = format!("/lib/modules/{}/{list}", release.trim());
            self.text(&path)
                .is_some_and(|text| text.replace('-', "_").contains(&file))
        })
    }
}
