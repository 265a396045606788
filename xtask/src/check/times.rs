//! No `+`, `-` or `*` on times: on `Instant`, `Duration` and `SystemTime` they panic on overflow, and numbers from outside
//! reach them.
//!
//! The check has no types. An operand is a time if its last name is declared as one in the same file, or is the
//! name of a call that returns one (`Instant::now()`, `Duration::from_secs(…)`, `x.elapsed()`).

use std::collections::BTreeSet;

use crate::check::source::File;

/// Sources of code that runs on users' hosts.
const CHECKED: &[&str] = &["sixxs-common/src", "sixxs-core/src", "sixxs-user/src"];

const TYPES: &[&str] = &["Duration", "Instant", "SystemTime"];

/// Names that always mean a time.
const TIMES: &[&str] = &[
    "elapsed",
    "from_secs",
    "from_millis",
    "from_micros",
    "from_nanos",
    "UNIX_EPOCH",
];

/// Sums, differences and products of times outside tests, one per line.
pub(crate) fn violations(files: &[File]) -> Vec<String> {
    let mut found = Vec::new();
    for file in files {
        let path = file.path.to_string_lossy();
        let is_test = path.ends_with("tests.rs") || path.contains("/tests/");
        if is_test || !path.ends_with(".rs") || !CHECKED.iter().any(|dir| path.starts_with(dir)) {
            continue;
        }
        // Unit tests are at the end of a file.
        let code = file.text.split("#[cfg(test)]").next().unwrap_or_default();
        let times = declared(code);
        for (index, line) in code.lines().enumerate() {
            if computes(line, &times) {
                let line = index + 1;
                found.push(format!(
                    "{path}:{line}: `+`, `-` and `*` on a time panic on overflow; use saturating_add and its like, \
                     or clock::after for a point in time"
                ));
            }
        }
    }
    found
}

/// Names that the code declares as times: values, and functions that return one.
fn declared(code: &str) -> BTreeSet<&str> {
    let mut names: BTreeSet<&str> = TIMES.iter().copied().collect();
    for line in code.lines().map(without_comment) {
        for (at, _) in line.match_indices(": ") {
            if is_time(&line[at + 2..]) {
                names.insert(last_name(&line[..at]));
            }
        }
        if let Some((before, returned)) = line.split_once(" -> ")
            && is_time(returned)
            && let Some((_, function)) = before.split_once("fn ")
        {
            names.insert(first_name(function));
        }
    }
    names.remove("");
    names
}

/// Whether a type is a time, or an option of one.
fn is_time(text: &str) -> bool {
    let text = text.strip_prefix('&').unwrap_or(text);
    let text = text.strip_prefix("Option<").unwrap_or(text);
    let last = path(text).rsplit("::").next().unwrap_or_default();
    TYPES.contains(&last)
}

fn computes(line: &str, times: &BTreeSet<&str>) -> bool {
    let line = without_comment(line);
    [" + ", " += ", " - ", " -= ", " * ", " *= "]
        .iter()
        .any(|operator| {
            line.match_indices(operator).any(|(at, _)| {
                let (left, right) = (&line[..at], &line[at + operator.len()..]);
                let left = without_call(left);
                let right = path(right).rsplit(['.', ':']).next().unwrap_or_default();
                let is_now = TYPES
                    .iter()
                    .any(|name| left.ends_with(&format!("{name}::now")));
                is_now || times.contains(last_name(left)) || times.contains(right)
            })
        })
}

fn without_comment(line: &str) -> &str {
    line.split("//").next().unwrap_or_default()
}

/// Removes the arguments of a call at the end of the text, if there is one.
fn without_call(text: &str) -> &str {
    let mut depth = 0_usize;
    for (at, c) in text.char_indices().rev() {
        match c {
            ')' => depth += 1,
            '(' if depth == 1 => return &text[..at],
            '(' if depth > 1 => depth -= 1,
            _ if depth == 0 => return text,
            _ => {}
        }
    }
    text
}

const fn is_word(c: char) -> bool {
    c.is_ascii_alphanumeric() || c == '_'
}

fn first_name(text: &str) -> &str {
    &text[..text.find(|c| !is_word(c)).unwrap_or(text.len())]
}

fn last_name(text: &str) -> &str {
    let end = text.rfind(|c| !is_word(c));
    &text[end.map_or(0, |at| {
        at + text[at..].chars().next().map_or(0, char::len_utf8)
    })..]
}

/// The path at the start of the text: names with dots or colons between them.
fn path(text: &str) -> &str {
    let end = text.find(|c| !is_word(c) && c != '.' && c != ':');
    &text[..end.unwrap_or(text.len())]
}

#[cfg(test)]
mod tests {
    use super::*;

    fn found(text: &str) -> usize {
        violations(&[File {
            path: "sixxs-user/src/x.rs".into(),
            text: text.into(),
        }])
        .len()
    }

    #[test]
    fn additions_to_times_are_found() {
        for code in [
            "let ends = Instant::now() + time;",
            "let x = std::time::SystemTime::now() + a;",
            "const SILENCE: Duration = X;\nnow < heard + SILENCE",
            "fn f(limit: Duration) {\n    self.debt += limit;",
            "fn silent_since(&self) -> Duration {\nif x >= session.silent_since() + after {",
            "due: Option<Instant>,\nself.due + 1",
            "x + Duration::from_secs(1)",
            "started.elapsed() + self.a",
            "pause: Duration,\nself.pause * 2",
            "fn f(a: Duration) {\nlimit -= a;",
            "fn f(times: T) {\nstep: std::time::Duration,\nx + self.request.times.step",
        ] {
            assert_eq!(found(code), 1, "{code}");
        }
    }

    #[test]
    fn other_additions_are_not() {
        for code in [
            "let now: u64 = 1;\nnow + 1",
            "limit: Duration,\n// limit + 1",
            "fn f<T: A + Send>(a: Duration) {",
            "a: Duration,\n\n#[cfg(test)]\nmod tests { a + a }",
            "a: Duration,\na.as_secs() + 1",
        ] {
            assert_eq!(found(code), 0, "{code}");
        }
    }
}
