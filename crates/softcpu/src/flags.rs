//! The flags register.
//!
//! The six arithmetic flags live in the form in which the host hands them out: AX after `lahf; seto al`. So OF is bit 0, and
//! CF, PF, AF, ZF, SF are bits 8, 10, 12, 14, 15. The other bits of RFLAGS are kept apart, where they are in RFLAGS.

/// Bits of RFLAGS (SDM vol. 1, 3.4.3).
pub mod bit {
    /// Carry.
    pub const CF: u64 = 1;
    /// Parity.
    pub const PF: u64 = 1 << 2;
    /// Auxiliary carry.
    pub const AF: u64 = 1 << 4;
    /// Zero.
    pub const ZF: u64 = 1 << 6;
    /// Sign.
    pub const SF: u64 = 1 << 7;
    /// Trap.
    pub const TF: u64 = 1 << 8;
    /// Interrupts enabled.
    pub const IF: u64 = 1 << 9;
    /// Direction.
    pub const DF: u64 = 1 << 10;
    /// Overflow.
    pub const OF: u64 = 1 << 11;
    /// I/O privilege level, two bits.
    pub const IOPL: u64 = 3 << 12;
    /// Nested task.
    pub const NT: u64 = 1 << 14;
    /// Resume.
    pub const RF: u64 = 1 << 16;
    /// Virtual 8086.
    pub const VM: u64 = 1 << 17;
    /// Alignment check, and access to user pages under SMAP.
    pub const AC: u64 = 1 << 18;
    /// Virtual interrupt flag.
    pub const VIF: u64 = 1 << 19;
    /// Virtual interrupt pending.
    pub const VIP: u64 = 1 << 20;
    /// CPUID is there.
    pub const ID: u64 = 1 << 21;
    /// The six arithmetic flags.
    pub const ARITHMETIC: u64 = CF | PF | AF | ZF | SF | OF;
}

/// The arithmetic flags as `lahf; seto al` leaves them in AX.
pub type HostFlags = u16;

/// CF in [`HostFlags`].
pub const HOST_CF: HostFlags = 1 << 8;
/// PF in [`HostFlags`].
pub const HOST_PF: HostFlags = 1 << 10;
/// AF in [`HostFlags`].
pub const HOST_AF: HostFlags = 1 << 12;
/// ZF in [`HostFlags`].
pub const HOST_ZF: HostFlags = 1 << 14;
/// SF in [`HostFlags`].
pub const HOST_SF: HostFlags = 1 << 15;
/// OF in [`HostFlags`].
pub const HOST_OF: HostFlags = 1;

/// Arithmetic flags as bits of RFLAGS.
#[inline]
pub const fn to_rflags(host: HostFlags) -> u64 {
    let lahf = (host >> 8) as u64;
    (lahf & (bit::CF | bit::PF | bit::AF | bit::ZF | bit::SF)) | ((host as u64 & 1) << 11)
}

/// Arithmetic flags from bits of RFLAGS.
#[inline]
pub const fn from_rflags(rflags: u64) -> HostFlags {
    let lahf = (rflags & (bit::CF | bit::PF | bit::AF | bit::ZF | bit::SF)) as u16;
    (lahf << 8) | ((rflags >> 11) & 1) as u16
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_flag_survives_the_round_trip() {
        for flag in [bit::CF, bit::PF, bit::AF, bit::ZF, bit::SF, bit::OF] {
            assert_eq!(to_rflags(from_rflags(flag)), flag);
            assert_eq!(from_rflags(flag).count_ones(), 1);
        }
        assert_eq!(from_rflags(bit::ZF), HOST_ZF);
        assert_eq!(from_rflags(bit::OF), HOST_OF);
    }
}
