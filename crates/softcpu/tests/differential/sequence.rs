//! Sequences: pieces of code, how they become machine code, and which flags are undefined where.

use iced_x86::{
    Encoder, Instruction, InstructionInfoFactory, Mnemonic, OpAccess, OpKind, Register, RflagsBits,
};

use super::machine_state::{CODE, PAGE};

/// A piece of a sequence.
#[derive(Debug, Clone)]
pub enum Piece {
    /// An instruction.
    Plain(Box<Instruction>),
    /// A jump over the next `pieces` pieces, on condition code `condition` or always.
    Jump { condition: Option<u8>, pieces: usize },
    /// `body` so many times, counted down in a register that the body leaves alone.
    Loop {
        /// Number of that register.
        counter: u8,
        times: u32,
        /// Ends by LOOP, else by DEC and JNZ.
        by_loop: bool,
        body: Vec<Piece>,
    },
    /// A call of `body`, which returns; through a register if there is one.
    Call { through: Option<u8>, body: Vec<Piece> },
    /// PUSH of one register, `body`, POP of another.
    Saved { push: u8, pop: u8, body: Vec<Piece> },
}

/// A sequence and the mode it is for.
#[derive(Debug, Clone)]
pub struct Sequence {
    /// 64-bit mode, else 32-bit.
    pub long: bool,
    /// In order.
    pub pieces: Vec<Piece>,
}

/// Encoded, with what is known at each instruction.
pub struct Encoded {
    /// Machine code with INT3 at its end.
    pub code: Vec<u8>,
    /// Address of each instruction and the flags that are undefined before it; the last entry is the end's.
    pub undefined: Vec<(u64, u64)>,
}

const ARITHMETIC: u32 =
    RflagsBits::OF | RflagsBits::SF | RflagsBits::ZF | RflagsBits::AF | RflagsBits::CF | RflagsBits::PF;

/// Bits of RFLAGS for iced's flags.
pub fn rflags(bits: u32) -> u64 {
    [
        (RflagsBits::OF, 1 << 11),
        (RflagsBits::SF, 1 << 7),
        (RflagsBits::ZF, 1 << 6),
        (RflagsBits::AF, 1 << 4),
        (RflagsBits::PF, 1 << 2),
        (RflagsBits::CF, 1),
    ]
    .iter()
    .filter(|(flag, _)| bits & flag != 0)
    .map(|(_, bit)| bit)
    .sum()
}

/// Flags that a condition code reads.
fn read_by_condition(condition: u8) -> u32 {
    match condition >> 1 {
        0 => RflagsBits::OF,
        1 => RflagsBits::CF,
        2 => RflagsBits::ZF,
        3 => RflagsBits::CF | RflagsBits::ZF,
        4 => RflagsBits::SF,
        5 => RflagsBits::PF,
        6 => RflagsBits::SF | RflagsBits::OF,
        _ => RflagsBits::SF | RflagsBits::OF | RflagsBits::ZF,
    }
}

/// True if the instruction may leave the flags alone: then those that were undefined stay so.
fn may_keep_flags(instruction: &Instruction) -> bool {
    use Mnemonic as M;
    matches!(
        instruction.mnemonic(),
        M::Shl | M::Shr | M::Sar | M::Rol | M::Ror | M::Rcl | M::Rcr | M::Shld | M::Shrd | M::Sal
    ) || instruction.has_rep_prefix()
        || instruction.has_repne_prefix()
}

/// How an instruction uses general register `number`: not at all, or by reading only, or by writing.
fn uses(instruction: &Instruction, number: u8) -> (bool, bool) {
    let mut infos = InstructionInfoFactory::new();
    let full = Register::RAX + u32::from(number);
    let info = infos.info(instruction);
    let used = info
        .used_registers()
        .iter()
        .filter(|used| used.register().is_gpr() && used.register().full_register() == full);
    used.fold((false, false), |(_, writes), used| {
        let reads_only = matches!(
            used.access(),
            OpAccess::None | OpAccess::Read | OpAccess::CondRead | OpAccess::NoMemAccess
        );
        (true, writes || !reads_only)
    })
}

