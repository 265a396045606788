//! Builds and lints the eBPF crate with its own compiler.
//!
//! Owns the arguments and flags of that cargo. The result is one ELF object, see
//! [`Workspace::ebpf_object`].

use std::{env, ffi::OsString, fs, process::Command};

use anyhow::{Context as _, Result, bail, ensure};
use object::{
    build::elf::{Builder, SectionData},
    elf::SHT_STRTAB,
    write::StreamingBuffer,
};

use crate::{
    process,
    setup::toolchain::{Compiler, Linker},
    workspace::Workspace,
};

/// Little endian, like all machines on which this was tried.
const TARGET: &str = "bpfel-unknown-none";
const PACKAGE: &str = "sixxs-ebpf";

/// Builds the object; leaves the file untouched if its content stays the same.
pub(crate) fn build(workspace: &Workspace) -> Result<()> {
    let compiler = compiler()?;
    let mut command = compiler.cargo();
    command.arg("build");
    arguments(workspace, &compiler, &mut command)?;
    process::run(
        "build the eBPF object",
        &mut command,
        "the compiler's messages above say why; if the toolchain itself is at fault, \
         `cargo xtask setup` checks it",
    )?;
    publish(workspace)
}

/// Runs clippy, or the compiler if it has no clippy, with warnings as errors.
pub(crate) fn lint(workspace: &Workspace) -> Result<()> {
    let compiler = compiler()?;
    let mut command = if let Some(clippy) = compiler.clippy() {
        clippy
    } else {
        println!("this compiler has no clippy: only its own warnings are checked");
        let mut command = compiler.cargo();
        command.arg("rustc");
        command
    };
    arguments(workspace, &compiler, &mut command)?;
    command.args(["--", "-D", "warnings"]);
    process::run(
        "lint the eBPF crate",
        &mut command,
        "mend what it says above",
    )
}

fn compiler() -> Result<Compiler> {
    Compiler::find().context(
        "find a compiler for the eBPF build: there is no usable rustc with its library source; \
         run `cargo xtask setup`",
    )
}

fn arguments(workspace: &Workspace, compiler: &Compiler, command: &mut Command) -> Result<()> {
    command
        .current_dir(&workspace.root)
        .args([
            "--package",
            PACKAGE,
            "--bins",
            "--profile",
            "bpf",
            "--target",
            TARGET,
        ])
        .args(["-Z", "build-std=core", "--target-dir"])
        .arg(workspace.ebpf_target())
        .env(
            "CARGO_ENCODED_RUSTFLAGS",
            rustflags(&Linker::require(compiler.llvm)?),
        );
    Ok(())
}

/// The flags that aya-build passes, plus the path of the linker. In this variable they replace all flags that
/// the environment or a configuration sets for the host.
fn rustflags(linker: &OsString) -> OsString {
    const SEPARATOR: &str = "\u{1f}";
    let mut flags = OsString::new();
    // aya-ebpf's registers and calling conventions depend on the machine that runs the program.
    for part in [
        "--cfg=bpf_target_arch=\"",
        bpf_target_arch(),
        "\"",
        SEPARATOR,
    ] {
        flags.push(part);
    }
    // The linker makes BTF from debug information.
    for part in [
        "-Cdebuginfo=2",
        SEPARATOR,
        "-Clink-arg=--btf",
        SEPARATOR,
        // Headers have odd offsets in a frame. Without this flag, the compiler would read their words byte by
        // byte. The kernel allows programs to read them whole on all machines that can (LLVM 21).
        "-Clink-arg=--cpu-features=+allows-misaligned-mem-access",
        SEPARATOR,
        "-Clinker=",
    ] {
        flags.push(part);
    }
    flags.push(linker);
    flags
}

fn bpf_target_arch() -> &'static str {
    // aya-ebpf has the same names as std, except for this one.
    match env::consts::ARCH {
        "riscv64gc" => "riscv64",
        arch => arch,
    }
}

fn publish(workspace: &Workspace) -> Result<()> {
    let built = workspace
        .ebpf_target()
        .join(TARGET)
        .join("bpf")
        .join(PACKAGE);
    let object = fs::read(&built).with_context(|| format!("read {}", built.display()))?;
    check(&object).with_context(|| format!("check {}", built.display()))?;
    let object = without_debug_information(&object)
        .with_context(|| format!("remove debug information from {}", built.display()))?;
    let destination = workspace.ebpf_object();
    // The file's time decides whether cargo builds sixxs-user again.
    if fs::read(&destination).is_ok_and(|old| old == object) {
        return Ok(());
    }
    // Rename, since another build may be reading the file.
    let scratch = destination.with_extension("o.new");
    fs::write(&scratch, &object).with_context(|| format!("write {}", scratch.display()))?;
    fs::rename(&scratch, &destination)
        .with_context(|| format!("move the eBPF object to {}", destination.display()))
}

/// The object without DWARF, which is most of it. The program embeds the object, and would keep that in memory. BTF stays: the
/// kernel reads it.
fn without_debug_information(object: &[u8]) -> Result<Vec<u8>> {
    let mut builder = Builder::read(object)?;
    for section in &mut builder.sections {
        let name = section.name.as_slice();
        if name.starts_with(b".debug_") || name.starts_with(b".rel.debug_") {
            section.delete = true;
        }
    }
    builder.delete_orphans();
    // LLVM has the names of sections and symbols in one table; the writer needs two.
    let names = builder.sections.add();
    names.name = b".shstrtab"[..].into();
    names.sh_type = SHT_STRTAB;
    names.sh_addralign = 1;
    names.data = SectionData::SectionString;
    let mut stripped = Vec::new();
    builder.write(&mut StreamingBuffer::new(&mut stripped))?;
    Ok(stripped)
}

/// Detects an object from a wrong linker before the kernel rejects it, with a clear message.
fn check(object: &[u8]) -> Result<()> {
    ensure!(object.starts_with(b"\x7fELF"), "it is not an ELF object");
    // The name may be the end of ".rel.BTF": string tables share endings.
    let has_btf = object.windows(5).any(|window| window == b".BTF\0");
    if !has_btf {
        bail!("it has no .BTF section; bpf-linker was not used or ignored --btf");
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn flags_are_separated_and_name_the_linker() {
        let flags = rustflags(&"/a b/bpf-linker".into())
            .into_string()
            .expect("ASCII");
        let flags: Vec<_> = flags.split('\u{1f}').collect();
        assert_eq!(flags.len(), 5);
        assert_eq!(flags.last(), Some(&"-Clinker=/a b/bpf-linker"));
    }

    #[test]
    fn objects_without_btf_are_refused() {
        assert!(check(b"\x7fELF\0.BTF\0.text\0").is_ok());
        assert!(check(b"\x7fELF\0.rel.BTF\0.text\0").is_ok());
        assert!(check(b"\x7fELF\0.BTF.ext\0").is_err());
        assert!(check(b"!<arch>\0.BTF\0").is_err());
    }
}
