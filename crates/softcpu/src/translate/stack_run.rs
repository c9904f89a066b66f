//! Runs of stack accesses: what a function saves and restores, with one look at the stack's window for all of it.
//!
//! Nothing in a run can fault once the look has succeeded. Where it does not (the run crosses a page, the stack's page may not be
//! written plainly) the interpreter executes the whole run, one instruction after the other.

use iced_x86::{Code, Instruction, OpKind, Register};

use super::Single;
use super::assembler::{Label, Memory, Reg, S0, S1, S2, condition};
use super::flags::Flags;
use super::gpr_at;
use super::lower::Lowering;
use super::memory::{Access, is_simple};
use super::recipe::Recipe;
use super::registers::{HOME, STACK, number};
use super::stack::{SLOT, WINDOW_ADDEND, WINDOW_LIMIT, WINDOW_TAG};
use super::vectors::Vectors;
use crate::state::reg;

/// Instructions of a run at most.
const MOST: usize = 24;

/// Bytes that a run may reach from where RSP was.
const REACH: i32 = 1024;

/// What is moved.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Value {
    /// A general register, not RSP.
    Register(usize),
    Constant(i32),
}

/// What an instruction of a run does. Places are relative to RSP.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Step {
    Push(Value),
    Pop(usize),
    Load {
        to: usize,
        wide: bool,
        at: i32,
    },
    Store {
        from: Value,
        wide: bool,
        at: i32,
    },
    Copy {
        to: usize,
        from: usize,
        wide: bool,
    },
    /// RSP to another register.
    Frame {
        to: usize,
    },
    Return,
}

impl Step {
    /// What `single` does, if a run may have it.
    fn of(single: &Single) -> Option<Self> {
        let i = &single.instruction;
        Some(match i.code() {
            Code::Push_r64 => Self::Push(Value::Register(plain(i.op0_register())?)),
            Code::Pushq_imm8 | Code::Pushq_imm32 => {
                Self::Push(Value::Constant(i32::try_from(i.immediate(0) as i64).ok()?))
            }
            Code::Pop_r64 => Self::Pop(plain(i.op0_register())?),
            Code::Mov_r64_rm64 | Code::Mov_r32_rm32 if i.op1_kind() == OpKind::Memory => Self::Load {
                to: plain(i.op0_register())?,
                wide: i.code() == Code::Mov_r64_rm64,
                at: place(i)?,
            },
            Code::Mov_rm64_r64 | Code::Mov_rm32_r32 if i.op0_kind() == OpKind::Memory => Self::Store {
                from: Value::Register(plain(i.op1_register())?),
                wide: i.code() == Code::Mov_rm64_r64,
                at: place(i)?,
            },
            Code::Mov_rm64_imm32 | Code::Mov_rm32_imm32 if i.op0_kind() == OpKind::Memory => Self::Store {
                from: Value::Constant(i.immediate(1) as i32),
                wide: i.code() == Code::Mov_rm64_imm32,
                at: place(i)?,
            },
            Code::Mov_r64_rm64 | Code::Mov_rm64_r64 if i.op1_register() == Register::RSP => Self::Frame {
                to: plain(i.op0_register())?,
            },
            Code::Mov_r64_rm64 | Code::Mov_rm64_r64 | Code::Mov_r32_rm32 | Code::Mov_rm32_r32 => Self::Copy {
                to: plain(i.op0_register())?,
                from: plain(i.op1_register())?,
                wide: matches!(i.code(), Code::Mov_r64_rm64 | Code::Mov_rm64_r64),
            },
            Code::Retnq => Self::Return,
            _ => return None,
        })
    }

    /// Where it accesses memory and how many bytes, where RSP has moved by `moved`.
    fn accesses(self, moved: i32) -> Option<(i32, i32)> {
        match self {
            Self::Push(_) => Some((moved - SLOT, SLOT)),
            Self::Pop(_) | Self::Return => Some((moved, SLOT)),
            Self::Load { wide, at, .. } | Self::Store { wide, at, .. } => {
                Some((moved.saturating_add(at), if wide { 8 } else { 4 }))
            }
            Self::Copy { .. } | Self::Frame { .. } => None,
        }
    }

