//! `ostler switch` and `ostler net` with peers of all kinds: test programs that speak the framing, QEMU, the host's kernel.

#[path = "../support/mod.rs"]
mod support;

mod capture;
mod commands;
mod hostile;
mod kernel;
mod multicast;
mod packet;
mod peers;
mod router;
mod scapy;
