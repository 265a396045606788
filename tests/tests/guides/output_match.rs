//! Owns the comparison of a command's output with the output in a guide. Pure.
//!
//! In the guide `…` matches any text within a line, and alone on a line any number of lines. White space
//! is normalized; trailing white space and empty lines are ignored. Everything else must be equal.

/// Matches any text.
const ANY: &str = "…";

/// Whether `printed` matches the lines of the guide.
pub(crate) fn matches(guide: &[String], printed: &str) -> bool {
    let words = |line: &str| line.split_whitespace().collect::<Vec<_>>().join(" ");
    let lines = |lines: &mut dyn Iterator<Item = &str>| -> Vec<String> {
        lines.map(words).filter(|line| !line.is_empty()).collect()
    };
    let guide = lines(&mut guide.iter().map(String::as_str));
    lines_match(&guide, &lines(&mut printed.lines()))
}

fn lines_match(guide: &[String], printed: &[String]) -> bool {
    match guide.split_first() {
        None => printed.is_empty(),
        Some((first, rest)) if first == ANY => {
            (0..=printed.len()).any(|from| lines_match(rest, &printed[from..]))
        }
        Some((first, rest)) => printed
            .split_first()
            .is_some_and(|(line, more)| line_matches(first, line) && lines_match(rest, more)),
    }
}

fn line_matches(guide: &str, printed: &str) -> bool {
    let Some((start, rest)) = guide.split_once(ANY) else {
        return guide == printed;
    };
    printed.strip_prefix(start).is_some_and(|printed| {
        let ends = printed.char_indices().map(|(at, _)| at);
        ends.chain([printed.len()])
            .any(|at| line_matches(rest, &printed[at..]))
    })
}

#[test]
fn outputs_are_matched() {
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
    for (guide, printed, expected) in table {
        let guide: Vec<_> = guide.lines().map(str::to_owned).collect();
        assert_eq!(matches(&guide, printed), expected, "{guide:?} {printed:?}");
    }
}
