use std::io::{Read, Write};
use std::os::fd::OwnedFd;
use std::os::unix::net::{UnixListener, UnixStream};
use std::sync::Arc;

use proptest::prelude::*;
use vmm_sys_util::eventfd::EventFd;

use super::connection::BUFFER;
use super::door::parse;
use super::packet::{HEADER, Header, MAX_PAYLOAD, NO_RECEIVE, NO_SEND, Op, STREAM};
use super::table::{MAX_CONNECTIONS, Table};
use super::{Door, HOST_CID, VsockDevice, plug};
use crate::device::{Activation, VirtioDevice};
use crate::error::GuestError;
use crate::testing::{Driver, Recorder, ram};

const CID: u32 = 5;
/// What the guest's end says it has room for.
const ROOM: u32 = 1 << 20;

fn packet(op: Op, guest: u32, host: u32, len: usize) -> Header {
    Header {
        source_cid: CID.into(),
        target_cid: HOST_CID,
        source_port: guest,
        target_port: host,
        len: len as u32,
        kind: STREAM,
        op,
        flags: 0,
        buffer: ROOM,
        forwarded: 0,
    }
}

fn table() -> Table {
    Table::new(CID, 0).unwrap()
}

/// The table with an open connection that the guest wanted, and the host's end of it.
fn open(table: &mut Table, guest: u32, host: u32) -> UnixStream {
    table.receive(&packet(Op::Request, guest, host, 0), &[]);
    let wishes = table.take_wishes();
    assert_eq!(wishes.len(), 1);
    let (ours, theirs) = UnixStream::pair().unwrap();
    table.fulfil(wishes[0].id, Some(theirs.into()));
    let response = next(table, 0).unwrap().0;
    assert_eq!(
        (response.op, response.source_port, response.target_port),
        (Op::Response, host, guest)
    );
    assert_eq!(response.buffer, BUFFER);
    ours
}

fn next(table: &mut Table, room: usize) -> Option<(Header, Vec<u8>)> {
    table.look();
    let mut data = Vec::new();
    table.next(room, &mut data).map(|header| (header, data))
}

fn is_reset(packet: Option<(Header, Vec<u8>)>) -> bool {
    packet.is_some_and(|(header, _)| header.op == Op::Reset)
}

#[test]
fn data_goes_both_ways_and_both_ends_can_end() {
    let mut table = table();
    let mut host = open(&mut table, 1000, 7);
    table.receive(&packet(Op::Data, 1000, 7, 5), b"hello");
    let mut bytes = [0; 5];
    host.read_exact(&mut bytes).unwrap();
    assert_eq!(&bytes, b"hello");
    host.write_all(b"good day").unwrap();
    let (header, data) = next(&mut table, 6).unwrap();
    assert_eq!((header.op, header.len, &data[..]), (Op::Data, 6, &b"good d"[..]));
    assert_eq!(header.forwarded, 5, "what the host took");
    assert_eq!(next(&mut table, 6).unwrap().1, b"ay");
    assert_eq!(next(&mut table, 6), None);
    host.shutdown(std::net::Shutdown::Write).unwrap();
    let (header, _) = next(&mut table, 6).unwrap();
    assert_eq!((header.op, header.flags), (Op::Shutdown, NO_SEND));
    table.receive(&packet(Op::Data, 1000, 7, 3), b"bye");
    let mut shutdown = packet(Op::Shutdown, 1000, 7, 0);
    shutdown.flags = NO_SEND | NO_RECEIVE;
    table.receive(&shutdown, &[]);
    assert!(is_reset(next(&mut table, 6)), "a clean end");
    let mut rest = Vec::new();
    host.read_to_end(&mut rest).unwrap();
    assert_eq!(rest, b"bye");
    assert_eq!(table.len(), 0);
}

#[test]
fn a_host_that_leaves_is_announced_once_in_full() {
    let mut table = table();
    let host = open(&mut table, 1, 2);
    drop(host);
    let (header, _) = next(&mut table, 100).unwrap();
    assert_eq!((header.op, header.flags), (Op::Shutdown, NO_SEND | NO_RECEIVE));
    assert_eq!(next(&mut table, 100), None);
    // The guest sends to nobody.
    table.receive(&packet(Op::Data, 1, 2, 1), b"x");
    assert!(is_reset(next(&mut table, 100)));
    assert_eq!(table.len(), 0);
}

