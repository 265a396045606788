//! `sixxs check` tests from inside whether a ping would be answered, and names what drops it. Each cause is the real one.

mod behind;
mod causes;
mod filter_rules;
mod many;
mod ports;

use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use serde_json::Value;
use sixxs_tests::lab::topology::{Flavour, TUNNELS, UPLINK};
use sixxs_tests::lab::{Lab, nft};
use sixxs_tests::program::status::Leaks;
use sixxs_tests::program::{Daemon, Hook};
use sixxs_tests::wait;

use crate::answer_echo::FIREWALL;
use crate::fixture::{Fixture, exclusive, run_as_member, without_ages};

/// Limit until the daemon has noticed a change, and the check finds it.
const LIMIT: Duration = Duration::from_secs(10);

/// The tested tunnel and its address.
const NAME: &str = TUNNELS[0].interface;

fn address() -> String {
    TUNNELS[0].address.to_string()
}

/// The configuration of a lab without peers, so that `check` sends no pings of its own.
fn without_peers(lab: &Lab, extra: &str) -> String {
    let config = lab.config(extra);
    let lines = config.lines().filter(|line| !line.starts_with("peer"));
    lines.map(|line| format!("{line}\n")).collect()
}

/// A lab with a daemon whose `check` sends nothing but tests.
fn started(flavour: Flavour, hook: Hook, extra: &str) -> Result<(Fixture, Daemon)> {
    let fixture = Fixture::new(flavour, hook)?;
    let config = without_peers(&fixture.lab, extra);
    fixture.lab.write_config(&config)?;
    let daemon = fixture.start()?;
    fixture.wait_until_up()?;
    Ok((fixture, daemon))
}

/// The inside test of the first tunnel, as `check` reports it.
fn test(fixture: &Fixture) -> Result<Value> {
    let (_, mut values) = fixture.program.json(&["check", NAME])?;
    let report = values.pop().context("a report")?;
    let checks = report["checks"].as_array().context("checks")?;
    let mut inside = checks.iter().filter(|check| check["check"] == "inside");
    let found = inside
        .next()
        .with_context(|| format!("no inside test: {report:#}"))?;
    ensure!(inside.next().is_none(), "two addresses: {report:#}");
    ensure!(found["pass"] == found["inside"]["pass"], "{found:#}");
    Ok(found["inside"].clone())
}

/// Waits until the address answers by its tunnel.
fn answers(fixture: &Fixture) -> Result<Value> {
    wait::until(
        "it answers",
        LIMIT,
        || test(fixture),
        |test| test["pass"] == true && test["interface"] == NAME,
    )
}

/// Waits until there is no answer for this cause, with these words in the sentence.
fn fails(fixture: &Fixture, cause: &str, words: &str) -> Result<Value> {
    let is_it = |test: &Value| {
        let sentence = test["sentence"].as_str().unwrap_or_default();
        test["pass"] == false && test["cause"] == cause && sentence.contains(words)
    };
    let failed = wait::until(cause, LIMIT, || test(fixture), is_it)?;
    ensure!(
        failed["interface"].is_null() && failed["cure"].is_string(),
        "{failed:#}"
    );
    Ok(failed)
}

/// Breaks something by a command, expects the cause, repairs it, and expects an answer again.
fn breaks(fixture: &Fixture, command: &str, cause: &str, words: &str, mend: &str) -> Result<Value> {
    answers(fixture)?;
    fixture.host().sh(command)?;
    let failed = fails(fixture, cause, words)?;
    for line in mend.lines() {
        fixture.host().sh(line)?;
    }
    answers(fixture)?;
    Ok(failed)
}

variants!(answers_are_seen_and_counted_nowhere:
    tun(Tun, Auto), veth(Veth, Auto), tun_clsact(Tun, Clsact), wireguard(WireGuard, Auto));

