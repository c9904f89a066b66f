//! Loads and stores: the interface that every instruction uses.

use super::Privilege;
use super::memory_map::HostPage;
use crate::fault::{Exception, Result};
use crate::flags::bit;
use crate::host::Int;
use crate::state::{Cpu, cr0, mode, rights, seg};

/// What an access does.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Access {
    /// Data read.
    Read,
    /// Data write.
    Write,
    /// Instruction fetch.
    Fetch,
}

/// True if bits 47 to 63 of `linear` are equal.
pub const fn is_canonical(linear: u64) -> bool {
    ((linear as i64) << 16 >> 16) as u64 == linear
}

/// Bytes of the access that lie before the page boundary.
const fn room(linear: u64) -> usize {
    4096 - (linear & 0xfff) as usize
}

impl Cpu {
    /// Linear address of `len` bytes at `offset` of segment `segment`; checks limit, rights and canonical form
    /// (#GP(0), or #SS(0) for SS).
    pub fn linear(&mut self, segment: usize, offset: u64, len: u64, access: Access) -> Result<u64> {
        if self.is_long() {
            let base = if segment >= seg::FS {
                self.segs[segment].base
            } else {
                0
            };
            let linear = base.wrapping_add(offset);
            if is_canonical(linear) && is_canonical(linear.wrapping_add(len.wrapping_sub(1))) {
                return Ok(linear);
            }
            return Err(self.segment_fault(segment));
        }
        let s = self.segs[segment];
        let offset = offset & 0xffff_ffff;
        if self.mode & mode::FLAT != 0 && segment < seg::FS && access == Access::Read {
            return Ok(offset);
        }
        if self.is_protected() {
            let code = s.rights & rights::CODE != 0;
            let allowed = s.rights & rights::PRESENT != 0
                && match access {
                    Access::Read => !code || s.rights & rights::WRITABLE != 0,
                    Access::Write => !code && s.rights & rights::WRITABLE != 0,
                    Access::Fetch => true,
                };
            if !allowed {
                return Err(self.segment_fault(segment));
            }
        }
        let last = offset + len.saturating_sub(1);
        let limit = u64::from(s.limit);
        let down = s.rights & (rights::CODE | rights::EXPAND_DOWN) == rights::EXPAND_DOWN;
        let outside = if down {
            let top = if s.rights & rights::BIG != 0 {
                0xffff_ffff
            } else {
                0xffff
            };
            offset <= limit || last > top
        } else {
            last > limit
        };
        if outside {
            return Err(self.segment_fault(segment));
        }
        Ok(s.base.wrapping_add(offset) & 0xffff_ffff)
    }

    #[cold]
    fn segment_fault(&mut self, segment: usize) -> crate::fault::Stop {
        self.raise(if segment == seg::SS {
            Exception::ss(0)
        } else {
            Exception::gp(0)
        })
    }

    /// Loads from `offset` of segment `segment` with the current privilege.
    #[inline]
    pub fn load<T: Int>(&mut self, segment: usize, offset: u64) -> Result<T> {
        let linear = self.linear(segment, offset, T::SIZE as u64, Access::Read)?;
        self.load_linear(linear)
    }

    /// Stores to `offset` of segment `segment` with the current privilege.
    #[inline]
    pub fn store<T: Int>(&mut self, segment: usize, offset: u64, value: T) -> Result<()> {
        let linear = self.linear(segment, offset, T::SIZE as u64, Access::Write)?;
        self.store_linear(linear, value)
    }

    /// Loads from a linear address with the current privilege.
    #[inline]
    pub fn load_linear<T: Int>(&mut self, linear: u64) -> Result<T> {
        match self.mmu.read_hit(linear, T::SIZE) {
            // SAFETY: the TLB leads to mapped guest RAM with room for the access.
            Some(ptr) => Ok(unsafe { T::load(ptr) }),
            None => self.load_slow(linear),
        }
    }

    /// Stores to a linear address with the current privilege.
    #[inline]
    pub fn store_linear<T: Int>(&mut self, linear: u64, value: T) -> Result<()> {
        match self.mmu.write_hit(linear, T::SIZE) {
            Some(ptr) => {
                // SAFETY: the TLB leads to mapped, plainly writable guest RAM with room for the access.
                unsafe { T::store(ptr, value) };
                Ok(())
            }
            None => self.store_slow(linear, value),
        }
    }

