//! Where a request comes from, in the fields that say so, and whose word on it counts.
//!
//! A client can write anything into such fields, so that they are dropped and written anew. Only a peer that the operator has
//! named as a proxy of theirs is believed: what it says is kept, and this hop is added to it.

use std::net::{IpAddr, SocketAddr};

use nebula_domain::http::Network;

use crate::h1::{Fields, RequestHead, Version, is_host, tokens};
use crate::headers::line;

/// Addresses of a request's way that are passed on; those nearest to the client go first. No real request comes through so
/// many proxies, and every one costs all that follow.
const HOPS_MAX: usize = 64;

/// How a client reached the edge.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Scheme {
    Http,
    Https,
}

impl Scheme {
    pub(crate) fn as_str(self) -> &'static str {
        match self {
            Scheme::Http => "http",
            Scheme::Https => "https",
        }
    }
}

/// What carries a client's requests.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Carrier {
    Http1,
    Http2,
    Http3,
}

/// Of a connection's requests; of one request where a trusted proxy speaks for others.
#[derive(Clone)]
pub(crate) struct Origin {
    /// The peer, or whom the proxies in front of the edge speak for.
    pub(crate) client: IpAddr,
    /// How the client came, as far as is known.
    pub(crate) scheme: Scheme,
    carrier: Carrier,
    /// The peer is a proxy whose word counts.
    is_trusted: bool,
    /// The fields that are the same for all requests.
    lines: Vec<u8>,
    /// What the client has asked a trusted proxy for.
    host: Option<Vec<u8>>,
    /// The beginning of the `Forwarded` field (RFC 7239), up to the host.
    forwarded: Vec<u8>,
}

impl Origin {
    /// `trusted` are the proxies whose word counts.
    pub(crate) fn new(peer: IpAddr, scheme: Scheme, trusted: &[Network]) -> Origin {
        let peer = peer.to_canonical();
        let mut forwarded = b"Forwarded: ".to_vec();
        forwarded.extend_from_slice(hop(peer, scheme).as_bytes());
        Origin {
            client: peer,
            scheme,
            carrier: Carrier::Http1,
            is_trusted: trusted.iter().any(|network| network.contains(peer)),
            lines: lines(peer.to_string().as_bytes(), peer, scheme),
            host: None,
            forwarded,
        }
    }

    pub(crate) fn of_http2(self) -> Origin {
        Origin {
            carrier: Carrier::Http2,
            ..self
        }
    }

    pub(crate) fn of_http3(self) -> Origin {
        Origin {
            carrier: Carrier::Http3,
            ..self
        }
    }

    /// Whether a client that came so is told of HTTP/3. What a proxy in front is told would be passed on to others.
    pub(crate) fn may_change(&self) -> bool {
        self.scheme == Scheme::Https && self.carrier != Carrier::Http3 && !self.is_trusted
    }

    /// The version that a client of HTTP/1.1 names in its head, or that of what carried it.
    pub(crate) fn protocol(&self, version: Version) -> &'static str {
        match (self.carrier, version) {
            (Carrier::Http3, _) => "HTTP/3.0",
            (Carrier::Http2, _) => "HTTP/2.0",
            (Carrier::Http1, Version::Eleven) => "HTTP/1.1",
            (Carrier::Http1, Version::Ten) => "HTTP/1.0",
        }
    }

    /// The `Via` line, which names the protocol that a request came by.
    pub(crate) fn via(&self) -> &'static [u8] {
        match self.carrier {
            Carrier::Http1 => b"Via: 1.1 nebula\r\n",
            Carrier::Http2 => b"Via: 2.0 nebula\r\n",
            Carrier::Http3 => b"Via: 3.0 nebula\r\n",
        }
    }

    /// The same for one request, if its peer is trusted to speak for others. The client is the last address of
    /// `X-Forwarded-For` that is not trusted, as everything before it is only what that one says.
    pub(crate) fn passed_on(&self, head: &RequestHead, trusted: &[Network]) -> Option<Origin> {
        if !self.is_trusted {
            return None;
        }
        let (peer, fields) = (self.client, head.fields());
        let hops: Vec<_> = fields.all("x-forwarded-for").flat_map(tokens).collect();
        let hops = &hops[hops.len().saturating_sub(HOPS_MAX)..];
        let client = client(peer, hops, trusted);
        let scheme = match fields.get("x-forwarded-proto") {
            Some(said) if said.eq_ignore_ascii_case(b"https") => Scheme::Https,
            Some(said) if said.eq_ignore_ascii_case(b"http") => Scheme::Http,
            _ => self.scheme,
        };
        let mut way = Vec::new();
        for hop in hops {
            way.extend_from_slice(hop);
            way.extend_from_slice(b", ");
        }
        way.extend_from_slice(peer.to_string().as_bytes());
        let mut forwarded = b"Forwarded: ".to_vec();
        for said in earlier(fields) {
            forwarded.extend_from_slice(said);
            forwarded.extend_from_slice(b", ");
        }
        // What this hop itself has seen (RFC 7239 section 4).
        forwarded.extend_from_slice(hop(peer, self.scheme).as_bytes());
        let host = fields.get("x-forwarded-host");
        Some(Origin {
            client,
            scheme,
            carrier: self.carrier,
            is_trusted: true,
            lines: lines(&way, client, scheme),
            host: host.filter(|host| is_host(host)).map(<[u8]>::to_vec),
            forwarded,
        })
    }

    /// What an instance is told that the client has asked for, when the request was routed by `host`.
    pub(crate) fn host<'a>(&'a self, host: &'a [u8]) -> &'a [u8] {
        self.host.as_deref().unwrap_or(host)
    }

    /// Writes the fields for a request that was routed by `host`.
    pub(crate) fn write(&self, out: &mut Vec<u8>, host: &[u8]) {
        out.extend_from_slice(&self.lines);
        line(out, b"X-Forwarded-Host", self.host(host));
        out.extend_from_slice(&self.forwarded);
        // A host is made of bytes that need no escape in a quoted string.
        out.extend_from_slice(host);
        out.extend_from_slice(b"\"\r\n");
    }
}

