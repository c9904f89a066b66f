//! Initramfs images for demonstration and test guests, made from unpacked Debian packages: the cloud kernel and
//! `busybox-static`. Not part of the product.
//!
//! [`SoftwareHost`] is a whole host with working KVM for tests, on machines without.
//!
//! A test makes an image of its own by appending a small archive with a `run.sh` to the standard one: the kernel
//! unpacks archives that follow each other, and the standard `/init` runs `/run.sh` where it finds it.

mod cpio;
mod image;
mod modules;
mod software_host;

pub use cpio::Archive;
pub use image::{Error, STANDARD_MODULES, overlay, standard};
pub use modules::ModuleTree;
pub use software_host::{SoftwareHost, shared_libraries, shared_libraries_in};
