//! The table of registers (82574 datasheet, chapter 10): where each is, what software can do to it, what it holds after a
//! reset. What registers do is in `card`.

/// Bytes of the register block (BAR 0).
pub const SIZE: u64 = 0x2_0000;

/// What a software access does.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Access {
    /// Can be read, and these bits can be written.
    Plain(u32),
    /// Can be read.
    ReadOnly,
    /// A statistic: a read clears it.
    Counter,
    /// The low half of a statistic of 64 bits.
    CounterLow,
    /// The high half; its read clears both.
    CounterHigh,
    /// Does something.
    Special,
}
use Access::{Counter, CounterHigh, CounterLow, Plain, ReadOnly, Special};

/// Registers at consecutive dwords.
#[derive(Debug, Clone, Copy)]
struct Row {
    at: u32,
    count: u32,
    access: Access,
    reset: u32,
}

const fn row(at: u32, access: Access, reset: u32) -> Row {
    rows(at, 1, access, reset)
}

const fn rows(at: u32, count: u32, access: Access, reset: u32) -> Row {
    Row {
        at,
        count,
        access,
        reset,
    }
}

const ALL: u32 = u32::MAX;

/// Device control.
pub const CTRL: u32 = 0x0_0000;
/// Another place of device control.
pub const CTRL_COPY: u32 = 0x0_0004;
/// Device status.
pub const STATUS: u32 = 0x0_0008;
/// EEPROM control.
pub const EEC: u32 = 0x0_0010;
/// EEPROM read.
pub const EERD: u32 = 0x0_0014;
/// Extended device control.
pub const CTRL_EXT: u32 = 0x0_0018;
/// The way to the PHY.
pub const MDIC: u32 = 0x0_0020;
/// EtherType of VLAN tags.
pub const VET: u32 = 0x0_0038;
/// Interrupt cause.
pub const ICR: u32 = 0x0_00c0;
/// Interrupt throttling.
const ITR: u32 = 0x0_00c4;
/// Interrupt cause set.
pub const ICS: u32 = 0x0_00c8;
/// Interrupt mask set.
pub const IMS: u32 = 0x0_00d0;
/// Interrupt mask clear.
pub const IMC: u32 = 0x0_00d8;
/// Extended interrupt auto clear.
pub const EIAC: u32 = 0x0_00dc;
/// Interrupt acknowledge auto mask.
pub const IAM: u32 = 0x0_00e0;
/// Interrupt vector allocation.
pub const IVAR: u32 = 0x0_00e4;
/// Extended interrupt throttling, one a vector.
const EITR: u32 = 0x0_00e8;
/// Receive control.
pub const RCTL: u32 = 0x0_0100;
/// Transmit control.
pub const TCTL: u32 = 0x0_0400;
/// EEPROM write.
pub const EEWR: u32 = 0x0_102c;
/// Packet split receive control.
pub const PSRCTL: u32 = 0x0_2170;
/// First register of the first receive queue.
pub const RECEIVE: u32 = 0x0_2800;
/// First register of the first transmit queue.
pub const TRANSMIT: u32 = 0x0_3800;
/// Bytes between two queues' registers.
pub const QUEUE_STRIDE: u32 = 0x100;
/// In a queue: low half of the base.
pub const BASE_LOW: u32 = 0x00;
/// In a queue: high half of the base.
pub const BASE_HIGH: u32 = 0x04;
/// In a queue: bytes of the ring.
pub const LENGTH: u32 = 0x08;
/// In a queue: head.
pub const HEAD: u32 = 0x10;
/// In a queue: tail.
pub const TAIL: u32 = 0x18;
/// In a transmit queue: arbitration, with the bit that enables it.
pub const TARC: u32 = 0x40;
/// Receive checksum control.
pub const RXCSUM: u32 = 0x0_5000;
/// Receive filter control.
pub const RFCTL: u32 = 0x0_5008;
/// Multicast table.
pub const MTA: u32 = 0x0_5200;
/// Receive addresses, low and high halves in turn.
pub const RA: u32 = 0x0_5400;
/// Receive addresses.
pub const ADDRESSES: u32 = 16;
/// VLAN filter table.
pub const VFTA: u32 = 0x0_5600;
/// Software semaphore.
pub const SWSM: u32 = 0x0_5b50;

