//! Plain integer code, as compilers make it.

use std::fmt::Write;
use std::hint::black_box;

use super::coremark::Mix;
use super::random::{Random, digest, text};
use super::{Entry, Work};
use crate::sha256;

pub const TESTS: &[Entry] = &[
    ("integer", "coremark-like", "rounds", |_| coremark_like()),
    ("integer", "recursion", "calls", |_| recursion()),
    ("integer", "indirect-calls", "calls", |_| indirect_calls()),
    ("integer", "sort", "elements", |_| sort()),
    ("integer", "hashing", "bytes", |_| hashing()),
    ("integer", "byte-scans", "bytes", |_| byte_scans()),
    ("integer", "string-formatting", "lines", |_| string_formatting()),
];

fn coremark_like() -> Result<Work, String> {
    let check = u64::from(Mix::new().round());
    let mut mix = Mix::new();
    Work::new(1.0, check, move |rounds| {
        for _ in 0..rounds {
            black_box(mix.round());
        }
    })
}

/// Numbers of Fibonacci and the function of Ackermann, by their definitions.
fn recursion() -> Result<Work, String> {
    // fib(n) makes 2 fib(n + 1) - 1 calls; ackermann(2, n) makes 2 n^2 + 7 n + 5.
    const FIB_CALLS: f64 = 2.0 * 10946.0 - 1.0;
    const ACKERMANN_CALLS: f64 = 2.0 * 60.0 * 60.0 + 7.0 * 60.0 + 5.0;
    let both = || fib(black_box(20)) + ackermann(black_box(2), black_box(60));
    Work::new(FIB_CALLS + ACKERMANN_CALLS, both(), move |rounds| {
        for _ in 0..rounds {
            black_box(both());
        }
    })
}

#[inline(never)]
fn fib(n: u64) -> u64 {
    // Hidden from the optimizer, which would make one of the calls a loop.
    if black_box(n) < 2 {
        n
    } else {
        fib(n - 1) + fib(n - 2)
    }
}

#[inline(never)]
fn ackermann(m: u64, n: u64) -> u64 {
    match (black_box(m), n) {
        (0, n) => n + 1,
        (m, 0) => ackermann(m - 1, 1),
        (m, n) => {
            let inner = ackermann(m, n - 1);
            black_box(ackermann(m - 1, inner))
        }
    }
}

/// Calls through a table in an order that no one can foresee.
fn indirect_calls() -> Result<Work, String> {
    const CALLS: usize = 4096;
    const TABLE: [fn(u64) -> u64; 8] = [
        |x| x.wrapping_mul(5),
        |x| x.rotate_left(7),
        |x| x ^ 0x5555,
        |x| x.wrapping_add(99),
        |x| !x,
        |x| x.swap_bytes(),
        |x| x.wrapping_sub(x >> 3),
        |x| x ^ x >> 9,
    ];
    let mut random = Random::new(2);
    let order: Vec<u8> = (0..CALLS).map(|_| random.below(8) as u8).collect();
    let table = black_box(TABLE);
    let once = move |start: u64| {
        order
            .iter()
            .fold(start, |value, &index| table[usize::from(index & 7)](value))
    };
    let check = once(1);
    Work::new(CALLS as f64, check, move |rounds| {
        let mut value = 1;
        for _ in 0..rounds {
            value = black_box(once(value));
        }
    })
}

fn sort() -> Result<Work, String> {
    const ELEMENTS: usize = 20_000;
    let mut random = Random::new(3);
    let unsorted: Vec<u32> = (0..ELEMENTS).map(|_| random.next() as u32).collect();
    let mut sorted = unsorted.clone();
    sorted.sort_unstable();
    let check = sorted
        .iter()
        .fold(0u64, |sum, &n| sum.wrapping_mul(31).wrapping_add(u64::from(n)));
    Work::new(ELEMENTS as f64, check, move |rounds| {
        for _ in 0..rounds {
            sorted.copy_from_slice(&unsorted);
            black_box(&mut sorted).sort_unstable();
        }
    })
}

fn hashing() -> Result<Work, String> {
    const BLOCKS: u64 = 64;
    let mut state = sha256::State::default();
    crate::hash(&mut state, 0, BLOCKS);
    let check = digest(state.digest().as_bytes());
    Work::new((BLOCKS * 64) as f64, check, move |rounds| {
        for _ in 0..rounds {
            crate::hash(&mut state, 0, BLOCKS);
        }
        black_box(state.digest());
    })
}

/// Words counted, and a word looked for, byte by byte.
fn byte_scans() -> Result<Work, String> {
    const LEN: usize = 64 << 10;
    let text = text(LEN);
    let once = move || {
        let text = black_box(&text[..]);
        (words(text) << 32) + occurrences(text, b"no such words")
    };
    let check = once();
    Work::new(2.0 * LEN as f64, check, move |rounds| {
        for _ in 0..rounds {
            black_box(once());
        }
    })
}

fn words(text: &[u8]) -> u64 {
    let (mut count, mut inside) = (0, false);
    for &byte in text {
        let space = matches!(byte, b' ' | b'\n' | b'\t');
        if !space && !inside {
            count += 1;
        }
        inside = !space;
    }
    count
}

fn occurrences(text: &[u8], wanted: &[u8]) -> u64 {
    let (mut count, mut matched) = (0, 0);
    for &byte in text {
        // Good enough where no start of the word is in it a second time.
        matched = if byte == wanted[matched] {
            matched + 1
        } else {
            usize::from(byte == wanted[0])
        };
        if matched == wanted.len() {
            (count, matched) = (count + 1, 0);
        }
    }
    count
}

fn string_formatting() -> Result<Work, String> {
    const LINES: u64 = 200;
    let once = |out: &mut String| {
        out.clear();
        for number in 0..LINES {
            let _ = writeln!(
                out,
                "{number} {:>8} {:08x} {:?} {:.3}",
                number * 7919,
                number.wrapping_mul(0x9e37_79b9),
                "name",
                number as f64 / 7.0
            );
        }
    };
    let mut out = String::new();
    once(&mut out);
    let check = digest(out.as_bytes());
    Work::new(LINES as f64, check, move |rounds| {
        for _ in 0..rounds {
            once(black_box(&mut out));
        }
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn functions_are_those_of_their_names() {
        assert_eq!((fib(20), ackermann(2, 60)), (6765, 123));
        assert_eq!(words(b" two  words\n"), 2);
        assert_eq!(occurrences(b"abcabdabc", b"abc"), 2);
    }
}
