//! Period: buckets of fifteen minutes, and the months of a time zone that are made of them.
//!
//! Touches nothing; the clock is an argument.

use std::fmt;

use jiff::civil::Date;
use jiff::tz::TimeZone;
use jiff::{Timestamp, ToSpan};

/// Length of a bucket in seconds. Every time zone's month begins on such a boundary; before 1972 one did not, and the
/// bucket in which its month began is that month's.
pub const BUCKET_SECS: i64 = 900;

/// A fifteen-minute UTC interval, by its number since 1970.
#[derive(Clone, Copy, Debug, Eq, Hash, Ord, PartialEq, PartialOrd)]
pub struct Bucket(i64);

impl Bucket {
    /// The bucket that `at` falls into.
    pub fn of(at: Timestamp) -> Self {
        Self(at.as_second().div_euclid(BUCKET_SECS))
    }

    /// The bucket of number `index`.
    pub const fn from_index(index: i64) -> Self {
        Self(index)
    }

    /// Number of fifteen-minute intervals since 1970-01-01T00:00Z.
    pub const fn index(self) -> i64 {
        self.0
    }
}

/// A calendar month.
#[derive(Clone, Copy, Debug, Eq, Hash, Ord, PartialEq, PartialOrd)]
pub struct Month {
    year: i16,
    month: i8,
}

/// Why a text is not a month.
#[derive(Clone, Copy, Debug, Eq, PartialEq, thiserror::Error)]
#[error("must be a month as YYYY-MM, from 1970-01 to 9998-12")]
pub struct BadMonth;

impl Month {
    /// The month written in `text` as `YYYY-MM`.
    pub fn parse(text: &str) -> Result<Self, BadMonth> {
        let (year, month) = text.split_once('-').ok_or(BadMonth)?;
        let is_digits = |part: &str, width| part.len() == width && part.bytes().all(|byte| byte.is_ascii_digit());
        if !is_digits(year, 4) || !is_digits(month, 2) {
            return Err(BadMonth);
        }
        let year = year.parse().map_err(|_| BadMonth)?;
        let month = month.parse().map_err(|_| BadMonth)?;
        if (1970..=9998).contains(&year) && (1..=12).contains(&month) {
            Ok(Self { year, month })
        } else {
            Err(BadMonth)
        }
    }

    /// The month that `at` falls into on the calendar of `zone`.
    pub fn of(at: Timestamp, zone: &TimeZone) -> Self {
        let date = zone.to_datetime(at).date();
        Self { year: date.year(), month: date.month() }
    }

    /// The buckets of this month in `zone`: from the first (included) to the last (excluded).
    pub fn buckets(self, zone: &TimeZone) -> (Bucket, Bucket) {
        let first = Date::constant(self.year, self.month, 1);
        let next = first.checked_add(1.month()).unwrap_or(Date::MAX);
        (Bucket::of(start_of_day(first, zone)), Bucket::of(start_of_day(next, zone)))
    }
}

/// When `date` begins in `zone`: midnight, or the first instant after it where the clocks skip it.
fn start_of_day(date: Date, zone: &TimeZone) -> Timestamp {
    date.to_zoned(zone.clone()).map_or(Timestamp::MAX, |start| start.timestamp())
}

impl fmt::Display for Month {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "{:04}-{:02}", self.year, self.month)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn zones() -> impl Iterator<Item = (String, TimeZone)> {
        let zones = jiff::tz::TimeZoneDatabase::bundled();
        let names: Vec<String> = zones.available().map(|name| name.to_string()).collect();
        assert!(names.len() > 400, "{names:?}");
        names.into_iter().map(move |name| (name.clone(), zones.get(&name).unwrap()))
    }

    fn months(years: std::ops::RangeInclusive<i16>) -> impl Iterator<Item = Month> {
        years.flat_map(|year| (1..=12).map(move |month| Month { year, month }))
    }

    /// Each instant is in one month, and that is the one that a calendar on the wall shows.
    #[test]
    fn months_tile_in_every_zone_and_every_instant_is_in_the_one_that_its_calendar_shows() {
        let first: Timestamp = "2019-12-30T00:00:00Z".parse().unwrap();
        let last: Timestamp = "2036-01-02T00:00:00Z".parse().unwrap();
        let (mut zones_seen, mut instants) = (0, 0);
        for (name, zone) in zones() {
            let mut tiles: Vec<(Bucket, Bucket, Month)> = Vec::new();
            for month in months(2020..=2035) {
                let (start, end) = month.buckets(&zone);
                assert!(start < end, "{name} {month}");
                assert!(tiles.last().is_none_or(|(_, before, _)| *before == start), "{name} {month}");
                let begins = start_of_day(Date::constant(month.year, month.month, 1), &zone).as_second();
                assert_eq!(begins, start.index() * BUCKET_SECS, "{name} {month} begins within a bucket");
                tiles.push((start, end, month));
            }
            let starts = tiles.iter().map(|(start, ..)| Timestamp::from_second(start.index() * BUCKET_SECS).unwrap());
            let transitions = zone.following(first).map(|transition| transition.timestamp());
            let edges = starts.chain(transitions.take_while(|at| *at < last));
            for at in edges.flat_map(|edge| [-1, 0, 1].map(|second| edge + second.seconds())) {
                let bucket = Bucket::of(at);
                let index = tiles.partition_point(|(_, end, _)| *end <= bucket);
                let month = tiles.get(index).filter(|(start, ..)| *start <= bucket).map(|(.., month)| *month);
                let shown = Month::of(at, &zone);
                assert_eq!(month, Some(shown).filter(|month| (2020..=2035).contains(&month.year)), "{name} {at}");
                instants += 1;
            }
            zones_seen += 1;
        }
        assert!(zones_seen > 400 && instants > 3 * 12 * 16 * zones_seen, "{instants} instants of {zones_seen} zones");
    }

    /// Liberia was 44 minutes and 30 seconds behind until 1972: its months share a bucket, which goes to the later one.
    #[test]
    fn months_of_an_odd_offset_tile_all_the_same() {
        let zone = jiff::tz::TimeZoneDatabase::bundled().get("Africa/Monrovia").unwrap();
        let tiles: Vec<_> = months(1970..=1972).map(|month| month.buckets(&zone)).collect();
        assert!(tiles.windows(2).all(|pair| pair[0].1 == pair[1].0));
        let begins = start_of_day(Date::constant(1971, 5, 1), &zone).as_second();
        assert_eq!((begins.rem_euclid(BUCKET_SECS), tiles[16].0.index()), (870, begins / BUCKET_SECS));
    }

    #[test]
    fn a_month_begins_when_the_zone_says() {
        let zone = TimeZone::get("Asia/Shanghai").unwrap();
        let last_of_october_in_utc: Timestamp = "2026-10-31T16:00:00Z".parse().unwrap();
        assert_eq!(Month::of(last_of_october_in_utc, &zone).to_string(), "2026-11");
        let (start, _) = Month::parse("2026-11").unwrap().buckets(&zone);
        assert_eq!(start, Bucket::of(last_of_october_in_utc));
    }

    #[test]
    fn only_months_parse() {
        for bad in ["2026", "2026-13", "2026-00", "26-01", "2026-1", "2026-01-01", "+026-01", "0001-01"] {
            assert_eq!(Month::parse(bad), Err(BadMonth), "{bad}");
        }
    }
}
