//! All stubs of the process, by shape.

use std::cell::RefCell;
use std::collections::HashMap;
use std::sync::{LazyLock, Mutex};

use iced_x86::Instruction;

use super::code_buffer::CodeBuffer;
use super::emit;
use crate::state::Cpu;

/// A stub: the vCPU, and the host address of the memory operand (null if there is none).
pub type StubFn = unsafe extern "sysv64" fn(cpu: *mut Cpu, operand: *mut u8);

/// Bytes of stubs that the process keeps. A guest that uses more shapes than fit pays for the others at each execution.
const CACHE_SIZE: usize = 8 << 20;

/// Where an instruction's stub is.
#[derive(Clone, Copy)]
pub enum Stub {
    /// In the cache.
    Cached(StubFn),
    /// To be generated for each execution, because the cache is full.
    Uncached,
}

/// Shapes and their stubs.
struct Cache {
    buffer: CodeBuffer,
    by_shape: HashMap<Instruction, Option<StubFn>>,
}

/// The cache, or `None` if the host gives no memory for code.
static CACHE: LazyLock<Option<Mutex<Cache>>> = LazyLock::new(|| {
    let buffer = CodeBuffer::new(CACHE_SIZE)
        .map_err(|error| tracing::error!(%error, "no memory for generated code: vector and x87 instructions raise #UD"))
        .ok()?;
    Some(Mutex::new(Cache {
        buffer,
        by_shape: HashMap::new(),
    }))
});

/// The stub for a normalised instruction that passed the list, or `None` if it cannot be encoded for the host.
pub fn find(shape: &Instruction) -> Option<Stub> {
    let mut cache = CACHE
        .as_ref()?
        .lock()
        .unwrap_or_else(|poisoned| poisoned.into_inner());
    if let Some(&known) = cache.by_shape.get(shape) {
        return known.map(Stub::Cached);
    }
    let Ok(code) = emit::stub(shape) else {
        cache.by_shape.insert(*shape, None);
        return None;
    };
    match cache.buffer.append(&code) {
        Some(address) => {
            let function = function_at(address);
            cache.by_shape.insert(*shape, Some(function));
            Some(Stub::Cached(function))
        }
        None => Some(Stub::Uncached),
    }
}

/// Generates and runs a stub that the cache has no room for.
///
/// # Safety
/// As for calling a [`StubFn`] of this shape.
#[cold]
pub unsafe fn run_uncached(shape: &Instruction, cpu: *mut Cpu, operand: *mut u8) {
    thread_local! {
        static BUFFER: RefCell<Option<CodeBuffer>> = RefCell::new(CodeBuffer::new(4096).ok());
    }
    BUFFER.with_borrow_mut(|buffer| {
        let (Some(buffer), Ok(code)) = (buffer.as_mut(), emit::stub(shape)) else {
            return;
        };
        buffer.clear();
        if let Some(address) = buffer.append(&code) {
            // Code written through another address must be followed by a serializing instruction (SDM vol. 3, 8.1.3).
            std::hint::black_box(std::arch::x86_64::__cpuid(0));
            // SAFETY: the caller's promise; the code was generated for this shape.
            unsafe { function_at(address)(cpu, operand) };
        }
    });
}

/// The function whose code starts at `address`.
fn function_at(address: *const u8) -> StubFn {
    // SAFETY: `emit::stub` generates functions of exactly this type, and the buffer is executable and never freed.
    unsafe { std::mem::transmute::<*const u8, StubFn>(address) }
}
