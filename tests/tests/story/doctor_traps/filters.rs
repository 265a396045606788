//! Foreign filters, rules and programs.

use std::time::Duration;

use anyhow::{Context as _, Result};
use sixxs_tests::kernel::bpf::{self, Order};
use sixxs_tests::lab::Tunnel;
use sixxs_tests::lab::nft;
use sixxs_tests::lab::topology::{Flavour, OUTSIDE, UPLINK};
use sixxs_tests::probe::Ping;
use sixxs_tests::program::Hook;
use sixxs_tests::{ip6tables, kernel, probe};

use super::{apply, fix, is_fixed, trap, traps};
use crate::fixture::Fixture;

/// A filter, such as firewalld's, that drops packets if the route to their source leads to another interface.
/// It is harmless while the daemon's rules are in place, and drops everything without them.
#[test]
fn a_reverse_path_filter() -> Result<()> {
    let fixture = Fixture::new(Flavour::Tun, Hook::Auto)?;
    let daemon = fixture.start()?;
    nft::load(
        fixture.host(),
        "table inet firewalld {
            chain filter_PREROUTING {
                type filter hook prerouting priority -140
                icmpv6 type { nd-neighbor-solicit, nd-neighbor-advert } accept
                meta nfproto ipv6 fib saddr . mark . iif oif missing drop
            }
        }",
    )?;
    let [tunnel, _] = fixture.lab.tunnels();
    trap(&fixture, "filters", "note")?;
    fixture.ensure_outside_answered(tunnel)?;
    assert_eq!(daemon.stop()?, 0);

    fixture.delete_own_rules()?;
    let found = trap(&fixture, "filters", "bad")?;
    let ping = || probe::ping(fixture.lab.outside(), tunnel.plan.address, 3);
    assert_eq!(ping()?.answered, 0, "it does drop");
    apply(&fixture, &found)?;
    assert!(traps(&fixture, "filters")?.is_empty());
    assert!(ping()?.all_answered(), "the programs catch the answers");

    // A loose filter needs any route to the source, and one exists.
    nft::load(
        fixture.host(),
        "flush ruleset
        table ip6 loose {
            chain pre {
                type filter hook prerouting priority -140
                fib saddr oif missing drop
            }
        }",
    )?;
    assert!(traps(&fixture, "filters")?.is_empty());
    assert!(ping()?.all_answered());
    Ok(())
}

/// The doctor finds reverse-path filters by their effect, in any form.
#[test]
fn reverse_path_filters_of_any_shape() -> Result<()> {
    let fixture = Fixture::new(Flavour::Tun, Hook::Auto)?;
    let [tunnel, _] = fixture.lab.tunnels();
    let host = fixture.host();
    let ping = || probe::ping(fixture.lab.outside(), tunnel.plan.address, 3);
    for (shape, rules) in [
        (
            "a jump",
            "chain dropped { counter drop; }
             chain pre {
                 type filter hook prerouting priority raw
                 meta nfproto ipv6 fib saddr . iif oif missing jump dropped
             }",
        ),
        (
            "a verdict map",
            "chain pre {
                 type filter hook prerouting priority raw
                 icmpv6 type { nd-neighbor-solicit, nd-neighbor-advert, nd-router-advert } accept
                 meta nfproto ipv6 fib saddr . iif oif vmap { 0 : drop }
             }",
        ),
        (
            "a policy",
            "chain pre {
                 type filter hook prerouting priority mangle + 10; policy drop
                 icmpv6 type { nd-neighbor-solicit, nd-neighbor-advert, nd-router-advert } accept
                 fib saddr . mark . iif oif exists accept
             }",
        ),
    ] {
        let daemon = fixture.start()?;
        nft::load(
            host,
            &format!("flush ruleset\ntable inet rpf {{\n{rules}\n}}\n"),
        )?;
        let found = trap(&fixture, "filters", "note")?;
        let detail = found["detail"].as_str().context("a detail")?;
        assert!(detail.contains("bound to net0"), "{shape}: {detail}");
        assert!(ping()?.all_answered(), "{shape}");
        // The programs steer replies to the uplink that the socket is bound to. There the filter drops them.
        let source = tunnel.plan.address.to_string();
        let bound = format!("ping -6 -c 1 -W 1 -I net0 -I {source} {OUTSIDE}");
        assert!(host.sh(&bound).is_err(), "{shape}");
        assert_eq!(daemon.stop()?, 0);
        fixture.delete_own_rules()?;
        assert_eq!(ping()?.answered, 0, "{shape}");
        is_fixed(&fixture, "filters", "bad")?;
        assert!(ping()?.all_answered(), "{shape}");
        nft::load(host, "flush ruleset")?;
        host.sh(&bound).context(shape)?;
    }
    Ok(())
}

