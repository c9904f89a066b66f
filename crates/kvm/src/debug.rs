//! A debugger outside of the guest (KVM_SET_GUEST_DEBUG): the processor's four breakpoint registers, its trap flag, and INT3.
//!
//! While it has breakpoints of its own, those of the guest's debug registers do nothing.

use kvm_bindings::{
    KVM_GUESTDBG_BLOCKIRQ, KVM_GUESTDBG_ENABLE, KVM_GUESTDBG_INJECT_BP, KVM_GUESTDBG_INJECT_DB,
    KVM_GUESTDBG_SINGLESTEP, KVM_GUESTDBG_USE_HW_BP, KVM_GUESTDBG_USE_SW_BP, kvm_guest_debug,
    kvm_guest_debug_arch,
};
use ostler_accel::{DebugCause, DebugLimits, DebugRequest, Error, WatchKind};

/// What the processor offers.
pub const LIMITS: DebugLimits = DebugLimits {
    points: 4,
    reads: false,
    aligned: true,
};

/// Exception that a debug exit is for.
const DB: u32 = 1;
/// The same for INT3.
const BP: u32 = 3;
/// A single step, in DR6.
const DR6_BS: u64 = 1 << 14;
/// What is always set in DR7, and GE.
const DR7_BASE: u64 = 0x600;

/// What the debugger wants of one vCPU.
#[derive(Debug, Default)]
pub struct Debugging {
    request: DebugRequest,
    /// What DR0 to DR3 are for, as far as they are used.
    points: Vec<DebugCause>,
}

/// What a debug exit means.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Meaning {
    /// The debugger is to hear of it.
    ForDebugger(DebugCause),
    /// The guest raised this exception itself, and is to get it.
    ForGuest(u32),
}

impl Debugging {
    /// Takes over `request`, for a KVM that knows the flags in `known`. Returns what KVM is to be told.
    pub fn set(&mut self, request: &DebugRequest, known: u32) -> Result<kvm_guest_debug, Error> {
        let mut registers = [0; 8];
        registers[7] = DR7_BASE;
        let mut points = Vec::new();
        let executed = request
            .breakpoints
            .iter()
            .filter(|_| !request.step)
            .map(|&linear| (linear, 0, 1, DebugCause::Breakpoint));
        let accessed = request.watchpoints.iter().map(|watch| {
            let kind = if watch.kind == WatchKind::Write { 1 } else { 3 };
            let cause = DebugCause::Watchpoint {
                linear: watch.linear,
                kind: watch.kind,
            };
            (watch.linear, kind, watch.len, cause)
        });
        for (number, (linear, kind, len, cause)) in executed.chain(accessed).enumerate() {
            let len_code = match len {
                1 => 0,
                2 => 1,
                4 => 3,
                8 => 2,
                _ => return Err(refused()),
            };
            if number >= LIMITS.points || !linear.is_multiple_of(len) {
                return Err(refused());
            }
            registers[number] = linear;
            registers[7] |= 2 << (2 * number) | (kind | len_code << 2) << (16 + 4 * number);
            points.push(cause);
        }
        let mut control = 0;
        if request.step {
            control |= KVM_GUESTDBG_SINGLESTEP | KVM_GUESTDBG_BLOCKIRQ & known;
        }
        if !points.is_empty() {
            control |= KVM_GUESTDBG_USE_HW_BP;
        }
        if !request.patched.is_empty() {
            control |= KVM_GUESTDBG_USE_SW_BP;
        }
        if control != 0 {
            control |= KVM_GUESTDBG_ENABLE;
        }
        (self.request, self.points) = (request.clone(), points);
        Ok(kvm_guest_debug {
            control,
            pad: 0,
            arch: kvm_guest_debug_arch { debugreg: registers },
        })
    }

    /// What the exit for `exception` at linear address `pc`, with `dr6`, means.
    pub fn meaning(&self, exception: u32, pc: u64, dr6: u64) -> Meaning {
        if exception == BP {
            return if self.request.patched.contains(&pc) {
                Meaning::ForDebugger(DebugCause::Breakpoint)
            } else {
                Meaning::ForGuest(BP)
            };
        }
        let met = (0..self.points.len()).find(|n| dr6 >> n & 1 != 0);
        match met {
            Some(number) => Meaning::ForDebugger(self.points[number]),
            None if dr6 & DR6_BS != 0 && self.request.step => Meaning::ForDebugger(DebugCause::Step),
            None => Meaning::ForGuest(DB),
        }
    }

    /// What KVM was told last.
    pub fn current(&self, known: u32) -> Result<kvm_guest_debug, Error> {
        Debugging::default().set(&self.request, known)
    }

