//! The pins of maps and links, and the bpffs for them.
//!
//! Interface indexes are local to a network namespace. So each namespace has its own directory below the pin
//! directory, named by its cookie; pins of other namespaces are never changed. The directory contains
//! `v1/maps/NAME`, `v1/links/IFINDEX-DIRECTION`, `v1/links/IFINDEX-xdp`, `v1/links/IFINDEX-xdp-shared` (a program) and
//! `v1/clsact/IFINDEX`. The last is an
//! empty directory that marks a clsact qdisc of sixxs; it is removed together with the pins. Foreign objects in
//! the places of the maps are moved to `v1/strange/NAME`.
//!
//! Earlier versions pinned without a namespace's directory: see [`super::unscoped`].

use std::{
    collections::BTreeMap,
    fs, io,
    path::{Path, PathBuf},
};

use anyhow::Context as _;
use aya::maps::MapData;
use nix::{
    mount::{MsFlags, mount},
    sys::statfs::{BPF_FS_MAGIC, statfs},
    unistd::{AccessFlags, access},
};
use sixxs_common::layout;
use sixxs_core::types::IfIndex;
use tracing::warn;

use super::{
    AttachPoint, objects,
    shape::{self, Shape},
    tcx,
};
use crate::{host::files, host::namespace, netlink::tc::Direction};

/// Where distributions mount bpffs.
const STANDARD: &str = "/sys/fs/bpf";

/// Prefix of a network namespace's directory; the cookie follows.
const NAMESPACE: &str = "net-";

/// Behind the interface's index in the name of an XDP link.
const XDP_SUFFIX: &str = "-xdp";

/// The same for the XDP program that libxdp's dispatcher runs.
const SHARED_XDP_SUFFIX: &str = "-xdp-shared";

/// The pin directory, on a bpffs.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Pins {
    pin_dir: PathBuf,
    /// Parent of all layout versions: a network namespace's directory, or the pin directory itself.
    versions: PathBuf,
    root: PathBuf,
    /// Whether anything is pinned. If not, nothing is written here.
    is_enabled: bool,
}

impl Pins {
    /// Returns the pins of this namespace; makes the directories and checks that they are writable.
    pub(super) fn prepare(pin_dir: &Path) -> anyhow::Result<Self> {
        let pins = Self::for_this_namespace(pin_dir)?;
        pins.ensure_writable()?;
        Ok(pins)
    }

    /// Pins nothing, for a host where pinning fails.
    pub(super) fn disabled(pin_dir: &Path) -> anyhow::Result<Self> {
        Ok(Self {
            is_enabled: false,
            ..Self::for_this_namespace(pin_dir)?
        })
    }

    /// Whether anything is pinned.
    pub(super) const fn is_enabled(&self) -> bool {
        self.is_enabled
    }

    /// Makes sure that the directories exist and are writable. To create an existing directory succeeds even
    /// on a read-only file system.
    pub(super) fn ensure_writable(&self) -> anyhow::Result<()> {
        self.create_directories()?;
        for directory in [self.maps(), self.links(), self.clsact()] {
            access(&directory, AccessFlags::W_OK)
                .with_context(|| format!("write to {}", directory.display()))?;
        }
        Ok(())
    }

    /// Makes the directories. Mounts a bpffs if there is none.
    pub(super) fn create_directories(&self) -> anyhow::Result<()> {
        if !self.is_enabled {
            return Ok(());
        }
        if !on_bpffs(&self.pin_dir) {
            mount_bpffs(mount_point(&self.pin_dir))?;
        }
        for directory in [self.maps(), self.links(), self.clsact()] {
            fs::create_dir_all(&directory)
                .with_context(|| format!("create {}", directory.display()))?;
        }
        Ok(())
    }

    /// The pins of this network namespace below a directory, whether they exist or not.
    pub(super) fn for_this_namespace(pin_dir: &Path) -> anyhow::Result<Self> {
        let versions = pin_dir.join(format!("{NAMESPACE}{}", namespace::cookie()?));
        let version = format!("v{}", layout::VERSION);
        Ok(Self::for_version(pin_dir, &versions, &version))
    }

    fn for_version(pin_dir: &Path, versions: &Path, version: &str) -> Self {
        Self {
            pin_dir: pin_dir.to_owned(),
            versions: versions.to_owned(),
            root: versions.join(version),
            is_enabled: true,
        }
    }

