//! Finds the compiler and linker of the eBPF build.
//!
//! Owns their pinned versions. Installs nothing; see `plan` and `setup`.

use std::{
    ffi::OsString,
    path::{Path, PathBuf},
    process::Command,
};

use anyhow::{Context as _, Result};

use crate::{cargo_env, process, workspace};

/// The nightly that setup installs with rustup: from the last month of 1.96's development, so that this and
/// the distribution's compiler have the same language and LLVM 22.
pub(crate) const NIGHTLY: &str = "nightly-2026-04-01";

/// The version of bpf-linker, which links LLVM bitcode into one BPF object and emits BTF.
pub(crate) const BPF_LINKER_VERSION: &str = "0.13.0";

/// LLVM major versions that this bpf-linker supports: its `llvm-NN` features.
const BPF_LINKER_LLVM: std::ops::RangeInclusive<u32> = 21..=23;

/// The oldest rustc minor version that compiles the workspace (rust-version in Cargo.toml).
pub(crate) const OLDEST_RUSTC_MINOR: u32 = 88;

const SYSTEM_CARGO: &str = "/usr/bin/cargo";
const SYSTEM_RUSTC: &str = "/usr/bin/rustc";
const SYSTEM_CLIPPY: &str = "/usr/bin/cargo-clippy";

/// A compiler with its library source.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Compiler {
    /// Its origin.
    pub(crate) origin: Origin,
    /// Major version of its LLVM; the linker's must not be older.
    pub(crate) llvm: u32,
}

/// Origin of a compiler.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Origin {
    /// A rustup nightly, in this directory.
    Rustup(PathBuf),
    /// The distribution's, in /usr/bin: a stable compiler that accepts unstable options by RUSTC_BOOTSTRAP.
    System,
}

impl Compiler {
    /// Finds a usable rustup nightly, else the distribution's compiler.
    pub(crate) fn find() -> Option<Self> {
        rustup_nightlies()
            .into_iter()
            .find_map(|directory| Self::probe(Origin::Rustup(directory)))
            .or_else(|| Self::probe(Origin::System))
    }

    fn probe(origin: Origin) -> Option<Self> {
        let sysroot = match &origin {
            Origin::Rustup(directory) => directory.clone(),
            Origin::System if Path::new(SYSTEM_CARGO).exists() => system_sysroot()?,
            Origin::System => return None,
        };
        // -Z build-std resolves the library as a workspace, which needs its lock file.
        if !sysroot
            .join("lib/rustlib/src/rust/library/Cargo.lock")
            .exists()
        {
            return None;
        }
        let version = process::ask(
            cargo_env::clean(&mut Command::new(origin.rustc())).args(["--version", "--verbose"]),
        )?;
        let llvm = usable_llvm(&version)?;
        Some(Self { origin, llvm })
    }

    /// Its cargo, without the outer cargo's environment.
    pub(crate) fn cargo(&self) -> Command {
        self.prepare(&self.origin.cargo())
    }

    /// Its clippy, instead of cargo, as `cargo-clippy clippy …`; `None` if it has none.
    pub(crate) fn clippy(&self) -> Option<Command> {
        // Called by path: the distribution's cargo would search ~/.cargo/bin first, and find rustup's.
        let program = self.origin.clippy();
        program.exists().then(|| {
            let mut command = self.prepare(&program);
            command.env("CARGO", self.origin.cargo()).arg("clippy");
            command
        })
    }

    fn prepare(&self, program: &Path) -> Command {
        let mut command = Command::new(program);
        cargo_env::clean(&mut command).env("RUSTC", self.origin.rustc());
        if self.origin == Origin::System {
            command.env("RUSTC_BOOTSTRAP", "1");
        }
        command
    }
}

impl Origin {
    fn cargo(&self) -> PathBuf {
        self.tool("cargo", SYSTEM_CARGO)
    }

    fn rustc(&self) -> PathBuf {
        self.tool("rustc", SYSTEM_RUSTC)
    }

    fn clippy(&self) -> PathBuf {
        self.tool("cargo-clippy", SYSTEM_CLIPPY)
    }

    fn tool(&self, name: &str, system: &str) -> PathBuf {
        match self {
            Self::Rustup(directory) => directory.join("bin").join(name),
            Self::System => PathBuf::from(system),
        }
    }
}

fn rustup_nightlies() -> Vec<PathBuf> {
    let mut list = Command::new("rustup");
    list.args(["toolchain", "list", "--verbose"])
        .env_remove("RUSTUP_TOOLCHAIN");
    process::ask(&mut list).map_or_else(Vec::new, |text| parse_toolchains(&text))
}

/// Directories of the nightlies in `rustup toolchain list --verbose`; the pinned one is first.
fn parse_toolchains(list: &str) -> Vec<PathBuf> {
    let mut nightlies: Vec<_> = list
        .lines()
        .filter(|line| line.starts_with("nightly"))
        // "NAME [(active, default)] PATH"
        .filter_map(|line| {
            let (name, rest) = line.split_once(char::is_whitespace)?;
            let path = rest.get(rest.find('/')?..)?;
            Some((name, PathBuf::from(path.trim())))
        })
        .collect();
    nightlies.sort_by_key(|(name, _directory)| !name.starts_with(NIGHTLY));
    nightlies
        .into_iter()
        .map(|(_name, directory)| directory)
        .collect()
}

