//! That the translator has a part in it: each 64-bit sequence makes it write code before it has executed once.

use std::fs;

use ostler_softcpu::vm::SoftCpu;

use super::guest::Guest;
use super::{ENGINE, generator};

/// Sequences that are looked at. So many do not fill the translator's memory, which would be used anew from its start.
const SEQUENCES: u64 = 300;

/// The largest mapping from which generated code is executed: the translator's.
fn code() -> &'static [u8] {
    let maps = fs::read_to_string("/proc/self/maps").expect("this process's mappings");
    let (start, end) = maps
        .lines()
        .filter(|line| line.contains("r-xs") && line.contains("ostler-stubs"))
        .filter_map(|line| line.split_once(' ')?.0.split_once('-'))
        .map(|(start, end)| {
            [start, end].map(|address| usize::from_str_radix(address, 16).expect("an address"))
        })
        .map(|[start, end]| (start, end))
        .max_by_key(|(start, end)| end - start)
        .expect("a mapping for generated code");
    // SAFETY: the mapping is readable, and stays for as long as the guest; this thread alone makes code be written there.
    unsafe { std::slice::from_raw_parts(start as *const u8, end - start) }
}

/// Where the code ends, looked for from `from` on.
fn end_of(code: &[u8], from: usize) -> usize {
    const GAP: usize = 1 << 16;
    let mut end = from;
    while let Some(more) = code[end..code.len().min(end + GAP)]
        .iter()
        .rposition(|&byte| byte != 0)
    {
        end += more + 1;
    }
    end
}

#[test]
fn each_sequence_is_translated_before_it_executes() {
    let mut guest = Guest::start(&SoftCpu { engine: ENGINE });
    let mut last = 0;
    let (mut wide, mut narrow) = (0, 0);
    for seed in 1..=SEQUENCES {
        let (sequence, registers, memory) = generator::sequence(seed);
        let Some((case, _)) = generator::case(&sequence, &registers, &memory) else {
            continue;
        };
        // What is no instruction has no translation.
        let invalid = guest.run(&case).outcome.vector == 6;
        let code = code();
        if last == 0 {
            last = end_of(code, 0);
            continue;
        }
        // A sequence leaves through an exception's handler, each of which is translated once, in at most so many bytes.
        const HANDLER: usize = 512;
        let grown = end_of(code, last) - last;
        last += grown;
        if case.long {
            assert!(
                grown > 0 || invalid,
                "seed {seed}: nothing was translated of\n{}",
                sequence.listing()
            );
            wide += 1;
        } else {
            assert!(grown < HANDLER, "seed {seed}: {grown} bytes for 32-bit code");
            narrow += 1;
        }
    }
    assert!(wide > 100 && narrow > 20, "{wide} and {narrow} sequences");
}
