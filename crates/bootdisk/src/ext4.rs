//! ext2, ext3 and ext4, by `ext4-view`.
//!
//! That library trusts an image with sizes: it allocates what a superblock or a symbolic link says. So the superblock is
//! checked before, and links are followed here.

use std::io::Write;

use ext4_view::{Ext4, Ext4Error};

use crate::Error;
use crate::source::Part;
use crate::volume::{CHUNK, Volume};

/// Where the superblock is, and its size (Linux, Documentation/filesystems/ext4/super.rst).
const SUPERBLOCK: (u64, usize) = (1024, 1024);
/// Largest logarithm of a block's KiB: 64 KiB.
const MAX_LOG_BLOCK: u32 = 6;
/// Least blocks of a group, as mke2fs has it; and most groups, which are 128 TiB with blocks of 4 KiB.
const MIN_GROUP: u32 = 256;
const MAX_GROUPS: u64 = 1 << 20;
/// The journal's inode, and its greatest size in bytes.
const JOURNAL_INODE: u32 = 8;
const MAX_JOURNAL: u64 = 16 << 30;
/// Links that are followed in one path, and the longest target of one in bytes.
const MAX_LINKS: usize = 40;
const MAX_TARGET: u64 = 4096;
/// Names that are taken from a folder.
const MAX_NAMES: usize = 4096;

/// An ext4 file system.
pub(crate) struct Ext4Volume(Ext4);

fn u16_at(bytes: &[u8], at: usize) -> u16 {
    bytes
        .get(at..at + 2)
        .and_then(|bytes| bytes.try_into().ok())
        .map_or(0, u16::from_le_bytes)
}

fn u32_at(bytes: &[u8], at: usize) -> u32 {
    u32::from(u16_at(bytes, at)) | u32::from(u16_at(bytes, at + 2)) << 16
}

fn damaged(error: Ext4Error) -> Error {
    Error::Damaged(error.to_string())
}

impl Ext4Volume {
    /// True if there is such a superblock.
    pub fn is_here(part: &Part) -> bool {
        let mut magic = [0; 2];
        part.read_at(SUPERBLOCK.0 + 0x38, &mut magic).is_ok() && magic == [0x53, 0xef]
    }

    pub fn open(part: Part) -> Result<Self, Error> {
        check(&part)?;
        Ext4::load(Box::new(part)).map(Self).map_err(damaged)
    }

    /// The path without links, whose last part may be missing; `None` if something before it is.
    fn resolve(&self, path: &str) -> Result<Option<String>, Error> {
        let mut waiting: Vec<String> = path.split('/').rev().map(String::from).collect();
        let mut done: Vec<String> = Vec::new();
        let mut links = 0;
        while let Some(word) = waiting.pop() {
            match word.as_str() {
                "" | "." => continue,
                ".." => {
                    done.pop();
                    continue;
                }
                _ => {}
            }
            done.push(word);
            let here = format!("/{}", done.join("/"));
            if here.len() > MAX_TARGET as usize {
                return Ok(None);
            }
            let meta = match self.0.symlink_metadata(here.as_str()) {
                Ok(meta) => meta,
                Err(Ext4Error::NotFound | Ext4Error::NotADirectory) => return Ok(None),
                Err(error) => return Err(damaged(error)),
            };
            if !meta.is_symlink() {
                continue;
            }
            links += 1;
            if links > MAX_LINKS || meta.len() > MAX_TARGET {
                return Err(Error::Damaged(format!("\"{here}\" is a link that leads nowhere")));
            }
            let target = self.0.read_link(here.as_str()).map_err(damaged)?;
            let Ok(target) = target.to_str() else {
                return Ok(None);
            };
            done.pop();
            if target.starts_with('/') {
                done.clear();
            }
            waiting.extend(target.split('/').rev().map(String::from));
        }
        Ok(Some(format!("/{}", done.join("/"))))
    }
}

