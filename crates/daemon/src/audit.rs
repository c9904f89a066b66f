//! The audit log: who was refused, and who changed what. One line each, of words and `name=value`.
//!
//! What comes from a client is in quotes with everything escaped, so that nobody can write another's line.

use std::fmt::{self, Write as _};
use std::fs::{File, OpenOptions};
use std::io::Write;
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;
use std::sync::{Mutex, PoisonError};
use std::time::{SystemTime, UNIX_EPOCH};

use crate::Error;
use crate::server::Peer;

/// Characters of a text from outside that are kept.
const MAX_TEXT: usize = 200;
/// Lines in a minute about connections that were refused: whoever knocks without end fills no disk.
const MAX_REFUSALS: u32 = 300;

/// Where the lines go. Writing never fails: what cannot be kept is said on standard error.
#[derive(Debug, Default)]
pub struct Audit {
    /// Standard error if there is none.
    file: Option<File>,
    refusals: Mutex<Refusals>,
}

/// Connections that were refused of late.
#[derive(Debug, Default)]
struct Refusals {
    /// Since 1970.
    minute: u64,
    count: u32,
}

impl Refusals {
    /// Counts one in. Whether it has a line, and how many of the minute before had none.
    fn count(&mut self, now: SystemTime) -> (bool, u32) {
        let minute = now.duration_since(UNIX_EPOCH).unwrap_or_default().as_secs() / 60;
        let mut left_out = 0;
        if minute != self.minute {
            left_out = self.count.saturating_sub(MAX_REFUSALS);
            *self = Self { minute, count: 0 };
        }
        self.count = self.count.saturating_add(1);
        (self.count <= MAX_REFUSALS, left_out)
    }
}

impl Audit {
    /// Appends to the file at `path`, or writes to standard error.
    pub fn open(path: Option<&Path>) -> Result<Self, Error> {
        let open = |path: &Path| {
            OpenOptions::new()
                .append(true)
                .create(true)
                .mode(0o600)
                .open(path)
                .map_err(Error::file("write the audit log", path))
        };
        Ok(Self {
            file: path.map(open).transpose()?,
            refusals: Mutex::default(),
        })
    }

    /// Somebody was not let in.
    pub fn refused_at_the_door(&self, peer: &dyn fmt::Display, why: &dyn fmt::Display) {
        let counted = self
            .refusals
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .count(SystemTime::now());
        let (has_line, left_out) = counted;
        if left_out > 0 {
            self.write(format_args!(
                "{left_out} more connections were refused a minute ago"
            ));
        }
        if has_line {
            self.write(format_args!(
                "{peer} connect refused={}",
                quoted(&why.to_string())
            ));
        }
    }

    /// A call that changes something, or tried to.
    pub fn call(&self, peer: &Peer, call: &str, object: &str, outcome: Result<(), &dyn fmt::Display>) {
        let object = quoted(object);
        match outcome {
            Ok(()) => self.write(format_args!("{peer} call={call} object={object} done")),
            Err(why) => {
                let why = quoted(&why.to_string());
                self.write(format_args!("{peer} call={call} object={object} refused={why}"));
            }
        }
    }

    fn write(&self, line: fmt::Arguments<'_>) {
        let line = format!("{} {line}", timestamp(SystemTime::now()));
        let Some(mut file) = self.file.as_ref() else {
            crate::log::note!("audit: {line}");
            return;
        };
        if let Err(error) = file.write_all(format!("{line}\n").as_bytes()) {
            crate::log::note!("audit: {line} (not in the audit log: {error})");
        }
    }
}

/// A text from outside, in quotes, harmless and of bounded length.
fn quoted(text: &str) -> String {
    let mut out = String::from("\"");
    for character in text.chars().take(MAX_TEXT) {
        match character {
            '"' | '\\' => out.extend(['\\', character]),
            c if c.is_control() || c == '\u{2028}' || c == '\u{2029}' => {
                let _ = write!(out, "{}", c.escape_unicode());
            }
            c => out.push(c),
        }
    }
    if text.chars().nth(MAX_TEXT).is_some() {
        out.push('…');
    }
    out.push('"');
    out
}

