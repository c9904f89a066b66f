//! The registers of one port and their state machine (AHCI 1.3.1, 3.3 and 5.3).
//!
//! A guest's writes only change state here. What takes time (waiting for the disk before an engine may stop, a reset) is
//! noted as [`Port::wanted`], and the port's worker does it and reports back.

use ostler_bus::registers::Masked;

use crate::fis::{STATUS_BSY, STATUS_DRQ, Taskfile};

const COMMAND_LIST: u64 = 0x00;
const COMMAND_LIST_UPPER: u64 = 0x04;
const RECEIVED: u64 = 0x08;
const RECEIVED_UPPER: u64 = 0x0c;
const INTERRUPT_STATUS: u64 = 0x10;
const INTERRUPT_ENABLE: u64 = 0x14;
const COMMAND: u64 = 0x18;
const TASK_FILE: u64 = 0x20;
const SIGNATURE: u64 = 0x24;
const SATA_STATUS: u64 = 0x28;
const SATA_CONTROL: u64 = 0x2c;
const SATA_ERROR: u64 = 0x30;
const SATA_ACTIVE: u64 = 0x34;
const COMMAND_ISSUE: u64 = 0x38;

/// Interrupt: a register FIS came with its interrupt bit.
pub const IS_REGISTER: u32 = 1 << 0;
/// Interrupt: a PIO set-up came with its interrupt bit.
pub const IS_PIO: u32 = 1 << 1;
/// Interrupt: a set-device-bits FIS came with its interrupt bit.
pub const IS_DEVICE_BITS: u32 = 1 << 3;
/// Interrupt: the drive was exchanged. Follows PxSERR.DIAG.X.
const IS_CONNECT: u32 = 1 << 6;
/// Interrupt: the link changed. Follows PxSERR.DIAG.N.
const IS_PHY_READY: u32 = 1 << 22;
/// Interrupt: more bytes came than the list has room for.
pub const IS_OVERFLOW: u32 = 1 << 24;
/// Interrupt: the link failed, and the engine stopped.
pub const IS_INTERFACE_FATAL: u32 = 1 << 27;
/// Interrupt: a buffer is not in memory.
pub const IS_BUS_DATA: u32 = 1 << 28;
/// Interrupt: a structure is not in memory.
pub const IS_BUS_FATAL: u32 = 1 << 29;
/// Interrupt: the drive's status has its error bit.
pub const IS_TASK_FILE: u32 = 1 << 30;
/// What of the status is cleared by writing ones.
const IS_CLEARED: u32 = 0xfd80_00af;
const IE_WRITABLE: u32 = 0xfdc0_00ff;

const CMD_START: u32 = 1 << 0;
/// Spun up and powered: read-only ones without staggered spin-up.
const CMD_SPUN_UP: u32 = 0b110;
const CMD_CLEAR_BUSY: u32 = 1 << 3;
const CMD_RECEIVE: u32 = 1 << 4;
const CMD_SLOT_SHIFT: u32 = 8;
const CMD_RECEIVING: u32 = 1 << 14;
const CMD_RUNNING: u32 = 1 << 15;
/// Stored and without effect: ATAPI, activity light, partial and slumber.
const CMD_STORED: u32 = 0x0f00_0000;

const DETECT: u32 = 0xf;
const DETECT_RESET: u32 = 1;
const DETECT_OFF: u32 = 4;
/// Online, at 6 Gb/s, active.
const LINK_UP: u32 = 0x133;
const ERROR_EXCHANGED: u32 = 1 << 26;
const ERROR_PHY_READY: u32 = 1 << 16;

/// So that slot 0 has its turn first.
const LAST_SLOT: u8 = 31;

/// Status of a port that has not heard of its drive.
const NO_DRIVE: u32 = 0x7f;

/// What kind of drive a port has.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum DriveKind {
    /// An ATA disk.
    Disk,
    /// An ATAPI CD-ROM drive.
    Cdrom,
}

