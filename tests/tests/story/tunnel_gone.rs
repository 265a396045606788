//! A tunnel interface that is deleted and created again gets its route, rules and programs back.

use std::time::{Duration, Instant};

use anyhow::{Context as _, Result};
use sixxs_tests::lab::topology::Flavour;
use sixxs_tests::program::Hook;

use crate::fixture::Fixture;

variants!(it_is_taken_back:
    tun(Tun, Auto), veth(Veth, Auto), tun_clsact(Tun, Clsact), veth_clsact(Veth, Clsact),
    wireguard(WireGuard, Auto));

fn it_is_taken_back(flavour: Flavour, hook: Hook) -> Result<()> {
    let fixture = Fixture::new(flavour, hook)?;
    let daemon = fixture.start()?;
    for number in [0, 1] {
        let (gone, other) = (
            &fixture.lab.tunnels()[number],
            &fixture.lab.tunnels()[1 - number],
        );
        let name = gone.plan.interface;
        let before = fixture.program.status()?;
        let old_index = before
            .tunnel(name)
            .ifindex
            .context("an index while it is up")?;
        let (rules, routes) = (fixture.own_rules()?, fixture.own_routes()?);

        gone.delete()?;
        let status = fixture
            .program
            .status_until("it is seen as gone", |status| {
                status.tunnel(name).ifindex.is_none() && !status.healthy
            })?;
        assert_ne!(status.tunnel(name).state, "up");
        assert!(
            status.tunnel(other.plan.interface).is_whole(),
            "{status:#?}"
        );
        fixture.ensure_outside_answered(other)?;

        gone.create()?;
        let created = Instant::now();
        let status = fixture
            .program
            .status_until("it is taken back", |status| status.tunnel(name).is_whole())?;
        let took = created.elapsed();
        assert!(took < Duration::from_secs(3), "took {took:?}");
        let index = status
            .tunnel(name)
            .ifindex
            .context("an index while it is up")?;
        assert_ne!(index, old_index);
        assert!(status.healthy, "{status:#?}");
        assert_eq!(fixture.own_rules()?, rules);
        assert_eq!(sorted(&fixture.own_routes()?), sorted(&routes));
        fixture.ensure_outside_answered(gone)?;
        fixture.ensure_nothing_lost()?;

        // And its leaks are still caught.
        fixture.delete_own_rules()?;
        fixture.ensure_outside_answered(gone)?;
        fixture.ensure_nothing_lost()?;
        fixture
            .program
            .status_until("rules come back", |status| status.healthy)?;
    }
    assert_eq!(daemon.stop()?, 0);
    Ok(())
}

/// `ip route` lists tables in the order of a hash.
fn sorted(lines: &str) -> Vec<&str> {
    let mut lines: Vec<&str> = lines.lines().collect();
    lines.sort_unstable();
    lines
}
