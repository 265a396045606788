//! Makes the disk of the package's machine: a small Debian with systemd from the archive, our package
//! installed by dpkg, the kernel's modules, and the test's files.
//!
//! Needs root, because root owns the files and dpkg runs in a chroot.

use std::{
    fs::{self, File},
    path::{Path, PathBuf},
    process::Command,
};

use anyhow::{Context as _, Result, ensure};

use super::{
    debian_kernel::Kernel,
    image::{self, Root},
};
use crate::{privilege, progress, setup::programs};

/// Packages in addition to a minimal Debian.
const PACKAGES: &str = "adduser,iproute2,iputils-ping,kmod,nftables,systemd-sysv";

/// Size of the disk; the file is sparse.
const DISK_BYTES: u64 = 1 << 30;

/// Timers and consoles that are not needed here and take time.
const MASKED: &[&str] = &[
    "apt-daily.timer",
    "apt-daily-upgrade.timer",
    "dpkg-db-backup.timer",
    "e2scrub_all.timer",
    "fstrim.timer",
    "getty@tty1.service",
    "serial-getty@ttyS0.service",
    "systemd-pstore.service",
    "systemd-timesyncd.service",
];

/// Drivers of the disk; the kernel has the file system built in.
const DRIVERS: &[&str] = &["virtio_pci", "virtio_blk"];

/// Files of the test, below /test.
const SCRIPTS: &[(&str, &str)] = &[
    ("check", include_str!("guest/check")),
    ("install", include_str!("guest/install")),
    ("lab-up", include_str!("guest/lab-up")),
    ("sixxs.init", include_str!("../../../deploy/sixxs.init")),
];

/// Units of the test, below /etc/systemd/system.
const UNITS: &[(&str, &str)] = &[
    ("check.service", include_str!("guest/check.service")),
    ("lab.service", include_str!("guest/lab.service")),
    (
        "sixxs.service.d/in-lab.conf",
        include_str!("guest/in-lab.conf"),
    ),
];

/// Contents of the disk.
#[derive(Debug)]
pub(super) struct Contents<'a> {
    pub(super) kernel: &'a Kernel,
    /// The package to test.
    pub(super) package: &'a Path,
    /// The binary `sixxs-lab`.
    pub(super) lab: &'a Path,
    /// Number of boots.
    pub(super) boots: u32,
    /// Whether it only boots.
    pub(super) is_short: bool,
}

/// Makes the disk below `directory`, from scratch; the Debian on it is downloaded only once.
pub(super) fn make(directory: &Path, contents: &Contents<'_>) -> Result<PathBuf> {
    let debian = debian(directory)?;
    let root = directory.join("system");
    as_root("remove", Command::new("rm").arg("-rf").arg(&root))?;
    as_root(
        "copy Debian",
        Command::new("cp").arg("-a").args([&debian, &root]),
    )?;
    // Assemble the test's files first, so that few steps need root.
    let ours = Root::new(directory.join("system-test"))?;
    let test = Path::new("test");
    for (name, text) in SCRIPTS {
        ours.write(test.join(name), text)?;
    }
    for (name, text) in UNITS {
        ours.write(Path::new("etc/systemd/system").join(name), text)?;
    }
    ours.write(test.join("last"), &contents.boots.to_string())?;
    if contents.is_short {
        ours.write(test.join("short"), "")?;
    }
    ours.write("etc/hostname", "machine\n")?;
    ours.copy(contents.package, &test.join("sixxs.deb"))?;
    ours.stripped(contents.lab, &test.join("sixxs-lab"))?;
    as_root(
        "copy the test",
        Command::new("cp")
            .args(["-r", "--no-target-directory"])
            .args([&directory.join("system-test"), &root]),
    )?;
    let release = &contents.kernel.release;
    let modules = root.join("usr/lib/modules");
    as_root("make a directory", Command::new("mkdir").arg(&modules))?;
    as_root(
        "copy the kernel's modules",
        Command::new("cp")
            .arg("-r")
            .args([&contents.kernel.modules, &modules]),
    )?;
    within(&root, &["depmod", release])?;
    within(&root, &["sh", "/test/install"])?;
    within(&root, &["systemctl", "--quiet", "enable", "lab", "check"])?;
    let mask = ["systemctl", "--quiet", "mask"];
    within(&root, &[&mask, MASKED].concat())?;
    let disk = directory.join("disk");
    // Made by this user, so that the machine need not run as root.
    let size = File::create(&disk).and_then(|file| file.set_len(DISK_BYTES));
    size.with_context(|| format!("make {}", disk.display()))?;
    as_root(
        "make the disk",
        Command::new("mke2fs")
            // No journal: the disk is not used after the machine powers off.
            .args(["-q", "-F", "-t", "ext4", "-O", "^has_journal", "-d"])
            .args([&root, &disk]),
    )?;
    Ok(disk)
}

