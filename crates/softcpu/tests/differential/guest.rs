//! The interpreter's side: the same sequence at privilege level 3 of a tiny guest.
//!
//! The guest has page tables, segments like Linux', and an IDT whose handlers do nothing but write to the port that
//! is their vector. That leaves guest mode, and the test takes the state.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use ostler_accel::{
    Accelerator, CpuState, DescriptorTable, Exit, Kick, KickSource, MpState, Msr, Segment, Vcpu, Vm,
    VmConfig, reset_state,
};
use ostler_memory::vm_memory::{Bytes, GuestAddress};
use ostler_memory::{GuestRam, RamOptions, RamSlot};
use ostler_softcpu::vm::Engine;

use super::ENGINE;
use super::machine_state::{
    CODE, CODE32, CODE64, Case, DATA, DATA_PAGES, FS_BASE, Final, GS_BASE, MEMORY, Outcome, PAGE, Registers,
    STACK, USER_DATA, XSAVE,
};

/// Bytes of RAM.
const RAM: u64 = 1 << 20;
/// Virtual address at which all of RAM is mapped for the supervisor.
const KERNEL: u64 = 0xffff_8000_0000_0000;
const PML4: u64 = 0x1000;
const LOW_PDPT: u64 = 0x2000;
const LOW_PD: u64 = 0x3000;
const CODE_PT: u64 = 0x4000;
const DATA_PT: u64 = 0x5000;
const STACK_PT: u64 = 0x6000;
const HIGH_PDPT: u64 = 0x7000;
const HIGH_PD: u64 = 0x8000;
const GDT: u64 = 0x9000;
const IDT: u64 = 0xa000;
const TSS: u64 = 0xb000;
const HANDLERS: u64 = 0xc000;
const STACK_TOP: u64 = 0xf000;
/// Guest-physical address of the code page; the sequence's memory follows.
const WINDOW: u64 = 0x10000;
/// Exceptions with a handler.
const VECTORS: u64 = 32;

/// A vCPU that runs sequences.
pub struct Guest {
    ram: Arc<GuestRam>,
    _vm: Arc<dyn Vm>,
    vcpu: Box<dyn Vcpu>,
    kicker: Arc<dyn Kick>,
    template: CpuState,
    /// Cases begun.
    begun: Arc<AtomicU64>,
}

/// How long a case may take.
const PATIENCE: Duration = Duration::from_secs(20);

/// Bytes of an exception's frame, with error code.
const FRAME: usize = 48;
/// What stands for a vector after a triple fault.
const SHUTDOWN: u64 = 256;

impl Guest {
    /// Builds the guest on `accelerator`.
    pub fn start(accelerator: &dyn Accelerator) -> Self {
        Self::with_patience(accelerator, PATIENCE)
    }

    /// The same, for cases that may have no end: they are given up after about `patience`.
    pub fn with_patience(accelerator: &dyn Accelerator, patience: Duration) -> Self {
        let ram = ostler_memory::allocate(RAM, RamOptions::default()).expect("a megabyte of guest memory");
        build_tables(&ram);
        let config = VmConfig {
            cpus: 1,
            slots: RamSlot::all_of(&ram),
        };
        let vm = accelerator.create_vm(config).expect("a virtual machine");
        let cpuid = accelerator.supported_cpuid().expect("CPUID answers");
        let mut vcpu = vm.create_vcpu(0, &cpuid).expect("a vCPU");
        let kicker = vcpu.kicker();
        let msrs = vcpu.state().expect("the state after reset").msrs;
        let begun = Arc::new(AtomicU64::new(0));
        watch(&begun, kicker.clone(), patience);
        Self {
            ram,
            _vm: vm,
            vcpu,
            kicker,
            template: template(msrs),
            begun,
        }
    }

    /// Runs one case: as often as it takes to have it executed by the engine that is tested.
    pub fn run(&mut self, case: &Case) -> Final {
        self.put_code(case);
        if let Engine::Translator { after } = ENGINE {
            for _ in 0..after {
                self.run_once(case);
            }
        }
        self.run_once(case)
    }

    /// Puts the code of a case into the code page, INT3 behind it.
    pub fn put_code(&mut self, case: &Case) {
        let mut code = vec![0xcc; PAGE];
        code[..case.code.len()].copy_from_slice(&case.code);
        self.write(WINDOW, &code);
    }

    fn run_once(&mut self, case: &Case) -> Final {
        self.attempt(case)
            .unwrap_or_else(|| panic!("no end of {:02x?}", shown(case)))
    }

