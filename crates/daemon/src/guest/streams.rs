//! Opening the ends of serial ports, consoles and channels.

use std::fs::{self, File, OpenOptions};
use std::io;
use std::os::unix::fs::{FileTypeExt, OpenOptionsExt};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::Path;

use ostler_libvirt::{Code, RemoteError};
use ostler_vmm::handoff::Descriptors;
use ostler_vmm::spec::{ChannelSpec, ConsoleSpec};

use super::RunFiles;
use crate::domains::plan::{Stream, Streams};

/// What a guest's process is given.
pub struct OpenStreams {
    /// The serial port.
    pub serial: ConsoleSpec,
    /// The virtio console.
    pub console: ConsoleSpec,
    /// Channels.
    pub channels: Vec<ChannelSpec>,
}

/// Opens everything that leads to characters.
pub fn open(
    streams: &Streams,
    files: &RunFiles,
    descriptors: &mut Descriptors,
) -> Result<OpenStreams, RemoteError> {
    let mut channels = Vec::new();
    for (number, (name, stream)) in streams.channels.iter().enumerate() {
        channels.push(ChannelSpec {
            name: name.clone(),
            leads_to: open_one(Some(stream), &files.channel(number), descriptors)?,
        });
    }
    Ok(OpenStreams {
        serial: open_one(streams.serial.as_ref(), &files.serial(), descriptors)?,
        console: open_one(streams.console.as_ref(), &files.console(), descriptors)?,
        channels,
    })
}

fn open_one(
    stream: Option<&Stream>,
    own: &Path,
    descriptors: &mut Descriptors,
) -> Result<ConsoleSpec, RemoteError> {
    Ok(match stream {
        None | Some(Stream::Nowhere) => ConsoleSpec::None,
        Some(Stream::Clients) => ConsoleSpec::Socket {
            listener: descriptors.push(listen(own)?),
        },
        Some(Stream::Socket(path)) => ConsoleSpec::Socket {
            listener: descriptors.push(listen(path)?),
        },
        Some(Stream::File(path, append)) => ConsoleSpec::File {
            file: descriptors.push(open_file(path, *append)?),
        },
    })
}

fn cannot(what: &str, path: &Path) -> impl Fn(io::Error) -> RemoteError {
    let text = format!("cannot {what} \"{}\"", path.display());
    move |error| RemoteError::new(Code::System, format!("{text}: {error}"))
}

fn open_file(path: &Path, append: bool) -> Result<File, RemoteError> {
    let refused = cannot("write a console to", path);
    // A named pipe without a reader is refused instead of waited for.
    let mut options = OpenOptions::new();
    options
        .append(true)
        .create(true)
        .mode(0o600)
        .custom_flags(rustix::fs::OFlags::NONBLOCK.bits() as i32);
    let file = options.open(path).map_err(&refused)?;
    if !append && file.metadata().map_err(&refused)?.is_file() {
        file.set_len(0).map_err(&refused)?;
    }
    Ok(file)
}

/// Listens at `path`; a socket that nobody serves any more is replaced.
pub fn listen(path: &Path) -> Result<UnixListener, RemoteError> {
    let refused = cannot("listen at", path);
    match fs::symlink_metadata(path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => {}
        Err(error) => return Err(refused(error)),
        Ok(meta) if meta.file_type().is_socket() && UnixStream::connect(path).is_err() => {
            fs::remove_file(path).map_err(&refused)?;
        }
        Ok(_) => return Err(refused(io::ErrorKind::AddrInUse.into())),
    }
    UnixListener::bind(path).map_err(refused)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::Write;

    #[test]
    fn files_and_sockets_that_are_there() {
        let folder = tempfile::tempdir().unwrap();
        let log = folder.path().join("log");
        fs::write(&log, "before ").unwrap();
        open_file(&log, true).unwrap().write_all(b"after").unwrap();
        assert_eq!(fs::read_to_string(&log).unwrap(), "before after");
        open_file(&log, false).unwrap();
        assert_eq!(fs::read_to_string(&log).unwrap(), "");
        assert!(listen(&log).is_err(), "a file is nobody's socket");
        let socket = folder.path().join("socket");
        let first = listen(&socket).unwrap();
        assert!(listen(&socket).is_err(), "somebody serves it");
        drop(first);
        listen(&socket).unwrap();
    }
}
