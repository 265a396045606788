//! A daemon that is started with another configuration than the last one: what the last one made
//! and this one does not want goes, and what both want goes on.

use anyhow::Result;
use sixxs_tests::kernel::bpf::tcx_programs;
use sixxs_tests::lab::topology::Flavour;
use sixxs_tests::program::Hook;

use crate::setting::Setting;

variants!(a_tunnel_is_left_out: tun(Tun, Auto), tun_clsact(Tun, Clsact), veth(Veth, Auto));

fn a_tunnel_is_left_out(flavour: Flavour, hook: Hook) -> Result<()> {
    let setting = Setting::new(flavour, hook)?;
    let [first, second] = setting.lab.tunnels();
    let whole = setting.lab.config("");
    let daemon = setting.start()?;
    for tunnel in [first, second] {
        setting.outside_is_answered(tunnel)?;
    }
    let before = setting.program.status()?;
    assert_eq!(daemon.stop()?, 0);

    let without_first = format!(
        "uplinks = [\"net0\"]\n[[tunnel]]\nname = \"{}\"\nkind = \"interface\"\n{}\ntable = 300\n",
        second.plan.interface,
        setting.lab.tunnel_config(second.plan)
    );
    setting.lab.write_config(&without_first)?;
    let daemon = setting.start()?;
    let rules = setting.own_rules()?;
    assert!(!rules.contains(&first.plan.address.to_string()), "{rules}");
    let routes = setting.own_routes()?;
    assert!(
        routes.contains("table 300") && !routes.contains("table 200"),
        "{routes}"
    );
    assert_eq!(programs_at(&setting, first.plan.interface)?, 0);
    assert_eq!(programs_at(&setting, second.plan.interface)?, 2);
    let status = setting.program.status()?;
    assert!(status.healthy && status.tunnels.len() == 1, "{status:#?}");
    let name = second.plan.interface;
    assert!(
        status.tunnel(name).echo.requests_in >= before.tunnel(name).echo.requests_in,
        "counters go on"
    );
    setting.outside_is_answered(second)?;
    assert_eq!(daemon.stop()?, 0);

    // And back: the first one is whole again, and its counters go on as well.
    setting.lab.write_config(&whole)?;
    let daemon = setting.start()?;
    let status = setting.program.status()?;
    let name = first.plan.interface;
    assert!(
        status.tunnel(name).echo.requests_in >= before.tunnel(name).echo.requests_in,
        "counters go on"
    );
    for tunnel in [first, second] {
        setting.outside_is_answered(tunnel)?;
    }
    assert_eq!(daemon.stop()?, 0);
    Ok(())
}

/// Programs on an interface, by either hook, in either direction.
fn programs_at(setting: &Setting, interface: &str) -> Result<usize> {
    let mut programs = 0;
    for (ingress, direction) in [(true, "ingress"), (false, "egress")] {
        programs += tcx_programs(setting.host(), interface, ingress)?.len();
        let filters = setting
            .host()
            .sh(&format!("tc filter show dev {interface} {direction}"))?;
        programs += filters.matches("direct-action").count();
    }
    Ok(programs)
}
