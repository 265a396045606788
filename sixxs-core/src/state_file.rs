//! The frame of the text files that a run leaves to the next one:
//!
//! ```text
//! # A comment for people.
//! sixxs-connects 1
//! …
//! end 4
//! ```
//!
//! Rename is atomic, but not every disk keeps its promise: the last line, with the number of lines, reveals a truncated file.

use std::fmt::Write as _;

/// A file is damaged, or from a later version.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("line {line}: expected {expected}")]
pub struct Damaged {
    /// The line, from 1.
    pub line: usize,
    /// The expected content.
    pub expected: &'static str,
}

/// A kind of file.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Frame {
    /// The first line.
    pub(crate) comment: &'static str,
    /// The second line: the kind of file, and its version.
    pub(crate) version: &'static str,
}

impl Frame {
    /// The text of a file with these lines, each of them ended.
    pub(crate) fn text(&self, lines: &str) -> String {
        let mut text = format!("{}\n{}\n{lines}", self.comment, self.version);
        let count = text.lines().count() + 1;
        // Writing into a String does not fail.
        let _infallible = writeln!(text, "end {count}");
        text
    }

    /// The lines of a file between its version and its end, each with its number, from 3.
    pub(crate) fn lines<'a>(
        &self,
        file: &'a [u8],
    ) -> Result<impl Iterator<Item = (usize, &'a str)> + use<'a>, Damaged> {
        let damaged = |line, expected| Damaged { line, expected };
        let text = str::from_utf8(file).map_err(|_| damaged(1, "text"))?;
        let count = text.lines().count();
        let end = format!("end {count}");
        if text.lines().next_back() != Some(&end) || !text.ends_with('\n') {
            return Err(damaged(count.max(1), "\"end\" and the number of lines"));
        }
        if text.lines().nth(1) != Some(self.version) {
            return Err(damaged(2, self.version));
        }
        Ok((1..).zip(text.lines()).take(count - 1).skip(2))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const FRAME: Frame = Frame {
        comment: "# Names.",
        version: "names 1",
    };

    #[test]
    fn lines_are_read_with_their_numbers() {
        let text = FRAME.text("a\n\nb c\n");
        assert_eq!(text, "# Names.\nnames 1\na\n\nb c\nend 6\n");
        let lines: Vec<_> = FRAME.lines(text.as_bytes()).unwrap().collect();
        assert_eq!(lines, [(3, "a"), (4, ""), (5, "b c")]);
        let empty = FRAME.text("");
        assert_eq!(FRAME.lines(empty.as_bytes()).unwrap().count(), 0);
    }

    #[test]
    fn what_is_missing_is_named() {
        let text = FRAME.text("a\nb\n");
        for length in 0..text.len() {
            let damaged = FRAME.lines(&text.as_bytes()[..length]).err().unwrap();
            let line = text[..length].lines().count().max(1);
            assert_eq!(damaged.line, line, "{length}");
        }
        let newer = text.replace("names 1", "names 2");
        let damaged = FRAME.lines(newer.as_bytes()).err().unwrap();
        assert_eq!(damaged.to_string(), "line 2: expected names 1");
        assert_eq!(FRAME.lines(b"\xff\n").err().unwrap().expected, "text");
        let more = text.replace("a\n", "xend 5\na\n");
        assert_eq!(FRAME.lines(more.as_bytes()).err().unwrap().line, 6);
        assert_eq!(FRAME.lines(b"xend 1\n").err().unwrap().line, 1);
        assert_eq!(FRAME.lines(b"end 1\n").err().unwrap().line, 2);
    }
}
