//! A port's worker: fetches commands from guest memory, has the disk do the work, and answers.
//!
//! One thread a drive: none waits for another's disk. Commands of the drive's queue (NCQ) are in flight together; any other
//! has the drive for itself. What takes long (a read, a write, a flush, a TRIM) goes to the disk's queue; everything else is
//! answered at once. What management wants of a CD-ROM drive's tray is done when nothing is in flight.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use ostler_disk::{Completion, Disk, DiskQueue, Op, RequestError};
use ostler_memory::IoBuf;
use ostler_worker::{DeviceMetrics, EventLoop, clear};
use vmm_sys_util::eventfd::EventFd;

use crate::Error;
use crate::command::{Link, Work};
use crate::drive::{Drive, medium_size};
use crate::fis::{
    CONTROL_SRST, ERROR_ABRT, ERROR_IDNF, REGISTER_LEN, Registers, STATUS_DRDY, STATUS_DSC, Taskfile,
};
use crate::port::{
    DriveKind, IS_BUS_DATA, IS_BUS_FATAL, IS_DEVICE_BITS, IS_INTERFACE_FATAL, IS_OVERFLOW, IS_PIO,
    IS_REGISTER, IS_TASK_FILE, Wanted,
};
use crate::prdt::{Fault, Header, Scatter, store_byte_count};
use crate::shared::{Received, Shared};
use crate::tray::{Order, TrayError};

const STOP: u64 = 0;
const DISK: u64 = 1;
const DOORBELL: u64 = 2;

/// Slots of a port, and so commands in flight at most.
const SLOTS: usize = 32;
/// Commands taken before completions have their turn.
const BATCH: usize = 32;
/// Requests that the disk works on at a time.
const DEPTH: u32 = 32;

/// Bytes that a PIO set-up announces.
const PIO_BLOCK: u64 = 512;
/// Lengths of a FIS with a command, in dwords.
const LEAST_FIS_DWORDS: u8 = 5;
const MOST_FIS_DWORDS: u8 = 16;

/// What a command in flight waits for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
enum Stage {
    /// The slot is free.
    #[default]
    Free,
    Read,
    Write {
        /// A flush follows.
        durable: bool,
    },
    Flush,
    Trim,
}

/// A command in flight.
#[derive(Default)]
struct Flight {
    stage: Stage,
    command: Registers,
    link: Option<Link>,
    /// Its data move to the guest.
    to_host: bool,
    /// Operations of the disk that are still to complete.
    pending: u32,
    failed: Option<RequestError>,
    /// Bytes that it moves.
    len: u64,
    scatter: Scatter,
}

/// How far the worker got.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Round {
    /// There is nothing to do until something happens.
    Idle,
    /// There is more.
    More,
}

pub(crate) struct PortWorker {
    port: usize,
    // Dropped before what its requests point into.
    disk_queue: Option<Box<dyn DiskQueue>>,
    drive: Drive,
    flights: Vec<Flight>,
    shared: Arc<Shared>,
    metrics: Arc<DeviceMetrics>,
    events: EventLoop,
    completions: Vec<Completion>,
}

/// Tells whoever waits for a worker that there is none any more, however it ended.
struct Presence<'a>(&'a Shared, usize);

impl Drop for Presence<'_> {
    fn drop(&mut self) {
        self.0.doorbells[self.1].abandoned.store(true, Ordering::Release);
    }
}

impl PortWorker {
    /// A worker for `port` with its drive and the disk behind it, if there is one.
    pub fn new(
        port: usize,
        drive: Drive,
        disk: Option<&dyn Disk>,
        shared: Arc<Shared>,
    ) -> Result<Self, Error> {
        let events = EventLoop::new()?;
        let disk_queue = open_queue(&events, disk)?;
        if let Drive::Cdrom(cdrom) = &drive {
            shared.trays[port].show(cdrom.tray());
        }
        events.add(&shared.doorbells[port].event, DOORBELL)?;
        shared.doorbells[port].abandoned.store(false, Ordering::Release);
        Ok(Self {
            port,
            disk_queue,
            drive,
            flights: (0..SLOTS).map(|_| Flight::default()).collect(),
            metrics: shared.metrics[port].clone(),
            shared,
            events,
            completions: Vec::new(),
        })
    }

