//! From decoded instructions to the functions of this folder.

use iced_x86::{Code, Instruction, Mnemonic, OpKind, Register};

use super::interrupt::{Source, software};
use super::{
    control, cpuid, descriptor, events, far, flag_ops, iret, msr, paravirtual, random, segment, smm, stack,
    syscall, tables,
};
use crate::exec::address::{effective, segment_index};
use crate::fault::{Exception, Flow, Result, vector};
use crate::flags::{HOST_CF, HOST_ZF, bit};
use crate::state::{Cpu, cr0, cr4, reg, seg};

/// Bytes of the operand size, from a far or stack instruction's code.
fn width_of(i: &Instruction) -> u8 {
    match i.stack_pointer_increment().unsigned_abs() {
        2 => 2,
        4 => 4,
        8 => 8,
        _ => 2,
    }
}

/// See [`super::execute`].
pub fn execute(cpu: &mut Cpu, i: &Instruction) -> Result<Flow> {
    if i.has_lock_prefix() && !is_lockable_cr(i) {
        return Err(cpu.ud());
    }
    match i.mnemonic() {
        Mnemonic::Mov => move_special(cpu, i),
        Mnemonic::Push => push_segment(cpu, i),
        Mnemonic::Pop => pop_segment(cpu, i),
        Mnemonic::Lds | Mnemonic::Les | Mnemonic::Lfs | Mnemonic::Lgs | Mnemonic::Lss => {
            load_far_pointer(cpu, i)
        }
        Mnemonic::Jmp | Mnemonic::Call => far_transfer(cpu, i),
        Mnemonic::Retf => {
            let release = if i.op_count() == 1 { i.immediate16() } else { 0 };
            far::ret(cpu, retf_width(i), release)?;
            Ok(Flow::Jump)
        }
        Mnemonic::Iret | Mnemonic::Iretd | Mnemonic::Iretq => {
            let width = match i.mnemonic() {
                Mnemonic::Iret => 2,
                Mnemonic::Iretd => 4,
                _ => 8,
            };
            iret::iret(cpu, width)?;
            Ok(Flow::Jump)
        }
        Mnemonic::Rsm => {
            smm::leave(cpu)?;
            Ok(Flow::Jump)
        }
        Mnemonic::Int => interrupt(cpu, i.immediate8(), Source::IntN),
        Mnemonic::Int3 => interrupt(cpu, vector::BP, Source::Software),
        Mnemonic::Int1 => interrupt(cpu, vector::DB, Source::Int1),
        Mnemonic::Into => {
            if cpu.rflags() & bit::OF != 0 {
                interrupt(cpu, vector::OF, Source::Software)
            } else {
                Ok(Flow::Next)
            }
        }
        Mnemonic::Bound => bound(cpu, i),
        Mnemonic::Syscall => jump(syscall::syscall(cpu)),
        Mnemonic::Sysret | Mnemonic::Sysretq => jump(syscall::sysret(cpu, i.mnemonic() == Mnemonic::Sysretq)),
        Mnemonic::Sysenter => jump(syscall::sysenter(cpu)),
        Mnemonic::Sysexit | Mnemonic::Sysexitq => {
            jump(syscall::sysexit(cpu, i.mnemonic() == Mnemonic::Sysexitq))
        }
        _ => execute_rest(cpu, i).map(|()| Flow::Next),
    }
}

fn jump(done: Result<()>) -> Result<Flow> {
    done.map(|()| Flow::Jump)
}

fn interrupt(cpu: &mut Cpu, vector: u8, source: Source) -> Result<Flow> {
    software(cpu, vector, source)?;
    Ok(Flow::Jump)
}

/// MOV to and from CR0 with LOCK is AMD's way to CR8.
fn is_lockable_cr(i: &Instruction) -> bool {
    matches!(
        i.code(),
        Code::Mov_r32_cr | Code::Mov_r64_cr | Code::Mov_cr_r32 | Code::Mov_cr_r64
    )
}

