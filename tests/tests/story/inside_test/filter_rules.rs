//! `--trace-filters` names the rule that drops a packet, and leaves nothing in nftables.

use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use serde_json::{Value, json};
use sixxs_tests::lab::nft;
use sixxs_tests::lab::topology::Flavour;
use sixxs_tests::program::Hook;
use sixxs_tests::wait;

use super::{LIMIT, NAME, answers, started};
use crate::fixture::Fixture;

/// The inside test of the first tunnel with a trace.
fn traced(fixture: &Fixture) -> Result<Value> {
    let (_, mut values) = fixture.program.json(&["check", NAME, "--trace-filters"])?;
    let report = values.pop().context("a report")?;
    let checks = report["checks"].as_array().context("checks")?;
    let inside = checks.iter().find(|check| check["check"] == "inside");
    Ok(inside.context("an inside test")?["inside"].clone())
}

fn tables(fixture: &Fixture) -> Result<String> {
    fixture.host().sh("nft list tables")
}

#[test]
fn rules_that_drop_are_named() -> Result<()> {
    let (fixture, _daemon) = started(Flavour::Tun, Hook::Auto, "")?;
    answers(&fixture)?;
    let before = tables(&fixture)?;
    for (rule_set, chain, rule) in [
        (
            "chain c { type filter hook input priority 0; icmpv6 type echo-request drop; };",
            "c",
            Some("icmpv6 type echo-request drop"),
        ),
        (
            "chain c { type filter hook output priority 0; icmpv6 type echo-reply drop; };",
            "c",
            Some("icmpv6 type echo-reply drop"),
        ),
        // A chain that the base chain jumps to.
        (
            "chain pings { icmpv6 type echo-request counter drop; };
             chain c { type filter hook prerouting priority -200; meta l4proto icmpv6 jump pings; };",
            "pings",
            Some("icmpv6 type echo-request counter"),
        ),
        (
            "chain c { type filter hook input priority 0; policy drop; icmpv6 type != echo-request accept; };",
            "c",
            None,
        ),
    ] {
        nft::load(fixture.host(), &format!("table inet f {{ {rule_set} }};"))?;
        let failed = traced(&fixture)?;
        let [by] = &failed["dropped_by"].as_array().context("drops")?[..] else {
            anyhow::bail!("{failed:#}")
        };
        let place = [&by["family"], &by["table"], &by["chain"]];
        ensure!(place == [&json!("inet"), &json!("f"), &json!(chain)], "{failed:#}");
        ensure!(by["handle"].is_u64() == rule.is_some(), "{failed:#}");
        let shown = by["rule"].as_str();
        ensure!(
            shown.is_some() == rule.is_some()
                && shown.unwrap_or_default().starts_with(rule.unwrap_or_default()),
            "{failed:#}"
        );
        let sentence = failed["sentence"].as_str().unwrap_or_default();
        ensure!(sentence.contains(&format!(" of chain inet f {chain}")), "{failed:#}");
        fixture.host().sh("nft delete table inet f")?;
        answers(&fixture)?;
    }
    // Nothing of nftables drops it.
    fixture
        .host()
        .sh("sysctl -qw net.ipv6.icmp.echo_ignore_all=1")?;
    let ignored = traced(&fixture)?;
    ensure!(
        ignored["cause"] == "echo_ignored" && ignored["dropped_by"].is_null(),
        "{ignored:#}"
    );
    ensure!(tables(&fixture)? == before);
    Ok(())
}

/// The kernel removes the table with the process.
#[test]
fn a_killed_check_leaves_no_table() -> Result<()> {
    let (fixture, _daemon) = started(Flavour::Tun, Hook::Auto, "")?;
    answers(&fixture)?;
    nft::load(
        fixture.host(),
        "table inet f { chain c { type filter hook input priority 0; meta l4proto { tcp, icmpv6 } iifname sixxs0 drop; }; };",
    )?;
    let before = tables(&fixture)?;
    let ports = (1..=8).flat_map(|port| ["--tcp".to_owned(), port.to_string()]);
    let arguments: Vec<_> = ["check", NAME, "--trace-filters"]
        .map(str::to_owned)
        .into_iter()
        .chain(ports)
        .collect();
    let arguments: Vec<_> = arguments.iter().map(String::as_str).collect();
    let mut check = fixture.program.command(&arguments).spawn()?;
    let is_there = |tables: &String| tables.contains("sixxs_trace");
    wait::until("the trace runs", LIMIT, || tables(&fixture), is_there)?;
    kill(Pid::from_raw(i32::try_from(check.id())?), Signal::SIGKILL)?;
    check.wait()?;
    let limit = Duration::from_secs(2);
    wait::until(
        "it is gone",
        limit,
        || tables(&fixture),
        |tables| *tables == before,
    )?;
    Ok(())
}
