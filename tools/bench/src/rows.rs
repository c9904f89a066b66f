//! The table of the bars, in the order of the project's goals.

use crate::plan::Samples;
use crate::report::{Bar, Better, Row};

/// The host has two CPUs free for a guest if it does next to nothing else.
const TWO_FREE: f64 = 1.8;

/// Rows from the samples of both sides; `per_block` is how many instructions a block of the hash loop takes.
pub(crate) fn rows(accel: &str, per_block: f64, ours: Option<&Samples>, peer: Option<&Samples>) -> Vec<Row> {
    let pick = |of: fn(&Samples) -> &Vec<f64>| {
        let samples = |side: Option<&Samples>| side.map(|s| of(s).clone()).unwrap_or_default();
        (samples(ours), samples(peer))
    };
    let mips = |samples: Vec<f64>| samples.iter().map(|blocks| blocks * per_block / 1e6).collect();
    let row = |name, unit, better, bar, (ours, peer): (Vec<f64>, Vec<f64>)| {
        Row::new(name, unit, better, bar, ours, peer)
    };
    let (our_blocks, peer_blocks) = pick(|s| &s.blocks_per_s);
    let (interpreted, _) = pick(|s| &s.interpreted_blocks_per_s);
    let engine = if accel == "kvm" {
        "SHA-256 loop in the guest, KVM"
    } else {
        "SHA-256 loop in the guest, translator"
    };
    vec![
        row(
            "SHA-256 loop in the guest, interpreter",
            "million instructions/s",
            Better::Higher,
            Bar::Least(150.0),
            (mips(interpreted), mips(peer_blocks.clone())),
        ),
        row(
            engine,
            "million instructions/s",
            Better::Higher,
            Bar::None,
            (mips(our_blocks), mips(peer_blocks)),
        ),
        row(
            "boot to the initramfs's first line, 1 CPU",
            "CPU s",
            Better::Lower,
            Bar::TimesPeer(4.0),
            pick(|s| &s.boot_cpu_s),
        ),
        row(
            "Debian 12 with systemd to its login prompt, 2 CPUs",
            "s",
            Better::Lower,
            Bar::TimesPeer(0.4),
            pick(|s| &s.system_boot_s),
        ),
        two_cpus(ours, peer),
        row(
            "process start to first instruction",
            "ms",
            Better::Lower,
            Bar::Most(50.0),
            pick(|s| &s.first_ms),
        ),
        row(
            "the same with --accel auto",
            "ms",
            Better::Lower,
            Bar::Most(50.0),
            pick(|s| &s.first_auto_ms),
        ),
        row(
            "own memory after the boot",
            "MiB",
            Better::Lower,
            Bar::Most(if accel == "kvm" { 12.0 } else { 48.0 }),
            pick(|s| &s.own_memory_mib),
        ),
        row(
            "own memory after the boot of Debian 12 with systemd, 1 CPU",
            "MiB",
            Better::Lower,
            Bar::Most(160.0),
            pick(|s| &s.system_memory_mib),
        ),
        row(
            "a guest that does nothing",
            "% of a core",
            Better::Lower,
            Bar::Most(2.0),
            pick(|s| &s.idle_percent),
        ),
        row(
            "one 4 KiB read at a time, virtio disk",
            "us",
            Better::Lower,
            Bar::TimesPeer(1.0),
            pick(|s| &s.reads_us),
        ),
        row(
            "ping to the host, virtio card on a tap",
            "us",
            Better::Lower,
            Bar::TimesPeer(1.0),
            pick(|s| &s.ping_us),
        ),
    ]
}

/// The bar is for a host that has two CPUs free.
fn two_cpus(ours: Option<&Samples>, peer: Option<&Samples>) -> Row {
    let speedup = |side: Option<&Samples>| {
        side.map(|s| {
            let pairs = s.busy_on_two.iter().zip(&s.busy_on_one);
            pairs.map(|(two, one)| two / one).collect()
        })
        .unwrap_or_default()
    };
    let row = Row::new(
        "2 busy threads, 2 CPUs over 1",
        "times",
        Better::Higher,
        Bar::Least(1.7),
        speedup(ours),
        speedup(peer),
    );
    let free = ours.and_then(|s| s.free_cpus.iter().copied().reduce(f64::min));
    match free {
        Some(free) if free < TWO_FREE => row.not_judged(format!(
            "only {free:.1} of the host's CPUs were free before one of the runs"
        )),
        _ => row,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn samples(free: f64) -> Samples {
        Samples {
            blocks_per_s: vec![500_000.0],
            interpreted_blocks_per_s: vec![60_000.0],
            busy_on_one: vec![100.0],
            busy_on_two: vec![190.0],
            free_cpus: vec![2.0, free],
            ..Samples::default()
        }
    }

    #[test]
    fn two_cpus_are_judged_where_two_are_free() {
        assert_eq!(two_cpus(Some(&samples(1.95)), None).met(), Some(true));
        assert_eq!(two_cpus(Some(&samples(1.2)), None).met(), None);
        assert_eq!(two_cpus(None, None).met(), None);
    }

    #[test]
    fn the_interpreter_is_what_its_bar_is_about() {
        let rows = rows("soft", 3000.0, Some(&samples(2.0)), None);
        // 180 and 1,500 million instructions a second: only the first is held against a bar.
        assert_eq!((rows[0].met(), rows[1].met()), (Some(true), None));
    }
}