    /// The pins of other layout versions, the newest last.
    pub(super) fn other_versions(&self) -> anyhow::Result<Vec<Self>> {
        let mut others = self.versions_in(&self.versions)?;
        others.retain(|other| other.root != self.root);
        Ok(others)
    }

    /// The pins of earlier versions, which had no directory for each network namespace, the newest last.
    pub(super) fn unscoped(&self) -> anyhow::Result<Vec<Self>> {
        self.versions_in(&self.pin_dir)
    }

    fn versions_in(&self, directory: &Path) -> anyhow::Result<Vec<Self>> {
        let mut versions = names(directory)?;
        versions.retain(|name| is_version(name));
        versions.sort_by_key(|name| (name.len(), name.clone()));
        Ok(versions
            .iter()
            .map(|version| Self::for_version(&self.pin_dir, directory, version))
            .collect())
    }

    /// The directories of other network namespaces.
    pub(super) fn other_namespaces(&self) -> anyhow::Result<Vec<PathBuf>> {
        let names = names(&self.pin_dir)?.into_iter();
        let namespaces = names.filter(|name| name.starts_with(NAMESPACE));
        let paths = namespaces.map(|name| self.pin_dir.join(name));
        Ok(paths.filter(|path| *path != self.versions).collect())
    }

    /// The directory of this version.
    pub(super) fn root(&self) -> PathBuf {
        self.root.clone()
    }

    /// The name of its layout version.
    pub(super) fn version(&self) -> Option<String> {
        Some(self.root.file_name()?.to_string_lossy().into_owned())
    }

    /// Takes over links and marks of another version, so that its programs can be replaced in place. Existing
    /// links and marks of this version stay.
    pub(super) fn adopt(&self, other: &Self) -> anyhow::Result<()> {
        for name in names(&other.links())? {
            self.adopt_link(other, &name)?;
        }
        for index in other.marked_clsact()? {
            self.adopt_mark(other, index)?;
        }
        Ok(())
    }

    /// Takes over one link, by the name of its pin.
    pub(super) fn adopt_link(&self, other: &Self, name: &str) -> anyhow::Result<()> {
        take_over(&other.links().join(name), &self.links().join(name))
    }

    /// Takes over the mark of a clsact qdisc.
    pub(super) fn adopt_mark(&self, other: &Self, index: IfIndex) -> anyhow::Result<()> {
        let name = index.to_string();
        take_over(&other.clsact().join(&name), &self.clsact().join(&name))
    }

    /// The pinned TCX links, with the names of their pins.
    pub(super) fn read_links(&self) -> anyhow::Result<Vec<(String, objects::Link)>> {
        let mut links = Vec::new();
        for name in names(&self.links())? {
            let link = tcx::pinned(&self.links().join(&name))?;
            links.extend(link.map(|link| (name, link)));
        }
        Ok(links)
    }

    /// The paths of all pinned links.
    pub(super) fn link_paths(&self) -> anyhow::Result<Vec<PathBuf>> {
        let names = names(&self.links())?.into_iter();
        Ok(names.map(|name| self.links().join(name)).collect())
    }

    /// Removes all pins of this version.
    pub(super) fn remove(&self) -> anyhow::Result<()> {
        fs::remove_dir_all(&self.root).with_context(|| format!("remove {}", self.root.display()))
    }

    /// Whether the directories still exist.
    pub(super) fn have_directories(&self) -> bool {
        !self.is_enabled
            || [self.maps(), self.links(), self.clsact()]
                .iter()
                .all(|directory| directory.is_dir())
    }

    pub(super) fn maps(&self) -> PathBuf {
        self.root.join("maps")
    }

    fn links(&self) -> PathBuf {
        self.root.join("links")
    }

    fn clsact(&self) -> PathBuf {
        self.root.join("clsact")
    }

    /// Removes the pin of a link, if it exists.
    pub(super) fn remove_link(&self, point: AttachPoint) -> anyhow::Result<()> {
        if !self.is_enabled {
            return Ok(());
        }
        files::remove_if_exists(&self.link(point))
    }

