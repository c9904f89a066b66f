//! Whole streams over a cable that loses, repeats and reorders: each arrives as it was sent, both ways.

use std::collections::VecDeque;

use proptest::strategy::ValueTree;
use proptest::test_runner::TestRunner;

use super::*;

/// Sequence number of the guest's first byte; some streams go over the end of the circle.
const FIRST: u32 = u32::MAX - 3000;
const MOST_ROUNDS: usize = 10_000;

/// What becomes of a frame.
#[derive(Debug, Clone, Copy)]
enum Fate {
    Arrives,
    Lost,
    Twice,
    /// Behind so many others.
    Late(usize),
}

fn fate() -> impl Strategy<Value = Fate> {
    prop_oneof![
        6 => Just(Fate::Arrives),
        2 => Just(Fate::Lost),
        1 => Just(Fate::Twice),
        2 => (1usize..6).prop_map(Fate::Late),
    ]
}

/// A way of the cable. Without more fates, all arrives.
struct Way<T> {
    fates: std::vec::IntoIter<Fate>,
    frames: VecDeque<T>,
    late: Vec<(usize, T)>,
}

impl<T: Clone> Way<T> {
    fn new(fates: Vec<Fate>) -> Self {
        Self {
            fates: fates.into_iter(),
            frames: VecDeque::new(),
            late: Vec::new(),
        }
    }

    fn send(&mut self, frame: T) {
        match self.fates.next().unwrap_or(Fate::Arrives) {
            Fate::Arrives => self.frames.push_back(frame),
            Fate::Lost => {}
            Fate::Twice => self.frames.extend([frame.clone(), frame]),
            Fate::Late(by) => self.late.push((by, frame)),
        }
        for (by, _) in &mut self.late {
            *by = by.saturating_sub(1);
        }
        while let Some(index) = self.late.iter().position(|(by, _)| *by == 0) {
            self.frames.push_back(self.late.remove(index).1);
        }
    }

    /// Nothing more is sent for now, so what is late arrives.
    fn receive(&mut self) -> Option<T> {
        let late = || self.late.pop().map(|(_, frame)| frame);
        self.frames.pop_front().or_else(late)
    }
}

/// A segment as it is on the cable.
#[derive(Clone)]
struct Sent {
    flags: u8,
    sequence: u32,
    acknowledgment: u32,
    sack: Vec<(u32, u32)>,
    payload: Vec<u8>,
}

impl Sent {
    fn of(frame: &[u8]) -> Self {
        let tcp = Tcp::parse(packet(frame).payload).unwrap();
        Self {
            flags: tcp.flags,
            sequence: tcp.sequence,
            acknowledgment: tcp.acknowledgment,
            sack: tcp.sack.iter().collect(),
            payload: tcp.payload.to_vec(),
        }
    }
}

/// A guest's TCP as simple as can be: it knows of each byte whether it is there.
struct Guest {
    /// What it sends, how much of that is acknowledged, and bytes of a segment.
    sends: Vec<u8>,
    acknowledged: usize,
    segment: usize,
    /// Our first sequence number, and what came of our stream.
    ours: u32,
    came: Vec<Option<u8>>,
    fin_at: Option<usize>,
    window: usize,
    sack: bool,
}

impl Guest {
    fn whole(&self) -> usize {
        self.came
            .iter()
            .position(Option::is_none)
            .unwrap_or(self.came.len())
    }

    fn has_fin(&self) -> bool {
        self.fin_at == Some(self.whole())
    }

    /// What it says of our stream.
    fn acknowledgment(&self) -> (u32, Vec<u8>) {
        let whole = self.whole();
        let number = self
            .ours
            .wrapping_add((whole + usize::from(self.has_fin())) as u32);
        let mut blocks = Vec::new();
        let mut at = whole;
        while self.sack && at < self.came.len() && blocks.len() < 4 {
            let run = |from: usize, there: bool| {
                let rest = self.came[from..].iter();
                from + rest.take_while(|byte| byte.is_some() == there).count()
            };
            let start = run(at, false);
            at = run(start, true);
            if start < at {
                blocks.push((start, at));
            }
        }
        let mut options = Vec::new();
        if !blocks.is_empty() {
            options.extend([1, 1, 5, 2 + 8 * blocks.len() as u8]);
        }
        for (start, end) in blocks {
            options.extend(self.ours.wrapping_add(start as u32).to_be_bytes());
            options.extend(self.ours.wrapping_add(end as u32).to_be_bytes());
        }
        (number, options)
    }