/// Those that go on at the next instruction.
fn execute_rest(cpu: &mut Cpu, i: &Instruction) -> Result<()> {
    match i.mnemonic() {
        Mnemonic::Cli => flag_ops::cli(cpu),
        Mnemonic::Sti => flag_ops::sti(cpu),
        Mnemonic::Pushf | Mnemonic::Pushfd | Mnemonic::Pushfq => flag_ops::pushf(cpu, width_of(i)),
        Mnemonic::Popf | Mnemonic::Popfd | Mnemonic::Popfq => flag_ops::popf(cpu, width_of(i)),
        Mnemonic::Clac => flag_ops::set_ac(cpu, false),
        Mnemonic::Stac => flag_ops::set_ac(cpu, true),
        Mnemonic::Swapgs => syscall::swapgs(cpu),
        Mnemonic::Hlt => {
            control::privileged(cpu)?;
            events::halt(cpu);
            Ok(())
        }
        Mnemonic::Pause | Mnemonic::Nop | Mnemonic::Endbr32 | Mnemonic::Endbr64 => Ok(()),
        Mnemonic::Cpuid => {
            cpuid::execute(cpu);
            Ok(())
        }
        Mnemonic::Rdtsc | Mnemonic::Rdtscp => read_tsc(cpu, i.mnemonic() == Mnemonic::Rdtscp),
        Mnemonic::Rdpmc => read_counter(cpu),
        Mnemonic::Rdmsr => read_msr(cpu),
        Mnemonic::Wrmsr => write_msr(cpu),
        Mnemonic::Rdpid => {
            let value = cpu.msrs.tsc_aux;
            write_register(cpu, i.op0_register(), value);
            Ok(())
        }
        Mnemonic::Rdrand | Mnemonic::Rdseed => random_number(cpu, i),
        Mnemonic::Clts => control::clts(cpu),
        Mnemonic::Lmsw => {
            let value = operand16(cpu, i)?;
            control::lmsw(cpu, value)
        }
        Mnemonic::Smsw => {
            tables::prevented(cpu)?;
            let value = cpu.cr0;
            store_or_register(cpu, i, value)
        }
        Mnemonic::Xgetbv => {
            let value = control::xgetbv(cpu, cpu.gpr[reg::RCX] as u32)?;
            set_pair(cpu, value);
            Ok(())
        }
        Mnemonic::Xsetbv => {
            let value = pair(cpu);
            control::xsetbv(cpu, cpu.gpr[reg::RCX] as u32, value)
        }
        Mnemonic::Invd | Mnemonic::Wbinvd | Mnemonic::Wbnoinvd => control::privileged(cpu),
        Mnemonic::Invlpg => {
            control::privileged(cpu)?;
            let (segment, offset) = effective(cpu, i);
            let linear = linear_of(cpu, segment, offset);
            cpu.flush_page(linear);
            Ok(())
        }
        Mnemonic::Invpcid => invalidate_pcid(cpu, i),
        Mnemonic::Vmcall | Mnemonic::Vmmcall => paravirtual::hypercall(cpu),
        Mnemonic::Rdfsbase | Mnemonic::Rdgsbase | Mnemonic::Wrfsbase | Mnemonic::Wrgsbase => {
            segment_base(cpu, i)
        }
        _ => execute_tables(cpu, i),
    }
}

