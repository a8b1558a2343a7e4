//! A file with everything that an answer needs, prepared once: its forms and their header values.

use std::io;

use http::header::{self, HeaderMap, HeaderName, HeaderValue};
use nebula_domain::site::{PACK_BYTES_MIN, compresses};

use super::content;
use super::files::Place;
use super::manifest::Entry;
use super::negotiate::Coding;
use super::site::Site;

/// Bytes of the content's hash that an ETag shows: 128 bits tell any two files apart.
const ETAG_BYTES: usize = 16;

pub(super) struct Page {
    /// Of a whole answer with the file as it is: a copy of them needs no further room.
    pub(super) headers: HeaderMap,
    pub(super) content_type: HeaderValue,
    /// The file as it is comes first.
    pub(super) forms: Vec<Form>,
    /// The compressed forms of its artifact were there when it was prepared.
    pub(super) knows_packed: bool,
}

/// The file in one coding.
pub(super) struct Form {
    pub(super) coding: Coding,
    pub(super) place: Place,
    pub(super) entry: Entry,
    /// Of the form's own bytes: two codings never have the same, and the same coding made by two versions
    /// of a compressor does not either (RFC 9110 section 8.8.3).
    pub(super) etag: HeaderValue,
    pub(super) length: HeaderValue,
}

impl Page {
    /// `path` is a file of the site; `asked` is the decoded path of the request, by which the site's own
    /// rules for headers go.
    pub(super) fn new(site: &Site, path: &str, entry: Entry, asked: &str) -> io::Result<Page> {
        let packed = site.packed();
        let packs = compresses(path) && entry.size >= PACK_BYTES_MIN;
        let mut forms = vec![Form::new(
            Coding::Identity,
            Place::Tree(path.to_owned()),
            entry,
        )?];
        if compresses(path) {
            brought(site, path, entry, &mut forms)?;
        }
        if packs && let Some(packed) = packed {
            for (coding, form) in packed.forms(&entry.hash) {
                if forms.iter().all(|known| known.coding != *coding) {
                    let name = format!("{}.{}", hex::encode(entry.hash), coding.extension());
                    forms.push(Form::new(*coding, Place::Packed(name), *form)?);
                }
            }
        }
        let content = content::of(path);
        let mut headers = HeaderMap::new();
        headers.insert(header::CONTENT_TYPE, content.content_type);
        headers.insert(header::CACHE_CONTROL, content.cache_control);
        headers.insert(header::ACCEPT_RANGES, HeaderValue::from_static("bytes"));
        headers.insert(header::ETAG, forms[0].etag.clone());
        headers.insert(header::CONTENT_LENGTH, forms[0].length.clone());
        // Also while the forms are not made: caches would mix them up later.
        if packs || forms.len() > 1 {
            add_vary(&mut headers, "accept-encoding");
        }
        for (name, value) in site.headers.of(asked) {
            // Both were checked when the rules were read.
            let (Ok(name), Ok(value)) = (
                HeaderName::from_bytes(name.as_bytes()),
                HeaderValue::from_str(value),
            ) else {
                continue;
            };
            match value.to_str() {
                Ok(value) if name == header::VARY => add_vary(&mut headers, value),
                _ => drop(headers.insert(name, value)),
            }
        }
        let content_type = headers
            .get(header::CONTENT_TYPE)
            .cloned()
            .unwrap_or_else(|| HeaderValue::from_static("application/octet-stream"));
        Ok(Page {
            headers,
            content_type,
            forms,
            knows_packed: packed.is_some(),
        })
    }
}

/// Forms that the artifact has next to the file itself, such as `app.js.br`.
fn brought(site: &Site, path: &str, entry: Entry, forms: &mut Vec<Form>) -> io::Result<()> {
    for coding in Coding::PACKED {
        let path = format!("{path}.{}", coding.extension());
        if let Some(found) = site.manifest.file(&path)
            && found.size < entry.size
        {
            forms.push(Form::new(coding, Place::Tree(path), found)?);
        }
    }
    Ok(())
}

/// Names one more field that the answer depends on.
pub(super) fn add_vary(headers: &mut HeaderMap, name: &str) {
    let vary = match headers.get(header::VARY).map(HeaderValue::to_str) {
        Some(Ok(before)) => HeaderValue::try_from(format!("{before}, {name}")),
        _ => HeaderValue::try_from(name),
    };
    if let Ok(vary) = vary {
        headers.insert(header::VARY, vary);
    }
}

impl Form {
    fn new(coding: Coding, place: Place, entry: Entry) -> io::Result<Form> {
        let etag = format!("\"{}\"", hex::encode(&entry.hash[..ETAG_BYTES]));
        Ok(Form {
            coding,
            place,
            entry,
            etag: HeaderValue::try_from(etag).map_err(io::Error::other)?,
            length: HeaderValue::from(entry.size),
        })
    }
}
