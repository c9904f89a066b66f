//! Block nodes: the disks that devices can be put on, by the names that clients give them.
//!
//! A `file` or `host_device` node is an open image; a `raw` node lies on one and shows the same bytes, as no other format
//! can be had yet. Each node has one user at most: the node above it, or a device.

use std::fs::File;
use std::os::unix::fs::MetadataExt;
use std::path::Path;
use std::sync::Arc;

use ostler_disk::{Disk, Engine, RawDisk};
use rustix::fs::OFlags;

use super::fdsets::FdSets;
use super::media::goes_with_user;
use crate::control::{Arguments, Failure};
use crate::devices::{OpenDisk, name_of};

/// Most nodes of a guest.
const MAX_NODES: usize = 256;
/// Longest name of a node, in bytes, as in QEMU.
const MAX_NODE_NAME: usize = 31;
/// Longest name of anything else.
const MAX_IDENTIFIER: usize = 255;

/// Where a node came from.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Origin {
    /// The guest was built with it.
    Built,
    /// A client added it.
    Added,
    /// It came with the node above it, and goes with it.
    Implied,
}

/// A block node.
pub(crate) struct Node {
    pub name: String,
    pub driver: &'static str,
    /// What the image was called by whoever opened it.
    pub filename: String,
    pub disk: Arc<dyn Disk>,
    /// Whether the host's page cache is passed by.
    pub direct: bool,
    pub origin: Origin,
    /// Device and inode of the image.
    image: Option<(u64, u64)>,
    /// The node below.
    child: Option<String>,
    /// Id of the device on it.
    pub device: Option<String>,
}

/// All nodes, in the order in which they came.
#[derive(Default)]
pub(crate) struct Nodes {
    list: Vec<Node>,
    /// How many nodes without a name there have been.
    unnamed: u64,
}

/// What `blockdev-add` asks for.
struct Wish {
    name: Option<String>,
    readonly: bool,
    kind: WishKind,
}

enum WishKind {
    File {
        driver: &'static str,
        filename: String,
        auto_readonly: bool,
        direct: bool,
        engine: Engine,
    },
    Raw(Below),
}

enum Below {
    Existing(String),
    New(Box<Wish>),
}

/// QEMU's rule for names (`id_wellformed`), with an end to them.
pub(crate) fn is_identifier(name: &str) -> bool {
    name.len() <= MAX_IDENTIFIER
        && name.starts_with(|c: char| c.is_ascii_alphabetic())
        && name
            .chars()
            .all(|c| c.is_ascii_alphanumeric() || "-._".contains(c))
}

impl Nodes {
    pub fn iter(&self) -> impl Iterator<Item = &Node> {
        self.list.iter()
    }

    pub fn get(&self, name: &str) -> Option<&Node> {
        self.list.iter().find(|node| node.name == name)
    }

    fn parent(&self, name: &str) -> Option<&Node> {
        self.list.iter().find(|node| node.child.as_deref() == Some(name))
    }

    /// The device that uses the node, by itself or by the nodes above it.
    pub fn device_above(&self, name: &str) -> Option<&str> {
        let mut node = self.get(name)?;
        // A node has one user, and was there before it: the way up ends.
        while let Some(parent) = self.parent(&node.name) {
            node = parent;
        }
        node.device.as_deref()
    }

    /// The disk of a device that the guest was built with.
    pub fn built(&mut self, name: &str, open: &OpenDisk) {
        self.list.push(Node {
            name: name.into(),
            driver: "raw",
            filename: open.filename.clone(),
            disk: open.disk.clone(),
            direct: open.direct,
            origin: Origin::Built,
            image: open.inode,
            child: None,
            device: Some(name.into()),
        });
    }

