use super::*;
use crate::gdb::fake::Fake;
use crate::gdb::packet::{Frame, Framer, packet};
use proptest::prelude::*;

fn stopped() -> (Session, Fake) {
    let (mut session, mut target) = (Session::new(Architecture::default()), Fake::new());
    assert_eq!(say(&mut session, &mut target, "?"), "T05thread:1;");
    (session, target)
}

fn say(session: &mut Session, target: &mut Fake, packet: &str) -> String {
    match session.handle(packet.as_bytes(), target) {
        Step::Answer(body) => String::from_utf8(body).unwrap(),
        step => format!("{step:?}"),
    }
}

fn monitor(session: &mut Session, target: &mut Fake, text: &str) -> String {
    let answer = say(session, target, &format!("qRcmd,{}", to_hex(text.as_bytes())));
    String::from_utf8(from_hex(answer.as_bytes()).unwrap()).unwrap()
}

#[test]
fn a_client_that_asks_why_stops_the_guest_once() {
    let (mut session, mut target) = stopped();
    say(&mut session, &mut target, "?");
    assert_eq!((target.stops, session.waits()), (1, false));
}

#[test]
fn the_description_is_read_in_pieces() {
    let (mut session, mut target) = stopped();
    let mut text = String::new();
    loop {
        let request = format!("qXfer:features:read:target.xml:{:x},100", text.len());
        let piece = say(&mut session, &mut target, &request);
        text.push_str(&piece[1..]);
        if piece.starts_with('l') {
            break;
        }
        assert_eq!(piece.len(), 0x101);
    }
    assert_eq!(text, Architecture::X86_64.description());
    let beyond = "qXfer:features:read:target.xml:fffffffffffffff0,ffffffffffffffff";
    assert_eq!(say(&mut session, &mut target, beyond), "l");
}

#[test]
fn registers_and_memory_are_of_the_chosen_cpu() {
    let (mut session, mut target) = stopped();
    target.states[1].gpr[0] = 0x1122;
    assert_eq!(say(&mut session, &mut target, "Hg2"), "OK");
    assert_eq!(say(&mut session, &mut target, "p0"), "2211000000000000");
    assert_eq!(say(&mut session, &mut target, "P0=0807060504030201"), "OK");
    assert_eq!(target.states[1].gpr[0], 0x0102_0304_0506_0708);
    let all = say(&mut session, &mut target, "g");
    assert!(all.starts_with("0807060504030201"));
    assert_eq!(say(&mut session, &mut target, &format!("G{all}")), "OK");
    for bad in ["Hg3", "p", "pfff", "P0=08", "Pfff=00", "G0", "P0"] {
        assert!(say(&mut session, &mut target, bad).starts_with('E'), "{bad}");
    }
    assert_eq!(say(&mut session, &mut target, "m1004,4"), "04050607");
    assert_eq!(
        say(&mut session, &mut target, "m103e,10"),
        "3e3f",
        "as far as it goes"
    );
    assert_eq!(say(&mut session, &mut target, "m0,4"), "E14");
    assert_eq!(say(&mut session, &mut target, "M1004,2:aabb"), "OK");
    assert_eq!(say(&mut session, &mut target, "X1006,2:xy"), "OK");
    assert_eq!(&target.memory[4..8], b"\xaa\xbbxy");
    for bad in ["M1004,3:aabb", "M1004,1:a", "X1004,1:", "m1004", "m,", "mx,1"] {
        assert_eq!(say(&mut session, &mut target, bad), "E22", "{bad}");
    }
}

#[test]
fn physical_memory_is_a_mode_like_qemus() {
    let (mut session, mut target) = stopped();
    assert_eq!(say(&mut session, &mut target, "qqemu.PhyMemMode"), "0");
    assert_eq!(say(&mut session, &mut target, "Qqemu.PhyMemMode:1"), "OK");
    assert_eq!(say(&mut session, &mut target, "qqemu.PhyMemMode"), "1");
    assert_eq!(say(&mut session, &mut target, "m4,2"), "0405");
    assert!(monitor(&mut session, &mut target, "phys off").contains("linear"));
    assert_eq!(say(&mut session, &mut target, "m4,2"), "E14");
}

