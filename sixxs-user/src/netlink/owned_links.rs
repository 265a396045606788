//! Interfaces that this program made. An alias marks them (`ip link`: "alias sixxs").

use std::{collections::BTreeSet, ops::RangeFrom};

use anyhow::Context as _;
use rtnetlink::{
    packet_core::{NLM_F_ACK, NLM_F_CREATE, NLM_F_DUMP, NLM_F_EXCL, NLM_F_REQUEST},
    packet_route::{
        RouteNetlinkMessage,
        link::{InfoKind, LinkAttribute, LinkInfo, LinkMessage},
    },
};
use sixxs_core::types::{IfIndex, IfName};

use super::{Netlink, RequestError};

/// The alias that marks an interface of sixxs.
const ALIAS: &str = "sixxs";

/// Interface groups that other software is unlikely to use: from "ixxs" on.
const GROUPS: RangeFrom<u32> = 0x6978_7873..;

const CHANGE: u16 = NLM_F_REQUEST | NLM_F_ACK;

/// The interface behind a name.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LinkByName {
    /// No interface.
    Nothing,
    /// A TUN device of sixxs.
    OurTun(IfIndex),
    /// A `sit` interface of sixxs.
    OurSit(IfIndex),
    /// A WireGuard interface of sixxs.
    OurWireGuard(IfIndex),
    /// A foreign interface.
    Foreign,
}

impl LinkByName {
    /// The index of an interface of sixxs.
    #[must_use]
    pub const fn ours(self) -> Option<IfIndex> {
        match self {
            Self::OurTun(index) | Self::OurSit(index) | Self::OurWireGuard(index) => Some(index),
            Self::Nothing | Self::Foreign => None,
        }
    }
}

/// Why an interface was not made.
#[derive(Debug, thiserror::Error)]
pub(super) enum NotMade {
    /// The kernel does not have this kind, and no module to load.
    #[error("this kernel has no such interfaces")]
    Unsupported,
    /// Another interface has this name or, depending on the kind, the same endpoints.
    #[error("another interface has that name, or the same endpoints")]
    Taken,
    /// Any other error.
    #[error(transparent)]
    Other(#[from] anyhow::Error),
}

impl Netlink {
    /// Makes an interface of a kind with its own parameters, down and without addresses, and marks it.
    pub(super) async fn make_marked(
        &self,
        name: &IfName,
        infos: Vec<LinkInfo>,
    ) -> Result<IfIndex, NotMade> {
        let mut message = LinkMessage::default();
        message.attributes = vec![
            LinkAttribute::IfName(name.to_string()),
            LinkAttribute::LinkInfo(infos),
        ];
        let flags = CHANGE | NLM_F_CREATE | NLM_F_EXCL;
        match self
            .request(RouteNetlinkMessage::NewLink(message), flags)
            .await
        {
            Ok(_) => {}
            Err(RequestError::Kernel(error)) if error.raw_os_error() == Some(libc::EOPNOTSUPP) => {
                return Err(NotMade::Unsupported);
            }
            Err(RequestError::Kernel(error)) if error.raw_os_error() == Some(libc::EEXIST) => {
                return Err(NotMade::Taken);
            }
            Err(error) => return Err(NotMade::Other(error.into())),
        }
        let index = IfIndex(super::name_to_index(name.as_str())?);
        // The kernel does not accept an alias while it creates an interface.
        if let Err(error) = self.mark(index).await {
            self.delete_link(index).await?;
            return Err(NotMade::Other(error));
        }
        Ok(index)
    }

    /// Looks an interface up by name.
    pub async fn link_by_name(&self, name: &IfName) -> anyhow::Result<LinkByName> {
        let mut message = LinkMessage::default();
        message.attributes = vec![LinkAttribute::IfName(name.to_string())];
        Ok(match self.look_up(message).await? {
            Some(link) => marked(&link).map_or(LinkByName::Foreign, |(_, by_name)| by_name),
            None => LinkByName::Nothing,
        })
    }

    async fn look_up(&self, message: LinkMessage) -> anyhow::Result<Option<RouteNetlinkMessage>> {
        match self
            .request(RouteNetlinkMessage::GetLink(message), NLM_F_REQUEST)
            .await
        {
            Ok(answers) => Ok(answers.into_iter().next()),
            Err(RequestError::Kernel(error)) if error.raw_os_error() == Some(libc::ENODEV) => {
                Ok(None)
            }
            Err(error) => Err(error).context("look up an interface"),
        }
    }

