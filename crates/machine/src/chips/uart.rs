//! A 16550A UART: registers, FIFOs and interrupt causes (National Semiconductor PC16550D). Line timing is not
//! simulated: a byte written has left at once, so the transmitter is always empty.

use std::collections::VecDeque;

const FIFO_DEPTH: usize = 16;

const IER_RX: u8 = 1;
const IER_THR_EMPTY: u8 = 2;
const IER_LINE: u8 = 4;
const IER_MODEM: u8 = 8;

const IIR_NONE: u8 = 0x01;
const IIR_MODEM: u8 = 0x00;
const IIR_THR_EMPTY: u8 = 0x02;
const IIR_RX: u8 = 0x04;
const IIR_LINE: u8 = 0x06;
const IIR_TIMEOUT: u8 = 0x0c;
const IIR_FIFO: u8 = 0xc0;

const FCR_ENABLE: u8 = 1;
const FCR_CLEAR_RX: u8 = 2;

const LCR_DLAB: u8 = 0x80;
const MCR_LOOP: u8 = 0x10;

const LSR_DATA: u8 = 0x01;
const LSR_OVERRUN: u8 = 0x02;
const LSR_THR_EMPTY: u8 = 0x20;
const LSR_IDLE: u8 = 0x40;

/// Carrier, data set ready, clear to send: a peer is there.
const MSR_CONNECTED: u8 = 0xb0;

/// State of the chip.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Uart {
    interrupt_enable: u8,
    fifo_control: u8,
    line_control: u8,
    modem_control: u8,
    /// Low half: what changed since it was last read.
    modem_status: u8,
    scratch: u8,
    divisor: u16,
    received: VecDeque<u8>,
    overrun: bool,
    /// The transmitter became empty and no one was told yet.
    thr_empty_pending: bool,
}

impl Default for Uart {
    fn default() -> Self {
        Self {
            interrupt_enable: 0,
            fifo_control: 0,
            line_control: 0,
            modem_control: 0,
            modem_status: MSR_CONNECTED,
            scratch: 0,
            divisor: 12,
            received: VecDeque::with_capacity(FIFO_DEPTH),
            overrun: false,
            thr_empty_pending: false,
        }
    }
}

impl Uart {
    /// Reads register 0 to 7.
    pub fn read(&mut self, register: u8) -> u8 {
        match register {
            0 if self.divisor_latch() => self.divisor as u8,
            1 if self.divisor_latch() => (self.divisor >> 8) as u8,
            0 => self.received.pop_front().unwrap_or(0),
            1 => self.interrupt_enable,
            2 => self.identify(),
            3 => self.line_control,
            4 => self.modem_control,
            5 => self.line_status(),
            6 => self.take_modem_status(),
            _ => self.scratch,
        }
    }

    /// Writes register 0 to 7. Returns the byte that leaves on the line, if one does.
    pub fn write(&mut self, register: u8, value: u8) -> Option<u8> {
        match register {
            0 if self.divisor_latch() => self.divisor = self.divisor & 0xff00 | u16::from(value),
            1 if self.divisor_latch() => self.divisor = self.divisor & 0xff | u16::from(value) << 8,
            0 => return self.transmit(value),
            1 => self.enable_interrupts(value & 0xf),
            2 => self.control_fifo(value),
            3 => self.line_control = value,
            4 => self.control_modem(value & 0x1f),
            7 => self.scratch = value,
            _ => {}
        }
        None
    }

    /// How many bytes the line may deliver now.
    pub fn room(&self) -> usize {
        if self.looped() {
            0
        } else {
            self.depth().saturating_sub(self.received.len())
        }
    }

    /// A byte arrives on the line. With no room it overruns, and is lost.
    pub fn receive(&mut self, byte: u8) {
        if self.received.len() < self.depth() {
            self.received.push_back(byte);
        } else {
            self.overrun = true;
        }
    }

    /// Level of the interrupt output.
    pub fn interrupt(&self) -> bool {
        self.cause() != IIR_NONE
    }

    fn divisor_latch(&self) -> bool {
        self.line_control & LCR_DLAB != 0
    }

    fn looped(&self) -> bool {
        self.modem_control & MCR_LOOP != 0
    }

    fn fifo(&self) -> bool {
        self.fifo_control & FCR_ENABLE != 0
    }

    fn depth(&self) -> usize {
        if self.fifo() { FIFO_DEPTH } else { 1 }
    }

    fn trigger_level(&self) -> usize {
        if self.fifo() {
            [1, 4, 8, 14][usize::from(self.fifo_control >> 6)]
        } else {
            1
        }
    }

    /// The pending cause of highest priority, as IIR shows it.
    fn cause(&self) -> u8 {
        let enabled = |bit| self.interrupt_enable & bit != 0;
        if enabled(IER_LINE) && self.overrun {
            IIR_LINE
        } else if enabled(IER_RX) && self.received.len() >= self.trigger_level() {
            IIR_RX
        } else if enabled(IER_RX) && !self.received.is_empty() {
            IIR_TIMEOUT
        } else if enabled(IER_THR_EMPTY) && self.thr_empty_pending {
            IIR_THR_EMPTY
        } else if enabled(IER_MODEM) && self.modem_status & 0xf != 0 {
            IIR_MODEM
        } else {
            IIR_NONE
        }
    }

    fn identify(&mut self) -> u8 {
        let cause = self.cause();
        if cause == IIR_THR_EMPTY {
            self.thr_empty_pending = false;
        }
        cause | if self.fifo() { IIR_FIFO } else { 0 }
    }