/// The same with ip6tables. `nft` does not show its rules, or shows only their names.
fn a_filter_by_ip6tables(command: &str) -> Result<()> {
    let mut fixture = Fixture::new(Flavour::Tun, Hook::Auto)?;
    let environment = ip6tables::environment(&fixture.lab)?;
    fixture.program.add_environment(environment);
    let sh = |line: &str| fixture.program.shell(line);
    // The first rule is loose: it needs any route to the source, and one exists. The second is for other
    // interfaces.
    sh(&format!(
        "{command} -t raw -A PREROUTING -m rpfilter --loose --invert -j DROP
         {command} -t mangle -A PREROUTING -i eth+ -m rpfilter --invert -j DROP"
    ))?;
    assert!(traps(&fixture, "filters")?.is_empty());

    let daemon = fixture.start()?;
    sh(&format!(
        "{command} -t raw -A PREROUTING -m comment --comment 'to be strict' -m rpfilter --invert -j DROP"
    ))?;
    let [tunnel, _] = fixture.lab.tunnels();
    trap(&fixture, "filters", "note")?;
    fixture.ensure_outside_answered(tunnel)?;
    assert_eq!(daemon.stop()?, 0);
    fixture.delete_own_rules()?;
    let ping = || probe::ping(fixture.lab.outside(), tunnel.plan.address, 3);
    assert_eq!(ping()?.answered, 0, "it does drop");
    is_fixed(&fixture, "filters", "bad")?;
    assert!(ping()?.all_answered(), "the programs catch the answers");
    // After the fix, the command can still list its own rules.
    sh(&format!("{command}-save"))?;
    Ok(())
}

#[test]
fn a_filter_by_ip6tables_in_nftables() -> Result<()> {
    a_filter_by_ip6tables("ip6tables-nft")
}

#[test]
fn a_filter_by_the_old_ip6tables() -> Result<()> {
    if !kernel::has_ip6tables() {
        println!("skipped: this kernel has no ip_tables for IPv6 of its own");
        return Ok(());
    }
    a_filter_by_ip6tables("ip6tables-legacy")?;

    // If no program can list the rules, the doctor reports that.
    let mut fixture = Fixture::new(Flavour::Tun, Hook::Auto)?;
    let environment = ip6tables::environment(&fixture.lab)?;
    fixture.program.add_environment(environment);
    fixture
        .program
        .shell("ip6tables-legacy -t raw -A PREROUTING -m rpfilter --invert -j DROP")?;
    trap(&fixture, "filters", "bad")?;
    let none = fixture.lab.paths().base().to_owned();
    fixture.program.add_environment([("PATH", none)]);
    let found = trap(&fixture, "filters", "note")?;
    assert_eq!(fix(&found)?, "apt-get install iptables");
    Ok(())
}

