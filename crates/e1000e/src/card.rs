//! The card as its registers: pure state. Accesses by the guest go in, and what the worker has to do comes out
//! (82574 datasheet, chapter 10).

use ostler_bus::registers::Masked;

use crate::filter::{self, Audience, Passed};
use crate::interrupts::{Interrupts, LSC, MDAC};
use crate::nvm::Nvm;
use crate::phy::Phy;
use crate::registers::{self as regs, Access, RegisterFile};
use crate::ring::{Ring, UNIT};

/// Transmit queues.
pub const TRANSMIT_QUEUES: usize = 2;

const CTRL_MASTER_DISABLE: u32 = 1 << 2;
const CTRL_RESET: u32 = 1 << 26;
const CTRL_VLAN: u32 = 1 << 30;
const CTRL_PHY_RESET: u32 = 1 << 31;

/// Full duplex, 1000 Mb/s, and the same as detected.
const STATUS_VALUE: u32 = 1 | 2 << 6 | 2 << 8;
const STATUS_LINK: u32 = 1 << 1;
const STATUS_PHY_RESET: u32 = 1 << 10;
const STATUS_MASTER: u32 = 1 << 19;

const EEC_REQUEST: u32 = 1 << 6;
const EEC_GRANT: u32 = 1 << 7;
const EEC_PRESENT: u32 = 1 << 8;
const EEC_READ_DONE: u32 = 1 << 9;
const EEC_READ_ONLY: u32 = EEC_GRANT | EEC_PRESENT | EEC_READ_DONE | 3 << 15 | 0xf << 11;

const CTRL_EXT_SELF_CLEARING: u32 = 1 << 12 | 1 << 13;

const RCTL_ENABLE: u32 = 1 << 1;
const RCTL_LONG: u32 = 1 << 5;
const RCTL_SPLIT: u32 = 1 << 10;
const RCTL_TYPE: u32 = 3 << 10;
const RCTL_EXTENDED_SIZE: u32 = 1 << 25;
const RCTL_STRIP_CRC: u32 = 1 << 26;
const TCTL_ENABLE: u32 = 1 << 1;
const TCTL_PAD: u32 = 1 << 3;
const TARC_ENABLE: u32 = 1 << 10;
const RFCTL_EXTENDED: u32 = 1 << 15;
const RXCSUM_IP: u32 = 1 << 8;
const RXCSUM_LAYER4: u32 = 1 << 9;

/// Longest frame without RCTL.LPE: with a tag and its check sequence.
const USUAL_FRAME: usize = 1522;
/// Longest with it (10.2.5.1).
pub const LONG_FRAME: usize = 16384;
/// Bytes of the frame check sequence.
pub const CRC_LEN: usize = 4;

/// What a write asks of others.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Effects {
    /// The worker has something to look at.
    pub wake: bool,
    /// What the worker does with memory is over before the write is.
    pub stops: bool,
}

/// How received frames are laid out in memory.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Format {
    /// 7.1.4.
    Legacy,
    /// 7.1.5.
    Extended,
    /// 7.1.6; headers are not split off.
    Split,
}

/// All that a frame's reception depends on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Reception {
    /// Changes whenever the queue is set up anew.
    pub epoch: u64,
    pub ring: Ring,
    pub format: Format,
    /// Bytes of each buffer of a descriptor.
    pub sizes: [usize; 4],
    /// EtherType of the tags that are taken out.
    pub strip_tag: Option<u16>,
    pub strip_crc: bool,
    /// Checksums of IPv4 are checked.
    pub check_ip: bool,
    /// Checksums of TCP and UDP are.
    pub check_layer4: bool,
    /// Free descriptors at which the guest is told that they run short.
    pub threshold: u32,
    pub passed: Passed,
}

/// All that sending from a queue depends on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Transmission {
    pub epoch: u64,
    pub ring: Ring,
    /// EtherType of the tags that are put in.
    pub tag: Option<u16>,
    /// Short frames are filled up.
    pub pad: bool,
}

