//! One client's conversation: from packets to answers, without sockets.
//!
//! All CPUs stop together, and are the threads 1 and on of one process.

use std::fmt::Write;

use ostler_accel::{CpuState, DebugCause, WatchKind};

use super::packet::{MAX_BODY, from_hex, number, split, to_hex};
use super::registers::{self, Architecture};
use super::target::{Gone, Move, NoPoint, Point, PointKind, Reason, Space, Stop, Target};
use crate::driver::Request;

/// Most bytes of memory that one answer holds, in hexadecimal.
const MAX_READ: usize = MAX_BODY / 2 - 16;
const SIGINT: u8 = 2;
const SIGTRAP: u8 = 5;

/// Answers that say no, as numbers that GDB shows.
const NO_SUCH: &str = "E01";
const BAD_ADDRESS: &str = "E14";
const NO_ROOM: &str = "E16";
const BAD_PACKET: &str = "E22";

const MONITOR_HELP: &str = "\
info registers          everything that the current thread's CPU has in registers
info status             whether the guest runs
gva2gpa ADDRESS         guest-physical address of a linear one on the current thread's CPU
phys on|off             memory is read and written by guest-physical address
architecture i386|x86-64  registers of the next connection, for guests that never leave 32-bit or 16-bit mode
system_reset            press the reset button
system_powerdown        press the power button
quit                    end the guest
";

/// What comes of a packet.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Step {
    /// Send this.
    Answer(Vec<u8>),
    /// Nothing to say now: the guest runs, or the packet needs no answer.
    Quiet,
    /// Send this, and let the guest go on without a debugger.
    Detach(Vec<u8>),
    /// Hang up.
    Close,
}

/// The state of a conversation.
#[derive(Debug)]
pub struct Session {
    /// Packets are acknowledged.
    acknowledges: bool,
    /// The client understands the reasons `swbreak` and `hwbreak`.
    says_breaks: [bool; 2],
    architecture: Architecture,
    /// That of the next connection.
    next_architecture: Architecture,
    physical: bool,
    /// The CPU that registers and memory are of.
    cpu: usize,
    running: bool,
    last: Stop,
}

impl Session {
    /// A client that has just connected.
    pub fn new(architecture: Architecture) -> Self {
        Self {
            acknowledges: true,
            says_breaks: [false; 2],
            architecture,
            next_architecture: architecture,
            physical: false,
            cpu: 0,
            running: true,
            last: Stop {
                cpu: 0,
                reason: Reason::Asked,
            },
        }
    }

    /// True if packets are to be acknowledged.
    pub fn acknowledges(&self) -> bool {
        self.acknowledges
    }

    /// True while the guest runs, and the client waits for it to stop.
    pub fn waits(&self) -> bool {
        self.running
    }

    /// The architecture that the next client sees.
    pub fn next_architecture(&self) -> Architecture {
        self.next_architecture
    }

    /// The guest has stopped. What to tell the client, if it waits for that.
    pub fn stopped(&mut self, stop: Stop) -> Option<Vec<u8>> {
        if !std::mem::take(&mut self.running) {
            return None;
        }
        self.last = stop;
        self.cpu = stop.cpu;
        Some(self.stop_reply())
    }

    /// The client wants the guest to stop.
    pub fn interrupt(&mut self, target: &mut dyn Target) -> Step {
        if !self.running {
            return Step::Quiet;
        }
        let stop = Stop {
            cpu: if target.has_cpu(self.cpu) { self.cpu } else { 0 },
            reason: Reason::Asked,
        };
        match target.stop() {
            Ok(()) => self.stopped(stop).map_or(Step::Quiet, |mut reply| {
                reply[1..3].copy_from_slice(format!("{SIGINT:02x}").as_bytes());
                Step::Answer(reply)
            }),
            Err(Gone) => gone(),
        }
    }

