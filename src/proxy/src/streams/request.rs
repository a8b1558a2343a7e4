//! A request of HTTP/2 or HTTP/3 as a head of HTTP/1.1 (RFC 9113 section 8.3, RFC 9114 section 4.3): what is none is found here, and
//! what is one is put down for those who read requests here. What is checked there is not checked twice.

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use http::header::{HeaderName, HeaderValue};
use http::{HeaderMap, Method};

use super::Section;
use crate::h1::{Spelling, is_host};

/// Of fields that are put down beside those that came: Host, and what is said of connection and content.
const OWN_FIELDS: usize = 4;
/// Their bytes, unless the host is unusually long.
const OWN_BYTES: usize = 128;

/// How the content behind a head is framed where it is read as HTTP/1.1.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Content {
    /// There is none.
    Nothing,
    /// By the head's Content-Length, against which the stream's frames were counted.
    Plain,
    Chunked,
    /// None before the other side has changed the protocol, bytes as they are from then on (RFC 8441, RFC 9220).
    Tunnel,
}

/// Not a request (RFC 9113 section 8.1.1, RFC 9114 section 4.1.2): its stream is reset, and nobody hears of it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Malformed(pub(crate) &'static str);

/// What a section's fields ask for. Fields are told by their place in it.
#[derive(Debug)]
pub(crate) struct Asking {
    pub(crate) method: Method,
    /// How much content there is by its own word.
    pub(crate) length: Option<u64>,
    /// Extended CONNECT for WebSocket.
    is_websocket: bool,
    /// `:authority`, or `Host`.
    host: Option<usize>,
    /// `:path`; nothing for a CONNECT to somewhere.
    path: Option<usize>,
    /// There are pieces of a cookie.
    has_cookie: bool,
}

/// Fields whose names begin with a colon. Each may be there once.
#[derive(Default)]
struct Pseudo {
    method: Option<usize>,
    scheme: Option<usize>,
    authority: Option<usize>,
    path: Option<usize>,
    protocol: Option<usize>,
}

impl Asking {
    pub(crate) fn read(section: &Section) -> Result<Asking, Malformed> {
        let mut pseudo = Pseudo::default();
        let (mut host, mut length, mut has_cookie) = (None, None, false);
        let mut behind = false;
        for (at, (name, value)) in section.iter().enumerate() {
            if let Some(name) = name.strip_prefix(b":") {
                // Before all others.
                if behind {
                    return Err(Malformed("a pseudo-header comes behind a field"));
                }
                pseudo.take(at, name)?;
                continue;
            }
            behind = true;
            check(name, value)?;
            match name {
                b"host" if host.is_some() => return Err(Malformed("it has more than one Host")),
                b"host" => host = Some(at),
                b"content-length" if length.is_some() => {
                    return Err(Malformed("it has more than one Content-Length"));
                }
                b"content-length" => length = Some(number(value)?),
                b"cookie" => has_cookie = true,
                _ => {}
            }
        }
        let mut asking = Asking {
            method: Method::GET,
            length,
            is_websocket: false,
            host,
            path: None,
            has_cookie,
        };
        asking.place(section, &pseudo)?;
        Ok(asking)
    }