    /// `blockdev-add`: everything, or nothing.
    pub fn add(&mut self, mut arguments: Arguments, fdsets: &FdSets) -> Result<(), Failure> {
        let wish = read_wish(&mut arguments)?;
        arguments.finish()?;
        if wish.name.is_none() {
            return Err(Failure::generic(
                "'node-name' must be specified for the root node",
            ));
        }
        let before = self.list.len();
        let added = self.realize(wish, Origin::Added, fdsets);
        if added.is_err() {
            self.list.truncate(before);
        }
        added.map(drop)
    }

    /// Makes the nodes of `wish`, those below first. Returns its name.
    fn realize(&mut self, wish: Wish, origin: Origin, fdsets: &FdSets) -> Result<String, Failure> {
        if self.list.len() >= MAX_NODES {
            return Err(too_many());
        }
        let name = self.free_name(wish.name)?;
        let node = match wish.kind {
            WishKind::Raw(below) => {
                let child = match below {
                    Below::Existing(child) => child,
                    Below::New(wish) => self.realize(*wish, Origin::Implied, fdsets)?,
                };
                self.raw_on(name.clone(), child, wish.readonly, origin)?
            }
            WishKind::File {
                driver,
                filename,
                auto_readonly,
                direct,
                engine,
            } => {
                let fd = match fdsets.open(&filename, !wish.readonly) {
                    Err(_) if auto_readonly && !wish.readonly => fdsets.open(&filename, false)?,
                    other => other?,
                };
                let opened = self.open(File::from(fd), &filename, driver, direct, engine)?;
                Node {
                    name: name.clone(),
                    driver,
                    filename,
                    disk: Arc::new(opened.0),
                    direct,
                    origin,
                    image: Some(opened.1),
                    child: None,
                    device: None,
                }
            }
        };
        self.list.push(node);
        Ok(name)
    }

    fn free_name(&mut self, wanted: Option<String>) -> Result<String, Failure> {
        let Some(name) = wanted else {
            self.unnamed += 1;
            return Ok(format!("#block{:03}", self.unnamed));
        };
        if name.len() > MAX_NODE_NAME {
            return Err(Failure::generic("Node name too long"));
        }
        if !is_identifier(&name) {
            return Err(Failure::generic(format!("Invalid node-name: '{name}'")));
        }
        if self.get(&name).is_some() {
            return Err(Failure::generic(format!(
                "Duplicate nodes with node-name='{name}'"
            )));
        }
        Ok(name)
    }

    fn raw_on(&self, name: String, child: String, readonly: bool, origin: Origin) -> Result<Node, Failure> {
        let Some(below) = self.get(&child) else {
            return Err(Failure::generic(format!(
                "Cannot find device='{child}' nor node-name='{child}'"
            )));
        };
        self.check_free(below)?;
        let below_readonly = below.disk.features().readonly;
        if below_readonly && !readonly {
            return Err(Failure::generic("Block node is read-only"));
        }
        if !below_readonly && readonly {
            return Err(Failure::generic(format!(
                "Node '{child}' can be written; make it read-only as well"
            )));
        }
        Ok(Node {
            name,
            driver: "raw",
            filename: below.filename.clone(),
            disk: below.disk.clone(),
            direct: below.direct,
            origin,
            image: None,
            child: Some(child),
            device: None,
        })
    }

