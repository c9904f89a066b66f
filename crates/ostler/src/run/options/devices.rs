//! Devices that a guest has only if it is asked for them.

use std::path::PathBuf;

use ostler_vmm::spec::{self, BalloonSpec, Guid, WatchdogAction};

/// A memory balloon, or none.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct BalloonOption(pub Option<BalloonSpec>);

/// Sockets between guest and host.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct VsockOption {
    pub cid: u32,
    pub path: PathBuf,
}

/// A folder of the host.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ShareOption {
    pub tag: String,
    pub readonly: bool,
    pub source: ShareSource,
}

/// Who shares it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ShareSource {
    /// A virtiofsd that is started for this folder.
    Folder(PathBuf),
    /// A virtiofsd that listens at this socket.
    Socket(PathBuf),
}

/// A VM generation ID.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum GenerationIdOption {
    /// A random one.
    Auto,
    /// This one.
    Guid(Guid),
}

pub(super) fn parse_balloon(text: &str) -> Result<BalloonOption, String> {
    let usage = || {
        format!(
            "\"{text}\" is no balloon; write on[,deflate-on-oom=on|off][,free-page-reporting=on|off] or off"
        )
    };
    let mut words = text.split(',');
    match words.next() {
        Some("on") => {}
        Some("off") if text == "off" => return Ok(BalloonOption(None)),
        _ => return Err(usage()),
    }
    let mut balloon = BalloonSpec {
        deflate_on_oom: true,
        free_page_reporting: true,
    };
    for word in words {
        let (name, value) = word.split_once('=').ok_or_else(usage)?;
        let on = match value {
            "on" => true,
            "off" => false,
            _ => return Err(usage()),
        };
        match name {
            "deflate-on-oom" => balloon.deflate_on_oom = on,
            "free-page-reporting" => balloon.free_page_reporting = on,
            _ => return Err(usage()),
        }
    }
    Ok(BalloonOption(Some(balloon)))
}

pub(super) fn parse_vsock(text: &str) -> Result<VsockOption, String> {
    let usage = || format!("\"{text}\" is no way between guest and host; write cid=N,socket=PATH");
    // A path may have commas in it.
    let (cid, path) = match text.strip_prefix("cid=") {
        Some(rest) => rest.split_once(",socket=").ok_or_else(usage)?,
        None => {
            let rest = text.strip_prefix("socket=").ok_or_else(usage)?;
            let (path, cid) = rest.rsplit_once(",cid=").ok_or_else(usage)?;
            (cid, path)
        }
    };
    let cid = cid.parse::<u64>().map_err(|_| usage())?;
    if path.is_empty() {
        return Err(usage());
    }
    Ok(VsockOption {
        cid: spec::check_cid(cid).map_err(|error| error.to_string())?,
        path: path.into(),
    })
}

pub(super) fn parse_share(text: &str) -> Result<ShareOption, String> {
    let usage = || {
        format!(
            "\"{text}\" is no share; write tag=NAME,dir=FOLDER or tag=NAME,socket=PATH, with readonly=on before dir or socket if nothing may be changed"
        )
    };
    // A path may have commas in it, and comes last.
    let (tag, rest) = text
        .strip_prefix("tag=")
        .and_then(|rest| rest.split_once(','))
        .ok_or_else(usage)?;
    let (readonly, source) = match rest
        .strip_prefix("readonly=")
        .and_then(|rest| rest.split_once(','))
    {
        Some(("on", rest)) => (true, rest),
        Some(("off", rest)) => (false, rest),
        Some(_) => return Err(usage()),
        None => (false, rest),
    };
    let (kind, path) = source.split_once('=').ok_or_else(usage)?;
    if path.is_empty() {
        return Err(usage());
    }
    spec::check_tag(tag).map_err(|error| error.to_string())?;
    let source = match kind {
        "dir" => ShareSource::Folder(path.into()),
        "socket" => ShareSource::Socket(path.into()),
        _ => return Err(usage()),
    };
    Ok(ShareOption {
        tag: tag.into(),
        readonly,
        source,
    })
}

pub(super) fn parse_watchdog(text: &str) -> Result<WatchdogAction, String> {
    let action = text.strip_prefix("action=").and_then(WatchdogAction::from_name);
    action.ok_or_else(|| {
        let known = WatchdogAction::ALL.map(WatchdogAction::name).join(", ");
        format!("\"{text}\" says nothing to a watchdog; write action= and one of {known}")
    })
}

pub(super) fn parse_generation_id(text: &str) -> Result<GenerationIdOption, String> {
    match text {
        "auto" => Ok(GenerationIdOption::Auto),
        guid => guid.parse().map(GenerationIdOption::Guid),
    }
}
