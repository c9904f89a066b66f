//! The guest's memory, as a front end shares it: a few files, mapped.

use std::fs::File;
use std::os::fd::OwnedFd;
use std::sync::Arc;

use ostler_memory::{GuestRam, PAGE_SIZE, RamRegion};
use vm_memory::{FileOffset, GuestAddress, MmapRegion};

use crate::Error;
use crate::guard::Guard;
use crate::message::{Region, RingAddress};

/// Regions at a time: front ends that add them one by one have one for each bank of memory.
pub(crate) const MAX_SLOTS: usize = 32;
/// The memory of a guest may be so many times that of the host. Bookkeeping takes a 300th of it, where it is touched.
const OF_THE_HOSTS: u64 = 16;

/// A region that is mapped. What watches it goes before the mapping does.
struct Mapped {
    guard: Guard,
    region: Arc<RamRegion>,
    described: Region,
}

/// All of a guest's memory. It outlives whoever uses `ram`: with it goes what catches the loss of a mapping.
pub(crate) struct Memory {
    slots: Vec<Arc<Mapped>>,
    pub ram: Arc<GuestRam>,
}

impl Memory {
    /// Maps a table of regions.
    pub fn map(table: Vec<Region>, files: Vec<OwnedFd>) -> Result<Self, Error> {
        let slots = table
            .into_iter()
            .zip(files)
            .map(|(region, file)| map(region, file));
        Self::of(slots.collect::<Result<_, _>>()?)
    }

    fn of(mut slots: Vec<Arc<Mapped>>) -> Result<Self, Error> {
        if slots.len() > MAX_SLOTS {
            return Err(Error::Region("there are too many"));
        }
        let total = slots
            .iter()
            .map(|slot| slot.described.len)
            .try_fold(0, u64::checked_add);
        if total.is_none_or(|total| total > most()) {
            return Err(Error::Region("it is far larger than the host's memory"));
        }
        slots.sort_by_key(|slot| slot.described.gpa);
        let regions = slots.iter().map(|slot| slot.region.clone()).collect();
        let ram = GuestRam::from_arc_regions(regions).map_err(|error| Error::Layout(error.to_string()))?;
        Ok(Self {
            slots,
            ram: Arc::new(ram),
        })
    }

    /// Whether a region is part of it.
    pub fn has(&self, region: &Region) -> bool {
        self.slots.iter().any(|slot| slot.described == *region)
    }

    /// The same memory and one more region.
    pub fn with(this: Option<&Self>, region: Region, file: OwnedFd) -> Result<Self, Error> {
        let mut slots = this.map_or(Vec::new(), |this| this.slots.clone());
        slots.push(map(region, file)?);
        Self::of(slots)
    }

    /// The same memory without a region; `None` if nothing is left.
    pub fn without(&self, region: &Region) -> Result<Option<Self>, Error> {
        let mut slots = self.slots.clone();
        slots.retain(|slot| {
            let Region { gpa, len, user, .. } = slot.described;
            (gpa, len, user) != (region.gpa, region.len, region.user)
        });
        (!slots.is_empty()).then(|| Self::of(slots)).transpose()
    }

    /// The guest-physical addresses of a ring that the front end names by its own.
    pub fn find(&self, address: RingAddress) -> Result<RingAddress, Error> {
        let find = |user: u64| {
            let found = self.slots.iter().find_map(|slot| {
                let Region {
                    gpa, len, user: at, ..
                } = slot.described;
                let offset = user.checked_sub(at).filter(|offset| *offset < len)?;
                Some(gpa + offset)
            });
            found.ok_or(Error::RingAddress(user))
        };
        Ok(RingAddress {
            descriptors: find(address.descriptors)?,
            used: find(address.used)?,
            available: find(address.available)?,
        })
    }

    /// An error if a part of it went away.
    pub fn check(&self) -> Result<(), Error> {
        match self.slots.iter().any(|slot| slot.guard.was_replaced()) {
            true => Err(Error::MemoryGone),
            false => Ok(()),
        }
    }
}