    /// Looks at an image that was handed over, and locks it.
    fn open(
        &self,
        file: File,
        filename: &str,
        driver: &str,
        direct: bool,
        engine: Engine,
    ) -> Result<(RawDisk, (u64, u64)), Failure> {
        let refused = |why: String| Failure::generic(format!("Could not open '{filename}': {why}"));
        let meta = file.metadata().map_err(|error| refused(error.to_string()))?;
        if driver == "file" && !meta.is_file() {
            return Err(Failure::generic(format!(
                "'file' driver requires '{filename}' to be a regular file"
            )));
        }
        let image = (meta.dev(), meta.ino());
        let flags = rustix::fs::fcntl_getfl(&file).map_err(|error| refused(error.to_string()))?;
        // Locks exclude other processes; within this one the list does.
        let writable = flags & OFlags::RWMODE != OFlags::RDONLY;
        let same = |node: &&Node| node.image == Some(image) && (writable || !node.disk.features().readonly);
        if let Some(other) = self.list.iter().find(same) {
            return Err(Failure::generic(format!(
                "Could not open '{filename}': node '{}' has the same image",
                other.name
            )));
        }
        if direct != flags.contains(OFlags::DIRECT) {
            let wanted = if direct {
                flags | OFlags::DIRECT
            } else {
                flags - OFlags::DIRECT
            };
            rustix::fs::fcntl_setfl(&file, wanted)
                .map_err(|error| refused(format!("O_DIRECT could not be changed: {error}")))?;
        }
        ostler_disk::open::lock(&file, Path::new(filename)).map_err(|error| refused(error.to_string()))?;
        let disk = RawDisk::with_engine(file, engine).map_err(|error| refused(error.to_string()))?;
        Ok((disk, image))
    }

    fn check_free(&self, node: &Node) -> Result<(), Failure> {
        if node.device.is_some() || self.parent(&node.name).is_some() {
            return Err(Failure::generic(format!("Node '{}' is in use", node.name)));
        }
        Ok(())
    }

    /// `blockdev-del`: the node, and those that came with it.
    pub fn remove(&mut self, name: &str) -> Result<(), Failure> {
        let Some(node) = self.get(name) else {
            return Err(Failure::generic(format!(
                "Failed to find node with node-name='{name}'"
            )));
        };
        if node.device.is_some() {
            return Err(Failure::generic(format!("Node {name} is in use")));
        }
        if self.parent(name).is_some() {
            return Err(Failure::generic(format!("Block device {name} is in use")));
        }
        let mut next = Some(name.to_owned());
        while let Some(at) = next.and_then(|name| self.list.iter().position(|node| node.name == name)) {
            let gone = self.list.remove(at);
            next = gone.child.filter(|child| {
                self.get(child)
                    .is_some_and(|child| child.origin == Origin::Implied)
            });
        }
        Ok(())
    }

    /// The node that device `id` is on.
    pub fn on(&self, id: &str) -> Option<&Node> {
        self.list.iter().find(|node| node.device.as_deref() == Some(id))
    }

    /// An image that was handed over for reading becomes a node without a name of a client's, which is returned.
    pub fn add_medium(&mut self, filename: &str, fdsets: &FdSets) -> Result<String, Failure> {
        if self.list.len() >= MAX_NODES {
            return Err(too_many());
        }
        let file = File::from(fdsets.open(filename, false)?);
        let refused =
            |why: rustix::io::Errno| Failure::generic(format!("Could not open '{filename}': {why}"));
        let flags = rustix::fs::fcntl_getfl(&file).map_err(refused)?;
        let direct = flags.contains(OFlags::DIRECT);
        let called = name_of(&file);
        let (disk, image) = self.open(file, filename, "raw", direct, Engine::Auto)?;
        let name = self.free_name(None)?;
        self.list.push(Node {
            name: name.clone(),
            driver: "raw",
            filename: called,
            disk: Arc::new(disk),
            direct,
            origin: Origin::Implied,
            image: Some(image),
            child: None,
            device: None,
        });
        Ok(name)
    }

    /// The disk of a node that may become a medium.
    pub fn free_medium(&self, name: &str) -> Result<Arc<dyn Disk>, Failure> {
        let unknown = || Failure::generic(format!("Node '{name}' not found"));
        let node = self.get(name).ok_or_else(unknown)?;
        if let Some(user) = &node.device {
            return Err(Failure::generic(format!(
                "Node '{name}' is already in use by '{user}'"
            )));
        }
        self.check_free(node)?;
        Ok(node.disk.clone())
    }