    /// Marks an interface as one of sixxs.
    pub async fn mark(&self, index: IfIndex) -> anyhow::Result<()> {
        let mut message = LinkMessage::default();
        message.header.index = index.0;
        message.attributes = vec![LinkAttribute::IfAlias(ALIAS.to_owned())];
        self.request(RouteNetlinkMessage::SetLink(message), CHANGE)
            .await
            .with_context(|| format!("give interface {index} an alias"))?;
        Ok(())
    }

    /// Removes the interfaces of all runs, except those with these names.
    pub async fn remove_marked(&self, but: &BTreeSet<IfName>) -> anyhow::Result<()> {
        let request = RouteNetlinkMessage::GetLink(LinkMessage::default());
        let answers = self
            .request(request, NLM_F_REQUEST | NLM_F_DUMP)
            .await
            .context("list the interfaces")?;
        let ours = answers.iter().filter_map(marked);
        let others = ours.filter(|(name, _)| !but.contains(name));
        let removed = others.filter_map(|(_, by_name)| by_name.ours());
        let removed: Vec<_> = removed.collect();
        match removed.is_empty() {
            true => Ok(()),
            false => self.delete_links(&removed).await,
        }
    }

    /// Whether an interface exists and belongs to sixxs, under any name.
    pub async fn is_ours(&self, index: IfIndex) -> anyhow::Result<bool> {
        let mut message = LinkMessage::default();
        message.header.index = index.0;
        let found = self.look_up(message).await?;
        Ok(found.as_ref().and_then(marked).is_some())
    }

    /// Removes interfaces of sixxs; some may be gone already. Puts them into one group first
    /// (`IFLA_GROUP`): the kernel removes a group in the time that one interface takes.
    pub async fn delete_links(&self, indices: &[IfIndex]) -> anyhow::Result<()> {
        if let [index] = indices {
            return self.delete_link(*index).await;
        }
        let group = LinkAttribute::Group(self.free_group().await?);
        let gone_is_fine = |outcome| match outcome {
            Err(RequestError::Kernel(error)) if error.raw_os_error() == Some(libc::ENODEV) => {
                Ok(())
            }
            outcome => outcome.map(|_: Vec<RouteNetlinkMessage>| ()),
        };
        for index in indices {
            let mut message = LinkMessage::default();
            message.header.index = index.0;
            message.attributes = vec![group.clone()];
            let message = RouteNetlinkMessage::SetLink(message);
            gone_is_fine(self.request(message, CHANGE).await)
                .with_context(|| format!("put interface {index} into a group"))?;
        }
        let mut message = LinkMessage::default();
        message.attributes = vec![group];
        let message = RouteNetlinkMessage::DelLink(message);
        gone_is_fine(self.request(message, CHANGE).await).context("remove interfaces")
    }

    /// A group without interfaces.
    async fn free_group(&self) -> anyhow::Result<u32> {
        let request = RouteNetlinkMessage::GetLink(LinkMessage::default());
        let answers = self
            .request(request, NLM_F_REQUEST | NLM_F_DUMP)
            .await
            .context("list the interfaces")?;
        let groups = answers.iter().filter_map(|answer| match answer {
            RouteNetlinkMessage::NewLink(message) => Some(message.attributes.iter()),
            _ => None,
        });
        let groups = groups.flatten().filter_map(|attribute| match attribute {
            LinkAttribute::Group(group) => Some(*group),
            _ => None,
        });
        let taken: BTreeSet<_> = groups.collect();
        let mut free = GROUPS.filter(|group| !taken.contains(group));
        free.next().context("every group of interfaces is in use")
    }

    /// Removes an interface of sixxs; it may be gone.
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

/// The name of an interface of sixxs, and what it is; `None` for a foreign interface.
fn marked(answer: &RouteNetlinkMessage) -> Option<(IfName, LinkByName)> {
    let RouteNetlinkMessage::NewLink(message) = answer else {
        return None;
    };
    let index = IfIndex(message.header.index);
    let (mut name, mut is_marked, mut by_name) = (None, false, None);
    for attribute in &message.attributes {
        match attribute {
            LinkAttribute::IfName(text) => name = text.parse().ok(),
            LinkAttribute::IfAlias(alias) => is_marked = alias == ALIAS,
            LinkAttribute::LinkInfo(infos) => {
                by_name = infos.iter().find_map(|info| match info {
                    LinkInfo::Kind(InfoKind::Tun) => Some(LinkByName::OurTun(index)),
                    LinkInfo::Kind(InfoKind::SitTun) => Some(LinkByName::OurSit(index)),
                    LinkInfo::Kind(InfoKind::Wireguard) => Some(LinkByName::OurWireGuard(index)),
                    _ => None,
                });
            }
            _ => {}
        }
    }
    Some((name?, by_name.filter(|_| is_marked)?))
}
