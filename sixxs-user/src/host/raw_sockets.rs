//! Raw IPv4 sockets of this network namespace.

use std::{collections::BTreeSet, fs};

/// Whether another process has a raw socket for an IP protocol. True if that cannot be determined.
pub(crate) fn are_foreign(protocol: u8) -> bool {
    let Ok(table) = fs::read_to_string("/proc/self/net/raw") else {
        return true;
    };
    let found = inodes(&table, protocol);
    !found.is_empty() && !found.is_subset(&own_sockets())
}

/// The inodes of the sockets for a protocol, from the kernel's table: the protocol is in the place of the local port.
fn inodes(table: &str, protocol: u8) -> BTreeSet<u64> {
    let sockets = table.lines().filter_map(|line| {
        let mut fields = line.split_whitespace().skip(1);
        let (_, port) = fields.next()?.split_once(':')?;
        let inode = fields.nth(7)?.parse().ok()?;
        (u16::from_str_radix(port, 16) == Ok(protocol.into())).then_some(inode)
    });
    sockets.collect()
}

/// The inodes of this process's sockets.
fn own_sockets() -> BTreeSet<u64> {
    let descriptors = fs::read_dir("/proc/self/fd")
        .into_iter()
        .flatten()
        .flatten();
    let inodes = descriptors.filter_map(|descriptor| {
        let target = fs::read_link(descriptor.path()).ok()?;
        let inode = target.to_str()?.strip_prefix("socket:[")?;
        inode.strip_suffix(']')?.parse().ok()
    });
    inodes.collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    const TABLE: &str = "  sl  local_address rem_address   st tx_queue rx_queue tr tm->when retrnsmt   uid  timeout inode ref pointer drops
   41: 00000000:0029 00000000:0000 07 00000000:00000000 00:00000000 00000000     0        0 31337 2 0000000000000000 0
    1: 0100007F:0001 00000000:0000 07 00000000:00000000 00:00000000 00000000     0        0 31338 2 0000000000000000 0
   cut: 0100007F:0029
";

    #[test]
    fn sockets_are_found_by_their_protocol() {
        assert_eq!(inodes(TABLE, 41), [31337].into());
        assert_eq!(inodes(TABLE, 1), [31338].into());
        assert!(inodes(TABLE, 47).is_empty());
        assert!(inodes("", 41).is_empty());
    }
}
