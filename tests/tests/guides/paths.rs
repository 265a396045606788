//! Checks that each path in the pages about the code exists.

use std::fs;
use std::path::Path;

use anyhow::{Context as _, Result, ensure};

use crate::links::prose;

/// The pages, and the minimal number of paths in each. With fewer, the paths are not found at all.
const PAGES: [(&str, usize); 2] = [("ARCHITECTURE.md", 60), ("CONTRIBUTING.md", 40)];

/// Directories of the checkout that the pages do not refer to.
const NOT_OURS: [&str; 2] = [".git", "target"];

/// Endings of file names.
const ENDINGS: [&str; 6] = [".md", ".py", ".rs", ".toml", ".txt", ".yml"];

#[test]
fn paths_are_there() -> Result<()> {
    let root = fs::canonicalize(concat!(env!("CARGO_MANIFEST_DIR"), "/.."))?;
    let mut there = Vec::new();
    list(&root, "", &mut there)?;
    let mut missing = Vec::new();
    for (page, least) in PAGES {
        let text = fs::read_to_string(root.join(page)).with_context(|| format!("read {page}"))?;
        let mut count = 0;
        for path in paths(&text) {
            count += 1;
            if !there.iter().any(|one| is_named(one, path)) {
                missing.push(format!("{page}: {path}"));
            }
        }
        ensure!(count >= least, "{page}: {count} paths");
    }
    ensure!(missing.is_empty(), "not there:\n{}", missing.join("\n"));
    Ok(())
}

/// All paths below a directory, relative to the root. Directories end with `/`.
fn list(directory: &Path, prefix: &str, there: &mut Vec<String>) -> Result<()> {
    let entries =
        fs::read_dir(directory).with_context(|| format!("list {}", directory.display()))?;
    for entry in entries {
        let entry = entry.context("list files")?;
        let name = entry.file_name();
        let name = name.to_string_lossy();
        if !entry.file_type()?.is_dir() {
            there.push(format!("{prefix}{name}"));
        } else if !NOT_OURS.contains(&name.as_ref()) {
            let prefix = format!("{prefix}{name}/");
            list(&entry.path(), &prefix, there)?;
            there.push(prefix);
        }
    }
    Ok(())
}

/// Whether a page means this file by this path: the whole path, or its end if the crate is clear from the
/// text.
fn is_named(there: &str, path: &str) -> bool {
    let there = there.strip_suffix('/').unwrap_or(there);
    let path = path.strip_suffix('/').unwrap_or(path);
    there
        .strip_suffix(path)
        .is_some_and(|before| before.is_empty() || before.ends_with('/'))
}

/// The paths in the code spans of a page. Absolute paths are on a host, and the build makes `target/`.
fn paths(text: &str) -> impl Iterator<Item = &str> {
    let spans = prose(text).flat_map(|line| line.split('`').skip(1).step_by(2));
    spans.filter(|span| {
        let is_path = |c: char| c.is_ascii_alphanumeric() || "_-./".contains(c);
        let is_one = span.contains('/') || ENDINGS.iter().any(|ending| span.ends_with(ending));
        is_one
            && span.chars().all(is_path)
            && !span.starts_with('/')
            && !span.starts_with("target/")
    })
}

#[test]
fn paths_are_found() {
    let text = "`a/b.rs`, `c.md` and `d/`; not `e`, `cargo f/g`, `/etc/h`, `target/i` or `J::k`\n\
                ```\n`l/m`\n```\n";
    assert_eq!(paths(text).collect::<Vec<_>>(), ["a/b.rs", "c.md", "d/"]);
}

#[test]
fn ends_of_paths_are_whole_names() {
    for (path, expected) in [
        ("x/src/leak.rs", true),
        ("leak.rs", true),
        ("src/", false),
        ("ak.rs", false),
        ("y/src/leak.rs", false),
    ] {
        assert_eq!(is_named("x/src/leak.rs", path), expected, "{path}");
    }
    assert!(is_named("x/src/", "src/"));
}
