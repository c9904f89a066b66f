//! Network namespaces, each with one interface, whose other end is in the namespace of this process.

use std::fs::File;
use std::io;
use std::os::fd::AsFd;
use std::process::{Child, Command};
use std::thread;
use std::time::{Duration, Instant};

use rustix::thread::{LinkNameSpaceType, UnshareFlags, move_into_link_name_space};

use crate::error::Error;

/// The interface in a namespace.
pub(super) const INSIDE: &str = "eth0";
/// How long the host may take for anything.
const PATIENCE: Duration = Duration::from_secs(30);

/// Moves this process, which has one thread still, into a network namespace of its own: the hub of what is measured.
pub(super) fn enter_hub() -> Result<(), Error> {
    let failed = |what| move |e: rustix::io::Errno| Error::Host(what, e.into());
    // SAFETY: only the network namespace changes, and this thread is still the only one.
    unsafe { rustix::thread::unshare_unsafe(UnshareFlags::NEWNET) }
        .map_err(failed("making a network namespace (it takes root)"))?;
    be_silent();
    ip("link set lo up")
}

/// Nothing is sent that nobody asked for.
fn be_silent() {
    for which in ["all", "default"] {
        // Where there is no IPv6, nothing is sent.
        let _ = std::fs::write(format!("/proc/sys/net/ipv6/conf/{which}/disable_ipv6"), "1");
    }
}

/// Runs a line of words, and returns what it printed.
pub(super) fn run(line: &str) -> Result<String, Error> {
    let mut words = line.split(' ');
    let mut command = Command::new(words.next().unwrap_or_default());
    run_command(command.args(words))
}

/// Runs `command`, and returns what it printed.
pub(crate) fn run_command(command: &mut Command) -> Result<String, Error> {
    let output = command.output();
    let output = output.map_err(|e| Error::Start(format!("{command:?}"), e))?;
    if output.status.success() {
        return Ok(String::from_utf8_lossy(&output.stdout).into_owned());
    }
    let said = String::from_utf8_lossy(&output.stderr).trim().to_owned();
    Err(Error::Start(format!("{command:?}"), io::Error::other(said)))
}

/// `ip` in the namespace of this thread.
pub(super) fn ip(line: &str) -> Result<(), Error> {
    run(&format!("ip {line}")).map(drop)
}

/// Waits until something is so.
pub(super) fn until(what: &'static str, mut is_so: impl FnMut() -> Result<bool, Error>) -> Result<(), Error> {
    let end = Instant::now() + PATIENCE;
    while !is_so()? {
        if Instant::now() > end {
            return Err(Error::Host(what, io::ErrorKind::TimedOut.into()));
        }
        thread::sleep(Duration::from_millis(10));
    }
    Ok(())
}

/// A namespace with an interface called [`INSIDE`].
pub(super) struct Space {
    keeper: Child,
    hub_end: &'static str,
    number: u8,
}

impl Space {
    /// Makes one whose interface's other end is called `hub_end`, with this last number in its addresses.
    pub(super) fn new(hub_end: &'static str, number: u8) -> Result<Self, Error> {
        let mut keeper = Command::new("unshare");
        let keeper = keeper.args(["-n", "sleep", "infinity"]).spawn();
        let keeper = keeper.map_err(|e| Error::Start("unshare".into(), e))?;
        let space = Self {
            keeper,
            hub_end,
            number,
        };
        let here = std::fs::read_link("/proc/self/ns/net").map_err(|e| Error::Host("looking at /proc", e))?;
        until("waiting for a namespace", || {
            Ok(std::fs::read_link(space.file()).is_ok_and(|there| there != here))
        })?;
        let pid = space.pid();
        ip(&format!(
            "link add name {hub_end} type veth peer name {INSIDE} address {} netns {pid}",
            space.mac_text()
        ))?;
        ip(&format!("link set dev {hub_end} up"))?;
        space.inside(be_silent)?;
        for line in [
            "link set lo up".to_owned(),
            format!("address add {}/24 dev {INSIDE}", space.address()),
            format!("link set dev {INSIDE} up"),
        ] {
            run(&format!("nsenter -t {pid} -n ip {line}"))?;
        }
        Ok(space)
    }

    fn file(&self) -> String {
        format!("/proc/{}/ns/net", self.pid())
    }

    /// The process whose namespace it is.
    pub(super) fn pid(&self) -> u32 {
        self.keeper.id()
    }

    /// What the other end of its interface is called.
    pub(super) fn hub_end(&self) -> &'static str {
        self.hub_end
    }

    /// Its IPv4 address.
    pub(super) fn address(&self) -> String {
        format!("10.97.0.{}", self.number)
    }

    /// The address of its interface.
    pub(super) fn mac(&self) -> [u8; 6] {
        [2, 0, 0, 0, 0x97, self.number]
    }

    fn mac_text(&self) -> String {
        format!("02:00:00:00:97:{:02x}", self.number)
    }

    /// Does something on a thread in the namespace. Sockets made there stay there.
    pub(super) fn inside<T: Send>(&self, work: impl FnOnce() -> T + Send) -> Result<T, Error> {
        let failed = |e| Error::Host("entering a network namespace", e);
        let file = File::open(self.file()).map_err(failed)?;
        thread::scope(|scope| {
            let there = scope.spawn(|| {
                move_into_link_name_space(file.as_fd(), Some(LinkNameSpaceType::Network))?;
                Ok(work())
            });
            let there: Result<T, rustix::io::Errno> = there
                .join()
                .unwrap_or_else(|panic| std::panic::resume_unwind(panic));
            there.map_err(|e| failed(e.into()))
        })
    }

    /// Its interface computes checksums and cuts segments itself.
    pub(super) fn leave_nothing_undone(&self) -> Result<(), Error> {
        let pid = self.pid();
        run(&format!(
            "nsenter -t {pid} -n ethtool -K {INSIDE} tx off tso off gso off sg off"
        ))?;
        Ok(())
    }
}

impl Drop for Space {
    fn drop(&mut self) {
        // The kernel may take a while to end a namespace: the interface goes at once.
        let _ = ip(&format!("link delete dev {}", self.hub_end));
        let _ = self.keeper.kill();
        let _ = self.keeper.wait();
    }
}
