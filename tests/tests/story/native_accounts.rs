//! Tunnels configured by their account only: the broker provisions the rest. Its parameters are saved. Its
//! refusals are reported and not retried at once.

use std::net::TcpStream;
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use sixxs_tests::broker::Kind;
use sixxs_tests::broker::tic::{Certificate, Fault, Outcome, Rule, Stage, Tic, TunnelRecord};
use sixxs_tests::lab::Spec;
use sixxs_tests::lab::native::{PASSWORD, TUNNEL_IDS};
use sixxs_tests::probe;
use sixxs_tests::program::status::Status;
use sixxs_tests::program::{Daemon, Hook};
use sixxs_tests::wait;

use crate::fixture::{Fixture, mixed_config};

const KINDS: [Kind; 2] = [Kind::Ayiya, Kind::Heartbeat];
/// The connect limit is high enough not to matter.
const NO_LIMIT: &str = "[connect_limit]\nconnects = 1000\n";
/// A daemon that buffered all received data would grow by this amount.
const FLOOD_BYTES: u64 = 64 << 20;

#[test]
fn a_restart_needs_no_connect_and_a_refresh_one() -> Result<()> {
    let fixture = Fixture::with_spec(Spec::native(KINDS), Hook::Auto, "")?;
    let lab = &fixture.lab;
    lab.write_config(&lab.write_aiccu_confs("", true)?)?;
    let tic = lab.tic()?;
    let daemon = fixture.start()?;
    fixture.wait_until_up().with_context(|| daemon.log())?;
    let status = fixture.program.status()?;
    for ((tunnel, kind), seen) in lab.tunnels().iter().zip(KINDS).zip(&status.tunnels) {
        assert_eq!(seen.kind, kind.name());
        assert_eq!(seen.addresses, [tunnel.plan.address.to_string()]);
        fixture.ensure_outside_answered(tunnel)?;
    }
    fixture.ensure_nothing_lost()?;
    let connects = tic.connects();
    assert_eq!(connects.len(), 2, "{connects:#?}");
    for connect in &connects {
        let told = connect.tls && connect.logged_in && connect.outcome == Outcome::Quit;
        assert!(told, "{connect:#?}");
    }
    assert_eq!(daemon.stop()?, 0);

    let daemon = fixture.start()?;
    fixture.wait_until_up().with_context(|| daemon.log())?;
    for tunnel in lab.tunnels() {
        fixture.ensure_outside_answered(tunnel)?;
    }
    assert_eq!(tic.connects().len(), 2);

    let [first, _] = lab.tunnels();
    let name = first.plan.interface;
    fixture.program.run_ok(&["restart", "--refresh", name])?;
    let asked = || Ok(tic.connects().len());
    let limit = Duration::from_secs(5);
    wait::until("it is asked for anew", limit, asked, |count| *count == 3)?;
    fixture.wait_until_up().with_context(|| daemon.log())?;
    fixture.ensure_outside_answered(first)?;
    let connects = tic.connects();
    assert_eq!(connects.len(), 3);
    let shown = format!("tunnel show {}", TUNNEL_IDS[0]);
    assert!(connects[2].lines.contains(&shown), "{:#?}", connects[2]);
    assert_eq!(daemon.stop()?, 0);
    Ok(())
}

/// A fault at the server, and the text with which status reports it.
struct Wrong {
    make: fn(&Tic) -> Result<()>,
    words: &'static str,
}

const fn wrong(make: fn(&Tic) -> Result<()>, words: &'static str) -> Wrong {
    Wrong { make, words }
}

fn at(tic: &Tic, stage: Stage, fault: Fault) -> Result<()> {
    tic.misbehave(stage, fault);
    Ok(())
}

fn password(tic: &Tic, password: &str) -> Result<()> {
    tic.change(|book| password.clone_into(&mut book.accounts[0].password));
    Ok(())
}

fn first_tunnel(tic: &Tic, change: fn(&mut TunnelRecord)) -> Result<()> {
    tic.change(|book| {
        let [first, _] = TUNNEL_IDS;
        change(book.tunnel_mut(first).expect("the lab has this tunnel"));
    });
    Ok(())
}

