//! The little of FUSE that is needed to say that nobody is there (`linux/fuse.h`: `fuse_in_header`, `fuse_out_header`).

use ostler_virtio::Chain;

/// FUSE_INIT, by which a session begins.
const INIT: u32 = 26;
/// Bytes of an answer's header: length, error, and the request's number.
const OUT_HEADER: usize = 16;
/// "Transport endpoint is not connected".
const NOT_CONNECTED: i32 = libc::ENOTCONN;

/// Whether a request begins a session.
pub(super) fn begins_session(chain: &Chain) -> bool {
    let mut opcode = [0; 4];
    chain.read_at(4, &mut opcode) == opcode.len() && u32::from_le_bytes(opcode) == INIT
}

/// Answers that nobody is there. Returns how many bytes were written: none where no answer is waited for.
pub(super) fn refuse(chain: &Chain) -> u32 {
    let mut unique = [0; 8];
    if chain.read_at(8, &mut unique) != unique.len() || chain.writable_bytes() < OUT_HEADER {
        return 0;
    }
    let mut header = [0; OUT_HEADER];
    header[..4].copy_from_slice(&(OUT_HEADER as u32).to_le_bytes());
    header[4..8].copy_from_slice(&(-NOT_CONNECTED).to_le_bytes());
    header[8..].copy_from_slice(&unique);
    chain.write_at(0, &header) as u32
}
