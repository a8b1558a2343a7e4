//! What a client accepts (RFC 9110 section 12.5).

use http::HeaderValue;

use super::ask::Values;

/// The coding a file is sent in (RFC 9110 section 8.4.1; RFC 7932 for `br`, RFC 8878 for `zstd`).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(crate) enum Coding {
    Identity,
    Gzip,
    Brotli,
    Zstd,
}

impl Coding {
    pub(super) const PACKED: [Coding; 3] = [Coding::Brotli, Coding::Zstd, Coding::Gzip];

    /// Behind the name of a file in that coding.
    pub(super) fn extension(self) -> &'static str {
        match self {
            Coding::Identity => "",
            Coding::Gzip => "gz",
            Coding::Brotli => "br",
            Coding::Zstd => "zst",
        }
    }

    pub(super) fn value(self) -> HeaderValue {
        HeaderValue::from_static(match self {
            Coding::Identity => "identity",
            Coding::Gzip => "gzip",
            Coding::Brotli => "br",
            Coding::Zstd => "zstd",
        })
    }
}

/// How welcome each coding is, in thousandths; 0 is not at all.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Welcome {
    identity: u16,
    gzip: u16,
    brotli: u16,
    zstd: u16,
}

impl Welcome {
    /// Without the field the client may take anything, but did not say so: the file as it is.
    pub(super) fn read(accept_encoding: &Values<'_>) -> Welcome {
        let (mut identity, mut gzip, mut brotli, mut zstd, mut any) =
            (None, None, None, None, None);
        for (name, quality) in accept_encoding.members().map(item) {
            let is = |known: &str| name.eq_ignore_ascii_case(known);
            let slot = match name.len() {
                1 if is("*") => &mut any,
                2 if is("br") => &mut brotli,
                4 if is("gzip") => &mut gzip,
                6 if is("x-gzip") => &mut gzip,
                4 if is("zstd") => &mut zstd,
                8 if is("identity") => &mut identity,
                _ => continue,
            };
            *slot = Some(quality);
        }
        let other = any.unwrap_or(0);
        Welcome {
            // Not named it is acceptable, and less welcome than whatever is named.
            identity: identity.or(any).unwrap_or(1),
            gzip: gzip.unwrap_or(other),
            brotli: brotli.unwrap_or(other),
            zstd: zstd.unwrap_or(other),
        }
    }

    pub(super) fn of(self, coding: Coding) -> u16 {
        match coding {
            Coding::Identity => self.identity,
            Coding::Gzip => self.gzip,
            Coding::Brotli => self.brotli,
            Coding::Zstd => self.zstd,
        }
    }

    /// Of forms with their sizes the most welcome one, of those equally so the smallest. If none is
    /// acceptable, the first: section 12.5.3 has such a request answered without coding.
    pub(super) fn choose(self, forms: impl Iterator<Item = (Coding, u64)>) -> usize {
        let mut best = (0, 0, u64::MAX);
        for (index, (coding, size)) in forms.enumerate() {
            let quality = self.of(coding);
            if quality > best.1 || (quality > 0 && quality == best.1 && size < best.2) {
                best = (index, quality, size);
            }
        }
        best.0
    }
}

/// HTML is named in `Accept`; `*/*` alone, which programs send, is not enough.
pub(crate) fn accepts_html(accept: Option<&HeaderValue>) -> bool {
    let mut values = Values::default();
    if let Some(accept) = accept {
        values.add(accept.as_bytes());
    }
    wants_html(&values)
}

pub(super) fn wants_html(accept: &Values<'_>) -> bool {
    accept.members().map(item).any(|(name, quality)| {
        quality > 0
            && ["text/html", "application/xhtml+xml", "text/*"]
                .iter()
                .any(|known| name.eq_ignore_ascii_case(known))
    })
}

/// A list's member and its weight; what is not a weight counts as none.
fn item(member: &str) -> (&str, u16) {
    let mut parts = member.split(';').map(str::trim);
    let name = parts.next().unwrap_or_default();
    let quality = parts
        .find_map(|part| part.strip_prefix("q=").or_else(|| part.strip_prefix("Q=")))
        .map_or(1000, thousandths);
    (name, quality)
}

