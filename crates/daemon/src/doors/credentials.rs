//! Who is at the other end of a unix socket, as the kernel kept it when the two were connected (`SO_PEERCRED`, unix(7)).

use std::io;
use std::mem::MaybeUninit;
use std::os::fd::AsRawFd;
use std::os::unix::net::UnixStream;

/// A process, its user and its group. The number is 0 for a process that this one cannot see, such as one outside of its container:
/// rustix' type for it has no such value.
pub fn of_peer(stream: &UnixStream) -> io::Result<libc::ucred> {
    let mut peer = MaybeUninit::<libc::ucred>::zeroed();
    let mut length = size_of::<libc::ucred>() as libc::socklen_t;
    // SAFETY: both pointers are to room of the sizes that are told, valid for the call.
    let failed = unsafe {
        libc::getsockopt(
            stream.as_raw_fd(),
            libc::SOL_SOCKET,
            libc::SO_PEERCRED,
            peer.as_mut_ptr().cast(),
            &mut length,
        )
    };
    if failed != 0 {
        return Err(io::Error::last_os_error());
    }
    // SAFETY: the structure has integers only, and was zero before the kernel filled it.
    Ok(unsafe { peer.assume_init() })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_peer_is_who_it_is() {
        let (one, _other) = UnixStream::pair().unwrap();
        let peer = of_peer(&one).unwrap();
        assert_eq!(peer.pid as u32, std::process::id());
        assert_eq!(peer.uid, rustix::process::geteuid().as_raw());
        assert_eq!(peer.gid, rustix::process::getegid().as_raw());
    }
}
