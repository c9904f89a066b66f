//! The terminal comes back even when a fault or an abort kills this process.
//!
//! These signals cannot be waited for in a descriptor: a fault has to be handled where it happens. The handler does the
//! one thing that it may (tcsetattr is async-signal-safe) and lets the signal end the process as it would have.

use std::io;
use std::mem::MaybeUninit;
use std::sync::OnceLock;
use std::sync::atomic::{AtomicBool, Ordering};

/// Signals of faults and aborts. The real-time signals, which no one has a reason to send, end a process in the same way.
const FATAL: &[libc::c_int] = &[
    libc::SIGABRT,
    libc::SIGBUS,
    libc::SIGFPE,
    libc::SIGILL,
    libc::SIGSEGV,
    libc::SIGSYS,
    libc::SIGTRAP,
];

/// What standard input was before it became raw.
static SAVED: OnceLock<libc::termios> = OnceLock::new();
/// Standard input is raw.
static RAW: AtomicBool = AtomicBool::new(false);

/// Remembers the terminal's state, and restores it when one of the fatal signals comes. Call before it becomes raw.
pub fn restore_terminal_on_fatal_signals() -> io::Result<()> {
    let mut saved = MaybeUninit::<libc::termios>::uninit();
    // SAFETY: the pointer is to room for the structure, which the call fills when it returns 0.
    if unsafe { libc::tcgetattr(libc::STDIN_FILENO, saved.as_mut_ptr()) } != 0 {
        return Err(io::Error::last_os_error());
    }
    // SAFETY: tcgetattr succeeded.
    SAVED.get_or_init(|| unsafe { saved.assume_init() });
    RAW.store(true, Ordering::Release);
    let real_time = libc::SIGRTMIN()..=libc::SIGRTMAX();
    FATAL.iter().copied().chain(real_time).try_for_each(install)
}

/// From here on a fatal signal leaves the terminal alone.
pub fn terminal_is_restored() {
    RAW.store(false, Ordering::Release);
}

fn install(signal: libc::c_int) -> io::Result<()> {
    let handler: extern "C" fn(libc::c_int) = on_fatal_signal;
    // SAFETY: all zeroes is a valid sigaction; sigemptyset gets a pointer to its mask.
    let action = unsafe {
        let mut action: libc::sigaction = std::mem::zeroed();
        libc::sigemptyset(&mut action.sa_mask);
        action.sa_sigaction = handler as libc::sighandler_t;
        // On the alternate stack (Rust gives each thread one): the fault may be that the stack is used up.
        action.sa_flags = libc::SA_ONSTACK | libc::SA_RESETHAND;
        action
    };
    // SAFETY: the action is complete, and its handler only calls what is async-signal-safe.
    if unsafe { libc::sigaction(signal, &action, std::ptr::null_mut()) } != 0 {
        return Err(io::Error::last_os_error());
    }
    Ok(())
}

extern "C" fn on_fatal_signal(signal: libc::c_int) {
    if RAW.load(Ordering::Acquire)
        && let Some(saved) = SAVED.get()
    {
        // SAFETY: async-signal-safe, on a structure that never changes once it is there.
        unsafe { libc::tcsetattr(libc::STDIN_FILENO, libc::TCSANOW, saved) };
    }
    // SAFETY: async-signal-safe. SA_RESETHAND brought the default action back, so this ends the process once the handler
    // returns, also where the signal came from outside and no fault would repeat it.
    unsafe { libc::raise(signal) };
}