impl DriveKind {
    /// A short name, for metrics.
    pub fn name(self) -> &'static str {
        match self {
            Self::Disk => "sata",
            Self::Cdrom => "cdrom",
        }
    }

    /// The registers after a reset: the signature by which a driver tells the kinds apart (ATA8-ACS, 9.12).
    pub fn signature(self) -> Taskfile {
        let (lba, status) = match self {
            Self::Disk => (0x00_0001, 0x50),
            Self::Cdrom => (0xeb_1401, 0x00),
        };
        Taskfile {
            status,
            // Its diagnostics passed.
            error: 1,
            lba,
            device: 0,
            count: 1,
        }
    }
}

/// What the port's worker has to do before it looks at commands again.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Default)]
pub enum Wanted {
    /// Nothing.
    #[default]
    Nothing,
    /// Wait for what is in flight; then [`Port::stopped`].
    Stop,
    /// The same, and reset the drive; then [`Port::drive_reset`].
    Reset,
}

/// One port.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Port {
    /// The drive behind it.
    kind: Option<DriveKind>,
    command_list: u64,
    received: u64,
    status: u32,
    enable: u32,
    /// Stored bits of the command register, start and receive among them.
    command: u32,
    /// The engine runs (PxCMD.CR).
    running: bool,
    current_slot: u8,
    /// The slot that had its turn last.
    last_slot: u8,
    task_file: u32,
    signature: u32,
    sata_status: u32,
    sata_control: u32,
    sata_error: u32,
    active: u32,
    issued: u32,
    /// An error stopped the engine; a new start clears it.
    halted: bool,
    /// The drive is held in software reset.
    soft_reset: bool,
    wanted: Wanted,
    /// A register FIS for which there was no place yet.
    unposted: Option<Taskfile>,
}

impl Port {
    /// A port after power-on.
    pub fn new(kind: Option<DriveKind>) -> Self {
        let mut port = Self {
            kind,
            command_list: 0,
            received: 0,
            status: 0,
            enable: 0,
            command: 0,
            running: false,
            current_slot: 0,
            last_slot: LAST_SLOT,
            task_file: NO_DRIVE,
            signature: u32::MAX,
            sata_status: 0,
            sata_control: 0,
            sata_error: 0,
            active: 0,
            issued: 0,
            halted: false,
            soft_reset: false,
            wanted: Wanted::Nothing,
            unposted: None,
        };
        port.link_up();
        port
    }

    /// The register at `offset`.
    pub fn read(&self, offset: u64) -> u32 {
        match offset {
            COMMAND_LIST => self.command_list as u32,
            COMMAND_LIST_UPPER => (self.command_list >> 32) as u32,
            RECEIVED => self.received as u32,
            RECEIVED_UPPER => (self.received >> 32) as u32,
            INTERRUPT_STATUS => self.interrupts(),
            INTERRUPT_ENABLE => self.enable,
            COMMAND => self.command_register(),
            TASK_FILE => self.task_file,
            SIGNATURE => self.signature,
            SATA_STATUS => self.sata_status,
            SATA_CONTROL => self.sata_control,
            SATA_ERROR => self.sata_error,
            SATA_ACTIVE => self.active,
            COMMAND_ISSUE => self.issued,
            _ => 0,
        }
    }

    /// A guest's write. Returns true if the port's worker may have something to do now.
    pub fn write(&mut self, offset: u64, masked: Masked) -> bool {
        let low =
            |old: u64, align: u32| old & !0xffff_ffff | u64::from(masked.over(old as u32) & !(align - 1));
        let high = |old: u64| old & 0xffff_ffff | u64::from(masked.over((old >> 32) as u32)) << 32;
        match offset {
            COMMAND_LIST => self.command_list = low(self.command_list, 1024),
            COMMAND_LIST_UPPER => self.command_list = high(self.command_list),
            RECEIVED => self.received = low(self.received, 256),
            RECEIVED_UPPER => self.received = high(self.received),
            INTERRUPT_STATUS => self.status &= !(masked.value & IS_CLEARED),
            INTERRUPT_ENABLE => self.enable = masked.over(self.enable) & IE_WRITABLE,
            COMMAND => self.write_command(masked),
            SATA_CONTROL => self.write_sata_control(masked.over(self.sata_control)),
            SATA_ERROR => self.sata_error &= !masked.value,
            SATA_ACTIVE if self.is_started() => self.active |= masked.value,
            COMMAND_ISSUE if self.is_started() => self.issued |= masked.value,
            _ => {}
        }
        matches!(offset, COMMAND | SATA_CONTROL | COMMAND_ISSUE)
    }

