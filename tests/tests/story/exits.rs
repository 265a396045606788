//! Exits in tables other than main, as VPNs and policy routing add them. An interface is guarded like an
//! uplink while a route to the internet leads through it.

use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use serde_json::Value;
use sixxs_tests::kernel;
use sixxs_tests::lab::nft;
use sixxs_tests::lab::topology::{Flavour, OUTSIDE, UPLINK};
use sixxs_tests::probe::leak;
use sixxs_tests::probe::{PingStream, ping};
use sixxs_tests::program::Hook;
use sixxs_tests::program::status::Status;
use sixxs_tests::wait;

use crate::fixture::Fixture;

const EXIT: &str = "ts1";

/// The interface of a foreign tunnel, without a link layer.
const TUN: &str = "tuntap add ts1 mode tun\nlink set ts1 up\n";

/// The same with a link layer.
const ETHERNET: &str = "link add ts1 type veth peer name far1\n\
     link set far1 up\n\
     link set ts1 up\n\
     address add 2001:db8:5::1/64 dev ts1 nodad\n\
     neighbour add 2001:db8:5::2 lladdr 02:00:00:00:00:fe dev ts1 nud permanent\n";

/// The rule that leads all packets to the table. Tailscale's rule and table have such numbers.
const RULE: &str = "from all lookup 53 priority 5269";

/// A lab whose host has the interface before the daemon starts, with a configuration without `uplinks`.
fn with_exit(made_by: &str, hook: Hook) -> Result<Fixture> {
    let fixture = Fixture::new(Flavour::Tun, hook)?;
    let config = fixture.lab.config("").replace("uplinks = [\"net0\"]\n", "");
    fixture.lab.write_config(&config)?;
    fixture.host().ip(made_by)?;
    Ok(fixture)
}

fn uplinks(status: &Status) -> Vec<&str> {
    let uplinks = status.uplinks.iter();
    uplinks.map(|uplink| uplink.name.as_str()).collect()
}

fn is_guarded(fixture: &Fixture) -> Result<()> {
    let both = |status: &Status| {
        let attached = status.uplinks.iter().all(|one| one.program == "attached");
        attached && uplinks(status) == [UPLINK, EXIT]
    };
    fixture
        .program
        .status_until("the exit is guarded", both)
        .map(|_| ())
}

fn is_not_guarded(fixture: &Fixture) -> Result<()> {
    let one = |status: &Status| uplinks(status) == [UPLINK];
    fixture
        .program
        .status_until("the exit is not guarded any more", one)
        .map(|_| ())
}

/// Whether the kernel's route lookup for a reply leads to the exit.
fn leads_there(fixture: &Fixture) -> Result<bool> {
    let source = fixture.lab.tunnels()[0].plan.address;
    let way = format!("ip -6 route get {OUTSIDE} from {source}");
    Ok(fixture.host().sh(&way)?.contains(EXIT))
}

/// Number of packets that left by the exit, or were dropped after the program.
fn left(fixture: &Fixture) -> Result<u64> {
    let links = fixture.host().sh("ip -statistics -json link show ts1")?;
    let links: Value = serde_json::from_str(&links)?;
    let sent = |what: &str| links[0]["stats64"]["tx"][what].as_u64();
    let (packets, dropped) = (sent("packets"), sent("dropped"));
    Ok(packets.context("packets")? + dropped.context("dropped")?)
}

/// Pings, UDP and TCP to both tunnels are answered, though the rules lead all replies to the exit.
fn all_is_caught(fixture: &Fixture) -> Result<()> {
    let before = left(fixture)?;
    for tunnel in fixture.lab.tunnels() {
        fixture.ensure_outside_answered(tunnel)?;
    }
    let after = left(fixture)?;
    // The kernel also sends packets of its own there, such as router solicitations.
    ensure!(after < before + 10, "{before} {after} packets left");
    fixture.ensure_nothing_lost()
}

/// The output of `sixxs explain` for a reply.
fn explained(fixture: &Fixture) -> Result<String> {
    let source = fixture.lab.tunnels()[0].plan.address.to_string();
    let printed = fixture
        .program
        .run(&["explain", &source, &OUTSIDE.to_string()])?;
    Ok(printed.stdout)
}

variants!(an_exit_in_another_table: tun(Tun, Auto), tun_clsact(Tun, Clsact));

