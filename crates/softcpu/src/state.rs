//! The state of one vCPU.

use std::sync::Arc;

use ostler_accel::{CpuidLeaf, DescriptorTable, Segment, SmmState};

use crate::debugging::Debugging;
use crate::fault::{Exception, Flow, Stop};
use crate::flags::{self, HostFlags, bit};
use crate::mmu::{Mmu, Replay};
use crate::native::{AVX_STATE, NativeState};
use crate::shared::{VcpuShared, VmShared};
use crate::system::lapic::Lapic;
use crate::system::msr::Msrs;
use crate::translate::TranslatorState;
use crate::vm::{Account, Counts};

/// Index of a segment register, in the order of its encoding.
pub mod seg {
    /// ES.
    pub const ES: usize = 0;
    /// CS.
    pub const CS: usize = 1;
    /// SS.
    pub const SS: usize = 2;
    /// DS.
    pub const DS: usize = 3;
    /// FS.
    pub const FS: usize = 4;
    /// GS.
    pub const GS: usize = 5;
}

/// Index of a general register, in the order of its encoding.
pub mod reg {
    /// RAX.
    pub const RAX: usize = 0;
    /// RCX.
    pub const RCX: usize = 1;
    /// RDX.
    pub const RDX: usize = 2;
    /// RBX.
    pub const RBX: usize = 3;
    /// RSP.
    pub const RSP: usize = 4;
    /// RBP.
    pub const RBP: usize = 5;
    /// RSI.
    pub const RSI: usize = 6;
    /// RDI.
    pub const RDI: usize = 7;
    /// Not a register: the value that is added to a block's page offsets to get instruction pointers, so that
    /// RIP-relative operands are addressed like all others.
    pub const RIP_BASE: usize = 16;
    /// Not a register: always zero, so that an operand without base or index needs no branch.
    pub const ZERO: usize = 17;
}

/// Bits of a segment's rights (as [`Segment::rights`]).
pub mod rights {
    /// Data: writable. Code: readable.
    pub const WRITABLE: u16 = 1 << 1;
    /// Data: expands down. Code: conforming.
    pub const EXPAND_DOWN: u16 = 1 << 2;
    /// Code segment.
    pub const CODE: u16 = 1 << 3;
    /// Code or data, not a system segment.
    pub const NON_SYSTEM: u16 = 1 << 4;
    /// Present.
    pub const PRESENT: u16 = 1 << 7;
    /// 64-bit code.
    pub const LONG: u16 = 1 << 13;
    /// 32-bit default size.
    pub const BIG: u16 = 1 << 14;
}

/// Bits of CR0.
pub mod cr0 {
    /// Protected mode.
    pub const PE: u64 = 1;
    /// Monitor coprocessor.
    pub const MP: u64 = 1 << 1;
    /// No x87.
    pub const EM: u64 = 1 << 2;
    /// Task switched.
    pub const TS: u64 = 1 << 3;
    /// Native x87 errors.
    pub const NE: u64 = 1 << 5;
    /// Write protection binds the supervisor too.
    pub const WP: u64 = 1 << 16;
    /// Alignment checks.
    pub const AM: u64 = 1 << 18;
    /// Not write-through.
    pub const NW: u64 = 1 << 29;
    /// Cache disable.
    pub const CD: u64 = 1 << 30;
    /// Paging.
    pub const PG: u64 = 1 << 31;
}

/// Bits of CR4.
pub mod cr4 {
    /// Virtual-8086 extensions.
    pub const VME: u64 = 1;
    /// Protected-mode virtual interrupts.
    pub const PVI: u64 = 1 << 1;
    /// RDTSC for the supervisor only.
    pub const TSD: u64 = 1 << 2;
    /// Debugging extensions.
    pub const DE: u64 = 1 << 3;
    /// 4 MiB pages.
    pub const PSE: u64 = 1 << 4;
    /// Physical address extension.
    pub const PAE: u64 = 1 << 5;
    /// Machine check.
    pub const MCE: u64 = 1 << 6;
    /// Global pages.
    pub const PGE: u64 = 1 << 7;
    /// RDPMC for everyone.
    pub const PCE: u64 = 1 << 8;
    /// SSE.
    pub const OSFXSR: u64 = 1 << 9;
    /// SIMD exceptions.
    pub const OSXMMEXCPT: u64 = 1 << 10;
    /// User-mode instruction prevention.
    pub const UMIP: u64 = 1 << 11;
    /// RDFSBASE and kin.
    pub const FSGSBASE: u64 = 1 << 16;
    /// Process-context identifiers.
    pub const PCIDE: u64 = 1 << 17;
    /// XSAVE.
    pub const OSXSAVE: u64 = 1 << 18;
    /// No supervisor execution of user pages.
    pub const SMEP: u64 = 1 << 20;
    /// No supervisor access to user pages.
    pub const SMAP: u64 = 1 << 21;
}

