//! The I/O APIC (Intel 82093AA, with the EOI register of version 0x20 in ICH9).

use ostler_accel::IoapicPin;
use ostler_bus::Msi;

/// Number of inputs.
pub const PINS: usize = 24;

const VERSION: u32 = 0x20;
/// Delivery status and remote IRR are read-only.
const READ_ONLY: u64 = 1 << 12 | 1 << 14;
const REMOTE_IRR: u64 = 1 << 14;
const LEVEL: u64 = 1 << 15;
const MASKED: u64 = 1 << 16;
const WRITABLE: u64 = 0xffff_0000_0001_ffff & !READ_ONLY;

const REGISTER_SELECT: u64 = 0x00;
const WINDOW: u64 = 0x10;
const END_OF_INTERRUPT: u64 = 0x40;

/// Registers and the level of each input.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Ioapic {
    id: u8,
    select: u8,
    redirection: [u64; PINS],
    levels: u32,
}

/// What a register write asks of the world.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Outcome {
    /// Messages to deliver.
    pub messages: Vec<Msi>,
    /// The redirection table changed.
    pub reprogrammed: bool,
}

impl Ioapic {
    /// After reset: every input masked.
    pub fn new(id: u8) -> Self {
        Self {
            id,
            select: 0,
            redirection: [MASKED; PINS],
            levels: 0,
        }
    }

    /// Reads the register at `offset` of the MMIO window.
    pub fn read(&self, offset: u64) -> u32 {
        match offset {
            REGISTER_SELECT => u32::from(self.select),
            WINDOW => self.read_selected(),
            _ => 0,
        }
    }

    /// Writes the register at `offset` of the MMIO window.
    pub fn write(&mut self, offset: u64, value: u32) -> Outcome {
        match offset {
            REGISTER_SELECT => self.select = value as u8,
            WINDOW => return self.write_selected(value),
            END_OF_INTERRUPT => {
                return Outcome {
                    messages: self.end_of_interrupt(value as u8),
                    reprogrammed: false,
                };
            }
            _ => {}
        }
        Outcome::default()
    }

    /// Sets the level of an input. Returns the message to deliver, if it causes one.
    pub fn set_level(&mut self, pin: usize, level: bool) -> Option<Msi> {
        let entry = *self.redirection.get(pin)?;
        let rising = level && self.levels & 1 << pin == 0;
        if level {
            self.levels |= 1 << pin;
        } else {
            self.levels &= !(1 << pin);
        }
        if entry & LEVEL != 0 {
            return self.offer_level(pin);
        }
        // An edge on a masked input is lost.
        (rising && entry & MASKED == 0).then(|| message(entry))
    }

    /// A CPU ended the interrupt with `vector`. Level inputs that still ask for attention are sent again.
    pub fn end_of_interrupt(&mut self, vector: u8) -> Vec<Msi> {
        let mut again = Vec::new();
        for pin in 0..PINS {
            let entry = self.redirection[pin];
            if entry & LEVEL != 0 && entry & REMOTE_IRR != 0 && entry as u8 == vector {
                self.redirection[pin] &= !REMOTE_IRR;
                again.extend(self.offer_level(pin));
            }
        }
        again
    }

    /// What each input sends, for the accelerator.
    pub fn pins(&self) -> [IoapicPin; PINS] {
        self.redirection.map(|entry| IoapicPin {
            msi: message(entry),
            masked: entry & MASKED != 0,
            in_service: entry & REMOTE_IRR != 0,
        })
    }

    /// True while an edge at `pin` would be delivered.
    pub fn listens(&self, pin: usize) -> bool {
        self.redirection.get(pin).is_some_and(|entry| entry & MASKED == 0)
    }

    fn offer_level(&mut self, pin: usize) -> Option<Msi> {
        let entry = &mut self.redirection[pin];
        let asks = self.levels & 1 << pin != 0 && *entry & (MASKED | REMOTE_IRR) == 0;
        asks.then(|| {
            *entry |= REMOTE_IRR;
            message(*entry)
        })
    }

    fn read_selected(&self) -> u32 {
        match self.select {
            0 | 2 => u32::from(self.id) << 24,
            1 => VERSION | (PINS as u32 - 1) << 16,
            select => match entry_index(select) {
                Some((pin, high)) => (self.redirection[pin] >> (32 * u32::from(high))) as u32,
                None => 0,
            },
        }
    }

    fn write_selected(&mut self, value: u32) -> Outcome {
        if self.select == 0 {
            self.id = (value >> 24) as u8 & 0xf;
            return Outcome::default();
        }
        let Some((pin, high)) = entry_index(self.select) else {
            return Outcome::default();
        };
        let old = self.redirection[pin];
        let shift = 32 * u32::from(high);
        let written = old & !(0xffff_ffff << shift) | u64::from(value) << shift;
        let mut entry = written & WRITABLE | old & READ_ONLY;
        // An edge-triggered input has no interrupt in service to remember (and this is how old kernels end a stuck one).
        if entry & LEVEL == 0 {
            entry &= !REMOTE_IRR;
        }
        self.redirection[pin] = entry;
        let message = if entry & LEVEL != 0 {
            self.offer_level(pin)
        } else {
            None
        };
        Outcome {
            messages: message.into_iter().collect(),
            reprogrammed: entry != old,
        }
    }
}

