//! What a person sent, as an error repeats it: enough of it to be recognised, and no more. Errors
//! are remembered and travel, so their size must not be the sender's choice.

/// Longest excerpt. Every name that could be valid fits, except very long domains.
pub const EXCERPT_BYTES: usize = 128;

/// The text, or its beginning and an ellipsis.
pub fn excerpt(text: &str) -> String {
    excerpt_to(text, EXCERPT_BYTES)
}

/// The same with another limit in bytes.
pub fn excerpt_to(text: &str, max_bytes: usize) -> String {
    if text.len() <= max_bytes {
        return text.to_owned();
    }
    let boundary = |end: &usize| text.is_char_boundary(*end);
    let end = (0..=max_bytes).rev().find(boundary).unwrap_or(0);
    format!("{}…", &text[..end])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn long_text_is_cut_between_characters() {
        assert_eq!(excerpt("short"), "short");
        let exact = "a".repeat(EXCERPT_BYTES);
        assert_eq!(excerpt(&exact), exact);
        // Two bytes each, and an odd number of bytes before them.
        let cut = excerpt(&format!("a{}", "ä".repeat(EXCERPT_BYTES)));
        assert!(
            cut.len() <= EXCERPT_BYTES + '…'.len_utf8() && cut.ends_with("ä…"),
            "{cut}"
        );
    }
}
