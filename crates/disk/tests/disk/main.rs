//! Raw disks as a device uses them: through the capabilities, on files of the host.

mod blocks;
mod common;
mod fallback;
mod model;
mod raw;
