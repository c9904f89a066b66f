//! What is measured, in which order.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};

use tempfile::TempDir;

use crate::error::Error;
use crate::report::Report;
use crate::running::{Running, milliseconds_to};
use crate::side::{Machine, Side};
use crate::{Options, first, network, proc, rows, steps};

/// Memory of every guest.
const MEMORY_MIB: u64 = 512;
/// Bytes of the disk that is read.
const DISK_LEN: u64 = 64 << 20;
/// Starts for the time to the first instruction, for each run of everything else.
const STARTS: u32 = 5;
const PINGS: u32 = 200;
/// How long the guest does nothing.
const IDLE_SECONDS: u32 = 5;
/// The first line of the initramfs.
const INITRAMFS_LINE: &str = "OSTLER-INIT";
const APPEND: &str = "console=ttyS0 panic=-1";
/// The folder of the system disk, below that of the guest.
const SYSTEM: &str = "debian";
/// Memory of a guest with the system disk.
const SYSTEM_MEMORY_MIB: u64 = 1024;
/// What its console shows just before the login prompt, which ends no line.
const LOGIN_LINE: &str = "Debian GNU/Linux 12 ";

/// Samples of one side.
#[derive(Debug, Default)]
pub(crate) struct Samples {
    pub(crate) boot_cpu_s: Vec<f64>,
    pub(crate) own_memory_mib: Vec<f64>,
    pub(crate) idle_percent: Vec<f64>,
    pub(crate) blocks_per_s: Vec<f64>,
    /// The same on our interpreter.
    pub(crate) interpreted_blocks_per_s: Vec<f64>,
    pub(crate) busy_on_one: Vec<f64>,
    pub(crate) busy_on_two: Vec<f64>,
    /// The host's CPUs that were free just before that.
    pub(crate) free_cpus: Vec<f64>,
    pub(crate) reads_us: Vec<f64>,
    pub(crate) ping_us: Vec<f64>,
    /// To the login prompt of the system disk, with two CPUs.
    pub(crate) system_boot_s: Vec<f64>,
    /// After the same boot with one CPU.
    pub(crate) system_memory_mib: Vec<f64>,
    /// With the chosen accelerator.
    pub(crate) first_ms: Vec<f64>,
    /// As a user has it: with the accelerator that `auto` finds.
    pub(crate) first_auto_ms: Vec<f64>,
}

/// Files made for the guests.
struct Files {
    folder: TempDir,
    kernel: PathBuf,
}

impl Files {
    fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }
}

/// Measures everything.
pub(crate) fn run(options: &Options) -> Result<Report, Error> {
    let network = network::enter();
    if let Err(reason) = &network {
        eprintln!("SKIPPED ping: {reason}");
    }
    if !options.common.guest.join(SYSTEM).exists() {
        eprintln!("SKIPPED systemd: no system disk; ./bench makes it, as root");
    }
    let files = prepare(options, network.is_ok())?;
    let per_block = steps::per_block(&options.common.guest_bench)?;
    let mut sides = vec![(Side::Ours, Samples::default()), (Side::Peer, Samples::default())];
    if options.peer_only {
        sides.remove(0);
    }
    for run in 1..=options.runs {
        for (side, samples) in &mut sides {
            eprintln!("run {run} of {}: {}", options.runs, side.name());
            one_cpu(options, &files, *side, network.is_ok(), samples)?;
            two_cpus(options, &files, *side, samples)?;
            system_disk(options, &files, *side, samples)?;
            if *side == Side::Ours {
                let rate = interpreted(options, &files)?;
                samples.interpreted_blocks_per_s.push(rate);
            }
        }
        for _ in 0..STARTS {
            for (side, samples) in &mut sides {
                samples
                    .first_ms
                    .push(first_instruction(options, &files, *side, None)?);
                if *side == Side::Ours {
                    let auto = first_instruction(options, &files, *side, Some("auto"))?;
                    samples.first_auto_ms.push(auto);
                }
            }
        }
    }
    let take = |wanted: Side| sides.iter().position(|(side, _)| *side == wanted);
    let (ours, peer) = (take(Side::Ours), take(Side::Peer));
    let samples = |index: Option<usize>| index.map(|index| &sides[index].1);
    let rows = rows::rows(&options.common.accel, per_block, samples(ours), samples(peer));
    Ok(Report::new(options, per_block, rows))
}

