//! A CPU's registers as GDB numbers and lays them out, and the target description that tells it so.
//!
//! The description is GDB's own for x86 (features `org.gnu.gdb.i386.core`, `.sse` and `.segments`), and a feature of ours with the
//! control registers, EFER and IA32_KERNEL_GS_BASE. GDB takes one description for a whole connection. It is that of x86-64 unless
//! the client asks for `i386`: then registers have 32 bits and there are eight. A CPU in another mode than that shows
//! what fits, and nothing else of it changes when a register is written.

use std::fmt::Write;

use ostler_accel::{CpuState, Msr};

/// Which description a connection uses.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Architecture {
    /// 64-bit registers, 16 of them.
    #[default]
    X86_64,
    /// 32-bit registers, eight of them.
    I386,
}

/// One register.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Register {
    /// General register by its encoding.
    General(usize),
    Rip,
    Flags,
    /// Selector, by encoding.
    Selector(usize),
    St(usize),
    FpuControl,
    FpuStatus,
    FpuTags,
    /// Half-words and words of the last x87 instruction: offset in the FXSAVE image, bytes.
    FpuLast(usize, usize),
    Xmm(usize),
    Mxcsr,
    /// Base of FS or GS, by encoding.
    Base(usize),
    KernelGsBase,
    Cr0,
    Cr2,
    Cr3,
    Cr4,
    Cr8,
    Efer,
}

/// A register's place in the description.
#[derive(Debug, Clone, Copy)]
struct Entry {
    name: &'static str,
    /// Bytes.
    size: usize,
    kind: &'static str,
    register: Register,
}

const KERNEL_GS_BASE: u32 = 0xc000_0102;
/// Offsets in the FXSAVE image (SDM vol. 1, 10.5.1).
mod at {
    pub const FCW: usize = 0;
    pub const FSW: usize = 2;
    pub const FTW: usize = 4;
    pub const FOP: usize = 6;
    pub const FIP: usize = 8;
    pub const FCS: usize = 12;
    pub const FDP: usize = 16;
    pub const FDS: usize = 20;
    pub const MXCSR: usize = 24;
    pub const ST: usize = 32;
    pub const XMM: usize = 160;
    /// XSTATE_BV of the XSAVE header.
    pub const XSTATE_BV: usize = 512;
}
/// x87 and SSE in XSTATE_BV.
const X87_AND_SSE: u8 = 3;

/// RFLAGS that a debugger may change: all but what is fixed, and VM, which is a mode.
const FLAGS: u64 = 0x3d_7fd5;

/// Names of the general registers in GDB's order, with their encodings.
const GENERAL_64: [(&str, usize); 16] = [
    ("rax", 0),
    ("rbx", 3),
    ("rcx", 1),
    ("rdx", 2),
    ("rsi", 6),
    ("rdi", 7),
    ("rbp", 5),
    ("rsp", 4),
    ("r8", 8),
    ("r9", 9),
    ("r10", 10),
    ("r11", 11),
    ("r12", 12),
    ("r13", 13),
    ("r14", 14),
    ("r15", 15),
];
const GENERAL_32: [(&str, usize); 8] = [
    ("eax", 0),
    ("ecx", 1),
    ("edx", 2),
    ("ebx", 3),
    ("esp", 4),
    ("ebp", 5),
    ("esi", 6),
    ("edi", 7),
];
const SELECTORS: [(&str, usize); 6] = [("cs", 1), ("ss", 2), ("ds", 3), ("es", 0), ("fs", 4), ("gs", 5)];
const ST: [&str; 8] = ["st0", "st1", "st2", "st3", "st4", "st5", "st6", "st7"];
const XMM: [&str; 16] = [
    "xmm0", "xmm1", "xmm2", "xmm3", "xmm4", "xmm5", "xmm6", "xmm7", "xmm8", "xmm9", "xmm10", "xmm11",
    "xmm12", "xmm13", "xmm14", "xmm15",
];

