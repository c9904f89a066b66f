//! The state machine against a host that does as little as it may.

use proptest::prelude::*;

use super::*;

const DISK: usize = 64 << 10;

/// A host in memory that moves at most so many bytes a call, refuses modes, and may need aligned memory.
#[derive(Debug)]
struct Stingy {
    file: Vec<u8>,
    /// Bytes that the next calls move at most.
    portions: Vec<usize>,
    calls: usize,
    align: usize,
    no_punch: bool,
    no_range: bool,
}

impl Stingy {
    fn portion(&mut self) -> usize {
        self.calls += 1;
        let portion = self.portions[self.calls % self.portions.len()];
        (portion - portion % self.align).max(self.align)
    }

    fn check(&self, offset: u64, buffers: &[IoBuf]) {
        assert!(!buffers.is_empty() && buffers.len() <= MAX_BUFFERS);
        for buffer in buffers {
            assert!(is_aligned(buffer, self.align), "{buffer:?}");
        }
        assert!(offset.is_multiple_of(self.align as u64));
    }

    fn run(&mut self, step: Step<'_>) -> i32 {
        match step {
            Step::Sync => 0,
            Step::Read { offset, buffers } => {
                self.check(offset, buffers);
                let portion = self.portion();
                let mut moved = 0;
                for buffer in buffers {
                    let at = offset as usize + moved;
                    let end = self.file.len().min(at + buffer.len().min(portion - moved));
                    // SAFETY: the test's buffers are alive for the whole request.
                    moved += unsafe { buffer.copy_from(self.file.get(at..end).unwrap_or_default()) };
                }
                moved as i32
            }
            Step::Write { offset, buffers } => {
                self.check(offset, buffers);
                let mut bytes = Vec::new();
                for buffer in buffers {
                    let mut copy = vec![0; buffer.len()];
                    // SAFETY: as above.
                    unsafe { buffer.copy_to(&mut copy) };
                    bytes.extend(copy);
                }
                bytes.truncate(self.portion());
                let end = offset as usize + bytes.len();
                if self.file.len() < end {
                    self.file.resize(end, 0);
                }
                self.file[offset as usize..end].copy_from_slice(&bytes);
                bytes.len() as i32
            }
            Step::Allocate { mode, offset, len } => {
                let punch = mode & libc::FALLOC_FL_PUNCH_HOLE != 0;
                if (punch && self.no_punch) || (!punch && self.no_range) {
                    return -libc::EOPNOTSUPP;
                }
                let end = self.file.len().min((offset + len) as usize);
                if let Some(range) = self.file.get_mut(offset as usize..end) {
                    range.fill(0);
                }
                0
            }
        }
    }

    fn finish(&mut self, mut task: Task) -> Result<(), RequestError> {
        loop {
            let result = self.run(task.step());
            if let Some(end) = task.advance(result) {
                return end;
            }
        }
    }
}

prop_compose! {
    fn stingy()(
        file_len in 0usize..=DISK,
        portions in prop::collection::vec(1usize..20_000, 1..8),
        align in prop::sample::select(vec![1usize, 512, 4096]),
        no_punch: bool,
        no_range: bool,
    ) -> Stingy {
        let file = (0..file_len).map(|i| (i * 7 + i / 512) as u8).collect();
        Stingy { file, portions, calls: 0, align, no_punch, no_range }
    }
}

/// Splits `bytes` at odd places into buffers.
fn scatter(bytes: &mut [u8], cuts: &[usize]) -> Vec<IoBuf> {
    let mut rest = IoBuf::of(bytes);
    let mut buffers = Vec::new();
    for cut in cuts {
        buffers.push(rest.truncated(*cut));
        rest = rest.advanced(*cut);
    }
    buffers.push(rest);
    buffers
}

