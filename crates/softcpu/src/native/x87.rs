//! The x87 state, which lives in the host's own x87 registers while the guest uses it.
//!
//! Nothing that runs on a vCPU's thread between two guest instructions uses x87 or MMX registers, so the guest's are loaded at
//! its first x87 or MMX instruction ("live") and brought back to [`Cpu::fx`] when somebody wants to see them: an instruction
//! that stores them, or the vCPU leaving guest mode. The instruction and data pointers never come from the host: they
//! are kept here in software.

use std::arch::asm;

use super::NativeOp;
use crate::fault::{Exception, Flow, Result, vector};
use crate::state::{Cpu, FxArea, seg};

/// Exception flags of the status word, masks of the control word.
const EXCEPTIONS: u16 = 0x3f;
/// Precision: the one exception after which a result is stored even if it is not masked.
const PRECISION: u16 = 1 << 5;
/// Error summary in the status word.
const ERROR_SUMMARY: u16 = 1 << 7;
/// Bytes of an FXSAVE image before the XMM registers.
const X87_PART: usize = 160;
/// The image's MXCSR field.
const MXCSR_FIELD: std::ops::Range<usize> = 24..28;

/// Where the last x87 instruction was and what it accessed (SDM vol. 1, 8.1.8).
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Pointers {
    /// The lower 11 bits of the opcode.
    pub opcode: u16,
    /// Offset of the instruction.
    pub instruction: u64,
    /// Offset of its memory operand.
    pub data: u64,
    /// CS.
    pub code_segment: u16,
    /// Selector of the memory operand's segment.
    pub data_segment: u16,
}

/// Reads a little-endian word of an image.
pub fn word(image: &[u8], at: usize) -> u16 {
    u16::from_le_bytes([image[at], image[at + 1]])
}

/// Writes one.
pub fn set_word(image: &mut [u8], at: usize, value: u16) {
    image[at..at + 2].copy_from_slice(&value.to_le_bytes());
}

impl Cpu {
    /// Brings the x87 state back to [`Cpu::fx`]. To be called before anything outside this folder looks at `fx`, and before the
    /// vCPU leaves guest mode or changes threads.
    #[inline]
    pub fn sync_x87(&mut self) {
        if self.native.live {
            self.unload_x87();
        }
    }

    #[cold]
    fn unload_x87(&mut self) {
        let mut image = FxArea([0; 512]);
        // SAFETY: the area is 512 bytes and aligned; FNINIT leaves the registers as the ABI wants them.
        unsafe { asm!("fxsave64 [{}]", "fninit", in(reg) image.0.as_mut_ptr(), options(nostack)) };
        self.native.live = false;
        let fx = &mut self.fx.0;
        fx[..MXCSR_FIELD.start].copy_from_slice(&image.0[..MXCSR_FIELD.start]);
        fx[32..X87_PART].copy_from_slice(&image.0[32..X87_PART]);
        self.store_pointers();
    }

    /// Puts the pointers kept in software into the image, in its 64-bit form.
    fn store_pointers(&mut self) {
        let pointers = self.native.pointers;
        let fx = &mut self.fx.0;
        set_word(fx, 6, pointers.opcode);
        fx[8..16].copy_from_slice(&pointers.instruction.to_le_bytes());
        fx[16..24].copy_from_slice(&pointers.data.to_le_bytes());
    }

    /// To be called after [`Cpu::fx`] was replaced as a whole: what is live is void, and the pointers are taken over.
    pub fn x87_image_changed(&mut self) {
        if self.native.live {
            // SAFETY: FNINIT touches nothing but the x87 state, which was replaced.
            unsafe { asm!("fninit", options(nostack, nomem)) };
            self.native.live = false;
        }
        let fx = &self.fx.0;
        let long = |at: usize| u64::from_le_bytes(std::array::from_fn(|i| fx[at + i]));
        let (opcode, instruction, data) = (word(fx, 6) & 0x7ff, long(8), long(16));
        self.native.pointers = Pointers {
            opcode,
            instruction,
            data,
            code_segment: 0,
            data_segment: 0,
        };
    }

    /// Loads the state into the host's registers.
    #[inline]
    pub(super) fn enter_x87(&mut self) {
        if !self.native.live {
            self.load_x87();
        }
    }

    #[cold]
    fn load_x87(&mut self) {
        let mut image = FxArea([0; 512]);
        image.0[..X87_PART].copy_from_slice(&self.fx.0[..X87_PART]);
        // No guest pointers in the host's registers, so that none of the host's is ever mistaken for them.
        image.0[6..24].fill(0);
        image.0[MXCSR_FIELD].copy_from_slice(&self.native.host_mxcsr.to_le_bytes());
        // SAFETY: a well-formed aligned image; MXCSR stays the host's, and the XMM registers are declared as changed.
        unsafe {
            asm!(
                "fxrstor64 [{}]", in(reg) image.0.as_ptr(),
                out("xmm0") _, out("xmm1") _, out("xmm2") _, out("xmm3") _, out("xmm4") _, out("xmm5") _,
                out("xmm6") _, out("xmm7") _, out("xmm8") _, out("xmm9") _, out("xmm10") _, out("xmm11") _,
                out("xmm12") _, out("xmm13") _, out("xmm14") _, out("xmm15") _,
                options(nostack, readonly)
            );
        }
        self.native.live = true;
        self.native.unmasked = word(&self.fx.0, 0) & EXCEPTIONS != EXCEPTIONS;
    }