impl Architecture {
    /// The name that GDB has for it, and the client's word for it.
    pub fn name(self) -> &'static str {
        match self {
            Self::X86_64 => "i386:x86-64",
            Self::I386 => "i386",
        }
    }

    /// Features with their registers, in the order of their numbers.
    fn features(self) -> Vec<(&'static str, Vec<Entry>)> {
        let entry = |name, size, kind, register| Entry {
            name,
            size,
            kind,
            register,
        };
        let long = self == Self::X86_64;
        let mut core = Vec::new();
        let (general, width, int, code, data) = if long {
            (&GENERAL_64[..], 8, "int64", "code_ptr", "data_ptr")
        } else {
            (&GENERAL_32[..], 4, "int32", "code_ptr", "data_ptr")
        };
        for &(name, encoding) in general {
            let kind = if matches!(encoding, 4 | 5) { data } else { int };
            core.push(entry(name, width, kind, Register::General(encoding)));
        }
        core.push(entry(
            if long { "rip" } else { "eip" },
            width,
            code,
            Register::Rip,
        ));
        core.push(entry("eflags", 4, "i386_eflags", Register::Flags));
        for (name, encoding) in SELECTORS {
            core.push(entry(name, 4, "int32", Register::Selector(encoding)));
        }
        for (number, name) in ST.into_iter().enumerate() {
            core.push(entry(name, 10, "i387_ext", Register::St(number)));
        }
        for (name, register) in [
            ("fctrl", Register::FpuControl),
            ("fstat", Register::FpuStatus),
            ("ftag", Register::FpuTags),
            ("fiseg", Register::FpuLast(at::FCS, 2)),
            ("fioff", Register::FpuLast(at::FIP, 4)),
            ("foseg", Register::FpuLast(at::FDS, 2)),
            ("fooff", Register::FpuLast(at::FDP, 4)),
            ("fop", Register::FpuLast(at::FOP, 2)),
        ] {
            core.push(entry(name, 4, "int", register));
        }
        let mut sse: Vec<_> = XMM[..general.len().min(16)]
            .iter()
            .enumerate()
            .map(|(number, &name)| entry(name, 16, "vec128", Register::Xmm(number)))
            .collect();
        sse.push(entry("mxcsr", 4, "i386_mxcsr", Register::Mxcsr));
        let mut features = vec![("org.gnu.gdb.i386.core", core), ("org.gnu.gdb.i386.sse", sse)];
        if long {
            let bases = [("fs_base", 4), ("gs_base", 5)];
            let bases = bases.map(|(name, encoding)| entry(name, 8, "int64", Register::Base(encoding)));
            features.push(("org.gnu.gdb.i386.segments", bases.to_vec()));
        }
        let system = [
            ("k_gs_base", Register::KernelGsBase),
            ("cr0", Register::Cr0),
            ("cr2", Register::Cr2),
            ("cr3", Register::Cr3),
            ("cr4", Register::Cr4),
            ("cr8", Register::Cr8),
            ("efer", Register::Efer),
        ];
        let system = system.map(|(name, register)| entry(name, 8, "uint64", register));
        features.push(("org.ostler.i386.system", system.to_vec()));
        features
    }

    fn entries(self) -> Vec<Entry> {
        let features = self.features();
        features.into_iter().flat_map(|(_, entries)| entries).collect()
    }

    /// The target description.
    pub fn description(self) -> String {
        let mut xml = String::from(
            "<?xml version=\"1.0\"?>\n<!DOCTYPE target SYSTEM \"gdb-target.dtd\">\n<target version=\"1.0\">\n",
        );
        // Writing to a string does not fail.
        let _ = writeln!(xml, "<architecture>{}</architecture>", self.name());
        for (feature, entries) in self.features() {
            let _ = writeln!(xml, "<feature name=\"{feature}\">");
            xml.push_str(types(feature));
            for entry in entries {
                let group = match entry.register {
                    Register::FpuControl
                    | Register::FpuStatus
                    | Register::FpuTags
                    | Register::FpuLast(..) => " group=\"float\"",
                    Register::Mxcsr => " group=\"vector\"",
                    _ if entry.kind == "uint64" => " group=\"system\"",
                    _ => "",
                };
                let _ = writeln!(
                    xml,
                    "<reg name=\"{}\" bitsize=\"{}\" type=\"{}\"{group}/>",
                    entry.name,
                    8 * entry.size,
                    entry.kind
                );
            }
            xml.push_str("</feature>\n");
        }
        xml.push_str("</target>\n");
        xml
    }

    /// All registers of `state`, one behind the other.
    pub fn all(self, state: &CpuState) -> Vec<u8> {
        let entries = self.entries();
        entries.iter().flat_map(|entry| read(state, entry)).collect()
    }

    /// Sets all registers from what GDB sent; fewer than there are leave the rest. False if a register is cut.
    pub fn set_all(self, state: &mut CpuState, mut bytes: &[u8]) -> bool {
        for entry in self.entries() {
            if bytes.is_empty() {
                break;
            }
            let Some((value, rest)) = bytes.split_at_checked(entry.size) else {
                return false;
            };
            // One that cannot change comes back as it was.
            write(state, &entry, value);
            bytes = rest;
        }
        bytes.is_empty()
    }

    /// Register `number` of `state`.
    pub fn one(self, state: &CpuState, number: u64) -> Option<Vec<u8>> {
        let entries = self.entries();
        let entry = entries.get(usize::try_from(number).ok()?)?;
        Some(read(state, entry))
    }

    /// Sets register `number`. False if there is none, if it has another size, or if a debugger cannot change it.
    pub fn set_one(self, state: &mut CpuState, number: u64, bytes: &[u8]) -> bool {
        let entries = self.entries();
        let entry = usize::try_from(number)
            .ok()
            .and_then(|number| entries.get(number));
        entry.is_some_and(|entry| entry.size == bytes.len() && write(state, entry, bytes))
    }
}

