//! Results of the console: typed columns, typed values.

use bytes::BytesMut;

use crate::wire::backend::{ColumnHead, put_columns, put_row};

/// What a command answers with.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Table {
    pub(super) columns: &'static [Column],
    pub(super) rows: Vec<Vec<Value>>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Column {
    pub(super) name: &'static str,
    pub(super) kind: Kind,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Kind {
    Text,
    Integer,
    Number,
    Flag,
}

#[derive(Debug, Clone, PartialEq)]
pub(super) enum Value {
    Null,
    Text(String),
    Integer(i64),
    Number(f64),
    Flag(bool),
}

/// How a client wants a column, from Bind.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Format {
    Text,
    Binary,
}

pub(super) const fn text(name: &'static str) -> Column {
    Column { name, kind: Kind::Text }
}

pub(super) const fn integer(name: &'static str) -> Column {
    Column { name, kind: Kind::Integer }
}

pub(super) const fn number(name: &'static str) -> Column {
    Column { name, kind: Kind::Number }
}

pub(super) const fn flag(name: &'static str) -> Column {
    Column { name, kind: Kind::Flag }
}

impl Kind {
    /// `oid` and `typlen` of text, int8, float8 and bool in `src/include/catalog/pg_type.dat`.
    fn oid_and_len(self) -> (i32, i16) {
        match self {
            Self::Text => (25, -1),
            Self::Integer => (20, 8),
            Self::Number => (701, 8),
            Self::Flag => (16, 1),
        }
    }
}

/// Appends RowDescription. `format` tells the format of a column by its number.
pub(super) fn put_heads(out: &mut BytesMut, columns: &[Column], format: impl Fn(usize) -> Format) {
    let heads = columns.iter().enumerate().map(|(number, column)| {
        let (oid, len) = column.kind.oid_and_len();
        ColumnHead { name: column.name, oid, len, format: format(number) as i16 }
    });
    put_columns(out, heads);
}

/// Appends DataRow.
pub(super) fn put_values(out: &mut BytesMut, row: &[Value], format: impl Fn(usize) -> Format) {
    put_row(out, row.iter().enumerate().map(|(number, value)| value.encode(format(number))));
}

impl Value {
    fn encode(&self, format: Format) -> Option<Vec<u8>> {
        if format == Format::Text {
            return self.to_text().map(String::into_bytes);
        }
        match self {
            Self::Null => None,
            Self::Text(text) => Some(text.clone().into_bytes()),
            Self::Integer(n) => Some(n.to_be_bytes().to_vec()),
            Self::Number(n) => Some(n.to_be_bytes().to_vec()),
            Self::Flag(flag) => Some(vec![u8::from(*flag)]),
        }
    }

    /// As PostgreSQL prints it; `None` is NULL.
    pub(super) fn to_text(&self) -> Option<String> {
        match self {
            Self::Null => None,
            // A zero byte cannot be part of a text.
            Self::Text(text) => Some(text.replace('\0', "")),
            Self::Integer(n) => Some(n.to_string()),
            Self::Number(n) => Some(n.to_string()),
            Self::Flag(flag) => Some(if *flag { "t" } else { "f" }.to_owned()),
        }
    }
}

impl From<&str> for Value {
    fn from(text: &str) -> Self {
        Self::Text(text.to_owned())
    }
}

impl From<String> for Value {
    fn from(text: String) -> Self {
        Self::Text(text)
    }
}

impl From<bool> for Value {
    fn from(flag: bool) -> Self {
        Self::Flag(flag)
    }
}

impl From<f64> for Value {
    fn from(n: f64) -> Self {
        Self::Number(n)
    }
}

impl From<u64> for Value {
    fn from(n: u64) -> Self {
        Self::Integer(i64::try_from(n).unwrap_or(i64::MAX))
    }
}

impl From<u32> for Value {
    fn from(n: u32) -> Self {
        Self::Integer(n.into())
    }
}

impl From<usize> for Value {
    fn from(n: usize) -> Self {
        Self::Integer(i64::try_from(n).unwrap_or(i64::MAX))
    }
}

impl<T: Into<Value>> From<Option<T>> for Value {
    fn from(value: Option<T>) -> Self {
        value.map_or(Self::Null, Into::into)
    }
}
