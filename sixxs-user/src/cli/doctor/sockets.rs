//! UDP services on the wildcard address, with their programs.

use std::{collections::BTreeMap, fs};

use sixxs_core::{
    doctor::sockets::{Service, Sockets, wildcards},
    enforce,
};

use super::{HostView, managers::processes, read};

pub(super) fn sockets(view: &HostView) -> Sockets {
    let range = read("/proc/sys/net/ipv4/ip_local_port_range");
    let found = wildcards(&read("/proc/net/udp6"), ephemeral(&range));
    let owners = match found.as_slice() {
        [] => BTreeMap::new(),
        _ => owners(),
    };
    let services = found.into_iter().map(|socket| Service {
        port: socket.port,
        program: owners.get(&socket.inode).cloned(),
    });
    let address = view.config.tunnels.iter().flat_map(|t| &t.addresses).next();
    let uplinks = enforce::uplinks(&view.config, &view.links);
    Sockets {
        services: services.collect(),
        address: address.map(|a| a.address.to_string()),
        uplink: uplinks.first().map(|uplink| uplink.name.to_string()),
    }
}

/// The first and the last ephemeral port; defaults to the values in the kernel's `ip-sysctl.rst`.
fn ephemeral(range: &str) -> (u16, u16) {
    let mut ports = range.split_whitespace().map(str::parse);
    match (ports.next(), ports.next()) {
        (Some(Ok(first)), Some(Ok(last))) => (first, last),
        _ => (32768, 60999),
    }
}

/// The names of programs by the inodes of their sockets, as far as permissions allow.
fn owners() -> BTreeMap<u64, String> {
    let mut owners = BTreeMap::new();
    for (process, name) in processes() {
        let descriptors = fs::read_dir(format!("/proc/{process}/fd"));
        for descriptor in descriptors.into_iter().flatten().flatten() {
            let target = fs::read_link(descriptor.path()).unwrap_or_default();
            let target = target.to_string_lossy();
            let inode = target
                .strip_prefix("socket:[")
                .and_then(|rest| rest.strip_suffix(']')?.parse().ok());
            owners.extend(inode.map(|inode| (inode, name.clone())));
        }
    }
    owners
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ports_of_clients() {
        assert_eq!(ephemeral("1024\t4999\n"), (1024, 4999));
        assert_eq!(ephemeral(""), (32768, 60999));
        assert_eq!(ephemeral("70000 1"), (32768, 60999));
    }
}
