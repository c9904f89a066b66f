//! The guest side of networking: where a network card's frames go to and come from.
//!
//! A [`NetBackend`] is the control handle (queue pairs, offloads, link), a [`NetQueue`] is one pair of directions that a
//! worker drives. Each frame travels behind a 12-byte virtio-net header (virtio 1.2, 5.1.6, `num_buffers` included), so
//! that checksums and segmentation pass through to a back end that does them.

mod backend;
mod copied;
mod error;
mod frame;
#[cfg(any(test, fuzzing))]
pub mod fuzzing;
mod offload;
mod ring;
mod slots;
mod socket;
mod switch;
mod tap;
mod unplugged;
mod vhost;

pub use backend::{HEADER_LEN, MAX_FRAME, NetBackend, NetQueue, Offloads, QueueCounters, Received, Sent};
pub use copied::{Came, CopiedQueue, FrameSink, OtherEnd, put_frame};
pub use error::Error;
pub use frame::Header;
pub use offload::{Admitted, admit, finish};
pub use ostler_memory::IoBuf;
pub use ring::{FrameRings, RingBroken};
pub use slots::{SlotGuard, Slots};
pub use socket::{FrameReader, FrameWriter, Parsed, SocketNet, connect_socket};
pub use switch::{SwitchNet, plug_in, wait_for_wish};
pub use tap::{OpenTap, Tap, open_macvtap, open_tap, take_offloads};
pub use unplugged::Unplugged;
pub use vhost::{KernelWorker, VRINGS, VhostNet, VringPlace};
