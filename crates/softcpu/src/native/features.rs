//! Which instructions the guest may use: what its CPUID offers, what the host has, and what CR0, CR4 and XCR0 allow.

use std::sync::OnceLock;

use iced_x86::CpuidFeature;
use ostler_accel::CpuidLeaf;

use crate::fault::{Exception, Result};
use crate::state::{Cpu, cr0, cr4};

/// A set of instruction-set extensions, one bit each.
pub type FeatureSet = u32;

/// The register a CPUID leaf reports a feature in.
#[derive(Clone, Copy)]
enum Answer {
    Ebx,
    Ecx,
    Edx,
}

/// A feature that stubs may use, and where CPUID reports it.
struct Row {
    feature: CpuidFeature,
    leaf: u32,
    answer: Answer,
    bit: u32,
}

const fn row(feature: CpuidFeature, leaf: u32, answer: Answer, bit: u32) -> Row {
    Row {
        feature,
        leaf,
        answer,
        bit,
    }
}

/// Extended features report in leaf 8000_0001.
const EXTENDED: u32 = 0x8000_0001;

/// Every extension in this folder; the bit in a [`FeatureSet`] is the row's number.
const ROWS: [Row; 31] = [
    row(CpuidFeature::FPU, 1, Answer::Edx, 0),
    row(CpuidFeature::MMX, 1, Answer::Edx, 23),
    row(CpuidFeature::FXSR, 1, Answer::Edx, 24),
    row(CpuidFeature::SSE, 1, Answer::Edx, 25),
    row(CpuidFeature::SSE2, 1, Answer::Edx, 26),
    row(CpuidFeature::CLFSH, 1, Answer::Edx, 19),
    row(CpuidFeature::CMOV, 1, Answer::Edx, 15),
    row(CpuidFeature::SSE3, 1, Answer::Ecx, 0),
    row(CpuidFeature::PCLMULQDQ, 1, Answer::Ecx, 1),
    row(CpuidFeature::SSSE3, 1, Answer::Ecx, 9),
    row(CpuidFeature::FMA, 1, Answer::Ecx, 12),
    row(CpuidFeature::SSE4_1, 1, Answer::Ecx, 19),
    row(CpuidFeature::SSE4_2, 1, Answer::Ecx, 20),
    row(CpuidFeature::MOVBE, 1, Answer::Ecx, 22),
    row(CpuidFeature::POPCNT, 1, Answer::Ecx, 23),
    row(CpuidFeature::AES, 1, Answer::Ecx, 25),
    row(CpuidFeature::XSAVE, 1, Answer::Ecx, 26),
    row(CpuidFeature::AVX, 1, Answer::Ecx, 28),
    row(CpuidFeature::F16C, 1, Answer::Ecx, 29),
    row(CpuidFeature::BMI1, 7, Answer::Ebx, 3),
    row(CpuidFeature::AVX2, 7, Answer::Ebx, 5),
    row(CpuidFeature::BMI2, 7, Answer::Ebx, 8),
    row(CpuidFeature::ADX, 7, Answer::Ebx, 19),
    row(CpuidFeature::CLFLUSHOPT, 7, Answer::Ebx, 23),
    row(CpuidFeature::CLWB, 7, Answer::Ebx, 24),
    row(CpuidFeature::SHA, 7, Answer::Ebx, 29),
    row(CpuidFeature::VAES, 7, Answer::Ecx, 9),
    row(CpuidFeature::VPCLMULQDQ, 7, Answer::Ecx, 10),
    row(CpuidFeature::LZCNT, EXTENDED, Answer::Ecx, 5),
    row(CpuidFeature::XSAVEOPT, 0xd, Answer::Ebx, 0),
    row(CpuidFeature::XSAVEC, 0xd, Answer::Ebx, 1),
];

/// Bit of `feature`, if instructions with it may be offered at all.
pub fn bit_of(feature: CpuidFeature) -> Option<FeatureSet> {
    let feature = match feature {
        CpuidFeature::FPU287 | CpuidFeature::FPU387 => CpuidFeature::FPU,
        other => other,
    };
    ROWS.iter()
        .position(|row| row.feature == feature)
        .map(|index| 1 << index)
}

/// True if instructions of the feature that `leaves` offer, and nothing else, may be executed.
#[cfg(test)]
pub fn executes(leaves: &[CpuidLeaf]) -> bool {
    offered(leaves) != 0
}

/// What CPUID answers `leaves` offer.
fn offered(leaves: &[CpuidLeaf]) -> FeatureSet {
    let answer = |leaf: u32, subleaf: u32| {
        leaves
            .iter()
            .find(|l| l.leaf == leaf && l.subleaf.is_none_or(|number| number == subleaf))
    };
    let bit = |row: &Row| {
        if row.leaf == 0xd {
            return answer(0xd, 1).is_some_and(|l| l.eax >> row.bit & 1 != 0);
        }
        answer(row.leaf, 0).is_some_and(|leaf| {
            let register = match row.answer {
                Answer::Ebx => leaf.ebx,
                Answer::Ecx => leaf.ecx,
                Answer::Edx => leaf.edx,
            };
            register >> row.bit & 1 != 0
        })
    };
    ROWS.iter()
        .enumerate()
        .filter(|(_, row)| bit(row))
        .map(|(index, _)| 1 << index)
        .sum()
}