/// The types that a feature's registers have besides GDB's own.
fn types(feature: &str) -> &'static str {
    match feature {
        "org.gnu.gdb.i386.core" => {
            r#"<flags id="i386_eflags" size="4">
<field name="" start="22" end="31"/>
<field name="CF" start="0" end="0"/><field name="" start="1" end="1"/><field name="PF" start="2" end="2"/>
<field name="AF" start="4" end="4"/><field name="ZF" start="6" end="6"/><field name="SF" start="7" end="7"/>
<field name="TF" start="8" end="8"/><field name="IF" start="9" end="9"/><field name="DF" start="10" end="10"/>
<field name="OF" start="11" end="11"/><field name="NT" start="14" end="14"/><field name="RF" start="16" end="16"/>
<field name="VM" start="17" end="17"/><field name="AC" start="18" end="18"/><field name="VIF" start="19" end="19"/>
<field name="VIP" start="20" end="20"/><field name="ID" start="21" end="21"/>
</flags>
"#
        }
        "org.gnu.gdb.i386.sse" => {
            r#"<vector id="v4f" type="ieee_single" count="4"/>
<vector id="v2d" type="ieee_double" count="2"/>
<vector id="v16i8" type="int8" count="16"/>
<vector id="v8i16" type="int16" count="8"/>
<vector id="v4i32" type="int32" count="4"/>
<vector id="v2i64" type="int64" count="2"/>
<union id="vec128">
<field name="v4_float" type="v4f"/><field name="v2_double" type="v2d"/><field name="v16_int8" type="v16i8"/>
<field name="v8_int16" type="v8i16"/><field name="v4_int32" type="v4i32"/><field name="v2_int64" type="v2i64"/>
<field name="uint128" type="uint128"/>
</union>
<flags id="i386_mxcsr" size="4">
<field name="IE" start="0" end="0"/><field name="DE" start="1" end="1"/><field name="ZE" start="2" end="2"/>
<field name="OE" start="3" end="3"/><field name="UE" start="4" end="4"/><field name="PE" start="5" end="5"/>
<field name="DAZ" start="6" end="6"/><field name="IM" start="7" end="7"/><field name="DM" start="8" end="8"/>
<field name="ZM" start="9" end="9"/><field name="OM" start="10" end="10"/><field name="UM" start="11" end="11"/>
<field name="PM" start="12" end="12"/><field name="FZ" start="15" end="15"/>
</flags>
"#
        }
        _ => "",
    }
}

/// A piece of the XSAVE area; zeros beyond its end.
fn area<const N: usize>(state: &CpuState, offset: usize) -> [u8; N] {
    let bytes = state.xsave.get(offset..offset + N);
    bytes.and_then(|bytes| bytes.try_into().ok()).unwrap_or([0; N])
}

fn half(state: &CpuState, offset: usize) -> u16 {
    u16::from_le_bytes(area(state, offset))
}

