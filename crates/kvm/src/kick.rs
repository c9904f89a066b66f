//! Bringing a vCPU back from guest mode, without a race.
//!
//! A kick that comes between two entries must not be lost. So a kicker first sets `immediate_exit` in the page that it
//! shares with KVM, and then, if the vCPU's thread is inside KVM_RUN or about to be, sends it a signal:
//!
//! ```text
//! vCPU thread                          kicker
//! running = true                       wanted = true
//! KVM_RUN reads immediate_exit         immediate_exit = 1
//!   (or a pending signal) -> EINTR     running? then signal the thread
//! running = false
//! immediate_exit = 0, then take `wanted`
//! ```
//!
//! Either KVM_RUN sees the flag, or the kicker saw `running` and its signal interrupts the guest. The signal's handler
//! does nothing.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, AtomicI32, AtomicU8, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, Once, PoisonError};
use std::{io, mem, ptr};

use kvm_bindings::kvm_run;
use kvm_ioctls::VcpuFd;
use ostler_accel::{Error, Kick, KickSource, SmiTarget, VcpuStats};

use crate::sys;

/// What a vCPU's thread shares with those who kick it.
pub struct Kicker {
    page: RunPage,
    /// The vCPU's thread, or 0 before its first run.
    thread: Arc<AtomicI32>,
    /// The thread is inside KVM_RUN, or about to enter.
    running: AtomicBool,
    /// Someone wants `Exit::Kicked`.
    wanted: AtomicBool,
    /// An SMI came that KVM does not have yet. Like `wanted`, it is set before `immediate_exit` and looked at after that went down.
    smi: AtomicBool,
    /// Synthetic interrupts are to be delivered to the vCPU. As `smi`.
    mail: AtomicBool,
    stats: Arc<VcpuStats>,
}

impl Kicker {
    /// A kicker for `vcpu`; it notes the vCPU's thread in `thread`.
    pub fn new(vcpu: &VcpuFd, stats: Arc<VcpuStats>, thread: Arc<AtomicI32>) -> Result<Self, Error> {
        install_handler().map_err(|e| Error::host("install the signal handler that brings vCPUs back", e))?;
        let page = RunPage::map(vcpu).map_err(|e| Error::host("map a vCPU's shared page", e))?;
        Ok(Self {
            page,
            thread,
            running: AtomicBool::new(false),
            wanted: AtomicBool::new(false),
            smi: AtomicBool::new(false),
            mail: AtomicBool::new(false),
            stats,
        })
    }

    /// Makes the current or next KVM_RUN return, without asking for `Exit::Kicked`.
    pub fn interrupt(&self) {
        self.page.immediate_exit().store(1, Ordering::SeqCst);
        if self.running.load(Ordering::SeqCst) {
            let thread = self.thread.load(Ordering::SeqCst);
            // SAFETY: no memory is involved. The thread may be gone, which only makes the call fail.
            unsafe { libc::syscall(libc::SYS_tgkill, libc::getpid(), thread, kick_signal()) };
        }
    }

    /// The vCPU's thread is to give the guest an SMI, before it goes on.
    pub fn raise_smi(&self) {
        self.smi.store(true, Ordering::SeqCst);
        self.interrupt();
    }

    /// True if an SMI came that [`Kicker::take_smi`] did not take yet.
    pub fn has_smi(&self) -> bool {
        self.smi.load(Ordering::SeqCst)
    }

    /// Takes the SMI that came.
    pub fn take_smi(&self) {
        self.smi.store(false, Ordering::SeqCst);
    }

    /// The vCPU's thread is to deliver what waits for it of synthetic interrupts, before it goes on.
    pub fn bring_mail(&self) {
        self.mail.store(true, Ordering::SeqCst);
        self.interrupt();
    }

    /// True if [`Kicker::bring_mail`] was called since this was true last.
    pub fn take_mail(&self) -> bool {
        self.mail.load(Ordering::SeqCst) && self.mail.swap(false, Ordering::SeqCst)
    }

    /// The vCPU's thread is about to enter guest mode.
    pub fn enter(&self) {
        let me = CURRENT_THREAD.with(|id| *id);
        if self.thread.load(Ordering::Relaxed) != me {
            self.thread.store(me, Ordering::SeqCst);
            unblock_signal();
        }
        self.running.store(true, Ordering::SeqCst);
    }

    /// The vCPU's thread left guest mode.
    pub fn leave(&self) {
        self.running.store(false, Ordering::SeqCst);
    }

    /// Takes what kickers left; true if one wants `Exit::Kicked`. The flag goes down before `wanted` is taken, so that
    /// a kick in between is seen now or at the next entry.
    pub fn take(&self) -> bool {
        self.page.immediate_exit().store(0, Ordering::SeqCst);
        self.wanted.swap(false, Ordering::SeqCst)
    }

