//! Why a packet failed (SPC-4, 4.5).

/// Sense key, additional sense code and its qualifier.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Sense {
    /// Sense key, 4 bits.
    pub key: u8,
    /// Additional sense code.
    pub code: u8,
    /// Its qualifier.
    pub qualifier: u8,
}

impl Sense {
    /// Key: the command or a field of it is wrong.
    pub const ILLEGAL: u8 = 5;
    /// All is well.
    pub const NONE: Self = Self::new(0, 0, 0);
    /// There is no medium in the closed tray.
    pub const NO_MEDIUM: Self = Self::new(2, 0x3a, 0x01);
    /// The tray is open.
    pub const TRAY_OPEN: Self = Self::new(2, 0x3a, 0x02);
    /// The medium cannot be read.
    pub const READ_ERROR: Self = Self::new(3, 0x11, 0x00);
    /// There is no such command.
    pub const BAD_COMMAND: Self = Self::new(Self::ILLEGAL, 0x20, 0x00);
    /// There is no such block.
    pub const BAD_ADDRESS: Self = Self::new(Self::ILLEGAL, 0x21, 0x00);
    /// A field of the packet is wrong.
    pub const BAD_FIELD: Self = Self::new(Self::ILLEGAL, 0x24, 0x00);
    /// The medium may not be removed.
    pub const LOCKED: Self = Self::new(Self::ILLEGAL, 0x53, 0x02);
    /// There may be another medium.
    pub const MEDIUM_CHANGED: Self = Self::new(6, 0x28, 0x00);
    /// The drive was switched on, or reset.
    pub const POWER_ON: Self = Self::new(6, 0x29, 0x00);

    const fn new(key: u8, code: u8, qualifier: u8) -> Self {
        Self { key, code, qualifier }
    }

    /// The answer to REQUEST SENSE, in the fixed format.
    pub fn fixed(&self) -> [u8; 18] {
        let mut data = [0; 18];
        data[0] = 0x70;
        data[2] = self.key;
        data[7] = 10;
        (data[12], data[13]) = (self.code, self.qualifier);
        data
    }
}
