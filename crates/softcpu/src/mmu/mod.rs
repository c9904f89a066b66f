//! Memory as the guest addresses it.
//!
//! A load or store looks into the TLB array of its privilege class ([`tlb`]). On a miss the page tables are walked ([`walk`]), and
//! what is not plain memory takes the slow path in [`access`]: devices ([`device`]), pages with decoded code, page crossings.

pub mod access;
pub mod code_pages;
pub mod device;
pub mod memory_map;
mod physical;
pub mod tlb;
pub mod walk;

use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};

use code_pages::CodePages;
pub use device::Replay;
use memory_map::{HostPage, MemoryMap};
use tlb::{Array, ENTRIES, Entry, Tables, Uses};
use walk::{Paging, Request, Translation};

use crate::fault::{Exception, Result};
use crate::flags::bit;
use crate::host;
use crate::state::{Cpu, cr0, cr4};

/// Arrays of the supervisor: explicit accesses with RFLAGS.AC clear and the processor's own, and with RFLAGS.AC set.
const SUPERVISOR: usize = 0;
const SUPERVISOR_AC: usize = 1;
/// An array that stays empty: in force while each access needs a look (alignment checks, data breakpoints).
const BLIND: usize = 2;
/// The user's arrays, one an address space.
const USER: usize = 3;
/// Address spaces whose user translations are kept.
const SPACES: usize = 4;
/// Most pages that wait for the jump cache. It is asked after each instruction that drops one.
const MAX_FLUSHED: usize = 16;

/// The page that the stack was last accessed in, for translated code: a copy of an entry for writes in the array in force, dropped with
/// any of them.
#[derive(Debug, Clone, Copy, Default)]
#[repr(C)]
pub(crate) struct Window {
    /// Linear page address.
    pub tag: u64,
    /// Host address minus linear address.
    pub addend: u64,
    /// What the offset of a stack slot in the page has to be below; 0 while there is no window.
    pub limit: u64,
}

/// An array that can be in force, for translated code that changes between them.
#[derive(Debug, Clone, Copy)]
#[repr(C)]
pub(crate) struct Selection {
    pub class: usize,
    pub tables: *mut Tables,
}

/// One address space that has translations.
#[derive(Debug, Clone, Copy, Default)]
struct Space {
    pcid: u64,
    used: u64,
    key: u32,
}

/// TLB and walker state of one vCPU.
pub struct Mmu {
    /// The tables of the array in force.
    now: *mut Tables,
    window: Window,
    arrays: Vec<Array>,
    class: usize,
    /// The supervisor's, without and with RFLAGS.AC under SMAP, and the user's of the current address space.
    supervisor: Selection,
    supervisor_ac: Selection,
    user: Selection,
    spaces: [Space; SPACES],
    space: usize,
    clock: u64,
    /// Key of code translations that survive a switch of the address space.
    pub global_key: u32,
    /// Key of those that do not.
    pub local_key: u32,
    last_key: u32,
    /// Linear pages that the jump cache may know code of.
    pub(crate) code_pages: CodePages,
    /// Those whose translation was dropped, and which the jump cache has yet to forget.
    flushed: Vec<u64>,
    /// Guest memory.
    map: Arc<MemoryMap>,
    /// The part of `map` that is in force: in system management mode another one.
    view: *const MemoryMap,
    /// Host pages of the block that executes (in the block itself), or null: a write there makes the instruction execute alone.
    pub running: *const [u64; 2],
    paging: Paging,
    /// The newest [`crate::shared::VmShared::write_epoch`] for which write tags were dropped.
    pub write_epoch: u64,
}

// SAFETY: `now` and the selections point into `arrays`, and `view` into `map`, which the Mmu owns; `running` is null while the vCPU is outside guest mode.
unsafe impl Send for Mmu {}

impl Mmu {
    /// Offset of the address of the tables in force, for translated code.
    pub(crate) const NOW: usize = std::mem::offset_of!(Mmu, now);

