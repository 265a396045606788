//! `on_leak`: drop and observe.

use anyhow::Result;
use sixxs_tests::lab::Spec;
use sixxs_tests::lab::topology::{Flavour, OUTSIDE, UPLINK};
use sixxs_tests::probe;
use sixxs_tests::probe::leak::{self, Cause};
use sixxs_tests::program::Hook;
use sixxs_tests::program::status::Leaks;

use crate::fixture::Fixture;

const BOUND: u64 = 10;
const PINGS: u64 = 20;

variants!(drop_drops: tun_drop(Tun, Auto), veth_drop(Veth, Auto), tun_drop_clsact(Tun, Clsact));

fn drop_drops(flavour: Flavour, hook: Hook) -> Result<()> {
    let fixture = leak_under(flavour, hook, "on_leak = \"drop\"")?;
    assert_eq!(fixture.lab.dropped_by_isp()?, 0);
    assert_eq!(fixture.reached_brokers()?, [0, 0]);
    let daemon = fixture.start()?;
    for tunnel in &fixture.program.status()?.tunnels {
        let dropped = BOUND + PINGS;
        assert_eq!(
            tunnel.leaks,
            Leaks {
                dropped,
                ..Leaks::default()
            }
        );
    }
    assert_eq!(daemon.stop()?, 0);
    Ok(())
}

variants!(observe_observes:
    tun_observe(Tun, Auto), veth_observe(Veth, Auto), tun_observe_clsact(Tun, Clsact));

fn observe_observes(flavour: Flavour, hook: Hook) -> Result<()> {
    let fixture = leak_under(flavour, hook, "on_leak = \"observe\"")?;
    assert_eq!(fixture.lab.dropped_by_isp()?, 2 * (BOUND + PINGS));
    assert_eq!(fixture.reached_brokers()?, [0, 0]);
    let daemon = fixture.start()?;
    for tunnel in &fixture.program.status()?.tunnels {
        let observed = BOUND + PINGS;
        assert_eq!(
            tunnel.leaks,
            Leaks {
                observed,
                ..Leaks::default()
            }
        );
    }
    assert_eq!(daemon.stop()?, 0);
    Ok(())
}

/// Sends leaks from each tunnel's address: first from a socket bound to the uplink while the daemon runs,
/// then replies to pings without daemon and rules. None of the pings is answered.
fn leak_under(flavour: Flavour, hook: Hook, extra: &str) -> Result<Fixture> {
    let fixture = Fixture::with_spec(Spec::new(flavour), hook, extra)?;
    let daemon = fixture.start()?;
    for tunnel in fixture.lab.tunnels() {
        let cause = Cause::Device(UPLINK);
        let socket = leak::udp_socket(fixture.host(), tunnel.plan.address, cause)?;
        leak::send(&socket, OUTSIDE, BOUND, 100)?;
    }
    daemon.kill()?;
    fixture.delete_own_rules()?;
    for tunnel in fixture.lab.tunnels() {
        let pings = probe::ping(fixture.lab.outside(), tunnel.plan.address, PINGS)?;
        assert_eq!((pings.sent, pings.answered), (PINGS, 0));
    }
    Ok(fixture)
}
