//! From a region's instructions to host code.

use iced_x86::{Encoder, InstructionInfoFactory};

use super::assembler::{Assembler, Label, Memory, S0, S1, S2, condition};
use super::flags::Flags;
use super::literals::Literals;
use super::recipe::Recipe;
use super::region::Region;
use super::returns::FarReturn;
use super::runtime::Stubs;
use super::stack::Slide;
use super::stack_run::OtherPage;
use super::vectors::{Load, Vectors};
use super::{Entry, Link, Single, runtime, state_at};
use crate::block::{Block, Outcome, Owner};
use crate::exec::Family;
use crate::native::FeatureSet;

/// A piece of code out of the way: has an instruction executed by the interpreter.
struct Miss {
    label: Label,
    /// The instruction's place among those that the code asks for.
    place: u32,
    /// Computes the flags, which are not in the state.
    recipe: Option<Recipe>,
    /// Where translated code goes on.
    back: Label,
    /// The flags are expected in the host's there.
    flags_to_host: bool,
    /// The guest's vector registers are expected in the host's there.
    vectors: Vectors,
    /// What was done of the instruction already.
    done: Done,
}

/// What was done of an instruction that the interpreter then has to execute after all.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct Done {
    /// Instructions that were counted.
    pub counted: i32,
    /// What was added to RSP.
    pub moved: i32,
}

/// A way out of the region.
struct Leave {
    label: Label,
    outcome: Outcome,
    /// Its link, if a jump can be led elsewhere.
    link: Option<usize>,
    /// Computes the flags, which are not in the state.
    recipe: Option<Recipe>,
    /// Page offset of the next instruction.
    offset: u16,
}

/// What is known at some place in the code.
#[derive(Debug, Clone, Copy)]
pub(super) struct Known {
    pub flags: Flags,
    pub recipe: Option<Recipe>,
    pub vectors: Vectors,
    /// Instructions that are executed already, but not counted.
    pub uncounted: u16,
}

/// A part of the region on its way.
pub(super) struct Place {
    pub label: Label,
    /// What is known where it begins, once a jump to it was lowered.
    pub known: Option<Known>,
    /// It was lowered.
    pub placed: bool,
}

/// A jump inside or out of the region that takes more than a jump.
pub(super) struct Detour {
    pub label: Label,
    pub outcome: Outcome,
    /// Relative to the page.
    pub target: u64,
    /// The part that it belongs to.
    pub part: usize,
    pub known: Known,
}

/// One region on its way.
pub struct Lowering<'a> {
    pub(super) code: &'a mut Assembler,
    pub(super) encoder: &'a mut Encoder,
    pub(super) infos: &'a mut InstructionInfoFactory,
    pub(super) flags: Flags,
    /// How the flags can be computed, if they are in the host's only, or nowhere.
    pub(super) recipe: Option<Recipe>,
    pub(super) vectors: Vectors,
    /// Instructions before the current one that are not counted yet.
    pub(super) uncounted: u16,
    /// The region's first block.
    pub(super) block: &'a Block,
    pub(super) region: &'a Region,
    pub(super) singles: &'a [Single],
    /// The part that is lowered.
    pub(super) part: usize,
    /// Extensions that the vCPU may use.
    pub(super) usable: FeatureSet,
    pub(super) stubs: Stubs,
    pub(super) places: Vec<Place>,
    pub(super) detours: Vec<Detour>,
    misses: Vec<Miss>,
    /// Misses from here on belong to the instruction that is lowered.
    first_miss: usize,
    leaves: Vec<Leave>,
    pub(super) loads: Vec<Load>,
    pub(super) slides: Vec<Slide>,
    pub(super) other_pages: Vec<OtherPage>,
    pub(super) far_returns: Vec<FarReturn>,
    pub(super) literals: Literals,
    /// Instructions that the interpreter may be asked to execute, each once, and how many before them are not counted.
    asked: Vec<(usize, u16)>,
    /// Where the interpreter is called from.
    help: Label,
    /// Jumps to the linked successors.
    links: Vec<Link>,
    /// Offsets of the further entries.
    returned: usize,
    inner: usize,
    /// Something was needed that is not there: the code must not be used.
    pub(super) broken: bool,
}

