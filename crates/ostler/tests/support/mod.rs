//! Runs real Linux guests with the real binary.
//!
//! The guest's kernel and base initramfs are those that `./test` and `./quickstart` put under `target/guest`.

#![allow(dead_code, reason = "each test binary uses its own part of this module")]

pub mod boot_disk;
pub mod hosts;
pub mod lan;
pub mod process;
pub mod qemu;
pub mod qmp;
pub mod switch;
pub mod system_disk;
pub mod terminal;

use std::fs;
use std::io::{Read, Write};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::{Arc, Mutex, mpsc};
use std::time::{Duration, Instant};

pub const OSTLER: &str = env!("CARGO_BIN_EXE_ostler");

/// What no healthy kernel log contains.
const KERNEL_COMPLAINTS: &[&str] = &[
    "WARNING:",
    "BUG:",
    "Oops",
    "Call Trace",
    "soft lockup",
    "hard LOCKUP",
    "rcu_sched self-detected stall",
    "rcu_preempt detected stalls",
    "rcu: INFO",
    "hung_task",
    "Kernel panic",
    "unchecked MSR access",
    "general protection fault",
];

/// The folder with `vmlinuz`, `initrd.img` and the unpacked packages (`root`).
pub fn guest_folder() -> PathBuf {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../target/guest");
    assert!(
        folder.join("initrd.img").exists(),
        "no guest under target/guest: ./test or ./quickstart puts it there"
    );
    folder
}

/// The same busybox that runs in the guest.
pub fn busybox() -> PathBuf {
    guest_folder().join("root/bin/busybox")
}

/// A guest to be: `ostler run` with the Debian kernel and our initramfs.
pub struct Guest {
    pub folder: tempfile::TempDir,
    command: Command,
    cpus: String,
    memory: &'static str,
    reboots: bool,
    from_disk: bool,
    kernel: PathBuf,
    initrd: PathBuf,
    append: String,
    overlay: Option<Vec<u8>>,
}

/// A guest that ended.
pub struct Outcome {
    pub status: ExitStatus,
    pub console: String,
    pub errors: String,
}