/// The routes are added long after the interface, in one form after the other, and removed again.
fn an_exit_in_another_table(_: Flavour, hook: Hook) -> Result<()> {
    for (made_by, via) in [(TUN, ""), (ETHERNET, " via 2001:db8:5::2 onlink")] {
        let fixture = with_exit(made_by, hook)?;
        let daemon = fixture.start()?;
        fixture.host().sh(&format!("ip -6 rule add {RULE}"))?;
        assert_eq!(uplinks(&fixture.program.status()?), [UPLINK]);
        for destinations in [
            &["default"][..],
            &["2000::/4", "3000::/4"],
            &["::/1"],
            &["2000::/5", "2800::/5", "3000::/5", "3800::/6", "3c00::/6"],
        ] {
            let routes = |verb: &str| -> Result<()> {
                for destination in destinations {
                    let command = format!("ip -6 route {verb} {destination} dev ts1{via} table 53");
                    fixture.host().sh(&command)?;
                }
                Ok(())
            };
            routes("add")?;
            is_guarded(&fixture)?;
            assert!(leads_there(&fixture)?);
            all_is_caught(&fixture)?;
            let explained = explained(&fixture)?;
            assert!(
                explained.contains("sixxs_egress at ts1: a leak"),
                "{explained}"
            );
            routes("del")?;
            is_not_guarded(&fixture)?;
        }
        // A route to less than an eighth of the address space does not make an exit.
        fixture
            .host()
            .sh(&format!("ip -6 route add 3000::/4 dev ts1{via} table 53"))?;
        fixture.ensure_outside_answered(&fixture.lab.tunnels()[0])?;
        assert_eq!(uplinks(&fixture.program.status()?), [UPLINK]);
        assert_eq!(daemon.stop()?, 0);
    }
    Ok(())
}

/// The rule also makes the interface an exit. A daemon that starts later finds everything in place.
#[test]
fn a_rule_comes_and_goes() -> Result<()> {
    let fixture = with_exit(TUN, Hook::Auto)?;
    fixture
        .host()
        .sh("ip -6 route add default dev ts1 table 53")?;
    let daemon = fixture.start()?;
    assert_eq!(uplinks(&fixture.program.status()?), [UPLINK]);
    fixture.host().sh(&format!("ip -6 rule add {RULE}"))?;
    is_guarded(&fixture)?;
    all_is_caught(&fixture)?;
    daemon.kill()?;
    all_is_caught(&fixture)?;
    let daemon = fixture.start()?;
    is_guarded(&fixture)?;
    all_is_caught(&fixture)?;
    fixture.host().sh(&format!("ip -6 rule del {RULE}"))?;
    is_not_guarded(&fixture)?;
    fixture.ensure_outside_answered(&fixture.lab.tunnels()[0])?;
    // A rule that ignores default routes, such as wg-quick's for the main table. The kernel still uses them
    // for destinations with a learned path MTU, which the leaks above caused.
    let suppressing = format!("{RULE} suppress_prefixlength 0");
    fixture
        .host()
        .sh(&format!("ip -6 rule add {suppressing}"))?;
    is_guarded(&fixture)?;
    all_is_caught(&fixture)?;
    assert_eq!(daemon.stop()?, 0);
    Ok(())
}

/// Only replies in the first milliseconds of a new exit are lost, and none when the exit is removed. This is
/// also true on a router with many routes, where not every scan reads all of them.
#[test]
fn few_replies_are_lost_when_it_comes() -> Result<()> {
    for routes in [0, 5000] {
        let fixture = with_exit(TUN, Hook::Auto)?;
        let many: String = (0..routes)
            .map(|n| {
                format!(
                    "route add 2001:db8:f{:x}:{:x}::/64 dev lo\n",
                    n >> 12,
                    n & 0xfff
                )
            })
            .collect();
        fixture.host().ip(&many)?;
        let daemon = fixture.start()?;
        fixture.host().sh(&format!("ip -6 rule add {RULE}"))?;
        let address = fixture.lab.tunnels()[0].plan.address;
        fixture.wait_for_addresses()?;
        assert!(ping(fixture.lab.outside(), address, 10)?.all_answered());
        let interval = Duration::from_millis(2);
        let stream = PingStream::start(fixture.lab.outside(), address, interval)?;
        let more_are_answered = || {
            let enough = stream.state().pings.answered + 50;
            let state = || Ok(stream.state());
            let limit = Duration::from_secs(5);
            wait::until("more are answered", limit, state, |state| {
                state.pings.answered >= enough
            })
        };
        for _ in 0..3 {
            more_are_answered()?;
            fixture
                .host()
                .sh("ip -6 route add default dev ts1 table 53")?;
            is_guarded(&fixture)?;
            more_are_answered()?;
            fixture
                .host()
                .sh("ip -6 route del default dev ts1 table 53")?;
            more_are_answered()?;
            is_not_guarded(&fixture)?;
        }
        let pings = stream.stop()?;
        println!("{routes} routes: {pings:?}");
        // Three times some 30 ms, on a busy machine.
        ensure!(pings.sent - pings.answered < 45, "{pings:?}");
        fixture.ensure_nothing_lost()?;
        assert_eq!(daemon.stop()?, 0);
    }
    Ok(())
}

