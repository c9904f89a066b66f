//! System management mode on KVM: in a host made in software, and on the machine's own device where that has it.

#[allow(dead_code, reason = "each test binary uses its own part of this module")]
mod common;

use std::sync::Arc;
use std::time::{Duration, Instant};

use ostler_accel::bare_metal::{identity_map, long_mode_state};
use ostler_accel::{
    Accelerator, CpuState, Error, Exit, KickSource, MpState, SmiTarget, Vcpu, Vm, VmConfig, in_smm,
    reset_state,
};
use ostler_bus::Msi;
use ostler_kvm::Kvm;
use ostler_memory::vm_memory::{Bytes, GuestAddress, GuestMemoryBackend, MmapRegion, VolatileMemory};
use ostler_memory::{GuestRam, PAGE_SIZE, PageTracker, RamOptions, RamSlot, allocate};
use ostler_softcpu::vm::SoftCpu;

const SIZE: u64 = 1 << 20;
const CODE_AT: u64 = 0x1000;
const SLEEP_AT: u64 = 0x2000;
const STARTED_AT: u64 = 0x4000;
const FOUND: u64 = 0x3000;
const STACK: u64 = 0x8000;
const TABLES_AT: u64 = 0x10000;
/// The handler, from SMBASE after RESET.
const HANDLER: u64 = 0x3_8000;
/// Where a CPU saves its state, from SMBASE after RESET.
const SAVED: u64 = 0x3_fe00;
/// RAM in system management mode, and what is here the display's memory outside.
const SMRAM: u64 = 0xa_0000;
const SMRAM_SIZE: u64 = 0x2_0000;
const SHOWN: u32 = 0x1122_3344;

/// Raises an SMI, notes what it finds where SMRAM is, and says so by port 0xf4; for ever.
const CODE: &[u8] = &[
    0xb0, 0x01, // mov al, 1
    0xe6, 0xb2, // out 0xb2, al
    0x8b, 0x04, 0x25, 0x00, 0x00, 0x0a, 0x00, // mov eax, [0xa0000]
    0x89, 0x04, 0x25, 0x00, 0x30, 0x00, 0x00, // mov [0x3000], eax
    0xe6, 0xf4, // out 0xf4, al
    0xeb, 0xea, // jmp to the first
];

/// Sleeps with interrupts off.
const SLEEP: &[u8] = &[
    0xf4, // hlt
    0xeb, 0xfd, // jmp hlt
];

/// Counts in SMRAM, says so by port 0xf1, and ends with another AL. 16-bit code.
const COUNT: &[u8] = &[
    0x67, 0x66, 0xff, 0x05, 0x00, 0x00, 0x0a, 0x00, // inc dword ptr [0xa0000]
    0xb0, 0x55, // mov al, 0x55
    0xe6, 0xf1, // out 0xf1, al
    0x0f, 0xaa, // rsm
];

/// Says that it is there by port 0xf4, for ever. 16-bit code.
const STARTED: &[u8] = &[
    0xe6, 0xf4, // out 0xf4, al
    0xeb, 0xfc, // jmp to the first
];

/// Data of messages: INIT, and a start-up IPI whose vector is the page of [`STARTED`].
const INIT: u32 = 0x500;
const STARTUP: u32 = 0x600 | (STARTED_AT >> 12) as u32;

struct Machine {
    vm: Arc<dyn Vm>,
    ram: Arc<GuestRam>,
}

impl Machine {
    /// A virtual machine over `ram`, in which normal code sees `display` where system management mode sees RAM.
    fn over(
        accelerator: &dyn Accelerator,
        ram: &Arc<GuestRam>,
        display: &Arc<MmapRegion<PageTracker>>,
    ) -> Self {
        let slots = RamSlot::all_of(ram);
        let cpus = 2;
        let vm = accelerator
            .create_vm(VmConfig {
                cpus,
                slots: slots.clone(),
            })
            .unwrap();
        let region = ram.iter().next().unwrap();
        let part = |gpa: u64, end: u64| RamSlot {
            gpa,
            len: end - gpa,
            mapping: region.get_mmap(),
            offset: gpa,
            writable: true,
        };
        let shown = RamSlot {
            gpa: SMRAM,
            len: SMRAM_SIZE,
            mapping: display.clone(),
            offset: 0,
            writable: true,
        };
        let normal = vec![part(0, SMRAM), shown, part(SMRAM + SMRAM_SIZE, SIZE)];
        vm.system_management().unwrap().set_slots(normal, slots).unwrap();
        Self { vm, ram: ram.clone() }
    }

