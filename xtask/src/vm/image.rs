//! Packs the virtual machine's file system in memory: programs of this machine with their libraries,
//! busybox for the others, modules of the kernel, and the tests.

use std::{
    collections::BTreeSet,
    fs,
    os::unix::fs::{PermissionsExt as _, symlink},
    path::{Path, PathBuf},
    process::Command,
};

use anyhow::{Context as _, Result};

use super::{binaries::Binary, debian_kernel::Kernel};
use crate::{
    process, progress,
    setup::{programs::find_program, tools},
};

/// Directory of the payload in the machine.
pub(crate) const PAYLOAD: &str = "/test";

/// Programs of this machine that replace busybox's, which have fewer features.
const PROGRAMS: &[&str] = &[
    "bash",
    "ethtool",
    "ip",
    "nft",
    "ping",
    "setpriv",
    "tc",
    "wg",
    "wg-quick",
    "xdp-filter",
    "xdp-loader",
];

/// Directories with files that programs need, and one of these programs.
const DATA: &[(&str, &str)] = &[("xdp-loader", "usr/lib/x86_64-linux-gnu/bpf")];

/// Programs that only tests outside the list need.
const OPTIONAL_PROGRAMS: &[&str] = &["ethtool", "setpriv"];

/// Kernel modules that the lab, the tests and the program need.
const MODULES: &[&str] = &[
    // The lab's links and tunnels.
    "veth",
    "tun",
    "dummy",
    "bridge",
    "8021q",
    "wireguard",
    // Exits in separate tables.
    "vrf",
    // 6in4.
    "sit",
    // Tunnels of other software.
    "ip_gre",
    "ip6_gre",
    "ip6_tunnel",
    // Programs on clsact, and foreign filters.
    "sch_ingress",
    "cls_bpf",
    "act_bpf",
    "cls_matchall",
    "cls_flower",
    "act_gact",
    "act_mirred",
    // The nftables rules of the ISP and of the brokers.
    "nf_tables",
    "nf_conntrack",
    "nft_ct",
    "nft_limit",
    "nft_objref",
    "nft_reject_inet",
];

/// Modules that newer kernels lack: `nft_objref` is a part of `nf_tables` since 6.2.
const MERGED: &[&str] = &["nft_objref"];

/// Builds the image below `directory`, from scratch, and returns its path. `script` is the script that the
/// machine runs.
pub(crate) fn build(
    directory: &Path,
    kernel: &Kernel,
    binaries: &[Binary],
    script: &str,
) -> Result<PathBuf> {
    let root = Root::new(directory.join("root"))?;
    for place in ["bin", "proc", "sys", "dev", "run", "tmp", "root", "var/lib"] {
        root.directory(Path::new(place))?;
    }
    // Links, so that scripts find every program in all usual directories.
    root.directory(Path::new("usr"))?;
    for (link, to) in [
        ("sbin", "bin"),
        ("usr/bin", "../bin"),
        ("usr/sbin", "../bin"),
    ] {
        root.link(link, to)?;
    }
    root.write("etc/passwd", "root:x:0:0::/root:/bin/sh\n")?;
    root.write("etc/group", "root:x:0:\n")?;
    root.write("etc/hosts", "127.0.0.1 localhost\n")?;
    root.directory(Path::new("etc/iproute2/rt_tables.d"))?;
    root.programs()?;
    root.modules(kernel)?;
    let payload = Path::new(PAYLOAD.trim_start_matches('/'));
    for binary in binaries {
        root.stripped(&binary.path, &payload.join(&binary.name))?;
        root.libraries(Command::new("ldd").arg(&binary.path), Path::new("/"))?;
    }
    root.write(payload.join("run"), script)?;
    root.executable("init", include_str!("init"))?;
    root.pack(&directory.join("initramfs.cpio"))
}

/// The tree to pack.
pub(super) struct Root(PathBuf);