fn prepare(options: &Options, network: bool) -> Result<Files, Error> {
    let read = |path: &Path| fs::read(path).map_err(|e| Error::Read(path.into(), e));
    let folder = tempfile::tempdir().map_err(|e| Error::Host("making a temporary folder", e))?;
    let kernel = options.common.guest.join("vmlinuz");
    read(&kernel)?;
    let files = Files { folder, kernel };
    let base = read(&options.common.guest.join("initrd.img"))?;
    let program = read(&options.common.guest_bench)?;
    let write = |name: &str, bytes: &[u8]| {
        let path = files.path(name);
        fs::write(&path, bytes).map_err(|e| Error::Write(path, e))
    };
    for (name, script) in [
        ("one.img", one_cpu_script(options, network)),
        ("two.img", two_cpu_script(options)),
        ("hash.img", hash_script(options)),
    ] {
        let overlay = ostler_guest_image::overlay(&script, &[("bench", &program)]);
        write(name, &[&base[..], &overlay].concat())?;
    }
    write("first.elf", &first::kernel())?;
    // Written, not sparse, so that reads find blocks; and in the host's page cache for both sides.
    write("disk.img", &vec![0x5a; DISK_LEN as usize])?;
    Ok(files)
}

fn one_cpu_script(options: &Options, network: bool) -> String {
    let seconds = options.seconds;
    let mut script = format!(
        "echo 'BENCH up'; sleep 2\n\
         echo 'BENCH idle'; sleep {IDLE_SECONDS}; echo 'BENCH busy'\n\
         /bench sha256 {seconds}\n\
         /bench busy 2 {seconds}\n\
         n=50; while [ ! -e /dev/vda ] && [ $n -gt 0 ]; do n=$((n-1)); usleep 100000; done\n\
         /bench read /dev/vda {seconds}\n"
    );
    if network {
        script += &format!(
            "ip address add {}/24 dev eth0; ip link set eth0 up\n\
             ping -c 3 {} >/dev/null\n\
             ping -q -c {PINGS} -i 0.02 {} | sed -n 's/.*max = [0-9.]*.\\([0-9.]*\\).*/BENCH ping \\1/p'\n",
            network::GUEST,
            network::HOST,
            network::HOST,
        );
    }
    script + "echo 'BENCH end'\n"
}

fn two_cpu_script(options: &Options) -> String {
    format!("/bench busy 2 {}\necho 'BENCH end'\n", options.seconds)
}

fn hash_script(options: &Options) -> String {
    format!("/bench sha256 {}\necho 'BENCH end'\n", options.seconds)
}

fn one_cpu(
    options: &Options,
    files: &Files,
    side: Side,
    network: bool,
    samples: &mut Samples,
) -> Result<(), Error> {
    let (initrd, disk) = (files.path("one.img"), files.path("disk.img"));
    let machine = Machine {
        initrd: Some(&initrd),
        append: APPEND,
        disk: Some(&disk),
        network,
        memory_mib: MEMORY_MIB,
        ..Machine::bare(&files.kernel)
    };
    let mut guest = Running::start(side, &mut side.command(&options.common, &machine))?;
    guest.expect(INITRAMFS_LINE)?;
    samples.boot_cpu_s.push(proc::cpu_seconds(guest.pid()));
    guest.expect("BENCH up")?;
    samples
        .own_memory_mib
        .push(proc::own_memory_kib(guest.pid(), MEMORY_MIB << 10) as f64 / 1024.0);
    guest.expect("BENCH idle")?;
    let (before, since) = (proc::cpu_seconds(guest.pid()), Instant::now());
    guest.expect("BENCH busy")?;
    let spent = proc::cpu_seconds(guest.pid()) - before;
    samples
        .idle_percent
        .push(100.0 * spent / since.elapsed().as_secs_f64());
    samples.blocks_per_s.push(guest.rate("sha256")?);
    samples.busy_on_one.push(guest.rate("busy2")?);
    samples.reads_us.push(1e6 / guest.rate("read")?);
    if network {
        let line = guest.expect("BENCH ping ")?;
        let average: f64 = line.parse().map_err(|_| Error::Nonsense {
            side: side.name(),
            line,
        })?;
        samples.ping_us.push(average * 1e3);
    }
    guest.expect("BENCH end").map(drop)
}

