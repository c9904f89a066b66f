//! A disk that forgets what was not synced when its host loses power.
//!
//! What POSIX promises, and no more: a file's contents last once the file was synced, a name once its folder was. Of what was done to
//! the names of a folder since, any number of steps may have come to last, in their order, whatever happened in other folders. Of
//! contents that were not synced there may be nothing, a part, a part and zeroes, or all.

use std::collections::BTreeMap;
use std::fs;
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};

use super::random::Random;
use super::tape::Step;

type Names = BTreeMap<String, usize>;

enum Node {
    Folder(Folder),
    File { contents: Vec<u8>, is_synced: bool },
    Link(PathBuf),
}

#[derive(Default)]
struct Folder {
    /// As whoever runs sees it.
    now: Names,
    lasting: Names,
    /// What was done since the folder was synced.
    since: Vec<Change>,
}

enum Change {
    Put(String, usize),
    Take(String),
    Move(String, String),
}

impl Change {
    fn apply(&self, names: &mut Names) {
        match self {
            Self::Put(name, node) => drop(names.insert(name.clone(), *node)),
            Self::Take(name) => drop(names.remove(name)),
            Self::Move(from, to) => {
                let node = names.remove(from).unwrap();
                names.insert(to.clone(), node);
            }
        }
    }
}

/// The disk, with one folder that lasts.
pub struct Disk {
    root: PathBuf,
    nodes: Vec<Node>,
}

impl Disk {
    /// An empty one, whose folder is called `root`.
    pub fn new(root: &Path) -> Self {
        Self {
            root: root.into(),
            nodes: vec![Node::Folder(Folder::default())],
        }
    }

    fn find(&self, path: &Path) -> usize {
        let way = path.strip_prefix(&self.root).unwrap();
        way.iter().fold(0, |node, name| match &self.nodes[node] {
            Node::Folder(folder) => folder.now[name.to_str().unwrap()],
            _ => panic!("{} leads through what is no folder", path.display()),
        })
    }

    fn folder(&mut self, path: &Path) -> &mut Folder {
        let found = self.find(path);
        match &mut self.nodes[found] {
            Node::Folder(folder) => folder,
            _ => panic!("{} is no folder", path.display()),
        }
    }

    fn change(&mut self, folder: &Path, change: Change) {
        let folder = self.folder(folder);
        change.apply(&mut folder.now);
        folder.since.push(change);
    }

    fn put(&mut self, path: &Path, node: Node) {
        self.nodes.push(node);
        let (folder, name) = split(path);
        self.change(folder, Change::Put(name, self.nodes.len() - 1));
    }

    /// Does what was done. What is not in its folder is no concern of this disk's.
    pub fn play(&mut self, step: &Step) {
        let is_here = |path: &PathBuf| path.starts_with(&self.root);
        match step {
            Step::MakeFolder(path) if is_here(path) => self.put(path, Node::Folder(Folder::default())),
            Step::Write(path, contents) if is_here(path) => {
                let (contents, is_synced) = (contents.clone(), false);
                self.put(path, Node::File { contents, is_synced });
            }
            Step::Link(to, path) if is_here(path) => self.put(path, Node::Link(to.clone())),
            Step::Rename(from, to) if is_here(from) => {
                let ((folder, from), (other, to)) = (split(from), split(to));
                assert_eq!(
                    folder, other,
                    "a name in one folder only is what a rename changes at once"
                );
                self.change(folder, Change::Move(from, to));
            }
            Step::Remove(path) if is_here(path) => {
                let (folder, name) = split(path);
                self.change(folder, Change::Take(name));
            }
            Step::SyncFile(path) if is_here(path) => {
                let file = self.find(path);
                if let Node::File { is_synced, .. } = &mut self.nodes[file] {
                    *is_synced = true;
                }
            }
            Step::SyncFolder(path) if is_here(path) => {
                let folder = self.folder(path);
                folder.lasting.clone_from(&folder.now);
                folder.since.clear();
            }
            _ => {}
        }
    }

    /// Makes what may be left of it, in the folder `to`.
    pub fn lose_power(&self, random: &mut Random, to: &Path) {
        self.leave(0, random, to);
    }

    fn leave(&self, node: usize, random: &mut Random, at: &Path) {
        match &self.nodes[node] {
            Node::Folder(Folder { lasting, since, .. }) => {
                fs::create_dir_all(at).unwrap();
                let mut names = lasting.clone();
                let come_to_last = random.below(since.len() + 1);
                since[..come_to_last]
                    .iter()
                    .for_each(|change| change.apply(&mut names));
                for (name, node) in names {
                    self.leave(node, random, &at.join(name));
                }
            }
            Node::File { contents, is_synced } => {
                let left = match is_synced {
                    true => contents.clone(),
                    false => torn(contents, random),
                };
                fs::write(at, left).unwrap();
            }
            Node::Link(to) => symlink(to, at).unwrap(),
        }
    }
}

fn torn(contents: &[u8], random: &mut Random) -> Vec<u8> {
    let mut left = contents[..random.below(contents.len() + 1)].to_vec();
    match random.below(4) {
        0 => left.clear(),
        1 => {}
        2 => left.resize(contents.len(), 0),
        _ => left = contents.to_vec(),
    }
    left
}

fn split(path: &Path) -> (&Path, String) {
    let name = path.file_name().unwrap().to_str().unwrap();
    (path.parent().unwrap(), name.into())
}
