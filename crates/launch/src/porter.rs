//! A guest's porter: a small process that makes the connections which a guest's process, as it opens nothing, asks for through its plugs.
//! It lives as long as the guest's plugs do, whatever becomes of the one who started it.
//!
//! | plug | what is brought |
//! |---|---|
//! | of a vsock | a connection to `PATH_PORT`, where a server of the host listens |
//! | of a share | a connection to a virtiofsd: one that is started for it, or one that listens at a socket |
//! | of a network card | a connection to a back end of vhost-user, as soon as there is one (`back_end.rs`) |

mod back_end;

use std::ffi::OsString;
use std::fs::{self, DirBuilder};
use std::io;
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::os::unix::fs::DirBuilderExt;
use std::os::unix::net::{UnixListener, UnixStream};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use ostler_virtio::vsock::plug;
use ostler_vmm::handoff;
use rustix::io::Errno;
use rustix::net::{AddressFamily, SocketAddrUnix, SocketFlags, SocketType, connect, socket_with};
use serde::{Deserialize, Serialize};

use crate::Error;
use back_end::SocketFile;

/// A virtiofsd is not started more often than this for one share: a guest can have it end.
const PACE: Duration = Duration::from_secs(1);
/// How long a virtiofsd may take to end.
const LAST_PATIENCE: Duration = Duration::from_secs(5);
/// Where virtiofsd is beside what is in PATH: Debian 13, and Debian 12's qemu-system-common.
const PLACES: &[&str] = &["/usr/libexec/virtiofsd", "/usr/lib/qemu/virtiofsd"];

/// What one plug is for.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
pub enum Errand {
    /// Servers of the host at this path with `_PORT` behind it.
    Vsock {
        /// The path.
        path: PathBuf,
    },
    /// A virtiofsd of its own.
    Folder {
        /// The program.
        program: PathBuf,
        /// The folder that it shares.
        dir: PathBuf,
    },
    /// A virtiofsd that somebody else started.
    Socket {
        /// Where it listens.
        path: PathBuf,
    },
    /// A back end of vhost-user for a network card.
    BackEnd {
        /// Where it listens, or we do.
        path: PathBuf,
        /// Whether we do. The socket comes behind the plug.
        listens: bool,
    },
}

impl Errand {
    /// To share a folder, by a virtiofsd of this host.
    pub fn share_folder(dir: &Path) -> Result<Self, Error> {
        let meta = fs::metadata(dir).map_err(|error| crate::cannot("share", "folder", dir, &error))?;
        if !meta.is_dir() {
            return Err(Error::Input(format!(
                "\"{}\" is no folder and cannot be shared",
                dir.display()
            )));
        }
        let dir = fs::canonicalize(dir).map_err(|error| crate::cannot("share", "folder", dir, &error))?;
        let program = find_virtiofsd().ok_or_else(|| {
            Error::Failed(
                "there is no virtiofsd on this host, which shares folders; install the package virtiofsd, or on Debian 12 \
                 qemu-system-common"
                    .into(),
            )
        })?;
        Ok(Self::Folder { program, dir })
    }

    /// To share what a virtiofsd at `path` shares.
    pub fn share_socket(path: &Path) -> Result<Self, Error> {
        use std::os::unix::fs::FileTypeExt;
        let refused = |error: io::Error| crate::cannot("connect to", "socket", path, &error);
        match fs::metadata(path).map_err(refused)?.file_type().is_socket() {
            true => Ok(Self::Socket { path: path.into() }),
            false => Err(Error::Input(format!(
                "\"{}\" is no socket of a virtiofsd",
                path.display()
            ))),
        }
    }
}

/// The program that shares folders, if this host has it.
pub fn find_virtiofsd() -> Option<PathBuf> {
    let path = std::env::var_os("PATH").unwrap_or_default();
    let in_path = std::env::split_paths(&path).map(|folder| folder.join("virtiofsd"));
    let places = PLACES.iter().map(PathBuf::from);
    in_path.chain(places).find(|file| file.is_file())
}

