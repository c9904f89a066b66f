//! Clients of libvirt other than virsh and virt-install, unmodified, at `ostler daemon`.

mod bindings;
mod bus;
mod exporters;
mod xml_and_clone;

use std::path::{Path, PathBuf};
use std::process::{Child, Command};

/// Where `./test` unpacks those that are not in virt-install's packages.
fn unpacked() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("../../target/libvirt-clients/root")
        .canonicalize()
        .unwrap_or_default()
}

fn is_there(test: &str) -> bool {
    let there = unpacked().join("../complete").exists();
    if !there {
        eprintln!("SKIPPED {test}: there are no clients in target/libvirt-clients; ./test unpacks them");
    }
    there
}

/// With the libraries of the packages.
fn with_libraries(command: &mut Command) -> &mut Command {
    command
        .env("LC_ALL", "C")
        .env("LD_LIBRARY_PATH", unpacked().join("usr/lib/x86_64-linux-gnu"))
}

/// A process that ends with the test.
struct Ends(Child);

impl Drop for Ends {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}
