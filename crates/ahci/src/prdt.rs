//! Command headers, and the scatter/gather list of a command (AHCI 1.3.1, 4.2.2 and 4.2.3). Everything that a guest can get
//! wrong with addresses is decided here.

use ostler_memory::{GuestRam, IoBuf, host_range, mark_written};
use vm_memory::{Bytes, GuestAddress};

/// Bytes of a command header.
pub const HEADER_LEN: usize = 32;
/// Where in a command table the packet is.
const PACKET: u64 = 0x40;
/// Where in a command table the list starts.
const LIST: u64 = 0x80;
/// Bytes of an entry of the list.
const ENTRY_LEN: usize = 16;
/// Entries that are fetched at a time.
const BATCH: usize = 64;
/// Most entries of a list that are used. The longest transfer is 32 MiB; this is as much in pages of 4 KiB that start
/// anywhere.
const MAX_ENTRIES: usize = 8_193;

/// Why a command's memory cannot be used.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Fault {
    /// The command list or table is not in RAM.
    Structure,
    /// A buffer is not in RAM.
    Data,
    /// The buffers are too short for what the drive has to move.
    Short,
}

/// A command header.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Header {
    /// Length of the FIS in dwords.
    pub fis_dwords: u8,
    /// There is a packet beside the FIS.
    pub atapi: bool,
    /// Entries of the list.
    pub entries: u16,
    /// Guest-physical address of the command table.
    pub table: u64,
}

impl Header {
    /// Fetches the header of `slot` of the list at `list`.
    pub fn fetch(ram: &GuestRam, list: u64, slot: u8) -> Result<Self, Fault> {
        let mut bytes = [0; HEADER_LEN];
        let at = header_address(list, slot).ok_or(Fault::Structure)?;
        ram.read_slice(&mut bytes, GuestAddress(at))
            .map_err(|_| Fault::Structure)?;
        let table = u64::from_le_bytes([
            bytes[8] & 0x80,
            bytes[9],
            bytes[10],
            bytes[11],
            bytes[12],
            bytes[13],
            bytes[14],
            bytes[15],
        ]);
        Ok(Self {
            fis_dwords: bytes[0] & 0x1f,
            atapi: bytes[0] & 0x20 != 0,
            entries: u16::from_le_bytes([bytes[2], bytes[3]]),
            table,
        })
    }

    /// Fetches the FIS.
    pub fn fetch_fis<const N: usize>(&self, ram: &GuestRam) -> Result<[u8; N], Fault> {
        self.fetch_at(ram, 0)
    }

    /// Fetches the packet.
    pub fn fetch_packet(&self, ram: &GuestRam) -> Result<[u8; 16], Fault> {
        self.fetch_at(ram, PACKET)
    }

    fn fetch_at<const N: usize>(&self, ram: &GuestRam, offset: u64) -> Result<[u8; N], Fault> {
        let mut bytes = [0; N];
        let at = self.table.checked_add(offset).ok_or(Fault::Structure)?;
        ram.read_slice(&mut bytes, GuestAddress(at))
            .map_err(|_| Fault::Structure)?;
        Ok(bytes)
    }
}

/// Writes how many bytes a command has moved into its header. One that is not in RAM any more is left alone.
pub fn store_byte_count(ram: &GuestRam, list: u64, slot: u8, count: u32) {
    if let Some(at) = header_address(list, slot).and_then(|at| at.checked_add(4)) {
        let _ = ram.write_slice(&count.to_le_bytes(), GuestAddress(at));
    }
}

fn header_address(list: u64, slot: u8) -> Option<u64> {
    list.checked_add(u64::from(slot) * HEADER_LEN as u64)
}

/// The buffers of one command, all of them in RAM.
#[derive(Debug, Default)]
pub struct Scatter {
    /// Guest-physical address and bytes of each.
    segments: Vec<(u64, usize)>,
    buffers: Vec<IoBuf>,
}