fn system_sysroot() -> Option<PathBuf> {
    let mut rustc = Command::new(SYSTEM_RUSTC);
    let answer = process::ask(cargo_env::clean(&mut rustc).args(["--print", "sysroot"]))?;
    Some(PathBuf::from(answer.trim_end()))
}

/// The LLVM major version in `rustc -vV`, if that rustc is new enough and a linker supports this LLVM.
fn usable_llvm(version: &str) -> Option<u32> {
    let field = |name| version.lines().find_map(|line| line.strip_prefix(name));
    let release = field("release: ")?;
    let mut numbers = release.split('.').map(str::parse::<u32>);
    let (Some(Ok(major)), Some(Ok(minor))) = (numbers.next(), numbers.next()) else {
        return None;
    };
    let llvm = field("LLVM version: ")?.split('.').next()?.parse().ok()?;
    let new_enough = (major, minor) >= (1, OLDEST_RUSTC_MINOR);
    (new_enough && llvm <= *BPF_LINKER_LLVM.end()).then_some(llvm)
}

/// The path of bpf-linker, existing or future, for a compiler with this LLVM major version.
pub(crate) struct Linker {
    /// The program.
    pub(crate) path: PathBuf,
    /// Whether it exists and runs.
    pub(crate) usable: bool,
}

impl Linker {
    /// `$BPF_LINKER` if set, else the one in the tool cache.
    pub(crate) fn find(llvm: u32) -> Result<Self> {
        let path = match std::env::var_os("BPF_LINKER") {
            Some(path) => PathBuf::from(path),
            None => linker_root(llvm)?.join("bin/bpf-linker"),
        };
        // Run it: to exist is not enough, since it needs the LLVM library that it was built with.
        let usable = process::ask(Command::new(&path).arg("--version")).is_some();
        Ok(Self { path, usable })
    }

    /// The linker's path; an error has the remedy.
    pub(crate) fn require(llvm: u32) -> Result<OsString> {
        let linker = Self::find(llvm)?;
        linker
            .usable
            .then(|| linker.path.clone().into_os_string())
            .with_context(|| {
                format!(
                    "find bpf-linker: {} is missing or does not run; run `cargo xtask setup`",
                    linker.path.display()
                )
            })
    }
}

/// Installation root of bpf-linker for a compiler with this LLVM major version.
pub(crate) fn linker_root(llvm: u32) -> Result<PathBuf> {
    Ok(workspace::tool_cache()?.join(format!("bpf-linker-{BPF_LINKER_VERSION}-llvm{llvm}")))
}

/// LLVM major versions that suit a compiler with this one, best first.
pub(crate) fn linker_llvms(compiler: u32) -> impl Iterator<Item = u32> {
    compiler.max(*BPF_LINKER_LLVM.start())..=*BPF_LINKER_LLVM.end()
}

/// Directory of the distribution's LLVM with this major version.
pub(crate) fn llvm_prefix(llvm: u32) -> PathBuf {
    PathBuf::from(format!("/usr/lib/llvm-{llvm}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn version(release: &str, llvm: &str) -> String {
        format!("rustc …\nbinary: rustc\nrelease: {release}\nLLVM version: {llvm}\n")
    }

    #[test]
    fn llvm_is_taken_from_rustc() {
        assert_eq!(usable_llvm(&version("1.96.0", "22.1.8")), Some(22));
        assert_eq!(usable_llvm(&version("1.96.0-nightly", "22.1.0")), Some(22));
        assert_eq!(usable_llvm(&version("2.0.0", "23.1")), Some(23));
    }

    #[test]
    fn too_old_and_too_new_compilers_are_not_used() {
        assert_eq!(
            usable_llvm(&version("1.85.0", "19.1.7")),
            None,
            "rustc too old"
        );
        assert_eq!(
            usable_llvm(&version("1.99.0", "24.1.0")),
            None,
            "no linker for this LLVM"
        );
        assert_eq!(usable_llvm("nonsense"), None);
    }

    #[test]
    fn the_pinned_nightly_comes_first() {
        let list = "stable-x86_64-unknown-linux-gnu (active, default) /r/stable\n\
                    nightly-x86_64-unknown-linux-gnu /r/nightly\n\
                    nightly-2026-04-01-x86_64-unknown-linux-gnu (override) /r/pinned dir\n";
        assert_eq!(
            parse_toolchains(list),
            [PathBuf::from("/r/pinned dir"), PathBuf::from("/r/nightly")]
        );
    }

    #[test]
    fn an_older_llvm_never_does() {
        assert_eq!(linker_llvms(22).collect::<Vec<_>>(), [22, 23]);
        assert_eq!(linker_llvms(20).collect::<Vec<_>>(), [21, 22, 23]);
    }
}