proptest! {
    #[test]
    fn a_stingy_host_gives_whole_requests(
        mut host in stingy(),
        first in 0usize..16,
        count in 0usize..16,
        cuts in prop::collection::vec(0usize..3000, 0..20),
        what in 0u8..4,
        fill: u8,
    ) {
        let unit = 4096;
        let (offset, len) = (first * unit, count.min(16 - first) * unit);
        let limits = Arc::new(Limits::new(DISK as u64, false, host.align));
        let mut whole = host.file.clone();
        whole.resize(DISK, 0);
        let mut bytes = vec![fill; len];
        let buffers = scatter(&mut bytes, &cuts);
        let (at, n) = (offset as u64, len as u64);
        let op = match what {
            0 => Op::Read { offset: at, buffers: &buffers },
            1 => Op::Write { offset: at, buffers: &buffers },
            2 => Op::WriteZeroes { offset: at, len: n, unmap: true },
            _ => Op::WriteZeroes { offset: at, len: n, unmap: false },
        };
        let result = match Task::new(&limits, 9, op) {
            Ok(task) => host.finish(task),
            Err(done) => done.result,
        };
        prop_assert_eq!(result, Ok(()));
        let mut after = host.file.clone();
        after.resize(DISK, 0);
        match what {
            0 => prop_assert_eq!(&bytes[..], &whole[offset..offset + len]),
            1 => whole[offset..offset + len].fill(fill),
            _ => whole[offset..offset + len].fill(0),
        }
        prop_assert!(after == whole, "the disk's contents differ");
    }

    #[test]
    fn no_range_escapes_the_disk(offset: u64, len in 0u64..u64::MAX, readonly: bool) {
        let limits = Arc::new(Limits::new(DISK as u64, readonly, 1));
        let op = Op::WriteZeroes { offset, len, unmap: false };
        let fits = offset.checked_add(len).is_some_and(|end| end <= DISK as u64);
        match Task::new(&limits, 0, op) {
            Ok(_) => prop_assert!(fits && !readonly && (offset | len) % 512 == 0),
            Err(Completion { result: Ok(()), .. }) => prop_assert!(len == 0 && !readonly),
            Err(Completion { result: Err(error), .. }) => {
                prop_assert!(matches!(error, RequestError::OutOfRange | RequestError::ReadOnly));
            }
        }
    }
}

fn write_task(bytes: &mut [u8]) -> Task {
    let limits = Arc::new(Limits::new(DISK as u64, false, 1));
    let buffers = [IoBuf::of(bytes)];
    Task::new(
        &limits,
        1,
        Op::Write {
            offset: 0,
            buffers: &buffers,
        },
    )
    .unwrap()
}

#[test]
fn errors_of_the_host_end_the_request() {
    let mut bytes = [0; 512];
    for (errno, expected) in [
        (libc::EIO, RequestError::Host(libc::EIO)),
        (libc::ENOSPC, RequestError::NoSpace),
        (libc::EDQUOT, RequestError::NoSpace),
    ] {
        assert_eq!(write_task(&mut bytes).advance(-errno), Some(Err(expected)));
    }
    assert_eq!(
        write_task(&mut bytes).advance(0),
        Some(Err(RequestError::Host(libc::EIO))),
        "no endless loop"
    );
}

#[test]
fn interruptions_are_repeated_but_not_for_ever() {
    let mut bytes = [0; 512];
    let mut task = write_task(&mut bytes);
    assert_eq!(task.advance(-libc::EINTR), None);
    let ends = (0..=MAX_RETRIES).find_map(|_| task.advance(-libc::EAGAIN));
    assert_eq!(ends, Some(Err(RequestError::Host(libc::EAGAIN))));
}

#[test]
fn a_host_without_holes_is_asked_once() {
    let limits = Arc::new(Limits::new(DISK as u64, false, 1));
    let op = Op::WriteZeroes {
        offset: 0,
        len: 512,
        unmap: true,
    };
    let mut task = Task::new(&limits, 1, op).unwrap();
    assert!(matches!(task.step(), Step::Allocate { mode, .. } if mode & libc::FALLOC_FL_PUNCH_HOLE != 0));
    assert_eq!(task.advance(-libc::EOPNOTSUPP), None);
    assert!(matches!(task.step(), Step::Allocate { mode, .. } if mode & libc::FALLOC_FL_ZERO_RANGE != 0));
    assert_eq!(task.advance(-libc::EOPNOTSUPP), None);
    assert!(matches!(task.step(), Step::Write { offset: 0, .. }));
    let mut next = Task::new(&limits, 2, op).unwrap();
    assert!(matches!(next.step(), Step::Write { .. }));
    let discard = Op::Discard { offset: 0, len: 512 };
    assert_eq!(
        Task::new(&limits, 3, discard).unwrap().advance(-libc::EOPNOTSUPP),
        Some(Ok(()))
    );
}

#[test]
fn a_request_with_thousands_of_buffers_takes_several_calls() {
    let mut host = Stingy {
        file: vec![3; DISK],
        portions: vec![DISK],
        calls: 0,
        align: 1,
        no_punch: false,
        no_range: false,
    };
    let mut bytes = vec![0u8; 16384];
    let buffers = scatter(&mut bytes, &[3; 4000]);
    let limits = Arc::new(Limits::new(DISK as u64, false, 1));
    let task = Task::new(
        &limits,
        1,
        Op::Read {
            offset: 0,
            buffers: &buffers,
        },
    )
    .unwrap();
    assert_eq!(host.finish(task), Ok(()));
    assert_eq!(host.calls, 4);
    assert!(bytes.iter().all(|byte| *byte == 3));
}