/// What becomes of a frame for the guest.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Verdict {
    /// It is not for this guest.
    Filtered,
    /// It is longer than the guest takes.
    TooLong,
    /// Nothing is received now.
    Closed,
    /// It goes there.
    Deliver(Reception),
}

/// The card.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Card {
    registers: RegisterFile,
    pub interrupts: Interrupts,
    nvm: Nvm,
    phy: Phy,
    cable: bool,
    /// The function may use memory: it is on, and bus master.
    master: bool,
    phy_was_reset: bool,
    /// Counts how often the receive queue and each transmit queue were set up anew.
    epochs: [u64; 1 + TRANSMIT_QUEUES],
}

impl Card {
    /// A card after power-on.
    pub fn new(mac: [u8; 6], cable: bool) -> Self {
        let mut card = Self {
            registers: RegisterFile::new(),
            interrupts: Interrupts::default(),
            nvm: Nvm::new(mac),
            phy: Phy::new(),
            cable,
            master: false,
            phy_was_reset: false,
            epochs: [0; 1 + TRANSMIT_QUEUES],
        };
        card.reset();
        card
    }

    /// As by CTRL.RST (10.2.2.1): all but the PHY, whose link stays.
    pub fn reset(&mut self) {
        self.registers.reset();
        self.interrupts = Interrupts::default();
        self.epochs = self.epochs.map(|epoch| epoch + 1);
        let [a, b, c, d, e, f] = self.nvm.mac();
        self.registers.set(regs::RA, u32::from_le_bytes([a, b, c, d]));
        let high = u32::from(u16::from_le_bytes([e, f])) | filter::ADDRESS_VALID;
        self.registers.set(regs::RA + 4, high);
    }

    /// Power goes and comes again: the PHY starts over too.
    pub fn power_on(&mut self) {
        self.phy = Phy::new();
        self.reset();
    }

    /// The address that the guest has set.
    pub fn mac(&self) -> [u8; 6] {
        let low = self.registers.get(regs::RA).to_le_bytes();
        let high = self.registers.get(regs::RA + 4).to_le_bytes();
        [low[0], low[1], low[2], low[3], high[0], high[1]]
    }

    /// CTRL_EXT.
    pub fn extended(&self) -> u32 {
        self.registers.get(regs::CTRL_EXT)
    }

    /// True while the set-up of the receive queue that `epoch` was given with holds.
    pub fn is_epoch(&self, epoch: u64) -> bool {
        self.epochs[0] == epoch
    }

    /// Sets whether the function may use memory.
    pub fn set_master(&mut self, master: bool) {
        self.master = master;
    }

    /// There is a link: a cable, and a PHY that is on.
    pub fn link(&self) -> bool {
        self.cable && self.phy.is_on()
    }

    /// Puts the cable in or takes it out.
    pub fn set_cable(&mut self, cable: bool) {
        if std::mem::replace(&mut self.cable, cable) != cable && self.phy.is_on() {
            self.interrupts.add_causes(LSC);
        }
    }

    fn uses_memory(&self) -> bool {
        self.master && self.registers.get(regs::CTRL) & CTRL_MASTER_DISABLE == 0
    }

    fn status(&self) -> u32 {
        let when = |yes: bool, bit| if yes { bit } else { 0 };
        STATUS_VALUE
            | when(self.link(), STATUS_LINK)
            | when(self.phy_was_reset, STATUS_PHY_RESET)
            | when(
                self.registers.get(regs::CTRL) & CTRL_MASTER_DISABLE == 0,
                STATUS_MASTER,
            )
    }

