//! Owns an exit in another table than main, as a VPN makes it: an interface and a rule before ours, which
//! stay, and a default route that is added and removed.

use std::thread::sleep;
use std::time::Duration;

use anyhow::{Result, ensure};

use super::run_log::RunLog;
use crate::lab::Lab;
use crate::lab::nft;
use crate::program::Program;
use crate::wait;

/// The interface. Its other end is at the ISP, which counts packets.
pub(super) const EXIT: &str = "exit0";

/// Routes everything by the exit's table while that has a route. The numbers are Tailscale's.
pub(super) const RULE: &str = "rule add from all lookup 53 priority 5269 protocol static\n";

const DEFAULT: &str = "default via fe80::fe dev exit0 table 53 protocol static";

/// Counts packets with a source address of a tunnel.
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

/// Adds the exit's route, waits until the exit is guarded, checks that nothing leaves by it any more, and
/// removes the route. `repaired` limits the wait; `quiet` is the time of the check.
pub(super) fn add_and_remove(
    lab: &Lab,
    program: &Program,
    log: &RunLog,
    (repaired, quiet): (Duration, Duration),
) -> Result<()> {
    let host = lab.host();
    let since = left(lab)?;
    host.sh(&format!("ip -6 route add {DEFAULT}"))?;
    let guarded = || {
        let status = program.status()?;
        let uplink = status.uplinks.into_iter().find(|one| one.name == EXIT);
        Ok(uplink.map(|uplink| uplink.program))
    };
    wait::until("the exit is guarded", repaired, guarded, |program| {
        program.as_deref() == Some("attached")
    })?;
    let before = left(lab)?;
    sleep(quiet * wait::patience());
    let after = left(lab)?;
    host.sh(&format!("ip -6 route del {DEFAULT}"))?;
    ensure!(
        before == after,
        "{} packets left by a guarded exit",
        after - before
    );
    log.note(format!(
        "  left by the exit before it was guarded: {}",
        before - since
    ));
    Ok(())
}
