//! The header's bytes.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::str::{FromStr, from_utf8};

/// Begins a header of version 2 (section 2.2).
const SIGNATURE: &[u8; 12] = b"\r\n\r\n\0\r\nQUIT\n";
/// What the signature is followed by: version and command, family, and the length of the rest.
const FIXED_BYTES: usize = 16;
/// Begins a header of version 1 (section 2.1).
const WORD: &[u8] = b"PROXY ";
/// Longest header of version 1, its line end included.
const LINE_BYTES_MAX: usize = 107;

/// How far a header has come.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Progress {
    /// It is the first `end` bytes.
    Whole { end: usize, client: Option<IpAddr> },
    /// All bytes are part of it, and more are to come.
    More,
}

/// It is no such header, or one that says nothing of a TCP connection.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Malformed(pub(super) &'static str);

pub(super) fn parse(bytes: &[u8], max: usize) -> Result<Progress, Malformed> {
    let begins = |with: &[u8]| {
        let length = bytes.len().min(with.len());
        bytes[..length] == with[..length]
    };
    if begins(SIGNATURE) {
        return binary(bytes, max);
    }
    if begins(WORD) {
        return text(bytes);
    }
    Err(Malformed(
        "the connection does not begin with a PROXY header",
    ))
}

fn text(bytes: &[u8]) -> Result<Progress, Malformed> {
    let searched = &bytes[..bytes.len().min(LINE_BYTES_MAX)];
    let Some(feed) = memchr::memchr(b'\n', searched) else {
        return match searched.len() < LINE_BYTES_MAX {
            true => Ok(Progress::More),
            false => Err(Malformed("its line is too long")),
        };
    };
    let line = searched[..feed]
        .strip_suffix(b"\r")
        .ok_or(Malformed("its line ends in a lone LF"))?;
    let line = from_utf8(line).map_err(|_| Malformed("its line is not text"))?;
    let mut words = line.split(' ').skip(1);
    let client = match words.next() {
        // Whatever follows is to be ignored.
        Some("UNKNOWN") => None,
        Some("TCP4") => Some(IpAddr::V4(addresses::<Ipv4Addr>(words)?)),
        Some("TCP6") => Some(IpAddr::V6(addresses::<Ipv6Addr>(words)?)),
        _ => return Err(Malformed("it names no protocol that is known")),
    };
    Ok(Progress::Whole {
        end: feed + 1,
        client,
    })
}

/// The client's of two addresses and two ports.
fn addresses<'a, A: FromStr>(words: impl Iterator<Item = &'a str>) -> Result<A, Malformed> {
    let words: Vec<_> = words.take(5).collect();
    let [client, edge, client_port, edge_port] = words[..] else {
        return Err(Malformed("its line is not two addresses and two ports"));
    };
    let is_port = |text: &str| {
        let legal = text == "0" || !text.starts_with(['0', '+']);
        legal && text.parse::<u16>().is_ok()
    };
    if !is_port(client_port) || !is_port(edge_port) || edge.parse::<A>().is_err() {
        return Err(Malformed(
            "its line has no address or port where one belongs",
        ));
    }
    let client = client.parse();
    client.map_err(|_| Malformed("the client's address in it is none"))
}

fn binary(bytes: &[u8], max: usize) -> Result<Progress, Malformed> {
    let Some((fixed, rest)) = bytes.split_at_checked(FIXED_BYTES) else {
        return Ok(Progress::More);
    };
    let (command, family) = (fixed[12], fixed[13]);
    let length = usize::from(u16::from_be_bytes([fixed[14], fixed[15]]));
    let is_local = match command {
        0x20 => true,
        0x21 => false,
        _ => return Err(Malformed("its version or command is not known")),
    };
    // Bytes of the two addresses and two ports.
    let needed = match family {
        _ if is_local => 0,
        0x00 => 0,
        0x11 => 12,
        0x21 => 36,
        0x31 | 0x32 => return Err(Malformed("it speaks of a Unix socket")),
        _ => return Err(Malformed("it speaks of no TCP connection")),
    };
    if length < needed {
        return Err(Malformed("it is too short for its addresses"));
    }
    let end = FIXED_BYTES + length;
    if end > max {
        return Err(Malformed("it is too long"));
    }
    let Some(rest) = rest.get(..length) else {
        return Ok(Progress::More);
    };
    let client = match needed {
        12 => first::<4>(rest).map(IpAddr::from),
        36 => first::<16>(rest).map(IpAddr::from),
        _ => None,
    };
    // What follows the addresses are further facts, each with a length; none is needed here.
    Ok(Progress::Whole { end, client })
}