    /// A guest's read. [`Interrupts::settle`] has to be called afterwards.
    pub fn read(&mut self, at: u32) -> u32 {
        match at {
            regs::CTRL_COPY => self.registers.get(regs::CTRL),
            regs::STATUS => self.status(),
            regs::EEC => self.registers.get(regs::EEC) | EEC_PRESENT | EEC_READ_DONE,
            regs::ICR => {
                let extended = self.extended();
                self.interrupts.take_causes(extended)
            }
            regs::ICS => self.interrupts.causes(),
            regs::IMS | regs::IMC => self.interrupts.mask(),
            regs::EIAC => self.interrupts.auto_clear(),
            regs::IAM => self.interrupts.auto_mask(),
            regs::IVAR => self.interrupts.allocation(),
            regs::SWSM => {
                // Whoever reads a 0 in the lowest bit has the semaphore (10.2.2.18).
                let value = self.registers.get(regs::SWSM);
                self.registers.set(regs::SWSM, value | 1);
                value
            }
            _ => self.read_plain(at),
        }
    }

    fn read_plain(&mut self, at: u32) -> u32 {
        let value = self.registers.get(at);
        match self.registers.access(at) {
            Some(Access::Counter) => self.registers.set(at, 0),
            Some(Access::CounterHigh) => {
                self.registers.set(at, 0);
                self.registers.set(at - 4, 0);
            }
            _ => {}
        }
        value
    }

    /// A guest's write. [`Interrupts::settle`] has to be called afterwards.
    pub fn write(&mut self, at: u32, masked: Masked) -> Effects {
        let old = match at {
            // What is not written of a register whose ones do something, does nothing.
            regs::ICR | regs::ICS | regs::IMS | regs::IMC => 0,
            regs::CTRL_COPY => self.registers.get(regs::CTRL),
            _ => self.registers.get(at),
        };
        let value = masked.over(old);
        let mut effects = Effects::default();
        match at {
            regs::CTRL | regs::CTRL_COPY => effects = self.write_control(value),
            regs::STATUS => self.phy_was_reset &= value & STATUS_PHY_RESET != 0,
            regs::EEC => {
                let grant = if value & EEC_REQUEST != 0 { EEC_GRANT } else { 0 };
                self.registers.set(at, value & !EEC_READ_ONLY | grant);
            }
            regs::EERD => self.registers.set(at, self.nvm.read(value)),
            regs::EEWR => {
                let answer = self.nvm.write(value);
                self.registers.set(at, answer);
            }
            regs::CTRL_EXT => self.registers.set(at, value & !CTRL_EXT_SELF_CLEARING),
            regs::MDIC => self.write_mdic(value),
            regs::ICR => {
                let extended = self.extended();
                self.interrupts.clear_causes(value, extended);
            }
            regs::ICS => self.interrupts.add_causes(value),
            regs::IMS => self.interrupts.unmask(value),
            regs::IMC => self.interrupts.mask_out(value),
            regs::EIAC => self.interrupts.set_auto_clear(value),
            regs::IAM => self.interrupts.set_auto_mask(value),
            regs::IVAR => self.interrupts.set_allocation(value),
            regs::RCTL | regs::TCTL | regs::RFCTL => {
                self.registers.set(at, value);
                // What is in memory may have another form from now on.
                effects = Effects {
                    wake: true,
                    stops: old != value,
                };
            }
            regs::SWSM => self.registers.set(at, value),
            _ => match self.registers.access(at) {
                Some(Access::Plain(writable)) => self.registers.set(at, value & writable),
                Some(Access::Special) => effects = self.write_queue(at, value),
                _ => {}
            },
        }
        effects
    }

    fn write_control(&mut self, value: u32) -> Effects {
        self.registers
            .set(regs::CTRL, value & !(CTRL_RESET | CTRL_PHY_RESET));
        if value & CTRL_RESET != 0 {
            self.reset();
        }
        if value & CTRL_PHY_RESET != 0 {
            self.phy = Phy::new();
            self.phy_was_reset = true;
            self.interrupts.add_causes(LSC);
        }
        Effects {
            wake: true,
            stops: value & (CTRL_RESET | CTRL_MASTER_DISABLE) != 0,
        }
    }