/// An element of `Forwarded`, up to its host.
fn hop(peer: IpAddr, scheme: Scheme) -> String {
    let scheme = scheme.as_str();
    match peer {
        IpAddr::V4(_) => format!("for={peer};proto={scheme};host=\""),
        // RFC 7239 section 6: in brackets, and quoted because of its colons.
        IpAddr::V6(_) => format!("for=\"[{peer}]\";proto={scheme};host=\""),
    }
}

fn lines(way: &[u8], client: IpAddr, scheme: Scheme) -> Vec<u8> {
    let mut lines = Vec::with_capacity(128);
    line(&mut lines, b"X-Forwarded-For", way);
    line(&mut lines, b"X-Real-IP", client.to_string().as_bytes());
    line(&mut lines, b"X-Forwarded-Proto", scheme.as_str().as_bytes());
    lines
}

/// From the edge backwards, for as long as one trusted machine names the next.
fn client(peer: IpAddr, hops: &[&[u8]], trusted: &[Network]) -> IpAddr {
    let mut client = peer;
    for hop in hops.iter().rev() {
        let believed = trusted.iter().any(|network| network.contains(client));
        match address(hop).filter(|_| believed) {
            Some(address) => client = address,
            None => break,
        }
    }
    client
}

/// An address as proxies write it: also with a port, or in brackets.
fn address(text: &[u8]) -> Option<IpAddr> {
    let text = std::str::from_utf8(text).ok()?;
    let bare = text.strip_prefix('[').and_then(|t| t.strip_suffix(']'));
    let address = bare.unwrap_or(text).parse::<IpAddr>();
    let address = address.or_else(|_| text.parse().map(|with: SocketAddr| with.ip()));
    address.ok().map(|address| address.to_canonical())
}

/// What proxies before this one have said in `Forwarded`; nothing if a quote in it is open, which would swallow this hop's.
fn earlier(fields: &Fields) -> impl Iterator<Item = &[u8]> {
    let all = || fields.all("forwarded").filter(|said| !said.is_empty());
    let whole = all().all(is_closed);
    all().filter(move |_| whole)
}

