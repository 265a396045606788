//! Owns the real ip6tables, both of it: the one that puts its rules into nftables, and the old one.

use std::path::PathBuf;

use anyhow::Result;

use crate::lab::Lab;
use crate::unpacked;

/// The environment in which `ip6tables-nft` and `ip6tables-legacy` are commands like others, with a
/// lock of the lab's.
pub fn environment(lab: &Lab) -> Result<Vec<(&'static str, PathBuf)>> {
    let root = unpacked::root("SIXXS_IP6TABLES", "iptables", "usr/sbin/ip6tables-legacy")?;
    let mut environment = Vec::from(unpacked::environment(&root, "sbin"));
    environment.extend([
        ("XTABLES_LIBDIR", unpacked::libraries(&root).join("xtables")),
        ("XTABLES_LOCKFILE", lab.paths().base().join("xtables.lock")),
    ]);
    Ok(environment)
}
