//! What the kernel does for programs: system calls, processes, pipes, files.

use std::ffi::{CString, c_char};
use std::fs::{self, File};
use std::io::{self, Read, Write};
use std::mem::MaybeUninit;
use std::os::fd::{FromRawFd, OwnedFd};
use std::path::{Path, PathBuf};

use super::random::{digest, text};
use super::{Entry, Work};

pub const TESTS: &[Entry] = &[
    ("kernel", "null-system-call", "calls", |_| null_system_call()),
    ("kernel", "pipe-1-cpu", "round-trips", |_| pipe(1)),
    ("kernel", "pipe-2-cpus", "round-trips", |_| pipe(2)),
    ("kernel", "fork-wait", "processes", |_| fork_wait()),
    ("kernel", "fork-exec", "processes", |_| fork_exec()),
    ("kernel", "copy-on-tmpfs", "bytes", |around| {
        file_copy(&around.folder)
    }),
];

fn null_system_call() -> Result<Work, String> {
    const CALLS: u64 = 256;
    Work::new(CALLS as f64, CALLS, |rounds| {
        for _ in 0..rounds * CALLS {
            // SAFETY: takes nothing and only returns a number.
            unsafe { libc::syscall(libc::SYS_getppid) };
        }
    })
}

fn failed(what: &'static str) -> String {
    format!("{what}: {}", io::Error::last_os_error())
}

/// A child process. Dropping it waits for its end.
struct ChildProcess(libc::pid_t);

impl ChildProcess {
    /// Runs `work`, which must not allocate or take locks, in a child that ends with its status.
    fn fork(work: impl FnOnce() -> i32) -> Result<Self, String> {
        // SAFETY: the program has one thread here, and the child only makes system calls before it ends.
        match unsafe { libc::fork() } {
            -1 => Err(failed("fork")),
            0 => {
                let status = work();
                // SAFETY: ends the child without running anything of the parent's.
                unsafe { libc::_exit(status) }
            }
            child => Ok(Self(child)),
        }
    }

    /// Its status; an error if it did not end with 0.
    fn wait(self) -> Result<(), String> {
        let mut status = 0;
        // SAFETY: waits for a child of ours, into a variable of ours.
        let waited = unsafe { libc::waitpid(self.0, &mut status, 0) };
        std::mem::forget(self);
        match (waited, status) {
            (-1, _) => Err(failed("waitpid")),
            (_, 0) => Ok(()),
            (_, status) => Err(format!("a child ended with {status:#x}")),
        }
    }
}

impl Drop for ChildProcess {
    fn drop(&mut self) {
        // SAFETY: waits for a child of ours; its status is not wanted.
        unsafe { libc::waitpid(self.0, std::ptr::null_mut(), 0) };
    }
}

fn fork_wait() -> Result<Work, String> {
    Work::fallible(1.0, 0, |rounds| {
        for _ in 0..rounds {
            ChildProcess::fork(|| 0)?.wait()?;
        }
        Ok(())
    })
}

/// This program again, which ends at once.
fn fork_exec() -> Result<Work, String> {
    let path = fs::read_link("/proc/self/exe").map_err(|e| format!("/proc/self/exe: {e}"))?;
    let text = |bytes: Vec<u8>| CString::new(bytes).map_err(|e| e.to_string());
    let path = text(path.into_os_string().into_encoded_bytes())?;
    let nothing = text(crate::NOTHING.into())?;
    Work::fallible(1.0, 0, move |rounds| {
        let arguments: [*const c_char; 3] = [path.as_ptr(), nothing.as_ptr(), std::ptr::null()];
        let environment: [*const c_char; 1] = [std::ptr::null()];
        for _ in 0..rounds {
            let child = ChildProcess::fork(|| {
                // SAFETY: both lists end with a null and live in the copied memory.
                unsafe { libc::execve(path.as_ptr(), arguments.as_ptr(), environment.as_ptr()) };
                127
            })?;
            child.wait()?;
        }
        Ok(())
    })
}

type CpuSet = libc::cpu_set_t;

fn allowed_cpus() -> Result<(CpuSet, Vec<usize>), String> {
    let mut set = MaybeUninit::<CpuSet>::zeroed();
    // SAFETY: the pointer is to a set of the size that is passed.
    if unsafe { libc::sched_getaffinity(0, size_of::<CpuSet>(), set.as_mut_ptr()) } != 0 {
        return Err(failed("sched_getaffinity"));
    }
    // SAFETY: all zeroes was a valid set already, and the call wrote a prefix of it.
    let set = unsafe { set.assume_init() };
    // SAFETY: the index is below the size of the set.
    let cpus = (0..libc::CPU_SETSIZE as usize).filter(|&cpu| unsafe { libc::CPU_ISSET(cpu, &set) });
    Ok((set, cpus.collect()))
}

