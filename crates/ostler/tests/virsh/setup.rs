//! A daemon in a folder of its own, and virsh at it.

use std::fs;
use std::io::{BufRead, BufReader, Read};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::sync::mpsc;
use std::time::{Duration, Instant};

use crate::support::{OSTLER, guest_folder};

/// Where what the daemon says is kept, for tests that fail.
const LOG: &str = "daemon.log";
/// The configuration, where a test writes one.
const CONFIGURATION: &str = "daemon.toml";
pub const LIMIT: Duration = Duration::from_secs(240);

/// A daemon; dropping it ends its guests and it.
pub struct Host {
    pub folder: tempfile::TempDir,
    daemon: Child,
}

impl Host {
    pub fn start() -> Self {
        let folder = tempfile::tempdir().unwrap();
        let daemon = Self::start_daemon(folder.path());
        Self { folder, daemon }
    }

    /// A daemon with a configuration file.
    pub fn start_configured(configuration: &str) -> Self {
        let folder = tempfile::tempdir().unwrap();
        fs::write(folder.path().join(CONFIGURATION), configuration).unwrap();
        let daemon = Self::start_daemon(folder.path());
        Self { folder, daemon }
    }

    /// A daemon with these variables in its environment.
    pub fn start_with(environment: &[(&str, &Path)]) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let mut command = Command::new(OSTLER);
        command.envs(environment.iter().copied());
        let daemon = Self::start_by(command, folder.path());
        Self { folder, daemon }
    }

    /// A daemon in a network namespace of its own, which `script` sets up.
    pub fn start_in_namespace(script: &str) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let mut command = Command::new("unshare");
        let script = format!("set -e; {script}; exec \"$@\"");
        command.args(["--net", "--mount", "--", "sh", "-c", &script, "sh", OSTLER]);
        let daemon = Self::start_by(command, folder.path());
        Self { folder, daemon }
    }

    /// What a command prints in the daemon's network namespace.
    pub fn in_namespace(&self, command: &str) -> String {
        let daemon = self.daemon.id().to_string();
        let mut inside = Command::new("nsenter");
        inside.args(["--target", &daemon, "--net", "--mount", "sh", "-c", command]);
        let output = inside.output().unwrap();
        String::from_utf8(output.stdout).unwrap()
    }

    fn start_daemon(folder: &Path) -> Child {
        Self::start_by(Command::new(OSTLER), folder)
    }

    fn start_by(command: Command, folder: &Path) -> Child {
        let daemon = Self::spawn_by(command, folder);
        // Clients get in before everything is ready, and wait.
        let uri = format!("qemu+unix:///system?socket={}", folder.join("sock").display());
        wait_until("the daemon answers", || {
            let asked = Command::new("virsh").args(["-c", &uri, "hostname"]).output();
            asked
                .expect("virsh (package libvirt-clients) runs")
                .status
                .success()
        });
        daemon
    }

    fn spawn_by(mut command: Command, folder: &Path) -> Child {
        let log = fs::File::options()
            .create(true)
            .append(true)
            .open(folder.join(LOG))
            .expect("the daemon's log");
        command.arg("daemon");
        if folder.join(CONFIGURATION).exists() {
            command.arg("--config").arg(folder.join(CONFIGURATION));
        }
        command
            .arg("--socket")
            .arg(folder.join("sock"))
            .arg("--definitions")
            .arg(folder.join("definitions"))
            .arg("--images")
            .arg(folder.join("images"))
            .arg("--runtime")
            .arg(folder.join("run"))
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(log)
            .spawn()
            .expect("the daemon starts")
    }

    /// Kills the daemon as nobody can prepare for, and starts another.
    pub fn kill_and_restart(&mut self) {
        self.kill();
        self.start_again();
    }

    /// Kills the daemon as nobody can prepare for.
    pub fn kill(&mut self) {
        self.daemon.kill().unwrap();
        self.daemon.wait().unwrap();
    }

    /// Has the daemon do nothing more; it can be killed.
    pub fn hold(&self) {
        let pid = rustix::process::Pid::from_child(&self.daemon);
        rustix::process::kill_process(pid, rustix::process::Signal::STOP).unwrap();
    }

    /// Starts another daemon, and kills it after this time.
    pub fn start_and_kill(&mut self, after: Duration) {
        self.daemon = Self::spawn_by(Command::new(OSTLER), self.folder.path());
        std::thread::sleep(after);
        self.kill();
    }

    /// What the kernel says of the daemon's process in this file of /proc.
    pub fn proc(&self, file: &str) -> String {
        fs::read_to_string(format!("/proc/{}/{file}", self.daemon.id())).unwrap()
    }

    /// Asks the daemon to end, and waits until it has.
    pub fn end_daemon(&mut self) -> std::process::ExitStatus {
        let pid = rustix::process::Pid::from_child(&self.daemon);
        rustix::process::kill_process(pid, rustix::process::Signal::TERM).unwrap();
        self.daemon.wait().unwrap()
    }

    pub fn start_again(&mut self) {
        self.daemon = Self::start_daemon(self.folder.path());
    }

    pub fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    /// virsh with its arguments, in words.
    pub fn command(&self, arguments: &str) -> Command {
        self.command_at(&format!("socket={}", self.path("sock").display()), arguments)
    }

    pub fn command_at(&self, query: &str, arguments: &str) -> Command {
        let mut command = Command::new("virsh");
        command
            .env("LC_ALL", "C")
            .args(["-c", &format!("qemu+unix:///system?{query}")])
            .args(arguments.split_whitespace())
            .stdin(Stdio::null());
        command
    }

    pub fn run(&self, arguments: &str) -> Output {
        self.command(arguments)
            .output()
            .expect("virsh (package libvirt-clients) runs")
    }

    /// What virsh prints when it succeeds.
    pub fn virsh(&self, arguments: &str) -> String {
        let output = self.run(arguments);
        let errors = String::from_utf8_lossy(&output.stderr);
        assert!(output.status.success(), "virsh {arguments}: {errors}");
        assert_eq!(errors, "", "virsh {arguments}");
        String::from_utf8(output.stdout).unwrap()
    }

    /// What virsh complains of when it fails.
    pub fn refused(&self, arguments: &str) -> String {
        let output = self.run(arguments);
        assert!(!output.status.success(), "virsh {arguments} succeeded");
        String::from_utf8(output.stderr).unwrap()
    }

    /// Writes a definition, and returns its path.
    pub fn xml(&self, file: &str, text: &str) -> String {
        let path = self.path(file);
        fs::write(&path, text).unwrap();
        path.to_str().unwrap().into()
    }

    pub fn wait_for_state(&self, name: &str, state: &str) {
        wait_until(&format!("{name} is {state}"), || {
            self.virsh(&format!("domstate {name}")).trim() == state
        });
    }
}