#[test]
fn foreign_rules_and_unnamed_exits_are_found() -> Result<()> {
    let fixture = Fixture::new(Flavour::Tun, Hook::Auto)?;
    let address = fixture.lab.tunnels()[0].plan.address;
    let host = fixture.host();
    let rules = [
        format!("from {address} lookup main priority 100"),
        format!("from {address} unreachable priority 100"),
        "not from 2001:db8:b::/48 to 2000::/3 iif lo uidrange 0-0 lookup main priority 100"
            .to_owned(),
    ];
    let mut daemon = None;
    for _ in 0..2 {
        // This rule is for other packets.
        host.sh("ip -6 rule add fwmark 7 lookup main priority 90")?;
        assert!(traps(&fixture, "shadowed")?.is_empty());
        for rule in &rules {
            host.sh(&format!("ip -6 rule add {rule}"))?;
            is_fixed(&fixture, "shadowed", "bad").with_context(|| rule.clone())?;
        }
        host.sh("ip -6 rule del fwmark 7 lookup main priority 90")?;
        if daemon.is_none() {
            daemon = Some(fixture.start()?);
        }
    }

    // An interface with a default route that `uplinks` does not name.
    host.ip("link add net1 type veth peer name far1\n\
             link set far1 up\n\
             link set net1 up\n\
             address add 2001:db8:2::1/64 dev net1 nodad\n\
             route add ::/0 via 2001:db8:2::fe dev net1 metric 2048\n")?;
    let found = trap(&fixture, "uplink", "bad")?;
    let line = fix(&found)?;
    let line = line.split(" in the").next().unwrap_or_default();
    let config = fixture.lab.config("").replace("uplinks = [\"net0\"]", line);
    fixture.lab.write_config(&config)?;
    assert!(traps(&fixture, "uplink")?.is_empty());

    host.ip("link add ts1 type veth peer name ts2\n\
             link set ts1 up\n\
             route add 2000::/4 dev ts1 table 53\n\
             route add 3000::/4 dev ts1 table 53\n")?;
    assert!(traps(&fixture, "uplink")?.is_empty());
    host.sh("ip -6 rule add from all lookup 53 priority 5269")?;
    let found = trap(&fixture, "uplink", "bad")?;
    let line = fix(&found)?;
    assert!(line.contains("\"net1\", \"ts1\""), "{line}");
    host.sh("ip -6 rule del from all lookup 53 priority 5269")?;
    assert!(traps(&fixture, "uplink")?.is_empty());
    Ok(())
}

/// Rules that match a mark: software that sets the mark diverts packets from their tunnel.
#[test]
fn rules_that_refuse_marked_packets_are_found() -> Result<()> {
    let fixture = Fixture::new(Flavour::Tun, Hook::Auto)?;
    let host = fixture.host();
    let daemon = fixture.start()?;
    // Rules of VPNs and load balancers: the first leads to an uplink with the egress program, the second into
    // the tunnel, and the third ignores default routes.
    let table = 200;
    for rule in [
        "fwmark 0x80000/0xff0000 lookup main priority 5210".to_owned(),
        format!("fwmark 0x100/0x3f00 lookup {table} priority 2001"),
        "fwmark 0x200/0x3f00 lookup main suppress_prefixlength 0 priority 2002".to_owned(),
        "not fwmark 0xca6c lookup 51820 priority 16390".to_owned(),
    ] {
        host.sh(&format!("ip -6 rule add {rule}"))?;
    }
    assert!(traps(&fixture, "marked")?.is_empty());

    nft::load(
        host,
        "table ip6 marker {
            chain out {
                type route hook output priority mangle
                icmpv6 type { echo-request, echo-reply } meta mark set 7
            }
        }",
    )?;
    for action in ["unreachable", "blackhole"] {
        is_refused(&fixture, action)?;
    }

    // The rule leads to an interface without the egress program.
    host.ip("link add net1 type veth peer name far1\n\
             link set far1 up\n\
             link set net1 up\n\
             route add ::/0 dev net1 table 77\n")?;
    host.sh("ip -6 rule add fwmark 7 lookup 77 priority 100")?;
    let found = trap(&fixture, "marked", "note")?;
    let detail = found["detail"].as_str().context("a detail")?;
    assert!(detail.contains("routed to net1"), "{detail}");
    is_fixed(&fixture, "marked", "note")?;
    assert_eq!(daemon.stop()?, 0);
    Ok(())
}

