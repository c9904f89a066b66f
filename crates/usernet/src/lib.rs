//! User-mode NAT: a network for one guest or many, without any privilege on the host.
//!
//! Guests see Ethernet with a gateway that is a DHCP server, and a name server. What they send to the outside goes
//! through ordinary sockets of the host: TCP connections end here (`tcp`) and are carried on by one of the host's, UDP
//! datagrams and ICMP echoes have a socket a flow. `core` is all of that as a pure machine; [`Network`] puts the
//! sockets around it.
//!
//! Who has which address and name is a table of its own (`guests`), which others may look at by a [`Handle`].
//!
//! On the cable to the guest, or to the switch of several, each frame has a virtio-net header (virtio 1.2, 5.1.6), so that checksums and the
//! segmentation of TCP are nobody's work. It is a stream socket, or a [`Pipe`] between threads.

#![forbid(unsafe_code)]

mod cable;
mod config;
mod core;
mod dhcp;
mod dhcp6;
mod dns;
mod error;
#[cfg(any(test, fuzzing))]
pub mod fuzzing;
mod guests;
mod host;
mod ndp;
mod neighbours;
mod output;
mod pipe;
mod tcp;
mod time;
mod wire;

pub use config::{
    Config, DNS, DNS6, Dhcp6, FIRST_GUEST, FIRST_GUEST6, Forward, GATEWAY, GATEWAY6, Ipv6, MAX_FORWARDS,
    Subnet, Transport, is_guest,
};
pub use error::Error;
pub use guests::{Dropped, Handle, Host, Host6, Lease, Plan, check_name};
pub use host::{Network, name_server};
pub use pipe::Pipe;