    fn new(accelerator: &dyn Accelerator) -> (Self, Arc<MmapRegion<PageTracker>>) {
        let ram = allocate(SIZE, RamOptions::default()).unwrap();
        for (at, code) in [
            (CODE_AT, CODE),
            (SLEEP_AT, SLEEP),
            (STARTED_AT, STARTED),
            (HANDLER, COUNT),
        ] {
            ram.write_slice(code, GuestAddress(at)).unwrap();
        }
        identity_map(&ram, TABLES_AT).unwrap();
        let display = Arc::new(MmapRegion::new(SMRAM_SIZE as usize).unwrap());
        let bytes = SHOWN.to_le_bytes();
        display.as_volatile_slice().write_slice(&bytes, 0).unwrap();
        (Self::over(accelerator, &ram, &display), display)
    }

    fn vcpu(&self, accelerator: &dyn Accelerator, id: u32, state: &CpuState) -> Box<dyn Vcpu> {
        let cpuid = accelerator.supported_cpuid().unwrap();
        let mut vcpu = self.vm.create_vcpu(id, &cpuid).unwrap();
        vcpu.set_state(state).unwrap();
        vcpu
    }

    fn smi(&self, to: SmiTarget) {
        self.vm.system_management().unwrap().raise_smi(to);
    }

    /// Sends CPU 1 a message without a vector of an interrupt (SDM vol. 3, 12.11).
    fn to_cpu_1(&self, data: u32) {
        let address = 0xfee0_1000;
        self.vm.signal(Msi { address, data });
    }

    fn word(&self, at: u64) -> u32 {
        let mut bytes = [0; 4];
        self.ram.read_slice(&mut bytes, GuestAddress(at)).unwrap();
        u32::from_le_bytes(bytes)
    }

    /// Runs a CPU until it writes to one of the ports 0xf1 and 0xf4: which, and what.
    fn run(&self, vcpu: &mut dyn Vcpu) -> (u16, u8) {
        loop {
            match vcpu.run().unwrap() {
                Exit::PortWrite { port: 0xb2, .. } => {
                    assert!(!in_smm());
                    self.smi(SmiTarget::One(0));
                }
                Exit::PortWrite { port, data, .. } => return (port, data[0]),
                Exit::Kicked => {}
                exit => panic!("unexpected {exit:?}"),
            }
        }
    }
}

fn at_code() -> CpuState {
    long_mode_state(0, CODE_AT, STACK, TABLES_AT)
}

/// KVM, if it has system management mode.
fn kvm(test: &str) -> Option<Kvm> {
    match Kvm::open() {
        Ok(kvm) if kvm.has_system_management() => Some(kvm),
        Ok(_) => {
            eprintln!("SKIPPED {test}: this host's KVM has no system management mode");
            None
        }
        Err(error) => {
            eprintln!("SKIPPED {test}: {error}");
            None
        }
    }
}

#[test]
fn an_smi_is_handled_in_memory_of_its_own() {
    let Some(kvm) = kvm("an_smi_is_handled_in_memory_of_its_own") else {
        return;
    };
    let (machine, display) = Machine::new(&kvm);
    let mut vcpu = machine.vcpu(&kvm, 0, &at_code());
    for count in 1..=20 {
        assert_eq!(machine.run(&mut *vcpu), (0xf1, 0x55));
        assert!(in_smm());
        assert_eq!(machine.word(SMRAM), count);
        // RSM gives the guest its register back.
        assert_eq!(machine.run(&mut *vcpu), (0xf4, SHOWN as u8));
        assert!(!in_smm());
        assert_eq!(machine.word(FOUND), SHOWN);
    }
    let mut bytes = [0; 4];
    display.as_volatile_slice().read_slice(&mut bytes, 0).unwrap();
    assert_eq!(u32::from_le_bytes(bytes), SHOWN);
}

