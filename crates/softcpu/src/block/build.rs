//! Decoding a block.

use std::cell::{Cell, OnceCell};
use std::sync::atomic::AtomicU32;

use iced_x86::{Decoder, DecoderOptions, Instruction};

use super::op::{Form, Op};
use super::select::{self, Owner};
use super::{Block, Outcome, Special};
use crate::debugging::{Divisions, breakpoint_op};
use crate::exec::Family;
use crate::exec::fast::select as fast;
use crate::fault::{Exception, Result};
use crate::host;
use crate::mmu::access::is_canonical;
use crate::mmu::memory_map::HostPage;
use crate::native::NativeOp;
use crate::state::{Cpu, mode, reg, seg};

/// Most instructions of a block.
pub(crate) const MAX_INSTRUCTIONS: usize = 64;
/// Longest instruction in bytes.
const MAX_LENGTH: usize = 15;

/// Checks that the instruction pointer is inside the code segment.
pub fn check_fetch(cpu: &mut Cpu) -> Result<()> {
    let inside = if cpu.is_long() {
        is_canonical(cpu.rip)
    } else {
        cpu.rip <= u64::from(cpu.segs[seg::CS].limit)
    };
    if inside {
        Ok(())
    } else {
        Err(cpu.raise(Exception::gp(0)))
    }
}

/// Code bytes of one page from some address on.
struct Window {
    page: HostPage<'static>,
    offset: usize,
}

impl Window {
    fn copy(&self, into: &mut [u8]) {
        // SAFETY: the caller asks for no more than the page has after `offset`.
        unsafe { host::read_code(self.page.host.wrapping_add(self.offset), into) };
    }
}

/// Watches `len` bytes of code at `gpa`, which are to be looked at after this. The last value is the epoch that others have to
/// acknowledge before the bytes can be trusted, or 0 if they have done so already. `None` if the code is not in RAM.
fn window(cpu: &mut Cpu, gpa: u64, len: usize) -> Option<(Window, (*const AtomicU32, u32), u64)> {
    let watched = cpu.watch_code(gpa, len)?;
    let window = Window {
        page: watched.page,
        offset: (gpa & 0xfff) as usize,
    };
    // Asked before the bytes are read: a write without notice may come until the acknowledgement.
    let several = cpu.vm.vcpus.len() > 1;
    let unsure = several && !cpu.vm.all_acknowledged(watched.epoch, cpu.id);
    let version = (watched.version, watched.was);
    Some((window, version, if unsure { watched.epoch } else { 0 }))
}

/// Decodes the block at `linear`, which is at `gpa`. Also says whether all of its pages are global.
pub fn build(
    cpu: &mut Cpu,
    plan: &mut Plan,
    linear: u64,
    gpa: u64,
    block_mode: u32,
    global: bool,
) -> Result<(Block, bool)> {
    let alone = block_mode & mode::ALONE != 0;
    let here = 4096 - (gpa & 0xfff) as usize;
    // Enough for most blocks; watching the rest of the page would make data beside code slow.
    let wanted = if alone { MAX_LENGTH } else { 256 }.min(here);
    let Some((first, version, mut unsure)) = window(cpu, gpa, wanted) else {
        // Fetching from a device: no processor guarantees anything about it.
        return Err(cpu.raise(Exception::gp(0)));
    };
    let mut bytes = [0u8; 256 + MAX_LENGTH];
    first.copy(&mut bytes[..wanted]);
    let offset = linear & 0xfff;
    plan.begin(block_mode, offset);
    let mut used = plan.decode(&bytes[..wanted], offset, alone);
    let mut second = None;
    let mut versions = [version, (std::ptr::null(), 0)];
    let mut hosts = [first.page.host as u64, u64::MAX];
    let mut all_global = global;
    if used == 0 {
        // Not one whole instruction before the end of the page: it reaches into the next one.
        let next = linear.wrapping_add(wanted as u64);
        let next = if cpu.is_long() { next } else { next & 0xffff_ffff };
        let mut avail = wanted;
        // A page's last bytes may be no instruction whatever comes after them.
        if wanted == here && !plan.is_invalid_anyway(&bytes[..wanted], offset) {
            let (next_gpa, next_global) = cpu.translate_code(next)?;
            let Some((rest, rest_version, rest_unsure)) = window(cpu, next_gpa, MAX_LENGTH) else {
                return Err(cpu.raise(Exception::gp(0)));
            };
            rest.copy(&mut bytes[wanted..wanted + MAX_LENGTH]);
            avail += MAX_LENGTH;
            versions[1] = rest_version;
            hosts[1] = rest.page.host as u64;
            second = Some(next_gpa);
            unsure = unsure.max(rest_unsure);
            all_global &= next_global;
        }
        used = plan.decode(&bytes[..avail], offset, true);
        if used == 0 {
            plan.invalid(&bytes[..avail], offset);
            used = avail.min(MAX_LENGTH);
        }
    }
    plan.finish();
    let special = second.is_some() || unsure != 0 || plan.breakpoint;
    let ops = plan.ops.len() as u16;
    let form = Form::new(&mut plan.ops, &plan.long_forms, &mut plan.native_forms);
    let block = Block {
        entry: Cell::new(form.entry()),
        version: versions[0].0,
        was: versions[0].1,
        instructions: plan.instructions,
        ops,
        links: [Cell::new(std::ptr::null()), Cell::new(std::ptr::null())],
        host: hosts,
        offset: offset as u16,
        linkable: !alone && second.is_none(),
        section: 0,
        special: Cell::new(special),
        mode: block_mode,
        code: Cell::new(std::ptr::null()),
        heat: Cell::new(0),
        heat_seen: Cell::new(0),
        translation: OnceCell::new(),
        form: Cell::new(Some(form)),
        gpa,
        special_part: special.then(|| {
            Box::new(Special {
                second,
                second_version: versions[1],
                unsure: Cell::new(unsure),
                bytes: if unsure != 0 {
                    bytes[..used].into()
                } else {
                    Box::default()
                },
                replaces: std::ptr::null(),
                breakpoint: plan.breakpoint,
            })
        }),
    };
    Ok((block, all_global))
}

