//! The kernel's own tunnels of IPv6 in IPv4 (`sit`).
//!
//! Those of our making have an alias (`ip link`: "alias sixxs"), by which they are found again.

use std::{
    collections::BTreeSet,
    net::{IpAddr, Ipv4Addr},
};

use anyhow::Context as _;
use rtnetlink::{
    packet_core::{NLM_F_ACK, NLM_F_CREATE, NLM_F_DUMP, NLM_F_EXCL, NLM_F_REQUEST},
    packet_route::{
        RouteNetlinkMessage,
        link::{InfoData, InfoIpTunnel, InfoKind, LinkAttribute, LinkInfo, LinkMessage},
    },
};
use sixxs_core::types::{IfIndex, IfName};

use super::{Netlink, RequestError};

/// What marks an interface as ours.
const ALIAS: &str = "sixxs";

/// Time to live of what is sent (RFC 4213 §3.3).
const TTL: u8 = 64;

/// The two ends of a tunnel.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Ends {
    /// Ours; `None`: whatever the route asks for.
    pub local: Option<Ipv4Addr>,
    /// The broker's.
    pub remote: Ipv4Addr,
}

/// There is no `sit` interface.
#[derive(Debug, thiserror::Error)]
pub enum NoSit {
    /// The kernel has none, and is not to be had to load any.
    #[error("this kernel has no sit")]
    Unsupported,
    /// Somebody else has one of this name, or between the same two ends.
    #[error("somebody else has an interface of that name, or a tunnel between the same addresses")]
    Taken,
    /// Anything else.
    #[error(transparent)]
    Other(#[from] anyhow::Error),
}

const CHANGE: u16 = NLM_F_REQUEST | NLM_F_ACK;

impl Netlink {
    /// The `sit` interface of this name between these ends, down and without addresses: made, or
    /// taken over from an earlier run of ours.
    pub async fn sit(&self, name: &IfName, ends: Ends) -> Result<IfIndex, NoSit> {
        match self.our_sit(name).await? {
            Some((index, found)) if found == ends => return Ok(index),
            Some((index, _)) => self.delete_link(index).await?,
            None => {}
        }
        let mut message = LinkMessage::default();
        let mut tunnel = vec![
            InfoIpTunnel::Remote(IpAddr::V4(ends.remote)),
            InfoIpTunnel::Ttl(TTL),
            // What does not fit is told to the sender, not cut.
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
        // The kernel takes no alias for an interface that is only being made.
        let mut message = LinkMessage::default();
        message.header.index = index.0;
        message.attributes = vec![LinkAttribute::IfAlias(ALIAS.to_owned())];
        let marked = self
            .request(RouteNetlinkMessage::SetLink(message), CHANGE)
            .await;
        if let Err(error) = marked {
            self.delete_link(index).await?;
            return Err(NoSit::Other(error.into()));
        }
        Ok(index)
    }

    /// Our interface of this name, and its ends.
    async fn our_sit(&self, name: &IfName) -> anyhow::Result<Option<(IfIndex, Ends)>> {
        let links = self.our_sits().await?;
        let found = links.into_iter().find(|(known, ..)| known == name);
        Ok(found.map(|(_, index, ends)| (index, ends)))
    }

    /// Every `sit` interface of our making.
    async fn our_sits(&self) -> anyhow::Result<Vec<(IfName, IfIndex, Ends)>> {
        let request = RouteNetlinkMessage::GetLink(LinkMessage::default());
        let answers = self
            .request(request, NLM_F_REQUEST | NLM_F_DUMP)
            .await
            .context("list the interfaces")?;
        Ok(answers
            .iter()
            .filter_map(|answer| match answer {
                RouteNetlinkMessage::NewLink(message) => ours(message),
                _ => None,
            })
            .collect())
    }

    /// Removes every `sit` interface that any run made, but for those of these names.
    pub async fn remove_sits(&self, but: &BTreeSet<IfName>) -> anyhow::Result<()> {
        for (name, index, _) in self.our_sits().await? {
            if !but.contains(&name) {
                self.delete_link(index).await?;
            }
        }
        Ok(())
    }

    /// Removes an interface, which must be ours; it may be gone.
    pub async fn delete_link(&self, index: IfIndex) -> anyhow::Result<()> {
        let mut message = LinkMessage::default();
        message.header.index = index.0;
        match self
            .request(RouteNetlinkMessage::DelLink(message), CHANGE)
            .await
        {
            Err(RequestError::Kernel(error)) if error.raw_os_error() == Some(libc::ENODEV) => {
                Ok(())
            }
            outcome => outcome.map(|_| ()).context("remove an interface"),
        }
    }
}

fn ours(message: &LinkMessage) -> Option<(IfName, IfIndex, Ends)> {
    let (mut name, mut is_marked, mut is_sit, mut local, mut remote) =
        (None, false, false, None, None);
    for attribute in &message.attributes {
        match attribute {
            LinkAttribute::IfName(text) => name = text.parse().ok(),
            LinkAttribute::IfAlias(alias) => is_marked = alias == ALIAS,
            LinkAttribute::LinkInfo(infos) => {
                for info in infos {
                    match info {
                        LinkInfo::Kind(kind) => is_sit = *kind == InfoKind::SitTun,
                        LinkInfo::Data(InfoData::IpTunnel(tunnel)) => {
                            for part in tunnel {
                                match part {
                                    InfoIpTunnel::Local(IpAddr::V4(at)) => local = Some(*at),
                                    InfoIpTunnel::Remote(IpAddr::V4(at)) => remote = Some(*at),
                                    _ => {}
                                }
                            }
                        }
                        _ => {}
                    }
                }
            }
            _ => {}
        }
    }
    let ends = Ends {
        local: local.filter(|local| !local.is_unspecified()),
        remote: remote?,
    };
    (is_marked && is_sit).then_some((name?, IfIndex(message.header.index), ends))
}
