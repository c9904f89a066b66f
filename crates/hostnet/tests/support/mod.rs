//! Network namespaces, and Open vSwitch in one.
#![allow(dead_code, reason = "each test binary uses its own part of this module")]

use std::cell::RefCell;
use std::fs::File;
use std::os::fd::{AsFd, AsRawFd};
use std::path::{Path, PathBuf};
use std::process::{Child, Command};
use std::time::{Duration, Instant};

use rustix::thread::{LinkNameSpaceType, UnshareFlags};

/// Moves this thread into a network namespace of its own, which ends with the thread.
pub fn enter(test: &str) -> bool {
    if !rustix::process::geteuid().is_root() {
        eprintln!("SKIPPED {test}: needs root for a network namespace");
        return false;
    }
    // SAFETY: only the network namespace of this thread changes; no file descriptor table is unshared.
    unsafe { rustix::thread::unshare_unsafe(UnshareFlags::NEWNET) }.unwrap();
    ip("link set lo up");
    true
}

pub fn ip(line: &str) -> String {
    let output = Command::new("ip").args(line.split_whitespace()).output().unwrap();
    assert!(output.status.success(), "ip {line}: {output:?}");
    String::from_utf8(output.stdout).unwrap()
}

/// A network namespace, for as long as this is there.
pub struct Namespace(File);

impl Namespace {
    pub fn new() -> Self {
        let make = || {
            // SAFETY: only the network namespace of this thread changes; no file descriptor table is unshared.
            unsafe { rustix::thread::unshare_unsafe(UnshareFlags::NEWNET) }.unwrap();
            ip("link set lo up");
            Self::of_this_thread()
        };
        std::thread::spawn(make).join().unwrap()
    }

    pub fn of_this_thread() -> Self {
        Self(File::open("/proc/thread-self/ns/net").unwrap())
    }

    /// As `ip` is told of it.
    pub fn path(&self) -> String {
        format!("/proc/{}/fd/{}", std::process::id(), self.0.as_raw_fd())
    }

    /// Does something there.
    pub fn within<T: Send>(&self, something: impl FnOnce() -> T + Send) -> T {
        let inside = || {
            let kind = Some(LinkNameSpaceType::Network);
            rustix::thread::move_into_link_name_space(self.0.as_fd(), kind).unwrap();
            something()
        };
        std::thread::scope(|scope| scope.spawn(inside).join().unwrap())
    }

    pub fn ip(&self, line: &str) {
        self.within(|| ip(line));
    }
}

/// `ovsdb-server` and `ovs-vswitchd`, unpacked and not installed, with all their files in a folder of the test's own.
pub struct OvsDaemons {
    root: PathBuf,
    folder: tempfile::TempDir,
    children: RefCell<Vec<Child>>,
}

impl OvsDaemons {
    /// In a network namespace of this thread's own.
    pub fn start(test: &str) -> Option<Self> {
        let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../target/open-vswitch/root");
        if !root.join("usr/sbin/ovsdb-server").exists() {
            eprintln!(
                "SKIPPED {test}: needs Debian's Open vSwitch in target/open-vswitch, which ./test fetches"
            );
            return None;
        }
        if !enter(test) {
            return None;
        }
        Some(Self::run_in_this_namespace(root))
    }

    fn run_in_this_namespace(root: PathBuf) -> Self {
        let daemons = Self {
            root,
            folder: tempfile::tempdir().unwrap(),
            children: RefCell::default(),
        };
        let run = daemons.run().display().to_string();
        let schema = daemons.root.join("usr/share/openvswitch/vswitch.ovsschema");
        daemons.command(
            "ovsdb-tool",
            &format!("create {run}/conf.db {}", schema.display()),
        );
        daemons.daemon(
            "usr/sbin/ovsdb-server",
            &format!("{run}/conf.db --remote=punix:{run}/db.sock --pidfile={run}/ovsdb-server.pid --unixctl={run}/ovsdb.ctl"),
        );
        daemons.until(|| daemons.run().join("db.sock").exists());
        daemons.command("ovs-vsctl", "--no-wait init");
        daemons.daemon(
            "usr/lib/openvswitch-switch/ovs-vswitchd",
            &format!("unix:{run}/db.sock --pidfile={run}/ovs-vswitchd.pid"),
        );
        daemons.until(|| daemons.run().join("ovs-vswitchd.pid").exists());
        daemons
    }

    /// Where its sockets are.
    pub fn run(&self) -> &Path {
        self.folder.path()
    }

    fn prepared(&self, program: &Path) -> Command {
        let mut command = Command::new(program);
        let libraries = ["usr/lib/x86_64-linux-gnu", "lib/x86_64-linux-gnu"].map(|l| self.root.join(l));
        command.env("LD_LIBRARY_PATH", std::env::join_paths(libraries).unwrap());
        for variable in ["OVS_RUNDIR", "OVS_LOGDIR", "OVS_DBDIR"] {
            command.env(variable, self.run());
        }
        command.env("OVS_PKGDATADIR", self.root.join("usr/share/openvswitch"));
        command.current_dir(self.run());
        command
    }

    fn daemon(&self, program: &str, line: &str) {
        let log = std::fs::File::create(self.run().join(program.replace('/', "-"))).unwrap();
        let child = self
            .prepared(&self.root.join(program))
            .args(line.split_whitespace())
            .stderr(log)
            .spawn()
            .unwrap();
        self.children.borrow_mut().push(child);
    }

    fn until(&self, mut done: impl FnMut() -> bool) {
        let deadline = Instant::now() + Duration::from_secs(30);
        while !done() {
            for child in self.children.borrow_mut().iter_mut() {
                assert!(
                    child.try_wait().unwrap().is_none(),
                    "a daemon of Open vSwitch ended"
                );
            }
            assert!(Instant::now() < deadline, "Open vSwitch did not start");
            std::thread::sleep(Duration::from_millis(10));
        }
    }

    /// One of its own tools.
    pub fn command(&self, name: &str, line: &str) -> String {
        let mut command = self.prepared(&self.root.join("usr/bin").join(name));
        if name == "ovs-vsctl" {
            command.arg(format!("--db=unix:{}/db.sock", self.run().display()));
        }
        let output = command.args(line.split_whitespace()).output().unwrap();
        assert!(output.status.success(), "{name} {line}: {output:?}");
        String::from_utf8(output.stdout).unwrap()
    }

    pub fn appctl(&self, line: &str) -> String {
        self.command("ovs-appctl", line)
    }

    pub fn stop_vswitchd(&self) {
        let mut child = self.children.borrow_mut().remove(1);
        child.kill().unwrap();
        child.wait().unwrap();
    }
}

impl Drop for OvsDaemons {
    fn drop(&mut self) {
        for child in self.children.borrow_mut().iter_mut() {
            let _ = child.kill();
            let _ = child.wait();
        }
    }
}