fn first<const N: usize>(bytes: &[u8]) -> Option<[u8; N]> {
    bytes.first_chunk().copied()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const MAX: usize = 4096;

    fn v2(command: u8, family: u8, rest: &[u8]) -> Vec<u8> {
        let mut bytes = SIGNATURE.to_vec();
        bytes.extend_from_slice(&[command, family]);
        bytes.extend_from_slice(&u16::try_from(rest.len()).unwrap().to_be_bytes());
        bytes.extend_from_slice(rest);
        bytes
    }

    fn whole(bytes: &[u8]) -> Option<IpAddr> {
        let mut sent = bytes.to_vec();
        sent.extend_from_slice(b"GET / HTTP/1.1\r\n");
        match parse(&sent, MAX) {
            Ok(Progress::Whole { end, client }) if end == bytes.len() => client,
            other => panic!("{}: {other:?}", bytes.escape_ascii()),
        }
    }

    #[test]
    fn lines_name_the_client() {
        let at = |text: &str| Some(text.parse::<IpAddr>().unwrap());
        assert_eq!(
            whole(b"PROXY TCP4 192.0.2.1 198.51.100.1 56324 443\r\n"),
            at("192.0.2.1")
        );
        assert_eq!(
            whole(b"PROXY TCP6 2001:db8::1 ::1 1 65535\r\n"),
            at("2001:db8::1")
        );
        assert_eq!(whole(b"PROXY UNKNOWN\r\n"), None);
        let longest = b"PROXY UNKNOWN ffff:ffff:ffff:ffff:ffff:ffff:ffff:ffff \
                        ffff:ffff:ffff:ffff:ffff:ffff:ffff:ffff 65535 65535\r\n";
        assert_eq!((longest.len(), whole(longest)), (LINE_BYTES_MAX, None));
    }

    #[test]
    fn lines_that_are_none_are_refused() {
        for bad in [
            "GET / HTTP/1.1\r\n",
            "PROXY\r\n",
            "PROXY TCP4\r\n",
            "PROXY TCP5 1.1.1.1 1.1.1.1 1 1\r\n",
            "PROXY UDP4 1.1.1.1 1.1.1.1 1 1\r\n",
            "PROXY TCP4 1.1.1.1 1.1.1.1 1\r\n",
            "PROXY TCP4 1.1.1.1 1.1.1.1 1 1 1\r\n",
            "PROXY TCP4 1.1.1.1  1.1.1.1 1 1\r\n",
            "PROXY TCP4 1.1.1.1 1.1.1.1 1 65536\r\n",
            "PROXY TCP4 1.1.1.1 1.1.1.1 01 1\r\n",
            "PROXY TCP4 1.1.1.1 1.1.1.1 +1 1\r\n",
            "PROXY TCP4 01.1.1.1 1.1.1.1 1 1\r\n",
            "PROXY TCP4 ::1 ::1 1 1\r\n",
            "PROXY TCP6 1.1.1.1 1.1.1.1 1 1\r\n",
            "PROXY TCP4 1.1.1.1 1.1.1.1 1 1\n",
            "proxy TCP4 1.1.1.1 1.1.1.1 1 1\r\n",
            "\r\n\r\nGET",
        ] {
            assert!(parse(bad.as_bytes(), MAX).is_err(), "{bad}");
        }
        assert!(
            parse(
                format!("PROXY UNKNOWN {}\r\n", "x".repeat(92)).as_bytes(),
                MAX
            )
            .is_err()
        );
        assert!(parse(format!("PROXY UNKNOWN {}", "x".repeat(93)).as_bytes(), MAX).is_err());
    }

    #[test]
    fn blocks_name_the_client() {
        let mut four = vec![192, 0, 2, 1, 198, 51, 100, 1];
        four.extend_from_slice(&[0xdc, 0x04, 0x01, 0xbb]);
        let client = Some("192.0.2.1".parse().unwrap());
        assert_eq!(whole(&v2(0x21, 0x11, &four)), client);
        // With a further fact behind the addresses.
        four.extend_from_slice(&[0x04, 0, 2, 0, 0]);
        assert_eq!(whole(&v2(0x21, 0x11, &four)), client);
        let mut six = [0; 36];
        six[15] = 1;
        let client = Some("::1".parse().unwrap());
        assert_eq!(whole(&v2(0x21, 0x21, &six)), client);
        for itself in [
            v2(0x20, 0x00, b""),
            v2(0x20, 0x11, &four),
            v2(0x21, 0x00, b"abc"),
        ] {
            assert_eq!(whole(&itself), None);
        }
    }

    #[test]
    fn blocks_that_speak_of_something_else_are_refused() {
        let room = [0; 216];
        for (bad, why) in [
            (v2(0x11, 0x11, &room), "version"),
            (v2(0x22, 0x11, &room), "version"),
            (v2(0x21, 0x12, &room), "TCP"),
            (v2(0x21, 0x41, &room), "TCP"),
            (v2(0x21, 0x31, &room), "Unix"),
            (v2(0x21, 0x32, &room), "Unix"),
            (v2(0x21, 0x11, &room[..11]), "short"),
            (v2(0x21, 0x21, &room[..35]), "short"),
            (v2(0x21, 0x11, &[0; MAX]), "long"),
        ] {
            let Malformed(said) = parse(&bad, MAX).unwrap_err();
            assert!(said.contains(why), "{said}");
            // Known from its first bytes: nobody waits for the rest.
            assert!(parse(&bad[..FIXED_BYTES], MAX).is_err());
        }
    }

    fn header() -> impl Strategy<Value = Vec<u8>> {
        let block = (any::<bool>(), 0..3usize, 0..80usize).prop_map(|(local, family, more)| {
            let needed = [0, 12, 36][family];
            let command = if local { 0x20 } else { 0x21 };
            v2(command, [0x00, 0x11, 0x21][family], &vec![7; needed + more])
        });
        let line = (any::<[u8; 4]>(), any::<u16>()).prop_map(|(ip, port)| {
            let ip = Ipv4Addr::from(ip);
            format!("PROXY TCP4 {ip} {ip} {port} {port}\r\n").into_bytes()
        });
        prop_oneof![block, line]
    }

    proptest! {
        #[test]
        fn a_header_ends_where_it_ends(header in header(), rest in any::<Vec<u8>>(), cut: prop::sample::Index) {
            let cut = cut.index(header.len());
            if cut > 0 {
                prop_assert_eq!(parse(&header[..cut], MAX), Ok(Progress::More));
            }
            let mut sent = header.clone();
            sent.extend_from_slice(&rest);
            match parse(&sent, MAX) {
                Ok(Progress::Whole { end, .. }) => prop_assert_eq!(end, header.len()),
                other => prop_assert!(false, "{:?}", other),
            }
        }

        #[test]
        fn nothing_breaks_it(start in 0..3usize, bytes in any::<Vec<u8>>(), max in 0..300usize) {
            let mut sent = [&b""[..], WORD, SIGNATURE][start].to_vec();
            sent.extend_from_slice(&bytes);
            match parse(&sent, max) {
                Ok(Progress::Whole { end, .. }) => {
                    prop_assert!(end <= sent.len() && end <= max.max(LINE_BYTES_MAX));
                }
                Ok(Progress::More) => prop_assert!(sent.len() < max.max(LINE_BYTES_MAX).max(FIXED_BYTES)),
                Err(_) => {}
            }
        }
    }
}
