//! The control socket's thread: many clients, none of which can hold up another or the guest.
//!
//! The thread owns the guest's [`Manager`] and executes commands one at a time. What concerns the guest's state it asks the
//! driver for, and goes on with other clients meanwhile.

use std::collections::VecDeque;
use std::io::{self, IoSliceMut};
use std::mem::MaybeUninit;
use std::os::fd::AsFd;
use std::os::unix::net::{UnixListener, UnixStream};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use ostler_machine::CpuOutcome;
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::io::Errno;
use rustix::net::{RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, ReturnFlags, recvmsg};
use serde_json::{Value, json};

use super::commands::RTC;
use super::events;
use super::framer::{Frame, Framer};
use super::session::{self, Promise, Session, Step};
use crate::Error;
use crate::bell::Bell;
use crate::driver::{DriverHandle, Event, Request};
use crate::manager::Manager;

/// Most clients at a time; further ones are hung up on.
const MAX_CLIENTS: usize = 32;
/// Bytes that may wait for a client; one that lets more pile up is hung up on.
const MAX_WAITING: usize = 1 << 20;
/// Events that may wait for the thread; more are lost.
const MAX_EVENTS: usize = 1024;
/// Most descriptors that come with one piece of a client's text; more are closed.
const MAX_RIGHTS: usize = 16;
/// The shortest time between two events that a guest can cause as often as it likes; QEMU's is the same.
const EVENT_PAUSE: Duration = Duration::from_secs(1);
/// How long clients may take the last answers and events.
const LINGER: Duration = Duration::from_millis(500);

enum Mail {
    /// Something to tell every client, with its time.
    Event(Value),
    /// The guest starts anew, and every client is told so.
    Reset(Value),
    /// The answer to a client's request.
    Answer(u64, Value),
    /// The guest switched a slot off.
    Ejected,
    /// The guest has plugged or unplugged memory.
    Memory,
    /// The guest said what became of an event of a CPU.
    CpuReport,
    /// The balloon has another size.
    Balloon,
    /// The guest moved the tray of a drive.
    Tray,
    /// The guest set its clock.
    Rtc,
}

struct Shared {
    mail: Mutex<VecDeque<Mail>>,
    bell: Bell,
    finishing: AtomicBool,
    /// A message of a tray waits.
    tray_moved: AtomicBool,
    /// A message of a CPU waits.
    cpu_reported: AtomicBool,
    /// A message of the clock waits.
    rtc_set: AtomicBool,
}

impl Shared {
    fn post(&self, mail: Mail) {
        let mut waiting = self.mail.lock().unwrap_or_else(PoisonError::into_inner);
        if matches!(mail, Mail::Event(_)) && waiting.len() >= MAX_EVENTS {
            tracing::warn!("an event is lost: the control socket's thread does not keep up");
            return;
        }
        waiting.push_back(mail);
        drop(waiting);
        self.bell.ring();
    }
}

/// The control socket of a guest.
pub struct ControlServer {
    shared: Arc<Shared>,
    thread: Option<JoinHandle<()>>,
}

