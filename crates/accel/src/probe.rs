//! The built-in probe: how fast an accelerator executes a kernel's code.
//!
//! A /dev/kvm that opens may still only emulate (a host kernel that runs KVM without hardware help does), thousands of
//! times slower than hardware. So a tiny guest runs a counting loop in 64-bit mode at privilege level 0, where a guest's
//! kernel runs, and is timed.

use std::fmt;
use std::time::{Duration, Instant};

use ostler_memory::vm_memory::{Bytes, GuestAddress};
use ostler_memory::{RamOptions, RamSlot};

use crate::bare_metal::{TABLES_SIZE, identity_map, long_mode_state};
use crate::{Accelerator, Error, Exit, Vcpu, VmConfig};

/// Port on which the guest asks for the next number of rounds (in) and says that it is done (out).
const PORT: u16 = 0xf0;
/// The guest: `top: in eax, dx; mov ecx, eax; again: dec ecx; jnz again; out dx, al; jmp top`.
const CODE: &[u8] = &[
    0xba, 0xf0, 0, 0, 0, 0xed, 0x89, 0xc1, 0xff, 0xc9, 0x75, 0xfc, 0xee, 0xeb, 0xf6,
];
const INSTRUCTIONS_A_ROUND: f64 = 2.0;
const CODE_AT: u64 = 0x1000;
const TABLES_AT: u64 = 0x2000;
const RAM_SIZE: u64 = TABLES_AT + TABLES_SIZE;

/// Rounds of the first, short run, which maps the pages and warms the caches.
const WARM_UP_ROUNDS: u32 = 16;
/// Rounds that tell hardware from emulation: 0.3 ms at 2.6 MIPS, microseconds on hardware.
const COARSE_ROUNDS: u32 = 400;
/// How often the coarse run is tried: other work on the host may fall into one.
const COARSE_TRIES: usize = 3;
/// A coarse run within this promises hardware, and a good figure is worth its time.
const COARSE_LIMIT: Duration = Duration::from_micros(150);
/// Rounds for a good figure: at most 2 ms on what is fast.
const FINE_ROUNDS: u32 = 100_000;
/// Exits that the guest may cause before it is taken for broken.
const MAX_EXITS: usize = 64;

/// Million guest instructions a second.
#[derive(Debug, Clone, Copy, PartialEq, PartialOrd)]
pub struct Mips(pub f64);

impl Mips {
    /// Below this, a device merely emulates. Hardware does more than 1,000.
    pub const HARDWARE: Mips = Mips(100.0);

    /// True if instructions run on hardware.
    pub fn is_hardware_speed(self) -> bool {
        self > Self::HARDWARE
    }
}

impl fmt::Display for Mips {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let digits = if self.0 < 100.0 { 1 } else { 0 };
        write!(f, "{:.digits$} million instructions a second", self.0)
    }
}

/// Times the probe guest on `accelerator`. Takes a few milliseconds, most of it where the answer is "slow".
pub fn measure(accelerator: &dyn Accelerator) -> Result<Mips, Error> {
    let ram = ostler_memory::allocate(RAM_SIZE, RamOptions::default())
        .map_err(|e| Error::Unsupported(format!("no memory for the probe guest: {e}")))?;
    identity_map(&ram, TABLES_AT)?;
    ram.write_slice(CODE, GuestAddress(CODE_AT))
        .map_err(|e| Error::Unsupported(format!("no memory for the probe guest: {e}")))?;
    let vm = accelerator.create_vm(VmConfig {
        cpus: 1,
        slots: RamSlot::all_of(&ram),
    })?;
    let mut vcpu = vm.create_vcpu(0, &accelerator.supported_cpuid()?)?;
    vcpu.set_state(&long_mode_state(0, CODE_AT, CODE_AT, TABLES_AT))?;

    time_rounds(&mut *vcpu, WARM_UP_ROUNDS)?;
    let mut best = Duration::MAX;
    for _ in 0..COARSE_TRIES {
        best = best.min(time_rounds(&mut *vcpu, COARSE_ROUNDS)?);
        if best < COARSE_LIMIT {
            return Ok(rate(FINE_ROUNDS, time_rounds(&mut *vcpu, FINE_ROUNDS)?));
        }
    }
    Ok(rate(COARSE_ROUNDS, best))
}

fn rate(rounds: u32, elapsed: Duration) -> Mips {
    let microseconds = elapsed.as_secs_f64().max(1e-9) * 1e6;
    Mips(f64::from(rounds) * INSTRUCTIONS_A_ROUND / microseconds)
}

/// Lets the guest count `rounds` rounds, from the moment that it is told until it says that it is done.
fn time_rounds(vcpu: &mut dyn Vcpu, rounds: u32) -> Result<Duration, Error> {
    let mut start = None;
    for _ in 0..MAX_EXITS {
        match vcpu.run()? {
            Exit::PortRead {
                port: PORT,
                width: 4,
                data,
            } if data.len() == 4 => {
                data.copy_from_slice(&rounds.to_le_bytes());
                start = Some(Instant::now());
            }
            Exit::PortWrite { port: PORT, .. } => {
                if let Some(start) = start {
                    return Ok(start.elapsed());
                }
            }
            Exit::Kicked => {}
            other => {
                return Err(Error::Unsupported(format!(
                    "the probe guest failed on this accelerator: {other:?}"
                )));
            }
        }
    }
    Err(Error::Unsupported(
        "the probe guest on this accelerator does not answer".into(),
    ))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_loop_of_dec_and_jnz_has_two_instructions() {
        assert_eq!(rate(500_000, Duration::from_millis(1)), Mips(1000.0));
        assert!(rate(500_000, Duration::from_millis(1)).is_hardware_speed());
        assert!(!Mips(2.6).is_hardware_speed());
        assert_eq!(Mips(2.64).to_string(), "2.6 million instructions a second");
        assert!(rate(1, Duration::ZERO).0.is_finite());
    }
}