    /// What it adds to RSP; a return leaves that to itself.
    fn moves(self) -> i32 {
        match self {
            Self::Push(_) => -SLOT,
            Self::Pop(_) => SLOT,
            _ => 0,
        }
    }
}

/// Number of a general register other than RSP.
fn plain(register: Register) -> Option<usize> {
    number(register).filter(|&number| number != reg::RSP)
}

/// The displacement of an operand that only RSP and a constant make.
fn place(i: &Instruction) -> Option<i32> {
    let on_stack = i.memory_base() == Register::RSP
        && i.memory_index() == Register::None
        && matches!(i.memory_segment(), Register::SS | Register::DS)
        && is_simple(i);
    on_stack.then_some(i.memory_displacement64() as i32)
}

/// A run, and what of the stack it accesses: bytes `low..high` relative to where RSP was.
struct Run {
    steps: Vec<Step>,
    low: i32,
    high: i32,
    /// What is added to RSP, without what a return pops.
    moved: i32,
}

impl Run {
    /// The run that begins with the first of `singles`, if that is worth more than its instructions by themselves.
    fn of(singles: &[Single]) -> Option<Self> {
        // Most have none.
        let [first, second, ..] = singles else {
            return None;
        };
        Step::of(second).and(Step::of(first))?.accesses(0)?;
        let mut run = Self {
            steps: Vec::new(),
            low: i32::MAX,
            high: i32::MIN,
            moved: 0,
        };
        let (mut accesses, mut useful) = (0, 0);
        for single in singles.iter().take(MOST) {
            let Some(step) = Step::of(single) else {
                break;
            };
            run.steps.push(step);
            if let Some((at, size)) = step.accesses(run.moved) {
                if !(-REACH..REACH).contains(&at) {
                    break;
                }
                run.low = run.low.min(at);
                run.high = run.high.max(at + size);
                accesses += 1;
                useful = run.steps.len();
            }
            run.moved += step.moves();
            if step == Step::Return {
                break;
            }
        }
        run.steps.truncate(useful);
        (accesses >= 2).then_some(run)
    }

    /// True if it ends with a return.
    fn returns(&self) -> bool {
        self.steps.last() == Some(&Step::Return)
    }
}

/// Code out of the way for a run whose page is not the window's.
pub struct OtherPage {
    label: Label,
    /// Where the host address is expected in `S0`.
    back: Label,
    /// After the run.
    end: Label,
    /// Computes the flags, which are not in the state.
    recipe: Option<Recipe>,
    /// The places of the run's instructions among those that the code asks for.
    places: Vec<u32>,
    /// The guest's vector registers are expected in the host's after the run.
    vectors: Vectors,
    /// The run accesses so many bytes.
    len: i32,
}

