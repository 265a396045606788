//! Makes the Debian package by cargo-deb. sixxs-user's Cargo.toml lists its content; this module generates
//! the files of the list that are not in the checkout.

use std::{
    env, fs,
    path::{Path, PathBuf},
    process::Command,
};

use anyhow::{Context as _, Result};

use crate::{
    metadata::Metadata,
    process,
    product::release,
    progress,
    setup::{cargo_tools, plan::Needs},
    workspace::Workspace,
};

/// The package whose metadata list the contents.
const PACKAGE: &str = "sixxs-user";

/// Makes it, and returns its path.
pub(crate) fn make(workspace: &Workspace) -> Result<PathBuf> {
    release::build(workspace, Needs::DIST)?;
    // cargo-deb knows this directory by another name.
    let directory = workspace.release_binary("dist");
    if directory.exists() {
        fs::remove_dir_all(&directory)
            .with_context(|| format!("remove {}", directory.display()))?;
    }
    progress::run(
        "writing manual pages and completions",
        "write manual pages and completions",
        workspace
            .cargo()
            .args(["run", "--quiet", "--package", PACKAGE])
            .args(["--example", "pages", "--"])
            .arg(&directory),
        "see sixxs-user/examples/pages",
    )?;
    compress(&directory)?;
    let metadata = Metadata::without_dependencies(workspace.cargo())?;
    let version = metadata.version(PACKAGE)?;
    let maintainer = maintainer(workspace);
    write(
        &directory.join("changelog"),
        &changelog(version, &maintainer)?,
    )?;
    write(&directory.join("licences"), &licences(workspace)?)?;
    let package = directory.join(format!("sixxs_{version}.deb"));
    progress::run(
        "packing",
        "make the package",
        cargo_tools::cargo_deb()?
            .current_dir(&workspace.root)
            .args(["--no-build", "--quiet", "--package", PACKAGE])
            .args(["--maintainer", &maintainer])
            .arg("--output")
            .arg(&package),
        "what is in it is listed in sixxs-user/Cargo.toml",
    )?;
    Ok(package)
}

/// Contact of the package: DEBFULLNAME and DEBEMAIL as for other Debian tools (debchange(1)), or git's user,
/// or the login.
fn maintainer(workspace: &Workspace) -> String {
    let from = |variable: &str| env::var(variable).ok().filter(|value| !value.is_empty());
    let git = |key: &str| {
        let mut git = Command::new("git");
        git.current_dir(&workspace.root).args(["config", key]);
        let output = git.output().ok().filter(|output| output.status.success())?;
        let value = String::from_utf8(output.stdout).ok()?.trim().to_owned();
        (!value.is_empty()).then_some(value)
    };
    let login = || from("USER").unwrap_or_else(|| "root".to_owned());
    let host = || {
        let name = fs::read_to_string("/proc/sys/kernel/hostname");
        name.map_or_else(|_| "localhost".to_owned(), |name| name.trim().to_owned())
    };
    let name = from("DEBFULLNAME").or_else(|| git("user.name"));
    let email = from("DEBEMAIL").or_else(|| git("user.email"));
    format!(
        "{} <{}>",
        name.unwrap_or_else(login),
        email.unwrap_or_else(|| format!("{}@{}", login(), host()))
    )
}

/// Compresses manual pages, as Debian requires.
fn compress(directory: &Path) -> Result<()> {
    let look = || format!("look into {}", directory.display());
    for entry in fs::read_dir(directory).with_context(look)? {
        let path = entry.with_context(look)?.path();
        if path
            .extension()
            .is_some_and(|section| section == "5" || section == "8")
        {
            process::run(
                "compress a manual page",
                Command::new("gzip").args(["-9", "--no-name"]).arg(&path),
                "is the disk full?",
            )?;
        }
    }
    Ok(())
}

/// The changelog in Debian's format; it refers to the list of changes for users.
fn changelog(version: &str, maintainer: &str) -> Result<String> {
    let date = process::capture(
        "read the clock",
        Command::new("date").arg("-R").env("LC_ALL", "C"),
        "date(1) is in every system",
    )?;
    Ok(format!(
        "sixxs ({version}-1) unstable; urgency=medium\n\n  \
           * See /usr/share/doc/sixxs/CHANGELOG.md.\n\n \
         -- {maintainer}  {date}"
    ))
}

/// The licences of the program, and of the eBPF object in it.
fn licences(workspace: &Workspace) -> Result<String> {
    let mut text = "MIT or Apache-2.0, at your choice. The eBPF object inside is also under \
                    GPL-2.0-only.\n"
        .to_owned();
    let read = |name: &str| {
        let path = workspace.root.join(name);
        fs::read_to_string(&path).with_context(|| format!("read {}", path.display()))
    };
    text += &read("LICENSE-MIT")?;
    text += "\nApache-2.0 is in /usr/share/common-licenses/Apache-2.0, GPL-2.0 in \
             /usr/share/common-licenses/GPL-2.\n";
    Ok(text)
}

fn write(path: &Path, text: &str) -> Result<()> {
    fs::write(path, text).with_context(|| format!("write {}", path.display()))
}