/// A block in the making. Its memory is used for one after the other.
#[derive(Default)]
pub struct Plan {
    mode: u32,
    decoded: Vec<(Instruction, Owner)>,
    /// For each of those, whether anybody may look at its flags.
    live: Vec<bool>,
    ops: Vec<Op>,
    instructions: u16,
    /// Instructions that handlers out of line work from, with the op's index.
    long_forms: Vec<(usize, Instruction)>,
    /// Native forms, likewise.
    native_forms: Vec<(usize, NativeOp)>,
    ended: bool,
    /// Page offset behind the last instruction.
    end: u64,
    /// Where blocks are divided for breakpoints.
    pub(super) divisions: Divisions,
    /// The block begins with an op that looks for one.
    breakpoint: bool,
}

impl Plan {
    /// Starts a new block at a page offset.
    fn begin(&mut self, mode: u32, offset: u64) {
        self.mode = mode;
        self.decoded.clear();
        self.ops.clear();
        self.long_forms.clear();
        self.native_forms.clear();
        self.instructions = 0;
        self.ended = false;
        self.end = 0;
        // Before one that executes by itself, the engine looks.
        self.breakpoint = mode & mode::ALONE == 0 && self.divisions.contains(offset);
        if self.breakpoint {
            let mut op = op_of(&Instruction::default());
            op.handler = breakpoint_op;
            op.offset = offset as u16;
            self.ops.push(op);
        }
    }

    fn bitness(&self) -> u32 {
        if self.mode & mode::LONG != 0 {
            64
        } else if self.mode & mode::CODE32 != 0 {
            32
        } else {
            16
        }
    }

    /// Decodes whole instructions of `bytes` until the block ends. Returns the bytes used.
    fn decode(&mut self, bytes: &[u8], offset: u64, alone: bool) -> usize {
        let mut decoder = Decoder::with_ip(self.bitness(), bytes, offset, DecoderOptions::NONE);
        let mut used = 0;
        let mut decoded = std::mem::take(&mut self.decoded);
        while decoder.can_decode() {
            if used > 0 && self.divisions.contains(offset + used as u64) {
                break;
            }
            let i = decoder.decode();
            if i.is_invalid() {
                if decoder.last_error() == iced_x86::DecoderError::NoMoreBytes
                    && bytes.len() - used < MAX_LENGTH
                {
                    // It reaches beyond what we have: it starts a block of its own.
                    break;
                }
                break;
            }
            used += i.len();
            let owner = Owner::of(&i, self.mode);
            let last = alone || owner.ends_block(&i) || decoded.len() + 1 == MAX_INSTRUCTIONS;
            decoded.push((i, owner));
            if last {
                break;
            }
        }
        self.end = offset + used as u64;
        if used == 0 {
            self.decoded = decoded;
            return 0;
        }
        self.ended = decoded.last().is_some_and(|(i, owner)| owner.ends_block(i));
        self.instructions = decoded.len() as u16;
        self.add_all(&mut decoded, alone);
        self.decoded = decoded;
        used
    }

