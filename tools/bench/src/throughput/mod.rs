//! `./bench io`: how much virtio disks and cards carry, in guests of ours and of QEMU with the same disk, tap and accelerator.

mod bare;
mod exits;
mod made_host;
mod table;

use std::fs;
use std::io::{self, Write as _};
use std::net::{TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use tempfile::TempDir;

use crate::beside::{Figures, Table};
use crate::error::Error;
use crate::net::stream;
use crate::running::Running;
use crate::side::Machine;
use crate::{Common, network, proc, report};
use exits::Exits;
use table::{Contender, DISK};

const MEMORY_MIB: u64 = 512;
const APPEND: &str = "console=ttyS0 panic=-1 quiet";
const GUEST_PORT: u16 = 5002;

/// Measures throughput of virtio disks and cards beside QEMU's.
#[derive(clap::Args, Debug)]
pub(crate) struct IoOptions {
    /// How often everything is measured; medians are shown.
    #[arg(long, default_value_t = 5, value_parser = clap::value_parser!(u32).range(1..))]
    rounds: u32,
    /// Seconds of one measurement.
    #[arg(long, default_value_t = 2, value_parser = clap::value_parser!(u32).range(1..=60))]
    seconds: u32,
    /// Size of the disk.
    #[arg(long, default_value_t = 1024, value_parser = clap::value_parser!(u32).range(1..=65536))]
    disk_mib: u32,
    /// On KVM, in a host that QEMU makes in software: says nothing of speed, but how the two compare there.
    #[arg(long)]
    made_host: bool,
    /// Shows what KVM did for each operation, too, which takes a little of the guests' time. Kinds of exits are told apart on AMD only.
    #[arg(long)]
    exits: bool,
    /// Where the trace points of the host's kernel are.
    #[arg(long, default_value = "/sys/kernel/tracing")]
    tracing: PathBuf,
}

/// Measures, prints and writes. True if every bar is met.
pub(crate) fn run(common: &Common, options: &IoOptions) -> Result<bool, Error> {
    if options.made_host {
        return made_host::run(common, options);
    }
    network::enter().map_err(|why| Error::Host("making a network", std::io::Error::other(why)))?;
    let free_cpus = proc::free_cpus(Duration::from_secs(1));
    let files = Files::prepare(common, options)?;
    let mut figures = Figures::default();
    let mut exits = Exits::new(options.exits.then_some(&options.tracing))?;
    let (contenders, lines) = table::on(&common.accel);
    for round in 1..=options.rounds {
        for contender in contenders {
            eprintln!("round {round} of {}: {}", options.rounds, contender.whose);
            one_guest(common, options, &files, contender, &mut figures, &mut exits)?;
        }
        let seconds = Duration::from_secs(options.seconds.into());
        files
            .free_disk()
            .and_then(|disk| bare::measure(&disk, seconds, &mut figures))
            .map_err(|e| Error::Host("reading and writing a disk without a guest", e))?;
    }
    let table = Table::new(
        &lines,
        free_cpus,
        options.rounds,
        options.seconds.into(),
        &figures,
    );
    print!("{}", table.text());
    if let Some(exits) = exits.table() {
        println!("\nWhat KVM did, for each operation of a disk and each Mbit of a card:\n\n{exits}");
    }
    let path = json(common);
    report::write_json(&path, &table)?;
    println!("\nAll samples are in {}.", path.display());
    Ok(table.all_met())
}

/// Where the samples go.
fn json(common: &Common) -> PathBuf {
    let path = common.json.clone();
    path.unwrap_or_else(|| PathBuf::from("target/bench-io.json"))
}

struct Files {
    folder: TempDir,
    kernel: PathBuf,
}

impl Files {
    fn prepare(common: &Common, options: &IoOptions) -> Result<Self, Error> {
        let folder = tempfile::tempdir().map_err(|e| Error::Host("making a temporary folder", e))?;
        let files = Self {
            folder,
            kernel: common.guest.join("vmlinuz"),
        };
        let read = |path: PathBuf| fs::read(&path).map_err(|e| Error::Read(path, e));
        let program = read(common.guest_bench.clone())?;
        let standard = read(common.guest.join("initrd.img"))?;
        for disk in [true, false] {
            let overlay = ostler_guest_image::overlay(&script(options, disk), &[("bench", &program)]);
            let path = files.initrd(disk);
            fs::write(&path, [&*standard, &*overlay].concat()).map_err(|e| Error::Write(path, e))?;
        }
        let disk = files.path("disk.img");
        write_disk(&disk, options.disk_mib).map_err(|e| Error::Write(disk, e))?;
        Ok(files)
    }

    /// The initial RAM disk of a guest that measures its disk, too, or only its card.
    fn initrd(&self, disk: bool) -> PathBuf {
        self.path(if disk { "initrd.img" } else { "initrd-card.img" })
    }

    /// The disk, once nobody has it.
    fn free_disk(&self) -> io::Result<PathBuf> {
        let disk = self.path("disk.img");
        bare::wait_until_free(&disk)?;
        Ok(disk)
    }

    fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }
}

