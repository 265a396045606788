//! The causes of a missing answer, each provoked, and the trace that shows them.

use std::process::Command;

use anyhow::{Context as _, Result, ensure};
use sixxs_tests::kernel;
use sixxs_tests::kernel::bpf::{self, Order};
use sixxs_tests::lab::nft;
use sixxs_tests::lab::topology::{Flavour, UPLINK};
use sixxs_tests::program::Hook;
use sixxs_tests::shell;

use super::{NAME, address, answers, breaks, fails, started, test, without_peers};
use crate::answer_echo::FIREWALL;

/// It leaves by an interface where no program is attached.
#[test]
fn an_answer_that_escapes_is_seen() -> Result<()> {
    let (fixture, daemon) = started(Flavour::Tun, Hook::Auto, "")?;
    let config = without_peers(&fixture.lab, "");
    let elsewhere = config.replace(
        &format!("uplinks = [\"{UPLINK}\"]"),
        "uplinks = [\"elsewhere0\"]",
    );
    ensure!(elsewhere != config, "{config}");
    fixture.lab.write_config(&elsewhere)?;
    ensure!(daemon.stop()? == 0);
    let _daemon = fixture.start()?;
    fixture.wait_until_up()?;
    let rule = format!("from {} lookup main priority 100", address());
    let words = format!("leaves by {UPLINK}, where no program sees it");
    breaks(
        &fixture,
        &format!("ip -6 rule add {rule}"),
        "leaves_elsewhere",
        &words,
        &format!("ip -6 rule del {rule}"),
    )?;
    Ok(())
}

#[test]
fn settings_of_the_host_are_named() -> Result<()> {
    let (fixture, _daemon) = started(Flavour::Tun, Hook::Auto, "")?;
    let address = address();
    let failed = breaks(
        &fixture,
        "sysctl -qw net.ipv6.icmp.echo_ignore_all=1",
        "echo_ignored",
        "the host ignores all pings",
        "sysctl -qw net.ipv6.icmp.echo_ignore_all=0",
    )?;
    ensure!(failed["reason"] == "NOT_SPECIFIED", "{failed:#}");
    // Older kernels print numbers.
    let location = &failed["location"];
    ensure!(location.is_null() || location == "icmpv6_rcv", "{failed:#}");
    ensure!(
        failed["cure"] == "sysctl -w net.ipv6.icmp.echo_ignore_all=0",
        "{failed:#}"
    );

    let assign = format!("ip -6 address add {address}/64 dev {NAME} nodad");
    breaks(
        &fixture,
        &format!("ip -6 address del {address}/64 dev {NAME}"),
        "no_address",
        &format!("no interface has {address}"),
        &assign,
    )?;

    let failed = breaks(
        &fixture,
        &format!("sysctl -qw net.ipv6.conf.{NAME}.disable_ipv6=1"),
        "ipv6_disabled",
        "IPv6 is switched off on sixxs0",
        &format!("sysctl -qw net.ipv6.conf.{NAME}.disable_ipv6=0\n{assign}"),
    )?;
    ensure!(failed["reason"] == "IPV6DISABLED", "{failed:#}");

    let rule = format!("from {address} unreachable priority 100");
    breaks(
        &fixture,
        &format!("ip -6 rule add {rule}"),
        "no_route",
        "the answer has no route",
        &format!("ip -6 rule del {rule}"),
    )?;
    Ok(())
}

/// The kernel lets some replies pass, until the limit for their destination is used up.
#[test]
fn a_rate_limit_is_named() -> Result<()> {
    let (fixture, _daemon) = started(Flavour::Tun, Hook::Auto, "")?;
    answers(&fixture)?;
    fixture.host().sh("sysctl -qw net.ipv6.icmp.ratemask=129")?;
    fixture
        .host()
        .sh("sysctl -qw net.ipv6.icmp.ratelimit=1000000")?;
    let failed = fails(&fixture, "rate_limit", "limits the rate")?;
    let cure = failed["cure"].as_str().context("a cure")?;
    fixture.host().sh(cure)?;
    answers(&fixture)?;
    Ok(())
}

#[test]
fn packet_filters_are_named() -> Result<()> {
    let (fixture, _daemon) = started(Flavour::Tun, Hook::Auto, "")?;
    answers(&fixture)?;
    nft::load(fixture.host(), FIREWALL)?;
    let failed = fails(
        &fixture,
        "packet_filter_in",
        "a packet filter drops the request (chain ip6 firewall in at input)",
    )?;
    ensure!(failed["reason"] == "NETFILTER_DROP", "{failed:#}");
    fixture.host().sh("nft delete table ip6 firewall")?;
    answers(&fixture)?;
    nft::load(
        fixture.host(),
        "table inet other { chain out { type filter hook output priority 0; icmpv6 type echo-reply drop; }; }",
    )?;
    let failed = fails(
        &fixture,
        "packet_filter_out",
        "a packet filter drops the answer (chain inet other out at output)",
    )?;
    ensure!(failed["reason"] == "NETFILTER_DROP", "{failed:#}");
    let printed = fixture.program.run(&["check", NAME])?;
    ensure!(printed.code == 3, "{printed:#?}");
    let is_it = |line: &str| {
        line.starts_with("FAIL  sixxs0          inside   ") && line.contains("NETFILTER_DROP")
    };
    ensure!(printed.stdout.lines().any(is_it), "{printed:#?}");
    fixture.host().sh("nft delete table inet other")?;
    answers(&fixture)?;
    // An error is an answer, but none to a ping.
    nft::load(
        fixture.host(),
        "table inet other { chain in { type filter hook input priority 0; \
         icmpv6 type echo-request reject with icmpv6 admin-prohibited; }; }",
    )?;
    let refused = test(&fixture)?;
    let sentence = refused["sentence"].as_str().unwrap_or_default();
    ensure!(
        refused["pass"] == false && refused["cause"] == "refused",
        "{refused:#}"
    );
    ensure!(
        sentence.contains("refuses a ping from 3fff:fff::1: the refusal leaves by sixxs0"),
        "{refused:#}"
    );
    fixture.host().sh("nft delete table inet other")?;
    answers(&fixture)?;
    Ok(())
}

