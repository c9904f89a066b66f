//! Switches that `ostler net create` makes: a process of `ostler switch run` in the background, with its configuration and its log in
//! a folder of its own beside the control sockets. They end with `ostler net delete`, or with the host.

use std::fs;
use std::io::{self, Read, Write};
use std::net::Ipv4Addr;
use std::os::unix::fs::DirBuilderExt;
use std::os::unix::net::UnixStream;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use ostler_hostnet::{Forward, Protocol, Subnet};
use ostler_switchd::client::Client;
use serde_json::Value;

use super::back_end::{ForwardWish, Wish};
use crate::failure::Failure;

/// How long a switch may take to start, and to end.
const PATIENCE: Duration = Duration::from_secs(60);
/// Between two looks whether it has.
const PAUSE: Duration = Duration::from_millis(20);
/// Bytes of what the process said that are looked at if it does not start.
const MAX_SAID: u64 = 4096;
/// The port at which a switch's router is.
const ROUTER: &str = "router";

/// The files of a switch that we make, whether it is there or not.
pub struct Created {
    folder: PathBuf,
}

fn refused(what: impl std::fmt::Display) -> impl FnOnce(io::Error) -> Failure {
    move |error| Failure::failed(format!("cannot {what}: {error}"))
}

impl Created {
    /// Below the folder of the control sockets.
    pub fn new(runtime: &Path, name: &str) -> Self {
        // A name has no slash where it is no path; with the prefix it is neither `.` nor `..`.
        Self {
            folder: runtime.join("created").join(format!("switch-{name}")),
        }
    }

    /// Whether we made such a switch, be it alive or dead.
    pub fn is_there(&self) -> bool {
        self.config().exists()
    }

    fn config(&self) -> PathBuf {
        self.folder.join("switch.toml")
    }

    fn log(&self) -> PathBuf {
        self.folder.join("log")
    }

    /// Starts a switch, which listens when this returns; or leaves nothing behind.
    pub fn start(&self, name: &str, control: &Path, wish: &Wish) -> Result<(), Failure> {
        let text = config(name, control, wish)?;
        let _lock = self.lock()?;
        if UnixStream::connect(control).is_ok() {
            return Err(Failure::bad_input(format!(
                "a switch `{name}` runs already; choose another name"
            )));
        }
        // What is there is of one that is dead.
        self.clear()?;
        let started = self.write(&text).and_then(|()| self.spawn(control));
        if started.is_err() {
            let _ = self.clear();
        }
        started
    }

    /// One after the other: who makes a switch must not clear away what another is about to make. It is given back when it is closed.
    fn lock(&self) -> Result<fs::File, Failure> {
        let folder = self.folder.parent().unwrap_or(&self.folder);
        let lock = || {
            fs::DirBuilder::new().recursive(true).mode(0o755).create(folder)?;
            let file = fs::File::open(folder)?;
            rustix::fs::flock(&file, rustix::fs::FlockOperation::LockExclusive)?;
            Ok(file)
        };
        lock().map_err(refused(format!("use the folder \"{}\"", folder.display())))
    }

    fn write(&self, text: &str) -> Result<(), Failure> {
        let what = format!(
            "write the switch's configuration in \"{}\"",
            self.folder.display()
        );
        let write = || {
            let mut builder = fs::DirBuilder::new();
            builder.recursive(true).mode(0o755).create(&self.folder)?;
            let mut file = fs::File::create(self.config())?;
            file.write_all(text.as_bytes())
        };
        write().map_err(refused(what))
    }

