//! A request's path, decoded once and split into names.

use percent_encoding::{AsciiSet, CONTROLS, percent_decode_str, utf8_percent_encode};

use nebula_domain::site::is_rule_file;

use super::manifest::Manifest;

/// What RFC 3986 does not allow in a path segment, and `%` itself.
const NOT_IN_SEGMENT: &AsciiSet = &CONTROLS
    .add(b' ')
    .add(b'"')
    .add(b'#')
    .add(b'%')
    .add(b'/')
    .add(b'<')
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

/// Names that can only mean something inside the tree.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct SitePath {
    /// The names joined by `/`; empty for the root.
    joined: String,
    /// The path ended with `/`: a folder was asked for.
    folder: bool,
    /// One of the names is not to be seen.
    hidden: bool,
}

/// What a manifest has for a path.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Lookup {
    File(String),
    /// The path is a folder's and lacks its slash.
    Folder,
    Nothing,
}

impl SitePath {
    /// `None` for what cannot be a file's path: names that are empty, `.` or `..`, or that hold a slash or NUL
    /// once decoded, or are not UTF-8.
    pub(crate) fn parse(raw: &str) -> Option<SitePath> {
        let raw = raw.strip_prefix('/')?;
        let (names, folder) = match raw.strip_suffix('/') {
            Some(names) => (names, true),
            None => (raw, raw.is_empty()),
        };
        if names.is_empty() {
            // `//` is not the root.
            return raw.is_empty().then(|| SitePath {
                joined: String::new(),
                folder,
                hidden: false,
            });
        }
        let mut joined = String::with_capacity(names.len());
        let mut hidden = false;
        for (index, name) in names.split('/').enumerate() {
            let name = percent_decode_str(name).decode_utf8().ok()?;
            if matches!(&*name, "" | "." | "..") || name.contains(['/', '\0']) {
                return None;
            }
            hidden |= name.starts_with('.') && !(index == 0 && name == ".well-known");
            if index > 0 {
                joined.push('/');
            }
            joined.push_str(&name);
        }
        Some(SitePath {
            joined,
            folder,
            hidden,
        })
    }

    /// The same request for another path of the tree.
    pub(crate) fn with_path(&self, joined: String) -> SitePath {
        SitePath {
            joined,
            folder: self.folder,
            hidden: false,
        }
    }

    pub(crate) fn as_str(&self) -> &str {
        &self.joined
    }

    /// Names that begin with a dot are private, apart from `/.well-known/` (RFC 8615).
    pub(crate) fn is_hidden(&self) -> bool {
        self.hidden
    }

    /// A file is found by its name, by its name without `.html`, and as the index of its folder, in that order.
    pub(crate) fn lookup(&self, manifest: &Manifest) -> Lookup {
        let has = |path: &str| manifest.file(path).is_some();
        if self.hidden || is_rule_file(&self.joined) {
            return Lookup::Nothing;
        }
        if self.folder {
            let index = match self.joined.as_str() {
                "" => "index.html".to_owned(),
                folder => format!("{folder}/index.html"),
            };
            return match has(&index) {
                true => Lookup::File(index),
                false => Lookup::Nothing,
            };
        }
        if has(&self.joined) {
            return Lookup::File(self.joined.clone());
        }
        let page = format!("{}.html", self.joined);
        if has(&page) {
            return Lookup::File(page);
        }
        match has(&format!("{}/index.html", self.joined)) {
            true => Lookup::Folder,
            false => Lookup::Nothing,
        }
    }

    /// Its last name has no extension, as those of a single-page application's pages.
    pub(crate) fn looks_like_a_page(&self) -> bool {
        let last = self.joined.rsplit('/').next().unwrap_or_default();
        !last.contains('.')
    }

    /// The path of the folder, written anew: what came in is not echoed, so `//host/` cannot
    /// become a redirect to another host.
    pub(crate) fn to_folder(&self) -> String {
        let mut path = String::from("/");
        for name in self.joined.split('/') {
            path.extend(utf8_percent_encode(name, NOT_IN_SEGMENT));
            path.push('/');
        }
        path
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn paths_that_cannot_be_a_files_are_refused() {
        for bad in [
            "",
            "*",
            "//",
            "//etc/passwd",
            "/a//b",
            "/..",
            "/../etc",
            "/a/../b",
            "/%2e%2e/etc",
            "/a/%2e%2e/%2e%2e/b",
            "/..%2fetc",
            "/a%2Fb",
            "/%00",
            "/a%00.html",
            "/.",
            "/./a",
            "/%ff",
            "/.well-known/../x",
        ] {
            assert_eq!(SitePath::parse(bad), None, "{bad}");
        }
        for hidden in [
            "/.env",
            "/.git/config",
            "/a/.well-known/b",
            "/%2egit/config",
            "/.well-known/.hidden",
            "/...",
        ] {
            assert!(SitePath::parse(hidden).unwrap().is_hidden(), "{hidden}");
        }
    }

    #[test]
    fn paths_are_decoded_once() {
        for (raw, joined, folder) in [
            ("/", "", true),
            ("/a/b.html", "a/b.html", false),
            ("/a/", "a", true),
            ("/a%20b", "a b", false),
            ("/%252e%252e", "%2e%2e", false),
            ("/caf%C3%A9", "café", false),
            (
                "/.well-known/acme-challenge/x",
                ".well-known/acme-challenge/x",
                false,
            ),
        ] {
            let expected = SitePath {
                joined: joined.to_owned(),
                folder,
                hidden: false,
            };
            assert_eq!(SitePath::parse(raw), Some(expected), "{raw}");
        }
    }

    #[test]
    fn files_are_found_by_clean_paths() {
        let manifest = Manifest::from([
            "index.html",
            "docs/index.html",
            "img/a.png",
            "about.html",
            "both.html",
            "both/index.html",
            ".env.html",
            "_headers",
            "_redirects",
        ]);
        let lookup = |raw| SitePath::parse(raw).unwrap().lookup(&manifest);
        assert_eq!(lookup("/"), Lookup::File("index.html".to_owned()));
        assert_eq!(lookup("/docs/"), Lookup::File("docs/index.html".to_owned()));
        assert_eq!(lookup("/docs"), Lookup::Folder);
        assert_eq!(lookup("/img"), Lookup::Nothing);
        let file = |path: &str| Lookup::File(path.to_owned());
        assert_eq!(lookup("/about"), file("about.html"));
        assert_eq!(lookup("/about.html"), file("about.html"));
        assert_eq!(lookup("/both"), file("both.html"));
        assert_eq!(lookup("/both/"), file("both/index.html"));
        for nothing in [
            "/about/",
            "/.env",
            "/_headers",
            "/%5fredirects",
            "/_headers/",
        ] {
            assert_eq!(lookup(nothing), Lookup::Nothing, "{nothing}");
        }
        assert_eq!(lookup("/index.html/"), Lookup::Nothing);
        assert_eq!(
            SitePath::parse("/a%20b/c").unwrap().to_folder(),
            "/a%20b/c/"
        );
    }
}