impl Guest {
    /// A guest with `cpus` CPUs and 512 MiB.
    pub fn new(cpus: u32) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let mut command = Command::new(OSTLER);
        command.arg("run");
        Self {
            folder,
            command,
            cpus: cpus.to_string(),
            memory: "512M",
            reboots: false,
            from_disk: false,
            kernel: guest_folder().join("vmlinuz"),
            initrd: guest_folder().join("initrd.img"),
            append: "console=ttyS0 panic=-1".into(),
            overlay: None,
        }
    }

    /// The same with Debian's ordinary kernel, which has drivers for what PCs have.
    pub fn pc(cpus: u32) -> Self {
        let folder = guest_folder().join("pc");
        assert!(
            folder.join("initrd.img").exists(),
            "no guest under target/guest/pc: ./test puts it there"
        );
        Self::new(cpus)
            .kernel(&folder.join("vmlinuz"))
            .initrd(&folder.join("initrd.img"))
    }

    /// Further options of `ostler run`.
    pub fn args<S: AsRef<std::ffi::OsStr>>(mut self, args: impl IntoIterator<Item = S>) -> Self {
        self.command.args(args);
        self
    }

    /// Sets a variable of the environment of `ostler run`.
    pub fn env(mut self, name: &str, value: &str) -> Self {
        self.command.env(name, value);
        self
    }

    /// Adds `option PREFIXpath` with a path in the guest's own folder, and returns the path.
    pub fn path_option(&mut self, option: &str, prefix: &str, name: &str) -> PathBuf {
        let path = self.folder.path().join(name);
        self.command
            .arg(option)
            .arg(format!("{prefix}{}", path.display()));
        path
    }

    /// Has these CPUs, as `--cpus` takes them.
    pub fn cpus(mut self, cpus: &str) -> Self {
        self.cpus = cpus.into();
        self
    }

    /// Has this much memory.
    pub fn memory(mut self, size: &'static str) -> Self {
        self.memory = size;
        self
    }

    /// Boots this kernel instead of the package's bzImage.
    pub fn kernel(mut self, file: &Path) -> Self {
        file.clone_into(&mut self.kernel);
        self
    }

    /// Starts with this initrd instead of ours.
    pub fn initrd(mut self, file: &Path) -> Self {
        file.clone_into(&mut self.initrd);
        self
    }

    /// Starts again when the guest reboots, instead of ending.
    pub fn reboots(mut self) -> Self {
        self.reboots = true;
        self
    }

    /// Starts the system on its first disk instead of our kernel. Only what is appended is added to the command line there.
    pub fn starts_from_disk(mut self) -> Self {
        self.from_disk = true;
        self.append.clear();
        self
    }

    /// Further words for the kernel's command line.
    pub fn append(mut self, words: &str) -> Self {
        self.append.push(' ');
        self.append.push_str(words);
        self
    }

    /// Runs `script` in the guest instead of a shell, then powers off.
    pub fn script(self, script: &str) -> Self {
        self.script_with(script, &[])
    }

    /// The same with files for the guest: (path there, contents).
    pub fn script_with(mut self, script: &str, files: &[(&str, &[u8])]) -> Self {
        self.overlay = Some(ostler_guest_image::overlay(script, files));
        self
    }

    /// Starts it with pipes at its console.
    pub fn spawn(mut self) -> Running {
        self.complete_command();
        self.command
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped());
        let mut child = self.command.spawn().expect("ostler starts");
        let input = child.stdin.take().unwrap();
        let output = child.stdout.take().unwrap();
        Running::new(child, input, output, self.folder)
    }

    /// The options that every start has in common.
    fn complete_command(&mut self) {
        if !self.reboots {
            self.command.arg("--no-reboot");
        }
        self.command
            .args(["--cpus", &self.cpus])
            .args(["--memory", self.memory]);
        if !self.from_disk || !self.append.is_empty() {
            self.command.args(["--append", &self.append]);
        }
        if self.from_disk {
            return;
        }
        let mut initrd = fs::read(&self.initrd).unwrap();
        initrd.extend(self.overlay.take().unwrap_or_default());
        let path = self.folder.path().join("initrd.img");
        fs::write(&path, initrd).unwrap();
        self.command.arg("--kernel").arg(&self.kernel);
        self.command.arg("--initrd").arg(path);
    }

    /// Runs it to its end, within `limit`.
    pub fn run(self, limit: Duration) -> Outcome {
        self.spawn().wait(limit)
    }
}

/// A guest that runs.
pub struct Running {
    pub child: Child,
    input: Box<dyn Write + Send>,
    output: mpsc::Receiver<Vec<u8>>,
    errors: Option<std::thread::JoinHandle<()>>,
    /// What it has said on its standard error so far.
    said: Arc<Mutex<Vec<u8>>>,
    console: Vec<u8>,
    _folder: tempfile::TempDir,
}

impl Running {
    fn new(
        mut child: Child,
        input: impl Write + Send + 'static,
        mut stdout: impl Read + Send + 'static,
        folder: tempfile::TempDir,
    ) -> Self {
        let (sender, output) = mpsc::channel();
        std::thread::spawn(move || {
            let mut buffer = [0; 4096];
            while let Ok(count @ 1..) = stdout.read(&mut buffer) {
                if sender.send(buffer[..count].to_vec()).is_err() {
                    return;
                }
            }
        });
        let mut stderr = child.stderr.take().unwrap();
        let said = Arc::<Mutex<Vec<u8>>>::default();
        let heard = said.clone();
        let errors = std::thread::spawn(move || {
            let mut buffer = [0; 4096];
            while let Ok(count @ 1..) = stderr.read(&mut buffer) {
                heard.lock().unwrap().extend(&buffer[..count]);
            }
        });
        Self {
            child,
            input: Box::new(input),
            output,
            errors: Some(errors),
            said,
            console: Vec::new(),
            _folder: folder,
        }
    }

    /// Types `text` at the console.
    pub fn type_in(&mut self, text: &str) {
        self.input.write_all(text.as_bytes()).unwrap();
    }

    /// Sends a signal to `ostler run`.
    pub fn signal(&self, signal: rustix::process::Signal) {
        let pid = rustix::process::Pid::from_child(&self.child);
        rustix::process::kill_process(pid, signal).unwrap();
    }

    /// What the console showed so far.
    pub fn console(&self) -> String {
        String::from_utf8_lossy(&self.console).replace('\r', "")
    }