fn answers_are_seen_and_counted_nowhere(flavour: Flavour, hook: Hook) -> Result<()> {
    let (fixture, daemon) = started(flavour, hook, "")?;
    let [first, _] = fixture.lab.tunnels();
    let counted = || -> Result<Value> {
        let (_, mut values) = fixture.program.json(&["status"])?;
        let status = values.pop().context("a status")?;
        let tunnel = status["tunnels"][0].clone();
        ensure!(tunnel["name"] == NAME, "{tunnel:#}");
        let keys = ["echo", "proof", "leaks", "strays", "loops", "recursions"];
        Ok(Value::from(
            keys.map(|key| without_ages(&tunnel[key])).to_vec(),
        ))
    };
    let packets = || -> Result<u64> { Ok(fixture.program.status()?.tunnel(NAME).packets.into) };
    let reached = || -> Result<u64> { first.broker_counters()?.get("replies_from_host") };
    let (before, packets_before, reached_before) = (counted()?, packets()?, reached()?);
    let tests = 30;
    for _ in 0..tests {
        let answered = answers(&fixture)?;
        ensure!(answered["address"] == address(), "{answered:#}");
        ensure!(answered["source"] == "3fff:fff::1", "{answered:#}");
        ensure!(answered["redirected"] == false, "{answered:#}");
        let took = answered["milliseconds"].as_f64().context("a time")?;
        ensure!(took > 0.0 && took < 300.0, "{answered:#}");
    }
    ensure!(counted()? == before, "{before:#}\n{:#}", counted()?);
    // Some flavours have packets of their own, such as listener reports.
    ensure!(
        packets()? < packets_before + tests,
        "the requests were counted"
    );
    ensure!(reached()? == reached_before, "the replies were sent");
    let printed = fixture.program.run(&["check", NAME])?;
    ensure!(printed.code == 0, "{printed:#?}");
    let expected = format!(
        "{} answers a ping from 3fff:fff::1: leaves by {NAME} after ",
        address()
    );
    let is_it = |line: &str| {
        line.starts_with("pass  sixxs0          inside   ") && line.contains(&expected)
    };
    ensure!(printed.stdout.lines().any(is_it), "{printed:#?}");
    // Real pings are counted as before.
    fixture.ensure_outside_answered(first)?;
    let proof = fixture.program.status()?.tunnel(NAME).proof;
    ensure!((proof.requests, proof.answered) == (20, 20), "{proof:?}");
    fixture.ensure_nothing_lost()?;
    ensure!(daemon.stop()? == 0);
    Ok(())
}

/// Each address is tested, from the source that the configuration names.
#[test]
fn addresses_and_sources_are_those_of_the_configuration() -> Result<()> {
    let (fixture, _daemon) = started(Flavour::Tun, Hook::Auto, "")?;
    let more = format!("{}/64", TUNNELS[0].address);
    let config = without_peers(&fixture.lab, "");
    let two = config.replace(
        &format!("address = \"{more}\""),
        &format!("address = [\"{more}\", \"2001:db8:a::3\"]\ncheck_source = \"2001:db8:ffff::77\""),
    );
    ensure!(two != config, "{config}");
    fixture.lab.write_config(&two)?;
    fixture.program.run_ok(&["reload"])?;
    let (_, values) = fixture.program.json(&["check", NAME])?;
    let checks = values.first().context("a report")?["checks"].clone();
    let inside = checks.as_array().into_iter().flatten();
    let inside: Vec<_> = inside.filter(|check| check["check"] == "inside").collect();
    ensure!(inside.len() == 2, "{checks:#}");
    let [first, second] = [0, 1].map(|at: usize| &inside[at]["inside"]);
    ensure!(
        first["source"] == "2001:db8:ffff::77" && first["pass"] == true,
        "{first:#}"
    );
    // No interface has the second one.
    ensure!(
        second["cause"] == "no_address" && second["pass"] == false,
        "{second:#}"
    );
    Ok(())
}