impl ControlServer {
    /// Serves `listener` on a thread of its own.
    pub(crate) fn start(listener: UnixListener, manager: Manager) -> Result<Self, Error> {
        let refused = |source| Error::host("start the control socket", source);
        listener.set_nonblocking(true).map_err(refused)?;
        let shared = Arc::new(Shared {
            mail: Mutex::default(),
            bell: Bell::new().map_err(refused)?,
            finishing: AtomicBool::new(false),
            tray_moved: AtomicBool::new(false),
            cpu_reported: AtomicBool::new(false),
            rtc_set: AtomicBool::new(false),
        });
        for (slot, _) in manager.machine.slots() {
            let port = manager.machine.hotplug_port(slot);
            let port = port.map_err(|e| Error::part("a hotplug slot", e))?;
            let shared = shared.clone();
            port.listen(move |_| shared.post(Mail::Ejected));
        }
        if let Some((_, memory)) = manager.memory() {
            let shared = shared.clone();
            memory.listen(move || shared.post(Mail::Memory));
        }
        let cpus = shared.clone();
        manager.cpu_news.listen(move |outcome| match outcome {
            CpuOutcome::Ejected(_) => cpus.post(Mail::Ejected),
            // A guest that reports all day has one message waiting.
            CpuOutcome::Reported => {
                if !cpus.cpu_reported.swap(true, Ordering::SeqCst) {
                    cpus.post(Mail::CpuReport);
                }
            }
        });
        let clock = shared.clone();
        manager.machine.listen_to_rtc(move || {
            // A guest that sets it all day has one message waiting.
            if !clock.rtc_set.swap(true, Ordering::SeqCst) {
                clock.post(Mail::Rtc);
            }
        });
        if let Some(balloon) = manager.balloon() {
            let shared = shared.clone();
            balloon.listen(move || shared.post(Mail::Balloon));
        }
        for tray in manager.drives.iter().filter_map(|drive| drive.tray.as_ref()) {
            let shared = shared.clone();
            tray.listen(move || {
                // A guest that moves it all day has one message waiting.
                if !shared.tray_moved.swap(true, Ordering::SeqCst) {
                    shared.post(Mail::Tray);
                }
            });
        }
        let server = Server {
            shared: shared.clone(),
            listener,
            driver: manager.driver.clone(),
            manager,
            clients: Vec::new(),
            next_id: 0,
            balloon: Throttle::default(),
            trays: Throttle::default(),
            cpu_reports: Throttle::default(),
            memory: Throttle::default(),
            rtc: Throttle::default(),
        };
        let thread = std::thread::Builder::new()
            .name("control".into())
            .spawn(move || server.run());
        Ok(Self {
            shared,
            thread: Some(thread.map_err(refused)?),
        })
    }

    /// Tells every client that has negotiated.
    pub fn announce(&self, event: Event) {
        let value = events::stamp(events::of_driver(event));
        self.shared.post(match event {
            Event::Reset { .. } | Event::WakeUp => Mail::Reset(value),
            _ => Mail::Event(value),
        });
    }
}

impl Drop for ControlServer {
    fn drop(&mut self) {
        self.shared.finishing.store(true, Ordering::SeqCst);
        self.shared.bell.ring();
        if let Some(thread) = self.thread.take() {
            // A thread that panicked has no more to send.
            let _ = thread.join();
        }
    }
}

struct Client {
    id: u64,
    stream: UnixStream,
    framer: Framer,
    session: Session,
    /// Texts that came while a request was with the driver: commands are executed in order.
    backlog: VecDeque<Frame>,
    /// A request is with the driver.
    asked: bool,
    waiting: VecDeque<u8>,
    /// It says no more; what it said is still answered.
    ended: bool,
    gone: bool,
}

struct Server {
    shared: Arc<Shared>,
    listener: UnixListener,
    driver: DriverHandle,
    manager: Manager,
    clients: Vec<Client>,
    next_id: u64,
    balloon: Throttle,
    trays: Throttle,
    cpu_reports: Throttle,
    memory: Throttle,
    rtc: Throttle,
}

/// When something that happens often is told: once in [`EVENT_PAUSE`] at most.
#[derive(Default)]
struct Throttle {
    told: Option<Instant>,
    due: Option<Instant>,
}

impl Throttle {
    /// It happened.
    fn happened(&mut self) {
        let earliest = self.told.map(|at| at + EVENT_PAUSE);
        self.due.get_or_insert(earliest.unwrap_or_else(Instant::now));
    }

    /// True if it is to be told now.
    fn take(&mut self) -> bool {
        let now = Instant::now();
        if self.due.is_none_or(|at| at > now) {
            return false;
        }
        *self = Self {
            told: Some(now),
            due: None,
        };
        true
    }

    /// What waits to be told is to be told now.
    fn wait_no_more(&mut self) {
        self.due = self.due.map(|_| Instant::now());
    }
}

impl Server {
    fn run(mut self) {
        let mut deadline = None;
        loop {
            // Asked before the mail is delivered: what was posted before the end is told.
            let finishing = self.shared.finishing.load(Ordering::SeqCst);
            self.deliver_mail();
            if finishing {
                self.wait_no_more();
            }
            self.tell_balloon();
            self.tell_trays();
            self.tell_cpu_reports();
            self.tell_memory();
            self.tell_rtc();
            for client in &mut self.clients {
                client.write();
            }
            self.clients.retain(|client| !client.gone && !client.is_done());
            if finishing {
                let end = *deadline.get_or_insert_with(|| Instant::now() + LINGER);
                if self.clients.iter().all(|client| client.waiting.is_empty()) || Instant::now() >= end {
                    return;
                }
            }
            if let Err(error) = self.wait(deadline) {
                tracing::error!("the control socket cannot wait for its clients: {error}");
                return;
            }
        }
    }