impl Root {
    /// An empty tree.
    pub(super) fn new(path: PathBuf) -> Result<Self> {
        if path.exists() {
            fs::remove_dir_all(&path).with_context(|| format!("remove {}", path.display()))?;
        }
        Ok(Self(path))
    }

    pub(super) fn directory(&self, path: &Path) -> Result<()> {
        let path = self.0.join(path);
        fs::create_dir_all(&path).with_context(|| format!("make {}", path.display()))
    }

    /// The path in the tree; makes its directory.
    fn parent_of(&self, path: &Path) -> Result<PathBuf> {
        if let Some(parent) = path.parent() {
            self.directory(parent)?;
        }
        Ok(self.0.join(path))
    }

    pub(super) fn write(&self, path: impl AsRef<Path>, text: &str) -> Result<PathBuf> {
        let path = self.parent_of(path.as_ref())?;
        fs::write(&path, text).with_context(|| format!("write {}", path.display()))?;
        Ok(path)
    }

    pub(super) fn executable(&self, path: impl AsRef<Path>, text: &str) -> Result<()> {
        let path = self.write(path, text)?;
        fs::set_permissions(&path, fs::Permissions::from_mode(0o755))
            .with_context(|| format!("make {} executable", path.display()))
    }

    fn link(&self, link: &str, to: &str) -> Result<()> {
        let link = self.0.join(link);
        symlink(to, &link).with_context(|| format!("make the link {}", link.display()))
    }

    pub(super) fn copy(&self, from: &Path, to: &Path) -> Result<()> {
        let to = self.parent_of(to)?;
        fs::copy(from, &to)
            .with_context(|| format!("copy {} to {}", from.display(), to.display()))?;
        Ok(())
    }

    /// Copies a program without debug information: a test binary has mostly that, 100 MB that the machine
    /// would hold in memory.
    pub(super) fn stripped(&self, from: &Path, to: &Path) -> Result<()> {
        let to = self.parent_of(to)?;
        process::run(
            "make a small copy of a program",
            Command::new("strip").arg("-o").arg(&to).arg(from),
            "strip is in Debian's binutils",
        )
    }

    fn programs(&self) -> Result<()> {
        let list = process::capture(
            "ask busybox what it does",
            Command::new("busybox").arg("--list"),
            "install Debian's busybox-static",
        )?;
        self.program("busybox")?;
        let real: Vec<_> = PROGRAMS
            .iter()
            .copied()
            .filter(|name| !OPTIONAL_PROGRAMS.contains(name) || find_program(name).is_some())
            .collect();
        for name in list.lines() {
            if name != "busybox" && !real.contains(&name) {
                self.link(&format!("bin/{name}"), "busybox")?;
            }
        }
        real.into_iter().try_for_each(|name| self.program(name))?;
        DATA.iter()
            .try_for_each(|(program, data)| self.data(program, Path::new(data)))
    }

    /// Copies the files in a directory of a program's package.
    fn data(&self, program: &str, directory: &Path) -> Result<()> {
        let unwrapped = find_program(program).and_then(|path| tools::unwrapped(&path));
        let tree = unwrapped.map_or_else(|| PathBuf::from("/"), |unwrapped| unwrapped.tree);
        let from = tree.join(directory);
        let entries = fs::read_dir(&from).with_context(|| format!("list {}", from.display()))?;
        for entry in entries {
            let name = entry?.file_name();
            self.copy(&from.join(&name), &directory.join(&name))?;
        }
        Ok(())
    }

    /// Copies a program of this machine, with its libraries.
    pub(super) fn program(&self, name: &str) -> Result<()> {
        let path = find_program(name)
            .with_context(|| format!("find {name}: run `cargo xtask setup --vm`"))?;
        let inside = Path::new("bin").join(name);
        let Some(unwrapped) = tools::unwrapped(&path) else {
            self.copy(&path, &inside)?;
            return self.libraries(Command::new("ldd").arg(&path), Path::new("/"));
        };
        self.copy(&unwrapped.program, &inside)?;
        let mut ldd = Command::new("ldd");
        ldd.arg(&unwrapped.program)
            .env("LD_LIBRARY_PATH", unwrapped.library_path());
        self.libraries(&mut ldd, &unwrapped.tree)
    }

