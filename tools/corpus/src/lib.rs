//! The inputs that the fuzzers of `tools/fuzz` have found, given once more to what they were found in.

use std::path::Path;

/// Gives each input that is kept for `target` to `run`, which panics at what must not be.
///
/// # Panics
///
/// If nothing is kept for it: then nothing would be tested.
pub fn replay(target: &str, run: impl Fn(&[u8])) {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("../fuzz/corpus")
        .join(target);
    let inputs = std::fs::read_dir(&folder).unwrap_or_else(|error| panic!("{}: {error}", folder.display()));
    let mut count = 0;
    for input in inputs {
        let path = input.unwrap().path();
        // The name of the one that fails is the last that is told.
        println!("{}", path.display());
        run(&std::fs::read(path).unwrap());
        count += 1;
    }
    assert!(count > 0, "no inputs are kept for {target}");
}