/// Bytes of the largest guest.
fn most() -> u64 {
    let host = rustix::system::sysinfo();
    // The kernel's type differs between machines.
    #[allow(clippy::useless_conversion)]
    let bytes = u64::from(host.totalram).saturating_mul(u64::from(host.mem_unit));
    bytes.saturating_mul(OF_THE_HOSTS)
}

fn map(described: Region, file: OwnedFd) -> Result<Arc<Mapped>, Error> {
    let Region {
        gpa,
        len,
        user,
        offset,
    } = described;
    let odd = |value: u64| !value.is_multiple_of(PAGE_SIZE as u64);
    if len == 0 || odd(gpa) || odd(len) || odd(offset) {
        return Err(Error::Region("it does not consist of whole pages"));
    }
    if gpa.checked_add(len).is_none() || user.checked_add(len).is_none() {
        return Err(Error::Region("its end is beyond the last address"));
    }
    if len > most() {
        return Err(Error::Region("it is far larger than the host's memory"));
    }
    // Only files in memory have seals, whether they are set or not. A file of anything else might have us wait for its server.
    if rustix::fs::fcntl_get_seals(&file).is_err() {
        return Err(Error::Region(
            "its file is none of a memory file system (memfd, tmpfs, hugetlbfs)",
        ));
    }
    let size = rustix::fs::fstat(&file)?.st_size;
    let end = offset.checked_add(len);
    if end.is_none_or(|end| end > u64::try_from(size).unwrap_or(0)) {
        return Err(Error::Region("it goes beyond the end of its file"));
    }
    let bytes = usize::try_from(len).map_err(|_| Error::Region("it is too long"))?;
    let file = FileOffset::new(File::from(file), offset);
    let mapping =
        MmapRegion::from_file(file, bytes).map_err(|error| Error::Map(std::io::Error::other(error)))?;
    // SAFETY: the mapping lives in `region`, which the guard is dropped before; it is guest memory, of which nobody expects anything.
    let guard = unsafe { Guard::watch(mapping.as_ptr(), mapping.size()) }?;
    let region = RamRegion::new(mapping, GuestAddress(gpa));
    let region = region.ok_or(Error::Region("its end is beyond the last address"))?;
    Ok(Arc::new(Mapped {
        guard,
        region: Arc::new(region),
        described,
    }))
}

#[cfg(test)]
mod tests {
    use vm_memory::Bytes;

    use super::*;

    pub(crate) fn memfd(len: u64) -> OwnedFd {
        let file = rustix::fs::memfd_create("guest", rustix::fs::MemfdFlags::CLOEXEC).unwrap();
        rustix::fs::ftruncate(&file, len).unwrap();
        file
    }

    fn region(gpa: u64, len: u64, offset: u64) -> Region {
        Region {
            gpa,
            len,
            user: 0x7000_0000_0000 + gpa,
            offset,
        }
    }

    fn refused(region: Region, file: OwnedFd) -> String {
        Memory::map(vec![region], vec![file]).err().unwrap().to_string()
    }

    #[test]
    fn regions_that_cannot_be_are_refused() {
        let whole_pages = [
            region(0, 0, 0),
            region(1, 0x1000, 0),
            region(0, 0x1001, 0),
            region(0, 0x1000, 0x10),
        ];
        for wrong in whole_pages {
            assert!(refused(wrong, memfd(0x4000)).contains("whole pages"), "{wrong:?}");
        }
        let beyond = "beyond the last address";
        assert!(refused(region(u64::MAX - 0xfff, 0x2000, 0), memfd(0x4000)).contains(beyond));
        let mut wrapping = region(0, 0x2000, 0);
        wrapping.user = u64::MAX - 0xfff;
        assert!(refused(wrapping, memfd(0x4000)).contains(beyond));
        for wrong in [
            region(0, 0x5000, 0),
            region(0, 0x1000, 0x4000),
            region(0, 0x2000, !0xfff),
        ] {
            assert!(
                refused(wrong, memfd(0x4000)).contains("end of its file"),
                "{wrong:?}"
            );
        }
        assert!(refused(region(0, 1 << 60, 0), memfd(0x4000)).contains("far larger"));
        let sparse = memfd(1 << 46);
        assert!(refused(region(0, 1 << 46, 0), sparse).contains("far larger"));
        let disk = File::open("/proc/self/exe").unwrap();
        assert!(refused(region(0, 0x1000, 0), disk.into()).contains("memory file system"));
        let (pipe, _other) = std::io::pipe().unwrap();
        assert!(refused(region(0, 0x1000, 0), pipe.into()).contains("memory file system"));
        let sealed = rustix::fs::memfd_create(
            "sealed",
            rustix::fs::MemfdFlags::CLOEXEC | rustix::fs::MemfdFlags::ALLOW_SEALING,
        )
        .unwrap();
        rustix::fs::ftruncate(&sealed, 0x4000).unwrap();
        rustix::fs::fcntl_add_seals(&sealed, rustix::fs::SealFlags::WRITE).unwrap();
        assert!(refused(region(0, 0x1000, 0), sealed).contains("cannot be mapped"));
    }