/// `virsh event`, whose lines are read as they come.
pub struct Listener {
    virsh: Child,
    lines: mpsc::Receiver<String>,
}

impl Listener {
    /// Listens, and calls `poke`, which has to cause an event, until the first one was heard.
    pub fn start(host: &Host, arguments: &str, poke: impl Fn()) -> Self {
        let virsh = host.command(arguments);
        // What goes into a pipe is kept back by the library of C, line after line.
        let mut command = Command::new("stdbuf");
        command
            .arg("-oL")
            .arg(virsh.get_program())
            .args(virsh.get_args())
            .env("LC_ALL", "C");
        let mut virsh = command
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let output = BufReader::new(virsh.stdout.take().unwrap());
        let (sender, lines) = mpsc::channel();
        std::thread::spawn(move || {
            for line in output.lines().map_while(Result::ok) {
                // Only what happened: "event 'lifecycle' for domain 'name': what happened". Of other objects than guests
                // the name has no quotes, and it all is told.
                let what = line.split_once("': ").map(|(_, what)| what);
                if let Some(what) = what.or_else(|| line.starts_with("event '").then_some(line.as_str())) {
                    let _ = sender.send(what.to_owned());
                }
            }
        });
        let listener = Self { virsh, lines };
        wait_until("the listener hears", || {
            poke();
            listener.lines.try_recv().is_ok()
        });
        listener
    }

    /// Waits until `last` was told, and returns everything up to it.
    pub fn until(&self, last: &str) -> Vec<String> {
        self.until_such(last, |line| line == last)
    }

    /// Waits until something `such` was told, which is called `last`, and returns everything up to it.
    pub fn until_such(&self, last: &str, such: impl Fn(&str) -> bool) -> Vec<String> {
        let mut all: Vec<String> = Vec::new();
        while all.last().is_none_or(|line| !such(line)) {
            let line = self.lines.recv_timeout(LIMIT);
            all.push(line.unwrap_or_else(|why| panic!("waiting for {last:?}: {why}; so far: {all:?}")));
        }
        all
    }
}

