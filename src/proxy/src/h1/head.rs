//! A message's head: the bytes it came in, and where in them everything is.

mod spelled;

use std::mem::MaybeUninit;

use http::Method;

use super::fields::{Fields, Kind, Span, tokens};
use super::inbox::Inbox;
use super::length::{Ambiguous, Length, declared};
use crate::config::Limits;
use crate::grpc::is_grpc;
pub(crate) use spelled::Spelling;

/// Fields that are parsed without allocating; as many as [`crate::Limits::max_headers`] may be.
pub(crate) const FIELDS_MAX: usize = 128;
/// What an idle connection keeps of its last head's memory.
const KEPT_BYTES: usize = 2 * 1024;

/// HTTP/1.0 or later 1.x.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) enum Version {
    Ten,
    #[default]
    Eleven,
}

/// Why a request is refused before anybody looks at what it asks for. Its connection is closed, because where the
/// next request begins is not known.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Refusal {
    /// The head is not HTTP/1.1, or can be read in two ways.
    Malformed(&'static str),
    /// Head or number of fields over the limit.
    HeadTooLarge,
    TargetTooLong,
    /// A transfer coding that is not known here.
    Coding,
    /// An expectation other than `100-continue`.
    Expectation,
    /// The body is not in the coding that its head names.
    Body(&'static str),
    BodyTooLarge,
    /// The head did not come in time.
    Slow,
}

/// How far the search for a head's end has come, and whether the end was found.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum End {
    /// The head has so many bytes, the empty line included.
    At(usize),
    /// Not yet; the search may go on here.
    After(usize),
}

/// Looks for the empty line from `from` on, where an earlier search stopped, so that a head that comes in drops is not
/// read over and over. A line that ends in a lone LF is refused: some readers take it for a line's end and some do not.
pub(crate) fn find_end(bytes: &[u8], from: usize) -> Result<End, Refusal> {
    for at in memchr::memchr_iter(b'\n', &bytes[from..]).map(|at| at + from) {
        if at == 0 || bytes[at - 1] != b'\r' {
            return Err(Refusal::Malformed("a line of its head ends in a lone LF"));
        }
        if at >= 3 && bytes[at - 2] == b'\n' {
            return Ok(End::At(at + 1));
        }
    }
    Ok(End::After(bytes.len()))
}

/// The same for an instance's response. Programs do end lines in a lone LF; the head is written anew, so that nobody
/// behind the edge can read it differently.
pub(crate) fn find_lenient_end(bytes: &[u8], from: usize) -> End {
    for at in memchr::memchr_iter(b'\n', &bytes[from..]).map(|at| at + from) {
        let line = bytes[..at].strip_suffix(b"\r").unwrap_or(&bytes[..at]);
        if line.last() == Some(&b'\n') {
            return End::At(at + 1);
        }
    }
    End::After(bytes.len())
}

/// Of a request. Its memory is used again for the connection's next one.
#[derive(Debug, Default)]
pub(crate) struct RequestHead {
    fields: Fields,
    pub(crate) method: Method,
    pub(crate) version: Version,
    /// Path and query, as they came; none in an absolute target that ends with its host.
    target: Option<Span>,
    /// The target is `*`: the server as a whole.
    of_server: bool,
    /// The authority of an absolute target.
    authority: Option<Span>,
    pub(crate) length: Option<Length>,
    /// The client waits for a `100 Continue` before it sends the body.
    pub(crate) expects_continue: bool,
    /// The client will send more requests on this connection.
    pub(crate) persistent: bool,
    /// A change of protocol is asked for, and may be granted.
    upgrade: Option<Span>,
    /// `Connection` names fields of its own.
    names_fields: bool,
}

impl RequestHead {
    /// Takes a whole head: the bytes up to and with its empty line, at the front of `inbox`, which keeps the rest.
    pub(crate) fn take(
        &mut self,
        inbox: &mut Inbox,
        end: usize,
        limits: HeadLimits,
    ) -> Result<(), Refusal> {
        self.fields.fill(inbox, end);
        self.parse(limits)
    }

    /// Lets go of what an unusual head took; called while the connection is idle.
    pub(crate) fn shrink(&mut self) {
        self.fields.shrink(KEPT_BYTES);
    }

