//! Which tunnels have endpoint updates, and by which path the address is found.

use std::net::{IpAddr, Ipv4Addr};

use super::{Kind, RemoteEndpoint};

/// The far end whose path decides about the address that endpoint updates report, and this host's address if the
/// configuration has it. The error is for tunnels that have no updates.
pub(super) fn of_kind(
    kind: &Kind,
    remote: Option<RemoteEndpoint>,
) -> Result<(Ipv4Addr, Option<Ipv4Addr>), &'static str> {
    match (kind, remote) {
        (Kind::SixInFour(tunnel), _) if tunnel.heartbeat.is_none() => {
            Ok((tunnel.remote4, tunnel.local4))
        }
        (
            Kind::Interface | Kind::Command { .. },
            Some(RemoteEndpoint {
                address: IpAddr::V4(address),
                port: None,
            }),
        ) => Ok((address, None)),
        (Kind::Interface | Kind::Command { .. }, _) => Err(
            "expected only together with remote = \"ADDRESS\", the broker's IPv4 address without a port: the broker gets the \
             address by which this host reaches it",
        ),
        (Kind::SixInFour(_) | Kind::Ayiya(_) | Kind::Account(_) | Kind::WireGuard(_), _) => Err(
            "expected only with kind = \"6in4\", \"interface\" or \"command\": tunnels of other kinds report this host's \
             address themselves",
        ),
    }
}
