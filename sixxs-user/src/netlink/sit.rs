//! Tunnels in the kernel for IPv6 in IPv4 (`sit`). Those of sixxs are marked ([`super::owned_links`]).

use std::net::{IpAddr, Ipv4Addr};

use anyhow::Context as _;
use rtnetlink::{
    packet_core::NLM_F_REQUEST,
    packet_route::{
        RouteNetlinkMessage,
        link::{InfoData, InfoIpTunnel, InfoKind, LinkInfo, LinkMessage},
    },
};
use sixxs_common::six_in_four::TTL;
use sixxs_core::types::{IfIndex, IfName};

use super::{
    Netlink, far_end,
    owned_links::{LinkByName, NotMade},
};

/// The two endpoints of a tunnel.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Ends {
    /// This host's address; `None`: the route decides.
    pub local: Option<Ipv4Addr>,
    /// The broker's address.
    pub remote: Ipv4Addr,
}

/// Why there is no `sit` interface.
#[derive(Debug, thiserror::Error)]
pub enum NoSit {
    /// The kernel has no `sit`, and no module to load.
    #[error("this kernel has no sit")]
    Unsupported,
    /// Another interface has this name or the same two endpoints.
    #[error("another interface has that name, or a tunnel between the same addresses")]
    Taken,
    /// Any other error.
    #[error(transparent)]
    Other(#[from] anyhow::Error),
}

impl Netlink {
    /// Returns the `sit` interface of this name between these endpoints: a new one, down and without addresses,
    /// or the one of an earlier run.
    pub async fn sit(&self, name: &IfName, ends: Ends) -> Result<IfIndex, NoSit> {
        match self.link_by_name(name).await? {
            LinkByName::OurSit(index) if self.ends(index).await? == Some(ends) => return Ok(index),
            LinkByName::OurSit(index) | LinkByName::OurWireGuard(index) => {
                self.delete_link(index).await?;
            }
            // An earlier run made a TUN device because the kernel had no `sit`. It disappears at the next boot.
            LinkByName::OurTun(_) => return Err(NoSit::Unsupported),
            LinkByName::Nothing | LinkByName::Foreign => {}
        }
        let mut tunnel = vec![
            InfoIpTunnel::Remote(IpAddr::V4(ends.remote)),
            InfoIpTunnel::Ttl(TTL),
            // An inner packet that does not fit gets an ICMP error, instead of fragmented outer packets.
            InfoIpTunnel::PMtuDisc(true),
        ];
        tunnel.extend(
            ends.local
                .map(|local| InfoIpTunnel::Local(IpAddr::V4(local))),
        );
        let infos = vec![
            LinkInfo::Kind(InfoKind::SitTun),
            LinkInfo::Data(InfoData::IpTunnel(tunnel)),
        ];
        let made = self.make_marked(name, infos).await;
        made.map_err(|error| match error {
            NotMade::Unsupported => NoSit::Unsupported,
            NotMade::Taken => NoSit::Taken,
            NotMade::Other(error) => NoSit::Other(error),
        })
    }

    /// The two endpoints of a `sit` interface.
    async fn ends(&self, index: IfIndex) -> anyhow::Result<Option<Ends>> {
        let mut message = LinkMessage::default();
        message.header.index = index.0;
        let answers = self
            .request(RouteNetlinkMessage::GetLink(message), NLM_F_REQUEST)
            .await
            .context("look up an interface")?;
        Ok(answers.iter().find_map(|answer| match answer {
            RouteNetlinkMessage::NewLink(message) => ends(message),
            _ => None,
        }))
    }
}

fn ends(message: &LinkMessage) -> Option<Ends> {
    let (mut local, mut remote) = (None, None);
    for info in far_end::infos(message) {
        let LinkInfo::Data(InfoData::IpTunnel(tunnel)) = info else {
            continue;
        };
        for part in tunnel {
            match part {
                InfoIpTunnel::Local(IpAddr::V4(at)) => local = Some(*at),
                InfoIpTunnel::Remote(IpAddr::V4(at)) => remote = Some(*at),
                _ => {}
            }
        }
    }
    Some(Ends {
        local: local.filter(|local| !local.is_unspecified()),
        remote: remote?,
    })
}
