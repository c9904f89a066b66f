//! Segments that are lost, come twice or in another order: what is kept, what is told, and what is sent again.

use super::super::connections::BUFFERS;
use super::*;

/// Selective acknowledgments, and a shift of 7.
const OPTIONS: [u8; 12] = [2, 4, 5, 0xb4, 1, 1, 4, 2, 1, 3, 3, 7];
/// The sequence number of the guest's first byte.
const FIRST: u32 = 100;

fn syn(options: &'static [u8]) -> Segment<'static> {
    Segment {
        options,
        ..segment(flags::SYN, FIRST - 1, 0, 60_000)
    }
}

/// A link with a connection whose guest understands selective acknowledgments.
fn open(takes: u8) -> (Link, Id, u32) {
    let mut link = Link::new(config(), takes);
    link.tcp(1000, server(), syn(&OPTIONS), &[]);
    let actions = link.actions();
    let [Action::Connect { connection, .. }] = actions[..] else {
        panic!("{actions:?}");
    };
    link.core.connection(connection).unwrap().connected(link.now);
    let frames = link.frames();
    let answer = Tcp::parse(packet(&frames[0]).payload).unwrap();
    assert!(answer.sack_permitted && answer.scale.is_some());
    let ours = answer.sequence.wrapping_add(1);
    link.tcp(1000, server(), segment(flags::ACK, FIRST, ours, 10_000), &[]);
    (link, connection, ours)
}

impl Link {
    /// The guest sends a piece of its stream, in which each byte is its place.
    fn piece(&mut self, ours: u32, at: u32, len: u32) -> Vec<(u32, Vec<(u32, u32)>)> {
        let bytes: Vec<u8> = (at..at + len).map(|at| at as u8).collect();
        let header = segment(flags::ACK, FIRST.wrapping_add(at), ours, 10_000);
        self.tcp(1000, server(), header, &bytes);
        let told = self.acknowledgments().into_iter();
        let place = |number: u32| number.wrapping_sub(FIRST);
        let places = |(a, b): (u32, u32)| (place(a), place(b));
        told.map(|(number, blocks)| (place(number), blocks.into_iter().map(places).collect()))
            .collect()
    }

    /// What the host gets, of which all is taken.
    fn taken(&mut self, id: Id) -> Vec<u8> {
        let connection = self.core.connection(id).unwrap();
        let mut all = Vec::new();
        while !connection.for_host().is_empty() {
            let bytes = connection.for_host();
            all.extend(bytes);
            let count = bytes.len();
            connection.host_took(count, 1);
        }
        all
    }

    /// The guest acknowledges, and has some blocks more.
    fn acknowledge(&mut self, number: u32, blocks: &[(u32, u32)]) {
        let mut options = vec![1, 1, 5, 2 + 8 * blocks.len() as u8];
        for (start, end) in blocks {
            options.extend(start.to_be_bytes());
            options.extend(end.to_be_bytes());
        }
        let header = Segment {
            options: if blocks.is_empty() { &[] } else { &options },
            ..segment(flags::ACK, FIRST, number, 10_000)
        };
        self.tcp(1000, server(), header, &[]);
    }

    /// Where in our stream the segments are that are sent now, and how long they are.
    fn sent(&mut self, ours: u32) -> Vec<(u32, usize)> {
        let frames = self.frames();
        let parse = |frame: &Vec<u8>| {
            let tcp = Tcp::parse(packet(frame).payload).unwrap();
            (tcp.sequence.wrapping_sub(ours), tcp.payload.len())
        };
        frames.iter().map(parse).collect()
    }
}

fn is_the_stream(bytes: &[u8]) -> bool {
    bytes.iter().enumerate().all(|(at, byte)| *byte == at as u8)
}

#[test]
fn what_comes_early_is_kept_and_told_of_at_once() {
    let (mut link, id, ours) = open(0);
    assert_eq!(link.piece(ours, 0, 10), [], "with what is sent next");
    assert_eq!(link.piece(ours, 20, 10), [(10, vec![(20, 30)])]);
    assert_eq!(link.piece(ours, 40, 10), [(10, vec![(40, 50), (20, 30)])]);
    // The latest comes first, also where it makes another longer.
    assert_eq!(link.piece(ours, 30, 5), [(10, vec![(20, 35), (40, 50)])]);
    for at in [60, 70, 80] {
        link.piece(ours, at, 1);
    }
    let four = vec![(90, 91), (80, 81), (70, 71), (60, 61)];
    assert_eq!(link.piece(ours, 90, 1), [(10, four)], "four have room");
    assert_eq!(link.core.connection(id).unwrap().for_host().len(), 10);
    // The gap is filled, by more than is missing.
    let filled = link.piece(ours, 5, 20);
    assert_eq!(filled[0].0, 35);
    assert_eq!(filled[0].1[0], (5, 10), "what came twice is named first");
    assert_eq!(link.piece(ours, 35, 60), [(95, vec![])]);
    let all = link.taken(id);
    assert!(all.len() == 95 && is_the_stream(&all));
}

#[test]
fn what_comes_twice_is_named() {
    let (mut link, id, ours) = open(0);
    link.piece(ours, 0, 100);
    link.piece(ours, 200, 100);
    assert_eq!(link.piece(ours, 0, 100), [(100, vec![(0, 100), (200, 300)])]);
    assert_eq!(link.piece(ours, 210, 10), [(100, vec![(210, 220), (200, 300)])]);
    assert_eq!(link.piece(ours, 250, 100), [(100, vec![(200, 350)])]);
    assert_eq!(link.taken(id).len(), 100);
    // To a guest that does not understand it, nothing is named.
    let mut link = Link::new(config(), 0);
    let (_, ours) = link.open(60_000);
    assert_eq!(link.piece(ours, 50, 10), [(0, vec![])]);
    assert_eq!(link.piece(ours, 50, 10), [(0, vec![])]);
    assert_eq!(link.piece(ours, 0, 50), [(60, vec![])]);
}

#[test]
fn nothing_is_kept_beyond_the_window() {
    let (mut link, id, ours) = open(0);
    link.piece(ours, 0, 1);
    link.frames();
    // The window is told in steps of 32 bytes.
    let edge = BUFFER as u32 - 50;
    // Near the edge, over it, and beyond.
    assert_eq!(link.piece(ours, edge - 10, 5), [(1, vec![(edge - 10, edge - 5)])]);
    let told = link.piece(ours, edge - 5, 1000);
    let end = told[0].1[0].1;
    assert!((edge..=edge + 50).contains(&end), "{end}");
    assert_eq!(link.piece(ours, edge + 51, 10)[0].1, told[0].1);
    assert_eq!(link.piece(ours, u32::MAX / 2, 10)[0].1, told[0].1);
    assert!(link.core.connection(id).unwrap().memory() <= BUFFER);
    let mut at = 1;
    while at < edge - 10 {
        let len = 1400.min(edge - 10 - at);
        link.piece(ours, at, len);
        at += len;
    }
    let all = link.taken(id);
    assert!(all.len() == end as usize && is_the_stream(&all));
}

#[test]
fn a_fin_that_comes_early_counts_when_all_is_there() {
    let (mut link, id, ours) = open(0);
    let fin = segment(flags::ACK | flags::FIN, FIRST + 10, ours, 10_000);
    link.tcp(1000, server(), fin, b"end");
    assert!(!link.core.connection(id).unwrap().wants_shutdown());
    // Nothing comes behind it.
    assert_eq!(link.piece(ours, 13, 5).len(), 2);
    assert_eq!(link.piece(ours, 0, 10)[0], (14, vec![]));
    assert_eq!(link.taken(id).len(), 13);
    assert!(link.core.connection(id).unwrap().wants_shutdown());
    // What came of it already is forgotten.
    let (mut link, id, ours) = open(0);
    link.piece(ours, 20, 10);
    let fin = segment(flags::ACK | flags::FIN, FIRST + 5, ours, 10_000);
    link.tcp(1000, server(), fin, &[5, 6, 7]);
    link.piece(ours, 0, 20);
    let all = link.taken(id);
    assert!(all.len() == 8 && is_the_stream(&all));
    assert!(link.core.connection(id).unwrap().wants_shutdown());
}

/// Single bytes with gaps between, to the edge of the window and back.
#[test]
fn islands_of_a_byte_take_no_more_memory_than_the_window() {
    let (mut link, id, ours) = open(0);
    let edge = BUFFER as u32;
    for at in (1..edge).step_by(997).chain((1..20_000).rev().step_by(2)) {
        let told = link.piece(ours, at, 1);
        assert!(told.len() == 1 && told[0].1.len() <= 4);
    }
    let connection = link.core.connection(id).unwrap();
    assert!(connection.memory() <= BUFFER, "{}", connection.memory());
    assert!(connection.for_host().is_empty());
    // What was not kept comes again.
    for at in (0..20_000).step_by(1000) {
        link.piece(ours, at, 1000);
    }
    let all = link.taken(id);
    assert!(all.len() >= 20_000 && is_the_stream(&all));
}

/// Each in turn takes all that its window promises, by one byte near the edge, and all that the host may give it.
#[test]
fn the_memory_of_all_connections_is_bounded() {
    let mut link = Link::new(config(), 0);
    for port in 1..=MAX_CONNECTIONS as u16 {
        link.tcp(port, server(), syn(&OPTIONS), &[]);
        let actions = link.actions();
        let [Action::Connect { connection, .. }] = actions[..] else {
            panic!("{actions:?}");
        };
        link.core.connection(connection).unwrap().connected(link.now);
        let answer = link.frames().pop().unwrap();
        let ours = Tcp::parse(packet(&answer).payload)
            .unwrap()
            .sequence
            .wrapping_add(1);
        // The whole window is told with the first acknowledgment.
        link.tcp(port, server(), segment(flags::ACK, FIRST, ours, 10_000), b"x");
        link.frames();
        for bits in 10..=20 {
            let far = FIRST + (1 << bits) - 50;
            link.tcp(port, server(), segment(flags::ACK, far, ours, 10_000), b"x");
        }
        let connection = link.core.connection(connection).unwrap();
        let room = connection.room_for_host();
        connection.host_gave(&vec![1; room], 1);
        link.frames();
    }
    let all = link.core.connections.values();
    let memory: usize = all.map(|connection| connection.memory()).sum();
    assert!((BUFFERS..=2 * BUFFERS).contains(&memory), "{memory}");
}

#[test]
fn only_what_a_guest_lacks_is_sent_again() {
    let (mut link, id, ours) = open(0);
    link.core.connection(id).unwrap().host_gave(&[1; 14_600], 1);
    assert_eq!(link.sent(ours).len(), 10);
    let place = |at: u32| ours.wrapping_add(at * 1460);
    // The first, the third and the seventh are missing.
    link.acknowledge(ours, &[(place(1), place(2))]);
    assert_eq!(link.sent(ours), [], "it may still come");
    link.acknowledge(ours, &[(place(3), place(6)), (place(1), place(2))]);
    assert_eq!(link.sent(ours), [(0, 1460)], "half as much may be out as was");
    link.acknowledge(
        ours,
        &[(place(7), place(10)), (place(3), place(6)), (place(1), place(2))],
    );
    let again = [(2 * 1460, 1460), (6 * 1460, 1460)];
    assert_eq!(link.sent(ours), again, "each once");
    link.acknowledge(place(2), &[(place(7), place(10)), (place(3), place(6))]);
    assert_eq!(link.sent(ours), []);
    link.acknowledge(place(10), &[]);
    assert_eq!(link.sent(ours), []);
    assert_eq!(link.core.deadline(), None, "nothing is waited for");
    // Blocks that cannot be say nothing.
    link.core.connection(id).unwrap().host_gave(&[1; 1460], 1);
    assert_eq!(link.sent(ours).len(), 1);
    for block in [
        (place(20), place(30)),
        (place(11), place(10)),
        (place(1), place(2)),
        (place(10), place(11)),
    ] {
        link.acknowledge(place(10), &[block]);
        assert_eq!(link.sent(ours), []);
    }
}

#[test]
fn the_wait_doubles_and_the_first_after_it_is_one_segment() {
    let (mut link, id, ours) = open(0);
    link.core.connection(id).unwrap().host_gave(&[1; 14_600], 1);
    assert_eq!(link.sent(ours).len(), 10);
    let mut waits = Vec::new();
    for _ in 0..4 {
        let deadline = link.core.deadline().unwrap();
        waits.push(deadline - link.now);
        link.now = deadline;
        assert_eq!(link.sent(ours), [(0, 1460)]);
    }
    assert_eq!(waits, [300, 600, 1200, 2400]);
    // Slow start: one, then two.
    link.acknowledge(ours.wrapping_add(1460), &[]);
    assert_eq!(link.sent(ours), [(1460, 1460), (2920, 1460)]);
    // What the guest has already is left out.
    link.acknowledge(
        ours.wrapping_add(2920),
        &[(ours.wrapping_add(4380), ours.wrapping_add(13_140))],
    );
    assert_eq!(link.sent(ours), [(13_140, 1460)]);
    link.acknowledge(ours.wrapping_add(14_600), &[]);
    assert_eq!(link.core.deadline(), None);
}

/// One whose guest answered once, so that the way is known.
fn answered() -> (Link, Id, u32) {
    let (mut link, id, ours) = open(0);
    link.core.connection(id).unwrap().host_gave(&[1; 1460], 1);
    assert_eq!(link.sent(ours).len(), 1);
    link.acknowledge(ours.wrapping_add(1460), &[]);
    assert_eq!(link.core.deadline(), None);
    (link, id, ours.wrapping_add(1460))
}

impl Link {
    /// Time passes until something is due; how much, and what is sent then.
    fn due(&mut self, ours: u32) -> (Millis, Vec<(u32, usize)>) {
        let waited = self.core.deadline().unwrap() - self.now;
        self.now += waited;
        (waited, self.sent(ours))
    }
}

#[test]
fn a_silent_guest_is_asked_before_all_counts_as_lost() {
    let (mut link, id, ours) = answered();
    link.core.connection(id).unwrap().host_gave(&[1; 5000], 1);
    assert_eq!(link.sent(ours).len(), 4);
    // By the end of what is out, twice; then all is sent again.
    let end = vec![(5000 - 1460, 1460)];
    assert_eq!(link.due(ours), (50, end.clone()));
    assert_eq!(link.due(ours), (50, end.clone()));
    assert_eq!(link.due(ours), (300, vec![(0, 1460)]));
    assert_eq!(link.due(ours), (600, vec![(0, 1460)]));
    // The answer comes at once, so the next loss is not waited for longer.
    link.acknowledge(ours.wrapping_add(1460), &[]);
    assert_eq!(link.sent(ours), [(1460, 1460), (2920, 1460)]);
    assert_eq!(link.due(ours), (50, end));
    // The guest names the end only, so the gap is filled.
    link.acknowledge(
        ours.wrapping_add(1460),
        &[(ours.wrapping_add(3540), ours.wrapping_add(5000))],
    );
    assert_eq!(link.due(ours).1[0], (1460, 1460));
    link.acknowledge(ours.wrapping_add(5000), &[]);
    assert_eq!(link.core.deadline(), None);
    // A single segment may be held back for long, and is not asked for.
    link.core.connection(id).unwrap().host_gave(&[1; 1460], 1);
    assert_eq!(link.sent(ours).len(), 1);
    assert_eq!(link.due(ours), (300, vec![(5000, 1460)]));
}

#[test]
fn a_late_answer_leaves_the_wait_as_long_as_it_is() {
    let (mut link, id, ours) = answered();
    link.core.connection(id).unwrap().host_gave(&[1; 2920], 1);
    assert_eq!(link.sent(ours).len(), 2);
    let waits: Vec<_> = (0..4).map(|_| link.due(ours).0).collect();
    assert_eq!(waits, [50, 50, 300, 600]);
    link.now += 200;
    link.acknowledge(ours.wrapping_add(1460), &[]);
    assert_eq!(link.sent(ours), [(1460, 1460)]);
    assert_eq!(link.due(ours).0, 1200);
}

/// What was lost, and what was sent again for it, too, while much more was out.
#[test]
fn what_is_lost_twice_is_sent_a_third_time_soon() {
    let (mut link, id, ours) = answered();
    link.core.connection(id).unwrap().host_gave(&[1; 58_400], 1);
    assert_eq!(link.sent(ours).len(), 40);
    let place = |at: u32| ours.wrapping_add(at * 1460);
    link.acknowledge(ours, &[(place(1), place(20)), (place(21), place(30))]);
    assert_eq!(link.sent(ours), [(0, 1460), (20 * 1460, 1460)]);
    link.acknowledge(ours, &[(place(1), place(40))]);
    assert_eq!(link.sent(ours), [], "the first is on its way");
    assert_eq!(link.due(ours), (50, vec![(0, 1460)]));
    link.acknowledge(place(40), &[]);
    assert_eq!(link.core.deadline(), None);
}

#[test]
fn an_older_window_does_not_count() {
    let (mut link, id, ours) = open(0);
    link.piece(ours, 0, 10);
    link.piece(ours, 10, 10);
    link.frames();
    // It was sent before those bytes, and came behind them.
    link.tcp(1000, server(), segment(flags::ACK, FIRST, ours, 0), &[]);
    link.core.connection(id).unwrap().host_gave(&[1; 1000], 1);
    assert_eq!(link.sent(ours).last(), Some(&(0, 1000)));
}
