//! Positions in the write-ahead log.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

/// A byte position in the write-ahead log; PostgreSQL prints it as two hexadecimal halves, `16/B374D848`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Lsn(pub u64);

/// The history that a position belongs to: each promotion begins a new one.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default, Serialize, Deserialize)]
pub struct Timeline(pub u32);

/// Where a timeline begins: the log up to there is also an older one's, and what that has behind it was given up.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Fork {
    pub timeline: Timeline,
    pub at: Lsn,
}

/// A position that can be compared across a failover.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Position {
    pub timeline: Timeline,
    pub lsn: Lsn,
}

impl Lsn {
    /// Bytes from `earlier` to `self`; 0 when `earlier` is not earlier.
    pub fn since(self, earlier: Lsn) -> u64 {
        self.0.saturating_sub(earlier.0)
    }
}

/// What gives log positions their structure. The build and initdb fix both sizes, so a cluster's nodes share them.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct WalGeometry {
    /// Bytes of a log file, `wal_segment_size`.
    pub segment: u64,
    /// Bytes of a log page, `wal_block_size`.
    pub page: u64,
}

impl WalGeometry {
    /// What PostgreSQL is built with unless told otherwise.
    pub const STANDARD: Self = Self { segment: 16 << 20, page: 8192 };
    /// `SizeOfXLogLongPHD` and `SizeOfXLogShortPHD` of access/xlog_internal.h, aligned: the header of a file's first
    /// page, and of every other page.
    const LONG_HEADER: u64 = 40;
    const SHORT_HEADER: u64 = 24;

    /// The end of the last record, from where the next one would begin.
    ///
    /// `pg_current_wal_insert_lsn()` steps over a page's header (`XLogBytePosToRecPtr` in access/transam/xlog.c), while
    /// a replica reports the end of what it replayed, which is the page's start: unless both are counted alike, an
    /// idle replica never reaches an idle primary. No record can end within a header or just behind it.
    pub fn record_end(self, insert: Lsn) -> Lsn {
        let in_page = insert.0 % self.page;
        let header = if insert.0 % self.segment < self.page { Self::LONG_HEADER } else { Self::SHORT_HEADER };
        if in_page <= header { Lsn(insert.0 - in_page) } else { insert }
    }
}

impl Default for WalGeometry {
    fn default() -> Self {
        Self::STANDARD
    }
}

/// The text is not `X/X` with hexadecimal halves of at most 32 bits.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{0:?} is not a log position: expected two hexadecimal numbers, as in 16/B374D848")]
pub struct NotAnLsn(String);

impl FromStr for Lsn {
    type Err = NotAnLsn;

    fn from_str(text: &str) -> Result<Self, NotAnLsn> {
        let half = |s: &str| {
            let digits = (1..=8).contains(&s.len()) && s.bytes().all(|b| b.is_ascii_hexdigit());
            digits.then(|| u32::from_str_radix(s, 16).ok()).flatten().map(u64::from)
        };
        text.split_once('/')
            .and_then(|(high, low)| Some(Lsn(half(high)? << 32 | half(low)?)))
            .ok_or_else(|| NotAnLsn(text.to_owned()))
    }
}

impl TryFrom<String> for Lsn {
    type Error = NotAnLsn;

    fn try_from(text: String) -> Result<Self, NotAnLsn> {
        text.parse()
    }
}

impl From<Lsn> for String {
    fn from(lsn: Lsn) -> Self {
        lsn.to_string()
    }
}

impl fmt::Display for Lsn {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:X}/{:X}", self.0 >> 32, self.0 & 0xFFFF_FFFF)
    }
}

/// The text is not `timeline:X/X`.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{0:?} is not a position: expected a timeline and a log position, as in 1:16/B374D848")]
pub struct NotAPosition(String);

impl FromStr for Position {
    type Err = NotAPosition;

    /// Also takes a position without a timeline, which stands for any.
    fn from_str(text: &str) -> Result<Self, NotAPosition> {
        let (timeline, lsn) = text.split_once(':').unwrap_or(("0", text));
        match (timeline.parse(), lsn.parse()) {
            (Ok(timeline), Ok(lsn)) => Ok(Self { timeline: Timeline(timeline), lsn }),
            _ => Err(NotAPosition(text.to_owned())),
        }
    }
}

impl fmt::Display for Position {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}", self.timeline.0, self.lsn)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_position_is_read_back() {
        let position = Position { timeline: Timeline(3), lsn: Lsn(0x16_B374_D848) };
        assert_eq!(position.to_string().parse(), Ok(position));
        assert_eq!("16/B374D848".parse(), Ok(Position { timeline: Timeline(0), ..position }));
        assert!("x:16/0".parse::<Position>().is_err());
    }

    #[test]
    fn prints_and_parses_as_postgresql_does() {
        let lsn: Lsn = "16/B374D848".parse().unwrap();
        assert_eq!(lsn, Lsn(0x16_B374_D848));
        assert_eq!(lsn.to_string(), "16/B374D848");
        for bad in ["", "/", "16", "16/", "g/0", "123456789/0", "+1/0", "1/2/3"] {
            assert!(bad.parse::<Lsn>().is_err(), "{bad:?}");
        }
    }

    #[test]
    fn an_insert_position_behind_a_page_header_is_the_page_start() {
        let wal = WalGeometry::STANDARD;
        let segment = 7 * wal.segment;
        for (insert, end) in [
            (segment + 40, segment),
            (segment + 48, segment + 48),
            (segment + 8192 + 24, segment + 8192),
            (segment + 8192 + 32, segment + 8192 + 32),
            (segment + 8192, segment + 8192),
            (segment + 8191, segment + 8191),
        ] {
            assert_eq!(wal.record_end(Lsn(insert)), Lsn(end), "{insert:X}");
        }
    }
}