/// Missed packets.
pub const MPC: u32 = 0x0_4010;
/// Packets received by size: 64 bytes first.
pub const PRC64: u32 = 0x0_405c;
/// Good packets received.
pub const GPRC: u32 = 0x0_4074;
/// Broadcast packets received.
pub const BPRC: u32 = 0x0_4078;
/// Multicast packets received.
pub const MPRC: u32 = 0x0_407c;
/// Good packets sent.
pub const GPTC: u32 = 0x0_4080;
/// Good octets received.
pub const GORCL: u32 = 0x0_4088;
/// Good octets sent.
pub const GOTCL: u32 = 0x0_4090;
/// Packets that came when there was no descriptor.
pub const RNBC: u32 = 0x0_40a0;
/// Packets received that were too long.
pub const ROC: u32 = 0x0_40ac;
/// Octets received.
pub const TORL: u32 = 0x0_40c0;
/// Octets sent.
pub const TOTL: u32 = 0x0_40c8;
/// Packets received.
pub const TPR: u32 = 0x0_40d0;
/// Packets sent.
pub const TPT: u32 = 0x0_40d4;
/// Packets sent by size: 64 bytes first.
pub const PTC64: u32 = 0x0_40d8;
/// Multicast packets sent.
pub const MPTC: u32 = 0x0_40f0;
/// Broadcast packets sent.
pub const BPTC: u32 = 0x0_40f4;
/// TCP segmentation contexts.
pub const TSCTC: u32 = 0x0_40f8;
/// Those that failed.
pub const TSCTFC: u32 = 0x0_40fc;
/// Interrupts asserted.
pub const IAC: u32 = 0x0_4100;

