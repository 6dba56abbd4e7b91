//! What a function takes.

/// The number and the types of a function's arguments.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Signature {
    /// How many it can be called with; defaults and VARIADIC counted.
    least: u16,
    most: u16,
    /// The OIDs of the declared types, that of the VARIADIC ones at the end; `None`: they are not known.
    types: Option<Box<[u32]>>,
    is_variadic: bool,
}

/// The OID of no type: of an argument of which nothing is known.
const NO_TYPE: u32 = 0;

impl Signature {
    /// `least most`, and, if they are known, the OIDs of the elements of a VARIADIC array (or 0) and of the types.
    pub(super) fn parse(text: &str) -> Option<Self> {
        let mut numbers = text.split_ascii_whitespace();
        let (least, most) = (numbers.next()?.parse().ok()?, numbers.next()?.parse().ok()?);
        let mut oids = numbers.map(|oid| oid.parse::<u32>().ok());
        let Some(elements) = oids.next() else {
            return Some(Signature { least, most, types: None, is_variadic: false });
        };
        let mut types = oids.collect::<Option<Vec<u32>>>()?;
        let is_variadic = elements? != NO_TYPE;
        if is_variadic && let (Some(last), Some(elements)) = (types.last_mut(), elements) {
            *last = elements;
        }
        Some(Signature { least, most, types: Some(types.into()), is_variadic })
    }

    /// Whether it can be called with so many arguments.
    pub(super) fn takes(&self, arguments: usize) -> bool {
        (usize::from(self.least)..=usize::from(self.most)).contains(&arguments)
    }

    /// Whether no query can call it: nothing that SQL can name has the type `internal`.
    pub(super) fn is_internal(&self) -> bool {
        const INTERNAL: u32 = 2281;
        self.types.iter().flatten().any(|&oid| oid == INTERNAL)
    }

    /// What a call with so many arguments is declared to take, one type for each; `None`: that is not known.
    pub(super) fn types(&self, arguments: usize) -> Option<impl Iterator<Item = u32>> {
        let types = self.types.as_deref()?;
        let more = types.last().copied().filter(|_| self.is_variadic).unwrap_or(NO_TYPE);
        Some((0..arguments).map(move |i| types.get(i).copied().unwrap_or(more)))
    }

    /// Takes less memory from now on.
    pub(super) fn forget_types(&mut self) {
        self.types = None;
    }

    /// Bytes beyond its own size.
    pub(super) fn heap(&self) -> usize {
        self.types.as_ref().map_or(0, |types| types.len() * size_of::<u32>())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn types(text: &str, arguments: usize) -> Option<Vec<u32>> {
        Signature::parse(text).unwrap().types(arguments).map(Iterator::collect)
    }

    #[test]
    fn a_variadic_array_stands_for_its_elements() {
        assert_eq!(types("1 2 0 23 25", 1), Some(vec![23]));
        assert_eq!(types("1 2 0 23 25", 2), Some(vec![23, 25]));
        assert_eq!(types("2 1000 25 23 1009", 4), Some(vec![23, 25, 25, 25]));
        assert_eq!(types("0 1000", 2), None);
        assert!(Signature::parse("1 2 x").is_none() && Signature::parse("1").is_none());
        assert!(Signature::parse("1 3 0 23 25 25").unwrap().takes(2));
    }
}
