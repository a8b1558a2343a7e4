//! What the fields of a section are: a request, trailers, or neither (RFC 9114 section 4); and the sections of answers.

use http::header::{self, HeaderName, HeaderValue};
use http::uri::{Authority, PathAndQuery, Scheme};
use http::{HeaderMap, Method, Response, Uri, request};

use super::qpack::{Encoder, Field};
use crate::streams::Malformed;

/// Fields whose names begin with a colon (sections 4.3.1 and 4.4). Each may be there once.
#[derive(Default)]
struct Pseudo {
    method: Option<Method>,
    scheme: Option<Scheme>,
    authority: Option<Authority>,
    path: Option<PathAndQuery>,
    protocol: Option<h2::ext::Protocol>,
}

pub(super) fn request(fields: Vec<Field>) -> Result<request::Parts, Malformed> {
    let mut pseudo = Pseudo::default();
    let mut headers = HeaderMap::with_capacity(fields.len());
    for field in fields {
        match field.name.strip_prefix(b":") {
            // Section 4.3: before all others.
            Some(_) if !headers.is_empty() => {
                return Err(Malformed("a pseudo-header comes behind a field"));
            }
            Some(name) => pseudo.take(name, &field.value)?,
            None => append(&mut headers, &field)?,
        }
    }
    let (mut parts, ()) = http::Request::new(()).into_parts();
    pseudo.place(&mut parts, &headers)?;
    parts.version = http::Version::HTTP_3;
    parts.headers = headers;
    Ok(parts)
}

/// Section 4.3: in trailers there are no pseudo-headers.
pub(super) fn trailers(fields: Vec<Field>) -> Result<HeaderMap, Malformed> {
    let mut trailers = HeaderMap::with_capacity(fields.len());
    for field in fields {
        append(&mut trailers, &field)?;
    }
    Ok(trailers)
}

/// How much content a request has by its own word.
pub(super) fn content_length(headers: &HeaderMap) -> Result<Option<u64>, Malformed> {
    let mut said = headers.get_all(header::CONTENT_LENGTH).iter();
    let Some(first) = said.next() else {
        return Ok(None);
    };
    let digits = first.as_bytes();
    let is_number = !digits.is_empty() && digits.iter().all(u8::is_ascii_digit);
    let number = first.to_str().ok().and_then(|text| text.parse().ok());
    match number.filter(|_| is_number && said.next().is_none()) {
        Some(length) => Ok(Some(length)),
        None => Err(Malformed("its Content-Length is no length")),
    }
}

impl Pseudo {
    fn take(&mut self, name: &[u8], value: &[u8]) -> Result<(), Malformed> {
        match name {
            b"method" => set(&mut self.method, Method::from_bytes(value).ok()),
            b"scheme" => set(&mut self.scheme, Scheme::try_from(value).ok()),
            b"authority" => set(&mut self.authority, Authority::try_from(value).ok()),
            // What is behind a # is not sent, and would be left out without a word.
            b"path" if value.is_empty() || value.contains(&b'#') => {
                Err(Malformed("its path is not one"))
            }
            b"path" => set(&mut self.path, PathAndQuery::try_from(value).ok()),
            b"protocol" => {
                let text = std::str::from_utf8(value).ok();
                set(&mut self.protocol, text.map(h2::ext::Protocol::from))
            }
            _ => Err(Malformed("it has a pseudo-header of no request")),
        }
    }

    fn place(self, parts: &mut request::Parts, headers: &HeaderMap) -> Result<(), Malformed> {
        let method = self.method.ok_or(Malformed("it has no method"))?;
        let is_connect = method == Method::CONNECT;
        if self.protocol.is_some() && !is_connect {
            return Err(Malformed("it has a protocol and is no CONNECT"));
        }
        let mut uri = http::uri::Parts::default();
        if is_connect && self.protocol.is_none() {
            // Section 4.4: where to connect to, and nothing else.
            if self.scheme.is_some() || self.path.is_some() || self.authority.is_none() {
                return Err(Malformed("a CONNECT names what it may not"));
            }
            uri.authority = self.authority;
        } else {
            let scheme = self.scheme.ok_or(Malformed("it has no scheme"))?;
            if scheme != Scheme::HTTP && scheme != Scheme::HTTPS {
                return Err(Malformed("its scheme is not one of HTTP"));
            }
            let path = self.path.ok_or(Malformed("it has no path"))?;
            // Of these schemes each has an authority, by either name.
            if self.authority.is_none() && !headers.contains_key(header::HOST) {
                return Err(Malformed("it names no host"));
            }
            uri.path_and_query = Some(path);
            if self.authority.is_some() {
                uri.scheme = Some(scheme);
                uri.authority = self.authority;
            }
        }
        parts.uri = Uri::from_parts(uri).map_err(|_| Malformed("its target is not one"))?;
        parts.method = method;
        if let Some(protocol) = self.protocol {
            parts.extensions.insert(protocol);
        }
        Ok(())
    }
}

fn set<T>(place: &mut Option<T>, value: Option<T>) -> Result<(), Malformed> {
    if place.is_some() {
        return Err(Malformed("a pseudo-header is there twice"));
    }
    *place = Some(value.ok_or(Malformed("a pseudo-header is not what it says"))?);
    Ok(())
}

