//! What the disk tests share.

use std::os::fd::AsRawFd;
use std::path::Path;

use ostler_disk::open::{DiskOptions, Format, open};
use ostler_disk::{Completion, Disk, DiskQueue, Engine, Op, OpenQueue, RawDisk, RequestError};

/// A temporary folder on the file system of the sources, where direct I/O and holes are likely.
pub fn folder() -> tempfile::TempDir {
    tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).unwrap()
}

/// Opens the image as a guest's process gets it. `None`, with the reason said, if this host cannot do that.
pub fn raw(test: &str, path: &Path, engine: Engine, direct: bool) -> Option<Box<dyn Disk>> {
    let file = match open(
        path,
        DiskOptions {
            format: Format::Raw,
            readonly: false,
            direct,
        },
    ) {
        Ok(file) => file,
        Err(ostler_disk::Error::NoDirect { .. }) => {
            eprintln!("SKIPPED {test} (direct): the file system has no direct I/O");
            return None;
        }
        Err(other) => panic!("{other}"),
    };
    let disk = RawDisk::with_engine(file, engine).unwrap();
    if let Err(error) = disk.open_queue(1) {
        assert_eq!(engine, Engine::Uring, "threads always work: {error}");
        eprintln!("SKIPPED {test} (io_uring): {error}");
        return None;
    }
    Some(Box::new(disk))
}

/// Submits and waits on the queue's event, as a worker does, until nothing is in flight.
pub fn finish(queue: &mut dyn DiskQueue) -> Vec<Completion> {
    let mut ended = Vec::new();
    queue.submit();
    queue.complete(&mut ended);
    while queue.in_flight() > 0 {
        let mut poll = libc::pollfd {
            fd: queue.event().as_raw_fd(),
            events: libc::POLLIN,
            revents: 0,
        };
        // SAFETY: one pollfd that lives on this frame.
        let ready = unsafe { libc::poll(&raw mut poll, 1, 10_000) };
        assert_eq!(
            ready,
            1,
            "no completion within ten seconds; {} in flight",
            queue.in_flight()
        );
        queue.complete(&mut ended);
    }
    ended
}

/// Runs one request to its end.
pub fn run(queue: &mut dyn DiskQueue, op: Op<'_>) -> Result<(), RequestError> {
    // SAFETY: the caller's buffers outlive this call, and `finish` waits for the request.
    unsafe { queue.push(1, op) };
    let ended = finish(queue);
    assert_eq!(ended.len(), 1);
    assert_eq!(ended[0].token, 1);
    ended[0].result
}
