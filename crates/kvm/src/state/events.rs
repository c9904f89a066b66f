//! Exceptions, interrupts and NMIs on their way, and whether the vCPU runs.

use kvm_bindings::{
    KVM_MP_STATE_HALTED, KVM_MP_STATE_INIT_RECEIVED, KVM_MP_STATE_RUNNABLE, KVM_MP_STATE_UNINITIALIZED,
    KVM_VCPUEVENT_VALID_NMI_PENDING, KVM_VCPUEVENT_VALID_SHADOW, KVM_VCPUEVENT_VALID_SMM,
    KVM_X86_SHADOW_INT_MOV_SS, KVM_X86_SHADOW_INT_STI, kvm_mp_state, kvm_vcpu_events,
};
use kvm_ioctls::VcpuFd;
use ostler_accel::{Error, MpState, PendingEvents, SmmState};

/// IF in RFLAGS.
const INTERRUPTS_ON: u64 = 1 << 9;

/// Reads whether the vCPU runs. KVM acts on a pending INIT or start-up IPI first, which may change registers.
pub fn mp_state(fd: &VcpuFd) -> Result<MpState, Error> {
    let state = fd
        .get_mp_state()
        .map_err(|e| Error::host("ask whether a vCPU runs", e))?;
    Ok(match state.mp_state {
        KVM_MP_STATE_UNINITIALIZED => MpState::Uninitialized,
        KVM_MP_STATE_INIT_RECEIVED => MpState::WaitForSipi,
        KVM_MP_STATE_HALTED => MpState::Halted,
        _ => MpState::Runnable,
    })
}

/// False while it waits for INIT or a start-up IPI.
pub fn is_started(state: MpState) -> bool {
    matches!(state, MpState::Runnable | MpState::Halted)
}

/// Sets whether the vCPU runs.
pub fn set_mp_state(fd: &VcpuFd, state: MpState) -> Result<(), Error> {
    let mp_state = match state {
        MpState::Runnable => KVM_MP_STATE_RUNNABLE,
        MpState::Uninitialized => KVM_MP_STATE_UNINITIALIZED,
        MpState::WaitForSipi => KVM_MP_STATE_INIT_RECEIVED,
        MpState::Halted => KVM_MP_STATE_HALTED,
    };
    fd.set_mp_state(kvm_mp_state { mp_state })
        .map_err(|e| Error::host("set whether a vCPU runs", e))
}

fn get(fd: &VcpuFd) -> Result<kvm_vcpu_events, Error> {
    fd.get_vcpu_events()
        .map_err(|e| Error::host("read a vCPU's pending events", e))
}

fn set(fd: &VcpuFd, events: &kvm_vcpu_events) -> Result<(), Error> {
    fd.set_vcpu_events(events)
        .map_err(|e| Error::host("set a vCPU's pending events", e))
}

/// What is on its way into the guest.
pub fn read(fd: &VcpuFd) -> Result<PendingEvents, Error> {
    get(fd).map(|events| to_pending(&events))
}

/// The same, and what concerns system management mode but for SMBASE.
pub fn read_all(fd: &VcpuFd) -> Result<(PendingEvents, SmmState), Error> {
    get(fd).map(|events| (to_pending(&events), to_smm(&events)))
}

/// Replaces what is on its way into the guest, and with `smm` whether it is in system management mode.
pub fn write(fd: &VcpuFd, pending: &PendingEvents, smm: Option<&SmmState>) -> Result<(), Error> {
    let mut events = from_pending(pending);
    if let Some(smm) = smm {
        put_smm(&mut events, smm);
    }
    set(fd, &events)
}

/// Takes the vCPU out of system management mode, where it is in it, and drops an SMI that waits.
pub fn leave_smm(fd: &VcpuFd) -> Result<(), Error> {
    let mut events = get(fd)?;
    events.flags = 0;
    put_smm(&mut events, &SmmState::default());
    set(fd, &events)
}

fn to_smm(events: &kvm_vcpu_events) -> SmmState {
    let smi = &events.smi;
    let active = smi.smm != 0;
    SmmState {
        active,
        pending: smi.pending != 0,
        inside_nmi: smi.smm_inside_nmi != 0,
        // Outside, it is one that KVM has yet to act on.
        init_pending: active && smi.latched_init != 0,
        ..SmmState::default()
    }
}

