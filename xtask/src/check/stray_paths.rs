//! No file may mention a path that exists only on the machine where it was written.

use crate::check::source::File;

/// Starts of paths that exist only on one machine, each in two parts, so that this file does not contain
/// them.
const STRAY: &[(&str, &str)] = &[
    ("../", "shared"),
    ("/wor", "k/"),
    ("/hom", "e/"),
    ("/Use", "rs/"),
    ("/root/.ca", "che"),
    ("/root/.ca", "rgo"),
    ("/root/.rus", "tup"),
];

/// Mentions of such paths, one per line.
pub(crate) fn violations(files: &[File]) -> Vec<String> {
    let strays: Vec<String> = STRAY.iter().map(|(a, b)| format!("{a}{b}")).collect();
    let mut found = Vec::new();
    for file in files {
        for (index, line) in file.text.lines().enumerate() {
            for stray in strays.iter().filter(|stray| mentions(line, stray)) {
                let path = file.path.display();
                found.push(format!("{path}:{}: mentions {stray}", index + 1));
            }
        }
    }
    found
}

/// Whether the line has `stray` at the start of a path, not inside one.
fn mentions(line: &str, stray: &str) -> bool {
    line.match_indices(stray).any(|(at, _)| {
        !line[..at].ends_with(|c: char| c.is_ascii_alphanumeric() || "_-.~}".contains(c))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn strays(text: &str) -> usize {
        violations(&[File {
            path: "a.md".into(),
            text: text.into(),
        }])
        .len()
    }

    #[test]
    fn paths_of_a_machine_are_found() {
        assert_eq!(strays(&format!("see {}{}/DESIGN.md", "../", "shared")), 1);
        assert_eq!(strays(&format!("x\n\"{}{}main\"", "/wor", "k/")), 1);
        assert_eq!(strays(&format!("at {}{}me/x", "/hom", "e/")), 1);
    }

    #[test]
    fn parts_of_other_paths_are_not() {
        assert_eq!(
            strays("https://example.org/net/work/page and docs/work/x"),
            0
        );
        assert_eq!(strays("framework/ and ${X}/work/"), 0);
    }
}
