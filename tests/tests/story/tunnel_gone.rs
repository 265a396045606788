//! Scene 7: a tunnel interface deleted and made again gets its route, rules and programs back.

use std::time::{Duration, Instant};

use anyhow::{Context as _, Result};
use sixxs_tests::lab::topology::Flavour;
use sixxs_tests::program::Hook;

use crate::setting::Setting;

variants!(it_is_taken_back:
    tun(Tun, Auto), veth(Veth, Auto), tun_clsact(Tun, Clsact), veth_clsact(Veth, Clsact),
    wireguard(WireGuard, Auto));

fn it_is_taken_back(flavour: Flavour, hook: Hook) -> Result<()> {
    let setting = Setting::new(flavour, hook)?;
    let daemon = setting.start()?;
    for number in [0, 1] {
        let (gone, other) = (
            &setting.lab.tunnels()[number],
            &setting.lab.tunnels()[1 - number],
        );
        let name = gone.plan.interface;
        let before = setting.program.status()?;
        let old_index = before
            .tunnel(name)
            .ifindex
            .context("an index while it is up")?;
        let (rules, routes) = (setting.own_rules()?, setting.own_routes()?);

        gone.delete()?;
        let status = setting
            .program
            .status_until("it is seen as gone", |status| {
                status.tunnel(name).ifindex.is_none() && !status.healthy
            })?;
        assert_ne!(status.tunnel(name).state, "up");
        assert!(
            status.tunnel(other.plan.interface).is_whole(),
            "{status:#?}"
        );
        setting.outside_is_answered(other)?;

        gone.create()?;
        let created = Instant::now();
        let status = setting
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
        assert_eq!(setting.own_rules()?, rules);
        assert_eq!(sorted(&setting.own_routes()?), sorted(&routes));
        setting.outside_is_answered(gone)?;
        setting.nothing_went_astray()?;

        // And its leaks are still caught.
        setting.delete_own_rules()?;
        setting.outside_is_answered(gone)?;
        setting.nothing_went_astray()?;
        setting
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
