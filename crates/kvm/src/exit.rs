//! Why KVM_RUN returned, read from the page that the kernel shares with the vCPU.

use std::ops::Range;

use kvm_bindings::{
    KVM_EXIT_DEBUG, KVM_EXIT_FAIL_ENTRY, KVM_EXIT_HYPERV, KVM_EXIT_HYPERV_HCALL, KVM_EXIT_INTERNAL_ERROR,
    KVM_EXIT_INTR, KVM_EXIT_IO, KVM_EXIT_IO_OUT, KVM_EXIT_IOAPIC_EOI, KVM_EXIT_IRQ_WINDOW_OPEN,
    KVM_EXIT_MMIO, KVM_EXIT_SHUTDOWN, KVM_EXIT_SYSTEM_EVENT, KVM_EXIT_X86_WRMSR,
    KVM_INTERNAL_ERROR_EMULATION, KVM_SYSTEM_EVENT_RESET, kvm_run,
};

use crate::hyperv::END_OF_MESSAGE;

/// An exit without borrows: where data is involved, it lies in `kvm_run`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Reason {
    /// Port access; `data` are the bytes within the mapping of `kvm_run`.
    Port {
        port: u16,
        width: u8,
        write: bool,
        data: Range<usize>,
    },
    /// Access to what is no RAM; `len` bytes of `kvm_run.mmio.data`.
    Mmio { gpa: u64, len: usize, write: bool },
    /// End of a level-triggered interrupt.
    EndOfInterrupt { vector: u8 },
    /// The guest can take an external interrupt now.
    InterruptWindow,
    /// A signal came.
    Interrupted,
    /// Triple fault.
    Shutdown,
    /// The guest resets its machine by a register of Hyper-V's interface.
    Reset,
    /// A hypercall of Hyper-V's interface that KVM does not do; its input value, and the parameter itself or where in
    /// memory it is. The answer goes into `kvm_run`.
    Hypercall { input: u64, parameter: u64 },
    /// The guest placed pages of Hyper-V's interface.
    HypervPages,
    /// The guest took a message out of its slot, and says so.
    EndOfMessage,
    /// An instruction that KVM cannot emulate.
    EmulationFailed,
    /// A breakpoint, a step, or INT3, while there is a debugger.
    Debug { exception: u32, pc: u64, dr6: u64 },
    /// KVM cannot go on with this guest.
    Broken(String),
}

/// Decodes `run` after a KVM_RUN that returned without error; `mapped` is the size of its mapping in bytes.
pub fn decode(run: &kvm_run, mapped: usize) -> Reason {
    match run.exit_reason {
        KVM_EXIT_IO => port_access(run, mapped),
        KVM_EXIT_MMIO => {
            // SAFETY: the exit reason says which member of the union the kernel filled; it is plain data.
            let mmio = unsafe { run.__bindgen_anon_1.mmio };
            let len = (mmio.len as usize).min(mmio.data.len());
            Reason::Mmio {
                gpa: mmio.phys_addr,
                len,
                write: mmio.is_write != 0,
            }
        }
        KVM_EXIT_IOAPIC_EOI => {
            // SAFETY: as above.
            let eoi = unsafe { run.__bindgen_anon_1.eoi };
            Reason::EndOfInterrupt { vector: eoi.vector }
        }
        KVM_EXIT_DEBUG => {
            // SAFETY: as above.
            let arch = unsafe { run.__bindgen_anon_1.debug }.arch;
            Reason::Debug {
                exception: arch.exception,
                pc: arch.pc,
                dr6: arch.dr6,
            }
        }
        KVM_EXIT_HYPERV => hyperv(run),
        KVM_EXIT_X86_WRMSR => write_of_msr(run),
        KVM_EXIT_SYSTEM_EVENT => system_event(run),
        KVM_EXIT_IRQ_WINDOW_OPEN => Reason::InterruptWindow,
        KVM_EXIT_INTR => Reason::Interrupted,
        KVM_EXIT_SHUTDOWN => Reason::Shutdown,
        KVM_EXIT_INTERNAL_ERROR => internal_error(run),
        KVM_EXIT_FAIL_ENTRY => {
            // SAFETY: as above.
            let fail = unsafe { run.__bindgen_anon_1.fail_entry };
            Reason::Broken(format!(
                "the processor refused to enter the guest (reason {:#x})",
                fail.hardware_entry_failure_reason
            ))
        }
        other => Reason::Broken(format!(
            "KVM left the guest for a reason that it was not asked for ({other})"
        )),
    }
}

fn port_access(run: &kvm_run, mapped: usize) -> Reason {
    // SAFETY: the exit reason says which member of the union the kernel filled; it is plain data.
    let io = unsafe { run.__bindgen_anon_1.io };
    let start = usize::try_from(io.data_offset).unwrap_or(usize::MAX);
    let len = usize::from(io.size) * io.count as usize;
    match start.checked_add(len) {
        Some(end) if end <= mapped && matches!(io.size, 1 | 2 | 4) => Reason::Port {
            port: io.port,
            width: io.size,
            write: u32::from(io.direction) == KVM_EXIT_IO_OUT,
            data: start..end,
        },
        _ => Reason::Broken(format!(
            "KVM described a port access of {len} bytes outside of its own page"
        )),
    }
}