    /// Answers a packet.
    pub fn handle(&mut self, body: &[u8], target: &mut dyn Target) -> Step {
        let Some((&first, rest)) = body.split_first() else {
            return answer("");
        };
        let text = match first {
            b'?' => return self.why(target),
            b'g' => self.read_all(target),
            b'G' => self.write_all(rest, target),
            b'p' => self.read_one(rest, target),
            b'P' => self.write_one(rest, target),
            b'm' => self.read_memory(rest, target),
            b'M' => self.write_memory(rest, target, from_hex),
            b'X' => self.write_memory(rest, target, |data| Some(data.to_vec())),
            b'Z' => self.point(rest, target, true),
            b'z' => self.point(rest, target, false),
            b'H' => self.select(rest, target),
            b'T' => match thread(rest) {
                Some(Thread::Cpu(cpu)) if target.has_cpu(cpu) => "OK".into(),
                _ => NO_SUCH.into(),
            },
            b'c' | b's' => return self.go(first, rest, target),
            b'C' | b'S' => {
                let after = split(rest, b';').map_or(&[][..], |(_, address)| address);
                return self.go(first.to_ascii_lowercase(), after, target);
            }
            b'v' => return self.verbose(rest, target),
            b'q' | b'Q' => self.query(body, target),
            b'D' => return Step::Detach(b"OK".to_vec()),
            b'k' => {
                // There is no answer to this.
                let _ = target.ask(Request::Quit);
                return Step::Close;
            }
            _ => String::new(),
        };
        Step::Answer(text.into_bytes())
    }

    /// Stops a guest that runs, for a client that asks for the first time.
    fn why(&mut self, target: &mut dyn Target) -> Step {
        if self.running {
            if target.stop().is_err() {
                return gone();
            }
            self.running = false;
        }
        Step::Answer(self.stop_reply())
    }

    fn stop_reply(&self) -> Vec<u8> {
        let mut text = format!("T{SIGTRAP:02x}");
        let mut say = |reason: &str, value: String| {
            let _ = write!(text, "{reason}:{value};");
        };
        match self.last.reason {
            Reason::Met(DebugCause::Watchpoint { linear, kind }, _) => {
                let name = match kind {
                    WatchKind::Write => "watch",
                    WatchKind::Read => "rwatch",
                    WatchKind::Access => "awatch",
                };
                say(name, format!("{linear:x}"));
            }
            Reason::Met(DebugCause::Breakpoint, PointKind::Hardware) if self.says_breaks[1] => {
                say("hwbreak", String::new());
            }
            Reason::Met(DebugCause::Breakpoint, PointKind::Software) if self.says_breaks[0] => {
                say("swbreak", String::new());
            }
            _ => {}
        }
        say("thread", format!("{:x}", self.last.cpu + 1));
        text.into_bytes()
    }

    fn read_all(&self, target: &mut dyn Target) -> String {
        match target.registers(self.cpu) {
            Some(state) => to_hex(&self.architecture.all(&state)),
            None => NO_SUCH.into(),
        }
    }

    fn write_all(&self, text: &[u8], target: &mut dyn Target) -> String {
        let Some(bytes) = from_hex(text) else {
            return BAD_PACKET.into();
        };
        self.change(target, |architecture, state| architecture.set_all(state, &bytes))
    }

    fn read_one(&self, text: &[u8], target: &mut dyn Target) -> String {
        let Some(number) = number(text) else {
            return BAD_PACKET.into();
        };
        let value = target
            .registers(self.cpu)
            .and_then(|state| self.architecture.one(&state, number));
        value.map_or(NO_SUCH.into(), |bytes| to_hex(&bytes))
    }

    fn write_one(&self, text: &[u8], target: &mut dyn Target) -> String {
        let parts = split(text, b'=').and_then(|(name, value)| Some((number(name)?, from_hex(value)?)));
        let Some((number, bytes)) = parts else {
            return BAD_PACKET.into();
        };
        self.change(target, |architecture, state| {
            architecture.set_one(state, number, &bytes)
        })
    }

