//! What a command says: JSON on stdout for scripts, text and tables for people, progress on stderr.

use std::io::{IsTerminal, Write};
use std::time::Duration;

use comfy_table::{ContentArrangement, Table, presets};
use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};
use serde::Serialize;

/// Where a command's words go. `--json` keeps everything but the result off stdout.
#[derive(Debug, Clone, Copy)]
pub struct Output {
    json: bool,
}

impl Output {
    pub fn new(json: bool) -> Output {
        Output { json }
    }

    pub fn is_json(self) -> bool {
        self.json
    }

    /// A command's result: `value` for scripts, or what `text` makes of it for people.
    pub fn result<T: Serialize>(self, value: &T, text: impl FnOnce(&T) -> String) {
        if self.json {
            self.json(value);
        } else {
            self.line(&text(value));
        }
    }

    /// One JSON value: on one line for programs, indented on a terminal.
    pub fn json<T: Serialize>(self, value: &T) {
        let text = if std::io::stdout().is_terminal() {
            serde_json::to_string_pretty(value)
        } else {
            serde_json::to_string(value)
        };
        match text {
            Ok(text) => self.line(&text),
            Err(error) => self.warn(&format!("the result cannot be written as JSON: {error}")),
        }
    }

    /// Text on stdout. A reader that has gone away (`| head`) ends the program quietly.
    pub fn line(self, text: &str) {
        let mut out = std::io::stdout().lock();
        let newline = if text.ends_with('\n') || text.is_empty() {
            ""
        } else {
            "\n"
        };
        if write!(out, "{text}{newline}")
            .and_then(|()| out.flush())
            .is_err()
        {
            std::process::exit(0);
        }
    }

    /// A remark for people on the way, on stderr.
    pub fn note(self, text: &str) {
        if !self.json {
            let _ = writeln!(std::io::stderr().lock(), "{text}");
        }
    }

    /// Something that scripts and people should both know and that is not a failure.
    pub fn warn(self, text: &str) {
        let _ = writeln!(std::io::stderr().lock(), "warning: {text}");
    }

    fn draws(self) -> bool {
        !self.json && std::io::stderr().is_terminal()
    }

    /// A bar over bytes; nothing is drawn unless people watch.
    pub fn bytes_bar(self, what: &str, total: u64) -> ProgressBar {
        let bar = self.bar(total);
        if let Ok(style) = ProgressStyle::with_template(
            "{msg:12} [{bar:30}] {bytes}/{total_bytes} {bytes_per_sec} {eta}",
        ) {
            bar.set_style(style.progress_chars("=> "));
        }
        bar.set_message(what.to_owned());
        bar
    }

    /// A bar over countable steps with a message of what is going on.
    pub fn steps_bar(self, total: u64) -> ProgressBar {
        let bar = self.bar(total);
        if let Ok(style) = ProgressStyle::with_template("{spinner} [{bar:30}] {pos}/{len} {msg}") {
            bar.set_style(style.progress_chars("=> "));
        }
        if !bar.is_hidden() {
            bar.enable_steady_tick(Duration::from_millis(120));
        }
        bar
    }

    fn bar(self, total: u64) -> ProgressBar {
        let target = if self.draws() {
            ProgressDrawTarget::stderr()
        } else {
            ProgressDrawTarget::hidden()
        };
        ProgressBar::with_draw_target(Some(total), target)
    }
}

/// Columns without borders, as the field's tools print them.
pub fn table<const N: usize>(
    header: [&str; N],
    rows: impl IntoIterator<Item = [String; N]>,
) -> String {
    let mut table = Table::new();
    table
        .load_preset(presets::NOTHING)
        .set_content_arrangement(ContentArrangement::Disabled)
        .set_header(header);
    for row in rows {
        table.add_row(row);
    }
    for column in table.column_iter_mut() {
        column.set_padding((0, 2));
    }
    let lines: Vec<_> = table
        .lines()
        .map(|line| line.trim_end().to_owned())
        .collect();
    lines.join("\n")
}

#[cfg(test)]
mod tests {
    #[test]
    fn tables_are_plain_columns() {
        let rows = [["1".to_owned(), "node-one".to_owned()]];
        assert_eq!(super::table(["ID", "NAME"], rows), "ID  NAME\n1   node-one");
    }
}
