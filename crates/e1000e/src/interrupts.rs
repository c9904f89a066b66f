//! Interrupts (82574 datasheet, 7.4 and 10.2.4): causes, masks, and what becomes of them by pin, by one message or by vectors.
//! Throttling (ITR, EITR) is remembered and not done: a driver that is busy has its causes masked.

/// A sent descriptor was written back.
pub const TXDW: u32 = 1 << 0;
/// The transmit queue is empty.
pub const TXQE: u32 = 1 << 1;
/// The link changed.
pub const LSC: u32 = 1 << 2;
/// Receive descriptors run short.
pub const RXDMT0: u32 = 1 << 4;
/// Frames were lost for want of descriptors.
pub const RXO: u32 = 1 << 6;
/// Frames were received.
pub const RXT0: u32 = 1 << 7;
/// An access to the PHY is over.
pub const MDAC: u32 = 1 << 9;
/// Frames were received, with vectors. The second receive queue's bit is the next.
pub const RXQ0: u32 = 1 << 20;
/// Frames were sent, with vectors. The second transmit queue's bit is the next.
pub const TXQ0: u32 = 1 << 22;
/// Any other cause, with vectors.
pub const OTHER: u32 = 1 << 24;
/// Bit 31 of ICR: the interrupt is on.
const ASSERTED: u32 = 1 << 31;

/// Causes that have vectors.
const VECTORED: u32 = 0x1f << 20;
/// Causes behind [`OTHER`]: link, overrun, PHY, small packet, acknowledgement, management.
const OTHER_CAUSES: u32 = LSC | RXO | MDAC | 1 << 16 | 1 << 17 | 1 << 18;
/// Causes there are.
const CAUSES: u32 = TXDW | TXQE | RXDMT0 | RXT0 | 1 << 15 | OTHER_CAUSES | VECTORED;

/// Vectors of MSI-X.
pub const VECTORS: u16 = 5;

/// CTRL_EXT: a message masks what IAM names.
pub const EIAME: u32 = 1 << 24;
/// CTRL_EXT: reading ICR masks what IAM names.
pub const IAME: u32 = 1 << 27;

/// How the guest wants to be told.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Mode {
    /// INTA.
    Pin,
    /// MSI.
    Message,
    /// MSI-X.
    Vectors,
}

/// What is due.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Signals {
    /// The level of the pin.
    pub level: bool,
    /// A message.
    pub message: bool,
    /// A bit for each vector.
    pub vectors: u8,
}

/// The registers.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Interrupts {
    causes: u32,
    mask: u32,
    auto_mask: u32,
    auto_clear: u32,
    allocation: u32,
    /// Causes that the guest was told of.
    told: u32,
}

impl Interrupts {
    /// ICR and ICS, as they read.
    pub fn causes(&self) -> u32 {
        let asserted = if self.causes & self.mask != 0 { ASSERTED } else { 0 };
        self.causes | asserted
    }

    /// IMS.
    pub fn mask(&self) -> u32 {
        self.mask
    }

    /// IAM.
    pub fn auto_mask(&self) -> u32 {
        self.auto_mask
    }

    /// EIAC.
    pub fn auto_clear(&self) -> u32 {
        self.auto_clear
    }

    /// IVAR.
    pub fn allocation(&self) -> u32 {
        self.allocation
    }

    /// A guest's read of ICR: clears it if the interrupt is on or nothing is unmasked (10.2.4.1).
    pub fn take_causes(&mut self, extended: u32) -> u32 {
        let seen = self.causes();
        if seen & ASSERTED != 0 || self.mask == 0 {
            self.acknowledge(seen, extended);
            self.causes = 0;
        }
        seen
    }

    /// A guest's write to ICR: ones clear.
    pub fn clear_causes(&mut self, value: u32, extended: u32) {
        self.acknowledge(self.causes(), extended);
        self.causes &= !value;
        if value & OTHER != 0 {
            self.causes &= !OTHER_CAUSES;
        }
    }

    fn acknowledge(&mut self, seen: u32, extended: u32) {
        if seen & ASSERTED != 0 && extended & IAME != 0 {
            self.mask &= !self.auto_mask;
        }
    }

    /// Something happened, or a guest wrote to ICS.
    pub fn add_causes(&mut self, value: u32) {
        self.causes |= value & CAUSES;
        // What comes again is news.
        self.told &= !value;
    }

    /// A guest's write to IMS.
    pub fn unmask(&mut self, value: u32) {
        self.mask |= value & CAUSES;
    }

    /// A guest's write to IMC.
    pub fn mask_out(&mut self, value: u32) {
        self.mask &= !value;
    }

    /// A guest's write to IAM.
    pub fn set_auto_mask(&mut self, value: u32) {
        self.auto_mask = value;
    }

    /// A guest's write to EIAC.
    pub fn set_auto_clear(&mut self, value: u32) {
        self.auto_clear = value & VECTORED;
    }

    /// A guest's write to IVAR.
    pub fn set_allocation(&mut self, value: u32) {
        self.allocation = value & 0x800f_ffff;
    }