    fn change(
        &self,
        target: &mut dyn Target,
        change: impl FnOnce(Architecture, &mut CpuState) -> bool,
    ) -> String {
        let Some(mut state) = target.registers(self.cpu) else {
            return NO_SUCH.into();
        };
        let changed = change(self.architecture, &mut state) && target.set_registers(self.cpu, &state);
        if changed { "OK" } else { NO_SUCH }.into()
    }

    fn space(&self) -> Space {
        match self.physical {
            true => Space::Physical,
            false => Space::Virtual { cpu: self.cpu },
        }
    }

    fn read_memory(&self, text: &[u8], target: &mut dyn Target) -> String {
        let Some((address, len)) = address_and_length(text) else {
            return BAD_PACKET.into();
        };
        let mut bytes = vec![0; usize::try_from(len).unwrap_or(usize::MAX).min(MAX_READ)];
        let count = target.read(self.space(), address, &mut bytes);
        if count == 0 && !bytes.is_empty() {
            return BAD_ADDRESS.into();
        }
        to_hex(&bytes[..count])
    }

    fn write_memory(
        &self,
        text: &[u8],
        target: &mut dyn Target,
        decode: impl Fn(&[u8]) -> Option<Vec<u8>>,
    ) -> String {
        let parts = split(text, b':')
            .and_then(|(place, data)| Some((address_and_length(place)?, decode(data)?)))
            .filter(|((_, len), bytes)| *len == bytes.len() as u64);
        let Some(((address, _), bytes)) = parts else {
            return BAD_PACKET.into();
        };
        match target.write(self.space(), address, &bytes) {
            true => "OK".into(),
            false => BAD_ADDRESS.into(),
        }
    }

    fn point(&self, text: &[u8], target: &mut dyn Target, insert: bool) -> String {
        // Conditions for the stub to evaluate are not asked for, and come after a semicolon.
        let text = split(text, b';').map_or(text, |(before, _)| before);
        let parts =
            split(text, b',').and_then(|(kind, place)| Some((number(kind)?, address_and_length(place)?)));
        let Some((kind, (linear, len))) = parts else {
            return BAD_PACKET.into();
        };
        let kind = match kind {
            0 => PointKind::Software,
            1 => PointKind::Hardware,
            2 => PointKind::Watch(WatchKind::Write),
            3 => PointKind::Watch(WatchKind::Read),
            4 => PointKind::Watch(WatchKind::Access),
            _ => return String::new(),
        };
        let len = match kind {
            PointKind::Watch(_) if len == 0 => return BAD_PACKET.into(),
            PointKind::Watch(_) => len,
            _ => 1,
        };
        let point = Point { kind, linear, len };
        if !insert {
            target.remove(point);
            return "OK".into();
        }
        match target.insert(point, self.cpu) {
            Ok(()) => "OK".into(),
            Err(NoPoint::Unsupported) => String::new(),
            Err(NoPoint::Refused) => NO_ROOM.into(),
        }
    }

    /// `Hg` chooses whose registers and memory are meant. `Hc` is of old: what goes on is said by `vCont`, or all does.
    fn select(&mut self, text: &[u8], target: &mut dyn Target) -> String {
        match (text.first(), text.get(1..).and_then(thread)) {
            (Some(b'g'), Some(Thread::Cpu(cpu))) if target.has_cpu(cpu) => self.cpu = cpu,
            (Some(b'g'), Some(Thread::Any | Thread::All)) => {}
            (Some(b'c'), Some(Thread::Cpu(cpu))) if target.has_cpu(cpu) => {}
            (Some(b'c'), Some(Thread::Any | Thread::All)) => {}
            _ => return NO_SUCH.into(),
        }
        "OK".into()
    }

