//! The little of FUSE that is needed to say that nobody is there, or that nothing can be changed (`linux/fuse.h`: `fuse_in_header`,
//! `fuse_out_header`, `fuse_opcode`).

use ostler_virtio::Chain;

/// FUSE_INIT, by which a session begins.
const INIT: u32 = 26;
/// FUSE_OPEN and FUSE_OPENDIR, whose first argument is the flags of open(2).
const OPEN: u32 = 14;
const OPENDIR: u32 = 27;
/// FUSE_ACCESS, whose first argument is the mode of access(2).
const ACCESS: u32 = 34;
/// What changes nothing, whatever its arguments are: LOOKUP, FORGET, GETATTR, READLINK, READ, STATFS, RELEASE, FSYNC, GETXATTR, LISTXATTR,
/// FLUSH, INIT, READDIR, RELEASEDIR, FSYNCDIR, GETLK, SETLK, SETLKW, INTERRUPT, DESTROY, POLL, BATCH_FORGET, READDIRPLUS, LSEEK, SYNCFS,
/// STATX. Locks are the guest's business.
const READING: &[u32] = &[
    1, 2, 3, 5, 15, 17, 18, 20, 22, 23, 25, INIT, 28, 29, 30, 31, 32, 33, 36, 38, 40, 42, 44, 46, 50, 52,
];
/// Where a request's code is, and its first argument: behind its header.
const CODE: usize = 4;
const FIRST_ARGUMENT: usize = 40;
/// Bytes of an answer's header: length, error, and the request's number.
const OUT_HEADER: usize = 16;
/// "Transport endpoint is not connected".
pub(super) const NOT_CONNECTED: i32 = libc::ENOTCONN;
/// "Read-only file system".
pub(super) const READ_ONLY: i32 = libc::EROFS;

/// Whether a request begins a session.
pub(super) fn begins_session(chain: &Chain) -> bool {
    let mut opcode = [0; 4];
    chain.read_at(CODE, &mut opcode) == opcode.len() && u32::from_le_bytes(opcode) == INIT
}

/// Whether a request changes nothing of what is shared, by its first bytes. What is not known may change something.
pub(super) fn only_reads(head: &[u8]) -> bool {
    let word = |at: usize| {
        let bytes = head.get(at..)?.first_chunk::<4>()?;
        Some(u32::from_le_bytes(*bytes))
    };
    let lacks = |flags: i32| {
        let argument = word(FIRST_ARGUMENT).map(u32::cast_signed);
        argument.is_some_and(|argument| argument & flags == 0)
    };
    match word(CODE) {
        Some(OPEN | OPENDIR) => lacks(libc::O_ACCMODE | libc::O_TRUNC | libc::O_CREAT),
        Some(ACCESS) => lacks(libc::W_OK),
        Some(code) => READING.contains(&code),
        None => false,
    }
}

/// Answers with an error. Returns how many bytes were written: none where no answer is waited for.
pub(super) fn refuse(chain: &Chain, error: i32) -> u32 {
    let mut unique = [0; 8];
    if chain.read_at(8, &mut unique) != unique.len() || chain.writable_bytes() < OUT_HEADER {
        return 0;
    }
    let mut header = [0; OUT_HEADER];
    header[..4].copy_from_slice(&(OUT_HEADER as u32).to_le_bytes());
    header[4..8].copy_from_slice(&(-error).to_le_bytes());
    header[8..].copy_from_slice(&unique);
    chain.write_at(0, &header) as u32
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn head(code: u32, argument: u32) -> Vec<u8> {
        let mut head = vec![0; FIRST_ARGUMENT];
        head[CODE..CODE + 4].copy_from_slice(&code.to_le_bytes());
        head.extend(argument.to_le_bytes());
        head
    }

    #[test]
    fn what_writes_and_what_is_unknown_does_not_pass() {
        // SETATTR, SYMLINK, MKNOD, MKDIR, UNLINK, RMDIR, RENAME, LINK, WRITE, SETXATTR, REMOVEXATTR, CREATE, IOCTL, FALLOCATE, RENAME2,
        // COPY_FILE_RANGE, SETUPMAPPING, REMOVEMAPPING, TMPFILE, and numbers that are none.
        for code in [
            4,
            6,
            8,
            9,
            10,
            11,
            12,
            13,
            16,
            21,
            24,
            35,
            39,
            43,
            45,
            47,
            48,
            49,
            51,
            0,
            53,
            4096,
            u32::MAX,
        ] {
            assert!(!only_reads(&head(code, 0)), "{code}");
        }
        for code in READING {
            assert!(only_reads(&head(*code, u32::MAX)), "{code}");
        }
        for (flags, passes) in [
            (libc::O_RDONLY | libc::O_CLOEXEC | libc::O_NOFOLLOW, true),
            (libc::O_WRONLY, false),
            (libc::O_RDWR, false),
            (libc::O_RDONLY | libc::O_TRUNC, false),
            (libc::O_TMPFILE | libc::O_RDWR, false),
        ] {
            for code in [OPEN, OPENDIR] {
                assert_eq!(
                    only_reads(&head(code, flags.cast_unsigned())),
                    passes,
                    "{flags:#x}"
                );
            }
        }
        assert!(only_reads(&head(ACCESS, 5)) && !only_reads(&head(ACCESS, 2)));
        // Cut short, what would be opened is not said.
        assert!(!only_reads(&head(OPEN, 0)[..FIRST_ARGUMENT]) && !only_reads(&[0; 7]));
    }

    proptest! {
        #[test]
        fn any_bytes_are_a_request_that_reads_or_not(bytes in proptest::collection::vec(any::<u8>(), 0..64)) {
            let code = bytes.get(CODE..CODE + 4).map(|code| u32::from_le_bytes(code.try_into().unwrap()));
            let known = code.is_some_and(|code| READING.contains(&code) || [OPEN, OPENDIR, ACCESS].contains(&code));
            prop_assert!(known || !only_reads(&bytes));
        }
    }
}