fn put_smm(events: &mut kvm_vcpu_events, smm: &SmmState) {
    events.flags |= KVM_VCPUEVENT_VALID_SMM;
    events.smi.smm = smm.active.into();
    events.smi.pending = smm.pending.into();
    events.smi.smm_inside_nmi = smm.inside_nmi.into();
    events.smi.latched_init = smm.init_pending.into();
}

/// Whether the vCPU runs or sleeps, if the guest takes external interrupts. KVM acts on a pending INIT first, and after that
/// the guest takes none, whatever KVM said at the last exit.
pub fn ready_for_external(fd: &VcpuFd) -> Result<Option<MpState>, Error> {
    let now = mp_state(fd)?;
    let regs = fd
        .get_regs()
        .map_err(|e| Error::host("read a vCPU's registers", e))?;
    Ok((regs.rflags & INTERRUPTS_ON != 0).then_some(now))
}

/// Puts the external interrupt `vector` on its way to a guest that is [ready for it](ready_for_external); a halted one is
/// woken.
pub fn inject_external(fd: &VcpuFd, now: MpState, vector: u8) -> Result<(), Error> {
    let mut events = get(fd)?;
    events.interrupt.injected = 1;
    events.interrupt.nr = vector;
    events.interrupt.soft = 0;
    events.flags = 0;
    if now == MpState::Halted {
        set_mp_state(fd, MpState::Runnable)?;
    }
    set(fd, &events)
}

/// After an instruction that the software CPU executed: its exception, its shadow, and whether NMIs are still blocked. NMIs
/// that were posted and an interrupt that is on its way are as KVM has them now.
pub fn after_instruction(fd: &VcpuFd, pending: &PendingEvents) -> Result<(), Error> {
    let mut events = get(fd)?;
    merge(&mut events, pending);
    set(fd, &events)
}

fn merge(events: &mut kvm_vcpu_events, pending: &PendingEvents) {
    let new = from_pending(pending);
    events.exception = new.exception;
    events.interrupt.shadow = new.interrupt.shadow;
    events.nmi.masked = new.nmi.masked;
    events.flags = KVM_VCPUEVENT_VALID_SHADOW;
}

/// What is on its way, before something that makes KVM forget it.
pub fn hold(fd: &VcpuFd) -> Result<kvm_vcpu_events, Error> {
    get(fd)
}

/// Puts it back. NMIs that were posted meanwhile stay.
pub fn release(fd: &VcpuFd, mut held: kvm_vcpu_events) -> Result<(), Error> {
    held.flags = KVM_VCPUEVENT_VALID_SHADOW;
    set(fd, &held)
}

/// Drops the exception that is on its way.
pub fn drop_exception(fd: &VcpuFd) -> Result<(), Error> {
    let mut events = get(fd)?;
    events.exception = Default::default();
    events.flags = 0;
    set(fd, &events)
}

fn to_pending(events: &kvm_vcpu_events) -> PendingEvents {
    let exception = &events.exception;
    let on_its_way = exception.injected != 0 || exception.pending != 0;
    let injected_nmi = events.nmi.injected != 0;
    PendingEvents {
        exception: on_its_way.then_some((
            exception.nr,
            (exception.has_error_code != 0).then_some(exception.error_code),
        )),
        interrupt: (events.interrupt.injected != 0 && events.interrupt.soft == 0)
            .then_some(events.interrupt.nr),
        // An NMI that was half delivered is delivered again; until then it masks nothing.
        nmis_pending: PendingEvents::wait(
            events.nmi.pending,
            injected_nmi.into(),
            events.nmi.masked != 0 && !injected_nmi,
        ),
        nmi_masked: events.nmi.masked != 0 && !injected_nmi,
        interrupt_shadow: events.interrupt.shadow != 0,
    }
}

