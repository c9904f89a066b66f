//! Which connections there are, and what waits in them: plain data, without KVM.
//!
//! A message is staged in its connection, one at most, until the vCPU that it goes to has taken it into its page; an event is a mark
//! there. The vCPU's thread delivers before it enters guest mode: after something came, after the guest took a message out of a slot,
//! and after it placed its pages.

use std::collections::{BTreeMap, BTreeSet};

use ostler_accel::{Error, SyntheticConnection as Connection, SyntheticSource as Source};
use ostler_memory::vm_memory::VolatileSlice;
use ostler_memory::vm_memory::bitmap::BitmapSlice;

use super::calls::{CONNECTION, INSUFFICIENT_BUFFERS, INVALID_CONNECTION, INVALID_PORT, Status};
use super::pages::{self, FLAGS, Message, SINTS};

/// Most sources, and most connections of each kind: each source, and each connection of events, is a descriptor of the host.
const MAX_SOURCES: usize = 128;
const MAX_CONNECTIONS: usize = 64;

/// Connections by their numbers.
#[derive(Debug, Default)]
pub struct Book {
    cpus: BTreeSet<u32>,
    opened: BTreeSet<Source>,
    messages: BTreeMap<u32, Messages>,
    events: BTreeMap<u32, Events>,
}

#[derive(Debug)]
struct Messages {
    to: Source,
    staged: Option<Message>,
}

#[derive(Debug)]
struct Events {
    to: Source,
    signalled: bool,
}

impl Book {
    /// The vCPU `id` has a synthetic interrupt controller.
    pub fn add_vcpu(&mut self, id: u32) {
        self.cpus.insert(id);
    }

    /// Opens `source` to be raised.
    pub fn open(&mut self, source: Source) -> Result<(), Error> {
        self.check(source)?;
        self.opened.insert(source);
        Ok(())
    }

    /// Closes it.
    pub fn close(&mut self, source: Source) {
        self.opened.remove(&source);
    }

    /// True if it may be raised.
    pub fn is_open(&self, source: Source) -> bool {
        self.opened.contains(&source)
    }

    /// Makes or replaces a connection.
    pub fn connect(&mut self, connection: Connection, to: Source) -> Result<(), Error> {
        self.check(to)?;
        let (number, most, others) = match connection {
            Connection::Messages(id) => (id, CONNECTION, without(&self.messages, id)),
            Connection::Events(id) => (id, FLAGS - 1, without(&self.events, id)),
        };
        if number > most {
            return refuse(format!(
                "a synthetic connection with the number {number}, which is beyond {most}"
            ));
        }
        if others >= MAX_CONNECTIONS {
            return refuse(format!(
                "more than {MAX_CONNECTIONS} synthetic connections of a kind"
            ));
        }
        match connection {
            Connection::Messages(id) => {
                self.messages.insert(id, Messages { to, staged: None });
            }
            Connection::Events(id) => {
                let signalled = false;
                self.events.insert(id, Events { to, signalled });
            }
        }
        Ok(())
    }

    /// Ends a connection.
    pub fn disconnect(&mut self, connection: Connection) {
        match connection {
            Connection::Messages(id) => drop(self.messages.remove(&id)),
            Connection::Events(id) => drop(self.events.remove(&id)),
        }
    }

    fn check(&self, source: Source) -> Result<(), Error> {
        if source.sint >= SINTS || !self.cpus.contains(&source.vcpu) {
            return refuse(format!(
                "source {} of CPU {} for synthetic interrupts, which is not there",
                source.sint, source.vcpu
            ));
        }
        let sources = self.sources();
        if sources.len() >= MAX_SOURCES && !sources.contains(&source) {
            return refuse(format!("more than {MAX_SOURCES} sources of synthetic interrupts"));
        }
        Ok(())
    }

    /// The sources that something can come through.
    pub fn sources(&self) -> BTreeSet<Source> {
        let messages = self.messages.values().map(|connection| connection.to);
        let events = self.events.values().map(|connection| connection.to);
        self.opened
            .iter()
            .copied()
            .chain(messages)
            .chain(events)
            .collect()
    }

    /// The numbers of connections for events.
    pub fn events(&self) -> BTreeSet<u32> {
        self.events.keys().copied().collect()
    }

    /// True if there are connections for messages.
    pub fn takes_messages(&self) -> bool {
        !self.messages.is_empty()
    }

    /// True if there are no connections.
    pub fn is_empty(&self) -> bool {
        self.messages.is_empty() && self.events.is_empty()
    }

    /// Stages a message, and says which vCPU it goes to.
    pub fn post(&mut self, connection: u32, message: Message) -> Result<u32, Status> {
        let connection = self.messages.get_mut(&connection).ok_or(INVALID_CONNECTION)?;
        if connection.staged.is_some() {
            return Err(INSUFFICIENT_BUFFERS);
        }
        connection.staged = Some(message);
        Ok(connection.to.vcpu)
    }

