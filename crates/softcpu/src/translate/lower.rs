//! From a block's instructions to host code.

use iced_x86::{Encoder, InstructionInfoFactory};

use super::assembler::{Assembler, Label, Memory, S0, S1, S2, condition};
use super::flags::Flags;
use super::literals::Literals;
use super::memory::Slide;
use super::runtime::Stubs;
use super::vectors::{Load, Vectors};
use super::{Entry, Link, Single, state_at};
use crate::block::{Block, Outcome, Owner};
use crate::exec::Family;
use crate::native::FeatureSet;

/// A piece of code out of the way: has an instruction executed by the interpreter.
struct Miss {
    label: Label,
    /// The instruction's place among those that the code asks for.
    place: u32,
    /// Where translated code goes on.
    back: Label,
    /// The flags are expected in the host's there.
    flags_to_host: bool,
    /// The guest's vector registers are expected in the host's there.
    vectors: Vectors,
}

/// A way out of the block.
struct Leave {
    label: Label,
    outcome: Outcome,
    /// Page offset of the next instruction.
    offset: u16,
}

/// One block on its way.
pub struct Lowering<'a> {
    pub(super) code: &'a mut Assembler,
    pub(super) encoder: &'a mut Encoder,
    pub(super) infos: &'a mut InstructionInfoFactory,
    pub(super) flags: Flags,
    pub(super) vectors: Vectors,
    pub(super) block: &'a Block,
    /// Extensions that the vCPU may use.
    pub(super) usable: FeatureSet,
    pub(super) stubs: Stubs,
    misses: Vec<Miss>,
    /// Misses from here on belong to the instruction that is lowered.
    first_miss: usize,
    leaves: Vec<Leave>,
    pub(super) loads: Vec<Load>,
    pub(super) slides: Vec<Slide>,
    pub(super) literals: Literals,
    /// Instructions that the interpreter may be asked to execute, each once.
    asked: Vec<usize>,
    /// Where the interpreter is called from.
    help: Label,
    /// Where the block is left for the clock.
    late: Label,
    /// Linked jumps, by outcome.
    links: [Option<Link>; 2],
    /// Offsets of the further entries.
    looped: usize,
    inner: usize,
}

/// A block that was lowered; its code is in the assembler.
pub struct Lowered {
    pub links: [Option<Link>; 2],
    pub looped: u16,
    pub inner: u16,
    /// The instructions that the code asks for, by their place in the block.
    pub asked: Vec<usize>,
}

impl<'a> Lowering<'a> {
    /// A start.
    pub fn new(
        code: &'a mut Assembler,
        encoder: &'a mut Encoder,
        infos: &'a mut InstructionInfoFactory,
        block: &'a Block,
        usable: FeatureSet,
        stubs: Stubs,
    ) -> Self {
        code.clear();
        let help = code.label();
        let late = code.label();
        Self {
            code,
            encoder,
            infos,
            flags: Flags::State,
            vectors: Vectors::Away,
            block,
            usable,
            stubs,
            misses: Vec::new(),
            first_miss: 0,
            leaves: Vec::new(),
            loads: Vec::new(),
            slides: Vec::new(),
            literals: Literals::default(),
            asked: Vec::new(),
            help,
            late,
            links: [None; 2],
            looped: 0,
            inner: 0,
        }
    }

    /// Lowers the whole block.
    pub fn block(mut self, singles: &[Single]) -> Lowered {
        self.literals = Literals::of(singles);
        self.entry();
        for (index, single) in singles.iter().enumerate() {
            self.single(index, single);
        }
        if !singles.last().is_some_and(|last| last.ends) {
            let end = singles.last().map_or(0, |last| last.offset + u16::from(last.len));
            self.flags_to_state();
            self.go(Outcome::Next, u64::from(end), None);
        }
        self.out_of_the_way();
        Lowered {
            links: self.links,
            looped: self.looped as u16,
            inner: self.inner as u16,
            asked: self.asked,
        }
    }

    /// What is looked at before the block's first instruction. The flags are in the state.
    fn entry(&mut self) {
        let look = self.leave(Outcome::Look, self.block.offset());
        let stale = self.leave(Outcome::Jump, self.block.offset());
        for (version, was) in [Some(self.block.version()), self.block.second_version()]
            .into_iter()
            .flatten()
        {
            self.code.mov_imm64(S0, version.addr() as u64);
            self.code.cmp_memory32(Memory::at(S0, 0), was);
            self.code.jump_if(condition::NE, stale);
        }
        self.looped = self.code.len();
        self.code.load_state(S0, state_at::ATTENTION);
        self.code.cmp_memory32(Memory::at(S0, 0), 0);
        self.code.jump_if(condition::NE, look);
        self.inner = self.code.len();
        self.code
            .sub_state_imm(state_at::BUDGET, self.block.instructions as i32);
        self.code.jump_if(condition::S, self.late);
    }

