//! Systems that are looked at by tests.

use crate::volume::Volumes;
use crate::{Choice, Error, Image, System};

/// A system with all that it starts with.
#[derive(Debug)]
#[cfg_attr(
    fuzzing,
    allow(dead_code, reason = "fuzzers look at the size of the initrd alone")
)]
pub struct Whole {
    pub title: String,
    pub kernel: Vec<u8>,
    pub initrd: Vec<u8>,
    pub command_line: String,
}

impl Whole {
    fn new(system: System, kernel: Vec<u8>, initrd: Vec<u8>) -> Self {
        assert_eq!(system.initrd_len, initrd.len() as u64);
        Self {
            title: system.title,
            kernel,
            initrd,
            command_line: system.command_line,
        }
    }
}

pub fn find(image: impl Image + 'static, max_initrd: u64) -> Result<Whole, Error> {
    let (mut kernel, mut initrd) = (Vec::new(), Vec::new());
    let system = crate::find(image, max_initrd, &mut kernel, &mut initrd)?;
    Ok(Whole::new(system, kernel, initrd))
}

pub fn load(volumes: &Volumes, choice: Choice, max_initrd: u64) -> Result<Whole, Error> {
    let (mut kernel, mut initrd) = (Vec::new(), Vec::new());
    let system = crate::load(volumes, choice, max_initrd, (&mut kernel, &mut initrd))?;
    Ok(Whole::new(system, kernel, initrd))
}
