//! SASLprep (RFC 4013) exactly as PostgreSQL does it (`src/common/saslprep.c`): a client and a server that prepare a
//! password differently cannot agree on its keys.

use std::borrow::Cow;

use stringprep::tables;
use unicode_normalization::UnicodeNormalization;

/// The password as it enters the key derivation. One that SASLprep prohibits is used as it is.
pub(super) fn prepare(password: &str) -> Cow<'_, str> {
    // PostgreSQL's shortcut: ASCII is never looked at, not even for control characters.
    if password.is_ascii() {
        return Cow::Borrowed(password);
    }
    let mapped: Vec<char> = password
        .chars()
        .map(|c| if tables::non_ascii_space_character(c) { ' ' } else { c })
        .filter(|&c| !tables::commonly_mapped_to_nothing(c))
        .collect();
    // PostgreSQL looks for prohibited characters before the normalisation, unlike the RFC.
    if mapped.is_empty() || mapped.iter().any(|&c| prohibited(c)) || mixes_directions(&mapped) {
        return Cow::Borrowed(password);
    }
    Cow::Owned(mapped.into_iter().nfkc().collect())
}

/// RFC 4013 section 2.3, and 2.5 (unassigned in Unicode 3.2).
fn prohibited(c: char) -> bool {
    tables::non_ascii_space_character(c)
        || tables::ascii_control_character(c)
        || tables::non_ascii_control_character(c)
        || tables::private_use(c)
        || tables::non_character_code_point(c)
        || tables::surrogate_code(c)
        || tables::inappropriate_for_plain_text(c)
        || tables::inappropriate_for_canonical_representation(c)
        || tables::change_display_properties_or_deprecated(c)
        || tables::tagging_character(c)
        || tables::unassigned_code_point(c)
}

/// RFC 3454 section 6: text with right-to-left characters has to begin and end with one, and have none from left to right.
fn mixes_directions(text: &[char]) -> bool {
    let right_to_left = |c: Option<&char>| c.is_some_and(|&c| tables::bidi_r_or_al(c));
    text.iter().any(|&c| tables::bidi_r_or_al(c))
        && (text.iter().any(|&c| tables::bidi_l(c)) || !right_to_left(text.first()) || !right_to_left(text.last()))
}

#[cfg(test)]
mod tests {
    use super::super::verifier::{ScramVerifier, Verifier};

