//! Where consoles and debuggers are.

use std::net::SocketAddr;
use std::path::PathBuf;

/// Where a console leads.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ConsoleOption {
    Stdio,
    File(PathBuf),
    Socket(PathBuf),
    None,
}

/// Where a debugger comes in.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum GdbOption {
    Socket(PathBuf),
    /// A port of the loopback interface.
    Tcp(SocketAddr),
}

pub(super) fn parse_console(text: &str) -> Result<ConsoleOption, String> {
    match text.split_once('=') {
        None if text == "stdio" => Ok(ConsoleOption::Stdio),
        None if text == "none" => Ok(ConsoleOption::None),
        Some(("file", path)) if !path.is_empty() => Ok(ConsoleOption::File(path.into())),
        Some(("socket", path)) if !path.is_empty() => Ok(ConsoleOption::Socket(path.into())),
        _ => Err(format!(
            "\"{text}\" is nowhere; write stdio, file=FILE, socket=PATH or none"
        )),
    }
}

pub(super) fn parse_gdb(text: &str) -> Result<GdbOption, String> {
    let Some(place) = text.strip_prefix("tcp:") else {
        return match text {
            "" => Err("the debugger's socket is missing; write a path or tcp:127.0.0.1:PORT".into()),
            path => Ok(GdbOption::Socket(path.into())),
        };
    };
    let address = place
        .parse::<SocketAddr>()
        .map_err(|_| format!("\"{place}\" is no address with a port; write tcp:127.0.0.1:PORT"))?;
    // Whoever reaches a debugger's socket owns the guest.
    if !address.ip().is_loopback() {
        return Err(format!(
            "\"{place}\" could be reached from other machines; write tcp:127.0.0.1:PORT, and use ssh -L from there"
        ));
    }
    Ok(GdbOption::Tcp(address))
}
