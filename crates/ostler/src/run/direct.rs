//! Starting the system on a disk without firmware: its kernel is found and read here, as its boot loader would do it.

use std::fs::File;
use std::io::{self, Seek};
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
    let (mut kernel, mut initrd) = (in_memory("kernel")?, in_memory("initrd")?);
    let system = ostler_bootdisk::find(disk, memory, &mut kernel, &mut initrd)
        .map_err(|error| refusal(path, &error))?;
    let System {
        title,
        initrd_len,
        command_line,
    } = system;
    tracing::info!("\"{title}\" is started from \"{}\"", path.display());
    let words = [command_line.as_str(), append.trim()];
    let words = words.into_iter().filter(|words| !words.is_empty());
    Ok(KernelSpec {
        kernel: descriptors.push(rewound(kernel)?),
        initrd: match initrd_len {
            0 => None,
            _ => Some(descriptors.push(rewound(initrd)?)),
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

fn in_memory(name: &str) -> Result<File, Failure> {
    let memory = rustix::fs::memfd_create(name, MemfdFlags::CLOEXEC);
    memory.map(File::from).map_err(|error| no_memory(error.into()))
}

fn rewound(mut file: File) -> Result<File, Failure> {
    file.rewind().map_err(no_memory)?;
    Ok(file)
}

fn no_memory(error: io::Error) -> Failure {
    Failure::failed(format!("cannot keep the system of a disk in memory: {error}"))
}