fn is_enabled(tic: &Tic, state: &str) -> Result<()> {
    tic.change(|book| {
        let [first, _] = TUNNEL_IDS;
        let tunnel = book.tunnel_mut(first).expect("the lab has this tunnel");
        state.clone_into(&mut tunnel.admin_state);
    });
    Ok(())
}

const WRONGS: &[Wrong] = &[
    wrong(
        |tic| password(tic, "another one"),
        "password: the server refuses: \"Login failed",
    ),
    wrong(
        |tic| is_enabled(tic, "disabled"),
        "T1 is not enabled: the server reports UserState \"enabled\", AdminState \"disabled\"",
    ),
    wrong(
        |tic| {
            tic.set_time_ahead(3600);
            Ok(())
        },
        "s behind the server's",
    ),
    // A prefix length of 3 would lead all of 2000::/3 into the tunnel.
    wrong(
        |tic| first_tunnel(tic, |tunnel| tunnel.prefix_length = 3),
        "\"3\" instead of a length of 64 to 128 bits",
    ),
    wrong(
        |tic| first_tunnel(tic, |tunnel| tunnel.prefix_length = 16),
        "\"16\" instead of a length of 64 to 128 bits",
    ),
    wrong(
        |tic| at(tic, Stage::Greeting, Fault::Garbage),
        "greeting: the server sent",
    ),
    wrong(
        |tic| at(tic, Stage::Greeting, Fault::Flood(FLOOD_BYTES)),
        "the server sent a line of more than",
    ),
    wrong(
        |tic| at(tic, Stage::TunnelShow, Fault::Flood(FLOOD_BYTES)),
        "the server sent a line of more than",
    ),
    wrong(
        |tic| at(tic, Stage::Greeting, Fault::Say("400 Back at noon".into())),
        "the server accepts no logins at the moment: \"Back at noon\"",
    ),
    wrong(
        |tic| at(tic, Stage::Challenge, Fault::Close),
        "the server closed the connection",
    ),
    wrong(
        |tic| at(tic, Stage::StartTls, Fault::Say("400 Not today".into())),
        "TLS is required, and the server does not offer it: \"Not today\"",
    ),
    wrong(|tic| tic.show(Certificate::Expired), "is not accepted"),
    wrong(|tic| tic.show(Certificate::OtherName), "is not accepted"),
    wrong(
        |tic| tic.show(Certificate::OtherAuthority),
        "the server's certificate is not accepted; name its authority by tls_ca",
    ),
];

fn right(tic: &Tic) -> Result<()> {
    tic.behave();
    first_tunnel(tic, |tunnel| tunnel.prefix_length = 64)?;
    tic.set_time_ahead(0);
    password(tic, PASSWORD)?;
    is_enabled(tic, "enabled")?;
    tic.show(Certificate::Right)
}

/// The first tunnel is defined by an account, the second one by the configuration.
fn mixed(extra: &str, instead: impl Fn(String) -> String) -> Result<Fixture> {
    let fixture = Fixture::with_spec(Spec::native(KINDS), Hook::Auto, "")?;
    let config = instead(mixed_config(&fixture.lab, extra)?);
    fixture.lab.write_config(&config)?;
    Ok(fixture)
}

fn first_state(fixture: &Fixture, state: &str, words: &str) -> Result<Status> {
    let [first, _] = fixture.lab.tunnels();
    let what = format!("{} is {state}: {words}", first.plan.interface);
    fixture.program.status_until(&what, |status| {
        let tunnel = status.tunnel(first.plan.interface);
        let reason = tunnel.reason.as_deref().unwrap_or_default();
        tunnel.state == state && reason.contains(words)
    })
}

/// All pings through the second tunnel are answered, and the server gets no connect meanwhile.
fn the_other_continues_and_the_broker_gets_no_request(fixture: &Fixture, count: u64) -> Result<()> {
    fixture.wait_for_addresses()?;
    let tic = fixture.lab.tic()?;
    let [_, second] = fixture.lab.tunnels();
    let before = tic.connects().len();
    let pings = probe::ping(fixture.lab.outside(), second.plan.address, count)?;
    ensure!(pings.all_answered(), "{pings:?}");
    let connects = tic.connects();
    ensure!(connects.len() == before, "{connects:#?}");
    Ok(())
}