/// `0.8` is 800 (section 12.4.2: at most three digits behind the point).
fn thousandths(text: &str) -> u16 {
    let (whole, fraction) = text.split_once('.').unwrap_or((text, ""));
    if fraction.len() > 3 || !fraction.bytes().all(|b| b.is_ascii_digit()) {
        return 0;
    }
    let fraction = fraction.bytes().chain(*b"000").take(3);
    let fraction = fraction.fold(0, |sum, digit| sum * 10 + u16::from(digit - b'0'));
    match (whole, fraction) {
        ("0", fraction) => fraction,
        ("1", 0) => 1000,
        _ => 0,
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn welcome(value: &str) -> Welcome {
        let mut values = Values::default();
        values.add(value.as_bytes());
        Welcome::read(&values)
    }

    fn chosen(value: &str) -> Coding {
        let forms = [
            (Coding::Identity, 100),
            (Coding::Brotli, 30),
            (Coding::Zstd, 40),
            (Coding::Gzip, 50),
        ];
        forms[welcome(value).choose(forms.into_iter())].0
    }

    #[test]
    fn weights_are_respected() {
        use Coding::{Brotli, Gzip, Identity, Zstd};
        for (value, expected) in [
            ("gzip", Gzip),
            ("x-gzip", Gzip),
            ("GZIP", Gzip),
            ("gzip, deflate, br, zstd", Brotli),
            ("deflate, gzip;q=1.0, *;q=0.5", Gzip),
            ("br;q=0.8, gzip;q=0.9", Gzip),
            ("br;q=0.001, gzip;q=0", Brotli),
            ("gzip;q=0", Identity),
            ("*", Brotli),
            ("br;q=0, *", Zstd),
            ("*;q=0", Identity),
            ("identity;q=0, zstd;q=0.1", Zstd),
            ("identity, gzip;q=0.5", Identity),
            ("identity;q=0.5, gzip", Gzip),
            ("deflate", Identity),
            ("", Identity),
            ("gzip;q=x", Identity),
            ("gzip;q=1.5", Identity),
            ("gzip;q=0.0001", Identity),
            ("gzip; Q=0.5 , , br ; q=0.25", Gzip),
        ] {
            assert_eq!(chosen(value), expected, "{value}");
        }
        let none = Welcome::read(&Values::default());
        assert_eq!(
            none.choose([(Coding::Identity, 9), (Coding::Gzip, 1)].into_iter()),
            0
        );
    }

    #[test]
    fn html_must_be_named() {
        let accepts = |value| accepts_html(Some(&HeaderValue::from_static(value)));
        assert!(accepts("text/html,application/xhtml+xml;q=0.9,*/*;q=0.8"));
        assert!(!accepts("*/*"));
        assert!(!accepts("application/json, text/html;q=0"));
        assert!(!accepts_html(None));
    }

    proptest! {
        #[test]
        fn what_is_refused_is_not_sent(
            qualities in proptest::collection::vec((prop_oneof!["gzip", "br", "zstd", "identity", "\\*"], 0u16..=1000), 0..6),
            sizes in proptest::array::uniform3(1u64..100),
        ) {
            // Each name once, as in any honest field.
            let mut seen = Vec::new();
            let named: Vec<_> = qualities.into_iter().filter(|(name, _)| {
                let new = !seen.contains(name);
                seen.push(name.clone());
                new
            }).collect();
            let text: Vec<_> = named.iter().map(|(name, q)| format!("{name};q={}.{:03}", q / 1000, q % 1000)).collect();
            let forms = [(Coding::Identity, 100), (Coding::Brotli, sizes[0]), (Coding::Zstd, sizes[1]), (Coding::Gzip, sizes[2])];
            let names = ["identity", "br", "zstd", "gzip"];
            let quality = |index: usize| {
                let of = |wanted: &str| named.iter().find(|(name, _)| name == wanted).map(|(_, q)| *q);
                of(names[index]).or(of("*")).unwrap_or(u16::from(index == 0))
            };
            let chosen = welcome(&text.join(", ")).choose(forms.into_iter());
            let best = (0..4).map(quality).max().unwrap();
            if best == 0 {
                prop_assert_eq!(chosen, 0);
            } else {
                prop_assert_eq!(quality(chosen), best);
                let smallest = (0..4).filter(|n| quality(*n) == best).map(|n| forms[n].1).min().unwrap();
                prop_assert_eq!(forms[chosen].1, smallest);
            }
        }
    }
}
