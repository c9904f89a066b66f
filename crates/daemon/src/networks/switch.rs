//! The process of a network's switch: its configuration, starting it, and talking to its control socket.

use std::fs::File;
use std::io::{self, Read};
use std::os::unix::net::UnixStream;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use ostler_libvirt::{Code, RemoteError};
use ostler_switchd::client::Client;
use ostler_switchd::{PlanSpec, RouterSpec};
use rustix::fs::{FlockOperation, flock};
use serde_json::{Value, json};

use crate::files::write_durably;

/// The port at which a network's router is.
pub const ROUTER: &str = "router";
/// The port at a bridge of the kernel.
const BRIDGE: &str = "bridge";
/// How long a switch may take to start, and to end.
const PATIENCE: Duration = Duration::from_secs(15);
/// Between two looks whether it has.
const PAUSE: Duration = Duration::from_millis(20);
/// Bytes of what the process said that are shown if it does not start.
const MAX_SAID: u64 = 2000;

/// The files of a network that runs.
#[derive(Debug, Clone)]
pub struct NetworkFiles {
    /// Its folder.
    pub folder: PathBuf,
    /// Its switch's control socket.
    pub control: PathBuf,
}

impl NetworkFiles {
    /// What it was started as.
    pub fn definition(&self) -> PathBuf {
        self.folder.join("network.xml")
    }

    /// Its switch's configuration.
    pub fn config(&self) -> PathBuf {
        self.folder.join("switch.toml")
    }

    fn log(&self) -> PathBuf {
        self.folder.join("log")
    }

    /// Held by the switch's process as long as it lives: whoever starts it hands it over as its standard input.
    fn lock(&self) -> PathBuf {
        self.folder.join("lock")
    }
}

fn failed(why: String) -> RemoteError {
    RemoteError::network(Code::OperationFailed, why)
}

/// The configuration of a switch in TOML; with `tap` it has a port at a bridge of the kernel.
pub fn config(
    name: &str,
    control: &Path,
    tap: Option<&str>,
    router: Option<&RouterSpec>,
    mtu: Option<u16>,
) -> String {
    let control = control.display().to_string();
    let mut text = format!(
        "# Made by `ostler daemon`; changes here are lost.\nname = {}\ncontrol = {}\n",
        Value::from(name),
        Value::from(control)
    );
    let mtu = mtu.map(|mtu| format!("mtu = {mtu}\n")).unwrap_or_default();
    if let Some(tap) = tap {
        text += &format!(
            "\n[[port]]\nname = \"{BRIDGE}\"\ntap = {}\n{mtu}",
            Value::from(tap)
        );
    }
    let Some(router) = router else {
        return text;
    };
    text += &format!("\n[[port]]\nname = \"{ROUTER}\"\nedge = \"on\"\n{mtu}");
    text += "\n[port.router]\n";
    let router = serde_json::to_value(router).unwrap_or_default();
    for (key, value) in router.as_object().into_iter().flatten() {
        text += &format!("{key} = {}\n", inline(value));
    }
    text
}

/// A value of JSON in TOML, on one line. A string of JSON is one of TOML as well.
fn inline(value: &Value) -> String {
    match value {
        Value::Array(values) => {
            let values: Vec<String> = values.iter().map(inline).collect();
            format!("[{}]", values.join(", "))
        }
        Value::Object(fields) => {
            let fields = fields
                .iter()
                .map(|(key, value)| format!("{key} = {}", inline(value)));
            format!("{{ {} }}", fields.collect::<Vec<_>>().join(", "))
        }
        other => other.to_string(),
    }
}

