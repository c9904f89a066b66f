//! A parallel NOR flash chip with the Intel command set and a Common Flash Interface table (JEDEC JESD68.01, JEP137),
//! as the model that UEFI firmware for virtual machines is written against (QEMU's cfi.pflash01) behaves.
//!
//! The chip is one byte wide. The state machine holds no contents: it says what a write does to them ([`Change`]), and
//! whether reads show them or a register ([`Pflash::shows_contents`]).

/// Commands, and what `Pflash::command` holds.
mod command {
    /// Not a command of its own: contents are shown.
    pub const ARRAY: u8 = 0x00;
    pub const PROGRAM: u8 = 0x10;
    pub const ERASE: u8 = 0x20;
    pub const PROGRAM_AS_WELL: u8 = 0x40;
    pub const CLEAR_STATUS: u8 = 0x50;
    pub const LOCK: u8 = 0x60;
    pub const READ_STATUS: u8 = 0x70;
    pub const READ_ID: u8 = 0x90;
    pub const QUERY: u8 = 0x98;
    pub const CONFIRM: u8 = 0xd0;
    pub const BUFFERED: u8 = 0xe8;
    pub const LOCK_BLOCK: u8 = 0x01;
    pub const READ_ARRAY: u8 = 0xff;
}

/// The write state machine is ready.
pub const READY: u8 = 0x80;
/// An erase failed.
pub const ERASE_FAILED: u8 = 0x20;
/// A program failed.
pub const PROGRAM_FAILED: u8 = 0x10;

/// Bytes of the write buffer, as a power of two.
const BUFFER_SHIFT: u8 = 8;
/// Bytes of the query table.
const QUERY_SIZE: usize = 0x52;
const QUERY_START: usize = 0x10;

/// What a write does to the contents.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Change {
    /// Nothing.
    None,
    /// The bytes that were written are stored at their offset.
    Store,
    /// The block that starts here becomes all ones.
    Erase(u64),
}

/// State of the chip.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Pflash {
    size: u64,
    block: u64,
    read_only: bool,
    /// The command that reads depend on and that further writes belong to.
    command: u8,
    /// Writes of the current command so far.
    cycle: u8,
    status: u8,
    /// Bytes of a buffered write that are still to come after the next one.
    left: u8,
}

impl Pflash {
    /// A chip of `size` bytes in blocks of `block` bytes (a power of two); `read_only` is its write-protect pin.
    pub fn new(size: u64, block: u64, read_only: bool) -> Self {
        Self {
            size,
            block,
            read_only,
            command: command::ARRAY,
            cycle: 0,
            status: READY,
            left: 0,
        }
    }

    /// The reset pin.
    pub fn reset(&mut self) {
        *self = Self::new(self.size, self.block, self.read_only);
    }

    /// Bytes of a block.
    pub fn block(&self) -> u64 {
        self.block
    }

    /// True if a read gives the contents; else [`Pflash::register`] tells what it gives.
    pub fn shows_contents(&self) -> bool {
        self.command == command::ARRAY
    }

    /// What a read of `width` bytes (1, 2, 4) at `offset` gives while contents are not shown.
    pub fn register(&self, offset: u64, width: usize) -> u32 {
        // Registers repeat every 256 bytes.
        let at = (offset & 0xff) as usize;
        match self.command {
            // Nobody named a manufacturer or a device.
            command::READ_ID => 0,
            command::QUERY => u32::from(self.query().get(at).copied().unwrap_or(0)),
            // Two chips side by side would answer a wide access.
            _ if width > 2 => u32::from(self.status) | u32::from(self.status) << 16,
            _ => u32::from(self.status),
        }
    }

    /// A write of `value` at `offset`. Only its low byte is looked at where a command is expected.
    pub fn write(&mut self, offset: u64, value: u32) -> Change {
        let byte = value as u8;
        match (self.cycle, self.command) {
            (0, _) => self.begin(offset, byte),
            (1, command::PROGRAM | command::PROGRAM_AS_WELL) => {
                self.cycle = 0;
                self.program()
            }
            (1, command::ERASE) if byte == command::CONFIRM => self.end_ready(),
            (1, command::LOCK) if matches!(byte, command::CONFIRM | command::LOCK_BLOCK) => self.end_ready(),
            (1, command::QUERY) if byte != command::READ_ARRAY => Change::None,
            (1, command::BUFFERED) => {
                self.left = byte;
                self.cycle = 2;
                Change::None
            }
            (2, command::BUFFERED) => {
                if self.left == 0 {
                    self.cycle = 3;
                }
                self.left = self.left.wrapping_sub(1);
                self.program()
            }
            (3, command::BUFFERED) if byte == command::CONFIRM && self.status & PROGRAM_FAILED == 0 => {
                self.end_ready()
            }
            _ => self.show_contents(),
        }
    }

