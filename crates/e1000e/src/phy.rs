//! The PHY (82574 datasheet, 10.2.2.7 and 10.2.10): what the management interface shows of a link of 1000 Mb/s that is
//! negotiated at once.

const PAGES: usize = 8;
const REGISTERS: usize = 32;
/// Registers below are the same on every page.
const PAGED: usize = 16;

const CONTROL: usize = 0;
const STATUS: usize = 1;
const ID1: usize = 2;
const ID2: usize = 3;
const ADVERTISED: usize = 4;
const PARTNER: usize = 5;
const EXPANSION: usize = 6;
const CONTROL_1000: usize = 9;
const STATUS_1000: usize = 10;
const EXTENDED_STATUS: usize = 15;
const COPPER_CONTROL: usize = 16;
const COPPER_STATUS: usize = 17;
const PAGE: usize = 22;

const CONTROL_RESET: u16 = 1 << 15;
const CONTROL_NEGOTIATE: u16 = 1 << 12;
const CONTROL_POWER_DOWN: u16 = 1 << 11;
const CONTROL_RESTART: u16 = 1 << 9;
/// Negotiation on, full duplex, 1000 Mb/s.
const CONTROL_VALUE: u16 = CONTROL_NEGOTIATE | 1 << 8 | 1 << 6;
/// All speeds up to 100 Mb/s, an extended status, no preamble needed, negotiation, extended registers.
const STATUS_VALUE: u16 = 0x7949;
const STATUS_LINK: u16 = 1 << 2;
const STATUS_NEGOTIATED: u16 = 1 << 5;
/// The PHY of the 82574 (BME1000), revision 1.
const ID: [u16; 2] = [0x0141, 0x0cb1];
/// The partner can do all speeds up to 100 Mb/s, and no pauses.
const PARTNER_VALUE: u16 = 0x41e1;
/// The partner does 1000 Mb/s; both receivers are fine.
const STATUS_1000_VALUE: u16 = 0x3c00;
/// 1000 Mb/s, full duplex, resolved, link.
const COPPER_STATUS_VALUE: u16 = 1 << 15 | 1 << 13 | 1 << 11 | 1 << 10;

const MDIC_REGISTER_SHIFT: u32 = 16;
const MDIC_PHY_SHIFT: u32 = 21;
const MDIC_WRITE: u32 = 1 << 26;
const MDIC_READ: u32 = 2 << 26;
const MDIC_OPERATION: u32 = 3 << 26;
const MDIC_READY: u32 = 1 << 28;
const MDIC_INTERRUPT: u32 = 1 << 29;
const MDIC_ERROR: u32 = 1 << 30;

/// The PHY's registers.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Phy {
    pages: [[u16; REGISTERS]; PAGES],
    page: u16,
}

/// What came of a write to MDIC.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Answer {
    /// What MDIC holds from now on.
    pub mdic: u32,
    /// An interrupt was asked for.
    pub interrupt: bool,
    /// The link was negotiated anew.
    pub negotiated: bool,
}

impl Phy {
    /// A PHY after power-on.
    pub fn new() -> Self {
        let mut pages = [[0; REGISTERS]; PAGES];
        let first = &mut pages[0];
        first[CONTROL] = CONTROL_VALUE;
        first[ADVERTISED] = 0x0de1;
        first[EXPANSION] = 1 << 2;
        first[CONTROL_1000] = 0x0f00;
        first[EXTENDED_STATUS] = 0x3000;
        first[COPPER_CONTROL] = 0x3360;
        Self { pages, page: 0 }
    }

    /// False while software has switched it off.
    pub fn is_on(&self) -> bool {
        self.pages[0][CONTROL] & CONTROL_POWER_DOWN == 0
    }

    /// A write to MDIC; `link` says whether there is one.
    pub fn mdic(&mut self, value: u32, link: bool) -> Answer {
        let mut answer = Answer {
            mdic: (value | MDIC_READY) & !MDIC_ERROR,
            interrupt: value & MDIC_INTERRUPT != 0,
            negotiated: false,
        };
        let register = (value >> MDIC_REGISTER_SHIFT) as usize % REGISTERS;
        let operation = value & MDIC_OPERATION;
        if value >> MDIC_PHY_SHIFT & 0x1f != 1 {
            answer.mdic |= MDIC_ERROR;
        } else if operation == MDIC_READ {
            answer.mdic = answer.mdic & !0xffff | u32::from(self.read(register, link));
        } else if operation == MDIC_WRITE {
            answer.negotiated = self.write(register, value as u16);
        } else {
            answer.mdic |= MDIC_ERROR;
        }
        answer
    }

