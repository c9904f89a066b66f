//! Where the program runs, and reading what it says.

use std::fs;
use std::path::PathBuf;
use std::process::Command;

use tempfile::TempDir;

use super::{CpuOptions, foreign, read};
use crate::Common;
use crate::error::Error;
use crate::running::Running;
use crate::side::{Machine, Side};

/// Every guest has them.
const CPUS: u32 = 2;
const MEMORY_MIB: u64 = 1024;
const APPEND: &str = "console=ttyS0 panic=-1 quiet";
/// A tmpfs of any Debian.
const NATIVE_FOLDER: &str = "/dev/shm";
const GUEST_FOLDER: &str = "/tmp/cpu";
/// The last line.
const END: &str = "BENCH end";

/// Where.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Place {
    Native,
    Ours,
    Tcg,
}

impl Place {
    pub(crate) const ALL: [Place; 3] = [Place::Native, Place::Ours, Place::Tcg];

    pub(crate) fn name(self) -> &'static str {
        match self {
            Place::Native => "native",
            Place::Ours => "ostler",
            Place::Tcg => "qemu",
        }
    }
}

/// What the guests boot.
pub(crate) struct Files {
    kernel: PathBuf,
    initrd: PathBuf,
    _folder: TempDir,
}

impl Files {
    pub(crate) fn prepare(common: &Common, options: &CpuOptions) -> Result<Self, Error> {
        let folder = tempfile::tempdir().map_err(|e| Error::Host("making a temporary folder", e))?;
        let kernel = common.guest.join("vmlinuz");
        read(&kernel)?;
        let base = read(&common.guest.join("initrd.img"))?;
        let program = read(&common.guest_bench)?;
        let foreign = foreign::files();
        let mut files: Vec<(&str, &[u8])> = vec![("bench", &program)];
        files.extend(
            foreign
                .iter()
                .map(|(path, contents)| (path.as_str(), &contents[..])),
        );
        let script = format!(
            "#!/bin/sh\nmkdir -p {GUEST_FOLDER}; mount -t tmpfs none {GUEST_FOLDER}\n/bench {}\necho '{END}'\n",
            arguments(GUEST_FOLDER, "/bin/busybox", options).join(" ")
        );
        let overlay = ostler_guest_image::overlay(&script, &files);
        let initrd = folder.path().join("initrd.img");
        fs::write(&initrd, [base, overlay].concat()).map_err(|e| Error::Write(initrd.clone(), e))?;
        Ok(Self {
            kernel,
            initrd,
            _folder: folder,
        })
    }
}

/// Words for the guests' program.
fn arguments(folder: &str, busybox: &str, options: &CpuOptions) -> Vec<String> {
    let (window, windows) = (options.window.to_string(), options.windows.to_string());
    let fixed = ["cpu", folder, busybox, &window, &windows].map(str::to_owned);
    fixed.into_iter().chain(options.only.iter().cloned()).collect()
}

/// Runs the list once and returns the lines of its tests.
pub(crate) fn run(
    place: Place,
    common: &Common,
    options: &CpuOptions,
    files: &Files,
) -> Result<Vec<String>, Error> {
    let side = match place {
        Place::Native => return natively(common, options),
        Place::Ours => Side::Ours,
        Place::Tcg => Side::Peer,
    };
    let machine = Machine {
        initrd: Some(&files.initrd),
        append: APPEND,
        cpus: CPUS,
        memory_mib: MEMORY_MIB,
        ..Machine::bare(&files.kernel)
    };
    let mut guest = Running::start(side, &mut side.command(common, &machine))?;
    let lines = guest.lines_until(END)?;
    Ok(lines.into_iter().filter(|line| line.starts_with("CPU")).collect())
}

fn natively(common: &Common, options: &CpuOptions) -> Result<Vec<String>, Error> {
    let busybox = common.guest.join("root/bin/busybox");
    read(&busybox)?;
    let output = Command::new(&common.guest_bench)
        .args(arguments(NATIVE_FOLDER, &busybox.display().to_string(), options))
        .output()
        .map_err(|e| Error::Start(common.guest_bench.display().to_string(), e))?;
    if !output.status.success() {
        return Err(Error::Nonsense {
            side: Place::Native.name(),
            line: String::from_utf8_lossy(&output.stderr).trim().to_owned(),
        });
    }
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    Ok(text.lines().map(str::to_owned).collect())
}