#[test]
fn points_have_a_kind_and_a_place() {
    let (mut session, mut target) = stopped();
    for packet in ["Z0,1000,1", "Z1,1001,1;X3,220027", "Z4,2000,8"] {
        assert_eq!(say(&mut session, &mut target, packet), "OK");
    }
    let kinds: Vec<_> = target
        .points
        .iter()
        .map(|point| (point.kind, point.linear, point.len))
        .collect();
    let access = PointKind::Watch(WatchKind::Access);
    assert_eq!(
        kinds,
        [
            (PointKind::Software, 0x1000, 1),
            (PointKind::Hardware, 0x1001, 1),
            (access, 0x2000, 8)
        ]
    );
    assert_eq!(say(&mut session, &mut target, "Z2,0,1"), "E16");
    assert_eq!(say(&mut session, &mut target, "z4,2000,8"), "OK");
    assert_eq!(target.points.len(), 2);
    assert_eq!(say(&mut session, &mut target, "Z9,0,1"), "", "no such kind");
    for bad in ["Z2,0,0", "Z0", "Z0,1", "z,,"] {
        assert_eq!(say(&mut session, &mut target, bad), "E22", "{bad}");
    }
}

#[test]
fn each_cpu_moves_as_the_first_action_that_names_it_says() {
    let cases = [
        ("vCont;c", [Move::Run, Move::Run]),
        ("vCont;s:2", [Move::Stay, Move::Step]),
        ("vCont;s:1;c", [Move::Step, Move::Run]),
        ("vCont;C05:1;S05:-1", [Move::Run, Move::Step]),
        ("c", [Move::Run, Move::Run]),
        ("s", [Move::Step, Move::Stay]),
        ("C05", [Move::Run, Move::Run]),
        ("s1234", [Move::Step, Move::Stay]),
        ("S05;1234", [Move::Step, Move::Stay]),
    ];
    for (packet, moves) in cases {
        let (mut session, mut target) = stopped();
        assert_eq!(say(&mut session, &mut target, packet), "Quiet", "{packet}");
        assert_eq!(target.moves, moves, "{packet}");
        assert!(session.waits());
        if packet.contains("1234") {
            assert_eq!(target.states[0].rip, 0x1234);
        }
        assert_eq!(say(&mut session, &mut target, "c"), "E22", "it runs");
    }
    for bad in ["vCont;", "vCont;t", "vCont;s:9", "vCont;c:x", "cx"] {
        let (mut session, mut target) = stopped();
        assert_eq!(say(&mut session, &mut target, bad), "E22", "{bad}");
        assert!(target.moves.is_empty());
    }
}

#[test]
fn a_stop_is_told_with_its_cause_in_words_that_the_client_knows() {
    let (mut session, mut target) = stopped();
    let mut stop = |session: &mut Session, cause, kind| {
        say(session, &mut target, "vCont;c");
        let told = session.stopped(Stop {
            cpu: 1,
            reason: Reason::Met(cause, kind),
        });
        String::from_utf8(told.unwrap()).unwrap()
    };
    let (software, hardware) = (PointKind::Software, PointKind::Hardware);
    let breakpoint = DebugCause::Breakpoint;
    assert_eq!(stop(&mut session, breakpoint, software), "T05thread:2;");
    let watch = DebugCause::Watchpoint {
        linear: 0xff00,
        kind: WatchKind::Write,
    };
    let watched = PointKind::Watch(WatchKind::Write);
    assert_eq!(stop(&mut session, watch, watched), "T05watch:ff00;thread:2;");
    session.handle(
        b"qSupported:swbreak+;hwbreak+;xmlRegisters=i386",
        &mut Fake::new(),
    );
    assert_eq!(stop(&mut session, breakpoint, software), "T05swbreak:;thread:2;");
    assert_eq!(stop(&mut session, breakpoint, hardware), "T05hwbreak:;thread:2;");
    assert_eq!(stop(&mut session, DebugCause::Step, software), "T05thread:2;");
    // Memory is that of the CPU that stopped.
    assert_eq!(session.space(), Space::Virtual { cpu: 1 });
}

#[test]
fn an_interrupt_stops_a_guest_that_runs() {
    let (mut session, mut target) = stopped();
    assert_eq!(session.interrupt(&mut target), Step::Quiet, "it does not run");
    say(&mut session, &mut target, "c");
    assert_eq!(
        session.interrupt(&mut target),
        Step::Answer(b"T02thread:1;".to_vec())
    );
    say(&mut session, &mut target, "c");
    target.gone = true;
    assert_eq!(session.interrupt(&mut target), Step::Answer(b"W00".to_vec()));
}

