//! Files and functions stay small enough to read at once. Tests inside a file do not count.

use crate::check::{
    rust::{self, Token, group},
    source::File,
};

/// Most lines of a file without its tests.
const MOST_LINES: usize = 500;

/// Most lines of a function, from `fn` to its closing brace.
const MOST_FUNCTION_LINES: usize = 60;

/// Files and functions that are too large, a line each.
pub(crate) fn violations(files: &[File]) -> Vec<String> {
    let mut found = Vec::new();
    for file in files.iter().filter(|file| is_checked(file)) {
        let path = file.path.display();
        let all = rust::tokens(&file.text);
        let product = rust::without_tests(&all);
        let lines = lines(file, &all, &product);
        if lines > MOST_LINES {
            found.push(format!("{path}: {lines} lines, more than {MOST_LINES}"));
        }
        if is_suite(file) {
            continue;
        }
        for (name, line, lines) in functions(&product) {
            if lines > MOST_FUNCTION_LINES {
                found.push(format!(
                    "{path}:{line}: fn {name} has {lines} lines, more than {MOST_FUNCTION_LINES}"
                ));
            }
        }
    }
    found
}

/// Sources, but no files that have tests only.
fn is_checked(file: &File) -> bool {
    let name = file.path.file_name().unwrap_or_default().to_string_lossy();
    let in_source = file.path.iter().nth(1).is_some_and(|part| part == "src");
    let is_tests = name == "tests.rs" || name.ends_with("_tests.rs");
    let below_tests = file.path.iter().skip(2).any(|part| part == "tests");
    name.ends_with(".rs") && !(in_source && (is_tests || below_tests))
}

/// Whether a file is part of a test binary, whose functions are tests.
fn is_suite(file: &File) -> bool {
    file.path.iter().nth(1).is_some_and(|part| part == "tests")
}

/// Removes the first entry that matches; whether there was one.
/// Lines of a file without those of its tests, comments included.
fn lines(file: &File, all: &[Token<'_>], product: &[Token<'_>]) -> usize {
    let total = file.text.lines().count();
    // Tests are contiguous: from the first token that is missing to the last one.
    let same = all.iter().zip(product).take_while(|(a, b)| a == b).count();
    let ends = all.iter().rev().zip(product.iter().rev());
    let same_at_end = ends
        .take_while(|(a, b)| a == b)
        .count()
        .min(all.len() - same);
    let tests = all.get(same..all.len() - same_at_end).unwrap_or_default();
    let (Some(first), Some(last)) = (tests.first(), tests.last()) else {
        return total;
    };
    total - (last.line - first.line + 1)
}

/// Name, first line and number of lines of each function with a body.
fn functions<'a>(tokens: &[Token<'a>]) -> Vec<(&'a str, usize, usize)> {
    let mut found = Vec::new();
    for (at, pair) in tokens.windows(2).enumerate() {
        let [keyword, name] = pair else { continue };
        if keyword.text != "fn" || !name.is_word() {
            continue;
        }
        let mut end = at;
        while let Some(token) = tokens.get(end) {
            end += match token.text {
                ";" => break,
                "{" => {
                    end += group(&tokens[end..]) - 1;
                    break;
                }
                "(" | "[" => group(&tokens[end..]),
                _ => 1,
            };
        }
        if let Some(last) = tokens.get(end).filter(|token| token.text == "}") {
            found.push((name.text, keyword.line, last.line - keyword.line + 1));
        }
    }
    found
}

#[cfg(test)]
mod tests {
    use super::*;

    fn file(text: &str) -> [File; 1] {
        [File {
            path: "a/src/x.rs".into(),
            text: text.to_owned(),
        }]
    }

    fn long_function() -> String {
        format!(
            "fn long(\n    a: [u8; 2],\n) {{\n{}}}\n",
            "    ;\n".repeat(60)
        )
    }

    #[test]
    fn a_large_file_is_found() {
        let large = "// a\n".repeat(501);
        let found = violations(&file(&large));
        assert_eq!(found, ["a/src/x.rs: 501 lines, more than 500"]);
        assert_eq!(violations(&file(&"// a\n".repeat(500))), [""; 0]);
    }

    #[test]
    fn tests_do_not_count() {
        let tests = format!("#[cfg(test)]\nmod tests {{\n{}}}\n", "    a;\n".repeat(600));
        assert_eq!(
            violations(&file(&("fn f() {}\n".to_owned() + &tests))),
            [""; 0]
        );
        let more = "// a\n".repeat(500) + "fn f() {}\n" + &tests;
        let found = violations(&file(&more));
        assert_eq!(found, ["a/src/x.rs: 501 lines, more than 500"]);
    }

    #[test]
    fn a_large_function_is_found() {
        let text = "fn f();\n".to_owned() + &long_function();
        let found = violations(&file(&text));
        assert_eq!(found, ["a/src/x.rs:2: fn long has 64 lines, more than 60"]);
        let in_tests = format!("#[cfg(test)]\nmod tests {{ {} }}", long_function());
        assert_eq!(violations(&file(&in_tests)), [""; 0]);
    }
}