    /// The first write of a command.
    fn begin(&mut self, offset: u64, byte: u8) -> Change {
        let change = match byte {
            command::PROGRAM | command::PROGRAM_AS_WELL | command::LOCK | command::QUERY => Change::None,
            command::ERASE => self.erase(offset),
            command::BUFFERED => {
                self.status |= READY;
                Change::None
            }
            command::READ_STATUS | command::READ_ID => {
                self.command = byte;
                return Change::None;
            }
            command::CLEAR_STATUS => {
                self.status = 0;
                return self.show_contents();
            }
            // Read array, and everything that is no command.
            _ => return self.show_contents(),
        };
        self.command = byte;
        self.cycle = 1;
        change
    }

    fn program(&mut self) -> Change {
        self.status |= READY;
        if self.read_only {
            self.status |= PROGRAM_FAILED;
            return Change::None;
        }
        Change::Store
    }

    fn erase(&mut self, offset: u64) -> Change {
        self.status |= READY;
        if self.read_only {
            self.status |= ERASE_FAILED;
            return Change::None;
        }
        Change::Erase(offset & !(self.block - 1))
    }

    /// Notes that the contents could not be kept, as `failure` says.
    pub fn fail(&mut self, failure: u8) {
        self.status |= failure;
    }

    fn end_ready(&mut self) -> Change {
        self.cycle = 0;
        self.status |= READY;
        Change::None
    }

    fn show_contents(&mut self) -> Change {
        self.command = command::ARRAY;
        self.cycle = 0;
        Change::None
    }