#[test]
fn monitor_commands_are_answered_in_words() {
    let (mut session, mut target) = stopped();
    assert!(monitor(&mut session, &mut target, "help").contains("gva2gpa"));
    let registers = monitor(&mut session, &mut target, "info registers");
    assert!(registers.contains("CPU 0\n") && registers.contains("idtr base="));
    assert_eq!(
        monitor(&mut session, &mut target, "gva2gpa 0x1010"),
        "gpa: 0x10\n"
    );
    assert_eq!(
        monitor(&mut session, &mut target, "gva2gpa 10"),
        "nothing is mapped there\n"
    );
    assert!(monitor(&mut session, &mut target, "gva2gpa main").contains("no address"));
    assert_eq!(
        monitor(&mut session, &mut target, " info  status"),
        "the guest is paused\n"
    );
    for command in ["system_reset", "system_powerdown", "quit"] {
        assert_eq!(monitor(&mut session, &mut target, command), "done\n");
    }
    assert_eq!(
        target.asked,
        [Request::Reset, Request::PowerButton, Request::Quit]
    );
    assert!(monitor(&mut session, &mut target, "make coffee").contains("no command \"make coffee\""));
    monitor(&mut session, &mut target, "architecture i386");
    assert_eq!(session.next_architecture(), Architecture::I386);
    assert_eq!(
        say(&mut session, &mut target, "p10").len(),
        16,
        "not in this connection"
    );
}

#[test]
fn threads_are_the_cpus_and_what_is_unknown_is_answered_by_nothing() {
    let (mut session, mut target) = stopped();
    for (packet, answer) in [
        ("qfThreadInfo", "m1,2"),
        ("qsThreadInfo", "l"),
        ("qThreadExtraInfo,2", "4350552031"),
        ("qC", "QC1"),
        ("T2", "OK"),
        ("T3", "E01"),
        ("qAttached", "1"),
        ("vMustReplyEmpty", ""),
        ("qTStatus", ""),
        ("!", ""),
        ("", ""),
        ("Hc-1", "OK"),
        ("Hx1", "E01"),
    ] {
        assert_eq!(say(&mut session, &mut target, packet), answer, "{packet}");
    }
    assert!(session.acknowledges());
    say(&mut session, &mut target, "QStartNoAckMode");
    assert!(!session.acknowledges());
    assert_eq!(session.handle(b"D", &mut target), Step::Detach(b"OK".to_vec()));
    assert_eq!(session.handle(b"k", &mut target), Step::Close);
    assert_eq!(target.asked, [Request::Quit]);
}

/// Bodies that look like packets.
fn likely() -> impl Strategy<Value = Vec<u8>> {
    let start = prop::sample::select(vec![
        "m",
        "M",
        "X",
        "p",
        "P",
        "g",
        "G",
        "Z0,",
        "z4,",
        "Z2,",
        "Hg",
        "Hc",
        "vCont;",
        "vCont",
        "vKill;",
        "c",
        "s",
        "C",
        "S",
        "?",
        "D",
        "T",
        "qRcmd,",
        "qSupported:",
        "qXfer:features:read:target.xml:",
        "qThreadExtraInfo,",
        "Qqemu.PhyMemMode:",
        "qC",
        "k",
    ]);
    (start, "[0-9a-fx,:;=\\-csCS]{0,24}").prop_map(|(start, rest)| format!("{start}{rest}").into_bytes())
}

proptest! {
    #[test]
    fn any_packets_are_answered_within_bounds(
        bodies in prop::collection::vec(prop_oneof![likely(), prop::collection::vec(any::<u8>(), 0..64)], 0..40),
    ) {
        let (mut session, mut target) = (Session::new(Architecture::default()), Fake::new());
        for body in bodies {
            if let Step::Answer(text) = session.handle(&body, &mut target) {
                prop_assert!(text.len() <= 2 * MAX_BODY);
            }
            session.interrupt(&mut target);
        }
    }

    #[test]
    fn any_bytes_on_the_wire_are_survived(bytes in prop::collection::vec(any::<u8>(), 0..500), good in likely()) {
        let (mut session, mut target) = (Session::new(Architecture::default()), Fake::new());
        let mut frames = Vec::new();
        let mut framer = Framer::default();
        framer.feed(&bytes, &mut frames);
        // Whatever came before, a packet after it gets through (a byte of a checksum or an escape may be taken from it).
        framer.feed(b"#000", &mut frames);
        framer.feed(&packet(&good), &mut frames);
        prop_assert_eq!(frames.last(), Some(&Frame::Packet(good)));
        for frame in frames {
            match frame {
                Frame::Packet(body) => drop(session.handle(&body, &mut target)),
                Frame::Interrupt => drop(session.interrupt(&mut target)),
                Frame::Damaged | Frame::Again => {}
            }
        }
    }
}