    /// Makes the next KVM_RUN only finish what is pending; undone by [`Kicker::finished`].
    pub fn only_finish(&self) {
        self.page.immediate_exit().store(1, Ordering::SeqCst);
    }

    /// Ends [`Kicker::only_finish`], without losing a kick that came meanwhile.
    pub fn finished(&self) {
        self.page.immediate_exit().store(0, Ordering::SeqCst);
        if self.wanted.load(Ordering::SeqCst) {
            self.page.immediate_exit().store(1, Ordering::SeqCst);
        }
    }
}

/// The kickers of a VM's vCPUs by their ids.
#[derive(Default)]
pub struct Kickers(Mutex<BTreeMap<u32, Arc<Kicker>>>);

impl Kickers {
    /// Tells how to reach a vCPU.
    pub fn add(&self, id: u32, kicker: Arc<Kicker>) {
        self.lock().insert(id, kicker);
    }

    /// [`Kicker::raise_smi`] for one or all.
    pub fn raise_smi(&self, to: SmiTarget) {
        let kickers = self.lock();
        match to {
            SmiTarget::All => kickers.values().for_each(|kicker| kicker.raise_smi()),
            SmiTarget::One(id) => {
                if let Some(kicker) = kickers.get(&id) {
                    kicker.raise_smi();
                }
            }
        }
    }

    /// [`Kicker::bring_mail`] for the vCPU `id`.
    pub fn bring_mail(&self, id: u32) {
        if let Some(kicker) = self.lock().get(&id) {
            kicker.bring_mail();
        }
    }

    fn lock(&self) -> MutexGuard<'_, BTreeMap<u32, Arc<Kicker>>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Kick for Kicker {
    fn kick(&self, source: KickSource) {
        self.stats.count_kick(source);
        self.wanted.store(true, Ordering::SeqCst);
        self.interrupt();
    }
}

thread_local! {
    static CURRENT_THREAD: i32 = thread_id();
}

fn thread_id() -> i32 {
    // SAFETY: the call takes nothing and cannot fail.
    unsafe { libc::gettid() }
}

/// The signal that interrupts KVM_RUN.
fn kick_signal() -> i32 {
    libc::SIGRTMIN()
}

extern "C" fn do_nothing(_signal: libc::c_int) {}

fn install_handler() -> io::Result<()> {
    static ONCE: Once = Once::new();
    let mut result = Ok(());
    ONCE.call_once(|| {
        // SAFETY: all-zero is a valid sigaction; the handler does nothing, which is safe at any moment.
        let status = unsafe {
            let mut action: libc::sigaction = mem::zeroed();
            action.sa_sigaction = do_nothing as extern "C" fn(libc::c_int) as usize;
            action.sa_flags = libc::SA_RESTART;
            libc::sigaction(kick_signal(), &action, ptr::null_mut())
        };
        if status != 0 {
            result = Err(io::Error::last_os_error());
        }
    });
    result
}

/// A thread may have inherited a mask that blocks the signal.
fn unblock_signal() {
    // SAFETY: `set` is initialised by sigemptyset before it is used, and lives on this stack.
    unsafe {
        let mut set: libc::sigset_t = mem::zeroed();
        libc::sigemptyset(&mut set);
        libc::sigaddset(&mut set, kick_signal());
        libc::pthread_sigmask(libc::SIG_UNBLOCK, &set, ptr::null_mut());
    }
}

/// A mapping of `kvm_run`'s first page that outlives the vCPU, for kickers that come late.
struct RunPage(ptr::NonNull<u8>);

impl RunPage {
    fn map(vcpu: &VcpuFd) -> io::Result<Self> {
        sys::map_run_page(vcpu).map(Self)
    }

    fn immediate_exit(&self) -> &AtomicU8 {
        // SAFETY: the page is mapped as long as `self` lives, the field lies in its first bytes, and a byte that others
        // (the kernel, other threads) access at the same time is accessed as an atomic.
        unsafe { AtomicU8::from_ptr(self.0.as_ptr().add(mem::offset_of!(kvm_run, immediate_exit))) }
    }
}

impl Drop for RunPage {
    fn drop(&mut self) {
        // SAFETY: the mapping was made by `map` with this size and nothing refers to it any more.
        unsafe { libc::munmap(self.0.as_ptr().cast(), sys::RUN_PAGE_SIZE) };
    }
}

// SAFETY: the page is only accessed through an atomic, and unmapping may happen on any thread.
unsafe impl Send for RunPage {}
// SAFETY: as above.
unsafe impl Sync for RunPage {}
