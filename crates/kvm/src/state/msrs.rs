//! Model-specific registers: which belong to a vCPU's state, and in which order they are set.

use kvm_bindings::{Msrs as Table, kvm_msr_entry};
use kvm_ioctls::{Kvm, VcpuFd};
use ostler_accel::model::hyperv;
use ostler_accel::{CpuidLeaf, Error, Msr};

pub const TSC: u32 = 0x10;
pub const KERNEL_GS_BASE: u32 = 0xc000_0102;
/// Where system management mode has its code and its saved state. Guests do not reach it but by that saved state.
pub const SMBASE: u32 = 0x9e;
const TSC_DEADLINE: u32 = 0x6e0;

/// The MSRs of a vCPU's state in the order in which they are set, but for those that other fields of the state carry
/// (EFER, APIC base, FS and GS base). Those that a host does not know are left out there.
const STATE_MSRS: &[(u32, u32)] = &[
    // What the processor is and how it is switched: IA32_FEATURE_CONTROL, TSC_ADJUST (before the TSC), SPEC_CTRL,
    // TSX_CTRL, MISC_FEATURES_ENABLES, MISC_ENABLE, SYSCFG, HWCR, VIRT_SPEC_CTRL, DE_CFG. What only describes the model
    // (ARCH_CAPABILITIES, the microcode's revision) is no state.
    (0x3a, 0x3b),
    (0x48, 0x48),
    (0x122, 0x122),
    (0x140, 0x140),
    (0x1a0, 0x1a0),
    (0xc001_0010, 0xc001_0010),
    (0xc001_0015, 0xc001_0015),
    (0xc001_011f, 0xc001_011f),
    (0xc001_1029, 0xc001_1029),
    // SVM: the host's saved state, the scale of a guest's TSC.
    (0xc001_0117, 0xc001_0117),
    (0xc000_0104, 0xc000_0104),
    // System calls.
    (0x174, 0x176),
    (0xc000_0081, 0xc000_0084),
    (0xc000_0102, 0xc000_0103),
    // Memory types: PAT, MTRRs (fixed and variable before the default that enables them).
    (0x277, 0x277),
    (0x200, 0x20f),
    (0x250, 0x250),
    (0x258, 0x259),
    (0x268, 0x26f),
    (0x2ff, 0x2ff),
    // Machine check status, DEBUGCTL, UMWAIT_CONTROL, XFD and its error, XSS.
    (0x17a, 0x17a),
    (0x1d9, 0x1d9),
    (0xe1, 0xe1),
    (0x1c4, 0x1c5),
    (0xda0, 0xda0),
    // The TSC, then what is computed from it: the paravirtual clock, steal time, asynchronous page faults, EOI, poll.
    (TSC, TSC),
    (0x11, 0x12),
    (0x4b56_4d00, 0x4b56_4d07),
    // Needs the LAPIC's timer in its mode.
    (TSC_DEADLINE, TSC_DEADLINE),
];

/// Those of Hyper-V's interface (Hypervisor Top Level Functional Specification 6.0b, appendix C), of vCPUs that show it. After
/// KVM's own: its end of an interrupt and that of the page of virtual processors are one, which the latter decides then.
const HYPERV_MSRS: &[(u32, u32)] = &[
    // The guest's identity before its hypercall page; the virtual processor's index; its run time; the page of the reference TSC.
    (0x4000_0000, 0x4000_0002),
    (0x4000_0010, 0x4000_0010),
    (0x4000_0021, 0x4000_0021),
    // The page of virtual processors.
    (0x4000_0073, 0x4000_0073),
    // The synthetic interrupt controller: its pages and sources, then the switch.
    (0x4000_0082, 0x4000_0083),
    (0x4000_0090, 0x4000_009f),
    (0x4000_0080, 0x4000_0080),
    // Synthetic timers: configuration and count of each.
    (0x4000_00b0, 0x4000_00b7),
];