/// Redirection entry behind an index register value: pin, and whether it is the upper half.
fn entry_index(select: u8) -> Option<(usize, bool)> {
    let index = usize::from(select.checked_sub(0x10)?);
    (index / 2 < PINS).then_some((index / 2, index % 2 == 1))
}

/// The message that a redirection entry stands for (SDM vol. 3, 11.11.1). Destination bits 48-55 are the extended
/// destination id, which guests with more than 255 CPUs use.
fn message(entry: u64) -> Msi {
    let destination = entry >> 56;
    let extended = entry >> 49 & 0x7f;
    let logical = entry >> 11 & 1;
    let lowest_priority = u64::from(entry >> 8 & 7 == 1);
    Msi {
        address: 0xfee0_0000 | destination << 12 | extended << 5 | lowest_priority << 3 | logical << 2,
        data: (entry & 0xff | (entry >> 8 & 7) << 8 | (entry >> 15 & 1) << 15 | 1 << 14) as u32,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn program(ioapic: &mut Ioapic, pin: u8, entry: u64) -> Outcome {
        ioapic.write(REGISTER_SELECT, u32::from(0x11 + 2 * pin));
        ioapic.write(WINDOW, (entry >> 32) as u32);
        ioapic.write(REGISTER_SELECT, u32::from(0x10 + 2 * pin));
        ioapic.write(WINDOW, entry as u32)
    }

    fn low_half(ioapic: &mut Ioapic, pin: u8) -> u32 {
        ioapic.write(REGISTER_SELECT, u32::from(0x10 + 2 * pin));
        ioapic.read(WINDOW)
    }

    #[test]
    fn the_version_register_tells_of_24_inputs_and_the_eoi_register() {
        let mut ioapic = Ioapic::new(0);
        ioapic.write(REGISTER_SELECT, 1);
        assert_eq!(ioapic.read(WINDOW), 0x0017_0020);
        ioapic.write(REGISTER_SELECT, 0);
        ioapic.write(WINDOW, 0xff00_0000);
        assert_eq!(ioapic.read(WINDOW), 0x0f00_0000);
        assert_eq!(low_half(&mut ioapic, 23), 0x1_0000);
    }

    #[test]
    fn an_edge_is_sent_once_and_lost_while_masked() {
        let mut ioapic = Ioapic::new(0);
        assert_eq!(ioapic.set_level(4, true), None);
        ioapic.set_level(4, false);
        assert!(program(&mut ioapic, 4, 0x0300_0000_0000_0031).reprogrammed);
        let sent = Msi {
            address: 0xfee0_3000,
            data: 0x4031,
        };
        assert_eq!(ioapic.set_level(4, true), Some(sent));
        assert_eq!(ioapic.set_level(4, true), None);
        assert_eq!(ioapic.set_level(4, false), None);
        assert_eq!(ioapic.set_level(4, true), Some(sent));
    }

    #[test]
    fn a_level_is_sent_again_after_its_end_while_it_lasts() {
        let mut ioapic = Ioapic::new(0);
        program(&mut ioapic, 20, LEVEL | 0x42);
        let sent = Msi {
            address: 0xfee0_0000,
            data: 0xc042,
        };
        assert_eq!(ioapic.set_level(20, true), Some(sent));
        assert_eq!(low_half(&mut ioapic, 20) & 1 << 14, 1 << 14);
        assert_eq!(ioapic.set_level(20, true), None);
        assert!(ioapic.end_of_interrupt(0x41).is_empty());
        assert_eq!(ioapic.end_of_interrupt(0x42), [sent]);
        ioapic.set_level(20, false);
        assert!(ioapic.end_of_interrupt(0x42).is_empty());
        assert_eq!(low_half(&mut ioapic, 20) & 1 << 14, 0);
    }

    #[test]
    fn unmasking_a_raised_level_sends_it_and_the_eoi_register_works() {
        let mut ioapic = Ioapic::new(0);
        program(&mut ioapic, 9, LEVEL | MASKED | 0x55);
        assert_eq!(ioapic.set_level(9, true), None);
        assert_eq!(program(&mut ioapic, 9, LEVEL | 0x55).messages.len(), 1);
        assert_eq!(ioapic.write(END_OF_INTERRUPT, 0x55).messages.len(), 1);
        program(&mut ioapic, 9, 0x55);
        assert_eq!(
            low_half(&mut ioapic, 9),
            0x55,
            "remote IRR goes with the level mode"
        );
    }

    #[test]
    fn logical_and_lowest_priority_go_into_the_message() {
        assert_eq!(
            message(0x0f00_0000_0000_0930),
            Msi {
                address: 0xfee0_f00c,
                data: 0x4130
            }
        );
    }

    proptest! {
        #[test]
        fn no_level_is_sent_twice_without_an_end(
            steps in proptest::collection::vec((0u8..4, 0u64..0x44, any::<u32>()), 0..300)
        ) {
            let mut ioapic = Ioapic::new(0);
            for (kind, place, value) in steps {
                match kind {
                    0 => { ioapic.read(place); }
                    1 => { ioapic.write(place & !0xf, value); }
                    2 => {
                        let pin = (place % 30) as usize;
                        let before = ioapic.redirection.get(pin).copied().unwrap_or(0);
                        let sent = ioapic.set_level(pin, value & 1 != 0);
                        prop_assert!(before & REMOTE_IRR == 0 || sent.is_none());
                    }
                    _ => { ioapic.end_of_interrupt(value as u8); }
                }
            }
        }
    }
}