    /// The node is in the drive from now on.
    pub fn give(&mut self, name: &str, drive: &str) {
        self.set_device(name, Some(drive));
    }

    /// A device is gone, or the medium of a drive is out. Its node goes, unless a client added it.
    pub fn release(&mut self, device: &str) {
        let Some(node) = self.on(device) else { return };
        let (name, goes) = (node.name.clone(), goes_with_user(node.origin));
        self.detach(device);
        if goes {
            // It has no user any more.
            let _ = self.remove(&name);
        }
    }

    /// Puts device `id` on the node that `property` names.
    pub fn attach(&mut self, name: &str, id: &str, property: &str) -> Result<Arc<dyn Disk>, Failure> {
        let Some(node) = self.get(name) else {
            return Err(Failure::generic(format!(
                "Property '{property}' can't find value '{name}'"
            )));
        };
        self.check_free(node)?;
        let disk = node.disk.clone();
        self.set_device(name, Some(id));
        Ok(disk)
    }

    /// The device on the node is gone.
    fn detach(&mut self, id: &str) {
        for node in &mut self.list {
            if node.device.as_deref() == Some(id) {
                node.device = None;
            }
        }
    }

    fn set_device(&mut self, name: &str, id: Option<&str>) {
        if let Some(node) = self.list.iter_mut().find(|node| node.name == name) {
            node.device = id.map(str::to_owned);
        }
    }
}

fn too_many() -> Failure {
    Failure::generic(format!("there are {MAX_NODES} block nodes; remove some"))
}

/// Reads one node, and those inside it. The nesting is bounded by that of a client's text.
fn read_wish(arguments: &mut Arguments) -> Result<Wish, Failure> {
    let driver = arguments.string("driver")?;
    let name = arguments.string_if_given("node-name")?;
    let readonly = arguments.boolean_if_given("read-only")?;
    let auto_readonly = arguments.boolean_if_given("auto-read-only")?.unwrap_or(false);
    only(arguments, "discard", &["unmap"])?;
    only(arguments, "detect-zeroes", &["off"])?;
    only_boolean(arguments, "force-share", false)?;
    let mut direct = false;
    if let Some(mut cache) = arguments.object_if_given("cache")? {
        direct = cache.boolean_if_given("direct")?.unwrap_or(false);
        only_boolean(&mut cache, "no-flush", false)?;
        cache.finish()?;
    }
    let kind = match &*driver {
        "raw" => WishKind::Raw(read_below(arguments)?),
        "file" | "host_device" => WishKind::File {
            driver: if driver == "file" { "file" } else { "host_device" },
            filename: arguments.string("filename")?,
            auto_readonly,
            direct,
            engine: read_engine(arguments)?,
        },
        _ => return Err(Failure::not_accepted(&arguments.full("driver"), &driver)),
    };
    if matches!(kind, WishKind::File { .. }) {
        only(arguments, "locking", &["auto", "on"])?;
    }
    Ok(Wish {
        name,
        readonly: readonly.unwrap_or(false),
        kind,
    })
}

fn read_below(arguments: &mut Arguments) -> Result<Below, Failure> {
    if arguments.is_string("file") {
        return Ok(Below::Existing(arguments.string("file")?));
    }
    let file = arguments.object_if_given("file")?;
    let mut file = arguments.need("file", file)?;
    let wish = read_wish(&mut file)?;
    file.finish()?;
    Ok(Below::New(Box::new(wish)))
}

fn read_engine(arguments: &mut Arguments) -> Result<Engine, Failure> {
    match arguments.string_if_given("aio")?.as_deref() {
        None => Ok(Engine::Auto),
        Some("io_uring") => Ok(Engine::Uring),
        Some("threads") => Ok(Engine::Threads),
        Some(other) => Err(Failure::not_accepted(&arguments.full("aio"), other)),
    }
}