impl Drop for Listener {
    fn drop(&mut self) {
        let _ = self.virsh.kill();
        let _ = self.virsh.wait();
    }
}

impl Drop for Host {
    fn drop(&mut self) {
        if std::thread::panicking()
            && let Ok(said) = fs::read_to_string(self.path(LOG))
        {
            eprintln!("the daemon said:\n{said}");
        }
        // Whatever failed, no guest stays behind.
        for entry in fs::read_dir(self.path("run/guests"))
            .into_iter()
            .flatten()
            .flatten()
        {
            if let Ok(control) = std::os::unix::net::UnixStream::connect(entry.path().join("control")) {
                use std::io::Write;
                let _ = (&control).write_all(b"{\"execute\":\"qmp_capabilities\"}\n{\"execute\":\"quit\"}\n");
                let mut rest = Vec::new();
                let _ = (&control).read_to_end(&mut rest);
            }
        }
        let _ = self.daemon.kill();
        let _ = self.daemon.wait();
        end_switches(&self.path("run"));
    }
}

/// Ends the switches of networks of a daemon with this runtime folder; they outlive it.
pub fn end_switches(runtime: &Path) {
    use std::io::Write;
    for entry in fs::read_dir(runtime).into_iter().flatten().flatten() {
        let name = entry.file_name();
        if name.to_string_lossy().starts_with("switch-")
            && let Ok(control) = std::os::unix::net::UnixStream::connect(entry.path())
        {
            let _ = (&control).write_all(b"{\"execute\":\"quit\"}\n");
            let mut rest = Vec::new();
            let _ = (&control).read_to_end(&mut rest);
        }
    }
}

pub fn wait_until(what: &str, mut is_so: impl FnMut() -> bool) {
    let end = Instant::now() + LIMIT;
    while !is_so() {
        assert!(Instant::now() < end, "waited for long, but not so: {what}");
        std::thread::sleep(Duration::from_millis(50));
    }
}

/// A guest with Debian's kernel and our initramfs. `devices` go among its devices.
pub fn linux(name: &str, devices: &str) -> String {
    let folder = guest_folder();
    format!(
        "<domain type='qemu'>
  <name>{name}</name>
  <title>A guest &amp; its kernel</title>
  <memory unit='MiB'>256</memory>
  <vcpu>2</vcpu>
  <os>
    <type arch='x86_64'>hvm</type>
    <kernel>{0}/vmlinuz</kernel>
    <initrd>{0}/initrd.img</initrd>
    <cmdline>console=ttyS0 quiet</cmdline>
  </os>
  <devices>
    <serial type='pty'/>
    <console type='pty'/>
    {devices}
  </devices>
</domain>
",
        folder.canonicalize().unwrap().display()
    )
}

/// The same guest, whose initramfs has modules of the virtio drivers at `/NAME.ko` and runs `script` in place of its shell.
pub fn linux_with(host: &Host, name: &str, devices: &str, script: &str, modules: &[&str]) -> String {
    let versions = fs::read_dir(guest_folder().join("root/lib/modules")).unwrap();
    let version = versions.map(|entry| entry.unwrap().path()).next().unwrap();
    let read = |module: &&str| {
        let bytes = fs::read(version.join(format!("kernel/drivers/virtio/{module}.ko"))).unwrap();
        (format!("{module}.ko"), bytes)
    };
    let files: Vec<(String, Vec<u8>)> = modules.iter().map(read).collect();
    let files: Vec<(&str, &[u8])> = files.iter().map(|(path, bytes)| (&**path, &**bytes)).collect();
    let theirs = guest_folder().canonicalize().unwrap().join("initrd.img");
    let mut initrd = fs::read(&theirs).unwrap();
    initrd.extend(ostler_guest_image::overlay(script, &files));
    let path = host.path(&format!("{name}-initrd.img"));
    fs::write(&path, initrd).unwrap();
    linux(name, devices).replace(theirs.to_str().unwrap(), path.to_str().unwrap())
}

/// Words after a name and a colon.
pub fn field<'a>(text: &'a str, name: &str) -> &'a str {
    let value = |line: &'a str| {
        line.trim_start()
            .strip_prefix(name)?
            .trim_start()
            .strip_prefix(':')
    };
    let line = text.lines().find_map(value);
    line.unwrap_or_else(|| panic!("no {name} in:\n{text}")).trim()
}
