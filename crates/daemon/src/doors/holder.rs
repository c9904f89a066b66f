//! Who listens at a unix socket.

use std::fs;
use std::os::unix::net::UnixStream;
use std::path::Path;

use super::credentials;

/// The flag of a listening socket in /proc/net/unix (`__SO_ACCEPTCON`).
const LISTENS: u32 = 1 << 16;

/// Who listens at `path`, by the kernel's lists; none if they name nobody.
pub fn of_path(path: &Path) -> Option<String> {
    let list = fs::read_to_string("/proc/net/unix").ok()?;
    let inode = inode_of(path.to_str()?, &list)?;
    Some(process_with(&format!("socket:[{inode}]")).map_or_else(|| "another process".into(), describe))
}

/// Who listens where `stream` leads.
pub fn of_peer(stream: &UnixStream) -> String {
    match credentials::of_peer(stream) {
        Ok(peer) if peer.pid > 0 => describe(peer.pid as u32),
        _ => "another process".into(),
    }
}

/// The inode of the socket that listens at `path`.
fn inode_of(path: &str, list: &str) -> Option<u64> {
    list.lines().find_map(|line| {
        let mut fields = line.split_ascii_whitespace();
        let flags = u32::from_str_radix(fields.nth(3)?, 16).ok()?;
        let inode = fields.nth(2)?.parse().ok()?;
        (flags & LISTENS != 0 && fields.next() == Some(path)).then_some(inode)
    })
}

/// The process that has `link` among its descriptors; the youngest, as systemd may have it too.
fn process_with(link: &str) -> Option<u32> {
    let has = |pid: &u32| {
        let descriptors = fs::read_dir(format!("/proc/{pid}/fd"))
            .into_iter()
            .flatten()
            .flatten();
        descriptors
            .into_iter()
            .any(|entry| fs::read_link(entry.path()).is_ok_and(|to| to == Path::new(link)))
    };
    let processes = fs::read_dir("/proc").ok()?.flatten();
    let processes = processes.filter_map(|entry| entry.file_name().to_str()?.parse().ok());
    processes.filter(has).max()
}

fn describe(pid: u32) -> String {
    match fs::read_to_string(format!("/proc/{pid}/comm")) {
        Ok(name) => format!("\"{}\" (process {pid})", name.trim_end()),
        Err(_) => format!("process {pid}"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_kernels_list_is_read() {
        let list = "Num       RefCount Protocol Flags    Type St Inode Path\n\
                    0: 00000002 00000000 00010000 0001 01 4711 /run/a\n\
                    0: 00000003 00000000 00000000 0001 03 4712 /run/b\n\
                    0: 00000003 00000000 00000000 0001 03 4713\n";
        assert_eq!(inode_of("/run/a", list), Some(4711));
        assert_eq!(inode_of("/run/b", list), None, "connected, not listening");
        assert_eq!(inode_of("/run/c", list), None);
    }
}