/// The MSRs that instructions use by themselves: the TSC, SYSENTER, SYSCALL, SWAPGS, RDTSCP and RDPID. FS and GS base and EFER
/// are among the special registers.
pub const INSTRUCTION_MSRS: [u32; 10] = [
    TSC,
    0x174,
    0x175,
    0x176,
    0xc000_0081,
    0xc000_0082,
    0xc000_0083,
    0xc000_0084,
    0xc000_0102,
    0xc000_0103,
];

/// SMBASE as an MSR.
pub fn smbase(base: u32) -> Msr {
    Msr {
        index: SMBASE,
        value: base.into(),
    }
}

/// The MSRs of one vCPU's state.
pub struct Msrs {
    /// In the order in which they are set.
    order: Vec<u32>,
    /// Values after RESET, for those that a state does not mention.
    reset: Vec<Msr>,
}

impl Msrs {
    /// Those of the fresh vCPU `fd`, which answers CPUID by `cpuid`: `known` of all vCPUs, and what it has besides.
    pub fn of(fd: &VcpuFd, known: &[u32], cpuid: &[CpuidLeaf]) -> Result<Self, Error> {
        let order = in_order(known, hyperv::is_shown(cpuid));
        let reset = read(fd, &order)?;
        Ok(Self { order, reset })
    }

    /// Their values, without those that are as after RESET: a restore gives them that value unasked, and the other accelerator
    /// need not know them.
    pub fn read(&self, fd: &VcpuFd) -> Result<Vec<Msr>, Error> {
        let mut msrs = read(fd, &self.order)?;
        msrs.retain(|msr| msr.index == TSC || !self.reset.contains(msr));
        Ok(msrs)
    }

    /// What is to be set before the LAPIC, and after it: the state's MSRs in order, then those that only the state
    /// knows, and the reset values of those that the state does not mention. The TSC runs on where it is not mentioned.
    pub fn groups(&self, state: &[Msr]) -> (Vec<Msr>, Vec<Msr>) {
        let value = |index: u32| {
            let mentioned = state.iter().find(|msr| msr.index == index);
            let unmentioned = self.reset.iter().find(|msr| msr.index == index && index != TSC);
            mentioned.or(unmentioned).copied()
        };
        let foreign = state
            .iter()
            .filter(|msr| !self.order.contains(&msr.index) && msr.index != TSC_DEADLINE)
            .copied();
        let early = foreign.chain(
            self.order
                .iter()
                .filter(|&&index| index != TSC_DEADLINE)
                .filter_map(|&i| value(i)),
        );
        (early.collect(), value(TSC_DEADLINE).into_iter().collect())
    }
}

fn in_order(known: &[u32], with_hyperv: bool) -> Vec<u32> {
    let further = if with_hyperv { HYPERV_MSRS } else { &[] };
    let further = further.iter().flat_map(|&(first, last)| first..=last);
    known.iter().copied().chain(further).collect()
}

/// The state's MSRs that this KVM can save, in order.
pub fn supported(kvm: &Kvm) -> Result<Vec<u32>, Error> {
    let known = kvm
        .get_msr_index_list()
        .map_err(|e| Error::host("list the MSRs that KVM saves", e))?;
    let known = known.as_slice();
    // KVM's list names the MSRs that it saves; a few of the architecture it knows without naming them.
    let unlisted =
        |index: u32| matches!(index, 0x200..=0x20f | 0x250 | 0x258 | 0x259 | 0x268..=0x26f | 0x2ff);
    Ok(STATE_MSRS
        .iter()
        .flat_map(|&(first, last)| first..=last)
        .filter(|&index| known.contains(&index) || unlisted(index))
        .collect())
}