/// Bits of EFER.
pub mod efer {
    /// SYSCALL.
    pub const SCE: u64 = 1;
    /// Long mode enabled.
    pub const LME: u64 = 1 << 8;
    /// Long mode active.
    pub const LMA: u64 = 1 << 10;
    /// No-execute pages.
    pub const NXE: u64 = 1 << 11;
}

/// What decoding and address formation depend on, as bits. It is part of the key of a decoded block.
pub mod mode {
    /// CS is a 64-bit segment.
    pub const LONG: u32 = 1;
    /// CS is a 32-bit segment.
    pub const CODE32: u32 = 1 << 1;
    /// SS is a 32-bit segment (outside 64-bit mode).
    pub const STACK32: u32 = 1 << 2;
    /// CPL is 3.
    pub const USER: u32 = 1 << 3;
    /// CS, DS, ES and SS have base 0 and no effective limit: set in 64-bit mode, and for flat 32-bit segments.
    pub const FLAT: u32 = 1 << 4;
    /// Blocks of one instruction: single step, breakpoints, interrupt shadow, MMIO replay.
    pub const ALONE: u32 = 1 << 5;
    /// Virtual-8086 mode.
    pub const V86: u32 = 1 << 6;
    /// Protected mode.
    pub const PROTECTED: u32 = 1 << 7;
    /// Instructions of the legacy encoding may use vector registers, and MXCSR masks every exception.
    pub const SSE: u32 = 1 << 8;
    /// The same for those with a VEX prefix.
    pub const AVX: u32 = 1 << 9;
    /// CPL is 1 or 2.
    pub const INNER: u32 = 1 << 10;
    /// System management mode: other memory may be at the same physical address.
    pub const SMM: u32 = 1 << 11;
}

/// Whether the vCPU executes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Activity {
    /// Executes.
    Running,
    /// In HLT until an event.
    Halted,
    /// Waits for a start-up IPI (also an application processor before INIT).
    WaitForSipi,
    /// Shut down by a triple fault.
    Shutdown,
}

/// What user mode has to do before the instruction at `rip` can go on.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum PendingExit {
    /// Nothing.
    #[default]
    None,
    /// Fill `Cpu::exit_data[..len]` from a port.
    PortRead {
        /// The port.
        port: u16,
        /// Bytes an item.
        width: u8,
        /// Bytes in all.
        len: usize,
    },
    /// Send `Cpu::exit_data[..len]` to a port.
    PortWrite {
        /// The port.
        port: u16,
        /// Bytes an item.
        width: u8,
        /// Bytes in all.
        len: usize,
    },
    /// Fill `Cpu::exit_data[..len]` from a device's memory.
    MmioRead {
        /// Guest-physical address.
        gpa: u64,
        /// 1 to 8.
        len: usize,
    },
    /// Send `Cpu::exit_data[..len]` to a device's memory.
    MmioWrite {
        /// Guest-physical address.
        gpa: u64,
        /// 1 to 8.
        len: usize,
    },
}

/// The x87 and SSE part of the state in FXSAVE form (SDM vol. 1, 10.5.1); the XMM registers in it are not used, they are the low
/// halves of [`Cpu::vec`].
#[derive(Clone)]
#[repr(C, align(64))]
pub struct FxArea(pub [u8; 512]);

/// Bytes of [`Cpu::exit_data`].
pub const EXIT_DATA_SIZE: usize = 4096;

/// MAXPHYADDR until CPUID says otherwise.
const DEFAULT_PHYSICAL_BITS: u32 = 40;

