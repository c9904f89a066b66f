//! `ostler daemon`: the management of a host's guests, for libvirt's clients.

use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::sync::Mutex;

use clap::Args;
use ostler_daemon::{Config, Daemon, Scope, config};
use rustix::event::{PollFd, PollFlags, poll};
use rustix::process::{Resource, getrlimit, setrlimit};

use crate::accelerator::{DEV_KVM, KvmDevice};
use crate::failure::{Failure, say};
use crate::run::Signals;

/// Options of the subcommand.
#[derive(Args, Clone)]
pub struct DaemonArgs {
    /// Configuration (TOML) [default: /etc/ostler/daemon.toml, for a user ~/.config/ostler/daemon.toml, if it is there].
    #[arg(long, value_name = "FILE")]
    config: Option<PathBuf>,
    /// Only say whether the configuration is good.
    #[arg(long)]
    check: bool,
    /// Look after this user's own guests (qemu:///session), as for anybody but root.
    #[arg(long)]
    session: bool,
    /// Socket of clients that may change things; can be given again [default: where libvirt's clients look].
    #[arg(long, value_name = "PATH")]
    socket: Vec<PathBuf>,
    /// Socket of clients that may only look; without it, those of --socket with "-ro" at their end.
    #[arg(long, value_name = "PATH")]
    readonly_socket: Vec<PathBuf>,
    /// Folder of the guests' definitions [default: /var/lib/ostler/guests, for a user ~/.config/ostler/guests].
    #[arg(long, value_name = "FOLDER")]
    definitions: Option<PathBuf>,
    /// Folder of the storage pool "default", which is made at the first start [default: /var/lib/libvirt/images, for a user
    /// ~/.local/share/libvirt/images].
    #[arg(long, value_name = "FOLDER")]
    images: Option<PathBuf>,
    /// Folder of what belongs to guests that run [default: /run/ostler, for a user $XDG_RUNTIME_DIR/ostler].
    #[arg(long, value_name = "FOLDER")]
    runtime: Option<PathBuf>,
}

/// The scope that is meant: an ordinary user has no guests but its own.
pub fn scope(session: bool) -> Scope {
    match session || !rustix::process::geteuid().is_root() {
        true => Scope::Session,
        false => Scope::System,
    }
}

/// The configuration of `file`, or of the usual file if there is one.
pub fn read_config(file: Option<&Path>, scope: Scope) -> Result<Config, Failure> {
    let usual = Config::usual_file(scope);
    match file {
        Some(file) => Config::read(file, scope),
        None if usual.exists() => Config::read(&usual, scope),
        None => Ok(Config::usual(scope)),
    }
    .map_err(Failure::bad_input)
}

/// Serves until a signal ends it. Guests go on.
pub fn run(args: DaemonArgs) -> Result<ExitCode, Failure> {
    let signals = Signals::take(&[libc::SIGTERM, libc::SIGINT, libc::SIGHUP])
        .map_err(|e| Failure::failed(format!("cannot take signals: {e}")))?;
    let check = args.check;
    let config = configure(args.clone())?;
    if check {
        return Ok(ExitCode::SUCCESS);
    }
    raise_descriptor_limit();
    limit_arenas();
    let daemon = Daemon::start(&config, open_kvm()).map_err(|error| Failure::bad_input(error.to_string()))?;
    let places: Vec<_> = config
        .unix
        .sockets
        .iter()
        .map(|path| format!("\"{}\"", path.display()))
        .collect();
    let uri = config.scope.uri();
    say(format_args!(
        "ostler: serving libvirt's clients of {uri} at {}",
        places.join(", ")
    ));
    loop {
        match signals.next() {
            // A signal that ends the wait is found by the loop.
            None => drop(poll(&mut [PollFd::new(&signals, PollFlags::IN)], None)),
            Some(libc::SIGHUP) => reload(&daemon, &args),
            Some(_) => break,
        }
    }
    drop(daemon);
    Ok(ExitCode::SUCCESS)
}

/// Reads what can be read while it serves: the configuration's TLS. What is wrong with it is said, and nothing changes.
fn reload(daemon: &Daemon, args: &DaemonArgs) {
    let configured = configure(args.clone()).map_err(|failure| failure.message);
    let reloaded = configured.and_then(|config| daemon.reload(&config).map_err(|error| error.to_string()));
    if let Err(why) = reloaded {
        eprintln!("ostler daemon: nothing is read again: {why}");
    }
}

/// Every client takes a few descriptors, and the usual limit is for programs that have few.
fn raise_descriptor_limit() {
    let mut limit = getrlimit(Resource::Nofile);
    limit.current = limit.maximum;
    // Fewer clients are served where it stays as it is.
    let _ = setrlimit(Resource::Nofile, limit);
}

/// The allocator keeps apart what different threads free, up to eight heaps a CPU. The daemon's many threads allocate little at a time, and
/// two of them are enough.
fn limit_arenas() {
    // SAFETY: an option of the allocator, which takes any number.
    unsafe { libc::mallopt(libc::M_ARENA_MAX, 2) };
}

/// What the file says, and the options over it.
fn configure(args: DaemonArgs) -> Result<Config, Failure> {
    let mut config = read_config(args.config.as_deref(), scope(args.session))?;
    if !args.socket.is_empty() {
        config.unix.readonly_sockets = args.socket.iter().map(|path| config::readonly(path)).collect();
        config.unix.sockets = args.socket;
    }
    if !args.readonly_socket.is_empty() {
        config.unix.readonly_sockets = args.readonly_socket;
    }
    if let Some(folder) = args.definitions {
        config.definitions = folder;
    }
    if let Some(folder) = args.images {
        config.images = folder;
    }
    if let Some(folder) = args.runtime {
        config.runtime = folder;
    }
    Ok(config)
}

/// Opens /dev/kvm for guests of the type `kvm`, if it runs them at hardware speed. It is timed when it is first asked for.
fn open_kvm() -> ostler_daemon::OpenKvm {
    let known: Mutex<Option<Result<OwnedFd, String>>> = Mutex::new(None);
    Box::new(move || {
        let mut known = known.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
        let look = || {
            let (device, descriptor) = KvmDevice::look(Path::new(DEV_KVM));
            let useless = || format!("{}; use <domain type='qemu'>, the software CPU", device.reason());
            descriptor.filter(|_| device.is_fast()).ok_or_else(useless)
        };
        match known.get_or_insert_with(look) {
            Ok(device) => device
                .try_clone()
                .map_err(|e| format!("cannot hand {DEV_KVM} on: {e}")),
            Err(why) => Err(why.clone()),
        }
    })
}