#[test]
fn a_half_closed_host_that_leaves_later_is_announced_again() {
    let mut table = table();
    let host = open(&mut table, 1, 2);
    host.shutdown(std::net::Shutdown::Write).unwrap();
    assert_eq!(next(&mut table, 100).unwrap().0.flags, NO_SEND);
    drop(host);
    assert_eq!(next(&mut table, 100).unwrap().0.flags, NO_SEND | NO_RECEIVE);
}

#[test]
fn the_guest_gets_no_more_than_it_has_room_for() {
    let mut table = table();
    let mut host = open(&mut table, 1, 2);
    let mut credit = packet(Op::CreditUpdate, 1, 2, 0);
    credit.buffer = 10;
    table.receive(&credit, &[]);
    host.write_all(&[7; 25]).unwrap();
    assert_eq!(next(&mut table, 100).unwrap().1.len(), 10);
    let (header, _) = next(&mut table, 100).unwrap();
    assert_eq!(header.op, Op::CreditRequest);
    assert_eq!(next(&mut table, 100), None, "it asks once");
    credit.forwarded = 8;
    table.receive(&credit, &[]);
    assert_eq!(next(&mut table, 100).unwrap().1.len(), 8);
    credit.forwarded = 18;
    table.receive(&credit, &[]);
    assert_eq!(next(&mut table, 100).unwrap().1.len(), 7);
    // It claims to have taken what was never sent.
    credit.forwarded = 1000;
    table.receive(&credit, &[]);
    host.write_all(b"more").unwrap();
    assert_eq!(next(&mut table, 100).unwrap().0.op, Op::CreditRequest);
    assert_eq!(next(&mut table, 100), None);
}

#[test]
fn a_slow_host_holds_the_guest_back_and_gets_everything() {
    let mut table = table();
    let mut host = open(&mut table, 1, 2);
    let piece: Vec<u8> = (0..16 << 10).map(|n| n as u8).collect();
    let mut sent = 0;
    let mut allowed = BUFFER;
    // As a driver does it: as much as it may, by the credit in what it is told.
    while sent + piece.len() <= allowed as usize {
        table.receive(&packet(Op::Data, 1, 2, piece.len()), &piece);
        sent += piece.len();
        while let Some((header, _)) = next(&mut table, 100) {
            assert_eq!(header.op, Op::CreditUpdate);
            allowed = header.forwarded + header.buffer;
        }
    }
    assert!(sent >= BUFFER as usize);
    let mut taken = vec![0; sent];
    // Reading makes room in the stream, and the rest follows.
    let mut done = 0;
    while done < sent {
        done += host.read(&mut taken[done..]).unwrap();
        table.look();
    }
    assert!(taken.chunks(piece.len()).all(|chunk| chunk == piece));
    let (header, _) = next(&mut table, 100).unwrap();
    assert_eq!((header.op, header.forwarded as usize), (Op::CreditUpdate, sent));
}

#[test]
fn a_guest_that_sends_more_than_it_may_loses_its_connection() {
    let mut table = table();
    let _host = open(&mut table, 1, 2);
    let piece = vec![0; MAX_PAYLOAD];
    let mut pieces = 0;
    while table.len() == 1 {
        table.receive(&packet(Op::Data, 1, 2, piece.len()), &piece);
        pieces += 1;
        assert!(pieces < 100, "nobody reads, so there is an end");
    }
    while let Some((header, _)) = next(&mut table, 0) {
        if header.op == Op::Reset {
            return;
        }
    }
    panic!("no reset");
}

