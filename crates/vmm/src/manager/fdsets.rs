//! Descriptors that clients handed over: sets with numbers, which any client and the disks use by `/dev/fdset/N`.

use std::collections::BTreeMap;
use std::os::fd::{AsFd, AsRawFd, OwnedFd};

use rustix::fs::OFlags;
use serde_json::{Value, json};

use crate::control::{Class, Failure};

/// Most descriptors in all sets.
const MAX_DESCRIPTORS: usize = 512;
/// Longest word of a client about a descriptor, in bytes: a path with something in front.
const MAX_OPAQUE: usize = 4200;

struct Member {
    fd: OwnedFd,
    opaque: Option<String>,
}

/// All sets.
#[derive(Default)]
pub(crate) struct FdSets(BTreeMap<i64, Vec<Member>>);

/// The number in `/dev/fdset/N`.
fn number_in(path: &str) -> Option<i64> {
    let digits = path.strip_prefix("/dev/fdset/")?;
    ((1..=19).contains(&digits.len()) && digits.bytes().all(|b| b.is_ascii_digit()))
        .then(|| digits.parse().ok())
        .flatten()
}

impl FdSets {
    /// Adds `fd` to set `id`, or to a new one. Returns the numbers of both.
    pub fn add(&mut self, id: Option<i64>, opaque: Option<String>, fd: OwnedFd) -> Result<Value, Failure> {
        if id.is_some_and(|id| id < 0) {
            return Err(Failure::expects("fdset-id", "a non-negative value"));
        }
        if opaque.as_ref().is_some_and(|opaque| opaque.len() > MAX_OPAQUE) {
            return Err(Failure::expects("opaque", "at most 4200 bytes"));
        }
        if self.0.values().map(Vec::len).sum::<usize>() >= MAX_DESCRIPTORS {
            return Err(Failure::generic(format!(
                "there are {MAX_DESCRIPTORS} descriptors in the sets; remove some"
            )));
        }
        let free = || (0..).find(|id| !self.0.contains_key(id)).unwrap_or(0);
        let id = id.unwrap_or_else(free);
        let number = fd.as_raw_fd();
        self.0.entry(id).or_default().push(Member { fd, opaque });
        Ok(json!({ "fdset-id": id, "fd": number }))
    }

    /// Removes descriptor `fd` of set `id`, or the whole set. What was opened by it stays open.
    pub fn remove(&mut self, id: i64, fd: Option<i64>) -> Result<(), Failure> {
        let name = match fd {
            Some(fd) => format!("fdset-id:{id}, fd:{fd}"),
            None => format!("fdset-id:{id}"),
        };
        let unknown = || Failure::generic(format!("File descriptor named '{name}' not found"));
        let set = self.0.get_mut(&id).ok_or_else(unknown)?;
        let Some(fd) = fd else {
            self.0.remove(&id);
            return Ok(());
        };
        let is_it = |member: &Member| i64::from(member.fd.as_raw_fd()) == fd;
        let at = set.iter().position(is_it).ok_or_else(unknown)?;
        set.remove(at);
        if set.is_empty() {
            self.0.remove(&id);
        }
        Ok(())
    }

    pub fn describe(&self) -> Value {
        let member = |member: &Member| {
            let mut value = json!({ "fd": member.fd.as_raw_fd() });
            if let Some(opaque) = &member.opaque {
                value["opaque"] = opaque.as_str().into();
            }
            value
        };
        let set = |(id, members): (&i64, &Vec<Member>)| json!({ "fdset-id": id, "fds": members.iter().map(member).collect::<Vec<_>>() });
        self.0.iter().map(set).collect()
    }

    /// A copy of a descriptor of the set that `path` names, one that was opened for writing too (`writable`), or one for
    /// reading only.
    pub fn open(&self, path: &str, writable: bool) -> Result<OwnedFd, Failure> {
        let (mode, flags) = match writable {
            true => (OFlags::RDWR, libc::O_RDWR),
            false => (OFlags::RDONLY, libc::O_RDONLY),
        };
        self.find(path, flags, |is| is == mode)
    }

    /// A copy of a descriptor of the set that `path` names, one that can be written.
    pub fn open_for_writing(&self, path: &str) -> Result<OwnedFd, Failure> {
        self.find(path, libc::O_WRONLY, |is| {
            is == OFlags::RDWR || is == OFlags::WRONLY
        })
    }

    fn find(&self, path: &str, flags: i32, mode: impl Fn(OFlags) -> bool) -> Result<OwnedFd, Failure> {
        let refused =
            |why: &str| Failure::generic(format!("Could not dup FD for {path} flags {flags:x}: {why}"));
        let Some(id) = number_in(path) else {
            return Err(Failure::generic(format!(
                "Could not open '{path}': this process opens no files; add-fd hands one over, and its name is /dev/fdset/N"
            )));
        };
        let set = self
            .0
            .get(&id)
            .ok_or_else(|| refused("No such file or directory"))?;
        let fits = |member: &&Member| {
            rustix::fs::fcntl_getfl(&member.fd).is_ok_and(|flags| mode(flags & OFlags::RWMODE))
        };
        let member = set
            .iter()
            .find(fits)
            .ok_or_else(|| refused("Permission denied"))?;
        let copy = member.fd.as_fd().try_clone_to_owned();
        copy.map_err(|error| refused(&error.to_string()))
    }
}