/// A region that was lowered; its code is in the assembler.
pub struct Lowered {
    pub links: Box<[Link]>,
    pub returned: u16,
    pub inner: u16,
    /// The instructions that the code asks for, by their place in the region, and how many before them are not counted.
    pub asked: Vec<(usize, u16)>,
}

/// The translator's tools.
pub struct Tools<'a> {
    pub code: &'a mut Assembler,
    pub encoder: &'a mut Encoder,
    pub infos: &'a mut InstructionInfoFactory,
    pub usable: FeatureSet,
    pub stubs: Stubs,
}

impl<'a> Lowering<'a> {
    /// A start.
    pub fn new(tools: Tools<'a>, block: &'a Block, region: &'a Region, singles: &'a [Single]) -> Self {
        let Tools {
            code,
            encoder,
            infos,
            usable,
            stubs,
        } = tools;
        code.clear();
        let help = code.label();
        let places = region
            .parts
            .iter()
            .map(|_| Place {
                label: code.label(),
                known: None,
                placed: false,
            })
            .collect();
        Self {
            code,
            encoder,
            infos,
            flags: Flags::State,
            recipe: None,
            vectors: Vectors::Away,
            uncounted: 0,
            block,
            region,
            singles,
            part: 0,
            usable,
            stubs,
            places,
            detours: Vec::new(),
            misses: Vec::new(),
            first_miss: 0,
            leaves: Vec::new(),
            loads: Vec::new(),
            slides: Vec::new(),
            other_pages: Vec::new(),
            far_returns: Vec::new(),
            literals: Literals::default(),
            asked: Vec::new(),
            help,
            links: Vec::new(),
            returned: 0,
            inner: 0,
            broken: false,
        }
    }

    /// Lowers the whole region. `None` if that cannot be done.
    pub fn region(mut self) -> Option<Lowered> {
        self.entry();
        self.places[0].known = Some(self.arrival(0));
        for part in 0..self.places.len() {
            self.lower_part(part);
        }
        self.out_of_the_way();
        (!self.broken).then(|| Lowered {
            links: self.links.into_boxed_slice(),
            returned: self.returned as u16,
            inner: self.inner as u16,
            asked: self.asked,
        })
    }

    fn lower_part(&mut self, part: usize) {
        self.part = part;
        let place = &mut self.places[part];
        place.placed = true;
        self.code.place(place.label);
        // A part that nothing led to is not reached.
        let Some(known) = place.known else {
            self.broken = true;
            return;
        };
        self.resume(known);
        let singles = self.region.parts[part].singles.clone();
        self.literals = Literals::of(&self.singles[singles.clone()]);
        let through = !self.singles[singles.clone()].last().is_some_and(|last| last.ends);
        let mut index = singles.start;
        while index < singles.end {
            index += match self.stack_run(index, singles.end) {
                0 => self.single(index),
                run => run,
            };
        }
        if through && let Some(last) = self.singles[singles].last() {
            self.uncounted -= 1;
            self.go(Outcome::Next, u64::from(last.offset) + u64::from(last.len));
        }
    }

    /// What is known now.
    pub(super) fn known(&self) -> Known {
        Known {
            flags: self.flags,
            recipe: self.recipe,
            vectors: self.vectors,
            uncounted: self.uncounted,
        }
    }

    /// Goes on with what was known elsewhere.
    pub(super) fn resume(&mut self, known: Known) {
        self.flags = known.flags;
        self.recipe = known.recipe;
        self.vectors = known.vectors;
        self.uncounted = known.uncounted;
    }

    /// What is known at `part`, where several jumps lead.
    pub(super) fn arrival(&self, part: usize) -> Known {
        let dead = self.region.needs_no_flags(part, self.singles);
        Known {
            flags: if dead { Flags::Dead } else { Flags::State },
            recipe: None,
            vectors: Vectors::Away,
            uncounted: 0,
        }
    }

