//! What a static site's own rules say that will not be followed, told before anything is uploaded.

use std::fs;
use std::io;
use std::path::Path;

use nebula_domain::site::{
    HEADERS_BYTES_MAX, HEADERS_FILE, Headers, Problem, REDIRECTS_BYTES_MAX, REDIRECTS_FILE,
    Redirects,
};

use crate::output::Output;

/// Warns of each line of the folder's rules that has no effect. The site is deployed all the same, as the
/// same folder is elsewhere.
pub fn warn(dir: &Path, out: Output) {
    for problem in problems(dir) {
        out.warn(&format!("{problem}; it is left out"));
    }
}

fn problems(dir: &Path) -> Vec<Problem> {
    let mut problems = match read(dir, REDIRECTS_FILE, REDIRECTS_BYTES_MAX) {
        Ok(text) => text.map_or_else(Vec::new, |text| Redirects::parse(&text).1),
        Err(problem) => vec![problem],
    };
    match read(dir, HEADERS_FILE, HEADERS_BYTES_MAX) {
        Ok(text) => problems.extend(text.map_or_else(Vec::new, |text| Headers::parse(&text).1)),
        Err(problem) => problems.push(problem),
    }
    problems
}

/// The text of a rule file, if there is one.
fn read(dir: &Path, file: &'static str, max: u64) -> Result<Option<String>, Problem> {
    let whole = |what: String| Problem {
        file,
        line: 0,
        what,
    };
    let path = dir.join(file);
    let found = match fs::symlink_metadata(&path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        found => found.map_err(|error| whole(format!("it cannot be read: {error}")))?,
    };
    if found.is_dir() {
        return Ok(None);
    }
    if !found.is_file() {
        return Err(whole(
            "it is a link, and only a file is followed".to_owned(),
        ));
    }
    if found.len() > max {
        return Err(whole(format!("it is larger than {max} bytes")));
    }
    let bytes = fs::read(&path).map_err(|error| whole(format!("it cannot be read: {error}")))?;
    String::from_utf8(bytes)
        .map(Some)
        .map_err(|_| whole("it is not UTF-8".to_owned()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_without_effect_are_found_with_file_and_line() {
        let dir = tempfile::tempdir().unwrap();
        assert_eq!(problems(dir.path()), []);
        let write = |name: &str, text: &[u8]| fs::write(dir.path().join(name), text).unwrap();
        write("_redirects", b"/a /b\n\n/c /d 302 Country=de\n");
        write("_headers", b"/*\n  X-A: 1\n  Server: me\n");
        let shown: Vec<_> = problems(dir.path())
            .iter()
            .map(Problem::to_string)
            .collect();
        assert_eq!(
            shown,
            [
                "_redirects line 3: the condition 'Country' is not supported",
                "_headers line 3: 'server' is set by the proxy itself"
            ]
        );
        write("_redirects", &[0xff]);
        write("_headers", &vec![b'#'; 70_000]);
        let shown: Vec<_> = problems(dir.path())
            .iter()
            .map(Problem::to_string)
            .collect();
        assert_eq!(
            shown,
            [
                "_redirects: it is not UTF-8",
                "_headers: it is larger than 65536 bytes"
            ]
        );
        fs::remove_file(dir.path().join("_headers")).unwrap();
        std::os::unix::fs::symlink("_redirects", dir.path().join("_headers")).unwrap();
        assert!(problems(dir.path())[1].what.contains("link"));
    }
}
