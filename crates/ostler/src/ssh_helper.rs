//! `virt-ssh-helper`: what libvirt's clients start on a host that they reach by ssh (`qemu+ssh://`). It connects standard input and
//! output to the daemon's socket, so that the client need not know where that is.

use std::ffi::OsStr;
use std::fs::File;
use std::io::{self, Read, Write};
use std::net::Shutdown;
use std::os::fd::AsFd;
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use clap::{Args, Parser};
use ostler_daemon::{Scope, config};

use crate::daemon::{read_config, scope};
use crate::failure::{self, Failure};

/// The name by which libvirt's clients start it.
const NAME: &str = "virt-ssh-helper";
/// Bytes that are passed on at a time.
const CHUNK: usize = 64 << 10;

/// Connects standard input and output to the socket of the daemon.
#[derive(Parser)]
#[command(name = NAME, version)]
struct Helper {
    #[command(flatten)]
    args: SshHelperArgs,
}

/// Options of the subcommand, which are libvirt's.
#[derive(Args)]
pub struct SshHelperArgs {
    /// Connect to the socket of clients that may only look.
    #[arg(short, long)]
    readonly: bool,
    /// What to connect to: qemu:///system or qemu:///session.
    uri: String,
}

/// True if this process was started by the helper's name.
pub fn is_meant() -> bool {
    let name = std::env::args_os().next().map(PathBuf::from);
    name.is_some_and(|name| name.file_name() == Some(OsStr::new(NAME)))
}

/// Reads the command line of the helper, and does what it says.
pub fn run_by_name() -> Result<ExitCode, Failure> {
    match Helper::try_parse() {
        Ok(helper) => run(helper.args),
        Err(error) => failure::from_clap(&error),
    }
}

/// Passes bytes both ways until the daemon hangs up.
pub fn run(args: SshHelperArgs) -> Result<ExitCode, Failure> {
    let sockets = sockets(&args)?;
    let (path, stream) = connect(&sockets)?;
    let failed = |e: io::Error| {
        Failure::failed(format!(
            "cannot pass on what comes from \"{}\": {e}",
            path.display()
        ))
    };
    let descriptor = |fd: &dyn AsFd| fd.as_fd().try_clone_to_owned().map(File::from);
    let (mut input, mut output) = (
        descriptor(&io::stdin()).map_err(failed)?,
        descriptor(&io::stdout()).map_err(failed)?,
    );
    let mut to = stream.try_clone().map_err(failed)?;
    let pass = move || {
        // The daemon sees the end of it, and hangs up once it has answered.
        let _ = pass_on(&mut input, &mut to);
        let _ = to.shutdown(Shutdown::Write);
    };
    std::thread::Builder::new()
        .name("input".into())
        .spawn(pass)
        .map_err(failed)?;
    // A client that is gone has heard enough.
    let _ = pass_on(&mut &stream, &mut output);
    Ok(ExitCode::SUCCESS)
}

/// Passes on what comes, as soon as it comes. `io::copy` does not: from a pipe it splices, which waits for more than there is.
fn pass_on(from: &mut impl Read, to: &mut impl Write) -> io::Result<()> {
    let mut chunk = vec![0; CHUNK];
    loop {
        match from.read(&mut chunk) {
            Ok(0) => return Ok(()),
            Ok(count) => to.write_all(&chunk[..count])?,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
}

/// Where the daemon that the URI means may listen.
fn sockets(args: &SshHelperArgs) -> Result<Vec<PathBuf>, Failure> {
    let (uri, query) = args.uri.split_once('?').unwrap_or((&args.uri, ""));
    let scope = match uri {
        "" | "qemu://" | "qemu:///" => scope(false),
        "qemu:///system" => Scope::System,
        "qemu:///session" => Scope::Session,
        other => {
            let why = format!("\"{other}\" is not served here; connect to qemu:///system or qemu:///session");
            return Err(Failure::bad_input(why));
        }
    };
    if let Some(path) = query.split('&').find_map(|pair| pair.strip_prefix("socket=")) {
        return Ok(vec![path.into()]);
    }
    let unix = read_config(None, scope)?.unix;
    Ok(match (args.readonly, scope) {
        (false, _) => unix.sockets,
        // A user's own daemon has one kind of socket; the client says by itself that it only looks.
        (true, Scope::Session) if unix.readonly_sockets.is_empty() => unix.sockets,
        (true, _) if unix.readonly_sockets.is_empty() => {
            unix.sockets.iter().map(|path| config::readonly(path)).collect()
        }
        (true, _) => unix.readonly_sockets,
    })
}

/// Connects to the first socket that somebody listens at.
pub fn connect(sockets: &[PathBuf]) -> Result<(&Path, UnixStream), Failure> {
    let mut why = Vec::new();
    for path in sockets {
        match UnixStream::connect(path) {
            Ok(stream) => return Ok((path, stream)),
            Err(error) => why.push(format!("\"{}\": {error}", path.display())),
        }
    }
    let why = why.join(", ");
    Err(Failure::failed(format!(
        "no daemon answers at {why}; is \"ostler daemon\" running?"
    )))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(uri: &str, readonly: bool) -> Result<Vec<PathBuf>, Failure> {
        sockets(&SshHelperArgs {
            readonly,
            uri: uri.into(),
        })
    }

    #[test]
    fn the_uri_leads_to_sockets() {
        assert_eq!(
            of("qemu:///system?socket=/x&mode=auto", true).unwrap(),
            [PathBuf::from("/x")]
        );
        assert!(of("qemu:///session", false).unwrap()[0].ends_with("libvirt/libvirt-sock"));
        assert!(of("qemu:///session", true).unwrap()[0].ends_with("libvirt/libvirt-sock"));
        for uri in ["xen:///system", "qemu:///", "qemu:///system/x", "system"] {
            assert_eq!(of(uri, false).is_ok(), uri == "qemu:///", "{uri}");
        }
    }
}
