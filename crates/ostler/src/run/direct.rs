//! Starting the system on a disk without firmware: its kernel is found and read here, as its boot loader would do it.

use std::fs::File;
use std::io::{Seek, Write};
use std::path::Path;

use ostler_bootdisk::{Error, System};
use ostler_vmm::handoff::Descriptors;
use ostler_vmm::spec::KernelSpec;
use rustix::fs::MemfdFlags;

use crate::failure::Failure;

/// Finds the system on `disk`, the image at `path`. `append` comes after its own command line; guests have `memory` bytes.
///
/// The kernel is a copy: a guest that reboots starts with the one that was found at its first start.
pub fn open(
    path: &Path,
    disk: File,
    append: &str,
    memory: u64,
    descriptors: &mut Descriptors,
) -> Result<KernelSpec, Failure> {
    let system = ostler_bootdisk::find(disk, memory).map_err(|error| refusal(path, &error))?;
    let System {
        title,
        kernel,
        initrd,
        command_line,
    } = system;
    tracing::info!("\"{title}\" is started from \"{}\"", path.display());
    let words = [command_line.as_str(), append.trim()];
    let words = words.into_iter().filter(|words| !words.is_empty());
    Ok(KernelSpec {
        kernel: descriptors.push(in_memory("kernel", &kernel)?),
        initrd: match initrd.is_empty() {
            true => None,
            false => Some(descriptors.push(in_memory("initrd", &initrd)?)),
        },
        command_line: words.collect::<Vec<_>>().join(" "),
    })
}

fn refusal(path: &Path, error: &Error) -> Failure {
    let advice = match error {
        Error::TooLarge { .. } => "raise --memory, or name a --kernel and an --initrd",
        _ => "start it with --firmware bios or --firmware uefi, or name a --kernel",
    };
    Failure::bad_input(format!("the disk \"{}\" {error}; {advice}", path.display()))
}

fn in_memory(name: &str, bytes: &[u8]) -> Result<File, Failure> {
    let failed = |error: std::io::Error| {
        Failure::failed(format!("cannot keep the {name} of a disk in memory: {error}"))
    };
    let memory = rustix::fs::memfd_create(name, MemfdFlags::CLOEXEC).map_err(|error| failed(error.into()))?;
    let mut file = File::from(memory);
    file.write_all(bytes).map_err(failed)?;
    file.rewind().map_err(failed)?;
    Ok(file)
}
