//! Back ends of vhost-user for network cards: we connect to one, or it connects to us.

use std::fs;
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::fs::{FileTypeExt, MetadataExt};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::Path;

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::io::Errno;

use crate::Error;

/// Between two tries to reach a back end.
const PAUSE: Timespec = Timespec {
    tv_sec: 0,
    tv_nsec: 250_000_000,
};

/// Listens for a back end at `path`. A socket that nobody serves gives way.
pub(super) fn listen(path: &Path) -> Result<UnixListener, Error> {
    let refused = |error: io::Error| crate::cannot("listen at", "socket", path, &error);
    if fs::symlink_metadata(path).is_ok_and(|meta| meta.file_type().is_socket()) {
        match UnixStream::connect(path) {
            Err(error) if error.kind() == io::ErrorKind::ConnectionRefused => {
                fs::remove_file(path).map_err(refused)?;
            }
            Err(error) => return Err(refused(error)),
            Ok(_) => {
                return Err(Error::Input(format!(
                    "the socket \"{}\" is in use by another process; choose another path",
                    path.display()
                )));
            }
        }
    }
    let listener = UnixListener::bind(path).map_err(refused)?;
    listener.set_nonblocking(true).map_err(refused)?;
    Ok(listener)
}

/// The file of a socket, as it was when we began to listen there.
pub(super) struct SocketFile {
    dev: u64,
    inode: u64,
}

impl SocketFile {
    pub fn of(path: &Path) -> Option<Self> {
        let meta = fs::symlink_metadata(path).ok()?;
        Some(Self {
            dev: meta.dev(),
            inode: meta.ino(),
        })
    }

    /// Removes it, unless another file has its place.
    pub fn remove(&self, path: &Path) {
        let ours = |meta: &fs::Metadata| (meta.dev(), meta.ino()) == (self.dev, self.inode);
        if fs::symlink_metadata(path).is_ok_and(|meta| ours(&meta)) {
            let _ = fs::remove_file(path);
        }
    }
}

/// The guest is gone.
fn gone() -> io::Error {
    io::ErrorKind::BrokenPipe.into()
}

/// Waits for something at `other`, or for the time of a pause without it. An error if the guest's end of `plug` was closed.
fn wait(plug: &OwnedFd, other: Option<&UnixListener>) -> io::Result<()> {
    let mut waited = vec![PollFd::new(plug, PollFlags::RDHUP)];
    waited.extend(other.map(|listener| PollFd::from_borrowed_fd(listener.as_fd(), PollFlags::IN)));
    let timeout = other.is_none().then_some(&PAUSE);
    match poll(&mut waited, timeout) {
        Ok(_) | Err(Errno::INTR) => {}
        Err(error) => return Err(error.into()),
    }
    let closed = PollFlags::RDHUP | PollFlags::HUP | PollFlags::ERR;
    match waited[0].revents().intersects(closed) {
        true => Err(gone()),
        false => Ok(()),
    }
}

/// Connects to the back end at `path`, as soon as there is one. An error if the guest went meanwhile.
pub(super) fn connect(path: &Path, plug: &OwnedFd) -> io::Result<OwnedFd> {
    let mut said = false;
    loop {
        match super::connect_to(path) {
            Ok(connection) => return Ok(connection),
            Err(error) if !said => {
                said = true;
                eprintln!(
                    "ostler: no vhost-user back end is at \"{}\" yet: {error}",
                    path.display()
                );
            }
            Err(_) => {}
        }
        wait(plug, None)?;
    }
}

/// The next back end that connects. An error if the guest went meanwhile.
pub(super) fn accept(listener: &UnixListener, plug: &OwnedFd) -> io::Result<OwnedFd> {
    loop {
        match listener.accept() {
            Ok((connection, _)) => return Ok(connection.into()),
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => wait(plug, Some(listener))?,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::{Errand, Server, serve};
    use super::*;
    use ostler_virtio::vsock::plug;
    use std::io::{Read, Write};
    use std::thread;
    use std::time::Duration;

    fn next(guests: &OwnedFd) -> OwnedFd {
        loop {
            match plug::take(guests).unwrap() {
                Some((_, connection)) => return connection.unwrap(),
                None => thread::sleep(Duration::from_millis(1)),
            }
        }
    }

    /// A word from the back end to the guest.
    fn say(back_end: UnixStream, connection: OwnedFd) {
        (&back_end).write_all(b"word").unwrap();
        let mut word = [0; 4];
        let mut connection = UnixStream::from(connection);
        connection.set_nonblocking(false).unwrap();
        connection.read_exact(&mut word).unwrap();
        assert_eq!(&word, b"word");
    }

    #[test]
    fn a_back_end_may_come_after_the_guest_and_again() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("back-end");
        let (ours, guests) = plug::pair().unwrap();
        let errand = Errand::BackEnd {
            path: path.clone(),
            listens: false,
        };
        let thread = thread::spawn(move || serve(&ours, Server::new(errand, None)));
        for id in 0..2 {
            plug::wish(&guests, id, 0).unwrap();
            let listener = listen(&path).unwrap();
            listener.set_nonblocking(false).unwrap();
            let (back_end, _) = listener.accept().unwrap();
            say(back_end, next(&guests));
            assert!(listen(&path).is_err(), "somebody serves it");
        }
        // It does not wait any longer than the guest does.
        plug::wish(&guests, 9, 0).unwrap();
        drop(guests);
        thread.join().unwrap();
    }

    #[test]
    fn a_back_end_connects_to_the_guest_and_the_socket_goes_with_it() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("guest");
        let (ours, guests) = plug::pair().unwrap();
        let errand = Errand::BackEnd {
            path: path.clone(),
            listens: true,
        };
        let listener = listen(&path).unwrap();
        let thread = thread::spawn(move || serve(&ours, Server::new(errand, Some(listener.into()))));
        for id in 0..2 {
            plug::wish(&guests, id, 0).unwrap();
            let back_end = UnixStream::connect(&path).unwrap();
            say(back_end, next(&guests));
        }
        plug::wish(&guests, 9, 0).unwrap();
        drop(guests);
        thread.join().unwrap();
        assert!(!path.exists());
        fs::write(&path, "").unwrap();
        assert!(listen(&path).is_err(), "a file is nobody's socket");
    }
}