    /// Offset of the stack's window, for translated code.
    pub(crate) const WINDOW: usize = std::mem::offset_of!(Mmu, window);

    /// Offsets of the number of the array in force, and of those that translated code may put in force.
    pub(crate) const CLASS: usize = std::mem::offset_of!(Mmu, class);
    pub(crate) const OF_SUPERVISOR: usize = std::mem::offset_of!(Mmu, supervisor);
    pub(crate) const OF_SUPERVISOR_AC: usize = std::mem::offset_of!(Mmu, supervisor_ac);
    pub(crate) const OF_USER: usize = std::mem::offset_of!(Mmu, user);

    /// An empty MMU over `map`.
    pub fn new(map: Arc<MemoryMap>, physical_bits: u32) -> Self {
        let mut arrays: Vec<Array> = (0..USER + SPACES).map(|_| Array::default()).collect();
        let mut mmu = Self {
            now: std::ptr::null_mut(),
            window: Window::default(),
            supervisor: selection(&mut arrays, SUPERVISOR),
            supervisor_ac: selection(&mut arrays, SUPERVISOR_AC),
            user: selection(&mut arrays, USER),
            arrays,
            class: SUPERVISOR,
            spaces: Default::default(),
            space: 0,
            clock: 0,
            global_key: 1,
            local_key: 2,
            last_key: 2,
            code_pages: CodePages::new(),
            flushed: Vec::new(),
            view: map.view(false),
            map,
            running: std::ptr::null(),
            paging: Paging {
                physical_bits,
                ..Paging::default()
            },
            write_epoch: 0,
        };
        mmu.select(SUPERVISOR);
        mmu
    }

    fn select(&mut self, class: usize) {
        self.class = class;
        self.window.limit = 0;
        self.now = &raw mut *self.arrays[class].tables;
    }

    /// The tables in force.
    #[inline(always)]
    fn tables(&self) -> &Tables {
        // SAFETY: `now` points at the tables of an array that `self` owns.
        unsafe { &*self.now }
    }

    /// Host address for a plain read of `size` bytes, if the TLB has it.
    #[inline(always)]
    pub fn read_hit(&self, linear: u64, size: usize) -> Option<*const u8> {
        hit(&self.tables().read, linear, size).map(|host| host as *const u8)
    }

    /// Host address for a plain write of `size` bytes, if the TLB has it.
    #[inline(always)]
    pub fn write_hit(&self, linear: u64, size: usize) -> Option<*mut u8> {
        hit(&self.tables().write, linear, size).map(|host| host as *mut u8)
    }

    /// The same for the processor's own accesses.
    #[inline(always)]
    pub fn system_read_hit(&self, linear: u64, size: usize) -> Option<*const u8> {
        hit(&self.arrays[SUPERVISOR].tables.read, linear, size).map(|host| host as *const u8)
    }

    /// The same for the processor's own accesses.
    #[inline(always)]
    pub fn system_write_hit(&self, linear: u64, size: usize) -> Option<*mut u8> {
        hit(&self.arrays[SUPERVISOR].tables.write, linear, size).map(|host| host as *mut u8)
    }

    /// Guest memory. The reference outlives the borrow of `self`, because the map is only replaced between runs.
    fn map<'a>(&self) -> &'a MemoryMap {
        // SAFETY: the map is kept alive by `self.map`, which `set_map` changes only while no instruction executes.
        unsafe { &*self.view }
    }

    /// Takes over a changed memory map, between runs only, for a vCPU that is in system management mode (`smm`) or is not. Returns
    /// true if it is another one.
    pub fn set_map(&mut self, map: Arc<MemoryMap>, smm: bool) -> bool {
        let changed = !Arc::ptr_eq(&map, &self.map);
        if changed {
            self.map = map;
            self.select_view(smm);
        }
        changed
    }

