//! Hosts with Linux's own network stack: network namespaces, each at one end of a veth pair whose other end is the switch's.

use std::io::{BufRead, BufReader, Write};
use std::process::{Child, ChildStdin, ChildStdout, Command, Stdio};

use rustix::thread::UnshareFlags;

/// Debian's Python, which Debian's scapy is for.
const PYTHON: &str = "/usr/bin/python3";

/// Moves this thread into a network namespace of its own, where the switch's ends are. False, and says so, if `test` cannot be here.
pub fn enter(test: &str, python_modules: &[&str]) -> bool {
    let skipped = |why: &str| {
        eprintln!("SKIPPED {test}: {why}");
        false
    };
    if !rustix::process::geteuid().is_root() {
        return skipped("needs root for network namespaces");
    }
    // SAFETY: only the network namespace of this thread changes; no file descriptor table is unshared.
    unsafe { rustix::thread::unshare_unsafe(UnshareFlags::NEWNET) }.unwrap();
    if !try_ip("link add probe0 type veth peer name probe1") {
        return skipped("needs a kernel with veth");
    }
    ip("link delete probe0");
    for module in python_modules {
        let there = Command::new(PYTHON)
            .args(["-c", &format!("import {module}")])
            .stderr(Stdio::null())
            .status();
        if !there.is_ok_and(|status| status.success()) {
            return skipped(&format!("needs Debian's Python with {module}"));
        }
    }
    true
}

pub fn try_ip(line: &str) -> bool {
    let status = Command::new("ip")
        .args(line.split(' '))
        .stderr(Stdio::null())
        .status();
    status.unwrap().success()
}

/// `ip` in this thread's namespace.
pub fn ip(line: &str) {
    assert!(try_ip(line), "ip {line}");
}

/// A host. Its interface is eth0; the switch's end of it is called as the host is.
pub struct Host {
    pub name: &'static str,
    keeper: Child,
}

impl Host {
    /// Makes a host with this last number in its addresses: 10.98.0.N, fd98::N and 02:00:00:00:00:N.
    pub fn new(name: &'static str, number: u8) -> Self {
        let keeper = Command::new("unshare")
            .args(["-n", "sleep", "infinity"])
            .spawn()
            .unwrap();
        let ours = std::fs::read_link("/proc/thread-self/ns/net").unwrap();
        let theirs = format!("/proc/{}/ns/net", keeper.id());
        while std::fs::read_link(&theirs).is_ok_and(|theirs| theirs == ours) {
            std::thread::sleep(std::time::Duration::from_millis(5));
        }
        let host = Self { name, keeper };
        ip(&format!(
            "link add name {name} type veth peer name eth0 address 02:00:00:00:00:{number:02x} netns {}",
            host.keeper.id()
        ));
        // The host has it for the switch alone: it says nothing itself.
        let _ = std::fs::write(format!("/proc/sys/net/ipv6/conf/{name}/disable_ipv6"), "1");
        ip(&format!("link set dev {name} up"));
        host.run("ip link set lo up");
        host.run("ip link set eth0 up");
        host.run(&format!("ip address add 10.98.0.{number}/24 dev eth0"));
        host.run(&format!("ip address add fd98::{number}/64 dev eth0 nodad"));
        host
    }

    /// This thread's own namespace as a host.
    pub fn here() -> Self {
        let mut keeper = Command::new("sleep");
        let keeper = keeper.arg("infinity").spawn().unwrap();
        Self { name: "here", keeper }
    }

    pub fn command(&self, program: &str) -> Command {
        let mut command = Command::new("nsenter");
        command.args(["-t", &self.keeper.id().to_string(), "-n", program]);
        command
    }

    /// Runs a line of words there, and returns what it printed.
    pub fn run(&self, line: &str) -> String {
        let mut words = line.split(' ');
        let output = self.command(words.next().unwrap()).args(words).output().unwrap();
        let said = String::from_utf8_lossy(&output.stdout).into_owned();
        assert!(output.status.success(), "{line}: {output:?}");
        said
    }