/// Starts a switch as `config` says, which is listening when this returns. Its process outlives ours.
pub fn start(files: &NetworkFiles, config: &str) -> Result<Child, RemoteError> {
    let cannot =
        |what: &str, error: io::Error| RemoteError::network(Code::System, format!("cannot {what}: {error}"));
    write_durably(&files.config(), config.as_bytes())
        .map_err(|error| cannot("write the switch's configuration", error))?;
    let log = File::options().append(true).create(true).open(files.log());
    let log = log.map_err(|error| cannot("write the switch's log", error))?;
    let lock = take_lock(files)?;
    let child = Command::new("/proc/self/exe")
        .arg0("ostler")
        .args(["switch", "run", "--config"])
        .arg(files.config())
        .stdin(Stdio::from(lock))
        .stdout(Stdio::null())
        .stderr(Stdio::from(log))
        .current_dir("/")
        // Signals of the daemon's terminal are not for the switch.
        .process_group(0)
        .spawn();
    let mut child = child.map_err(|error| cannot("start the switch's process", error))?;
    let ready = wait_until_ready(&mut child, files);
    if let Err(error) = ready {
        let _ = child.kill();
        let _ = child.wait();
        return Err(error);
    }
    Ok(child)
}

/// What says that the switch lives; an error if one does already.
fn take_lock(files: &NetworkFiles) -> Result<File, RemoteError> {
    let lock = File::options()
        .read(true)
        .write(true)
        .create(true)
        .truncate(false)
        .open(files.lock());
    let lock = lock.map_err(|error| {
        RemoteError::network(Code::System, format!("cannot make the switch's lock: {error}"))
    })?;
    let end = Instant::now() + PATIENCE;
    // One that was ended may take a moment more.
    while flock(&lock, FlockOperation::NonBlockingLockExclusive).is_err() {
        if Instant::now() > end {
            return Err(failed(
                "its switch of before does not end; look at it with ps".into(),
            ));
        }
        std::thread::sleep(PAUSE);
    }
    Ok(lock)
}

/// Whether there is a process of the switch, which may be about to start or to end.
fn lives(files: &NetworkFiles) -> bool {
    let lock = File::open(files.lock());
    lock.is_ok_and(|lock| flock(&lock, FlockOperation::NonBlockingLockShared).is_err())
}

/// Finds a switch that an earlier daemon started, maybe a moment ago. One that neither answers nor ends is ended.
pub fn find(files: &NetworkFiles) -> Result<(), RemoteError> {
    let end = Instant::now() + PATIENCE;
    loop {
        let answer = show(&files.control);
        if answer.is_ok() || !lives(files) {
            return answer.map(drop);
        }
        if Instant::now() > end {
            kill(&files.control);
            return Err(failed("its switch does not answer".into()));
        }
        std::thread::sleep(PAUSE);
    }
}

fn wait_until_ready(child: &mut Child, files: &NetworkFiles) -> Result<(), RemoteError> {
    let end = Instant::now() + PATIENCE;
    loop {
        if let Ok(Some(_)) = child.try_wait() {
            return Err(failed(format!("its switch does not start: {}", said(files))));
        }
        // Another switch may have the socket: then ours ends, and says so.
        let answer = show(&files.control).ok();
        if answer.is_some_and(|answer| answer["pid"] == child.id()) {
            break;
        }
        if Instant::now() > end {
            return Err(failed(format!("its switch does not answer: {}", said(files))));
        }
        std::thread::sleep(PAUSE);
    }
    let down = |files: &NetworkFiles| -> Result<Option<Value>, RemoteError> {
        let ports = execute(&files.control, "ports", Value::Null)?;
        let mut ports = ports.as_array().into_iter().flatten();
        Ok(ports.find(|port| port["up"] == false).cloned())
    };
    // A tap has its carrier a moment after it was opened.
    while down(files)?.is_some_and(|port| port["name"] == BRIDGE) && Instant::now() < end {
        std::thread::sleep(PAUSE);
    }
    match down(files)? {
        Some(down) => Err(failed(format!(
            "its {} does not start: {}",
            down["name"].as_str().unwrap_or("port"),
            down["why-down"].as_str().unwrap_or("no reason was given")
        ))),
        None => Ok(()),
    }
}

/// The end of what the process said.
fn said(files: &NetworkFiles) -> String {
    let mut text = String::new();
    if let Ok(file) = File::open(files.log()) {
        let _ = file.take(MAX_SAID).read_to_string(&mut text);
    }
    let last = text.lines().last().unwrap_or("it said nothing");
    last.trim_start_matches("ostler: ").to_owned()
}