    /// Waits until the console has shown `text`.
    pub fn expect(&mut self, text: &str, limit: Duration) {
        self.expect_times(text, 1, limit);
    }

    /// Waits until the console has shown `text` so many times.
    pub fn expect_times(&mut self, text: &str, times: usize, limit: Duration) {
        let deadline = Instant::now() + limit;
        while self.console().matches(text).count() < times {
            let left = deadline.saturating_duration_since(Instant::now());
            match self.output.recv_timeout(left) {
                Ok(bytes) => self.console.extend(bytes),
                Err(reason) => {
                    let console = self.console();
                    panic!("waiting for {text:?}: {reason}; the console showed:\n{console}");
                }
            }
        }
    }

    /// Waits for the end.
    pub fn wait(mut self, limit: Duration) -> Outcome {
        let deadline = Instant::now() + limit;
        loop {
            let left = deadline.saturating_duration_since(Instant::now());
            match self.output.recv_timeout(left) {
                Ok(bytes) => self.console.extend(bytes),
                Err(mpsc::RecvTimeoutError::Disconnected) => break,
                Err(mpsc::RecvTimeoutError::Timeout) => {
                    panic!("no end within {limit:?}; the console showed:\n{}", self.console());
                }
            }
        }
        let status = self.child.wait().unwrap();
        self.errors.take().unwrap().join().unwrap();
        Outcome {
            status,
            console: self.console(),
            errors: self.errors(),
        }
    }

    fn errors(&self) -> String {
        String::from_utf8_lossy(&self.said.lock().unwrap()).into_owned()
    }

    /// For a test that failed: how the guest fares, and what was seen of it. One that just ended gets a while for that.
    fn report(&mut self) {
        let deadline = Instant::now() + Duration::from_secs(2);
        let status = loop {
            match self.child.try_wait() {
                Ok(None) if Instant::now() < deadline => std::thread::sleep(Duration::from_millis(20)),
                status => break status.ok().flatten(),
            }
        };
        while let Ok(bytes) = self.output.try_recv() {
            self.console.extend(bytes);
        }
        let fares = status.map_or("the guest runs".into(), |status| {
            format!("the guest ended: {status}")
        });
        eprintln!("{fares}; errors:\n{}console:\n{}", self.errors(), self.console());
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        if std::thread::panicking() {
            self.report();
        }
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

impl Outcome {
    /// Asserts status 0, a power-off by the guest's kernel, and a kernel log without complaints.
    pub fn assert_clean(&self) {
        assert!(
            self.status.success(),
            "{}; errors:\n{}console:\n{}",
            self.status,
            self.errors,
            self.console
        );
        assert_healthy(&self.console);
    }

    /// The lines between `BEGIN name` and `END name` on the console.
    pub fn section(&self, name: &str) -> String {
        let begin = format!("BEGIN {name}\n");
        let end = format!("END {name}\n");
        let Some(start) = self.console.find(&begin) else {
            panic!("no {begin:?} on the console:\n{}", self.console);
        };
        let rest = &self.console[start + begin.len()..];
        let Some(stop) = rest.find(&end) else {
            panic!("no {end:?} on the console:\n{}", self.console);
        };
        rest[..stop].to_owned()
    }
}

/// Asserts that a guest's console shows no complaint of its kernel.
pub fn assert_healthy(console: &str) {
    for complaint in KERNEL_COMPLAINTS {
        assert!(
            !console.contains(complaint),
            "the kernel said {complaint:?}:\n{console}"
        );
    }
}

/// Makes an empty ext4 file system of `megabytes` in a new file.
pub fn make_ext4(path: &Path, megabytes: u64) {
    fs::File::create(path).unwrap().set_len(megabytes << 20).unwrap();
    let made = Command::new("/sbin/mke2fs")
        .args(["-q", "-F", "-t", "ext4"])
        .arg(path)
        .status()
        .unwrap();
    assert!(made.success());
}

/// Asserts that e2fsck finds nothing wrong, without mending.
pub fn assert_fsck_clean(path: &Path) {
    let checked = Command::new("/sbin/e2fsck")
        .args(["-f", "-n"])
        .arg(path)
        .output()
        .unwrap();
    let said = String::from_utf8_lossy(&checked.stdout).into_owned();
    assert!(checked.status.success(), "e2fsck: {said}");
}