#[test]
fn faults_of_the_broker_are_reported_and_not_retried() -> Result<()> {
    let fixture = mixed(NO_LIMIT, |config| config)?;
    let tic = fixture.lab.tic()?;
    tic.set_rule(Rule {
        connects: 1000,
        ..Rule::default()
    });
    let name = fixture.lab.tunnels()[0].plan.interface;
    let daemon = fixture.start()?;
    fixture.wait_until_up().with_context(|| daemon.log())?;
    let before = daemon.resident_kib()?;
    for Wrong { make, words } in WRONGS {
        right(tic)?;
        make(tic)?;
        let connects = tic.connects().len();
        fixture.program.run_ok(&["restart", "--refresh", name])?;
        let status = first_state(&fixture, "failed", words)?;
        assert_eq!(tic.connects().len(), connects + 1, "{words}");
        the_other_continues_and_the_broker_gets_no_request(&fixture, 20)?;
        if words.contains("behind") {
            let reason = status.tunnel(name).reason.as_deref().unwrap_or_default();
            let seconds: Vec<u64> = reason.split(' ').filter_map(|w| w.parse().ok()).collect();
            assert!((3598..=3602).contains(&seconds[0]), "{reason}");
        }
    }
    right(tic)?;
    tic.stop();
    fixture.program.run_ok(&["restart", "--refresh", name])?;
    first_state(&fixture, "failed", "Connection refused")?;
    tic.start()?;
    // The server gets no connect during a longer time either.
    the_other_continues_and_the_broker_gets_no_request(&fixture, 200)?;
    let grown = daemon.resident_kib()?.saturating_sub(before);
    assert!(grown < 4096, "the daemon has grown by {grown} KiB");

    fixture.program.run_ok(&["restart", "--refresh", name])?;
    fixture.wait_until_up().with_context(|| daemon.log())?;
    fixture.ensure_outside_answered(&fixture.lab.tunnels()[0])?;
    assert_eq!(daemon.stop()?, 0);
    Ok(())
}

#[test]
fn a_stalled_server_fails_the_tunnel_after_10_s() -> Result<()> {
    let fixture = mixed("", |config| config)?;
    let tic = fixture.lab.tic()?;
    tic.misbehave(Stage::Username, Fault::Stall);
    let daemon = fixture.start()?;
    first_state(&fixture, "connecting", "querying 203.0.113.9")?;
    fixture
        .program
        .status_until("the other is up", |status| status.tunnels[1].is_whole())?;
    // Pings during eight of the ten seconds.
    the_other_continues_and_the_broker_gets_no_request(&fixture, 800)?;
    let status = first_state(&fixture, "failed", "user name: no answer within 10s")?;
    assert!(status.tunnels[1].is_whole(), "{status:#?}");
    assert_eq!(tic.connects().len(), 1);
    assert_eq!(daemon.stop()?, 0);
    Ok(())
}

#[test]
fn any_certificate_is_accepted_without_tls_verify() -> Result<()> {
    let fixture = mixed("", |config| {
        let lines = config.lines().map(|line| match line {
            line if line.starts_with("tls_ca") => "tls_verify = false\n".to_owned(),
            line => format!("{line}\n"),
        });
        lines.collect()
    })?;
    let tic = fixture.lab.tic()?;
    tic.show(Certificate::OtherAuthority)?;
    let daemon = fixture.start()?;
    fixture.wait_until_up().with_context(|| daemon.log())?;
    let connects = tic.connects();
    assert!(connects.len() == 1 && connects[0].tls, "{connects:#?}");
    assert_eq!(daemon.stop()?, 0);
    Ok(())
}