/// Descriptor tables and what looks into them.
fn execute_tables(cpu: &mut Cpu, i: &Instruction) -> Result<()> {
    match i.mnemonic() {
        Mnemonic::Lgdt | Mnemonic::Lidt => {
            let (segment, offset) = effective(cpu, i);
            let width = if cpu.is_long() { 8 } else { operand_bytes(i) };
            tables::load(cpu, segment, offset, width, i.mnemonic() == Mnemonic::Lgdt)
        }
        Mnemonic::Sgdt | Mnemonic::Sidt => {
            let (segment, offset) = effective(cpu, i);
            tables::store(cpu, segment, offset, i.mnemonic() == Mnemonic::Sgdt)
        }
        Mnemonic::Lldt | Mnemonic::Ltr => {
            needs_protected(cpu)?;
            control::privileged(cpu)?;
            let selector = operand16(cpu, i)?;
            if i.mnemonic() == Mnemonic::Ltr {
                segment::load_tr(cpu, selector)
            } else {
                segment::load_ldtr(cpu, selector)
            }
        }
        Mnemonic::Sldt | Mnemonic::Str => {
            needs_protected(cpu)?;
            tables::prevented(cpu)?;
            let register = if i.mnemonic() == Mnemonic::Str {
                cpu.tr
            } else {
                cpu.ldtr
            };
            store_or_register(cpu, i, u64::from(register.selector))
        }
        Mnemonic::Lar | Mnemonic::Lsl => look_at_segment(cpu, i),
        Mnemonic::Verr | Mnemonic::Verw => {
            needs_protected(cpu)?;
            let selector = operand16(cpu, i)?;
            let writes = i.mnemonic() == Mnemonic::Verw;
            let found = segment::visible(cpu, selector)?;
            let good = found.is_some_and(|d| {
                if writes {
                    d.is_writable_data()
                } else {
                    d.is_readable()
                }
            });
            set_zf(cpu, good);
            Ok(())
        }
        Mnemonic::Arpl => adjust_rpl(cpu, i),
        _ => Err(cpu.ud()),
    }
}

fn needs_protected(cpu: &mut Cpu) -> Result<()> {
    if cpu.is_protected() { Ok(()) } else { Err(cpu.ud()) }
}

fn set_zf(cpu: &mut Cpu, on: bool) {
    cpu.flags = if on {
        cpu.flags | HOST_ZF
    } else {
        cpu.flags & !HOST_ZF
    };
}

/// EDX:EAX.
fn pair(cpu: &Cpu) -> u64 {
    cpu.gpr[reg::RAX] & 0xffff_ffff | cpu.gpr[reg::RDX] << 32
}

fn set_pair(cpu: &mut Cpu, value: u64) {
    cpu.gpr[reg::RAX] = value & 0xffff_ffff;
    cpu.gpr[reg::RDX] = value >> 32;
}

/// Writes a 16-, 32- or 64-bit general register.
fn write_register(cpu: &mut Cpu, register: Register, value: u64) {
    let slot = &mut cpu.gpr[register.full_register().number()];
    *slot = match register.size() {
        2 => *slot & !0xffff | value & 0xffff,
        4 => value & 0xffff_ffff,
        _ => value,
    };
}

fn read_register(cpu: &Cpu, register: Register) -> u64 {
    let value = cpu.gpr[register.full_register().number()];
    match register.size() {
        2 => value & 0xffff,
        4 => value & 0xffff_ffff,
        _ => value,
    }
}

/// The first operand as a selector or machine status word.
fn operand16(cpu: &mut Cpu, i: &Instruction) -> Result<u16> {
    operand16_at(cpu, i, 0)
}

fn operand16_at(cpu: &mut Cpu, i: &Instruction, n: u32) -> Result<u16> {
    if i.op_kind(n) == OpKind::Register {
        return Ok(read_register(cpu, i.op_register(n)) as u16);
    }
    let (segment, offset) = effective(cpu, i);
    cpu.load::<u16>(segment, offset)
}

/// Memory gets 16 bits, a register its whole width.
fn store_or_register(cpu: &mut Cpu, i: &Instruction, value: u64) -> Result<()> {
    if i.op0_kind() == OpKind::Register {
        write_register(cpu, i.op0_register(), value);
        return Ok(());
    }
    let (segment, offset) = effective(cpu, i);
    cpu.store(segment, offset, value as u16)
}

/// Linear address without a check, for INVLPG.
fn linear_of(cpu: &Cpu, segment: usize, offset: u64) -> u64 {
    if cpu.is_long() && !matches!(segment, seg::FS | seg::GS) {
        return offset;
    }
    let linear = cpu.segs[segment].base.wrapping_add(offset);
    if cpu.is_long() {
        linear
    } else {
        linear & 0xffff_ffff
    }
}

