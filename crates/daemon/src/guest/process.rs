//! What the host knows of a guest's process: its CPU time, its memory, and how to end it.

use std::fs;
use std::os::fd::OwnedFd;
use std::time::Duration;

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::process::{Pid, PidfdFlags, Signal, pidfd_open, pidfd_send_signal};
use serde_json::Value;

use super::{Control, ControlError};
use crate::host::cpus::CpuList;

/// Clock ticks of /proc in a second, always this on Linux for x86.
const TICKS: u64 = 100;
const NANOSECONDS: u64 = 1_000_000_000;

/// A guest's process, found by the threads that it names itself.
#[derive(Debug)]
pub struct GuestProcess {
    pid: u32,
    /// The number of a process that ended may be given to another; this is never.
    handle: Option<OwnedFd>,
    /// Its CPUs that are there: their numbers, and their threads.
    vcpus: Vec<(u32, u32)>,
}

/// CPU time in ns.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct CpuTime {
    /// Outside of the kernel.
    pub user: u64,
    /// In the kernel.
    pub system: u64,
}

/// One CPU of a guest.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct VcpuTime {
    /// Its number.
    pub number: u32,
    /// CPU time of its thread, in ns.
    pub time: u64,
    /// The host's CPU that it ran on last.
    pub last_cpu: i32,
    /// The host's CPUs that it may run on, a bit each.
    pub allowed: Vec<u8>,
}

impl GuestProcess {
    /// One that is not known yet.
    pub fn none() -> Self {
        Self {
            pid: 0,
            handle: None,
            vcpus: Vec::new(),
        }
    }

    /// Asks the guest for its threads.
    pub fn find(control: &Control) -> Result<Self, ControlError> {
        let cpus = control.execute("query-cpus-fast")?;
        let cpus = cpus.as_array().map(Vec::as_slice).unwrap_or_default();
        let number = |cpu: &Value, what: &str| cpu[what].as_u64().and_then(|id| u32::try_from(id).ok());
        let both = |cpu: &Value| Some((number(cpu, "cpu-index")?, number(cpu, "thread-id")?));
        let vcpus: Vec<(u32, u32)> = cpus.iter().filter_map(both).collect();
        let pid = vcpus
            .first()
            .and_then(|(_, thread)| status_field(&format!("/proc/{thread}/status"), "Tgid"))
            .and_then(|text| text.parse().ok())
            .ok_or(ControlError::Over)?;
        let handle = i32::try_from(pid).ok().and_then(Pid::from_raw);
        let handle = handle.and_then(|pid| pidfd_open(pid, PidfdFlags::empty()).ok());
        Ok(Self { pid, handle, vcpus })
    }

    /// Its number.
    pub fn pid(&self) -> u32 {
        self.pid
    }

    /// Its CPUs that are there: their numbers, and their threads.
    pub fn vcpu_threads(&self) -> &[(u32, u32)] {
        &self.vcpus
    }

    /// The numbers of its CPUs that are there.
    pub fn vcpu_numbers(&self) -> Vec<u32> {
        self.vcpus.iter().map(|(number, _)| *number).collect()
    }

    fn thread_of(&self, vcpu: u32) -> Option<u32> {
        let found = self.vcpus.iter().find(|(number, _)| *number == vcpu);
        found.map(|(_, thread)| *thread)
    }

    /// Ends it at once.
    pub fn kill(&self) {
        if let Some(handle) = &self.handle {
            // It may be gone already.
            let _ = pidfd_send_signal(handle, Signal::KILL);
        }
    }

    /// Waits until it is over, or `patience` is.
    pub fn wait_for_end(&self, patience: Duration) {
        let Some(handle) = &self.handle else { return };
        let limit = Timespec::try_from(patience).ok();
        // Readable from its end on (pidfd_open(2)).
        let _ = poll(&mut [PollFd::new(handle, PollFlags::IN)], limit.as_ref());
    }