/// Other clients have connected too often from this address. The times are shorter than in practice.
#[test]
fn a_lockout_is_waited_out() -> Result<()> {
    let limit = "[connect_limit]\nseconds = 4\nlockout_seconds = 4\n";
    let fixture = mixed(limit, |config| config)?;
    let tic = fixture.lab.tic()?;
    let [window, refusal] = [1, 4].map(Duration::from_secs);
    tic.set_rule(Rule {
        connects: 2,
        window,
        refusal,
        ..Rule::default()
    });
    for _ in 0..3 {
        drop(
            fixture
                .host()
                .run(|| Ok(TcpStream::connect(tic.address())?))?,
        );
    }
    let seen = || Ok(tic.connects().len());
    let soon = Duration::from_secs(5);
    wait::until("others connect", soon, seen, |count| *count == 3)?;
    let daemon = fixture.start()?;
    let status = first_state(&fixture, "locked_out", "You are connecting too often")?;
    let name = fixture.lab.tunnels()[0].plan.interface;
    let until = status.tunnel(name).until.clone();
    assert!(until.is_some_and(|until| until.ends_with('Z')));
    assert_eq!(tic.connects().len(), 4);

    // A restart of the tunnel or of the daemon changes nothing.
    fixture.program.run_ok(&["restart", "--refresh", name])?;
    first_state(&fixture, "locked_out", "too many connects")?;
    let daemon = again(&fixture, daemon)?;
    first_state(&fixture, "locked_out", "too many connects")?;
    the_other_continues_and_the_broker_gets_no_request(&fixture, 50)?;

    fixture.wait_until_up().with_context(|| daemon.log())?;
    let connects = tic.connects();
    let told: Vec<&Outcome> = connects.iter().map(|connect| &connect.outcome).collect();
    assert_eq!(connects.len(), 5, "{told:?}");
    let pause = connects[4].at - connects[3].at;
    assert!((refusal..refusal * 2).contains(&pause), "{pause:?}");
    assert_eq!(connects[4].outcome, Outcome::Quit);
    assert_eq!(daemon.stop()?, 0);
    Ok(())
}

fn again(fixture: &Fixture, daemon: Daemon) -> Result<Daemon> {
    daemon.kill()?;
    fixture.start()
}

/// Runs the script of `sixxs-wait-online.service` for at most two seconds. Returns whether it waits until its
/// limit.
fn is_waited_for(fixture: &Fixture) -> Result<bool> {
    const UNIT: &str = include_str!("../../../deploy/sixxs-wait-online.service");
    let (_, script) = UNIT
        .split_once("ExecStart=/bin/sh -c '")
        .context("it starts")?;
    let (script, _) = script.split_once('\'').context("it ends")?;
    let script = script.replace("\\\n", " ").replace("$$", "$");
    ensure!(script.contains("tries=120;"), "{script}");
    let script = script.replace("tries=120;", "tries=4;");
    let directory = fixture.program.binary().parent().context("a directory")?;
    let path = format!("export PATH={}:$PATH", directory.display());
    let left = fixture
        .program
        .shell(&format!("{path}; {script}; echo $tries"))?;
    Ok(left.trim() == "0")
}

/// At the first boot, the daemon may query brokers before the network is up. The wait script waits for such
/// temporary errors, but not for a wrong password.
#[test]
fn wait_online_waits_only_for_tunnels_that_are_retried() -> Result<()> {
    let fixture = mixed("", |config| config)?;
    let tic = fixture.lab.tic()?;
    let name = fixture.lab.tunnels()[0].plan.interface;
    tic.stop();
    let daemon = fixture.start()?;
    let status = first_state(&fixture, "failed", "Connection refused")?;
    assert!(
        status.tunnel(name).retrying && !status.healthy,
        "{status:#?}"
    );
    assert!(is_waited_for(&fixture)?);
    tic.start()?;
    password(tic, "another one")?;
    fixture.program.run_ok(&["restart", name])?;
    let status = first_state(&fixture, "failed", "Login failed")?;
    assert!(!status.tunnel(name).retrying, "{status:#?}");
    fixture
        .program
        .status_until("the other is up", |s| s.tunnels[1].is_whole())?;
    assert!(!is_waited_for(&fixture)?);
    password(tic, PASSWORD)?;
    fixture.program.run_ok(&["restart", name])?;
    fixture.wait_until_up().with_context(|| daemon.log())?;
    assert_eq!(daemon.stop()?, 0);
    Ok(())
}
