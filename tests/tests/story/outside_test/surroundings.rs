//! Uplinks, groups, treatments of leaks, several checks at once, and a daemon that is killed in the middle.

use std::process::{Child, Stdio};
use std::time::Duration;

use anyhow::{Result, ensure};
use sixxs_tests::kernel::{self, bpf};
use sixxs_tests::lab::topology::{Flavour, HOST, OUTSIDE, TUNNELS, UPLINK};
use sixxs_tests::lab::{Spec, nft};
use sixxs_tests::probe::{self, Ping};
use sixxs_tests::program::Hook;
use sixxs_tests::program::status::Status;
use sixxs_tests::wait;

use super::{FEWEST, LINKS, check, counted, is_whole, of, packets, started};
use crate::fixture::{Fixture, run_as_member};

const LIMIT: Duration = Duration::from_secs(10);

/// Number of programs at the uplink's ingress.
fn at_ingress(fixture: &Fixture) -> Result<usize> {
    let filters = format!("tc filter show dev {UPLINK} ingress");
    let filters = fixture.host().sh(&filters)?;
    let filters = filters.lines().filter(|line| line.contains("sixxs_"));
    Ok(bpf::tcx(fixture.host(), UPLINK, true)?.len() + filters.count())
}

/// The broker drops requests, and counts them. A check then takes more than a second.
const DEAD: &str = "table ip6 dead {
    counter dropped { }
    chain arrives {
        type filter hook prerouting priority -500
        iifname \"host\" icmpv6 type echo-request counter name dropped drop
    }
}";

/// Begins a check whose requests the first broker drops.
fn begin(fixture: &Fixture, links: [&str; 2]) -> Result<Child> {
    let [first, _] = fixture.lab.tunnels();
    nft::load(first.pop(), DEAD)?;
    let mut check = fixture
        .program
        .command(&["check", "--outside", links[0], links[1]]);
    let check = check.stdout(Stdio::null()).stderr(Stdio::null()).spawn()?;
    let dropped = || nft::read(first.pop())?.get("dropped");
    wait::until("requests are dropped", LIMIT, dropped, |count| *count > 0)?;
    Ok(check)
}

fn mend(fixture: &Fixture) -> Result<()> {
    let [first, _] = fixture.lab.tunnels();
    first.pop().sh("nft delete table ip6 dead")?;
    Ok(())
}

/// Without native tunnels, no program is at the uplink's ingress. One is attached for the test.
fn an_uplink_takes_part(flavour: Flavour, hook: Hook) -> Result<()> {
    let (fixture, daemon) = started(flavour, hook, 1280)?;
    let pair = [LINKS[0], UPLINK];
    check(&fixture, &pair)?;
    let (before, packets_before) = (counted(&fixture)?, packets(&fixture, UPLINK)?);
    let received = fixture.host().counts()?;
    let (code, tests) = check(&fixture, &pair)?;
    ensure!(code == 0 && tests.len() == 2, "{tests:#?}");
    let from_uplink = of(&tests, UPLINK, LINKS[0])?;
    ensure!(from_uplink["source"] == HOST.to_string(), "{from_uplink:#}");
    is_whole(from_uplink, 1280)?;
    ensure!(from_uplink["mtu"] == 1500, "{from_uplink:#}");
    let to_uplink = of(&tests, LINKS[0], UPLINK)?;
    if kernel::has_tcx()? {
        is_whole(to_uplink, 1280)?;
    } else {
        ensure!(to_uplink["cause"] == "not_tested", "{to_uplink:#}");
        ensure!(
            to_uplink["pass"] == true && to_uplink["sent"] == 0,
            "{to_uplink:#}"
        );
        let sentence = to_uplink["sentence"].as_str().unwrap_or_default();
        ensure!(sentence.contains("it needs Linux 6.6"), "{to_uplink:#}");
    }
    ensure!(
        counted(&fixture)? == before,
        "{before:#}\n{:#}",
        counted(&fixture)?
    );
    // The carriers of some flavours send outer packets by the uplink.
    if flavour == Flavour::Veth {
        let after = packets(&fixture, UPLINK)?;
        ensure!(
            after < packets_before + FEWEST,
            "{packets_before}, then {after}"
        );
    }
    let received = received.changes(&fixture.host().counts()?);
    ensure!(!received.contains("Echo"), "{received}");
    // The program goes a moment after the test.
    let expected = usize::from(kernel::has_tcx()?);
    ensure!(at_ingress(&fixture)? == expected);
    let seen = || at_ingress(&fixture);
    wait::until("nothing is left", LIMIT, seen, |seen| *seen == 0)?;
    ensure!(daemon.stop()? == 0);
    Ok(())
}

