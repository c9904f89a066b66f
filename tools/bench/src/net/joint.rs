//! What joins two interfaces.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

use rustix::process::{Pid, Signal, kill_process};
use tempfile::TempDir;

use super::bare::{self, Loop};
use super::space::{ip, run_command, until};
use crate::Common;
use crate::error::Error;

/// Debian's Open vSwitch, unpacked.
const OVS: &str = "target/open-vswitch/root";
/// Our taps, and those of a bare loop.
pub(super) const TAPS: [&str; 2] = ["bench-t0", "bench-t1"];
const BRIDGE: &str = "bench-br";

/// Who joins them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Kind {
    /// `ostler switch`.
    Ours,
    /// A loop that moves frames from the first to the second, and nothing else.
    Bare,
    /// The kernel's bridge.
    Bridge,
    /// Open vSwitch with its datapath in user space.
    OpenVswitch,
}

impl Kind {
    pub(super) fn name(self) -> &'static str {
        match self {
            Kind::Ours => "ours",
            Kind::Bare => "bare loop",
            Kind::Bridge => "kernel bridge",
            Kind::OpenVswitch => "Open vSwitch netdev",
        }
    }
}

/// Two interfaces that are joined, as long as it lives.
pub(super) enum Joint {
    Ours(Switch),
    Bare(Loop),
    Bridge(Bridge),
    OpenVswitch(OpenVswitch),
}

impl Joint {
    /// Joins two interfaces of this namespace.
    pub(super) fn of_interfaces(common: &Common, kind: Kind, ends: [&str; 2]) -> Result<Self, Error> {
        Ok(match kind {
            Kind::Ours => Joint::Ours(Switch::start(common, &ports("packet", ends))?),
            Kind::Bare => Joint::Bare(bare::interfaces(ends)?),
            Kind::Bridge => Joint::Bridge(Bridge::of(ends)?),
            Kind::OpenVswitch => {
                let switch = OpenVswitch::start()?;
                for end in ends {
                    switch.control(&["add-port", BRIDGE, end])?;
                }
                Joint::OpenVswitch(switch)
            }
        })
    }

    /// Joins two taps, which are called as [`TAPS`].
    pub(super) fn of_taps(common: &Common, kind: Kind) -> Result<Self, Error> {
        for tap in TAPS {
            // From the one before.
            let _ = ip(&format!("link delete dev {tap}"));
            if kind != Kind::OpenVswitch {
                ip(&format!("tuntap add dev {tap} mode tap vnet_hdr"))?;
                ip(&format!("link set dev {tap} up"))?;
            }
        }
        Ok(match kind {
            Kind::Ours => Joint::Ours(Switch::start(common, &ports("tap", TAPS))?),
            Kind::Bare => Joint::Bare(bare::taps(TAPS)?),
            Kind::Bridge => Joint::Bridge(Bridge::of(TAPS)?),
            Kind::OpenVswitch => {
                let switch = OpenVswitch::start()?;
                for tap in TAPS {
                    let of_kind = ["--", "set", "interface", tap, "type=internal"];
                    switch.control(&[&["add-port", BRIDGE, tap][..], &of_kind].concat())?;
                    ip(&format!("link set dev {tap} up"))?;
                }
                Joint::OpenVswitch(switch)
            }
        })
    }

    /// CPU time that it has used so far, in nanoseconds; `None` where the kernel does it, on account of whoever sends.
    pub(super) fn cpu_ns(&self) -> Option<u64> {
        match self {
            Joint::Ours(switch) => Some(cpu_ns(&format!("/proc/{}/task", switch.0.child.id()), None)),
            Joint::Bare(bare) => Some(cpu_ns("/proc/self/task", Some(bare.thread()))),
            Joint::Bridge(_) => None,
            Joint::OpenVswitch(switch) => Some(cpu_ns(
                &format!("/proc/{}/task", switch.vswitchd.child.id()),
                None,
            )),
        }
    }
}

/// What the threads in `folder`, or one of them, have used.
fn cpu_ns(folder: &str, thread: Option<i32>) -> u64 {
    let threads = fs::read_dir(folder).into_iter().flatten().flatten();
    threads
        .filter(|entry| thread.is_none_or(|id| entry.file_name().to_str() == Some(&id.to_string())))
        .filter_map(|entry| {
            let text = fs::read_to_string(entry.path().join("schedstat")).ok()?;
            text.split(' ').next()?.parse::<u64>().ok()
        })
        .sum()
}

fn ports(kind: &str, names: [&str; 2]) -> String {
    let port = |name: &str| format!("[[port]]\nname = \"{name}\"\n{kind} = \"{name}\"\n");
    names.map(port).concat()
}

/// A process that ends when it is dropped.
struct Process {
    child: Child,
}

impl Process {
    fn start(command: &mut Command) -> Result<Self, Error> {
        let child = command.stdin(Stdio::null()).spawn();
        let child = child.map_err(|e| Error::Start(format!("{command:?}"), e))?;
        Ok(Self { child })
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        // What it made in the kernel is removed by it.
        let _ = kill_process(Pid::from_child(&self.child), Signal::TERM);
        let _ = self.child.wait();
    }
}

/// A switch of ours.
pub(super) struct Switch(Process, TempDir);