    fn command_register(&self) -> u32 {
        let bit = |set: bool, bit: u32| if set { bit } else { 0 };
        self.command
            | CMD_SPUN_UP
            | bit(self.command & CMD_RECEIVE != 0, CMD_RECEIVING)
            | bit(self.running, CMD_RUNNING)
            | u32::from(self.current_slot) << CMD_SLOT_SHIFT
    }

    fn write_command(&mut self, masked: Masked) {
        let before = self.command;
        let new = masked.over(before);
        self.command = new & (CMD_START | CMD_RECEIVE | CMD_STORED);
        match (before & CMD_START != 0, self.is_started()) {
            (false, true) if self.wanted == Wanted::Nothing => self.start(),
            (true, false) => self.want(Wanted::Stop),
            _ => {}
        }
        if new & CMD_CLEAR_BUSY != 0 && !self.is_started() {
            self.task_file &= !u32::from(STATUS_BSY | STATUS_DRQ);
        }
    }

    fn write_sata_control(&mut self, new: u32) {
        let before = self.sata_control & DETECT;
        self.sata_control = new & 0xfff;
        match (before, new & DETECT) {
            (old, now) if old == now => {}
            (_, DETECT_RESET | DETECT_OFF) => {
                // The link is down until it is let go.
                self.sata_status = if new & DETECT == DETECT_OFF { DETECT_OFF } else { 0 };
                self.task_file = NO_DRIVE;
                self.halted = true;
            }
            (DETECT_RESET | DETECT_OFF, _) => {
                if self.kind.is_some() {
                    // The link is there at once, and the drive busy until it has reset itself.
                    self.sata_status = LINK_UP;
                    self.task_file = u32::from(STATUS_BSY);
                }
                self.want(Wanted::Reset);
            }
            _ => {}
        }
    }

    fn start(&mut self) {
        self.running = true;
        self.halted = self.is_held_down();
        self.current_slot = 0;
        self.last_slot = LAST_SLOT;
    }

    fn is_held_down(&self) -> bool {
        matches!(self.sata_control & DETECT, DETECT_RESET | DETECT_OFF)
    }

    /// Asks the worker for `wanted`; a port without a drive has nothing to wait for.
    fn want(&mut self, wanted: Wanted) {
        self.wanted = self.wanted.max(wanted);
        if self.kind.is_none() {
            self.stopped();
        }
    }

    fn link_up(&mut self) {
        if let (Some(kind), false) = (self.kind, self.is_held_down()) {
            self.sata_status = LINK_UP;
            self.sata_error |= ERROR_EXCHANGED;
            self.show_signature(kind.signature());
        }
    }

    fn show_signature(&mut self, signature: Taskfile) {
        self.show(&signature);
        self.signature = u32::from(signature.count as u8) | (signature.lba as u32) << 8;
        self.unposted = Some(signature);
    }

    /// Everything back to the state after power-on but the addresses, as a reset of the controller does.
    pub fn reset(&mut self) {
        let (list, received) = (self.command_list, self.received);
        *self = Self::new(self.kind);
        (self.command_list, self.received) = (list, received);
        // Something may still be in flight, and the drive has settings to forget.
        self.want(Wanted::Reset);
    }

    /// The addresses too are as after power-on.
    pub fn forget_addresses(&mut self) {
        (self.command_list, self.received) = (0, 0);
    }

    /// True if software lets the engine run (PxCMD.ST).
    pub fn is_started(&self) -> bool {
        self.command & CMD_START != 0
    }

    /// What the worker has to do.
    pub fn wanted(&self) -> Wanted {
        self.wanted
    }

    /// Nothing is in flight any more: the engine has stopped, and may have been started again.
    pub fn stopped(&mut self) {
        self.wanted = Wanted::Nothing;
        (self.issued, self.active) = (0, 0);
        self.current_slot = 0;
        self.running = false;
        if self.is_started() {
            self.start();
        }
    }

    /// The same, and the drive was reset.
    pub fn drive_reset(&mut self) {
        self.stopped();
        self.soft_reset = false;
        self.link_up();
    }