    fn write_mdic(&mut self, value: u32) {
        let link = self.link();
        let answer = self.phy.mdic(value, link);
        self.registers.set(regs::MDIC, answer.mdic);
        if answer.interrupt {
            self.interrupts.add_causes(MDAC);
        }
        if answer.negotiated {
            self.interrupts.add_causes(LSC);
        }
    }

    /// A register of a queue.
    fn write_queue(&mut self, at: u32, value: u32) -> Effects {
        let register = at % regs::QUEUE_STRIDE;
        let value = match register {
            regs::BASE_LOW => value & !0xf,
            regs::LENGTH => value & 0xf_ff80,
            regs::HEAD | regs::TAIL => value & 0xffff,
            regs::TARC => value & 0x7800_07ff,
            _ => value,
        };
        // The rest of what is special does nothing.
        if !(regs::RECEIVE..regs::TRANSMIT + 2 * regs::QUEUE_STRIDE).contains(&at) {
            return Effects::default();
        }
        self.registers.set(at, value);
        let moves = !matches!(register, regs::TAIL | regs::TARC);
        if moves {
            let index = match at.checked_sub(regs::TRANSMIT) {
                Some(behind) => 1 + (behind / regs::QUEUE_STRIDE) as usize,
                None => 0,
            };
            self.epochs[index] += 1;
        }
        Effects {
            wake: true,
            stops: moves,
        }
    }

    fn ring(&self, queue: u32) -> Ring {
        let get = |register| self.registers.get(queue + register);
        Ring {
            base: u64::from(get(regs::BASE_LOW)) | u64::from(get(regs::BASE_HIGH)) << 32,
            count: get(regs::LENGTH) / UNIT as u32,
            head: get(regs::HEAD),
            tail: get(regs::TAIL),
        }
    }

    /// True while frames can be received, and there are descriptors for them.
    pub fn can_receive(&self) -> bool {
        self.is_open() && self.ring(regs::RECEIVE).available() > 0
    }

    fn is_open(&self) -> bool {
        self.uses_memory() && self.link() && self.registers.get(regs::RCTL) & RCTL_ENABLE != 0
    }

    /// What becomes of a frame of at least 14 bytes.
    pub fn judge(&self, frame: &[u8]) -> Verdict {
        if !self.is_open() {
            return Verdict::Closed;
        }
        let Some(passed) = filter::pass(&self.registers, frame) else {
            return Verdict::Filtered;
        };
        let control = self.registers.get(regs::RCTL);
        let longest = if control & RCTL_LONG != 0 {
            LONG_FRAME
        } else {
            USUAL_FRAME
        };
        if frame.len() + CRC_LEN > longest {
            return Verdict::TooLong;
        }
        let extended = self.registers.get(regs::RFCTL) & RFCTL_EXTENDED != 0;
        let format = match (extended, control & RCTL_TYPE) {
            (true, RCTL_SPLIT) => Format::Split,
            (true, _) => Format::Extended,
            (false, _) => Format::Legacy,
        };
        let checks = self.registers.get(regs::RXCSUM);
        let ring = self.ring(regs::RECEIVE);
        Verdict::Deliver(Reception {
            epoch: self.epochs[0],
            ring,
            format,
            sizes: self.buffer_sizes(format),
            strip_tag: self.tag_type(),
            strip_crc: control & RCTL_STRIP_CRC != 0,
            check_ip: checks & RXCSUM_IP != 0,
            check_layer4: checks & RXCSUM_LAYER4 != 0,
            threshold: ring.count >> ((control >> 8 & 3) + 1).min(3),
            passed,
        })
    }

