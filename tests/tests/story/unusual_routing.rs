//! Hosts with unusual routing: default routes with several next hops, foreign routes in our tables,
//! prefixes without a LAN.

use anyhow::Result;
use nix::sys::signal::Signal;
use sixxs_tests::lab::topology::{Flavour, OUTSIDE, UPLINK};
use sixxs_tests::lab::{tun, uplink};
use sixxs_tests::probe::leak::{self, Cause};
use sixxs_tests::program::{Hook, Program};

use crate::fixture::Fixture;

/// Writes the lab's configuration without `uplinks`.
fn find_uplinks(fixture: &Fixture) -> Result<()> {
    let config = fixture.lab.config("").replace("uplinks = [\"net0\"]\n", "");
    fixture.lab.write_config(&config)?;
    Ok(())
}

fn uplinks(program: &Program) -> Result<Vec<String>> {
    let status = program.status()?;
    Ok(status
        .uplinks
        .into_iter()
        .map(|uplink| uplink.name)
        .collect())
}

/// A default route with several next hops makes each of their interfaces an uplink.
#[test]
fn a_default_route_with_two_next_hops() -> Result<()> {
    let fixture = Fixture::new(Flavour::Tun, Hook::Auto)?;
    find_uplinks(&fixture)?;
    fixture
        .host()
        .ip("link add net1 type veth peer name far1\n\
         link set far1 up\n\
         link set net1 up\n\
         address add 2001:db8:2::1/64 dev net1 nodad\n\
         route del ::/0\n\
         route add ::/0 nexthop via 2001:db8:1::fe dev net0 \
         nexthop via 2001:db8:2::fe dev net1\n")?;
    let daemon = fixture.start()?;
    assert_eq!(uplinks(&fixture.program)?, ["net0", "net1"]);

    // An uplink whose default route is missing for a moment is still an uplink.
    fixture.host().sh("ip route del ::/0")?;
    fixture
        .program
        .status_until("the change is seen", |status| status.uplinks.len() == 2)?;
    assert_eq!(daemon.stop()?, 0);
    Ok(())
}

/// An uplink that was detected and went down is guarded from its first packet on when it comes up again. The
/// daemon may have observed that it went down, or may have started meanwhile.
#[test]
fn an_uplink_comes_up_again() -> Result<()> {
    let fixture = Fixture::new(Flavour::Tun, Hook::Auto)?;
    find_uplinks(&fixture)?;
    let mut daemon = fixture.start()?;
    let [tunnel, _] = fixture.lab.tunnels();
    for restarts in [false, true] {
        fixture.host().ip("link set net0 down\n")?;
        if restarts {
            assert_eq!(daemon.stop()?, 0);
            daemon = fixture.start()?;
        }
        // The restored rules show that the daemon has completed a scan.
        let before = fixture.program.status()?.corrections;
        fixture.delete_own_rules()?;
        fixture
            .program
            .status_until("it has looked", |status| status.corrections > before)?;
        // A stopped daemon cannot react to the next changes.
        daemon.signal(Signal::SIGSTOP)?;
        uplink::raise(fixture.host())?;
        let cause = Cause::Device(UPLINK);
        let socket = leak::udp_socket(fixture.host(), tunnel.plan.address, cause)?;
        leak::send(&socket, OUTSIDE, 10, 100)?;
        daemon.signal(Signal::SIGCONT)?;
        fixture
            .program
            .status_until("it is an uplink again", |status| {
                status.uplinks.len() == 1 && status.healthy
            })?;
        fixture.ensure_nothing_lost()?;
    }
    assert_eq!(daemon.stop()?, 0);
    Ok(())
}