impl Scatter {
    /// Puts the first `len` bytes that the list of `header` describes into `self`, in place of what was there.
    pub fn collect(&mut self, ram: &GuestRam, header: &Header, len: u64) -> Result<(), Fault> {
        self.segments.clear();
        self.buffers.clear();
        let mut left = len;
        let list = header.table.checked_add(LIST).ok_or(Fault::Structure)?;
        let entries = usize::from(header.entries).min(MAX_ENTRIES);
        let mut batch = [0; BATCH * ENTRY_LEN];
        for first in (0..entries).step_by(BATCH) {
            if left == 0 {
                break;
            }
            let bytes = &mut batch[..(entries - first).min(BATCH) * ENTRY_LEN];
            let at = list
                .checked_add((first * ENTRY_LEN) as u64)
                .ok_or(Fault::Structure)?;
            ram.read_slice(bytes, GuestAddress(at))
                .map_err(|_| Fault::Structure)?;
            let (entries, _) = bytes.as_chunks::<ENTRY_LEN>();
            for entry in entries {
                left -= self.add(ram, entry, left)?;
            }
        }
        if left == 0 { Ok(()) } else { Err(Fault::Short) }
    }

    /// Adds up to `left` bytes of one entry; returns how many.
    fn add(&mut self, ram: &GuestRam, entry: &[u8; ENTRY_LEN], left: u64) -> Result<u64, Fault> {
        let low = u64::from_le_bytes(*entry.first_chunk().unwrap_or(&[0; 8]));
        let count = u32::from_le_bytes(*entry.last_chunk().unwrap_or(&[0; 4])) & 0x3f_ffff;
        // Buffers start at words and are of whole words; the count is that of the last byte.
        let (gpa, len) = (low & !1, u64::from(count | 1) + 1);
        let len = len.min(left);
        if len == 0 {
            return Ok(0);
        }
        let host = host_range(ram, gpa, len as usize).ok_or(Fault::Data)?;
        match (self.segments.last_mut(), self.buffers.last_mut()) {
            (Some(segment), Some(buffer))
                if segment.0 + segment.1 as u64 == gpa
                    && buffer.as_ptr().wrapping_add(buffer.len()) == host =>
            {
                segment.1 += len as usize;
                *buffer = IoBuf::new(buffer.as_ptr(), segment.1);
            }
            _ => {
                self.segments.push((gpa, len as usize));
                self.buffers.push(IoBuf::new(host, len as usize));
            }
        }
        Ok(len)
    }

    /// The buffers as host memory. Whoever writes there calls [`Scatter::mark_written`].
    pub fn buffers(&self) -> &[IoBuf] {
        &self.buffers
    }

    /// Copies out of the buffers, as many bytes as both have.
    pub fn read(&self, ram: &GuestRam, target: &mut [u8]) -> Result<(), Fault> {
        let mut done = 0;
        for &(gpa, len) in &self.segments {
            let here = len.min(target.len() - done);
            ram.read_slice(&mut target[done..done + here], GuestAddress(gpa))
                .map_err(|_| Fault::Data)?;
            done += here;
        }
        Ok(())
    }

    /// Copies into the buffers, as many bytes as both have.
    pub fn write(&self, ram: &GuestRam, source: &[u8]) -> Result<(), Fault> {
        let mut done = 0;
        for &(gpa, len) in &self.segments {
            let here = len.min(source.len() - done);
            ram.write_slice(&source[done..done + here], GuestAddress(gpa))
                .map_err(|_| Fault::Data)?;
            done += here;
        }
        Ok(())
    }

