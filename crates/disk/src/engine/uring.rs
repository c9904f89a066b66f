//! The engine on io_uring: one ring a queue, which can touch nothing but the disk's own file.

use std::collections::VecDeque;
use std::fs::File;
use std::io;
use std::os::fd::AsRawFd;
use std::sync::Arc;
use std::time::Instant;

use io_uring::register::Restriction;
use io_uring::squeue::{self, Flags};
use io_uring::{IoUring, opcode, types};
use vmm_sys_util::eventfd::{EFD_NONBLOCK, EventFd};

use super::at_once::AtOnce;
use super::host::Host;
use super::limits::Limits;
use super::task::{Step, Task};
use crate::{Completion, DiskQueue, Op, RequestError};

/// The disk's place in the ring's table of files.
const DISK_FILE: types::Fixed = types::Fixed(0);
/// Most requests at the host at a time.
const MAX_DEPTH: u32 = 1024;
/// Bytes of one call with a single buffer; the kernel takes a little less than 2 GiB.
const MAX_LEN: usize = 1 << 30;

/// A queue whose requests the kernel carries out on its own.
pub(crate) struct UringQueue {
    ring: IoUring,
    event: EventFd,
    limits: Arc<Limits>,
    /// Requests at the host, by the index that the kernel hands back.
    slots: Vec<Option<Box<Task>>>,
    free: Vec<u32>,
    /// Requests that found all slots taken.
    backlog: VecDeque<Box<Task>>,
    /// Ended without the ring.
    done: Vec<Completion>,
    at_once: AtOnce,
    in_flight: usize,
    /// The event may be set although nothing is there to take.
    stale_event: bool,
    /// The ring's file table holds a reference of its own; this one keeps the disk's locks for sure.
    file: Arc<File>,
}

impl UringQueue {
    /// A ring for `file`. Fails where the host refuses io_uring or parts of it.
    pub(crate) fn new(file: Arc<File>, limits: Arc<Limits>, depth: u32) -> io::Result<Self> {
        let depth = depth.clamp(1, MAX_DEPTH);
        let event = EventFd::new(EFD_NONBLOCK)?;
        let ring = IoUring::builder().setup_r_disabled().dontfork().build(depth)?;
        if !ring.params().is_feature_submit_stable() {
            return Err(io::Error::from_raw_os_error(libc::ENOSYS));
        }
        let submitter = ring.submitter();
        submitter.register_files(&[file.as_raw_fd()])?;
        submitter.register_eventfd(event.as_raw_fd())?;
        submitter.register_restrictions(&mut restrictions())?;
        submitter.register_enable_rings()?;
        Ok(Self {
            ring,
            event,
            limits,
            slots: (0..depth).map(|_| None).collect(),
            free: (0..depth).rev().collect(),
            backlog: VecDeque::new(),
            done: Vec::new(),
            at_once: AtOnce::default(),
            in_flight: 0,
            stale_event: true,
            file,
        })
    }

    /// Puts the next call of `task` into the submission ring.
    fn start(&mut self, slot: u32, mut task: Box<Task>) {
        let entry = entry_of(task.step())
            .flags(Flags::FIXED_FILE)
            .user_data(u64::from(slot));
        // SAFETY: the entry's buffers belong to the boxed task or to the request, and both stay until the completion:
        // the task in its slot, the request's memory by the contract of `push`.
        let pushed = unsafe { self.ring.submission().push(&entry) };
        // There are as many slots as ring entries, and each has at most one entry in the ring.
        debug_assert!(pushed.is_ok());
        self.slots[slot as usize] = Some(task);
    }

    /// Writes into the page cache here and now, if that is quick at the moment. Returns how the request ended, if it did.
    fn write_at_once(&mut self, task: &mut Task) -> Option<Result<(), RequestError>> {
        if self.limits.align > 1 {
            return None;
        }
        loop {
            let (step, began) = (task.step(), Instant::now());
            if !self.at_once.may(step, began) {
                return None;
            }
            let result = self.file.run(step);
            self.at_once.ended(began, Instant::now());
            if let Some(result) = task.advance(result) {
                return Some(result);
            }
        }
    }

    /// Starts what waits, as far as slots are free.
    fn start_backlog(&mut self) {
        while let (Some(&slot), false) = (self.free.last(), self.backlog.is_empty()) {
            if let Some(task) = self.backlog.pop_front() {
                self.free.pop();
                self.start(slot, task);
            }
        }
    }

    /// Hands the submission ring to the kernel, and waits for `want` completions.
    fn enter(&mut self, want: usize) {
        loop {
            match self.ring.submit_and_wait(want) {
                Ok(_) => return,
                Err(error) if error.raw_os_error() == Some(libc::EINTR) => {}
                Err(error) => {
                    // The kernel is short of memory or wants its completions taken: come back through `complete`.
                    tracing::debug!("io_uring_enter: {error}");
                    let _ = self.event.write(1);
                    self.stale_event = true;
                    return;
                }
            }
        }
    }

    /// Takes what the kernel finished; starts second calls of requests that need them.
    fn reap(&mut self, into: &mut Vec<Completion>) {
        loop {
            let Some(entry) = self.ring.completion().next() else {
                return;
            };
            let slot = entry.user_data() as u32;
            let Some(mut task) = self.slots.get_mut(slot as usize).and_then(Option::take) else {
                continue;
            };
            match task.advance(entry.result()) {
                None => self.start(slot, task),
                Some(result) => {
                    self.free.push(slot);
                    self.in_flight -= 1;
                    into.push(Completion {
                        token: task.token(),
                        result,
                    });
                }
            }
        }
    }