    fn parse(&mut self, limits: HeadLimits) -> Result<(), Refusal> {
        let mut slots = [const { MaybeUninit::uninit() }; FIELDS_MAX];
        let mut parsed = httparse::Request::new(&mut []);
        let (bytes, list) = self.fields.parts();
        match parsed.parse_with_uninit_headers(bytes, &mut slots) {
            Ok(httparse::Status::Complete(_)) => {}
            Ok(httparse::Status::Partial) => {
                return Err(Refusal::Malformed("its head is incomplete"));
            }
            Err(error) => return Err(refusal(error)),
        }
        if parsed.headers.len() > limits.fields {
            return Err(Refusal::HeadTooLarge);
        }
        let (Some(method), Some(target)) = (parsed.method, parsed.path) else {
            return Err(Refusal::Malformed("its request line is incomplete"));
        };
        if target.len() > limits.target_bytes {
            return Err(Refusal::TargetTooLong);
        }
        self.method = Method::from_bytes(method.as_bytes())
            .map_err(|_| Refusal::Malformed("its method is not a token"))?;
        self.version = match parsed.version {
            Some(0) => Version::Ten,
            _ => Version::Eleven,
        };
        let (authority, target) = split_target(&self.method, target)?;
        self.authority = authority.map(|authority| Span::of(bytes, authority.as_bytes()));
        self.of_server = target == Some("*");
        self.target = target
            .filter(|_| !self.of_server)
            .map(|target| Span::of(bytes, target.as_bytes()));
        Fields::read(parsed.headers, bytes, list);
        self.read_fields()
    }

    fn read_fields(&mut self) -> Result<(), Refusal> {
        let fields = &self.fields;
        let eleven = self.version == Version::Eleven;
        self.length = declared(fields, eleven).map_err(|ambiguous| match ambiguous {
            Ambiguous::Unclear(why) => Refusal::Malformed(why),
            Ambiguous::Coding => Refusal::Coding,
        })?;
        let options = Options::of(fields);
        self.persistent = !options.close && (eleven || options.keep_alive);
        self.names_fields = options.others;
        self.expects_continue = false;
        for expectation in fields.of_kind(Kind::Expect) {
            if !expectation.eq_ignore_ascii_case(b"100-continue") {
                return Err(Refusal::Expectation);
            }
            // RFC 9110 section 10.1.1: ignored in HTTP/1.0.
            self.expects_continue = eleven;
        }
        self.upgrade = self.asked_upgrade(options.upgrade && eleven);
        Ok(())
    }

    /// A request with a body is not upgraded: where the body ends and the other protocol begins has been read in two
    /// ways before. Nor is one to HTTP/2 (RFC 9113 section 3.1 has dropped it, and it led past checks at the edge).
    fn asked_upgrade(&self, allowed: bool) -> Option<Span> {
        let bare = allowed && self.method == Method::GET && !self.has_body();
        let mut asked = self
            .fields
            .list()
            .iter()
            .filter(|field| bare && field.kind == Kind::Upgrade);
        let (field, more) = (asked.next()?, asked.next());
        let value = self.fields.value(field);
        let is_http = tokens(value).any(|token| {
            token.eq_ignore_ascii_case(b"h2c")
                || token.len() >= 4 && token[..4].eq_ignore_ascii_case(b"http")
        });
        (more.is_none() && !is_http).then(|| Span::of(&self.fields.bytes, value))
    }

    pub(crate) fn fields(&self) -> &Fields {
        &self.fields
    }

    /// Its size, the empty line included.
    pub(crate) fn bytes(&self) -> usize {
        self.fields.bytes.len()
    }

    pub(crate) fn has_body(&self) -> bool {
        matches!(self.length, Some(Length::Sized(_) | Length::Chunked))
    }

    pub(crate) fn body_length(&self) -> Length {
        self.length.unwrap_or(Length::None)
    }

    /// Whether the client wants to see trailer fields (RFC 9110 section 10.1.4). One of gRPC is lost without them.
    pub(crate) fn accepts_trailers(&self) -> bool {
        self.fields.has_token(Kind::Te, "trailers") || self.is_grpc()
    }