/// An option that can be given only as what is so anyway.
fn only(arguments: &mut Arguments, name: &str, values: &[&str]) -> Result<(), Failure> {
    match arguments.string_if_given(name)? {
        Some(value) if !values.contains(&&*value) => {
            Err(Failure::not_accepted(&arguments.full(name), &value))
        }
        _ => Ok(()),
    }
}

fn only_boolean(arguments: &mut Arguments, name: &str, value: bool) -> Result<(), Failure> {
    match arguments.boolean_if_given(name)? {
        Some(other) if other != value => {
            Err(Failure::not_accepted(&arguments.full(name), &other.to_string()))
        }
        _ => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::{Value, json};
    use std::os::fd::OwnedFd;

    fn image() -> tempfile::NamedTempFile {
        let file = tempfile::NamedTempFile::new().unwrap();
        file.as_file().set_len(1 << 20).unwrap();
        file
    }

    fn open(file: &tempfile::NamedTempFile, write: bool) -> OwnedFd {
        File::options()
            .read(true)
            .write(write)
            .open(file.path())
            .unwrap()
            .into()
    }

    fn add(nodes: &mut Nodes, fdsets: &FdSets, value: Value) -> Result<(), String> {
        let Value::Object(map) = value else {
            panic!("{value}")
        };
        nodes
            .add(Arguments::new(map), fdsets)
            .map_err(|failure| failure.text)
    }

    #[test]
    fn nodes_come_and_go_and_give_the_image_free() {
        let (image, mut fdsets, mut nodes) = (image(), FdSets::default(), Nodes::default());
        fdsets.add(Some(1), None, open(&image, true)).unwrap();
        let file = json!({ "driver": "file", "filename": "/dev/fdset/1", "node-name": "f" });
        add(&mut nodes, &fdsets, file.clone()).unwrap();
        assert_eq!(
            add(&mut nodes, &fdsets, file).unwrap_err(),
            "Duplicate nodes with node-name='f'"
        );
        let raw = json!({ "driver": "raw", "file": "f", "node-name": "r" });
        add(&mut nodes, &fdsets, raw).unwrap();
        assert_eq!(nodes.remove("f").unwrap_err().text, "Block device f is in use");
        nodes.attach("r", "hp", "virtio-blk-device.drive").unwrap();
        assert_eq!(nodes.device_above("f"), Some("hp"));
        assert!(nodes.attach("r", "other", "virtio-blk-device.drive").is_err());
        assert_eq!(nodes.remove("r").unwrap_err().text, "Node r is in use");
        nodes.detach("hp");
        nodes.remove("r").unwrap();
        nodes.remove("f").unwrap();
        ostler_disk::open::open(image.path(), ostler_disk::open::DiskOptions::default()).unwrap();
    }

    #[test]
    fn what_comes_with_a_node_goes_with_it_and_a_failure_leaves_nothing() {
        let (image, mut fdsets, mut nodes) = (image(), FdSets::default(), Nodes::default());
        fdsets.add(Some(1), None, open(&image, true)).unwrap();
        let nested = |readonly: bool| {
            json!({ "driver": "raw", "node-name": "r", "read-only": readonly,
                    "file": { "driver": "file", "filename": "/dev/fdset/1", "discard": "unmap" } })
        };
        let refused = add(&mut nodes, &fdsets, nested(true)).unwrap_err();
        assert!(refused.contains("make it read-only as well"), "{refused}");
        assert_eq!(nodes.iter().count(), 0);
        add(&mut nodes, &fdsets, nested(false)).unwrap();
        assert_eq!(nodes.iter().count(), 2);
        let again = json!({ "driver": "file", "node-name": "g", "filename": "/dev/fdset/1" });
        let refused = add(&mut nodes, &fdsets, again).unwrap_err();
        assert!(refused.contains("has the same image"), "{refused}");
        nodes.remove("r").unwrap();
        assert_eq!(nodes.iter().count(), 0);
    }

    #[test]
    fn read_only_follows_the_descriptor() {
        let (image, mut fdsets, mut nodes) = (image(), FdSets::default(), Nodes::default());
        fdsets.add(Some(3), None, open(&image, false)).unwrap();
        let wish = |name: &str, auto: bool| json!({ "driver": "file", "node-name": name, "filename": "/dev/fdset/3", "auto-read-only": auto });
        let refused = add(&mut nodes, &fdsets, wish("a", false)).unwrap_err();
        assert!(refused.contains("Permission denied"), "{refused}");
        add(&mut nodes, &fdsets, wish("a", true)).unwrap();
        add(&mut nodes, &fdsets, wish("b", true)).unwrap();
        assert!(nodes.get("a").unwrap().disk.features().readonly);
        let above = json!({ "driver": "raw", "node-name": "c", "file": "a" });
        assert_eq!(
            add(&mut nodes, &fdsets, above).unwrap_err(),
            "Block node is read-only"
        );
    }

    #[test]
    fn an_image_that_another_process_has_is_refused() {
        let (image, mut fdsets, mut nodes) = (image(), FdSets::default(), Nodes::default());
        let other = ostler_disk::open::open(image.path(), ostler_disk::open::DiskOptions::default()).unwrap();
        fdsets.add(Some(1), None, open(&image, true)).unwrap();
        let wish = json!({ "driver": "file", "node-name": "a", "filename": "/dev/fdset/1" });
        let refused = add(&mut nodes, &fdsets, wish.clone()).unwrap_err();
        assert!(refused.contains("in use by another guest"), "{refused}");
        drop(other);
        add(&mut nodes, &fdsets, wish).unwrap();
    }

    #[test]
    fn wrong_options_are_named() {
        let (fdsets, mut nodes) = (FdSets::default(), Nodes::default());
        let wrong = [
            (json!({}), "Parameter 'driver' is missing"),
            (
                json!({ "driver": "qcow2" }),
                "Parameter 'driver' does not accept value 'qcow2'",
            ),
            (json!({ "driver": "raw" }), "Parameter 'file' is missing"),
            (
                json!({ "driver": "raw", "file": {} }),
                "Parameter 'file.driver' is missing",
            ),
            (
                json!({ "driver": "raw", "file": { "driver": "file" } }),
                "Parameter 'file.filename' is missing",
            ),
            (
                json!({ "driver": "raw", "file": "x", "offset": 5 }),
                "Parameter 'offset' is unexpected",
            ),
            (
                json!({ "driver": "raw", "file": "x" }),
                "'node-name' must be specified for the root node",
            ),
            (
                json!({ "driver": "raw", "node-name": "1x", "file": "x" }),
                "Invalid node-name: '1x'",
            ),
            (
                json!({ "driver": "raw", "node-name": "x".repeat(32), "file": "x" }),
                "Node name too long",
            ),
            (
                json!({ "driver": "raw", "node-name": "x", "file": "y" }),
                "Cannot find device='y' nor node-name='y'",
            ),
            (
                json!({ "driver": "file", "filename": "a", "discard": "ignore" }),
                "Parameter 'discard' does not accept value 'ignore'",
            ),
            (
                json!({ "driver": "file", "filename": "a", "cache": { "no-flush": true } }),
                "Parameter 'cache.no-flush' does not accept value 'true'",
            ),
            (
                json!({ "driver": "file", "filename": "a", "locking": "off" }),
                "Parameter 'locking' does not accept value 'off'",
            ),
        ];
        for (value, text) in wrong {
            assert_eq!(
                add(&mut nodes, &fdsets, value.clone()).unwrap_err(),
                text,
                "{value}"
            );
        }
        let path = json!({ "driver": "file", "node-name": "a", "filename": "/etc/passwd" });
        assert!(
            add(&mut nodes, &fdsets, path)
                .unwrap_err()
                .contains("opens no files")
        );
    }
}
