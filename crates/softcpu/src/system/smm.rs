//! System management mode: its entry by an SMI, the saved state, RSM (SDM vol. 3, chapter 32; APM vol. 2, chapter 10).
//!
//! The saved state has AMD's layout of 64 bits (APM vol. 2, table 10-1), which firmware for virtual machines knows. On the way in
//! and out the vCPU changes to another view of memory, and the TLB is empty after that; blocks of code are told apart by
//! [`mode::SMM`](crate::state::mode::SMM).

use ostler_accel::{DescriptorTable, Segment};

use super::{control, cpuid, debug, descriptor, events};
use crate::fault::Result;
use crate::flags::bit;
use crate::state::{Activity, Cpu, cr0, cr4, efer, reg, rights, seg};

/// Where the code is, from SMBASE.
const ENTRY: u64 = 0x8000;
/// Where the saved state is, from SMBASE.
const SAVED: u64 = 0xfe00;
/// Its bytes.
const SAVED_SIZE: usize = 0x200;
/// AMD's format of 64 bits, and SMBASE can be changed; an I/O instruction cannot be restarted.
const REVISION: u32 = 0x2_0064;

/// Offsets in the saved state.
mod field {
    /// ES, CS, SS, DS, FS, GS, 16 bytes each.
    pub const SEGMENTS: usize = 0x00;
    pub const GDTR: usize = 0x60;
    pub const LDTR: usize = 0x70;
    pub const IDTR: usize = 0x80;
    pub const TR: usize = 0x90;
    pub const HALT_RESTART: usize = 0xc9;
    pub const EFER: usize = 0xd0;
    pub const REVISION: usize = 0xfc;
    pub const SMBASE: usize = 0x100;
    pub const CR4: usize = 0x148;
    pub const CR3: usize = 0x150;
    pub const CR0: usize = 0x158;
    pub const DR7: usize = 0x160;
    pub const DR6: usize = 0x168;
    pub const RFLAGS: usize = 0x170;
    pub const RIP: usize = 0x178;
    /// R15 down to R8, then RDI RSI RBP RSP RBX RDX RCX RAX: register n of the encoding is 8 n below.
    pub const RAX: usize = 0x1f8;
}

/// The bytes of a saved state.
struct Saved([u8; SAVED_SIZE]);

impl Saved {
    fn put<const N: usize>(&mut self, at: usize, value: [u8; N]) {
        self.0[at..at + N].copy_from_slice(&value);
    }

    fn put64(&mut self, at: usize, value: u64) {
        self.put(at, value.to_le_bytes());
    }

    fn put_segment(&mut self, at: usize, segment: &Segment) {
        self.put(at, segment.selector.to_le_bytes());
        self.put(at + 2, segment.rights.to_le_bytes());
        self.put(at + 4, segment.limit.to_le_bytes());
        self.put64(at + 8, segment.base);
    }

    fn put_table(&mut self, at: usize, table: &DescriptorTable) {
        self.put(at + 4, u32::from(table.limit).to_le_bytes());
        self.put64(at + 8, table.base);
    }

    fn get<const N: usize>(&self, at: usize) -> [u8; N] {
        std::array::from_fn(|n| self.0[at + n])
    }

    fn get16(&self, at: usize) -> u16 {
        u16::from_le_bytes(self.get(at))
    }

    fn get32(&self, at: usize) -> u32 {
        u32::from_le_bytes(self.get(at))
    }

    fn get64(&self, at: usize) -> u64 {
        u64::from_le_bytes(self.get(at))
    }

    fn segment(&self, at: usize) -> Segment {
        Segment {
            selector: self.get16(at),
            base: self.get64(at + 8),
            limit: self.get32(at + 4),
            rights: self.get16(at + 2) & 0xf0ff,
        }
    }

    fn table(&self, at: usize) -> DescriptorTable {
        DescriptorTable {
            base: self.get64(at + 8),
            limit: self.get16(at + 4),
        }
    }