/// What this host has. A guest is never offered more, whatever its CPUID says.
pub fn host() -> FeatureSet {
    static HOST: OnceLock<FeatureSet> = OnceLock::new();
    *HOST.get_or_init(|| {
        let leaf = |leaf: u32, subleaf: u32| {
            let answer = std::arch::x86_64::__cpuid_count(leaf, subleaf);
            CpuidLeaf {
                leaf,
                subleaf: Some(subleaf),
                eax: answer.eax,
                ebx: answer.ebx,
                ecx: answer.ecx,
                edx: answer.edx,
            }
        };
        let mut offered = offered(&[leaf(1, 0), leaf(7, 0), leaf(0xd, 1), leaf(EXTENDED, 0)]);
        if !std::arch::is_x86_feature_detected!("avx") {
            for avx in [
                CpuidFeature::AVX,
                CpuidFeature::AVX2,
                CpuidFeature::FMA,
                CpuidFeature::F16C,
                CpuidFeature::VAES,
                CpuidFeature::VPCLMULQDQ,
            ] {
                offered &= !bit_of(avx).unwrap_or(0);
            }
        }
        offered
    })
}

/// Features whose instructions the interpreter carries out itself, so that the host need not have them.
const EMULATED: [CpuidFeature; 5] = [
    CpuidFeature::XSAVE,
    CpuidFeature::XSAVEOPT,
    CpuidFeature::XSAVEC,
    CpuidFeature::CLFLUSHOPT,
    CpuidFeature::CLWB,
];

/// The extensions that a guest with these CPUID answers can execute.
pub fn usable(leaves: &[CpuidLeaf]) -> FeatureSet {
    let emulated = EMULATED
        .iter()
        .filter_map(|&feature| bit_of(feature))
        .fold(0, |set, bit| set | bit);
    offered(leaves) & (host() | emulated)
}

/// Which part of the state an instruction works on, and so which control bits guard it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Class {
    /// General registers, legacy encoding: never guarded.
    Integer,
    /// General registers, VEX encoding: protected mode only.
    IntegerVex,
    /// x87: CR0.EM and CR0.TS give #NM.
    X87,
    /// FWAIT: #NM only if CR0.MP and CR0.TS are both set.
    Wait,
    /// MMX registers: CR0.EM gives #UD, CR0.TS #NM.
    Mmx,
    /// XMM registers, legacy encoding: CR4.OSFXSR too.
    Sse,
    /// Vector registers, VEX encoding: CR4.OSXSAVE and XCR0.
    Avx,
    /// FXSAVE and FXRSTOR: #NM with CR0.EM or CR0.TS.
    Fxsave,
    /// The XSAVE family: #UD without CR4.OSXSAVE, #NM with CR0.TS.
    Xsave,
}

impl Cpu {
    /// Checks the control bits that guard `class`: #UD or #NM (SDM vol. 3, tables 2-2 and 14.1; vol. 2, 2.4).
    #[inline]
    pub(super) fn check_class(&mut self, class: Class) -> Result<()> {
        const BLOCKED: u64 = cr0::EM | cr0::TS;
        let open = match class {
            Class::Integer => true,
            Class::IntegerVex => self.is_protected(),
            Class::X87 | Class::Mmx | Class::Fxsave => self.cr0 & BLOCKED == 0,
            Class::Wait => self.cr0 & (cr0::MP | cr0::TS) != cr0::MP | cr0::TS,
            Class::Sse => self.cr0 & BLOCKED == 0 && self.cr4 & cr4::OSFXSR != 0,
            Class::Avx => {
                self.cr0 & cr0::TS == 0
                    && self.cr4 & cr4::OSXSAVE != 0
                    && self.xcr0 & AVX_STATE == AVX_STATE
                    && self.is_protected()
            }
            Class::Xsave => self.cr0 & cr0::TS == 0 && self.cr4 & cr4::OSXSAVE != 0,
        };
        if open {
            Ok(())
        } else {
            Err(self.class_fault(class))
        }
    }

    /// The exception for a class that is not open.
    #[cold]
    fn class_fault(&mut self, class: Class) -> crate::fault::Stop {
        let undefined = match class {
            Class::Integer | Class::X87 | Class::Wait | Class::Fxsave => false,
            Class::IntegerVex => true,
            Class::Mmx => self.cr0 & cr0::EM != 0,
            Class::Sse => self.cr0 & cr0::EM != 0 || self.cr4 & cr4::OSFXSR == 0,
            Class::Avx => {
                self.cr4 & cr4::OSXSAVE == 0 || self.xcr0 & AVX_STATE != AVX_STATE || !self.is_protected()
            }
            Class::Xsave => self.cr4 & cr4::OSXSAVE == 0,
        };
        self.raise(if undefined {
            Exception::ud()
        } else {
            Exception::nm()
        })
    }
}

/// XCR0 bits that AVX needs: SSE and AVX state.
pub const AVX_STATE: u64 = 0b110;