#[test]
fn a_state_in_system_management_mode_goes_on_elsewhere() {
    let Some(kvm) = kvm("a_state_in_system_management_mode_goes_on_elsewhere") else {
        return;
    };
    let (machine, display) = Machine::new(&kvm);
    let mut vcpu = machine.vcpu(&kvm, 0, &at_code());
    assert_eq!(machine.run(&mut *vcpu).0, 0xf1);
    // One more waits for the end of this one.
    machine.smi(SmiTarget::All);
    let state = vcpu.state().unwrap();
    assert_eq!(
        (state.smm.active, state.smm.pending, state.smm.base),
        (true, true, 0x3_0000)
    );

    let other = Machine::over(&kvm, &machine.ram, &display);
    let mut there = other.vcpu(&kvm, 0, &state);
    assert_eq!(other.run(&mut *there).0, 0xf1);
    assert_eq!(other.word(SMRAM), 2);
    assert_eq!(other.run(&mut *there), (0xf4, SHOWN as u8));
    let state = there.state().unwrap();
    assert_eq!((state.smm.active, state.smm.pending), (false, false));

    // A reset leaves system management mode, and where its handler is counts from now on.
    let mut state = at_code();
    state.smm.base = 0x4_0000;
    other.ram.write_slice(COUNT, GuestAddress(0x4_8000)).unwrap();
    other
        .ram
        .write_slice(&[0x0f, 0x0b], GuestAddress(HANDLER))
        .unwrap();
    there.set_state(&state).unwrap();
    assert_eq!(there.state().unwrap().smm, state.smm);
    assert_eq!(other.run(&mut *there).0, 0xf1);
    there.set_state(&state).unwrap();
    assert!(!there.state().unwrap().smm.active);
    assert_eq!(other.run(&mut *there).0, 0xf1);
    assert_eq!(other.run(&mut *there), (0xf4, SHOWN as u8));
    assert_eq!(other.word(SMRAM), 4);
}

#[test]
fn a_cpu_that_sleeps_takes_an_smi() {
    let Some(kvm) = kvm("a_cpu_that_sleeps_takes_an_smi") else {
        return;
    };
    let (machine, _display) = Machine::new(&kvm);
    let mut state = long_mode_state(1, SLEEP_AT, STACK, TABLES_AT);
    state.mp = MpState::Runnable;
    let mut vcpu = machine.vcpu(&kvm, 1, &state);
    let begun = Instant::now();
    std::thread::scope(|scope| {
        let sleeper = scope.spawn(|| {
            let ports: Vec<u16> = (0..3).map(|_| machine.run(&mut *vcpu).0).collect();
            assert_eq!(ports, [0xf1; 3]);
        });
        while !sleeper.is_finished() {
            assert!(begun.elapsed() < Duration::from_secs(60), "it sleeps on");
            // Not for this one.
            machine.smi(SmiTarget::One(0));
            machine.smi(SmiTarget::One(1));
            std::thread::sleep(Duration::from_millis(10));
        }
    });
    assert_eq!(machine.word(SMRAM), 3);
}

#[test]
fn an_smi_waits_for_a_cpu_to_be_started() {
    let Some(kvm) = kvm("an_smi_waits_for_a_cpu_to_be_started") else {
        return;
    };
    for mp in [MpState::WaitForSipi, MpState::Uninitialized] {
        let (machine, display) = Machine::new(&kvm);
        let mut state = reset_state(1);
        state.mp = mp;
        let mut vcpu = machine.vcpu(&kvm, 1, &state);
        machine.smi(SmiTarget::All);
        let waits = vcpu.state().unwrap();
        assert_eq!((waits.mp, waits.smm.pending, waits.smm.active), (mp, true, false));
        drop(vcpu);

        let other = Machine::over(&kvm, &machine.ram, &display);
        let mut there = other.vcpu(&kvm, 1, &waits);
        assert_eq!(there.state().unwrap().smm, waits.smm);
        other.to_cpu_1(INIT);
        other.to_cpu_1(STARTUP);
        // It takes the SMI once it left guest mode.
        while other.run(&mut *there).0 == 0xf4 {}
        assert!(in_smm());
        assert_eq!(other.run(&mut *there).0, 0xf4);
        assert!(!there.state().unwrap().smm.pending);
        assert_eq!(other.word(SMRAM), 1);

        let mut impossible = waits;
        impossible.smm.active = true;
        let error = there.set_state(&impossible).err().unwrap();
        assert!(matches!(error, Error::BadState(_)), "{error}");
    }
}

