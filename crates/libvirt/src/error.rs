//! Errors as clients know them: libvirt's `virError`.

use std::fmt;

use crate::types::{Domain, Network};
use crate::xdr::xdr_struct;

/// The kind of failure; clients decide by it. The numbers are libvirt's `virErrorNumber`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[allow(missing_docs, reason = "each name is explained by its text below")]
pub enum Code {
    Internal = 1,
    NoSupport = 3,
    InvalidArgument = 8,
    OperationFailed = 9,
    NoSource = 19,
    Xml = 27,
    DomainExists = 28,
    OperationDenied = 29,
    System = 38,
    Rpc = 39,
    NoDomain = 42,
    NoNetwork = 43,
    AuthFailed = 45,
    NoStoragePool = 49,
    NoStorageVolume = 50,
    NoNodeDevice = 53,
    OperationInvalid = 55,
    NoInterface = 57,
    InvalidSecret = 65,
    NoSecret = 66,
    ConfigUnsupported = 67,
    OperationTimeout = 68,
    InvalidStream = 73,
    ArgumentUnsupported = 74,
    StoragePoolBuilt = 76,
    OperationAborted = 78,
    NoMetadata = 80,
    Overflow = 82,
    OperationUnsupported = 84,
    AgentUnresponsive = 86,
    ResourceBusy = 87,
    StorageVolumeExists = 90,
    CpuIncompatible = 91,
    DeviceMissing = 99,
    NoNetworkPort = 107,
    NoHostname = 108,
}

impl Code {
    /// How the message begins that people read.
    fn text(self) -> &'static str {
        match self {
            Self::Internal => "internal error",
            Self::NoSupport => "this function is not supported by the connection driver",
            Self::InvalidArgument => "invalid argument",
            Self::OperationFailed => "operation failed",
            Self::Xml => "XML error",
            Self::NoSource => "missing source information for device",
            Self::CpuIncompatible => "the CPU is incompatible with host CPU",
            Self::DeviceMissing => "device not found",
            Self::DomainExists => "domain already exists",
            Self::OperationDenied => "operation forbidden",
            Self::System => "system error",
            Self::Rpc => "RPC error",
            Self::NoDomain => "Domain not found",
            Self::NoNetwork => "Network not found",
            Self::AuthFailed => "authentication failed",
            Self::OperationInvalid => "Requested operation is not valid",
            Self::ConfigUnsupported => "unsupported configuration",
            Self::OperationTimeout => "Timed out during operation",
            Self::InvalidStream => "invalid stream pointer",
            Self::ArgumentUnsupported => "argument unsupported",
            Self::OperationAborted => "operation aborted",
            Self::NoMetadata => "metadata not found",
            Self::Overflow => "numerical overflow",
            Self::OperationUnsupported => "Operation not supported",
            Self::NoStoragePool => "Storage pool not found",
            Self::NoStorageVolume => "Storage volume not found",
            Self::NoInterface => "Interface not found",
            Self::NoNodeDevice => "Node device not found",
            Self::InvalidSecret => "Invalid secret",
            Self::NoSecret => "Secret not found",
            Self::StoragePoolBuilt => "Storage pool already built",
            Self::ResourceBusy => "resource busy",
            Self::AgentUnresponsive => "Guest agent is not responding",
            Self::NoNetworkPort => "network port not found",
            Self::NoHostname => "no hostname found",
            Self::StorageVolumeExists => "storage volume exists already",
        }
    }
}

/// The part that the error comes from, libvirt's `virErrorDomain`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[allow(missing_docs, reason = "the names are libvirt's")]
pub enum Source {
    Rpc = 7,
    Qemu = 10,
    Storage = 18,
    Network = 19,
    Domain = 20,
    NodeDevice = 22,
    Interface = 26,
    Secret = 30,
    Streams = 38,
}

/// An error that a client is told.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RemoteError {
    /// The kind.
    pub code: Code,
    /// Where it comes from.
    pub source: Source,
    /// What failed, without the kind.
    pub detail: String,
}

impl RemoteError {
    /// An error of the part that drives guests.
    pub fn new(code: Code, detail: impl Into<String>) -> Self {
        Self {
            code,
            source: Source::Qemu,
            detail: detail.into(),
        }
    }

    /// The same error as one of another part.
    #[must_use]
    pub fn of(mut self, source: Source) -> Self {
        self.source = source;
        self
    }

    /// An error of the part that drives networks.
    pub fn network(code: Code, detail: impl Into<String>) -> Self {
        Self::new(code, detail).of(Source::Network)
    }

    /// There is no such procedure: clients fall back to something older where there is something.
    pub fn unknown_procedure(number: i32) -> Self {
        Self::new(Code::NoSupport, format!("procedure {number}"))
    }

    /// An error of the protocol itself.
    pub fn rpc(detail: impl Into<String>) -> Self {
        Self {
            code: Code::Rpc,
            source: Source::Rpc,
            detail: detail.into(),
        }
    }

    /// What people read.
    pub fn message(&self) -> String {
        match self.source {
            Source::Rpc => self.detail.clone(),
            _ => format!("{}: {}", self.code.text(), self.detail),
        }
    }

    /// How it looks in a packet.
    pub fn to_wire(&self) -> WireError {
        // 2: an error, not a warning.
        const LEVEL: i32 = 2;
        WireError {
            code: self.code as i32,
            domain: self.source as i32,
            message: Some(self.message()),
            level: LEVEL,
            dom: None,
            str1: Some(format!("{}: %s", self.code.text())),
            str2: Some(self.detail.clone()),
            str3: None,
            int1: -1,
            int2: -1,
            net: None,
        }
    }
}

impl fmt::Display for RemoteError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.message())
    }
}

impl std::error::Error for RemoteError {}

xdr_struct! {
    /// The payload of a packet with an error.
    WireError {
        /// [`Code`].
        code: i32,
        /// [`Source`].
        domain: i32,
        /// What people read.
        message: Option<String>,
        /// How bad it is.
        level: i32,
        /// The guest that it is about.
        dom: Option<Domain>,
        /// The message before its parts were filled in.
        str1: Option<String>,
        /// What was filled in.
        str2: Option<String>,
        /// More of it.
        str3: Option<String>,
        /// A number, by the kind.
        int1: i32,
        /// Another.
        int2: i32,
        /// The network that it is about.
        net: Option<Network>,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_clients_compare_is_as_they_expect() {
        let wire = RemoteError::unknown_procedure(1234).to_wire();
        assert_eq!(wire.code, 3);
        assert!(
            wire.message
                .unwrap()
                .ends_with("not supported by the connection driver: procedure 1234")
        );
        let wire = RemoteError::rpc("nonsense").to_wire();
        assert_eq!((wire.code, wire.domain), (39, 7));
        let wire = RemoteError::new(Code::NoDomain, "no domain with matching name 'x'").to_wire();
        assert_eq!((wire.code, wire.level), (42, 2));
        assert_eq!(
            wire.message.unwrap(),
            "Domain not found: no domain with matching name 'x'"
        );
    }
}