/// The plugs of a guest that is about to start, and what they are for.
#[derive(Default)]
pub struct Plugs {
    errands: Vec<Errand>,
    ends: Vec<OwnedFd>,
}

impl Plugs {
    /// None yet.
    pub fn new() -> Self {
        Self::default()
    }

    /// True if the guest needs no porter.
    pub fn is_empty(&self) -> bool {
        self.errands.is_empty()
    }

    /// Another plug: returns the guest's end.
    pub fn add(&mut self, errand: Errand) -> Result<OwnedFd, Error> {
        let (ours, guests) =
            plug::pair().map_err(|error| Error::Failed(format!("no socket pair: {error}")))?;
        self.errands.push(errand);
        self.ends.push(ours);
        Ok(guests)
    }

    /// Another plug, for a network card whose back end of vhost-user is at `path`, or is to connect to us there: returns the guest's end.
    ///
    /// # Errors
    /// If nobody can listen there.
    pub fn add_back_end(&mut self, path: &Path, listens: bool) -> Result<OwnedFd, Error> {
        let path = std::path::absolute(path).map_err(|error| crate::cannot("use", "socket", path, &error))?;
        let listener = listens.then(|| back_end::listen(&path)).transpose()?;
        let plug = self.add(Errand::BackEnd { path, listens })?;
        self.ends.extend(listener.map(OwnedFd::from));
        Ok(plug)
    }

    /// Starts the porter's process, which ends with the guest's ends of its plugs.
    pub fn start(self) -> Result<Child, Error> {
        let refused = |error: io::Error| Error::Failed(format!("cannot start the guest's porter: {error}"));
        let (mut link, theirs) = UnixStream::pair().map_err(refused)?;
        let mut child = Command::new("/proc/self/exe")
            .arg0("ostler")
            .args(["porter"])
            .stdin(Stdio::from(OwnedFd::from(theirs)))
            .stdout(Stdio::null())
            // Keys that send signals in the terminal are for the guest's parent.
            .process_group(0)
            .spawn()
            .map_err(refused)?;
        let text = serde_json::to_vec(&self.errands).map_err(|error| refused(error.into()))?;
        handoff::send_text(&mut link, &text, &self.ends).map_err(|error| {
            let _ = child.kill();
            let _ = child.wait();
            Error::Failed(error.to_string())
        })?;
        Ok(child)
    }
}

/// Serves the plugs that are handed over at `link`, to their end: what the porter's process does.
pub fn run(mut link: UnixStream) -> Result<(), Error> {
    let failed = |error: &dyn std::fmt::Display| Error::Failed(format!("the porter has no errands: {error}"));
    let (text, ends) = handoff::receive_text(&mut link).map_err(|error| failed(&error))?;
    drop(link);
    let errands: Vec<Errand> = serde_json::from_slice(&text).map_err(|error| failed(&error))?;
    let mut ends = ends.into_iter();
    let threads = errands.into_iter().filter_map(|errand| {
        let end = ends.next()?;
        let listener = match errand {
            Errand::BackEnd { listens: true, .. } => ends.next(),
            _ => None,
        };
        let thread = thread::Builder::new().name("errand".into()).stack_size(128 << 10);
        Some(thread.spawn(move || serve(&end, Server::new(errand, listener))))
    });
    for thread in threads.collect::<Vec<_>>() {
        match thread {
            Ok(thread) => drop(thread.join()),
            Err(error) => return Err(failed(&error)),
        }
    }
    Ok(())
}

/// Does one errand again and again, until the guest's end is closed.
fn serve(end: &OwnedFd, mut server: Server) {
    while let Ok((id, port)) = plug::wait_for_wish(end) {
        let connection = server.connect(port, end);
        if let Err(error) = &connection {
            eprintln!("ostler: {}: {error}", server.describe());
        }
        let answer = connection
            .as_ref()
            .map(AsFd::as_fd)
            .map_err(|error| error.raw_os_error().unwrap_or(libc::EIO));
        if plug::answer(end, id, answer).is_err() {
            return;
        }
    }
}