/// The descriptors that belong to one client: those that came and wait for a command, and those that it named.
#[derive(Default)]
pub(crate) struct ClientFds {
    waiting: std::collections::VecDeque<OwnedFd>,
    named: BTreeMap<String, OwnedFd>,
}

impl ClientFds {
    /// Most that wait for a command, and most with a name; more are closed.
    const MAX: usize = 64;

    /// One came by SCM_RIGHTS.
    pub fn receive(&mut self, fd: OwnedFd) {
        if self.waiting.len() < Self::MAX {
            self.waiting.push_back(fd);
        }
    }

    /// The one that came first.
    pub fn next(&mut self) -> Result<OwnedFd, Failure> {
        let none = || Failure::generic("No file descriptor supplied via SCM_RIGHTS");
        self.waiting.pop_front().ok_or_else(none)
    }

    /// Gives the next one a name; another of that name is closed.
    pub fn name_next(&mut self, name: String) -> Result<(), Failure> {
        let fd = self.next()?;
        if name.bytes().next().is_none_or(|b| b.is_ascii_digit()) {
            return Err(Failure::expects("fdname", "a name not starting with a digit"));
        }
        if self.named.len() >= Self::MAX && !self.named.contains_key(&name) {
            return Err(Failure::generic(
                "Too many file descriptors have names; close some",
            ));
        }
        self.named.insert(name, fd);
        Ok(())
    }

    pub fn close(&mut self, name: &str) -> Result<(), Failure> {
        let unknown = || {
            Failure::new(
                Class::Generic,
                format!("File descriptor named '{name}' not found"),
            )
        };
        self.named.remove(name).map(drop).ok_or_else(unknown)
    }

    /// Takes the one with this name.
    pub fn take(&mut self, name: &str) -> Result<OwnedFd, Failure> {
        let unknown = || Failure::generic(format!("File descriptor named '{name}' has not been found"));
        self.named.remove(name).ok_or_else(unknown)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn file(write: bool) -> OwnedFd {
        let file = tempfile::NamedTempFile::new().unwrap();
        let open = std::fs::File::options().read(true).write(write).open(file.path());
        open.unwrap().into()
    }

    #[test]
    fn a_set_gives_copies_of_the_mode_that_is_asked_for() {
        let mut sets = FdSets::default();
        let added = sets.add(None, None, file(false)).unwrap();
        assert_eq!(added["fdset-id"], 0);
        sets.open("/dev/fdset/0", false).unwrap();
        let refused = sets.open("/dev/fdset/0", true).unwrap_err();
        assert_eq!(
            refused.text,
            "Could not dup FD for /dev/fdset/0 flags 2: Permission denied"
        );
        sets.add(Some(0), Some("rw:/a".into()), file(true)).unwrap();
        sets.open("/dev/fdset/0", true).unwrap();
        assert_eq!(sets.describe()[0]["fds"][1]["opaque"], "rw:/a");
        for path in [
            "/dev/fdset/7",
            "/dev/fdset/",
            "/dev/fdset/-1",
            "/dev/fdset/99999999999999999999",
            "/etc/passwd",
        ] {
            assert!(sets.open(path, false).is_err(), "{path}");
        }
        sets.remove(0, added["fd"].as_i64()).unwrap();
        assert!(sets.open("/dev/fdset/0", false).is_err());
        sets.remove(0, None).unwrap();
        assert!(sets.remove(0, None).is_err());
        assert_eq!(sets.describe(), json!([]));
    }

    #[test]
    fn what_a_client_hoards_is_bounded() {
        let mut fds = ClientFds::default();
        for _ in 0..2 * ClientFds::MAX {
            fds.receive(file(false));
        }
        assert_eq!(fds.waiting.len(), ClientFds::MAX);
        for n in 0..ClientFds::MAX {
            fds.name_next(format!("fd{n}")).unwrap();
        }
        assert!(fds.name_next("none-left".into()).is_err());
        fds.receive(file(false));
        assert!(fds.name_next("one-more".into()).is_err());
        fds.receive(file(false));
        fds.name_next("fd0".into()).unwrap();
        fds.take("fd0").unwrap();
        assert!(fds.take("fd0").is_err() && fds.close("fd0").is_err());
        fds.close("fd1").unwrap();
        fds.receive(file(false));
        assert!(
            fds.name_next("1".into())
                .unwrap_err()
                .text
                .contains("not starting with a digit")
        );
        let mut sets = FdSets::default();
        let one = file(false);
        let long = Some("x".repeat(MAX_OPAQUE + 1));
        assert!(sets.add(None, long, one.try_clone().unwrap()).is_err());
        for _ in 0..MAX_DESCRIPTORS {
            sets.add(Some(1), None, one.try_clone().unwrap()).unwrap();
        }
        assert!(sets.add(None, None, one).is_err());
    }
}
