//! A tunnel's device is deleted or changed by another program: it is repaired.

use std::time::{Duration, Instant};

use anyhow::{Context as _, Result};
use sixxs_tests::broker::Kind;
use sixxs_tests::lab::Spec;
use sixxs_tests::program::Hook;
use sixxs_tests::wait;

use crate::fixture::Fixture;

#[test]
fn a_changed_device_is_repaired_within_4_s() -> Result<()> {
    let kinds = [Kind::Ayiya, Kind::SixInFour];
    // Each new device needs a session set-up.
    let limit = "[connect_limit]\nconnects = 100\n";
    let fixture = Fixture::with_spec(Spec::native(kinds), Hook::Auto, limit)?;
    let daemon = fixture.start()?;
    fixture.wait_until_up().with_context(|| daemon.log())?;
    for (tunnel, other) in fixture.lab.tunnels().iter().zip([1, 0]) {
        let plan = tunnel.plan;
        let name = plan.interface;
        let other = fixture.lab.tunnels()[other].plan.interface;
        for (what, lines) in [
            ("taken down", format!("link set {name} down\n")),
            (
                "without its address",
                format!("address delete {}/64 dev {name}\n", plan.address),
            ),
            ("with another MTU", format!("link set {name} mtu 1400\n")),
            ("deleted", format!("link delete {name}\n")),
        ] {
            let before = fixture.program.status()?;
            let whole = fixture.own_routes()?.lines().count();
            fixture.host().ip(&lines)?;
            let since = Instant::now();
            fixture
                .program
                .status_until(&format!("{name}, {what}, is put right"), |status| {
                    let is_new = status.corrections > before.corrections
                        || status.tunnel(name).ifindex != before.tunnel(name).ifindex;
                    is_new && status.healthy && status.tunnel(name).is_whole()
                })
                .with_context(|| daemon.log())?;
            let took = since.elapsed();
            println!("{name} {what}: put right after {took:?}");
            assert!(
                took < Duration::from_secs(4) * wait::patience(),
                "{what}: {took:?}"
            );
            assert_eq!(fixture.own_routes()?.lines().count(), whole);
            fixture
                .ensure_outside_answered(tunnel)
                .with_context(|| what.to_owned())?;
            assert!(fixture.program.status()?.tunnel(other).is_whole());
        }
    }
    fixture.ensure_nothing_lost()?;
    assert_eq!(daemon.stop()?, 0);
    Ok(())
}

/// The kernel adds the route to the peer together with the address, and forgets it if the device goes down
/// meanwhile.
#[test]
fn the_route_to_the_peer_is_restored() -> Result<()> {
    let kinds = [Kind::Ayiya, Kind::SixInFour];
    let fixture = Fixture::with_spec(Spec::native(kinds), Hook::Auto, "")?;
    let daemon = fixture.start()?;
    fixture.wait_until_up().with_context(|| daemon.log())?;
    for tunnel in fixture.lab.tunnels() {
        let plan = tunnel.plan;
        let route = format!(
            "{} dev {} proto kernel metric 256",
            plan.peer, plan.interface
        );
        let shown = || fixture.host().sh("ip -6 route show table main");
        assert!(shown()?.contains(&route), "{}", shown()?);
        fixture.host().ip(&format!("route delete {route}\n"))?;
        wait::until(
            "the route is back",
            Duration::from_secs(4),
            shown,
            |routes| routes.contains(&route),
        )?;
        let status = fixture.program.status()?;
        assert!(status.tunnel(plan.interface).is_whole(), "{status:#?}");
        let alerts = fixture.program.run_ok(&["alerts"])?.stdout;
        assert!(alerts.contains(&route), "{alerts}");
    }
    fixture.program.run_ok(&["plan"])?;
    assert_eq!(daemon.stop()?, 0);
    Ok(())
}

/// After a rename, the device no longer belongs to the daemon: a new one replaces it.
#[test]
fn renamed_it_is_made_again() -> Result<()> {
    let kinds = [Kind::Ayiya, Kind::SixInFour];
    let fixture = Fixture::with_spec(Spec::native(kinds), Hook::Auto, "")?;
    let daemon = fixture.start()?;
    fixture.wait_until_up().with_context(|| daemon.log())?;
    for tunnel in fixture.lab.tunnels() {
        let name = tunnel.plan.interface;
        let before = fixture.program.status()?.tunnel(name).ifindex;
        let steal =
            format!("link set {name} down\nlink set {name} name stolen\nlink set stolen up\n");
        // The daemon may set the device up again before the rename, which the kernel then refuses.
        let limit = Duration::from_secs(5);
        wait::until(
            "it is stolen",
            limit,
            || fixture.host().ip(&steal),
            |()| true,
        )?;
        let since = Instant::now();
        fixture
            .program
            .status_until("it is made anew", |status| {
                let tunnel = status.tunnel(name);
                tunnel.ifindex.is_some_and(|index| Some(index) != before) && tunnel.is_whole()
            })
            .with_context(|| daemon.log())?;
        println!("{name} renamed: back after {:?}", since.elapsed());
        let links = fixture.host().sh("ip -brief link show")?;
        assert!(!links.contains("stolen"), "{links}");
        fixture.ensure_outside_answered(tunnel)?;
    }
    assert_eq!(daemon.stop()?, 0);
    Ok(())
}