    /// There is no later any more.
    fn wait_no_more(&mut self) {
        for throttle in [
            &mut self.balloon,
            &mut self.trays,
            &mut self.cpu_reports,
            &mut self.memory,
            &mut self.rtc,
        ] {
            throttle.wait_no_more();
        }
    }

    fn tell_balloon(&mut self) {
        if !self.balloon.take() {
            return;
        }
        let changed = self
            .manager
            .balloon()
            .is_some_and(|balloon| balloon.take_change());
        if changed {
            let actual = self.manager.balloon_memory();
            let event = json!({ "event": "BALLOON_CHANGE", "data": { "actual": actual } });
            self.tell(&events::stamp(event));
        }
    }

    fn tell_trays(&mut self) {
        if self.trays.take() {
            self.manager.note_trays();
            self.tell_events();
        }
    }

    fn tell_memory(&mut self) {
        if !self.memory.take() {
            return;
        }
        if let Some((id, memory)) = self.manager.memory()
            && memory.take_change()
        {
            let path = format!("/machine/peripheral/{id}");
            let data = json!({ "id": id, "size": memory.plugged(), "qom-path": path });
            let event = json!({ "event": "MEMORY_DEVICE_SIZE_CHANGE", "data": data });
            self.tell(&events::stamp(event));
        }
    }

    fn tell_rtc(&mut self) {
        if self.rtc.take() {
            let data = json!({ "offset": self.manager.machine.rtc_moved(), "qom-path": RTC });
            self.tell(&events::stamp(json!({ "event": "RTC_CHANGE", "data": data })));
        }
    }

    fn tell_cpu_reports(&mut self) {
        if self.cpu_reports.take() {
            self.manager.note_cpu_reports();
            self.tell_events();
        }
    }

    fn wait(&mut self, deadline: Option<Instant>) -> io::Result<()> {
        let mut polled = vec![
            PollFd::new(&self.shared.bell, PollFlags::IN),
            PollFd::new(&self.listener, PollFlags::IN),
        ];
        for client in &self.clients {
            let mut flags = PollFlags::empty();
            // While a request is with the driver the client's next commands wait in its socket.
            let listens = !client.asked && client.backlog.is_empty() && !client.ended;
            flags.set(PollFlags::IN, listens);
            flags.set(PollFlags::OUT, !client.waiting.is_empty());
            polled.push(PollFd::from_borrowed_fd(client.stream.as_fd(), flags));
        }
        let wake = deadline
            .into_iter()
            .chain(self.balloon.due)
            .chain(self.trays.due)
            .chain(self.cpu_reports.due)
            .chain(self.memory.due)
            .chain(self.rtc.due)
            .min();
        let left = wake.map(|end| end.saturating_duration_since(Instant::now()));
        match poll(
            &mut polled,
            left.and_then(|left| Timespec::try_from(left).ok()).as_ref(),
        ) {
            Ok(_) => {}
            Err(Errno::INTR) => return Ok(()),
            Err(error) => return Err(error.into()),
        }
        let ready: Vec<PollFlags> = polled.iter().map(PollFd::revents).collect();
        if ready[0].contains(PollFlags::IN) {
            self.shared.bell.silence();
        }
        for (index, flags) in ready[2..].iter().enumerate() {
            if flags.contains(PollFlags::IN) {
                self.clients[index].read();
                self.work_off(index);
            } else if flags.intersects(PollFlags::HUP | PollFlags::ERR | PollFlags::NVAL) {
                self.clients[index].gone = true;
            }
        }
        if ready[1].contains(PollFlags::IN) {
            self.accept();
        }
        Ok(())
    }