    pub(crate) fn is_grpc(&self) -> bool {
        self.fields.get("content-type").is_some_and(is_grpc)
    }

    /// Path and query.
    pub(crate) fn target(&self) -> &str {
        if self.of_server {
            return "*";
        }
        let target = self.target.map(|target| self.fields.at(target));
        // The parser has taken it for text already.
        target.map_or("/", |target| std::str::from_utf8(target).unwrap_or("/"))
    }

    pub(crate) fn upgrade(&self) -> Option<&[u8]> {
        self.upgrade.map(|span| self.fields.at(span))
    }

    /// The one host a request names: its target's when that is absolute (RFC 9112 section 3.2.2), else its `Host`
    /// field's; which must be there exactly once in any case.
    pub(crate) fn host(&self) -> Option<&[u8]> {
        let mut hosts = self.fields.of_kind(Kind::Host);
        let (first, second) = (hosts.next(), hosts.next());
        let field = first.filter(|host| second.is_none() && is_host(host));
        match self.authority {
            // HTTP/1.0 knows the field not.
            Some(authority) if field.is_some() || self.version == Version::Ten => {
                Some(self.fields.at(authority)).filter(|host| is_host(host))
            }
            Some(_) => None,
            None => field,
        }
    }

    /// Whether `Connection` says of this field that it stays behind. What frames or routes the message is not the
    /// sender's to drop.
    pub(crate) fn is_named_by_connection(&self, name: &[u8]) -> bool {
        self.names_fields && named_by_connection(&self.fields, name)
    }
}

/// Whether this can be the value of a `Host` field.
pub(crate) fn is_host(host: &[u8]) -> bool {
    !host.is_empty() && host.iter().all(|b| is_host_byte(*b))
}

/// What a host may be made of: RFC 3986 section 3.2.2, and a port. No user, no path, nothing quoted.
fn is_host_byte(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || b"-._~:[]%!$&'()*+,;=".contains(&byte)
}

/// How long a head may be, apart from its bytes, which are counted as they come.
#[derive(Debug, Clone, Copy)]
pub(crate) struct HeadLimits {
    pub(crate) fields: usize,
    pub(crate) target_bytes: usize,
}

impl HeadLimits {
    pub(crate) fn of(limits: &Limits) -> HeadLimits {
        HeadLimits {
            fields: limits.max_headers,
            target_bytes: limits.max_target_bytes,
        }
    }
}

/// Of a response.
#[derive(Debug, Default)]
pub(crate) struct ResponseHead {
    fields: Fields,
    pub(crate) status: u16,
    pub(crate) version: Version,
    reason: Span,
    pub(crate) length: Option<Length>,
    /// The instance takes further requests on this connection.
    pub(crate) persistent: bool,
    names_fields: bool,
}

/// The response is not one that can be passed on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Unreadable;

impl ResponseHead {
    /// As [`RequestHead::take`].
    pub(crate) fn take(&mut self, inbox: &mut Inbox, end: usize) -> Result<(), Unreadable> {
        self.fields.fill(inbox, end);
        self.parse()
    }

    pub(crate) fn shrink(&mut self) {
        self.fields.shrink(KEPT_BYTES);
    }

    fn parse(&mut self) -> Result<(), Unreadable> {
        let mut slots = [const { MaybeUninit::uninit() }; FIELDS_MAX];
        let mut parsed = httparse::Response::new(&mut []);
        let (bytes, list) = self.fields.parts();
        let parser = httparse::ParserConfig::default();
        match parser.parse_response_with_uninit_headers(&mut parsed, bytes, &mut slots) {
            Ok(httparse::Status::Complete(_)) => {}
            _ => return Err(Unreadable),
        }
        let (Some(status), Some(version)) = (parsed.code, parsed.version) else {
            return Err(Unreadable);
        };
        if status < 100 {
            return Err(Unreadable);
        }
        self.status = status;
        self.version = match version {
            0 => Version::Ten,
            _ => Version::Eleven,
        };
        self.reason = Span::of(bytes, parsed.reason.unwrap_or_default().as_bytes());
        Fields::read(parsed.headers, bytes, list);
        let eleven = self.version == Version::Eleven;
        self.length = declared(&self.fields, eleven).map_err(|_| Unreadable)?;
        let options = Options::of(&self.fields);
        self.persistent = !options.close && (eleven || options.keep_alive);
        self.names_fields = options.others;
        Ok(())
    }

