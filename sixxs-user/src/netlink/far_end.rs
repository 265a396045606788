//! The far end of a tunnel of the kernel: `sit`, GRE, and IPv6 in IPv6.

use std::net::IpAddr;

use rtnetlink::packet_route::link::{
    InfoData, InfoGre, InfoGre6, InfoIpTunnel, InfoKind, LinkAttribute, LinkInfo, LinkMessage,
};
use sixxs_common::{packet::GRE, six_in_four};
use sixxs_core::endpoint::Endpoint;

/// The kind of an interface; `None` for hardware.
pub(super) fn kind(message: &LinkMessage) -> Option<&InfoKind> {
    infos(message).find_map(|info| match info {
        LinkInfo::Kind(kind) => Some(kind),
        _ => None,
    })
}

/// The far end of a tunnel; `None`: the interface is none, or it has no fixed far end.
pub(super) fn endpoint(message: &LinkMessage) -> Option<Endpoint> {
    let data = infos(message).find_map(|info| match info {
        LinkInfo::Data(data) => Some(data),
        _ => None,
    })?;
    let (remote, protocol) = match data {
        // `sit` and `ip6tnl` carry IPv6 by protocol 41.
        InfoData::IpTunnel(facts) => (
            facts.iter().find_map(|fact| match fact {
                InfoIpTunnel::Remote(remote) => Some(*remote),
                _ => None,
            })?,
            six_in_four::PROTOCOL,
        ),
        InfoData::GreTun(facts) => (
            facts.iter().find_map(|fact| match fact {
                InfoGre::Remote(remote) => Some(IpAddr::V4(*remote)),
                _ => None,
            })?,
            GRE,
        ),
        InfoData::GreTun6(facts) => (
            facts.iter().find_map(|fact| match fact {
                InfoGre6::Remote(remote) => Some(IpAddr::V6(*remote)),
                _ => None,
            })?,
            GRE,
        ),
        _ => return None,
    };
    (!remote.is_unspecified()).then_some(Endpoint {
        remote,
        protocol: Some(protocol),
        remote_port: None,
        local_port: None,
    })
}

/// The attributes about the kind of an interface.
pub(super) fn infos(message: &LinkMessage) -> impl Iterator<Item = &LinkInfo> {
    let attributes = message.attributes.iter();
    let infos = attributes.filter_map(|attribute| match attribute {
        LinkAttribute::LinkInfo(infos) => Some(infos),
        _ => None,
    });
    infos.flatten()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn message(data: InfoData) -> LinkMessage {
        let mut message = LinkMessage::default();
        let infos = vec![LinkInfo::Kind(InfoKind::SitTun), LinkInfo::Data(data)];
        message.attributes = vec![LinkAttribute::LinkInfo(infos)];
        message
    }

    #[test]
    fn each_kind_of_tunnel_has_its_protocol() {
        let v4 = |text: &str| text.parse::<IpAddr>().unwrap();
        let v6 = "2001:db8:f::1";
        for (data, expected) in [
            (
                InfoData::IpTunnel(vec![
                    InfoIpTunnel::Ttl(64),
                    InfoIpTunnel::Remote(v4("198.51.100.1")),
                ]),
                Some(("198.51.100.1", 41)),
            ),
            (
                InfoData::GreTun(vec![InfoGre::Remote("198.51.100.1".parse().unwrap())]),
                Some(("198.51.100.1", 47)),
            ),
            (
                InfoData::GreTun6(vec![InfoGre6::Remote(v6.parse().unwrap())]),
                Some((v6, 47)),
            ),
            // It accepts packets of every host.
            (
                InfoData::IpTunnel(vec![InfoIpTunnel::Remote(v4("0.0.0.0"))]),
                None,
            ),
            (InfoData::Bridge(Vec::new()), None),
        ] {
            let found = endpoint(&message(data)).map(|found| (found.remote, found.protocol));
            let expected = expected.map(|(remote, protocol)| (v4(remote), Some(protocol)));
            assert_eq!(found, expected);
        }
        assert_eq!(
            kind(&message(InfoData::Bridge(Vec::new()))),
            Some(&InfoKind::SitTun)
        );
        assert_eq!(kind(&LinkMessage::default()), None);
    }
}