variants!(an_uplink_takes_part:
    uplink_tun(Tun, Auto), uplink_veth(Veth, Auto), uplink_clsact(Veth, Clsact));

/// A link of a group is a tunnel like others, whichever link carries the prefix.
#[test]
fn links_of_groups_are_tested() -> Result<()> {
    let fixture = Fixture::with_spec(Spec::new(Flavour::Tun), Hook::Auto, "")?;
    let group = "\n[[group]]\nname = \"lan\"\nlinks = [\"sixxs0\", \"sixxs1\"]\nprefixes = [\"2001:db8:cc::/48\"]\n";
    fixture
        .lab
        .write_config(&(fixture.lab.config("") + group))?;
    let daemon = fixture.start()?;
    fixture.wait_until_up()?;
    let (code, tests) = check(&fixture, &LINKS)?;
    ensure!(code == 0, "{tests:#?}");
    for (from, to) in [(0, 1), (1, 0)] {
        is_whole(of(&tests, LINKS[from], LINKS[to])?, 1280)?;
    }
    let printed = fixture
        .program
        .run(&["check", "--outside", "lan", "sixxs1"])?;
    ensure!(printed.code == 1, "{printed:#?}");
    ensure!(
        printed.stderr.contains("no tunnel or uplink \"lan\""),
        "{printed:#?}"
    );
    ensure!(daemon.stop()? == 0);
    Ok(())
}

/// What happens to leaks does not matter, since requests leave by their own link. Real leaks are treated meanwhile.
#[test]
fn leaks_are_treated_as_before() -> Result<()> {
    for on_leak in ["redirect", "drop", "observe"] {
        let extra = format!("on_leak = \"{on_leak}\"\n");
        let fixture = Fixture::with_spec(Spec::new(Flavour::Veth), Hook::Auto, &extra)?;
        let daemon = fixture.start()?;
        fixture.wait_until_up()?;
        let (code, tests) = check(&fixture, &LINKS)?;
        ensure!(code == 0, "{on_leak}: {tests:#?}");
        let status = fixture.program.status()?;
        ensure!(
            status
                .tunnels
                .iter()
                .all(|tunnel| tunnel.leaks == Default::default()),
            "{status:#?}"
        );
        let socket = probe::leak::udp_socket(
            fixture.host(),
            TUNNELS[0].address,
            probe::leak::Cause::Device(UPLINK),
        )?;
        let tests = std::thread::scope(|scope| {
            let testing = scope.spawn(|| check(&fixture, &LINKS));
            probe::leak::send(&socket, OUTSIDE, 50, 100)?;
            testing.join().expect("a check does not panic")
        })?;
        ensure!(tests.0 == 0, "{on_leak}: {tests:#?}");
        let leaks = fixture.program.status()?.tunnel(LINKS[0]).leaks;
        ensure!(
            leaks.redirected + leaks.dropped + leaks.observed == 50,
            "{on_leak}: {leaks:?}"
        );
        ensure!(daemon.stop()? == 0);
    }
    Ok(())
}

/// Real pings, also between both tunnels' addresses, are answered and counted while tests run.
#[test]
fn real_pings_are_answered_meanwhile() -> Result<()> {
    let (fixture, daemon) = started(Flavour::Tun, Hook::Auto, 1280)?;
    let before = fixture.program.status()?.tunnel(LINKS[0]).proof;
    let (tests, pings, between) = std::thread::scope(|scope| {
        let testing = scope.spawn(|| check(&fixture, &LINKS));
        let pings = probe::ping(fixture.lab.outside(), TUNNELS[0].address, 20)?;
        let between = Ping::new(TUNNELS[1].address, 5)
            .source(TUNNELS[0].address)
            .run(fixture.host())?;
        anyhow::Ok((
            testing.join().expect("a check does not panic")?,
            pings,
            between,
        ))
    })?;
    ensure!(tests.0 == 0, "{tests:#?}");
    ensure!(pings.sent == 20 && pings.all_answered(), "{pings:?}");
    ensure!(between.all_answered(), "{between:?}");
    let after = fixture.program.status()?.tunnel(LINKS[0]).proof;
    ensure!(
        after.answered == before.answered + 20,
        "{before:?} {after:?}"
    );
    ensure!(daemon.stop()? == 0);
    Ok(())
}

