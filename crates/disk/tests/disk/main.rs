//! Raw disks as a device uses them: through the capabilities, on files of the host.

mod common;
mod model;
mod raw;