    /// `c` and `s`, with an address to go on at or none. A step is one of the chosen CPU alone.
    fn go(&mut self, action: u8, address: &[u8], target: &mut dyn Target) -> Step {
        if !address.is_empty() {
            let Some(address) = number(address) else {
                return answer(BAD_PACKET);
            };
            let done = self.change(target, |_, state| {
                state.rip = address;
                true
            });
            if done != "OK" {
                return answer(&done);
            }
        }
        let mut moves = vec![Move::Run; target.cpus()];
        if action == b's' {
            moves.fill(Move::Stay);
            if let Some(own) = moves.get_mut(self.cpu) {
                *own = Move::Step;
            }
        }
        self.resume(&moves, target)
    }

    fn resume(&mut self, moves: &[Move], target: &mut dyn Target) -> Step {
        if self.running || moves.iter().all(|&one| one == Move::Stay) {
            return answer(BAD_PACKET);
        }
        match target.resume(moves) {
            Err(Gone) => gone(),
            Ok(None) => {
                self.running = true;
                Step::Quiet
            }
            Ok(Some(stop)) => {
                self.running = true;
                self.stopped(stop).map_or(Step::Quiet, Step::Answer)
            }
        }
    }

    fn verbose(&mut self, text: &[u8], target: &mut dyn Target) -> Step {
        if text == b"Cont?" {
            return answer("vCont;c;C;s;S");
        }
        if let Some(actions) = text.strip_prefix(b"Cont;") {
            return match moves(actions, target.cpus()) {
                Some(moves) => self.resume(&moves, target),
                None => answer(BAD_PACKET),
            };
        }
        if text.starts_with(b"Kill;") {
            let _ = target.ask(Request::Quit);
            return answer("OK");
        }
        answer("")
    }

    fn query(&mut self, body: &[u8], target: &mut dyn Target) -> String {
        if let Some(client) = body.strip_prefix(b"qSupported") {
            let features: Vec<&[u8]> = client.split(|byte| matches!(byte, b':' | b';')).collect();
            self.says_breaks = [&b"swbreak+"[..], b"hwbreak+"].map(|name| features.contains(&name));
            return format!(
                "PacketSize={MAX_BODY:x};QStartNoAckMode+;qXfer:features:read+;vContSupported+;swbreak+;hwbreak+"
            );
        }
        if let Some(place) = body.strip_prefix(b"qXfer:features:read:target.xml:") {
            return match address_and_length(place) {
                Some((offset, len)) => part(&self.architecture.description(), offset, len),
                None => BAD_PACKET.into(),
            };
        }
        if let Some(command) = body.strip_prefix(b"qRcmd,") {
            let text = from_hex(command).and_then(|bytes| String::from_utf8(bytes).ok());
            return match text {
                Some(text) => to_hex(self.monitor(&text, target).as_bytes()),
                None => BAD_PACKET.into(),
            };
        }
        if let Some(id) = body.strip_prefix(b"qThreadExtraInfo,") {
            return match thread(id) {
                Some(Thread::Cpu(cpu)) if target.has_cpu(cpu) => to_hex(format!("CPU {cpu}").as_bytes()),
                _ => NO_SUCH.into(),
            };
        }
        match body {
            b"QStartNoAckMode" => {
                self.acknowledges = false;
                "OK".into()
            }
            b"qC" => format!("QC{:x}", self.cpu + 1),
            b"qAttached" => "1".into(),
            b"qfThreadInfo" => {
                let there = (0..target.cpus()).filter(|cpu| target.has_cpu(*cpu));
                let ids: Vec<_> = there.map(|cpu| format!("{:x}", cpu + 1)).collect();
                format!("m{}", ids.join(","))
            }
            b"qsThreadInfo" => "l".into(),
            b"qqemu.PhyMemMode" => u8::from(self.physical).to_string(),
            b"Qqemu.PhyMemMode:0" | b"Qqemu.PhyMemMode:1" => {
                self.physical = body.ends_with(b"1");
                "OK".into()
            }
            _ => String::new(),
        }
    }