fn from_pending(pending: &PendingEvents) -> kvm_vcpu_events {
    let mut events = kvm_vcpu_events {
        flags: KVM_VCPUEVENT_VALID_NMI_PENDING | KVM_VCPUEVENT_VALID_SHADOW,
        ..Default::default()
    };
    if let Some((vector, code)) = pending.exception {
        events.exception.injected = 1;
        events.exception.nr = vector;
        events.exception.has_error_code = code.is_some().into();
        events.exception.error_code = code.unwrap_or(0);
    }
    if let Some(vector) = pending.interrupt {
        events.interrupt.injected = 1;
        events.interrupt.nr = vector;
    }
    if pending.interrupt_shadow {
        events.interrupt.shadow = (KVM_X86_SHADOW_INT_MOV_SS | KVM_X86_SHADOW_INT_STI) as u8;
    }
    events.nmi.pending = pending.nmis_pending;
    events.nmi.masked = pending.nmi_masked.into();
    events
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn events_survive_the_way_there_and_back(
            exception in proptest::option::of((0u8..32, proptest::option::of(any::<u32>()))),
            interrupt in proptest::option::of(any::<u8>()),
            nmis in 0u8..4, nmi_masked: bool, interrupt_shadow: bool,
        ) {
            let nmis_pending = PendingEvents::wait(nmis, 0, nmi_masked);
            let pending = PendingEvents { exception, interrupt, nmis_pending, nmi_masked, interrupt_shadow };
            prop_assert_eq!(to_pending(&from_pending(&pending)), pending);
        }

        #[test]
        fn system_management_mode_survives_it_too(active: bool, pending: bool, inside_nmi: bool, init: bool) {
            let smm = SmmState { active, pending, inside_nmi, init_pending: active && init, ..SmmState::default() };
            let mut events = from_pending(&PendingEvents::default());
            prop_assert_eq!(events.flags & KVM_VCPUEVENT_VALID_SMM, 0);
            put_smm(&mut events, &smm);
            prop_assert_eq!(to_smm(&events), smm);
            prop_assert_ne!(events.flags & KVM_VCPUEVENT_VALID_SMM, 0);
        }
    }

    #[test]
    fn only_a_guest_with_interrupts_on_is_ready_for_one() {
        const NAME: &str = "only_a_guest_with_interrupts_on_is_ready_for_one";
        let Ok(kvm) = kvm_ioctls::Kvm::new() else {
            return eprintln!("SKIPPED {NAME}: /dev/kvm cannot be opened");
        };
        let vm = kvm.create_vm().unwrap();
        vm.create_irq_chip().unwrap();
        let fd = vm.create_vcpu(0).unwrap();
        let mut regs = fd.get_regs().unwrap();
        for (flags, state, ready) in [
            (0x002, MpState::Runnable, None),
            (0x202, MpState::Runnable, Some(MpState::Runnable)),
            (0x202, MpState::Halted, Some(MpState::Halted)),
            (0x002, MpState::Halted, None),
        ] {
            regs.rflags = flags;
            fd.set_regs(&regs).unwrap();
            set_mp_state(&fd, state).unwrap();
            assert_eq!(ready_for_external(&fd).unwrap(), ready);
        }
        inject_external(&fd, MpState::Halted, 0x50).unwrap();
        assert_eq!(read(&fd).unwrap().interrupt, Some(0x50));
        assert_eq!(mp_state(&fd).unwrap(), MpState::Runnable);
    }

    #[test]
    fn an_instruction_leaves_what_is_on_its_way() {
        let mut events = kvm_vcpu_events::default();
        (events.interrupt.injected, events.interrupt.nr) = (1, 0x41);
        (events.interrupt.shadow, events.nmi.pending, events.nmi.masked) = (1, 1, 1);
        merge(&mut events, &PendingEvents::default());
        assert_eq!(
            (events.interrupt.injected, events.interrupt.nr, events.nmi.pending),
            (1, 0x41, 1)
        );
        assert_eq!((events.interrupt.shadow, events.nmi.masked), (0, 0));
        assert_eq!(
            events.flags & KVM_VCPUEVENT_VALID_NMI_PENDING,
            0,
            "KVM keeps its own"
        );
    }

    #[test]
    fn a_half_delivered_nmi_waits_unmasked() {
        let mut events = kvm_vcpu_events::default();
        events.nmi.injected = 1;
        events.nmi.masked = 1;
        let pending = to_pending(&events);
        assert_eq!((pending.nmis_pending, pending.nmi_masked), (1, false));
        events.nmi.pending = 1;
        assert_eq!(to_pending(&events).nmis_pending, 2, "and another behind it");
    }
}