/// Refuses what would make the library allocate or count without end.
fn check(part: &Part) -> Result<(), Error> {
    let (at, size) = SUPERBLOCK;
    let mut block = vec![0; size];
    part.read_at(at, &mut block)?;
    let refuse = |what: &str| Err(Error::Damaged(format!("its superblock has {what}")));
    let log_block = u32_at(&block, 0x18);
    if log_block > MAX_LOG_BLOCK {
        return refuse("blocks above 64 KiB");
    }
    let block_size = 1024 << log_block;
    let is_64bit = u32_at(&block, 0x60) & 0x80 != 0;
    let high = |at: usize| {
        if is_64bit {
            u64::from(u32_at(&block, at)) << 32
        } else {
            0
        }
    };
    let blocks = u64::from(u32_at(&block, 0x4)) | high(0x150);
    if blocks
        .checked_mul(block_size)
        .is_none_or(|bytes| bytes > part.length())
    {
        return refuse("more blocks than its partition");
    }
    let per_group = u32_at(&block, 0x20);
    if per_group < MIN_GROUP || blocks / u64::from(per_group) > MAX_GROUPS {
        return refuse("too small groups");
    }
    // The journal is read as a whole.
    let has_journal = u32_at(&block, 0x5c) & 0x4 != 0;
    if !has_journal {
        return Ok(());
    }
    if u32_at(&block, 0xe0) != JOURNAL_INODE {
        return refuse("no journal where it belongs");
    }
    let first_group = if log_block == 0 { 2 } else { 1 } * block_size;
    let mut group = [0; 64];
    part.read_at(first_group, &mut group)?;
    let descriptor_size = u16_at(&block, 0xfe);
    let table_high = if is_64bit && descriptor_size >= 64 {
        u64::from(u32_at(&group, 0x28)) << 32
    } else {
        0
    };
    let table = u64::from(u32_at(&group, 0x8)) | table_high;
    let inode_at = u64::from(u16_at(&block, 0x58)) * u64::from(JOURNAL_INODE - 1);
    let inode_at = table
        .checked_mul(block_size)
        .and_then(|at| at.checked_add(inode_at));
    let Some(inode_at) = inode_at else {
        return refuse("a table of inodes that is nowhere");
    };
    let mut inode = [0; 0x80];
    part.read_at(inode_at, &mut inode)?;
    let journal = u64::from(u32_at(&inode, 0x4)) | u64::from(u32_at(&inode, 0x6c)) << 32;
    if journal > MAX_JOURNAL {
        return refuse("a journal above 16 GiB");
    }
    Ok(())
}

impl Volume for Ext4Volume {
    fn kind(&self) -> &'static str {
        "ext4"
    }

    fn uuid(&self) -> String {
        self.0.uuid().to_string()
    }

    fn label(&self) -> String {
        self.0.label().to_str().unwrap_or_default().into()
    }

    fn copy(&self, path: &str, most: u64, into: &mut dyn Write) -> Result<Option<u64>, Error> {
        let Some(real) = self.resolve(path)? else {
            return Ok(None);
        };
        let mut file = match self.0.open(real.as_str()) {
            Ok(file) => file,
            Err(Ext4Error::NotFound | Ext4Error::IsADirectory | Ext4Error::IsASpecialFile) => {
                return Ok(None);
            }
            Err(error) => return Err(damaged(error)),
        };
        let size = file.metadata().len();
        if size > most {
            return Err(Error::TooLarge {
                path: path.into(),
                size,
                most,
            });
        }
        let mut chunk = vec![0; CHUNK.min(size as usize)];
        let mut done = 0;
        loop {
            let mut filled = 0;
            // A read ends with a block at the latest.
            while filled < chunk.len() {
                match file.read_bytes(&mut chunk[filled..]).map_err(damaged)? {
                    0 => break,
                    count => filled += count,
                }
            }
            if filled == 0 {
                return Ok(Some(done));
            }
            into.write_all(&chunk[..filled]).map_err(Error::Write)?;
            done += filled as u64;
        }
    }

    fn names(&self, path: &str) -> Result<Vec<String>, Error> {
        let Some(real) = self.resolve(path)? else {
            return Ok(Vec::new());
        };
        let entries = match self.0.read_dir(real.as_str()) {
            Ok(entries) => entries,
            Err(Ext4Error::NotFound | Ext4Error::NotADirectory) => return Ok(Vec::new()),
            Err(error) => return Err(damaged(error)),
        };
        let mut names = Vec::new();
        for entry in entries.take(MAX_NAMES) {
            let entry = entry.map_err(damaged)?;
            names.extend(entry.file_name().as_str().ok().map(String::from));
        }
        Ok(names)
    }

    fn exists(&self, path: &str) -> Result<bool, Error> {
        Ok(self.resolve(path)?.is_some())
    }
}