/// MOV with a segment, control or debug register.
fn move_special(cpu: &mut Cpu, i: &Instruction) -> Result<Flow> {
    let (to, from) = (i.op0_register(), i.op1_register());
    match i.code() {
        Code::Mov_Sreg_rm16 | Code::Mov_Sreg_r32m16 | Code::Mov_Sreg_r64m16 => {
            let index = segment_index(to).filter(|&n| n != seg::CS);
            let Some(index) = index else { return Err(cpu.ud()) };
            let selector = operand16_at(cpu, i, 1)?;
            segment::load(cpu, index, selector)?;
            cast_shadow(cpu, index);
        }
        Code::Mov_rm16_Sreg | Code::Mov_r32m16_Sreg | Code::Mov_r64m16_Sreg => {
            let Some(index) = segment_index(from) else {
                return Err(cpu.ud());
            };
            let selector = cpu.segs[index].selector;
            store_or_register(cpu, i, u64::from(selector))?;
        }
        Code::Mov_r32_cr | Code::Mov_r64_cr => {
            let number = control_number(i, from);
            let value = control::read_cr(cpu, number)?;
            write_register(cpu, to, value);
        }
        Code::Mov_cr_r32 | Code::Mov_cr_r64 => {
            let number = control_number(i, to);
            let value = read_register(cpu, from);
            control::write_cr(cpu, number, value)?;
        }
        Code::Mov_r32_dr | Code::Mov_r64_dr => {
            let value = control::read_dr(cpu, from.number() as u8)?;
            write_register(cpu, to, value);
        }
        Code::Mov_dr_r32 | Code::Mov_dr_r64 => {
            let value = read_register(cpu, from);
            control::write_dr(cpu, to.number() as u8, value)?;
        }
        _ => return Err(cpu.ud()),
    }
    Ok(Flow::Next)
}

fn control_number(i: &Instruction, register: Register) -> u8 {
    let number = register.number() as u8;
    if i.has_lock_prefix() && number == 0 {
        8
    } else {
        number
    }
}

fn push_segment(cpu: &mut Cpu, i: &Instruction) -> Result<Flow> {
    let Some(index) = segment_index(i.op0_register()) else {
        return Err(cpu.ud());
    };
    let selector = cpu.segs[index].selector;
    stack::push(cpu, width_of(i), u64::from(selector))?;
    Ok(Flow::Next)
}

fn pop_segment(cpu: &mut Cpu, i: &Instruction) -> Result<Flow> {
    let Some(index) = segment_index(i.op0_register()).filter(|&n| n != seg::CS) else {
        return Err(cpu.ud());
    };
    let mut popper = stack::Popper::new(cpu, width_of(i));
    let selector = popper.pop(cpu)? as u16;
    let loaded = segment::checked(cpu, index, selector)?;
    popper.commit(cpu);
    cpu.segs[index] = loaded;
    cpu.update_mode();
    cast_shadow(cpu, index);
    Ok(Flow::Next)
}

/// After a load of segment register `index`: neither interrupts nor debug traps come between a load of SS and the instruction after it.
fn cast_shadow(cpu: &mut Cpu, index: usize) {
    if index == seg::SS {
        cpu.shadow = true;
        cpu.stack_loaded = true;
    }
}

/// Reads offset and selector of a far pointer in memory.
fn far_pointer(cpu: &mut Cpu, i: &Instruction, width: u8) -> Result<(u16, u64)> {
    let (segment, offset) = effective(cpu, i);
    let at = |n: u64| offset.wrapping_add(n);
    Ok(match width {
        2 => (
            cpu.load::<u16>(segment, at(2))?,
            u64::from(cpu.load::<u16>(segment, offset)?),
        ),
        4 => (
            cpu.load::<u16>(segment, at(4))?,
            u64::from(cpu.load::<u32>(segment, offset)?),
        ),
        _ => (
            cpu.load::<u16>(segment, at(8))?,
            cpu.load::<u64>(segment, offset)?,
        ),
    })
}

fn load_far_pointer(cpu: &mut Cpu, i: &Instruction) -> Result<Flow> {
    let index = match i.mnemonic() {
        Mnemonic::Lds => seg::DS,
        Mnemonic::Les => seg::ES,
        Mnemonic::Lfs => seg::FS,
        Mnemonic::Lgs => seg::GS,
        _ => seg::SS,
    };
    if i.op1_kind() != OpKind::Memory {
        return Err(cpu.ud());
    }
    let to = i.op0_register();
    let (selector, offset) = far_pointer(cpu, i, to.size() as u8)?;
    segment::load(cpu, index, selector)?;
    write_register(cpu, to, offset);
    Ok(Flow::Next)
}

