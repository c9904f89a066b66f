//! The doors of the daemon: who comes in, by which way, and what is written down about it.

mod local;
mod readonly;
mod ssh;
mod tls;

use std::fs::{self, File, Permissions};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};

use crate::setup::{end_switches, wait_until};
use crate::support::OSTLER;

/// The user and group that own nothing.
const NOBODY: &str = "65534";

/// A folder that everyone may look into, with a configuration and the daemon that runs by it.
pub struct Place {
    folder: tempfile::TempDir,
    daemon: Option<Child>,
}

impl Place {
    /// With `config` added to a configuration that keeps everything in the folder. `[unix]` is its last section.
    pub fn new(config: &str) -> Self {
        let folder = tempfile::tempdir().unwrap();
        fs::set_permissions(folder.path(), Permissions::from_mode(0o755)).unwrap();
        let place = Self { folder, daemon: None };
        let at = place.path("").display().to_string();
        let text = format!(
            "definitions = \"{at}definitions\"\nruntime = \"{at}run\"\n[unix]\nsockets = [\"{at}sock\"]\n{config}\n"
        );
        fs::write(place.path("daemon.toml"), text).unwrap();
        place
    }

    pub fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    /// `ostler daemon` with the configuration.
    pub fn daemon(&self) -> Command {
        let mut command = Command::new(OSTLER);
        command.args(["daemon", "--config"]).arg(self.path("daemon.toml"));
        command
    }

    /// Runs a daemon until the place is dropped. What it says goes to the file `log`.
    pub fn run(&mut self, mut daemon: Command) {
        let log = File::create(self.path("log")).unwrap();
        let child = daemon
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(log)
            .spawn();
        self.daemon = Some(child.expect("the daemon starts"));
        wait_until("the daemon serves", || {
            let ended = self.daemon.as_mut().unwrap().try_wait().unwrap();
            assert!(ended.is_none(), "the daemon ended: {}", self.log());
            self.log().contains("serving libvirt's clients")
        });
    }

    pub fn start(config: &str) -> Self {
        let mut place = Self::new(config);
        place.run(place.daemon());
        place
    }

    /// Sends the daemon a signal.
    pub fn signal(&self, signal: rustix::process::Signal) {
        let daemon = rustix::process::Pid::from_child(self.daemon.as_ref().unwrap());
        rustix::process::kill_process(daemon, signal).unwrap();
    }

    /// What the daemon has said, its audit log among it.
    pub fn log(&self) -> String {
        fs::read_to_string(self.path("log")).unwrap_or_default()
    }

    /// Waits until the daemon has said `text`.
    pub fn expect_in_log(&self, text: &str) {
        wait_until(&format!("the log has {text}"), || self.log().contains(text));
    }

    /// The daemon's socket as a URI.
    pub fn uri(&self) -> String {
        format!("qemu+unix:///system?socket={}", self.path("sock").display())
    }

    pub fn readonly_uri(&self) -> String {
        self.uri() + "-ro"
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        if let Some(mut daemon) = self.daemon.take() {
            // Whatever failed, no guest stays behind.
            let run = virsh(&self.uri(), "list --name").output();
            let names = run.map(|output| String::from_utf8_lossy(&output.stdout).into_owned());
            for name in names.unwrap_or_default().split_whitespace() {
                let _ = virsh(&self.uri(), &format!("destroy {name}")).output();
            }
            let _ = daemon.kill();
            let _ = daemon.wait();
        }
        // The daemon of the test's user, if there was one, is `runtime/ostler`.
        for runtime in ["run", "runtime/ostler"] {
            end_switches(&self.path(runtime));
        }
    }
}

/// virsh at `uri`, with its arguments in words.
pub fn virsh(uri: &str, arguments: &str) -> Command {
    let mut command = Command::new("virsh");
    command
        .env("LC_ALL", "C")
        .args(["-c", uri])
        .args(arguments.split_whitespace())
        .stdin(Stdio::null());
    command
}

/// What it prints when it succeeds.
pub fn printed(mut command: Command) -> String {
    let Output {
        status,
        stdout,
        stderr,
    } = command.output().unwrap();
    assert!(
        status.success(),
        "{command:?}: {}",
        String::from_utf8_lossy(&stderr)
    );
    String::from_utf8(stdout).unwrap()
}

/// What it complains of when it fails.
pub fn complaint(mut command: Command) -> String {
    let Output {
        status,
        stdout,
        stderr,
    } = command.output().unwrap();
    assert!(
        !status.success(),
        "{command:?} printed {}",
        String::from_utf8_lossy(&stdout)
    );
    String::from_utf8(stderr).unwrap()
}

/// The same command as a user of these numbers, with nothing of ours in its environment. Only for root.
pub fn as_user(command: &Command, uid: &str, gid: &str) -> Command {
    let mut other = Command::new("setpriv");
    other
        .args(["--reuid", uid, "--regid", gid, "--clear-groups"])
        .arg(command.get_program())
        .args(command.get_args())
        .env_clear()
        .env("PATH", std::env::var_os("PATH").unwrap_or_default())
        .env("LC_ALL", "C")
        .current_dir("/")
        .stdin(Stdio::null());
    other
}

/// Whether this test can become other users; says that it is skipped if not.
pub fn can_be_others(test: &str) -> bool {
    let can =
        rustix::process::geteuid().is_root() && Command::new("setpriv").arg("--version").output().is_ok();
    if !can {
        eprintln!("SKIPPED {test}: needs root, and setpriv to become other users");
    }
    can
}

/// A definition that can be started, if it is allowed to, and needs nothing of the host.
pub fn definition(folder: &Path, name: &str) -> String {
    let path = folder.join(format!("{name}.xml"));
    fs::write(&path, crate::setup::linux(name, "")).unwrap();
    fs::set_permissions(&path, Permissions::from_mode(0o644)).unwrap();
    path.to_str().unwrap().into()
}