/// All registers, in the order of their offsets. What is not here reads as 0 and ignores writes.
const TABLE: &[Row] = &[
    // 10.2.2: general.
    row(CTRL, Special, 0x0010_0241),
    row(CTRL_COPY, Special, 0),
    row(STATUS, Special, 0),
    row(EEC, Special, 0),
    row(EERD, Special, 0),
    row(CTRL_EXT, Special, 0),
    row(0x0_001c, Plain(ALL), 0), // FLA
    row(MDIC, Special, 0),
    row(0x0_0028, Plain(ALL), 0x00c2_8001), // FCAL
    row(0x0_002c, Plain(0xffff), 0x0100),   // FCAH
    row(0x0_0030, Plain(0xffff), 0x8808),   // FCT
    row(0x0_0034, Plain(ALL), 0),           // KUMCTRLSTA
    row(VET, Plain(0xffff), 0x8100),
    // 10.2.4: interrupts.
    row(ICR, Special, 0),
    row(ITR, Plain(0xffff), 0),
    row(ICS, Special, 0),
    row(IMS, Special, 0),
    row(IMC, Special, 0),
    row(EIAC, Special, 0),
    row(IAM, Special, 0),
    row(IVAR, Special, 0),
    rows(EITR, 5, Plain(0xffff), 0),
    row(RCTL, Special, 0),
    row(0x0_0170, Plain(0xffff), 0), // FCTTV
    row(0x0_0178, Plain(ALL), 0),    // TXCW
    row(TCTL, Special, 0),
    row(0x0_0404, Plain(ALL), 0),           // TCTL_EXT
    row(0x0_0410, Plain(ALL), 0x0060_2008), // TIPG
    row(0x0_0458, Plain(0xffff), 0),        // AIT
    row(0x0_0e00, Plain(ALL), 0x0007_8302), // LEDCTL
    row(0x0_0f00, Plain(ALL), 0x0000_0008), // EXTCNF_CTRL, with the semaphore of the PHY
    row(0x0_0f08, ReadOnly, 0),             // EXTCNF_SIZE
    row(0x0_0f10, Plain(ALL), 0x0000_030d), // PHY_CTRL
    row(0x0_1000, Plain(ALL), 0x0014_0014), // PBA: 20 KiB each way
    row(0x0_1008, Plain(ALL), 0x0000_0028), // PBS
    row(0x0_1010, ReadOnly, 0x8000_0000),   // EEMNGCTL: the configuration is done
    row(EEWR, Special, 0),
    row(0x0_1100, Plain(ALL), 0),         // PBA_ECC
    row(0x0_2008, Plain(ALL), 0),         // ERT
    row(0x0_2160, Plain(0x8000_fff8), 0), // FCRTL
    row(0x0_2168, Plain(0xfff8), 0),      // FCRTH
    row(PSRCTL, Plain(0x3f3f_3f7f), 0x0004_0402),
    rows(0x0_2410, 1, Plain(0x1fff), 0),
    row(0x0_2418, Plain(0x1fff), 0),
    row(0x0_2420, Plain(0x1fff), 0),
    row(0x0_2428, Plain(0x1fff), 0),
    row(0x0_2430, Plain(0x1fff), 0),
    // 10.2.5: receive queues. The second takes no frames: there is no RSS.
    row(RECEIVE + BASE_LOW, Special, 0),
    row(RECEIVE + BASE_HIGH, Special, 0),
    row(RECEIVE + LENGTH, Special, 0),
    row(RECEIVE + HEAD, Special, 0),
    row(RECEIVE + TAIL, Special, 0),
    row(0x0_2820, Plain(0xffff), 0),        // RDTR
    row(0x0_2828, Plain(ALL), 0x0001_0000), // RXDCTL
    row(0x0_282c, Plain(0xffff), 0),        // RADV
    rows(0x0_2900, 3, Plain(ALL), 0),
    row(0x0_2910, Plain(0xffff), 0),
    row(0x0_2918, Plain(0xffff), 0),
    row(0x0_2928, Plain(ALL), 0x0001_0000),
    row(0x0_2c00, Plain(0xfff), 0), // RSRPD
    row(0x0_3410, Plain(0x1fff), 0x600),
    row(0x0_3418, Plain(0x1fff), 0x600),
    row(0x0_3420, Plain(0x1fff), 0x600),
    row(0x0_3428, Plain(0x1fff), 0x600),
    row(0x0_3430, Plain(0x1fff), 0),
    // 10.2.6: transmit queues.
    row(TRANSMIT + BASE_LOW, Special, 0),
    row(TRANSMIT + BASE_HIGH, Special, 0),
    row(TRANSMIT + LENGTH, Special, 0),
    row(TRANSMIT + HEAD, Special, 0),
    row(TRANSMIT + TAIL, Special, 0),
    row(0x0_3820, Plain(0xffff), 0), // TIDV
    row(0x0_3828, Plain(ALL), 0),    // TXDCTL
    row(0x0_382c, Plain(0xffff), 0), // TADV
    row(TRANSMIT + TARC, Special, 0x0000_0403),
    row(TRANSMIT + QUEUE_STRIDE + BASE_LOW, Special, 0),
    row(TRANSMIT + QUEUE_STRIDE + BASE_HIGH, Special, 0),
    row(TRANSMIT + QUEUE_STRIDE + LENGTH, Special, 0),
    row(TRANSMIT + QUEUE_STRIDE + HEAD, Special, 0),
    row(TRANSMIT + QUEUE_STRIDE + TAIL, Special, 0),
    row(0x0_3928, Plain(ALL), 0),
    row(TRANSMIT + QUEUE_STRIDE + TARC, Special, 0x0000_0403),
    // 10.2.7: statistics.
    rows(0x0_4000, 9, Counter, 0),
    row(0x0_4028, Counter, 0),
    rows(0x0_4030, 5, Counter, 0),
    rows(0x0_4048, 5, Counter, 0),
    rows(PRC64, 6, Counter, 0),
    rows(GPRC, 4, Counter, 0),
    row(GORCL, CounterLow, 0),
    row(GORCL + 4, CounterHigh, 0),
    row(GOTCL, CounterLow, 0),
    row(GOTCL + 4, CounterHigh, 0),
    rows(RNBC, 8, Counter, 0),
    row(TORL, CounterLow, 0),
    row(TORL + 4, CounterHigh, 0),
    row(TOTL, CounterLow, 0),
    row(TOTL + 4, CounterHigh, 0),
    rows(TPR, 2, Counter, 0),
    rows(PTC64, 10, Counter, 0),
    rows(IAC, 10, Counter, 0),
    // 10.2.5: receive checksums and filters.
    row(RXCSUM, Plain(0x0000_37ff), 0x0000_0300),
    row(RFCTL, Special, 0),
    rows(MTA, 128, Plain(ALL), 0),
    rows(RA, 2 * ADDRESSES, Plain(ALL), 0),
    rows(VFTA, 128, Plain(ALL), 0),
    // 10.2.8 and 10.2.9: wake-up and management. There is neither.
    row(0x0_5800, Plain(0x7), 0), // WUC
    row(0x0_5808, Plain(ALL), 0), // WUFC
    row(0x0_5810, Plain(ALL), 0), // WUS
    row(0x0_5818, Plain(ALL), 0), // MRQC
    row(0x0_5820, Plain(ALL), 0), // MANC
    row(0x0_5838, Plain(ALL), 0), // IPAV
    row(0x0_5860, Plain(ALL), 0), // MANC2H
    row(0x0_5b00, Plain(ALL), 0), // GCR
    row(0x0_5b30, ReadOnly, 0),   // FACTPS
    row(SWSM, Special, 0),
    row(0x0_5b54, ReadOnly, 0),        // FWSM
    row(0x0_5b58, Plain(ALL), 0),      // SWSM2
    row(0x0_5b5c, Plain(ALL), 0),      // SW_FW_SYNC
    row(0x0_5b64, Plain(ALL), 0),      // GCR2
    row(0x0_5b68, Special, 0),         // PBACLR
    rows(0x0_5c00, 32, Plain(ALL), 0), // RETA
    rows(0x0_5c80, 10, Plain(ALL), 0), // RSSRK
    row(0x0_5f50, Plain(ALL), 0),      // CRC offset
    // 10.2.11: time stamps. None are taken.
    rows(0x0_b600, 3, Plain(ALL), 0),
    row(0x0_b614, Plain(0x10), 0),
    rows(0x0_b618, 2, ReadOnly, 0),
    row(0x0_b620, Plain(0x1e), 0),
    rows(0x0_b624, 4, ReadOnly, 0),
    rows(0x0_b634, 2, Plain(ALL), 0),
];

