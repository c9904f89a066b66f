//! The other end of a guest's card: a stream socket with each frame's length in front, as both sides speak it. The table of what
//! frames ask for is in `tools/guest-bench/src/io_loop.rs`.

use std::io::{self, BufReader, Read, Write};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::Path;
use std::thread;

use crate::error::Error;

/// Most bytes of a frame that is read.
const LONGEST: usize = 1 << 16;
const ETHERTYPE: [u8; 2] = [0x88, 0xb5];
const KIND: usize = 14;
const ANSWER: u8 = 0;
const COUNT: u8 = 1;
const SUM: u8 = 2;
/// Up to the number.
const LEAST: usize = KIND + 5;

/// Waits at `path` for one guest's card, on a thread of its own, until the guest is gone.
pub(super) fn lay(path: &Path) -> Result<(), Error> {
    let listener = UnixListener::bind(path).map_err(|e| Error::Write(path.into(), e))?;
    thread::spawn(move || {
        // The end of the guest is the end of the stream.
        let _ = listener.accept().and_then(|(stream, _)| serve(stream));
    });
    Ok(())
}

fn serve(stream: UnixStream) -> io::Result<()> {
    let mut sender = stream.try_clone()?;
    let mut reader = BufReader::with_capacity(LONGEST, stream);
    let mut counted = 0;
    loop {
        let mut message = vec![0; 4];
        reader.read_exact(&mut message)?;
        let len = u32::from_be_bytes([message[0], message[1], message[2], message[3]]) as usize;
        if len > LONGEST {
            return Err(io::ErrorKind::InvalidData.into());
        }
        message.resize(4 + len, 0);
        reader.read_exact(&mut message[4..])?;
        if answer(&mut message[4..], &mut counted) {
            sender.write_all(&message)?;
        }
    }
}

/// Does what `frame` asks for; true if it goes back, as it is now.
fn answer(frame: &mut [u8], counted: &mut u32) -> bool {
    if frame.len() < LEAST || frame[12..KIND] != ETHERTYPE {
        return false;
    }
    match frame[KIND] {
        COUNT => {
            *counted += 1;
            return false;
        }
        ANSWER => {}
        SUM => frame[KIND + 1..LEAST].copy_from_slice(&std::mem::take(counted).to_be_bytes()),
        _ => return false,
    }
    let (to, from) = frame.split_at_mut(6);
    to.swap_with_slice(&mut from[..6]);
    true
}

#[cfg(test)]
mod tests {
    use super::*;

    fn frame(kind: u8, number: u32) -> Vec<u8> {
        let mut frame = [[1; 6], [2; 6]].concat();
        frame.extend(ETHERTYPE);
        frame.push(kind);
        frame.extend(number.to_be_bytes());
        frame
    }

    #[test]
    fn frames_are_answered_or_counted() {
        let mut counted = 0;
        let mut asked = frame(ANSWER, 7);
        assert!(answer(&mut asked, &mut counted));
        assert_eq!(asked[..12], [[2; 6], [1; 6]].concat());
        assert_eq!(asked[KIND..], frame(ANSWER, 7)[KIND..]);
        assert!(!answer(&mut frame(COUNT, 0), &mut counted));
        assert!(!answer(&mut frame(COUNT, 1), &mut counted));
        let mut sum = frame(SUM, 0);
        assert!(answer(&mut sum, &mut counted));
        assert_eq!((sum[LEAST - 1], counted), (2, 0));
        assert!(!answer(&mut [0; 60], &mut counted));
        assert!(!answer(&mut frame(ANSWER, 7)[..LEAST - 1], &mut counted));
    }

    #[test]
    fn a_length_without_bounds_ends_the_stream() {
        let (ours, mut theirs) = UnixStream::pair().unwrap();
        theirs.write_all(&[0xff; 8]).unwrap();
        assert_eq!(serve(ours).unwrap_err().kind(), io::ErrorKind::InvalidData);
    }
}