    fn of(cpu: &Cpu) -> Self {
        let mut saved = Self([0; SAVED_SIZE]);
        for (n, segment) in cpu.segs.iter().enumerate() {
            saved.put_segment(field::SEGMENTS + 16 * n, segment);
        }
        saved.put_table(field::GDTR, &cpu.gdtr);
        saved.put_segment(field::LDTR, &cpu.ldtr);
        saved.put_table(field::IDTR, &cpu.idtr);
        saved.put_segment(field::TR, &cpu.tr);
        saved.0[field::HALT_RESTART] = u8::from(cpu.activity == Activity::Halted);
        saved.put(field::REVISION, REVISION.to_le_bytes());
        saved.put(field::SMBASE, cpu.smm.base.to_le_bytes());
        for (at, value) in [
            (field::EFER, cpu.efer),
            (field::CR4, cpu.cr4),
            (field::CR3, cpu.cr3),
            (field::CR0, cpu.cr0),
            (field::DR7, cpu.dr7),
            (field::DR6, cpu.dr6),
            (field::RFLAGS, cpu.rflags()),
            (field::RIP, cpu.rip),
        ] {
            saved.put64(at, value);
        }
        for (n, value) in cpu.gpr[..16].iter().enumerate() {
            saved.put64(field::RAX - 8 * n, *value);
        }
        saved
    }
}

/// An SMI: saves the state, and goes on at SMBASE + 0x8000 in a mode like real mode with segments of 4 GiB. At an instruction
/// boundary outside system management mode.
pub fn enter(cpu: &mut Cpu) {
    let saved = Saved::of(cpu);
    cpu.smm.pending = false;
    cpu.smm.active = true;
    cpu.smm.inside_nmi = std::mem::replace(&mut cpu.nmi_masked, true);
    cpu.mmu.select_view(true);
    let base = u64::from(cpu.smm.base);
    if cpu.write_physical(base + SAVED, &saved.0).is_none() {
        tracing::debug!(base, "SMBASE is where there is no memory: the state is lost");
    }
    cpu.activity = Activity::Running;
    let segment = |selector, base, rights| Segment {
        selector,
        base,
        limit: u32::MAX,
        rights,
    };
    // Present, writable, of 4 KiB granularity.
    cpu.segs = [segment(0, 0, 0x8093); 6];
    cpu.segs[seg::CS] = segment((base >> 4) as u16, base, 0x8093);
    cpu.rip = ENTRY;
    cpu.idtr = DescriptorTable { base: 0, limit: 0 };
    cpu.cr0 &= !(cr0::PE | cr0::EM | cr0::TS | cr0::PG);
    (cpu.cr4, cpu.efer, cpu.cpl) = (0, 0, 0);
    cpu.dr7 = debug::DR7_FIXED;
    cpu.set_rflags(2);
    mode_changed(cpu);
}

/// RSM: goes on where the SMI came, in the state as it is saved now. A state that no processor can be in shuts it down.
///
/// # Errors
/// `#UD` outside system management mode.
pub fn leave(cpu: &mut Cpu) -> Result<()> {
    if !cpu.smm.active {
        return Err(cpu.ud());
    }
    let mut saved = Saved([0; SAVED_SIZE]);
    let read = cpu.read_physical(u64::from(cpu.smm.base) + SAVED, &mut saved.0);
    if read.is_none() || !is_possible(cpu, &saved) {
        tracing::debug!("RSM would resume a state that no processor can be in");
        cpu.activity = Activity::Shutdown;
        events::request(cpu);
        return Ok(());
    }
    restore(cpu, &saved);
    cpu.smm.active = false;
    cpu.mmu.select_view(false);
    cpu.nmi_masked = cpu.smm.inside_nmi;
    mode_changed(cpu);
    events::left_smm(cpu);
    Ok(())
}

/// The value of EFER that `saved` leads to: LMA follows from the rest.
fn efer_of(saved: &Saved) -> u64 {
    let value = saved.get64(field::EFER) & !efer::LMA;
    let paging = saved.get64(field::CR0) & cr0::PG != 0;
    let active = paging && value & efer::LME != 0;
    value | if active { efer::LMA } else { 0 }
}

