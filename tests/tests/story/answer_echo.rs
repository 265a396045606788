//! `answer_echo = "kernel"`: the programs answer echo requests to a tunnel's own addresses, for a host that cannot.

use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use sixxs_tests::broker::Kind;
use sixxs_tests::kernel;
use sixxs_tests::lab::topology::Flavour;
use sixxs_tests::lab::{Lab, Spec, Tunnel, nft};
use sixxs_tests::probe::{Ping, PingStream};
use sixxs_tests::program::{Hook, Program, status};
use sixxs_tests::wait;

use crate::fixture::Fixture;

const KERNEL: &str = "answer_echo = \"kernel\"";

/// A firewall that drops every echo request.
pub(crate) const FIREWALL: &str = "table ip6 firewall { chain in { type filter hook input priority 0; icmpv6 type echo-request drop; }; }";

variants!(a_host_that_cannot_answer_answers: tun(Tun, Auto), veth(Veth, Auto), tun_clsact(Tun, Clsact),
    wireguard(WireGuard, Auto));

/// The number of pings that the programs answered, and the number whose reply the host owes.
fn counts(program: &Program, tunnel: &Tunnel) -> Result<[u64; 2]> {
    let (_, lines) = program.json(&["status"])?;
    let status = lines.first().context("a status")?;
    let mut tunnels = status["tunnels"].as_array().into_iter().flatten();
    let found = tunnels.find(|found| found["name"] == tunnel.plan.interface);
    let found = found.context("the tunnel")?;
    let count = |value: &serde_json::Value| value.as_u64().context("a number");
    Ok([
        count(&found["echo"]["answered_by_programs"])?,
        count(&found["proof"]["requests"])?,
    ])
}

/// All pings of several lengths are answered, also the longest that fits.
fn answers(lab: &Lab, tunnel: &Tunnel) -> Result<u64> {
    let sizes = [8, 56, 500, 1232];
    for bytes in sizes {
        let ping = Ping::new(tunnel.plan.address, 10).bytes(bytes);
        let pings = ping.run(lab.outside())?;
        ensure!(pings.all_answered(), "{bytes} bytes: {pings:?}");
    }
    Ok(10 * sizes.len() as u64)
}

fn a_host_that_cannot_answer_answers(flavour: Flavour, hook: Hook) -> Result<()> {
    let fixture = Fixture::with_spec(Spec::new(flavour), hook, KERNEL)?;
    let daemon = fixture.start()?;
    nft::load(fixture.host(), FIREWALL)?;
    for tunnel in fixture.lab.tunnels() {
        let sent = answers(&fixture.lab, tunnel).context("with a firewall")?;
        ensure!(counts(&fixture.program, tunnel)? == [sent, 0]);
    }
    let screen = fixture.program.run_ok(&["status"])?.stdout;
    ensure!(
        screen.contains("\n  programs  answered 40 pings\n"),
        "{screen}"
    );
    // No rules, and no daemon.
    daemon.kill()?;
    fixture.delete_own_rules()?;
    for tunnel in fixture.lab.tunnels() {
        answers(&fixture.lab, tunnel).context("without rules and daemon")?;
    }
    fixture.ensure_nothing_lost()?;
    // What does not fit arrives in fragments: the host answers them again.
    fixture.host().sh("nft delete table ip6 firewall")?;
    let _daemon = fixture.start()?;
    let tunnel = &fixture.lab.tunnels()[0];
    let [before, _] = counts(&fixture.program, tunnel)?;
    let long = Ping::new(tunnel.plan.address, 5).bytes(2000);
    // The first one finds out the path MTU.
    long.run(fixture.lab.outside())?;
    let pings = long.run(fixture.lab.outside())?;
    ensure!(pings.all_answered(), "{pings:?}");
    ensure!(counts(&fixture.program, tunnel)?[0] == before);
    Ok(())
}

/// A reload takes effect, and the proof is about the host again.
#[test]
fn the_configuration_decides_who_answers() -> Result<()> {
    let fixture = Fixture::new(Flavour::Tun, Hook::Auto)?;
    let _daemon = fixture.start()?;
    let tunnel = &fixture.lab.tunnels()[0];
    let sent = answers(&fixture.lab, tunnel)?;
    ensure!(counts(&fixture.program, tunnel)? == [0, sent]);
    fixture.lab.write_config(&fixture.lab.config(KERNEL))?;
    let check = fixture.program.run(&["reload", "--check"])?;
    ensure!(check.stdout.contains("answer_echo"), "{}", check.stdout);
    // A host that has not answered is failing. Once the programs answer, nothing is known about it.
    fixture
        .host()
        .sh("sysctl -qw net.ipv6.icmp.echo_ignore_all=1")?;
    let interval = Duration::from_millis(100);
    let stream = PingStream::start(fixture.lab.outside(), tunnel.plan.address, interval)?;
    let name = tunnel.plan.interface;
    let is = |health| move |status: &status::Status| status.tunnel(name).health == health;
    let limit = Duration::from_secs(30);
    wait::until(
        "it fails",
        limit,
        || fixture.program.status(),
        is("failing"),
    )?;
    stream.stop()?;
    let [_, owed] = counts(&fixture.program, tunnel)?;
    fixture.program.run_ok(&["reload"])?;
    answers(&fixture.lab, tunnel)?;
    ensure!(counts(&fixture.program, tunnel)? == [sent, owed]);
    wait::until(
        "the earlier pings are forgotten",
        limit,
        || fixture.program.status(),
        is("healthy"),
    )?;
    fixture
        .host()
        .sh("sysctl -qw net.ipv6.icmp.echo_ignore_all=0")?;
    fixture.lab.write_config(&fixture.lab.config(""))?;
    fixture.program.run_ok(&["reload"])?;
    answers(&fixture.lab, tunnel)?;
    ensure!(counts(&fixture.program, tunnel)? == [sent, owed + sent]);
    Ok(())
}

/// A tunnel that the programs carry answers although the daemon is dead.
#[test]
fn native_tunnels_answer() -> Result<()> {
    let kinds = [Kind::SixInFour, Kind::Ayiya];
    let fixture = Fixture::with_spec(Spec::native(kinds), Hook::Auto, KERNEL)?;
    let daemon = fixture.start()?;
    fixture.wait_until_up().with_context(|| daemon.log())?;
    nft::load(fixture.host(), FIREWALL)?;
    for tunnel in fixture.lab.tunnels() {
        let sent = answers(&fixture.lab, tunnel)?;
        ensure!(counts(&fixture.program, tunnel)? == [sent, 0]);
    }
    if kernel::has_decapsulation()? {
        daemon.kill()?;
        answers(&fixture.lab, &fixture.lab.tunnels()[0]).context("without a daemon")?;
    }
    Ok(())
}
