//! A Linux host with working KVM where there is none: QEMU emulates an AMD processor with SVM and nested paging, and Debian's
//! kernel with its own KVM modules runs on that. Slow, but the guests of that host run as on hardware.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use crate::Error;
use crate::image::{overlay, standard};

/// What the host loads besides the standard modules.
const HOST_MODULES: &[&str] = &["kvm_amd", "vhost_net", "tun"];
const QEMU: &str = "qemu-system-x86_64";
/// The emulated processors share this machine's TSC, but have no flag that says so: Linux would distrust it, and its KVM then
/// make each guest's TSC jump to keep up.
const COMMAND_LINE: &str = "console=ttyS0 panic=-1 quiet tsc=reliable";

/// A host to be.
#[derive(Debug)]
pub struct SoftwareHost {
    root: PathBuf,
    files: Vec<(String, Vec<u8>)>,
    modules: Vec<String>,
    cpus: u32,
    memory_mib: u32,
    silence: Option<Duration>,
}

impl SoftwareHost {
    /// A host from the Debian packages unpacked at `root`, with two CPUs and 3 GiB.
    pub fn new(root: &Path) -> Self {
        Self {
            root: root.to_owned(),
            files: Vec::new(),
            modules: HOST_MODULES.iter().map(|&name| name.to_owned()).collect(),
            cpus: 2,
            memory_mib: 3072,
            silence: None,
        }
    }

    /// The same with `cpus` CPUs. With more than one, the emulator can execute for ever what the host's kernel patched into its own
    /// code for a moment (docs/tests.md).
    pub fn cpus(mut self, cpus: u32) -> Self {
        self.cpus = cpus;
        self
    }

    /// The same, which hangs if its console shows nothing new for so long.
    pub fn silent_for_at_most(mut self, silence: Duration) -> Self {
        self.silence = Some(silence);
        self
    }

    /// Loads further modules, with what they need.
    pub fn modules(mut self, names: &[&str]) -> Self {
        self.modules.extend(names.iter().map(|&name| name.to_owned()));
        self
    }

    /// True if this machine has the emulator.
    pub fn is_possible() -> bool {
        let found = Command::new(QEMU)
            .arg("--version")
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .status();
        found.is_ok_and(|status| status.success())
    }

    /// Puts `contents` into the host at `path`.
    pub fn contents(mut self, path: &str, contents: Vec<u8>) -> Self {
        self.files.push((path.to_owned(), contents));
        self
    }

    /// Copies the file `from` into the host at `path`.
    pub fn file(self, path: &str, from: &Path) -> Result<Self, Error> {
        let contents = fs::read(from).map_err(|source| Error::Read {
            path: from.to_owned(),
            source,
        })?;
        Ok(self.contents(path, contents))
    }

    /// Copies the program `from` into the host at `path`, and the shared libraries that it needs to where they are here.
    pub fn program(mut self, path: &str, from: &Path) -> Result<Self, Error> {
        for library in shared_libraries(from)? {
            let place = library.to_string_lossy().into_owned();
            if !self.files.iter().any(|(known, _)| *known == place) {
                self = self.file(&place, &library)?;
            }
        }
        self.file(path, from)
    }

    /// Boots the host, runs `script` in it, powers it off, and returns what its console showed.
    pub fn run(self, script: &str, limit: Duration) -> Result<String, Error> {
        let folder = tempfile::tempdir().map_err(Error::Host)?;
        let console = folder.path().join("console");
        let image = folder.path().join("initrd.img");
        let files: Vec<_> = self
            .files
            .iter()
            .map(|(path, contents)| (path.as_str(), contents.as_slice()))
            .collect();
        let modules: Vec<_> = self.modules.iter().map(String::as_str).collect();
        let mut archive = standard(&self.root, &modules)?;
        archive.extend(overlay(script, &files));
        fs::write(&image, archive).map_err(Error::Host)?;
        let mut qemu = self.start(&image, &console)?;
        let ended = self.wait(&mut qemu, &console, limit);
        let text = fs::read(&console).unwrap_or_default();
        let text = String::from_utf8_lossy(&text).replace('\r', "");
        match ended {
            Ok(true) => Ok(text),
            Ok(false) => Err(Error::HostTooSlow { limit, console: text }),
            Err(error) => Err(Error::Host(error)),
        }
    }