    /// Runs one case, whose code is there already. `None` if it took too long.
    pub fn attempt(&mut self, case: &Case) -> Option<Final> {
        self.begun.fetch_add(1, Ordering::Relaxed);
        self.write(WINDOW + PAGE as u64, &case.memory);
        // After a SYSCALL an exception's frame goes elsewhere, and that of the case before must not be taken for it.
        self.write(STACK_TOP - FRAME as u64, &[0; FRAME]);
        let mut state = self.template.clone();
        state.gpr = case.registers.gpr;
        state.rip = case.registers.rip;
        state.rflags = case.registers.rflags | 0x202;
        state.xsave = case.registers.xsave.to_vec();
        state.xsave[416..512].fill(0);
        state.xsave[28..32].copy_from_slice(&0xffffu32.to_le_bytes());
        if case.long {
            set_bases(&mut state);
        } else {
            state.segments[1] = segment(CODE32, 0xc0fb);
        }
        self.vcpu
            .set_state(&state)
            .expect("a state that the vCPU can take");
        let vector = match self.vcpu.run().expect("guest mode") {
            Exit::PortWrite { port, .. } => port,
            Exit::Kicked => return None,
            Exit::Shutdown => return Some(self.shut_down()),
            other => panic!("unexpected exit {other:?} of {:02x?}", shown(case)),
        };
        self.kicker.kick(KickSource::Signal);
        match self.vcpu.run().expect("guest mode") {
            Exit::Kicked => {}
            other => panic!("unexpected exit {other:?} after the handler"),
        }
        Some(self.outcome(u64::from(vector)))
    }

    /// After a triple fault, which comes of a SYSCALL to nowhere.
    fn shut_down(&mut self) -> Final {
        let mut last = self.outcome(SHUTDOWN);
        let state = self.vcpu.state().expect("the vCPU's state");
        last.outcome.registers.gpr = state.gpr;
        last.outcome.registers.rip = state.rip;
        last.outcome.registers.rflags = state.rflags;
        last
    }

    fn outcome(&mut self, vector: u64) -> Final {
        let state = self.vcpu.state().expect("the vCPU's state");
        let has_error_code = matches!(vector, 8 | 10..=14 | 17);
        let mut frame = [0; FRAME];
        self.ram
            .read_slice(&mut frame, GuestAddress(STACK_TOP - FRAME as u64))
            .expect("the stack is RAM");
        let field = |index: usize| u64::from_le_bytes(std::array::from_fn(|i| frame[index * 8 + i]));
        let mut registers = Registers {
            gpr: state.gpr,
            rip: field(1),
            rflags: field(3),
            xsave: [0; XSAVE],
        };
        registers.gpr[4] = field(4);
        registers.xsave.copy_from_slice(&state.xsave[..XSAVE]);
        let mut memory = vec![0; MEMORY];
        self.ram
            .read_slice(&mut memory, GuestAddress(WINDOW + PAGE as u64))
            .expect("the window is RAM");
        let outcome = Outcome {
            registers,
            vector,
            error: if has_error_code { field(0) } else { 0 },
            cr2: if vector == 14 { state.cr2 } else { 0 },
        };
        Final { outcome, memory }
    }

    fn write(&self, gpa: u64, bytes: &[u8]) {
        self.ram
            .write_slice(bytes, GuestAddress(gpa))
            .expect("the window is RAM");
    }
}

/// The code from where it begins.
fn shown(case: &Case) -> &[u8] {
    let at = case.registers.rip.wrapping_sub(CODE) as usize;
    case.code.get(at..).unwrap_or(&case.code)
}

/// Kicks a vCPU that stays in one case for too long; the exit then fails the test. Ends with the guest.
fn watch(begun: &Arc<AtomicU64>, kicker: Arc<dyn Kick>, patience: Duration) {
    let begun = Arc::downgrade(begun);
    std::thread::spawn(move || {
        let mut last = 0;
        while let Some(begun) = begun.upgrade() {
            let now = begun.load(Ordering::Relaxed);
            drop(begun);
            if now == last && now != 0 {
                kicker.kick(KickSource::Signal);
            }
            last = now;
            std::thread::sleep(patience);
        }
    });
}

/// A flat segment.
fn segment(selector: u16, rights: u16) -> Segment {
    Segment {
        selector,
        base: 0,
        limit: u32::MAX,
        rights,
    }
}

/// Gives FS and GS their bases.
fn set_bases(state: &mut CpuState) {
    const FS_BASE_MSR: u32 = 0xc000_0100;
    const GS_BASE_MSR: u32 = 0xc000_0101;
    for msr in &mut state.msrs {
        match msr.index {
            FS_BASE_MSR => msr.value = FS_BASE,
            GS_BASE_MSR => msr.value = GS_BASE,
            _ => {}
        }
    }
}

