//! With the daemon every reply arrives through its own tunnel, the ISP's filter stays at 0, and the echo
//! counters equal the pings.

use anyhow::Result;
use sixxs_tests::kernel;
use sixxs_tests::lab::Spec;
use sixxs_tests::lab::topology::Flavour;
use sixxs_tests::program::Hook;
use sixxs_tests::program::status::Leaks;

use crate::fixture::Fixture;

variants!(every_reply_takes_its_tunnel:
    tun(Tun, Auto), veth(Veth, Auto), tun_clsact(Tun, Clsact), veth_clsact(Veth, Clsact),
    wireguard(WireGuard, Auto));

#[test]
fn veth_subtrees() -> Result<()> {
    replies_with(Flavour::Veth, Hook::Auto, "rule_mode = \"subtrees\"\n")
}

fn every_reply_takes_its_tunnel(flavour: Flavour, hook: Hook) -> Result<()> {
    replies_with(flavour, hook, "")
}

fn replies_with(flavour: Flavour, hook: Hook, extra: &str) -> Result<()> {
    let fixture = Fixture::with_spec(Spec::new(flavour), hook, extra)?;
    let daemon = fixture.start()?;
    let [first, second] = fixture.lab.tunnels();

    let pings = fixture.ensure_outside_answered(first)?;
    assert_eq!(
        fixture.reached_brokers()?[1],
        0,
        "a reply of the first tunnel left by the second"
    );
    let status = fixture.program.status()?;
    let echo = status.tunnel(first.plan.interface).echo;
    assert_eq!((echo.requests_in, echo.replies_out), (pings, pings));
    assert_eq!((echo.requests_out, echo.replies_in), (0, 0));
    assert!(
        echo.last_request_in_seconds_ago
            .is_some_and(|ago| (0.0..60.0).contains(&ago))
    );
    assert!(
        echo.last_reply_out_seconds_ago
            .is_some_and(|ago| (0.0..60.0).contains(&ago))
    );
    let echo = status.tunnel(second.plan.interface).echo;
    assert_eq!((echo.requests_in, echo.replies_out), (0, 0));
    assert!(echo.last_request_in_seconds_ago.is_none());

    let before = fixture.reached_brokers()?[0];
    let pings = fixture.ensure_outside_answered(second)?;
    assert_eq!(
        fixture.reached_brokers()?[0],
        before,
        "a reply of the second left by the first"
    );
    let status = fixture.program.status()?;
    let echo = status.tunnel(second.plan.interface).echo;
    assert_eq!((echo.requests_in, echo.replies_out), (pings, pings));

    fixture.ensure_nothing_lost()?;
    assert!(status.healthy, "{status:#?}");
    for tunnel in &status.tunnels {
        assert!(tunnel.is_whole(), "{tunnel:#?}");
        assert_eq!(tunnel.leaks, Leaks::default());
        assert!(
            tunnel.packets.into > 40 && tunnel.packets.out > 40,
            "{tunnel:#?}"
        );
        assert!(
            tunnel.bytes.into > 1_000_000 && tunnel.bytes.out > 1_000_000,
            "{tunnel:#?}"
        );
    }
    for uplink in &status.uplinks {
        assert_eq!((uplink.program.as_str(), uplink.leaks), ("attached", 0));
        let expected = if hook == Hook::Auto && kernel::has_tcx()? {
            "tcx"
        } else {
            "clsact"
        };
        assert_eq!(uplink.hook.as_deref(), Some(expected));
    }
    assert_eq!(daemon.stop()?, 0);
    Ok(())
}
