//! Listening at a unix socket.

use std::fs;
use std::io::ErrorKind;
use std::os::unix::fs::{DirBuilderExt, FileTypeExt, PermissionsExt};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::Path;

use super::holder;
use crate::Error;

/// Listens at `path`, where a socket of a daemon that is gone may be. One that somebody listens at is left alone.
pub fn listen(path: &Path, mode: u32, group: Option<u32>) -> Result<UnixListener, Error> {
    if let Some(folder) = path.parent() {
        let made = fs::DirBuilder::new().recursive(true).mode(0o755).create(folder);
        made.map_err(Error::file("make the folder", folder))?;
    }
    if fs::symlink_metadata(path).is_ok_and(|meta| meta.file_type().is_socket()) {
        clear(path)?;
    }
    // Nobody connects before the socket belongs to whom it should.
    let before = rustix::process::umask(rustix::fs::Mode::from_raw_mode(0o177));
    let listener = UnixListener::bind(path);
    rustix::process::umask(before);
    let listener = listener.map_err(Error::file("listen at", path))?;
    let opened = std::os::unix::fs::chown(path, None, group)
        .and_then(|()| fs::set_permissions(path, fs::Permissions::from_mode(mode)));
    opened.map_err(Error::file("open to users", path))?;
    Ok(listener)
}

/// Removes a socket that nobody listens at.
fn clear(path: &Path) -> Result<(), Error> {
    let taken = |who| Error::SocketTaken {
        path: path.into(),
        who,
    };
    // Without connecting, where that is possible: it would start a service that systemd keeps for the socket.
    if let Some(who) = holder::of_path(path) {
        return Err(taken(who));
    }
    match UnixStream::connect(path) {
        Ok(stream) => Err(taken(holder::of_peer(&stream))),
        Err(error) if error.kind() == ErrorKind::ConnectionRefused => {
            fs::remove_file(path).map_err(Error::file("replace", path))
        }
        Err(error) => Err(Error::file("listen at", path)(error)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_socket_of_a_dead_daemon_is_replaced_and_nothing_else() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("new/socket");
        let first = listen(&path, 0o640, None).unwrap();
        assert_eq!(fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o640);
        let said = listen(&path, 0o640, None).unwrap_err().to_string();
        // The test is who listens.
        assert!(
            said.contains(&format!("(process {})", std::process::id())),
            "{said}"
        );
        drop(first);
        listen(&path, 0o600, None).unwrap();
        fs::remove_file(&path).unwrap();
        fs::write(&path, "somebody's").unwrap();
        assert!(listen(&path, 0o600, None).is_err());
        assert_eq!(fs::read(&path).unwrap(), b"somebody's");
    }
}
