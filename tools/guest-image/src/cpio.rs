//! The "newc" cpio format, as the kernel unpacks it (Documentation/driver-api/early-userspace/buffer-format.rst).

/// Where a newc archive ends.
const TRAILER: &str = "TRAILER!!!";

/// A newc archive under construction. Everything in it belongs to root and dates from the epoch, so that the same
/// contents give the same bytes.
#[derive(Debug, Default)]
pub struct Archive {
    bytes: Vec<u8>,
    entries: u32,
    directories: std::collections::BTreeSet<String>,
}

impl Archive {
    /// An empty archive.
    pub fn new() -> Self {
        Self::default()
    }

    /// Adds a directory, and its parents.
    pub fn directory(&mut self, path: &str) {
        let path = path.trim_matches('/');
        if path.is_empty() || self.directories.contains(path) {
            return;
        }
        self.parents_of(path);
        self.directories.insert(path.to_owned());
        self.entry(path, 0o040_755, (0, 0), &[]);
    }

    /// Adds a file with permission bits `mode`, and the directories above it.
    pub fn file(&mut self, path: &str, mode: u32, contents: &[u8]) {
        let path = path.trim_matches('/');
        self.parents_of(path);
        self.entry(path, 0o100_000 | mode & 0o7777, (0, 0), contents);
    }

    /// Adds a symbolic link at `path` to `target`.
    pub fn link(&mut self, path: &str, target: &str) {
        let path = path.trim_matches('/');
        self.parents_of(path);
        self.entry(path, 0o120_777, (0, 0), target.as_bytes());
    }

    /// Adds a character device.
    pub fn character_device(&mut self, path: &str, mode: u32, major: u32, minor: u32) {
        let path = path.trim_matches('/');
        self.parents_of(path);
        self.entry(path, 0o020_000 | mode & 0o7777, (major, minor), &[]);
    }

    /// The finished archive, padded to 512 bytes.
    pub fn finish(mut self) -> Vec<u8> {
        self.entry(TRAILER, 0, (0, 0), &[]);
        self.pad_to(512);
        self.bytes
    }

    fn parents_of(&mut self, path: &str) {
        if let Some((parent, _)) = path.rsplit_once('/') {
            self.directory(parent);
        }
    }

    fn entry(&mut self, path: &str, mode: u32, device: (u32, u32), contents: &[u8]) {
        self.entries += 1;
        let links = if mode & 0o170_000 == 0o040_000 { 2 } else { 1 };
        let fields = [
            self.entries,
            mode,
            0,
            0,
            links,
            0,
            contents.len() as u32,
            0,
            0,
            device.0,
            device.1,
            path.len() as u32 + 1,
            0,
        ];
        self.bytes.extend_from_slice(b"070701");
        for field in fields {
            self.bytes.extend_from_slice(format!("{field:08x}").as_bytes());
        }
        self.bytes.extend_from_slice(path.as_bytes());
        self.bytes.push(0);
        self.pad_to(4);
        self.bytes.extend_from_slice(contents);
        self.pad_to(4);
    }

    fn pad_to(&mut self, unit: usize) {
        self.bytes.resize(self.bytes.len().next_multiple_of(unit), 0);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::Write;
    use std::process::{Command, Stdio};

    #[test]
    fn parents_come_before_their_files_and_once() {
        let mut archive = Archive::new();
        archive.file("a/b/c", 0o644, b"one");
        archive.file("/a/b/d", 0o600, b"");
        let bytes = archive.finish();
        let text = String::from_utf8_lossy(&bytes);
        assert!(text.find("a\0").unwrap() < text.find("a/b\0").unwrap());
        assert!(text.find("a/b\0").unwrap() < text.find("a/b/c\0").unwrap());
        assert_eq!(text.matches("a/b\0").count(), 1);
        assert_eq!(bytes.len() % 512, 0);
    }

    #[test]
    fn the_foreign_cpio_reads_it() {
        let mut archive = Archive::new();
        archive.file("etc/motd", 0o640, b"hello\n");
        archive.link("sbin/init", "../bin/busybox");
        let listing = Command::new("cpio")
            .args(["-tv", "--quiet"])
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn();
        let Ok(mut cpio) = listing else {
            eprintln!("SKIPPED the_foreign_cpio_reads_it: no cpio on this machine");
            return;
        };
        cpio.stdin.take().unwrap().write_all(&archive.finish()).unwrap();
        let output = cpio.wait_with_output().unwrap();
        assert!(output.status.success());
        let listing = String::from_utf8(output.stdout).unwrap();
        assert!(
            listing.contains("-rw-r-----") && listing.contains("etc/motd"),
            "{listing}"
        );
        assert!(listing.contains("sbin/init -> ../bin/busybox"), "{listing}");
    }
}
