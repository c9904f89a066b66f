//! The host's side: sequences run in a jailed child process.
//!
//! The child waits for a byte on a pipe, then executes INT3. The signal handler of that replaces the interrupted context by the
//! sequence's start; the exception at the sequence's end brings the handler back, which takes the state and returns to where
//! the child was. No assembly is needed, and all registers pass through the kernel's own signal frame.

use std::fs::File;
use std::io::{self, Read, Write};
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd};
use std::ptr;

use super::machine_state::{
    CODE, CODE32, CODE64, Case, DATA, DATA_PAGES, FS_BASE, Final, GS_BASE, MEMORY, Outcome, PAGE, Registers,
    STACK, USER_DATA, XSAVE,
};

/// Signals that exceptions become.
const SIGNALS: [i32; 5] = [
    libc::SIGTRAP,
    libc::SIGSEGV,
    libc::SIGBUS,
    libc::SIGILL,
    libc::SIGFPE,
];
/// Registers of a signal context in the order of their encoding.
const GREGS: [i32; 16] = [
    libc::REG_RAX,
    libc::REG_RCX,
    libc::REG_RDX,
    libc::REG_RBX,
    libc::REG_RSP,
    libc::REG_RBP,
    libc::REG_RSI,
    libc::REG_RDI,
    libc::REG_R8,
    libc::REG_R9,
    libc::REG_R10,
    libc::REG_R11,
    libc::REG_R12,
    libc::REG_R13,
    libc::REG_R14,
    libc::REG_R15,
];
/// Milliseconds after which a sequence counts as hung.
const PATIENCE: i32 = 20_000;

/// What parent and child share besides the sequence's memory.
#[repr(C)]
struct Exchange {
    start: Registers,
    selector: u64,
    outcome: Outcome,
}

/// What the handler keeps between its two calls; only ever touched in the child.
struct Handler {
    exchange: *mut Exchange,
    running: bool,
    gregs: [i64; 23],
    extended: [u8; XSAVE],
    /// The child's own FS base.
    fs: u64,
}

static mut HANDLER: Handler = Handler {
    exchange: ptr::null_mut(),
    running: false,
    gregs: [0; 23],
    extended: [0; XSAVE],
    fs: 0,
};

/// The child and the memory shared with it.
pub struct Native {
    pid: libc::pid_t,
    exchange: *mut Exchange,
    /// Code page, then [`MEMORY`] bytes.
    window: *mut u8,
    request: File,
    answer: File,
}

/// Bytes of the window: code and memory.
const WINDOW: usize = PAGE + MEMORY;

impl Native {
    /// Starts the child.
    pub fn start() -> io::Result<Self> {
        let memory = shared_memory(WINDOW)?;
        let window = map(
            ptr::null_mut(),
            WINDOW,
            libc::PROT_READ | libc::PROT_WRITE,
            libc::MAP_SHARED,
            &memory,
            0,
        )?;
        let exchange_size = std::mem::size_of::<Exchange>().next_multiple_of(PAGE);
        let exchange_memory = shared_memory(exchange_size)?;
        let exchange = map(
            ptr::null_mut(),
            exchange_size,
            libc::PROT_READ | libc::PROT_WRITE,
            libc::MAP_SHARED,
            &exchange_memory,
            0,
        )?
        .cast::<Exchange>();
        let (child_request, request) = pipe()?;
        let (answer, child_answer) = pipe()?;
        // SAFETY: the child only makes system calls and touches its own and the shared memory; it allocates nothing.
        let pid = unsafe { libc::fork() };
        match pid {
            -1 => Err(io::Error::last_os_error()),
            0 => child(
                &memory,
                exchange,
                child_request.as_raw_fd(),
                child_answer.as_raw_fd(),
            ),
            _ => Ok(Self {
                pid,
                exchange,
                window,
                request: request.into(),
                answer: answer.into(),
            }),
        }
    }

