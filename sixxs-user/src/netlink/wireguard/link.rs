//! Makes WireGuard interfaces. Those of sixxs are marked (`netlink::owned_links`).

use rtnetlink::packet_route::link::{InfoKind, LinkInfo};
use sixxs_core::types::{IfIndex, IfName};

use crate::netlink::{
    Netlink,
    owned_links::{LinkByName, NotMade},
};

/// Why there is no WireGuard interface.
#[derive(Debug, thiserror::Error)]
pub(crate) enum NoWireGuard {
    /// The kernel has no WireGuard, and no module to load.
    #[error(
        "this kernel has no WireGuard; load its module (`modprobe wireguard`), or use a kernel with CONFIG_WIREGUARD"
    )]
    Unsupported,
    /// Another interface has this name.
    #[error(
        "an interface with that name exists, and sixxs did not make it; remove it (`wg-quick down NAME`, or `ip link delete \
         NAME`), or use kind = \"interface\""
    )]
    Foreign,
    /// Any other error.
    #[error(transparent)]
    Other(#[from] anyhow::Error),
}

impl Netlink {
    /// Returns the WireGuard interface of this name: the one of an earlier run, or a new one, down and without keys
    /// and addresses.
    pub(crate) async fn wireguard(&self, name: &IfName) -> Result<IfIndex, NoWireGuard> {
        match self.link_by_name(name).await? {
            LinkByName::OurWireGuard(index) => return Ok(index),
            // The tunnel was of another kind before.
            LinkByName::OurTun(index) | LinkByName::OurSit(index) => {
                self.delete_link(index).await?
            }
            LinkByName::Foreign => return Err(NoWireGuard::Foreign),
            LinkByName::Nothing => {}
        }
        let infos = vec![LinkInfo::Kind(InfoKind::Wireguard)];
        self.make_marked(name, infos)
            .await
            .map_err(|error| match error {
                NotMade::Unsupported => NoWireGuard::Unsupported,
                NotMade::Taken => NoWireGuard::Foreign,
                NotMade::Other(error) => NoWireGuard::Other(error),
            })
    }
}