struct Server {
    errand: Errand,
    /// The virtiofsd that was started last, and when.
    child: Option<(Child, Instant)>,
    /// Where back ends connect to us, and its file.
    listener: Option<(UnixListener, Option<SocketFile>)>,
}

impl Server {
    fn new(errand: Errand, listener: Option<OwnedFd>) -> Self {
        let listener = listener.map(|socket| {
            let file = match &errand {
                Errand::BackEnd { path, .. } => SocketFile::of(path),
                _ => None,
            };
            (UnixListener::from(socket), file)
        });
        Self {
            errand,
            child: None,
            listener,
        }
    }

    fn describe(&self) -> String {
        match &self.errand {
            Errand::Vsock { path } => format!("a server of the guest's vsock at \"{}\"", path.display()),
            Errand::Folder { program, dir } => {
                format!("\"{}\" for \"{}\"", program.display(), dir.display())
            }
            Errand::Socket { path } => format!("the virtiofsd at \"{}\"", path.display()),
            Errand::BackEnd { path, .. } => format!("a vhost-user back end at \"{}\"", path.display()),
        }
    }

    fn connect(&mut self, port: u32, plug: &OwnedFd) -> io::Result<OwnedFd> {
        match &self.errand {
            Errand::Vsock { path } => Ok(connect_to(&server_path(path, port))?),
            Errand::Socket { path } => Ok(connect_to(path)?),
            Errand::BackEnd { path, .. } => match &self.listener {
                Some((listener, _)) => back_end::accept(listener, plug),
                None => back_end::connect(path, plug),
            },
            Errand::Folder { program, dir } => {
                if let Some((mut before, started)) = self.child.take() {
                    // The guest's end of its connection is closed, or this would not have been asked for: it ends by itself, or hangs.
                    let _ = before.kill();
                    let _ = before.wait();
                    thread::sleep(PACE.saturating_sub(started.elapsed()));
                }
                let (connection, child) = start_virtiofsd(program, dir)?;
                self.child = Some((child, Instant::now()));
                Ok(connection)
            }
        }
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        if let (Errand::BackEnd { path, .. }, Some((_, Some(file)))) = (&self.errand, &self.listener) {
            file.remove(path);
        }
        let Some((mut child, _)) = self.child.take() else {
            return;
        };
        // The guest is gone, and with it the connection: it ends by itself, but for one that hangs.
        let end = Instant::now() + LAST_PATIENCE;
        while matches!(child.try_wait(), Ok(None)) {
            if Instant::now() >= end {
                let _ = child.kill();
                let _ = child.wait();
                return;
            }
            thread::sleep(Duration::from_millis(20));
        }
    }
}

/// Where the server of `port` listens.
fn server_path(path: &Path, port: u32) -> PathBuf {
    let mut name = OsString::from(path);
    name.push(format!("_{port}"));
    name.into()
}

/// Connects without waiting: a server whose queue is full is as good as none.
fn connect_to(path: &Path) -> Result<OwnedFd, Errno> {
    let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
    let socket = socket_with(AddressFamily::UNIX, SocketType::STREAM, flags, None)?;
    connect(&socket, &SocketAddrUnix::new(path)?)?;
    Ok(socket)
}

/// Starts a virtiofsd, and connects to it.
fn start_virtiofsd(program: &Path, dir: &Path) -> io::Result<(OwnedFd, Child)> {
    let (listener, connection) = private_listener()?;
    let listener = OwnedFd::from(listener);
    let number = listener.as_raw_fd();
    let mut command = Command::new(program);
    command
        .arg(format!("--fd={number}"))
        .arg("-o")
        .arg({
            let mut source = OsString::from("source=");
            source.push(dir);
            source
        })
        .stdin(Stdio::null())
        .stdout(Stdio::null());
    // SAFETY: between fork and exec only fcntl is called, which is allowed there; the descriptor is open.
    unsafe {
        command.pre_exec(move || match libc::fcntl(number, libc::F_SETFD, 0) {
            0 => Ok(()),
            _ => Err(io::Error::last_os_error()),
        });
    }
    let child = command.spawn()?;
    Ok((connection, child))
}