    /// Runs one case.
    pub fn run(&mut self, case: &Case) -> io::Result<Final> {
        assert!(case.code.len() <= PAGE && case.memory.len() == MEMORY);
        // SAFETY: the child does not touch shared memory until it gets its byte, and has ended when the answer comes.
        unsafe {
            ptr::write_bytes(self.window, 0xcc, PAGE);
            ptr::copy_nonoverlapping(case.code.as_ptr(), self.window, case.code.len());
            ptr::copy_nonoverlapping(case.memory.as_ptr(), self.window.add(PAGE), MEMORY);
            (*self.exchange).start = case.registers;
            (*self.exchange).selector = u64::from(if case.long { CODE64 } else { CODE32 });
        }
        self.request.write_all(&[1])?;
        self.wait_for_answer()?;
        self.answer.read_exact(&mut [0])?;
        let mut memory = vec![0; MEMORY];
        // SAFETY: as above.
        let outcome = unsafe {
            ptr::copy_nonoverlapping(self.window.add(PAGE), memory.as_mut_ptr(), MEMORY);
            (*self.exchange).outcome
        };
        Ok(Final { outcome, memory })
    }

    /// An error instead of waiting for ever when a sequence does not end.
    fn wait_for_answer(&self) -> io::Result<()> {
        let mut poll = libc::pollfd {
            fd: self.answer.as_raw_fd(),
            events: libc::POLLIN,
            revents: 0,
        };
        // SAFETY: one valid descriptor.
        let ready = unsafe { libc::poll(&raw mut poll, 1, PATIENCE) };
        if ready == 1 && poll.revents & libc::POLLIN != 0 {
            return Ok(());
        }
        Err(io::Error::other(
            "the sequence did not end, or it killed its process",
        ))
    }
}

impl Drop for Native {
    fn drop(&mut self) {
        // SAFETY: the child is ours and still to be waited for; the mappings are not used any more.
        unsafe {
            libc::kill(self.pid, libc::SIGKILL);
            libc::waitpid(self.pid, ptr::null_mut(), 0);
            libc::munmap(self.window.cast(), WINDOW);
            libc::munmap(self.exchange.cast(), std::mem::size_of::<Exchange>());
        }
    }
}

/// A memory file.
fn shared_memory(size: usize) -> io::Result<File> {
    // SAFETY: a constant name.
    let fd = unsafe { libc::memfd_create(c"differential".as_ptr(), libc::MFD_CLOEXEC) };
    if fd < 0 {
        return Err(io::Error::last_os_error());
    }
    // SAFETY: a new descriptor.
    let file = unsafe { File::from_raw_fd(fd) };
    file.set_len(size as u64)?;
    Ok(file)
}

/// Maps `len` bytes of `file`.
fn map(
    at: *mut u8,
    len: usize,
    protection: i32,
    flags: i32,
    file: &File,
    offset: i64,
) -> io::Result<*mut u8> {
    // SAFETY: callers give either no address, or one in the low part of the address space, where a child of ours has nothing.
    let address = unsafe {
        libc::mmap(
            at.cast(),
            len,
            protection,
            flags | libc::MAP_POPULATE,
            file.as_raw_fd(),
            offset,
        )
    };
    if address == libc::MAP_FAILED {
        Err(io::Error::last_os_error())
    } else {
        Ok(address.cast())
    }
}

/// A pipe: reading end, writing end.
fn pipe() -> io::Result<(OwnedFd, OwnedFd)> {
    let mut ends = [0; 2];
    // SAFETY: room for two descriptors.
    if unsafe { libc::pipe2(ends.as_mut_ptr(), libc::O_CLOEXEC) } != 0 {
        return Err(io::Error::last_os_error());
    }
    // SAFETY: both are new.
    Ok(unsafe { (OwnedFd::from_raw_fd(ends[0]), OwnedFd::from_raw_fd(ends[1])) })
}

/// The child's life.
fn child(memory: &File, exchange: *mut Exchange, request: i32, answer: i32) -> ! {
    let ready = prepare(memory, exchange);
    let mut byte = [0u8];
    // SAFETY: plain system calls on descriptors of ours; INT3 is answered by the handler.
    unsafe {
        if ready.is_err() {
            libc::_exit(1);
        }
        loop {
            if libc::read(request, byte.as_mut_ptr().cast(), 1) != 1 {
                libc::_exit(0);
            }
            std::arch::asm!("int3");
            if libc::write(answer, byte.as_ptr().cast(), 1) != 1 {
                libc::_exit(0);
            }
        }
    }
}

