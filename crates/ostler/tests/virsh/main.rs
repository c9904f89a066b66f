//! Debian's virsh, unmodified, at `ostler daemon`.

#[path = "../../../hostnet/tests/support/mod.rs"]
mod namespaces;
#[path = "../support/mod.rs"]
mod support;

mod cards;
mod clients;
mod clock;
mod commands;
mod console;
mod counted;
mod cpus;
mod definitions;
mod devices;
mod direct;
mod doors;
mod edits;
mod ends;
mod firmware;
mod groups;
mod guests;
mod host;
mod hostile;
mod hugepages;
mod interfaces;
mod kernel_networks;
mod kernel_networks6;
mod killed;
mod limits;
mod media;
mod memory_device;
mod model;
mod monitor;
mod networks;
mod networks6;
mod nodedevs;
mod places;
mod pools;
mod ports;
mod screen;
mod secrets;
mod setup;
mod sharing;
mod sleep;
mod tuning;
mod unsettled;
mod vcpus;
mod vhost_user;
mod virt_install;
mod virtinst;
mod volume_streams;
mod volumes;