/// One vCPU.
#[repr(C, align(64))]
pub struct Cpu {
    /// General registers by encoding, then [`reg::RIP_BASE`] and [`reg::ZERO`].
    pub gpr: [u64; 18],
    /// Instruction pointer: of the instruction that executes where a handler out of line or a fault looks at it, of the next
    /// one between instructions.
    pub rip: u64,
    /// Address of the instruction after the one that executes, for handlers out of line.
    pub next_rip: u64,
    /// Mask of the instruction pointer: all ones in 64-bit mode, 32 or 16 bits else.
    pub rip_mask: u64,
    /// Mask of the stack pointer, likewise.
    pub rsp_mask: u64,
    /// Arithmetic flags; see [`Cpu::rflags`].
    pub flags: HostFlags,
    /// Current privilege level. Equal to the DPL of SS; kept by whoever loads CS or SS.
    pub cpl: u8,
    /// Interrupts and single-step traps are held off for one instruction (after STI or a load of SS).
    pub shadow: bool,
    /// SS was loaded by the last instruction: debug traps wait as well.
    pub stack_loaded: bool,
    /// An event may wait for RFLAGS.IF or for the end of an NMI. False only if none does; what others posted shows in the
    /// attention word.
    pub held: bool,
    /// The bits of [`mode`] in force; [`Cpu::update_mode`] computes them.
    pub mode: u32,
    /// The other flags, as bits of RFLAGS (bit 1 not kept).
    pub rflags_rest: u64,
    /// Instructions retired, counted a block at a time.
    pub instructions: u64,
    /// When `instructions` passes this, the engine looks at the clock.
    pub look_at: u64,
    /// PAUSE instructions until the host's CPU is offered to others.
    pub patience: i64,
    /// Host TSC ticks spent in page walks, decoding and events since last accounted.
    pub kernel_ticks: u64,
    /// What was accounted last.
    pub(crate) account: Account,
    /// What was done so that guest code can execute.
    pub(crate) counts: Counts,
    /// TLB and walker.
    pub mmu: Mmu,
    /// Segment registers with their hidden parts, by encoding.
    pub segs: [Segment; 6],
    /// Vector registers; XMM are the low halves.
    pub vec: [VectorRegister; 16],
    /// x87 state; call [`Cpu::sync_x87`] before reading it or writing to it, [`Cpu::x87_image_changed`] after writing.
    pub fx: FxArea,
    /// What native instructions keep.
    pub native: NativeState,
    /// What translated code keeps.
    pub(crate) translated: TranslatorState,
    /// MXCSR.
    pub mxcsr: u32,
    /// XCR0.
    pub xcr0: u64,
    /// Control registers.
    pub cr0: u64,
    /// Page-fault address.
    pub cr2: u64,
    /// Page-table base.
    pub cr3: u64,
    /// Feature switches.
    pub cr4: u64,
    /// EFER.
    pub efer: u64,
    /// DR0 to DR3.
    pub dr: [u64; 4],
    /// Debug status.
    pub dr6: u64,
    /// Debug control.
    pub dr7: u64,
    /// Local descriptor table.
    pub ldtr: Segment,
    /// Task register.
    pub tr: Segment,
    /// Global descriptor table.
    pub gdtr: DescriptorTable,
    /// Interrupt descriptor table.
    pub idtr: DescriptorTable,
    /// The other MSRs.
    pub msrs: Msrs,
    /// This vCPU's LAPIC: the part that only its own thread touches.
    pub lapic: Lapic,
    /// Whether it executes.
    pub activity: Activity,
    /// NMIs that wait.
    pub nmis_pending: u8,
    /// NMIs are blocked until IRET.
    pub nmi_masked: bool,
    /// System management mode.
    pub smm: SmmState,
    /// The exception behind [`Stop::Fault`].
    pub exception: Option<Exception>,
    /// The request behind [`Stop::Exit`].
    pub exit: PendingExit,
    /// Data of that request.
    pub exit_data: Box<[u8; EXIT_DATA_SIZE]>,
    /// Device accesses of the current instruction that user mode has done already.
    pub replay: Replay,
    /// Vectors of level-triggered interrupts that ended and that the IOAPIC must hear of.
    pub ended: Vec<u8>,
    /// What a debugger outside of the guest wants.
    pub debugging: Debugging,
    /// Sorted answers of CPUID.
    pub cpuid: Arc<[CpuidLeaf]>,
    /// vCPU id, also its x2APIC id.
    pub id: u32,
    /// What other threads see of this vCPU.
    pub shared: Arc<VcpuShared>,
    /// What all vCPUs share.
    pub vm: Arc<VmShared>,
}

