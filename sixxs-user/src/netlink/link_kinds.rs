//! The kinds of interfaces, as the kernel names them.

use std::collections::BTreeMap;

use anyhow::Context as _;
use rtnetlink::{
    packet_core::{NLM_F_DUMP, NLM_F_REQUEST},
    packet_route::{RouteNetlinkMessage, link::LinkMessage},
};
use sixxs_core::types::IfIndex;

use super::{Netlink, far_end};

impl Netlink {
    /// The kind of each virtual interface, such as `sit` or `wireguard`. Hardware has none.
    pub async fn link_kinds(&self) -> anyhow::Result<BTreeMap<IfIndex, String>> {
        let request = RouteNetlinkMessage::GetLink(LinkMessage::default());
        let answers = self
            .request(request, NLM_F_REQUEST | NLM_F_DUMP)
            .await
            .context("list the interfaces")?;
        let kinds = answers.iter().filter_map(|answer| {
            let RouteNetlinkMessage::NewLink(link) = answer else {
                return None;
            };
            Some((IfIndex(link.header.index), far_end::kind(link)?.to_string()))
        });
        Ok(kinds.collect())
    }
}
