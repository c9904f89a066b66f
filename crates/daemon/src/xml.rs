//! What is wrong with a document, as clients are told it.

use ostler_libvirt::{Code, RemoteError};
use ostler_libvirt_xml::Error;

/// The error for a client whose document is refused.
pub fn refused(error: Error) -> RemoteError {
    match error {
        Error::Xml(detail) => RemoteError::new(Code::Xml, detail),
        Error::Unsupported(detail) => RemoteError::new(Code::ConfigUnsupported, detail),
        other => RemoteError::new(Code::Xml, other.to_string()),
    }
}