/// A vector register, least significant quarter first.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
#[repr(C, align(32))]
pub struct VectorRegister(pub [u64; 4]);

impl Cpu {
    /// A vCPU with everything zero; give it a state before it runs.
    pub fn new(vm: Arc<VmShared>, shared: Arc<VcpuShared>, id: u32, cpuid: &[CpuidLeaf]) -> Box<Self> {
        let mut sorted = cpuid.to_vec();
        sorted.sort_by_key(|leaf| (leaf.leaf, leaf.subleaf));
        let segment = Segment::default();
        let mut cpu = Box::new(Self {
            gpr: [0; 18],
            rip: 0,
            next_rip: 0,
            rip_mask: 0xffff,
            rsp_mask: 0xffff,
            flags: 0,
            cpl: 0,
            shadow: false,
            stack_loaded: false,
            held: true,
            mode: 0,
            rflags_rest: 0,
            instructions: 0,
            look_at: 0,
            patience: crate::exec::PATIENCE,
            kernel_ticks: 0,
            account: Account::default(),
            counts: Counts::default(),
            mmu: Mmu::new(vm.map.load_full(), DEFAULT_PHYSICAL_BITS),
            segs: [segment; 6],
            vec: [VectorRegister::default(); 16],
            fx: FxArea([0; 512]),
            native: NativeState::default(),
            translated: TranslatorState::new(&raw const shared.attention),
            mxcsr: 0x1f80,
            xcr0: 1,
            cr0: 0,
            cr2: 0,
            cr3: 0,
            cr4: 0,
            efer: 0,
            dr: [0; 4],
            dr6: 0,
            dr7: 0,
            ldtr: segment,
            tr: segment,
            gdtr: DescriptorTable::default(),
            idtr: DescriptorTable::default(),
            msrs: Msrs::default(),
            lapic: Lapic::default(),
            activity: Activity::WaitForSipi,
            nmis_pending: 0,
            nmi_masked: false,
            smm: SmmState::default(),
            exception: None,
            exit: PendingExit::None,
            exit_data: Box::new([0; EXIT_DATA_SIZE]),
            replay: Replay::default(),
            ended: Vec::new(),
            debugging: Debugging::default(),
            cpuid: sorted.into(),
            id,
            shared,
            vm,
        });
        let bits = crate::system::cpuid::physical_bits(&cpu);
        cpu.mmu.set_physical_bits(bits);
        cpu
    }

    /// RFLAGS as a whole, bit 1 set.
    #[inline]
    pub fn rflags(&self) -> u64 {
        self.rflags_rest | flags::to_rflags(self.flags) | 2
    }

    /// Sets RFLAGS as a whole. The caller has masked what may not change, and calls [`Cpu::update_mode`] where VM, TF or
    /// AC changed.
    #[inline]
    pub fn set_rflags(&mut self, rflags: u64) {
        const REST: u64 = 0x3f_ffff & !(bit::ARITHMETIC | 2 | 1 << 3 | 1 << 5 | 1 << 15);
        self.flags = flags::from_rflags(rflags);
        self.rflags_rest = rflags & REST;
    }

    /// Records `exception` as what stops the current instruction.
    #[cold]
    pub fn raise(&mut self, exception: Exception) -> Stop {
        self.exception = Some(exception);
        Stop::Fault
    }

    /// `#GP(0)`.
    #[cold]
    pub fn gp0(&mut self) -> Stop {
        self.raise(Exception::gp(0))
    }

    /// `#UD`.
    #[cold]
    pub fn ud(&mut self) -> Stop {
        self.raise(Exception::ud())
    }

    /// True in 64-bit mode (not compatibility mode).
    #[inline]
    pub fn is_long(&self) -> bool {
        self.mode & mode::LONG != 0
    }

