//! The way out of a network without privileges: TCP from a namespace to a server on the host's loopback, through the router of our switch
//! and through slirp4netns.

use std::io;
use std::net::{TcpListener, TcpStream};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use super::joint::Switch;
use super::space::{Space, run, until};
use super::stream::{self, Way};
use crate::Common;
use crate::beside::Figures;
use crate::error::Error;

/// Where slirp4netns has the host's loopback, and what it calls its interface.
const SLIRP_HOST: &str = "10.0.2.2";
const SLIRP_INTERFACE: &str = "tap0";
/// MTUs of its interface: the usual one, and the one that it recommends.
const SLIRP_MTUS: [(u32, &str); 2] = [(1500, "slirp4netns"), (65520, "slirp4netns, MTU 65520")];
const ROUTER: &str = "10.97.0.254";

/// Gbit/s to the server and from it.
pub(super) fn measure(common: &Common, span: Duration, figures: &mut Figures) -> Result<(), Error> {
    let failed = |e| Error::Host("listening on the loopback", e);
    let listener = TcpListener::bind(("127.0.0.1", stream::PORT)).map_err(failed)?;
    {
        let space = Space::new("bench-c", 3)?;
        let ports = format!(
            "[[port]]\nname = \"guest\"\npacket = \"{}\"\n\
             [[port]]\nname = \"router\"\n[port.router]\naddress = \"{ROUTER}/24\"\n",
            space.hub_end()
        );
        let _switch = Switch::start(common, &ports)?;
        both_ways(&listener, &space, ROUTER, "ours", span, figures)?;
    }
    for (mtu, name) in SLIRP_MTUS {
        let space = Space::new("bench-c", 3)?;
        let _slirp = Slirp::start(&space, mtu)?;
        both_ways(&listener, &space, SLIRP_HOST, name, span, figures)?;
    }
    Ok(())
}

fn both_ways(
    listener: &TcpListener,
    space: &Space,
    host: &str,
    name: &str,
    span: Duration,
    figures: &mut Figures,
) -> Result<(), Error> {
    for (way, title) in [(Way::Up, "outside up"), (Way::Down, "outside down")] {
        let mut connected = None;
        until("connecting to the host's loopback", || {
            connected = space.inside(|| TcpStream::connect((host, stream::PORT)))?.ok();
            Ok(connected.is_some())
        })?;
        let failed = |e| Error::Host("a stream of TCP to the host's loopback", e);
        let client = connected.ok_or_else(|| failed(io::ErrorKind::NotConnected.into()))?;
        figures.add(
            title,
            name,
            stream::between(listener, client, way, span).map_err(failed)?,
        );
    }
    Ok(())
}

/// slirp4netns beside a namespace.
struct Slirp(Child);

impl Slirp {
    fn start(space: &Space, mtu: u32) -> Result<Self, Error> {
        let pid = space.pid();
        let mut command = Command::new("slirp4netns");
        command.args([
            "--configure",
            &format!("--mtu={mtu}"),
            &pid.to_string(),
            SLIRP_INTERFACE,
        ]);
        let child = command
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn();
        let slirp = Self(child.map_err(|e| Error::Start("slirp4netns".into(), e))?);
        until("waiting for slirp4netns", || {
            let line = format!("nsenter -t {pid} -n ip route get {SLIRP_HOST}");
            Ok(run(&line).is_ok_and(|said| said.contains(SLIRP_INTERFACE)))
        })?;
        Ok(slirp)
    }
}

impl Drop for Slirp {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}
