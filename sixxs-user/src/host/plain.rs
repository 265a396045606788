//! Text for a terminal or the log. Other software chooses names of interfaces, processes and control groups;
//! these must not control the terminal or reorder the text around them.
//!
//! Commands print through [`Plain`] only; their output accepts nothing else.

use std::fmt::{self, Write as _};

/// Text without control characters.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Plain(String);

impl Plain {
    /// Text of several lines.
    pub(crate) fn lines(text: &str) -> Self {
        Self::escaped(text, |c| c != '\n' && is_unsafe(c), |c| c.escape_unicode())
    }

    /// Text of one line: escapes line breaks too.
    pub(crate) fn line(text: &str) -> Self {
        Self::escaped(text, is_unsafe, |c| c.escape_unicode())
    }

    /// JSON, with unchanged meaning: such characters occur only in strings, where they can be escaped.
    pub(crate) fn json(text: &str) -> Self {
        let escape = |c: char| {
            let mut units = [0; 2];
            let units = c.encode_utf16(&mut units);
            let escapes = units.iter().map(|unit| format!("\\u{unit:04x}"));
            escapes.collect::<String>()
        };
        Self::escaped(text, |c| c != '\n' && is_unsafe(c), escape)
    }

    fn escaped<T: fmt::Display>(
        text: &str,
        is_bad: impl Fn(char) -> bool,
        escape: impl Fn(char) -> T,
    ) -> Self {
        let mut plain = String::with_capacity(text.len());
        for c in text.chars() {
            if is_bad(c) {
                // Writing into a String does not fail.
                let _infallible = write!(plain, "{}", escape(c));
            } else {
                plain.push(c);
            }
        }
        Self(plain)
    }

    /// The text.
    pub(crate) fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for Plain {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// Whether a character could control a terminal or reorder the text around it: control characters, and
/// Unicode's invisible and bidirectional formatting characters.
pub(crate) fn is_unsafe(c: char) -> bool {
    c.is_control()
        || matches!(c,
            '\u{ad}'
            | '\u{61c}'
            | '\u{180e}'
            | '\u{200b}'..='\u{200f}'
            | '\u{2028}'..='\u{202e}'
            | '\u{2060}'..='\u{206f}'
            | '\u{feff}'
            | '\u{fff9}'..='\u{fffb}'
            | '\u{e0000}'..='\u{e007f}')
}

#[cfg(test)]
mod tests {
    use super::*;

    const NASTY: &str = "a\u{1b}]0;x\u{7}\u{9b}31m\u{202e}b\u{e0041}\nc";

    #[test]
    fn control_characters_are_escaped() {
        let text = Plain::lines(NASTY);
        assert_eq!(
            text.as_str(),
            "a\\u{1b}]0;x\\u{7}\\u{9b}31m\\u{202e}b\\u{e0041}\nc"
        );
        assert!(!Plain::line(NASTY).as_str().contains('\n'));
        assert_eq!(Plain::line("käse … 漢字").as_str(), "käse … 漢字");
    }

    #[test]
    fn escaped_json_has_the_same_meaning() {
        let line = serde_json::to_string(NASTY).unwrap();
        let plain = Plain::json(&line);
        assert!(!plain.as_str().chars().any(is_unsafe), "{plain}");
        let read: String = serde_json::from_str(plain.as_str()).unwrap();
        assert_eq!(read, NASTY);
    }
}
