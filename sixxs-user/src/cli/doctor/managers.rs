//! Network managers, other daemons, and other facts about the machine.

use std::{
    collections::BTreeMap,
    fs,
    path::{Path, PathBuf},
};

use nix::{
    errno::Errno,
    unistd::{AccessFlags, Group, access, geteuid},
};
use sixxs_core::{
    config::Config,
    doctor::{
        daemon::{NotWritable, WhyNot},
        managers::{self, Managers, Networkd},
    },
};

use super::read;
use crate::host::paths::Paths;

/// The network managers that run.
pub(super) fn managers(config: Option<&Config>) -> Managers {
    let processes = processes();
    let runs = |name: &str| processes.iter().any(|(_, process)| process == name);
    let tunnels = config.iter().flat_map(|config| &config.tunnels);
    let tunnels: Vec<_> = tunnels.map(|tunnel| tunnel.name.to_string()).collect();
    Managers {
        networkd: runs("systemd-network").then(|| networkd("/")),
        network_manager: runs("NetworkManager").then(|| {
            let files = network_manager("/");
            managers::left_to_network_manager(files.iter().map(String::as_str), &tunnels)
        }),
    }
}

/// Other daemons of this program than the one at our socket.
pub(super) async fn other_daemons(paths: &Paths) -> Vec<u32> {
    let answering = tokio::net::UnixStream::connect(paths.socket()).await;
    let own = answering
        .ok()
        .and_then(|stream| stream.peer_cred().ok()?.pid());
    let is_daemon = |process: &u32| {
        let line = fs::read(format!("/proc/{process}/cmdline")).unwrap_or_default();
        line.split(|byte| *byte == 0).any(|word| word == b"run")
    };
    let sixxs = processes().into_iter().filter(|(_, name)| name == "sixxs");
    sixxs
        .map(|(process, _)| process)
        .filter(|process| own.is_none_or(|own| i64::from(own) != i64::from(*process)))
        .filter(is_daemon)
        .collect()
}

/// Whether a group exists.
pub(super) fn group(name: &str) -> Option<(String, bool)> {
    let found = Group::from_name(name).ok()?;
    Some((name.to_owned(), found.is_some()))
}

/// Why a directory is not writable, if it is not; for a missing one, its nearest existing ancestor.
pub(super) fn not_writable(directory: &Path) -> Option<NotWritable> {
    let there = directory.ancestors().find(|path| path.exists())?;
    let denied = access(there, AccessFlags::W_OK | AccessFlags::X_OK);
    let why = match denied.err() {
        Some(Errno::EROFS) => WhyNot::ReadOnly(mount_point(there)),
        _ if !there.is_dir() => WhyNot::InTheWay(there.display().to_string()),
        Some(Errno::EACCES) if !geteuid().is_root() => WhyNot::NotAsked,
        Some(error) => WhyNot::Other(error.desc().to_owned()),
        None => return None,
    };
    Some(NotWritable {
        directory: directory.display().to_string(),
        why,
    })
}

/// The mount point of a path: the longest one above it (proc_pid_mountinfo(5)).
fn mount_point(path: &Path) -> String {
    let mounts = read("/proc/self/mountinfo");
    let points = mounts.lines().filter_map(|line| line.split(' ').nth(4));
    let above = points.filter(|point| path.starts_with(point));
    let nearest = above.max_by_key(|point| point.len());
    nearest.unwrap_or("/").to_owned()
}

/// Processes in our network namespace: their IDs, and their names, which the kernel truncates to 15
/// characters.
pub(super) fn processes() -> Vec<(u32, String)> {
    let own = fs::read_link("/proc/self/ns/net").ok();
    let entries = fs::read_dir("/proc").into_iter().flatten().flatten();
    entries
        .filter(|entry| fs::read_link(entry.path().join("ns/net")).ok() == own)
        .filter_map(|entry| {
            let number = entry.file_name().to_str()?.parse().ok()?;
            let name = fs::read_to_string(entry.path().join("comm")).ok()?;
            Some((number, name.trim_end().to_owned()))
        })
        .collect()
}

/// The configuration of systemd-networkd, in the order in which it is read: the main file, then drop-ins by
/// name. A drop-in below /etc replaces one of the same name below /run, and so on.
fn networkd(root: &str) -> Networkd {
    const DIRECTORIES: [&str; 4] = ["usr/lib", "usr/local/lib", "run", "etc"];
    let at = |directory: &str| Path::new(root).join(directory).join("systemd");
    let main = DIRECTORIES
        .iter()
        .rev()
        .map(|directory| at(directory).join("networkd.conf"))
        .find(|file| file.is_file())
        .map(read);
    let dropped = drop_ins(DIRECTORIES.map(|directory| at(directory).join("networkd.conf.d")));
    let files = main.iter().chain(&dropped);
    managers::read_networkd(files.map(String::as_str))
}

/// The configuration of NetworkManager, in the order in which it is read (NetworkManager.conf(5)): drop-ins of
/// the system and in /run, the main file, drop-ins of the administrator.
fn network_manager(root: &str) -> Vec<String> {
    let at = |directory: &str| Path::new(root).join(directory).join("NetworkManager");
    let mut files = drop_ins(["usr/lib", "run"].map(|directory| at(directory).join("conf.d")));
    files.push(read(at("etc").join("NetworkManager.conf")));
    files.extend(drop_ins([at("etc").join("conf.d")]));
    files
}

/// The `*.conf` files in some directories by name; a file replaces one of the same name in an earlier
/// directory.
fn drop_ins<const N: usize>(directories: [PathBuf; N]) -> Vec<String> {
    let mut dropped = BTreeMap::new();
    for directory in directories {
        for entry in fs::read_dir(directory).into_iter().flatten().flatten() {
            let name = entry.file_name();
            if Path::new(&name)
                .extension()
                .is_some_and(|end| end == "conf")
            {
                dropped.insert(name, read(entry.path()));
            }
        }
    }
    dropped.into_values().collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn drop_ins_come_after_the_main_file_and_replace_each_other_by_name() {
        let root = tempfile::tempdir().unwrap();
        let write = |file: &str, text: &str| {
            let path = root.path().join(file);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(path, text).unwrap();
        };
        let read = || networkd(root.path().to_str().unwrap());
        assert!(read().deletes_rules && read().deletes_routes);
        write("etc/systemd/networkd.conf", "ManageForeignRoutes=no");
        assert!(read().deletes_rules && !read().deletes_routes);
        write(
            "usr/lib/systemd/networkd.conf.d/90-a.conf",
            "ManageForeignRoutes=yes\nManageForeignRoutingPolicyRules=no\n",
        );
        assert!(!read().deletes_rules && read().deletes_routes);
        write("etc/systemd/networkd.conf.d/90-a.conf", "");
        assert!(read().deletes_rules && !read().deletes_routes);
    }

    #[test]
    fn network_manager_reads_the_administrators_word_last() {
        let root = tempfile::tempdir().unwrap();
        let files = [
            ("etc/NetworkManager/conf.d/10-a.conf", "etc"),
            ("usr/lib/NetworkManager/conf.d/20-b.conf", "usr"),
            ("etc/NetworkManager/NetworkManager.conf", "main"),
            ("etc/NetworkManager/conf.d/10-a.txt", "not one of them"),
        ];
        for (file, text) in files {
            let path = root.path().join(file);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(path, text).unwrap();
        }
        let read = network_manager(root.path().to_str().unwrap());
        assert_eq!(read, ["usr", "main", "etc"]);
    }
}