/// UTC, as RFC 3339 writes it, to the millisecond.
fn timestamp(time: SystemTime) -> String {
    let since = time.duration_since(UNIX_EPOCH).unwrap_or_default();
    let (days, second) = (since.as_secs() / 86400, since.as_secs() % 86400);
    // The calendar repeats after 400 years of 146,097 days; years are counted from March, so that the leap day is the last.
    let days = days + 719_468;
    let (era, day) = (days / 146_097, days % 146_097);
    let year = (day - day / 1460 + day / 36524 - day / 146_096) / 365;
    let day = day - (365 * year + year / 4 - year / 100);
    let month = (5 * day + 2) / 153;
    let date = day - (153 * month + 2) / 5 + 1;
    let (month, carry) = if month < 10 {
        (month + 3, 0)
    } else {
        (month - 9, 1)
    };
    format!(
        "{:04}-{month:02}-{date:02}T{:02}:{:02}:{:02}.{:03}Z",
        era * 400 + year + carry,
        second / 3600,
        second / 60 % 60,
        second % 60,
        since.subsec_millis()
    )
}

/// The text that a payload begins with; nothing if it begins with something else.
pub fn text_of(payload: &[u8]) -> std::borrow::Cow<'_, str> {
    let length = payload
        .first_chunk()
        .map_or(0, |word| u32::from_be_bytes(*word) as usize);
    let text = payload
        .get(4..)
        .and_then(|rest| rest.get(..length))
        .unwrap_or_default();
    String::from_utf8_lossy(&text[..text.len().min(1 << 16)])
}

/// What a call is about, as its arguments begin: the name of a guest, a network or a pool, or the name in a definition.
pub fn object_of(payload: &[u8]) -> String {
    let text = text_of(payload);
    if !text.trim_start().starts_with('<') {
        return text.into_owned();
    }
    let name = text
        .split_once("<name>")
        .and_then(|(_, rest)| rest.split_once("</name>"));
    name.map_or_else(|| "a definition".into(), |(name, _)| name.into())
}

#[cfg(test)]
mod tests {
    use super::*;
    use ostler_libvirt::xdr;
    use proptest::prelude::*;
    use std::time::Duration;

    #[test]
    fn times_are_those_of_the_calendar() {
        // As `date --utc --date=@SECONDS +%FT%T` has them.
        for (seconds, text) in [
            (0, "1970-01-01T00:00:00.007Z"),
            (951_782_399, "2000-02-28T23:59:59.007Z"),
            (951_868_800, "2000-03-01T00:00:00.007Z"),
            (1_709_164_800, "2024-02-29T00:00:00.007Z"),
            (4_107_542_400, "2100-03-01T00:00:00.007Z"),
        ] {
            assert_eq!(
                timestamp(UNIX_EPOCH + Duration::from_millis(seconds * 1000 + 7)),
                text
            );
        }
    }

    #[test]
    fn nobody_writes_anothers_line() {
        let line = quoted("a\" done\n2026 uid=0 call=X \u{1b}[2J\\");
        assert_eq!(line, r#""a\" done\u{a}2026 uid=0 call=X \u{1b}[2J\\""#);
        assert_eq!(quoted(&"x".repeat(1000)).chars().count(), 203);
    }

    #[test]
    fn who_knocks_without_end_fills_no_disk() {
        let mut refusals = Refusals::default();
        let at = |seconds| UNIX_EPOCH + Duration::from_secs(seconds);
        let lines = (0..1000).filter(|_| refusals.count(at(600)).0).count();
        assert_eq!(lines, MAX_REFUSALS as usize);
        assert_eq!(refusals.count(at(660)), (true, 1000 - MAX_REFUSALS));
        assert_eq!(refusals.count(at(661)), (true, 0));
    }

    #[test]
    fn objects_are_named_as_they_were_sent() {
        let bytes = |text: &str| xdr::to_bytes(&String::from(text)).unwrap();
        assert_eq!(object_of(&bytes("alpha")), "alpha");
        assert_eq!(object_of(&bytes("<domain><name>beta</name></domain>")), "beta");
        assert_eq!(object_of(&bytes("<domain/>")), "a definition");
        assert_eq!(object_of(&[0xff; 6]), "");
    }

    proptest! {
        #[test]
        fn any_arguments_give_a_line(payload: Vec<u8>) {
            let line = quoted(&object_of(&payload));
            prop_assert!(!line.contains('\n') && line.chars().count() < 12 * MAX_TEXT);
        }
    }
}