    #[cold]
    #[inline(never)]
    fn load_slow<T: Int>(&mut self, linear: u64) -> Result<T> {
        self.check_access(linear, T::SIZE, Access::Read)?;
        let first = self.translate(linear, Access::Read, Privilege::Current)?.gpa;
        let here = room(linear);
        if here >= T::SIZE {
            return self.load_physical(first);
        }
        let next = self.wrap_linear(linear.wrapping_add(here as u64));
        let second = self.translate(next, Access::Read, Privilege::Current)?.gpa;
        let mut value = 0u64;
        for at in 0..T::SIZE {
            let gpa = if at < here {
                first + at as u64
            } else {
                second + (at - here) as u64
            };
            value |= u64::from(self.load_physical::<u8>(gpa)?) << (8 * at);
        }
        Ok(T::from_u64(value))
    }

    #[cold]
    #[inline(never)]
    fn store_slow<T: Int>(&mut self, linear: u64, value: T) -> Result<()> {
        self.check_access(linear, T::SIZE, Access::Write)?;
        let first = self.translate(linear, Access::Write, Privilege::Current)?.gpa;
        let here = room(linear);
        if here >= T::SIZE {
            return self.store_physical(first, value);
        }
        let next = self.wrap_linear(linear.wrapping_add(here as u64));
        let second = self.translate(next, Access::Write, Privilege::Current)?.gpa;
        self.writable_page(first, here)?;
        self.writable_page(second, T::SIZE - here)?;
        let value: u64 = value.into();
        for at in 0..T::SIZE {
            let gpa = if at < here {
                first + at as u64
            } else {
                second + (at - here) as u64
            };
            self.store_physical(gpa, (value >> (8 * at)) as u8)?;
        }
        Ok(())
    }

    fn wrap_linear(&self, linear: u64) -> u64 {
        if self.is_long() {
            linear
        } else {
            linear & 0xffff_ffff
        }
    }

    /// Alignment checks and data breakpoints, on the slow path: the only one while either is on, and for pages that a debugger
    /// watches.
    fn check_access(&mut self, linear: u64, len: usize, access: Access) -> Result<()> {
        if self.alignment_checked() && len.is_power_of_two() && linear & (len as u64 - 1) != 0 {
            return Err(self.raise(Exception::with_code(crate::fault::vector::AC, 0)));
        }
        if self.dr7 & 0xff != 0 {
            crate::system::note_data_access(self, linear, len, access == Access::Write);
        }
        self.note_watched(linear, len, access == Access::Write)
    }

    /// Reads, changes and writes back; with `locked` as one atomic access. `change` may be called more than once, the last call
    /// counts. Returns the old value.
    pub fn update<T: Int>(
        &mut self,
        segment: usize,
        offset: u64,
        locked: bool,
        mut change: impl FnMut(T) -> T,
    ) -> Result<T> {
        let linear = self.linear(segment, offset, T::SIZE as u64, Access::Write)?;
        if let Some(ptr) = self.mmu.write_hit(linear, T::SIZE) {
            // SAFETY: the TLB leads to mapped, plainly writable guest RAM with room for the access.
            return Ok(unsafe { update_host(ptr, locked, change) });
        }
        self.check_access(linear, T::SIZE, Access::Write)?;
        let first = self.translate(linear, Access::Write, Privilege::Current)?.gpa;
        if room(linear) < T::SIZE {
            // Two pages have no common atomic access; one such access at a time is the best there is.
            let vm = self.vm.clone();
            let _guard = locked.then(|| vm.split_lock.lock().unwrap_or_else(|p| p.into_inner()));
            let next = self.wrap_linear(linear.wrapping_add(room(linear) as u64));
            self.translate(next, Access::Write, Privilege::Current)?;
            let old = self.load_slow(linear)?;
            self.store_slow(linear, change(old))?;
            return Ok(old);
        }
        let Some(page) = self.writable_page(first, T::SIZE)? else {
            let old = self.load_physical(first)?;
            self.store_physical(first, change(old))?;
            return Ok(old);
        };
        let at = (first & 0xfff) as usize;
        // SAFETY: the access lies in the page, which is mapped and writable.
        let old = unsafe { update_host(page.host.wrapping_add(at), locked, change) };
        page.tracker.note_write(page.page * 4096 + at, T::SIZE);
        Ok(old)
    }