/// The filter finds the route back while the rules are in place.
#[test]
fn a_reverse_path_filter_is_named() -> Result<()> {
    let (fixture, _daemon) = started(Flavour::Tun, Hook::Auto, "")?;
    nft::load(
        fixture.host(),
        "table ip6 reverse { chain pre { type filter hook prerouting priority -300; fib saddr . iif oif missing drop; }; }",
    )?;
    let rule = format!("from {} lookup main priority 100", address());
    breaks(
        &fixture,
        &format!("ip -6 rule add {rule}"),
        "packet_filter_in",
        "reverse-path filter ip6 reverse pre, handle ",
        &format!("ip -6 rule del {rule}"),
    )?;
    Ok(())
}

#[test]
fn an_ipsec_policy_is_named() -> Result<()> {
    let (fixture, _daemon) = started(Flavour::Tun, Hook::Auto, "")?;
    let has = fixture.host().sh("ip xfrm policy list").is_ok();
    if !kernel::can_run("xfrm", has)? {
        return Ok(());
    }
    let policy = format!("dir in src ::/0 dst {}/128", address());
    let failed = breaks(
        &fixture,
        &format!("ip xfrm policy add {policy} action block"),
        "ipsec_policy",
        "an IPsec policy",
        &format!("ip xfrm policy delete {policy}"),
    )?;
    ensure!(failed["reason"] == "XFRM_POLICY", "{failed:#}");
    Ok(())
}

/// Programs of other software before ours, and behind ours where packets arrive.
#[test]
fn foreign_programs_are_named() -> Result<()> {
    if !kernel::can_run("tcx", kernel::has_tcx()?)? {
        return Ok(());
    }
    let (fixture, _daemon) = started(Flavour::Tun, Hook::Tcx, "")?;
    let program = bpf::load_dropping()?;
    for (ingress, order, reason, words) in [
        (
            true,
            Order::First,
            "TC_INGRESS",
            "at the ingress of sixxs0 drops the request",
        ),
        (
            true,
            Order::Last,
            "TC_INGRESS",
            "at the ingress of sixxs0 drops the request",
        ),
        (
            false,
            Order::First,
            "TC_EGRESS",
            "at an egress drops the answer",
        ),
    ] {
        answers(&fixture)?;
        let link = bpf::attach(fixture.host(), &program, NAME, ingress, order)?;
        let failed = fails(&fixture, "foreign_program", words)?;
        ensure!(failed["reason"] == reason, "{failed:#}");
        let sentence = failed["sentence"].as_str().unwrap_or_default();
        ensure!(sentence.contains(" by tcx)"), "{failed:#}");
        drop(link);
    }
    answers(&fixture)?;
    let link = bpf::attach_dropping_generic_xdp(fixture.host(), NAME)?;
    fails(
        &fixture,
        "foreign_xdp",
        "an XDP program of other software on sixxs0",
    )?;
    drop(link);
    answers(&fixture)?;
    Ok(())
}

#[test]
fn a_foreign_filter_is_named() -> Result<()> {
    let (fixture, _daemon) = started(Flavour::Tun, Hook::Clsact, "")?;
    let pin = fixture.lab.paths().pins().join("foreign");
    bpf::pin(&pin, &bpf::load_dropping()?)?;
    let filter = format!("dev {NAME} ingress pref 200");
    let failed = breaks(
        &fixture,
        &format!(
            "tc filter add {filter} bpf direct-action object-pinned {}",
            pin.display()
        ),
        "foreign_program",
        "(bpf 200 by clsact) at the ingress of sixxs0",
        &format!("tc filter del {filter}"),
    )?;
    ensure!(failed["reason"] == "TC_INGRESS", "{failed:#}");
    Ok(())
}

/// Runs a script in a mount namespace with tracefs.
fn with_tracefs(script: &str) -> Result<String> {
    let script = format!("mount -t tracefs tracefs /sys/kernel/tracing\n{script}");
    shell::capture(Command::new("unshare").args(["--mount", "sh", "-ec", &script]))
}

/// A killed daemon leaves the instance of its trace behind. The next trace removes it, and leaves none.
#[test]
fn no_trace_is_left() -> Result<()> {
    let (fixture, daemon) = started(Flavour::Tun, Hook::Auto, "")?;
    let left = format!("sixxs-check-left-{}", std::process::id());
    let instances = "/sys/kernel/tracing/instances";
    with_tracefs(&format!("mkdir {instances}/{left}"))?;
    nft::load(fixture.host(), FIREWALL)?;
    fails(&fixture, "packet_filter_in", "")?;
    let found = with_tracefs(&format!("ls {instances}"))?;
    ensure!(!found.contains(&left), "{found}");
    // Other tests may trace at the same time; the threads of this daemon do not.
    for thread in std::fs::read_dir(format!("/proc/{}/task", daemon.pid()?))? {
        let own = format!("sixxs-check-{}-", thread?.file_name().display());
        ensure!(!found.contains(&own), "{found}");
    }
    ensure!(daemon.stop()? == 0);
    Ok(())
}