    /// Bytes of the buffers of a descriptor (10.2.5.1, 10.2.5.5).
    fn buffer_sizes(&self, format: Format) -> [usize; 4] {
        let control = self.registers.get(regs::RCTL);
        if format == Format::Split {
            let split = self.registers.get(regs::PSRCTL);
            let kibibytes = |shift: u32| (split >> shift & 0x3f) as usize * 1024;
            return [
                (split & 0x7f) as usize * 128,
                kibibytes(8),
                kibibytes(16),
                kibibytes(24),
            ];
        }
        let flexible = (control >> 27 & 0xf) as usize * 1024;
        let fixed = 2048 >> (control >> 16 & 3);
        let large = control & RCTL_EXTENDED_SIZE != 0 && fixed < 2048;
        let size = match flexible {
            0 if large => fixed * 16,
            0 => fixed,
            size => size,
        };
        [size, 0, 0, 0]
    }

    fn tag_type(&self) -> Option<u16> {
        let tagged = self.registers.get(regs::CTRL) & CTRL_VLAN != 0;
        tagged.then(|| self.registers.get(regs::VET) as u16)
    }

    /// What queue `index` has to send; `None` if nothing.
    pub fn transmission(&self, index: usize) -> Option<Transmission> {
        let queue = regs::TRANSMIT + regs::QUEUE_STRIDE * index as u32;
        let control = self.registers.get(regs::TCTL);
        let enabled = control & TCTL_ENABLE != 0 && self.registers.get(queue + regs::TARC) & TARC_ENABLE != 0;
        let ring = self.ring(queue);
        (self.uses_memory() && enabled && ring.available() > 0).then(|| Transmission {
            epoch: self.epochs[1 + index],
            ring,
            tag: self.tag_type(),
            pad: control & TCTL_PAD != 0,
        })
    }

    /// The receive queue's head moved. True if that counts.
    pub fn received(&mut self, epoch: u64, head: u32) -> bool {
        self.move_head((epoch, 0), regs::RECEIVE, head)
    }

    /// A transmit queue's head moved. True if that counts.
    pub fn transmitted(&mut self, epoch: u64, index: usize, head: u32) -> bool {
        self.move_head(
            (epoch, 1 + index),
            regs::TRANSMIT + regs::QUEUE_STRIDE * index as u32,
            head,
        )
    }

    fn move_head(&mut self, (epoch, index): (u64, usize), queue: u32, head: u32) -> bool {
        let holds = self.epochs[index] == epoch;
        if holds {
            self.registers.set(queue + regs::HEAD, head);
        }
        holds
    }

    /// Counts a frame that was received; `len` is without its check sequence.
    pub fn count_received(&mut self, audience: Audience, len: usize) {
        let len = len + CRC_LEN;
        self.registers.count(regs::PRC64 + size_class(len), 1);
        self.registers.count(regs::GPRC, 1);
        self.registers.count(regs::TPR, 1);
        self.registers.count64(regs::GORCL, len as u64);
        self.registers.count64(regs::TORL, len as u64);
        match audience {
            Audience::Unicast => {}
            Audience::Multicast => self.registers.count(regs::MPRC, 1),
            Audience::Broadcast => self.registers.count(regs::BPRC, 1),
        }
    }

    /// Counts a frame that was sent; `len` is without its check sequence.
    pub fn count_sent(&mut self, audience: Audience, len: usize) {
        let len = len + CRC_LEN;
        self.registers.count(regs::PTC64 + size_class(len), 1);
        self.registers.count(regs::GPTC, 1);
        self.registers.count(regs::TPT, 1);
        self.registers.count64(regs::GOTCL, len as u64);
        self.registers.count64(regs::TOTL, len as u64);
        match audience {
            Audience::Unicast => {}
            Audience::Multicast => self.registers.count(regs::MPTC, 1),
            Audience::Broadcast => self.registers.count(regs::BPTC, 1),
        }
    }

    /// Counts something else.
    pub fn count(&mut self, statistic: u32) {
        self.registers.count(statistic, 1);
    }
}

/// Which of the six counters by size is a frame's, in bytes from the first.
fn size_class(len: usize) -> u32 {
    let class = [64, 127, 255, 511, 1023]
        .iter()
        .filter(|most| len > **most)
        .count();
    4 * class as u32
}

#[cfg(test)]
#[path = "card_tests.rs"]
mod tests;