/// An exit in the table of a VRF. The kernel's l3mdev rule leads to the tables of all VRFs.
#[test]
fn a_table_of_a_vrf() -> Result<()> {
    if !kernel::can_run("vrf", kernel::has_vrf()?)? {
        return Ok(());
    }
    let fixture = with_exit(ETHERNET, Hook::Auto)?;
    fixture.host().sh("ip link add vrf1 type vrf table 53")?;
    let daemon = fixture.start()?;
    fixture.host().ip("link set vrf1 up\n\
         link set ts1 master vrf1\n\
         address add 2001:db8:5::1/64 dev ts1 nodad\n\
         route add default via 2001:db8:5::2 dev ts1 table 53\n")?;
    is_guarded(&fixture)?;
    fixture.host().sh("ip -6 route del default table 53")?;
    is_not_guarded(&fixture)?;
    assert_eq!(daemon.stop()?, 0);
    Ok(())
}

/// Each of several native uplinks may be a tunnel of kind `interface`. Then no other uplink exists, which is
/// correct.
#[test]
fn a_native_uplink_that_is_a_tunnel() -> Result<()> {
    let fixture = with_exit("", Hook::Auto)?;
    let [first, _] = fixture.lab.tunnels();
    let [own, gateway] = ["2001:db8:1::1", "2001:db8:1::fe"];
    fixture.lab.write_config(&format!(
        "[[tunnel]]\nname = \"{UPLINK}\"\nkind = \"interface\"\naddress = \"{own}\"\ngateway = \"{gateway}\"\n\
         [[tunnel]]\nname = \"sixxs0\"\nkind = \"interface\"\n{}",
        fixture.lab.tunnel_config(first.plan)
    ))?;
    let daemon = fixture.start()?;
    fixture.program.status_until("all is healthy", |status| {
        status.healthy && status.problems.is_empty() && status.tunnels.len() == 2
    })?;
    let outside = fixture.lab.outside();
    for address in [own.parse()?, first.plan.address] {
        assert!(ping(outside, address, 5)?.all_answered(), "{address}");
    }
    let (code, report) = fixture.program.json(&["doctor"])?;
    assert_eq!(code, 0, "{report:#?}");
    // The tunnel counts no pings to another address of the same interface, and no replies from it.
    fixture
        .host()
        .sh("ip -6 address add 2001:db8:1::77/64 dev net0 nodad")?;
    let counted = || -> Result<[u64; 2]> {
        let status = fixture.program.status()?;
        let echo = &status.tunnel(UPLINK).echo;
        Ok([echo.requests_in, echo.replies_out])
    };
    assert_eq!(counted()?, [5, 5]);
    assert!(ping(outside, "2001:db8:1::77".parse()?, 5)?.all_answered());
    assert_eq!(counted()?, [5, 5]);
    // Leaks at one of them are redirected to the other.
    let socket = leak::udp_socket(
        fixture.host(),
        first.plan.address,
        leak::Cause::Device(UPLINK),
    )?;
    leak::send(&socket, OUTSIDE, 5, 100)?;
    fixture.program.status_until("leaks are caught", |status| {
        status.tunnel("sixxs0").leaks.redirected == 5
    })?;
    fixture.ensure_nothing_lost()?;
    assert_eq!(daemon.stop()?, 0);
    Ok(())
}

/// The filter of a second provider, and the replies that leave by each uplink.
const SECOND_ISP: &str = "table ip6 second {
    counter replies_by_first { }
    counter replies_by_second { }
    counter filtered_by_second { }
    chain from_host {
        type filter hook prerouting priority raw
        iifname \"host\" ip6 saddr 2001:db8:1::1 icmpv6 type echo-reply counter name replies_by_first
        iifname != \"host2\" return
        ip6 daddr ff00::/8 return
        ip6 saddr { fe80::/10, :: } return
        ip6 saddr != 2001:db8:2::/64 counter name filtered_by_second drop
        ip6 saddr 2001:db8:2::1 icmpv6 type echo-reply counter name replies_by_second
    }
}";

