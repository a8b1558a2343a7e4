//! `--basic-auth USER` and `USER:FILE`: a password never stands on a command line, where every user of the machine
//! could read it.

use std::io::{BufRead, Read, Write};

use nebula_domain::http::{PASSWORD_BYTES_MAX, PASSWORD_COST, PasswordHash, UserName};
use nebula_telemetry::Random;
use rustix::termios::{LocalModes, OptionalActions, tcgetattr, tcsetattr};

use crate::error::{CliError, Outcome};

const HINT: &str = "write USER to be asked for the password, USER:FILE for the first line of a file, or USER:- for that of stdin";

/// Enough to see that a line is too long.
const LINE_BYTES_MAX: u64 = PASSWORD_BYTES_MAX as u64 + 3;

/// The user's name and the line for the registry, from what was given to the flag.
pub fn user(flag: &str) -> Outcome<(String, String)> {
    let (name, source) = match flag.split_once(':') {
        Some((name, source)) => (name, Some(source)),
        None => (flag, None),
    };
    let name: UserName = name
        .parse()
        .map_err(|e| CliError::usage(format!("--basic-auth: {e}"), HINT))?;
    let password = match source {
        None => ask(&name)?,
        Some("-") => first_line(std::io::stdin().lock(), "stdin")?,
        Some("") => {
            return Err(CliError::usage(
                format!("--basic-auth {name}: names no file"),
                HINT,
            ));
        }
        Some(path) => {
            let file = std::fs::File::open(path).map_err(|e| {
                CliError::usage(format!("cannot read the password file {path}: {e}"), HINT)
            })?;
            first_line(file, path)?
        }
    };
    let salt = Random::system().bytes();
    let hash = PasswordHash::new(&password, PASSWORD_COST, salt)
        .map_err(|e| CliError::usage(format!("--basic-auth {name}: {e}"), HINT))?;
    let line = format!("{name}:{}", hash.as_str());
    Ok((name.to_string(), line))
}

fn first_line(source: impl Read, what: &str) -> Outcome<String> {
    let mut line = Vec::new();
    std::io::BufReader::new(source.take(LINE_BYTES_MAX))
        .read_until(b'\n', &mut line)
        .map_err(|e| CliError::usage(format!("cannot read the password from {what}: {e}"), HINT))?;
    let line = line.strip_suffix(b"\n").unwrap_or(&line);
    let line = line.strip_suffix(b"\r").unwrap_or(line);
    String::from_utf8(line.to_vec())
        .map_err(|_| CliError::usage(format!("the password in {what} is not UTF-8 text"), HINT))
}

/// Asks twice at the terminal, which shows nothing of what is typed.
fn ask(name: &UserName) -> Outcome<String> {
    let terminal = std::fs::OpenOptions::new()
        .read(true)
        .write(true)
        .open("/dev/tty")
        .map_err(|_| {
            CliError::usage(
                format!("there is no terminal to ask for the password of '{name}'"),
                HINT,
            )
        })?;
    let failed = |e: std::io::Error| CliError::io("cannot ask for the password", &e);
    let quiet = Quiet::new(&terminal).map_err(failed)?;
    let question = |text: &str| -> Outcome<String> {
        write!(&terminal, "{text} for '{name}': ").map_err(failed)?;
        let answer = first_line(&terminal, "the terminal")?;
        writeln!(&terminal).map_err(failed)?;
        Ok(answer)
    };
    let first = question("Password")?;
    let second = question("The same again")?;
    drop(quiet);
    if first != second {
        return Err(CliError::usage("the two passwords differ", "try again"));
    }
    Ok(first)
}

/// A terminal that does not echo until this is dropped.
struct Quiet<'a> {
    terminal: &'a std::fs::File,
    before: rustix::termios::Termios,
}

impl<'a> Quiet<'a> {
    fn new(terminal: &'a std::fs::File) -> std::io::Result<Quiet<'a>> {
        let before = tcgetattr(terminal)?;
        let mut quiet = before.clone();
        quiet.local_modes.remove(LocalModes::ECHO);
        tcsetattr(terminal, OptionalActions::Flush, &quiet)?;
        Ok(Quiet { terminal, before })
    }
}

impl Drop for Quiet<'_> {
    fn drop(&mut self) {
        // There is nobody to tell, and the shell sets its terminal anew.
        let _ = tcsetattr(self.terminal, OptionalActions::Flush, &self.before);
    }
}

#[cfg(test)]
mod tests {
    use nebula_domain::http::User;

    use super::*;

    #[test]
    fn a_file_s_first_line_is_the_password() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("password");
        std::fs::write(&path, "s3cret\r\nsecond\n").unwrap();
        let (name, line) = user(&format!("ann:{}", path.display())).unwrap();
        let read: User = line.parse().unwrap();
        assert_eq!(name, "ann");
        assert!(read.hash.accepts("s3cret") && !read.hash.accepts("second"));
    }

    #[test]
    fn what_is_no_password_is_refused_and_not_repeated() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("password");
        for content in [&b""[..], b"\n", &[b'x'; 80], b"\xff\n", b"a\0b\n"] {
            std::fs::write(&path, content).unwrap();
            let error = user(&format!("ann:{}", path.display())).unwrap_err();
            assert_eq!(error.exit as u8, 2);
            assert!(!error.to_string().contains("xxx"), "{error}");
        }
        for flag in ["", ":file", "ann:", "ann:/no/such/file"] {
            assert_eq!(user(flag).unwrap_err().exit as u8, 2, "{flag}");
        }
    }
}
