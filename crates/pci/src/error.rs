/// Why a function could not be placed, or its resources not be assigned.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
pub enum Error {
    /// Device or function number out of range.
    #[error("PCI slot {device:#x}.{function} does not exist; devices are 0 to 0x1f, functions 0 to 7")]
    BadLocation {
        /// Device number asked for.
        device: u8,
        /// Function number asked for.
        function: u8,
    },
    /// Another function is there.
    #[error("PCI slot {device:#x}.{function} is taken; place the device elsewhere")]
    Taken {
        /// Device number.
        device: u8,
        /// Function number.
        function: u8,
    },
    /// The port's slot holds a device already.
    #[error("the hotplug slot of root port {0:#x} is occupied; unplug its device first")]
    SlotOccupied(u8),
    /// No root port with that number.
    #[error("there is no root port in slot {0:#x}")]
    NoPort(u8),
    /// A window has no room left.
    #[error("the {window} window has no room for {size:#x} bytes; use fewer or smaller devices")]
    WindowFull {
        /// Which window.
        window: &'static str,
        /// Bytes asked for.
        size: u64,
    },
}