    /// The query table (JESD68.01, 4.3), with the Intel extended table behind it.
    fn query(&self) -> [u8; QUERY_SIZE] {
        let mut table = [0; QUERY_SIZE];
        let mut put = |at: usize, bytes: &[u8]| table[at..at + bytes.len()].copy_from_slice(bytes);
        let blocks = (self.size / self.block - 1) as u16;
        let block = (self.block >> 8) as u16;
        put(QUERY_START, b"QRY");
        put(0x13, &[1, 0, 0x31, 0]); // the Intel command set, and its table
        put(0x1b, &[0x45, 0x55]); // 4.5 to 5.5 volts
        put(0x1f, &[7, 7, 10, 0, 4, 4, 4, 0]); // time-outs, as powers of two
        put(0x27, &[self.size.trailing_zeros() as u8, 2, 0, BUFFER_SHIFT, 0]);
        put(0x2c, &[1]); // regions of blocks of one size
        put(0x2d, &blocks.to_le_bytes());
        put(0x2f, &block.to_le_bytes());
        put(0x31, b"PRI10");
        put(0x3f, &[1]);
        table
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const BLOCK: u64 = 4096;

    fn chip() -> Pflash {
        Pflash::new(64 << 10, BLOCK, false)
    }

    /// One step of a sequence: a write with what it changes, or a read with what it gives (`None`: the contents).
    enum Step {
        W(u64, u8, Change),
        R(u64, Option<u8>),
    }
    use Change::{Erase, None as Nothing, Store};
    use Step::{R, W};

    fn check(name: &str, chip: &mut Pflash, steps: &[Step]) {
        for (number, step) in steps.iter().enumerate() {
            match step {
                W(offset, value, change) => {
                    assert_eq!(
                        chip.write(*offset, u32::from(*value)),
                        *change,
                        "{name}, step {number}"
                    );
                }
                R(offset, expected) => {
                    let seen = (!chip.shows_contents()).then(|| chip.register(*offset, 1) as u8);
                    assert_eq!(seen, *expected, "{name}, step {number}");
                }
            }
        }
    }

    #[test]
    fn each_command_does_what_its_sequence_says() {
        let table: &[(&str, &[Step])] = &[
            ("read array", &[R(0, None), W(0, 0xff, Nothing), R(5, None)]),
            (
                "status",
                &[
                    W(0, 0x70, Nothing),
                    R(9, Some(0x80)),
                    W(0, 0xff, Nothing),
                    R(0, None),
                ],
            ),
            (
                "clear status shows the contents",
                &[
                    W(0, 0x50, Nothing),
                    R(0, None),
                    W(0, 0x70, Nothing),
                    R(0, Some(0)),
                ],
            ),
            (
                "program a byte, then another without reading the array between them",
                &[
                    W(7, 0x10, Nothing),
                    R(7, Some(0x80)),
                    W(7, 0x12, Store),
                    R(7, Some(0x80)),
                    W(8, 0x40, Nothing),
                    W(8, 0xff, Store),
                    R(8, Some(0x80)),
                    W(8, 0xff, Nothing),
                    R(8, None),
                ],
            ),
            (
                "erase a block",
                &[
                    W(2 * BLOCK + 5, 0x20, Erase(2 * BLOCK)),
                    W(2 * BLOCK + 5, 0xd0, Nothing),
                    R(0, Some(0x80)),
                    W(0, 0xff, Nothing),
                    R(0, None),
                ],
            ),
            (
                "an erase that is not confirmed",
                &[W(0, 0x20, Erase(0)), W(0, 0x33, Nothing), R(0, None)],
            ),
            (
                "a buffered write of three bytes",
                &[
                    W(0x100, 0xe8, Nothing),
                    R(0x100, Some(0x80)),
                    W(0x100, 2, Nothing),
                    W(0x100, 0xaa, Store),
                    W(0x101, 0xd0, Store),
                    W(0x102, 0xcc, Store),
                    W(0x100, 0xd0, Nothing),
                    R(0x100, Some(0x80)),
                    W(0x100, 0xff, Nothing),
                    R(0x100, None),
                ],
            ),
            (
                "a buffered write that is not confirmed",
                &[
                    W(0, 0xe8, Nothing),
                    W(0, 0, Nothing),
                    W(0, 1, Store),
                    W(0, 0x70, Nothing),
                    R(0, None),
                ],
            ),
            (
                "query",
                &[
                    W(0x55, 0x98, Nothing),
                    R(0x10, Some(b'Q')),
                    R(0x111, Some(b'R')),
                    R(0x12, Some(b'Y')),
                    R(0x27, Some(16)),
                    R(0x2d, Some(15)),
                    R(0x2e, Some(0)),
                    R(0x2f, Some(0x10)),
                    R(0x60, Some(0)),
                    W(0, 0x70, Nothing),
                    R(0x10, Some(b'Q')),
                    W(0, 0xff, Nothing),
                    R(0, None),
                ],
            ),
            (
                "identification",
                &[
                    W(0, 0x90, Nothing),
                    R(0, Some(0)),
                    R(1, Some(0)),
                    W(0, 0xff, Nothing),
                    R(0, None),
                ],
            ),
            (
                "lock and unlock a block",
                &[
                    W(0, 0x60, Nothing),
                    W(0, 0x01, Nothing),
                    R(0, Some(0x80)),
                    W(0, 0x60, Nothing),
                    W(0, 0xd0, Nothing),
                    R(0, Some(0x80)),
                    W(0, 0x60, Nothing),
                    W(0, 0xff, Nothing),
                    R(0, None),
                ],
            ),
            (
                "no command",
                &[W(0, 0x33, Nothing), R(0, None), W(0, 0xf0, Nothing), R(0, None)],
            ),
        ];
        for (name, steps) in table {
            check(name, &mut chip(), steps);
        }
    }

    #[test]
    fn a_protected_chip_keeps_its_contents_and_says_so() {
        let mut chip = Pflash::new(64 << 10, BLOCK, true);
        check(
            "program",
            &mut chip,
            &[
                W(0, 0x10, Nothing),
                W(0, 1, Nothing),
                R(0, Some(READY | PROGRAM_FAILED)),
                W(0, 0x20, Nothing),
                W(0, 0xd0, Nothing),
                R(0, Some(READY | PROGRAM_FAILED | ERASE_FAILED)),
                W(0, 0x50, Nothing),
                W(0, 0xe8, Nothing),
                W(0, 0, Nothing),
                W(0, 1, Nothing),
                R(0, Some(READY | PROGRAM_FAILED)),
                W(0, 0xd0, Nothing),
                R(0, None),
            ],
        );
        chip.reset();
        assert!(chip == Pflash::new(64 << 10, BLOCK, true));
    }

    #[test]
    fn a_wide_read_of_the_status_is_that_of_two_chips() {
        let mut chip = chip();
        chip.write(0, 0x70);
        assert_eq!(
            [1, 2, 4].map(|width| chip.register(0, width)),
            [0x80, 0x80, 0x80_0080]
        );
    }

    proptest! {
        #[test]
        fn any_writes_leave_a_chip_that_read_array_brings_back(
            steps in proptest::collection::vec((any::<u64>(), any::<u32>()), 0..300)
        ) {
            let mut chip = chip();
            for (offset, value) in steps {
                if let Change::Erase(block) = chip.write(offset % (64 << 10), value) {
                    prop_assert!(block % BLOCK == 0 && block < 64 << 10);
                }
                chip.register(offset, 1 + (value % 4) as usize);
            }
            // A buffered write takes 256 bytes and one more at most.
            for _ in 0..260 {
                chip.write(0, 0xff);
            }
            prop_assert!(chip.shows_contents());
        }
    }
}
