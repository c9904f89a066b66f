//! Where the host has its control groups: version 1, a tree for each controller or some, or version 2, one tree for all
//! (Linux, Documentation/admin-guide/cgroup-v1/cgroups.rst and cgroup-v2.rst).

use std::fs;
use std::io;
use std::path::{Path, PathBuf};

/// What can be limited.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Controller {
    /// CPU time.
    Cpu,
    /// Memory.
    Memory,
    /// Disk I/O.
    Io,
}

impl Controller {
    /// All of them.
    pub const ALL: [Self; 3] = [Self::Cpu, Self::Memory, Self::Io];

    /// Its name in a version.
    pub fn name(self, version: Version) -> &'static str {
        match (self, version) {
            (Self::Cpu, _) => "cpu",
            (Self::Memory, _) => "memory",
            (Self::Io, Version::One) => "blkio",
            (Self::Io, Version::Two) => "io",
        }
    }
}

/// Which interface a tree has.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Version {
    /// Files by controllers; threads are in groups of their own as one likes.
    One,
    /// One tree; threads are in threaded groups.
    Two,
}

/// A tree of groups.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Tree {
    /// Where it is mounted.
    pub mount: PathBuf,
    /// Its interface.
    pub version: Version,
}

/// The trees that have the controllers, in the order of [`Controller::ALL`].
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Trees([Option<Tree>; 3]);

impl Trees {
    /// Those of this host.
    pub fn of_host() -> Self {
        let mounts = fs::read_to_string("/proc/self/mountinfo").unwrap_or_default();
        Self::read(&mounts, |mount| {
            fs::read_to_string(mount.join("cgroup.controllers")).unwrap_or_default()
        })
    }

    /// Those of a table of mounts (proc_pid_mountinfo(5)). `controllers` are those that a tree of version 2 has.
    fn read(mounts: &str, controllers: impl Fn(&Path) -> String) -> Self {
        let mut trees = Self::default();
        for line in mounts.lines() {
            let Some((place, source)) = line.split_once(" - ") else {
                continue;
            };
            let Some(mount) = place.split(' ').nth(4).map(|path| PathBuf::from(unescaped(path))) else {
                continue;
            };
            let mut source = source.split(' ');
            let version = match source.next() {
                Some("cgroup") => Version::One,
                Some("cgroup2") => Version::Two,
                _ => continue,
            };
            let has: Vec<String> = match version {
                Version::One => source
                    .next_back()
                    .unwrap_or_default()
                    .split(',')
                    .map(String::from)
                    .collect(),
                Version::Two => controllers(&mount).split_whitespace().map(String::from).collect(),
            };
            for (tree, controller) in trees.0.iter_mut().zip(Controller::ALL) {
                if tree.is_none() && has.iter().any(|name| name == controller.name(version)) {
                    *tree = Some(Tree {
                        mount: mount.clone(),
                        version,
                    });
                }
            }
        }
        trees
    }

    /// Trees of a test.
    #[cfg(test)]
    pub fn of(tree: &Tree) -> Self {
        Self([Some(tree.clone()), Some(tree.clone()), Some(tree.clone())])
    }

    /// The tree that has a controller.
    pub fn of_controller(&self, controller: Controller) -> Option<&Tree> {
        self.0[controller as usize].as_ref()
    }
}

/// A path as it is: the kernel writes blanks and the like as octal numbers.
fn unescaped(text: &str) -> String {
    ["\\040", "\\011", "\\012", "\\134"]
        .iter()
        .zip([" ", "\t", "\n", "\\"])
        .fold(text.to_owned(), |text, (from, to)| text.replace(from, to))
}

impl Tree {
    /// Makes a group and those above it. In version 2 what is below has the controller.
    pub fn make(&self, below: &Path, controller: Controller) -> io::Result<PathBuf> {
        let mut group = self.mount.clone();
        for name in below {
            if self.version == Version::Two {
                pass_on(&group, controller)?;
            }
            group.push(name);
            make_folder(&group)?;
        }
        Ok(group)
    }

