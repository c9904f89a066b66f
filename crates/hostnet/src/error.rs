//! What can go wrong with the host's bridges.

use std::io;

use crate::Kind;
use crate::netlink::Told;

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
    /// No bridge of that name with that back end.
    #[error("there is no bridge `{1}`; `ostler net host list` shows those that exist")]
    NoBridge(Kind, String),
    /// The interface is no port of the bridge.
    #[error(
        "`{port}` is no port of the bridge `{bridge}`; `ostler net host port list {bridge}` shows its ports"
    )]
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

    pub(crate) fn io(what: impl Into<String>) -> impl FnOnce(io::Error) -> Self {
        let what = what.into();
        move |source| Error::Io { what, source }
    }
}
