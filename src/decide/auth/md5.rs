//! md5 password authentication (PostgreSQL `src/common/md5_common.c`). Weak, but servers still ask for it.

use ::md5::{Digest, Md5};
use subtle::ConstantTimeEq;
use zeroize::Zeroizing;

/// `md5(password + user)` in lower-case hexadecimal: all that is needed to log in, so it is as secret as the password.
#[derive(Clone)]
pub struct Md5Hash(Zeroizing<[u8; 32]>);

impl Md5Hash {
    pub fn of(password: &str, user: &str) -> Self {
        Self(hex_md5(password.as_bytes(), user.as_bytes()))
    }

    /// `md5` and 32 lower-case hexadecimal digits, as PostgreSQL stores it.
    pub(super) fn parse(text: &str) -> Option<Self> {
        let digits: &[u8; 32] = text.strip_prefix("md5")?.as_bytes().try_into().ok()?;
        let lower_hex = |b: &u8| matches!(b, b'0'..=b'9' | b'a'..=b'f');
        digits.iter().all(lower_hex).then(|| Self(Zeroizing::new(*digits)))
    }

    /// The text of the PasswordMessage that answers a demand with this salt.
    pub fn response(&self, salt: [u8; 4]) -> Zeroizing<Vec<u8>> {
        let digest = hex_md5(&*self.0, &salt);
        let mut text = Zeroizing::new(Vec::with_capacity(35));
        text.extend_from_slice(b"md5");
        text.extend_from_slice(&*digest);
        text
    }

    /// Whether `response` answers a demand with this salt, in constant time.
    pub fn verify(&self, salt: [u8; 4], response: &[u8]) -> bool {
        self.response(salt).ct_eq(response).into()
    }
}

impl PartialEq for Md5Hash {
    fn eq(&self, other: &Self) -> bool {
        self.0.ct_eq(&*other.0).into()
    }
}

impl Eq for Md5Hash {}

fn hex_md5(first: &[u8], second: &[u8]) -> Zeroizing<[u8; 32]> {
    const DIGITS: &[u8; 16] = b"0123456789abcdef";
    let digest = Md5::new().chain_update(first).chain_update(second).finalize();
    let mut hex = Zeroizing::new([0; 32]);
    for (pair, byte) in hex.chunks_exact_mut(2).zip(digest) {
        pair[0] = DIGITS[usize::from(byte >> 4)];
        pair[1] = DIGITS[usize::from(byte & 15)];
    }
    hex
}

#[cfg(test)]
mod tests {
    use super::*;

    /// `SELECT 'md5' || md5('secret' || 'app')`, and the same once more with the salt.
    #[test]
    fn the_hash_and_the_response_are_postgresqls() {
        let hash = Md5Hash::of("secret", "app");
        assert!(hash == Md5Hash::parse("md56a422f785c9e20873908ce25d1736ae2").unwrap());
        let response = hash.response([1, 2, 3, 4]);
        assert_eq!(response.as_slice(), b"md5911f527656472583a006e7727877b33e");
        assert!(hash.verify([1, 2, 3, 4], &response));
        assert!(!hash.verify([1, 2, 3, 5], &response));
        assert!(!Md5Hash::of("Secret", "app").verify([1, 2, 3, 4], &response));
        assert!(!hash.verify([1, 2, 3, 4], &response[..34]));
    }

    #[test]
    fn only_lower_case_hexadecimal_of_the_right_length_is_a_hash() {
        assert!(Md5Hash::parse(&format!("md5{}", "a0".repeat(16))).is_some());
        for bad in
            ["md5".to_owned(), format!("md5{}", "A0".repeat(16)), format!("md5{}0", "a0".repeat(16)), "a".repeat(35)]
        {
            assert!(Md5Hash::parse(&bad).is_none(), "{bad}");
        }
    }
}