    pub(crate) fn fields(&self) -> &Fields {
        &self.fields
    }

    pub(crate) fn reason(&self) -> &[u8] {
        self.fields.at(self.reason)
    }

    pub(crate) fn is_interim(&self) -> bool {
        (100..200).contains(&self.status)
    }

    /// Where the body ends that follows this head in answer to a request of that method.
    pub(crate) fn body_length(&self, method: &Method) -> Length {
        let bodyless = *method == Method::HEAD || matches!(self.status, 100..200 | 204 | 304);
        match self.length {
            _ if bodyless => Length::None,
            Some(length) => length,
            None => Length::UntilClose,
        }
    }

    pub(crate) fn is_named_by_connection(&self, name: &[u8]) -> bool {
        self.names_fields && named_by_connection(&self.fields, name)
    }
}

/// What `Connection` says.
#[derive(Default)]
struct Options {
    close: bool,
    keep_alive: bool,
    upgrade: bool,
    others: bool,
}

impl Options {
    fn of(fields: &Fields) -> Options {
        let mut options = Options::default();
        for token in fields.of_kind(Kind::Connection).flat_map(tokens) {
            let option = match token.len() {
                5 if token.eq_ignore_ascii_case(b"close") => &mut options.close,
                7 if token.eq_ignore_ascii_case(b"upgrade") => &mut options.upgrade,
                10 if token.eq_ignore_ascii_case(b"keep-alive") => &mut options.keep_alive,
                _ => &mut options.others,
            };
            *option = true;
        }
        options
    }
}

fn named_by_connection(fields: &Fields, name: &[u8]) -> bool {
    fields
        .of_kind(Kind::Connection)
        .flat_map(tokens)
        .any(|token| token.eq_ignore_ascii_case(name))
}

/// Authority, and path with query, of a request's target (RFC 9112 section 3.2).
fn split_target<'a>(
    method: &Method,
    target: &'a str,
) -> Result<(Option<&'a str>, Option<&'a str>), Refusal> {
    if target.contains('#') {
        return Err(Refusal::Malformed("its target has a fragment"));
    }
    // Answered as such by whoever looks at the method.
    let is_authority = *method == Method::CONNECT;
    if target.starts_with('/') || is_authority || (target == "*" && *method == Method::OPTIONS) {
        return Ok((None, Some(target)));
    }
    let rest = ["http://", "https://"].iter().find_map(|scheme| {
        let start = target.get(..scheme.len())?;
        start
            .eq_ignore_ascii_case(scheme)
            .then(|| &target[scheme.len()..])
    });
    let Some(rest) = rest else {
        return Err(Refusal::Malformed("its target is neither a path nor a URL"));
    };
    let end = rest.find(['/', '?']).unwrap_or(rest.len());
    let (authority, target) = rest.split_at(end);
    let host = authority
        .rsplit_once('@')
        .map_or(authority, |(_, host)| host);
    match target {
        // RFC 9112 section 3.2.4.
        "" if *method == Method::OPTIONS => Ok((Some(host), Some("*"))),
        "" => Ok((Some(host), None)),
        target if target.starts_with('/') => Ok((Some(host), Some(target))),
        _ => Err(Refusal::Malformed("its target has no path")),
    }
}

fn refusal(error: httparse::Error) -> Refusal {
    match error {
        httparse::Error::TooManyHeaders => Refusal::HeadTooLarge,
        httparse::Error::HeaderName => Refusal::Malformed("a field's name is not a token"),
        httparse::Error::HeaderValue => {
            Refusal::Malformed("a field's value has control characters")
        }
        httparse::Error::Version => Refusal::Malformed("it is not HTTP/1.1 or HTTP/1.0"),
        httparse::Error::NewLine => Refusal::Malformed("a line of its head does not end in CR LF"),
        httparse::Error::Token => Refusal::Malformed("its request line is not one"),
        _ => Refusal::Malformed("its head is not HTTP/1.1"),
    }
}

#[cfg(test)]
mod tests;