    fn spawn(&self, control: &Path) -> Result<(), Failure> {
        let log = fs::File::create(self.log()).map_err(refused("write the switch's log"))?;
        let mut command = Command::new("/proc/self/exe");
        command
            .arg0("ostler")
            .args(["switch", "run", "--config"])
            .arg(self.config())
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::from(log))
            .current_dir("/")
            // Signals of this terminal are not for the switch.
            .process_group(0);
        let mut child = command.spawn().map_err(refused("start the switch's process"))?;
        let ready = self.wait(&mut child, control);
        if ready.is_err() {
            let _ = child.kill();
            let _ = child.wait();
        }
        ready
    }

    /// Waits until the switch answers with its ports up.
    fn wait(&self, child: &mut Child, control: &Path) -> Result<(), Failure> {
        let end = Instant::now() + PATIENCE;
        loop {
            if let Ok(Some(_)) = child.try_wait() {
                return Err(Failure::bad_input(self.said()));
            }
            // Another switch may have the socket: then ours ends, and says so.
            let answers = Client::connect(control).ok();
            let answer = answers.and_then(|mut client| {
                let shown = client.execute("show", Value::Null).ok()?;
                let ports = client.execute("ports", Value::Null).ok()?;
                (shown["pid"] == child.id()).then_some(ports)
            });
            if let Some(ports) = answer {
                let mut ports = ports.as_array().into_iter().flatten();
                return match ports.find(|port| port["up"] == false) {
                    None => Ok(()),
                    Some(down) => Err(Failure::failed(format!(
                        "the port {} of the switch does not start: {}",
                        down["name"].as_str().unwrap_or_default(),
                        down["why-down"].as_str().unwrap_or("no reason was given")
                    ))),
                };
            }
            if Instant::now() > end {
                return Err(Failure::failed(format!(
                    "the switch does not answer: {}",
                    self.said()
                )));
            }
            std::thread::sleep(PAUSE);
        }
    }

    /// The end of what the process said.
    fn said(&self) -> String {
        let mut text = String::new();
        if let Ok(file) = fs::File::open(self.log()) {
            let _ = file.take(MAX_SAID).read_to_string(&mut text);
        }
        let last = text.lines().last().unwrap_or("the switch ended and said nothing");
        last.trim_start_matches("ostler: ").to_owned()
    }

    /// Ends the switch, and its files go with it. One that is dead already is no obstacle.
    pub fn end(&self, control: &Path) -> Result<(), Failure> {
        let _lock = self.lock()?;
        if let Ok(mut client) = Client::connect(control) {
            client.execute("quit", Value::Null).map_err(Failure::failed)?;
            let end = Instant::now() + PATIENCE;
            while UnixStream::connect(control).is_ok() {
                if Instant::now() > end {
                    return Err(Failure::failed("the switch does not end; end its process"));
                }
                std::thread::sleep(PAUSE);
            }
        }
        self.clear()
    }

    fn clear(&self) -> Result<(), Failure> {
        match fs::remove_dir_all(&self.folder) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => {
                Err(refused(format!("remove \"{}\"", self.folder.display()))(error))
            }
            _ => Ok(()),
        }
    }
}

fn unsupported(what: &str) -> Failure {
    Failure::bad_input(format!("a switch of ours cannot do that: {what}"))
}

/// The configuration of a switch in TOML. A string of JSON is one of TOML as well.
fn config(name: &str, control: &Path, wish: &Wish) -> Result<String, Failure> {
    let settings = &wish.settings;
    if wish.datapath.is_some() || settings.mtu.is_some() || settings.vlan_filtering == Some(false) {
        return Err(unsupported(
            "it has no other data path, each port has an MTU of its own, and VLANs are always known",
        ));
    }
    let control = std::path::absolute(control).map_err(refused("find the working folder"))?;
    let control = Value::from(control.display().to_string());
    let mut text = format!(
        "# Made by `ostler net create`; changes here are lost.\nname = {}\ncontrol = {control}\n",
        Value::from(name)
    );
    if let Some(ageing) = settings.ageing {
        text += &format!("ageing = {ageing}\n");
    }
    text += &tree(wish)?;
    if let Some(forward) = &wish.forward {
        text += &router(forward)?;
    }
    Ok(text)
}

fn tree(wish: &Wish) -> Result<String, Failure> {
    let settings = &wish.settings;
    let numbers = [
        ("priority", settings.priority.map(u32::from)),
        ("max-age", settings.max_age),
        ("hello", settings.hello),
        ("forward-delay", settings.forward_delay),
        ("transmit-hold", wish.transmit_hold.map(u32::from)),
    ];
    let mut said = numbers
        .into_iter()
        .filter_map(|(name, value)| Some((name, value?)))
        .peekable();
    let version = match settings.protocol {
        Some(Protocol::Rstp) => "rstp",
        Some(Protocol::Stp) => "stp",
        Some(Protocol::Off) | None if said.peek().is_none() => return Ok(String::new()),
        Some(Protocol::Off) | None => {
            return Err(unsupported(
                "without a spanning tree it has no settings of one; add --stp rstp",
            ));
        }
    };
    let lines: String = said.map(|(name, value)| format!("{name} = {value}\n")).collect();
    Ok(format!("\n[stp]\nversion = \"{version}\"\n{lines}"))
}

