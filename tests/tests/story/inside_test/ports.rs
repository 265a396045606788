//! TCP and UDP ports are tested in the same way.

use std::net::{Ipv6Addr, UdpSocket};

use anyhow::{Context as _, Result, ensure};
use nix::libc;
use serde_json::Value;
use sixxs_tests::lab::nft;
use sixxs_tests::lab::topology::Flavour;
use sixxs_tests::probe::service::{DISCARD_PORT, TCP_PORT, UDP_PORT};
use sixxs_tests::program::Hook;
use sixxs_tests::socket_option;
use sixxs_tests::wait;

use super::{LIMIT, NAME, answers, started};
use crate::fixture::Fixture;

/// The test of a port, by its protocol and number.
fn port(fixture: &Fixture, protocol: &str, number: u16) -> Result<Value> {
    let (option, number) = (format!("--{protocol}"), number.to_string());
    let (_, mut values) = fixture.program.json(&["check", NAME, &option, &number])?;
    let report = values.pop().context("a report")?;
    let checks = report["checks"].as_array().context("checks")?;
    let mut inside = checks.iter().map(|check| &check["inside"]);
    let found = inside.find(|inside| inside["protocol"] == protocol);
    found
        .cloned()
        .with_context(|| format!("no test: {report:#}"))
}

/// The number of half-open TCP connections of the host.
fn half_open(fixture: &Fixture) -> Result<usize> {
    let sockets = fixture.host().run(|| {
        let text = std::fs::read_to_string("/proc/thread-self/net/tcp6");
        text.context("list TCP sockets")
    })?;
    // The state is the fourth field: TCP_SYN_RECV is 3.
    let states = sockets.lines().map(|line| line.split_whitespace().nth(3));
    Ok(states.filter(|state| *state == Some("03")).count())
}

variants!(ports_are_tested: tun_ports(Tun, Auto), veth_ports(Veth, Auto), tun_clsact_ports(Tun, Clsact));

fn ports_are_tested(flavour: Flavour, hook: Hook) -> Result<()> {
    const CLOSED: u16 = 4443;
    const REPEATED: u64 = 8;
    let (fixture, daemon) = started(flavour, hook, "")?;
    answers(&fixture)?;
    let [first, _] = fixture.lab.tunnels();
    let counted = || -> Result<[u64; 3]> {
        let packets = fixture.program.status()?.tunnel(NAME).packets;
        let reached = first.broker_counters()?.get("from_host")?;
        Ok([packets.into, packets.out, reached])
    };
    let mut more = Vec::new();
    for (protocol, number, pass, words) in [
        (
            "tcp",
            TCP_PORT,
            true,
            "accepts TCP port 7007 from 3fff:fff::1: leaves by sixxs0",
        ),
        (
            "tcp",
            CLOSED,
            false,
            "refuses TCP port 4443 from 3fff:fff::1: the refusal leaves by sixxs0",
        ),
        (
            "udp",
            UDP_PORT,
            true,
            "answers at UDP port 7 from 3fff:fff::1: leaves by sixxs0",
        ),
        (
            "udp",
            CLOSED,
            false,
            "refuses UDP port 4443 from 3fff:fff::1: the refusal leaves by sixxs0",
        ),
        (
            "udp",
            DISCARD_PORT,
            true,
            "takes UDP port 9 from 3fff:fff::1, and sends no answer",
        ),
    ] {
        let before = counted()?;
        for _ in 0..REPEATED {
            let tested = port(&fixture, protocol, number)?;
            let sentence = tested["sentence"].as_str().unwrap_or_default();
            ensure!(
                tested["pass"] == pass && sentence.contains(words),
                "{tested:#}"
            );
            ensure!(tested["port"] == number, "{tested:#}");
            let refuses = sentence.contains("refuses");
            ensure!((tested["cause"] == "refused") == refuses, "{tested:#}");
        }
        let after = counted()?;
        more.push([0, 1, 2].map(|at| after[at] - before[at]));
    }
    // Nothing was sent or counted. Some flavours have packets of their own, such as listener reports, but not as many as there
    // are tests of a kind.
    let sum = |at: usize| more.iter().map(|more| more[at]).sum::<u64>();
    ensure!([0, 1, 2].iter().all(|at| sum(*at) < REPEATED), "{more:?}");
    ensure!(half_open(&fixture)? == 0, "half-open connections");
    // Real connections work as before.
    fixture.ensure_outside_answered(first)?;
    // One whose end a filter drops is found.
    nft::load(
        fixture.host(),
        "table inet resets { chain in { type filter hook input priority 0; tcp flags & rst == rst drop; }; }",
    )?;
    ensure!(port(&fixture, "tcp", TCP_PORT)?["pass"] == true);
    ensure!(half_open(&fixture)? == 1);
    ensure!(daemon.stop()? == 0);
    Ok(())
}