#[test]
fn what_fits_no_connection_is_answered_by_a_reset() {
    let mut table = table();
    for op in [
        Op::Response,
        Op::Data,
        Op::Shutdown,
        Op::CreditRequest,
        Op::Unknown(99),
    ] {
        table.receive(&packet(op, 1, 2, 0), &[]);
        assert!(is_reset(next(&mut table, 0)), "{op:?}");
    }
    let mut other_kind = packet(Op::Request, 1, 2, 0);
    other_kind.kind = 2;
    table.receive(&other_kind, &[]);
    assert!(is_reset(next(&mut table, 0)), "sequenced packets");
    table.receive(&packet(Op::Reset, 1, 2, 0), &[]);
    assert_eq!(next(&mut table, 0), None, "a reset is not answered");
    let mut not_ours = packet(Op::Request, 1, 2, 0);
    not_ours.target_cid = 9;
    table.receive(&not_ours, &[]);
    let mut stolen = packet(Op::Request, 1, 2, 0);
    stolen.source_cid = 6;
    table.receive(&stolen, &[]);
    assert!(next(&mut table, 0).is_none() && table.take_wishes().is_empty());
    // A second request for what is there.
    let _host = open(&mut table, 1, 2);
    table.receive(&packet(Op::Request, 1, 2, 0), &[]);
    assert!(is_reset(next(&mut table, 0)) && table.len() == 0);
}

#[test]
fn there_is_an_end_to_connections_on_both_sides() {
    let mut table = table();
    let mut clients = Vec::new();
    for _ in 0..2 * MAX_CONNECTIONS {
        let (ours, theirs) = UnixStream::pair().unwrap();
        table.connect(theirs.into(), 80);
        clients.push(ours);
    }
    assert_eq!(table.len(), MAX_CONNECTIONS);
    table.receive(&packet(Op::Request, 1, 2, 0), &[]);
    assert!(is_reset(next(&mut table, 0)));
    let mut ports = std::collections::BTreeSet::new();
    while let Some((header, _)) = next(&mut table, 0) {
        assert_eq!((header.op, header.target_port), (Op::Request, 80));
        ports.insert(header.source_port);
    }
    assert_eq!(ports.len(), MAX_CONNECTIONS, "each has a port of its own");
    drop(clients);
    let resets = (0..MAX_CONNECTIONS).filter(|_| {
        while table.look() {}
        is_reset(next(&mut table, 0))
    });
    assert_eq!(
        resets.count(),
        MAX_CONNECTIONS,
        "they left before they were answered"
    );
    assert_eq!(table.len(), 0);
}

#[test]
fn resets_wait_in_bounded_number() {
    let mut table = table();
    let mut packets = 0;
    while !table.is_full() {
        table.receive(&packet(Op::Data, packets, 2, 0), &[]);
        packets += 1;
    }
    assert_eq!(packets, 256);
    assert!(is_reset(next(&mut table, 0)) && !table.is_full());
}

#[test]
fn a_clients_line_is_understood_or_it_is_sent_away() {
    assert_eq!(parse(b"CONNECT 1024"), Some(1024));
    assert_eq!(parse(b"CONNECT 4294967295\r"), Some(u32::MAX));
    for bad in [
        "",
        "CONNECT",
        "CONNECT ",
        "CONNECT x",
        "connect 1",
        "CONNECT 4294967296",
        "CONNECT +1",
        "CONNECT 1 ",
    ] {
        assert_eq!(parse(bad.as_bytes()), None, "{bad}");
    }
}

/// What may happen to a table.
#[derive(Debug, Clone)]
enum Step {
    Packet(Header, usize),
    Fulfil(usize, bool),
    Connect(u32),
    HostSends(usize, usize),
    HostReads(usize),
    HostCloses(usize),
    HostEnds(usize),
    Next(usize),
    Clear,
}