    fn place(&mut self, section: &Section, pseudo: &Pseudo) -> Result<(), Malformed> {
        let value = |at: usize| section.at(at).1;
        let method = pseudo.method.ok_or(Malformed("it has no method"))?;
        self.method = Method::from_bytes(value(method))
            .map_err(|_| Malformed("its method is not a token"))?;
        if let Some(authority) = pseudo.authority.map(value) {
            // Neither has a user any place there.
            if !is_host(authority) {
                return Err(Malformed("its authority is not one"));
            }
            if let Some(host) = self.host.map(value)
                && !host.eq_ignore_ascii_case(authority)
            {
                return Err(Malformed("its Host is not its authority"));
            }
        }
        if self.host.is_some_and(|host| value(host).contains(&b'@')) {
            return Err(Malformed("its Host has a user"));
        }
        self.host = pseudo.authority.or(self.host);
        let is_connect = self.method == Method::CONNECT;
        let protocol = pseudo.protocol.map(value);
        if protocol.is_some() && !is_connect {
            return Err(Malformed("it has a protocol and is no CONNECT"));
        }
        if is_connect && protocol.is_none() {
            // RFC 9113 section 8.5: where to connect to, and nothing else.
            let names = pseudo.scheme.or(pseudo.path).is_some() || pseudo.authority.is_none();
            return match names {
                true => Err(Malformed("a CONNECT names what it may not")),
                false => Ok(()),
            };
        }
        match pseudo.scheme.map(value) {
            Some(b"http" | b"https") => {}
            Some(scheme) if is_web(scheme) => {}
            Some(_) => return Err(Malformed("its scheme is not one of HTTP")),
            None => return Err(Malformed("it has no scheme")),
        }
        let path = pseudo.path.ok_or(Malformed("it has no path"))?;
        match value(path) {
            b"*" if self.method == Method::OPTIONS => {}
            // In HTTP/1.1 anything else could be a whole URL, with another host. What is behind a # is not sent.
            [b'/', rest @ ..] if !rest.iter().any(|b| *b <= b' ' || matches!(b, b'#' | 0x7f)) => {}
            _ => return Err(Malformed("its path is not one")),
        }
        // Of these schemes each has an authority, by either name.
        if self.host.is_none() {
            return Err(Malformed("it names no host"));
        }
        self.path = Some(path);
        self.is_websocket = protocol == Some(&b"websocket"[..]);
        Ok(())
    }

    /// How the content is framed that follows; `ended` says that none does.
    pub(crate) fn content(&self, ended: bool) -> Content {
        match (ended, self.length) {
            _ if self.is_websocket && !ended => Content::Tunnel,
            // Nobody opens a tunnel to anywhere here; whoever reads the head says so.
            _ if self.method == Method::CONNECT => Content::Nothing,
            (true, _) => Content::Nothing,
            (false, Some(_)) => Content::Plain,
            (false, None) => Content::Chunked,
        }
    }

    /// The head of a request that `section` was read as.
    pub(crate) fn spell(&self, section: &Section, content: Content) -> Spelling {
        // RFC 8441 section 5: what is CONNECT here is GET there.
        let method = match content {
            Content::Tunnel => Method::GET,
            _ => self.method.clone(),
        };
        let host = self.host.map_or(&b""[..], |host| section.at(host).1);
        // Somewhere to connect to.
        let target = self.path.map_or(host, |path| section.at(path).1);
        let fields = section.len() + OWN_FIELDS;
        let bytes = section.text_bytes() + section.len() * ": \r\n".len() + OWN_BYTES;
        let mut out = Spelling::new(method, target, fields, bytes);
        out.field(b"Host", host);
        self.put_fields(&mut out, section, content);
        match content {
            Content::Tunnel => {
                let key = STANDARD.encode(rand::random::<[u8; 16]>());
                out.field(b"Sec-WebSocket-Key", key.as_bytes());
                out.field(b"Upgrade", b"websocket");
                out.field(b"Connection", b"close, upgrade");
                return out;
            }
            Content::Chunked => out.field(b"Transfer-Encoding", b"chunked"),
            // RFC 9110 section 8.6: of methods that usually have content it is said when there is none.
            Content::Nothing if expects_content(&self.method) && self.length.is_none() => {
                out.field(b"Content-Length", b"0");
            }
            Content::Nothing | Content::Plain => {}
        }
        // A stream carries one request.
        out.field(b"Connection", b"close");
        out
    }

    fn put_fields(&self, out: &mut Spelling, section: &Section, content: Content) {
        let tunnel = content == Content::Tunnel;
        for (name, value) in section.iter() {
            let stays = match name {
                [b':', ..] | b"host" | b"cookie" => true,
                b"content-length" | b"sec-websocket-key" => tunnel,
                _ => false,
            };
            if !stays {
                out.field(name, value);
            }
        }
        if self.has_cookie {
            // RFC 9113 section 8.2.3: sent in pieces, for the sake of compression.
            let pieces = section.iter().filter(|(name, _)| *name == b"cookie");
            let pieces: Vec<_> = pieces.map(|(_, value)| value).collect();
            out.joined(b"cookie", &pieces);
        }
    }
}

