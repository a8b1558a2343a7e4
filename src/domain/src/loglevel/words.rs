//! The words for levels, and where loggers put them: behind times, names in brackets and dashes.

use super::Level;

/// Parts of a line's beginning that are looked at; more precede a level in no common format.
const PARTS: usize = 10;

/// A word for a level, in capitals or not.
pub(super) fn any_case(word: &str) -> Option<Level> {
    // Longer than any of them.
    if word.len() > 12 {
        return None;
    }
    Some(match word.to_ascii_lowercase().as_str() {
        "trace" | "trc" | "finest" | "verbose" => Level::Trace,
        "debug" | "dbg" | "debu" | "fine" => Level::Debug,
        "info" | "inf" | "information" | "notice" | "log" => Level::Info,
        "warn" | "warning" | "wrn" => Level::Warn,
        "error" | "err" | "eror" | "severe" => Level::Error,
        "fatal" | "ftl" | "critical" | "crit" | "alert" | "emerg" | "emergency" | "panic"
        | "dpanic" => Level::Fatal,
        _ => return None,
    })
}

/// Written as loggers do when nothing else marks the word; `LOG` alone is a word like any other.
fn capitals(word: &str) -> Option<Level> {
    let plain = word.bytes().all(|b| b.is_ascii_uppercase());
    any_case(word).filter(|_| plain && word != "LOG")
}

/// The level in front of the message.
pub(super) fn level(text: &str) -> Option<Level> {
    let mut rest = text;
    let mut dated = false;
    let mut named = false;
    for position in 0..PARTS {
        let (part, after) = part(rest)?;
        rest = after;
        match part {
            Part::Brackets(inner) => {
                if let Some(found) = in_brackets(inner) {
                    return Some(found);
                }
                dated |= inner.contains(|c: char| c.is_ascii_digit());
                named = false;
            }
            Part::Separator => named = false,
            Part::Word(word) => {
                let (first, colon) = match word.split_once(':') {
                    Some((first, _)) => (first, true),
                    None => (word.trim_end_matches(','), false),
                };
                // `error: no such file`, `INFO:     started`, `ERROR:root:message`, `UTC [9] LOG:  ready`.
                if colon
                    && (position == 0 || capitals(first).is_some() || first == "LOG")
                    && let Some(found) = any_case(first)
                {
                    return Some(found);
                }
                // Behind a name only with a mark of its own: it might be a word of the message.
                let marked = !named || separator_follows(rest);
                if marked && let Some(found) = capitals(first) {
                    return Some(found);
                }
                if starts_like_a_time(word) {
                    dated = true;
                } else if !is_zone(word) && !is_letter(word) {
                    // One name (of a logger, of a user) between the time and the level.
                    if !dated || named {
                        return None;
                    }
                    named = true;
                }
            }
        }
    }
    None
}

enum Part<'a> {
    Brackets(&'a str),
    Separator,
    Word(&'a str),
}

fn part(text: &str) -> Option<(Part<'_>, &str)> {
    let text = text.trim_start();
    let first = text.chars().next()?;
    let closing = match first {
        '[' => Some(']'),
        '(' => Some(')'),
        '<' => Some('>'),
        _ => None,
    };
    if let Some(closing) = closing
        && let Some((inner, rest)) = text[1..].split_once(closing)
    {
        return Some((Part::Brackets(inner), rest.trim_start_matches(':')));
    }
    let end = text.find(char::is_whitespace).unwrap_or(text.len());
    let (word, rest) = text.split_at(end);
    if word.bytes().all(|b| !b.is_ascii_alphanumeric()) {
        return Some((Part::Separator, rest));
    }
    // `INFO|name|message`, `12:00:00|WARN|…`
    if let Some((word, _)) = word.split_once('|').filter(|(word, _)| !word.is_empty()) {
        return Some((Part::Word(word), &text[word.len() + 1..]));
    }
    Some((Part::Word(word), rest))
}

/// `[error]`, `[core:error]`, `[2026-01-31T12:00:00Z WARN  name]`, `[ INFO ]`.
fn in_brackets(inner: &str) -> Option<Level> {
    let mut words = inner
        .split([' ', ':', '\t'])
        .filter(|word| !word.is_empty());
    let alone = |word| (word == inner.trim() || inner.ends_with(word)).then(|| any_case(word));
    // `[main]` and `[http-nio-8080 error handler]` are names: in small letters only as the last part.
    words.find_map(|word| capitals(word).or_else(|| alone(word).flatten()))
}

fn starts_like_a_time(word: &str) -> bool {
    word.starts_with(|c: char| c.is_ascii_digit())
}

/// `UTC`, `Z`, `CEST`.
fn is_zone(word: &str) -> bool {
    word.len() <= 5 && word.bytes().all(|b| b.is_ascii_uppercase())
}

/// The `E,` of Ruby's logger, before the time.
fn is_letter(word: &str) -> bool {
    word.trim_end_matches(',').len() == 1
}

fn separator_follows(rest: &str) -> bool {
    let next = rest.trim_start();
    next.starts_with(['-', '|', '[', '(', ':'])
}