fn step() -> impl Strategy<Value = Step> {
    let op = prop_oneof![
        3 => Just(Op::Request),
        3 => Just(Op::Response),
        1 => Just(Op::Reset),
        2 => Just(Op::Shutdown),
        4 => Just(Op::Data),
        2 => Just(Op::CreditUpdate),
        1 => Just(Op::CreditRequest),
        1 => (0u16..20).prop_map(Op::Unknown),
    ];
    // Few ports, so that packets meet connections.
    let host = prop_oneof![0u32..3, (1u32 << 30)..(1 << 30) + 3];
    let packet = (
        op,
        0u32..3,
        host,
        0u32..5,
        any::<u32>(),
        any::<u32>(),
        0usize..MAX_PAYLOAD,
    );
    let packet = packet.prop_map(|(op, guest, host, flags, buffer, forwarded, len)| {
        let header = Header {
            flags,
            buffer,
            forwarded,
            ..self::packet(op, guest, host, len)
        };
        Step::Packet(header, len)
    });
    prop_oneof![
        10 => packet,
        3 => (0usize..8, any::<bool>()).prop_map(|(which, there)| Step::Fulfil(which, there)),
        3 => (0u32..3).prop_map(Step::Connect),
        3 => (0usize..8, 0usize..5000).prop_map(|(which, count)| Step::HostSends(which, count)),
        3 => (0usize..8).prop_map(Step::HostReads),
        1 => (0usize..8).prop_map(Step::HostCloses),
        1 => (0usize..8).prop_map(Step::HostEnds),
        6 => (0usize..5000).prop_map(Step::Next),
        1 => Just(Step::Clear),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(256))]

    #[test]
    fn any_header_survives(bytes in prop::array::uniform32(any::<u8>()), rest in prop::array::uniform12(any::<u8>())) {
        let mut all = [0; HEADER];
        all[..32].copy_from_slice(&bytes);
        all[32..].copy_from_slice(&rest);
        prop_assert_eq!(Header::parse(&all).bytes(), all);
    }

    #[test]
    fn any_line_is_a_port_or_none(line in prop::collection::vec(any::<u8>(), 0..20)) {
        let _ = parse(&line);
    }

    #[test]
    fn nothing_that_a_guest_or_a_host_does_breaks_the_table(steps in prop::collection::vec(step(), 1..200)) {
        let mut table = table();
        let mut wishes = Vec::new();
        let mut hosts: Vec<UnixStream> = Vec::new();
        let pair = || {
            let (ours, theirs) = UnixStream::pair().unwrap();
            ours.set_nonblocking(true).unwrap();
            (ours, OwnedFd::from(theirs))
        };
        for step in steps {
            match step {
                Step::Packet(header, len) if !table.is_full() => table.receive(&header, &vec![1; len]),
                Step::Fulfil(which, there) if which < wishes.len() => {
                    let (ours, theirs) = pair();
                    table.fulfil(wishes.remove(which), there.then_some(theirs));
                    hosts.push(ours);
                }
                Step::Connect(port) => {
                    let (ours, theirs) = pair();
                    table.connect(theirs, port);
                    hosts.push(ours);
                }
                Step::HostSends(which, count) if which < hosts.len() => {
                    let _ = hosts[which].write(&vec![2; count]);
                }
                Step::HostReads(which) if which < hosts.len() => {
                    let _ = hosts[which].read(&mut [0; 100_000]);
                }
                Step::HostCloses(which) if which < hosts.len() => drop(hosts.remove(which)),
                Step::HostEnds(which) if which < hosts.len() => {
                    let _ = hosts[which].shutdown(std::net::Shutdown::Write);
                }
                Step::Next(room) => {
                    if let Some((header, data)) = next(&mut table, room) {
                        prop_assert!(data.len() <= room && header.len as usize == data.len());
                        prop_assert_eq!((header.source_cid, header.target_cid), (HOST_CID, CID.into()));
                    }
                }
                Step::Clear => table.clear(CID),
                _ => {}
            }
            table.look();
            wishes.extend(table.take_wishes().iter().map(|wish| wish.id));
            prop_assert!(table.len() <= MAX_CONNECTIONS);
        }
        // Whatever is due comes to an end, even if nobody does anything any more.
        drop(hosts);
        let mut left = 0;
        while next(&mut table, 4096).is_some() {
            left += 1;
            prop_assert!(left < 100_000);
        }
    }
}

/// A device with its driver's three queues, and the host's ends.
struct Bench {
    device: VsockDevice,
    /// Received, sent, events.
    queues: [Driver; 3],
    kicks: Vec<Arc<EventFd>>,
    notify: Arc<Recorder>,
    plug: OwnedFd,
    path: std::path::PathBuf,
    _folder: tempfile::TempDir,
}

/// Where packets lie in memory.
const OUT: u64 = 0x40_0000;
const IN: u64 = 0x50_0000;

impl Bench {
    fn new() -> Self {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("vsock");
        let listener = UnixListener::bind(&path).unwrap();
        let (plug, guests) = plug::pair().unwrap();
        let device = VsockDevice::new(CID, Door::new(listener.into(), Some(guests)).unwrap()).unwrap();
        let ram = ram();
        let queues = [0x1_0000, 0x2_0000, 0x3_0000].map(|base| Driver::new(ram.clone(), base, 64));
        let mut bench = Self {
            device,
            queues,
            kicks: Vec::new(),
            notify: Arc::default(),
            plug,
            path,
            _folder: folder,
        };
        bench.start();
        bench
    }