impl Pseudo {
    fn take(&mut self, at: usize, name: &[u8]) -> Result<(), Malformed> {
        let place = match name {
            b"method" => &mut self.method,
            b"scheme" => &mut self.scheme,
            b"authority" => &mut self.authority,
            b"path" => &mut self.path,
            b"protocol" => &mut self.protocol,
            _ => return Err(Malformed("it has a pseudo-header of no request")),
        };
        match place.replace(at) {
            Some(_) => Err(Malformed("a pseudo-header is there twice")),
            None => Ok(()),
        }
    }
}

/// RFC 9113 section 8.3, RFC 9114 section 4.3: in trailers there are no pseudo-headers.
pub(crate) fn trailers(section: &Section) -> Result<HeaderMap, Malformed> {
    let mut trailers = HeaderMap::with_capacity(section.len());
    for (name, value) in section.iter() {
        check(name, value)?;
        let name = HeaderName::from_lowercase(name);
        let (Ok(name), Ok(value)) = (name, HeaderValue::from_bytes(value)) else {
            return Err(Malformed("a trailer field is not one"));
        };
        trailers
            .try_append(name, value)
            // No section is as long.
            .map_err(|_| Malformed("it has too many fields"))?;
    }
    Ok(trailers)
}

/// A field as it may be in a head or behind one: names in lower case, values without control characters or spaces around
/// them, nothing that belongs to a connection of HTTP/1.1 (RFC 9113 section 8.2, RFC 9114 section 4.2).
fn check(name: &[u8], value: &[u8]) -> Result<(), Malformed> {
    if name.is_empty() || !name.iter().all(|byte| is_name_byte(*byte)) {
        return Err(Malformed("a field's name is not one"));
    }
    let wrong = |byte: &u8| (*byte < b' ' && *byte != b'\t') || *byte == 0x7f;
    if value.iter().any(wrong) {
        return Err(Malformed("a field's value is not one"));
    }
    if value.first().is_some_and(is_space) || value.last().is_some_and(is_space) {
        return Err(Malformed("a field's value begins or ends with a space"));
    }
    let of_connection = match name {
        b"te" => !value.eq_ignore_ascii_case(b"trailers"),
        b"connection" | b"transfer-encoding" | b"upgrade" | b"keep-alive" | b"proxy-connection" => {
            true
        }
        _ => false,
    };
    match of_connection {
        true => Err(Malformed("it has a field of a connection of HTTP/1.1")),
        false => Ok(()),
    }
}

fn is_name_byte(byte: u8) -> bool {
    /// Tokens (RFC 9110 section 5.6.2) without upper case.
    static NAMES: [bool; 256] = {
        let mut names = [false; 256];
        let mut byte = 0;
        while byte < 256 {
            names[byte] = matches!(byte as u8,
                b'a'..=b'z' | b'0'..=b'9' | b'!' | b'#' | b'$' | b'%' | b'&' | b'\'' | b'*' | b'+'
                | b'-' | b'.' | b'^' | b'_' | b'`' | b'|' | b'~');
            byte += 1;
        }
        names
    };
    NAMES[usize::from(byte)]
}

fn is_web(scheme: &[u8]) -> bool {
    scheme.eq_ignore_ascii_case(b"http") || scheme.eq_ignore_ascii_case(b"https")
}

fn number(digits: &[u8]) -> Result<u64, Malformed> {
    let is_number = !digits.is_empty() && digits.iter().all(u8::is_ascii_digit);
    let text = std::str::from_utf8(digits).ok().filter(|_| is_number);
    let number = text.and_then(|text| text.parse().ok());
    number.ok_or(Malformed("its Content-Length is no length"))
}

/// Whether requests of a method usually have content.
pub(crate) fn expects_content(method: &Method) -> bool {
    matches!(*method, Method::POST | Method::PUT | Method::PATCH)
}

fn is_space(byte: &u8) -> bool {
    matches!(byte, b' ' | b'\t')
}

#[cfg(test)]
mod tests;