/// Maps the sequence's memory where it belongs, sets the handlers up, locks the door.
fn prepare(memory: &File, exchange: *mut Exchange) -> io::Result<()> {
    let place = |address: u64, pages: usize, protection: i32, page: usize| {
        map(
            address as *mut u8,
            pages * PAGE,
            protection,
            libc::MAP_SHARED | libc::MAP_FIXED_NOREPLACE,
            memory,
            (page * PAGE) as i64,
        )
    };
    let write = libc::PROT_READ | libc::PROT_WRITE;
    place(CODE, 1, libc::PROT_READ | libc::PROT_EXEC, 0)?;
    place(DATA, DATA_PAGES, write, 1)?;
    place(
        DATA + (DATA_PAGES * PAGE) as u64,
        1,
        libc::PROT_READ,
        1 + DATA_PAGES,
    )?;
    place(STACK, 1, write, 2 + DATA_PAGES)?;
    // SAFETY: this process has one thread; the handler runs on its own stack; flat data segments are what 32-bit code needs.
    unsafe {
        HANDLER.exchange = exchange;
        const STACK_SIZE: usize = 1 << 16;
        let stack = libc::mmap(
            ptr::null_mut(),
            STACK_SIZE,
            write,
            libc::MAP_PRIVATE | libc::MAP_ANONYMOUS,
            -1,
            0,
        );
        let alternate = libc::stack_t {
            ss_sp: stack,
            ss_flags: 0,
            ss_size: STACK_SIZE,
        };
        if stack == libc::MAP_FAILED || libc::sigaltstack(&raw const alternate, ptr::null_mut()) != 0 {
            return Err(io::Error::last_os_error());
        }
        for signal in SIGNALS {
            let mut action: libc::sigaction = std::mem::zeroed();
            action.sa_sigaction = on_signal as *const () as usize;
            action.sa_flags = libc::SA_SIGINFO | libc::SA_ONSTACK | libc::SA_NODEFER;
            if libc::sigaction(signal, &raw const action, ptr::null_mut()) != 0 {
                return Err(io::Error::last_os_error());
            }
        }
        std::arch::asm!("mov ds, {0:x}", "mov es, {0:x}", in(reg) u32::from(USER_DATA));
        let fs = &raw mut HANDLER.fs;
        if segment_base(ARCH_GET_FS, fs as u64) != 0 || segment_base(ARCH_SET_GS, GS_BASE) != 0 {
            return Err(io::Error::other("the host gives no segment bases"));
        }
    }
    forbid_system_calls()
}

const ARCH_SET_GS: u64 = 0x1001;
const ARCH_SET_FS: u64 = 0x1002;
const ARCH_GET_FS: u64 = 0x1003;

/// The system call arch_prctl, without the C library: it works while FS is a sequence's.
///
/// # Safety
/// With the child's own FS gone, nothing may be called that keeps anything by thread.
unsafe fn segment_base(what: u64, value: u64) -> u64 {
    let result;
    // SAFETY: a system call that changes no memory but what `value` points to.
    unsafe {
        std::arch::asm!("syscall", inlateout("rax") libc::SYS_arch_prctl as u64 => result, in("rdi") what,
            in("rsi") value, out("rcx") _, out("r11") _, options(nostack));
    }
    result
}