    /// #MF if an unmasked x87 exception is pending: before every waiting x87 instruction, FWAIT and MMX. Loads the state.
    #[inline]
    pub(super) fn wait_x87(&mut self) -> Result<()> {
        self.enter_x87();
        if self.native.unmasked && status_word() & ERROR_SUMMARY != 0 {
            return Err(self.raise(Exception::plain(vector::MF)));
        }
        Ok(())
    }

    /// True if the instruction that has just run must not store its result: an exception other than precision is pending,
    /// and there was none before.
    pub(super) fn x87_store_suppressed(&self) -> bool {
        self.native.unmasked && status_word() & !control_word() & EXCEPTIONS & !PRECISION != 0
    }

    /// Remembers where an x87 instruction was and what it accessed.
    #[inline]
    pub(super) fn note_x87(&mut self, op: &NativeOp, data: Option<u64>) {
        let pointers = &mut self.native.pointers;
        pointers.opcode = op.x87_opcode;
        pointers.instruction = self.rip;
        pointers.code_segment = self.segs[seg::CS].selector;
        if let Some(data) = data {
            pointers.data = data;
            pointers.data_segment = self.segs[op.address.segment()].selector;
        }
    }

    /// Saves the live state in `image` without unloading it, so that an instruction can be undone.
    pub(super) fn save_live_x87(&self, image: &mut FxArea) {
        // SAFETY: the area is 512 bytes and aligned.
        unsafe { asm!("fxsave64 [{}]", in(reg) image.0.as_mut_ptr(), options(nostack)) };
    }

    /// Takes an instruction back: the state is what [`Cpu::save_live_x87`] saved, no longer live.
    pub(super) fn revert_live_x87(&mut self, image: &FxArea) {
        // SAFETY: FNINIT touches nothing but the x87 state, which is replaced.
        unsafe { asm!("fninit", options(nostack, nomem)) };
        self.native.live = false;
        self.fx.0[..6].copy_from_slice(&image.0[..6]);
        self.fx.0[32..X87_PART].copy_from_slice(&image.0[32..X87_PART]);
        self.store_pointers();
    }
}

/// The host's status word.
fn status_word() -> u16 {
    let word: u16;
    // SAFETY: reads a register.
    unsafe { asm!("fnstsw ax", out("ax") word, options(nostack, nomem, preserves_flags)) };
    word
}

/// The host's control word.
fn control_word() -> u16 {
    let mut word = 0u16;
    // SAFETY: stores two bytes to a local.
    unsafe { asm!("fnstcw word ptr [{}]", in(reg) &raw mut word, options(nostack, preserves_flags)) };
    word
}

/// FWAIT.
pub fn wait(cpu: &mut Cpu, _op: &NativeOp) -> Result<Flow> {
    cpu.wait_x87()?;
    Ok(Flow::Next)
}

/// FNOP and what the 8087 and 80287 alone knew: waits, does nothing else. FNOP changes no pointers on newer processors that
/// matter, but it is an x87 instruction like others to FIP.
pub fn nop(cpu: &mut Cpu, op: &NativeOp) -> Result<Flow> {
    cpu.wait_x87()?;
    if op.notes_pointers {
        cpu.note_x87(op, None);
    }
    Ok(Flow::Next)
}

/// FLDCW.
pub fn fldcw(cpu: &mut Cpu, op: &NativeOp) -> Result<Flow> {
    cpu.wait_x87()?;
    let offset = op.address.offset(cpu);
    let word: u16 = cpu.load(op.address.segment(), offset)?;
    // SAFETY: loads two bytes from a local; exceptions that become unmasked stay pending until a waiting instruction.
    unsafe { asm!("fldcw word ptr [{}]", in(reg) &raw const word, options(nostack, readonly)) };
    cpu.native.unmasked = word & EXCEPTIONS != EXCEPTIONS;
    Ok(Flow::Next)
}

/// FNSTCW.
pub fn fnstcw(cpu: &mut Cpu, op: &NativeOp) -> Result<Flow> {
    cpu.enter_x87();
    let offset = op.address.offset(cpu);
    cpu.store(op.address.segment(), offset, control_word())?;
    Ok(Flow::Next)
}

/// FNSTSW to memory.
pub fn fnstsw_memory(cpu: &mut Cpu, op: &NativeOp) -> Result<Flow> {
    cpu.enter_x87();
    let offset = op.address.offset(cpu);
    cpu.store(op.address.segment(), offset, status_word())?;
    Ok(Flow::Next)
}

/// FNSTSW AX.
pub fn fnstsw_ax(cpu: &mut Cpu, _op: &NativeOp) -> Result<Flow> {
    cpu.enter_x87();
    cpu.gpr[0] = cpu.gpr[0] & !0xffff | u64::from(status_word());
    Ok(Flow::Next)
}

/// FNCLEX.
pub fn fnclex(cpu: &mut Cpu, _op: &NativeOp) -> Result<Flow> {
    cpu.enter_x87();
    // SAFETY: clears the guest's exception flags, which are live.
    unsafe { asm!("fnclex", options(nostack, nomem)) };
    Ok(Flow::Next)
}

/// FNINIT.
pub fn fninit(cpu: &mut Cpu, _op: &NativeOp) -> Result<Flow> {
    cpu.enter_x87();
    // SAFETY: initialises the guest's state, which is live.
    unsafe { asm!("fninit", options(nostack, nomem)) };
    cpu.native.unmasked = false;
    cpu.native.pointers = Pointers::default();
    Ok(Flow::Next)
}