/// Number of RSP.
const STACK_POINTER: u8 = 4;

/// True if one of `pieces` writes general register `number`.
fn writes(pieces: &[Piece], number: u8) -> bool {
    pieces.iter().any(|piece| match piece {
        Piece::Plain(instruction) => uses(instruction, number).1,
        Piece::Jump { .. } => false,
        Piece::Loop { counter, body, .. } => *counter == number || writes(body, number),
        Piece::Call { through, body } => *through == Some(number) || writes(body, number),
        Piece::Saved { pop, body, .. } => *pop == number || writes(body, number),
    })
}

/// True if an instruction of `pieces` does with the stack pointer what `how` finds.
fn any_plain(pieces: &[Piece], how: &dyn Fn(&Instruction) -> bool) -> bool {
    pieces.iter().any(|piece| match piece {
        Piece::Plain(instruction) => how(instruction),
        Piece::Jump { .. } => false,
        Piece::Loop { body, .. } | Piece::Call { body, .. } | Piece::Saved { body, .. } => {
            any_plain(body, how)
        }
    })
}

/// True if the stack pointer may lead out of the stack after the instruction.
fn moves_stack(instruction: &Instruction) -> bool {
    use Mnemonic as M;
    let by_little = matches!(
        instruction.mnemonic(),
        M::Push | M::Pushf | M::Pushfd | M::Pushfq | M::Pusha | M::Pushad | M::Popa | M::Popad
    ) || instruction.mnemonic() == M::Pop
        && instruction.op0_register().full_register() != Register::RSP;
    !by_little && uses(instruction, STACK_POINTER).1
}

/// True if a call's return address is safe: nothing moves the stack elsewhere, and no called code uses the stack by itself.
fn calls_return(all: &[Piece], pieces: &[Piece]) -> bool {
    pieces.iter().all(|piece| match piece {
        Piece::Plain(_) | Piece::Jump { .. } => true,
        Piece::Loop { body, .. } | Piece::Saved { body, .. } => calls_return(all, body),
        Piece::Call { body, .. } => {
            !any_plain(all, &moves_stack)
                && !any_plain(body, &|i| uses(i, STACK_POINTER).0)
                && calls_return(all, body)
        }
    })
}

/// Locked, as XCHG with memory always is.
pub fn is_locked(instruction: &Instruction) -> bool {
    let memory = (0..instruction.op_count()).any(|n| instruction.op_kind(n) == OpKind::Memory);
    memory && (instruction.has_lock_prefix() || instruction.mnemonic() == Mnemonic::Xchg)
}

/// True if a locked operand may lie across two cache lines. Hosts notice that and make the process wait, some for many seconds.
fn may_split_a_lock(pieces: &[Piece]) -> bool {
    const ALIGNED: [(Register, u8); 6] = [
        (Register::RBX, 3),
        (Register::EBX, 3),
        (Register::RBP, 5),
        (Register::EBP, 5),
        (Register::R12, 12),
        (Register::None, 12),
    ];
    let keeps_alignment = |register: Register| {
        register == Register::RIP
            || ALIGNED
                .iter()
                .any(|&(aligned, number)| register == aligned && !writes(pieces, number))
    };
    any_plain(pieces, &|i| {
        is_locked(i)
            && (i.memory_displacement64() & 15 != 0
                || !keeps_alignment(i.memory_base())
                || !keeps_alignment(i.memory_index()))
    })
}

impl Sequence {
    /// The machine code, or `None` if a piece cannot be encoded in this mode, reads a flag that is undefined there, or might not
    /// come to an end.
    pub fn encode(&self) -> Option<Encoded> {
        if !calls_return(&self.pieces, &self.pieces) || may_split_a_lock(&self.pieces) {
            return None;
        }
        let mut writer = Writer {
            long: self.long,
            code: Vec::new(),
            undefined: Vec::new(),
        };
        let open = writer.pieces(&self.pieces, 0)?;
        writer.note(open);
        let Writer {
            mut code, undefined, ..
        } = writer;
        code.push(0xcc);
        (code.len() <= PAGE).then_some(Encoded { code, undefined })
    }