    /// Works until `stop` is signalled; then waits for what is in flight.
    pub fn run(mut self, stop: &EventFd) {
        let shared = self.shared.clone();
        let _presence = Presence(&shared, self.port);
        if let Err(error) = self.events.add(stop, STOP) {
            tracing::error!("a SATA worker cannot run: {error}");
            return;
        }
        let mut tokens = Vec::new();
        loop {
            let more = self.work() == Round::More || self.poll();
            if let Err(error) = self.events.wait(more.then_some(Duration::ZERO), &mut tokens) {
                tracing::error!("a SATA worker ends: {error}");
                return;
            }
            for token in &tokens {
                match *token {
                    STOP => return self.abandon(),
                    // Clears the event, which may come late: after the last completion was taken.
                    DISK => {
                        if let Some(queue) = &mut self.disk_queue {
                            queue.complete(&mut self.completions);
                        }
                    }
                    _ => {
                        clear(&self.shared.doorbells[self.port].event);
                        DeviceMetrics::add(&self.metrics.kicks, 1);
                    }
                }
            }
        }
    }

    /// Looks for a short while whether something turns up before it sleeps.
    fn poll(&mut self) -> bool {
        let Self {
            events,
            disk_queue,
            completions,
            shared,
            port,
            ..
        } = self;
        events.poll(|| {
            if let Some(queue) = disk_queue
                && queue.in_flight() > 0
            {
                queue.complete(completions);
            }
            !completions.is_empty() || shared.doorbells[*port].rung.load(Ordering::Acquire)
        })
    }

    /// Answers what the disk finished, and takes what the guest issued.
    fn work(&mut self) -> Round {
        self.shared.doorbells[self.port]
            .rung
            .store(false, Ordering::Release);
        self.complete();
        self.post_signature();
        let wanted = self.shared.hba().port(self.port).wanted();
        if wanted != Wanted::Nothing {
            self.stop(wanted);
        }
        if !self.obey() {
            return Round::Idle;
        }
        for _ in 0..BATCH {
            let in_flight = self.in_flight();
            let slot = self.shared.hba().port(self.port).next_slot(in_flight);
            let taken = slot.is_some_and(|slot| self.take(slot));
            if !taken {
                self.submit();
                return Round::Idle;
            }
        }
        self.submit();
        Round::More
    }

    fn submit(&mut self) {
        if let Some(queue) = &mut self.disk_queue {
            queue.submit();
        }
    }

    /// Does what management wants of the tray, or false while that has to wait for what is in flight.
    fn obey(&mut self) -> bool {
        if self.drive.kind() != DriveKind::Cdrom || !self.shared.trays[self.port].is_ordered() {
            return true;
        }
        if self.in_flight() != 0 {
            return false;
        }
        if let Some(order) = self.shared.trays[self.port].take_order() {
            let done = self.carry_out(order);
            if let Drive::Cdrom(cdrom) = &self.drive {
                self.shared.trays[self.port].answer(cdrom.tray(), done);
            }
        }
        true
    }

    fn carry_out(&mut self, order: Order) -> Result<(), TrayError> {
        let Drive::Cdrom(cdrom) = &mut self.drive else {
            return Err(TrayError::Gone);
        };
        if order.medium.is_some() && order.open.is_none() && !cdrom.tray().open {
            return Err(TrayError::Closed);
        }
        // What can fail comes before anything is changed.
        let queue = match &order.medium {
            Some(medium) => Some(open_queue(&self.events, medium.as_deref())?),
            None => None,
        };
        if let Some(force) = order.open
            && !cdrom.open_from_outside(force)
        {
            if let Some(Some(unused)) = queue {
                forget_queue(&self.events, &*unused);
            }
            return Err(TrayError::Locked);
        }
        if let (Some(queue), Some(medium)) = (queue, order.medium) {
            if let Some(old) = std::mem::replace(&mut self.disk_queue, queue) {
                forget_queue(&self.events, &*old);
            }
            cdrom.lay(medium.as_deref().map(medium_size));
        }
        if order.close {
            cdrom.close_tray();
        }
        Ok(())
    }

