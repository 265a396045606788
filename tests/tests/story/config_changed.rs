//! A daemon that starts with a changed configuration removes state that only the old one wanted, and keeps
//! the rest without a gap.

use std::time::Duration;

use anyhow::Result;
use sixxs_tests::kernel::bpf::tcx_programs;
use sixxs_tests::lab::topology::Flavour;
use sixxs_tests::program::Hook;
use sixxs_tests::wait;

use crate::fixture::Fixture;

variants!(a_tunnel_is_left_out: tun(Tun, Auto), tun_clsact(Tun, Clsact), veth(Veth, Auto));

fn a_tunnel_is_left_out(flavour: Flavour, hook: Hook) -> Result<()> {
    let fixture = Fixture::new(flavour, hook)?;
    let [first, second] = fixture.lab.tunnels();
    let whole = fixture.lab.config("");
    let daemon = fixture.start()?;
    for tunnel in [first, second] {
        fixture.ensure_outside_answered(tunnel)?;
    }
    let before = fixture.program.status()?;
    assert_eq!(daemon.stop()?, 0);

    let without_first = format!(
        "uplinks = [\"net0\"]\n[[tunnel]]\nname = \"{}\"\nkind = \"interface\"\n{}\ntable = 300\n",
        second.plan.interface,
        fixture.lab.tunnel_config(second.plan)
    );
    fixture.lab.write_config(&without_first)?;
    let daemon = fixture.start()?;
    let rules = fixture.own_rules()?;
    assert!(!rules.contains(&first.plan.address.to_string()), "{rules}");
    let routes = fixture.own_routes()?;
    assert!(
        routes.contains("table 300") && !routes.contains("table 200"),
        "{routes}"
    );
    // The kernel detaches a program a moment after its link is gone.
    wait::until(
        "its programs are gone",
        Duration::from_secs(5),
        || programs_at(&fixture, first.plan.interface),
        |count| *count == 0,
    )?;
    assert_eq!(programs_at(&fixture, second.plan.interface)?, 2);
    let status = fixture.program.status()?;
    assert!(status.healthy && status.tunnels.len() == 1, "{status:#?}");
    let name = second.plan.interface;
    assert!(
        status.tunnel(name).echo.requests_in >= before.tunnel(name).echo.requests_in,
        "counters go on"
    );
    fixture.ensure_outside_answered(second)?;
    assert_eq!(daemon.stop()?, 0);

    // With the old configuration the first tunnel is complete again, and its counters continue too.
    fixture.lab.write_config(&whole)?;
    let daemon = fixture.start()?;
    let status = fixture.program.status()?;
    let name = first.plan.interface;
    assert!(
        status.tunnel(name).echo.requests_in >= before.tunnel(name).echo.requests_in,
        "counters go on"
    );
    for tunnel in [first, second] {
        fixture.ensure_outside_answered(tunnel)?;
    }
    assert_eq!(daemon.stop()?, 0);
    Ok(())
}

/// Number of programs on an interface, with either hook, in both directions.
fn programs_at(fixture: &Fixture, interface: &str) -> Result<usize> {
    let mut programs = 0;
    for (ingress, direction) in [(true, "ingress"), (false, "egress")] {
        programs += tcx_programs(fixture.host(), interface, ingress)?.len();
        let filters = fixture
            .host()
            .sh(&format!("tc filter show dev {interface} {direction}"))?;
        programs += filters.matches("direct-action").count();
    }
    Ok(programs)
}