/// The host limits the rate of its errors, so that a closed port does not answer.
#[test]
fn a_closed_port_without_error_is_named() -> Result<()> {
    const CLOSED: u16 = 4443;
    let (fixture, _daemon) = started(Flavour::Tun, Hook::Auto, "")?;
    let tested = port(&fixture, "udp", CLOSED)?;
    ensure!(tested["cause"] == "refused", "{tested:#}");
    fixture
        .host()
        .sh("sysctl -qw net.ipv6.icmp.ratelimit=1000000")?;
    let limited = || port(&fixture, "udp", CLOSED);
    let found = wait::until("its errors are limited", LIMIT, limited, |tested| {
        tested["cause"] == "no_socket"
    })?;
    ensure!(
        found["reason"] == "NO_SOCKET" && found["pass"] == false,
        "{found:#}"
    );
    answers(&fixture)?;
    Ok(())
}

/// A filter for a port is named, and the ping is answered.
#[test]
fn a_filter_for_a_port_is_named() -> Result<()> {
    let (fixture, _daemon) = started(Flavour::Tun, Hook::Auto, "")?;
    let rules = format!("tcp dport {TCP_PORT} drop; udp dport {UDP_PORT} drop;");
    nft::load(
        fixture.host(),
        &format!(
            "table inet ports {{ chain in {{ type filter hook input priority 0; {rules} }}; }}"
        ),
    )?;
    for (protocol, number) in [("tcp", TCP_PORT), ("udp", UDP_PORT)] {
        let tested = port(&fixture, protocol, number)?;
        ensure!(
            tested["pass"] == false && tested["cause"] == "packet_filter",
            "{tested:#}"
        );
        let sentence = tested["sentence"].as_str().unwrap_or_default();
        ensure!(
            sentence.contains("chain inet ports in at input"),
            "{tested:#}"
        );
    }
    answers(&fixture)?;
    Ok(())
}

/// A reason that has no sentence of its own is shown as the kernel names it.
#[test]
fn other_reasons_are_shown_as_they_are() -> Result<()> {
    const PORT: u16 = 4445;
    let (fixture, _daemon) = started(Flavour::Tun, Hook::Auto, "")?;
    let socket = fixture.host().run(|| {
        let socket = UdpSocket::bind((Ipv6Addr::UNSPECIFIED, PORT));
        socket.context("open a socket")
    })?;
    // A socket filter that takes nothing: `return 0`.
    let mut code = [libc::sock_filter {
        code: 6,
        jt: 0,
        jf: 0,
        k: 0,
    }];
    let filter = libc::sock_fprog {
        len: 1,
        filter: code.as_mut_ptr(),
    };
    socket_option::set(&socket, libc::SOL_SOCKET, libc::SO_ATTACH_FILTER, filter)?;
    let tested = port(&fixture, "udp", PORT)?;
    ensure!(
        tested["cause"] == "unknown" && tested["reason"] == "SOCKET_FILTER",
        "{tested:#}"
    );
    let sentence = tested["sentence"].as_str().unwrap_or_default();
    ensure!(sentence.contains("SOCKET_FILTER"), "{tested:#}");
    Ok(())
}
