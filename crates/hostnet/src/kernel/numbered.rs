//! Names with numbers, for interfaces that nobody has named.

use std::path::Path;

use crate::Error;

/// Numbers that are tried.
const MAX_NUMBERS: u32 = 100_000;

/// Makes an interface that is called `prefix` and the first free number; returns its name and what `make` does.
///
/// # Errors
/// That of `make`, or [`Error::Exists`] if all numbers are taken.
pub fn make_numbered<T>(prefix: &str, make: impl Fn(&str) -> Result<T, Error>) -> Result<(String, T), Error> {
    for number in 0..MAX_NUMBERS {
        let name = format!("{prefix}{number}");
        if Path::new("/sys/class/net").join(&name).exists() {
            continue;
        }
        match make(&name) {
            Ok(made) => return Ok((name, made)),
            // Somebody was faster, or /sys shows other interfaces than ours.
            Err(Error::Exists(_)) => {}
            Err(error) => return Err(error),
        }
    }
    Err(Error::Exists(format!("{prefix}{}", MAX_NUMBERS - 1)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_that_are_taken_are_passed_over() {
        let taken = |name: &str| match name {
            "ostler-no0" | "ostler-no1" => Err(Error::Exists(name.into())),
            name => Ok(name.len()),
        };
        assert_eq!(
            make_numbered("ostler-no", taken).unwrap(),
            ("ostler-no2".into(), 10)
        );
        let refused = |name: &str| Err::<(), _>(Error::NoInterface(name.into()));
        assert!(
            matches!(make_numbered("ostler-no", refused), Err(Error::NoInterface(name)) if name == "ostler-no0")
        );
    }
}