/// A router at a port of its own: the user-mode NAT, or a network that nothing leads out of.
fn router(wish: &ForwardWish) -> Result<String, Failure> {
    let restrict = match wish.mode {
        Forward::Nat => false,
        Forward::Isolated => true,
        Forward::Route | Forward::Open => {
            return Err(unsupported(
                "its router is user-mode NAT, and needs no privilege for it; use --mode nat or isolated, or --kind bridge",
            ));
        }
    };
    if wish.ports.is_some() || wish.out.is_some() {
        return Err(unsupported(
            "its router's connections are the host's own, which choose their ports and their way",
        ));
    }
    let Some(subnet) = wish.address else {
        return Err(Failure::bad_input(
            "a network with --mode needs its router's address; give --address",
        ));
    };
    Ok(format!(
        "\n[[port]]\nname = \"{ROUTER}\"\nedge = \"on\"\n\n[port.router]\naddress = \"{subnet}\"\nranges = [\"{}\"]\nrestrict = {restrict}\n",
        range(subnet)
    ))
}

/// The longer run of a subnet's addresses beside that of the router.
fn range(subnet: Subnet) -> String {
    let number = u32::from;
    let (first, own, last) = (
        number(subnet.network()) + 1,
        number(subnet.address()),
        number(subnet.broadcast()) - 1,
    );
    let (from, to) = match own - first > last - own {
        true => (first, own - 1),
        false => (own + 1, last),
    };
    format!("{}-{}", Ipv4Addr::from(from), Ipv4Addr::from(to))
}

#[cfg(test)]
mod tests {
    use super::*;
    use ostler_hostnet::BridgeSettings;
    use ostler_switchd::config::Config;

    fn forward(mode: Forward, address: &str) -> Option<ForwardWish> {
        Some(ForwardWish {
            mode,
            address: Some(address.parse().unwrap()),
            ports: None,
            out: None,
        })
    }

    #[test]
    fn what_is_written_is_a_switchs_configuration() {
        let wish = Wish {
            settings: BridgeSettings {
                protocol: Some(Protocol::Rstp),
                priority: Some(4096),
                ageing: Some(100),
                ..BridgeSettings::default()
            },
            forward: forward(Forward::Isolated, "10.9.0.1/24"),
            ..Wish::default()
        };
        let text = config("l\"an", Path::new("/run/x.sock"), &wish);
        // The name has to be one, and is quoted all the same.
        assert!(
            Config::parse(&text.unwrap())
                .unwrap_err()
                .1
                .contains("is no name")
        );
        let text = config("lan", Path::new("/run/x.sock"), &wish).unwrap();
        let parsed = Config::parse(&text).unwrap();
        assert_eq!((parsed.name.as_str(), parsed.switch.ageing), ("lan", 100));
        assert_eq!(parsed.switch.spanning_tree.unwrap().priority, 4096);
        let router = parsed.ports[0].router.as_ref().unwrap();
        assert!(router.restrict && router.ranges == ["10.9.0.2-10.9.0.254"]);
    }

    #[test]
    fn the_router_has_no_address_of_the_range() {
        let range = |text: &str| range(text.parse().unwrap());
        assert_eq!(range("10.9.0.1/24"), "10.9.0.2-10.9.0.254");
        assert_eq!(range("10.9.0.254/24"), "10.9.0.1-10.9.0.253");
        assert_eq!(range("10.9.0.2/30"), "10.9.0.1-10.9.0.1");
    }

    #[test]
    fn what_it_cannot_do_is_said() {
        let refused = |wish: Wish| config("lan", Path::new("/x"), &wish).unwrap_err().message;
        let settings = BridgeSettings {
            hello: Some(1),
            ..BridgeSettings::default()
        };
        assert!(
            refused(Wish {
                settings,
                ..Wish::default()
            })
            .contains("--stp rstp")
        );
        let forward = forward(Forward::Route, "10.9.0.1/24");
        assert!(
            refused(Wish {
                forward,
                ..Wish::default()
            })
            .contains("--kind bridge")
        );
    }
}