    /// One line a piece.
    pub fn listing(&self) -> String {
        let mut text = String::new();
        list(&self.pieces, 1, &mut text);
        text
    }
}

fn list(pieces: &[Piece], depth: usize, text: &mut String) {
    for piece in pieces {
        let (line, body) = match piece {
            Piece::Plain(instruction) => (format!("{:?}: {instruction}", instruction.code()), None),
            Piece::Jump { condition, pieces } => {
                (format!("jump over {pieces}, condition {condition:?}"), None)
            }
            Piece::Loop {
                counter,
                times,
                by_loop,
                body,
            } => {
                let end = if *by_loop { "LOOP" } else { "DEC, JNZ" };
                (
                    format!("{times} times, counted in register {counter} by {end}"),
                    Some(body),
                )
            }
            Piece::Call { through, body } => (format!("call, through register {through:?}"), Some(body)),
            Piece::Saved { push, pop, body } => (format!("between push {push} and pop {pop}"), Some(body)),
        };
        *text += &format!("{}{line}\n", "    ".repeat(depth));
        if let Some(body) = body {
            list(body, depth + 1, text);
        }
    }
}

/// True if a jump can skip piece `index`.
fn is_jumped_over(pieces: &[Piece], index: usize) -> bool {
    pieces[..index]
        .iter()
        .enumerate()
        .any(|(from, piece)| matches!(piece, Piece::Jump { pieces, .. } if from + pieces >= index))
}

/// What is encoded so far.
struct Writer {
    long: bool,
    code: Vec<u8>,
    undefined: Vec<(u64, u64)>,
}

impl Writer {
    /// The next instruction begins with the flags `open` undefined.
    fn note(&mut self, open: u32) {
        self.undefined.push((CODE + self.code.len() as u64, rflags(open)));
    }

    /// One instruction in bytes.
    fn raw(&mut self, open: u32, bytes: &[u8]) {
        self.note(open);
        self.code.extend_from_slice(bytes);
    }

    /// An instruction of the `0x40 + high` prefix where the register needs one.
    fn with_register(
        &mut self,
        open: u32,
        register: u8,
        before: &[u8],
        opcode: u8,
        tail: &[u8],
    ) -> Option<()> {
        if register >= 8 && !self.long {
            return None;
        }
        self.note(open);
        if register >= 8 {
            self.code.push(0x41);
        }
        self.code.extend_from_slice(before);
        self.code.push(opcode | register & 7);
        self.code.extend_from_slice(tail);
        Some(())
    }

    /// Lets the 32-bit displacement that ends at `end` lead to `target`.
    fn fix(&mut self, end: usize, target: usize) {
        let distance = (target as i64 - end as i64) as i32;
        self.code[end - 4..end].copy_from_slice(&distance.to_le_bytes());
    }

