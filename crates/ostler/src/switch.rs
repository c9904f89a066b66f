//! `ostler switch`: the process of a virtual switch.

use std::fs;
use std::os::fd::AsFd;
use std::os::unix::fs::{DirBuilderExt, FileTypeExt};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use clap::{Args, Subcommand};
use ostler_switchd::config::Config;
use ostler_switchd::{Engine, control_path};
use rustix::fs::Mode;
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};

use crate::failure::{Failure, say};
use crate::run::Signals;

/// Signals that end the switch.
const ENDING: &[libc::c_int] = &[libc::SIGTERM, libc::SIGINT, libc::SIGHUP, libc::SIGQUIT];

/// Options of `ostler switch`.
#[derive(Args)]
#[command(arg_required_else_help = true)]
pub struct SwitchArgs {
    #[command(subcommand)]
    command: SwitchCommand,
}

#[derive(Subcommand)]
enum SwitchCommand {
    /// Run a switch in the foreground until a signal ends it.
    Run {
        /// Its configuration: a TOML file with its name and ports.
        #[arg(long, value_name = "FILE")]
        config: PathBuf,
        /// Only say whether the configuration is good.
        #[arg(long)]
        check: bool,
    },
}

/// Runs a switch to its end.
pub fn run(args: SwitchArgs) -> Result<ExitCode, Failure> {
    let SwitchCommand::Run { config, check } = args.command;
    let config = Config::read(&config).map_err(Failure::bad_input)?;
    if check {
        return Ok(ExitCode::SUCCESS);
    }
    let path = match &config.control {
        Some(path) => path.clone(),
        None => control_path(&config.name).map_err(Failure::bad_input)?,
    };
    // It may have been started by way of /proc/self/exe, and would be listed as "exe".
    let _ = rustix::thread::set_name(c"ostler");
    take_descriptors();
    let signals = Signals::take(ENDING).map_err(|e| Failure::failed(format!("cannot take signals: {e}")))?;
    let control = Control::open(&path)?;
    let name = config.name.clone();
    let engine = Engine::new(config, control.listener()?).map_err(Failure::bad_input)?;
    say(format_args!(
        "ostler: switch \"{name}\" runs; control socket \"{}\"",
        path.display()
    ));
    let ended = engine.run(&signals.as_fd());
    drop(control);
    ended.map_err(|error| Failure::chained(&error))?;
    Ok(ExitCode::SUCCESS)
}

/// Has the host give as many descriptors as it may: ports, guests and a router's connections have one each.
fn take_descriptors() {
    let limit = getrlimit(Resource::Nofile);
    let wanted = Rlimit {
        current: limit.maximum,
        ..limit
    };
    // With fewer, some connections are refused.
    let _ = setrlimit(Resource::Nofile, wanted);
}

/// The control socket, which is removed at the end.
struct Control {
    listener: UnixListener,
    path: PathBuf,
}

impl Control {
    /// Listens at `path`, for this user only. What a dead switch left there is replaced.
    fn open(path: &Path) -> Result<Self, Failure> {
        let refused = |error: std::io::Error| {
            Failure::bad_input(format!("cannot listen at \"{}\": {error}", path.display()))
        };
        if let Some(folder) = path.parent().filter(|folder| !folder.as_os_str().is_empty()) {
            fs::DirBuilder::new()
                .recursive(true)
                .mode(0o755)
                .create(folder)
                .map_err(refused)?;
        }
        if fs::symlink_metadata(path).is_ok_and(|meta| meta.file_type().is_socket()) {
            match UnixStream::connect(path) {
                Ok(_) => {
                    return Err(Failure::bad_input(format!(
                        "a switch runs at \"{}\" already; end it first, or choose another name",
                        path.display()
                    )));
                }
                Err(_) => fs::remove_file(path).map_err(refused)?,
            }
        }
        let before = rustix::process::umask(Mode::from_raw_mode(0o177));
        let listener = UnixListener::bind(path);
        rustix::process::umask(before);
        Ok(Self {
            listener: listener.map_err(refused)?,
            path: path.into(),
        })
    }

    fn listener(&self) -> Result<UnixListener, Failure> {
        self.listener
            .try_clone()
            .map_err(|error| Failure::failed(format!("no second descriptor of a socket: {error}")))
    }
}

impl Drop for Control {
    fn drop(&mut self) {
        let _ = fs::remove_file(&self.path);
    }
}