    /// Says what is due, and takes note that it was told. `extended` is CTRL_EXT.
    pub fn settle(&mut self, mode: Mode, extended: u32) -> Signals {
        if mode == Mode::Vectors && self.causes & OTHER_CAUSES != 0 {
            self.causes |= OTHER;
        }
        let pending = self.causes & self.mask;
        let news = pending & !self.told;
        let mut signals = Signals {
            level: pending != 0,
            message: news != 0,
            vectors: 0,
        };
        if mode == Mode::Vectors {
            signals.vectors = self.vectors(news & VECTORED, extended);
        }
        self.told = self.causes & self.mask;
        signals
    }

    /// The vectors of these causes, which are then cleared and masked as the guest has asked for (10.2.4.7, 10.2.4.8).
    fn vectors(&mut self, news: u32, extended: u32) -> u8 {
        let mut vectors = 0;
        for at in 0..5 {
            if news & 1 << (20 + at) != 0 {
                let entry = self.allocation >> (4 * at) & 0xf;
                let vector = entry & 7;
                if entry & 8 != 0 && vector < u32::from(VECTORS) {
                    vectors |= 1 << vector;
                }
            }
        }
        let cleared = news & self.auto_clear;
        self.causes &= !cleared;
        if extended & IAME == 0 {
            self.mask &= !cleared;
        }
        if extended & EIAME != 0 {
            self.mask &= !(news & self.auto_mask);
        }
        vectors
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_pin_follows_what_is_unmasked_and_a_read_clears() {
        let mut chip = Interrupts::default();
        chip.add_causes(RXT0);
        assert_eq!(chip.settle(Mode::Pin, 0), Signals::default());
        chip.unmask(RXT0 | LSC);
        let due = chip.settle(Mode::Pin, 0);
        assert!(due.level && due.message);
        assert!(!chip.settle(Mode::Pin, 0).message, "told once");
        assert_eq!(chip.take_causes(0), RXT0 | ASSERTED);
        assert!(!chip.settle(Mode::Pin, 0).level);
        // A cause that is masked stays where a read finds it no reason to clear.
        chip.add_causes(TXDW);
        assert_eq!(chip.take_causes(0), TXDW);
        assert_eq!(chip.causes(), TXDW);
        chip.mask_out(u32::MAX);
        assert_eq!(chip.take_causes(0), TXDW);
        assert_eq!(chip.causes(), 0, "nothing is unmasked");
    }

    #[test]
    fn a_read_masks_what_was_asked_for() {
        let mut chip = Interrupts::default();
        chip.set_auto_mask(u32::MAX);
        chip.unmask(RXT0 | LSC);
        chip.add_causes(RXT0);
        assert!(chip.settle(Mode::Message, IAME).message);
        chip.take_causes(IAME);
        assert_eq!(chip.mask(), 0);
        chip.add_causes(RXT0);
        assert!(!chip.settle(Mode::Message, IAME).message);
        chip.unmask(RXT0);
        assert!(chip.settle(Mode::Message, IAME).message);
    }

    #[test]
    fn vectors_are_allocated_cleared_and_masked() {
        let mut chip = Interrupts::default();
        // As Linux has it: receive 0, transmit 1, others 2.
        chip.set_allocation(8 | 9 << 8 | 10 << 16 | 1 << 31);
        chip.set_auto_clear(RXQ0 | TXQ0);
        chip.unmask(RXQ0 | TXQ0 | OTHER | LSC);
        chip.add_causes(RXQ0 | TXQ0);
        assert_eq!(chip.settle(Mode::Vectors, 0).vectors, 0b011);
        assert_eq!((chip.causes(), chip.mask()), (0, OTHER | LSC));
        chip.add_causes(RXQ0);
        assert_eq!(chip.settle(Mode::Vectors, 0).vectors, 0, "masked");
        chip.unmask(RXQ0);
        assert_eq!(chip.settle(Mode::Vectors, 0).vectors, 0b001);
        chip.add_causes(LSC);
        assert_eq!(chip.settle(Mode::Vectors, 0).vectors, 0b100);
        assert_eq!(chip.take_causes(0), LSC | OTHER | ASSERTED);
        assert_eq!(chip.causes(), 0);
        // A vector that is not there, and one that is not valid.
        chip.set_allocation(15 | 1 << 8);
        chip.unmask(RXQ0 | TXQ0);
        chip.add_causes(RXQ0 | TXQ0);
        assert_eq!(chip.settle(Mode::Vectors, 0).vectors, 0);
    }

    #[test]
    fn a_message_masks_by_eiame_too() {
        let mut chip = Interrupts::default();
        chip.set_allocation(8);
        chip.set_auto_mask(RXQ0);
        chip.unmask(RXQ0 | LSC);
        chip.add_causes(RXQ0);
        assert_eq!(chip.settle(Mode::Vectors, EIAME).vectors, 1);
        assert_eq!(chip.mask(), LSC);
        assert_eq!(chip.causes() & RXQ0, RXQ0, "not cleared without EIAC");
    }
}