    /// Moves foreign objects out of the places of the maps; returns one message for each.
    pub(super) fn move_foreign_objects(
        &self,
        maps: &BTreeMap<String, Shape>,
    ) -> anyhow::Result<Vec<String>> {
        let aside = self.root.join("strange");
        let mut moved = Vec::new();
        for (name, wanted) in maps {
            let from = self.maps().join(name);
            let found = shape::pinned(&from).map(|found| found.shape);
            if !from.exists() || found == Some(*wanted) {
                continue;
            }
            fs::create_dir_all(&aside).with_context(|| format!("create {}", aside.display()))?;
            let to = aside.join(name);
            fs::rename(&from, &to).with_context(|| format!("move {} away", from.display()))?;
            let found = found.map_or("no map".to_owned(), |found| format!("a map of {found}"));
            moved.push(format!(
                "{} is not of sixxs ({found}; its own is of {wanted}): it has been moved to {}",
                from.display(),
                to.display()
            ));
        }
        Ok(moved)
    }

    /// The path of a link's pin.
    pub(super) fn link(&self, point: AttachPoint) -> PathBuf {
        let AttachPoint { index, direction } = point;
        self.links().join(format!("{index}-{}", direction.name()))
    }

    /// The pinned maps, with their paths.
    pub(super) fn pinned_maps(&self) -> anyhow::Result<Vec<(PathBuf, MapData)>> {
        let directory = self.maps();
        let mut maps = Vec::new();
        for name in names(&directory)? {
            let path = directory.join(name);
            let map =
                MapData::from_pin(&path).with_context(|| format!("open {}", path.display()))?;
            maps.push((path, map));
        }
        Ok(maps)
    }

    /// Whether no map is pinned.
    pub(super) fn have_no_maps(&self) -> anyhow::Result<bool> {
        Ok(!self.is_enabled || names(&self.maps())?.is_empty())
    }

    /// The interfaces and directions of the pinned links.
    pub(super) fn pinned_links(&self) -> anyhow::Result<Vec<AttachPoint>> {
        if !self.is_enabled {
            return Ok(Vec::new());
        }
        Ok(names(&self.links())?
            .iter()
            .filter_map(|name| {
                let (index, direction) = name.split_once('-')?;
                let direction = Direction::BOTH
                    .into_iter()
                    .find(|known| known.name() == direction)?;
                let index = IfIndex(index.parse().ok()?);
                Some(AttachPoint { index, direction })
            })
            .collect())
    }

    /// The path of the pin of an interface's XDP link.
    pub(super) fn xdp_link(&self, index: IfIndex) -> PathBuf {
        self.links().join(format!("{index}{XDP_SUFFIX}"))
    }

    /// The interfaces with a pinned XDP link.
    pub(super) fn pinned_xdp_links(&self) -> anyhow::Result<Vec<IfIndex>> {
        self.indexes_in_links(XDP_SUFFIX)
    }

    /// The path of the pin of the XDP program that an interface's dispatcher runs.
    pub(super) fn shared_xdp(&self, index: IfIndex) -> PathBuf {
        self.links().join(format!("{index}{SHARED_XDP_SUFFIX}"))
    }

    /// The interfaces whose dispatcher runs our XDP program.
    pub(super) fn pinned_shared_xdp(&self) -> anyhow::Result<Vec<IfIndex>> {
        self.indexes_in_links(SHARED_XDP_SUFFIX)
    }

    /// The indexes in the names of pins that end like this.
    fn indexes_in_links(&self, suffix: &str) -> anyhow::Result<Vec<IfIndex>> {
        if !self.is_enabled {
            return Ok(Vec::new());
        }
        let names = names(&self.links())?;
        let indexes = names.iter().filter_map(|name| {
            let index = name.strip_suffix(suffix)?;
            index.parse().ok().map(IfIndex)
        });
        Ok(indexes.collect())
    }

    /// The root of the bpffs of the pin directory.
    pub(super) fn bpffs(&self) -> Option<PathBuf> {
        let mut ancestors = self.pin_dir.ancestors();
        let root = ancestors.find(|ancestor| on_bpffs(ancestor) && is_mount_point(ancestor));
        root.map(Path::to_owned)
    }

    /// Marks the clsact qdisc of an interface as one of sixxs.
    pub(super) fn mark_clsact(&self, index: IfIndex) -> anyhow::Result<()> {
        if !self.is_enabled {
            return Ok(());
        }
        let mark = self.clsact().join(index.to_string());
        match fs::create_dir(&mark) {
            Err(error) if error.kind() != io::ErrorKind::AlreadyExists => {
                Err(error).with_context(|| format!("create {}", mark.display()))
            }
            _ => Ok(()),
        }
    }

    /// Removes the mark; false if there was none.
    pub(super) fn unmark_clsact(&self, index: IfIndex) -> bool {
        fs::remove_dir(self.clsact().join(index.to_string())).is_ok()
    }