    /// Copies the libraries that `ldd` lists to the same paths, or to the paths that they have below `tree`.
    fn libraries(&self, ldd: &mut Command, tree: &Path) -> Result<()> {
        // ldd fails for a static program.
        let list = process::ask(ldd).unwrap_or_default();
        let libraries = list.split_whitespace().filter(|word| word.starts_with('/'));
        for library in libraries.map(Path::new) {
            let inside = library.strip_prefix(tree).unwrap_or(library);
            self.copy(library, inside.strip_prefix("/").unwrap_or(inside))?;
        }
        Ok(())
    }

    fn modules(&self, kernel: &Kernel) -> Result<()> {
        let read = |name: &str| {
            let path = kernel.modules.join(name);
            fs::read_to_string(&path).with_context(|| format!("read {}", path.display()))
        };
        let (dependencies, built_in) = (read("modules.dep")?, read("modules.builtin")?);
        let inside = Path::new("lib/modules").join(&kernel.release);
        let mut to_load = String::new();
        let mut files = BTreeSet::new();
        for module in MODULES {
            if built_in.lines().any(|file| module_name(file) == *module) {
                continue;
            }
            let found = module_files(&dependencies, module);
            if found.is_none() && MERGED.contains(module) {
                continue;
            }
            files.extend(
                found.with_context(|| format!("{} has no module {module}", kernel.release))?,
            );
            to_load += &format!("{module}\n");
        }
        for file in files {
            self.copy(&kernel.modules.join(file), &inside.join(file))?;
        }
        self.write(inside.join("modules.dep"), &dependencies)?;
        self.write("etc/modules", &to_load)?;
        Ok(())
    }

    pub(super) fn pack(&self, to: &Path) -> Result<PathBuf> {
        // Not compressed: the machine would need more time to unpack it than this one to write it.
        progress::run(
            "packing the virtual machine's file system",
            "pack the virtual machine's file system",
            Command::new("sh")
                .args([
                    "-c",
                    "find . | cpio --quiet -o -H newc -R 0:0 > \"$1\"",
                    "sh",
                ])
                .arg(to)
                .current_dir(&self.0),
            "run `cargo xtask setup --vm`; is the disk full?",
        )?;
        Ok(to.to_path_buf())
    }
}

/// From modules.dep: the file of a module, and the files of the modules that it depends on.
pub(super) fn module_files<'a>(
    dependencies: &'a str,
    module: &str,
) -> Option<impl Iterator<Item = &'a str>> {
    let (file, needs) = dependencies
        .lines()
        .filter_map(|line| line.split_once(':'))
        .find(|(file, _needs)| module_name(file) == module)?;
    Some(std::iter::once(file).chain(needs.split_whitespace()))
}

/// `kernel/net/ipv6/sit.ko` is sit; the file may be compressed.
fn module_name(file: &str) -> &str {
    let name = file.rsplit('/').next().unwrap_or(file);
    name.split(".ko").next().unwrap_or(name)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_module_comes_with_what_it_needs() {
        let dependencies = "kernel/net/ipv6/sit.ko: kernel/net/a.ko kernel/net/b.ko\n\
                            kernel/net/a.ko:\n\
                            kernel/net/xsit.ko.xz:\n";
        let files = |module| module_files(dependencies, module).map(Iterator::collect::<Vec<_>>);
        assert_eq!(
            files("sit"),
            Some(vec![
                "kernel/net/ipv6/sit.ko",
                "kernel/net/a.ko",
                "kernel/net/b.ko"
            ])
        );
        assert_eq!(files("xsit"), Some(vec!["kernel/net/xsit.ko.xz"]));
        assert_eq!(files("si"), None);
    }
}
