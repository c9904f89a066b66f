//! A disk that refuses: one step of those by which files come to last, or all from that one on.

use std::cell::Cell;
use std::io;

/// What is to fail.
#[derive(Debug, Clone, Copy)]
struct Fault {
    /// Steps that go well before.
    after: usize,
    /// All that follow fail, too.
    for_good: bool,
}

thread_local! {
    static FAULT: Cell<Option<Fault>> = const { Cell::new(None) };
}

/// Has the step of this thread fail that comes after so many others.
pub fn fail(after: usize, for_good: bool) {
    FAULT.set(Some(Fault { after, for_good }));
}

/// Has nothing fail any more; true if something did not have its turn yet.
pub fn end() -> bool {
    FAULT
        .take()
        .is_some_and(|fault| fault.after > 0 || !fault.for_good)
}

/// Counts a step, which fails if it is to.
pub fn step() -> io::Result<()> {
    let Some(fault) = FAULT.get() else { return Ok(()) };
    match fault.after {
        0 => {
            FAULT.set(Some(fault).filter(|fault| fault.for_good));
            Err(io::ErrorKind::StorageFull.into())
        }
        after => {
            FAULT.set(Some(Fault {
                after: after - 1,
                ..fault
            }));
            Ok(())
        }
    }
}