impl Switch {
    /// Starts one with these ports, and waits until they are up.
    pub(super) fn start(common: &Common, ports: &str) -> Result<Self, Error> {
        let folder = temporary()?;
        let config = folder.path().join("switch.toml");
        let control = folder.path().join("control");
        let text = format!("name = \"bench\"\ncontrol = \"{}\"\n{ports}", control.display());
        fs::write(&config, text).map_err(|e| Error::Write(config.clone(), e))?;
        let mut command = Command::new(&common.ostler);
        command.args(["switch", "run", "--config"]).arg(&config);
        let switch = Self(Process::start(command.stderr(Stdio::null()))?, folder);
        until("waiting for the switch", || Ok(switch.ports_are_up()))?;
        Ok(switch)
    }

    fn ports_are_up(&self) -> bool {
        let asked = ostler_switchd::client::Client::connect(&self.control())
            .and_then(|mut client| client.execute("ports", serde_json::json!({})));
        let up = |port: &serde_json::Value| port["up"] == true;
        asked.is_ok_and(|ports| ports.as_array().is_some_and(|ports| ports.iter().all(up)))
    }

    /// Its control socket.
    pub(super) fn control(&self) -> PathBuf {
        self.1.path().join("control")
    }

    /// CPU time that it has used so far, in nanoseconds.
    pub(super) fn cpu_ns(&self) -> u64 {
        cpu_ns(&format!("/proc/{}/task", self.0.child.id()), None)
    }
}

fn temporary() -> Result<TempDir, Error> {
    tempfile::tempdir().map_err(|e| Error::Host("making a temporary folder", e))
}

/// A bridge of the kernel.
pub(super) struct Bridge(());

impl Bridge {
    /// Joins interfaces of this namespace.
    pub(super) fn of<'a>(ends: impl IntoIterator<Item = &'a str>) -> Result<Self, Error> {
        ip(&format!("link add name {BRIDGE} type bridge"))?;
        let bridge = Self(());
        ip(&format!("link set dev {BRIDGE} up"))?;
        for end in ends {
            bridge.add(end)?;
        }
        Ok(bridge)
    }

    fn add(&self, end: &str) -> Result<(), Error> {
        ip(&format!("link set dev {end} master {BRIDGE}"))
    }
}

impl Drop for Bridge {
    fn drop(&mut self) {
        let _ = ip(&format!("link delete dev {BRIDGE}"));
    }
}

/// Open vSwitch with a bridge, its files in a folder of its own.
pub(super) struct OpenVswitch {
    vswitchd: Process,
    _database: Process,
    folder: TempDir,
}

impl OpenVswitch {
    fn start() -> Result<Self, Error> {
        let folder = temporary()?;
        let path = folder.path();
        let run = path.display();
        let schema = Path::new(OVS).join("usr/share/openvswitch/vswitch.ovsschema");
        run_command(
            program(path, "usr/bin/ovsdb-tool")?
                .args(["create", "conf.db"])
                .arg(absolute(&schema)?),
        )?;
        let database = Process::start(
            program(path, "usr/sbin/ovsdb-server")?
                .args(["conf.db", &format!("--remote=punix:{run}/db.sock")])
                .arg(format!("--pidfile={run}/database.pid"))
                .arg(format!("--unixctl={run}/database.ctl"))
                .stderr(Stdio::null()),
        )?;
        until("waiting for ovsdb-server", || Ok(path.join("db.sock").exists()))?;
        run_command(&mut vsctl(path, &["--no-wait", "init"])?)?;
        let vswitchd = Process::start(
            program(path, "usr/lib/openvswitch-switch/ovs-vswitchd")?
                .arg(format!("unix:{run}/db.sock"))
                .arg(format!("--pidfile={run}/ovs-vswitchd.pid"))
                .stderr(Stdio::null()),
        )?;
        let switch = Self {
            vswitchd,
            _database: database,
            folder,
        };
        switch.control(&[
            "add-br",
            BRIDGE,
            "--",
            "set",
            "bridge",
            BRIDGE,
            "datapath_type=netdev",
        ])?;
        Ok(switch)
    }

    fn control(&self, words: &[&str]) -> Result<(), Error> {
        run_command(&mut vsctl(self.folder.path(), words)?).map(drop)
    }
}

impl Drop for OpenVswitch {
    fn drop(&mut self) {
        let _ = self.control(&["del-br", BRIDGE]);
    }
}

fn vsctl(run: &Path, words: &[&str]) -> Result<Command, Error> {
    let mut command = program(run, "usr/bin/ovs-vsctl")?;
    command
        .arg(format!("--db=unix:{}/db.sock", run.display()))
        .arg("--timeout=30")
        .args(words);
    Ok(command)
}

fn program(run: &Path, name: &str) -> Result<Command, Error> {
    let root = absolute(Path::new(OVS))?;
    let mut command = Command::new(root.join(name));
    let libraries = ["usr/lib/x86_64-linux-gnu", "lib/x86_64-linux-gnu"].map(|folder| root.join(folder));
    if let Ok(libraries) = std::env::join_paths(libraries) {
        command.env("LD_LIBRARY_PATH", libraries);
    }
    for variable in ["OVS_RUNDIR", "OVS_LOGDIR", "OVS_DBDIR"] {
        command.env(variable, run);
    }
    command.env("OVS_PKGDATADIR", root.join("usr/share/openvswitch"));
    command.current_dir(run);
    Ok(command)
}

fn absolute(path: &Path) -> Result<PathBuf, Error> {
    fs::canonicalize(path).map_err(|e| Error::Read(path.into(), e))
}
