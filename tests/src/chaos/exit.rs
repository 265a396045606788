//! An exit in another table than main, as VPN software makes it: a permanent interface, a rule with a lower
//! priority number than the daemon's, and a default route that is added and deleted.

use std::thread::sleep;

use anyhow::{Result, ensure};

use super::host::{Host, QUIET, REPAIRED};
use crate::lab::Lab;
use crate::{nft, wait};

/// The exit's interface. Its peer is in the ISP's namespace, which has the counter.
pub(super) const EXIT: &str = "exit0";

/// Routes everything by the exit's table while that has a route. The numbers are Tailscale's.
pub(super) const RULE: &str = "rule add from all lookup 53 priority 5269 protocol static\n";

const DEFAULT: &str = "default via fe80::fe dev exit0 table 53 protocol static";

/// Counts packets with a tunnel's source.
const RULES: &str = "table ip6 exit {
    counter left_by_exit { }
    chain from_exit {
        type filter hook prerouting priority raw
        iifname != \"far0\" return
        ip6 saddr { 2001:db8:a::/64, 2001:db8:b::/64, 2001:db8:bb::/48 } counter name left_by_exit drop
    }
}";

/// Makes the interface and the counter.
pub(super) fn create(lab: &Lab) -> Result<()> {
    let (host, isp) = (lab.host(), lab.isp());
    host.ip(&format!(
        "link add {EXIT} type veth peer name far0 netns {}\n\
         link set {EXIT} up\n\
         neighbour add fe80::fe lladdr 02:00:00:00:00:fe dev {EXIT} nud permanent\n",
        isp.name()
    ))?;
    // The link-layer address of the next hop.
    isp.ip("link set far0 address 02:00:00:00:00:fe up\n")?;
    nft::load(isp, RULES)
}

fn left(lab: &Lab) -> Result<u64> {
    nft::read(lab.isp())?.get("left_by_exit")
}

impl Host<'_> {
    /// Adds the exit, waits until it has a program, checks that no packet leaks by it from then on, and
    /// deletes it.
    pub(super) fn exit_comes_and_goes(&mut self) -> Result<()> {
        let host = self.lab.host();
        let since = left(self.lab)?;
        host.sh(&format!("ip -6 route add {DEFAULT}"))?;
        let guarded = || {
            let status = self.program.status()?;
            let uplink = status.uplinks.into_iter().find(|one| one.name == EXIT);
            Ok(uplink.map(|uplink| uplink.program))
        };
        let limit = REPAIRED;
        wait::until("the exit is guarded", limit, guarded, |program| {
            program.as_deref() == Some("attached")
        })?;
        let before = left(self.lab)?;
        sleep(QUIET * wait::patience());
        let after = left(self.lab)?;
        host.sh(&format!("ip -6 route del {DEFAULT}"))?;
        ensure!(
            before == after,
            "{} packets left by an exit that is guarded",
            after - before
        );
        self.chronicle.note(format!(
            "  left by the exit before it was guarded: {}",
            before - since
        ));
        Ok(())
    }
}
