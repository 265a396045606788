//! Lines of text: appends and wraps them.

/// Width of the terminal in columns. Of a line that is longer, the least important parts are left out, or it is wrapped.
pub(crate) const WIDTH: usize = 80;

/// The width of a label in front of a line, in columns.
pub(super) const LABEL: usize = 12;

/// Appends a line.
pub(crate) fn push_line(text: &mut String, line: &str) {
    text.push_str(line);
    text.push('\n');
}

/// Joins the parts that fit into a line of this width, the most important first. The first one is always there.
pub(crate) fn fitting(parts: &[String], columns: usize) -> String {
    let mut line = String::new();
    for (index, part) in parts.iter().enumerate() {
        let width = line.chars().count() + part.chars().count();
        if index > 0 && width > columns {
            break;
        }
        line.push_str(part);
    }
    line
}

/// Text for a terminal: lines longer than this are wrapped and indented.
pub fn wrapped(text: &str, columns: usize) -> String {
    const INDENT: &str = "            ";
    let mut all = String::new();
    for line in text.lines() {
        let mut rest = line;
        let mut indent = "";
        while let Some(end) = break_at(rest, columns.saturating_sub(indent.len())) {
            let (first, later) = rest.split_at(end);
            push_line(&mut all, &format!("{indent}{}", first.trim_end()));
            rest = later.trim_start();
            indent = INDENT;
        }
        push_line(&mut all, &format!("{indent}{rest}"));
    }
    all
}

/// Where to break a line for this width: at its last space, or within a word that is longer. `None` if the
/// line fits.
fn break_at(line: &str, columns: usize) -> Option<usize> {
    let (beyond, _) = line.char_indices().nth(columns)?;
    // Do not break within the indentation.
    let words = line.len() - line.trim_start().len();
    let end = beyond + usize::from(line[beyond..].starts_with(' '));
    let in_words = line.get(words..end).and_then(|words| words.rfind(' '));
    let last_space = in_words.filter(|at| *at > 0).map(|at| at + words);
    Some(last_space.unwrap_or(beyond)).filter(|at| *at > 0)
}

#[cfg(test)]
mod tests {
    use super::{fitting, wrapped};

    #[test]
    fn the_last_parts_are_left_out_first() {
        let parts = ["née".to_owned(), ", two".to_owned(), ", three".to_owned()];
        for (columns, line) in [
            (0, "née"),
            (7, "née"),
            (8, "née, two"),
            (14, "née, two"),
            (15, "née, two, three"),
        ] {
            assert_eq!(fitting(&parts, columns), line, "{columns}");
        }
        assert_eq!(fitting(&[], 80), "");
    }

    #[test]
    fn no_line_is_longer() {
        let text = "short\n  from      2001:db8:a::2, 2001:db8:b::2, 2001:db8:c::2\n\nfailing: sixxs0: its interface has no carrier; look at it\n";
        assert_eq!(
            wrapped(text, 40),
            "short\n  from      2001:db8:a::2,\n            2001:db8:b::2, 2001:db8:c::2\n\nfailing: sixxs0: its interface has no\n            carrier; look at it\n"
        );
    }

    #[test]
    fn a_long_word_is_cut() {
        let word = "x".repeat(100);
        let text = wrapped(&format!("  {word} é{word}\n"), 30);
        assert!(
            text.lines().all(|line| line.chars().count() <= 30),
            "{text}"
        );
        let letters = |text: &str| text.chars().filter(|c| !c.is_whitespace()).count();
        assert_eq!(letters(&text), 201);
        assert_eq!(wrapped("é", 0), "é\n", "it ends all the same");
    }
}