/// Makes a disk that is written, not sparse, so that reads find blocks, and that is in the host's page cache for both sides.
/// In pieces, as programs copy images: a file written at one go lies in folios of megabytes, and for each write into one
/// of them Linux 6.18's ext4 walks all of its blocks, 75 us for 4 KiB, which would be all that is measured.
fn write_disk(path: &Path, mib: u32) -> io::Result<()> {
    let mut disk = fs::File::create(path)?;
    let piece = [0x5a; 64 << 10];
    for _ in 0..mib * 16 {
        disk.write_all(&piece)?;
    }
    Ok(())
}

/// What the guest does.
fn script(options: &IoOptions, disk: bool) -> String {
    let seconds = options.seconds;
    let disk: String = DISK
        .iter()
        .filter(|_| disk)
        .map(|(name, order, operation, block, depth)| {
            format!("/bench disk {name} /dev/vda {order} {operation} {block} {depth} {seconds}\n")
        })
        .collect();
    format!(
        "dmesg -n 1; stty -echo 2>/dev/null\n\
         ip address add {}/24 dev eth0; ip link set eth0 up\n\
         n=50; while [ ! -e /dev/vda ] && [ $n -gt 0 ]; do n=$((n-1)); usleep 100000; done\n\
         echo BENCH begins\n\
         {disk}\
         echo BENCH receives; /bench receive {GUEST_PORT}\n\
         read line </dev/console; /bench send {}:{} {seconds}\n\
         echo 'BENCH end'\n",
        network::GUEST,
        network::HOST,
        stream::PORT
    )
}

fn one_guest(
    common: &Common,
    options: &IoOptions,
    files: &Files,
    contender: &Contender,
    figures: &mut Figures,
    exits: &mut Exits,
) -> Result<(), Error> {
    let Contender { side, whose, .. } = *contender;
    let initrd = files.initrd(contender.disk);
    let disk = files
        .free_disk()
        .map_err(|e| Error::Host("waiting for a disk that an ended guest has locked", e))?;
    let machine = Machine {
        initrd: Some(&initrd),
        append: APPEND,
        disk: Some(&disk),
        network: true,
        memory_mib: MEMORY_MIB,
        peer_accel: contender.peer_accel,
        ..Machine::bare(&files.kernel)
    };
    let mut command: Command = side.command(common, &machine);
    let mut guest = Running::start_with_input(side, &mut command)?;
    let seconds = f64::from(options.seconds);
    guest.expect("BENCH begins")?;
    exits.forget();
    for (name, _, _, block, _) in DISK.into_iter().filter(|_| contender.disk) {
        let operations = guest.rate(&format!("disk-{name}"))?;
        exits.row(whose, name, operations * seconds);
        let bytes: f64 = block.parse().unwrap_or_default();
        figures.add(name, whose, operations * bytes / 1e6);
    }
    let failed = |e| Error::Host("a stream of TCP with a guest", e);
    guest.expect("BENCH receives")?;
    let listener = TcpListener::bind((network::HOST, stream::PORT)).map_err(failed)?;
    // It listens a moment later.
    let mut to_guest = None;
    for _ in 0..100 {
        to_guest = TcpStream::connect((network::GUEST, GUEST_PORT)).ok();
        if to_guest.is_some() {
            break;
        }
        std::thread::sleep(Duration::from_millis(50));
    }
    let to_guest = to_guest.ok_or_else(|| failed(std::io::ErrorKind::ConnectionRefused.into()))?;
    exits.forget();
    stream::send(to_guest, Duration::from_secs(options.seconds.into())).map_err(failed)?;
    let gbits = guest.rate("received")? * 8.0 / 1e9;
    exits.row(whose, "to guest", gbits * 1e3 * seconds);
    figures.add("to guest", whose, gbits);
    guest.say("")?;
    let (from_guest, _) = listener.accept().map_err(failed)?;
    let gbits = stream::receive(from_guest).map_err(failed)?;
    exits.row(whose, "from guest", gbits * 1e3 * seconds);
    figures.add("from guest", whose, gbits);
    guest.expect("BENCH end").map(drop)
}
