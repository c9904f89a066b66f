//! Frame information structures: what host and drive send each other (SATA 3.2, 10.5; AHCI 1.3.1, 4.2).

/// Bytes of a register FIS, in both directions.
pub const REGISTER_LEN: usize = 20;
/// Type of a register FIS from the host.
const HOST_TO_DEVICE: u8 = 0x27;
const DEVICE_TO_HOST: u8 = 0x34;
const PIO_SETUP: u8 = 0x5f;
const SET_DEVICE_BITS: u8 = 0xa1;
/// The drive asks for an interrupt.
const INTERRUPT: u8 = 1 << 6;
/// A PIO set-up: from the drive to the host.
const TO_HOST: u8 = 1 << 5;

/// Status: an error, or a packet command's check condition.
pub const STATUS_ERR: u8 = 1 << 0;
/// Status: data wait to be moved.
pub const STATUS_DRQ: u8 = 1 << 3;
/// Status: the seek is over. Obsolete, but set by drives of this kind.
pub const STATUS_DSC: u8 = 1 << 4;
/// Status: the drive is at fault, not the command.
pub const STATUS_DF: u8 = 1 << 5;
/// Status: the drive takes commands.
pub const STATUS_DRDY: u8 = 1 << 6;
/// Status: a command is under way.
pub const STATUS_BSY: u8 = 1 << 7;

/// Error: the command was not carried out.
pub const ERROR_ABRT: u8 = 1 << 2;
/// Error: there is no such sector.
pub const ERROR_IDNF: u8 = 1 << 4;
/// Error: a sector cannot be read.
pub const ERROR_UNC: u8 = 1 << 6;

/// Control register: software reset.
pub const CONTROL_SRST: u8 = 1 << 2;
/// Device register: the address is a block's number, not a cylinder, head and sector.
pub const DEVICE_LBA: u8 = 1 << 6;

/// A register FIS from the host.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Registers {
    /// It carries a command; otherwise it only updates the control register.
    pub is_command: bool,
    /// Command register.
    pub command: u8,
    /// Features.
    pub features: u16,
    /// Block address, 48 bits.
    pub lba: u64,
    /// Device register.
    pub device: u8,
    /// Count.
    pub count: u16,
    /// Device control register.
    pub control: u8,
}

impl Registers {
    /// Reads a FIS; `None` if it is of another type.
    pub fn parse(fis: &[u8; REGISTER_LEN]) -> Option<Self> {
        if fis[0] != HOST_TO_DEVICE {
            return None;
        }
        Some(Self {
            is_command: fis[1] & 0x80 != 0,
            command: fis[2],
            features: u16::from_le_bytes([fis[3], fis[11]]),
            lba: u64::from_le_bytes([fis[4], fis[5], fis[6], fis[8], fis[9], fis[10], 0, 0]),
            device: fis[7],
            count: u16::from_le_bytes([fis[12], fis[13]]),
            control: fis[15],
        })
    }
}

/// What a drive shows in its registers.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Taskfile {
    /// Status.
    pub status: u8,
    /// Error, if the status says that there is one.
    pub error: u8,
    /// Block address, 48 bits.
    pub lba: u64,
    /// Device register.
    pub device: u8,
    /// Count.
    pub count: u16,
}

impl Taskfile {
    /// `command` went well: the registers are as they came.
    pub fn ready(command: &Registers) -> Self {
        Self {
            status: STATUS_DRDY | STATUS_DSC,
            error: 0,
            lba: command.lba,
            device: command.device,
            count: command.count,
        }
    }

    /// `command` failed with these error bits.
    pub fn failed(command: &Registers, error: u8) -> Self {
        Self {
            status: STATUS_DRDY | STATUS_DSC | STATUS_ERR,
            error,
            ..Self::ready(command)
        }
    }

    /// True if the status says so.
    pub fn is_error(&self) -> bool {
        self.status & (STATUS_ERR | STATUS_DF) != 0
    }

    fn fill(&self, kind: u8, flags: u8) -> [u8; REGISTER_LEN] {
        let lba = self.lba.to_le_bytes();
        let count = self.count.to_le_bytes();
        let mut fis = [0; REGISTER_LEN];
        fis[..4].copy_from_slice(&[kind, flags, self.status, self.error]);
        fis[4..7].copy_from_slice(&lba[..3]);
        fis[7] = self.device;
        fis[8..11].copy_from_slice(&lba[3..6]);
        fis[12..14].copy_from_slice(&count);
        fis
    }

    /// As a register FIS to the host, with or without a request for an interrupt.
    pub fn to_host(self, interrupt: bool) -> [u8; REGISTER_LEN] {
        self.fill(DEVICE_TO_HOST, if interrupt { INTERRUPT } else { 0 })
    }

    /// As the PIO set-up in front of the last `len` bytes of a transfer; `self` is what holds after it.
    pub fn pio_setup(self, to_host: bool, len: u16) -> [u8; REGISTER_LEN] {
        // A transfer to the host ends with its last set-up; one from the host is followed by a register FIS.
        let flags = if to_host { TO_HOST | INTERRUPT } else { 0 };
        let mut fis = Self {
            status: STATUS_DRDY | STATUS_DSC | STATUS_DRQ,
            ..self
        }
        .fill(PIO_SETUP, flags);
        fis[15] = if to_host {
            self.status
        } else {
            STATUS_BSY | STATUS_DRDY
        };
        fis[16..18].copy_from_slice(&len.to_le_bytes());
        fis
    }

    /// As a set-device-bits FIS for the queued commands in `tags`.
    pub fn device_bits(self, tags: u32) -> [u8; 8] {
        let mut fis = [0; 8];
        // Of the status only bits 6:4 and 2:0 travel.
        fis[..4].copy_from_slice(&[SET_DEVICE_BITS, INTERRUPT, self.status & 0x77, self.error]);
        fis[4..].copy_from_slice(&tags.to_le_bytes());
        fis
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_register_fis_is_read_field_by_field() {
        let mut fis = [0; REGISTER_LEN];
        for (at, byte) in fis.iter_mut().enumerate() {
            *byte = at as u8;
        }
        fis[0] = 0x27;
        fis[1] = 0x80;
        let read = Registers::parse(&fis).unwrap();
        let expected = Registers {
            is_command: true,
            command: 2,
            features: 0x0b03,
            lba: 0x0a09_0806_0504,
            device: 7,
            count: 0x0d0c,
            control: 15,
        };
        assert_eq!(read, expected);
        fis[0] = 0x34;
        assert_eq!(Registers::parse(&fis), None);
    }

    #[test]
    fn answers_have_the_layout_of_the_standard() {
        let end = Taskfile {
            status: 0x50,
            error: 1,
            lba: 0x0605_0403_0201,
            device: 0x40,
            count: 0x0807,
        };
        let register = [0x34, 0x40, 0x50, 1, 1, 2, 3, 0x40, 4, 5, 6, 0, 7, 8];
        assert_eq!(end.to_host(true)[..14], register);
        assert_eq!(end.to_host(false)[1], 0);
        let setup = end.pio_setup(true, 512);
        assert_eq!((setup[0], setup[1], setup[2]), (0x5f, 0x60, 0x58));
        assert_eq!((setup[15], &setup[16..18]), (0x50, &[0, 2][..]));
        assert_eq!(end.device_bits(1 << 31), [0xa1, 0x40, 0x50, 1, 0, 0, 0, 0x80]);
    }
}