    fn page(&self, register: usize) -> Option<usize> {
        let page = if register < PAGED {
            0
        } else {
            usize::from(self.page)
        };
        (page < PAGES).then_some(page)
    }

    fn read(&self, register: usize, link: bool) -> u16 {
        let when_up = |value| if link { value } else { 0 };
        let page = self.page(register);
        match (register, page) {
            (PAGE, _) => self.page,
            (STATUS, _) => STATUS_VALUE | when_up(STATUS_LINK | STATUS_NEGOTIATED),
            (ID1, _) => ID[0],
            (ID2, _) => ID[1],
            (PARTNER, _) => when_up(PARTNER_VALUE),
            (STATUS_1000, _) => when_up(STATUS_1000_VALUE),
            (COPPER_STATUS, Some(0)) => when_up(COPPER_STATUS_VALUE),
            (_, Some(page)) => self.pages[page][register],
            (_, None) => 0,
        }
    }

    /// True if the link is negotiated anew.
    fn write(&mut self, register: usize, value: u16) -> bool {
        match (register, self.page(register)) {
            (PAGE, _) => self.page = value & 0x3ff,
            (CONTROL, _) if value & CONTROL_RESET != 0 => {
                // What software has set stays, but for what it cannot know (IEEE 802.3, 22.2.4.1.1).
                self.pages[0][CONTROL] = CONTROL_VALUE;
                return true;
            }
            (CONTROL, _) => {
                let was_on = self.is_on();
                self.pages[0][CONTROL] = value & !(CONTROL_RESTART | 0x3f);
                return value & (CONTROL_RESTART | CONTROL_NEGOTIATE) == CONTROL_RESTART | CONTROL_NEGOTIATE
                    || was_on != self.is_on();
            }
            (STATUS | ID1 | ID2 | PARTNER | STATUS_1000 | EXTENDED_STATUS, _) => {}
            (_, Some(page)) => self.pages[page][register] = value,
            (_, None) => {}
        }
        false
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(phy: &mut Phy, register: u32, link: bool) -> u32 {
        let answer = phy.mdic(MDIC_READ | 1 << MDIC_PHY_SHIFT | register << 16 | 0xffff, link);
        assert_eq!(answer.mdic & (MDIC_READY | MDIC_ERROR), MDIC_READY);
        answer.mdic & 0xffff
    }

    fn write(phy: &mut Phy, register: u32, value: u16) -> bool {
        let answer = phy.mdic(
            MDIC_WRITE | 1 << MDIC_PHY_SHIFT | register << 16 | u32::from(value),
            true,
        );
        answer.negotiated
    }

    #[test]
    fn it_is_the_phy_of_an_82574_and_shows_the_link() {
        let mut phy = Phy::new();
        assert_eq!(
            (read(&mut phy, 2, true), read(&mut phy, 3, true)),
            (0x0141, 0x0cb1)
        );
        assert_eq!(read(&mut phy, 1, true) & 0x24, 0x24);
        assert_eq!(read(&mut phy, 1, false) & 0x24, 0);
        assert_eq!(read(&mut phy, 17, true) >> 14, 2);
        assert_eq!(read(&mut phy, 17, false), 0);
    }

    #[test]
    fn another_phy_is_an_error_and_pages_are_apart() {
        let mut phy = Phy::new();
        assert_ne!(
            phy.mdic(MDIC_READ | 2 << MDIC_PHY_SHIFT, true).mdic & MDIC_ERROR,
            0
        );
        assert!(!write(&mut phy, 22, 3));
        write(&mut phy, 20, 0x1234);
        assert_eq!(read(&mut phy, 20, true), 0x1234);
        write(&mut phy, 22, 0);
        assert_eq!(read(&mut phy, 20, true), 0);
        write(&mut phy, 22, 769);
        write(&mut phy, 17, 5);
        assert_eq!(read(&mut phy, 17, true), 0, "no such page");
        assert_eq!(read(&mut phy, 22, true), 769);
    }

    #[test]
    fn negotiation_starts_by_a_reset_a_restart_and_power() {
        let mut phy = Phy::new();
        assert!(write(&mut phy, 0, 0x9140));
        assert!(write(&mut phy, 0, 0x1340));
        assert!(!write(&mut phy, 0, 0x1140));
        assert!(write(&mut phy, 0, 0x1940));
        assert!(!phy.is_on());
        assert!(write(&mut phy, 0, 0x1140) && phy.is_on());
    }
}