impl Lowering<'_> {
    /// Lowers the run that begins with instruction `index`, of a part that ends before `end`. Returns how many instructions it has,
    /// none if there is no run.
    pub(super) fn stack_run(&mut self, index: usize, end: usize) -> usize {
        let Some(run) = Run::of(&self.singles[index..end]) else {
            return 0;
        };
        let count = run.steps.len();
        let written = (index..index + count).fold(0, |bits, at| {
            let i = self.singles[at].instruction;
            bits | self.written(&i)
        });
        let spent = self.recipe.is_some_and(|recipe| recipe.needs(written));
        let in_recipe = matches!(self.flags, Flags::Host | Flags::Recipe);
        if run.returns() || in_recipe && spent && !self.are_dead_after(index + count - 1) {
            self.flags_to_state();
        }
        self.begin_misses();
        let end = self.find_stack(index, &run);
        let mut delta = 0;
        for &step in &run.steps {
            self.step(step, run.low, &mut delta);
        }
        if run.moved != 0 {
            self.adjust_stack(run.moved);
        }
        if run.returns() {
            self.uncounted -= 1;
            self.return_to(index + count - 1, Memory::at(S0, run.moved - run.low), 0);
            self.uncounted += 1;
        }
        if spent {
            self.forget_recipe();
        }
        self.code.place(end);
        self.end_misses();
        count
    }

    /// Puts the host address of the lowest byte that `run` accesses into `S0`, and counts its instructions. Returns where its end is
    /// expected.
    fn find_stack(&mut self, index: usize, run: &Run) -> Label {
        self.spare_flags();
        let [label, back, end] = [(); 3].map(|()| self.code.label());
        let recipe = self.recipe_to_leave();
        let len = run.high - run.low;
        self.code.lea(S0, Memory::at(STACK, run.low));
        self.code.mov(S2, S0);
        self.code.xor_state(S2, WINDOW_TAG);
        self.code.cmp_state(S2, WINDOW_LIMIT);
        self.code.jump_if(condition::AE, label);
        self.code.cmp_imm(S2, 4096 - len);
        self.code.jump_if(condition::A, label);
        self.code.add_state(S0, WINDOW_ADDEND);
        self.code.place(back);
        let places = (index..index + run.steps.len())
            .map(|at| {
                let place = self.ask_for(at);
                self.uncounted += 1;
                place
            })
            .collect();
        self.other_pages.push(OtherPage {
            label,
            back,
            end,
            recipe,
            places,
            vectors: self.vectors,
            len,
        });
        end
    }

    /// One step, where `S0` holds the host address of what lies `low` bytes from where RSP was.
    fn step(&mut self, step: Step, low: i32, delta: &mut i32) {
        match step {
            Step::Push(value) => {
                *delta -= SLOT;
                self.put(value, true, *delta - low);
            }
            Step::Pop(to) => {
                self.take(to, true, *delta - low);
                *delta += SLOT;
            }
            Step::Load { to, wide, at } => self.take(to, wide, *delta + at - low),
            Step::Store { from, wide, at } => self.put(from, wide, *delta + at - low),
            Step::Copy { to, from, wide } => self.copy_register(to, from, wide),
            Step::Frame { to } => {
                let host = HOME[to].unwrap_or(S1);
                self.code.lea(host, Memory::at(STACK, *delta));
                self.write_back(to, host);
            }
            Step::Return => {}
        }
    }

    /// Stores `value` at `offset` from `S0`.
    fn put(&mut self, value: Value, wide: bool, offset: i32) {
        let memory = Memory::at(S0, offset);
        match (value, wide) {
            (Value::Constant(value), true) => self.code.store_imm(memory, value),
            (Value::Constant(value), false) => self.code.store_imm32(memory, value),
            (Value::Register(number), wide) => {
                let host = self.host_register(number);
                match wide {
                    true => self.code.store(memory, host),
                    false => self.code.store32(memory, host),
                }
            }
        }
    }

    /// Loads a guest register from `offset` from `S0`.
    fn take(&mut self, to: usize, wide: bool, offset: i32) {
        let host = HOME[to].unwrap_or(S1);
        match wide {
            true => self.code.load(host, Memory::at(S0, offset)),
            false => self.code.load32(host, Memory::at(S0, offset)),
        }
        self.write_back(to, host);
    }

    fn copy_register(&mut self, to: usize, from: usize, wide: bool) {
        let source = self.host_register(from);
        let host = HOME[to].unwrap_or(S1);
        match wide {
            true => self.code.mov(host, source),
            false => self.code.mov32(host, source),
        }
        self.write_back(to, host);
    }

    /// The host register that holds guest register `number`: `S1` if it lives in memory.
    fn host_register(&mut self, number: usize) -> Reg {
        HOME[number].unwrap_or_else(|| {
            self.code.load_state(S1, gpr_at(number));
            S1
        })
    }

    /// Stores guest register `number`, which is in `host`, if it lives in memory.
    fn write_back(&mut self, number: usize, host: Reg) {
        if HOME[number].is_none() {
            self.code.store_state(host, gpr_at(number));
        }
    }

    /// The code that runs lead to whose page is not the window's.
    pub(super) fn other_pages_out_of_the_way(&mut self) {
        for other in std::mem::take(&mut self.other_pages) {
            let one_by_one = self.code.label();
            self.code.place(other.label);
            self.code
                .call_outside(self.stubs.slides.of(Access::Write, SLOT as usize));
            self.code.jump_if(condition::NE, one_by_one);
            self.code.mov32(S2, S0);
            self.code.and32(S2, 0xfff);
            self.code.cmp_imm(S2, 4096 - other.len);
            self.code.jump_if(condition::BE, other.back);
            self.code.place(one_by_one);
            self.recover(other.recipe);
            for place in other.places {
                self.ask_interpreter(place);
            }
            self.load_vectors(other.vectors);
            self.code.jump(other.end);
        }
    }
}