/// The doctor reports a rule with this action for marked packets, and each of its fixes works.
fn is_refused(fixture: &Fixture, action: &str) -> Result<()> {
    let host = fixture.host();
    let [first, second] = fixture.lab.tunnels();
    let ping = |tunnel: &Tunnel| {
        let ping = Ping::new(tunnel.plan.address, 2).limit(Duration::from_millis(500));
        Ok::<_, anyhow::Error>(ping.run(fixture.lab.outside())?.answered)
    };
    let answered = || Ok::<_, anyhow::Error>([ping(first)?, ping(second)?]);
    assert_eq!(answered()?, [2, 2]);
    host.sh(&format!("ip -6 rule add fwmark 7 {action} priority 100"))?;
    assert_eq!(answered()?, [0, 0]);
    let found = trap(fixture, "marked", "note")?;
    let detail = found["detail"].as_str().context("a detail")?;
    let expected = format!(
        "sixxs0, sixxs1 with a mark are refused by a rule before the rules of sixxs: \
                            100: from all fwmark 0x7 {action}"
    );
    assert!(detail.contains(&expected), "{detail}");
    apply(fixture, &found)?;
    assert!(traps(fixture, "marked")?.is_empty());
    assert_eq!(answered()?, [2, 2]);
    host.sh("ip -6 rule del priority 99")?;
    host.sh("ip -6 rule del priority 99")?;
    // The other fix moves the rule behind the daemon's rules.
    let fix = found["fix"].as_str().context("a fix")?;
    let (_, moves) = fix
        .split_once("behind the rules of sixxs: ")
        .context("a move")?;
    fixture.program.shell(moves)?;
    assert!(traps(fixture, "marked")?.is_empty());
    assert_eq!(answered()?, [2, 2]);
    host.sh("ip -6 rule del priority 32765")?;
    Ok(())
}

/// A foreign program that runs first may end the processing of a packet.
#[test]
fn a_foreign_program_that_runs_first_is_found() -> Result<()> {
    let fixture = Fixture::new(Flavour::Tun, Hook::Auto)?;
    let mut daemon = fixture.start()?;
    if kernel::has_tcx()? {
        let empty = bpf::load_empty()?;
        let behind = bpf::attach(fixture.host(), &empty, UPLINK, false, Order::Last)?;
        assert!(traps(&fixture, "program order")?.is_empty());
        // Another test may be starting a process, which then has a copy of the descriptor. Dropping it would
        // not detach the program.
        let [_, theirs] = bpf::tcx(fixture.host(), UPLINK, false)?[..] else {
            panic!("not two programs");
        };
        bpf::detach(theirs.link)?;
        drop(behind);
        let _before = bpf::attach(fixture.host(), &empty, UPLINK, false, Order::First)?;
        trap(&fixture, "program order", "bad")?;
        // These are the steps of the fix.
        fixture.program.run_ok(&["down"])?;
        assert_eq!(daemon.wait()?, 0);
        daemon = fixture.start()?;
        assert!(traps(&fixture, "program order")?.is_empty());
        // The program is detached while no daemon can restore it.
        assert_eq!(daemon.stop()?, 0);
        assert!(traps(&fixture, "program")?.is_empty());
        for ours in bpf::tcx(fixture.host(), UPLINK, false)? {
            bpf::detach(ours.link)?;
        }
        let found = trap(&fixture, "program", "bad")?;
        assert!(fix(&found)?.starts_with("sixxs run"));
        daemon = fixture.start()?;
        assert!(traps(&fixture, "program")?.is_empty());
    }
    assert_eq!(daemon.stop()?, 0);
    Ok(())
}

#[test]
fn a_foreign_tc_filter_that_runs_first_is_found() -> Result<()> {
    let fixture = Fixture::new(Flavour::Tun, Hook::Clsact)?;
    let host = fixture.host();
    let filter = |pref| {
        format!(
            "tc filter add dev {UPLINK} egress pref {pref} protocol ipv6 u32 match u32 0 0 flowid 1:1"
        )
    };
    host.sh(&format!("tc qdisc add dev {UPLINK} clsact"))?;
    host.sh(&filter(1))?;
    let daemon = fixture.start()?;
    let found = trap(&fixture, "program order", "bad")?;
    let text = fix(&found)?;
    let delete = text.split("; then").next().unwrap_or_default();
    host.sh(delete)?;
    assert!(traps(&fixture, "program order")?.is_empty());
    host.sh(&filter(200))?;
    assert!(traps(&fixture, "program order")?.is_empty());
    assert_eq!(daemon.stop()?, 0);
    Ok(())
}