    /// What is looked at before the region's first instruction. The flags are in the state.
    fn entry(&mut self) {
        self.look(self.block.offset(), 0);
        self.returned = self.code.len();
        let stale = self.leave(Outcome::Jump, self.block.offset());
        for (version, was) in [Some(self.block.version()), self.block.second_version()]
            .into_iter()
            .flatten()
        {
            self.code.mov_imm64(S0, version.addr() as u64);
            self.code.cmp_memory32(Memory::at(S0, 0), was);
            self.code.jump_if(condition::NE, stale);
        }
        self.inner = self.code.len();
    }

    /// Counts `instructions`, and leaves translated code if the clock or something else has to be looked at before page offset `offset`.
    /// The host's flags are free.
    pub(super) fn look(&mut self, offset: u16, instructions: i32) {
        let look = self.leave(Outcome::Look, offset);
        match instructions {
            0 => self.code.cmp_state_imm8(state_at::BUDGET, 0),
            _ => self.count(instructions),
        }
        self.code.jump_if(condition::L, look);
        self.code.load_state(S0, state_at::ATTENTION);
        self.code.cmp_memory32(Memory::at(S0, 0), 0);
        self.code.jump_if(condition::NE, look);
    }

    /// Counts `instructions`. Changes the host's flags.
    pub(super) fn count(&mut self, instructions: i32) {
        if instructions != 0 {
            self.code.sub_state_imm(state_at::BUDGET, instructions);
        }
    }

    /// Lowers one instruction.
    fn single(&mut self, index: usize) -> usize {
        self.begin_misses();
        let single = &self.singles[index];
        self.literals.pass(&single.owner);
        let i = &single.instruction;
        let spent = self.keep_flags(index);
        let lowered = match &single.owner {
            Owner::Family(Family::Control) => self.control(index, i),
            Owner::Family(Family::Stack) => self.stack(index, i),
            Owner::Family(Family::String) => self.string(index, i),
            Owner::Family(Family::Pause) => {
                self.pause(index, i);
                Some(())
            }
            Owner::Family(family) => self.generic(index, i, *family, spent),
            Owner::Native(op) => self.native(index, i, op, spent),
            Owner::System => self.system(index, i),
        };
        if lowered.is_none() {
            self.interpret(index);
        } else if spent && self.recipe_is_older(index) {
            self.forget_recipe();
        }
        self.uncounted += 1;
        self.end_misses();
        1
    }

    /// Has instruction `index` executed by the interpreter.
    pub(super) fn interpret(&mut self, index: usize) {
        self.flags_to_state();
        let place = self.ask_for(index);
        self.ask_interpreter(place);
        self.flags = Flags::State;
        self.vectors = Vectors::Away;
    }

    /// Calls the interpreter for the instruction at `place` among those that the code asks for.
    pub(super) fn ask_interpreter(&mut self, place: u32) {
        self.code.mov_imm32(S0, place);
        self.code.call(self.help);
    }

    /// The place of instruction `index` among those that the code asks for.
    pub(super) fn ask_for(&mut self, index: usize) -> u32 {
        if self.asked.last().map(|&(last, _)| last) != Some(index) {
            self.asked.push((index, self.uncounted));
        }
        self.asked.len() as u32 - 1
    }

    /// A label that has instruction `index`, the one that is lowered, executed by the interpreter. The flags were spared, and no
    /// register of the guest has been changed.
    pub(super) fn miss(&mut self, index: usize) -> Label {
        self.miss_after(index, Done::default())
    }

    /// The same where something was done already that has to be undone.
    pub(super) fn miss_after(&mut self, index: usize, done: Done) -> Label {
        let label = self.code.label();
        let place = self.ask_for(index);
        let recipe = self.recipe_to_leave();
        self.misses.push(Miss {
            label,
            place,
            recipe,
            back: label,
            flags_to_host: false,
            vectors: Vectors::Away,
            done,
        });
        label
    }

