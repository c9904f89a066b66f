//! What a base address register decodes (PCI 3.0, 6.2.5).

use ostler_bus::Space;

/// The address space and width of a BAR.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum BarKind {
    /// I/O ports.
    Io,
    /// Memory below 4 GiB.
    Memory32,
    /// Memory anywhere; takes this BAR's register and the next one.
    Memory64 {
        /// Reads have no side effects, so a bridge may put it into its prefetchable window.
        prefetchable: bool,
    },
}

/// One BAR of a function.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct BarSpec {
    /// Space and width.
    pub kind: BarKind,
    /// Bytes, a power of two: at least 4 ports or 16 bytes of memory.
    pub size: u64,
}

impl BarSpec {
    /// A BAR of `size` bytes below 4 GiB.
    pub const fn memory32(size: u64) -> Self {
        Self {
            kind: BarKind::Memory32,
            size,
        }
    }

    /// A prefetchable BAR of `size` bytes anywhere.
    pub const fn memory64(size: u64) -> Self {
        Self {
            kind: BarKind::Memory64 { prefetchable: true },
            size,
        }
    }

    /// A BAR of `size` ports.
    pub const fn io(size: u64) -> Self {
        Self {
            kind: BarKind::Io,
            size,
        }
    }

    /// The address space it lives in.
    pub fn space(&self) -> Space {
        match self.kind {
            BarKind::Io => Space::Port,
            BarKind::Memory32 | BarKind::Memory64 { .. } => Space::Memory,
        }
    }

    /// True if it takes two registers.
    pub fn is_64bit(&self) -> bool {
        matches!(self.kind, BarKind::Memory64 { .. })
    }

    /// The read-only low bits.
    pub(crate) fn flags(&self) -> u32 {
        match self.kind {
            BarKind::Io => 0b01,
            BarKind::Memory32 => 0b0000,
            BarKind::Memory64 { prefetchable } => 0b0100 | u32::from(prefetchable) << 3,
        }
    }

    /// The address bits that software can write.
    pub(crate) fn writable_mask(&self) -> u64 {
        match self.kind {
            BarKind::Io => !(self.size - 1) & 0xffff_fffc,
            BarKind::Memory32 => !(self.size - 1) & 0xffff_fff0,
            BarKind::Memory64 { .. } => !(self.size - 1) & !0xf,
        }
    }

    /// # Panics
    /// If the size is not one that a BAR can have.
    pub(crate) fn check(&self) {
        let least = if self.kind == BarKind::Io { 4 } else { 16 };
        assert!(
            self.size.is_power_of_two() && self.size >= least,
            "a BAR cannot have {:#x} bytes",
            self.size
        );
        assert!(
            self.kind != BarKind::Io || self.size <= 0x1_0000,
            "there are only 64 Ki ports"
        );
        assert!(
            self.is_64bit() || self.size <= 1 << 31,
            "too large for a 32-bit BAR"
        );
    }
}
