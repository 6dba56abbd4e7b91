//! Types that can only be built from checked input, and how durations and sizes are written.

use std::fmt;
use std::str::FromStr;
use std::sync::Arc;
use std::time::Duration;

use serde::{Deserialize, Serialize};
use zeroize::Zeroizing;

/// A number of bytes. Written with a unit in the topology file: `"64KiB"`, `"1GB"`, `"0B"`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ByteSize(pub u64);

/// The text is not a whole number followed by a unit, or it is out of range.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum NotAQuantity {
    #[error("a duration is a whole number with a unit (us, ms, s, m, h, d), at most 3650d, or \"0\"")]
    Duration,
    #[error("a size is a whole number with a unit (B, KiB, MiB, GiB, TiB, or kB, MB, GB, TB in powers of ten)")]
    Size,
}

/// Largest first. `m` comes before its other spelling `min`, so that it is the one shown.
const DURATION_UNITS: &[(&str, u64)] = &[
    ("d", 86_400_000_000),
    ("h", 3_600_000_000),
    ("m", 60_000_000),
    ("min", 60_000_000),
    ("s", 1_000_000),
    ("ms", 1_000),
    ("us", 1),
];

/// Largest first. `kB` comes before its other spelling `KB`.
const SIZE_UNITS: &[(&str, u64)] = &[
    ("TiB", 1 << 40),
    ("TB", 1_000_000_000_000),
    ("GiB", 1 << 30),
    ("GB", 1_000_000_000),
    ("MiB", 1 << 20),
    ("MB", 1_000_000),
    ("KiB", 1 << 10),
    ("kB", 1_000),
    ("KB", 1_000),
    ("B", 1),
];

/// Ten years: longer than any process lives, and far from where adding to a clock overflows.
const LONGEST: Duration = Duration::from_secs(3650 * 86_400);

/// Reads `"200ms"`, `"5s"`, `"1m"`, `"0"`.
///
/// # Errors
/// [`NotAQuantity::Duration`] when the unit is missing or unknown, the number is not whole, or it is above ten years.
pub fn parse_duration(text: &str) -> Result<Duration, NotAQuantity> {
    if text == "0" {
        return Ok(Duration::ZERO);
    }
    let micros = quantity(text, DURATION_UNITS).ok_or(NotAQuantity::Duration)?;
    Some(Duration::from_micros(micros)).filter(|d| *d <= LONGEST).ok_or(NotAQuantity::Duration)
}

/// Writes a duration as [`parse_duration`] reads it, in the largest unit that is exact; below a microsecond is cut off.
pub fn show_duration(duration: Duration) -> String {
    let micros = u64::try_from(duration.as_micros()).unwrap_or(u64::MAX);
    if micros == 0 { "0".to_owned() } else { show(micros, DURATION_UNITS) }
}

impl FromStr for ByteSize {
    type Err = NotAQuantity;

    fn from_str(text: &str) -> Result<Self, NotAQuantity> {
        quantity(text, SIZE_UNITS).map(Self).ok_or(NotAQuantity::Size)
    }
}

impl fmt::Display for ByteSize {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.0 == 0 { f.write_str("0B") } else { f.write_str(&show(self.0, SIZE_UNITS)) }
    }
}

/// A whole number and one of `units`, with at most one space between them.
fn quantity(text: &str, units: &[(&str, u64)]) -> Option<u64> {
    let end = text.bytes().position(|b| !b.is_ascii_digit())?;
    let (digits, unit) = text.split_at(end);
    let unit = unit.strip_prefix(' ').unwrap_or(unit);
    let (_, factor) = units.iter().find(|(name, _)| *name == unit)?;
    digits.parse::<u64>().ok()?.checked_mul(*factor)
}

fn show(amount: u64, units: &[(&str, u64)]) -> String {
    let exact = units.iter().find(|(_, factor)| amount.is_multiple_of(*factor));
    let (unit, factor) = exact.expect("the last unit is 1, which divides everything");
    format!("{}{unit}", amount / factor)
}

/// The name of a node in the topology file: 1 to 63 of `[A-Za-z0-9_.-]`. Cheap to clone.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct NodeName(Arc<str>);

impl NodeName {
    /// # Errors
    /// The text that says what a name may consist of.
    pub fn new(name: &str) -> Result<Self, String> {
        let allowed = |b: u8| b.is_ascii_alphanumeric() || matches!(b, b'_' | b'.' | b'-');
        if name.is_empty() || name.len() > 63 || !name.bytes().all(allowed) {
            return Err(format!("{name:?} is not a node name: expected 1 to 63 letters, digits, '_', '.' or '-'"));
        }
        Ok(Self(name.into()))
    }

    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl TryFrom<String> for NodeName {
    type Error = String;

    fn try_from(name: String) -> Result<Self, String> {
        Self::new(&name)
    }
}

impl From<NodeName> for String {
    fn from(name: NodeName) -> Self {
        name.as_str().to_owned()
    }
}

impl fmt::Display for NodeName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// A password or key. Has no `Display`, its `Debug` shows nothing, and it is wiped when dropped.
#[derive(Clone, PartialEq, Eq)]
pub struct Secret(Zeroizing<String>);

impl Secret {
    pub fn new(text: String) -> Self {
        Self(Zeroizing::new(text))
    }

    /// The secret itself. Never log or format what this returns.
    pub fn expose(&self) -> &str {
        &self.0
    }
}

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Secret(..)")
    }
}
