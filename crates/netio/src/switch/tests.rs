use std::io::Write;
use std::os::fd::AsFd;
use std::os::unix::net::UnixStream;

use ostler_memory::IoBuf;

use super::*;
use crate::{HEADER_LEN, Received, Sent};

/// A switch of the test's: its end of the rings.
fn connect(plug: &UnixStream) -> (UnixStream, FrameRings) {
    let (ours, theirs) = UnixStream::pair().unwrap();
    let (rings, memory) = FrameRings::create().unwrap();
    plug_in(plug, &theirs, &memory).unwrap();
    (ours, rings)
}

fn send(queue: &mut dyn NetQueue, frame: &[u8]) -> Sent {
    let message = [&[0; HEADER_LEN], frame].concat();
    // SAFETY: `message` is alive.
    unsafe { queue.write_frame(&[IoBuf::of_const(&message)]) }.unwrap()
}

fn receive(queue: &mut dyn NetQueue) -> Option<Vec<u8>> {
    let mut room = vec![0; HEADER_LEN + 2000];
    // SAFETY: `room` is alive.
    match unsafe { queue.read_frame(&[IoBuf::of(&mut room)]) }.unwrap() {
        Received::Frame(count) => Some(room[HEADER_LEN..count].to_vec()),
        Received::Empty => None,
        Received::Dropped => panic!("dropped"),
    }
}

fn is_readable(fd: BorrowedFd<'_>) -> bool {
    use rustix::event::{PollFd, PollFlags, Timespec, poll};
    let now = Timespec {
        tv_sec: 0,
        tv_nsec: 0,
    };
    poll(&mut [PollFd::from_borrowed_fd(fd, PollFlags::IN)], Some(&now)).unwrap() == 1
}

#[test]
fn frames_pass_both_ways_and_a_restart_is_survived() {
    let (plug, guests) = UnixStream::pair().unwrap();
    let (ours, mut rings) = connect(&plug);
    let net = SwitchNet::new(guests.into()).unwrap();
    assert!(net.link_up());
    let mut queue = net.open_queue(0).unwrap();
    assert_eq!(receive(&mut *queue), None);
    assert!(!is_readable(queue.readable().unwrap()));

    rings.push(&[&[1; 60]]).unwrap();
    assert!(rings.must_wake(), "the queue said that it sleeps");
    (&ours).write_all(&[0]).unwrap();
    assert!(is_readable(queue.readable().unwrap()));
    assert_eq!(receive(&mut *queue), Some(vec![1; 60]));
    assert_eq!(receive(&mut *queue), None);
    assert!(!is_readable(queue.readable().unwrap()), "the byte is taken");

    assert!(!rings.sleep());
    assert_eq!(send(&mut *queue, &[2; 60]), Sent::Sent);
    assert!(is_readable(ours.as_fd()), "the switch is woken");
    let mut taken = Vec::new();
    assert_eq!(rings.pop(&mut taken), Ok(Some(60)));
    assert_eq!(taken, [2; 60]);

    // The switch goes away: the queue asks for another, and lives on.
    drop((ours, rings));
    assert!(is_readable(queue.readable().unwrap()));
    assert_eq!(receive(&mut *queue), None);
    assert!(!net.link_up());
    assert_eq!(send(&mut *queue, &[3; 60]), Sent::Dropped);
    wait_for_wish(&plug).unwrap();
    assert!(!is_readable(queue.readable().unwrap()));
    let (_ours, mut rings) = connect(&plug);
    assert!(is_readable(queue.readable().unwrap()));
    rings.push(&[&[4; 60]]).unwrap();
    assert_eq!(receive(&mut *queue), Some(vec![4; 60]));
    assert!(net.link_up());

    // Who connected it goes away, and somebody else takes the place: the connection stays, and nothing is read over and over.
    drop(plug);
    assert_eq!(receive(&mut *queue), None);
    assert!(!is_readable(queue.readable().unwrap()) && net.link_up());
    let (plug, guests) = UnixStream::pair().unwrap();
    net.replug(guests.into()).unwrap();
    rings.push(&[&[5; 60]]).unwrap();
    assert_eq!(receive(&mut *queue), Some(vec![5; 60]));
    drop((_ours, rings));
    assert_eq!(receive(&mut *queue), None);
    wait_for_wish(&plug).unwrap();
    let (_ours, mut rings) = connect(&plug);
    rings.push(&[&[6; 60]]).unwrap();
    assert_eq!(receive(&mut *queue), Some(vec![6; 60]));

    // Without anybody at the plug it just has no link, until somebody comes.
    drop((plug, _ours));
    assert_eq!(receive(&mut *queue), None);
    assert_eq!(receive(&mut *queue), None);
    assert!(!is_readable(queue.readable().unwrap()) && !net.link_up());
    let (plug, guests) = UnixStream::pair().unwrap();
    net.replug(guests.into()).unwrap();
    wait_for_wish(&plug).unwrap();
    let (_ours, mut rings) = connect(&plug);
    rings.push(&[&[7; 60]]).unwrap();
    assert_eq!(receive(&mut *queue), Some(vec![7; 60]));
}

#[test]
fn a_plug_that_brings_something_else_does_no_harm() {
    let (plug, guests) = UnixStream::pair().unwrap();
    let net = SwitchNet::new(guests.into()).unwrap();
    let mut queue = net.open_queue(0).unwrap();
    let (_ours, theirs) = UnixStream::pair().unwrap();
    plug_in(&plug, &theirs, &theirs).unwrap();
    assert_eq!(receive(&mut *queue), None);
    assert!(!net.link_up());
    wait_for_wish(&plug).unwrap();
    let datagram = std::os::unix::net::UnixDatagram::unbound().unwrap();
    assert!(SwitchNet::new(datagram.into()).is_err());
}