    fn single(&mut self, index: usize, single: &Single) {
        self.first_miss = self.misses.len();
        self.literals.pass(&single.owner);
        let i = &single.instruction;
        let lowered = match &single.owner {
            Owner::Family(Family::Control) => self.control(index, i),
            Owner::Family(Family::Stack) => self.stack(index, i),
            Owner::Family(Family::String) => self.string(index, i),
            Owner::Family(family) => self.generic(index, i, *family),
            Owner::Native(op) => self.native(index, i, op),
            Owner::System => None,
        };
        if lowered.is_none() {
            self.interpret(index);
        }
        self.end_misses();
    }

    /// Has instruction `index` executed by the interpreter.
    fn interpret(&mut self, index: usize) {
        self.flags_to_state();
        let place = self.ask_for(index);
        self.code.mov_imm32(S0, place);
        self.code.call(self.help);
        self.flags = Flags::State;
        self.vectors = Vectors::Away;
    }

    /// The place of instruction `index` among those that the code asks for.
    fn ask_for(&mut self, index: usize) -> u32 {
        if self.asked.last() != Some(&index) {
            self.asked.push(index);
        }
        self.asked.len() as u32 - 1
    }

    /// A label that has instruction `index`, the one that is lowered, executed by the interpreter. The flags are in the state there,
    /// and no register of the guest has been changed.
    pub(super) fn miss(&mut self, index: usize) -> Label {
        let label = self.code.label();
        let place = self.ask_for(index);
        self.misses.push(Miss {
            label,
            place,
            back: label,
            flags_to_host: false,
            vectors: Vectors::Away,
        });
        label
    }

    fn end_misses(&mut self) {
        if self.misses.len() == self.first_miss {
            return;
        }
        let back = self.code.label();
        self.code.place(back);
        for miss in &mut self.misses[self.first_miss..] {
            miss.back = back;
            miss.flags_to_host = self.flags != Flags::State;
            miss.vectors = self.vectors;
        }
    }

    /// A label that leaves the block with `outcome`, to go on at page offset `offset`.
    pub(super) fn leave(&mut self, outcome: Outcome, offset: u16) -> Label {
        let label = self.code.label();
        self.leaves.push(Leave {
            label,
            outcome,
            offset,
        });
        label
    }

    /// Goes on at page offset `target` by a jump that can be linked.
    pub(super) fn link(&mut self, outcome: Outcome, target: u16, entry: Entry) {
        let leave = self.leave(outcome, target);
        let place = self.code.jump(leave);
        self.links[outcome as usize & 1] = Some(Link { place, entry });
    }

    /// The same by a call.
    pub(super) fn link_call(&mut self, target: u16) {
        let leave = self.leave(Outcome::Taken, target);
        let place = self.code.call(leave);
        let entry = self.entry_of(target);
        self.links[Outcome::Taken as usize] = Some(Link { place, entry });
    }

    /// How a jump inside the page enters the block at `target`.
    pub(super) fn entry_of(&self, target: u16) -> Entry {
        if target > self.block.offset() {
            Entry::Inner
        } else {
            Entry::Loop
        }
    }

    /// Leaves for the engine with the next instruction's address in the state.
    pub(super) fn leave_for_engine(&mut self) {
        self.code.jump_outside(self.stubs.untranslated);
    }

    /// The code that is rarely executed.
    fn out_of_the_way(&mut self) {
        for miss in std::mem::take(&mut self.misses) {
            self.code.place(miss.label);
            self.code.mov_imm32(S0, miss.place);
            self.code.call(self.help);
            self.load_vectors(miss.vectors);
            if miss.flags_to_host {
                self.flags = Flags::State;
                self.flags_to_host();
            }
            self.code.jump(miss.back);
        }
        self.vectors_out_of_the_way();
        self.slides_out_of_the_way();
        let block = std::ptr::from_ref(self.block).addr() as u64;
        self.code.place(self.help);
        self.code.mov_imm64(S2, block);
        self.code.jump_outside(self.stubs.help);

        self.code.place(self.late);
        self.code
            .sub_state_imm(state_at::BUDGET, -(self.block.instructions as i32));
        let look = self.leave(Outcome::Look, self.block.offset());
        self.code.jump(look);

        let exit = self.code.label();
        for leave in std::mem::take(&mut self.leaves) {
            self.code.place(leave.label);
            self.code.mov_imm32(S0, leave.offset.into());
            self.code.mov_imm32(S1, leave.outcome as u32);
            self.code.jump(exit);
        }
        self.code.place(exit);
        self.code.mov_imm64(S2, block);
        self.code.jump_outside(self.stubs.exit);
    }
}