fn two_cpus(options: &Options, files: &Files, side: Side, samples: &mut Samples) -> Result<(), Error> {
    let initrd = files.path("two.img");
    let machine = Machine {
        initrd: Some(&initrd),
        append: APPEND,
        cpus: 2,
        memory_mib: MEMORY_MIB,
        ..Machine::bare(&files.kernel)
    };
    samples.free_cpus.push(proc::free_cpus(Duration::from_secs(1)));
    let mut guest = Running::start(side, &mut side.command(&options.common, &machine))?;
    samples.busy_on_two.push(guest.rate("busy2")?);
    guest.expect("BENCH end").map(drop)
}

/// Debian with systemd, from a fresh copy of its disk.
fn system_disk(options: &Options, files: &Files, side: Side, samples: &mut Samples) -> Result<(), Error> {
    let system = options.common.guest.join(SYSTEM);
    if !system.exists() {
        return Ok(());
    }
    let (kernel, initrd) = (system.join("vmlinuz"), system.join("initrd.img"));
    let disk = files.path("system.img");
    let append = format!("{APPEND} root=/dev/vda rw");
    for cpus in [2, 1] {
        let mut copy = Command::new("cp");
        copy.arg("--sparse=always")
            .args([&system.join("disk.img"), &disk]);
        let copied = copy.status().map_err(|e| Error::Start("cp".into(), e))?;
        if !copied.success() {
            return Err(Error::Write(disk, std::io::Error::other("cp failed")));
        }
        let machine = Machine {
            initrd: Some(&initrd),
            append: &append,
            disk: Some(&disk),
            cpus,
            memory_mib: SYSTEM_MEMORY_MIB,
            ..Machine::bare(&kernel)
        };
        let since = Instant::now();
        let mut guest = Running::start(side, &mut side.command(&options.common, &machine))?;
        guest.expect(LOGIN_LINE)?;
        if cpus == 2 {
            samples.system_boot_s.push(since.elapsed().as_secs_f64());
        } else {
            let kib = proc::own_memory_kib(guest.pid(), SYSTEM_MEMORY_MIB << 10);
            samples.system_memory_mib.push(kib as f64 / 1024.0);
        }
    }
    Ok(())
}

/// Blocks a second on our interpreter.
fn interpreted(options: &Options, files: &Files) -> Result<f64, Error> {
    let initrd = files.path("hash.img");
    let machine = Machine {
        initrd: Some(&initrd),
        append: APPEND,
        memory_mib: MEMORY_MIB,
        engine: Some("interpreter"),
        accel: Some("soft"),
        ..Machine::bare(&files.kernel)
    };
    let side = Side::Ours;
    let mut guest = Running::start(side, &mut side.command(&options.common, &machine))?;
    let rate = guest.rate("sha256")?;
    guest.expect("BENCH end")?;
    Ok(rate)
}

fn first_instruction(
    options: &Options,
    files: &Files,
    side: Side,
    accel: Option<&str>,
) -> Result<f64, Error> {
    let kernel = files.path("first.elf");
    let machine = Machine {
        memory_mib: MEMORY_MIB,
        accel,
        ..Machine::bare(&kernel)
    };
    milliseconds_to(side, &mut side.command(&options.common, &machine), first::SIGN)
}