fn set_affinity(set: &CpuSet) -> Result<(), String> {
    // SAFETY: the pointer is to a set of the size that is passed.
    if unsafe { libc::sched_setaffinity(0, size_of::<CpuSet>(), set) } != 0 {
        return Err(failed("sched_setaffinity"));
    }
    Ok(())
}

fn only(cpu: usize) -> CpuSet {
    // SAFETY: all zeroes is a set, and the number comes from one.
    unsafe {
        let mut set: CpuSet = std::mem::zeroed();
        libc::CPU_SET(cpu, &mut set);
        set
    }
}

/// Two processes that hand a byte back and forth.
struct PingPong {
    /// `None` once it is closed, which ends the child.
    to: Option<File>,
    from: File,
    _child: ChildProcess,
    /// Where this process may run again at the end.
    before: CpuSet,
}

impl PingPong {
    fn start(cpus: usize) -> Result<Self, String> {
        let (before, allowed) = allowed_cpus()?;
        let (Some(&ours), Some(&theirs)) = (allowed.first(), allowed.get(cpus - 1)) else {
            return Err(format!("needs {cpus} CPUs"));
        };
        let ((mut their_end, to), (from, mut back)) = (pipe_pair()?, pipe_pair()?);
        let (mut to, set) = (Some(to), only(theirs));
        let child = ChildProcess::fork(|| {
            // Or the pipe would never be closed.
            drop(to.take());
            if set_affinity(&set).is_err() {
                return 1;
            }
            let mut byte = [0];
            while matches!(their_end.read(&mut byte), Ok(1)) {
                if back.write_all(&byte).is_err() {
                    return 1;
                }
            }
            0
        })?;
        let game = Self {
            to,
            from,
            _child: child,
            before,
        };
        set_affinity(&only(ours))?;
        Ok(game)
    }

    fn round_trip(&mut self) -> io::Result<()> {
        let mut byte = [b'x'];
        if let Some(to) = &mut self.to {
            to.write_all(&byte)?;
        }
        self.from.read_exact(&mut byte)
    }
}

impl Drop for PingPong {
    fn drop(&mut self) {
        drop(self.to.take());
        // The program is as free as it was, or the next tests say so by their figures.
        let _ = set_affinity(&self.before);
    }
}

/// Reading end and writing end.
fn pipe_pair() -> Result<(File, File), String> {
    let mut ends = [-1; 2];
    // SAFETY: the pointer is to two numbers.
    if unsafe { libc::pipe2(ends.as_mut_ptr(), libc::O_CLOEXEC) } != 0 {
        return Err(failed("pipe2"));
    }
    // SAFETY: the kernel just made these descriptors, and no one else owns them.
    let [read, write] = ends.map(|end| unsafe { OwnedFd::from_raw_fd(end) });
    Ok((read.into(), write.into()))
}

fn pipe(cpus: usize) -> Result<Work, String> {
    let mut game = PingPong::start(cpus)?;
    Work::fallible(1.0, cpus as u64, move |rounds| {
        for _ in 0..rounds {
            game.round_trip().map_err(|e| format!("the pipe: {e}"))?;
        }
        Ok(())
    })
}

/// Two files that go with their test.
struct Files {
    from: PathBuf,
    to: PathBuf,
}

impl Drop for Files {
    fn drop(&mut self) {
        // The folder is in memory, and goes with the guest at the latest.
        let _ = (fs::remove_file(&self.from), fs::remove_file(&self.to));
    }
}

fn file_copy(folder: &Path) -> Result<Work, String> {
    const LEN: usize = 1 << 20;
    let place = |what: &str| folder.join(format!("ostler-bench-{what}-{}", std::process::id()));
    let files = Files {
        from: place("from"),
        to: place("to"),
    };
    let contents = text(LEN);
    fs::write(&files.from, &contents).map_err(|e| format!("{}: {e}", files.from.display()))?;
    copy(&files, &mut vec![0; CHUNK]).map_err(|e| format!("{}: {e}", files.to.display()))?;
    let copied = fs::read(&files.to).map_err(|e| format!("{}: {e}", files.to.display()))?;
    let mut chunk = vec![0; CHUNK];
    Work::fallible(contents.len() as f64, digest(&copied), move |rounds| {
        for _ in 0..rounds {
            copy(&files, &mut chunk).map_err(|e| format!("copying: {e}"))?;
        }
        Ok(())
    })
}

/// Bytes of one read and one write.
const CHUNK: usize = 64 << 10;

fn copy(files: &Files, chunk: &mut [u8]) -> io::Result<()> {
    let (mut from, mut to) = (File::open(&files.from)?, File::create(&files.to)?);
    loop {
        match from.read(chunk)? {
            0 => return Ok(()),
            count => to.write_all(&chunk[..count])?,
        }
    }
}
