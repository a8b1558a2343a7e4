//! The paths of `_headers`: `*` stands for anything, slashes included, `:name` for one name.

/// Stars in one pattern. Each may make a match as long again as the path.
const STARS_MAX: usize = 8;
/// Of one pattern. A match costs at most as many comparisons as pattern and path have bytes, multiplied.
const PATTERN_BYTES_MAX: usize = 512;

#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Glob {
    items: Vec<Item>,
    /// `/dir/*` is also `/dir`: so many items make that.
    base: Option<usize>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Item {
    Byte(u8),
    /// Any bytes, or none.
    Star,
    /// What is there up to the next slash.
    Name,
}

impl Glob {
    /// Of a pattern that begins with a slash and has been decoded.
    pub(super) fn parse(pattern: &str) -> Result<Glob, String> {
        if pattern.len() > PATTERN_BYTES_MAX {
            return Err(format!(
                "the path is longer than {PATTERN_BYTES_MAX} bytes (header_path_bytes)"
            ));
        }
        let mut items = Vec::with_capacity(pattern.len());
        for (index, part) in pattern.trim_matches('/').split('/').enumerate() {
            if index > 0 {
                items.push(Item::Byte(b'/'));
            }
            if part.len() > 1 && part.starts_with(':') {
                items.push(Item::Name);
                continue;
            }
            items.extend(part.bytes().map(|byte| match byte {
                b'*' => Item::Star,
                byte => Item::Byte(byte),
            }));
        }
        // Several in a row are as good as one.
        items.dedup_by(|a, b| *a == Item::Star && *b == Item::Star);
        if items.iter().filter(|item| **item == Item::Star).count() > STARS_MAX {
            return Err(format!(
                "the path has more than {STARS_MAX} wildcards (header_path_wildcards)"
            ));
        }
        let base = match items.as_slice() {
            [head @ .., Item::Byte(b'/'), Item::Star] => Some(head.len()),
            _ => None,
        };
        Ok(Glob { items, base })
    }

    /// `path` is decoded, without slashes around it: those do not count.
    pub(super) fn matches(&self, path: &str) -> bool {
        matches(&self.items, path.as_bytes())
            || self
                .base
                .is_some_and(|base| matches(&self.items[..base], path.as_bytes()))
    }
}

/// Goes back to the last star only: whatever an earlier one takes more, the last can take as well.
fn matches(items: &[Item], path: &[u8]) -> bool {
    let (mut item, mut at) = (0, 0);
    let mut last_star = None;
    loop {
        let forward = match items.get(item) {
            Some(Item::Star) => {
                last_star = Some((item, at));
                Some(0)
            }
            Some(Item::Name) => {
                let name = path[at..].iter().take_while(|byte| **byte != b'/');
                Some(name.count()).filter(|count| *count > 0)
            }
            Some(Item::Byte(byte)) => path.get(at).filter(|found| *found == byte).map(|_| 1),
            None if at == path.len() => return true,
            None => None,
        };
        match (forward, last_star) {
            (Some(count), _) => {
                item += 1;
                at += count;
            }
            (None, Some((star, from))) if from < path.len() => {
                last_star = Some((star, from + 1));
                item = star + 1;
                at = from + 1;
            }
            (None, _) => return false,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn stars_cross_slashes_and_names_do_not() {
        for (pattern, yes, no) in [
            ("/", &[""][..], &["a"][..]),
            ("/*", &["", "a", "a/b.css"], &[]),
            ("/a/*", &["a", "a/b", "a/b/c"], &["ab", "b/a/c"]),
            ("/*.css", &["x.css", "a/b.css", ".css"], &["x.css2", "css"]),
            ("/a*c/d", &["ac/d", "abbc/d", "a/x/c/d"], &["ac", "ac/dd"]),
            ("/:x/b", &["a/b"], &["b", "a/c/b", "/b"]),
            ("/*/:x", &["a/b", "a/b/c"], &["a"]),
            ("/a/:x/*", &["a/b", "a/b/c"], &["a"]),
            ("/a/", &["a"], &["a/b"]),
            ("/*a*a*b", &["aab", "xaxaxb"], &["ab", "aaba"]),
        ] {
            let glob = Glob::parse(pattern).unwrap();
            for path in yes {
                assert!(glob.matches(path), "{pattern} {path}");
            }
            for path in no {
                assert!(!glob.matches(path), "{pattern} {path}");
            }
        }
        assert!(Glob::parse(&"/*a".repeat(9)).is_err());
        assert!(Glob::parse(&"/a".repeat(2000)).is_err());
    }
}
