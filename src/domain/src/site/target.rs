//! Where a rule of `_redirects` leads: text with places for what the rule's path and query held.

use percent_encoding::{AsciiSet, CONTROLS, utf8_percent_encode};

/// Besides what RFC 3986 does not allow in a path segment: `%`, since what is filled in was decoded, and
/// what would begin or divide a query. `\` is a slash to browsers.
const FILLED: &AsciiSet = &CONTROLS
    .add(b' ')
    .add(b'"')
    .add(b'#')
    .add(b'%')
    .add(b'&')
    .add(b'+')
    .add(b'<')
    .add(b'=')
    .add(b'>')
    .add(b'?')
    .add(b'[')
    .add(b'\\')
    .add(b']')
    .add(b'^')
    .add(b'`')
    .add(b'{')
    .add(b'|')
    .add(b'}');
/// Of one name: what would divide it in two.
const FILLED_NAME: &AsciiSet = &FILLED.add(b'/');

#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Target {
    pieces: Vec<Piece>,
    /// Begins with `http://` or `https://`.
    pub(super) is_url: bool,
    /// Has a query of its own.
    pub(super) has_query: bool,
}

#[derive(Debug, Clone, PartialEq, Eq)]
enum Piece {
    Literal(String),
    Placeholder(String),
}

/// What a rule's path and query held.
pub(super) struct Captured<'a> {
    pub(super) name: &'a str,
    pub(super) value: std::borrow::Cow<'a, str>,
    /// May hold slashes that divide names.
    pub(super) is_splat: bool,
}

/// Letters, digits and `_`, not a digit first.
pub(super) fn is_name(text: &str) -> bool {
    name_of(text).len() == text.len() && !text.is_empty()
}

/// The name that the text begins with.
fn name_of(text: &str) -> &str {
    if text.bytes().next().is_none_or(|b| b.is_ascii_digit()) {
        return "";
    }
    let end = text.find(|c: char| !c.is_ascii_alphanumeric() && c != '_');
    &text[..end.unwrap_or(text.len())]
}

impl Target {
    /// `known` are the placeholders there are.
    pub(super) fn parse(text: &str, known: &[&str]) -> Result<Target, String> {
        let authority = ["http://", "https://"]
            .iter()
            .find_map(|scheme| text.strip_prefix(scheme).map(|rest| (scheme.len(), rest)));
        let fixed = match authority {
            Some((scheme, rest)) => {
                let end = rest.find(['/', '?', '#']).unwrap_or(rest.len());
                // Whoever writes the link would choose the host it leads to.
                if rest[..end].contains([':', '@', '\\'])
                    && !rest[..end].rsplit_once(':').is_some_and(|(host, port)| {
                        !host.contains([':', '@', '\\']) && port.bytes().all(|b| b.is_ascii_digit())
                    })
                {
                    return Err("the target's host must be plain: a name and a port".to_owned());
                }
                if end == 0 {
                    return Err("the target has no host".to_owned());
                }
                scheme + end
            }
            None if !text.starts_with('/') || text.starts_with("//") || text.starts_with("/\\") => {
                return Err("the target must begin with '/', 'http://' or 'https://'".to_owned());
            }
            None => 1,
        };
        let mut pieces = Vec::new();
        let mut literal = text[..fixed].to_owned();
        let mut rest = &text[fixed..];
        while let Some(colon) = rest.find(':') {
            let name = name_of(&rest[colon + 1..]);
            let (before, after) = (&rest[..colon], &rest[colon + 1 + name.len()..]);
            literal.push_str(before);
            if known.contains(&name) {
                pieces.push(Piece::Literal(std::mem::take(&mut literal)));
                pieces.push(Piece::Placeholder(name.to_owned()));
            } else {
                // A colon inside of a name is one, as in `/wiki/Category:Rust`.
                if !name.is_empty() && literal.ends_with('/') {
                    return Err(format!("nothing before the target is called ':{name}'"));
                }
                literal.push(':');
                literal.push_str(name);
            }
            rest = after;
        }
        literal.push_str(rest);
        pieces.push(Piece::Literal(literal));
        for piece in &mut pieces {
            if let Piece::Literal(text) = piece {
                *text = utf8_percent_encode(text, CONTROLS).to_string();
            }
        }
        let before_fragment = text.split('#').next().unwrap_or(text);
        Ok(Target {
            pieces,
            is_url: authority.is_some(),
            has_query: before_fragment.contains('?'),
        })
    }

    /// The target with everything filled in, encoded. It never leads to another host than was written.
    pub(super) fn fill(&self, captured: &[Captured<'_>]) -> String {
        let mut filled = String::new();
        for piece in &self.pieces {
            match piece {
                Piece::Literal(text) => filled.push_str(text),
                Piece::Placeholder(name) => {
                    if let Some(found) = captured.iter().find(|c| c.name == name) {
                        let set = if found.is_splat { FILLED } else { FILLED_NAME };
                        filled.extend(utf8_percent_encode(&found.value, set));
                    }
                }
            }
        }
        // Two slashes, which a browser takes `\` for as well, begin a host: one is there where a placeholder
        // that holds nothing stood between them.
        if !self.is_url {
            while filled[1..].starts_with(['/', '\\']) {
                filled.remove(1);
            }
        }
        filled
    }
}