/// What RSM checks (APM vol. 2, 10.4; SDM vol. 3, 32.4.1): the rules of the control registers, as for MOV.
fn is_possible(cpu: &Cpu, saved: &Saved) -> bool {
    let (zero, four) = (saved.get64(field::CR0), saved.get64(field::CR4));
    let efer = efer_of(saved);
    let long = efer & efer::LMA != 0;
    let has = |value: u64, bits: u64| value & bits != 0;
    let paging_fits = has(zero, cr0::PE) || !has(zero, cr0::PG);
    let caches_fit = has(zero, cr0::CD) || !has(zero, cr0::NW);
    let zero_fits = zero >> 32 == 0 && paging_fits && caches_fit;
    let identifiers_fit = long || !has(four, cr4::PCIDE);
    let four_fits = four & !control::cr4_bits(cpu) == 0 && identifiers_fit;
    let addresses_fit = saved.get64(field::CR3) >> cpuid::physical_bits(cpu) == 0;
    let virtual_8086 = has(saved.get64(field::RFLAGS), bit::VM);
    let long_fits = !long || (has(four, cr4::PAE) && addresses_fit && !virtual_8086);
    let debug_fits = saved.get64(field::DR6) >> 32 == 0 && saved.get64(field::DR7) >> 32 == 0;
    zero_fits && four_fits && long_fits && debug_fits && efer & !control::efer_bits(cpu) == 0
}

fn restore(cpu: &mut Cpu, saved: &Saved) {
    let efer = efer_of(saved);
    let long = efer & efer::LMA != 0;
    // An address of a segment or table has 32 bits outside long mode, and is canonical there.
    let address = |value: u64| match long {
        true if descriptor::is_canonical(value) => value,
        true => 0,
        false => value & 0xffff_ffff,
    };
    let segment = |at| {
        let segment = saved.segment(at);
        Segment {
            base: address(segment.base),
            ..segment
        }
    };
    let table = |at| {
        let table = saved.table(at);
        DescriptorTable {
            base: address(table.base),
            ..table
        }
    };
    cpu.segs = std::array::from_fn(|n| segment(field::SEGMENTS + 16 * n));
    (cpu.ldtr, cpu.tr) = (segment(field::LDTR), segment(field::TR));
    (cpu.gdtr, cpu.idtr) = (table(field::GDTR), table(field::IDTR));
    cpu.cr0 = saved.get64(field::CR0) & control::CR0_ALL | control::CR0_ET;
    (cpu.cr3, cpu.cr4, cpu.efer) = (saved.get64(field::CR3), saved.get64(field::CR4), efer);
    if !long {
        cpu.cr3 &= 0xffff_ffff;
    }
    cpu.dr6 = saved.get64(field::DR6) & debug::DR6_WRITABLE | debug::DR6_FIXED;
    cpu.dr7 = saved.get64(field::DR7) & debug::DR7_WRITABLE | debug::DR7_FIXED;
    for n in 0..16 {
        cpu.gpr[n] = saved.get64(field::RAX - 8 * n);
    }
    cpu.gpr[reg::ZERO] = 0;
    cpu.set_rflags(saved.get64(field::RFLAGS));
    let protected = cpu.cr0 & cr0::PE != 0;
    cpu.cpl = match (protected, cpu.rflags_rest & bit::VM != 0) {
        (false, _) => 0,
        (true, true) => 3,
        (true, false) => (cpu.segs[seg::SS].rights >> 5 & 3) as u8,
    };
    let wide = long && cpu.segs[seg::CS].rights & rights::LONG != 0;
    let rip = saved.get64(field::RIP);
    cpu.rip = if wide { rip } else { rip & 0xffff_ffff };
    cpu.smm.base = saved.get32(field::SMBASE);
    if saved.0[field::HALT_RESTART] & 1 != 0 {
        cpu.activity = Activity::Halted;
    }
    (cpu.shadow, cpu.stack_loaded) = (false, false);
}

/// What depends on the registers is computed again.
fn mode_changed(cpu: &mut Cpu) {
    cpu.update_mode();
    cpu.flush_tlb(true);
    cpu.switch_address_space(false);
    cpu.update_mode();
}
