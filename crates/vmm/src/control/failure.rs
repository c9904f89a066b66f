//! Why a command was not followed, in the words and classes of QEMU.

use serde_json::{Value, json};

/// What `device_del` is refused with while the guest is switching the slot on or off: a moment later it may be asked again.
pub const GUEST_IS_BUSY: &str = "Hot-unplug failed: guest is busy (power indicator blinking)";

/// The class of an error: what a client may act on. The text beside it is for people.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Class {
    Generic,
    CommandNotFound,
    DeviceNotFound,
    DeviceNotActive,
}

impl Class {
    fn name(self) -> &'static str {
        match self {
            Self::Generic => "GenericError",
            Self::CommandNotFound => "CommandNotFound",
            Self::DeviceNotFound => "DeviceNotFound",
            Self::DeviceNotActive => "DeviceNotActive",
        }
    }
}

/// A refusal.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Failure {
    pub class: Class,
    pub text: String,
}

impl Failure {
    pub fn new(class: Class, text: impl Into<String>) -> Self {
        let text = text.into();
        Self { class, text }
    }

    /// One that fits no other class.
    pub fn generic(text: impl Into<String>) -> Self {
        Self::new(Class::Generic, text)
    }

    pub fn missing(name: &str) -> Self {
        Self::generic(format!("Parameter '{name}' is missing"))
    }

    pub fn wrong_type(name: &str, expected: &str) -> Self {
        Self::generic(format!(
            "Invalid parameter type for '{name}', expected: {expected}"
        ))
    }

    pub fn unexpected(name: &str) -> Self {
        Self::generic(format!("Parameter '{name}' is unexpected"))
    }

    /// A value outside of what the parameter can be.
    pub fn not_accepted(name: &str, value: &str) -> Self {
        Self::generic(format!("Parameter '{name}' does not accept value '{value}'"))
    }

    /// A value of the right type that makes no sense.
    pub fn expects(name: &str, what: &str) -> Self {
        Self::generic(format!("Parameter '{name}' expects {what}"))
    }

    pub fn no_device(id: &str) -> Self {
        Self::new(Class::DeviceNotFound, format!("Device '{id}' not found"))
    }

    /// As a client gets it.
    pub fn answer(&self) -> Value {
        json!({ "error": { "class": self.class.name(), "desc": self.text } })
    }
}
