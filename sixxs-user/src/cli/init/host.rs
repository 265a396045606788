//! `sixxs init`: what the host has, by netlink and from the files of its network managers.

use std::{
    fs,
    path::{Path, PathBuf},
};

use anyhow::Context as _;
use sixxs_core::{
    config,
    init::{
        declared::{self, Declared},
        host::{self, Candidate, Facts},
    },
    link::{Link, LinkLayer},
};

use crate::{
    cli::output,
    host::config_file,
    netlink::{Netlink, Scope},
};

/// The text of a configuration. `root`: the directory that holds `etc`.
pub(super) async fn propose(root: &Path) -> anyhow::Result<String> {
    let scope = Scope {
        exits: true,
        ..Scope::default()
    };
    let mut netlink = Netlink::open()?;
    let kinds = netlink.link_kinds().await?;
    let observed = netlink.observe(&scope).await?;
    let (mut candidates, mut uplinks) = (Vec::new(), Vec::new());
    for link in observed.links.iter() {
        match kinds.get(&link.index).filter(|kind| is_tunnel(link, kind)) {
            Some(kind) => candidates.push(candidate(link, kind)),
            None if link.is_exit => uplinks.push(link.name.clone()),
            None => {}
        }
    }
    let facts = Facts {
        uplinks,
        candidates,
        declared: declared_tunnels(root),
    };
    let text = host::propose(&facts);
    // A proposal that the daemon refuses would be worse than none.
    let none = |_: &str| Err("no other file".into());
    config::parse_with("the proposal", &text, &none)
        .context("the tunnels of this host do not fit into one configuration")?;
    Ok(text)
}

/// Virtual interfaces without a link layer are tunnels, except those of PPP and mobile networks, which are native.
fn is_tunnel(link: &Link, kind: &str) -> bool {
    link.layer == LinkLayer::None && !matches!(kind, "ppp" | "wwan")
}

fn candidate(link: &Link, kind: &str) -> Candidate {
    Candidate {
        name: link.name.clone(),
        what: kind.to_owned(),
        addresses: link.addresses.clone(),
        is_exit: link.is_exit,
    }
}

/// The tunnels in files, each with its file.
fn declared_tunnels(root: &Path) -> Vec<(String, Declared)> {
    let mut found = Vec::new();
    let mut add = |file: &Path, tunnels: Vec<Declared>| {
        let shown = Path::new("/").join(file.strip_prefix(root).unwrap_or(file));
        let shown = shown.display().to_string();
        found.extend(tunnels.into_iter().map(|tunnel| (shown.clone(), tunnel)));
    };
    let mut interfaces = vec![root.join("etc/network/interfaces")];
    interfaces.extend(files(&root.join("etc/network/interfaces.d"), None));
    for file in interfaces {
        add(
            &file,
            read(&file).map_or(Vec::new(), |text| declared::ifupdown(&text)),
        );
    }
    let netdevs = files(&root.join("etc/systemd/network"), Some("netdev"));
    let networks = texts(&files(&root.join("etc/systemd/network"), Some("network")));
    for file in netdevs {
        let Some(text) = read(&file) else { continue };
        let networks = networks.iter().map(String::as_str);
        add(
            &file,
            declared::networkd([text.as_str()].into_iter(), networks),
        );
    }
    let connections = root.join("etc/NetworkManager/system-connections");
    for file in files(&connections, Some("nmconnection")) {
        let tunnel = read(&file).and_then(|text| declared::network_manager(&text));
        add(&file, tunnel.into_iter().collect());
    }
    for file in files(&root.join("etc/wireguard"), Some("conf")) {
        let name = file
            .file_stem()
            .and_then(|name| name.to_str())
            .unwrap_or_default();
        let tunnel = read(&file).and_then(|text| declared::wg_quick(name, &text));
        add(&file, tunnel.into_iter().collect());
    }
    for file in files(&root.join("etc/netplan"), Some("yaml")) {
        add(
            &file,
            read(&file).map_or(Vec::new(), |text| declared::netplan(&text)),
        );
    }
    found
}

/// The files of a directory with this ending, sorted by name; none if it cannot be read.
fn files(directory: &Path, extension: Option<&str>) -> Vec<PathBuf> {
    let entries = match fs::read_dir(directory) {
        Ok(entries) => entries,
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Vec::new(),
        Err(error) => {
            output::note(&format!("{}: {error}; run it as root", directory.display()));
            return Vec::new();
        }
    };
    let paths = entries.filter_map(|entry| Some(entry.ok()?.path()));
    let has_ending = |path: &PathBuf| {
        extension.is_none_or(|wanted| path.extension().is_some_and(|found| found == wanted))
    };
    let mut paths: Vec<_> = paths.filter(has_ending).collect();
    paths.sort();
    paths
}

fn texts(files: &[PathBuf]) -> Vec<String> {
    files.iter().filter_map(|file| read(file)).collect()
}

/// A text file; a note if it exists and cannot be read.
fn read(file: &Path) -> Option<String> {
    match config_file::read_whole(file) {
        Ok((bytes, _)) => Some(String::from_utf8_lossy(&bytes).into_owned()),
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => None,
        Err(error) => {
            output::note(&format!("{}: {error}", file.display()));
            None
        }
    }
}