    fn start(&mut self) {
        let active: Vec<_> = (0..)
            .zip(&self.queues)
            .map(|(index, queue)| queue.active(index, false))
            .collect();
        self.kicks = active.iter().map(|queue| queue.kick.clone()).collect();
        let activation = Activation {
            features: 1,
            queues: active,
            ram: self.queues[0].ram.clone(),
            notify: self.notify.clone(),
        };
        self.device.activate(activation).unwrap();
    }

    fn send(&mut self, header: &Header, data: &[u8]) {
        let queue = &mut self.queues[1];
        queue.write(OUT, &header.bytes());
        queue.write(OUT + 0x1000, data);
        let mut chain = vec![(OUT, HEADER as u32, false)];
        if !data.is_empty() {
            chain.push((OUT + 0x1000, data.len() as u32, false));
        }
        queue.add(&chain);
        self.kicks[1].write(1).unwrap();
        self.queues[1].wait_used();
    }

    fn receive(&mut self) -> (Header, Vec<u8>) {
        self.queues[0].add(&[(IN, HEADER as u32, true), (IN + 0x1000, 4096, true)]);
        self.kicks[0].write(1).unwrap();
        let (_, len) = self.queues[0].wait_used();
        let header = self.queues[0].read(IN, HEADER).try_into().unwrap();
        let data = self.queues[0].read(IN + 0x1000, len as usize - HEADER);
        (Header::parse(&header), data)
    }
}

#[test]
fn a_client_of_the_host_reaches_the_guest() {
    let mut bench = Bench::new();
    let mut client = UnixStream::connect(&bench.path).unwrap();
    client.write_all(b"CONNECT 1234\nfirst").unwrap();
    let (request, _) = bench.receive();
    assert_eq!((request.op, request.target_port), (Op::Request, 1234));
    let host = request.source_port;
    bench.send(&packet(Op::Response, 1234, host, 0), &[]);
    let mut line = vec![0; format!("OK {host}\n").len()];
    client.read_exact(&mut line).unwrap();
    assert_eq!(line, format!("OK {host}\n").into_bytes());
    assert_eq!(bench.receive().1, b"first", "what followed the line");
    bench.send(&packet(Op::Data, 1234, host, 4), b"back");
    let mut bytes = [0; 4];
    client.read_exact(&mut bytes).unwrap();
    assert_eq!(&bytes, b"back");
    let metrics = bench.device.metrics().snapshot();
    assert_eq!((metrics.bytes_to_guest, metrics.bytes_from_guest), (5, 4));
    bench.device.stop();
    assert_eq!(client.read(&mut bytes).unwrap(), 0, "a reset ends connections");
}

#[test]
fn clients_that_say_nonsense_or_nothing_are_sent_away() {
    let mut bench = Bench::new();
    let mut wrong = UnixStream::connect(&bench.path).unwrap();
    wrong.write_all(b"GET / HTTP/1.1\r\n").unwrap();
    assert_eq!(wrong.read(&mut [0]).unwrap_or(0), 0);
    let mut silent = UnixStream::connect(&bench.path).unwrap();
    let _others: Vec<_> = (0..40)
        .map(|_| UnixStream::connect(&bench.path).unwrap())
        .collect();
    assert_eq!(silent.read(&mut [0]).unwrap_or(0), 0, "the oldest of too many");
    let mut client = UnixStream::connect(&bench.path).unwrap();
    client.write_all(b"CONNECT 5\n").unwrap();
    assert_eq!(bench.receive().0.op, Op::Request);
    let (request, _) = (packet(Op::Reset, 5, 1 << 30, 0), ());
    bench.send(&request, &[]);
    assert_eq!(
        client.read(&mut [0]).unwrap(),
        0,
        "the guest does not listen there"
    );
    bench.device.stop();
}