    fn accept(&mut self) {
        // A client that is gone again is no one's problem but its own.
        let Ok((stream, _)) = self.listener.accept() else {
            return;
        };
        if self.clients.len() >= MAX_CLIENTS || stream.set_nonblocking(true).is_err() {
            return;
        }
        let mut client = Client {
            id: self.next_id,
            stream,
            framer: Framer::new(),
            session: Session::default(),
            backlog: VecDeque::new(),
            asked: false,
            waiting: VecDeque::new(),
            ended: false,
            gone: false,
        };
        self.next_id += 1;
        client.send(&session::greeting());
        self.clients.push(client);
    }

    /// Executes a client's commands until one has to wait for the driver.
    fn work_off(&mut self, index: usize) {
        loop {
            let client = &mut self.clients[index];
            if client.asked || client.gone {
                return;
            }
            let Some(frame) = client.backlog.pop_front() else {
                return;
            };
            let step = client.session.handle(frame, &mut self.manager);
            // What a command caused is told before its answer.
            self.tell_events();
            let client = &mut self.clients[index];
            match step {
                Step::Answer(answer) => client.send(&answer),
                Step::Ask(request, promise) => {
                    client.asked = true;
                    ask(&self.driver, &self.shared, client.id, request, promise);
                }
            }
        }
    }

    fn tell(&mut self, event: &Value) {
        let clients = self.clients.iter_mut();
        for client in clients.filter(|client| client.session.is_negotiated()) {
            client.send(event);
        }
    }

    /// Tells what the manager has to tell.
    fn tell_events(&mut self) {
        for event in self.manager.take_events() {
            self.tell(&events::stamp(event));
        }
    }

    fn deliver_mail(&mut self) {
        loop {
            let mail = self
                .shared
                .mail
                .lock()
                .unwrap_or_else(PoisonError::into_inner)
                .pop_front();
            match mail {
                None => return,
                Some(Mail::Event(event)) => self.tell(&event),
                Some(Mail::Reset(event)) => {
                    self.manager.forget_requests();
                    self.tell(&event);
                }
                Some(Mail::Balloon) => self.balloon.happened(),
                Some(Mail::Tray) => {
                    self.shared.tray_moved.store(false, Ordering::SeqCst);
                    self.trays.happened();
                }
                Some(Mail::Ejected) => {
                    self.manager.collect_ejected();
                    self.manager.collect_ejected_cpus();
                    self.tell_events();
                }
                Some(Mail::Memory) => self.memory.happened(),
                Some(Mail::CpuReport) => {
                    self.shared.cpu_reported.store(false, Ordering::SeqCst);
                    self.cpu_reports.happened();
                }
                Some(Mail::Rtc) => {
                    self.shared.rtc_set.store(false, Ordering::SeqCst);
                    self.rtc.happened();
                }
                Some(Mail::Answer(id, answer)) => {
                    if let Some(index) = self.clients.iter().position(|client| client.id == id) {
                        self.clients[index].send(&answer);
                        self.clients[index].asked = false;
                        self.work_off(index);
                    }
                }
            }
        }
    }
}

fn ask(driver: &DriverHandle, shared: &Arc<Shared>, client: u64, request: Request, promise: Promise) {
    let shared = shared.clone();
    driver.ask(
        request,
        Box::new(move |result| shared.post(Mail::Answer(client, promise.kept(result)))),
    );
}

impl Client {
    /// True once everything that it said is answered, and it says no more.
    fn is_done(&self) -> bool {
        self.ended && !self.asked && self.backlog.is_empty() && self.waiting.is_empty()
    }