    /// Loads any number of bytes (x87 and vector operands, tables), also across pages and from devices.
    pub fn load_bytes(&mut self, segment: usize, offset: u64, data: &mut [u8]) -> Result<()> {
        let mut linear = self.linear(segment, offset, data.len() as u64, Access::Read)?;
        let mut rest = data;
        while !rest.is_empty() {
            let len = room(linear).min(rest.len());
            let (part, after) = rest.split_at_mut(len);
            self.load_part(linear, part)?;
            rest = after;
            linear = self.wrap_linear(linear.wrapping_add(len as u64));
        }
        Ok(())
    }

    /// A part of [`Cpu::load_bytes`] that lies in one page.
    fn load_part(&mut self, linear: u64, data: &mut [u8]) -> Result<()> {
        let mut linear = linear;
        for chunk in chunks_mut(data) {
            let value = match chunk.len() {
                8 => self.load_linear::<u64>(linear)?,
                4 => self.load_linear::<u32>(linear)?.into(),
                2 => self.load_linear::<u16>(linear)?.into(),
                _ => self.load_linear::<u8>(linear)?.into(),
            };
            chunk.copy_from_slice(&value.to_le_bytes()[..chunk.len()]);
            linear += chunk.len() as u64;
        }
        Ok(())
    }

    /// Stores any number of bytes. Nothing is stored unless all of it can be.
    pub fn store_bytes(&mut self, segment: usize, offset: u64, data: &[u8]) -> Result<()> {
        let linear = self.linear(segment, offset, data.len() as u64, Access::Write)?;
        let mut at = 0;
        while at < data.len() {
            let here = self.wrap_linear(linear.wrapping_add(at as u64));
            let len = room(here).min(data.len() - at);
            if self.mmu.write_hit(here, 1).is_none() {
                let gpa = self.translate(here, Access::Write, Privilege::Current)?.gpa;
                self.writable_page(gpa, len)?;
            }
            at += len;
        }
        let mut at = 0;
        while at < data.len() {
            let here = self.wrap_linear(linear.wrapping_add(at as u64));
            let left = data.len() - at;
            let chunk = [8, 4, 2, 1]
                .into_iter()
                .find(|&n| n <= left.min(room(here)))
                .unwrap_or(1);
            let mut word = [0; 8];
            word[..chunk].copy_from_slice(&data[at..at + chunk]);
            let value = u64::from_le_bytes(word);
            match chunk {
                8 => self.store_linear::<u64>(here, value)?,
                4 => self.store_linear::<u32>(here, value as u32)?,
                2 => self.store_linear::<u16>(here, value as u16)?,
                _ => self.store_linear::<u8>(here, value as u8)?,
            }
            at += chunk;
        }
        Ok(())
    }

    /// Host address of `len` readable bytes at a linear address, if they lie in one page of RAM. A hint: `None` says only that
    /// the slow form must be used.
    #[inline]
    pub fn host_read(&mut self, linear: u64, len: usize) -> Option<*const u8> {
        self.mmu.read_hit(linear, len)
    }

    /// Host address of `len` plainly writable bytes, likewise.
    #[inline]
    pub fn host_write(&mut self, linear: u64, len: usize) -> Option<*mut u8> {
        self.mmu.write_hit(linear, len)
    }

    /// Loads from a linear address as the processor itself (descriptor tables, TSS): supervisor, whatever the CPL.
    pub fn load_system<T: Int>(&mut self, linear: u64) -> Result<T> {
        if let Some(host) = self.mmu.system_read_hit(linear, T::SIZE) {
            // SAFETY: the TLB leads to mapped guest RAM with room for the access.
            return Ok(unsafe { T::load(host) });
        }
        let mut value = 0u64;
        if room(linear) >= T::SIZE {
            let gpa = self.translate(linear, Access::Read, Privilege::System)?.gpa;
            return self.load_physical(gpa);
        }
        for at in 0..T::SIZE {
            let here = self.wrap_linear(linear.wrapping_add(at as u64));
            let gpa = self.translate(here, Access::Read, Privilege::System)?.gpa;
            value |= u64::from(self.load_physical::<u8>(gpa)?) << (8 * at);
        }
        Ok(T::from_u64(value))
    }

