//! Environment files: `KEY=VALUE` lines.
//!
//! Blank lines and lines that begin with `#` are skipped, `export ` in front is allowed. A value in single quotes
//! is taken as it is; in double quotes `\n`, `\t`, `\"`, `\\` and `\$` are escapes; without quotes it ends at
//! ` #` and loses the blanks around it. Nothing is expanded. The last of several lines with one key counts.

use std::collections::BTreeMap;
use std::path::Path;

use crate::error::{CliError, Outcome};

/// Far over what a deployment's environment may hold; a larger file is the wrong file.
const MAX_FILE_BYTES: u64 = 1024 * 1024;

pub fn read(path: &Path) -> Outcome<BTreeMap<String, String>> {
    let io = |e: &std::io::Error| {
        CliError::usage(
            format!("cannot read the environment file {}: {e}", path.display()),
            "give --env-file a readable file of KEY=VALUE lines",
        )
    };
    let size = std::fs::metadata(path).map_err(|e| io(&e))?.len();
    if size > MAX_FILE_BYTES {
        return Err(CliError::usage(
            format!(
                "the environment file {} has {size} bytes, over the limit of {MAX_FILE_BYTES}",
                path.display()
            ),
            "give --env-file a file of KEY=VALUE lines",
        ));
    }
    let bytes = std::fs::read(path).map_err(|e| io(&e))?;
    let text = String::from_utf8(bytes).map_err(|_| {
        CliError::usage(
            format!("the environment file {} is not UTF-8 text", path.display()),
            "give --env-file a text file of KEY=VALUE lines",
        )
    })?;
    parse(&text).map_err(|(line, reason)| {
        CliError::usage(
            format!("{}, line {line}: {reason}", path.display()),
            "correct the line; each is KEY=VALUE",
        )
    })
}

/// The variables, or the number of the first bad line and what is wrong with it.
fn parse(text: &str) -> Result<BTreeMap<String, String>, (usize, String)> {
    let mut env = BTreeMap::new();
    let text = text.strip_prefix('\u{feff}').unwrap_or(text);
    for (index, line) in text.lines().enumerate() {
        let line = line.trim();
        if line.is_empty() || line.starts_with('#') {
            continue;
        }
        let (key, value) = pair(line).map_err(|reason| (index + 1, reason))?;
        env.insert(key, value);
    }
    Ok(env)
}

fn pair(line: &str) -> Result<(String, String), String> {
    let line = line
        .strip_prefix("export")
        .filter(|rest| rest.starts_with([' ', '\t']))
        .map_or(line, str::trim_start);
    let (key, value) = line
        .split_once('=')
        .ok_or_else(|| "there is no '=' after the name".to_owned())?;
    let key = key.trim_end();
    check_name(key)?;
    Ok((key.to_owned(), unquote(value.trim())?))
}

/// POSIX.1-2017 section 8.1, as the cluster checks it too.
pub fn check_name(name: &str) -> Result<(), String> {
    let legal = name.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'_');
    match name.bytes().next() {
        Some(first) if legal && !first.is_ascii_digit() => Ok(()),
        _ => Err(format!(
            "'{name}' is not a variable name: use letters, digits and '_', not beginning with a digit"
        )),
    }
}

fn unquote(value: &str) -> Result<String, String> {
    let mut chars = value.chars();
    match chars.next() {
        Some('\'') => {
            let (inner, after) = chars
                .as_str()
                .split_once('\'')
                .ok_or("the single quote is not closed")?;
            nothing_after(after)?;
            Ok(inner.to_owned())
        }
        Some('"') => double_quoted(chars.as_str()),
        _ => {
            let end = value.find(" #").unwrap_or(value.len());
            let value = if value.starts_with('#') {
                ""
            } else {
                &value[..end]
            };
            Ok(value.trim_end().to_owned())
        }
    }
}

fn double_quoted(text: &str) -> Result<String, String> {
    let mut out = String::new();
    let mut chars = text.chars();
    while let Some(c) = chars.next() {
        match c {
            '"' => {
                nothing_after(chars.as_str())?;
                return Ok(out);
            }
            '\\' => match chars.next() {
                Some('n') => out.push('\n'),
                Some('t') => out.push('\t'),
                Some('r') => out.push('\r'),
                Some(c @ ('"' | '\\' | '$')) => out.push(c),
                Some(c) => out.extend(['\\', c]),
                None => break,
            },
            c => out.push(c),
        }
    }
    Err("the double quote is not closed".to_owned())
}

fn nothing_after(text: &str) -> Result<(), String> {
    let text = text.trim();
    if text.is_empty() || text.starts_with('#') {
        return Ok(());
    }
    Err(format!("there is '{text}' after the closing quote"))
}

/// `KEY=VALUE` as given to `--env`.
pub fn flag(text: &str) -> Result<(String, String), String> {
    let (key, value) = text
        .split_once('=')
        .ok_or_else(|| format!("'{text}' has no '=': write KEY=VALUE"))?;
    check_name(key)?;
    Ok((key.to_owned(), value.to_owned()))
}

/// `KEY` as given to `--unset-env`.
pub fn name(text: &str) -> Result<String, String> {
    check_name(text).map(|()| text.to_owned())
}

#[cfg(test)]
#[path = "env_file_fuzz.rs"]
mod fuzz;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_the_usual_forms() {
        let text = "\u{feff}# comment\n\nA=1\nexport B=two words # why\nC='it''\nD=\"a\\nb\\\"\\$x\"  # c\nE=\nF = spaced \nA=2\nG=a#b\nexport_x=1\r\nH=#none\n";
        let text = text.replace("C='it''", "C='it \"is\" #raw'");
        let env = parse(&text).unwrap();
        let get = |k: &str| env[k].as_str();
        assert_eq!(get("A"), "2");
        assert_eq!(get("B"), "two words");
        assert_eq!(get("C"), "it \"is\" #raw");
        assert_eq!(get("D"), "a\nb\"$x");
        assert_eq!(get("E"), "");
        assert_eq!(get("F"), "spaced");
        assert_eq!(get("G"), "a#b");
        assert_eq!(get("H"), "");
        assert_eq!(get("export_x"), "1");
    }

    #[test]
    fn errors_name_the_line() {
        for (text, line, word) in [
            ("A=1\nnonsense\n", 2, "="),
            ("1A=1", 1, "1A"),
            ("\n\nA='x", 3, "closed"),
            ("A=\"x", 1, "closed"),
            ("A=\"x\" y", 1, "after"),
            ("A B=1", 1, "A B"),
            ("=1", 1, "''"),
        ] {
            let (at, reason) = parse(text).unwrap_err();
            assert_eq!(at, line, "{text}");
            assert!(reason.contains(word), "{reason}");
        }
    }

    #[test]
    fn a_file_s_error_names_the_file() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("app.env");
        std::fs::write(&path, "OK=1\nbad line\n").unwrap();
        let error = read(&path).unwrap_err();
        assert_eq!(error.exit as u8, 2);
        assert!(error.to_string().contains("app.env, line 2"), "{error}");
        assert_eq!(read(&dir.path().join("none")).unwrap_err().exit as u8, 2);
        std::fs::write(&path, [0xff, b'=']).unwrap();
        assert!(read(&path).unwrap_err().to_string().contains("UTF-8"));
    }

    #[test]
    fn flags_are_pairs() {
        assert_eq!(flag("A=b=c"), Ok(("A".into(), "b=c".into())));
        assert!(flag("A").is_err());
        assert!(flag("a-b=c").is_err());
    }
}