    /// The next command to look at, beside those `in_flight`: slots take turns.
    pub fn next_slot(&self, in_flight: u32) -> Option<u8> {
        let waiting = self.issued & !in_flight;
        let takes =
            self.running && !self.halted && self.wanted == Wanted::Nothing && self.sata_status == LINK_UP;
        if waiting == 0 || !takes {
            return None;
        }
        let turn = u32::from(self.last_slot) + 1;
        let ahead = waiting & u32::MAX.checked_shl(turn).unwrap_or(0);
        let from = if ahead == 0 { waiting } else { ahead };
        Some(from.trailing_zeros() as u8)
    }

    /// Guest-physical address of the command list.
    pub fn command_list(&self) -> u64 {
        self.command_list
    }

    /// Guest-physical address of the received FIS, while they are received.
    pub fn received(&self) -> Option<u64> {
        (self.command & CMD_RECEIVE != 0).then_some(self.received)
    }

    /// The register FIS that could not be received before, if it can be now.
    pub fn take_unposted(&mut self) -> Option<Taskfile> {
        self.received().and(self.unposted.take())
    }

    /// The command in `slot` starts and makes the drive busy.
    pub fn begin(&mut self, slot: u8) {
        self.turn(slot);
        self.task_file |= u32::from(STATUS_BSY);
    }

    /// The drive has taken the queued command in `slot`, and is ready for the next.
    pub fn accept(&mut self, slot: u8, end: &Taskfile) {
        self.turn(slot);
        self.issued &= !(1 << slot);
        self.show(end);
    }

    /// The command in `slot` is over.
    pub fn finish(&mut self, slot: u8, end: &Taskfile, causes: u32) {
        self.issued &= !(1 << slot);
        self.show(end);
        self.status |= causes;
    }

    /// The queued command with `tag` is over.
    pub fn finish_queued(&mut self, tag: u8, end: &Taskfile, causes: u32) {
        self.active &= !(1 << tag);
        // A set-device-bits FIS leaves BSY and DRQ as they are.
        let kept = self.task_file & u32::from(STATUS_BSY | STATUS_DRQ);
        self.show(end);
        self.task_file |= kept;
        self.status |= causes;
    }

    /// The command in `slot` failed: the engine takes no more until it is started anew (AHCI 1.3.1, 6.2.2).
    pub fn fail(&mut self, slot: u8, end: Option<&Taskfile>, causes: u32) {
        self.current_slot = slot;
        match end {
            Some(end) => self.show(end),
            None => self.task_file &= !u32::from(STATUS_BSY),
        }
        self.status |= causes;
        self.halted = true;
    }

    /// The control register was written through the command list: a software reset begins, or ends.
    ///
    /// Returns true at its end: the drive has to be reset, and its signature shown by [`Port::soft_reset_done`].
    pub fn control(&mut self, slot: u8, reset: bool) -> bool {
        self.turn(slot);
        self.issued &= !(1 << slot);
        let ends = self.soft_reset && !reset;
        self.soft_reset = reset;
        if reset {
            self.task_file |= u32::from(STATUS_BSY);
        } else {
            self.task_file &= !u32::from(STATUS_BSY);
        }
        ends
    }

    /// The drive was reset by software.
    pub fn soft_reset_done(&mut self) {
        if let Some(kind) = self.kind {
            self.show_signature(kind.signature());
        }
    }

    /// True if an error has stopped the engine.
    pub fn is_halted(&self) -> bool {
        self.halted
    }

    /// True while the drive is held in software reset.
    pub fn in_soft_reset(&self) -> bool {
        self.soft_reset
    }

    fn turn(&mut self, slot: u8) {
        self.current_slot = slot;
        self.last_slot = slot;
    }

    fn show(&mut self, end: &Taskfile) {
        self.task_file = u32::from(end.status) | u32::from(end.error) << 8;
    }

    /// The interrupt status.
    pub fn interrupts(&self) -> u32 {
        let follows = |error: u32, cause: u32| if self.sata_error & error != 0 { cause } else { 0 };
        self.status | follows(ERROR_EXCHANGED, IS_CONNECT) | follows(ERROR_PHY_READY, IS_PHY_READY)
    }

    /// True if software wants to hear of a cause that is there.
    pub fn interrupt_pending(&self) -> bool {
        self.interrupts() & self.enable != 0
    }
}
