//! A VM's synthetic interrupts: the book of connections, and what KVM has to know of it.
//!
//! KVM has the controllers, raises their sources by GSIs, and signals an event for HvSignalEvent. It leaves messages to us, and what
//! becomes of events. That a guest took a message out of its slot it tells to nobody where the interrupt controller is split
//! (an irqfd with a second event is refused there): while there are connections for messages, the guest's writes of that
//! register leave to user mode.

use std::collections::btree_map::Entry;
use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use kvm_bindings::{KVM_CAP_X86_USER_SPACE_MSR, KVM_MSR_EXIT_REASON_FILTER, kvm_enable_cap};
use kvm_ioctls::{MsrFilterDefaultAction, MsrFilterRange, MsrFilterRangeFlags, VcpuFd, VmFd};
use ostler_accel::{Error, Msr, SyntheticConnection as Connection, SyntheticSource as Source};
use ostler_memory::vm_memory::bitmap::BS;
use ostler_memory::vm_memory::{Bytes, VolatileMemory, VolatileSlice};
use ostler_memory::{PageTracker, RamSlot};
use vmm_sys_util::eventfd::{EFD_NONBLOCK, EventFd};

use super::book::Book;
use super::calls::{self, Call};
use super::listener::Listener;
use super::pages::PAGE;
use crate::kick::Kickers;
use crate::routes::Routes;
use crate::state;
use crate::sys;
use crate::vm::Shared;

/// The registers of a controller: its switch, the places of its pages (bit 0: there is one), and the end of a message.
const CONTROL: u32 = 0x4000_0080;
const EVENT_PAGE: u32 = 0x4000_0082;
const MESSAGE_PAGE: u32 = 0x4000_0083;
pub const END_OF_MESSAGE: u32 = 0x4000_0084;

/// The synthetic interrupts of one VM.
pub struct Synic {
    office: Arc<Office>,
    /// Who changes connections holds this first, and within it the book's lock or that of the routes, one at a time.
    wiring: Mutex<Wiring>,
}

/// What the listener's thread needs, too.
struct Office {
    book: Mutex<Book>,
    kickers: Arc<Kickers>,
}

/// What KVM knows of the book.
#[derive(Default)]
struct Wiring {
    /// Signalled to raise a source.
    sources: BTreeMap<Source, EventFd>,
    /// Signalled by KVM, by connection.
    events: BTreeMap<u32, EventFd>,
    listener: Option<Listener>,
    /// Ends of messages come to user mode.
    hears_ends: bool,
}

impl Office {
    fn book(&self) -> MutexGuard<'_, Book> {
        self.book.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn signal(&self, connection: u32, flag: u16) -> Result<(), calls::Status> {
        let vcpu = self.book().signal(connection, flag)?;
        self.kickers.bring_mail(vcpu);
        Ok(())
    }

    fn post(&self, connection: u32, message: super::pages::Message) -> Result<(), calls::Status> {
        let vcpu = self.book().post(connection, message)?;
        self.kickers.bring_mail(vcpu);
        Ok(())
    }
}

impl Synic {
    /// No sources and no connections.
    pub fn new(kickers: Arc<Kickers>) -> Self {
        let book = Mutex::default();
        Self {
            office: Arc::new(Office { book, kickers }),
            wiring: Mutex::default(),
        }
    }

    /// The vCPU `id` has a controller.
    pub fn add_vcpu(&self, id: u32) {
        self.office.book().add_vcpu(id);
    }

    /// Opens a source to be raised.
    pub fn open(&self, vm: &VmFd, routes: &Routes, source: Source) -> Result<(), Error> {
        self.change(vm, routes, |book| book.open(source), |book| book.close(source))
    }

    /// Closes it.
    pub fn close(&self, vm: &VmFd, routes: &Routes, source: Source) {
        self.end(vm, routes, |book| book.close(source));
    }

    /// Makes a connection.
    pub fn connect(&self, vm: &VmFd, routes: &Routes, it: Connection, to: Source) -> Result<(), Error> {
        self.change(
            vm,
            routes,
            |book| book.connect(it, to),
            |book| book.disconnect(it),
        )
    }

    /// Ends it.
    pub fn disconnect(&self, vm: &VmFd, routes: &Routes, it: Connection) {
        self.end(vm, routes, |book| book.disconnect(it));
    }

    /// Raises a source that is open.
    pub fn raise(&self, source: Source) {
        let is_open = self.office.book().is_open(source);
        if is_open {
            self.wiring().ring(&[source]);
        }
    }

    /// Writes a change into the book and has KVM know of it; what KVM refuses is undone.
    fn change(
        &self,
        vm: &VmFd,
        routes: &Routes,
        change: impl FnOnce(&mut Book) -> Result<(), Error>,
        undo: impl FnOnce(&mut Book),
    ) -> Result<(), Error> {
        let mut wiring = self.wiring();
        change(&mut self.office.book())?;
        let done = wiring.follow(vm, routes, &self.office);
        if done.is_err() {
            undo(&mut self.office.book());
            let _ = wiring.follow(vm, routes, &self.office);
        }
        done.map_err(|e| Error::host("connect a source of synthetic interrupts", e))
    }