    /// Switches to what the vCPU sees in system management mode, or outside of it. Between instructions only.
    pub fn select_view(&mut self, smm: bool) {
        self.view = self.map.view(smm);
        self.flush_everything();
    }

    /// Sets MAXPHYADDR.
    pub fn set_physical_bits(&mut self, bits: u32) {
        self.paging.physical_bits = bits.clamp(32, 52);
    }

    fn new_key(&mut self) -> u32 {
        self.last_key = self.last_key.wrapping_add(1);
        self.last_key
    }

    /// True if the block that executes has code in the page at `host`.
    fn runs_in(&self, host: *mut u8) -> bool {
        // SAFETY: set by the engine to a field of the block that executes, which lives for that long.
        unsafe { self.running.as_ref() }.is_some_and(|pages| pages.contains(&(host as u64)))
    }

    /// Forgets which code lies at which linear address.
    fn forget_code(&mut self) {
        for space in 0..SPACES {
            self.spaces[space].key = self.new_key();
        }
        self.global_key = self.new_key();
        self.local_key = self.spaces[self.space].key;
        self.flushed.clear();
    }

    /// True if the jump cache has to forget something.
    #[inline]
    pub(crate) fn has_flushed(&self) -> bool {
        !self.flushed.is_empty()
    }

    /// A linear page that the jump cache has to forget before it is asked again.
    #[inline]
    pub(crate) fn take_flushed(&mut self) -> Option<u64> {
        self.flushed.pop()
    }

    fn flush_everything(&mut self) {
        self.window.limit = 0;
        self.arrays.iter_mut().for_each(Array::flush);
        self.forget_code();
    }

    /// Drops every write tag, as `epoch` asks for.
    pub fn drop_writes(&mut self, epoch: u64) {
        self.write_epoch = epoch;
        self.window.limit = 0;
        self.arrays.iter_mut().for_each(Array::drop_writes);
    }

    fn drop_writes_to(&mut self, host: *mut u8) {
        self.window.limit = 0;
        self.arrays
            .iter_mut()
            .for_each(|array| array.drop_writes_to(host as u64));
    }
}

/// Array `class` of `arrays`.
fn selection(arrays: &mut [Array], class: usize) -> Selection {
    Selection {
        class,
        tables: &raw mut *arrays[class].tables,
    }
}

/// Host address of an access of `size` bytes by `table`.
#[inline(always)]
fn hit(table: &[Entry; ENTRIES], linear: u64, size: usize) -> Option<u64> {
    let entry = &table[tlb::index(linear)];
    (linear ^ entry.tag <= (4096 - size) as u64).then(|| linear.wrapping_add(entry.addend))
}

/// With whose rights an access is made.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Privilege {
    /// The current privilege level.
    Current,
    /// The processor's own accesses.
    System,
    /// As asked for by a probe.
    User,
}

impl Cpu {
    /// Recomputes which TLB array is in force. [`Cpu::update_mode`] calls it.
    pub fn update_mmu_mode(&mut self) {
        let paging = &mut self.mmu.paging;
        let changed = (paging.cr0 ^ self.cr0) & (cr0::PG | cr0::WP) != 0
            || (paging.cr4 ^ self.cr4)
                & (cr4::PSE | cr4::PAE | cr4::PGE | cr4::SMEP | cr4::SMAP | cr4::PCIDE)
                != 0
            || paging.efer != self.efer;
        *paging = Paging {
            cr0: self.cr0,
            cr3: self.cr3,
            cr4: self.cr4,
            efer: self.efer,
            ..*paging
        };
        if changed {
            self.mmu.flush_everything();
        }
        self.mmu.select(self.access_class());
    }

    fn access_class(&self) -> usize {
        if self.alignment_checked() || self.dr7 & 0xff != 0 {
            BLIND
        } else if self.cpl == 3 {
            USER + self.mmu.space
        } else if self.rflags_rest & bit::AC != 0 && self.cr4 & cr4::SMAP != 0 {
            SUPERVISOR_AC
        } else {
            SUPERVISOR
        }
    }

