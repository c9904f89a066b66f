//! Programs of Debian's that some tests start, with what the guest needs to run them: their shared libraries, and the
//! compiler behind gcc. They are the host's own, so that the same bytes run natively and in guests.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

/// Where the tests look for them.
const PROGRAMS: [&str; 2] = ["/usr/bin/sqlite3", "/usr/bin/gcc"];

/// Files for the guest by path. What this machine lacks is left out, and its tests then say so.
pub(crate) fn files() -> BTreeMap<String, Vec<u8>> {
    let mut paths: Vec<PathBuf> = PROGRAMS.map(PathBuf::from).into();
    paths.extend(compiler());
    let mut files = BTreeMap::new();
    for program in paths {
        let Ok(contents) = fs::read(&program) else {
            continue;
        };
        for library in libraries(&program) {
            if let Ok(contents) = fs::read(&library) {
                files.insert(library.to_string_lossy().into_owned(), contents);
            }
        }
        files.insert(program.to_string_lossy().into_owned(), contents);
    }
    files
}

/// The program that does the work behind gcc.
fn compiler() -> Option<PathBuf> {
    let said = Command::new(PROGRAMS[1])
        .arg("-print-prog-name=cc1")
        .output()
        .ok()?;
    let path = PathBuf::from(String::from_utf8(said.stdout).ok()?.trim());
    path.is_absolute().then_some(path)
}

/// What the dynamic loader would map for `program`, itself included.
fn libraries(program: &Path) -> Vec<PathBuf> {
    let Ok(said) = Command::new("ldd").arg(program).output() else {
        return Vec::new();
    };
    parse_ldd(&String::from_utf8_lossy(&said.stdout))
}

fn parse_ldd(listing: &str) -> Vec<PathBuf> {
    let path = |line: &str| {
        let target = line.rsplit("=> ").next()?.split_whitespace().next()?;
        target.starts_with('/').then(|| PathBuf::from(target))
    };
    listing.lines().filter_map(path).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn libraries_and_loader_are_found() {
        let listing = "\tlinux-vdso.so.1 (0x1)\n\tlibz.so.1 => /lib/libz.so.1 (0x2)\n\t/lib64/ld.so (0x3)\n";
        let found = parse_ldd(listing);
        assert_eq!(found, [Path::new("/lib/libz.so.1"), Path::new("/lib64/ld.so")]);
    }
}