    fn end(&self, vm: &VmFd, routes: &Routes, change: impl FnOnce(&mut Book)) {
        let mut wiring = self.wiring();
        change(&mut self.office.book());
        if let Err(error) = wiring.follow(vm, routes, &self.office) {
            tracing::debug!(%error, "a source of synthetic interrupts was not disconnected");
        }
    }

    fn wiring(&self) -> MutexGuard<'_, Wiring> {
        self.wiring.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Wiring {
    /// Makes KVM know what the book says.
    fn follow(&mut self, vm: &VmFd, routes: &Routes, office: &Arc<Office>) -> io::Result<()> {
        let (sources, events, messages) = {
            let book = office.book();
            (book.sources(), book.events(), book.takes_messages())
        };
        self.follow_sources(vm, routes, sources)?;
        let old: Vec<u32> = self.events.keys().copied().collect();
        for connection in old.into_iter().filter(|old| !events.contains(old)) {
            self.deafen(vm, connection)?;
        }
        for connection in events {
            if !self.events.contains_key(&connection) {
                self.hear(vm, connection, office)?;
            }
        }
        if messages != self.hears_ends {
            hear_ends(vm, messages)?;
            self.hears_ends = messages;
        }
        Ok(())
    }

    fn follow_sources(&mut self, vm: &VmFd, routes: &Routes, wanted: BTreeSet<Source>) -> io::Result<()> {
        let gone = self.sources.extract_if(.., |source, _| !wanted.contains(source));
        for (source, event) in gone {
            routes.disconnect_synthetic(vm, &event, source)?;
        }
        for source in wanted {
            if let Entry::Vacant(place) = self.sources.entry(source) {
                let event = EventFd::new(EFD_NONBLOCK)?;
                routes.connect_synthetic(vm, &event, source)?;
                place.insert(event);
            }
        }
        Ok(())
    }

    fn hear(&mut self, vm: &VmFd, connection: u32, office: &Arc<Office>) -> io::Result<()> {
        let event = EventFd::new(EFD_NONBLOCK)?;
        let listener = match &mut self.listener {
            Some(listener) => listener,
            none => {
                let office = office.clone();
                // A connection may end while its event is on the way.
                let heard = move |connection| {
                    let _ = office.signal(connection, 0);
                };
                none.insert(Listener::start(heard)?)
            }
        };
        listener.add(connection, &event)?;
        sys::hyperv_eventfd(vm, connection, Some(&event))?;
        self.events.insert(connection, event);
        Ok(())
    }

    fn deafen(&mut self, vm: &VmFd, connection: u32) -> io::Result<()> {
        if let (Some(event), Some(listener)) = (self.events.remove(&connection), &self.listener) {
            listener.remove(&event);
            sys::hyperv_eventfd(vm, connection, None)?;
        }
        Ok(())
    }

    fn ring(&self, sources: &[Source]) {
        for source in sources {
            // It fails when nobody took the last 2^64 - 2 of them.
            let _ = self.sources.get(source).map(|event| event.write(1));
        }
    }
}

/// Has the guests' writes of the end of a message come to user mode, or no more.
fn hear_ends(vm: &VmFd, on: bool) -> io::Result<()> {
    vm.enable_cap(&kvm_enable_cap {
        cap: KVM_CAP_X86_USER_SPACE_MSR,
        args: [KVM_MSR_EXIT_REASON_FILTER.into(), 0, 0, 0],
        ..Default::default()
    })?;
    // KVM reads whole words.
    let denied = [0; 8];
    let range = MsrFilterRange {
        flags: MsrFilterRangeFlags::WRITE,
        base: END_OF_MESSAGE,
        msr_count: 1,
        bitmap: &denied,
    };
    let ranges: &[_] = if on { &[range] } else { &[] };
    Ok(vm.set_msr_filter(MsrFilterDefaultAction::ALLOW, ranges)?)
}

/// What the hypercall with this input value and parameter answers.
pub fn answer(vm: &Shared, input: u64, parameter: u64) -> u64 {
    let read = |gpa: u64, bytes: &mut [u8]| {
        let slot = vm.ram(gpa, bytes.len());
        slot.is_some_and(|(slot, offset)| {
            let memory = slot.mapping.get_slice(offset, bytes.len());
            memory.is_ok_and(|memory| memory.read_slice(bytes, 0).is_ok())
        })
    };
    vm.synic.office.answer(input, parameter, read)
}

impl Office {
    fn answer(&self, input: u64, parameter: u64, read: impl FnOnce(u64, &mut [u8]) -> bool) -> calls::Status {
        if !calls::names_connection(input) {
            return calls::INVALID_CALL;
        }
        if self.book().is_empty() {
            return calls::INVALID_CONNECTION;
        }
        let done = match calls::parse(input, parameter, read) {
            Ok(Call::Post { connection, message }) => self.post(connection, message),
            Ok(Call::Signal { connection, flag }) => self.signal(connection, flag),
            Err(status) => Err(status),
        };
        done.err().unwrap_or(calls::SUCCESS)
    }
}

/// Delivers what waits for the vCPU `id`, on its own thread.
pub fn deliver(fd: &VcpuFd, vm: &Shared, id: u32) -> Result<(), Error> {
    let Synic { office, .. } = &vm.synic;
    let waits = office.book().waits_for(id);
    if !waits {
        return Ok(());
    }
    // KVM is asked, and not remembered what it said: the registers may have come with a state.
    let registers = state::read_msrs(fd, &[CONTROL, MESSAGE_PAGE, EVENT_PAGE])?;
    let page = |index| page(&registers, index).and_then(|gpa| vm.ram(gpa, PAGE));
    let (messages, events) = (page(MESSAGE_PAGE), page(EVENT_PAGE));
    let (messages, events) = (slice(&messages), slice(&events));
    let due = office.book().deliver(id, messages.as_ref(), events.as_ref());
    if !due.is_empty() {
        vm.synic.wiring().ring(&due);
    }
    Ok(())
}

fn slice(page: &Option<(RamSlot, usize)>) -> Option<VolatileSlice<'_, BS<'_, PageTracker>>> {
    let (slot, offset) = page.as_ref()?;
    slot.mapping.get_slice(*offset, PAGE).ok()
}

/// Where a page is, by the registers: nowhere while the controller is off, or the page.
fn page(registers: &[Msr], index: u32) -> Option<u64> {
    let value = |index| {
        registers
            .iter()
            .find(|msr| msr.index == index)
            .map(|msr| msr.value)
    };
    let is_on = value(CONTROL)? & 1 != 0;
    let place = value(index)?;
    (is_on && place & 1 != 0).then_some(place & !(PAGE as u64 - 1))
}

/// The guest took a message out of a slot: KVM's timers may have waited for that, and what waits here.
pub fn end_message(fd: &VcpuFd, vm: &Shared, id: u32) -> Result<(), Error> {
    let index = END_OF_MESSAGE;
    state::write_msrs(fd, &[Msr { index, value: 0 }])?;
    deliver(fd, vm, id)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn office() -> Office {
        Office {
            book: Mutex::default(),
            kickers: Arc::default(),
        }
    }

    #[test]
    fn a_hypercall_finds_neither_connections_nor_calls() {
        for (input, status) in [
            (0x5c, 0x12),
            (0x1_005d, 0x12),
            (1 << 32 | 0x5c, 0x12),
            (0, 2),
            (0xffff, 2),
            (1 << 16 | 0x50, 2),
        ] {
            assert_eq!(
                office().answer(input, 3, |_, _| panic!("read")),
                status,
                "{input:#x}"
            );
        }
    }

    #[test]
    fn with_connections_calls_are_looked_at() {
        let office = office();
        let to = Source { vcpu: 0, sint: 1 };
        office.book().add_vcpu(0);
        office.book().connect(Connection::Messages(5), to).unwrap();
        office.book().connect(Connection::Events(6), to).unwrap();
        let post = |connection: u8, kind: u8| {
            office.answer(0x5c, 0x7000, |_, bytes| {
                (bytes[0], bytes[8], bytes[12]) = (connection, kind, 8);
                true
            })
        };
        assert_eq!(post(6, 1), 0x12);
        assert_eq!(post(5, 0), 5);
        assert_eq!(post(5, 1), 0);
        assert_eq!(post(5, 1), 0x13, "until it is delivered");
        assert_eq!(office.answer(0x5c, 0x7001, |_, _| true), 4);
        assert_eq!(office.answer(0x5c, 0x7000, |_, _| false), 4);
        let signal = |parameter| office.answer(0x1_005d, parameter, |_, _| panic!("read"));
        assert_eq!((signal(5), signal(6), signal(1 << 32 | 6)), (0x12, 0, 0x11));
        assert!(office.book().waits_for(0));
        assert_eq!(office.answer(0x50, 0, |_, _| true), 2);
    }

    #[test]
    fn a_page_is_there_when_the_controller_and_the_page_are_on() {
        let registers = |control, page| {
            [(CONTROL, control), (MESSAGE_PAGE, page)].map(|(index, value)| Msr { index, value })
        };
        assert_eq!(page(&registers(1, 0x5001), MESSAGE_PAGE), Some(0x5000));
        assert_eq!(page(&registers(1, 0x5fff), MESSAGE_PAGE), Some(0x5000));
        assert_eq!(page(&registers(0, 0x5001), MESSAGE_PAGE), None);
        assert_eq!(page(&registers(1, 0x5000), MESSAGE_PAGE), None);
        assert_eq!(page(&registers(1, 0x5001), EVENT_PAGE), None);
        assert_eq!(page(&[], MESSAGE_PAGE), None);
    }
}