    /// Tells KVM to give the guest its own `exception`, and everything else as it is.
    pub fn give_back(&self, exception: u32, known: u32) -> Result<kvm_guest_debug, Error> {
        let mut again = self.current(known)?;
        again.control |= match exception {
            BP => KVM_GUESTDBG_INJECT_BP,
            _ => KVM_GUESTDBG_INJECT_DB,
        };
        Ok(again)
    }
}

fn refused() -> Error {
    Error::Unsupported(
        "the processor has four breakpoint registers, for aligned addresses of 1, 2, 4 or 8 bytes".into(),
    )
}

#[cfg(test)]
mod tests {
    use super::*;
    use ostler_accel::Watchpoint;

    fn watch(linear: u64, len: u64, kind: WatchKind) -> Watchpoint {
        Watchpoint { linear, len, kind }
    }

    #[test]
    fn breakpoints_and_watchpoints_share_four_registers() {
        let mut debugging = Debugging::default();
        let mut request = DebugRequest {
            breakpoints: vec![0x1001],
            watchpoints: vec![
                watch(0x2000, 8, WatchKind::Write),
                watch(0x3004, 4, WatchKind::Access),
            ],
            ..DebugRequest::default()
        };
        let told = debugging.set(&request, 0).unwrap();
        assert_eq!(told.control, KVM_GUESTDBG_ENABLE | KVM_GUESTDBG_USE_HW_BP);
        assert_eq!(told.arch.debugreg[..4], [0x1001, 0x2000, 0x3004, 0]);
        assert_eq!(told.arch.debugreg[7], 0x600 | 0x2a | 0x9 << 20 | 0xf << 24);
        assert_eq!(
            debugging.meaning(DB, 0x5000, 0xffff_0ff2),
            Meaning::ForDebugger(DebugCause::Watchpoint {
                linear: 0x2000,
                kind: WatchKind::Write
            })
        );
        assert_eq!(
            debugging.meaning(DB, 0x1001, 0xffff_0ff1),
            Meaning::ForDebugger(DebugCause::Breakpoint)
        );
        request.watchpoints.push(watch(0x4001, 2, WatchKind::Write));
        assert!(debugging.set(&request, 0).is_err(), "not aligned");
        request.watchpoints[2] = watch(0x4000, 1, WatchKind::Write);
        assert!(debugging.set(&request, 0).is_ok());
        request.watchpoints.push(watch(0x4000, 1, WatchKind::Write));
        assert!(debugging.set(&request, 0).is_err(), "one too many");
    }

    #[test]
    fn what_the_guest_raised_itself_goes_to_the_guest() {
        let mut debugging = Debugging::default();
        let request = DebugRequest {
            patched: vec![0x1000],
            ..DebugRequest::default()
        };
        let told = debugging.set(&request, 0).unwrap();
        assert_eq!(told.control, KVM_GUESTDBG_ENABLE | KVM_GUESTDBG_USE_SW_BP);
        assert_eq!(
            debugging.meaning(BP, 0x1000, 0),
            Meaning::ForDebugger(DebugCause::Breakpoint)
        );
        assert_eq!(debugging.meaning(BP, 0x1001, 0), Meaning::ForGuest(BP));
        assert_eq!(debugging.meaning(DB, 0x1001, DR6_BS), Meaning::ForGuest(DB));
        let back = debugging.give_back(BP, 0).unwrap();
        assert_eq!(back.control, told.control | KVM_GUESTDBG_INJECT_BP);
    }

    #[test]
    fn a_step_takes_no_interrupt_where_kvm_can_hold_it_back() {
        let mut debugging = Debugging::default();
        let request = DebugRequest {
            step: true,
            ..DebugRequest::default()
        };
        let flags = |known| {
            let step = DebugRequest {
                step: true,
                ..DebugRequest::default()
            };
            Debugging::default().set(&step, known).unwrap().control
        };
        assert_eq!(flags(0), KVM_GUESTDBG_ENABLE | KVM_GUESTDBG_SINGLESTEP);
        assert_eq!(flags(u32::MAX), flags(0) | KVM_GUESTDBG_BLOCKIRQ);
        // The breakpoint that it steps away from does not count.
        let request = DebugRequest {
            breakpoints: vec![5],
            ..request
        };
        assert_eq!(debugging.set(&request, 0).unwrap().control, flags(0));
        assert_eq!(
            debugging.meaning(DB, 5, 0xffff_0ff0 | DR6_BS),
            Meaning::ForDebugger(DebugCause::Step)
        );
        assert_eq!(
            debugging.set(&DebugRequest::default(), 0).unwrap().control,
            0,
            "nothing is left on"
        );
    }
}