    /// A segment of its own stream, from a place on.
    fn piece(&self, at: usize) -> (u8, u32, Vec<u8>) {
        let end = (at + self.segment).min(self.sends.len());
        let last = end == self.sends.len();
        let flag = flags::ACK | if last { flags::FIN } else { 0 };
        (flag, FIRST.wrapping_add(at as u32), self.sends[at..end].to_vec())
    }

    fn receive(&mut self, segment: &Sent) {
        if segment.flags & flags::RST != 0 {
            // Ours has ended, as all was acknowledged both ways; its last acknowledgment was lost.
            assert!(self.has_fin(), "nobody gives up");
            self.acknowledged = self.sends.len() + 1;
            return;
        }
        let acknowledged = segment.acknowledgment.wrapping_sub(FIRST) as usize;
        assert!(acknowledged <= self.sends.len() + 1, "{acknowledged}");
        self.acknowledged = self.acknowledged.max(acknowledged);
        for (start, end) in &segment.sack {
            let [start, end] = [start, end].map(|number| number.wrapping_sub(FIRST) as usize);
            assert!(start < end && end <= self.sends.len(), "{start}..{end}");
        }
        let at = segment.sequence.wrapping_sub(self.ours) as usize;
        // Of nothing that it did not ask for.
        assert!(segment.payload.len() <= 1460);
        for (byte, place) in segment.payload.iter().zip(at..) {
            if self.came.len() <= place {
                self.came.resize(place + 1, None);
            }
            assert!(self.came[place].is_none_or(|there| there == *byte));
            self.came[place] = Some(*byte);
        }
        if segment.flags & flags::FIN != 0 {
            self.fin_at = Some(at + segment.payload.len());
        }
    }
}

/// Runs both streams to their ends. What the host gets, what the guest got, and the milliseconds that were waited.
fn carry(
    mut guest: Guest,
    host: &[u8],
    fates: [Vec<Fate>; 2],
    takes: &[usize],
) -> (Vec<u8>, Vec<u8>, Millis) {
    let mut link = Link::new(config(), 0);
    let options: &[u8] = if guest.sack {
        &[2, 4, 5, 0xb4, 1, 1, 4, 2]
    } else {
        &[2, 4, 5, 0xb4]
    };
    let syn = Segment {
        options,
        ..segment(flags::SYN, FIRST.wrapping_sub(1), 0, 60_000)
    };
    link.tcp(1000, server(), syn, &[]);
    let actions = link.actions();
    let [Action::Connect { connection: id, .. }] = actions[..] else {
        panic!("{actions:?}");
    };
    link.core.connection(id).unwrap().connected(link.now);
    let frames = link.frames();
    guest.ours = Tcp::parse(packet(&frames[0]).payload)
        .unwrap()
        .sequence
        .wrapping_add(1);
    let open = segment(flags::ACK, FIRST, guest.ours, guest.window as u16);
    link.tcp(1000, server(), open, &[]);

    let [out, back] = fates;
    let (mut up, mut down) = (Way::new(out), Way::new(back));
    let (mut got, mut given, mut given_fin) = (Vec::new(), 0, false);
    let mut takes = takes.iter().cycle();
    let ends = |guest: &Guest| guest.acknowledged == guest.sends.len() + 1 && guest.has_fin();
    for round in 0.. {
        assert!(round < MOST_ROUNDS, "it stands still");
        if ends(&guest) {
            break;
        }
        // The host gives and takes.
        if let Some(connection) = link.core.connection(id) {
            let room = connection
                .room_for_host()
                .min(*takes.next().unwrap_or(&1))
                .min(host.len() - given);
            if room > 0 {
                connection.host_gave(&host[given..given + room], link.now);
                given += room;
            } else if given == host.len() && !given_fin {
                connection.host_gave(&[], link.now);
                given_fin = true;
            }
            let took = connection.for_host().len().min(*takes.next().unwrap_or(&1));
            got.extend(&connection.for_host()[..took]);
            connection.host_took(took, link.now);
        }
        // Ours sends; the guest answers each.
        for frame in link.frames() {
            down.send(Sent::of(&frame));
        }
        let mut answers = 0;
        while let Some(segment) = down.receive() {
            guest.receive(&segment);
            answers += usize::from(!segment.payload.is_empty() || segment.flags & flags::FIN != 0);
        }
        let (number, options) = guest.acknowledgment();
        for _ in 0..answers {
            up.send((
                flags::ACK,
                FIRST.wrapping_add(guest.acknowledged as u32),
                number,
                options.clone(),
                Vec::new(),
            ));
        }
        // It sends a few segments of its own, from what is missing on.
        for index in 0..4 {
            let at = guest.acknowledged + index * guest.segment;
            if at < guest.sends.len() || (at == guest.sends.len() && index == 0) {
                let (flag, sequence, payload) = guest.piece(at);
                up.send((flag, sequence, number, Vec::new(), payload));
            }
        }
        while let Some((flag, sequence, acknowledgment, options, payload)) = up.receive() {
            let header = Segment {
                options: &options,
                ..segment(flag, sequence, acknowledgment, guest.window as u16)
            };
            link.tcp(1000, server(), header, &payload);
        }
        // Time passes when nothing else happens.
        if answers == 0
            && let Some(deadline) = link.core.deadline()
        {
            link.now = link.now.max(deadline);
        }
    }
    while let Some(connection) = link.core.connection(id) {
        let took = connection.for_host().len();
        if took == 0 {
            break;
        }
        got.extend(connection.for_host());
        connection.host_took(took, link.now);
    }
    (got, guest.came.into_iter().flatten().collect(), link.now - 1)
}

