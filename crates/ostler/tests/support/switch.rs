//! Runs switches, and peers that speak QEMU's framing.

use std::io::{BufRead, BufReader, Read, Write};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use serde_json::Value;

use super::OSTLER;

const LIMIT: Duration = Duration::from_secs(60);

/// A process of `ostler switch run`, with a folder for its sockets.
pub struct Switch {
    pub child: Child,
    pub folder: tempfile::TempDir,
    config: PathBuf,
}

impl Switch {
    /// Starts a switch called "lan". In `config`, `FOLDER` becomes the folder.
    pub fn start(config: &str) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("lan.toml");
        let text = format!("name = \"lan\"\ncontrol = \"FOLDER/control\"\n{config}");
        std::fs::write(&path, text.replace("FOLDER", folder.path().to_str().unwrap())).unwrap();
        let child = Self::spawn(&path);
        Self {
            child,
            folder,
            config: path,
        }
    }

    fn spawn(config: &Path) -> Child {
        let mut child = Command::new(OSTLER)
            .args(["switch", "run", "--config"])
            .arg(config)
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        let mut line = String::new();
        BufReader::new(child.stderr.take().unwrap())
            .read_line(&mut line)
            .unwrap();
        assert!(line.contains("switch \"lan\" runs"), "{line}");
        child
    }

    /// Ends its process, as a user would.
    pub fn end(&mut self) {
        let pid = rustix::process::Pid::from_child(&self.child);
        rustix::process::kill_process(pid, rustix::process::Signal::TERM).unwrap();
        assert!(self.child.wait().unwrap().success());
    }

    /// Starts it again.
    pub fn start_again(&mut self) {
        self.child = Self::spawn(&self.config);
    }

    pub fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    /// The answer of `ostler net` to `words`, or what it said on standard error. "lan" is this switch, by the path of its control socket.
    pub fn try_net(&self, words: &[&str]) -> Result<Value, String> {
        let output = Command::new(OSTLER)
            .args(["net", "--json"])
            .args(self.named(words))
            .output()
            .unwrap();
        if output.status.success() {
            Ok(serde_json::from_slice(&output.stdout).unwrap())
        } else {
            Err(String::from_utf8(output.stderr).unwrap())
        }
    }

    /// `words` with the path of this switch's control socket in place of "lan".
    pub fn named(&self, words: &[&str]) -> Vec<PathBuf> {
        let name = |word: &&str| match *word {
            "lan" => self.path("control"),
            word => word.into(),
        };
        words.iter().map(name).collect()
    }

    pub fn net(&self, words: &[&str]) -> Value {
        self.try_net(words).unwrap()
    }

    /// A port as it is listed.
    pub fn port(&self, name: &str) -> Option<Value> {
        let ports = self.net(&["port", "list", "lan"]);
        let mut ports = ports.as_array().unwrap().iter();
        ports.find(|port| port["name"] == name).cloned()
    }

    /// Waits until `is_so`.
    pub fn until(&self, what: &str, is_so: impl Fn(&Self) -> bool) {
        let deadline = Instant::now() + LIMIT;
        while !is_so(self) {
            assert!(
                Instant::now() < deadline,
                "never {what}: {:#}",
                self.net(&["port", "list", "lan"])
            );
            std::thread::sleep(Duration::from_millis(20));
        }
    }

    /// Waits until the port is up, or down.
    pub fn until_up(&self, name: &str, up: bool) {
        let what = format!("port {name} {}", if up { "up" } else { "down" });
        self.until(&what, |switch| {
            switch.port(name).is_some_and(|port| port["up"] == up)
        });
    }

    /// A peer at the port that listens at `name` in the folder and is called so.
    pub fn peer(&self, name: &str) -> Peer {
        let peer = Peer::new(UnixStream::connect(self.path(name)).unwrap());
        self.until_up(name, true);
        peer
    }
}

impl Drop for Switch {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// A peer on a stream socket.
pub struct Peer(pub UnixStream);

impl Peer {
    pub fn new(stream: UnixStream) -> Self {
        stream.set_read_timeout(Some(LIMIT)).unwrap();
        Self(stream)
    }

    pub fn send(&mut self, frame: &[u8]) {
        let message = [&(frame.len() as u32).to_be_bytes()[..], frame].concat();
        self.0.write_all(&message).unwrap();
    }

    pub fn receive(&mut self) -> Vec<u8> {
        self.try_receive().unwrap()
    }

    pub fn try_receive(&mut self) -> std::io::Result<Vec<u8>> {
        let mut len = [0; 4];
        self.0.read_exact(&mut len)?;
        let mut frame = vec![0; u32::from_be_bytes(len) as usize];
        self.0.read_exact(&mut frame)?;
        Ok(frame)
    }
}

/// A broadcast from station `from`, with a tag or without, that carries `text`.
pub fn broadcast(from: u8, vlan: Option<u16>, text: &str) -> Vec<u8> {
    let tag = vlan.map_or(Vec::new(), |vlan| [[0x81, 0], vlan.to_be_bytes()].concat());
    let mut frame = [
        &[0xff; 6][..],
        &[2, 0, 0, 0, 0, from],
        &tag,
        &[0x88, 0xb5],
        text.as_bytes(),
    ]
    .concat();
    // Without its tag it is as long as the shortest frame on a wire.
    frame.resize(frame.len().max(60 + tag.len()), 0);
    frame
}
