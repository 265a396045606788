//! UDP services on the wildcard address. From outside, it is not visible whether such a service answers from
//! the address that received the request. To do so, it must request each packet's destination address
//! (`IPV6_RECVPKTINFO`, RFC 3542 §6.2) and send from it. Otherwise it answers from the address that the
//! kernel chooses: an uplink's.

use super::{Finding, Verdict};

/// Facts about UDP services.
#[derive(Clone, Debug, Default)]
pub struct Sockets {
    /// UDP services on `[::]`.
    pub services: Vec<Service>,
    /// A tunnel's address, as an example.
    pub address: Option<String>,
    /// An uplink, as an example.
    pub uplink: Option<String>,
}

/// A UDP service.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Service {
    /// Its port.
    pub port: u16,
    /// The program's name, if it is known.
    pub program: Option<String>,
}

/// A UDP socket on `[::]` that is not connected.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Wildcard {
    /// Its port.
    pub port: u16,
    /// Its inode, which identifies the process that has it open.
    pub inode: u64,
}

/// Ports that no outside host queries: DHCPv6 clients (RFC 8415 §7.2), and multicast DNS (RFC 6762 §3).
const LOCAL: [u16; 2] = [546, 5353];

/// The maximum number of services to name.
const NAMED: usize = 8;

/// Reads `/proc/net/udp6`. Ephemeral ports (`ephemeral`, first and last) are ignored: they belong to clients.
/// Sockets of the kernel itself, such as WireGuard's, have no inode and answer from the right address.
#[must_use]
pub fn wildcards(listed: &str, ephemeral: (u16, u16)) -> Vec<Wildcard> {
    let is_local = |port: u16| LOCAL.contains(&port) || (ephemeral.0..=ephemeral.1).contains(&port);
    let mut all: Vec<_> = listed
        .lines()
        .filter_map(wildcard)
        .filter(|found| !is_local(found.port) && found.inode != 0)
        .collect();
    all.sort_by_key(|found| found.port);
    all.dedup_by_key(|found| found.port);
    all
}

/// Fields: number, local address and port, remote address and port, state; the inode is the tenth field
/// (`udp6_seq_show` in the kernel).
fn wildcard(line: &str) -> Option<Wildcard> {
    let mut words = line.split_whitespace();
    let local = words.nth(1)?;
    let remote = words.next()?;
    let inode = words.nth(6)?.parse().ok()?;
    let is_any = |text: &str| !text.is_empty() && text.bytes().all(|byte| byte == b'0');
    let (address, port) = local.split_once(':')?;
    let (far, far_port) = remote.split_once(':')?;
    let is_wildcard = is_any(address) && is_any(far) && is_any(far_port);
    is_wildcard.then_some(Wildcard {
        port: u16::from_str_radix(port, 16).ok()?,
        inode,
    })
}

pub(super) fn findings(sockets: &Sockets) -> Vec<Finding> {
    let Sockets {
        services,
        address: Some(address),
        uplink: Some(uplink),
    } = sockets
    else {
        return Vec::new();
    };
    let Some(first) = services.first() else {
        return Vec::new();
    };
    let mut names: Vec<_> = services.iter().take(NAMED).map(describe).collect();
    if services.len() > NAMED {
        names.push(format!("{} more", services.len() - NAMED));
    }
    vec![Finding::not(
        "udp services",
        Verdict::Note,
        format!(
            "UDP services listen on [::]: {}. One that does not request each packet's destination \
             (IPV6_RECVPKTINFO) answers from an address of {uplink}, and a client that queried {address} drops that",
            names.join(", ")
        ),
        format!(
            "query it from outside at {address} and look for answers at the uplink: tcpdump -ni {uplink} \
             'ip6 and udp src port {}'; if there are any, have it listen on {address} itself",
            first.port
        ),
    )]
}

fn describe(service: &Service) -> String {
    match &service.program {
        Some(program) => format!("port {} ({program})", service.port),
        None => format!("port {}", service.port),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// In the format of Linux 6.18.
    const LISTED: &str = "  sl  local_address                         remote_address                        st tx_queue rx_queue tr tm->when retrnsmt   uid  timeout inode ref pointer drops
  100: 00000000000000000000000000000000:0035 00000000000000000000000000000000:0000 07 00000000:00000000 00:00000000 00000000     0        0 31234 2 0000000000000000 0
  101: 00000000000000000000000000000000:0035 00000000000000000000000000000000:0000 07 00000000:00000000 00:00000000 00000000     0        0 31235 2 0000000000000000 0
  102: B80D01200A0000000000000002000000:14B4 00000000000000000000000000000000:0000 07 00000000:00000000 00:00000000 00000000     0        0 31236 2 0000000000000000 0
  103: 00000000000000000000000000000000:14E9 00000000000000000000000000000000:0000 07 00000000:00000000 00:00000000 00000000   101        0 31237 2 0000000000000000 0
  104: 00000000000000000000000000000000:CA6C 00000000000000000000000000000000:0000 07 00000000:00000000 00:00000000 00000000     0        0 0 2 0000000000000000 0
  105: 00000000000000000000000000000000:9C40 00000000000000000000000000000000:0000 07 00000000:00000000 00:00000000 00000000     0        0 31239 2 0000000000000000 0
  106: 00000000000000000000000000000000:01BB B80D01200A0000000000000002000000:1234 01 00000000:00000000 00:00000000 00000000     0        0 31240 2 0000000000000000 0
  107: 00000000000000000000000000000000:01BB 00000000000000000000000000000000:0000 07 00000000:00000000 00:00000000 00000000     0        0 31241 2 0000000000000000 0
";

    #[test]
    fn services_on_the_wildcard() {
        let found = wildcards(LISTED, (32768, 50000));
        let expected = [(53, 31234), (443, 31241)];
        assert_eq!(
            found,
            expected.map(|(port, inode)| Wildcard { port, inode })
        );
        for nonsense in ["", "a", "0: :", "0: 0:zz 0:0 07 0 0 0 0 0 1", "1: 2 3 4 5"] {
            assert!(wildcards(nonsense, (1, 2)).is_empty(), "{nonsense}");
        }
    }
}
