//! What can be wrong with a document.

/// One sentence that a client shows to its user. The first words are libvirt's, because clients look for them.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Error {
    /// The document is no XML, has an element of unknown name, or a value that cannot be.
    #[error("XML error: {0}")]
    Xml(String),
    /// The document asks for something that is refused, because to ignore it would change what the guest is.
    #[error("unsupported configuration: {0}")]
    Unsupported(String),
    /// No name was given.
    #[error("missing name information")]
    NoName,
    /// A disk names no image.
    #[error("missing source information for device {0}")]
    NoSource(String),
    /// There is no such device in the document.
    #[error("device not found: {0}")]
    NoDevice(String),
}

impl Error {
    /// Number of the error in libvirt's protocol (`virErrorNumber`).
    pub fn code(&self) -> i32 {
        match self {
            Self::NoSource(_) => 19,
            Self::NoName => 21,
            Self::Xml(_) => 27,
            Self::Unsupported(_) => 67,
            Self::NoDevice(_) => 99,
        }
    }

    /// A value that an attribute cannot have.
    pub(crate) fn attribute(line: u32, element: &str, attribute: &str, value: &str) -> Self {
        Self::Xml(format!(
            "Invalid value for attribute '{attribute}' in element '{element}': '{}' (line {line})",
            shorten(value)
        ))
    }

    /// A text that an element cannot have.
    pub(crate) fn text(line: u32, element: &str, value: &str) -> Self {
        Self::Xml(format!(
            "Invalid value '{}' for element '{element}' (line {line})",
            shorten(value)
        ))
    }

    /// An attribute that has to be there.
    pub(crate) fn missing(line: u32, element: &str, attribute: &str) -> Self {
        Self::Xml(format!(
            "Missing required attribute '{attribute}' in element '{element}' (line {line})"
        ))
    }
}

/// Outside input as part of one line of an error.
pub(crate) fn shorten(value: &str) -> String {
    let mut short: String = value.chars().filter(|c| !c.is_control()).take(60).collect();
    if value.chars().count() > 60 {
        short.push('…');
    }
    short
}
