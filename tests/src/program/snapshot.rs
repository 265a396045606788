//! A snapshot of everything that the program under test could change: rules, routes of all tables, qdiscs,
//! filters, TCX programs, pins, files. Two snapshots are compared as text.

use std::collections::BTreeMap;
use std::fs;
use std::io;
use std::path::Path;

use anyhow::{Context as _, Result};

use crate::kernel::bpf::tcx_programs;
use crate::lab::Lab;
use crate::lab::dirs::mounts_below;
use crate::lab::netns::Namespace;

/// The text of each part (`rules`, `routes`…).
pub type Snapshot = BTreeMap<String, String>;

/// Takes a snapshot of the host. It excludes data that only traffic changes: learned path MTUs, lifetimes,
/// statistics.
pub fn take(lab: &Lab) -> Result<Snapshot> {
    let host = lab.host();
    let mut parts = Snapshot::new();
    for (name, command) in [
        ("links", "ip -o -brief link show"),
        ("addresses", "ip -o -brief address show"),
        ("rules", "ip -6 -details rule show"),
        ("routes", "ip -6 -details route show table all"),
        ("rules of IPv4", "ip -4 -details rule show"),
        ("routes of IPv4", "ip -4 -details route show table all"),
        ("qdiscs", "tc qdisc show"),
    ] {
        parts.insert(name.to_owned(), host.sh(command)?);
    }
    for interface in interfaces(host)? {
        for direction in ["ingress", "egress"] {
            let filters = host.sh(&format!("tc filter show dev {interface} {direction}"))?;
            parts.insert(format!("filters of {interface} {direction}"), filters);
            let programs = tcx_programs(host, &interface, direction == "ingress")?;
            let programs = format!("{programs:?}");
            parts.insert(format!("tcx programs of {interface} {direction}"), programs);
        }
    }
    let paths = lab.paths();
    let mounts = format!("{:?}", mounts_below(paths.base())?);
    parts.insert("mounts".to_owned(), mounts);
    for path in [paths.run(), paths.state(), paths.pins(), paths.rt_tables()] {
        let mut tree = String::new();
        if path.exists() {
            list(&path, &mut tree)?;
        } else if path != paths.state() {
            // The state directory may have been made for the history alone.
            tree += "no such directory";
        }
        parts.insert(path.display().to_string(), tree);
    }
    Ok(parts)
}

/// The names of all interfaces of a namespace.
pub fn interfaces(namespace: &Namespace) -> Result<Vec<String>> {
    namespace.run(|| {
        let names = nix::net::if_::if_nameindex().context("list interfaces")?;
        Ok(names
            .iter()
            .map(|i| i.name().to_string_lossy().into_owned())
            .collect())
    })
}

/// Lists the paths below a directory, with the contents of its files. It leaves out the history, which appears with the end
/// of a minute, and stays.
fn list(path: &Path, tree: &mut String) -> Result<()> {
    let mut entries = fs::read_dir(path)
        .with_context(|| format!("list {}", path.display()))?
        .collect::<io::Result<Vec<_>>>()
        .with_context(|| format!("list {}", path.display()))?;
    entries.sort_by_key(fs::DirEntry::path);
    for entry in entries {
        let path = entry.path();
        if path.ends_with("state/history") {
            continue;
        }
        let kind = entry
            .file_type()
            .with_context(|| format!("look at {}", path.display()))?;
        *tree += &format!("{}\n", path.display());
        if kind.is_dir() {
            list(&path, tree)?;
        } else if kind.is_file() {
            *tree += &fs::read_to_string(&path).unwrap_or_else(|e| e.to_string());
        }
    }
    Ok(())
}

/// Panics with a readable difference if the two differ.
#[track_caller]
pub fn assert_same(before: &Snapshot, after: &Snapshot) {
    let mut differences = String::new();
    let names: std::collections::BTreeSet<_> = before.keys().chain(after.keys()).collect();
    for name in names {
        let (old, new) = (before.get(name), after.get(name));
        if old != new {
            let [old, new] = [old, new].map(|part| part.map_or("(none)", String::as_str));
            differences += &format!("{name} was:\n{old}\nand is:\n{new}\n");
        }
    }
    assert!(differences.is_empty(), "not as before:\n{differences}");
}