    /// Adds `pieces`, before which the flags `open` are undefined; returns those that are afterwards.
    fn pieces(&mut self, pieces: &[Piece], mut open: u32) -> Option<u32> {
        let mut fixes: Vec<(usize, usize)> = Vec::new();
        let mut starts = Vec::new();
        for (index, piece) in pieces.iter().enumerate() {
            starts.push(self.code.len());
            let skipped = is_jumped_over(pieces, index);
            let after = match piece {
                Piece::Plain(instruction) => {
                    // A jump over the set-up of a string instruction would leave both its pointers wild, and which one faults first is
                    // open.
                    let string = instruction.is_string_instruction()
                        && (index.saturating_sub(3)..=index).any(|at| is_jumped_over(pieces, at));
                    if string {
                        return None;
                    }
                    self.plain(instruction, open)?
                }
                Piece::Jump {
                    condition,
                    pieces: over,
                } => {
                    match condition {
                        Some(condition) if read_by_condition(*condition) & open != 0 => return None,
                        Some(condition) => self.raw(open, &[0x0f, 0x80 | condition, 0, 0, 0, 0]),
                        None => self.raw(open, &[0xe9, 0, 0, 0, 0]),
                    }
                    fixes.push((self.code.len(), (index + 1 + over).min(pieces.len())));
                    open
                }
                Piece::Loop {
                    counter,
                    times,
                    by_loop,
                    body,
                } => self.counted(*counter, *times, *by_loop, body, open)?,
                Piece::Call { through, body } => self.call(*through, body, open)?,
                Piece::Saved { push, pop, body } => {
                    self.with_register(open, *push, &[], 0x50, &[])?;
                    let after = self.pieces(body, open)?;
                    self.with_register(after, *pop, &[], 0x58, &[])?;
                    after
                }
            };
            // A jump over this piece may leave the older flags in place.
            open = if skipped { open | after } else { after };
        }
        starts.push(self.code.len());
        for (end, target) in fixes {
            self.fix(end, starts[target]);
        }
        Some(open)
    }

    fn plain(&mut self, instruction: &Instruction, open: u32) -> Option<u32> {
        if instruction.rflags_read() & open != 0 {
            return None;
        }
        let mut encoder = Encoder::new(if self.long { 64 } else { 32 });
        encoder.encode(instruction, CODE + self.code.len() as u64).ok()?;
        self.raw(open, &encoder.take_buffer());
        let kept = if may_keep_flags(instruction) {
            open
        } else {
            open & !instruction.rflags_modified()
        };
        Some(kept | instruction.rflags_undefined() & ARITHMETIC)
    }

    fn counted(&mut self, counter: u8, times: u32, by_loop: bool, body: &[Piece], open: u32) -> Option<u32> {
        if counter == STACK_POINTER || writes(body, counter) {
            return None;
        }
        self.with_register(open, counter, &[], 0xb8, &times.to_le_bytes())?;
        let at_end = |open: u32| if by_loop { open } else { open & RflagsBits::CF };
        // Once to know what is undefined after it, and then from there on.
        let (start, known) = (self.code.len(), self.undefined.len());
        let first = at_end(self.pieces(body, open)?);
        self.code.truncate(start);
        self.undefined.truncate(known);
        let after = self.pieces(body, open | first)?;
        if by_loop {
            let distance = start as i64 - (self.code.len() as i64 + 2);
            if counter != 1 {
                return None;
            }
            self.raw(after, &[0xe2, i8::try_from(distance).ok()? as u8]);
        } else {
            self.with_register(after, counter, &[0xff], 0xc8, &[])?;
            self.raw(at_end(after), &[0x0f, 0x85, 0, 0, 0, 0]);
            let end = self.code.len();
            self.fix(end, start);
        }
        Some(at_end(after))
    }

    fn call(&mut self, through: Option<u8>, body: &[Piece], open: u32) -> Option<u32> {
        let lea = match through {
            Some(register) => {
                if !self.long || register == STACK_POINTER {
                    return None;
                }
                let prefix = if register >= 8 { 0x4c } else { 0x48 };
                self.raw(open, &[prefix, 0x8d, 5 | (register & 7) << 3, 0, 0, 0, 0]);
                let end = self.code.len();
                self.with_register(open, register, &[0xff], 0xd0, &[])?;
                end
            }
            None => {
                self.raw(open, &[0xe8, 0, 0, 0, 0]);
                self.code.len()
            }
        };
        // Filled in when it is known what is undefined after the call.
        let back = self.undefined.len();
        self.raw(0, &[0xe9, 0, 0, 0, 0]);
        let (over, start) = (self.code.len(), self.code.len());
        self.fix(lea, start);
        let after = self.pieces(body, open)?;
        self.raw(after, &[0xc3]);
        let end = self.code.len();
        self.fix(over, end);
        self.undefined[back].1 = rflags(after);
        Some(after)
    }
}