/// User mode with everything on that Linux turns on.
fn template(msrs: Vec<Msr>) -> CpuState {
    const DATA_RIGHTS: u16 = 0xc0f3;
    let null = Segment {
        selector: 0,
        base: 0,
        limit: 0,
        rights: 0,
    };
    let data = segment(USER_DATA, DATA_RIGHTS);
    let mut state = reset_state(0);
    state.segments = [data, segment(CODE64, 0xa0fb), data, data, null, null];
    state.ldtr = Segment {
        selector: 0,
        base: 0,
        limit: 0,
        rights: 0,
    };
    state.tr = Segment {
        selector: 0x40,
        base: KERNEL + TSS,
        limit: 0x67,
        rights: 0x8b,
    };
    state.gdtr = DescriptorTable {
        base: KERNEL + GDT,
        limit: 0x4f,
    };
    state.idtr = DescriptorTable {
        base: KERNEL + IDT,
        limit: (VECTORS * 16 - 1) as u16,
    };
    state.cr0 = 0x8005_0033;
    state.cr3 = PML4;
    state.cr4 = 1 << 5 | 1 << 9 | 1 << 10 | 1 << 18;
    state.efer = 0xd01;
    state.xcr0 = 7;
    state.msrs = msrs;
    state.mp = MpState::Runnable;
    state
}

/// Page tables, descriptors and handlers.
fn build_tables(ram: &GuestRam) {
    const PRESENT: u64 = 1;
    const WRITE: u64 = 2;
    const USER: u64 = 4;
    const LARGE: u64 = 0x80;
    const ACCESSED: u64 = 0x60;
    const NO_EXECUTE: u64 = 1 << 63;
    let put = |gpa: u64, value: u64| {
        ram.write_obj(value, GuestAddress(gpa))
            .expect("tables are in RAM")
    };
    let table = PRESENT | WRITE | USER | ACCESSED;
    put(PML4, LOW_PDPT | table);
    put(PML4 + 256 * 8, HIGH_PDPT | table);
    put(LOW_PDPT, LOW_PD | table);
    put(HIGH_PDPT, HIGH_PD | table);
    put(HIGH_PD, PRESENT | WRITE | LARGE | ACCESSED);
    for (address, page_table) in [(CODE, CODE_PT), (DATA, DATA_PT), (STACK, STACK_PT)] {
        put(LOW_PD + (address >> 21) * 8, page_table | table);
    }
    let page = |index: usize| WINDOW + (index * PAGE) as u64;
    put(CODE_PT, page(0) | PRESENT | USER | ACCESSED);
    for index in 0..DATA_PAGES {
        put(DATA_PT + index as u64 * 8, page(1 + index) | table | NO_EXECUTE);
    }
    put(
        DATA_PT + DATA_PAGES as u64 * 8,
        page(1 + DATA_PAGES) | PRESENT | USER | ACCESSED | NO_EXECUTE,
    );
    put(STACK_PT, page(2 + DATA_PAGES) | table | NO_EXECUTE);

    put(GDT + 0x10, 0x00af_9b00_0000_ffff);
    put(GDT + 0x18, 0x00cf_9300_0000_ffff);
    put(GDT + 0x20, 0x00cf_fb00_0000_ffff);
    put(GDT + 0x28, 0x00cf_f300_0000_ffff);
    put(GDT + 0x30, 0x00af_fb00_0000_ffff);
    let tss = KERNEL + TSS;
    put(
        GDT + 0x40,
        0x67 | (tss & 0xff_ffff) << 16 | 0x8b << 40 | (tss >> 24 & 0xff) << 56,
    );
    put(GDT + 0x48, tss >> 32);
    put(TSS + 4, KERNEL + STACK_TOP);
    // No port is the user's.
    put(TSS + 0x60, 0xffff << 48);
    for vector in 0..VECTORS {
        let handler = KERNEL + HANDLERS + vector * 16;
        let gate: u64 = if matches!(vector, 3 | 4) { 0xee00 } else { 0x8e00 };
        put(
            IDT + vector * 16,
            handler & 0xffff | 0x10 << 16 | gate << 32 | (handler >> 16 & 0xffff) << 48,
        );
        put(IDT + vector * 16 + 8, handler >> 32);
        // out vector, al; hlt
        put(HANDLERS + vector * 16, 0xe6 | vector << 8 | 0xf4 << 16);
    }
}