/// The bytes of a register, little-endian.
fn read(state: &CpuState, entry: &Entry) -> Vec<u8> {
    let value = match entry.register {
        Register::St(number) => return area::<10>(state, at::ST + 16 * number).to_vec(),
        Register::Xmm(number) => return area::<16>(state, at::XMM + 16 * number).to_vec(),
        Register::General(encoding) => state.gpr[encoding],
        Register::Rip => state.rip,
        Register::Flags => state.rflags,
        Register::Selector(encoding) => state.segments[encoding].selector.into(),
        Register::FpuControl => half(state, at::FCW).into(),
        Register::FpuStatus => half(state, at::FSW).into(),
        Register::FpuTags => full_tags(state).into(),
        Register::FpuLast(offset, 2) => half(state, offset).into(),
        Register::FpuLast(offset, _) => u32::from_le_bytes(area(state, offset)).into(),
        Register::Mxcsr => u32::from_le_bytes(area(state, at::MXCSR)).into(),
        Register::Base(encoding) => state.segments[encoding].base,
        Register::KernelGsBase => state
            .msrs
            .iter()
            .find(|msr| msr.index == KERNEL_GS_BASE)
            .map_or(0, |msr| msr.value),
        Register::Cr0 => state.cr0,
        Register::Cr2 => state.cr2,
        Register::Cr3 => state.cr3,
        Register::Cr4 => state.cr4,
        Register::Cr8 => state.cr8,
        Register::Efer => state.efer,
    };
    value.to_le_bytes()[..entry.size].to_vec()
}

/// Changes a register. False if a debugger cannot.
fn write(state: &mut CpuState, entry: &Entry, bytes: &[u8]) -> bool {
    let mut word = [0; 8];
    let len = bytes.len().min(8);
    word[..len].copy_from_slice(&bytes[..len]);
    let value = u64::from_le_bytes(word);
    match entry.register {
        Register::General(encoding) => state.gpr[encoding] = value,
        Register::Rip => state.rip = value,
        Register::Flags => state.rflags = state.rflags & !FLAGS | value & FLAGS,
        Register::Selector(encoding) => return set_selector(state, encoding, value as u16),
        Register::St(number) => set_area(state, at::ST + 16 * number, bytes),
        Register::Xmm(number) => set_area(state, at::XMM + 16 * number, bytes),
        Register::FpuControl => set_area(state, at::FCW, &bytes[..2]),
        Register::FpuStatus => set_area(state, at::FSW, &bytes[..2]),
        Register::FpuTags => {
            let tags = (0..8).fold(0, |tags, n| tags | u8::from(value >> (2 * n) & 3 != 3) << n);
            set_area(state, at::FTW, &[tags]);
        }
        Register::FpuLast(offset, size) => set_area(state, offset, &bytes[..size]),
        // Reserved bits would make its load fault.
        Register::Mxcsr if value > 0xffff => return false,
        Register::Mxcsr => set_area(state, at::MXCSR, bytes),
        Register::Base(encoding) => state.segments[encoding].base = value,
        Register::KernelGsBase => {
            state.msrs.retain(|msr| msr.index != KERNEL_GS_BASE);
            state.msrs.push(Msr {
                index: KERNEL_GS_BASE,
                value,
            });
        }
        Register::Cr2 => state.cr2 = value,
        // These decide about the mode, in which a CPU must be whole: nothing but the guest's own code changes it.
        Register::Cr0 => return state.cr0 == value,
        Register::Cr3 => state.cr3 = value,
        Register::Cr4 => return state.cr4 == value,
        Register::Efer => return state.efer == value,
        // The LAPIC's.
        Register::Cr8 => return state.cr8 == value,
    }
    true
}

/// In real mode a selector is a base; elsewhere its descriptor would have to be loaded, which only the guest's code does.
fn set_selector(state: &mut CpuState, encoding: usize, selector: u16) -> bool {
    let segment = &mut state.segments[encoding];
    if state.cr0 & 1 != 0 {
        return segment.selector == selector;
    }
    if segment.selector != selector {
        segment.selector = selector;
        segment.base = u64::from(selector) << 4;
    }
    true
}

fn set_area(state: &mut CpuState, offset: usize, bytes: &[u8]) {
    if let Some(place) = state.xsave.get_mut(offset..offset + bytes.len())
        && place != bytes
    {
        place.copy_from_slice(bytes);
        if let Some(components) = state.xsave.get_mut(at::XSTATE_BV) {
            *components |= X87_AND_SSE;
        }
    }
}