/// Ten thousand foreign routes cause no scans and no delays.
#[test]
fn a_full_routing_table() -> Result<()> {
    let fixture = Fixture::new(Flavour::Tun, Hook::Auto)?;
    find_uplinks(&fixture)?;
    let routes = |verb: &str| -> String {
        (0..10_000)
            .map(|n| {
                format!(
                    "route {verb} 2001:db8:f{:x}:{:x}::/64 dev lo\n",
                    n >> 12,
                    n & 0xfff
                )
            })
            .collect()
    };
    fixture.host().ip(&routes("add"))?;
    let daemon = fixture.start()?;
    assert_eq!(uplinks(&fixture.program)?, ["net0"]);
    let used = daemon.processor_time()?;
    fixture.host().ip(&routes("del"))?;
    fixture.host().ip(&routes("add"))?;
    let used = daemon
        .processor_time()?
        .checked_sub(used)
        .unwrap_or_default();
    // Twenty thousand changes, none of which concerns the daemon.
    assert!(used.as_millis() < 500, "{used:?} of processor time");
    let (resident, own) = (daemon.resident_kib()?, daemon.anonymous_kib()?);
    println!("{resident} KiB resident, {own} KiB its own");
    assert!(resident < 18 * 1024, "{resident} KiB resident");
    assert!(fixture.program.status()?.healthy);
    assert_eq!(daemon.stop()?, 0);
    Ok(())
}

/// A foreign default route in a table of the daemon, in place of its own route or with a lower metric, is
/// reported and kept.
#[test]
fn a_route_of_others_in_our_table() -> Result<()> {
    for metric in [1024, 100] {
        let fixture = Fixture::new(Flavour::Tun, Hook::Auto)?;
        let theirs = format!("default via 2001:db8:1::fe dev net0 table 200 metric {metric}");
        fixture
            .host()
            .sh(&format!("ip -6 route add {theirs} proto static"))?;
        let daemon = fixture.start()?;
        let [first, second] = fixture.lab.tunnels();
        let status = fixture.program.status()?;
        assert!(!status.healthy);
        assert_eq!(status.tunnel(first.plan.interface).routing, "missing");
        assert_eq!(status.tunnel(second.plan.interface).routing, "in_place");
        let screen = fixture.program.run(&["status"])?;
        assert_eq!(screen.code, 3);
        assert!(screen.stdout.contains("table 200"), "{}", screen.stdout);
        let plan = fixture.program.run(&["plan"])?;
        assert_eq!(plan.code, 3, "{plan:#?}");
        fixture.ensure_outside_answered(second)?;
        fixture.program.run_ok(&["down"])?;
        assert_eq!(daemon.wait()?, 0);
        let left = fixture.host().sh("ip -6 route show table 200")?;
        assert!(
            left.contains(&format!("metric {metric}")) && left.lines().count() == 1,
            "{left}"
        );
    }
    Ok(())
}

/// A direct destination without a route is unreachable. Its packets do not leave by the uplink.
#[test]
fn a_prefix_without_a_lan() -> Result<()> {
    let fixture = Fixture::new(Flavour::Tun, Hook::Auto)?;
    let config = fixture.lab.config("");
    let config = config.trim_end().to_owned() + "\nprefixes = [\"2001:db8:bb::/48\"]\n";
    fixture.lab.write_config(&config)?;
    let daemon = fixture.start()?;
    let [_, second] = fixture.lab.tunnels();
    let socket = leak::udp_socket(fixture.host(), second.plan.address, Cause::Rules)?;
    let refused = leak::send(&socket, "2001:db8:bb:7::1".parse()?, 1, 100);
    assert!(refused.is_err(), "no route to a LAN that is not there");
    leak::send(&socket, OUTSIDE, 1, 100)?;
    fixture.ensure_nothing_lost()?;
    assert_eq!(daemon.stop()?, 0);
    Ok(())
}

/// An unnamed link layer is reported by its number, without messages of a library.
#[test]
fn a_link_layer_without_a_name() -> Result<()> {
    let fixture = Fixture::new(Flavour::Tun, Hook::Auto)?;
    let device = tun::create(fixture.host(), "odd0")?;
    tun::set_link_type(&device, 4242)?;
    let config = fixture.lab.config("");
    let config = config.replace("[\"net0\"]", "[\"net0\", \"odd0\"]");
    fixture.lab.write_config(&config)?;
    let daemon = fixture.start()?;
    let screen = fixture.program.run(&["status"])?;
    assert!(screen.stdout.contains("ARPHRD 4242"), "{}", screen.stdout);
    let log = daemon.log() + &screen.stderr;
    assert!(!log.contains("BUG"), "{log}");
    assert_eq!(daemon.stop()?, 0);
    Ok(())
}