/// What a switch says of itself.
pub fn show(control: &Path) -> Result<Value, RemoteError> {
    execute(control, "show", Value::Null)
}

/// Has a switch execute a command.
pub fn execute(control: &Path, command: &str, arguments: Value) -> Result<Value, RemoteError> {
    let answer = Client::connect(control).and_then(|mut client| client.execute(command, arguments));
    answer.map_err(|error| failed(error.to_string()))
}

/// Has a network's router follow another plan.
pub fn set_plan(control: &Path, router: &RouterSpec) -> Result<(), RemoteError> {
    let plan = PlanSpec {
        port: ROUTER.into(),
        ranges: router.ranges.clone(),
        ranges6: router.ranges6.clone(),
        host: router.host.clone(),
        name: router.name.clone(),
    };
    let plan = serde_json::to_value(plan).map_err(|error| failed(error.to_string()))?;
    execute(control, "router-set", plan).map(drop)
}

/// Calls `gone` when the switch has ended, on a thread of its own.
pub fn watch(control: &Path, gone: impl FnOnce() + Send + 'static) -> io::Result<()> {
    let mut connection = UnixStream::connect(control)?;
    let wait = move || {
        // Nothing is asked here, so nothing comes but the end.
        let mut bytes = [0; 64];
        loop {
            match connection.read(&mut bytes) {
                Ok(1..) => {}
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Ok(0) | Err(_) => break,
            }
        }
        gone();
    };
    std::thread::Builder::new().name("switch".into()).spawn(wait)?;
    Ok(())
}

/// Ends a switch at once, for when it does not do so by itself.
pub fn kill(control: &Path) {
    let pid = UnixStream::connect(control)
        .ok()
        .and_then(|connection| rustix::net::sockopt::socket_peercred(&connection).ok())
        .map(|peer| peer.pid);
    if let Some(pid) = pid {
        let _ = rustix::process::kill_process(pid, rustix::process::Signal::KILL);
    }
}

/// Ends a switch, and waits until it has.
pub fn end(control: &Path) -> Result<(), RemoteError> {
    let has_ended = || {
        let end = Instant::now() + PATIENCE;
        while show(control).is_ok() {
            if Instant::now() > end {
                return false;
            }
            std::thread::sleep(PAUSE);
        }
        true
    };
    quit(control);
    if has_ended() {
        return Ok(());
    }
    kill(control);
    match has_ended() {
        true => Ok(()),
        false => Err(failed(
            "the network's switch does not end; look at it with ps".into(),
        )),
    }
}

/// Asks a switch to end.
pub fn quit(control: &Path) {
    let _ = execute(control, "quit", json!({}));
}

#[cfg(test)]
mod tests {
    use ostler_switchd::config::Config;
    use ostler_switchd::{HostSpec, NameSpec};

    use super::*;

    /// What is written is what a switch reads.
    #[test]
    fn the_configuration_is_understood() {
        let router = RouterSpec {
            address: "192.168.122.1/24".into(),
            domain: Some("lan".into()),
            restrict: true,
            ranges: vec!["192.168.122.2-192.168.122.254".into()],
            host: vec![HostSpec {
                mac: Some("52:54:00:00:00:01".into()),
                duid: None,
                name: None,
                address: [192, 168, 122, 9].into(),
            }],
            name: vec![NameSpec {
                address: [192, 168, 122, 8].into(),
                names: vec!["a".into(), "b".into()],
            }],
            ..RouterSpec::default()
        };
        let control = Path::new("/run/a \"b\"\n\\c/switch.sock");
        let config = config("lan", control, Some("dhcp-0"), Some(&router), Some(9000));
        let read = Config::parse(&config).unwrap_or_else(|(at, why)| panic!("{why} at {at}:\n{config}"));
        assert_eq!(read.control.as_deref(), Some(control));
        assert_eq!(read.ports[0].tap.as_deref(), Some("dhcp-0"));
        assert_eq!(read.ports[1].router.as_deref(), Some(&router));
        assert_eq!(read.ports[1].mtu, Some(9000));
        let alone = super::config("n", Path::new("/c"), None, None, None);
        assert!(Config::parse(&alone).unwrap().ports.is_empty());
    }
}
