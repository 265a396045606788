//! A module with parts is `mod.rs` in its folder, not a file beside the folder.

use std::{collections::BTreeSet, path::Path};

use crate::check::source::File;

/// Where that holds.
const CHECKED: &[&str] = &["tests", "xtask"];

/// Files beside the folder of their module, a line each.
pub(crate) fn violations(files: &[File]) -> Vec<String> {
    let is_source = |path: &&Path| path.extension().is_some_and(|end| end == "rs");
    let paths = files
        .iter()
        .map(|file| file.path.as_path())
        .filter(is_source);
    let folders: BTreeSet<_> = paths.clone().filter_map(Path::parent).collect();
    paths
        .filter(|path| CHECKED.iter().any(|top| path.starts_with(top)))
        .filter(|path| folders.contains(path.with_extension("").as_path()))
        .map(|path| {
            let folder = path.with_extension("");
            format!(
                "{} belongs into {}/mod.rs",
                path.display(),
                folder.display()
            )
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_beside_its_folder_is_found() {
        let files = [
            "xtask/src/a.rs",
            "xtask/src/a/b.rs",
            "xtask/src/c/mod.rs",
            "x/d.rs",
            "x/d/e.rs",
        ];
        let files = files.map(|path| File {
            path: path.into(),
            text: String::new(),
        });
        assert_eq!(
            violations(&files),
            ["xtask/src/a.rs belongs into xtask/src/a/mod.rs"]
        );
    }
}
