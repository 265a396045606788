//! Owns a link whose address other software replaces again and again. The daemon follows it (`address = "auto"`). Its
//! provider is the outside host.

use std::net::Ipv6Addr;
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};

use super::run_log::RunLog;
use super::traffic::MARKS;
use crate::lab::Lab;
use crate::lab::topology::{OUTSIDE, UPLINK};
use crate::probe::leak::{self, Cause};
use crate::wait;

/// The interface. Its other end is at the outside host.
const LINK: &str = "moves0";

/// The routing table of the third link.
const TABLE: u32 = 202;

/// How the addresses of the link begin, as text.
pub(super) const NETWORK: &str = "2001:db8:c9:";

/// Packets from a new address, for each way.
const PACKETS: u64 = 3;

/// The link's section of the configuration.
pub(super) const CONFIG: &str = "\n[[link]]\nname = \"moves0\"\nkind = \"interface\"\naddress = \"auto\"\n\
                                 gateway = \"fe80::fd\"\n";

/// The link.
#[derive(Debug)]
pub(super) struct Renumbering {
    /// The number of its present address.
    number: u16,
}

fn address(number: u16) -> Ipv6Addr {
    Ipv6Addr::new(0x2001, 0xdb8, 0xc9, 0, 0, 0, 0, number)
}

impl Renumbering {
    /// Makes the link, with its first address.
    pub(super) fn create(lab: &Lab) -> Result<Self> {
        let (host, outside) = (lab.host(), lab.outside());
        let first = Self { number: 1 };
        host.ip(&format!(
            "link add {LINK} type veth peer name far1 netns {}\n\
             link set {LINK} up\n\
             neighbour add fe80::fd lladdr 02:00:00:00:00:fd dev {LINK} nud permanent\n\
             address add {}/64 dev {LINK} nodad\n",
            outside.name(),
            address(first.number)
        ))?;
        // The link-layer address of the next hop.
        outside.ip("link set far1 address 02:00:00:00:00:fd up\n")?;
        Ok(first)
    }

    /// Replaces the address, waits until the new one is guarded and users of the old one get errors, and sends from both:
    /// by the rules, and by other interfaces. The filters of the providers must not see these packets. `repaired` limits the
    /// wait.
    pub(super) fn renumber(&mut self, lab: &Lab, log: &RunLog, repaired: Duration) -> Result<()> {
        let host = lab.host();
        let (old, next) = (address(self.number), self.number.wrapping_add(1).max(1));
        let new = address(next);
        let user = leak::udp_socket(host, old, Cause::Rules)?;
        host.ip(&format!(
            "address add {new}/64 dev {LINK} nodad\naddress del {old}/64 dev {LINK}\n"
        ))?;
        self.number = next;
        let guards = || {
            let rules = host.sh("ip -6 -N rule show")?;
            let refused = host.sh(&format!("ip -6 route show table {TABLE} type unreachable"))?;
            Ok(rules + &refused)
        };
        wait::until("both addresses are guarded", repaired, guards, |shown| {
            let has_rule = |address| shown.contains(&format!("from {address} lookup {TABLE}"));
            has_rule(new) && has_rule(old) && shown.contains(&format!("default from {old} "))
        })?;
        let sent = leak::send(&user, OUTSIDE, 1, 100);
        ensure!(sent.is_err(), "a packet left from {old}");
        let mut causes = vec![Cause::Rules, Cause::Device(UPLINK)];
        causes.extend(MARKS.map(Cause::Mark));
        for cause in causes {
            // Another fault may have removed the interface.
            let sent = leak::udp_socket(host, new, cause)
                .and_then(|socket| leak::send(&socket, OUTSIDE, PACKETS, 100).context("send"));
            if let Err(error) = sent {
                log.note(format!("  not sent by {cause:?}: {error:#}"));
            }
        }
        Ok(())
    }
}
