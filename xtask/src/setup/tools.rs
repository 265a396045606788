//! Programs of the tests that are missing on this machine are unpacked below `target/tools` and called
//! through wrappers.
//!
//! A wrapper in `target/tools/bin` sets the library path of its program. That directory is first on the path of
//! xtask and of its children. Nothing is installed, so there are no package conflicts.

use std::{
    env, fs,
    os::unix::fs::PermissionsExt as _,
    path::{Path, PathBuf},
    process::Command,
};

use anyhow::{Context as _, Result, bail};

use crate::{
    process,
    setup::{
        deb,
        plan::{Program, Source},
        programs::on_path,
    },
    workspace::Workspace,
};

/// Directories of programs in a package.
const PROGRAM_DIRECTORIES: [&str; 4] = ["usr/bin", "usr/sbin", "bin", "sbin"];

/// Directories of libraries in a package.
const LIBRARY_DIRECTORIES: [&str; 2] = ["usr/lib/x86_64-linux-gnu", "lib/x86_64-linux-gnu"];

/// Puts the wrappers first on the path: restarts this process with another path, unless it has it already.
pub(crate) fn enter(workspace: &Workspace) -> Result<()> {
    let wrappers = wrappers(workspace);
    let path = env::var_os("PATH").unwrap_or_default();
    if env::split_paths(&path).next().as_ref() == Some(&wrappers) {
        return Ok(());
    }
    let longer = env::join_paths([wrappers].into_iter().chain(env::split_paths(&path))).context(
        "put unpacked programs on the path: the target directory has a colon in its name",
    )?;
    let verb = "start again with unpacked programs on the path";
    let program = env::current_exe().context(verb)?;
    let mut command = Command::new(program);
    command.args(env::args_os().skip(1)).env("PATH", longer);
    match process::become_command(verb, &mut command)? {}
}

fn directory(workspace: &Workspace) -> PathBuf {
    workspace.target.join("tools")
}

fn wrappers(workspace: &Workspace) -> PathBuf {
    directory(workspace).join("bin")
}

/// Unpacks a program's package, and wraps each program in it.
pub(crate) fn unpack(workspace: &Workspace, program: &Program) -> Result<()> {
    let Source::Unpacked { with } = program.source else {
        bail!("{} is a package to be installed", program.package);
    };
    let tools = directory(workspace);
    let tree = tools.join(program.package);
    if !tree.exists() {
        // Unpacked elsewhere first, so that an existing tree is complete.
        let aside = tools.join("unpacking");
        let fetched = deb::fetch(program.package, with, "out of its package", &aside)?;
        fs::rename(&fetched, &tree).with_context(|| format!("make {}", tree.display()))?;
        fs::remove_dir_all(&aside).with_context(|| format!("remove {}", aside.display()))?;
    }
    let wrappers = wrappers(workspace);
    fs::create_dir_all(&wrappers).with_context(|| format!("make {}", wrappers.display()))?;
    for path in programs(&tree)? {
        let Some(name) = path.file_name() else {
            continue;
        };
        wrap(&tree, &path, &wrappers.join(name))?;
    }
    if !on_path(program.name) {
        bail!(
            "get {}: {} has no such program; its package is unpacked in {}",
            program.name,
            program.package,
            tree.display()
        );
    }
    Ok(())
}

fn programs(tree: &Path) -> Result<Vec<PathBuf>> {
    let mut programs = Vec::new();
    for directory in PROGRAM_DIRECTORIES.map(|name| tree.join(name)) {
        if !directory.exists() {
            continue;
        }
        let verb = || format!("look into {}", directory.display());
        for entry in fs::read_dir(&directory).with_context(verb)? {
            programs.push(entry.with_context(verb)?.path());
        }
    }
    Ok(programs)
}

fn wrap(tree: &Path, program: &Path, wrapper: &Path) -> Result<()> {
    let text = wrapper_text(tree, program);
    let verb = || format!("write {}", wrapper.display());
    fs::write(wrapper, text).with_context(verb)?;
    fs::set_permissions(wrapper, fs::Permissions::from_mode(0o755)).with_context(verb)
}

/// A shell script that executes the program.
fn wrapper_text(tree: &Path, program: &Path) -> String {
    let libraries = LIBRARY_DIRECTORIES.map(|name| quoted(&tree.join(name)));
    let mut text = format!(
        "#!/bin/sh\n\
         export LD_LIBRARY_PATH={}\"${{LD_LIBRARY_PATH:+:$LD_LIBRARY_PATH}}\"\n",
        libraries.join(":")
    );
    let mut options = String::new();
    // qemu searches its firmware and modules at their installed paths by default.
    if program
        .file_name()
        .is_some_and(|name| name == "qemu-system-x86_64")
    {
        let modules = tree.join(LIBRARY_DIRECTORIES[0]).join("qemu");
        text += &format!("export QEMU_MODULE_DIR={}\n", quoted(&modules));
        for data in ["usr/share/qemu", "usr/share/seabios"] {
            options += &format!(" -L {}", quoted(&tree.join(data)));
        }
    }
    text + &format!("exec {}{options} \"$@\"\n", quoted(program))
}

fn quoted(path: &Path) -> String {
    format!("'{}'", path.display().to_string().replace('\'', r"'\''"))
}

/// A program that has a wrapper, and the directory that replaces the root of its file system.
pub(crate) struct Unwrapped {
    pub(crate) program: PathBuf,
    pub(crate) tree: PathBuf,
}

impl Unwrapped {
    /// Library search path for the dynamic linker.
    pub(crate) fn library_path(&self) -> String {
        let libraries = LIBRARY_DIRECTORIES.map(|name| self.tree.join(name).display().to_string());
        libraries.join(":")
    }
}

/// The program of the wrapper at `path`, if that is one of these wrappers.
pub(crate) fn unwrapped(path: &Path) -> Option<Unwrapped> {
    let name = path.file_name()?;
    let wrappers = path.parent()?;
    if !wrappers.ends_with("target/tools/bin") {
        return None;
    }
    let trees = fs::read_dir(wrappers.parent()?).ok()?.flatten();
    let trees = trees.map(|entry| entry.path());
    trees.filter(|tree| tree != wrappers).find_map(|tree| {
        let inside = PROGRAM_DIRECTORIES.map(|directory| tree.join(directory).join(name));
        let program = inside.into_iter().find(|program| program.is_file())?;
        Some(Unwrapped { program, tree })
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_wrapper_sets_the_library_path_of_its_program_alone() {
        let text = wrapper_text(Path::new("/t/it's"), Path::new("/t/it's/bin/nft"));
        assert!(text.starts_with("#!/bin/sh\n"), "{text}");
        assert!(
            text.contains(r"LD_LIBRARY_PATH='/t/it'\''s/usr/lib/x86_64-linux-gnu':"),
            "{text}"
        );
        assert!(
            text.ends_with("exec '/t/it'\\''s/bin/nft' \"$@\"\n"),
            "{text}"
        );
    }

    #[test]
    fn qemu_is_shown_its_firmware() {
        let program = Path::new("/t/usr/bin/qemu-system-x86_64");
        let text = wrapper_text(Path::new("/t"), program);
        assert!(text.contains("-L '/t/usr/share/seabios' \"$@\""), "{text}");
    }
}
