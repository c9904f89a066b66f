//! What a guest's real-time clock shows at its start.

use std::str::FromStr;

use jiff::Timestamp;
use jiff::civil::DateTime;
use jiff::tz::TimeZone;

use crate::Error;

/// What the clock shows at the start; it goes on from there.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub enum RtcStart {
    /// UTC.
    #[default]
    Utc,
    /// The host's local time.
    Local,
    /// The time in a zone of the host's database, such as `Europe/Berlin`.
    Zone(String),
    /// So many seconds ahead of UTC.
    Ahead(i64),
    /// So many seconds ahead of the host's local time.
    AheadOfLocal(i64),
    /// This time, in seconds since 1970.
    At(i64),
}

impl RtcStart {
    /// Seconds by which the clock is ahead of UTC, for a guest that starts now. Fails where the host does not know a zone.
    pub fn offset(&self) -> Result<i64, Error> {
        self.offset_at(Timestamp::now())
    }

    fn offset_at(&self, now: Timestamp) -> Result<i64, Error> {
        Ok(match self {
            Self::Utc => 0,
            Self::Local => local(now)?,
            Self::Zone(name) => {
                let zone = TimeZone::get(name).map_err(|error| {
                    Error::Input(format!(
                        "the clock cannot be that of the time zone \"{name}\": {error}; `timedatectl list-timezones` names those of this host"
                    ))
                })?;
                zone.to_offset(now).seconds().into()
            }
            Self::Ahead(seconds) => *seconds,
            Self::AheadOfLocal(seconds) => local(now)?.saturating_add(*seconds),
            Self::At(second) => second.saturating_sub(now.as_second()),
        })
    }
}

/// Seconds by which a clock is ahead of UTC that shows this date and this time (hour, minute, second) now; `None` where there is no
/// such time.
pub fn ahead((year, month, day): (i16, i8, i8), (hour, minute, second): (i8, i8, i8)) -> Option<i64> {
    let shown = DateTime::new(year, month, day, hour, minute, second, 0).ok()?;
    let shown = TimeZone::UTC.to_timestamp(shown).ok()?;
    Some(shown.as_second() - Timestamp::now().as_second())
}

fn local(now: Timestamp) -> Result<i64, Error> {
    let zone = TimeZone::try_system().map_err(|error| {
        Error::Input(format!(
            "the clock cannot be the host's local time: {error}; set the host's time zone, or choose utc"
        ))
    })?;
    Ok(zone.to_offset(now).seconds().into())
}

/// `utc`, `localtime`, `+SECONDS` or `-SECONDS` from UTC, or a time such as `2026-11-28T10:30:00`.
impl FromStr for RtcStart {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let wrong = || {
            format!(
                "\"{text}\" is nothing that a clock starts with; write utc, localtime, +SECONDS, -SECONDS or a time from 1970 on such as 2026-11-28T10:30:00"
            )
        };
        Ok(match text {
            "utc" => Self::Utc,
            "localtime" => Self::Local,
            _ if text.starts_with(['+', '-']) => Self::Ahead(text.parse().map_err(|_| wrong())?),
            _ => {
                let time: DateTime = text.parse().map_err(|_| wrong())?;
                let second = TimeZone::UTC.to_timestamp(time).map_err(|_| wrong())?;
                Self::At(
                    Some(second.as_second())
                        .filter(|second| *second >= 0)
                        .ok_or_else(wrong)?,
                )
            }
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn offset(start: &RtcStart, now: i64) -> i64 {
        start.offset_at(Timestamp::from_second(now).unwrap()).unwrap()
    }

    #[test]
    fn zones_have_their_summer() {
        let (summer, winter) = (1_782_000_000, 1_795_382_998);
        let berlin = RtcStart::Zone("Europe/Berlin".into());
        assert_eq!((offset(&berlin, summer), offset(&berlin, winter)), (7200, 3600));
        let india = RtcStart::Zone("Asia/Kolkata".into());
        assert_eq!(offset(&india, winter), 19_800);
        let nowhere = RtcStart::Zone("Nowhere/City".into()).offset().unwrap_err();
        assert!(nowhere.to_string().contains("\"Nowhere/City\""), "{nowhere}");
    }

    #[test]
    fn local_time_is_that_of_the_system() {
        let now = Timestamp::now();
        let expected = i64::from(TimeZone::system().to_offset(now).seconds());
        assert_eq!(RtcStart::Local.offset_at(now).unwrap(), expected);
        assert_eq!(RtcStart::AheadOfLocal(60).offset_at(now).unwrap(), expected + 60);
    }

    #[test]
    fn a_fixed_time_is_shown_whenever_the_guest_starts() {
        assert_eq!(offset(&RtcStart::At(1000), 400), 600);
        assert_eq!(offset(&RtcStart::At(0), 1_795_382_998), -1_795_382_998);
    }

    #[test]
    fn what_users_write() {
        assert_eq!("utc".parse(), Ok(RtcStart::Utc));
        assert_eq!("localtime".parse(), Ok(RtcStart::Local));
        assert_eq!("+90".parse(), Ok(RtcStart::Ahead(90)));
        assert_eq!("-3600".parse(), Ok(RtcStart::Ahead(-3600)));
        assert_eq!("2026-11-22T21:29:58".parse(), Ok(RtcStart::At(1_795_382_998)));
        assert_eq!("1970-01-01".parse(), Ok(RtcStart::At(0)));
        for wrong in [
            "",
            "+",
            "-x",
            "noon",
            "90",
            "1969-12-31T23:59:59",
            "2026-13-01",
            "+99999999999999999999",
        ] {
            assert!(wrong.parse::<RtcStart>().is_err(), "{wrong}");
        }
    }
}