    /// Drops every translation; the global ones too if `global` is set.
    pub fn flush_tlb(&mut self, global: bool) {
        if global || self.cr4 & cr4::PGE == 0 {
            self.mmu.flush_everything();
            return;
        }
        self.mmu.window.limit = 0;
        for array in &mut self.mmu.arrays {
            array.flush_local();
        }
        for space in 0..SPACES {
            self.mmu.spaces[space].key = self.mmu.new_key();
        }
        self.mmu.local_key = self.mmu.spaces[self.mmu.space].key;
    }

    /// Drops the translation of one linear address in the current address space, global or not.
    pub fn flush_page(&mut self, linear: u64) {
        let mut large = false;
        self.mmu.window.limit = 0;
        let current = USER + self.mmu.space;
        for (class, array) in self.mmu.arrays.iter_mut().enumerate() {
            // What other address spaces have stays, but a global page may have been entered for any.
            if class < USER || class == current || array.has_global() {
                large |= array.flush_page(linear);
            }
        }
        if large {
            self.mmu.forget_code();
        } else if self.mmu.code_pages.may_have(linear >> 12) {
            if self.mmu.flushed.len() >= MAX_FLUSHED {
                self.mmu.forget_code();
            } else {
                self.mmu.flushed.push(linear >> 12);
            }
        }
    }

    /// After CR3 was set: switches the address space. `keep` is the no-flush bit 63 of MOV to CR3 under PCID.
    pub fn switch_address_space(&mut self, keep: bool) {
        self.mmu.paging.cr3 = self.cr3;
        self.mmu.window.limit = 0;
        for class in [SUPERVISOR, SUPERVISOR_AC] {
            self.mmu.arrays[class].flush_local();
        }
        let pcid = if self.cr4 & cr4::PCIDE != 0 {
            self.cr3 & 0xfff
        } else {
            0
        };
        let mmu = &mut self.mmu;
        mmu.clock += 1;
        let known = mmu
            .spaces
            .iter()
            .position(|space| space.used != 0 && space.pcid == pcid);
        let space = known.unwrap_or_else(|| {
            (0..SPACES)
                .min_by_key(|&at| mmu.spaces[at].used)
                .unwrap_or_default()
        });
        if known.is_none() || !keep {
            mmu.arrays[USER + space].flush_local();
            let key = mmu.new_key();
            mmu.spaces[space] = Space {
                pcid,
                used: mmu.clock,
                key,
            };
        }
        mmu.spaces[space].used = mmu.clock;
        mmu.space = space;
        mmu.user = selection(&mut mmu.arrays, USER + space);
        mmu.local_key = mmu.spaces[space].key;
        let class = self.access_class();
        self.mmu.select(class);
    }

    /// Walks the page tables for one access and enters the result into the TLB. The page fault is raised here.
    pub(crate) fn translate(
        &mut self,
        linear: u64,
        access: access::Access,
        privilege: Privilege,
    ) -> Result<Translation> {
        let user = match privilege {
            Privilege::Current => self.cpl == 3,
            Privilege::System => false,
            Privilege::User => true,
        };
        let class = match privilege {
            Privilege::Current => self.mmu.class,
            Privilege::System => SUPERVISOR,
            Privilege::User => USER + self.mmu.space,
        };
        let override_smap = privilege == Privilege::Current && self.rflags_rest & bit::AC != 0;
        let request = Request {
            linear,
            write: access == access::Access::Write,
            fetch: access == access::Access::Fetch,
            user,
            smap_override: override_smap,
        };
        let begun = host::tsc();
        let found = walk::walk(self.mmu.map(), &self.mmu.paging, &request);
        if let Ok(translation) = &found
            && class != BLIND
        {
            self.enter(class, linear, translation, request.write);
        }
        self.kernel_ticks += host::tsc().wrapping_sub(begun);
        self.counts.tlb_misses += 1;
        found.map_err(|code| self.raise(Exception::pf(code, linear)))
    }

