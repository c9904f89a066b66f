//! Random code in the interpreter and translated: whatever the bytes are, both engines do the same.
//!
//! A fuzz target by seeds: pure noise, instructions with bits flipped, absurd prefixes, jumps into the middle of instructions, code at the
//! end of its page. The architecture leaves some flags and results open, and the engines may differ in those. So what differs is
//! executed once more, an instruction at a time, to see whether something open was looked at.

use std::time::Duration;

use iced_x86::{Decoder, DecoderOptions, Instruction, Mnemonic, RflagsBits};
use ostler_softcpu::vm::{Engine, SoftCpu};

use super::generator;
use super::guest::Guest;
use super::machine_state::{CODE, Case, Final, PAGE, Registers};
use super::rng::Rng;
use super::sequence::rflags;

/// Blocks unless the environment says otherwise.
const BLOCKS: u64 = 20_000;
/// How long code without an end is let run in the interpreter.
const PATIENCE: Duration = Duration::from_millis(2);
/// How long code that has an end may take when it is translated.
const MORE_PATIENCE: Duration = Duration::from_secs(1);
/// Bytes of random code.
const LENGTH: usize = 64;
/// Memories to begin with.
const MEMORIES: usize = 16;
/// RFLAGS.TF.
const TRAP: u64 = 1 << 8;

/// The two engines.
struct Engines {
    interpreter: Guest,
    translator: Guest,
}

/// What became of a case.
#[derive(Debug, PartialEq, Eq)]
enum Verdict {
    Same,
    /// It has no end.
    Endless,
    /// It looks at what the architecture leaves open, or at the time.
    Open,
    Different(Vec<String>),
}

impl Engines {
    fn start() -> Self {
        let guest = |engine, patience| Guest::with_patience(&SoftCpu { engine }, patience);
        Self {
            interpreter: guest(Engine::Interpreter, PATIENCE),
            translator: guest(Engine::Translator { after: 1 }, MORE_PATIENCE),
        }
    }

    /// Runs `case` in both, translated the second time.
    fn compare(&mut self, case: &Case) -> Verdict {
        self.interpreter.put_code(case);
        let Some(expected) = attempt(&mut self.interpreter, case) else {
            return Verdict::Endless;
        };
        self.translator.put_code(case);
        for _ in 0..2 {
            let Some(found) = attempt(&mut self.translator, case) else {
                return match self.trace(case) {
                    Some(_) => Verdict::Different(vec!["translated, it has no end".into()]),
                    None => Verdict::Open,
                };
            };
            let different = differences(&expected, &found, 0);
            if !different.is_empty() {
                return match self.trace(case) {
                    Some(open) => match differences(&expected, &found, open) {
                        different if different.is_empty() => Verdict::Same,
                        different => Verdict::Different(different),
                    },
                    None => Verdict::Open,
                };
            }
        }
        Verdict::Same
    }

    /// Executes `case` an instruction at a time. Returns the flags that are open at its end, or `None` if something open was looked at.
    fn trace(&mut self, case: &Case) -> Option<u64> {
        const MOST: usize = 100_000;
        let mut at = case.clone();
        let mut open = 0;
        for _ in 0..MOST {
            let instruction = instruction_at(case, at.registers.rip);
            at.registers.rflags |= TRAP;
            let next = attempt(&mut self.interpreter, &at)?;
            let (reads, after) = effect_on_open(&instruction, &at.registers, open);
            if reads {
                return None;
            }
            if next.outcome.vector != 1 || instruction.mnemonic() == Mnemonic::Int1 {
                // What faults leaves the flags alone, but for strings.
                return Some(open | after);
            }
            open = after;
            at.registers = next.outcome.registers;
            at.registers.rflags &= !TRAP;
            at.memory = next.memory;
        }
        None
    }
}

/// A run that may have been interrupted for no fault of its own.
fn attempt(guest: &mut Guest, case: &Case) -> Option<Final> {
    (0..4).find_map(|_| guest.attempt(case))
}

fn instruction_at(case: &Case, rip: u64) -> Instruction {
    let mut code = case.code.clone();
    code.resize(PAGE, 0xcc);
    let from = rip.wrapping_sub(CODE).min(PAGE as u64) as usize;
    Decoder::with_ip(64, &code[from..], rip, DecoderOptions::NONE).decode()
}

