//! Flash on the bus: while it shows its contents it is read-only memory of the guest, and only writes come here; else
//! reads come here too.

use std::fs::File;
use std::os::unix::fs::FileExt;
use std::sync::{Arc, Mutex};

use ostler_bus::Device;

use super::pflash::{Change, ERASE_FAILED, PROGRAM_FAILED, Pflash};
use crate::firmware::{MemoryLayout, Rom};
use crate::registers::{fill, lock, number};

/// Bytes of a block.
pub const BLOCK: u64 = 4096;
/// Widest access that the chip takes at a time.
const WIDTH: usize = 4;

/// A chip with its contents. Lock order: the chip's lock, then the layout's.
pub struct Flash {
    chip: Mutex<Pflash>,
    contents: Rom,
    /// Where changes are kept beyond the guest's life.
    file: Option<File>,
    /// Only system management mode may write to it, or see its registers.
    secure: bool,
    layout: Arc<MemoryLayout>,
    /// Which of the layout's ROMs it is.
    index: usize,
}

impl Flash {
    /// A chip with `contents`, which are number `index` in `layout`. Without write protection changes are made in them, and
    /// in `file` if there is one; a `secure` chip takes them from system management mode only.
    pub fn new(
        contents: Rom,
        (read_only, secure): (bool, bool),
        file: Option<File>,
        layout: Arc<MemoryLayout>,
        index: usize,
    ) -> Self {
        Self {
            chip: Mutex::new(Pflash::new(contents.len(), BLOCK, read_only)),
            contents,
            file,
            secure,
            layout,
            index,
        }
    }

    /// The reset pin: contents are shown again, and stay.
    pub fn reset(&self) {
        let mut chip = lock(&self.chip);
        chip.reset();
        self.layout.show(self.index, true);
    }

    fn may_command(&self) -> bool {
        !self.secure || ostler_accel::in_smm()
    }

    fn store(&self, offset: u64, data: &[u8]) -> std::io::Result<()> {
        // An access that runs past the end is cut there.
        let room = self.contents.len().saturating_sub(offset).min(data.len() as u64);
        let data = &data[..room as usize];
        self.contents.write(offset, data);
        self.file
            .as_ref()
            .map_or(Ok(()), |file| file.write_all_at(data, offset))
    }

    /// Makes `change`; tells the chip where it could not be kept.
    fn change(&self, chip: &mut Pflash, change: Change, offset: u64, data: &[u8]) {
        let (kept, failure) = match change {
            Change::None => return,
            Change::Store => (self.store(offset, data), PROGRAM_FAILED),
            Change::Erase(start) => {
                let ones = vec![0xff; chip.block() as usize];
                (self.store(start, &ones), ERASE_FAILED)
            }
        };
        if let Err(error) = kept {
            tracing::warn!(%error, "the file of the firmware's variables cannot be written");
            chip.fail(failure);
        }
    }
}

/// The accesses that reach the chip for one of `len` bytes at `offset`: each is 1, 2 or 4 bytes at a multiple of its width.
fn pieces(offset: u64, len: usize) -> impl Iterator<Item = (u64, usize)> {
    let (mut at, mut left) = (offset, len);
    std::iter::from_fn(move || {
        let fits = |width: &usize| *width <= left && at.is_multiple_of(*width as u64);
        let width = [WIDTH, 2, 1].into_iter().find(fits)?;
        let piece = (at, width);
        at = at.wrapping_add(width as u64);
        left -= width;
        Some(piece)
    })
}

impl Device for Flash {
    fn read(&self, offset: u64, data: &mut [u8]) {
        let chip = lock(&self.chip);
        if chip.shows_contents() || !self.may_command() {
            self.contents.read(offset, data);
            return;
        }
        for (at, len) in pieces(offset, data.len()) {
            let start = (at - offset) as usize;
            let value = chip.register(at, len);
            fill(&mut data[start..start + len], u64::from(value));
        }
    }

    fn write(&self, offset: u64, data: &[u8]) {
        if !self.may_command() {
            return;
        }
        let mut chip = lock(&self.chip);
        for (at, len) in pieces(offset, data.len()) {
            let start = (at - offset) as usize;
            let part = &data[start..start + len];
            let change = chip.write(at, number(part) as u32);
            self.change(&mut chip, change, at, part);
        }
        self.layout.show(self.index, chip.shows_contents());
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn accesses_are_cut_to_widths_and_places_that_the_chip_takes() {
        let all = |offset, len| pieces(offset, len).collect::<Vec<_>>();
        assert_eq!(all(8, 8), [(8, 4), (12, 4)]);
        assert_eq!(all(3, 2), [(3, 1), (4, 1)]);
        assert_eq!(all(2, 4), [(2, 2), (4, 2)]);
        assert_eq!(all(1, 8), [(1, 1), (2, 2), (4, 4), (8, 1)]);
        assert_eq!(all(0, 0), []);
    }
}
