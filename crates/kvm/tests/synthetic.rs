//! Messages and events of Hyper-V's interface on KVM, by a guest that sends them to itself: in a host made in software, since it
//! needs KVM that has the interface.

#[allow(dead_code, reason = "each test binary uses its own part of this module")]
mod common;

use std::sync::Arc;
use std::time::{Duration, Instant};

use ostler_accel::bare_metal::{identity_map, long_mode_state};
use ostler_accel::model::{self, Topology};
use ostler_accel::{
    Accelerator, CpuState, CpuidLeaf, Exit, KickSource, Msr, SyntheticConnection, SyntheticSource, Vcpu, Vm,
    VmConfig,
};
use ostler_kvm::Kvm;
use ostler_memory::vm_memory::{Bytes, GuestAddress};
use ostler_memory::{GuestRam, RamOptions, RamSlot, allocate};

const SIZE: u64 = 1 << 20;
const CODE_AT: u64 = 0x1000;
const STACK: u64 = 0x8000;
const TABLES_AT: u64 = 0x10000;
/// The pages of messages and of event flags, and what the guest posts.
const MESSAGES: u64 = 0x5000;
const FLAGS: u64 = 0x6000;
const POSTED: u64 = 0x7000;

const MESSAGE_SINT: u8 = 1;
const EVENT_SINT: u8 = 2;
const RAISED_SINT: u8 = 3;
const FIRST_VECTOR: u32 = 0x50;
const MESSAGE_CONNECTION: u32 = 0x11;
const EVENT_CONNECTION: u32 = 0x21;

/// Posts a message three times and says each time by port 0xf4 what that answered; says that it took one, and tells that by port 0xf5;
/// signals an event, which it tells by port 0xf6; tells port 0xf7 for ever.
const CODE: &[u8] = &[
    0xbb, 0x03, 0x00, 0x00, 0x00, // mov ebx, 3
    0xb9, 0x5c, 0x00, 0x00, 0x00, // again: mov ecx, 0x5c
    0xba, 0x00, 0x70, 0x00, 0x00, // mov edx, 0x7000
    0x45, 0x31, 0xc0, // xor r8d, r8d
    0x0f, 0x01, 0xd9, // vmmcall
    0xe6, 0xf4, // out 0xf4, al
    0xff, 0xcb, // dec ebx
    0x75, 0xea, // jnz again
    0xb9, 0x84, 0x00, 0x00, 0x40, // mov ecx, 0x40000084
    0x31, 0xc0, // xor eax, eax
    0x31, 0xd2, // xor edx, edx
    0x0f, 0x30, // wrmsr
    0xe6, 0xf5, // out 0xf5, al
    0xb9, 0x5d, 0x00, 0x01, 0x00, // mov ecx, 0x1005d
    0xba, 0x21, 0x00, 0x00, 0x00, // mov edx, 0x21
    0x0f, 0x01, 0xd9, // vmmcall
    0xe6, 0xf6, // out 0xf6, al
    0xe6, 0xf7, // last: out 0xf7, al
    0xeb, 0xfc, // jmp last
];

/// The guest's identity, the pages, three sources with their vectors, and the switch.
fn registers() -> impl Iterator<Item = Msr> {
    let sources = [MESSAGE_SINT, EVENT_SINT, RAISED_SINT].map(|sint| {
        let sint = u32::from(sint);
        (0x4000_0090 + sint, u64::from(FIRST_VECTOR + sint))
    });
    let others = [
        (0x4000_0000, 0x8100_0000_0001_0203),
        (0x4000_0082, FLAGS | 1),
        (0x4000_0083, MESSAGES | 1),
        (0x4000_0080, 1),
    ];
    let all = others.into_iter().chain(sources);
    all.map(|(index, value)| Msr { index, value })
}

struct Machine {
    vm: Arc<dyn Vm>,
    vcpu: Box<dyn Vcpu>,
    ram: Arc<GuestRam>,
}

impl Machine {
    fn new(kvm: &Kvm, cpuid: &[CpuidLeaf], ram: &Arc<GuestRam>, state: &CpuState) -> Self {
        let slots = RamSlot::all_of(ram);
        let vm = kvm.create_vm(VmConfig { cpus: 1, slots }).unwrap();
        let mut vcpu = vm.create_vcpu(0, cpuid).unwrap();
        vcpu.set_state(state).unwrap();
        let ram = ram.clone();
        Self { vm, vcpu, ram }
    }

