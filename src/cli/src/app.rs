//! What both programs do first and last: read the command line, run, report.

use std::ffi::OsString;
use std::future::Future;
use std::process::ExitCode;

use clap::Parser;
use clap::error::ErrorKind;

use crate::error::{CliError, Outcome};

/// A parsed command line that says whether its reader is a program.
pub trait CommandLine: Parser {
    fn json(&self) -> bool;
}

pub fn main<C: CommandLine>(run: impl FnOnce(C) -> Outcome) -> ExitCode {
    nebula_pki::install_crypto_provider();
    let args: Vec<OsString> = std::env::args_os().collect();
    let cli = match C::try_parse_from(&args) {
        Ok(cli) => cli,
        Err(error) => return not_parsed(&error, wants_json(&args)),
    };
    let json = cli.json();
    match run(cli) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => error.report(json),
    }
}

/// Runs a command's asynchronous part on this thread; a command line waits for one thing at a time.
pub fn block_on<T>(future: impl Future<Output = Outcome<T>>) -> Outcome<T> {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .map_err(|e| no_runtime(&e))?;
    runtime.block_on(future)
}

/// Why nothing could be begun.
pub fn no_runtime(error: &std::io::Error) -> CliError {
    CliError::failed(
        format!("cannot start: {error}"),
        "check the limits of this shell (ulimit -a)",
    )
}

/// Whether `--json` stands on a command line that could not be parsed.
fn wants_json(args: &[OsString]) -> bool {
    args.iter()
        .take_while(|a| *a != "--")
        .any(|a| a == "--json")
}

fn not_parsed(error: &clap::Error, json: bool) -> ExitCode {
    match error.kind() {
        ErrorKind::DisplayHelp | ErrorKind::DisplayVersion => {
            let _ = error.print();
            ExitCode::SUCCESS
        }
        _ if json => usage(error).report(true),
        _ => {
            let _ = error.print();
            ExitCode::from(crate::error::Exit::Usage as u8)
        }
    }
}

/// clap's first paragraph is the sentence; what follows is the usage.
fn usage(error: &clap::Error) -> CliError {
    let text = error.render().to_string();
    let sentence: Vec<_> = text
        .lines()
        .take_while(|line| !line.trim().is_empty())
        .map(str::trim)
        .collect();
    let sentence = sentence.join(" ");
    let sentence = sentence.strip_prefix("error: ").unwrap_or(&sentence);
    CliError::usage(sentence, "see --help")
}

/// Lines that must be understood, and lines that must not.
#[cfg(test)]
pub fn check_lines<C: CommandLine>(good: &[&str], bad: &[&str]) {
    for line in good {
        let parsed = C::try_parse_from(line.split(' ')).map(|_| ());
        assert!(parsed.is_ok(), "{line}: {}", parsed.unwrap_err());
    }
    for line in bad {
        assert!(C::try_parse_from(line.split(' ')).is_err(), "{line}");
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[derive(Debug, Parser)]
    struct Line {
        #[arg(long)]
        number: Option<u32>,
    }

    #[test]
    fn a_usage_error_is_one_sentence() {
        let error = Line::try_parse_from(["x", "--number", "many"]).unwrap_err();
        let error = usage(&error);
        assert_eq!(error.exit as u8, 2);
        assert!(
            error.to_string().starts_with("invalid value 'many'"),
            "{error}"
        );
        assert!(!error.to_string().contains('\n'));
    }

    #[test]
    fn json_is_found_on_broken_lines() {
        let args = |a: &[&str]| a.iter().map(OsString::from).collect::<Vec<_>>();
        assert!(wants_json(&args(&["nebula", "--nonsense", "--json"])));
        assert!(!wants_json(&args(&["nebula", "--", "--json"])));
    }
}
