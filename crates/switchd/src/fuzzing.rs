//! Entries for fuzzers: files.

use crate::config::Config;

/// A configuration: taken, or refused with a place that it has.
pub fn config(input: &[u8]) {
    let Ok(text) = std::str::from_utf8(input) else {
        return;
    };
    if let Err((at, reason)) = Config::parse(text) {
        assert!(at <= text.len(), "byte {at}: {reason}");
        assert!(!reason.is_empty());
    }
}

#[cfg(test)]
mod tests {
    #[test]
    fn what_fuzzers_found_is_survived() {
        ostler_corpus::replay("switchd-config", super::config);
    }
}
