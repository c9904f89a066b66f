//! A disk that forgets what was not synced when its host loses power.
//!
//! What POSIX promises, and no more: a file's contents last once the file was synced, a name once its folder was. Of what was done to
//! the names of a folder since, any number of steps may have come to last, in their order, whatever happened in other folders. Of
//! contents that were not synced there may be nothing, a part, a part and zeroes, or all; where they were written over others, any
//! sectors of them, or a part and rubbish up to the end of its sector.

use std::collections::BTreeMap;
use std::fs;
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};

use super::random::Random;
use super::tape::Step;

/// Bytes that a disk writes at once.
const SECTOR: usize = 512;

type Names = BTreeMap<String, usize>;

enum Node {
    Folder(Folder),
    File(Contents),
    Link(PathBuf),
}

struct Contents {
    /// As whoever runs sees them.
    now: Vec<u8>,
    /// None before the file was synced.
    lasting: Option<Vec<u8>>,
    /// What was written since, and where.
    since: Vec<(usize, Vec<u8>)>,
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

    fn contents(&mut self, path: &Path) -> &mut Contents {
        let found = self.find(path);
        match &mut self.nodes[found] {
            Node::File(contents) => contents,
            _ => panic!("{} is no file", path.display()),
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
                let contents = Contents {
                    now: contents.clone(),
                    lasting: None,
                    since: Vec::new(),
                };
                self.put(path, Node::File(contents));
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
            Step::WriteAt(path, at, bytes) if is_here(path) => {
                let contents = self.contents(path);
                contents.now[*at..][..bytes.len()].copy_from_slice(bytes);
                contents.since.push((*at, bytes.clone()));
            }
            Step::SyncFile(path) if is_here(path) => {
                let contents = self.contents(path);
                contents.lasting = Some(contents.now.clone());
                contents.since.clear();
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
            Node::File(contents) => fs::write(at, contents.left(random)).unwrap(),
            Node::Link(to) => symlink(to, at).unwrap(),
        }
    }
}

impl Contents {
    fn left(&self, random: &mut Random) -> Vec<u8> {
        let Some(lasting) = &self.lasting else {
            return torn(&self.now, random);
        };
        let mut left = lasting.clone();
        for (at, bytes) in &self.since {
            tear_into(&mut left[*at..][..bytes.len()], bytes, random);
        }
        left
    }
}

/// What may be left of writing `bytes` over `left`: nothing, a part with or without rubbish after it, some sectors, or all.
fn tear_into(left: &mut [u8], bytes: &[u8], random: &mut Random) {
    let part = random.below(bytes.len() + 1);
    match random.below(5) {
        0 => {}
        1 => left[..part].copy_from_slice(&bytes[..part]),
        2 => {
            left[..part].copy_from_slice(&bytes[..part]);
            let sector = part.next_multiple_of(SECTOR).min(bytes.len());
            left[part..sector].fill_with(|| random.below(256) as u8);
        }
        3 => {
            for (left, bytes) in left.chunks_mut(SECTOR).zip(bytes.chunks(SECTOR)) {
                if random.below(2) == 0 {
                    left.copy_from_slice(bytes);
                }
            }
        }
        _ => left.copy_from_slice(bytes),
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