fn far_transfer(cpu: &mut Cpu, i: &Instruction) -> Result<Flow> {
    let (selector, offset, width) = match i.code() {
        Code::Jmp_ptr1616 | Code::Call_ptr1616 => (i.far_branch_selector(), u64::from(i.far_branch16()), 2),
        Code::Jmp_ptr1632 | Code::Call_ptr1632 => (i.far_branch_selector(), u64::from(i.far_branch32()), 4),
        Code::Jmp_m1616 | Code::Call_m1616 => with_width(far_pointer(cpu, i, 2)?, 2),
        Code::Jmp_m1632 | Code::Call_m1632 => with_width(far_pointer(cpu, i, 4)?, 4),
        Code::Jmp_m1664 | Code::Call_m1664 => with_width(far_pointer(cpu, i, 8)?, 8),
        _ => return Err(cpu.ud()),
    };
    if i.mnemonic() == Mnemonic::Jmp {
        far::jump(cpu, selector, offset)?;
    } else {
        far::call(cpu, selector, offset, width)?;
    }
    Ok(Flow::Jump)
}

fn with_width((selector, offset): (u16, u64), width: u8) -> (u16, u64, u8) {
    (selector, offset, width)
}

fn retf_width(i: &Instruction) -> u8 {
    match i.code() {
        Code::Retfw | Code::Retfw_imm16 => 2,
        Code::Retfd | Code::Retfd_imm16 => 4,
        _ => 8,
    }
}

fn bound(cpu: &mut Cpu, i: &Instruction) -> Result<Flow> {
    let (segment, offset) = effective(cpu, i);
    let index = read_register(cpu, i.op0_register());
    let (index, low, high) = if i.op0_register().size() == 2 {
        let low = cpu.load::<u16>(segment, offset)? as i16;
        let high = cpu.load::<u16>(segment, offset.wrapping_add(2))? as i16;
        (i64::from(index as i16), i64::from(low), i64::from(high))
    } else {
        let low = cpu.load::<u32>(segment, offset)? as i32;
        let high = cpu.load::<u32>(segment, offset.wrapping_add(4))? as i32;
        (i64::from(index as i32), i64::from(low), i64::from(high))
    };
    if index < low || index > high {
        return Err(cpu.raise(Exception::plain(vector::BR)));
    }
    Ok(Flow::Next)
}

fn read_tsc(cpu: &mut Cpu, with_id: bool) -> Result<()> {
    if cpu.cr4 & cr4::TSD != 0 && cpu.cpl != 0 && cpu.cr0 & cr0::PE != 0 {
        return Err(cpu.gp0());
    }
    let tsc = msr::guest_tsc(cpu);
    set_pair(cpu, tsc);
    if with_id {
        cpu.gpr[reg::RCX] = cpu.msrs.tsc_aux;
    }
    Ok(())
}

/// RDPMC: AMD's four counters are there and never count.
fn read_counter(cpu: &mut Cpu) -> Result<()> {
    let allowed = cpu.cr4 & cr4::PCE != 0 || cpu.cpl == 0 || cpu.cr0 & cr0::PE == 0;
    if !allowed || cpu.gpr[reg::RCX] as u32 >= 4 {
        return Err(cpu.gp0());
    }
    set_pair(cpu, 0);
    Ok(())
}

fn read_msr(cpu: &mut Cpu) -> Result<()> {
    control::privileged(cpu)?;
    let value = msr::read(cpu, cpu.gpr[reg::RCX] as u32)?;
    set_pair(cpu, value);
    Ok(())
}

fn write_msr(cpu: &mut Cpu) -> Result<()> {
    control::privileged(cpu)?;
    let value = pair(cpu);
    msr::write(cpu, cpu.gpr[reg::RCX] as u32, value)
}