    /// Makes a group for threads in a guest's group.
    pub fn make_for_threads(&self, group: &Path, name: &str) -> io::Result<PathBuf> {
        let inner = group.join(name);
        make_folder(&inner)?;
        if self.version == Version::Two {
            let kind = inner.join("cgroup.type");
            if fs::read_to_string(&kind).unwrap_or_default().trim() != "threaded" {
                fs::write(kind, "threaded")?;
            }
            // Once there is a threaded group below, processes may stay in the upper one.
            pass_on(group, Controller::Cpu)?;
        }
        Ok(inner)
    }
}

fn make_folder(path: &Path) -> io::Result<()> {
    match fs::create_dir(path) {
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists => Ok(()),
        made => made,
    }
}

/// Has the groups below a group have a controller.
fn pass_on(group: &Path, controller: Controller) -> io::Result<()> {
    let file = group.join("cgroup.subtree_control");
    let name = controller.name(Version::Two);
    let has = fs::read_to_string(&file).unwrap_or_default();
    match has.split_whitespace().any(|other| other == name) {
        true => Ok(()),
        false => fs::write(file, format!("+{name}")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const BOTH: &str = "\
22 1 0:20 / /proc rw - proc proc rw
30 25 0:26 / /sys/fs/cgroup ro,nosuid - tmpfs tmpfs ro
31 30 0:27 / /sys/fs/cgroup/unified rw - cgroup2 cgroup2 rw
32 30 0:28 / /sys/fs/cgroup/cpu\\040and\\040acct rw - cgroup cgroup rw,cpu,cpuacct
33 30 0:29 / /sys/fs/cgroup/memory rw shared:9 - cgroup cgroup rw,memory
34 broken
";

    #[test]
    fn a_controller_is_in_one_tree() {
        let trees = Trees::read(BOTH, |_| "io pids\n".into());
        let cpu = trees.of_controller(Controller::Cpu).unwrap();
        assert_eq!(
            (cpu.mount.to_str(), cpu.version),
            (Some("/sys/fs/cgroup/cpu and acct"), Version::One)
        );
        assert_eq!(
            trees.of_controller(Controller::Memory).unwrap().mount,
            Path::new("/sys/fs/cgroup/memory")
        );
        let io = trees.of_controller(Controller::Io).unwrap();
        assert_eq!(
            (io.mount.to_str(), io.version),
            (Some("/sys/fs/cgroup/unified"), Version::Two)
        );
        assert_eq!(Trees::read("", |_| String::new()), Trees::default());
    }

    #[test]
    fn a_tree_of_version_2_passes_controllers_on() {
        let folder = tempfile::tempdir().unwrap();
        let tree = Tree {
            mount: folder.path().into(),
            version: Version::Two,
        };
        let group = tree.make(Path::new("a/b"), Controller::Memory).unwrap();
        assert_eq!(group, folder.path().join("a/b"));
        let text = |file: &str| fs::read_to_string(folder.path().join(file)).unwrap();
        assert_eq!(
            (text("cgroup.subtree_control"), text("a/cgroup.subtree_control")),
            ("+memory".into(), "+memory".into())
        );
        assert!(!group.join("cgroup.subtree_control").exists());
        tree.make_for_threads(&group, "vcpu0").unwrap();
        assert_eq!(
            (text("a/b/vcpu0/cgroup.type"), text("a/b/cgroup.subtree_control")),
            ("threaded".into(), "+cpu".into())
        );
        // What is so already is not written again.
        fs::write(folder.path().join("cgroup.subtree_control"), "cpu memory\n").unwrap();
        tree.make(Path::new("a/b"), Controller::Memory).unwrap();
        assert_eq!(text("cgroup.subtree_control"), "cpu memory\n");
    }
}
