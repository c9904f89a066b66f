//! What tests of several Linux guests on one network share.

use super::guest_folder;

/// Megabytes that go from guest to guest: `by_day`, and a gigabyte at night.
pub fn megabytes(by_day: u32) -> u32 {
    if std::env::var_os("OSTLER_NIGHTLY").is_some() {
        1024
    } else {
        by_day
    }
}

/// A mebibyte in which no two words are alike.
pub fn block() -> Vec<u8> {
    (0..1u32 << 20)
        .map(|i| (i.wrapping_mul(0x9e37_79b1) >> 13) as u8)
        .collect()
}

/// The module of VLAN interfaces with what it needs, in the order in which they are loaded.
pub fn vlan_modules() -> Option<Vec<(String, Vec<u8>)>> {
    let modules = guest_folder().join("root/lib/modules");
    let kernel = std::fs::read_dir(modules).ok()?.flatten().next()?.path();
    let of = |path: &str| {
        let name = path.rsplit('/').next()?;
        let bytes = std::fs::read(kernel.join("kernel/net").join(path)).ok()?;
        Some((name.to_owned(), bytes))
    };
    [
        "llc/llc.ko",
        "802/stp.ko",
        "802/garp.ko",
        "802/mrp.ko",
        "8021q/8021q.ko",
    ]
    .into_iter()
    .map(of)
    .collect()
}
