//! Opening the files that are memory of the guest.

use std::path::PathBuf;

use ostler_vmm::handoff::Descriptors;
use ostler_vmm::spec::PmemSpec;

use super::options::PmemOption;
use crate::failure::Failure;

/// Opens and locks what `options` name. A file that is not there is made where a size is given, and `made` has its name then.
pub fn open(
    options: &[PmemOption],
    descriptors: &mut Descriptors,
    made: &mut Vec<PathBuf>,
) -> Result<Vec<PmemSpec>, Failure> {
    let mut specs = Vec::new();
    for PmemOption { path, size, readonly } in options {
        let opened = ostler_launch::pmem::open(path, *size, *readonly)?;
        if opened.made {
            made.push(path.clone());
        }
        specs.push(PmemSpec {
            file: descriptors.push(opened.file),
            size: opened.size,
            readonly: *readonly,
        });
    }
    Ok(specs)
}
