//! Tunnels in the kernel for IPv6 in IPv4 (`sit`). Those of sixxs are marked ([`super::owned_links`]).

use std::net::{IpAddr, Ipv4Addr};

use anyhow::Context as _;
use rtnetlink::{
    packet_core::{NLM_F_ACK, NLM_F_CREATE, NLM_F_EXCL, NLM_F_REQUEST},
    packet_route::{
        RouteNetlinkMessage,
        link::{InfoData, InfoIpTunnel, InfoKind, LinkAttribute, LinkInfo, LinkMessage},
    },
};
use sixxs_common::six_in_four::TTL;
use sixxs_core::types::{IfIndex, IfName};

use super::{Netlink, RequestError, far_end, owned_links::LinkByName};

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

const CHANGE: u16 = NLM_F_REQUEST | NLM_F_ACK;

impl Netlink {
    /// Returns the `sit` interface of this name between these endpoints: a new one, down and without addresses,
    /// or the one of an earlier run.
    pub async fn sit(&self, name: &IfName, ends: Ends) -> Result<IfIndex, NoSit> {
        match self.link_by_name(name).await? {
            LinkByName::OurSit(index) if self.ends(index).await? == Some(ends) => return Ok(index),
            LinkByName::OurSit(index) => self.delete_link(index).await?,
            // An earlier run made a TUN device because the kernel had no `sit`. It disappears at the next boot.
            LinkByName::OurTun(_) => return Err(NoSit::Unsupported),
            LinkByName::Nothing | LinkByName::Foreign => {}
        }
        let mut message = LinkMessage::default();
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
        message.attributes = vec![
            LinkAttribute::IfName(name.to_string()),
            LinkAttribute::LinkInfo(vec![
                LinkInfo::Kind(InfoKind::SitTun),
                LinkInfo::Data(InfoData::IpTunnel(tunnel)),
            ]),
        ];
        let flags = CHANGE | NLM_F_CREATE | NLM_F_EXCL;
        match self
            .request(RouteNetlinkMessage::NewLink(message), flags)
            .await
        {
            Ok(_) => {}
            Err(RequestError::Kernel(error)) if error.raw_os_error() == Some(libc::EOPNOTSUPP) => {
                return Err(NoSit::Unsupported);
            }
            Err(RequestError::Kernel(error)) if error.raw_os_error() == Some(libc::EEXIST) => {
                return Err(NoSit::Taken);
            }
            Err(error) => return Err(NoSit::Other(error.into())),
        }
        let index = IfIndex(super::name_to_index(name.as_str())?);
        // The kernel does not accept an alias while it creates an interface.
        if let Err(error) = self.mark(index).await {
            self.delete_link(index).await?;
            return Err(NoSit::Other(error));
        }
        Ok(index)
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
