//! Loads and stores: the interface that every instruction uses.

use crate::fault::{Exception, Result, Stop};
use crate::host::Int;
use crate::state::{Cpu, cr0};

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

impl Cpu {
    /// Recomputes which TLB arrays are in force (privilege, SMAP, address space). `update_mode` calls it.
    pub fn update_mmu_mode(&mut self) {}

    /// Linear address of `len` bytes at `offset` of segment `segment`; checks limit, rights and canonical form
    /// (#GP(0), or #SS(0) for SS).
    pub fn linear(&mut self, segment: usize, offset: u64, _len: u64, _access: Access) -> Result<u64> {
        Ok(self.segs[segment].base.wrapping_add(offset))
    }

    /// Loads from `offset` of segment `segment` with the current privilege.
    pub fn load<T: Int>(&mut self, segment: usize, offset: u64) -> Result<T> {
        let linear = self.linear(segment, offset, T::SIZE as u64, Access::Read)?;
        self.load_linear(linear)
    }

    /// Stores to `offset` of segment `segment` with the current privilege.
    pub fn store<T: Int>(&mut self, segment: usize, offset: u64, value: T) -> Result<()> {
        let linear = self.linear(segment, offset, T::SIZE as u64, Access::Write)?;
        self.store_linear(linear, value)
    }

    /// Loads from a linear address with the current privilege.
    pub fn load_linear<T: Int>(&mut self, linear: u64) -> Result<T> {
        Err(self.raise(Exception::pf(0, linear)))
    }

    /// Stores to a linear address with the current privilege.
    pub fn store_linear<T: Int>(&mut self, linear: u64, _value: T) -> Result<()> {
        Err(self.raise(Exception::pf(0, linear)))
    }

    /// Reads, changes and writes back; with `locked` as one atomic access. `change` may be called more than once. Returns the
    /// old value.
    pub fn update<T: Int>(
        &mut self,
        segment: usize,
        offset: u64,
        _locked: bool,
        mut change: impl FnMut(T) -> T,
    ) -> Result<T> {
        let old = self.load(segment, offset)?;
        self.store(segment, offset, change(old))?;
        Ok(old)
    }

    /// Loads any number of bytes (x87 and vector operands, tables), also across pages and from devices.
    pub fn load_bytes(&mut self, segment: usize, offset: u64, data: &mut [u8]) -> Result<()> {
        let linear = self.linear(segment, offset, data.len() as u64, Access::Read)?;
        Err(self.raise(Exception::pf(0, linear)))
    }

    /// Stores any number of bytes. Nothing is stored unless all of it can be.
    pub fn store_bytes(&mut self, segment: usize, offset: u64, data: &[u8]) -> Result<()> {
        let linear = self.linear(segment, offset, data.len() as u64, Access::Write)?;
        Err(self.raise(Exception::pf(0, linear)))
    }

    /// Host address of `len` readable bytes at a linear address, if they lie in one page of RAM. A hint: `None` says only that
    /// the slow form must be used.
    pub fn host_read(&mut self, _linear: u64, _len: usize) -> Option<*const u8> {
        None
    }

    /// Host address of `len` plainly writable bytes, likewise.
    pub fn host_write(&mut self, _linear: u64, _len: usize) -> Option<*mut u8> {
        None
    }

    /// Loads from a linear address as the processor itself (descriptor tables, TSS): supervisor, whatever the CPL.
    pub fn load_system<T: Int>(&mut self, linear: u64) -> Result<T> {
        Err(self.raise(Exception::pf(0, linear)))
    }

    /// Stores to a linear address as the processor itself.
    pub fn store_system<T: Int>(&mut self, linear: u64, _value: T) -> Result<()> {
        Err(self.raise(Exception::pf(0, linear)))
    }

    /// Checks that `len` bytes at a linear address could be accessed with privilege `user` (3) or supervisor, without doing it.
    pub fn probe(&mut self, linear: u64, _len: u64, _access: Access, _user: bool) -> Result<()> {
        Err(self.raise(Exception::pf(0, linear)))
    }

    /// Reads guest-physical RAM; `None` where there is none (kvmclock pages and the like).
    pub fn read_physical(&mut self, _gpa: u64, _data: &mut [u8]) -> Option<()> {
        None
    }

    /// Writes guest-physical RAM, with dirty log and code invalidation; `None` where there is none.
    pub fn write_physical(&mut self, _gpa: u64, _data: &[u8]) -> Option<()> {
        None
    }

    /// Drops every translation; the global ones too if `global` is set.
    pub fn flush_tlb(&mut self, _global: bool) {}

    /// Drops the translation of one linear address in the current address space, global or not.
    pub fn flush_page(&mut self, _linear: u64) {}

    /// After CR3 was set: switches the address space. `keep` is the no-flush bit 63 of MOV to CR3 under PCID.
    pub fn switch_address_space(&mut self, _keep: bool) {}

    /// Port input; leaves for user mode and is answered at the replay.
    pub fn port_read(&mut self, _port: u16, _width: u8) -> Result<u32> {
        Err(Stop::Exit)
    }

    /// Port output.
    pub fn port_write(&mut self, _port: u16, _width: u8, _value: u32) -> Result<()> {
        Err(Stop::Exit)
    }

    /// True if alignment checks are on (CR0.AM, RFLAGS.AC, CPL 3).
    pub fn alignment_checked(&self) -> bool {
        self.cpl == 3 && self.cr0 & cr0::AM != 0 && self.rflags_rest & crate::flags::bit::AC != 0
    }
}
