//! The programs to try in the virtual machine: the release binary `sixxs`, and test binaries as
//! `cargo test` has them.

use std::path::PathBuf;

use anyhow::{Context as _, Result};
use serde::Deserialize;

use crate::{process, tests, workspace::Workspace};

/// One program.
#[derive(Debug)]
pub(crate) struct Binary {
    /// What it is to be called.
    pub(crate) name: String,
    /// Where it is now.
    pub(crate) path: PathBuf,
}

/// Builds the integration tests of these names; `sixxs` is there already.
pub(crate) fn build<'a>(
    workspace: &Workspace,
    names: impl Iterator<Item = &'a str>,
) -> Result<Vec<Binary>> {
    let messages = process::capture(
        "build the tests",
        workspace
            .cargo()
            .args(["test", "--no-run"])
            .args(["--message-format", "json-render-diagnostics"])
            .args(tests::PACKAGES),
        "the compiler's messages above say why",
    )?;
    let mut binaries = vec![Binary {
        name: "sixxs".to_owned(),
        path: workspace.release_binary("sixxs"),
    }];
    for name in names {
        let path = find(&messages, name)
            .with_context(|| format!("build the tests: cargo made no test binary {name}"))?;
        binaries.push(Binary {
            name: name.to_owned(),
            path,
        });
    }
    Ok(binaries)
}

/// The part of cargo's messages that is used here.
#[derive(Deserialize)]
struct Message {
    executable: Option<PathBuf>,
    target: Option<Target>,
}

#[derive(Deserialize)]
struct Target {
    name: String,
    kind: Vec<String>,
}

/// The integration test of this name.
fn find(messages: &str, name: &str) -> Option<PathBuf> {
    messages
        .lines()
        // Other lines are of no concern here.
        .filter_map(|line| serde_json::from_str::<Message>(line).ok())
        .find_map(|message| {
            let target = message.target?;
            let is_test = target.kind.iter().any(|kind| kind == "test");
            message
                .executable
                .filter(|_| is_test && target.name == name)
        })
}

#[cfg(test)]
mod tests_of_messages {
    use super::*;

    #[test]
    fn an_integration_test_is_found_by_name() {
        let messages = r#"{"reason":"compiler-artifact","target":{"name":"lab","kind":["lib"]},"executable":"/a"}
{"reason":"compiler-artifact","target":{"name":"lab","kind":["test"]},"executable":"/b"}
{"reason":"build-finished","success":true}"#;
        assert_eq!(find(messages, "lab"), Some(PathBuf::from("/b")));
        assert_eq!(find(messages, "story"), None);
    }
}