/// Whether `i` makes something of the open flags `open`, or of the time, or has an open result; and the flags that are open after it.
fn effect_on_open(i: &Instruction, before: &Registers, open: u64) -> (bool, u64) {
    use Mnemonic as M;
    let reads = rflags(i.rflags_read());
    let count = before.gpr[1];
    let open_result = match i.mnemonic() {
        // The destination is open where the source is zero, or the number of bits is beyond the operand.
        M::Bsf | M::Bsr | M::Bswap => true,
        M::Shld | M::Shrd => true,
        M::Rdtsc | M::Rdtscp | M::Rdrand | M::Rdseed | M::Rdpmc => true,
        // They hold the address of the last x87 instruction, which only the one that executes in place notes exactly.
        M::Fnstenv
        | M::Fnsave
        | M::Fxsave
        | M::Fxsave64
        | M::Xsave
        | M::Xsave64
        | M::Xsaveopt
        | M::Xsavec => true,
        M::Pushf | M::Pushfd | M::Pushfq | M::Lahf => open != 0,
        _ => false,
    };
    let shift = matches!(
        i.mnemonic(),
        M::Shl | M::Sal | M::Shr | M::Sar | M::Rol | M::Ror | M::Rcl | M::Rcr
    );
    let may_keep = shift && count & 0x1f == 0 || i.has_rep_prefix() || i.has_repne_prefix();
    let written = rflags(i.rflags_modified());
    let undefined = rflags(i.rflags_undefined() & ARITHMETIC);
    let kept = if may_keep { open } else { open & !written };
    (open_result || reads & open != 0, kept | undefined)
}

const ARITHMETIC: u32 =
    RflagsBits::OF | RflagsBits::SF | RflagsBits::ZF | RflagsBits::AF | RflagsBits::CF | RflagsBits::PF;

/// Everything that is not the same, but for the flags `open`.
fn differences(one: &Final, other: &Final, open: u64) -> Vec<String> {
    let (a, b) = (&one.outcome, &other.outcome);
    let mut found = Vec::new();
    let mut number = |name: String, a: u64, b: u64| {
        if a != b {
            found.push(format!("{name}: interpreted {a:#x}, translated {b:#x}"));
        }
    };
    number("vector".to_owned(), a.vector, b.vector);
    number("error code".into(), a.error, b.error);
    number("cr2".into(), a.cr2, b.cr2);
    number("rip".into(), a.registers.rip, b.registers.rip);
    number(
        "rflags".into(),
        a.registers.rflags & !open,
        b.registers.rflags & !open,
    );
    for (at, (a, b)) in a.registers.gpr.iter().zip(&b.registers.gpr).enumerate() {
        if a != b {
            number(format!("register {at}"), *a, *b);
        }
    }
    // But for the x87 instruction and data pointers.
    let bytes = |f: &Final| [&f.outcome.registers.xsave[..8], &f.outcome.registers.xsave[24..]].concat();
    let parts = [
        ("xsave", bytes(one), bytes(other)),
        ("memory", one.memory.clone(), other.memory.clone()),
    ];
    for (name, one, other) in parts.iter().filter(|(_, one, other)| one != other) {
        for (at, (a, b)) in one.iter().zip(other).enumerate().filter(|(_, (a, b))| a != b) {
            number(format!("{name} +{at:#x}"), (*a).into(), (*b).into());
        }
    }
    found
}

/// Random code of some kind.
fn code(rng: &mut Rng) -> Vec<u8> {
    let mut noise = |len: usize| -> Vec<u8> { (0..len).map(|_| rng.next() as u8).collect() };
    match noise(1)[0] % 8 {
        0 | 1 => noise(LENGTH),
        2 => prefixed(rng),
        kind => {
            let (sequence, registers, memory) = generator::sequence(rng.next());
            let case = generator::case(&sequence, &registers, &memory).filter(|(case, _)| case.long);
            let mut code = case.map_or_else(|| prefixed(rng), |(case, _)| case.code);
            // Most of it stays what it was, or nothing would come to its second instruction.
            for _ in 0..rng.below(if kind < 6 { 3 } else { 12 }) {
                let at = rng.below(code.len());
                code[at] ^= 1 << rng.below(8);
            }
            code
        }
    }
}