    /// Marks an event, and says which vCPU it goes to. Each connection has a single flag.
    pub fn signal(&mut self, connection: u32, flag: u16) -> Result<u32, Status> {
        let connection = self.events.get_mut(&connection).ok_or(INVALID_CONNECTION)?;
        if flag != 0 {
            return Err(INVALID_PORT);
        }
        connection.signalled = true;
        Ok(connection.to.vcpu)
    }

    /// True if something waits for this vCPU.
    pub fn waits_for(&self, vcpu: u32) -> bool {
        let staged = |connection: &Messages| connection.to.vcpu == vcpu && connection.staged.is_some();
        let signalled = |connection: &Events| connection.to.vcpu == vcpu && connection.signalled;
        self.messages.values().any(staged) || self.events.values().any(signalled)
    }

    /// Delivers what waits for `vcpu` as far as its pages are there and have room, and says what is to be raised.
    pub fn deliver<B: BitmapSlice>(
        &mut self,
        vcpu: u32,
        message_page: Option<&VolatileSlice<'_, B>>,
        event_page: Option<&VolatileSlice<'_, B>>,
    ) -> Vec<Source> {
        let mut due = Vec::new();
        if let Some(page) = message_page {
            for (&number, connection) in &mut self.messages {
                let to = connection.to;
                if let Some(message) = connection.staged.take_if(|_| to.vcpu == vcpu) {
                    match pages::put(page, to.sint, number, &message) {
                        Some(true) => due.push(to),
                        _ => connection.staged = Some(message),
                    }
                }
            }
        }
        if let Some(page) = event_page {
            for (&number, connection) in &mut self.events {
                let to = connection.to;
                let here = connection.signalled && to.vcpu == vcpu;
                connection.signalled &= !here;
                if here && pages::set_flag(page, to.sint, number) == Some(true) {
                    due.push(to);
                }
            }
        }
        due
    }
}

fn without<T>(connections: &BTreeMap<u32, T>, id: u32) -> usize {
    connections.len() - usize::from(connections.contains_key(&id))
}

fn refuse(what: String) -> Result<(), Error> {
    Err(Error::Unsupported(what))
}

#[cfg(test)]
mod tests {
    use ostler_memory::vm_memory::{Bytes, GuestAddress, GuestMemoryBackend};
    use ostler_memory::{RamOptions, allocate};

    use super::*;
    use crate::hyperv::pages::PAGE;

    fn source(vcpu: u32, sint: u8) -> Source {
        Source { vcpu, sint }
    }

    fn message(kind: u32) -> Message {
        Message {
            kind,
            payload: vec![1, 2, 3],
        }
    }

    /// With vCPUs up to `cpus`.
    fn book(cpus: u32) -> Book {
        let mut book = Book::default();
        (0..cpus).for_each(|id| book.add_vcpu(id));
        book
    }

    /// What is raised for `vcpu`, whose messages are at 0x0000 and whose flags are at 0x1000.
    fn deliver(book: &mut Book, vcpu: u32, ram: &ostler_memory::GuestRam) -> Vec<Source> {
        let page = |gpa| ram.get_slice(GuestAddress(gpa), PAGE).unwrap();
        book.deliver(vcpu, Some(&page(0)), Some(&page(0x1000)))
    }

    #[test]
    fn a_message_waits_until_the_one_before_it_was_taken() {
        let ram = allocate(0x2000, RamOptions::default()).unwrap();
        let mut book = book(2);
        book.connect(Connection::Messages(0x11), source(1, 8)).unwrap();
        assert_eq!(book.post(0x12, message(5)), Err(INVALID_CONNECTION));
        assert_eq!(book.post(0x11, message(5)), Ok(1));
        assert_eq!(book.post(0x11, message(6)), Err(INSUFFICIENT_BUFFERS));
        assert!(book.waits_for(1) && !book.waits_for(0));
        assert!(deliver(&mut book, 0, &ram).is_empty(), "another CPU");
        assert_eq!(deliver(&mut book, 1, &ram), [source(1, 8)]);
        assert!(!book.waits_for(1));
        assert!(deliver(&mut book, 1, &ram).is_empty());

        assert_eq!(book.post(0x11, message(6)), Ok(1));
        assert!(deliver(&mut book, 1, &ram).is_empty(), "the slot is full");
        assert!(book.waits_for(1));
        let slot = GuestAddress(8 * 256);
        assert_eq!(ram.read_obj::<u32>(slot).unwrap(), 5);
        assert_eq!(ram.read_obj::<u8>(GuestAddress(8 * 256 + 5)).unwrap(), 1);
        ram.write_obj(0u32, slot).unwrap();
        assert_eq!(deliver(&mut book, 1, &ram), [source(1, 8)]);
        assert_eq!(ram.read_obj::<u32>(slot).unwrap(), 6);
        assert_eq!(ram.read_obj::<u8>(GuestAddress(8 * 256 + 5)).unwrap(), 0);
    }