    fn connect(&self) {
        let interrupts = self.vm.synthetic_interrupts().unwrap();
        let messages = SyntheticConnection::Messages(MESSAGE_CONNECTION);
        interrupts.connect(messages, source(MESSAGE_SINT)).unwrap();
        let events = SyntheticConnection::Events(EVENT_CONNECTION);
        interrupts.connect(events, source(EVENT_SINT)).unwrap();
    }

    /// Runs until the guest writes to a port: which, and what.
    fn run(&mut self) -> (u16, u8) {
        loop {
            match self.vcpu.run().unwrap() {
                Exit::PortWrite { port, data, .. } => return (port, data[0]),
                Exit::Kicked => {}
                exit => panic!("unexpected {exit:?}"),
            }
        }
    }

    fn state(&mut self) -> CpuState {
        self.vcpu.kicker().kick(KickSource::Control);
        loop {
            if let Exit::Kicked = self.vcpu.run().unwrap() {
                return self.vcpu.state().unwrap();
            }
        }
    }

    /// Type, size of the payload, flags and first byte of the message in its slot.
    fn message(&self) -> (u32, u8, u8, u8) {
        let slot = MESSAGES + 256 * u64::from(MESSAGE_SINT);
        let byte = |at: u64| self.ram.read_obj::<u8>(GuestAddress(slot + at)).unwrap();
        let kind = self.ram.read_obj::<u32>(GuestAddress(slot)).unwrap();
        (kind, byte(4), byte(5), byte(16))
    }

    fn post(&self, kind: u32, first: u8) {
        for (at, word) in [MESSAGE_CONNECTION, 0, kind, 8].into_iter().enumerate() {
            self.ram
                .write_obj(word, GuestAddress(POSTED + 4 * at as u64))
                .unwrap();
        }
        self.ram.write_obj(first, GuestAddress(POSTED + 16)).unwrap();
    }
}

fn source(sint: u8) -> SyntheticSource {
    SyntheticSource { vcpu: 0, sint }
}

/// True if the interrupt of a source waits in the LAPIC.
fn is_raised(state: &CpuState, sint: u8) -> bool {
    let vector = FIRST_VECTOR as usize + usize::from(sint);
    let byte = 0x200 + vector / 32 * 16 + vector % 32 / 8;
    state.lapic.registers[byte] & 1 << (vector % 8) != 0
}

/// KVM with the interface, and what a guest that has it sees.
fn kvm(test: &str) -> Option<(Kvm, Vec<CpuidLeaf>)> {
    let kvm = match Kvm::open() {
        Ok(kvm) => kvm,
        Err(error) => {
            eprintln!("SKIPPED {test}: {error}");
            return None;
        }
    };
    let supported = kvm.supported_cpuid().unwrap();
    if model::hyperv::names_in(&supported).count() == 0 {
        eprintln!("SKIPPED {test}: this host's KVM has nothing of Hyper-V's interface");
        return None;
    }
    let leaves = model::build("max,hv-vpindex,hv-synic", &supported, Topology { cpus: 1 }, 0).unwrap();
    Some((kvm, leaves))
}

fn start() -> (Arc<GuestRam>, CpuState) {
    let ram = allocate(SIZE, RamOptions::default()).unwrap();
    ram.write_slice(CODE, GuestAddress(CODE_AT)).unwrap();
    identity_map(&ram, TABLES_AT).unwrap();
    let mut state = long_mode_state(0, CODE_AT, STACK, TABLES_AT);
    state.msrs.extend(registers());
    // The LAPIC is on.
    state.lapic.registers[0xf0..0xf2].copy_from_slice(&[0xff, 1]);
    (ram, state)
}