    /// What PostgreSQL 15.18 stored for `CREATE ROLE r PASSWORD ..`.
    const STORED: &[(&str, &str)] = &[
        (
            "\u{70}\u{65}\u{6e}\u{63}\u{69}\u{6c}",
            "SCRAM-SHA-256$4096:QNDODdAPCw93QxsbUS6zcg==$61BI62e8mVvKy7IJpf+C7nIFPIb3wD9x0qkGxKqqj80=:mEHVZiP2OyU9rDVJx02p3OTirO1k5LCZGdbVbR5+RAc=",
        ),
        (
            "\u{61}\u{1}\u{62}\u{7f}",
            "SCRAM-SHA-256$4096:Zqnf349F7HdEf8mmUimKgA==$LMxpNSCRT3jm1wyrJ02GhYRViMMdhml+fdp5EdOrJUw=:kjEbNLijRB15CcO59YVZfyMQHGvTZsAXQOTT5+BUtlA=",
        ),
        (
            "\u{2168}",
            "SCRAM-SHA-256$4096:bbwJcW5ghX9PNJaJozZmyg==$EnigKLcxTH2KBHCqdHs2Wyp9uXGt77WP0OLvSQSMNmw=:teRDqQTrNvMYuSEZ7UC/vJsVhKPhKmp0Jw7M7Sem5Qs=",
        ),
        (
            "\u{aa}",
            "SCRAM-SHA-256$4096:3cv2ZvhGdQjXgxTUKYHgZg==$87DEvqlxEx81F/hgBi0AUBhRNxRIwI8Gn9ZcvKeCrf0=:JwUil0AlhPs+G+u8mxX3pZJkIwzlaY3F8q4Jx3/0zXk=",
        ),
        (
            "\u{ad}\u{49}\u{200b}\u{58}",
            "SCRAM-SHA-256$4096:3DucH/HIcO0XF2U6oCQ4vA==$mKXGA4dIPWN+YleGcWKv9RC2DJPNuAQtDdMxcBQl3x8=:JSs+/affw6gNzLcUmnVkJZuWvHjTWK08jsGT3g8xvII=",
        ),
        (
            "\u{ad}",
            "SCRAM-SHA-256$4096:I69SrXVFarG/ZKSAlPHWyQ==$J3Xu4cWa6PwLUGLHN9iHu8/x5E8hRmp5VPGPYpXTy6g=:OZwLT4QtEVFW9rVs+YJ+IHHaCZPCZX7KyNf/6cG+Wr8=",
        ),
        (
            "\u{61}\u{a0}\u{62}",
            "SCRAM-SHA-256$4096:SMYa9Cj+0McwJmkCi0DYhg==$dil5qT+MCFMXkBxsDccgBBwEwVJHG3MEvjejg2Dswkc=:c6vOFniA1ShDSHvUaGfcdE/wxJX37mXuCWnylLAvuHQ=",
        ),
        (
            "\u{627}\u{31}",
            "SCRAM-SHA-256$4096:tK0IIiaLGeFPtN4cRgaMiw==$lpaCOkR8JGpjDmzKA4Y6jfeeJ2PSAKSnsBByt2U8ybU=:qucIA7vKtSVHPJEHNnmyx7FVHNLiuegeVw49J0Z4nhw=",
        ),
        (
            "\u{627}\u{31}\u{628}",
            "SCRAM-SHA-256$4096:WAom4n6YQNEbbyz7SEOwrg==$x83ZoPXIgmBLjbgeOBo8DU7Ras5Y7B8EavopNPyHCb4=:qVYAsC+hVaz2DPtXu7FyJfhhihv60e8h4PQNa5jdglA=",
        ),
        (
            "\u{627}\u{61}\u{628}",
            "SCRAM-SHA-256$4096:jD4XgyavL/xGdnSBRfh49A==$dmM0AaId+2+yH5BjfZktS2WjPkGCPqxbOPoJARGkyAI=:0Bfet6fUL0McRCNz70oAi27SZP8CB1/x+eGb5pexzdw=",
        ),
        (
            "\u{221}",
            "SCRAM-SHA-256$4096:cWNYtNy7WkD2108oVuTuZA==$Wu7mskN8TlQ+ZkfNb6nuZJbjh9IkKvHkNDjoMfNx+JA=:FvvE9rvUV0yrhi9bThYOEEnh4X1FOZg+l33uMjb/PlE=",
        ),
        (
            "\u{e9}",
            "SCRAM-SHA-256$4096:mLxvPRKjVlxPuon28y/6bw==$VjLGga2yV3Jzd/u/rsS1YTim488tEQQVNgSxoz9j5TY=:9hpi2Xgd5EsxTLzhciRznV7jH1ZgJ1bxBlyj6ycPFQ0=",
        ),
        (
            "\u{65}\u{301}",
            "SCRAM-SHA-256$4096:ab7THhlnmZ55giXSE0ivBQ==$5CWhmkj2DZ0lxCrfuqFsR6u8uTAkz5RajWzHdu8C4a0=:NCKGK1fuQQX0q+0w8ENy5pqmhIcAi0X6RV4SP5rbeEA=",
        ),
        (
            "\u{2f86}\u{38}",
            "SCRAM-SHA-256$4096:bXo9SWXlNjsrt2JcMIpW8Q==$crs/LqqxSBMhZPGGKEY50KaoWrSK3Kkp4Jbwc3+860g=:z3Q/JnoNUfyUwETPK2rtnDd7VpSvWZZ0AIeQhvYwwOw=",
        ),
        (
            "\u{1680}\u{78}",
            "SCRAM-SHA-256$4096:FOoD59cSmG56S/EU34VDFQ==$LErQvSLXU6JLyz6kD3RL4UUzZ2DglpvXrZe6AGSLivM=:NQkUc8Ahop52ps29GaLOuQ90aerwp+qwYNOWQnqtSKI=",
        ),
        (
            "\u{fb01}\u{73}\u{68}",
            "SCRAM-SHA-256$4096:agqwa9KBHHy/iEg2f1xR+A==$7Ue2OgWSwGoPN2mo9DW7igM54GhTaCCT7XdXlP/ccFU=:0TmII3dAh4gm1ppbPfEW6pZ8cFwSmpkSA10gLolFzpg=",
        ),
        (
            "\u{1f600}",
            "SCRAM-SHA-256$4096:i2SAL3PdhyuFW1NLx/J8pA==$eKTkY02pAT2MAfphR3kFZbLlK8RurdnBr3P78RzmMDM=:I6phSuBiUqCxeZ6Say5CkiGR3q9Z3PJ2f4S+ICiajMQ=",
        ),
        (
            "\u{200b}",
            "SCRAM-SHA-256$4096:caxr/f4N2LPszkeSdklsAg==$+5NfWnxaXddJ6M2HmDxSWmZ0WtDtfqVetTbjVpge8Ss=:87ZPJb1f5AxpvOB3lZU0RcOjgfsF1hSuLgTtv1s42cM=",
        ),
        (
            "\u{fffd}\u{21}",
            "SCRAM-SHA-256$4096:onkodLKFJJIs/ZOd7JtMQQ==$11A8knhPCFqD1846dyTswEYyHlqN6Z1D5ZzpRLZe/UE=:BgZ/EKeBLXC6qC6tntH3HFGuYGU0d1mwvCR9aG0NTjA=",
        ),
        (
            "\u{340}\u{78}",
            "SCRAM-SHA-256$4096:utxdo/ATpc6S7BsncDFqbQ==$a9VDs4gIE77o9qakKYbQna+8ZZtQkd9WEYdaL1d8Gyw=:3SpxBNQO34blkQk7l2SDlE3WnIHZ0UsT5BlhKE8UfaI=",
        ),
        (
            "\u{627}\u{ad}",
            "SCRAM-SHA-256$4096:0m9AHRDsv+lDq7Lyd0lTMQ==$JBxTkswtdEaNHvgETKpd/wMrCiwm3txGvtAE5de4apM=:CP9TkHe30FNRueYUggS9FP+GzDE/LpJUr2+2ZFMpIVY=",
        ),
        (
            "\u{e000}",
            "SCRAM-SHA-256$4096:wnGaTiiu6CtOocpCsWz0Tw==$shBc9oWcyvtNwikW344DBcy/HWCiv1bMWNqL97cE108=:nRDayadlfUv2FfNZLtox+XtEa2CpOpuSpBbhQYC/7y0=",
        ),
        (
            "\u{3000}\u{66}\u{75}\u{6c}\u{6c}\u{ff21}",
            "SCRAM-SHA-256$4096:GSmT1dgyd8R1OnLyubuwRw==$IZQWty3ORImXte0f5PHaW8SdiW0yGg/PuF4bM+b05JI=:WA3YfA0/0UG2kzwgggUJLpi9DFMsgok68mRVczTCdrs=",
        ),
        (
            "\u{78}\u{2028}",
            "SCRAM-SHA-256$4096:qQOAyLJnI9ATJKU3+mN62w==$I3wWmB80KR3eFsYc5LLD5MmnZsER2Ky8C6o29cGP+mg=:rLV3u7MzBHeCzs07YQMpRUBIVOazswJ+Sdg+JwOsQx0=",
        ),
        (
            "\u{212b}",
            "SCRAM-SHA-256$4096:u06AOM/rMcpaAoFPsRYXBQ==$Jl/VvfIE2M0GKvULyxMnX2sQIB2RHZJjMMKEyaboktM=:IY0QM2A5Rwy0SzwcNW/uYrk9eFOoL0U7a7DTBaLP49Y=",
        ),
        (
            "\u{627}\u{212b}\u{628}",
            "SCRAM-SHA-256$4096:M1qi4QK8NryJlFZkxxLOgw==$io+4XrcXXv3jqq5pWohmoCuFMEUO6t7CovfnIBpwcaU=:H963fKN+alRdOV5Cxgavgfb9xN9QiSJ2igv6En/LB/g=",
        ),
        (
            "\u{627}\u{b2}",
            "SCRAM-SHA-256$4096:UtkxebE5ATTrfdSrsnuH/w==$T1kF559sP31sTEEkNuUjSDA1wl3ExLQX/nbKj9+FvHo=:Ik9v3EyStzgjrmmhvxx3rzzm/7PFx8ByWe7jWVcxaOA=",
        ),
        (
            "\u{b2}\u{627}",
            "SCRAM-SHA-256$4096:KVl85noeiXhLH52q8ZhxkQ==$KQPIXBVjd3WB2TVRj+2aFb4O604SOXw/1kjHjx3u1+Y=:T8Nonsp7Ag8x0Ls1shMwxPe8qTyN7QvLjdbyNn/9Iyw=",
        ),
        (
            "\u{627}\u{b2}\u{628}",
            "SCRAM-SHA-256$4096:M0+oMYjpUv+RHhtmGwDc+w==$EN6zwb+BF5YQdkg1SAxIDnR3p19wQNRFlbDrb/QQH74=:fCWJuFNz4PCJMAdytbqsism4bUvy/rY1Eyf11R4mvjQ=",
        ),
    ];

    #[test]
    fn passwords_are_prepared_as_postgresql_prepares_them() {
        for (password, stored) in STORED {
            let Verifier::Scram(stored) = Verifier::parse(stored).unwrap() else { panic!("not SCRAM") };
            let ours = ScramVerifier::derive(password, &stored.salt, stored.iterations);
            assert!(ours == stored, "{password:?}");
        }
    }
}