    /// Stores to a linear address as the processor itself.
    pub fn store_system<T: Int>(&mut self, linear: u64, value: T) -> Result<()> {
        if let Some(host) = self.mmu.system_write_hit(linear, T::SIZE) {
            // SAFETY: the TLB leads to mapped, plainly writable guest RAM with room for the access.
            unsafe { T::store(host, value) };
            return Ok(());
        }
        if room(linear) >= T::SIZE {
            let gpa = self.translate(linear, Access::Write, Privilege::System)?.gpa;
            return self.store_physical(gpa, value);
        }
        let last = self.wrap_linear(linear.wrapping_add(T::SIZE as u64 - 1));
        self.translate(last, Access::Write, Privilege::System)?;
        let value: u64 = value.into();
        for at in 0..T::SIZE {
            let here = self.wrap_linear(linear.wrapping_add(at as u64));
            let gpa = self.translate(here, Access::Write, Privilege::System)?.gpa;
            self.store_physical(gpa, (value >> (8 * at)) as u8)?;
        }
        Ok(())
    }

    /// Checks that `len` bytes at a linear address could be accessed with user privilege or as the processor itself, without
    /// doing it.
    pub fn probe(&mut self, linear: u64, len: u64, access: Access, user: bool) -> Result<()> {
        let privilege = if user { Privilege::User } else { Privilege::System };
        let mut at = 0;
        while at < len {
            let here = self.wrap_linear(linear.wrapping_add(at));
            self.translate(here, access, privilege)?;
            at += room(here) as u64;
        }
        Ok(())
    }

    /// Checks that `len` bytes at `linear` can be written with the current privilege, and that no decoded code of the block that
    /// executes lies there: after this a store does not fault.
    pub(crate) fn probe_write(&mut self, linear: u64, len: usize) -> Result<()> {
        if self.mmu.write_hit(linear, len).is_some() {
            return Ok(());
        }
        let mut at = 0;
        while at < len {
            let here = self.wrap_linear(linear.wrapping_add(at as u64));
            let part = room(here).min(len - at);
            let gpa = self.translate(here, Access::Write, Privilege::Current)?.gpa;
            self.writable_page(gpa, part)?;
            at += part;
        }
        Ok(())
    }

    /// Host address of `len` bytes in one page at `linear` that a write may go to, with the page that must be told of the write;
    /// `None` if it is a device. The slow sibling of [`Cpu::host_write`].
    pub(crate) fn writable_at(
        &mut self,
        linear: u64,
        len: usize,
    ) -> Result<Option<(*mut u8, HostPage<'static>)>> {
        self.note_watched(linear, len, true)?;
        let gpa = self.translate(linear, Access::Write, Privilege::Current)?.gpa;
        let page = self.writable_page(gpa, len)?;
        Ok(page.map(|page| (page.host.wrapping_add((gpa & 0xfff) as usize), page)))
    }

    /// True if alignment checks are on (CR0.AM, RFLAGS.AC, CPL 3).
    pub fn alignment_checked(&self) -> bool {
        self.cpl == 3 && self.cr0 & cr0::AM != 0 && self.rflags_rest & bit::AC != 0
    }
}

/// Cuts `data` into pieces of 8 bytes, then 4, 2, 1.
fn chunks_mut(data: &mut [u8]) -> impl Iterator<Item = &mut [u8]> {
    let mut rest = data;
    std::iter::from_fn(move || {
        let len = [8, 4, 2, 1].into_iter().find(|&n| n <= rest.len())?;
        let (piece, after) = std::mem::take(&mut rest).split_at_mut(len);
        rest = after;
        Some(piece)
    })
}

/// Reads, changes, writes back at a host address.
///
/// # Safety
/// `ptr` is writable for the width, in guest RAM.
#[inline(always)]
unsafe fn update_host<T: Int>(ptr: *mut u8, locked: bool, mut change: impl FnMut(T) -> T) -> T {
    // SAFETY: vouched for by the caller.
    unsafe {
        let mut old = T::load(ptr);
        loop {
            let new = change(old);
            if !locked {
                T::store(ptr, new);
                return old;
            }
            let seen = T::compare_exchange(ptr, old, new);
            if seen == old {
                return old;
            }
            old = seen;
        }
    }
}
