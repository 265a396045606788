//! Checks that each relative link of the documentation leads to an existing file, and to an existing heading
//! in it.

use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result, ensure};

/// The pages at the top of the checkout.
const PAGES: [&str; 4] = [
    "README.md",
    "ARCHITECTURE.md",
    "CHANGELOG.md",
    "CONTRIBUTING.md",
];

#[test]
fn links_lead_somewhere() -> Result<()> {
    let root = fs::canonicalize(concat!(env!("CARGO_MANIFEST_DIR"), "/.."))?;
    let mut pages: Vec<_> = PAGES.iter().map(|page| root.join(page)).collect();
    pages_below(&root.join("docs"), &mut pages)?;
    let (mut dead, mut alive) = (Vec::new(), 0);
    for page in &pages {
        let text = read(page)?;
        for link in links(&text) {
            if leads_somewhere(page, link)? {
                alive += 1;
            } else {
                dead.push(format!("{}: {link}", page.display()));
            }
        }
    }
    ensure!(dead.is_empty(), "dead links:\n{}", dead.join("\n"));
    // Otherwise the links are not found at all.
    ensure!(alive > 20, "{alive} links");
    Ok(())
}

fn pages_below(directory: &Path, pages: &mut Vec<PathBuf>) -> Result<()> {
    let list = fs::read_dir(directory).with_context(|| format!("list {}", directory.display()))?;
    for entry in list {
        let path = entry.context("list pages")?.path();
        if path.is_dir() {
            pages_below(&path, pages)?;
        } else if path.extension().is_some_and(|extension| extension == "md") {
            pages.push(path);
        }
    }
    Ok(())
}

fn read(page: &Path) -> Result<String> {
    fs::read_to_string(page).with_context(|| format!("read {}", page.display()))
}

/// The relative links of a page, outside of code blocks.
fn links(text: &str) -> impl Iterator<Item = &str> {
    prose(text).flat_map(|line| {
        line.split("](")
            .skip(1)
            .filter_map(|rest| rest.split_once(')'))
            .map(|(link, _)| link)
            .filter(|link| !link.contains("://") && !link.starts_with("mailto:"))
    })
}

/// The lines outside of code blocks.
pub(crate) fn prose(text: &str) -> impl Iterator<Item = &str> {
    let mut in_block = false;
    text.lines().filter(move |line| {
        let is_fence = line.trim_start().starts_with("```");
        in_block ^= is_fence;
        !in_block && !is_fence
    })
}

fn leads_somewhere(page: &Path, link: &str) -> Result<bool> {
    let (file, heading) = link.split_once('#').unwrap_or((link, ""));
    let target = match page.parent() {
        Some(directory) if !file.is_empty() => directory.join(file),
        _ => page.to_owned(),
    };
    if heading.is_empty() || !target.exists() {
        return Ok(target.exists());
    }
    let text = read(&target)?;
    Ok(headings(&text).any(|name| name == heading))
}

/// Anchors of a page's headings, as links refer to them.
fn headings(text: &str) -> impl Iterator<Item = String> {
    let heading = |line: &str| {
        let title = line.trim_start_matches('#');
        (title.len() < line.len() && title.starts_with(' ')).then(|| anchor(title.trim()))
    };
    prose(text).filter_map(heading)
}

fn anchor(title: &str) -> String {
    let kept = |c: &char| c.is_alphanumeric() || [' ', '-', '_'].contains(c);
    let kept = title.chars().filter(kept);
    kept.map(|c| if c == ' ' { '-' } else { c })
        .collect::<String>()
        .to_lowercase()
}

#[test]
fn headings_have_names() {
    let text = "# The `limit`, twice\n```sh\n# none\n```\n## aiccu.conf\n#none\n";
    assert_eq!(
        headings(text).collect::<Vec<_>>(),
        ["the-limit-twice", "aiccuconf"]
    );
}

#[test]
fn links_are_found() {
    let text = "[a](b.md#c), [d](https://e.example/) and [f\n](g)\n```\n[h](i)\n```\n";
    assert_eq!(links(text).collect::<Vec<_>>(), ["b.md#c", "g"]);
}