    fn line_status(&mut self) -> u8 {
        let mut status = LSR_THR_EMPTY | LSR_IDLE;
        if !self.received.is_empty() {
            status |= LSR_DATA;
        }
        if std::mem::take(&mut self.overrun) {
            status |= LSR_OVERRUN;
        }
        status
    }

    fn take_modem_status(&mut self) -> u8 {
        let status = self.modem_status;
        self.modem_status &= 0xf0;
        status
    }

    fn transmit(&mut self, value: u8) -> Option<u8> {
        self.thr_empty_pending = true;
        if self.looped() {
            self.receive(value);
            return None;
        }
        Some(value)
    }

    fn enable_interrupts(&mut self, value: u8) {
        if value & !self.interrupt_enable & IER_THR_EMPTY != 0 {
            self.thr_empty_pending = true;
        }
        self.interrupt_enable = value;
    }

    fn control_fifo(&mut self, value: u8) {
        let toggled = (value ^ self.fifo_control) & FCR_ENABLE != 0;
        if toggled || value & FCR_CLEAR_RX != 0 {
            self.received.clear();
        }
        // The other bits only count together with the enable bit.
        self.fifo_control = if value & FCR_ENABLE != 0 { value & 0xc9 } else { 0 };
    }

    fn control_modem(&mut self, value: u8) {
        self.modem_control = value;
        let lines = if self.looped() {
            // RTS -> CTS, DTR -> DSR, OUT1 -> RI, OUT2 -> DCD.
            (value & 2) << 3 | (value & 1) << 5 | (value & 4) << 4 | (value & 8) << 4
        } else {
            MSR_CONNECTED
        };
        let old = self.modem_status & 0xf0;
        let mut changed = (lines ^ old) >> 4;
        // The ring indicator only counts when it ends.
        if old & 0x40 == 0 {
            changed &= !4;
        }
        self.modem_status = lines | self.modem_status & 0xf | changed;
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn scratch_and_divisor_are_plain_registers() {
        let mut uart = Uart::default();
        uart.write(7, 0x5a);
        uart.write(3, 0x83);
        uart.write(0, 0x01);
        uart.write(1, 0x02);
        assert_eq!((uart.read(0), uart.read(1)), (1, 2));
        uart.write(3, 3);
        assert_eq!((uart.read(1), uart.read(7), uart.read(3)), (0, 0x5a, 3));
    }

    #[test]
    fn a_byte_written_leaves_and_the_transmitter_is_empty_again() {
        let mut uart = Uart::default();
        assert_eq!(uart.write(0, b'x'), Some(b'x'));
        assert_eq!(uart.read(5) & 0x60, 0x60);
    }

    #[test]
    fn the_empty_interrupt_comes_once_for_each_enable_or_byte() {
        let mut uart = Uart::default();
        uart.write(1, IER_THR_EMPTY);
        assert!(uart.interrupt());
        assert_eq!(uart.read(2), IIR_THR_EMPTY);
        assert!(!uart.interrupt());
        assert_eq!(uart.read(2), IIR_NONE);
        uart.write(0, 1);
        assert!(uart.interrupt());
    }

    #[test]
    fn received_bytes_raise_by_trigger_level_or_by_time() {
        let mut uart = Uart::default();
        uart.write(2, 0x81 | FCR_CLEAR_RX);
        uart.write(1, IER_RX);
        assert_eq!(uart.read(2), IIR_NONE | IIR_FIFO);
        for _ in 0..7 {
            uart.receive(1);
        }
        assert_eq!(uart.read(2), IIR_TIMEOUT | IIR_FIFO);
        uart.receive(2);
        assert_eq!(uart.read(2), IIR_RX | IIR_FIFO);
        assert_eq!(uart.room(), 8);
        for _ in 0..8 {
            assert_eq!(uart.read(5) & LSR_DATA, LSR_DATA);
            uart.read(0);
        }
        assert!(!uart.interrupt());
        assert_eq!(uart.read(0), 0);
    }

    #[test]
    fn an_overrun_is_reported_once() {
        let mut uart = Uart::default();
        uart.write(1, IER_LINE);
        uart.receive(1);
        uart.receive(2);
        assert_eq!(uart.read(2), IIR_LINE);
        assert_eq!(uart.read(5), LSR_DATA | LSR_OVERRUN | 0x60);
        assert_eq!(uart.read(5), LSR_DATA | 0x60);
        assert_eq!(uart.read(0), 1);
    }

    #[test]
    fn loopback_returns_bytes_and_modem_lines() {
        let mut uart = Uart::default();
        uart.write(4, MCR_LOOP | 0x0a);
        assert_eq!(uart.read(6) & 0xf0, 0x90);
        assert_eq!(uart.read(6), 0x90, "the changes were read");
        assert_eq!(uart.write(0, 0xae), None);
        assert_eq!(uart.room(), 0);
        assert_eq!(uart.read(0), 0xae);
        uart.write(4, 0);
        assert_eq!(uart.read(6) & 0xf0, MSR_CONNECTED);
    }

    proptest! {
        #[test]
        fn any_sequence_keeps_the_fifo_within_its_depth(
            steps in proptest::collection::vec((0u8..3, any::<u8>(), any::<u8>()), 0..200)
        ) {
            let mut uart = Uart::default();
            for (kind, register, value) in steps {
                match kind {
                    0 => { uart.read(register); }
                    1 => { uart.write(register, value); }
                    _ => uart.receive(value),
                }
                prop_assert!(uart.received.len() <= FIFO_DEPTH);
                prop_assert_eq!(uart.interrupt(), uart.read(2) & 1 == 0);
            }
        }
    }
}
