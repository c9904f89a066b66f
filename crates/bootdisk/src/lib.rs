//! Finds the operating system on a disk image: its kernel, initial RAM disk and command line, as the boot loader that is
//! installed there would find them. Nothing is written, and nothing in the image is executed.
//!
//! | file | holds |
//! |---|---|
//! | `source` | the bytes of the image, and how many may be read |
//! | `partitions` | GPT and MBR |
//! | `volume`, `ext4`, `fat`, `iso9660` | file systems |
//! | `grub/` | GRUB's configuration: words, statements, and what comes of them |
//! | `entries` | boot loader entries (UAPI.1) |
//!
//! An image may be hostile. Each reader has bounds of its own, and all of them together may read the image so often and no
//! more ([`source`](crate::Source)).

mod entries;
mod error;
mod ext4;
mod fat;
#[cfg(any(test, fuzzing))]
pub mod fuzzing;
mod grub;
#[cfg(any(test, fuzzing))]
mod in_memory;
mod iso9660;
#[cfg(test)]
mod iso9660_tests;
mod partitions;
mod source;
#[cfg(test)]
mod tests;
mod volume;

use std::io::Write;

pub use error::Error;
pub use source::{Image, Source};

use volume::Volumes;

/// Largest kernel, in bytes.
const MAX_KERNEL: u64 = 256 << 20;
/// Largest configuration file, in bytes.
pub(crate) const MAX_TEXT: u64 = 1 << 20;

/// What an installed system starts with, beside its kernel and its initial RAM disks.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct System {
    /// What its configuration calls it.
    pub title: String,
    /// Bytes of the initial RAM disks, one after the other; 0 if there is none.
    pub initrd_len: u64,
    /// The kernel's command line.
    pub command_line: String,
}

/// What a configuration wants to be started.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub(crate) struct Choice {
    pub title: String,
    pub kernel: Place,
    pub initrds: Vec<Place>,
    pub command_line: String,
}

/// A file: the index of its volume, and the path there.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub(crate) struct Place {
    pub volume: usize,
    pub path: String,
}

/// Finds the system on `image`, and copies its kernel and its initial RAM disks, which may have `max_initrd` bytes together.
///
/// # Errors
/// If there is none, if it is damaged, if it asks for more than the bounds, or if it cannot be copied.
pub fn find(
    image: impl Image + 'static,
    max_initrd: u64,
    kernel: &mut dyn Write,
    initrd: &mut dyn Write,
) -> Result<System, Error> {
    let source = Source::new(image)?;
    let volumes = volume::open_all(&source)?;
    let choice = match grub::find(&volumes)? {
        Some(choice) => choice,
        None => entries::find(&volumes)?.ok_or_else(|| Error::NoSystem(volumes.describe()))?,
    };
    load(&volumes, choice, max_initrd, (kernel, initrd))
}

fn load(
    volumes: &Volumes,
    choice: Choice,
    max_initrd: u64,
    (kernel, initrd): (&mut dyn Write, &mut dyn Write),
) -> Result<System, Error> {
    let copy = |what: &'static str, place: &Place, most: u64, into: &mut dyn Write| {
        let missing = || Error::Missing {
            title: choice.title.clone(),
            what,
            path: place.path.clone(),
        };
        let volume = volumes.get(place.volume).ok_or_else(missing)?;
        volume.copy(&place.path, most, into)?.ok_or_else(missing)
    };
    copy("kernel", &choice.kernel, MAX_KERNEL, kernel)?;
    let mut initrd_len = 0u64;
    for place in &choice.initrds {
        // Each begins at a multiple of four bytes, as the kernel wants it.
        let gap = initrd_len.next_multiple_of(4) - initrd_len;
        initrd.write_all(&[0; 4][..gap as usize]).map_err(Error::Write)?;
        initrd_len += gap;
        let left = max_initrd.saturating_sub(initrd_len);
        initrd_len += copy("initial RAM disk", place, left, initrd)?;
    }
    Ok(System {
        title: choice.title,
        initrd_len,
        command_line: choice.command_line,
    })
}