    fn add_all(&mut self, decoded: &mut Vec<(Instruction, Owner)>, alone: bool) {
        let mut live = std::mem::take(&mut self.live);
        fast::live_flags(decoded, &mut live);
        let may_be_fast = self.mode & mode::LONG != 0 && !alone;
        let mut items = decoded.drain(..).zip(live.iter().copied()).peekable();
        while let Some(((i, owner), flags_live)) = items.next() {
            let mut op = op_of(&i);
            if may_be_fast && let Owner::Family(family) = owner {
                op.family = family;
                let after = items.peek().map(|((after, _), _)| after);
                if let Some(jump) = after.filter(|jump| fast::fuse(&i, jump, &mut op)) {
                    op.len += jump.len() as u8;
                    items.next();
                    self.ops.push(op);
                    continue;
                }
                // Not worth an op; the block's last instruction keeps one, so that a block is never empty.
                if after.is_some() && fast::is_nop(&i) {
                    continue;
                }
                if let Some(needs_long_form) = fast::select(&i, flags_live, &mut op) {
                    if needs_long_form {
                        self.long_forms.push((self.ops.len(), i));
                    }
                    self.ops.push(op);
                    continue;
                }
            }
            select::out_of_line(&owner, &i, &mut op);
            match owner {
                Owner::Native(native) => self.native_forms.push((self.ops.len(), *native)),
                _ => self.long_forms.push((self.ops.len(), i)),
            }
            self.ops.push(op);
        }
        drop(items);
        self.live = live;
    }

    /// True if `bytes`, fewer than an instruction may have, begin none whatever follows them.
    fn is_invalid_anyway(&self, bytes: &[u8], offset: u64) -> bool {
        // The decoder asks for a byte after some opcodes before it says that there is no such opcode: so try every one. After
        // it comes an opcode if `bytes` end within a VEX prefix, and in each opcode map one of these two exists: VADDPS in the
        // first, VPSHUFB and VPERMQ in the others.
        const OPCODES: [u8; 2] = [0x58, 0x00];
        let Some(last) = bytes.len().checked_sub(1).filter(|&last| last < MAX_LENGTH) else {
            return false;
        };
        OPCODES.iter().all(|&opcode| {
            let mut longer = [opcode; 2 * MAX_LENGTH];
            longer[..=last].copy_from_slice(bytes);
            (0..=u8::MAX).all(|next| {
                longer[last + 1] = next;
                let mut decoder = Decoder::with_ip(self.bitness(), &longer, offset, DecoderOptions::NONE);
                decoder.decode().is_invalid()
            })
        })
    }

    /// The bytes are no instruction.
    fn invalid(&mut self, bytes: &[u8], offset: u64) {
        let mut decoder = Decoder::with_ip(self.bitness(), bytes, offset, DecoderOptions::NONE);
        let i = decoder.decode();
        let mut op = op_of(&i);
        op.offset = offset as u16;
        // Longer than 15 bytes is #GP, anything else #UD.
        let too_long = bytes.get(..MAX_LENGTH).is_some_and(|most| {
            // The decoder says of 15 bytes that they are invalid, but of one less that it wants more.
            let mut decoder = Decoder::with_ip(
                self.bitness(),
                &most[..MAX_LENGTH - 1],
                offset,
                DecoderOptions::NONE,
            );
            let _ = decoder.decode();
            decoder.last_error() == iced_x86::DecoderError::NoMoreBytes
        });
        op.handler = if too_long { raise_gp } else { raise_ud };
        self.ops.push(op);
        self.instructions = 1;
        self.ended = true;
    }

    /// Adds the fall-through.
    fn finish(&mut self) {
        if !self.ended {
            let mut op = op_of(&Instruction::default());
            op.handler = fall_through;
            op.offset = self.end as u16;
            self.ops.push(op);
        }
    }
}

/// The op of `i` without its handler and operands.
fn op_of(i: &Instruction) -> Op {
    Op {
        handler: raise_ud,
        imm: 0,
        long: 0,
        disp: 0,
        a: 0,
        b: 0,
        base: reg::ZERO as u8,
        index: reg::ZERO as u8,
        offset: i.ip() as u16,
        len: i.len() as u8,
        scale: 0,
        segment: seg::DS as u8,
        family: Family::Moves,
    }
}

fn fall_through(cpu: &mut Cpu, op: super::OpRef) -> Outcome {
    cpu.rip = op.rip(cpu);
    Outcome::Next
}

fn raise_ud(cpu: &mut Cpu, op: super::OpRef) -> Outcome {
    let stop = cpu.raise(Exception::ud());
    op.stop(cpu, stop)
}

fn raise_gp(cpu: &mut Cpu, op: super::OpRef) -> Outcome {
    let stop = cpu.raise(Exception::gp(0));
    op.stop(cpu, stop)
}
