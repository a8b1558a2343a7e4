//! What a file's name says about its content: its type and how long it may be cached.

use http::HeaderValue;

/// A name with a content hash is another name when the content changes (RFC 8246).
const FOR_GOOD: HeaderValue = HeaderValue::from_static("public, max-age=31536000, immutable");
/// Pages are asked for again each time, so that a new release shows at once; a 304 is cheap.
const PAGE: HeaderValue = HeaderValue::from_static("no-cache");
/// The same for everything else; shared caches may keep it as long as they ask.
const OTHER: HeaderValue = HeaderValue::from_static("public, max-age=0, must-revalidate");

/// Hashes in names are at least this long in webpack, Vite, Parcel, esbuild and Rollup.
const HASH_CHARS_MIN: usize = 8;

pub(crate) struct Content {
    pub(crate) content_type: HeaderValue,
    pub(crate) cache_control: HeaderValue,
}

pub(crate) fn of(path: &str) -> Content {
    let name = path.rsplit('/').next().unwrap_or(path);
    let mime = mime_guess::from_path(name).first_raw();
    let mime = mime.unwrap_or("application/octet-stream");
    let is_text = mime.starts_with("text/");
    let content_type = match is_text || mime == "application/javascript" {
        true => HeaderValue::try_from(format!("{mime}; charset=utf-8")),
        false => HeaderValue::try_from(mime),
    };
    let cache_control = if mime == "text/html" {
        PAGE
    } else if is_fingerprinted(name) {
        FOR_GOOD
    } else {
        OTHER
    };
    Content {
        content_type: content_type
            .unwrap_or_else(|_| HeaderValue::from_static("application/octet-stream")),
        cache_control,
    }
}

/// `app.3f2a9c1b.js`, `main-4e5a7c2d9b01.css`, `index-DiwrgTda.js`: one of the parts between dots,
/// dashes and underscores is a hash. Doubtful parts are not: a mutable file that browsers keep for a
/// year is worse than a 304 too many.
fn is_fingerprinted(name: &str) -> bool {
    let Some((stem, _extension)) = name.rsplit_once('.') else {
        return false;
    };
    // The first part is the file's own name.
    stem.split(['.', '-', '_']).skip(1).any(is_hash)
}

fn is_hash(part: &str) -> bool {
    let bytes = part.as_bytes();
    if bytes.len() < HASH_CHARS_MIN || !bytes.iter().all(u8::is_ascii_alphanumeric) {
        return false;
    }
    let is_hex = |b: &u8| b.is_ascii_digit() || (b'a'..=b'f').contains(b);
    if bytes.iter().all(is_hex) {
        // Digits alone may be a date, letters alone a word.
        return bytes.iter().any(u8::is_ascii_digit) && bytes.iter().any(u8::is_ascii_lowercase);
    }
    // Base 62: `Version2` changes its kind of character twice, `camelCase` once, a hash all the time.
    let kind = |b: u8| (b.is_ascii_digit(), b.is_ascii_uppercase());
    let changes = bytes.windows(2).filter(|w| kind(w[0]) != kind(w[1]));
    bytes.iter().any(u8::is_ascii_uppercase) && changes.count() >= 3
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_names_with_a_hash_are_kept_for_good() {
        for hashed in [
            "app.3f2a9c1b.js",
            "main-4e5a7c2d9b01.css",
            "index-DiwrgTda.js",
            "chunk.a1b2c3d4e5.min.css",
        ] {
            assert_eq!(of(hashed).cache_control, FOR_GOOD, "{hashed}");
        }
        for plain in [
            "app.js",
            "3f2a9c1b.js",
            "report-20240101.pdf",
            "jquery-production.js",
            "my-Document.pdf",
            "api-Version2.js",
            "x-deadbeef.png",
            "LICENSE",
        ] {
            assert_eq!(of(plain).cache_control, OTHER, "{plain}");
        }
        assert_eq!(of("page.3f2a9c1b.html").cache_control, PAGE);
    }

    #[test]
    fn types_follow_the_extension() {
        assert_eq!(of("a/index.html").content_type, "text/html; charset=utf-8");
        assert_eq!(of("app.js").content_type, "text/javascript; charset=utf-8");
        assert_eq!(of("a.json").content_type, "application/json");
        assert_eq!(of("a.svg").content_type, "image/svg+xml");
        assert_eq!(of("LICENSE").content_type, "application/octet-stream");
    }
}