    fn at_host(&self) -> usize {
        self.slots.len() - self.free.len()
    }

    fn has_unsubmitted(&mut self) -> bool {
        !self.ring.submission().is_empty()
    }
}

/// What the ring may do for the rest of its life: these calls, on the registered file only.
fn restrictions() -> [Restriction; 7] {
    [
        Restriction::sqe_op(opcode::Read::CODE),
        Restriction::sqe_op(opcode::Write::CODE),
        Restriction::sqe_op(opcode::Readv::CODE),
        Restriction::sqe_op(opcode::Writev::CODE),
        Restriction::sqe_op(opcode::Fsync::CODE),
        Restriction::sqe_op(opcode::Fallocate::CODE),
        Restriction::sqe_flags_required(Flags::FIXED_FILE.bits()),
    ]
}

fn entry_of(step: Step<'_>) -> squeue::Entry {
    match step {
        // One buffer needs no vector: the kernel skips copying it in.
        Step::Read {
            offset,
            buffers: [buffer],
        } => opcode::Read::new(DISK_FILE, buffer.as_ptr(), buffer.len().min(MAX_LEN) as u32)
            .offset(offset)
            .build(),
        Step::Write {
            offset,
            buffers: [buffer],
        } => opcode::Write::new(DISK_FILE, buffer.as_ptr(), buffer.len().min(MAX_LEN) as u32)
            .offset(offset)
            .build(),
        Step::Read { offset, buffers } => {
            opcode::Readv::new(DISK_FILE, buffers.as_ptr().cast(), buffers.len() as u32)
                .offset(offset)
                .build()
        }
        Step::Write { offset, buffers } => {
            opcode::Writev::new(DISK_FILE, buffers.as_ptr().cast(), buffers.len() as u32)
                .offset(offset)
                .build()
        }
        Step::Sync => opcode::Fsync::new(DISK_FILE)
            .flags(types::FsyncFlags::DATASYNC)
            .build(),
        Step::Allocate { mode, offset, len } => opcode::Fallocate::new(DISK_FILE, len)
            .offset(offset)
            .mode(mode)
            .build(),
    }
}

impl DiskQueue for UringQueue {
    unsafe fn push(&mut self, token: u64, op: Op<'_>) {
        self.in_flight += 1;
        match Task::new(&self.limits, token, op) {
            Ok(mut task) => match self.write_at_once(&mut task) {
                Some(result) => self.done.push(Completion {
                    token: task.token(),
                    result,
                }),
                None => {
                    self.backlog.push_back(Box::new(task));
                    self.start_backlog();
                }
            },
            Err(completion) => self.done.push(completion),
        }
    }

    fn submit(&mut self) {
        if !self.done.is_empty() {
            let _ = self.event.write(1);
        }
        if self.has_unsubmitted() {
            self.enter(0);
        }
    }

    fn complete(&mut self, into: &mut Vec<Completion>) {
        // A worker that polls calls this all the time, so finding nothing makes no system call.
        let nothing_new = !self.stale_event && self.ring.completion().is_empty();
        if nothing_new && self.done.is_empty() && self.at_host() > 0 {
            return;
        }
        // Cleared first: what finishes from here on signals again, and may be taken before it does.
        let _ = self.event.read();
        let before = into.len();
        self.in_flight -= self.done.len();
        into.append(&mut self.done);
        self.reap(into);
        self.stale_event = into.len() > before;
        self.start_backlog();
        self.submit();
    }

    fn event(&self) -> &EventFd {
        &self.event
    }

    fn in_flight(&self) -> usize {
        self.in_flight
    }

    fn drain(&mut self, into: &mut Vec<Completion>) {
        loop {
            self.complete(into);
            if self.in_flight == 0 {
                return;
            }
            self.enter(1);
        }
    }
}

impl Drop for UringQueue {
    fn drop(&mut self) {
        self.backlog.clear();
        let mut ended = Vec::new();
        while self.at_host() > 0 {
            self.enter(1);
            self.reap(&mut ended);
        }
        crate::open::release_last(&self.file);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_ring_refuses_every_other_call_and_file() {
        let file = Arc::new(tempfile::tempfile().unwrap());
        file.set_len(4096).unwrap();
        let mut queue = match UringQueue::new(file.clone(), Arc::new(Limits::new(4096, false, 1)), 4) {
            Ok(queue) => queue,
            Err(error) => return eprintln!("SKIPPED the_ring_refuses_every_other_call_and_file: {error}"),
        };
        let open_at = c"/etc/passwd";
        let mut byte = 0u8;
        let forbidden = [
            opcode::Nop::new().build().flags(Flags::FIXED_FILE),
            opcode::OpenAt::new(types::Fd(libc::AT_FDCWD), open_at.as_ptr()).build(),
            opcode::Read::new(types::Fd(file.as_raw_fd()), &raw mut byte, 1).build(),
        ];
        for entry in forbidden {
            // SAFETY: the buffers are on this frame, and the call is waited for before it ends.
            unsafe { queue.ring.submission().push(&entry).unwrap() };
            queue.ring.submit_and_wait(1).unwrap();
            assert_eq!(queue.ring.completion().next().unwrap().result(), -libc::EACCES);
        }
        assert!(
            queue.ring.submitter().register_files_update(0, &[-1]).is_err(),
            "the file table is sealed"
        );
    }
}