    /// Reports that all buffers were written by somebody who bypassed `vm-memory`.
    pub fn mark_written(&self, ram: &GuestRam) {
        for &(gpa, len) in &self.segments {
            mark_written(ram, gpa, len);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use ostler_memory::{RamOptions, allocate};
    use std::sync::Arc;

    const TABLE: u64 = 0x2000;

    fn ram() -> Arc<GuestRam> {
        allocate(1 << 20, RamOptions::default()).unwrap()
    }

    fn put(ram: &GuestRam, list: &[(u64, u32)]) -> Header {
        for (at, (address, count)) in list.iter().enumerate() {
            let at = GuestAddress(TABLE + LIST + 16 * at as u64);
            ram.write_slice(&address.to_le_bytes(), at).unwrap();
            ram.write_slice(&count.to_le_bytes(), GuestAddress(at.0 + 12))
                .unwrap();
        }
        Header {
            fis_dwords: 5,
            atapi: false,
            entries: list.len() as u16,
            table: TABLE,
        }
    }

    /// Entries, bytes wanted, what comes of it.
    type Case = (&'static [(u64, u32)], u64, Result<&'static [(u64, usize)], Fault>);

    #[test]
    fn lists_become_buffers_or_a_fault() {
        let ram = ram();
        let cases: &[Case] = &[
            (&[(0x8000, 511)], 512, Ok(&[(0x8000, 512)])),
            (&[(0x8000, 0xffff_ffff)], 512, Ok(&[(0x8000, 512)])),
            (&[(0x8001, 510)], 512, Ok(&[(0x8000, 512)])),
            (
                &[(0x8000, 255), (0x9000, 255)],
                512,
                Ok(&[(0x8000, 256), (0x9000, 256)]),
            ),
            (&[(0x8000, 255), (0x8100, 255)], 512, Ok(&[(0x8000, 512)])),
            (
                &[(0x8000, 255), (0x8000, 255)],
                512,
                Ok(&[(0x8000, 256), (0x8000, 256)]),
            ),
            (&[(0x8000, 511), (u64::MAX, 511)], 512, Ok(&[(0x8000, 512)])),
            (&[(0x8000, 0)], 2, Ok(&[(0x8000, 2)])),
            (&[(0x8000, 255)], 512, Err(Fault::Short)),
            (&[], 512, Err(Fault::Short)),
            (&[], 0, Ok(&[])),
            (&[(0xf_ff00, 511)], 512, Err(Fault::Data)),
            (&[(0xc000_0000, 511)], 512, Err(Fault::Data)),
            (&[(u64::MAX - 1, 511)], 512, Err(Fault::Data)),
            (&[(0x8000, 0x3f_ffff)], 4 << 20, Err(Fault::Data)),
        ];
        let mut scatter = Scatter::default();
        for (list, len, expected) in cases {
            let header = put(&ram, list);
            let got = scatter
                .collect(&ram, &header, *len)
                .map(|()| &scatter.segments[..]);
            assert_eq!(got, *expected, "{list:x?}");
        }
    }

    #[test]
    fn tables_outside_of_ram_are_a_fault() {
        let ram = ram();
        let mut scatter = Scatter::default();
        for table in [0xf_ff80, 1 << 20, 0xfebf_0000, !0x7f] {
            let header = Header {
                fis_dwords: 5,
                atapi: false,
                entries: 1,
                table,
            };
            assert_eq!(
                scatter.collect(&ram, &header, 512),
                Err(Fault::Structure),
                "{table:#x}"
            );
        }
        for list in [0xf_ff80, !0x3ff] {
            assert_eq!(Header::fetch(&ram, list, 31), Err(Fault::Structure), "{list:#x}");
            store_byte_count(&ram, list, 31, 1);
        }
    }

    #[test]
    fn a_list_of_scraps_is_bounded() {
        let ram = ram();
        let entries = 16_000;
        for at in 0..entries {
            let entry = GuestAddress(TABLE + LIST + 16 * at);
            ram.write_slice(&(0x8_0000 + (at % 2) * 0x100).to_le_bytes(), entry)
                .unwrap();
        }
        let header = Header {
            fis_dwords: 5,
            atapi: false,
            entries: entries as u16,
            table: TABLE,
        };
        let mut scatter = Scatter::default();
        assert_eq!(scatter.collect(&ram, &header, 2 * entries), Err(Fault::Short));
        assert_eq!(scatter.segments.len(), MAX_ENTRIES);
    }
}
