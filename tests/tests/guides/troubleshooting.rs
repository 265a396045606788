//! Checks that docs/troubleshooting.md explains each subject of `sixxs doctor`.

use std::collections::BTreeSet;
use std::fs;

use anyhow::{Context as _, Result, ensure};

/// Functions that make a finding in the sources. Their first argument is the subject.
const MAKERS: [&str; 3] = ["Finding::good(", "Finding::not(", "has("];
const PAGE: &str = include_str!(concat!(
    env!("CARGO_MANIFEST_DIR"),
    "/../docs/troubleshooting.md"
));

#[test]
fn every_finding_stands_there() -> Result<()> {
    let directory = concat!(env!("CARGO_MANIFEST_DIR"), "/../sixxs-core/src/doctor");
    let mut found = BTreeSet::new();
    for entry in fs::read_dir(directory).with_context(|| format!("list {directory}"))? {
        let path = entry.context("list the sources")?.path();
        let text = fs::read_to_string(&path).with_context(|| format!("read {}", path.display()))?;
        if path.file_name().is_some_and(|name| name != "tests.rs") {
            found.extend(subjects(&text).map(str::to_owned));
        }
    }
    let rows = PAGE.lines().filter_map(|line| line.strip_prefix("| `"));
    let rows: BTreeSet<_> = rows
        .filter_map(|row| row.split_once('`'))
        .map(|(about, _)| about.to_owned())
        .collect();
    // Otherwise the sources are not parsed correctly.
    ensure!(found.len() > 25, "{found:?}");
    ensure!(
        found == rows,
        "not on the page: {:?}; not looked at: {:?}",
        found.difference(&rows).collect::<Vec<_>>(),
        rows.difference(&found).collect::<Vec<_>>()
    );
    Ok(())
}

/// The subjects of the findings in a source file.
fn subjects(text: &str) -> impl Iterator<Item = &str> {
    let of = |maker| text.split(maker).skip(1);
    MAKERS.into_iter().flat_map(of).filter_map(|rest| {
        let (about, _) = rest.trim_start().strip_prefix('"')?.split_once('"')?;
        Some(about)
    })
}