    /// CPU time of all its threads.
    pub fn cpu_time(&self) -> CpuTime {
        let stat = stat_fields(&format!("/proc/{}/stat", self.pid));
        // Fields 14 and 15 of proc(5); the first that is here is the third.
        let ticks = |number: usize| {
            stat.get(number - 3)
                .and_then(|text| text.parse::<u64>().ok())
                .unwrap_or(0)
        };
        CpuTime {
            user: ticks(14) * (NANOSECONDS / TICKS),
            system: ticks(15) * (NANOSECONDS / TICKS),
        }
    }

    /// RAM of the host that it takes, in KiB.
    pub fn resident(&self) -> u64 {
        status_field(&format!("/proc/{}/status", self.pid), "VmRSS")
            .and_then(|text| text.split(' ').next()?.parse().ok())
            .unwrap_or(0)
    }

    /// Its CPUs.
    pub fn vcpus(&self) -> Vec<VcpuTime> {
        let vcpu = |(number, thread): &(u32, u32)| self.vcpu(*number, *thread);
        self.vcpus.iter().map(vcpu).collect()
    }

    /// Has the thread of one CPU run on these CPUs of the host only. A CPU that is not there has no thread yet.
    pub fn bind_vcpu(&self, vcpu: u32, list: &CpuList) -> std::io::Result<()> {
        self.thread_of(vcpu).map_or(Ok(()), |thread| bind(thread, list))
    }

    /// Has the threads that are no CPU's run on these CPUs of the host only.
    pub fn bind_others(&self, list: &CpuList) -> std::io::Result<()> {
        for entry in fs::read_dir(format!("/proc/{}/task", self.pid))? {
            let name = entry?.file_name();
            let Some(thread) = name.to_str().and_then(|name| name.parse().ok()) else {
                continue;
            };
            if self.vcpus.iter().any(|(_, of_vcpu)| *of_vcpu == thread) {
                continue;
            }
            match bind(thread, list) {
                // A thread may end meanwhile.
                Err(error) if error.raw_os_error() == Some(rustix::io::Errno::SRCH.raw_os_error()) => {}
                bound => bound?,
            }
        }
        Ok(())
    }

    fn vcpu(&self, number: u32, thread: u32) -> VcpuTime {
        let folder = format!("/proc/{}/task/{thread}", self.pid);
        let run = fs::read_to_string(format!("{folder}/schedstat")).unwrap_or_default();
        let stat = stat_fields(&format!("{folder}/stat"));
        let list = status_field(&format!("{folder}/status"), "Cpus_allowed_list").unwrap_or_default();
        VcpuTime {
            number,
            time: run
                .split(' ')
                .next()
                .and_then(|text| text.parse().ok())
                .unwrap_or(0),
            // Field 39 of proc(5).
            last_cpu: stat.get(36).and_then(|text| text.parse().ok()).unwrap_or(-1),
            allowed: crate::host::cpu_bits(&list),
        }
    }
}

fn bind(thread: u32, list: &CpuList) -> std::io::Result<()> {
    let thread = i32::try_from(thread).ok().and_then(Pid::from_raw);
    rustix::thread::sched_setaffinity(thread, &list.set())?;
    Ok(())
}

/// The fields of a `stat` file from the third on: the second is a name that may contain anything.
fn stat_fields(path: &str) -> Vec<String> {
    let text = fs::read_to_string(path).unwrap_or_default();
    let rest = text.rsplit_once(')').map_or("", |(_, rest)| rest);
    rest.split_ascii_whitespace().map(String::from).collect()
}

fn status_field(path: &str, name: &str) -> Option<String> {
    let text = fs::read_to_string(path).ok()?;
    let line = text
        .lines()
        .find_map(|line| line.strip_prefix(name)?.strip_prefix(':'))?;
    Some(line.trim().into())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn our_own_process_has_figures() {
        let pid = std::process::id();
        let process = GuestProcess {
            pid,
            handle: None,
            vcpus: vec![(0, pid)],
        };
        assert!(process.resident() > 500);
        // Until a tick was counted.
        while process.cpu_time() == CpuTime::default() {}
        let cpu = &process.vcpus()[0];
        assert!(
            cpu.last_cpu >= 0 && cpu.allowed.iter().any(|byte| *byte != 0),
            "{cpu:?}"
        );
    }
}