/// A foreign rule leads the answer to the uplink, where the program redirects, drops or passes it.
#[test]
fn an_answer_that_leaves_elsewhere_is_followed() -> Result<()> {
    for (on_leak, pass, words) in [
        (
            "redirect",
            true,
            "the program there redirects it into sixxs0",
        ),
        ("drop", false, "drops it (on_leak)"),
        ("observe", false, "lets it pass (on_leak)"),
    ] {
        let (fixture, daemon) = started(
            Flavour::Tun,
            Hook::Auto,
            &format!("on_leak = \"{on_leak}\"\n"),
        )?;
        answers(&fixture)?;
        let rule = format!("from {} lookup main priority 100", address());
        fixture.host().sh(&format!("ip -6 rule add {rule}"))?;
        let led = wait::until(
            "it leaves elsewhere",
            LIMIT,
            || test(&fixture),
            |test| test["interface"] == UPLINK,
        )?;
        ensure!(
            led["pass"] == pass && led["redirected"] == pass,
            "{on_leak}: {led:#}"
        );
        let sentence = led["sentence"].as_str().unwrap_or_default();
        ensure!(sentence.contains(words), "{on_leak}: {led:#}");
        // Nothing of it is a leak, and nothing was sent.
        let leaks = fixture.program.status()?.tunnel(NAME).leaks;
        ensure!(leaks == Leaks::default(), "{on_leak}: {leaks:?}");
        fixture.ensure_nothing_lost()?;
        fixture.host().sh(&format!("ip -6 rule del {rule}"))?;
        answers(&fixture)?;
        ensure!(daemon.stop()? == 0);
    }
    Ok(())
}

/// With `answer_echo = "kernel"` the programs answer, also behind a firewall.
#[test]
fn answers_of_the_programs_are_named() -> Result<()> {
    let (fixture, _daemon) = started(Flavour::Tun, Hook::Auto, "answer_echo = \"kernel\"\n")?;
    nft::load(fixture.host(), FIREWALL)?;
    let answered = answers(&fixture)?;
    ensure!(answered["by_programs"] == true, "{answered:#}");
    let sentence = answered["sentence"].as_str().unwrap_or_default();
    ensure!(sentence.ends_with("; the programs answer"), "{answered:#}");
    let (_, values) = fixture.program.json(&["status"])?;
    let echo = &values.first().context("a status")?["tunnels"][0]["echo"];
    ensure!(echo["answered_by_programs"] == 0, "{echo:#}");
    Ok(())
}

/// A test that passes costs the daemon little: here with all the rest of a check.
#[test]
fn a_passing_test_costs_little() -> Result<()> {
    const CHECKS: u32 = 100;
    let _exclusive = exclusive();
    let (fixture, daemon) = started(Flavour::Tun, Hook::Auto, "")?;
    answers(&fixture)?;
    let before = daemon.processor_time()?;
    for _ in 0..CHECKS {
        ensure!(test(&fixture)?["pass"] == true);
    }
    let each = (daemon.processor_time()? - before) / CHECKS;
    println!("{each:?} of processor for a check");
    ensure!(
        each < Duration::from_millis(5) * wait::patience(),
        "{each:?}"
    );
    ensure!(daemon.stop()? == 0);
    Ok(())
}

/// Several checks at once do not disturb each other.
#[test]
fn checks_at_the_same_time_pass() -> Result<()> {
    let (fixture, _daemon) = started(Flavour::Veth, Hook::Auto, "")?;
    answers(&fixture)?;
    std::thread::scope(|scope| {
        let checks: Vec<_> = (0..4)
            .map(|_| scope.spawn(|| fixture.program.run(&["check"])))
            .collect();
        for check in checks {
            let printed = check.join().expect("a check does not panic")?;
            ensure!(printed.code == 0, "{printed:#?}");
            ensure!(
                printed.stdout.matches(" inside ").count() == 2,
                "{printed:#?}"
            );
        }
        Ok(())
    })
}

/// Only root may send packets as other hosts.
#[test]
fn others_do_not_test() -> Result<()> {
    let printed = run_as_member(&["check", NAME])?;
    ensure!(
        printed.stdout.contains("inside   not tried: only root"),
        "{printed:#?}"
    );
    Ok(())
}