fn is_closed(value: &[u8]) -> bool {
    let (mut quoted, mut escaped) = (false, false);
    for byte in value {
        match byte {
            _ if escaped => escaped = false,
            b'\\' if quoted => escaped = true,
            b'"' => quoted = !quoted,
            _ => {}
        }
    }
    !quoted
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::headers::tests::request;

    fn written(origin: &Origin) -> String {
        let mut out = Vec::new();
        origin.write(&mut out, b"api.example.test");
        String::from_utf8(out).unwrap()
    }

    fn through(fields: &str) -> (IpAddr, Scheme, String) {
        let trusted = [
            "10.0.0.0/8".parse().unwrap(),
            "2001:db8::/32".parse().unwrap(),
        ];
        let head = request(&format!(
            "GET / HTTP/1.1\r\nHost: api.example.test\r\n{fields}\r\n"
        ));
        let peer = Origin::new("10.0.0.1".parse().unwrap(), Scheme::Http, &trusted);
        let origin = peer.passed_on(&head, &trusted).unwrap();
        let stranger = Origin::new("192.0.2.7".parse().unwrap(), Scheme::Http, &trusted);
        assert!(stranger.passed_on(&head, &trusted).is_none());
        (origin.client, origin.scheme, written(&origin))
    }

    #[test]
    fn a_peer_is_named_in_every_field() {
        let text = written(&Origin::new(
            "2001:db8::1".parse().unwrap(),
            Scheme::Https,
            &[],
        ));
        assert_eq!(
            text,
            "X-Forwarded-For: 2001:db8::1\r\nX-Real-IP: 2001:db8::1\r\nX-Forwarded-Proto: https\r\n\
             X-Forwarded-Host: api.example.test\r\n\
             Forwarded: for=\"[2001:db8::1]\";proto=https;host=\"api.example.test\"\r\n"
        );
    }

    #[test]
    fn the_client_is_the_last_that_is_not_trusted() {
        for (said, client) in [
            ("", "10.0.0.1"),
            ("X-Forwarded-For: 192.0.2.7\r\n", "192.0.2.7"),
            // What stands before it may be forged.
            ("X-Forwarded-For: 6.6.6.6, 192.0.2.7\r\n", "192.0.2.7"),
            (
                "X-Forwarded-For: 192.0.2.7,10.9.9.9 , 10.1.1.1\r\n",
                "192.0.2.7",
            ),
            (
                "X-Forwarded-For: 6.6.6.6, 192.0.2.7\r\nX-Forwarded-For: 10.1.1.1\r\n",
                "192.0.2.7",
            ),
            ("X-Forwarded-For: 10.2.2.2, 10.1.1.1\r\n", "10.2.2.2"),
            ("X-Forwarded-For: 192.0.2.7:4711\r\n", "192.0.2.7"),
            ("X-Forwarded-For: [2001:db9::7]:4711\r\n", "2001:db9::7"),
            ("X-Forwarded-For: [2001:db9::7]\r\n", "2001:db9::7"),
            ("X-Forwarded-For: ::ffff:192.0.2.7\r\n", "192.0.2.7"),
            // Not an address: the one that said so is the last that is known.
            (
                "X-Forwarded-For: 192.0.2.7, unknown, 10.1.1.1\r\n",
                "10.1.1.1",
            ),
            ("x_forwarded_for: 192.0.2.7\r\n", "10.0.0.1"),
        ] {
            assert_eq!(through(said).0, client.parse::<IpAddr>().unwrap(), "{said}");
        }
    }

    #[test]
    fn what_a_trusted_proxy_says_is_kept_and_extended() {
        let (_, scheme, text) = through(
            "X-Forwarded-For: 6.6.6.6, 192.0.2.7\r\nX-Forwarded-Proto: HTTPS\r\nX-Forwarded-Host: www.example.test\r\n\
             Forwarded: for=6.6.6.6\r\nForwarded: for=192.0.2.7;proto=https\r\n",
        );
        assert_eq!(scheme, Scheme::Https);
        assert_eq!(
            text,
            "X-Forwarded-For: 6.6.6.6, 192.0.2.7, 10.0.0.1\r\nX-Real-IP: 192.0.2.7\r\nX-Forwarded-Proto: https\r\n\
             X-Forwarded-Host: www.example.test\r\n\
             Forwarded: for=6.6.6.6, for=192.0.2.7;proto=https, for=10.0.0.1;proto=http;host=\"api.example.test\"\r\n"
        );
    }

    #[test]
    fn what_cannot_be_meant_is_not_kept() {
        let (_, scheme, text) = through(
            "X-Forwarded-Proto: gopher\r\nX-Forwarded-Host: a\"b\r\nForwarded: for=\"open\r\n",
        );
        assert_eq!(scheme, Scheme::Http);
        assert!(
            text.contains("X-Forwarded-Host: api.example.test\r\n"),
            "{text}"
        );
        assert!(text.contains("\r\nForwarded: for=10.0.0.1;"), "{text}");
        let (_, scheme, _) = through("X-Forwarded-Proto: https\r\nX-Forwarded-Proto: http\r\n");
        assert_eq!(scheme, Scheme::Http);
        let long = "X-Forwarded-For: 1.1.1.1\r\n".repeat(90);
        assert_eq!(through(&long).2.matches("1.1.1.1").count(), HOPS_MAX + 1);
        assert!(is_closed(b"for=\"a\\\"b\"") && !is_closed(b"for=\"a\\\""));
    }
}