/// Both native uplinks of a host are tunnels of kind `interface`: each answers by itself, and nothing is reported as
/// wrong. What `doctor` suggests is accepted.
#[test]
fn two_native_uplinks_that_are_tunnels() -> Result<()> {
    let fixture = with_exit("", Hook::Auto)?;
    let (lab, host, isp) = (&fixture.lab, fixture.host(), fixture.lab.isp());
    host.ip(&format!(
        "link add net1 type veth peer name host2 netns {}\n\
         address add 2001:db8:2::1/64 dev net1 nodad\n\
         link set net1 up\n",
        isp.name()
    ))?;
    isp.ip("address add 2001:db8:2::fe/64 dev host2 nodad\n\
         link set host2 up\n")?;
    lab.core()
        .ip("route add 2001:db8:2::/64 via fe80::2 dev isp\n")?;
    nft::load(isp, SECOND_ISP)?;
    for namespace in [host, isp] {
        namespace.speed_up_neighbour_discovery()?;
    }
    host.sh("ip -6 route add default via 2001:db8:2::fe dev net1 metric 2048")?;
    let uplinks = [
        (UPLINK, "2001:db8:1::1", "2001:db8:1::fe"),
        ("net1", "2001:db8:2::1", "2001:db8:2::fe"),
    ];
    let config: String = uplinks
        .iter()
        .map(|(name, own, gateway)| {
            format!(
                "[[tunnel]]\nname = \"{name}\"\nkind = \"interface\"\naddress = \"{own}\"\n\
                 gateway = \"{gateway}\"\n"
            )
        })
        .collect();
    lab.write_config(&config)?;
    let daemon = fixture.start()?;
    let is_well = || {
        fixture.program.status_until("all is healthy", |status| {
            status.healthy && status.problems.is_empty() && status.tunnels.len() == 2
        })
    };
    is_well()?;
    for (_, own, _) in uplinks {
        let pings = ping(lab.outside(), own.parse()?, 5)?;
        ensure!(pings.all_answered(), "{own}: {pings:?}");
    }
    let counters = nft::read(isp)?;
    for name in ["replies_by_first", "replies_by_second"] {
        assert_eq!(counters.get(name)?, 5, "{name}");
    }
    let status = fixture.program.status()?;
    for (name, ..) in uplinks {
        let echo = status.tunnel(name).echo;
        assert_eq!((echo.requests_in, echo.replies_out), (5, 5), "{name}");
    }
    let (code, report) = fixture.program.json(&["doctor"])?;
    assert_eq!(code, 0, "{report:#?}");

    // A leak at either uplink is redirected into the other one.
    for ((name, own, _), (other, ..)) in uplinks.into_iter().zip([uplinks[1], uplinks[0]]) {
        let socket = leak::udp_socket(host, own.parse()?, leak::Cause::Device(other))?;
        leak::send(&socket, OUTSIDE, 5, 100)?;
        fixture.program.status_until("leaks are caught", |status| {
            status.tunnel(name).leaks.redirected == 5
        })?;
    }
    fixture.ensure_nothing_lost()?;
    assert_eq!(nft::read(isp)?.get("filtered_by_second")?, 0);
    is_well()?;

    // A third exit, and a configuration that names another interface.
    host.ip(&format!("{TUN}link add net2 type veth peer name far2\n"))?;
    host.sh(&format!("ip -6 route add default dev {EXIT} metric 4096"))?;
    lab.write_config(&format!("uplinks = [\"net2\"]\n{config}"))?;
    fixture.program.run_ok(&["reload"])?;
    is_line_accepted(&fixture, &config)?;
    assert_eq!(daemon.stop()?, 0);
    Ok(())
}

/// The line that `doctor` suggests for this configuration is accepted there, and cures.
fn is_line_accepted(fixture: &Fixture, config: &str) -> Result<()> {
    let found = || -> Result<Option<String>> {
        let (_, report) = fixture.program.json(&["doctor"])?;
        let mut findings = report[0]["findings"].as_array().into_iter().flatten();
        let found =
            findings.find(|finding| finding["about"] == "uplink" && finding["verdict"] == "bad");
        Ok(found.and_then(|found| found["fix"].as_str().map(str::to_owned)))
    };
    let fix = found()?.context("a fix")?;
    let (line, _) = fix.split_once(" in the configuration").context("a line")?;
    assert_eq!(line, "uplinks = [\"net2\", \"ts1\"]");
    fixture.lab.write_config(&format!("{line}\n{config}"))?;
    fixture.program.run_ok(&["reload"])?;
    assert_eq!(found()?, None);
    Ok(())
}

/// If the configuration names other uplinks, nothing is caught at this exit. `explain` and `doctor` report
/// it.
#[test]
fn an_exit_that_is_not_named() -> Result<()> {
    let fixture = Fixture::new(Flavour::Tun, Hook::Auto)?;
    fixture.host().ip(TUN)?;
    let daemon = fixture.start()?;
    fixture
        .host()
        .sh("ip -6 route add default dev ts1 table 53")?;
    fixture.host().sh(&format!("ip -6 rule add {RULE}"))?;
    let explained = explained(&fixture)?;
    assert!(
        explained.contains("would leak by ts1 (ts1 is an exit that `uplinks` does not name"),
        "{explained}"
    );
    let findings = fixture.program.run(&["doctor"])?.stdout;
    assert!(findings.contains("ts1 is an exit"), "{findings}");
    assert_eq!(uplinks(&fixture.program.status()?), [UPLINK]);
    assert_eq!(daemon.stop()?, 0);
    Ok(())
}