fn append(headers: &mut HeaderMap, field: &Field) -> Result<(), Malformed> {
    // Section 4.2: names in lower case; none has a colon.
    let name = HeaderName::from_lowercase(&field.name)
        .map_err(|_| Malformed("a field's name is not one"))?;
    let value = HeaderValue::from_bytes(&field.value)
        .map_err(|_| Malformed("a field's value is not one"))?;
    let of_connection = match name {
        header::CONNECTION | header::TRANSFER_ENCODING | header::UPGRADE => true,
        header::TE => !value.as_bytes().eq_ignore_ascii_case(b"trailers"),
        _ => matches!(name.as_str(), "keep-alive" | "proxy-connection"),
    };
    if of_connection {
        return Err(Malformed("it has a field of a connection of HTTP/1.1"));
    }
    match headers.try_append(name, value) {
        Ok(_) => Ok(()),
        // No section is as long.
        Err(_) => Err(Malformed("it has too many fields")),
    }
}

/// The section of a response's head.
pub(super) fn write_response(response: &Response<()>) -> Encoder {
    let mut encoder = Encoder::new();
    encoder.field(":status", response.status().as_str().as_bytes());
    write(&mut encoder, response.headers());
    encoder
}

pub(super) fn write_trailers(trailers: &HeaderMap) -> Encoder {
    let mut encoder = Encoder::new();
    write(&mut encoder, trailers);
    encoder
}

fn write(encoder: &mut Encoder, fields: &HeaderMap) {
    for (name, value) in fields {
        encoder.field(name.as_str(), value.as_bytes());
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    type Pair = (&'static str, &'static str);

    const GET: [Pair; 4] = [
        (":method", "GET"),
        (":scheme", "https"),
        (":authority", "a"),
        (":path", "/x?y"),
    ];

    fn fields(pairs: &[Pair]) -> Vec<Field> {
        let field = |pair: &Pair| Field {
            name: pair.0.as_bytes().into(),
            value: pair.1.as_bytes().into(),
        };
        pairs.iter().map(field).collect()
    }

    fn read(pairs: &[&[Pair]]) -> Result<request::Parts, Malformed> {
        request(fields(&pairs.concat()))
    }

    #[test]
    fn a_request_is_read() {
        let parts = read(&[&GET, &[("cookie", "a"), ("te", "trailers")]]).unwrap();
        assert_eq!(
            (parts.method, parts.uri.to_string().as_str()),
            (Method::GET, "https://a/x?y")
        );
        assert_eq!(parts.headers.len(), 2);
        let host = [("host", "a")];
        let parts = read(&[&GET[..2], &GET[3..], &host]).unwrap();
        assert_eq!(parts.uri.to_string(), "/x?y");
        let parts = read(&[&[(":method", "CONNECT"), (":authority", "a:1")]]).unwrap();
        assert_eq!(parts.uri.to_string(), "a:1");
        let socket = [(":method", "CONNECT"), (":protocol", "websocket")];
        let parts = read(&[&socket, &GET[1..]]).unwrap();
        let protocol = parts.extensions.get::<h2::ext::Protocol>();
        assert_eq!(protocol.unwrap().as_str(), "websocket");
        let options = [(":method", "OPTIONS"), (":path", "*")];
        assert!(read(&[&options, &GET[1..3]]).is_ok());
    }

    #[test]
    fn what_is_no_request_is_malformed() {
        let more = |more: &[Pair]| read(&[&GET, more]).is_err();
        // RFC 9114 sections 4.2, 4.3 and 4.3.1.
        for wrong in [
            ("Upper", "x"),
            ("a b", "x"),
            ("", "x"),
            ("x", "a\nb"),
            ("connection", "close"),
            ("keep-alive", "x"),
            ("proxy-connection", "x"),
            ("transfer-encoding", "chunked"),
            ("upgrade", "x"),
            ("te", "gzip"),
            (":method", "GET"),
            (":authority", "a"),
            (":status", "200"),
            (":other", "x"),
            (":protocol", "websocket"),
        ] {
            assert!(more(&[wrong]), "{wrong:?}");
        }
        assert!(more(&[("x", "y"), (":protocol", "x")]));
        for without in 0..4 {
            assert!(
                read(&[&GET[..without], &GET[without + 1..]]).is_err(),
                "{without}"
            );
        }
        for (place, wrong) in [
            (0, ""),
            (0, "G T"),
            (1, "ftp"),
            (2, ""),
            (2, "a b"),
            (3, ""),
            (3, "/a b"),
            (3, "/a#b"),
        ] {
            let mut all = GET;
            all[place].1 = wrong;
            assert!(read(&[&all]).is_err(), "{wrong}");
        }
        let connect = [(":method", "CONNECT")];
        assert!(read(&[&connect]).is_err() && read(&[&connect, &GET[1..]]).is_err());
        assert!(trailers(fields(&[(":path", "/")])).is_err());
        assert!(trailers(fields(&[("x-sum", "1")])).is_ok());
    }

    #[test]
    fn a_length_is_one_number() {
        let length = |said: &[Pair]| content_length(&trailers(fields(said)).unwrap());
        assert_eq!(length(&[]), Ok(None));
        assert_eq!(length(&[("content-length", "12")]), Ok(Some(12)));
        let twice = [("content-length", "1"), ("content-length", "1")];
        assert!(length(&twice).is_err());
        for wrong in ["", "+1", "-1", "1,1", " 1", "99999999999999999999"] {
            assert!(length(&[("content-length", wrong)]).is_err(), "{wrong}");
        }
    }
}
