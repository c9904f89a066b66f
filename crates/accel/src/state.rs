//! The state of a guest CPU in our own plain form.

/// Largest XSAVE area that a [`CpuState`] carries, in bytes (AVX-512 needs 2,696; room for tiles).
pub const MAX_XSAVE_SIZE: usize = 16384;

/// A segment register with its hidden part.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Segment {
    /// Visible selector.
    pub selector: u16,
    /// Base address.
    pub base: u64,
    /// Limit in bytes (already scaled by granularity).
    pub limit: u32,
    /// Access rights as in bits 8 to 23 of a descriptor's upper half (SDM vol. 3, 3.4.5): type 0-3, S 4, DPL 5-6, P 7,
    /// AVL 12, L 13, D/B 14, G 15. P clear means unusable.
    pub rights: u16,
}

/// GDTR or IDTR.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct DescriptorTable {
    /// Linear base address.
    pub base: u64,
    /// Limit in bytes.
    pub limit: u16,
}

/// One leaf of what CPUID answers.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct CpuidLeaf {
    /// EAX on input.
    pub leaf: u32,
    /// ECX on input, or `None` where the leaf ignores it.
    pub subleaf: Option<u32>,
    /// Answer.
    pub eax: u32,
    /// Answer.
    pub ebx: u32,
    /// Answer.
    pub ecx: u32,
    /// Answer.
    pub edx: u32,
}

/// A model-specific register.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Msr {
    /// Its number.
    pub index: u32,
    /// Its value.
    pub value: u64,
}

/// Whether a vCPU runs.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum MpState {
    /// Executing instructions.
    #[default]
    Runnable,
    /// An application processor before INIT.
    Uninitialized,
    /// After INIT, waiting for a start-up IPI.
    WaitForSipi,
    /// In HLT.
    Halted,
}

/// Exceptions, interrupts and NMIs that are on their way into the guest.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct PendingEvents {
    /// Exception to deliver before the next instruction: vector and error code.
    pub exception: Option<(u8, Option<u32>)>,
    /// External interrupt that was taken from the controller but not delivered.
    pub interrupt: Option<u8>,
    /// NMIs that wait, two at most: see [`PendingEvents::wait`].
    pub nmis_pending: u8,
    /// NMIs are blocked until IRET.
    pub nmi_masked: bool,
    /// Interrupts are held off for one instruction (after STI or a load of SS).
    pub interrupt_shadow: bool,
}

impl PendingEvents {
    /// How many NMIs wait if `pending` did and `more` arrive. As on KVM, one waits behind a handler that runs, and two if none
    /// does: the first of them would have entered its handler by the time that the second came.
    pub fn wait(pending: u8, more: u8, masked: bool) -> u8 {
        pending.saturating_add(more).min(if masked { 1 } else { 2 })
    }
}

/// System management mode (SDM vol. 3, chapter 32).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct SmmState {
    /// SMBASE: where the code and the saved state of system management mode are.
    pub base: u32,
    /// The vCPU is in system management mode.
    pub active: bool,
    /// An SMI waits, of which there is one at most.
    pub pending: bool,
    /// NMIs were blocked already when system management mode was entered.
    pub inside_nmi: bool,
    /// An INIT came in system management mode and waits for its end.
    pub init_pending: bool,
    /// So does a start-up IPI that came after it, with this vector.
    pub startup_pending: Option<u8>,
}

impl Default for SmmState {
    /// After RESET (SDM vol. 3, 32.4).
    fn default() -> Self {
        Self {
            base: 0x3_0000,
            active: false,
            pending: false,
            inside_nmi: false,
            init_pending: false,
            startup_pending: None,
        }
    }
}

/// The local APIC.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LapicState {
    /// The register page: register n at byte 16 n, as at 0xfee00000 (SDM vol. 3, table 11-1). In x2APIC mode the id
    /// register holds all 32 bits.
    pub registers: [u8; 1024],
}

