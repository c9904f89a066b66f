//! Floating point.

use std::hint::black_box;

use super::random::{Random, digest};
use super::{Entry, Work};

pub const TESTS: &[Entry] = &[
    ("float", "matrix-multiply", "flops", |_| matrix_multiply()),
    ("float", "transcendental", "calls", |_| transcendental()),
];

/// Rows and columns.
const SIDE: usize = 96;

fn matrix_multiply() -> Result<Work, String> {
    let mut random = Random::new(4);
    let mut matrix = || -> Vec<f64> {
        (0..SIDE * SIDE)
            .map(|_| random.below(1000) as f64 / 999.0)
            .collect()
    };
    let (left, right, mut product) = (matrix(), matrix(), vec![0.0; SIDE * SIDE]);
    multiply(&left, &right, &mut product);
    let bytes: Vec<u8> = product.iter().flat_map(|x| x.to_bits().to_le_bytes()).collect();
    Work::new((2 * SIDE * SIDE * SIDE) as f64, digest(&bytes), move |rounds| {
        for _ in 0..rounds {
            multiply(black_box(&left), black_box(&right), black_box(&mut product));
        }
    })
}

/// By rows, so that the inner loop runs along memory.
fn multiply(left: &[f64], right: &[f64], product: &mut [f64]) {
    product.fill(0.0);
    for (left, product) in left.chunks_exact(SIDE).zip(product.chunks_exact_mut(SIDE)) {
        for (factor, right) in left.iter().zip(right.chunks_exact(SIDE)) {
            for (cell, other) in product.iter_mut().zip(right) {
                *cell += factor * other;
            }
        }
    }
}

/// The C library's sine and exponential function.
fn transcendental() -> Result<Work, String> {
    const CALLS: u32 = 2000;
    let once = || -> f64 {
        (0..CALLS / 2)
            .map(|n| black_box(f64::from(n) * 0.37).sin() + black_box(f64::from(n) * -0.001).exp())
            .sum()
    };
    // The last bits differ between the library's versions for CPUs with and without FMA.
    let check = (once() * 1e6).round() as i64 as u64;
    Work::new(f64::from(CALLS), check, move |rounds| {
        for _ in 0..rounds {
            black_box(once());
        }
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_product_with_the_identity_is_the_other_factor() {
        let identity: Vec<f64> = (0..SIDE * SIDE)
            .map(|n| if n / SIDE == n % SIDE { 1.0 } else { 0.0 })
            .collect();
        let other: Vec<f64> = (0..SIDE * SIDE).map(|n| n as f64).collect();
        let mut product = vec![0.0; SIDE * SIDE];
        multiply(&identity, &other, &mut product);
        assert_eq!(product, other);
    }
}
