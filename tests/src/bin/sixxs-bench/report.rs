//! Updates the sections of docs/benchmarks.md. Each is between two markers, so that a benchmark replaces only
//! its own section.

use std::fs;
use std::io::ErrorKind;
use std::path::Path;

use anyhow::{Context as _, Result};

const TITLE: &str = "# Benchmarks\n\n`cargo xtask bench NAME` writes one section each.\n";

/// Replaces the section with this name, or appends it.
pub(crate) fn keep(path: &Path, name: &str, section: &str) -> Result<()> {
    let before = match fs::read_to_string(path) {
        Ok(text) => text,
        Err(error) if error.kind() == ErrorKind::NotFound => TITLE.to_owned(),
        Err(error) => return Err(error).with_context(|| format!("read {}", path.display())),
    };
    if let Some(directory) = path.parent() {
        fs::create_dir_all(directory).with_context(|| format!("make {}", directory.display()))?;
    }
    fs::write(path, replace(&before, name, section))
        .with_context(|| format!("write {}", path.display()))
}

fn replace(text: &str, name: &str, section: &str) -> String {
    let (start, end) = (format!("<!-- {name} -->\n"), format!("<!-- /{name} -->\n"));
    let marked = format!("{start}{section}{end}");
    let found = text
        .split_once(&start)
        .and_then(|(head, rest)| Some((head, rest.split_once(&end)?.1)));
    match found {
        Some((head, tail)) => format!("{head}{marked}{tail}"),
        None => format!("{text}\n{marked}"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sections_keep_their_places() {
        let one = replace("title\n", "one", "1\n");
        assert_eq!(one, "title\n\n<!-- one -->\n1\n<!-- /one -->\n");
        let two = replace(&one, "two", "2\n");
        assert_eq!(
            replace(&two, "one", "3\n"),
            "title\n\n<!-- one -->\n3\n<!-- /one -->\n\n<!-- two -->\n2\n<!-- /two -->\n"
        );
    }
}