fn hyperv(run: &kvm_run) -> Reason {
    // SAFETY: the exit reason says which member of the union the kernel filled; it is plain data.
    let hyperv = unsafe { run.__bindgen_anon_1.hyperv };
    if hyperv.type_ != KVM_EXIT_HYPERV_HCALL {
        return Reason::HypervPages;
    }
    // SAFETY: as above, by its type.
    let call = unsafe { hyperv.u.hcall };
    Reason::Hypercall {
        input: call.input,
        parameter: call.params[0],
    }
}

fn write_of_msr(run: &kvm_run) -> Reason {
    // SAFETY: the exit reason says which member of the union the kernel filled; it is plain data.
    let msr = unsafe { run.__bindgen_anon_1.msr };
    if msr.index == END_OF_MESSAGE {
        return Reason::EndOfMessage;
    }
    Reason::Broken(format!(
        "KVM left the guest for a write of MSR {:#x}, which it was not asked for",
        msr.index
    ))
}

fn system_event(run: &kvm_run) -> Reason {
    // SAFETY: the exit reason says which member of the union the kernel filled; it is plain data.
    let event = unsafe { run.__bindgen_anon_1.system_event };
    if event.type_ == KVM_SYSTEM_EVENT_RESET {
        return Reason::Reset;
    }
    Reason::Broken(format!(
        "KVM told of an event of the system that it was not asked for ({})",
        event.type_
    ))
}

fn internal_error(run: &kvm_run) -> Reason {
    // SAFETY: the exit reason says which member of the union the kernel filled; it is plain data.
    let internal = unsafe { run.__bindgen_anon_1.internal };
    if internal.suberror == KVM_INTERNAL_ERROR_EMULATION {
        return Reason::EmulationFailed;
    }
    let count = (internal.ndata as usize).min(internal.data.len());
    Reason::Broken(format!(
        "KVM met an internal error {} ({:x?})",
        internal.suberror,
        &internal.data[..count]
    ))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn run(exit_reason: u32) -> kvm_run {
        kvm_run {
            exit_reason,
            ..Default::default()
        }
    }

    #[test]
    fn a_port_access_outside_of_the_page_is_no_access() {
        let mut page = run(KVM_EXIT_IO);
        for (size, count, offset) in [(4, 2000, 4096), (1, 1, u64::MAX), (3, 1, 64), (1, u32::MAX, 64)] {
            page.__bindgen_anon_1.io.size = size;
            page.__bindgen_anon_1.io.count = count;
            page.__bindgen_anon_1.io.data_offset = offset;
            assert!(
                matches!(decode(&page, 8192), Reason::Broken(_)),
                "{size} {count} {offset}"
            );
        }
        page.__bindgen_anon_1.io.size = 2;
        page.__bindgen_anon_1.io.count = 3;
        page.__bindgen_anon_1.io.data_offset = 4096;
        page.__bindgen_anon_1.io.port = 0x1f0;
        let expected = Reason::Port {
            port: 0x1f0,
            width: 2,
            write: false,
            data: 4096..4102,
        };
        assert_eq!(decode(&page, 8192), expected);
    }

    #[test]
    fn an_mmio_access_is_at_most_eight_bytes() {
        let mut page = run(KVM_EXIT_MMIO);
        page.__bindgen_anon_1.mmio.len = 99;
        assert_eq!(
            decode(&page, 4096),
            Reason::Mmio {
                gpa: 0,
                len: 8,
                write: false
            }
        );
    }

    #[test]
    fn hyperv_has_hypercalls_pages_and_a_reset() {
        let mut page = run(KVM_EXIT_HYPERV);
        page.__bindgen_anon_1.hyperv.type_ = KVM_EXIT_HYPERV_HCALL;
        page.__bindgen_anon_1.hyperv.u.hcall.input = 0x5c;
        page.__bindgen_anon_1.hyperv.u.hcall.params = [0x7000, 0x8000];
        let call = Reason::Hypercall {
            input: 0x5c,
            parameter: 0x7000,
        };
        assert_eq!(decode(&page, 4096), call);
        for other in [0, 1, 3, u32::MAX] {
            page.__bindgen_anon_1.hyperv.type_ = other;
            assert_eq!(decode(&page, 4096), Reason::HypervPages, "{other}");
        }
        let mut page = run(KVM_EXIT_SYSTEM_EVENT);
        page.__bindgen_anon_1.system_event.type_ = KVM_SYSTEM_EVENT_RESET;
        assert_eq!(decode(&page, 4096), Reason::Reset);
        page.__bindgen_anon_1.system_event.type_ = 3;
        assert!(matches!(decode(&page, 4096), Reason::Broken(_)));
    }

    #[test]
    fn of_msrs_only_the_end_of_a_message_is_ours() {
        let mut page = run(KVM_EXIT_X86_WRMSR);
        page.__bindgen_anon_1.msr.index = 0x4000_0084;
        assert_eq!(decode(&page, 4096), Reason::EndOfMessage);
        page.__bindgen_anon_1.msr.index = 0x4000_0083;
        assert!(matches!(decode(&page, 4096), Reason::Broken(_)));
    }

    #[test]
    fn only_a_failed_emulation_can_be_helped() {
        let mut page = run(KVM_EXIT_INTERNAL_ERROR);
        page.__bindgen_anon_1.internal.suberror = KVM_INTERNAL_ERROR_EMULATION;
        assert_eq!(decode(&page, 4096), Reason::EmulationFailed);
        page.__bindgen_anon_1.internal.suberror = 3;
        page.__bindgen_anon_1.internal.ndata = u32::MAX;
        assert!(matches!(decode(&page, 4096), Reason::Broken(_)));
        assert!(matches!(decode(&run(999), 4096), Reason::Broken(_)));
    }
}
