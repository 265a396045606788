//! The real ip6tables, in both versions: one uses nftables, the other the legacy kernel interface.

use std::path::PathBuf;

use anyhow::Result;

use crate::deb_programs;
use crate::lab::Lab;

/// Environment variables with which `ip6tables-nft` and `ip6tables-legacy` run as ordinary commands, with a
/// lock file in the lab.
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