/// The x87 tag word as FSTENV makes it from the abridged one and the registers (SDM vol. 1, 10.5.1.1).
fn full_tags(state: &CpuState) -> u16 {
    let abridged: [u8; 1] = area(state, at::FTW);
    let top = usize::from(half(state, at::FSW) >> 11 & 7);
    (0..8).fold(0, |tags, physical| {
        let tag = if abridged[0] >> physical & 1 == 0 {
            3
        } else {
            let register: [u8; 10] = area(state, at::ST + 16 * ((physical + 8 - top) % 8));
            class(&register)
        };
        tags | tag << (2 * physical)
    })
}

/// Valid, zero or special, as the tag of an x87 register.
fn class(register: &[u8; 10]) -> u16 {
    let exponent = u16::from_le_bytes([register[8], register[9]]) & 0x7fff;
    let integer_bit = register[7] >> 7 != 0;
    match exponent {
        0 if register[..8] == [0; 8] => 1,
        0 | 0x7fff => 2,
        _ if integer_bit => 0,
        _ => 2,
    }
}

/// What `monitor info registers` shows: also what GDB has no registers for.
pub fn summary(state: &CpuState) -> String {
    let mut text = String::new();
    for (number, &(name, encoding)) in GENERAL_64.iter().enumerate() {
        let end = if number % 4 == 3 { '\n' } else { ' ' };
        let _ = write!(text, "{name:>3}={:016x}{end}", state.gpr[encoding]);
    }
    let _ = writeln!(text, "rip={:016x} rflags={:08x}", state.rip, state.rflags);
    let segment = |text: &mut String, name: &str, segment: &ostler_accel::Segment| {
        let _ = writeln!(
            text,
            "{name:<4} {:04x} base={:016x} limit={:08x} rights={:04x}",
            segment.selector, segment.base, segment.limit, segment.rights
        );
    };
    for (name, encoding) in SELECTORS {
        segment(&mut text, name, &state.segments[encoding]);
    }
    segment(&mut text, "ldtr", &state.ldtr);
    segment(&mut text, "tr", &state.tr);
    for (name, table) in [("gdtr", &state.gdtr), ("idtr", &state.idtr)] {
        let _ = writeln!(text, "{name} base={:016x} limit={:04x}", table.base, table.limit);
    }
    let _ = writeln!(
        text,
        "cr0={:08x} cr2={:016x} cr3={:016x} cr4={:08x} efer={:x} xcr0={:x}",
        state.cr0, state.cr2, state.cr3, state.cr4, state.efer, state.xcr0
    );
    let [d0, d1, d2, d3, dr6, dr7] = state.debug;
    let _ = writeln!(
        text,
        "dr0={d0:016x} dr1={d1:016x} dr2={d2:016x} dr3={d3:016x} dr6={dr6:08x} dr7={dr7:08x}"
    );
    text
}

#[cfg(test)]
mod tests {
    use super::*;
    use ostler_accel::reset_state;
    use proptest::prelude::*;

    const BOTH: [Architecture; 2] = [Architecture::X86_64, Architecture::I386];

    fn number(architecture: Architecture, name: &str) -> u64 {
        let entries = architecture.entries();
        entries.iter().position(|entry| entry.name == name).unwrap() as u64
    }

    #[test]
    fn the_numbers_are_those_that_gdb_expects() {
        // As in GDB's own descriptions, where later registers are counted on from.
        let long = |name| number(Architecture::X86_64, name);
        assert_eq!(
            [
                "rax", "rip", "eflags", "gs", "st0", "fop", "xmm0", "mxcsr", "fs_base"
            ]
            .map(long),
            [0, 16, 17, 23, 24, 39, 40, 56, 57]
        );
        let short = |name| number(Architecture::I386, name);
        assert_eq!(
            ["eax", "eip", "gs", "st0", "xmm0", "mxcsr"].map(short),
            [0, 8, 15, 16, 32, 40]
        );
    }

