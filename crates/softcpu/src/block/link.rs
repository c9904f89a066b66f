//! Whether a block may be entered, and links between blocks.

use std::sync::atomic::Ordering;

use super::{Block, Outcome};
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
        if !self.second_is_current() {
            return false;
        }
        if self.unsure.get() == 0 {
            return true;
        }
        let settled = cpu.vm.all_acknowledged(self.unsure.get(), cpu.id);
        // A write before an acknowledgement was without notice, so compare once more after it.
        std::sync::atomic::fence(Ordering::SeqCst);
        let same = self.same_bytes();
        if settled && same {
            self.unsure.set(0);
            self.special.set(self.second.is_some());
        }
        same
    }

    fn same_bytes(&self) -> bool {
        let first = 4096 - (self.gpa & 0xfff) as usize;
        self.bytes.iter().enumerate().all(|(at, &byte)| {
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
            && target.second.is_none()
            && target.gpa >> 12 == self.gpa >> 12
    }

    /// True if this block may be translated together with `head`, which leads to it: it was entered `warm` times, and has no host code of
    /// its own.
    pub fn may_join(&self, head: &Block, warm: u32) -> bool {
        self.linkable
            && head.may_link(self)
            && !self.special.get()
            && self.is_current()
            && (warm..u32::MAX).contains(&self.heat.get())
    }
}