/// A listening socket to which nobody else can connect, and the connection that it accepts first.
fn private_listener() -> io::Result<(UnixListener, OwnedFd)> {
    for number in 0..1000 {
        let folder = std::env::temp_dir().join(format!("ostler-porter-{}-{number}", std::process::id()));
        match DirBuilder::new().mode(0o700).create(&folder) {
            Ok(()) => {}
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists => continue,
            Err(error) => return Err(error),
        }
        let path = folder.join("virtiofsd");
        let made = UnixListener::bind(&path).and_then(|listener| Ok((listener, UnixStream::connect(&path)?)));
        let _ = fs::remove_file(&path);
        let _ = fs::remove_dir(&folder);
        return made.map(|(listener, connection)| (listener, connection.into()));
    }
    Err(io::ErrorKind::AlreadyExists.into())
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::Read;

    #[test]
    fn what_cannot_be_shared_is_told() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("file");
        fs::write(&file, "").unwrap();
        for (said, part) in [
            (
                Errand::share_folder(&folder.path().join("none")),
                "there is no such file or folder",
            ),
            (Errand::share_folder(&file), "is no folder"),
            (Errand::share_socket(&file), "is no socket"),
            (
                Errand::share_socket(&folder.path().join("none")),
                "there is no such",
            ),
        ] {
            let said = said.unwrap_err().to_string();
            assert!(said.contains(part), "{said}");
        }
    }

    #[test]
    fn a_vsocks_servers_are_found_by_their_ports_until_the_guest_goes() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("vsock");
        let listener = UnixListener::bind(server_path(&path, 7)).unwrap();
        let (ours, guests) = plug::pair().unwrap();
        let thread = thread::spawn(move || serve(&ours, Server::new(Errand::Vsock { path }, None)));
        let next = || loop {
            if let Some(answer) = plug::take(&guests).unwrap() {
                break answer;
            }
            thread::sleep(Duration::from_millis(1));
        };
        plug::wish(&guests, 1, 7).unwrap();
        let (id, connection) = next();
        assert_eq!(id, 1);
        let connection = connection.unwrap();
        let (mut server, _) = listener.accept().unwrap();
        drop(connection);
        assert_eq!(server.read(&mut [0]).unwrap(), 0);
        plug::wish(&guests, 2, 8).unwrap();
        let (id, refused) = next();
        assert_eq!((id, refused.unwrap_err()), (2, libc::ENOENT as u32));
        drop(guests);
        thread.join().unwrap();
    }

    #[test]
    fn a_private_listener_accepts_its_own_connection_and_leaves_nothing() {
        let (listener, connection) = private_listener().unwrap();
        let path = listener.local_addr().unwrap().as_pathname().unwrap().to_owned();
        assert!(!path.exists() && !path.parent().unwrap().exists());
        let (mut server, _) = listener.accept().unwrap();
        drop(connection);
        assert_eq!(server.read(&mut [0]).unwrap(), 0);
    }

    #[test]
    fn a_virtiofsd_that_ends_at_once_is_started_anew_in_peace() {
        let dir = std::env::temp_dir();
        let folder = |program: &str| {
            let errand = Errand::Folder {
                program: program.into(),
                dir: dir.clone(),
            };
            Server::new(errand, None)
        };
        let (plug, _guests) = plug::pair().unwrap();
        let mut server = folder("/bin/true");
        let start = Instant::now();
        for _ in 0..2 {
            let mut connection = UnixStream::from(server.connect(0, &plug).unwrap());
            // It took its listening socket, and the connection in it, with it.
            assert_eq!(connection.read(&mut [0]).unwrap_or(0), 0);
        }
        assert!(start.elapsed() >= PACE);
        let said = folder("/no/virtiofsd").connect(0, &plug).unwrap_err();
        assert_eq!(said.kind(), io::ErrorKind::NotFound);
    }
}
