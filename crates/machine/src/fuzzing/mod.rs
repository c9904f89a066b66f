//! Entries for fuzzers: files that a guest is started from, and what it does with the chips.

#[allow(
    dead_code,
    reason = "what the platform's tests have it for is not all needed here"
)]
#[path = "../../tests/platform/bench.rs"]
mod bench;
mod chips;

pub use chips::chips;

use crate::boot::{self, Blob, BootSource};

/// A kernel of any kind in a little RAM; the last byte says how much of the input is the initrd instead.
pub fn kernel(input: &[u8]) {
    let Some((&last, bytes)) = input.split_last() else {
        return;
    };
    let (kernel, initrd) = bytes.split_at(bytes.len() - bytes.len() * usize::from(last) / 512);
    let source = BootSource {
        kernel: Blob::Bytes(kernel.to_vec()),
        initrd: (last & 1 != 0).then(|| Blob::Bytes(initrd.to_vec())),
        command_line: "console=ttyS0".into(),
    };
    let ram = ostler_memory::allocate(4 << 20, Default::default()).expect("4 MiB of RAM are there");
    let _ = boot::is_multiboot(&source);
    let _ = boot::setup_part(&source);
    let _ = boot::load(&ram, &source);
}

#[cfg(test)]
mod tests {
    #[test]
    fn what_fuzzers_found_is_survived() {
        ostler_corpus::replay("machine-kernel", super::kernel);
        ostler_corpus::replay("machine-chips", super::chips);
    }
}