    /// Tells outside how the guest left its tray.
    fn show_tray(&self) {
        if let Drive::Cdrom(cdrom) = &self.drive {
            self.shared.trays[self.port].show(cdrom.tray());
        }
    }

    /// A bit for each slot in flight.
    fn in_flight(&self) -> u32 {
        let busy = self.flights.iter().enumerate();
        busy.filter(|(_, flight)| flight.stage != Stage::Free)
            .fold(0, |bits, (slot, _)| bits | 1 << slot)
    }

    /// True if a command that is not queued has the drive for itself.
    fn is_busy(&self) -> bool {
        let mut busy = self.flights.iter().filter(|flight| flight.stage != Stage::Free);
        busy.any(|flight| !matches!(flight.link, Some(Link::Queued(_))))
    }

    /// A signature that came before the guest received FIS.
    fn post_signature(&mut self) {
        let mut hba = self.shared.hba();
        let port = hba.port_mut(self.port);
        if let Some(signature) = port.take_unposted() {
            let area = port.received();
            self.shared.receive(area, Received::Register(signature, false));
        }
    }

    /// Waits for what is in flight, forgets it, and reports that the engine stands still.
    fn stop(&mut self, wanted: Wanted) {
        self.abandon();
        if wanted == Wanted::Reset {
            self.drive.reset(true);
            self.show_tray();
        }
        let mut hba = self.shared.hba();
        let port = hba.port_mut(self.port);
        // It may have become more meanwhile; then there is another round, with nothing in flight.
        match (wanted, port.wanted()) {
            (Wanted::Stop, Wanted::Stop) => port.stopped(),
            (Wanted::Reset, _) => port.drive_reset(),
            _ => {
                drop(hba);
                return self.stop(Wanted::Reset);
            }
        }
        self.shared.settle(&mut hba);
        drop(hba);
        self.post_signature();
    }

    fn abandon(&mut self) {
        if let Some(queue) = &mut self.disk_queue {
            queue.drain(&mut self.completions);
        }
        self.completions.clear();
        for flight in &mut self.flights {
            // What was read into memory was written there, whether or not the guest learns of it.
            if flight.stage == Stage::Read {
                flight.scatter.mark_written(&self.shared.ram);
            }
            (flight.stage, flight.pending) = (Stage::Free, 0);
        }
    }

    /// Takes the command in `slot`. False if it has to wait for what is in flight.
    fn take(&mut self, slot: u8) -> bool {
        if self.is_busy() {
            return false;
        }
        match self.fetch(slot) {
            Ok((header, command)) => self.dispatch(slot, &header, &command),
            Err(Fault::Structure) => self.fail(slot, None, IS_BUS_FATAL),
            Err(Fault::Data | Fault::Short) => self.fail(slot, None, IS_INTERFACE_FATAL),
        }
    }

    /// Fetches header and FIS of `slot`.
    fn fetch(&self, slot: u8) -> Result<(Header, Registers), Fault> {
        let list = self.shared.hba().port(self.port).command_list();
        let ram = &self.shared.ram;
        let header = Header::fetch(ram, list, slot)?;
        let fis = header.fetch_fis::<REGISTER_LEN>(ram)?;
        let length = LEAST_FIS_DWORDS..=MOST_FIS_DWORDS;
        // The drive takes no FIS of another length or type.
        match Registers::parse(&fis) {
            Some(command) if length.contains(&header.fis_dwords) => Ok((header, command)),
            _ => Err(Fault::Data),
        }
    }

