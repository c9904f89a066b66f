//! Doorbells as ioeventfds.

use std::io;
use std::os::fd::AsRawFd;

use kvm_bindings::{
    kvm_ioeventfd, kvm_ioeventfd_flag_nr_datamatch, kvm_ioeventfd_flag_nr_deassign, kvm_ioeventfd_flag_nr_pio,
};
use ostler_bus::{Doorbell, Space};
use vmm_sys_util::eventfd::EventFd;

/// The request that adds `doorbell`, or takes it away. A value needs a width.
pub fn request(doorbell: Doorbell, event: &EventFd, remove: bool) -> io::Result<kvm_ioeventfd> {
    if doorbell.value.is_some() && doorbell.width.is_none() {
        return Err(io::Error::new(
            io::ErrorKind::InvalidInput,
            "a doorbell that matches a value needs a width",
        ));
    }
    let flags = [
        (doorbell.value.is_some(), kvm_ioeventfd_flag_nr_datamatch),
        (doorbell.space == Space::Port, kvm_ioeventfd_flag_nr_pio),
        (remove, kvm_ioeventfd_flag_nr_deassign),
    ];
    Ok(kvm_ioeventfd {
        datamatch: doorbell.value.unwrap_or(0),
        addr: doorbell.address,
        // Length 0 matches every width.
        len: u32::from(doorbell.width.unwrap_or(0)),
        fd: event.as_raw_fd(),
        flags: flags
            .iter()
            .filter(|(set, _)| *set)
            .map(|(_, bit)| 1u32 << *bit)
            .sum(),
        ..Default::default()
    })
}