    #[test]
    fn a_register_can_be_set_by_its_number() {
        let mut state = reset_state(0);
        let architecture = Architecture::X86_64;
        for (name, bytes) in [
            ("r15", 0x1122_3344_5566_7788u64.to_le_bytes().to_vec()),
            ("rip", 0xffff_ffff_8100_0000u64.to_le_bytes().to_vec()),
            ("xmm15", (0..16).collect()),
            ("st3", (0..10).collect()),
            ("gs_base", 0xffff_8880_0000_0000u64.to_le_bytes().to_vec()),
            ("k_gs_base", 7u64.to_le_bytes().to_vec()),
            ("cr3", 0x1000u64.to_le_bytes().to_vec()),
            ("mxcsr", 0x1fa0u32.to_le_bytes().to_vec()),
            ("fctrl", 0x37fu32.to_le_bytes().to_vec()),
        ] {
            let number = number(architecture, name);
            assert!(architecture.set_one(&mut state, number, &bytes), "{name}");
            assert_eq!(architecture.one(&state, number).unwrap(), bytes, "{name}");
        }
        assert_eq!(state.gpr[15], 0x1122_3344_5566_7788);
        assert_eq!(state.segments[5].base, 0xffff_8880_0000_0000);
        assert!(!architecture.set_one(&mut state, number(architecture, "cr0"), &[0; 8]));
        assert!(!architecture.set_one(&mut state, 0, &[0; 4]) && !architecture.set_one(&mut state, 999, &[]));
        assert!(!architecture.set_one(&mut state, number(architecture, "mxcsr"), &[255; 4]));
    }

    #[test]
    fn selectors_are_bases_in_real_mode_only() {
        let mut state = reset_state(0);
        let ds = number(Architecture::I386, "ds");
        assert!(Architecture::I386.set_one(&mut state, ds, &[0, 0x12, 0, 0]));
        assert_eq!(
            (state.segments[3].selector, state.segments[3].base),
            (0x1200, 0x1_2000)
        );
        state.cr0 |= 1;
        assert!(!Architecture::I386.set_one(&mut state, ds, &[8, 0, 0, 0]));
        assert!(
            Architecture::I386.set_one(&mut state, ds, &[0, 0x12, 0, 0]),
            "no change"
        );
    }

    #[test]
    fn the_tag_word_tells_empty_from_zero_valid_and_special() {
        let mut state = reset_state(0);
        // Top is 6: physical registers 6 and 7 are ST0 and ST1.
        state.xsave[at::FSW..at::FSW + 2].copy_from_slice(&(6u16 << 11).to_le_bytes());
        state.xsave[at::FTW] = 0xc1;
        state.xsave[at::ST..at::ST + 10].copy_from_slice(&[0, 0, 0, 0, 0, 0, 0, 0x80, 0xff, 0x3f]);
        state.xsave[at::ST + 16 + 8..at::ST + 16 + 10].copy_from_slice(&[0xff, 0x7f]);
        // Physical 0 is ST2: zero.
        assert_eq!(full_tags(&state), 2 << 14 | 0xffc | 1);
    }

    #[test]
    fn the_description_names_each_register_once() {
        for architecture in BOTH {
            let xml = architecture.description();
            for entry in architecture.entries() {
                let name = format!("<reg name=\"{}\" ", entry.name);
                assert_eq!(xml.matches(&name).count(), 1, "{name}");
            }
            assert!(xml.contains(&format!("<architecture>{}<", architecture.name())));
        }
    }

    proptest! {
        #[test]
        fn what_is_read_can_be_written_back(gpr: [u64; 16], rip: u64, vectors in proptest::collection::vec(any::<u8>(), 544)) {
            for architecture in BOTH {
                let mut state = reset_state(1);
                (state.gpr, state.rip) = (gpr, rip);
                if architecture == Architecture::I386 {
                    state.gpr[..8].iter_mut().for_each(|value| *value &= 0xffff_ffff);
                    state.rip &= 0xffff_ffff;
                }
                state.xsave[at::ST..512].copy_from_slice(&vectors[at::ST..512]);
                state.msrs.push(Msr { index: KERNEL_GS_BASE, value: rip });
                let mut back = state.clone();
                prop_assert!(architecture.set_all(&mut back, &architecture.all(&state)));
                prop_assert_eq!(back, state);
            }
        }

        #[test]
        fn any_bytes_are_taken_or_refused(bytes in proptest::collection::vec(any::<u8>(), 0..1000), number: u64) {
            for architecture in BOTH {
                let mut state = reset_state(0);
                architecture.set_all(&mut state, &bytes);
                architecture.set_one(&mut state, number % 80, &bytes);
                let _ = summary(&state);
            }
        }
    }
}