    /// The interfaces whose clsact qdisc sixxs has made.
    pub(super) fn marked_clsact(&self) -> anyhow::Result<Vec<IfIndex>> {
        if !self.is_enabled {
            return Ok(Vec::new());
        }
        Ok(names(&self.clsact())?
            .iter()
            .filter_map(|name| name.parse().ok().map(IfIndex))
            .collect())
    }
}

/// Moves a pin or a mark, unless the target exists.
fn take_over(from: &Path, to: &Path) -> anyhow::Result<()> {
    if to.exists() {
        return Ok(());
    }
    fs::rename(from, to).with_context(|| format!("take {} over", from.display()))
}

/// Names in a directory; none if it does not exist.
fn names(directory: &Path) -> anyhow::Result<Vec<String>> {
    let entries = match fs::read_dir(directory) {
        Ok(entries) => entries,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
        Err(error) => return Err(error).with_context(|| format!("list {}", directory.display())),
    };
    let mut names = Vec::new();
    for entry in entries {
        let entry = entry.with_context(|| format!("list {}", directory.display()))?;
        names.extend(entry.file_name().into_string().ok());
    }
    names.sort();
    Ok(names)
}

/// Where to mount a bpffs for a pin directory.
pub(super) fn mount_point(pin_dir: &Path) -> &Path {
    if pin_dir.starts_with(STANDARD) {
        Path::new(STANDARD)
    } else {
        pin_dir
    }
}

fn mount_bpffs(point: &Path) -> anyhow::Result<()> {
    let shown = point.display();
    fs::create_dir_all(point).with_context(|| format!("create {shown}"))?;
    mount(
        Some("bpf"),
        point,
        Some("bpf"),
        MsFlags::MS_NOSUID | MsFlags::MS_NODEV | MsFlags::MS_NOEXEC,
        Some("mode=0700"),
    )
    .with_context(|| format!("mount bpffs on {shown} (run as root or grant CAP_SYS_ADMIN)"))?;
    if is_in_a_mount_namespace() {
        warn!(
            "{shown} is mounted in this mount namespace only: programs end with the daemon, and other commands do \
             not find them; mount it before, or enter a network namespace by `nsenter --net=FILE` instead of `ip \
             netns exec`"
        );
    }
    Ok(())
}

/// Whether this process has its own mount namespace; false if that cannot be determined.
fn is_in_a_mount_namespace() -> bool {
    let namespace = |process: &str| fs::read_link(format!("/proc/{process}/ns/mnt")).ok();
    let (ours, first) = (namespace("self"), namespace("1"));
    ours.is_some() && first.is_some() && ours != first
}

/// Whether a path, or its nearest existing ancestor, is on a bpffs.
pub(super) fn on_bpffs(path: &Path) -> bool {
    path.ancestors()
        .find_map(|ancestor| statfs(ancestor).ok())
        .is_some_and(|found| found.filesystem_type() == BPF_FS_MAGIC)
}

/// Removes the pins of this network namespace, of all versions. If no other namespace has pins here, also
/// removes the pin directory, and unmounts its bpffs if that is not the standard one.
pub(super) fn remove_all(pins: &Pins) -> anyhow::Result<()> {
    let Pins {
        pin_dir, versions, ..
    } = pins;
    match fs::remove_dir_all(versions) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => {
            return Err(error).with_context(|| format!("remove {}", versions.display()));
        }
        _ => {}
    }
    if !pins.other_namespaces()?.is_empty() || !pins.unscoped()?.is_empty() {
        return Ok(());
    }
    // The root of a bpffs has files of the kernel.
    if is_mount_point(pin_dir) && pin_dir != Path::new(STANDARD) {
        nix::mount::umount(pin_dir)
            .with_context(|| format!("unmount bpffs from {}", pin_dir.display()))?;
    }
    match fs::remove_dir(pin_dir) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => {
            Err(error).with_context(|| format!("remove {}", pin_dir.display()))
        }
        _ => Ok(()),
    }
}

fn is_version(name: &str) -> bool {
    let number = name.strip_prefix('v').unwrap_or_default();
    !number.is_empty() && number.bytes().all(|byte| byte.is_ascii_digit())
}

pub(super) fn is_mount_point(path: &Path) -> bool {
    use std::os::unix::fs::MetadataExt as _;
    let device = |path: &Path| fs::metadata(path).ok().map(|found| found.dev());
    match (device(path), path.parent().and_then(device)) {
        (Some(own), Some(above)) => own != above,
        _ => false,
    }
}