    /// What brings the flags into the state out of the way.
    pub(super) fn recipe_to_leave(&mut self) -> Option<Recipe> {
        match self.flags {
            Flags::State | Flags::Both => None,
            Flags::Recipe if self.recipe.is_some() => self.recipe,
            _ => {
                self.broken = true;
                None
            }
        }
    }

    /// Misses from here on belong to what is lowered next.
    pub(super) fn begin_misses(&mut self) {
        self.first_miss = self.misses.len();
    }

    pub(super) fn end_misses(&mut self) {
        if self.misses.len() == self.first_miss {
            return;
        }
        let back = self.code.label();
        self.code.place(back);
        for miss in &mut self.misses[self.first_miss..] {
            miss.back = back;
            miss.flags_to_host = matches!(self.flags, Flags::Host | Flags::Both);
            miss.vectors = self.vectors;
        }
    }

    /// A label that leaves the region with `outcome`, to go on at page offset `offset`.
    pub(super) fn leave(&mut self, outcome: Outcome, offset: u16) -> Label {
        let label = self.code.label();
        let recipe = self.recipe_to_leave();
        self.leaves.push(Leave {
            label,
            outcome,
            link: None,
            recipe,
            offset,
        });
        label
    }

    /// Goes on at page offset `target` by a jump that can be linked. The flags are in the state.
    pub(super) fn link(&mut self, outcome: Outcome, target: u16, entry: Entry) {
        let leave = self.leave_by_link(outcome, target);
        let place = self.code.jump(leave);
        self.links.push(Link { place, entry });
    }

    /// The same by a call.
    pub(super) fn link_call(&mut self, target: u16) {
        let leave = self.leave_by_link(Outcome::Taken, target);
        let place = self.code.call(leave);
        let entry = self.entry_of(target);
        self.links.push(Link { place, entry });
    }

    fn leave_by_link(&mut self, outcome: Outcome, target: u16) -> Label {
        let label = self.leave(outcome, target);
        if let Some(leave) = self.leaves.last_mut() {
            leave.link = Some(self.links.len());
        }
        label
    }

    /// How a jump inside the page enters the region at `target`.
    pub(super) fn entry_of(&self, target: u16) -> Entry {
        let from = self.region.parts[self.part].offset();
        if target > from { Entry::Inner } else { Entry::Start }
    }

    /// The code that is rarely executed.
    fn out_of_the_way(&mut self) {
        self.take_detours();
        self.far_returns_out_of_the_way();
        for miss in std::mem::take(&mut self.misses) {
            self.code.place(miss.label);
            if miss.done.moved != 0 {
                self.adjust_stack(-miss.done.moved);
            }
            self.count(-miss.done.counted);
            self.recover(miss.recipe);
            self.ask_interpreter(miss.place);
            self.load_vectors(miss.vectors);
            if miss.flags_to_host {
                self.flags = Flags::State;
                self.flags_to_host();
            }
            self.code.jump(miss.back);
        }
        self.vectors_out_of_the_way();
        self.slides_out_of_the_way();
        self.other_pages_out_of_the_way();
        let block = std::ptr::from_ref(self.block).addr() as u64;
        self.code.place(self.help);
        self.code.mov_imm64(S2, block);
        self.code.jump_outside(self.stubs.help);

        let exit = self.code.label();
        for leave in std::mem::take(&mut self.leaves) {
            self.code.place(leave.label);
            self.recover(leave.recipe);
            self.code.mov_imm32(S0, leave.offset.into());
            let how = runtime::Left::new(leave.outcome, leave.link);
            self.code.mov_imm32(S1, how.number());
            self.code.jump(exit);
        }
        self.code.place(exit);
        self.code.mov_imm64(S2, block);
        self.code.jump_outside(self.stubs.exit);
    }

    /// Brings the flags into the state, where `recipe` computes them.
    pub(super) fn recover(&mut self, recipe: Option<Recipe>) {
        if let Some(recipe) = recipe {
            self.cook(&recipe);
            self.code.save_flags(Self::FLAGS);
        }
    }
}