    fn dispatch(&mut self, slot: u8, header: &Header, command: &Registers) -> bool {
        // A drive that is held in reset answers nothing.
        if command.is_command && self.shared.hba().port(self.port).in_soft_reset() {
            return self.fail(slot, None, IS_INTERFACE_FATAL);
        }
        if self.drive.is_queued(command) && command.is_command {
            return self.take_queued(slot, header, command);
        }
        if self.in_flight() != 0 {
            return false;
        }
        if !command.is_command {
            self.control(slot, command.control & CONTROL_SRST != 0);
            return true;
        }
        let packet = match self.fetch_packet(header, command) {
            Ok(packet) => packet,
            Err(_) => return self.fail(slot, None, IS_BUS_FATAL),
        };
        self.shared.hba().port_mut(self.port).begin(slot);
        let work = self.drive.start(command, packet.as_ref());
        self.show_tray();
        self.begin(slot, header, command, work)
    }

    fn fetch_packet(&self, header: &Header, command: &Registers) -> Result<Option<[u8; 16]>, Fault> {
        if header.atapi && self.drive.wants_packet(command) {
            return header.fetch_packet(&self.shared.ram).map(Some);
        }
        Ok(None)
    }

    /// Takes a command of the drive's queue: the drive is free for the next at once.
    fn take_queued(&mut self, slot: u8, header: &Header, command: &Registers) -> bool {
        let tag = (command.count >> 3) as u8 & 0x1f;
        let work = match self.drive.start(command, None) {
            // The list of a command is found by its tag: it has to be that of its slot (AHCI 1.3.1, 5.6.4.1).
            _ if tag != slot => Work::Done(Taskfile::failed(command, ERROR_ABRT)),
            work => work,
        };
        let accepted = Taskfile {
            status: STATUS_DRDY | STATUS_DSC,
            ..Taskfile::default()
        };
        if !matches!(work, Work::Done(_)) {
            let mut hba = self.shared.hba();
            let port = hba.port_mut(self.port);
            let area = port.received();
            self.shared.receive(area, Received::Register(accepted, false));
            port.accept(slot, &accepted);
        }
        self.begin(slot, header, command, work)
    }

    /// The control register: a software reset, or nothing.
    fn control(&mut self, slot: u8, reset: bool) {
        let mut hba = self.shared.hba();
        let port = hba.port_mut(self.port);
        if port.control(slot, reset) {
            self.drive.reset(false);
            self.show_tray();
            port.soft_reset_done();
        }
        self.shared.settle(&mut hba);
        drop(hba);
        self.post_signature();
    }

    /// Begins the work of a command. Returns false if the engine stopped over it.
    fn begin(&mut self, slot: u8, header: &Header, command: &Registers, work: Work) -> bool {
        let flight = &mut self.flights[usize::from(slot)];
        (flight.command, flight.failed, flight.pending, flight.len) = (*command, None, 0, 0);
        flight.link = None;
        flight.to_host = matches!(work, Work::Send { .. } | Work::Read { .. });
        let len = match &work {
            Work::Done(_) | Work::Flush => 0,
            Work::Send { data, .. } => data.len() as u64,
            Work::Read { len, .. } | Work::Write { len, .. } | Work::Trim { len } => *len,
        };
        if let Work::Read { link, .. } | Work::Write { link, .. } | Work::Send { link, .. } = &work {
            flight.link = Some(*link);
        }
        if let Err(fault) = flight.scatter.collect(&self.shared.ram, header, len) {
            return self.refuse(slot, command, fault);
        }
        match work {
            Work::Done(end) => return self.answer(slot, 0, end),
            Work::Send { data, .. } => {
                if flight.scatter.write(&self.shared.ram, &data).is_err() {
                    return self.refuse(slot, command, Fault::Data);
                }
                let end = self.drive.ended(command);
                return self.answer(slot, len, end);
            }
            Work::Read { offset, .. } => {
                flight.stage = Stage::Read;
                self.push(slot, |buffers| Op::Read { offset, buffers });
            }
            Work::Write { offset, durable, .. } => {
                flight.stage = Stage::Write { durable };
                self.push(slot, |buffers| Op::Write { offset, buffers });
            }
            Work::Flush => {
                flight.stage = Stage::Flush;
                self.push(slot, |_| Op::Flush);
            }
            Work::Trim { .. } => return self.trim(slot, command, len),
        }
        self.flights[usize::from(slot)].len = len;
        true
    }

