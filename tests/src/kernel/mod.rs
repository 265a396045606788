//! Owns the features of this machine's kernel that change what a test expects. They are read from the
//! kernel, never derived from the place where the test runs.

pub mod bpf;
pub mod no_subtrees;
pub mod program_harness;
pub mod route_events;

use std::path::Path;
use std::process::Command;

use anyhow::{Context as _, Result, ensure};
use nix::sched::{CloneFlags, unshare};

use crate::shell;

/// Whether the kernel has TCX links: from 6.6 (commit e420bed02507).
pub fn has_tcx() -> Result<bool> {
    Ok(running_version()? >= (6, 6))
}

/// Whether programs can remove the outer header of 6in4 (`BPF_F_ADJ_ROOM_DECAP_L3_IPV6`): from 6.3.
pub fn has_decapsulation() -> Result<bool> {
    Ok(running_version()? >= (6, 3))
}

fn running_version() -> Result<(u32, u32)> {
    let release = std::fs::read_to_string("/proc/sys/kernel/osrelease");
    let release = release.context("ask for the kernel's release")?;
    version(&release).with_context(|| format!("read the release {release:?}"))
}

/// Whether the kernel encapsulates 6in4. A module counts once it is loaded; the kernel loads it when such a
/// tunnel is made.
pub fn has_sit() -> bool {
    // The directory also exists if the driver is built in, since it has parameters.
    Path::new("/sys/module/sit").exists()
}

/// Whether the kernel has the interface of the legacy ip6tables (`CONFIG_IP6_NF_IPTABLES_LEGACY`). A module
/// counts once it is loaded.
pub fn has_ip6tables() -> bool {
    let modules = ["/proc/net/ip6_tables_names", "/sys/module/ip6_tables"];
    modules.iter().any(|path| Path::new(path).exists())
}

/// Whether the kernel has WireGuard: makes such an interface in a temporary network namespace.
pub fn has_wireguard() -> Result<bool> {
    has_interfaces(&["wireguard"])
}

/// Whether the kernel has tunnels of this type: makes one in a temporary network namespace.
pub fn has_tunnel(kind: &str) -> Result<bool> {
    let [local, remote] = if kind.starts_with("ip6") {
        ["2001:db8::1", "2001:db8::2"]
    } else {
        ["192.0.2.1", "198.51.100.1"]
    };
    has_interfaces(&[kind, "local", local, "remote", remote])
}

/// Whether the kernel can make interfaces of a type.
fn has_interfaces(kind: &[&str]) -> Result<bool> {
    let add = [&["link", "add", "asked", "type"][..], kind].concat();
    has_interfaces_after(&["link"], &add)
}

/// Whether the kernel can carry out the second `ip` command, after the first.
fn has_interfaces_after(first: &[&str], kind: &[&str]) -> Result<bool> {
    let ask = || {
        unshare(CloneFlags::CLONE_NEWNET).context("make a network namespace")?;
        shell::capture(Command::new("ip").args(first))?;
        shell::capture(Command::new("ip").args(kind))
    };
    let answer = std::thread::scope(|scope| scope.spawn(ask).join());
    match answer.unwrap_or_else(|panic| std::panic::resume_unwind(panic)) {
        Ok(_) => Ok(true),
        Err(error) if format!("{error:#}").contains("Unknown device type") => Ok(false),
        Err(error) => Err(error).with_context(|| format!("ask for {kind:?}")),
    }
}

/// Whether the kernel has VRFs (`CONFIG_NET_VRF`): makes one in a temporary network namespace.
pub fn has_vrf() -> Result<bool> {
    has_interfaces(&["vrf", "table", "53"])
}

/// Whether the kernel has VLAN interfaces (`CONFIG_VLAN_8021Q`): makes one in a temporary network namespace.
pub fn has_vlan() -> Result<bool> {
    has_interfaces_after(
        &["link", "add", "under0", "type", "veth"],
        &[
            "link", "add", "link", "under0", "name", "asked", "type", "vlan", "id", "5",
        ],
    )
}

/// Whether a test that needs this feature of the kernel can run. A missing feature is an error if
/// `SIXXS_KERNEL_HAS` (names with commas between) requires it.
pub fn can_run(feature: &str, has: bool) -> Result<bool> {
    let must = std::env::var("SIXXS_KERNEL_HAS").unwrap_or_default();
    ensure!(
        has || must.split(',').all(|name| name != feature),
        "this kernel has no {feature}, and should"
    );
    if !has {
        println!("skipped: this kernel has no {feature}");
    }
    Ok(has)
}

/// Major and minor version of a kernel release.
fn version(release: &str) -> Option<(u32, u32)> {
    let mut numbers = release.split(|c: char| !c.is_ascii_digit());
    Some((numbers.next()?.parse().ok()?, numbers.next()?.parse().ok()?))
}

#[cfg(test)]
mod tests {
    use super::version;

    #[test]
    fn releases_are_read() {
        assert_eq!(version("6.1.0-56-cloud-amd64\n"), Some((6, 1)));
        assert_eq!(version("6.18-rc1\n"), Some((6, 18)));
        assert_eq!(version("linux"), None);
    }
}
