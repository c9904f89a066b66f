//! The bytes of an image, read through a small window and counted.

use std::cell::RefCell;
use std::fs::File;
use std::io::{self, Read, Seek, SeekFrom, Write};
use std::os::unix::fs::FileExt;
use std::rc::Rc;

use crate::Error;

/// Reads of the image in all. A system of some 100 MiB takes some ten thousand; a file system that leads in circles ends here.
const MAX_READS: u32 = 1 << 20;
/// Calls for bytes in all, most of which the window answers.
const MAX_CALLS: u32 = 1 << 23;
/// Bytes of the window: small reads of file systems are near each other.
const WINDOW: usize = 64 << 10;

/// An image that can be read anywhere.
pub trait Image {
    /// Its size in bytes.
    ///
    /// # Errors
    /// What the host says.
    fn size(&self) -> io::Result<u64>;

    /// Fills `into` from byte `offset` on.
    ///
    /// # Errors
    /// What the host says; `UnexpectedEof` past the end.
    fn read_at(&self, offset: u64, into: &mut [u8]) -> io::Result<()>;
}

impl Image for File {
    fn size(&self) -> io::Result<u64> {
        // Block devices have a length of zero in their metadata.
        let mut file = self;
        file.seek(SeekFrom::End(0))
    }

    fn read_at(&self, offset: u64, into: &mut [u8]) -> io::Result<()> {
        self.read_exact_at(into, offset)
    }
}

impl Image for Vec<u8> {
    fn size(&self) -> io::Result<u64> {
        Ok(self.len() as u64)
    }

    fn read_at(&self, offset: u64, into: &mut [u8]) -> io::Result<()> {
        let start = usize::try_from(offset).unwrap_or(usize::MAX);
        let end = start.saturating_add(into.len());
        let bytes = self.get(start..end).ok_or(io::ErrorKind::UnexpectedEof)?;
        into.copy_from_slice(bytes);
        Ok(())
    }
}

/// An image with a window on it. Clones share both.
#[derive(Clone)]
pub struct Source(Rc<RefCell<Window>>);

struct Window {
    image: Box<dyn Image>,
    size: u64,
    /// Bytes from `start` on.
    bytes: Vec<u8>,
    start: u64,
    reads: u32,
    calls: u32,
}

impl Source {
    /// The whole of `image`.
    pub fn new(image: impl Image + 'static) -> Result<Self, Error> {
        let window = Window {
            size: image.size()?,
            image: Box::new(image),
            bytes: Vec::new(),
            start: 0,
            reads: 0,
            calls: 0,
        };
        Ok(Self(Rc::new(RefCell::new(window))))
    }

    /// Bytes of the image.
    pub fn size(&self) -> u64 {
        self.0.borrow().size
    }

    /// Fills `into` from byte `offset` on.
    pub fn read(&self, offset: u64, into: &mut [u8]) -> io::Result<()> {
        self.0.borrow_mut().read(offset, into)
    }

    /// True if so much was read that nothing more is.
    pub fn is_exhausted(&self) -> bool {
        let window = self.0.borrow();
        window.reads >= MAX_READS || window.calls >= MAX_CALLS
    }

    /// A part of it.
    pub fn part(&self, start: u64, length: u64) -> Part {
        let start = start.min(self.size());
        Part {
            source: self.clone(),
            start,
            length: length.min(self.size() - start),
            at: 0,
        }
    }
}

impl Window {
    fn read(&mut self, offset: u64, into: &mut [u8]) -> io::Result<()> {
        self.calls = self.calls.saturating_add(1);
        let end = offset
            .checked_add(into.len() as u64)
            .filter(|end| *end <= self.size);
        let end = end.ok_or(io::ErrorKind::UnexpectedEof)?;
        let inside = offset >= self.start && end <= self.start + self.bytes.len() as u64;
        if !inside {
            if self.reads >= MAX_READS || self.calls >= MAX_CALLS {
                return Err(io::Error::other("too many reads"));
            }
            self.reads += 1;
            if into.len() >= WINDOW {
                return self.image.read_at(offset, into);
            }
            let length = (self.size - offset).min(WINDOW as u64) as usize;
            self.bytes.resize(length, 0);
            self.start = offset;
            if let Err(error) = self.image.read_at(offset, &mut self.bytes) {
                self.bytes.clear();
                return Err(error);
            }
        } else if self.calls >= MAX_CALLS {
            return Err(io::Error::other("too many reads"));
        }
        let from = (offset - self.start) as usize;
        into.copy_from_slice(&self.bytes[from..from + into.len()]);
        Ok(())
    }
}

/// A partition's bytes, as a file that cannot be written.
#[derive(Clone)]
pub struct Part {
    source: Source,
    start: u64,
    length: u64,
    at: u64,
}

impl Part {
    /// Its size in bytes.
    pub fn length(&self) -> u64 {
        self.length
    }

    /// The image that it is a part of.
    pub fn source(&self) -> &Source {
        &self.source
    }

    /// Fills `into` from byte `offset` of the part on.
    pub fn read_at(&self, offset: u64, into: &mut [u8]) -> io::Result<()> {
        let end = offset.checked_add(into.len() as u64);
        if end.is_none_or(|end| end > self.length) {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        self.source.read(self.start + offset, into)
    }
}

impl Read for Part {
    fn read(&mut self, into: &mut [u8]) -> io::Result<usize> {
        let count = into
            .len()
            .min(usize::try_from(self.length.saturating_sub(self.at)).unwrap_or(usize::MAX));
        self.read_at(self.at, &mut into[..count])?;
        self.at += count as u64;
        Ok(count)
    }
}

impl Seek for Part {
    fn seek(&mut self, to: SeekFrom) -> io::Result<u64> {
        let at = match to {
            SeekFrom::Start(at) => Some(at),
            SeekFrom::End(by) => self.length.checked_add_signed(by),
            SeekFrom::Current(by) => self.at.checked_add_signed(by),
        };
        self.at = at.ok_or(io::ErrorKind::InvalidInput)?;
        Ok(self.at)
    }
}

/// Libraries that could write want this; nobody does.
impl Write for Part {
    fn write(&mut self, _: &[u8]) -> io::Result<usize> {
        Err(io::ErrorKind::ReadOnlyFilesystem.into())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl ext4_view::Ext4Read for Part {
    fn read(
        &mut self,
        offset: u64,
        into: &mut [u8],
    ) -> Result<(), Box<dyn std::error::Error + Send + Sync + 'static>> {
        self.read_at(offset, into).map_err(Box::from)
    }
}