    /// The buffers of a command cannot be used.
    fn refuse(&mut self, slot: u8, command: &Registers, fault: Fault) -> bool {
        match fault {
            Fault::Structure => self.fail(slot, None, IS_BUS_FATAL),
            Fault::Data => self.fail(slot, None, IS_BUS_DATA),
            Fault::Short => {
                let end = Taskfile::failed(command, ERROR_ABRT);
                self.fail(slot, Some(end), IS_OVERFLOW | IS_TASK_FILE)
            }
        }
    }

    /// Reads the list of a TRIM, and asks the disk for each range.
    fn trim(&mut self, slot: u8, command: &Registers, len: u64) -> bool {
        let mut list = vec![0; len as usize];
        let flight = &mut self.flights[usize::from(slot)];
        if flight.scatter.read(&self.shared.ram, &mut list).is_err() {
            return self.refuse(slot, command, Fault::Data);
        }
        let Some(ranges) = self.drive.trim_ranges(&list) else {
            return self.answer(slot, len, Taskfile::failed(command, ERROR_IDNF));
        };
        if ranges.is_empty() {
            return self.answer(slot, len, Taskfile::ready(command));
        }
        flight.stage = Stage::Trim;
        flight.len = len;
        for (offset, len) in ranges {
            self.push(slot, |_| Op::Discard { offset, len });
        }
        true
    }

