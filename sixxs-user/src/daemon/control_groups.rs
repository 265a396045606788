//! Finds the control group of a process that sent a leak, and its systemd unit or container.
//!
//! Owns a cache of paths. Knows nothing of a leak beyond the control group's ID.

use std::{
    collections::{HashMap, VecDeque},
    fs,
    os::unix::fs::MetadataExt as _,
    path::{Path, PathBuf},
};

use crate::control::api;

/// Limit of directories looked through for a control group.
const DIRECTORIES: usize = 20_000;

/// Limit of searches per report. Each may take milliseconds.
const SEARCHES: usize = 2;

/// Limit of cached control groups.
const MAX_CACHED: usize = 1024;

/// The paths of control groups, by their ID.
#[derive(Debug, Default)]
pub(super) struct ControlGroups {
    known: HashMap<u64, Option<String>>,
    searches: usize,
}

impl ControlGroups {
    /// A new report begins, with its own limit of searches.
    pub(super) fn begin_report(&mut self) {
        self.searches = 0;
    }

    /// The path below the root; `None`: the control group is gone, or the limit is reached.
    fn path(&mut self, number: u64) -> Option<String> {
        if let Some(known) = self.known.get(&number) {
            return known.clone();
        }
        if self.searches == SEARCHES {
            return None;
        }
        self.searches += 1;
        let mounts = fs::read_to_string("/proc/self/mountinfo").unwrap_or_default();
        let path = mounted(&mounts).and_then(|root| search(&root, number));
        if self.known.len() >= MAX_CACHED {
            self.known.clear();
        }
        self.known.insert(number, path.clone());
        path
    }
}

/// The mount point of the whole cgroup2 file system, by `mountinfo` (proc_pid_mountinfo(5)).
fn mounted(mountinfo: &str) -> Option<PathBuf> {
    mountinfo.lines().find_map(|line| {
        let (mount, kind) = line.split_once(" - ")?;
        let mut fields = mount.split(' ').skip(3);
        let (root, point) = (fields.next()?, fields.next()?);
        (kind.starts_with("cgroup2 ") && root == "/").then(|| PathBuf::from(point))
    })
}

/// Searches for the directory with this inode number, breadth first.
fn search(root: &Path, number: u64) -> Option<String> {
    let mut waiting = VecDeque::from([root.to_owned()]);
    let mut looked = 0;
    while let Some(directory) = waiting.pop_front() {
        looked += 1;
        if looked > DIRECTORIES {
            return None;
        }
        if fs::metadata(&directory).is_ok_and(|found| found.ino() == number) {
            let below = directory.strip_prefix(root).ok()?;
            return Some(format!("/{}", below.to_str()?));
        }
        let entries = fs::read_dir(&directory).into_iter().flatten().flatten();
        let directories = entries.filter(|entry| entry.file_type().is_ok_and(|kind| kind.is_dir()));
        waiting.extend(directories.map(|entry| entry.path()));
    }
    None
}

/// Adds the sender of a leak, as far as its control group names it.
pub(super) fn add_sender(groups: &mut ControlGroups, leak: &mut api::Leak) {
    let Some(path) = leak.cgroup.and_then(|number| groups.path(number)) else {
        return;
    };
    let owner = sixxs_core::cgroup_owner::Owner::of(&path);
    leak.unit = owner.unit;
    leak.container = owner.container;
    leak.cgroup_path = Some(path);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_whole_file_system_is_found_wherever_it_is_mounted() {
        let mounts = "\
            30 23 0:26 / /sys/fs/cgroup ro,nosuid - tmpfs tmpfs ro,mode=755\n\
            31 30 0:27 /part /sys/fs/part rw - cgroup2 cgroup2 rw\n\
            32 30 0:27 / /sys/fs/cgroup/unified rw,nosuid shared:9 - cgroup2 cgroup2 rw\n";
        let found = mounted(mounts);
        assert_eq!(found, Some(PathBuf::from("/sys/fs/cgroup/unified")));
        assert_eq!(mounted("nonsense"), None);
    }

    #[test]
    fn a_directory_is_found_by_its_number() {
        let root = tempfile::tempdir().unwrap();
        let deep = root.path().join("system.slice/a.service/sub");
        fs::create_dir_all(&deep).unwrap();
        fs::create_dir(root.path().join("user.slice")).unwrap();
        let number = |path: &Path| fs::metadata(path).unwrap().ino();
        let found = search(root.path(), number(&deep));
        assert_eq!(found.as_deref(), Some("/system.slice/a.service/sub"));
        assert_eq!(
            search(root.path(), number(root.path())).as_deref(),
            Some("/")
        );
        assert_eq!(search(root.path(), u64::MAX), None);
    }
}
