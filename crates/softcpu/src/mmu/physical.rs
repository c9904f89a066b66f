//! Accesses to guest-physical memory.

use crate::fault::{Result, Stop};
use crate::host::{self, Int};
use crate::mmu::memory_map::HostPage;
use crate::state::{Cpu, mode};

impl Cpu {
    /// Loads from a guest-physical address; the access lies in one page.
    pub(crate) fn load_physical<T: Int>(&mut self, gpa: u64) -> Result<T> {
        if self.lapic.page() != Some(gpa & !0xfff)
            && let Some(page) = self.mmu.map().page(gpa)
        {
            // SAFETY: the access lies in the page, which is mapped.
            return Ok(unsafe { T::load(page.host.wrapping_add((gpa & 0xfff) as usize)) });
        }
        self.device_read(gpa, T::SIZE).map(T::from_u64)
    }

    /// Stores to a guest-physical address; the access lies in one page.
    pub(crate) fn store_physical<T: Int>(&mut self, gpa: u64, value: T) -> Result<()> {
        match self.writable_page(gpa, T::SIZE)? {
            Some(page) => {
                let offset = (gpa & 0xfff) as usize;
                // SAFETY: the access lies in the page, which is mapped.
                unsafe { T::store(page.host.wrapping_add(offset), value) };
                page.tracker.note_write(page.page * 4096 + offset, T::SIZE);
                Ok(())
            }
            None => self.device_write(gpa, T::SIZE, value.into()),
        }
    }

    /// The page that a guest write of `len` bytes goes to; `None` if it goes to a device or ROM. `Stop::Alone` if the write would
    /// change the block that executes. The caller notes the write afterwards.
    pub(crate) fn writable_page(&mut self, gpa: u64, len: usize) -> Result<Option<HostPage<'static>>> {
        if self.lapic.page() == Some(gpa & !0xfff) {
            return Ok(None);
        }
        let Some(page) = self.mmu.map().page(gpa).filter(|page| page.writable) else {
            return Ok(None);
        };
        if self.mmu.runs_in(page.host)
            && self.mode & mode::ALONE == 0
            && page
                .tracker
                .holds_code(page.page * 4096 + (gpa & 0xfff) as usize, len)
        {
            return Err(Stop::Alone);
        }
        Ok(Some(page))
    }

    /// Reads guest-physical RAM; `None` where there is none (kvmclock pages and the like).
    pub fn read_physical(&mut self, gpa: u64, data: &mut [u8]) -> Option<()> {
        for (at, byte) in data.iter_mut().enumerate() {
            let gpa = gpa.checked_add(at as u64)?;
            let page = self.mmu.map().page(gpa)?;
            // SAFETY: one byte in a mapped page.
            *byte = unsafe { u8::load(page.host.wrapping_add((gpa & 0xfff) as usize)) };
        }
        Some(())
    }

    /// Writes guest-physical RAM, with dirty log and code invalidation; `None` where there is none. Each page's part is copied in
    /// ascending order.
    pub fn write_physical(&mut self, gpa: u64, data: &[u8]) -> Option<()> {
        let mut done = 0;
        while done < data.len() {
            let here = gpa.checked_add(done as u64)?;
            let offset = (here & 0xfff) as usize;
            let len = (4096 - offset).min(data.len() - done);
            let page = self.mmu.map().page(here).filter(|page| page.writable)?;
            // SAFETY: the part lies in one mapped page, and `data` is Rust's own.
            unsafe { host::copy(page.host.wrapping_add(offset), data[done..].as_ptr(), len) };
            page.tracker.note_write(page.page * 4096 + offset, len);
            done += len;
        }
        Some(())
    }
}