    #[test]
    fn of_two_messages_for_one_slot_the_second_waits() {
        let ram = allocate(0x2000, RamOptions::default()).unwrap();
        let mut book = book(1);
        for number in [3, 4] {
            book.connect(Connection::Messages(number), source(0, 2)).unwrap();
            assert_eq!(book.post(number, message(number)), Ok(0));
        }
        assert_eq!(deliver(&mut book, 0, &ram), [source(0, 2)]);
        assert!(book.waits_for(0));
        assert_eq!(ram.read_obj::<u8>(GuestAddress(2 * 256 + 5)).unwrap(), 1);
    }

    #[test]
    fn an_event_raises_once_while_its_flag_is_set() {
        let ram = allocate(0x2000, RamOptions::default()).unwrap();
        let mut book = book(1);
        book.connect(Connection::Events(0x20), source(0, 9)).unwrap();
        assert_eq!(book.signal(0x21, 0), Err(INVALID_CONNECTION));
        assert_eq!(book.signal(0x20, 1), Err(INVALID_PORT));
        assert!(!book.waits_for(0));
        for (times, raised) in [(2, vec![source(0, 9)]), (1, vec![])] {
            for _ in 0..times {
                assert_eq!(book.signal(0x20, 0), Ok(0));
            }
            assert_eq!(deliver(&mut book, 0, &ram), raised);
            assert!(!book.waits_for(0));
        }
        assert_eq!(
            ram.read_obj::<u64>(GuestAddress(0x1000 + 9 * 256)).unwrap(),
            1 << 0x20
        );
    }

    #[test]
    fn without_pages_everything_waits() {
        let ram = allocate(0x2000, RamOptions::default()).unwrap();
        let mut book = book(1);
        book.connect(Connection::Messages(1), source(0, 1)).unwrap();
        book.connect(Connection::Events(1), source(0, 1)).unwrap();
        book.post(1, message(1)).unwrap();
        book.signal(1, 0).unwrap();
        assert!(book.deliver::<()>(0, None, None).is_empty());
        assert!(book.waits_for(0));
        assert_eq!(deliver(&mut book, 0, &ram), [source(0, 1), source(0, 1)]);
    }

    #[test]
    fn a_connection_that_is_made_anew_or_ended_forgets_what_waited() {
        let mut book = book(2);
        let connection = Connection::Messages(7);
        book.connect(connection, source(0, 1)).unwrap();
        book.post(7, message(1)).unwrap();
        book.connect(connection, source(1, 2)).unwrap();
        assert!(!book.waits_for(0) && !book.waits_for(1));
        assert_eq!(book.sources(), BTreeSet::from([source(1, 2)]));
        book.post(7, message(1)).unwrap();
        book.disconnect(connection);
        book.disconnect(connection);
        assert!(!book.waits_for(1) && book.is_empty() && book.sources().is_empty());
        assert_eq!(book.post(7, message(1)), Err(INVALID_CONNECTION));
    }

    #[test]
    fn sources_that_are_not_there_are_refused() {
        let mut book = book(2);
        for bad in [source(2, 0), source(255, 0), source(0, 16), source(0, 255)] {
            book.open(bad).unwrap_err();
            book.connect(Connection::Messages(1), bad).unwrap_err();
            book.connect(Connection::Events(1), bad).unwrap_err();
        }
        book.connect(Connection::Events(2048), source(0, 0)).unwrap_err();
        book.connect(Connection::Messages(1 << 24), source(0, 0))
            .unwrap_err();
        assert!(book.is_empty() && book.sources().is_empty());
    }

    #[test]
    fn a_guest_that_asks_for_everything_gets_a_bounded_part() {
        let mut book = book(240);
        for (vcpu, sint) in (0..240).flat_map(|vcpu| (0..=17).map(move |sint| (vcpu, sint))) {
            let _ = book.open(source(vcpu, sint));
        }
        for id in 0..=255 {
            for vcpu in [0, 1, 239] {
                let _ = book.connect(Connection::Messages(id), source(vcpu, id as u8));
                let _ = book.connect(Connection::Events(id), source(vcpu, id as u8 % 16));
            }
        }
        assert_eq!(book.sources().len(), MAX_SOURCES);
        assert_eq!(
            (book.messages.len(), book.events.len()),
            (16, 64),
            "numbers are sources here, too"
        );
        book.connect(Connection::Events(3), source(0, 3)).unwrap();
        assert_eq!(book.events.len(), 64, "a replacement is none more");
        book.open(source(239, 15)).unwrap_err();
        book.close(source(0, 0));
    }
}
