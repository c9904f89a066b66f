//! A daemon that runs, ours or libvirtd, in namespaces of the benchmark.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use ostler_libvirt::procedures::ConnectGetLibVersion;
use rustix::process::{Pid, Signal, kill_process};
use rustix::thread::UnshareFlags;

use super::client::Client;
use super::peer;
use super::table::Whose;
use crate::error::Error;
use crate::{Common, proc};

/// How long a daemon may take to answer, or to end.
const PATIENCE: Duration = Duration::from_secs(60);

/// Moves this process, which has one thread still, into a network and a mount namespace of its own, so that libvirtd finds and leaves
/// nothing of the host's.
pub(super) fn enter() -> Result<(), Error> {
    // SAFETY: this thread is still the only one; it shares neither namespace with another.
    unsafe { rustix::thread::unshare_unsafe(UnshareFlags::NEWNET | UnshareFlags::NEWNS) }
        .map_err(|e| Error::Host("making namespaces (it takes root)", e.into()))?;
    peer::prepare()
}

/// A daemon that answers.
pub(super) struct Host {
    child: Child,
    socket: PathBuf,
}

impl Host {
    /// Starts a daemon whose folders are in `folder`; `configuration` is more of ours.
    pub(super) fn start(
        common: &Common,
        whose: Whose,
        folder: &Path,
        configuration: &str,
    ) -> Result<Self, Error> {
        Ok(Self::restart(common, whose, folder, configuration)?.0)
    }

    /// Starts a daemon, and says how many seconds went by until its first answer.
    pub(super) fn restart(
        common: &Common,
        whose: Whose,
        folder: &Path,
        configuration: &str,
    ) -> Result<(Self, f64), Error> {
        let (mut command, socket) = match whose {
            Whose::Ours => ours(common, folder, configuration)?,
            Whose::Libvirtd => peer::command(folder)?,
        };
        let _ = fs::remove_file(&socket);
        let log = folder.join("log");
        let log = fs::File::create(&log).map_err(|e| Error::Write(log, e))?;
        command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(log);
        let start = Instant::now();
        let child = command.spawn();
        let child = child.map_err(|e| Error::Start(whose.name().into(), e))?;
        let mut host = Self { child, socket };
        while !host.answers() {
            if start.elapsed() > PATIENCE || host.child.try_wait().is_ok_and(|end| end.is_some()) {
                let said = fs::read_to_string(folder.join("log")).unwrap_or_default();
                return Err(Error::Start(whose.name().into(), io::Error::other(said)));
            }
            thread::sleep(Duration::from_millis(1));
        }
        Ok((host, start.elapsed().as_secs_f64()))
    }

    fn answers(&self) -> bool {
        self.client()
            .and_then(|mut client| client.call::<ConnectGetLibVersion>(&()))
            .is_ok()
    }

    /// A client.
    pub(super) fn client(&self) -> Result<Client<std::os::unix::net::UnixStream>, Error> {
        Client::connect(&self.socket)
    }

    /// MiB by proportional share.
    pub(super) fn memory_mib(&self) -> f64 {
        proc::own_memory_kib(self.child.id(), 0) as f64 / 1024.0
    }

    /// Ends it as systemd does.
    pub(super) fn stop(mut self) -> Result<(), Error> {
        let failed = |e| Error::Host("ending a daemon", e);
        let pid = i32::try_from(self.child.id()).ok().and_then(Pid::from_raw);
        let pid = pid.ok_or_else(|| failed(io::ErrorKind::InvalidData.into()))?;
        kill_process(pid, Signal::TERM).map_err(|e| failed(e.into()))?;
        let start = Instant::now();
        while self.child.try_wait().map_err(failed)?.is_none() {
            if start.elapsed() > PATIENCE {
                return Err(failed(io::ErrorKind::TimedOut.into()));
            }
            thread::sleep(Duration::from_millis(5));
        }
        Ok(())
    }
}

impl Drop for Host {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Our daemon and its socket.
fn ours(common: &Common, folder: &Path, configuration: &str) -> Result<(Command, PathBuf), Error> {
    let socket = folder.join("socket");
    let config = folder.join("daemon.toml");
    let audit = folder.join("audit.log");
    let text = format!("[audit]\nfile = \"{}\"\n{configuration}", audit.display());
    fs::write(&config, text).map_err(|e| Error::Write(config.clone(), e))?;
    let mut command = Command::new(&common.ostler);
    command.arg("daemon").arg("--config").arg(&config);
    command.arg("--socket").arg(&socket);
    for (option, name) in [
        ("--definitions", "guests"),
        ("--images", "images"),
        ("--runtime", "run"),
    ] {
        command.arg(option).arg(folder.join(name));
    }
    Ok((command, socket))
}