    /// Hands one operation of the command in `slot` to the disk.
    fn push(&mut self, slot: u8, op: impl for<'a> FnOnce(&'a [IoBuf]) -> Op<'a>) {
        let flight = &mut self.flights[usize::from(slot)];
        let token = u64::from(slot) | u64::from(flight.pending) << 32;
        flight.pending += 1;
        let op = op(flight.scatter.buffers());
        let Some(queue) = &mut self.disk_queue else {
            // The drive gives no work without a medium; if it did, that would fail.
            let result = Err(RequestError::OutOfRange);
            self.completions.push(Completion { token, result });
            return;
        };
        // SAFETY: the buffers lie in mappings of guest RAM that `self.shared` keeps alive. The disk queue is drained by
        // `abandon` or dropped, which waits for what is in flight, before `self.shared` goes: fields are dropped in order
        // of declaration.
        unsafe { queue.push(token, op) };
    }

    /// Answers what the disk finished.
    fn complete(&mut self) {
        if let Some(queue) = &mut self.disk_queue
            && queue.in_flight() > 0
        {
            queue.complete(&mut self.completions);
        }
        let mut completions = std::mem::take(&mut self.completions);
        for completion in completions.drain(..) {
            let slot = completion.token as u8;
            let Some(flight) = self.flights.get_mut(usize::from(slot)) else {
                continue;
            };
            flight.pending = flight.pending.saturating_sub(1);
            if let Err(error) = completion.result {
                flight.failed = Some(error);
                DeviceMetrics::add(&self.metrics.errors, 1);
                tracing::debug!("a SATA request failed: {error}");
            }
            if flight.pending == 0 {
                self.next_stage(slot);
            }
        }
        self.completions = completions;
        self.submit();
    }

    /// All operations of a stage are done: the next one, or the answer.
    fn next_stage(&mut self, slot: u8) {
        let flight = &mut self.flights[usize::from(slot)];
        let (command, len) = (flight.command, flight.len);
        let write = !matches!(flight.stage, Stage::Read);
        match (flight.stage, flight.failed) {
            (Stage::Free, _) => return,
            (Stage::Write { durable: true }, None) => {
                flight.stage = Stage::Flush;
                return self.push(slot, |_| Op::Flush);
            }
            _ => {}
        }
        match flight.stage {
            Stage::Read => {
                // Of a read that failed some bytes may have come.
                flight.scatter.mark_written(&self.shared.ram);
                DeviceMetrics::add(&self.metrics.bytes_to_guest, len);
            }
            Stage::Write { .. } | Stage::Trim => DeviceMetrics::add(&self.metrics.bytes_from_guest, len),
            _ => {}
        }
        flight.stage = Stage::Free;
        let end = match flight.failed {
            Some(error) => self.drive.failed(&command, write, error),
            None => self.drive.ended(&command),
        };
        self.answer(slot, len, end);
    }

    /// Answers the command in `slot`, which has moved `len` bytes. False if that was an error, over which the engine stops.
    fn answer(&mut self, slot: u8, len: u64, end: Taskfile) -> bool {
        let halted = self.shared.hba().port(self.port).is_halted();
        if halted {
            // Another command failed meanwhile: the driver gives all of them again.
            return false;
        }
        DeviceMetrics::add(&self.metrics.requests, 1);
        let flight = &self.flights[usize::from(slot)];
        let queued = self.drive.is_queued(&flight.command);
        let link = flight.link;
        if queued && end.is_error() {
            self.drive.note_queued_error(slot, end);
        }
        if end.is_error() {
            return self.fail(slot, Some(end), IS_TASK_FILE);
        }
        let to_host = flight.to_host;
        let block = len.min(PIO_BLOCK) as u16;
        let mut hba = self.shared.hba();
        let port = hba.port_mut(self.port);
        let (area, list) = (port.received(), port.command_list());
        // A queued command has its byte count written only by errors (AHCI 1.3.1, 5.4.1).
        if !queued {
            store_byte_count(&self.shared.ram, list, slot, len as u32);
        }
        let mut good = true;
        match link {
            Some(Link::Queued(tag)) => {
                good &= self.shared.receive(area, Received::DeviceBits(end, 1 << tag));
                port.finish_queued(tag, &end, IS_DEVICE_BITS);
            }
            Some(Link::Pio) if to_host => {
                good &= self.shared.receive(area, Received::PioSetup(end, true, block));
                port.finish(slot, &end, IS_PIO);
            }
            _ => {
                if link == Some(Link::Pio) {
                    good &= self.shared.receive(area, Received::PioSetup(end, false, block));
                }
                good &= self.shared.receive(area, Received::Register(end, true));
                port.finish(slot, &end, IS_REGISTER);
            }
        }
        if !good {
            port.fail(slot, None, IS_BUS_FATAL);
        }
        DeviceMetrics::add(&self.metrics.interrupts, 1);
        self.shared.settle(&mut hba);
        good
    }

    /// The command in `slot` failed: the engine stands still until the driver starts it anew. Always false.
    fn fail(&mut self, slot: u8, end: Option<Taskfile>, mut causes: u32) -> bool {
        self.flights[usize::from(slot)].stage = Stage::Free;
        let mut hba = self.shared.hba();
        let port = hba.port_mut(self.port);
        if let Some(end) = end {
            let area = port.received();
            // A queued command that the drive had taken ends by its tag; any other, or one refused, by the registers.
            let (fis, cause) = match self.flights[usize::from(slot)].link {
                Some(Link::Queued(_)) => (Received::DeviceBits(end, 0), IS_DEVICE_BITS),
                _ => (Received::Register(end, true), IS_REGISTER),
            };
            self.shared.receive(area, fis);
            causes |= cause;
        }
        port.fail(slot, end.as_ref(), causes);
        self.shared.settle(&mut hba);
        false
    }
}

/// A queue of the disk, if there is one, among what is waited for.
fn open_queue(events: &EventLoop, disk: Option<&dyn Disk>) -> Result<Option<Box<dyn DiskQueue>>, Error> {
    let Some(disk) = disk else { return Ok(None) };
    let queue = disk.open_queue(DEPTH)?;
    events.add(queue.event(), DISK)?;
    Ok(Some(queue))
}

/// A queue is waited for no more.
fn forget_queue(events: &EventLoop, queue: &dyn DiskQueue) {
    if let Err(error) = events.remove(queue.event()) {
        tracing::debug!("a queue of a medium that is gone: {error}");
    }
}