    /// True while IA-32e mode is active (64-bit or compatibility mode).
    #[inline]
    pub fn long_active(&self) -> bool {
        self.efer & efer::LMA != 0
    }

    /// True in protected mode and not virtual-8086 mode.
    #[inline]
    pub fn is_protected(&self) -> bool {
        self.cr0 & cr0::PE != 0 && self.rflags_rest & bit::VM == 0
    }

    /// Computes everything that depends on CS, SS, CPL, CR0, CR4, EFER and the flags VM, TF, AC. Call it after changing any of
    /// them, before the next instruction.
    pub fn update_mode(&mut self) {
        let v86 = self.rflags_rest & bit::VM != 0 && self.cr0 & cr0::PE != 0;
        let cs = self.segs[seg::CS].rights;
        let ss = self.segs[seg::SS].rights;
        let long = self.efer & efer::LMA != 0 && cs & rights::LONG != 0;
        let mut bits = 0;
        if long {
            bits |= mode::LONG | mode::FLAT;
        } else {
            if cs & rights::BIG != 0 {
                bits |= mode::CODE32;
            }
            if ss & rights::BIG != 0 {
                bits |= mode::STACK32;
            }
            if [seg::ES, seg::CS, seg::SS, seg::DS]
                .iter()
                .all(|&s| self.is_flat(s))
                && cs & rights::BIG != 0
            {
                bits |= mode::FLAT;
            }
        }
        match self.cpl {
            0 => {}
            3 => bits |= mode::USER,
            _ => bits |= mode::INNER,
        }
        if v86 {
            bits |= mode::V86;
        }
        if self.cr0 & cr0::PE != 0 {
            bits |= mode::PROTECTED;
        }
        if self.rflags_rest & bit::TF != 0 || self.dr7 & 0xff != 0 || self.debugging.steps() {
            bits |= mode::ALONE;
        }
        if self.smm.active {
            bits |= mode::SMM;
        }
        self.mode = bits | self.vector_mode();
        (self.rip_mask, self.rsp_mask) = match (long, bits & mode::CODE32 != 0, bits & mode::STACK32 != 0) {
            (true, _, _) => (u64::MAX, u64::MAX),
            (_, code, stack) => {
                let width = |big| if big { 0xffff_ffff } else { 0xffff };
                // Code of 16 bits in a segment beyond 64 KiB, as in system management mode: only its own jumps are of 16 bits.
                let code = code || self.segs[seg::CS].limit > 0xffff;
                (width(code), width(stack))
            }
        };
        self.update_mmu_mode();
    }

    /// The bits [`mode::SSE`] and [`mode::AVX`].
    fn vector_mode(&self) -> u32 {
        const MASKS: u32 = 0x1f80;
        if self.mxcsr & MASKS != MASKS || self.cr0 & cr0::TS != 0 {
            return 0;
        }
        let mut bits = 0;
        if self.cr0 & cr0::EM == 0 && self.cr4 & cr4::OSFXSR != 0 {
            bits |= mode::SSE;
        }
        if self.cr4 & cr4::OSXSAVE != 0 && self.xcr0 & AVX_STATE == AVX_STATE && self.is_protected() {
            bits |= mode::AVX;
        }
        bits
    }

    /// To be called by an instruction that changed MXCSR or XCR0. Where the mode changes by that, its block ends.
    pub fn vector_state_changed(&mut self) -> Flow {
        if self.mode & (mode::SSE | mode::AVX) == self.vector_mode() {
            return Flow::Next;
        }
        self.update_mode();
        self.rip = self.next_rip;
        Flow::Jump
    }

    /// True if a data access through `index` needs neither a base nor a limit.
    fn is_flat(&self, index: usize) -> bool {
        let s = &self.segs[index];
        let usable = rights::PRESENT | rights::NON_SYSTEM | rights::WRITABLE;
        let readable_code = s.rights & rights::CODE != 0;
        s.base == 0
            && s.limit == u32::MAX
            && s.rights & usable == usable
            && (readable_code || s.rights & rights::EXPAND_DOWN == 0)
            && (index == seg::CS) == readable_code
    }
}
