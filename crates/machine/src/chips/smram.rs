//! Who sees system management RAM: SMRAM and ESMRAMC of the memory controller hub (82Q35, 5.1.29 and 5.1.30), and QEMU's register for a
//! top segment of a size that the Q35 does not have (docs/specs of its q35 machine: "extended TSEG").

/// The compatible segment, in the place of the display's memory.
pub const COMPATIBLE: u64 = 0xa_0000;
/// Its size.
pub const COMPATIBLE_SIZE: u64 = 0x2_0000;
/// Where it is instead, if firmware wants that.
pub const HIGH: u64 = 0xfeda_0000;
/// Largest top segment, and the memory that there is for one: what lies below it is ordinary RAM.
pub const MOST_TSEG: u64 = 16 << 20;

const OPEN: u8 = 1 << 6;
const CLOSED: u8 = 1 << 5;
const LOCKED: u8 = 1 << 4;
const ENABLED: u8 = 1 << 3;
/// The segment at 0xa0000, the only one that there is.
const SEGMENT: u8 = 2;

const HIGH_ENABLED: u8 = 1 << 7;
const TSEG_SIZE: u8 = 3 << 1;
const TSEG_ENABLED: u8 = 1;
/// Caches are on: reads as one.
const CACHES: u8 = 0x38;

/// Written to the size register to ask for the size.
const QUERY: u16 = 0xffff;

/// What is where.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Visible {
    /// The compatible segment is seen by everyone.
    pub open: bool,
    /// It is seen in system management mode.
    pub enabled: bool,
    /// It is at [`HIGH`].
    pub high: bool,
    /// Bytes at the top of low RAM that are seen in system management mode only.
    pub tseg: u64,
}

/// The registers.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Smram {
    control: u8,
    extended: u8,
    size: u16,
}

impl Default for Smram {
    fn default() -> Self {
        Self {
            control: SEGMENT,
            extended: CACHES,
            size: 0,
        }
    }
}

impl Smram {
    /// SMRAM (0x9d).
    pub fn control(&self) -> u8 {
        self.control
    }

    /// ESMRAMC (0x9e).
    pub fn extended(&self) -> u8 {
        self.extended
    }

    /// The size of the extended top segment in MiB (0x50), once it was asked for.
    pub fn size(&self) -> u16 {
        self.size
    }

    /// True until the next reset, once firmware locked them.
    pub fn is_locked(&self) -> bool {
        self.control & LOCKED != 0
    }

    /// Writes all of them; what is locked stays, until a reset.
    pub fn write(&mut self, control: u8, extended: u8, size: u16) {
        if self.is_locked() {
            return;
        }
        self.control = control & (OPEN | CLOSED | LOCKED | ENABLED) | SEGMENT;
        self.extended = extended & (HIGH_ENABLED | TSEG_SIZE | TSEG_ENABLED) | CACHES;
        if size == QUERY {
            self.size = (MOST_TSEG >> 20) as u16;
        }
        if self.is_locked() {
            self.control &= !OPEN;
        }
    }

    /// Who sees what by them.
    pub fn visible(&self) -> Visible {
        let enabled = self.control & ENABLED != 0;
        let high = self.extended & HIGH_ENABLED != 0;
        let size = match self.extended & TSEG_SIZE {
            0 => 1 << 20,
            2 => 2 << 20,
            4 => 8 << 20,
            _ => MOST_TSEG,
        };
        Visible {
            open: self.control & OPEN != 0,
            enabled,
            high,
            tseg: if enabled && self.extended & TSEG_ENABLED != 0 {
                size
            } else {
                0
            },
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn the_top_segment_is_hidden_in_the_size_that_was_asked_for() {
        let mut smram = Smram::default();
        assert_eq!(smram.visible(), Visible::default());
        for (bits, size) in [(0, 1), (2, 2), (4, 8), (6, 16)] {
            smram.write(ENABLED, bits | TSEG_ENABLED, 0);
            assert_eq!(smram.visible().tseg, size << 20);
            smram.write(ENABLED, bits, 0);
            assert_eq!(smram.visible().tseg, 0);
            smram.write(0, bits | TSEG_ENABLED, 0);
            assert_eq!(smram.visible().tseg, 0);
        }
        assert_eq!(smram.size(), 0);
        smram.write(0, 0, QUERY);
        assert_eq!(smram.size(), 16);
    }

    proptest! {
        #[test]
        fn nothing_changes_once_it_is_locked(
            before in any::<(u8, u8, u16)>(),
            after in proptest::collection::vec(any::<(u8, u8, u16)>(), 1..20),
        ) {
            let mut smram = Smram::default();
            smram.write(before.0 | LOCKED, before.1, before.2);
            prop_assert!(!smram.visible().open);
            let locked = smram;
            for (control, extended, size) in after {
                smram.write(control, extended, size);
                prop_assert_eq!(smram, locked);
            }
        }
    }
}
