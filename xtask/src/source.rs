//! The files of the checkout, and a check for paths that exist only on one machine.

use std::{fs, io, path::PathBuf, process::Command};

use anyhow::{Context as _, Result};

use crate::{process, workspace::Workspace};

/// A text file of the checkout.
pub(crate) struct File {
    /// Relative to the checkout.
    pub(crate) path: PathBuf,
    pub(crate) text: String,
}

/// All text files that are committed or could be (so that lint checks a file before its commit).
pub(crate) fn tree(workspace: &Workspace) -> Result<Vec<File>> {
    let list = process::capture(
        "list the files of the checkout",
        Command::new("git").current_dir(&workspace.root).args([
            "ls-files",
            "-z",
            "--cached",
            "--others",
            "--exclude-standard",
        ]),
        "lint needs git and a clone",
    )?;
    let mut files = Vec::new();
    for path in list.split_terminator('\0').map(PathBuf::from) {
        match fs::read(workspace.root.join(&path)) {
            // Skip files that are not text: pictures, packet captures.
            Ok(bytes) => files.extend(
                String::from_utf8(bytes)
                    .ok()
                    .map(|text| File { path, text }),
            ),
            // A removed file that is not committed yet, or a link to a directory.
            Err(error)
                if matches!(
                    error.kind(),
                    io::ErrorKind::NotFound | io::ErrorKind::IsADirectory
                ) => {}
            Err(error) => return Err(error).with_context(|| format!("read {}", path.display())),
        }
    }
    Ok(files)
}

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
pub(crate) fn stray_paths(files: &[File]) -> Vec<String> {
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
        stray_paths(&[File {
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
