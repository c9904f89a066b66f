//! The software CPU as the helper of a KVM that cannot emulate an instruction, as in `ostler run`; and this very program in a
//! host made in software.

use std::path::Path;
use std::time::Duration;

use ostler_accel::{CpuidLeaf, Error, Exit, Vcpu};
use ostler_guest::Helper;
use ostler_guest_image::{Error as HostError, SoftwareHost};
use ostler_memory::RamSlot;
use ostler_softcpu::emulate::Emulator;

struct SoftHelper(Emulator);

impl Helper for SoftHelper {
    fn help(&mut self, vcpu: &mut dyn Vcpu, io: &mut dyn FnMut(Exit<'_>)) -> Result<bool, Error> {
        self.0.help(vcpu, io)
    }
}

/// The helper of CPU `cpu`.
pub fn emulator(cpu: u32, slots: Vec<RamSlot>, cpuid: &[CpuidLeaf]) -> Box<dyn Helper> {
    Box::new(SoftHelper(Emulator::new(cpu, slots, cpuid)))
}

/// How long that host may take; it needs some 20 seconds where nothing else runs.
const HOST_LIMIT: Duration = Duration::from_secs(150);
const HOST_TRIES: usize = 3;

/// Runs this program with `arguments` on a kernel with working KVM, and returns what its console showed, or `None` if this machine
/// cannot.
///
/// It has one CPU: with two, it hung in every third run on a busy machine (docs/tests.md). A tiny guest that hangs is reported
/// by its play, within a minute of that host's clock. So a host that does not end all the same is made again, and nothing else
/// is.
pub fn in_software_host(test: &str, arguments: &str) -> Option<String> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../target/guest/root");
    if !SoftwareHost::is_possible() || !root.exists() {
        eprintln!("SKIPPED {test}: qemu-system-x86_64, or Debian's kernel under target/guest, is not there");
        return None;
    }
    let script = format!(
        "#!/bin/sh\nls /dev/kvm\n/tests {arguments} --nocapture --test-threads 1 2>&1\necho INNER-STATUS $?\n"
    );
    let this = std::env::current_exe().unwrap();
    for attempt in 1..=HOST_TRIES {
        let host = SoftwareHost::new(&root).cpus(1).program("tests", &this).unwrap();
        match host.run(&script, HOST_LIMIT) {
            Ok(console) => {
                println!("{console}");
                assert!(console.contains("INNER-STATUS 0"), "{console}");
                assert!(!console.contains("SKIPPED"), "{console}");
                return Some(console);
            }
            Err(error @ HostError::HostTooSlow { .. }) => println!("attempt {attempt}: {error}"),
            Err(error) => panic!("{error}"),
        }
    }
    panic!("the host made in software hung {HOST_TRIES} times");
}
