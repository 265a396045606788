//! Owns the real ip6tables, both of it: the one that puts its rules into nftables, and the old one.

use std::path::PathBuf;

use anyhow::Result;

use crate::deb_programs;
use crate::lab::Lab;

/// The environment in which `ip6tables-nft` and `ip6tables-legacy` are commands like others, with a
/// lock of the lab's.
pub fn environment(lab: &Lab) -> Result<Vec<(&'static str, PathBuf)>> {
    let root = deb_programs::root("SIXXS_IP6TABLES", "iptables", "usr/sbin/ip6tables-legacy")?;
    let mut environment = Vec::from(deb_programs::environment(&root, "sbin"));
    environment.extend([
        (
            "XTABLES_LIBDIR",
            deb_programs::libraries(&root).join("xtables"),
        ),
        ("XTABLES_LOCKFILE", lab.paths().base().join("xtables.lock")),
    ]);
    Ok(environment)
}