    /// `monitor` commands, by the names that people know them by.
    fn monitor(&mut self, text: &str, target: &mut dyn Target) -> String {
        let words: Vec<_> = text.split_whitespace().collect();
        let ask = |target: &mut dyn Target, request| match target.ask(request) {
            Ok(()) => "done\n".into(),
            Err(why) => format!("{why}\n"),
        };
        match words[..] {
            [] | ["help"] => MONITOR_HELP.into(),
            ["info", "registers"] => match target.registers(self.cpu) {
                Some(state) => format!("CPU {}\n{}", self.cpu, registers::summary(&state)),
                None => "the CPU does not answer\n".into(),
            },
            ["info", "status"] => format!("the guest is {}\n", target.state()),
            ["gva2gpa", address] => {
                let digits = address.strip_prefix("0x").unwrap_or(address);
                match number(digits.as_bytes()) {
                    None => format!("\"{address}\" is no address; write it in hexadecimal\n"),
                    Some(linear) => match target.translate(self.cpu, linear) {
                        Some(physical) => format!("gpa: {physical:#x}\n"),
                        None => "nothing is mapped there\n".into(),
                    },
                }
            }
            ["phys", "on"] | ["phys", "off"] => {
                self.physical = words[1] == "on";
                let which = if self.physical { "guest-physical" } else { "linear" };
                format!("addresses are {which} ones\n")
            }
            ["architecture", name @ ("i386" | "x86-64")] => {
                self.next_architecture = match name {
                    "i386" => Architecture::I386,
                    _ => Architecture::X86_64,
                };
                "it counts from the next connection on\n".into()
            }
            ["system_reset"] => ask(target, Request::Reset),
            ["system_powerdown"] => ask(target, Request::PowerButton),
            ["quit"] => ask(target, Request::Quit),
            _ => format!("there is no command \"{text}\"; these are known:\n{MONITOR_HELP}"),
        }
    }
}

fn answer(text: &str) -> Step {
    Step::Answer(text.as_bytes().to_vec())
}

/// The process has exited.
fn gone() -> Step {
    answer("W00")
}

/// What a thread's id names.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Thread {
    All,
    Any,
    Cpu(usize),
}

fn thread(text: &[u8]) -> Option<Thread> {
    if text == b"-1" {
        return Some(Thread::All);
    }
    Some(match number(text)? {
        0 => Thread::Any,
        id => Thread::Cpu(usize::try_from(id).ok()? - 1),
    })
}

/// `address,length`.
fn address_and_length(text: &[u8]) -> Option<(u64, u64)> {
    let (address, len) = split(text, b',')?;
    Some((number(address)?, number(len)?))
}

/// What the actions of `vCont` tell each CPU: the first that names it counts.
fn moves(actions: &[u8], cpus: usize) -> Option<Vec<Move>> {
    let mut moves = vec![None; cpus];
    for action in actions.split(|&byte| byte == b';') {
        let (action, whom) = match split(action, b':') {
            Some((action, id)) => (action, thread(id)?),
            None => (action, Thread::All),
        };
        let one = match action.first()? {
            b'c' | b'C' => Move::Run,
            b's' | b'S' => Move::Step,
            _ => return None,
        };
        let set = |place: &mut Option<Move>| {
            place.get_or_insert(one);
        };
        match whom {
            Thread::All => moves.iter_mut().for_each(set),
            Thread::Any => moves.first_mut().into_iter().for_each(set),
            Thread::Cpu(cpu) => moves.get_mut(cpu).into_iter().for_each(set),
        }
    }
    Some(moves.into_iter().map(|one| one.unwrap_or(Move::Stay)).collect())
}

/// Part of a document that is read piece by piece.
fn part(text: &str, offset: u64, len: u64) -> String {
    let bound = |value: u64| usize::try_from(value).unwrap_or(usize::MAX);
    // It is ASCII.
    let rest = text.get(bound(offset)..).unwrap_or("");
    let piece = &rest[..bound(len).min(rest.len()).min(MAX_READ)];
    let kind = if piece.len() < rest.len() { 'm' } else { 'l' };
    format!("{kind}{piece}")
}

#[cfg(test)]
mod tests;
