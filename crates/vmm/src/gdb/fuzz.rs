//! The debugger's conversation, for fuzzers.

use super::fake::Fake;
use super::packet::{Frame, Framer, MAX_BODY};
use super::registers::Architecture;
use super::session::{Session, Step};

/// What a debugger sends: packets, damaged ones and interrupts.
pub fn conversation(input: &[u8]) {
    let (mut session, mut target) = (Session::new(Architecture::default()), Fake::new());
    let mut frames = Vec::new();
    Framer::default().feed(input, &mut frames);
    for frame in frames {
        let step = match frame {
            Frame::Packet(body) => session.handle(&body, &mut target),
            Frame::Interrupt => session.interrupt(&mut target),
            Frame::Damaged | Frame::Again => continue,
        };
        match step {
            Step::Answer(text) | Step::Detach(text) => assert!(text.len() <= 2 * MAX_BODY),
            Step::Quiet => {}
            Step::Close => return,
        }
    }
}
