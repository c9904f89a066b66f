//! The list and the generated code, instruction form by instruction form.

use iced_x86::{
    Code, Decoder, DecoderOptions, FlowControl, Instruction, OpCodeOperandKind, OpKind, Register,
};

use super::emit;
use super::features::{self, Class};
use super::list::{self, Route};

/// An instance of `code`, with memory where it can have a memory operand and `memory` is set.
fn instance(code: Code, memory: bool) -> Option<Instruction> {
    use OpCodeOperandKind as K;
    let mut instruction = Instruction::default();
    instruction.set_code(code);
    for operand in 0..code.op_code().op_count() {
        let kind = code.op_code().op_kind(operand);
        let may_be_memory = matches!(
            kind,
            K::mem
                | K::r8_or_mem
                | K::r16_or_mem
                | K::r32_or_mem
                | K::r64_or_mem
                | K::mm_or_mem
                | K::xmm_or_mem
                | K::ymm_or_mem
        );
        if kind == K::mem || may_be_memory && memory {
            instruction.set_op_kind(operand, OpKind::Memory);
            instruction.set_memory_base(Register::R13);
            instruction.set_memory_index(Register::R12);
            instruction.set_memory_displacement64(0x1234);
            instruction.set_memory_displ_size(4);
            continue;
        }
        // RSP and RDI are the registers that a stub must never use for the guest's.
        let register = match kind {
            K::r8_or_mem => Register::DIL,
            K::r16_or_mem | K::r16_reg | K::r16_rm => Register::SP,
            K::r32_or_mem | K::r32_reg | K::r32_rm => Register::ESP,
            K::r64_or_mem | K::r64_reg | K::r64_rm => Register::RSP,
            K::r32_vvvv => Register::EDI,
            K::r64_vvvv => Register::RDI,
            K::mm_or_mem | K::mm_reg | K::mm_rm => Register::MM3,
            K::xmm_or_mem | K::xmm_reg | K::xmm_rm => Register::XMM11,
            K::xmm_vvvv | K::xmm_is4 => Register::XMM12,
            K::ymm_or_mem | K::ymm_reg | K::ymm_rm => Register::YMM13,
            K::ymm_vvvv | K::ymm_is4 => Register::YMM14,
            K::st0 => Register::ST0,
            K::sti_opcode => Register::ST2,
            K::imm8 => {
                instruction.set_op_kind(operand, OpKind::Immediate8);
                instruction.set_immediate8(1);
                continue;
            }
            _ => return None,
        };
        instruction.set_op_kind(operand, OpKind::Register);
        instruction.set_op_register(operand, register);
    }
    Some(instruction)
}

/// Every form on the list that runs as a stub.
fn stub_codes() -> impl Iterator<Item = Code> {
    Code::values().filter(|&code| list::entry(code).is_some_and(|entry| entry.route == Route::Stub))
}

#[test]
fn every_form_on_the_list_has_a_stub_that_only_moves_state_and_runs_the_instruction() {
    let mut forms = 0;
    for code in stub_codes() {
        for memory in [false, true] {
            let Some(instruction) = instance(code, memory) else {
                panic!("{code:?} has an operand of another kind")
            };
            let shape = emit::normalise(&instruction);
            let bytes = emit::stub(&shape).unwrap_or_else(|error| panic!("{code:?}: {error}"));
            let mut decoder = Decoder::new(64, &bytes, DecoderOptions::NONE);
            let mut guest = 0;
            let mut last = Instruction::default();
            for host in &mut decoder {
                assert_ne!(host.code(), Code::INVALID, "{code:?}: {bytes:02x?}");
                if list::has_memory(&host) {
                    let base = host.memory_base();
                    assert!(
                        matches!(base, Register::RDI | Register::RSI),
                        "{code:?} touches {base:?}"
                    );
                    assert_eq!(host.memory_index(), Register::None);
                }
                if host.code() == code {
                    guest += 1;
                } else {
                    let expected = host.code() == Code::Retnq || emit::SCAFFOLD.contains(&host.code());
                    assert!(expected, "{code:?}: unexpected {host}");
                }
                last = host;
            }
            assert!(guest >= 1, "{code:?} is not in its own stub {bytes:02x?}");
            assert_eq!(last.code(), Code::Retnq, "{code:?}");
            forms += 1;
        }
    }
    assert!(forms > 1500, "only {forms} forms");
}

#[test]
fn nothing_privileged_or_branching_is_on_the_list() {
    for code in stub_codes() {
        let info = code.op_code();
        let instruction = instance(code, false).expect("ordinary operands");
        assert!(!info.is_privileged() && !info.must_be_cpl0(), "{code:?}");
        assert_eq!(instruction.flow_control(), FlowControl::Next, "{code:?}");
        assert_eq!(instruction.stack_pointer_increment(), 0, "{code:?}");
        assert!(!instruction.is_save_restore_instruction(), "{code:?}");
    }
    for code in [
        Code::Syscall,
        Code::Hlt,
        Code::Int_imm8,
        Code::Wrmsr,
        Code::Mov_cr_r64,
        Code::Add_rm64_r64,
        Code::Push_r64,
        Code::Xsetbv,
        Code::Monitorq,
        Code::Clzeroq,
        Code::EVEX_Vaddps_zmm_k1z_zmm_zmmm512b32_er,
        Code::Xsaves_mem,
    ] {
        assert_eq!(list::entry(code), None, "{code:?}");
    }
}

#[test]
fn what_names_no_operand_works_on_x87_or_mmx_registers() {
    for code in stub_codes().filter(|code| code.op_code().op_kinds().is_empty()) {
        let class = list::entry(code).unwrap().class;
        assert!(matches!(class, Class::X87 | Class::Mmx), "{code:?} is {class:?}");
    }
}

#[test]
fn the_forms_that_linux_and_its_programs_use_are_on_the_list() {
    for code in [
        Code::Movups_xmm_xmmm128,
        Code::Movaps_xmmm128_xmm,
        Code::Movntdq_m128_xmm,
        Code::Addsd_xmm_xmmm64,
        Code::VEX_Vpaddq_ymm_ymm_ymmm256,
        Code::VEX_Vfmadd231pd_ymm_ymm_ymmm256,
        Code::Popcnt_r64_rm64,
        Code::Tzcnt_r32_rm32,
        Code::VEX_Andn_r64_r64_rm64,
        Code::Crc32_r64_rm64,
        Code::Aesenc_xmm_xmmm128,
        Code::Sha256rnds2_xmm_xmmm128,
        Code::Fld_m80fp,
        Code::Fistp_m64int,
        Code::Fyl2x,
        Code::Emms,
        Code::Movnti_m64_r64,
        Code::Movbe_m64_r64,
        Code::Adcx_r64_rm64,
    ] {
        assert_eq!(
            list::entry(code).map(|entry| entry.route),
            Some(Route::Stub),
            "{code:?}"
        );
    }
    for code in [
        Code::Xsavec64_mem,
        Code::Xrstor_mem,
        Code::Fxsave_m512byte,
        Code::Fnstsw_AX,
        Code::Wait,
        Code::Mfence,
    ] {
        assert_eq!(
            list::entry(code).map(|entry| entry.route),
            Some(Route::Handler),
            "{code:?}"
        );
    }
}

#[test]
fn the_host_features_are_known() {
    let sse2 = features::bit_of(iced_x86::CpuidFeature::SSE2).expect("a feature");
    assert_ne!(features::host() & sse2, 0);
    assert_eq!(features::bit_of(iced_x86::CpuidFeature::AVX512F), None);
}
