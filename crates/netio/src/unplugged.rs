//! A network card without a cable.

use std::os::fd::BorrowedFd;

use ostler_memory::IoBuf;

use crate::{Error, NetBackend, NetQueue, Offloads, QueueCounters, Received, Sent};

/// The back end of `--net none`: the link is down, what is sent is dropped, nothing is ever received.
#[derive(Debug, Clone, Copy, Default)]
pub struct Unplugged;

/// Its queue.
#[derive(Debug, Default)]
struct UnpluggedQueue {
    counters: QueueCounters,
}

impl NetBackend for Unplugged {
    fn accepts(&self) -> Offloads {
        Offloads::NONE
    }

    fn delivers(&self) -> Offloads {
        Offloads::NONE
    }

    fn set_delivered(&self, offloads: Offloads) -> Result<(), Error> {
        if offloads == Offloads::NONE {
            Ok(())
        } else {
            Err(Error::Offloads(offloads))
        }
    }

    fn link_up(&self) -> bool {
        false
    }

    fn open_queue(&self, index: usize) -> Result<Box<dyn NetQueue>, Error> {
        if index != 0 {
            return Err(Error::NoQueue { index, pairs: 1 });
        }
        Ok(Box::new(UnpluggedQueue::default()))
    }
}

impl NetQueue for UnpluggedQueue {
    unsafe fn read_frame(&mut self, _buffers: &[IoBuf]) -> Result<Received, Error> {
        Ok(Received::Empty)
    }

    unsafe fn write_frame(&mut self, _buffers: &[IoBuf]) -> Result<Sent, Error> {
        self.counters.send_drops += 1;
        Ok(Sent::Dropped)
    }

    fn readable(&self) -> Option<BorrowedFd<'_>> {
        None
    }

    fn writable(&self) -> Option<BorrowedFd<'_>> {
        None
    }

    fn flush(&mut self) -> Result<(), Error> {
        Ok(())
    }

    fn counters(&self) -> QueueCounters {
        self.counters
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nothing_goes_anywhere() {
        let mut queue = Unplugged.open_queue(0).unwrap();
        let frame = [0u8; 100];
        // SAFETY: `frame` is alive.
        let sent = unsafe { queue.write_frame(&[IoBuf::of_const(&frame)]) };
        assert_eq!(sent.unwrap(), Sent::Dropped);
        assert_eq!(
            queue.counters(),
            QueueCounters {
                send_drops: 1,
                ..Default::default()
            }
        );
        assert!(queue.readable().is_none() && !Unplugged.link_up());
        assert!(Unplugged.open_queue(1).is_err());
    }
}