#[test]
fn messages_and_events_reach_a_guest_that_moved() {
    let Some((kvm, cpuid)) = kvm("messages_and_events_reach_a_guest_that_moved") else {
        return;
    };
    let (ram, state) = start();
    let mut machine = Machine::new(&kvm, &cpuid, &ram, &state);
    machine.connect();
    machine.post(0x1234, 7);
    assert_eq!(machine.run(), (0xf4, 0));

    // Where the pages are comes with the state.
    let state = machine.state();
    assert_eq!(machine.message(), (0x1234, 8, 0, 7));
    assert!(is_raised(&state, MESSAGE_SINT) && !is_raised(&state, EVENT_SINT));
    drop(machine);
    let mut machine = Machine::new(&kvm, &cpuid, &ram, &state);
    machine.connect();
    machine.post(0x1235, 9);
    assert_eq!(machine.run(), (0xf4, 0), "it waits");
    assert_eq!(machine.run(), (0xf4, 0x13), "no other can wait");
    assert_eq!(machine.message(), (0x1234, 8, 1, 7));

    ram.write_obj(0u32, GuestAddress(MESSAGES + 256 * u64::from(MESSAGE_SINT)))
        .unwrap();
    assert_eq!(machine.run().0, 0xf5);
    assert_eq!(machine.message(), (0x1235, 8, 0, 9));

    assert_eq!(machine.run(), (0xf6, 0));
    let flags = GuestAddress(FLAGS + 256 * u64::from(EVENT_SINT));
    let until = Instant::now() + Duration::from_secs(30);
    while ram.read_obj::<u64>(flags).unwrap() == 0 {
        assert_eq!(machine.run().0, 0xf7);
        assert!(Instant::now() < until, "the event does not come");
    }
    assert_eq!(ram.read_obj::<u64>(flags).unwrap(), 1 << EVENT_CONNECTION);
    let state = machine.state();
    assert!(is_raised(&state, EVENT_SINT) && !is_raised(&state, RAISED_SINT));
}

#[test]
fn a_source_is_raised_while_it_is_open() {
    let Some((kvm, cpuid)) = kvm("a_source_is_raised_while_it_is_open") else {
        return;
    };
    let (ram, state) = start();
    let mut machine = Machine::new(&kvm, &cpuid, &ram, &state);
    let vm = machine.vm.clone();
    let interrupts = vm.synthetic_interrupts().unwrap();
    interrupts.open(source(EVENT_SINT)).unwrap();
    interrupts.raise(source(RAISED_SINT));
    assert!(!is_raised(&machine.state(), RAISED_SINT));
    interrupts.open(source(RAISED_SINT)).unwrap();
    interrupts.raise(source(RAISED_SINT));
    let state = machine.state();
    assert!(is_raised(&state, RAISED_SINT) && !is_raised(&state, EVENT_SINT));
    interrupts.close(source(EVENT_SINT));
    interrupts.raise(source(EVENT_SINT));
    assert!(!is_raised(&machine.state(), EVENT_SINT));
    interrupts.open(source(16)).unwrap_err();
}

#[test]
fn without_connections_a_hypercall_finds_none_and_much_coming_and_going_does_no_harm() {
    let Some((kvm, cpuid)) =
        kvm("without_connections_a_hypercall_finds_none_and_much_coming_and_going_does_no_harm")
    else {
        return;
    };
    let (ram, state) = start();
    let mut machine = Machine::new(&kvm, &cpuid, &ram, &state);
    let vm = machine.vm.clone();
    let interrupts = vm.synthetic_interrupts().unwrap();
    let descriptors = || std::fs::read_dir("/proc/self/fd").unwrap().count();
    let before = descriptors();
    for _ in 0..3 {
        for id in 0..=255 {
            let to = source(id as u8 % 16);
            let _ = interrupts.connect(SyntheticConnection::Messages(id), to);
            let _ = interrupts.connect(SyntheticConnection::Events(id), to);
        }
        assert!(descriptors() - before < 100);
        for id in 0..=255 {
            interrupts.disconnect(SyntheticConnection::Messages(id));
            interrupts.disconnect(SyntheticConnection::Events(id));
        }
    }
    // The listener stays.
    assert!(descriptors() - before <= 2);
    machine.post(0x1234, 7);
    assert_eq!(machine.run(), (0xf4, 0x12));
    assert_eq!(machine.message(), (0, 0, 0, 0));
}

/// This very program, run by a kernel with working KVM.
#[test]
fn synthetic_interrupts_work_in_a_host_made_in_software() {
    const NAME: &str = "synthetic_interrupts_work_in_a_host_made_in_software";
    let arguments = "--exact messages_and_events_reach_a_guest_that_moved a_source_is_raised_while_it_is_open \
                     without_connections_a_hypercall_finds_none_and_much_coming_and_going_does_no_harm";
    if let Some(console) = common::in_software_host(NAME, arguments) {
        assert!(console.contains("3 passed"), "{console}");
    }
}