/// Everything that a guest CPU is, in no accelerator's own form.
///
/// Registers are in the order of their encoding: rax rcx rdx rbx rsp rbp rsi rdi r8 ... r15.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CpuState {
    /// General registers by encoding.
    pub gpr: [u64; 16],
    /// Instruction pointer.
    pub rip: u64,
    /// Flags.
    pub rflags: u64,
    /// ES CS SS DS FS GS, by encoding.
    pub segments: [Segment; 6],
    /// Local descriptor table.
    pub ldtr: Segment,
    /// Task register.
    pub tr: Segment,
    /// Global descriptor table.
    pub gdtr: DescriptorTable,
    /// Interrupt descriptor table.
    pub idtr: DescriptorTable,
    /// Control registers 0, 2, 3, 4 and 8.
    pub cr0: u64,
    /// Page-fault address.
    pub cr2: u64,
    /// Page-table base and PCID.
    pub cr3: u64,
    /// Feature switches.
    pub cr4: u64,
    /// Task priority (bits 4-7 of the LAPIC's TPR).
    pub cr8: u64,
    /// Extended feature register.
    pub efer: u64,
    /// XSAVE feature mask.
    pub xcr0: u64,
    /// IA32_APIC_BASE.
    pub apic_base: u64,
    /// DR0 to DR3, DR6, DR7.
    pub debug: [u64; 6],
    /// x87, SSE and AVX state in the standard (not compacted) XSAVE format; at least 576 bytes.
    pub xsave: Vec<u8>,
    /// The other MSRs, in the order in which they are to be set; IA32_TSC among them.
    pub msrs: Vec<Msr>,
    /// Local APIC registers.
    pub lapic: LapicState,
    /// What is on its way in.
    pub events: PendingEvents,
    /// System management mode.
    pub smm: SmmState,
    /// Whether it runs.
    pub mp: MpState,
}

/// The state after RESET (SDM vol. 3, 10.1.1): CPU 0 runs at f000:fff0, the others wait for INIT.
pub fn reset_state(cpu: u32) -> CpuState {
    const DATA: u16 = 0x93;
    const CODE: u16 = 0x9b;
    let real = |selector: u16, base: u64, rights: u16| Segment {
        selector,
        base,
        limit: 0xffff,
        rights,
    };
    let data = real(0, 0, DATA);
    let mut segments = [data; 6];
    segments[1] = real(0xf000, 0xffff_0000, CODE);
    let bsp = if cpu == 0 { 1 << 8 } else { 0 };
    let mut xsave = vec![0; 576];
    xsave[0..2].copy_from_slice(&0x0040u16.to_le_bytes());
    xsave[24..28].copy_from_slice(&0x1f80u32.to_le_bytes());
    CpuState {
        gpr: [0; 16],
        rip: 0xfff0,
        rflags: 2,
        segments,
        ldtr: real(0, 0, 0x82),
        tr: real(0, 0, 0x8b),
        gdtr: DescriptorTable {
            base: 0,
            limit: 0xffff,
        },
        idtr: DescriptorTable {
            base: 0,
            limit: 0xffff,
        },
        cr0: 0x6000_0010,
        cr2: 0,
        cr3: 0,
        cr4: 0,
        cr8: 0,
        efer: 0,
        xcr0: 1,
        apic_base: 0xfee0_0000 | bsp | 1 << 11,
        debug: [0, 0, 0, 0, 0xffff_0ff0, 0x400],
        xsave,
        msrs: Vec::new(),
        lapic: reset_lapic(cpu),
        events: PendingEvents::default(),
        smm: SmmState::default(),
        mp: if cpu == 0 {
            MpState::Runnable
        } else {
            MpState::Uninitialized
        },
    }
}

/// The LAPIC after RESET in xAPIC mode (SDM vol. 3, 11.4.7.1).
fn reset_lapic(cpu: u32) -> LapicState {
    let mut registers = [0; 1024];
    let mut set = |register: usize, value: u32| {
        registers[register..register + 4].copy_from_slice(&value.to_le_bytes());
    };
    set(0x20, cpu << 24);
    set(0x30, 0x0005_0014);
    set(0xe0, u32::MAX);
    set(0xf0, 0xff);
    for lvt in [0x320, 0x330, 0x340, 0x350, 0x360, 0x370] {
        set(lvt, 1 << 16);
    }
    LapicState { registers }
}