    /// True if `qemu` ended by itself within `limit`, and without a longer silence than it may have; it is stopped otherwise.
    fn wait(&self, qemu: &mut Child, console: &Path, limit: Duration) -> io::Result<bool> {
        let started = Instant::now();
        let (mut shown, mut heard) = (0, started);
        while started.elapsed() < limit {
            if qemu.try_wait()?.is_some() {
                return Ok(true);
            }
            let len = fs::metadata(console).map_or(0, |file| file.len());
            if len > shown {
                (shown, heard) = (len, Instant::now());
            } else if self.silence.is_some_and(|silence| heard.elapsed() > silence) {
                break;
            }
            std::thread::sleep(Duration::from_millis(100));
        }
        qemu.kill()?;
        qemu.wait()?;
        Ok(false)
    }

    fn start(&self, image: &Path, console: &Path) -> Result<Child, Error> {
        let mut command = Command::new(QEMU);
        command.args([
            "-accel",
            "tcg,thread=multi",
            "-cpu",
            "max",
            "-M",
            "q35",
            "-nodefaults",
            "-display",
            "none",
        ]);
        command.args(["-no-reboot", "-append", COMMAND_LINE]);
        command.args(["-smp", &self.cpus.to_string(), "-m", &self.memory_mib.to_string()]);
        command
            .arg("-kernel")
            .arg(kernel(&self.root)?)
            .arg("-initrd")
            .arg(image);
        command.arg("-serial").arg(format!("file:{}", console.display()));
        command.stdin(Stdio::null()).spawn().map_err(Error::Host)
    }
}

/// The one kernel image below `root/boot`.
fn kernel(root: &Path) -> Result<PathBuf, Error> {
    let path = root.join("boot");
    let entries = fs::read_dir(&path).map_err(|source| Error::Read {
        path: path.clone(),
        source,
    })?;
    let is_kernel = |path: &PathBuf| {
        path.file_name()
            .is_some_and(|name| name.to_string_lossy().starts_with("vmlinuz-"))
    };
    let kernels: Vec<_> = entries
        .flatten()
        .map(|entry| entry.path())
        .filter(is_kernel)
        .collect();
    match <[PathBuf; 1]>::try_from(kernels) {
        Ok([kernel]) => Ok(kernel),
        Err(kernels) => Err(Error::KernelVersions {
            path,
            count: kernels.len(),
        }),
    }
}

/// The libraries that the dynamic loader would map for `program`, itself included.
pub fn shared_libraries(program: &Path) -> Result<Vec<PathBuf>, Error> {
    shared_libraries_in(program, &[])
}

/// The same for a program whose libraries are looked for in `folders` first.
pub fn shared_libraries_in(program: &Path, folders: &[PathBuf]) -> Result<Vec<PathBuf>, Error> {
    let mut command = Command::new("ldd");
    if !folders.is_empty() {
        let folders = std::env::join_paths(folders).map_err(io::Error::other);
        command.env("LD_LIBRARY_PATH", folders.map_err(Error::Host)?);
    }
    let output = command.arg(program).output().map_err(Error::Host)?;
    Ok(library_paths(&String::from_utf8_lossy(&output.stdout)))
}

fn library_paths(listing: &str) -> Vec<PathBuf> {
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
    fn the_loader_and_found_libraries_are_listed() {
        let listing = "\tlinux-vdso.so.1 (0x1)\n\tlibc.so.6 => /lib/libc.so.6 (0x2)\n\t/lib64/ld-linux-x86-64.so.2 (0x3)\n\
                       \tlibgone.so => not found\n";
        assert_eq!(
            library_paths(listing),
            [
                Path::new("/lib/libc.so.6"),
                Path::new("/lib64/ld-linux-x86-64.so.2")
            ]
        );
        assert!(library_paths("\tstatically linked\n").is_empty());
    }
}