/// A stream in which a byte tells its place.
fn stream(len: usize) -> Vec<u8> {
    (0..len).map(|at| (at ^ (at >> 8)) as u8).collect()
}

proptest! {
    #[test]
    fn whatever_the_cable_does_both_streams_arrive_as_they_were_sent(
        lens in (0usize..30_000, 0usize..60_000),
        segment in 1usize..1460,
        window in 1usize..65_536,
        sack in any::<bool>(),
        out in prop::collection::vec(fate(), 0..300),
        back in prop::collection::vec(fate(), 0..300),
        takes in prop::collection::vec(1usize..20_000, 1..10),
    ) {
        let (sends, host) = (stream(lens.0), stream(lens.1));
        let guest = Guest {
            sends: sends.clone(),
            acknowledged: 0,
            segment: segment.max(lens.0 / 500),
            ours: 0,
            came: Vec::new(),
            fin_at: None,
            window: window.max(lens.1 / 500),
            sack,
        };
        let (got, came, _) = carry(guest, &host, [out, back], &takes);
        prop_assert!(got == sends, "{} of {} bytes came out", got.len(), sends.len());
        prop_assert!(came == host, "{} of {} bytes came in", came.len(), host.len());
    }
}

/// Some streams over a cable that loses each sixteenth frame. Nobody sends while time passes here, so it is what the timer costs.
#[test]
fn a_cable_that_loses_much_costs_few_waits() {
    let fate = prop_oneof![
        84 => Just(Fate::Arrives),
        6 => Just(Fate::Lost),
        2 => Just(Fate::Twice),
        6 => (1usize..6).prop_map(Fate::Late),
    ];
    let mut runner = TestRunner::deterministic();
    let mut fates = || {
        let fates = prop::collection::vec(fate.clone(), 4000).new_tree(&mut runner);
        fates.unwrap().current()
    };
    let host = stream(1_000_000);
    let waits: Vec<_> = std::iter::repeat_with(|| {
        let guest = Guest {
            sends: Vec::new(),
            acknowledged: 0,
            segment: 1460,
            ours: 0,
            came: Vec::new(),
            fin_at: None,
            window: 65_535,
            sack: true,
        };
        let (_, came, waited) = carry(guest, &host, [fates(), fates()], &[100_000]);
        assert!(came == host, "{} bytes came in", came.len());
        waited
    })
    .take(15)
    .collect();
    // With the waits of RFC 6298 alone it is twice as much.
    let mean = waits.iter().sum::<Millis>() / 15;
    assert!(mean < 1000, "{waits:?} ms");
}
