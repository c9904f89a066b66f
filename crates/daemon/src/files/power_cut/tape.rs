//! What was done to files, in order.

use std::cell::RefCell;
use std::path::PathBuf;

/// One call of the kernel's, or the end of one of a client's.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Step {
    /// A folder was made.
    MakeFolder(PathBuf),
    /// A file was made, with these contents.
    Write(PathBuf, Vec<u8>),
    /// A file was written into, from this byte on.
    WriteAt(PathBuf, usize, Vec<u8>),
    /// A file's contents last.
    SyncFile(PathBuf),
    /// A file got another name.
    Rename(PathBuf, PathBuf),
    /// A name was taken away.
    Remove(PathBuf),
    /// A link was made: what it leads to, and where it is.
    Link(PathBuf, PathBuf),
    /// The names in a folder last.
    SyncFolder(PathBuf),
    /// The client was answered.
    Answered,
}

thread_local! {
    /// What this thread did since it began to take it down.
    static TAPE: RefCell<Option<Vec<Step>>> = const { RefCell::new(None) };
}

/// Takes down what this thread does from now on.
pub fn begin() {
    TAPE.set(Some(Vec::new()));
}

/// What was taken down.
pub fn end() -> Vec<Step> {
    TAPE.take().unwrap_or_default()
}

/// Takes a step down.
pub fn note(step: Step) {
    TAPE.with_borrow_mut(|tape| {
        if let Some(tape) = tape {
            tape.push(step);
        }
    });
}