#[test]
fn the_dirty_log_has_what_is_written_in_system_management_mode() {
    let Some(kvm) = kvm("the_dirty_log_has_what_is_written_in_system_management_mode") else {
        return;
    };
    let (machine, _display) = Machine::new(&kvm);
    let mut vcpu = machine.vcpu(&kvm, 0, &at_code());
    machine.vm.set_dirty_log(true).unwrap();
    let mapping = machine.ram.iter().next().unwrap().get_mmap();
    // Whether these are dirty: where the handler counts, where the state was saved, where normal code writes.
    let dirty = || {
        machine.vm.sync_dirty().unwrap();
        let places = [SMRAM, SAVED, FOUND].map(|at| mapping.bitmap().is_dirty(at as usize / PAGE_SIZE));
        mapping.bitmap().take_dirty();
        places
    };
    for _ in 0..2 {
        assert_eq!(machine.run(&mut *vcpu).0, 0xf1);
        assert_eq!(dirty(), [true, true, false]);
        assert_eq!(machine.run(&mut *vcpu).0, 0xf4);
        assert_eq!(dirty(), [false, false, true]);
    }
    machine.vm.set_dirty_log(false).unwrap();
}

/// The state of a CPU after its last port access.
fn stopped(vcpu: &mut dyn Vcpu) -> CpuState {
    vcpu.kicker().kick(KickSource::Control);
    let exit = vcpu.run().unwrap();
    assert!(matches!(exit, Exit::Kicked), "{exit:?}");
    vcpu.state().unwrap()
}

/// In the middle of a handler: what the one saved in memory, the other takes up again.
#[test]
fn system_management_mode_moves_between_kvm_and_the_software_cpu() {
    let Some(kvm) = kvm("system_management_mode_moves_between_kvm_and_the_software_cpu") else {
        return;
    };
    let soft = SoftCpu::default();
    let ways: [[&dyn Accelerator; 2]; 2] = [[&kvm, &soft], [&soft, &kvm]];
    for [from, to] in ways {
        let (machine, display) = Machine::new(from);
        let mut vcpu = machine.vcpu(from, 0, &at_code());
        assert_eq!(machine.run(&mut *vcpu), (0xf1, 0x55));
        machine.smi(SmiTarget::One(0));
        let state = stopped(&mut *vcpu);
        assert_eq!((state.smm.active, state.smm.pending), (true, true));

        let other = Machine::over(to, &machine.ram, &display);
        let mut there = other.vcpu(to, 0, &state);
        assert_eq!(other.run(&mut *there), (0xf1, 0x55));
        assert!(in_smm());
        assert_eq!(other.word(SMRAM), 2);
        assert_eq!(other.run(&mut *there), (0xf4, SHOWN as u8));
        assert_eq!(other.word(FOUND), SHOWN);
        let end = stopped(&mut *there);
        assert_eq!((end.smm.active, end.smm.pending), (false, false));
        let what_rsm_restores = |state: &CpuState| {
            let control = [state.cr0, state.cr3, state.cr4, state.efer];
            (control, state.gpr[4], state.segments, state.gdtr, state.idtr)
        };
        assert_eq!(what_rsm_restores(&end), what_rsm_restores(&at_code()));
    }
}

/// This very program, run by a kernel with working KVM.
#[test]
fn system_management_mode_works_in_a_host_made_in_software() {
    const NAME: &str = "system_management_mode_works_in_a_host_made_in_software";
    let arguments = "--exact an_smi_is_handled_in_memory_of_its_own a_state_in_system_management_mode_goes_on_elsewhere \
                     a_cpu_that_sleeps_takes_an_smi an_smi_waits_for_a_cpu_to_be_started \
                     system_management_mode_moves_between_kvm_and_the_software_cpu \
                     the_dirty_log_has_what_is_written_in_system_management_mode";
    if let Some(console) = common::in_software_host(NAME, arguments) {
        assert!(console.contains("6 passed"), "{console}");
    }
}