/// The machine's initramfs: loads the drivers, and switches to the disk.
pub(super) fn initramfs(directory: &Path, kernel: &Kernel) -> Result<PathBuf> {
    let root = Root::new(directory.join("system-start"))?;
    for place in ["bin", "dev", "root"] {
        root.directory(Path::new(place))?;
    }
    root.program("busybox")?;
    let dependencies = kernel.modules.join("modules.dep");
    let dependencies = fs::read_to_string(&dependencies)
        .with_context(|| format!("read {}", dependencies.display()))?;
    let mut load = String::new();
    for driver in DRIVERS {
        let files = image::module_files(&dependencies, driver)
            .with_context(|| format!("{} has no module {driver}", kernel.release))?;
        // insmod needs dependencies first; the list has them last.
        let mut files: Vec<_> = files.collect();
        files.reverse();
        for file in files {
            root.copy(&kernel.modules.join(file), Path::new(file))?;
            // An error is ignored: an earlier driver may have loaded the module.
            load += &format!("busybox insmod /{file} 2> /dev/null\n");
        }
    }
    let init = format!(
        "#!/bin/busybox sh\nexport PATH=/bin\nbusybox mount -t devtmpfs dev /dev\n{load}\
         until [ -b /dev/vda ]; do busybox sleep 0.1; done\n\
         busybox mount -t ext4 /dev/vda /root\nbusybox mount --move /dev /root/dev\n\
         exec busybox switch_root /root /lib/systemd/systemd\n"
    );
    root.executable("init", &init)?;
    root.pack(&directory.join("system-start.cpio"))
}

/// A fresh Debian from the archive, with the same release as this one.
fn debian(directory: &Path) -> Result<PathBuf> {
    let release = fs::read_to_string("/etc/os-release").unwrap_or_default();
    let codename = release
        .lines()
        .find_map(|line| line.strip_prefix("VERSION_CODENAME="))
        .context("find out which Debian this is: /etc/os-release has no VERSION_CODENAME")?;
    let tree = directory.join(format!("debian-{codename}"));
    if tree.exists() {
        return Ok(tree);
    }
    // Made elsewhere first, so that an existing tree is complete.
    let aside = directory.join("debian-making");
    as_root("remove", Command::new("rm").arg("-rf").arg(&aside))?;
    let mut command = Command::new("mmdebstrap");
    command
        .args(["--quiet", "--variant=minbase", "--include", PACKAGES])
        .arg("--dpkgopt=path-exclude=/usr/share/doc/*")
        .arg("--dpkgopt=path-exclude=/usr/share/locale/*")
        .arg("--dpkgopt=path-exclude=/usr/share/man/*")
        .arg(codename)
        .arg(&aside)
        // The package sources of this machine.
        .args(sources()?);
    as_root(
        "get Debian with systemd (60 MB, a minute or two)",
        &mut command,
    )?;
    as_root("keep Debian", Command::new("mv").args([&aside, &tree]))?;
    Ok(tree)
}

/// Apt's source files for Debian.
fn sources() -> Result<Vec<PathBuf>> {
    let mut sources = vec![PathBuf::from("/etc/apt/sources.list")];
    if let Ok(entries) = fs::read_dir("/etc/apt/sources.list.d") {
        sources.extend(entries.flatten().map(|entry| entry.path()));
    }
    sources.retain(|path| {
        let kind = path.extension().unwrap_or_default();
        let text = fs::read_to_string(path).unwrap_or_default();
        (kind == "list" || kind == "sources") && text.contains("debian")
    });
    ensure!(
        !sources.is_empty(),
        "find out where this Debian has its packages: /etc/apt has no sources of it"
    );
    Ok(sources)
}

fn within(root: &Path, command: &[&str]) -> Result<()> {
    let mut inside = Command::new("chroot");
    inside.arg(root).args(command);
    as_root("set the machine's file system up", &mut inside)
}

/// Runs the command as root.
fn as_root(verb: &str, command: &mut Command) -> Result<()> {
    // sudo has a different PATH.
    let program = command.get_program().to_string_lossy();
    let path = programs::find_program(&program).unwrap_or_else(|| PathBuf::from(&*program));
    let mut command_of_root = privilege::as_root(path, &[]);
    command_of_root.args(command.get_args());
    let what = format!("{verb}, for the virtual machine");
    progress::run(&what, verb, &mut command_of_root, "is the disk full?")
}