/// The contents of all registers.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RegisterFile {
    values: Vec<u32>,
    /// Where the values of each row begin.
    first: Vec<usize>,
}

impl RegisterFile {
    /// As after a reset.
    pub fn new() -> Self {
        let (mut values, mut first) = (Vec::new(), Vec::new());
        for row in TABLE {
            first.push(values.len());
            values.extend((0..row.count).map(|_| row.reset));
        }
        Self { values, first }
    }

    /// Back to that.
    pub fn reset(&mut self) {
        *self = Self::new();
    }

    /// How software gets at the register at `at`, and where its value is; `None` if there is none.
    fn find(&self, at: u32) -> Option<(Access, usize)> {
        let index = TABLE.partition_point(|row| row.at <= at).checked_sub(1)?;
        let (row, first) = (TABLE.get(index)?, self.first.get(index)?);
        let within = (at - row.at) / 4;
        (within < row.count).then_some((row.access, first + within as usize))
    }

    /// How software gets at a register.
    pub fn access(&self, at: u32) -> Option<Access> {
        self.find(at).map(|(access, _)| access)
    }

    /// What a register holds; 0 where there is none.
    pub fn get(&self, at: u32) -> u32 {
        self.find(at).map_or(0, |(_, place)| self.values[place])
    }

    /// Sets a register as the card itself.
    pub fn set(&mut self, at: u32, value: u32) {
        if let Some((_, place)) = self.find(at) {
            self.values[place] = value;
        }
    }

    /// Adds to a statistic, which stays at its end (10.2.7).
    pub fn count(&mut self, at: u32, more: u32) {
        let sum = self.get(at).saturating_add(more);
        self.set(at, sum);
    }

    /// The same for one of 64 bits.
    pub fn count64(&mut self, at: u32, more: u64) {
        let sum = (u64::from(self.get(at)) | u64::from(self.get(at + 4)) << 32).saturating_add(more);
        self.set(at, sum as u32);
        self.set(at + 4, (sum >> 32) as u32);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_table_is_in_order_and_nothing_overlaps() {
        for pair in TABLE.windows(2) {
            assert!(pair[0].at + 4 * pair[0].count <= pair[1].at, "{:#x}", pair[1].at);
        }
        let last = TABLE.last().unwrap();
        assert!(u64::from(last.at + 4 * last.count) <= SIZE);
        for row in TABLE {
            assert_eq!(row.at % 4, 0);
            if row.access == Access::CounterLow {
                assert_eq!(RegisterFile::new().access(row.at + 4), Some(Access::CounterHigh));
            }
        }
    }

    #[test]
    fn every_offset_has_at_most_one_value() {
        let mut file = RegisterFile::new();
        for at in (0..SIZE as u32).step_by(4) {
            file.set(at, at | 1);
        }
        for at in (0..SIZE as u32).step_by(4) {
            let expected = file.access(at).map_or(0, |_| at | 1);
            assert_eq!(file.get(at), expected, "{at:#x}");
        }
        file.reset();
        assert_eq!((file.get(VET), file.get(CTRL)), (0x8100, 0x0010_0241));
    }

    #[test]
    fn statistics_stay_at_their_end() {
        let mut file = RegisterFile::new();
        file.set(TPR, u32::MAX - 1);
        file.count(TPR, 5);
        assert_eq!(file.get(TPR), u32::MAX);
        file.set(GORCL, u32::MAX);
        file.count64(GORCL, 2);
        assert_eq!((file.get(GORCL), file.get(GORCL + 4)), (1, 1));
    }
}