#[test]
fn the_guest_reaches_what_its_plug_leads_to() {
    let mut bench = Bench::new();
    bench.send(&packet(Op::Request, 40, 50, 0), &[]);
    let (id, port) = plug::wait_for_wish(&bench.plug).unwrap();
    assert_eq!(port, 50);
    let (mut ours, theirs) = UnixStream::pair().unwrap();
    plug::answer(&bench.plug, id, Ok(std::os::fd::AsFd::as_fd(&theirs))).unwrap();
    drop(theirs);
    assert_eq!(bench.receive().0.op, Op::Response);
    bench.send(&packet(Op::Data, 40, 50, 3), b"abc");
    let mut bytes = [0; 3];
    ours.read_exact(&mut bytes).unwrap();
    assert_eq!(&bytes, b"abc");
    // One that is refused, and one of a guest that has no plug any more.
    bench.send(&packet(Op::Request, 41, 51, 0), &[]);
    let (id, _) = plug::wait_for_wish(&bench.plug).unwrap();
    plug::answer(&bench.plug, id, Err(111)).unwrap();
    assert_eq!(bench.receive().0.op, Op::Reset);
    bench.send(&packet(Op::Request, 42, 52, 0), &[]);
    let (other, _) = plug::pair().unwrap();
    bench.plug = other;
    let (header, _) = bench.receive();
    assert_eq!((header.op, header.target_port), (Op::Reset, 42));
    bench.device.stop();
}

#[test]
fn another_cid_ends_connections_and_the_guest_is_told() {
    let mut bench = Bench::new();
    let mut client = UnixStream::connect(&bench.path).unwrap();
    client.write_all(b"CONNECT 1\n").unwrap();
    assert_eq!(bench.receive().0.op, Op::Request);
    bench.device.control().set_cid(9);
    assert_eq!(client.read(&mut [0]).unwrap(), 0);
    bench.queues[2].write(IN, &[0xff; 4]);
    bench.queues[2].add(&[(IN, 4, true)]);
    bench.kicks[2].write(1).unwrap();
    assert_eq!(bench.queues[2].wait_used().1, 4);
    assert_eq!(bench.queues[2].read(IN, 4), [0; 4]);
    let mut config = [0xff; 8];
    bench.device.read_config(0, &mut config);
    assert_eq!(u64::from_le_bytes(config), 9);
    // Packets under the old CID are nobody's.
    bench.send(&packet(Op::Data, 1, 2, 0), &[]);
    bench.send(
        &Header {
            source_cid: 9,
            ..packet(Op::Data, 3, 4, 0)
        },
        &[],
    );
    let (header, _) = bench.receive();
    assert_eq!((header.op, header.target_port), (Op::Reset, 3));
    bench.device.stop();
}

#[test]
fn a_malformed_packet_asks_for_a_reset_and_the_device_starts_again() {
    for (len, claimed) in [
        (HEADER as u32 - 1, 0),
        (HEADER as u32, 1),
        (HEADER as u32, u32::MAX),
    ] {
        let mut bench = Bench::new();
        let mut client = UnixStream::connect(&bench.path).unwrap();
        let header = Header {
            len: claimed,
            ..packet(Op::Data, 1, 2, 0)
        };
        bench.queues[1].write(OUT, &header.bytes());
        bench.queues[1].add(&[(OUT, len, false)]);
        bench.kicks[1].write(1).unwrap();
        assert!(matches!(bench.notify.wait_error(), GuestError::Request(_)));
        client.write_all(b"CONNECT 1\n").unwrap();
        assert_eq!(
            client.read(&mut [0]).unwrap(),
            0,
            "nobody is connected to a broken driver"
        );
        let queues = bench.device.stop();
        assert_eq!(queues.len(), 3);
        bench.queues = [0x1_0000, 0x2_0000, 0x3_0000]
            .map(|base| Driver::new(bench.queues[0].ram.clone(), base + 0x10_0000, 64));
        bench.start();
        bench.send(&packet(Op::Data, 1, 2, 0), &[]);
        assert_eq!(bench.receive().0.op, Op::Reset);
        bench.device.stop();
    }
}

#[test]
fn what_is_no_door_is_refused() {
    let (one, _other) = UnixStream::pair().unwrap();
    assert!(Door::new(one.into(), None).is_err(), "it does not listen");
    let folder = tempfile::tempdir().unwrap();
    let listener = UnixListener::bind(folder.path().join("s")).unwrap();
    let (plug, _other) = UnixStream::pair().unwrap();
    assert!(
        Door::new(listener.into(), Some(plug.into())).is_err(),
        "a stream is no plug"
    );
}