/// Instructions with prefixes that make little sense.
fn prefixed(rng: &mut Rng) -> Vec<u8> {
    const PREFIXES: [u8; 18] = [
        0x66, 0x67, 0xf2, 0xf3, 0xf0, 0x2e, 0x36, 0x3e, 0x26, 0x64, 0x65, 0x40, 0x48, 0x4f, 0xc4, 0xc5, 0x62,
        0x8f,
    ];
    let mut code = Vec::new();
    while code.len() < LENGTH {
        for _ in 0..rng.below(5) {
            code.push(rng.pick(&PREFIXES));
        }
        if rng.chance(40) {
            code.push(0x0f);
        }
        for _ in 0..1 + rng.below(5) {
            code.push(rng.next() as u8);
        }
    }
    code
}

/// The case of a seed.
fn case(seed: u64, memories: &[Vec<u8>]) -> Case {
    let mut rng = Rng::new(seed);
    let mut registers = generator::start(&mut rng, true);
    let random = code(&mut rng);
    let room = PAGE - random.len().min(PAGE);
    let at = match rng.below(4) {
        // At the end of the page, or cut by it.
        0 => PAGE - 1 - rng.below(random.len().min(40)),
        1 => room,
        _ => rng.below(room + 1),
    };
    let mut code = vec![0xcc; at];
    code.extend(&random);
    code.truncate(PAGE);
    // Sometimes into the middle of what was meant.
    let skip = if rng.chance(20) { rng.below(4) } else { 0 };
    registers.rip = CODE + (at + skip).min(PAGE - 1) as u64;
    Case {
        code,
        long: true,
        registers,
        memory: memories[rng.below(memories.len())].clone(),
    }
}

fn memories() -> Vec<Vec<u8>> {
    let mut rng = Rng::new(77);
    (0..MEMORIES)
        .map(|_| generator::start_of(&mut rng, true).1)
        .collect()
}

#[test]
fn random_code_does_the_same_in_both_engines() {
    let count = super::sequences::setting("OSTLER_RANDOM_CODE", BLOCKS);
    let first = super::sequences::setting("DIFF_SEED", 1);
    let mut engines = Engines::start();
    let memories = memories();
    let (mut endless, mut open) = (0, 0);
    for seed in first..first + count {
        let case = case(seed, &memories);
        match engines.compare(&case) {
            Verdict::Same => {}
            Verdict::Endless => endless += 1,
            Verdict::Open => open += 1,
            Verdict::Different(found) => {
                let at = (case.registers.rip - CODE) as usize;
                let mut listing = String::new();
                let decoder =
                    Decoder::with_ip(64, &case.code[at..], case.registers.rip, DecoderOptions::NONE);
                for i in decoder.into_iter().take(12) {
                    listing += &format!("    {:#x} {:?}: {i}\n", i.ip(), i.code());
                }
                panic!("DIFF_SEED={seed}\n{listing}{}", found.join("\n"));
            }
        }
    }
    eprintln!("{count} blocks, {endless} without an end, {open} that look at what is open");
    assert!(
        endless + open <= count / 20,
        "{endless} and {open} of {count} were not compared"
    );
}

#[test]
fn a_difference_is_noticed() {
    let mut engines = Engines::start();
    let memories = memories();
    let mut case = case(1, &memories);
    // add eax, ecx; int3: the translator gets a sub.
    case.code = vec![0x01, 0xc8, 0xcc];
    case.registers.rip = CODE;
    case.registers.gpr[1] = 5;
    assert_eq!(engines.compare(&case), Verdict::Same);
    engines.interpreter.put_code(&case);
    let expected = attempt(&mut engines.interpreter, &case).expect("an end");
    case.code[0] = 0x29;
    engines.translator.put_code(&case);
    let found = attempt(&mut engines.translator, &case).expect("an end");
    assert!(!differences(&expected, &found, 0x8d5).is_empty());
    // jmp to itself has no end.
    case.code = vec![0xeb, 0xfe];
    assert_eq!(engines.compare(&case), Verdict::Endless);
}