/// Reads `indices`. Those that this vCPU's model does not have are left out.
pub fn read(fd: &VcpuFd, indices: &[u32]) -> Result<Vec<Msr>, Error> {
    let mut result = Vec::with_capacity(indices.len());
    let mut rest = indices;
    while !rest.is_empty() {
        let entries: Vec<_> = rest
            .iter()
            .map(|&index| kvm_msr_entry {
                index,
                ..Default::default()
            })
            .collect();
        let mut table = table(&entries)?;
        let done = fd
            .get_msrs(&mut table)
            .map_err(|e| Error::host("read a vCPU's MSRs", e))?;
        let read = &table.as_slice()[..done.min(rest.len())];
        result.extend(read.iter().map(|entry| Msr {
            index: entry.index,
            value: entry.data,
        }));
        // KVM stops at one that it refuses: step over it.
        rest = rest.get(done + 1..).unwrap_or(&[]);
    }
    Ok(result)
}

/// Sets `msrs` in order. One that KVM refuses is an error, unless it is zero: then the guest misses nothing.
pub fn write(fd: &VcpuFd, msrs: &[Msr]) -> Result<(), Error> {
    let mut rest = msrs;
    while !rest.is_empty() {
        let entries: Vec<_> = rest
            .iter()
            .map(|msr| kvm_msr_entry {
                index: msr.index,
                data: msr.value,
                ..Default::default()
            })
            .collect();
        let done = fd
            .set_msrs(&table(&entries)?)
            .map_err(|e| Error::host("set a vCPU's MSRs", e))?;
        if let Some(refused) = rest.get(done)
            && refused.value != 0
        {
            return Err(Error::BadState(format!(
                "KVM on this host refuses the value {:#x} in MSR {:#x}",
                refused.value, refused.index
            )));
        }
        rest = rest.get(done + 1..).unwrap_or(&[]);
    }
    Ok(())
}

/// A TSC that is decades away from `tsc`.
pub fn far_from(tsc: Msr) -> Msr {
    Msr {
        value: tsc.value ^ 1 << 62,
        ..tsc
    }
}

fn table(entries: &[kvm_msr_entry]) -> Result<Table, Error> {
    Table::from_entries(entries)
        .map_err(|_| Error::BadState(format!("{} MSRs are more than KVM sets at once", entries.len())))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn msr(index: u32, value: u64) -> Msr {
        Msr { index, value }
    }

    #[test]
    fn msrs_are_set_in_order_with_the_deadline_after_the_lapic() {
        let order = [0x174, TSC, 0x4b56_4d01, TSC_DEADLINE];
        let reset = order.iter().map(|&index| msr(index, 0)).collect();
        let msrs = Msrs {
            order: order.to_vec(),
            reset,
        };
        let state = [
            msr(TSC_DEADLINE, 9),
            msr(TSC, 5),
            msr(0x4b56_4d01, 3),
            msr(0x999, 1),
        ];
        let (early, late) = msrs.groups(&state);
        assert_eq!(
            early,
            [msr(0x999, 1), msr(0x174, 0), msr(TSC, 5), msr(0x4b56_4d01, 3)]
        );
        assert_eq!(late, [msr(TSC_DEADLINE, 9)]);
    }

    #[test]
    fn a_state_without_msrs_resets_them_but_lets_the_tsc_run() {
        let order = [0x174, TSC, 0x4b56_4d01];
        let reset = vec![msr(0x174, 0), msr(TSC, 77), msr(0x4b56_4d01, 0)];
        let msrs = Msrs {
            order: order.to_vec(),
            reset,
        };
        let (early, late) = msrs.groups(&[]);
        assert_eq!(early, [msr(0x174, 0), msr(0x4b56_4d01, 0)]);
        assert!(late.is_empty());
    }

    #[test]
    fn only_who_shows_hypervs_interface_has_its_registers() {
        let known = [TSC, 0x4b56_4d04];
        assert_eq!(in_order(&known, false), known);
        let all = in_order(&known, true);
        assert_eq!(all[..2], known, "behind KVM's own");
        let place = |index| all.iter().position(|&i| i == index).unwrap();
        assert!(
            place(0x4000_0000) < place(0x4000_0001),
            "the page needs the identity"
        );
        assert!(place(0x4000_009f) < place(0x4000_0080), "the switch comes last");
        assert_eq!(all.len(), 2 + 3 + 3 + 2 + 16 + 1 + 8);
    }
}