/// Leaves the child with read, write, sigreturn, exit and the bases of segments.
fn forbid_system_calls() -> io::Result<()> {
    const ARCH: u32 = 0xc000_003e;
    let load = |offset: u32| libc::sock_filter {
        code: 0x20,
        jt: 0,
        jf: 0,
        k: offset,
    };
    let equal = |k: u32, jt: u8, jf: u8| libc::sock_filter {
        code: 0x15,
        jt,
        jf,
        k,
    };
    let give = |k: u32| libc::sock_filter {
        code: 0x06,
        jt: 0,
        jf: 0,
        k,
    };
    let mut filter = [
        load(4),
        equal(ARCH, 0, 7),
        load(0),
        equal(libc::SYS_read as u32, 4, 0),
        equal(libc::SYS_write as u32, 3, 0),
        equal(libc::SYS_rt_sigreturn as u32, 2, 0),
        equal(libc::SYS_arch_prctl as u32, 1, 0),
        equal(libc::SYS_exit_group as u32, 0, 1),
        give(libc::SECCOMP_RET_ALLOW),
        give(libc::SECCOMP_RET_KILL_PROCESS),
    ];
    let program = libc::sock_fprog {
        len: filter.len() as u16,
        filter: filter.as_mut_ptr(),
    };
    // SAFETY: the program lives until the call returns, and the kernel copies it.
    let set = unsafe {
        libc::prctl(libc::PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) == 0
            && libc::prctl(
                libc::PR_SET_SECCOMP,
                libc::SECCOMP_MODE_FILTER,
                &raw const program,
            ) == 0
    };
    if set {
        Ok(())
    } else {
        Err(io::Error::last_os_error())
    }
}

/// Called for the INT3 that starts a sequence and for the exception that ends it.
unsafe extern "C" fn on_signal(_signal: i32, _info: *mut libc::siginfo_t, context: *mut libc::c_void) {
    // SAFETY: the kernel gives a valid context with an XSAVE image of at least 832 bytes (AVX is required by the test), and nothing
    // else runs in this process.
    unsafe {
        let handler: *mut Handler = &raw mut HANDLER;
        let handler = &mut *handler;
        let context = &mut (*context.cast::<libc::ucontext_t>()).uc_mcontext;
        let image = &mut *context.fpregs.cast::<[u8; XSAVE]>();
        if handler.running {
            segment_base(ARCH_SET_FS, handler.fs);
            take(context, image, &mut (*handler.exchange).outcome);
            context.gregs = handler.gregs;
            *image = handler.extended;
        } else {
            handler.gregs = context.gregs;
            handler.extended = *image;
            load(
                context,
                image,
                &(*handler.exchange).start,
                (*handler.exchange).selector,
            );
            segment_base(ARCH_SET_FS, FS_BASE);
        }
        handler.running = !handler.running;
    }
}

/// Replaces the interrupted context by the start of a sequence.
fn load(context: &mut libc::mcontext_t, image: &mut [u8; XSAVE], start: &Registers, selector: u64) {
    for (register, index) in start.gpr.iter().zip(GREGS) {
        context.gregs[index as usize] = *register as i64;
    }
    context.gregs[libc::REG_RIP as usize] = start.rip as i64;
    context.gregs[libc::REG_EFL as usize] = (start.rflags | 0x202) as i64;
    let segments = &mut context.gregs[libc::REG_CSGSFS as usize];
    *segments = (*segments as u64 & !0xffff | selector) as i64;
    // Bytes 416 to 511 are the kernel's.
    image[..416].copy_from_slice(&start.xsave[..416]);
    image[512..].copy_from_slice(&start.xsave[512..]);
    image[28..32].copy_from_slice(&0xffffu32.to_le_bytes());
}

/// Takes the state in which a sequence ended.
fn take(context: &libc::mcontext_t, image: &[u8; XSAVE], outcome: &mut Outcome) {
    for (register, index) in outcome.registers.gpr.iter_mut().zip(GREGS) {
        *register = context.gregs[index as usize] as u64;
    }
    outcome.registers.rip = context.gregs[libc::REG_RIP as usize] as u64;
    outcome.registers.rflags = context.gregs[libc::REG_EFL as usize] as u64;
    outcome.vector = context.gregs[libc::REG_TRAPNO as usize] as u64;
    outcome.error = context.gregs[libc::REG_ERR as usize] as u64;
    outcome.cr2 = if outcome.vector == 14 {
        context.gregs[libc::REG_CR2 as usize] as u64
    } else {
        0
    };
    outcome.registers.xsave = *image;
}
