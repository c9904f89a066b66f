//! Whether a block may be entered, and links between blocks.

use std::sync::atomic::Ordering;

use super::{Block, Outcome, Special};
use crate::state::Cpu;

impl Block {
    /// True if the block may be executed as it is. Where another vCPU may still write to the code without notice, the bytes are
    /// compared with memory again, until all have acknowledged that they no longer do.
    #[inline(always)]
    pub fn may_enter(&self, cpu: &Cpu) -> bool {
        self.is_current() && (!self.special.get() || self.settle(cpu))
    }

    #[cold]
    fn settle(&self, cpu: &Cpu) -> bool {
        if self.is_shed() {
            return false;
        }
        let Some(part) = &self.special_part else {
            return true;
        };
        if !part.second_is_current() {
            return false;
        }
        if part.unsure.get() == 0 {
            return true;
        }
        let settled = cpu.vm.all_acknowledged(part.unsure.get(), cpu.id);
        // A write before an acknowledgement was without notice, so compare once more after it.
        std::sync::atomic::fence(Ordering::SeqCst);
        let same = self.has_bytes(&part.bytes);
        if settled && same {
            part.unsure.set(0);
            self.special.set(part.second.is_some() || part.breakpoint);
        }
        same
    }

    /// True if the code in memory is `bytes`.
    fn has_bytes(&self, bytes: &[u8]) -> bool {
        let first = 4096 - (self.gpa & 0xfff) as usize;
        bytes.iter().enumerate().all(|(at, &byte)| {
            let ptr = if at < first {
                (self.host[0] + (self.gpa & 0xfff) + at as u64) as *const u8
            } else {
                (self.host[1] + (at - first) as u64) as *const u8
            };
            // SAFETY: the code lies in mapped guest RAM.
            unsafe { <u8 as crate::host::Int>::load(ptr) == byte }
        })
    }

    /// Makes `target` the successor by `outcome`, if the jump stays in the page.
    pub fn set_link(&self, outcome: Outcome, target: &Block) {
        if let Some(link) = self.links.get(outcome as usize)
            && self.may_link(target)
        {
            link.set(target);
        }
    }

    /// True if a jump to `target` stays in the page.
    pub fn may_link(&self, target: &Block) -> bool {
        self.linkable
            && target.mode == self.mode
            && target.second().is_none()
            && target.gpa >> 12 == self.gpa >> 12
    }

    /// True if this block may be translated together with `head`, which leads to it: it was entered `warm` times, and has no host code of
    /// its own.
    pub fn may_join(&self, head: &Block, warm: u32) -> bool {
        self.linkable
            && head.may_link(self)
            && !self.special.get()
            && self.is_current()
            && self.heat.get() >= warm
    }
}

impl Special {
    /// True while the second page's code, if there is any, is what was decoded.
    pub(super) fn second_is_current(&self) -> bool {
        let (version, was) = self.second_version;
        // SAFETY: the version is in a page tracker of the memory map; the cache is emptied when that is replaced.
        self.second.is_none() || unsafe { (*version).load(Ordering::Relaxed) == was }
    }
}
