//! Proposes a configuration, as text with comments.
//!
//! Pure: the caller gathers the facts, and writes the text.

pub mod declared;
pub mod host;
pub mod hurricane;

use std::fmt::Write as _;

/// A basic string of TOML (TOML 1.0, "String").
fn quoted(text: &str) -> String {
    let mut quoted = String::from('"');
    for c in text.chars() {
        // Writing into a String does not fail.
        let _infallible = match c {
            '"' | '\\' => write!(quoted, "\\{c}"),
            c if c.is_control() => write!(quoted, "\\u{:04x}", u32::from(c)),
            c => write!(quoted, "{c}"),
        };
    }
    quoted.push('"');
    quoted
}

/// The maximum number of characters of a foreign text in a comment.
const LONGEST_COMMENT: usize = 80;

/// A foreign text for a comment: one line without control characters.
fn comment(text: &str) -> String {
    let is_plain = |c: &char| !c.is_control();
    text.chars()
        .filter(is_plain)
        .take(LONGEST_COMMENT)
        .collect()
}
