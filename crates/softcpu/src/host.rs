//! Single accesses to guest RAM through host pointers.
//!
//! vCPUs are threads on shared memory. An access by the guest is exactly one access by the host, of the same width, so that the
//! guest sees the host's memory model, which is its own. Inline assembly keeps the compiler from splitting, merging or
//! assuming anything about memory that other threads write.

use std::arch::asm;

/// An integer that a guest instruction moves: `u8`, `u16`, `u32` or `u64`.
pub trait Int: Copy + Eq + Into<u64> + std::fmt::Debug + Send + Sync + 'static {
    /// Bytes.
    const SIZE: usize;
    /// Bits.
    const BITS: u32;
    /// The low bits of `value`.
    fn from_u64(value: u64) -> Self;
    /// Sign-extends to 64 bits.
    fn sign_extend(self) -> u64;
    /// Loads from `ptr`, which need not be aligned.
    ///
    /// # Safety
    /// `ptr` is readable for the width.
    unsafe fn load(ptr: *const u8) -> Self;
    /// Stores to `ptr`, which need not be aligned.
    ///
    /// # Safety
    /// `ptr` is writable for the width, and nothing of Rust's own lies there.
    unsafe fn store(ptr: *mut u8, value: Self);
    /// `lock cmpxchg`: returns the old value; it was replaced if that equals `expected`.
    ///
    /// # Safety
    /// As for [`Int::store`].
    unsafe fn compare_exchange(ptr: *mut u8, expected: Self, new: Self) -> Self;
    /// `xchg`: returns the old value.
    ///
    /// # Safety
    /// As for [`Int::store`].
    unsafe fn exchange(ptr: *mut u8, new: Self) -> Self;
}

macro_rules! int {
    ($t:ty, $signed:ty, $class:ident, $a:tt, $load:literal, $store:literal, $cmpxchg:literal, $xchg:literal) => {
        impl Int for $t {
            const SIZE: usize = std::mem::size_of::<$t>();
            const BITS: u32 = <$t>::BITS;

            #[inline(always)]
            fn from_u64(value: u64) -> Self {
                value as $t
            }

            #[inline(always)]
            fn sign_extend(self) -> u64 {
                self as $signed as i64 as u64
            }

            #[inline(always)]
            unsafe fn load(ptr: *const u8) -> Self {
                let value: $t;
                // SAFETY: one load from a pointer that the caller vouches for.
                unsafe { asm!($load, v = out($class) value, p = in(reg) ptr, options(nostack, preserves_flags, readonly)) };
                value
            }

            #[inline(always)]
            unsafe fn store(ptr: *mut u8, value: Self) {
                // SAFETY: one store to a pointer that the caller vouches for.
                unsafe { asm!($store, v = in($class) value, p = in(reg) ptr, options(nostack, preserves_flags)) };
            }

            #[inline(always)]
            unsafe fn compare_exchange(ptr: *mut u8, expected: Self, new: Self) -> Self {
                let old: $t;
                // SAFETY: one locked access to a pointer that the caller vouches for.
                unsafe { asm!($cmpxchg, v = in($class) new, p = in(reg) ptr, inlateout($a) expected => old, options(nostack)) };
                old
            }

            #[inline(always)]
            unsafe fn exchange(ptr: *mut u8, new: Self) -> Self {
                let old: $t;
                // SAFETY: one locked access to a pointer that the caller vouches for.
                unsafe { asm!($xchg, v = inout($class) new => old, p = in(reg) ptr, options(nostack, preserves_flags)) };
                old
            }
        }
    };
}

int!(
    u8,
    i8,
    reg_byte,
    "al",
    "mov {v}, byte ptr [{p}]",
    "mov byte ptr [{p}], {v}",
    "lock cmpxchg byte ptr [{p}], {v}",
    "xchg byte ptr [{p}], {v}"
);
int!(
    u16,
    i16,
    reg,
    "ax",
    "movzx {v:e}, word ptr [{p}]",
    "mov word ptr [{p}], {v:x}",
    "lock cmpxchg word ptr [{p}], {v:x}",
    "xchg word ptr [{p}], {v:x}"
);
int!(
    u32,
    i32,
    reg,
    "eax",
    "mov {v:e}, dword ptr [{p}]",
    "mov dword ptr [{p}], {v:e}",
    "lock cmpxchg dword ptr [{p}], {v:e}",
    "xchg dword ptr [{p}], {v:e}"
);
int!(
    u64,
    i64,
    reg,
    "rax",
    "mov {v}, qword ptr [{p}]",
    "mov qword ptr [{p}], {v}",
    "lock cmpxchg qword ptr [{p}], {v}",
    "xchg qword ptr [{p}], {v}"
);

/// Copies `len` bytes in ascending order with `rep movsb`: what other threads see is what a guest's string move shows.
///
/// # Safety
/// `from` is readable and `to` writable for `len` bytes.
#[inline(always)]
pub unsafe fn copy(to: *mut u8, from: *const u8, len: usize) {
    // SAFETY: ranges vouched for by the caller; the direction flag is clear in Rust code.
    unsafe {
        asm!("rep movsb", inout("rdi") to => _, inout("rsi") from => _, inout("rcx") len => _, options(nostack, preserves_flags));
    }
}

/// Reads code: words from `from` on that other threads may write meanwhile, in any order.
///
/// # Safety
/// `from` is readable for as many bytes as `into` has.
pub unsafe fn read_code(from: *const u8, into: &mut [u8]) {
    let (words, rest) = into.as_chunks_mut::<8>();
    let behind = from.wrapping_add(8 * words.len());
    for (at, word) in words.iter_mut().enumerate() {
        // SAFETY: inside the range that the caller vouches for.
        *word = unsafe { u64::load(from.wrapping_add(8 * at)) }.to_le_bytes();
    }
    for (at, byte) in rest.iter_mut().enumerate() {
        // SAFETY: inside the range that the caller vouches for.
        *byte = unsafe { u8::load(behind.wrapping_add(at)) };
    }
}

/// The host's time stamp counter.
#[inline(always)]
pub fn tsc() -> u64 {
    // SAFETY: RDTSC is available to user code on every supported host.
    unsafe { std::arch::x86_64::_rdtsc() }
}