    /// Whether it gets answers from an address.
    pub fn reaches(&self, address: &str) -> bool {
        let mut ping = self.command("ping");
        let output = ping.args(["-c", "3", "-i", "0.2", "-W", "5", address]).output();
        output.unwrap().status.success()
    }

    /// Starts a Python program there. It has `say(line)` to tell the test something.
    pub fn python(&self, program: &str, arguments: &[&str]) -> Program {
        let program = format!(
            "import sys, socket, hashlib, struct, time\ndef say(text): print(text, flush=True)\n{program}"
        );
        let mut child = self
            .command(PYTHON)
            .args(["-W", "ignore", "-c", &program])
            .args(arguments)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        Program {
            input: child.stdin.take().unwrap(),
            output: BufReader::new(child.stdout.take().unwrap()),
            child,
        }
    }
}

impl Drop for Host {
    fn drop(&mut self) {
        let _ = self.keeper.kill();
        let _ = self.keeper.wait();
        try_ip(&format!("link delete dev {}", self.name));
    }
}

/// A program that runs in a host.
pub struct Program {
    child: Child,
    input: ChildStdin,
    output: BufReader<ChildStdout>,
}

impl Program {
    /// What it says next.
    pub fn line(&mut self) -> String {
        let mut line = String::new();
        self.output.read_line(&mut line).unwrap();
        assert!(line.ends_with('\n'), "the program ended");
        line.trim().to_owned()
    }

    pub fn tell(&mut self, line: &str) {
        writeln!(self.input, "{line}").unwrap();
    }

    /// Waits for its end, and returns the rest of what it said.
    pub fn rest(mut self) -> String {
        drop(self.input);
        let mut rest = String::new();
        std::io::Read::read_to_string(&mut self.output, &mut rest).unwrap();
        assert!(self.child.wait().unwrap().success(), "{rest}");
        rest.trim().to_owned()
    }
}

/// Says the hash of what it receives by TCP.
pub const TCP_SERVER: &str = "
family = socket.AF_INET6 if ':' in sys.argv[1] else socket.AF_INET
server = socket.socket(family)
server.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
server.bind((sys.argv[1], 5000))
server.listen(1)
say('listening')
peer, _ = server.accept()
peer.settimeout(120)
digest, total = hashlib.sha256(), 0
while True:
    data = peer.recv(1 << 20)
    if not data: break
    digest.update(data)
    total += len(data)
say(f'{total} {digest.hexdigest()}')
";

/// Sends so many bytes, says their hash, and how many bits a second these were.
pub const TCP_CLIENT: &str = "
import random
size = int(sys.argv[2])
block = random.Random(1).randbytes(1 << 20)
peer = socket.create_connection((sys.argv[1], 5000), 60)
peer.settimeout(120)
digest, left = hashlib.sha256(), size
start = time.time()
while left:
    part = block[:min(left, len(block))]
    peer.sendall(part)
    digest.update(part)
    left -= len(part)
peer.shutdown(socket.SHUT_WR)
peer.recv(1)
took = time.time() - start
say(f'{size} {digest.hexdigest()}')
say(f'{size * 8 / took / 1e6:.0f} Mbit/s')
";

/// Sends `bytes` from one host to an address of another by TCP, and compares the hashes. Returns the rate as the client saw it.
pub fn transfer(from: &Host, to: &Host, address: &str, bytes: u64) -> String {
    let mut server = to.python(TCP_SERVER, &[address]);
    assert_eq!(server.line(), "listening");
    let mut client = from.python(TCP_CLIENT, &[address, &bytes.to_string()]);
    let sent = client.line();
    assert_eq!(server.line(), sent);
    assert!(sent.starts_with(&format!("{bytes} ")), "{sent}");
    client.line()
}
