//! Which blocks are translated together.
//!
//! A region is a block and those in the same page that it leads to by jumps and by falling through, as far as they are warm. It is
//! entered at its first block only, so what the translator knows at a jump inside it (where the flags are, what the vector registers
//! hold, how many instructions are still to be counted) holds at the jump's target too.

use std::ops::Range;

use iced_x86::{Code, Instruction, OpKind};

use super::branch::{in_page, near_target};
use super::{Single, decode, flags};
use crate::block::{Block, Owner};
use crate::exec::Family;

/// Blocks of a region at most.
const MAX_PARTS: usize = 24;
/// Instructions of a region at most, but those of its first block are always in it.
const MAX_INSTRUCTIONS: usize = 192;

/// A block of a region.
#[derive(Debug)]
pub struct Part {
    /// Page offset.
    offset: u16,
    /// Its instructions in the region's list.
    pub singles: Range<usize>,
    /// Jumps inside the region that lead here.
    pub jumps: usize,
}

impl Part {
    /// Page offset.
    pub fn offset(&self) -> u16 {
        self.offset
    }
}

/// Blocks that are translated together, in the order of their code.
#[derive(Debug)]
pub struct Region {
    pub parts: Vec<Part>,
}

impl Region {
    /// The region that begins with `head`, and its instructions. `find` knows the block at a page offset, if there is one that may be
    /// in a region with `head`. `None` if `head` is no longer the code in memory.
    pub fn new<'a>(head: &'a Block, find: impl Fn(u16) -> Option<&'a Block>) -> Option<(Self, Vec<Single>)> {
        let mut region = Self { parts: Vec::new() };
        let mut singles = Vec::new();
        region.add(head, &mut singles)?;
        let mut waiting = Vec::new();
        // What comes next in memory comes next in the code, so that it is fallen into.
        let lead_on = |region: &Self, singles: &[Single], waiting: &mut Vec<u16>| {
            let [next, taken] = region.successors(region.parts.len() - 1, singles);
            waiting.extend(taken);
            waiting.extend(next);
        };
        lead_on(&region, &singles, &mut waiting);
        while let Some(offset) = waiting.pop() {
            let fits = |block: &&Block| {
                region.parts.len() < MAX_PARTS
                    && singles.len() + block.instructions as usize <= MAX_INSTRUCTIONS
            };
            if region.part_at(offset).is_none()
                && let Some(block) = find(offset).filter(fits)
                && region.add(block, &mut singles).is_some()
            {
                lead_on(&region, &singles, &mut waiting);
            }
        }
        region.count_jumps(&singles);
        Some((region, singles))
    }

    fn add(&mut self, block: &Block, singles: &mut Vec<Single>) -> Option<()> {
        let first = singles.len();
        singles.extend(decode(block)?);
        self.parts.push(Part {
            offset: block.offset(),
            singles: first..singles.len(),
            jumps: 0,
        });
        Some(())
    }

    fn count_jumps(&mut self, singles: &[Single]) {
        for part in 0..self.parts.len() {
            for target in self.successors(part, singles).into_iter().flatten() {
                if let Some(to) = self.part_at(target) {
                    self.parts[to].jumps += 1;
                }
            }
        }
    }

    /// Page offsets of what part `part` leads to inside the page, by [`Outcome`].
    fn successors(&self, part: usize, singles: &[Single]) -> [Option<u16>; 2] {
        let Some(last) = singles[self.parts[part].singles.clone()].last() else {
            return [None; 2];
        };
        let inside = |target: u64| in_page(target).then_some(target as u16);
        let next = inside(u64::from(last.offset) + u64::from(last.len));
        let taken = || near_target(&last.instruction).and_then(inside);
        match way(last) {
            Way::Through => [next, None],
            Way::Jump => [None, taken()],
            Way::Branch => [next, taken()],
            Way::Away => [None; 2],
        }
    }

    /// The part that begins at page offset `offset`.
    pub fn part_at(&self, offset: u16) -> Option<usize> {
        self.parts.iter().position(|part| part.offset == offset)
    }

    /// True if the flags before instruction `index` of `part`, which may be one after its last, are overwritten before anything can
    /// look at them.
    pub fn are_dead_from(&self, part: usize, index: usize, singles: &[Single]) -> bool {
        let mut at = (part, index);
        // Each part once at most: a loop in which nothing happens ends nowhere.
        for _ in 0..self.parts.len() {
            let rest = &singles[at.1..self.parts[at.0].singles.end];
            for single in rest {
                if matches!(way(single), Way::Jump) {
                    break;
                }
                if flags::may_stop(single) {
                    return false;
                }
                let effect = flags::effect(&single.instruction);
                if effect.reads {
                    return false;
                }
                // What lets some through only matters if something looks at those later.
                if effect.changes && !effect.needs {
                    return true;
                }
            }
            let next = match self.successors(at.0, singles) {
                [Some(next), None] | [None, Some(next)] => self.part_at(next),
                _ => None,
            };
            // Backwards time is looked at, and translated code may be left.
            let Some(next) = next.filter(|&next| next > at.0) else {
                return false;
            };
            at = (next, self.parts[next].singles.start);
        }
        false
    }

    /// The same for all of `part`.
    pub fn needs_no_flags(&self, part: usize, singles: &[Single]) -> bool {
        self.are_dead_from(part, self.parts[part].singles.start, singles)
    }
}

/// How an instruction goes on.
enum Way {
    /// With the next one.
    Through,
    /// At its target.
    Jump,
    /// At one of the two.
    Branch,
    /// Somewhere else.
    Away,
}

fn way(single: &Single) -> Way {
    let i: &Instruction = &single.instruction;
    if !single.ends || matches!(single.owner, Owner::Family(Family::Pause)) {
        return Way::Through;
    }
    if !matches!(single.owner, Owner::Family(Family::Control)) {
        return Way::Away;
    }
    match i.code() {
        Code::Jmp_rel8_64 | Code::Jmp_rel32_64 => Way::Jump,
        _ if i.is_jcc_short_or_near() && i.op0_kind() == OpKind::NearBranch64 => Way::Branch,
        _ => Way::Away,
    }
}
