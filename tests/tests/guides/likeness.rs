//! Compares printed output with the output in a guide. Pure.
//!
//! In the guide `…` matches any text within a line, and alone on a line any number of lines. All white space
//! is equal. White space at the ends of lines and empty lines are ignored. Everything else has to be equal,
//! up to the last line.

/// Matches any text.
const ANY: &str = "…";

/// Whether `printed` matches these lines.
pub(crate) fn is_like(said: &[String], printed: &str) -> bool {
    let words = |line: &str| line.split_whitespace().collect::<Vec<_>>().join(" ");
    let lines = |lines: &mut dyn Iterator<Item = &str>| -> Vec<String> {
        lines.map(words).filter(|line| !line.is_empty()).collect()
    };
    let said = lines(&mut said.iter().map(String::as_str));
    lines_are_like(&said, &lines(&mut printed.lines()))
}

fn lines_are_like(said: &[String], printed: &[String]) -> bool {
    match said.split_first() {
        None => printed.is_empty(),
        Some((first, rest)) if first == ANY => {
            (0..=printed.len()).any(|from| lines_are_like(rest, &printed[from..]))
        }
        Some((first, rest)) => printed
            .split_first()
            .is_some_and(|(line, more)| line_is_like(first, line) && lines_are_like(rest, more)),
    }
}

fn line_is_like(said: &str, printed: &str) -> bool {
    let Some((start, rest)) = said.split_once(ANY) else {
        return said == printed;
    };
    printed.strip_prefix(start).is_some_and(|printed| {
        let ends = printed.char_indices().map(|(at, _)| at);
        ends.chain([printed.len()])
            .any(|at| line_is_like(rest, &printed[at..]))
    })
}

#[test]
fn likeness() {
    let table = [
        ("a", "a\n", true),
        ("a", "b\n", false),
        ("a", "a\nb\n", false),
        ("a\n…", "a\nb\nc\n", true),
        ("a\n…", "a\n", true),
        ("…\nb", "a\nb\n", true),
        ("…\nb", "b\na\n", false),
        ("a   b", "a b\n\n", true),
        ("time=… ms", "time=0.3 ms", true),
        ("time=… ms", "time=0.3 s", false),
        ("… of … is …", "1 of 2 is é", true),
        ("", "", true),
        ("", "a", false),
    ];
    for (said, printed, expected) in table {
        let said: Vec<_> = said.lines().map(str::to_owned).collect();
        assert_eq!(is_like(&said, printed), expected, "{said:?} {printed:?}");
    }
}
