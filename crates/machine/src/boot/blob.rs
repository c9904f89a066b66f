//! A boot file: bytes that can be read at any offset, again at every reset.

use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;

use ostler_memory::GuestRam;
use vm_memory::{Bytes, GuestAddress};

use crate::Error;

/// Bytes moved at a time between a file and guest memory.
const CHUNK: usize = 256 * 1024;

/// A kernel or an initrd.
#[derive(Debug)]
pub enum Blob {
    /// A regular file that was opened for reading; never read into host memory as a whole.
    File(File),
    /// Bytes in memory.
    Bytes(Vec<u8>),
}

impl Blob {
    /// Its length in bytes. `what` names it in errors.
    pub fn len(&self, what: &'static str) -> Result<u64, Error> {
        match self {
            Blob::File(file) => file
                .metadata()
                .map(|m| m.len())
                .map_err(|source| Error::Read { what, source }),
            Blob::Bytes(bytes) => Ok(bytes.len() as u64),
        }
    }

    /// Fills `data` from `offset`; a file that ends earlier is an error.
    pub fn read_at(&self, what: &'static str, offset: u64, data: &mut [u8]) -> Result<(), Error> {
        match self {
            Blob::File(file) => file.read_exact_at(data, offset),
            Blob::Bytes(bytes) => usize::try_from(offset)
                .ok()
                .and_then(|start| bytes.get(start..start.checked_add(data.len())?))
                .map(|part| data.copy_from_slice(part))
                .ok_or_else(|| io::ErrorKind::UnexpectedEof.into()),
        }
        .map_err(|source| Error::Read { what, source })
    }

    /// The first `limit` bytes, or all if there are fewer.
    pub fn head(&self, what: &'static str, limit: usize) -> Result<Vec<u8>, Error> {
        let mut head = vec![0; self.len(what)?.min(limit as u64) as usize];
        self.read_at(what, 0, &mut head)?;
        Ok(head)
    }

    /// Copies `len` bytes from `offset` to guest memory at `gpa`.
    pub fn copy_to(
        &self,
        what: &'static str,
        offset: u64,
        len: u64,
        ram: &GuestRam,
        gpa: u64,
    ) -> Result<(), Error> {
        let mut chunk = vec![0; CHUNK.min(usize::try_from(len).unwrap_or(CHUNK))];
        let mut done = 0;
        while done < len {
            let here = (len - done).min(CHUNK as u64);
            let part = &mut chunk[..here as usize];
            self.read_at(what, offset.saturating_add(done), part)?;
            let target = gpa.checked_add(done).ok_or(Error::NoMemory(gpa))?;
            ram.write_slice(part, GuestAddress(target))
                .map_err(|_| Error::NoMemory(target))?;
            done += here;
        }
        Ok(())
    }
}

/// What to boot.
#[derive(Debug)]
pub struct BootSource {
    /// A bzImage, an ELF image with a PVH note, or a Multiboot image; told apart by their contents.
    pub kernel: Blob,
    /// Initial RAM disk (a module in Multiboot).
    pub initrd: Option<Blob>,
    /// The kernel's command line, without a terminating zero.
    pub command_line: String,
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::Write;

    #[test]
    fn a_file_and_bytes_read_alike() {
        let content: Vec<u8> = (0..1_000_000u32).map(|i| (i % 251) as u8).collect();
        let mut file = tempfile::tempfile().unwrap();
        file.write_all(&content).unwrap();
        let ram = ostler_memory::allocate(4 << 20, Default::default()).unwrap();
        for blob in [Blob::File(file), Blob::Bytes(content.clone())] {
            assert_eq!(blob.len("kernel").unwrap(), 1_000_000);
            blob.copy_to("kernel", 10, 999_990, &ram, 0x1000).unwrap();
            let mut copy = vec![0; 999_990];
            ram.read_slice(&mut copy, GuestAddress(0x1000)).unwrap();
            assert!(copy == content[10..]);
            assert!(matches!(
                blob.read_at("kernel", 999_999, &mut [0; 2]),
                Err(Error::Read { .. })
            ));
            assert!(matches!(
                blob.read_at("kernel", u64::MAX, &mut [0; 2]),
                Err(Error::Read { .. })
            ));
            assert!(matches!(
                blob.copy_to("kernel", 0, 16, &ram, u64::MAX - 3),
                Err(Error::NoMemory(_))
            ));
        }
    }
}
