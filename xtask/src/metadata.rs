//! The part of `cargo metadata` that xtask uses, as plain data.

use std::{path::PathBuf, process::Command};

use anyhow::{Context as _, Result};
use serde::Deserialize;

use crate::process;

/// Cargo's data about the workspace.
#[derive(Debug, Deserialize)]
pub(crate) struct Metadata {
    /// All packages, including those from the registry.
    pub(crate) packages: Vec<Package>,
    /// Identities of the workspace's own packages.
    pub(crate) workspace_members: Vec<String>,
    /// The resolved graph; absent without dependencies.
    pub(crate) resolve: Option<Resolve>,
    /// Cargo's target directory.
    pub(crate) target_directory: PathBuf,
}

/// One package.
#[derive(Debug, Deserialize)]
pub(crate) struct Package {
    pub(crate) id: String,
    pub(crate) name: String,
    pub(crate) version: String,
}

/// The resolved graph.
#[derive(Debug, Deserialize)]
pub(crate) struct Resolve {
    pub(crate) nodes: Vec<Node>,
}

/// A package and its dependencies.
#[derive(Debug, Deserialize)]
pub(crate) struct Node {
    pub(crate) id: String,
    pub(crate) deps: Vec<Dependency>,
}

/// One edge of the graph.
#[derive(Debug, Deserialize)]
pub(crate) struct Dependency {
    pub(crate) pkg: String,
    pub(crate) dep_kinds: Vec<DependencyKind>,
}

/// Kind of a dependency: `None` for the product, `"build"` or `"dev"`.
#[derive(Debug, Deserialize)]
pub(crate) struct DependencyKind {
    pub(crate) kind: Option<String>,
}

impl Metadata {
    /// Asks this cargo for the workspace's own packages only, which is quick.
    pub(crate) fn without_dependencies(cargo: Command) -> Result<Self> {
        Self::read(cargo, &["--no-deps"])
    }

    /// Asks this cargo for the resolved graph too. Cargo.lock must be up to date.
    pub(crate) fn with_dependencies(cargo: Command) -> Result<Self> {
        Self::read(cargo, &["--locked"])
    }

    /// Version of one of the workspace's packages.
    pub(crate) fn version(&self, package: &str) -> Result<&str> {
        let found = self.packages.iter().find(|found| found.name == package);
        let found = found.with_context(|| format!("the workspace has no package {package}"))?;
        Ok(&found.version)
    }

    fn read(mut cargo: Command, options: &[&str]) -> Result<Self> {
        let text = process::capture(
            "read the workspace",
            cargo
                .args(["metadata", "--quiet", "--format-version", "1"])
                .args(options),
            "cargo's own message above says what is wrong; \
             if Cargo.lock is out of date, run `cargo update --workspace` and commit it",
        )?;
        serde_json::from_str(&text).context("read the workspace: parse cargo's metadata")
    }
}
