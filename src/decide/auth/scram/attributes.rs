//! `a=value,b=value`: the text of SCRAM messages (RFC 5802 section 7).

/// Reads the attributes of one message in order. The errors say what was wrong, and show nothing of the message.
pub(super) struct Attributes<'a> {
    message: &'a [u8],
    at: usize,
}

impl<'a> Attributes<'a> {
    pub(super) fn new(message: &'a [u8]) -> Self {
        Self { message, at: 0 }
    }

    /// The value of the next attribute, which has to have this name.
    pub(super) fn expect(&mut self, name: u8) -> Result<&'a [u8], &'static str> {
        match self.next()? {
            (found, value) if found == name => Ok(value),
            _ => Err("unexpected SCRAM attribute"),
        }
    }

    /// The next attribute, whatever its name.
    pub(super) fn next(&mut self) -> Result<(u8, &'a [u8]), &'static str> {
        let rest = &self.message[self.at..];
        let [name, b'=', value @ ..] = rest else { return Err("SCRAM attribute expected") };
        if !name.is_ascii_alphabetic() {
            return Err("invalid SCRAM attribute name");
        }
        let length = memchr::memchr(b',', value).unwrap_or(value.len());
        self.at = (self.at + 2 + length + 1).min(self.message.len());
        Ok((*name, &value[..length]))
    }

    /// Where the next attribute begins.
    pub(super) fn position(&self) -> usize {
        self.at
    }

    pub(super) fn is_at_end(&self) -> bool {
        self.at == self.message.len()
    }
}

/// A positive decimal number that fits PostgreSQL's `int`.
pub(in super::super) fn iteration_count(digits: &[u8]) -> Option<u32> {
    let plain = !digits.is_empty() && digits.iter().all(u8::is_ascii_digit);
    let count = plain.then(|| std::str::from_utf8(digits).ok()?.parse::<u32>().ok()).flatten()?;
    (1..=i32::MAX.unsigned_abs()).contains(&count).then_some(count)
}

/// `printable = %x21-2B / %x2D-7E`
pub(super) fn is_printable(text: &[u8]) -> bool {
    text.iter().all(|&b| b.is_ascii_graphic() && b != b',')
}