/// One request at a time is carried out; inside tests run beside it.
#[test]
fn a_second_check_is_refused() -> Result<()> {
    let (fixture, daemon) = started(Flavour::Tun, Hook::Auto, 1280)?;
    let mut running = begin(&fixture, LINKS)?;
    let refused = fixture.program.run(&["check", "--outside"]);
    let inside = fixture.program.run(&["check", "sixxs1"]);
    running.wait()?;
    let refused = refused?;
    ensure!(refused.code == 1, "{refused:#?}");
    ensure!(
        refused.stderr.contains("another outside test is running"),
        "{refused:#?}"
    );
    let inside = inside?;
    ensure!(
        inside.stdout.contains("pass  sixxs1          inside "),
        "{inside:#?}"
    );
    ensure!(daemon.stop()? == 0);
    Ok(())
}

/// A daemon that is killed in the middle leaves nothing that catches packets, and no program; the end of a daemon does not
/// wait for tests.
#[test]
fn an_end_in_the_middle_leaves_nothing() -> Result<()> {
    let (fixture, daemon) = started(Flavour::Tun, Hook::Auto, 1280)?;
    let has_tcx = kernel::has_tcx()?;
    let to = if has_tcx { UPLINK } else { LINKS[1] };
    let mut running = begin(&fixture, [LINKS[0], to])?;
    ensure!(at_ingress(&fixture)? == usize::from(has_tcx));
    daemon.kill()?;
    ensure!(!running.wait()?.success());
    ensure!(at_ingress(&fixture)? == 0);
    mend(&fixture)?;
    for tunnel in fixture.lab.tunnels() {
        fixture.ensure_outside_answered(tunnel)?;
    }
    let daemon = fixture.start()?;
    fixture.wait_until_up()?;
    let (code, tests) = check(&fixture, &LINKS)?;
    ensure!(code == 0, "{tests:#?}");
    let mut running = begin(&fixture, LINKS)?;
    let ended = daemon.stop_within(Duration::from_secs(1) * wait::patience());
    running.wait()?;
    ensure!(ended? == 0);
    Ok(())
}

/// Only root may send packets by the daemon.
#[test]
fn others_do_not_test() -> Result<()> {
    let printed = run_as_member(&["check", "--outside"])?;
    ensure!(
        printed.code == 1 && printed.stderr.contains("only root"),
        "{printed:#?}"
    );
    Ok(())
}

/// A link that cannot be tested is named, and does not fail.
#[test]
fn links_that_are_left_out_are_named() -> Result<()> {
    let fixture = Fixture::new(Flavour::Tun, Hook::Auto)?;
    let more = "[[tunnel]]\nname = \"late0\"\nkind = \"interface\"\naddress = \"2001:db8:c::2\"\n";
    let config = fixture.lab.config("");
    fixture.lab.write_config(&format!("{config}{more}"))?;
    let daemon = fixture.start()?;
    let both = |status: &Status| {
        let mut lab = LINKS.iter();
        lab.all(|name| status.tunnel(name).is_whole())
    };
    fixture.program.status_until("both are up", both)?;
    let (code, tests) = check(&fixture, &[])?;
    ensure!(code == 0 && !tests.is_empty(), "{tests:#?}");
    ensure!(
        tests.iter().all(|test| test["from"] != "late0"),
        "{tests:#?}"
    );
    let printed = fixture.program.run_ok(&["check", "--outside"])?.stdout;
    ensure!(
        printed.contains("late0           outside  left out: it has no interface"),
        "{printed}"
    );
    ensure!(daemon.stop()? == 0);
    Ok(())
}
