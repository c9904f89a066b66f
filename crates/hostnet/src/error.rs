//! What can go wrong with the host's bridges.

use std::io;

use crate::netlink::Told;
use crate::{Forward, Kind};

/// A change that was not made, or a question that has no answer. Unless it says so itself ([`Error::NotUndone`]), an error leaves the
/// host as it was.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// A name that no interface can have.
    #[error("`{0}` cannot be an interface's name: 1 to 15 characters, without white space, `/`, `:` and `%`")]
    Name(String),
    /// Not an address.
    #[error("`{0}` is no MAC address; write six pairs of hexadecimal digits, such as 52:54:00:12:34:56")]
    Mac(String),
    /// Not a way in which a macvtap works.
    #[error("`{0}` is no mode of a macvtap; bridge, private, vepa and passthrough are known")]
    MacvtapMode(String),
    /// No bridge of that name with that back end.
    #[error("there is no bridge `{1}`; `ostler net list` shows those that exist")]
    NoBridge(Kind, String),
    /// The interface is no port of the bridge.
    #[error("`{port}` is no port of the bridge `{bridge}`; `ostler net port list {bridge}` shows its ports")]
    NoPort {
        /// The bridge.
        bridge: String,
        /// What was asked for.
        port: String,
    },
    /// No interface of that name.
    #[error("there is no interface `{0}`; `ip link` shows those that exist")]
    NoInterface(String),
    /// The name is taken.
    #[error("`{0}` exists already; choose another name")]
    Exists(String),
    /// The interface is a port of something already.
    #[error("`{port}` belongs to `{owner}` already; take it out there first")]
    Taken {
        /// The interface.
        port: String,
        /// The bridge or other master.
        owner: String,
    },
    /// This host or back end cannot do it.
    #[error("{who} cannot do that here: {what}")]
    Unsupported {
        /// Which back end.
        who: Kind,
        /// What is missing, and what to do instead.
        what: String,
    },
    /// Not an address for the host in a network.
    #[error(
        "`{0}` is no address for the host; write one with the bits of the network's part (8 to 30), such as 10.9.0.1/24"
    )]
    Address(String),
    /// Not an address for the host in a network of IPv6.
    #[error(
        "`{0}` is no address for the host; write one with 64 bits of the network's part, such as fd00:9::1/64"
    )]
    Address6(String),
    /// The host has an address there already.
    #[error("{wanted} overlaps with {taken}, which `{owner}` has; choose another network")]
    AddressTaken {
        /// What was asked for.
        wanted: String,
        /// What is there.
        taken: String,
        /// The interface.
        owner: String,
    },
    /// The bridge has no address.
    #[error("the bridge `{0}` has no address of IPv4; give it one with --address")]
    NoAddress(String),
    /// A name that the firewall would understand in another way.
    #[error("`{0}` cannot be in a rule of the firewall; use letters, digits, `.`, `_`, `-` and `@`")]
    NetworkName(String),
    /// No network of that name.
    #[error("there is no network `{0}`; `ostler net list` shows those that exist")]
    NoNetwork(String),
    /// There is nothing that could leave by one interface only.
    #[error("a way out is for networks with nat and route; this one is {0}")]
    NoWayOut(Forward),
    /// There is nothing that could have these ports.
    #[error("ports are for networks with nat; this one is {0}")]
    NoPorts(Forward),
    /// The program is not there.
    #[error(
        "nft is not there, which enters the rules of a network; `sudo apt-get install nftables` installs it"
    )]
    NoNft,
    /// The firewall refused.
    #[error("{what} failed: {why}")]
    Firewall {
        /// The step.
        what: String,
        /// In the words of nft.
        why: String,
    },
    /// A value outside its range.
    #[error("{what} is {value}; it must be {range}")]
    Range {
        /// Which setting.
        what: &'static str,
        /// What was asked for.
        value: u64,
        /// What is allowed, in words.
        range: &'static str,
    },
    /// The kernel refused.
    #[error("{what} failed: {source}")]
    Refused {
        /// The step.
        what: String,
        /// What the kernel said.
        source: io::Error,
    },
    /// A socket failed.
    #[error("{what} failed: {source}")]
    Io {
        /// Which operation.
        what: String,
        /// Why.
        source: io::Error,
    },
    /// Open vSwitch answered with an error.
    #[error("Open vSwitch refused {what}: {why}")]
    Database {
        /// What was asked for.
        what: String,
        /// Its own words.
        why: String,
    },
    /// An answer that makes no sense.
    #[error("{who} answered what cannot be understood ({why})")]
    Answer {
        /// Who.
        who: Kind,
        /// What is wrong with it.
        why: String,
    },
    /// A change failed, and taking back its first steps failed too.
    #[error("{cause}; and this could not be undone: {left}")]
    NotUndone {
        /// Why the change failed.
        cause: Box<Error>,
        /// What is left.
        left: String,
    },
}

impl Error {
    /// The kernel's error number, if it was the kernel.
    pub fn errno(&self) -> Option<i32> {
        match self {
            Error::Refused { source, .. } | Error::Io { source, .. } => source
                .raw_os_error()
                .or_else(|| source.get_ref()?.downcast_ref::<Told>()?.number.raw_os_error()),
            _ => None,
        }
    }

    /// Whether the host refused it for want of privilege.
    pub fn is_permission(&self) -> bool {
        matches!(self.errno(), Some(libc::EPERM | libc::EACCES))
    }

    pub(crate) fn io(what: impl Into<String>) -> impl FnOnce(io::Error) -> Self {
        let what = what.into();
        move |source| Error::Io { what, source }
    }
}
