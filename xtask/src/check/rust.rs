//! A small lexer for Rust sources, for checks that need no types. It drops comments, and items that are
//! compiled for tests only.

/// A word, a string literal with its quotes, `::`, or another single character.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Token<'a> {
    pub(crate) text: &'a str,
    /// From 1.
    pub(crate) line: usize,
}

impl Token<'_> {
    /// Whether it is an identifier, a keyword or a number.
    pub(crate) fn is_word(&self) -> bool {
        self.text.starts_with(is_word)
    }
}

fn is_word(c: char) -> bool {
    c.is_alphanumeric() || c == '_'
}

/// The tokens of a source.
pub(crate) fn tokens(text: &str) -> Vec<Token<'_>> {
    let mut tokens = Vec::new();
    let (mut rest, mut line) = (text, 1);
    while let Some(first) = rest.chars().next() {
        let (length, is_token) = next(rest, first);
        let (token, after) = rest.split_at(length);
        if is_token {
            tokens.push(Token { text: token, line });
        }
        line += token.matches('\n').count();
        rest = after;
    }
    tokens
}

/// Length of the next token or gap, in bytes, and whether it is a token.
fn next(rest: &str, first: char) -> (usize, bool) {
    if rest.starts_with("//") {
        return (rest.find('\n').unwrap_or(rest.len()), false);
    }
    if rest.starts_with("/*") {
        return (block_comment(rest), false);
    }
    if let Some(length) = string(rest) {
        return (length, true);
    }
    if first == '\'' {
        return (quote(rest), true);
    }
    if is_word(first) {
        return (rest.find(|c| !is_word(c)).unwrap_or(rest.len()), true);
    }
    let length = if rest.starts_with("::") {
        2
    } else {
        first.len_utf8()
    };
    (length, !first.is_whitespace())
}

/// Length of a comment that may have others inside.
fn block_comment(rest: &str) -> usize {
    let (mut depth, mut at) = (0, 0);
    while let Some(here) = rest.get(at..).filter(|here| !here.is_empty()) {
        if here.starts_with("/*") {
            depth += 1;
            at += 2;
        } else if here.starts_with("*/") {
            depth -= 1;
            at += 2;
            if depth == 0 {
                return at;
            }
        } else {
            at += here.chars().next().map_or(1, char::len_utf8);
        }
    }
    rest.len()
}

/// Length of a string literal of any kind, if there is one.
fn string(rest: &str) -> Option<usize> {
    let prefix = rest.find(|c: char| !"bcr".contains(c))?;
    let (prefix, body) = rest.split_at(prefix);
    if prefix.len() > 2 {
        return None;
    }
    if prefix.ends_with('r') {
        let hashes = body.find(|c| c != '#')?;
        let inside = body.get(hashes..)?.strip_prefix('"')?;
        let end = format!("\"{}", "#".repeat(hashes));
        let end = inside.find(&end).map_or(inside.len(), |at| at + end.len());
        return Some(prefix.len() + hashes + 1 + end);
    }
    let inside = body.strip_prefix('"')?;
    let mut is_escaped = false;
    for (at, c) in inside.char_indices() {
        match c {
            _ if is_escaped => is_escaped = false,
            '\\' => is_escaped = true,
            '"' => return Some(prefix.len() + 1 + at + 1),
            _ => {}
        }
    }
    Some(rest.len())
}

/// Length of a character literal, or else of the quote of a lifetime.
fn quote(rest: &str) -> usize {
    let mut chars = rest.char_indices().skip(1);
    match chars.next() {
        Some((_, '\\')) => {
            chars.next();
            rest.get(3..)
                .and_then(|rest| rest.find('\''))
                .map_or(1, |at| at + 4)
        }
        Some(_) => match chars.next() {
            Some((at, '\'')) => at + 1,
            _ => 1,
        },
        None => 1,
    }
}

const TEST_ATTRIBUTE: [&str; 7] = ["#", "[", "cfg", "(", "test", ")", "]"];

/// The tokens without items under `#[cfg(test)]`.
pub(crate) fn without_tests<'a>(tokens: &[Token<'a>]) -> Vec<Token<'a>> {
    let mut product = Vec::new();
    let mut rest = tokens;
    while let Some((first, after)) = rest.split_first() {
        if texts(rest).take(7).eq(TEST_ATTRIBUTE) {
            rest = &rest[item(rest)..];
        } else {
            product.push(*first);
            rest = after;
        }
    }
    product
}

fn texts<'a>(tokens: &[Token<'a>]) -> impl Iterator<Item = &'a str> {
    tokens.iter().map(|token| token.text)
}

/// Number of tokens of the item at the beginning, with its attributes.
fn item(tokens: &[Token<'_>]) -> usize {
    let mut at = 0;
    while tokens.get(at).is_some_and(|token| token.text == "#") {
        at += 1 + group(&tokens[at + 1..]);
    }
    while let Some(token) = tokens.get(at) {
        at += match token.text {
            ";" => return at + 1,
            "{" => return at + group(&tokens[at..]),
            "(" | "[" => group(&tokens[at..]),
            _ => 1,
        };
    }
    at
}

/// Number of tokens of the bracketed group at the beginning, brackets included.
pub(crate) fn group(tokens: &[Token<'_>]) -> usize {
    let mut depth = 0;
    for (at, text) in texts(tokens).enumerate() {
        match text {
            "(" | "[" | "{" => depth += 1,
            ")" | "]" | "}" => depth -= 1,
            _ => {}
        }
        if depth == 0 {
            return at + 1;
        }
    }
    tokens.len()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn words(text: &str) -> Vec<&str> {
        tokens(text).iter().map(|token| token.text).collect()
    }

    #[test]
    fn comments_are_dropped() {
        let text = "a // b::c\n/* d /* e */ f */ g /// h";
        assert_eq!(words(text), ["a", "g"]);
        assert_eq!(tokens("a\n/*\n*/\nb")[1].line, 4);
    }

    #[test]
    fn literals_are_one_token() {
        for literal in [
            r#""a::b \" }""#,
            "r#\"a \" {\"#",
            "br\"\\\"",
            "b\"x\"",
            "c\"x\"",
            "'{'",
            r"'\''",
            r"'\u{7b}'",
            "'…'",
        ] {
            assert_eq!(words(&format!("x={literal};")), ["x", "=", literal, ";"]);
        }
        assert_eq!(words("&'a str"), ["&", "'", "a", "str"]);
        assert_eq!(words("bar::r#in"), ["bar", "::", "r", "#", "in"]);
    }

    #[test]
    fn test_items_are_dropped() {
        let text = "fn a() {}\n#[cfg(test)]\n#[path = \"x.rs\"]\nmod tests;\n\
                    #[cfg(test)] fn b(c: [u8; 2]) { ; {} }\n#[cfg(test)] mod d { e } struct F;";
        let all = tokens(text);
        let left: Vec<_> = texts(&without_tests(&all)).collect();
        assert_eq!(left, ["fn", "a", "(", ")", "{", "}", "struct", "F", ";"]);
    }
}
