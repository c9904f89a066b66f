//! How many instructions a program executes, counted by single steps: exact on any machine, and the same number that
//! any accelerator has to execute.

use std::io;
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::{Command, Stdio};

use crate::error::Error;

/// Blocks hashed in the longer of the two counted runs.
const BLOCKS: u64 = 64;

/// Instructions for one block of the hash loop: the difference of two runs, so that start and end do not count.
pub(crate) fn per_block(program: &Path) -> Result<f64, Error> {
    let none = count(program, 0)?;
    let some = count(program, BLOCKS)?;
    Ok(some.saturating_sub(none) as f64 / BLOCKS as f64)
}

fn count(program: &Path, blocks: u64) -> Result<u64, Error> {
    let mut command = Command::new(program);
    command
        .args(["blocks", &blocks.to_string()])
        .env_clear()
        .stdout(Stdio::null());
    // SAFETY: the closure makes one system call and allocates nothing.
    unsafe { command.pre_exec(|| check(ptrace(libc::PTRACE_TRACEME, 0))) };
    let child = command
        .spawn()
        .map_err(|e| Error::Start(program.display().to_string(), e))?;
    let pid = child.id() as libc::pid_t;
    let mut steps = 0;
    while !ended(pid)? {
        check(ptrace(libc::PTRACE_SINGLESTEP, pid)).map_err(|e| Error::Host("single-stepping", e))?;
        steps += 1;
    }
    Ok(steps)
}

fn ptrace(request: libc::c_uint, pid: libc::pid_t) -> libc::c_long {
    // SAFETY: neither request reads or writes memory of this process.
    unsafe { libc::ptrace(request, pid, 0usize, 0usize) }
}

fn check(result: libc::c_long) -> io::Result<()> {
    if result < 0 {
        Err(io::Error::last_os_error())
    } else {
        Ok(())
    }
}

/// Waits for the next stop. True if it was the end.
fn ended(pid: libc::pid_t) -> Result<bool, Error> {
    let mut status = 0;
    // SAFETY: waitpid writes an int.
    let waited = unsafe { libc::waitpid(pid, &raw mut status, 0) };
    if waited != pid {
        return Err(Error::Host(
            "waiting for a counted program",
            io::Error::last_os_error(),
        ));
    }
    Ok(!libc::WIFSTOPPED(status))
}