    /// Takes a piece of what it says, and the descriptors that come along.
    fn read(&mut self) {
        let mut chunk = [0; 4096];
        let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(MAX_RIGHTS))];
        let mut ancillary = RecvAncillaryBuffer::new(&mut space);
        let received = recvmsg(
            &self.stream,
            &mut [IoSliceMut::new(&mut chunk)],
            &mut ancillary,
            RecvFlags::CMSG_CLOEXEC,
        );
        for message in ancillary.drain() {
            if let RecvAncillaryMessage::ScmRights(rights) = message {
                rights.for_each(|fd| self.session.fds.receive(fd));
            }
        }
        match received {
            Ok(got) if got.bytes == 0 => self.ended = true,
            Ok(got) => {
                if got.flags.contains(ReturnFlags::CTRUNC) {
                    tracing::warn!("descriptors of a control client are lost: too many at once");
                }
                let mut frames = Vec::new();
                self.framer.feed(&chunk[..got.bytes], &mut frames);
                self.backlog.extend(frames);
            }
            Err(Errno::AGAIN | Errno::INTR) => {}
            Err(_) => self.gone = true,
        }
    }

    fn send(&mut self, value: &Value) {
        let text = value.to_string();
        if self.waiting.len() + text.len() > MAX_WAITING {
            self.gone = true;
            return;
        }
        self.waiting.extend(text.as_bytes());
        self.waiting.extend(b"\r\n");
    }

    fn write(&mut self) {
        while !self.gone && !self.waiting.is_empty() {
            let (piece, _) = self.waiting.as_slices();
            match rustix::net::send(&self.stream, piece, rustix::net::SendFlags::NOSIGNAL) {
                Ok(written) => drop(self.waiting.drain(..written)),
                Err(Errno::AGAIN) => return,
                Err(Errno::INTR) => {}
                Err(_) => self.gone = true,
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::driver::{Driver, Hardware};
    use crate::link::Outcome;
    use crate::spec::OnReset;
    use crate::testing;
    use ostler_bus::AddressMap;
    use std::io::{BufRead, BufReader, Read, Write};

    struct Nothing(ControlServer);

    impl Hardware for Nothing {
        fn run_cpus(&mut self) {}
        fn hold_cpus(&mut self) {}
        fn press_power_button(&mut self) {}
        fn inject_nmi(&mut self) {}
        fn reset(&mut self) -> Result<(), String> {
            Ok(())
        }
        fn wake(&mut self) -> Result<(), String> {
            Ok(())
        }
        fn tell(&mut self, event: Event) {
            self.0.announce(event);
        }
    }

    struct Peer(BufReader<UnixStream>);

    impl Peer {
        fn say(&mut self, text: &str) {
            self.0.get_mut().write_all(text.as_bytes()).unwrap();
        }
        fn hear(&mut self) -> Value {
            let mut line = String::new();
            self.0.read_line(&mut line).unwrap();
            serde_json::from_str(&line).unwrap()
        }
    }

    fn with_guest(test: impl FnOnce(&dyn Fn() -> Peer)) -> Outcome {
        with_ports(|connect, _| test(connect))
    }

    /// The same with the guest's ports.
    fn with_ports(test: impl FnOnce(&dyn Fn() -> Peer, &AddressMap)) -> Outcome {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("control");
        let listener = UnixListener::bind(&path).unwrap();
        let driver = Driver::new(OnReset::Restart);
        let handle = driver.handle();
        handle.ask(Request::Start, Box::new(|_| ()));
        let mut guest = testing::guest(&handle);
        let manager = guest.manager();
        let ports = manager.machine.ports().clone();
        let server = ControlServer::start(listener, manager).unwrap();
        let driving = std::thread::spawn(move || driver.run(&mut Nothing(server)));
        let connect = || {
            let mut peer = Peer(BufReader::new(UnixStream::connect(&path).unwrap()));
            assert!(peer.hear()["QMP"].is_object());
            peer.say("{\"execute\":\"qmp_capabilities\"}\n");
            assert_eq!(peer.hear(), json!({ "return": {} }));
            peer
        };
        test(&connect, &ports);
        driving.join().unwrap()
    }

    #[test]
    fn what_a_guest_causes_at_will_is_told_once_in_a_while() {
        let mut throttle = Throttle::default();
        assert!(!throttle.take());
        throttle.happened();
        assert!(throttle.take(), "the first time at once");
        for _ in 0..1000 {
            throttle.happened();
        }
        let due = throttle.due.unwrap();
        assert_eq!(
            Some(due),
            throttle.told.map(|at| at + EVENT_PAUSE),
            "then all of it once"
        );
        throttle.told = throttle.told.map(|at| at - EVENT_PAUSE);
        throttle.due = throttle.told.map(|at| at + EVENT_PAUSE);
        assert!(throttle.take() && !throttle.take());
    }

    #[test]
    fn what_waits_to_be_told_is_told_before_the_end() {
        with_ports(|connect, ports| {
            let mut peer = connect();
            let report = |status: u32| {
                // Of CPU 1, by QEMU's registers of CPU hotplug: event, then status.
                ports.write(0xcd8, &1u32.to_le_bytes());
                for (command, value) in [(1, 3), (2, status)] {
                    ports.write(0xcdd, &[command]);
                    ports.write(0xce0, &u32::to_le_bytes(value));
                }
            };
            report(0x80);
            let told = peer.hear();
            assert_eq!(told["event"], "ACPI_DEVICE_OST", "{told}");
            assert_eq!(told["data"]["info"]["status"], 0x80, "{told}");
            // So soon after the first it waits.
            report(0x81);
            peer.say("{\"execute\":\"quit\"}\n");
            let mut rest = String::new();
            peer.0.read_to_string(&mut rest).unwrap();
            assert!(
                rest.contains("SHUTDOWN") && rest.contains("\"status\":129"),
                "{rest}"
            );
        });
    }

    #[test]
    fn a_guest_that_sets_its_clock_all_the_time_is_told_of_once_in_a_while() {
        with_ports(|connect, ports| {
            let mut peer = connect();
            let set_year = |year: u8| {
                ports.write(0x70, &[9]);
                ports.write(0x71, &[year]);
            };
            let year_of = |told: &Value| {
                assert_eq!(told["event"], "RTC_CHANGE", "{told}");
                let moved = Duration::from_secs(told["data"]["offset"].as_i64().unwrap() as u64);
                let shown = std::time::SystemTime::now() + moved;
                let since = shown.duration_since(std::time::UNIX_EPOCH).unwrap();
                1970 + since.as_secs() / 31_556_952
            };
            for _ in 0..1000 {
                for year in 0x50..0x58 {
                    set_year(year);
                }
            }
            // One at once, and nothing in the second after it but what the end brings.
            assert!((2050..=2058).contains(&year_of(&peer.hear())));
            set_year(0x90);
            peer.say("{\"execute\":\"quit\"}\n");
            let mut rest = String::new();
            peer.0.read_to_string(&mut rest).unwrap();
            let told: Vec<&str> = rest.lines().filter(|line| line.contains("RTC_CHANGE")).collect();
            assert!(told.len() <= 2, "{rest}");
            let last: Value = serde_json::from_str(told.last().unwrap()).unwrap();
            assert!((2089..=2091).contains(&year_of(&last)), "{last}");
        });
    }

    #[test]
    fn commands_are_executed_in_order_and_events_reach_everyone() {
        let outcome = with_guest(|connect| {
            let (mut one, mut two) = (connect(), connect());
            one.say("{\"execute\":\"stop\",\"id\":1}{\"execute\":\"query-status\",\"id\":2}");
            assert_eq!(one.hear()["event"], "STOP");
            assert_eq!(one.hear(), json!({ "return": {}, "id": 1 }));
            assert_eq!(one.hear()["return"]["status"], "paused");
            assert_eq!(two.hear()["event"], "STOP");
            two.say("nonsense\n{\"execute\":\"quit\",\"id\":[3]}\n");
            assert_eq!(two.hear()["error"]["class"], "GenericError");
            assert_eq!(two.hear()["event"], "SHUTDOWN");
            assert_eq!(two.hear(), json!({ "return": {}, "id": [3] }));
            assert_eq!(one.hear()["event"], "SHUTDOWN");
        });
        assert_eq!(outcome, Outcome::Stopped);
    }

    #[test]
    fn a_client_that_does_not_read_is_hung_up_on() {
        let outcome = with_guest(|connect| {
            let mut stalled = connect();
            stalled.0.get_ref().set_nonblocking(true).unwrap();
            // The stalled client's commands stop being read when it is hung up on.
            let mut refused = false;
            for _ in 0..2_000_000 {
                match stalled.0.get_mut().write(b"{\"execute\":\"x-ostler-stats\"}\n") {
                    Ok(_) => {}
                    Err(error) if error.kind() == io::ErrorKind::WouldBlock => std::thread::yield_now(),
                    Err(_) => {
                        refused = true;
                        break;
                    }
                }
            }
            assert!(refused);
            connect().say("{\"execute\":\"quit\"}");
        });
        assert_eq!(outcome, Outcome::Stopped);
    }
}