    #[test]
    fn regions_over_each_other_are_refused() {
        let table = vec![region(0, 0x2000, 0), region(0x1000, 0x2000, 0)];
        let error = Memory::map(table, vec![memfd(0x4000), memfd(0x4000)])
            .err()
            .unwrap();
        assert!(matches!(error, Error::Layout(_)), "{error}");
        assert!(matches!(
            Memory::map(Vec::new(), Vec::new()),
            Err(Error::Layout(_))
        ));
    }

    #[test]
    fn regions_come_and_go_one_by_one() {
        let first = region(0x10_0000, 0x2000, 0x1000);
        let memory = Memory::with(None, first, memfd(0x4000)).unwrap();
        let second = region(0, 0x1000, 0);
        let memory = Memory::with(Some(&memory), second, memfd(0x1000)).unwrap();
        let at = |user| RingAddress {
            descriptors: user,
            used: user,
            available: user,
        };
        let found = memory.find(at(0x7000_0010_1008)).unwrap();
        assert_eq!(found, at(0x10_1008));
        for outside in [0, 0x10_1008, 0x7000_0010_2000, 0x7000_0000_1000, u64::MAX] {
            assert!(
                matches!(memory.find(at(outside)), Err(Error::RingAddress(_))),
                "{outside:#x}"
            );
        }
        let memory = memory.without(&first).unwrap().unwrap();
        assert!(memory.find(at(0x7000_0010_1008)).is_err());
        assert!(memory.has(&second) && !memory.has(&first));
        assert!(memory.without(&second).unwrap().is_none());
        let mut many = None;
        for slot in 0..MAX_SLOTS as u64 {
            many = Some(Memory::with(many.as_ref(), region(slot << 12, 0x1000, 0), memfd(0x1000)).unwrap());
        }
        let one_more = Memory::with(many.as_ref(), region(1 << 20, 0x1000, 0), memfd(0x1000));
        assert!(matches!(one_more, Err(Error::Region(_))));
    }

    /// Memory that its owner takes away reads as zeroes, takes writes, and is noticed; the process lives.
    #[test]
    fn memory_that_shrinks_ends_nobody() {
        let file = memfd(0x10_0000);
        let copy = file.try_clone().unwrap();
        let other = region(0x20_0000, 0x1000, 0);
        let memory = Memory::map(vec![region(0, 0x10_0000, 0), other], vec![copy, memfd(0x1000)]).unwrap();
        memory.ram.write_slice(b"there", GuestAddress(0x8000)).unwrap();
        memory.ram.write_slice(b"stays", GuestAddress(0x20_0000)).unwrap();
        memory.check().unwrap();
        rustix::fs::ftruncate(&file, 0x1000).unwrap();
        let mut bytes = [1; 5];
        memory.ram.read_slice(&mut bytes, GuestAddress(0x8000)).unwrap();
        assert_eq!(bytes, [0; 5]);
        memory.ram.write_slice(b"again", GuestAddress(0xf_fff0)).unwrap();
        assert!(matches!(memory.check(), Err(Error::MemoryGone)));
        memory
            .ram
            .read_slice(&mut bytes, GuestAddress(0x20_0000))
            .unwrap();
        assert_eq!(&bytes, b"stays");
    }
}