    fn enter(&mut self, class: usize, linear: u64, translation: &Translation, wanted_for_write: bool) {
        let Some(HostPage {
            host,
            writable,
            tracker,
            page,
        }) = self.mmu.map().page(translation.gpa)
        else {
            return;
        };
        if self.lapic.page() == Some(translation.gpa & !0xfff) {
            return;
        }
        let watched = self.debugging.watches_page(linear);
        let plain = writable && !tracker.has_code(page) && !self.vm.dirty_logging.load(Ordering::SeqCst);
        let mut info = translation.gpa & tlb::info::GPA;
        for (set, flag) in [
            (translation.global, tlb::info::GLOBAL),
            (translation.large, tlb::info::LARGE),
            (translation.huge, tlb::info::HUGE),
        ] {
            if set {
                info |= flag;
            }
        }
        let addend = (host as u64).wrapping_sub(linear & !0xfff);
        let uses = Uses {
            read: translation.read && !watched,
            write: translation.write && plain && !watched,
            wanted_for_write,
            fetch: translation.fetch,
        };
        if self.mmu.window.tag == linear & !0xfff {
            self.mmu.window.limit = 0;
        }
        self.mmu.arrays[class].fill(linear, uses, addend, info);
    }

    /// Guest-physical address from which the instruction at `linear` is fetched, and whether the translation is global.
    pub(crate) fn translate_code(&mut self, linear: u64) -> Result<(u64, bool)> {
        let entry = &self.mmu.tables().fetch[tlb::index(linear)];
        if entry.tag == linear & !0xfff {
            return Ok((
                (entry.info & tlb::info::GPA) | (linear & 0xfff),
                entry.info & tlb::info::GLOBAL != 0,
            ));
        }
        let translation = self.translate(linear, access::Access::Fetch, Privilege::Current)?;
        Ok((translation.gpa, translation.global))
    }

    /// Watches `len` bytes of code at `gpa` before they are read. `None` if they are not in RAM.
    pub(crate) fn watch_code(&mut self, gpa: u64, len: usize) -> Option<Watched> {
        let page = self.mmu.map().page(gpa)?;
        let offset = page.page * 4096 + (gpa & 0xfff) as usize;
        // Read before the watch begins: a write that ends it again raises the version afterwards.
        let version = page.tracker.code_version(page.page);
        let was = version.load(Ordering::SeqCst);
        let vm = self.vm.clone();
        // Whoever finds the page watched may rely on the epoch having been raised for it.
        let _guard = (vm.vcpus.len() > 1).then(|| vm.watching.lock().unwrap_or_else(|p| p.into_inner()));
        let epoch = if page.tracker.watch_code(offset, len) {
            self.mmu.drop_writes_to(page.host);
            let epoch = self.vm.drop_write_tags(Some(self.id));
            if epoch == self.mmu.write_epoch + 1 {
                // Nobody else raised it meanwhile: what it asks for has just been done here.
                self.mmu.write_epoch = epoch;
                self.shared.acknowledged.store(epoch, Ordering::SeqCst);
            }
            epoch
        } else {
            self.vm.write_epoch.load(Ordering::SeqCst)
        };
        Some(Watched {
            page,
            version,
            was,
            epoch,
        })
    }
}

/// Code that is watched from now on.
pub(crate) struct Watched {
    /// The page it is in.
    pub page: HostPage<'static>,
    /// The page's code version.
    pub version: *const AtomicU32,
    /// What it is as long as the code is what it was.
    pub was: u32,
    /// The epoch that other vCPUs must have acknowledged before the bytes can be trusted without looking again.
    pub epoch: u64,
}