fn random_number(cpu: &mut Cpu, i: &Instruction) -> Result<()> {
    let name = if i.mnemonic() == Mnemonic::Rdrand {
        "rdrand"
    } else {
        "rdseed"
    };
    if !cpuid::has(cpu, name) {
        return Err(cpu.ud());
    }
    let value = random::next();
    cpu.flags = if value.is_some() { HOST_CF } else { 0 };
    write_register(cpu, i.op0_register(), value.unwrap_or(0));
    Ok(())
}

fn invalidate_pcid(cpu: &mut Cpu, i: &Instruction) -> Result<()> {
    control::privileged(cpu)?;
    if !cpuid::has(cpu, "invpcid") {
        return Err(cpu.ud());
    }
    let kind = read_register(cpu, i.op0_register());
    let (segment, offset) = effective(cpu, i);
    let pcid = cpu.load::<u64>(segment, offset)?;
    let linear = cpu.load::<u64>(segment, offset.wrapping_add(8))?;
    let bad_pcid = pcid >> 12 != 0 || (pcid != 0 && cpu.cr4 & cr4::PCIDE == 0);
    match kind {
        0 | 1 if bad_pcid => return Err(cpu.gp0()),
        0 if !descriptor::is_canonical(linear) => return Err(cpu.gp0()),
        // An address of another context: everything goes, which is always allowed.
        0 if pcid == cpu.cr3 & 0xfff => cpu.flush_page(linear),
        0 | 2 => cpu.flush_tlb(true),
        1 | 3 => cpu.flush_tlb(false),
        _ => return Err(cpu.gp0()),
    }
    Ok(())
}

fn segment_base(cpu: &mut Cpu, i: &Instruction) -> Result<()> {
    if !cpu.is_long() || cpu.cr4 & cr4::FSGSBASE == 0 {
        return Err(cpu.ud());
    }
    let register = i.op0_register();
    let index = match i.mnemonic() {
        Mnemonic::Rdfsbase | Mnemonic::Wrfsbase => seg::FS,
        _ => seg::GS,
    };
    if matches!(i.mnemonic(), Mnemonic::Rdfsbase | Mnemonic::Rdgsbase) {
        let base = cpu.segs[index].base;
        write_register(cpu, register, base);
        return Ok(());
    }
    let base = read_register(cpu, register);
    if !descriptor::is_canonical(base) {
        return Err(cpu.gp0());
    }
    cpu.segs[index].base = base;
    Ok(())
}

/// The operand size in bytes that LGDT and LIDT have outside 64-bit mode.
fn operand_bytes(i: &Instruction) -> u8 {
    if matches!(i.code(), Code::Lgdt_m1632_16 | Code::Lidt_m1632_16) {
        2
    } else {
        4
    }
}

fn look_at_segment(cpu: &mut Cpu, i: &Instruction) -> Result<()> {
    needs_protected(cpu)?;
    let selector = operand16_at(cpu, i, 1)?;
    let with_limit = i.mnemonic() == Mnemonic::Lsl;
    let long = cpu.long_active();
    let found = segment::visible(cpu, selector)?.filter(|d| segment::has_rights(d, long, with_limit));
    set_zf(cpu, found.is_some());
    if let Some(d) = found {
        let value = if with_limit {
            u64::from(d.limit())
        } else {
            d.low >> 32 & 0x00ff_ff00
        };
        write_register(cpu, i.op0_register(), value);
    }
    Ok(())
}

fn adjust_rpl(cpu: &mut Cpu, i: &Instruction) -> Result<()> {
    needs_protected(cpu)?;
    let selector = operand16_at(cpu, i, 0)?;
    let own = read_register(cpu, i.op1_register()) as u16;
    let adjusts = selector & 3 < own & 3;
    if adjusts {
        let new = u64::from(selector & !3 | own & 3);
        if i.op0_kind() == OpKind::Register {
            // With operands of 32 bits, too, only the lower half changes.
            let whole = &mut cpu.gpr[i.op0_register().full_register().number()];
            *whole = *whole & !0xffff | new;
        } else {
            store_or_register(cpu, i, new)?;
        }
    }
    set_zf(cpu, adjusts);
    Ok(())
}
