//! Builds the programs for the virtual machine: the release binary `sixxs`, and test binaries.

use std::path::PathBuf;

use anyhow::{Context as _, Result};
use serde::Deserialize;

use crate::{
    process,
    workspace::{TESTED_PACKAGES, Workspace},
};

/// A program.
#[derive(Debug)]
pub(crate) struct Binary {
    /// Its name in the machine.
    pub(crate) name: String,
    /// Its path on the host.
    pub(crate) path: PathBuf,
}

/// Builds the integration tests with these names; `sixxs` is built already.
pub(crate) fn build<'a>(
    workspace: &Workspace,
    names: impl Iterator<Item = &'a str>,
) -> Result<Vec<Binary>> {
    let messages = cargo(workspace)?;
    let mut binaries = vec![Binary {
        name: "sixxs".to_owned(),
        path: workspace.release_binary("sixxs"),
    }];
    for name in names {
        let path = find(&messages, "test", name)
            .with_context(|| format!("build the tests: cargo made no test binary {name}"))?;
        binaries.push(Binary {
            name: name.to_owned(),
            path,
        });
    }
    Ok(binaries)
}

/// Builds the interactive lab.
pub(crate) fn lab(workspace: &Workspace) -> Result<PathBuf> {
    find(&cargo(workspace)?, "bin", "sixxs-lab").context("build the tests: cargo made no sixxs-lab")
}

/// Builds all tests, and with them the binaries of the tests crate; returns cargo's messages.
fn cargo(workspace: &Workspace) -> Result<String> {
    process::capture(
        "build the tests",
        workspace
            .cargo()
            .args(["test", "--no-run"])
            .args(["--message-format", "json-render-diagnostics"])
            .args(TESTED_PACKAGES),
        "the compiler's messages above say why",
    )
}

/// The used part of cargo's messages.
#[derive(Deserialize)]
struct Message {
    executable: Option<PathBuf>,
    target: Option<Target>,
    profile: Option<Profile>,
}

/// Distinguishes the two builds of a program: the program itself, and the one with its unit tests.
#[derive(Deserialize)]
struct Profile {
    test: bool,
}

#[derive(Deserialize)]
struct Target {
    name: String,
    kind: Vec<String>,
}

/// The executable of the target with this kind and name.
fn find(messages: &str, kind: &str, name: &str) -> Option<PathBuf> {
    messages
        .lines()
        // Skip other lines.
        .filter_map(|line| serde_json::from_str::<Message>(line).ok())
        .find_map(|message| {
            let target = message.target?;
            let is_kind = target.kind.iter().any(|other| other == kind);
            let is_test = message.profile.is_some_and(|profile| profile.test);
            let is_it = target.name == name && is_kind && is_test == (kind == "test");
            message.executable.filter(|_| is_it)
        })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_target_is_found_by_kind_and_name() {
        let messages = r#"{"target":{"name":"lab","kind":["lib"]},"profile":{"test":false},"executable":"/a"}
{"target":{"name":"lab","kind":["test"]},"profile":{"test":true},"executable":"/b"}
{"target":{"name":"lab","kind":["bin"]},"profile":{"test":true},"executable":"/c"}
{"target":{"name":"lab","kind":["bin"]},"profile":{"test":false},"executable":"/d"}
{"reason":"build-finished","success":true}"#;
        assert_eq!(find(messages, "test", "lab"), Some(PathBuf::from("/b")));
        assert_eq!(find(messages, "bin", "lab"), Some(PathBuf::from("/d")));
        assert_eq!(find(messages, "test", "story"), None);
    }
}
