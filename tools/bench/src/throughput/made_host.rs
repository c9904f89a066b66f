//! The same on KVM, in a host with working KVM that is made in software: this program runs in there.

use std::fs;
use std::path::{Path, PathBuf};
use std::time::Duration;

use ostler_guest_image::SoftwareHost;

use super::IoOptions;
use crate::error::Error;
use crate::{Common, first};

/// How long a host may take for each round, boot included.
const PATIENCE: Duration = Duration::from_secs(900);
/// How long its console may show nothing, besides the time that a guest takes for its rows, of which there are fewer than so many.
const SILENCE: Duration = Duration::from_secs(120);
const ROWS: u32 = 20;
/// The emulation makes hosts fail now and then, most while they boot.
const TRIES: u32 = 5;
const BEGIN: &str = "BENCH-JSON-BEGIN\n";
const END: &str = "BENCH-JSON-END";
/// Where QEMU looks for firmware, and what it needs of that to start a kernel.
const FIRMWARE: [&str; 4] = [
    "/usr/share/seabios/bios-256k.bin",
    "/usr/share/qemu/linuxboot.bin",
    "/usr/share/qemu/linuxboot_dma.bin",
    "/usr/share/qemu/kvmvapic.bin",
];

/// Makes the host, and shows and keeps what is measured there. True if every bar is met.
pub(super) fn run(common: &Common, options: &IoOptions) -> Result<bool, Error> {
    let mut tries = 1;
    loop {
        let silence = SILENCE + Duration::from_secs((ROWS * options.seconds).into());
        let console = match host(common)?
            .silent_for_at_most(silence)
            .run(&script(options), PATIENCE * options.rounds)
        {
            Ok(console) => console,
            Err(ostler_guest_image::Error::HostTooSlow { console, .. }) => console + "\nit went on no more",
            Err(why) => return Err(failed(why.to_string())),
        };
        if let Some((shown, met)) = result(&console) {
            let path = super::json(common);
            let (table, json) = shown;
            print!("{table}");
            fs::write(&path, json).map_err(|e| Error::Write(path.clone(), e))?;
            println!("\nAll samples are in {}.", path.display());
            return Ok(met);
        }
        if tries == TRIES || console.contains(END) {
            return Err(failed(format!(
                "it did not measure, try {tries} of {TRIES}:\n{console}"
            )));
        }
        let last = console.lines().rev().find(|line| !line.trim().is_empty());
        eprintln!(
            "host {tries} of {TRIES} failed: {}",
            last.unwrap_or("it said nothing")
        );
        tries += 1;
    }
}

fn failed(why: String) -> Error {
    Error::Host("a host made in software", std::io::Error::other(why))
}

/// The table and the samples, and whether the bars are met; `None` if the host did not come so far.
fn result(console: &str) -> Option<((&str, &str), bool)> {
    let (before, rest) = console.split_once(BEGIN)?;
    let (json, rest) = rest.split_once(END)?;
    let status = rest.strip_prefix(' ')?.lines().next()?;
    // From the line with the host's CPUs to where that says where its samples are.
    let before = before
        .split_once("\nAll samples")
        .map_or(before, |(table, _)| table);
    let start = before[..before.find("medians of")?].rfind('\n');
    Some(((&before[start.map_or(0, |at| at + 1)..], json), status == "0"))
}

fn host(common: &Common) -> Result<SoftwareHost, Error> {
    let this = std::env::current_exe().map_err(|e| Error::Host("finding this program", e))?;
    let made = || -> Result<SoftwareHost, ostler_guest_image::Error> {
        let mut host = SoftwareHost::new(&common.guest.join("root"))
            .program("bin/ostler", &common.ostler)?
            .program("bin/ostler-bench", &this)?
            // It looks for firmware relative to where it is.
            .program("usr/bin/qemu-system-x86_64", &found(&common.qemu))?
            // busybox has no taps.
            .program("extra/ip", &found(Path::new("ip")))?
            .file("guest/bench", &common.guest_bench)?
            .file("guest/vmlinuz", &common.guest.join("vmlinuz"))?
            .file("guest/initrd.img", &common.guest.join("initrd.img"))?
            .contents("guest/first", first::kernel());
        for path in FIRMWARE {
            host = host.file(&path[1..], Path::new(path))?;
        }
        Ok(host)
    };
    made().map_err(|why| failed(why.to_string()))
}

/// Where `program` is on the path.
fn found(program: &Path) -> PathBuf {
    let path = std::env::var_os("PATH").unwrap_or_default();
    std::env::split_paths(&path)
        .map(|folder| folder.join(program))
        .find(|candidate| candidate.is_file())
        .unwrap_or_else(|| program.to_owned())
}

/// A guest that only sleeps is there from the start: Linux patches itself when the first and when the last guest comes and
/// goes, which the emulator may miss.
fn script(options: &IoOptions) -> String {
    let IoOptions {
        rounds,
        seconds,
        disk_mib,
        ..
    } = options;
    let exits = if options.exits { "--exits" } else { "" };
    format!(
        "dmesg -n 1; ip link set lo up; mkdir -p /tmp; export PATH=/extra:$PATH\n\
         ostler run --accel kvm --memory 16M --kernel /guest/first </dev/null >/dev/null 2>&1 &\n\
         sleep 2; mount -t tracefs none /sys/kernel/tracing\n\
         ostler-bench io --accel kvm --rounds {rounds} --seconds {seconds} --disk-mib {disk_mib} {exits} --json /tmp/json \\\n\
         --guest /guest --guest-bench /guest/bench --ostler /bin/ostler --qemu /usr/bin/qemu-system-x86_64\n\
         status=$?\n\
         echo BENCH-JSON-BEGIN; cat /tmp/json; echo; echo BENCH-JSON-END $status\n"
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_result_is_whole_or_none() {
        let console =
            "round 1\n2 CPUs; medians of 1 rounds\n| row |\nBENCH-JSON-BEGIN\n{}\nBENCH-JSON-END 1\n";
        let ((table, json), met) = result(console).unwrap();
        assert!(
            table.starts_with("2 CPUs; medians of 1 rounds\n| row |\n"),
            "{table}"
        );
        assert_eq!((json.trim(), met), ("{}", false));
        for cut in 0..console.len() - 2 {
            assert!(result(&console[..cut]).is_none(), "{cut}");
        }
    }
}
