//! The one request, and what becomes of it (virtio 1.2, 5.19.6 and 5.19.7).

use std::fs::File;

use crate::chain::Chain;
use crate::error::GuestError;
use crate::request_worker::Reply;

const FLUSH: u32 = 0;

const DONE: i32 = 0;
const FAILED: i32 = -1;

/// Does what `chain` asks for: makes last what was written to `file`, by whichever mapping.
///
/// # Errors
/// If the request is not whole, or there is no room for the answer.
pub(super) fn answer(chain: &Chain, file: &File) -> Result<Reply, GuestError> {
    let mut kind = [0; 4];
    if chain.read_at(0, &mut kind) < kind.len() {
        return Err(GuestError::Request("a flush request that is not whole"));
    }
    if chain.writable_bytes() < size_of_val(&DONE) {
        return Err(GuestError::Request("a flush request without room for its answer"));
    }
    let result = match u32::from_le_bytes(kind) {
        FLUSH => flush(file),
        _ => FAILED,
    };
    Ok(Reply {
        written: chain.write_at(0, &result.to_le_bytes()) as u32,
        failed: result != DONE,
    })
}

fn flush(file: &File) -> i32 {
    match file.sync_data() {
        Ok(()) => DONE,
        Err(error) => {
            tracing::warn!("what was written to persistent memory may not last: {error}");
            FAILED
        }
    }
}
