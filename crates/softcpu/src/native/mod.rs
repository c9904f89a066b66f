//! Instructions without system semantics, executed by the host's own CPU.
//!
//! This folder owns every instruction that is not a legacy integer or system instruction: x87, MMX, SSE to SSE4.2, every VEX form
//! (AVX, AVX2, FMA, F16C, BMI1, BMI2), AES, SHA, PCLMUL, POPCNT, LZCNT, TZCNT, CRC32, ADCX/ADOX, MOVBE, MOVNTI, LDMXCSR/STMXCSR,
//! FXSAVE/FXRSTOR, the XSAVE family, EMMS, FWAIT, prefetches and cache hints (CLFLUSH...), fences, RDRAND/RDSEED, RDPID.

use iced_x86::Instruction;

use crate::fault::{Flow, Result};
use crate::state::Cpu;

/// A compiled form, made once when a block is decoded.
pub struct NativeOp {
    /// The instruction.
    pub instruction: Instruction,
}

/// Compiles `instruction` if it belongs to this folder. `mode` is [`Cpu::mode`] of the block. The instruction was decoded with
/// the page offset of its first byte as its address, so RIP-relative operands are relative to `gpr[reg::RIP_BASE]`.
pub fn compile(_instruction: &Instruction, _mode: u32) -> Option<NativeOp> {
    None
}

/// Executes `op`. `cpu.rip` is the address of the instruction; all memory goes through the loads and stores of
/// [`Cpu`]. Registers are committed last.
pub fn execute(cpu: &mut Cpu, _op: &NativeOp) -> Result<Flow> {
    Err(cpu.ud())
}
