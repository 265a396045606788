//! Owns paths: the checkout, its target directory, the cargo to build with, the tool cache.

use std::{
    env,
    ffi::OsString,
    path::{Path, PathBuf},
    process::Command,
};

use anyhow::{Context as _, Result};

use crate::metadata::Metadata;

/// cargo's options for the packages whose tests run on the host. Every build of tests takes all of them, so
/// that they share their dependencies.
pub(crate) const TESTED_PACKAGES: &[&str] = &["--workspace", "--exclude", "sixxs-ebpf"];

/// The checkout this xtask works on.
pub(crate) struct Workspace {
    /// Directory of the workspace's Cargo.toml.
    pub(crate) root: PathBuf,
    /// Cargo's target directory, which need not be `root/target`.
    pub(crate) target: PathBuf,
    cargo: OsString,
}

impl Workspace {
    /// Finds it by cargo.
    pub(crate) fn find() -> Result<Self> {
        // `cargo run` sets the variable; the compiled-in path is for an xtask binary that a user starts.
        let manifest_dir = env::var_os("CARGO_MANIFEST_DIR")
            .map_or_else(|| PathBuf::from(env!("CARGO_MANIFEST_DIR")), PathBuf::from);
        let root = manifest_dir
            .parent()
            .context("find the checkout: xtask has no parent directory")?
            .to_path_buf();
        let cargo = env::var_os("CARGO").unwrap_or_else(|| "cargo".into());
        let mut workspace = Self {
            target: root.join("target"),
            root,
            cargo,
        };
        workspace.target = Metadata::without_dependencies(workspace.cargo())?.target_directory;
        Ok(workspace)
    }

    /// The cargo that runs this xtask (the host's toolchain), in the checkout.
    pub(crate) fn cargo(&self) -> Command {
        let mut command = Command::new(&self.cargo);
        command.current_dir(&self.root);
        if self.target != self.root.join("target") {
            // sixxs-user's build script uses the default path unless this is set. It is not set needlessly: a
            // cargo command without it would build everything again.
            command.env("SIXXS_EBPF_OBJECT", self.ebpf_object());
        }
        command
    }

    /// The same cargo, for work outside the checkout.
    pub(crate) fn bare_cargo(&self) -> Command {
        Command::new(&self.cargo)
    }

    /// The release binary `name`.
    pub(crate) fn release_binary(&self, name: &str) -> PathBuf {
        self.target.join("release").join(name)
    }

    /// Target directory of the eBPF build, which is separate because it uses another compiler.
    pub(crate) fn ebpf_target(&self) -> PathBuf {
        self.target.join("ebpf")
    }

    /// The finished eBPF object, touched only when its content changes.
    pub(crate) fn ebpf_object(&self) -> PathBuf {
        self.ebpf_target().join("sixxs-ebpf.o")
    }
}

/// Directory of tools that setup builds, shared by all checkouts of this user.
pub(crate) fn tool_cache() -> Result<PathBuf> {
    let base = match env::var_os("XDG_CACHE_HOME").filter(|value| Path::new(value).is_absolute()) {
        Some(base) => PathBuf::from(base),
        None => env::home_dir()
            .context("find the tool cache: set HOME or XDG_CACHE_HOME")?
            .join(".cache"),
    };
    Ok(base.join("sixxs"))
}
