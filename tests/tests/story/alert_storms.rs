//! Endless events with changing process numbers, names and addresses give few alerts, few log lines and
//! few runs of a hook.

use std::process::Stdio;
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use serde_json::Value;
use sixxs_tests::lab::topology::Flavour;
use sixxs_tests::program::{Daemon, Hook};
use sixxs_tests::wait;

use crate::fixture::Fixture;

/// Duration of each flood.
const SECONDS: u32 = 5;

/// Limit of alerts, log lines and hook runs for a flood of thousands. Two tunnels come up (2). Each tunnel's
/// rule is restored with and without a known culprit: 4 causes, each reported three times and in up to three
/// summaries (24). The problem is reported with no name, one name, and "and others" (3), and summed up (3).
const FEW: usize = 32;

/// The reports of a flood.
struct FloodReports {
    alerts: Vec<Value>,
    log: Vec<String>,
    hook_runs: usize,
}

/// Repeats these lines until the flood ends, and returns the reports.
fn flood(fixture: &Fixture, daemon: &Daemon, lines: &str) -> Result<FloodReports> {
    let before = daemon.log().lines().count();
    let mut shell = fixture.host().command("timeout");
    shell
        .args([&SECONDS.to_string(), "sh", "-c"])
        .arg(format!("n=0; while :; do n=$((n+1)); {lines}; done"))
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::null());
    let status = shell.status().context("flood")?;
    ensure!(status.code() == Some(124), "the flood ends early: {status}");
    let (_, alerts) = fixture.program.json(&["alerts"])?;
    Ok(FloodReports {
        alerts,
        log: daemon
            .log()
            .lines()
            .skip(before)
            .map(str::to_owned)
            .collect(),
        hook_runs: runs_of_hook(fixture)?,
    })
}

fn runs_of_hook(fixture: &Fixture) -> Result<usize> {
    let told = fixture.lab.paths().base().join("told");
    Ok(std::fs::read_to_string(told)?.lines().count())
}

fn extra(fixture: &Fixture) -> String {
    let hook = fixture.lab.paths().base().join("told");
    format!(
        "alert.command = [\"sh\", \"-c\", \"cat >> {}\"]\n",
        hook.display()
    )
}

impl FloodReports {
    /// Expects each of these texts, and few reports.
    fn is_brief(&self, expected: &[&str]) {
        let log = self.log.join("\n");
        for text in expected {
            assert!(log.contains(text), "{text}:\n{log}");
        }
        assert!(self.log.len() <= FEW, "{} lines:\n{log}", self.log.len());
        assert!(self.alerts.len() <= FEW, "{:#?}", self.alerts);
        assert!(self.hook_runs <= FEW, "{} runs of the hook", self.hook_runs);
    }
}

#[test]
fn rules_removed_without_end() -> Result<()> {
    let fixture = Fixture::new(Flavour::Tun, Hook::Auto)?;
    let config = fixture.lab.config(&extra(&fixture));
    fixture.lab.write_config(&config)?;
    let daemon = fixture.start()?;
    fixture.wait_until_up()?;
    let told = flood(&fixture, &daemon, "ip -6 rule del priority 16383")?;
    let corrections = fixture.program.status()?.corrections;
    assert!(corrections > 50, "no flood: {corrections} corrections");
    told.is_brief(&[
        "removed by ip (process",
        "and others) keeps removing rules or routes of sixxs",
    ]);

    // The suppressed alerts are summed up, in `alerts` and for the hook.
    let together = || Ok(fixture.program.json(&["alerts"])?.1);
    let limit = Duration::from_secs(20);
    let alerts = wait::until("the rest is told", limit, together, |alerts| {
        alerts.iter().any(|alert| alert["more"].as_u64() > Some(0))
    })?;
    let text = fixture.program.run_ok(&["alerts"])?.stdout;
    assert!(text.contains("more like it)"), "{text}");
    assert_eq!(daemon.stop()?, 0);
    assert!(
        alerts.len() <= FEW && runs_of_hook(&fixture)? <= FEW,
        "{alerts:#?}"
    );
    Ok(())
}

#[test]
fn interfaces_that_come_and_go_without_end() -> Result<()> {
    let fixture = Fixture::new(Flavour::Tun, Hook::Auto)?;
    // Each interface with a default route is an uplink.
    let config = fixture.lab.config(&extra(&fixture));
    let config: Vec<_> = config
        .lines()
        .filter(|line| !line.starts_with("uplinks"))
        .collect();
    fixture.lab.write_config(&config.join("\n"))?;
    let daemon = fixture.start()?;
    fixture.wait_until_up()?;
    // A default route in the daemon's table is a problem, whose text has another metric each time.
    let come_and_go = "ip link add veth${n}a up type veth peer name veth${n}b; \
                       ip link set veth${n}b up; \
                       ip -6 route add default dev veth${n}a metric 5000; \
                       ip -6 route add default dev veth${n}a table 200 metric $((n % 1000 + 1)); \
                       sleep 0.02; ip link del veth${n}a";
    let told = flood(&fixture, &daemon, come_and_go)?;
    let occupied = "table 200 has a default route with metric";
    told.is_brief(&[occupied]);
    let is_one = |alert: &Value| {
        alert["problem"]
            .as_str()
            .is_some_and(|p| p.contains(occupied))
    };
    // The first one is reported at once, and the others in a summary.
    let together = || {
        let (_, alerts) = fixture.program.json(&["alerts"])?;
        Ok(alerts.into_iter().filter(is_one).collect::<Vec<_>>())
    };
    let limit = Duration::from_secs(20);
    let problems = wait::until("the rest is told", limit, together, |problems| {
        problems
            .iter()
            .any(|alert| alert["more"].as_u64() > Some(5))
    })?;
    assert!(problems.len() <= 4, "{problems:#?}");
    assert_eq!(daemon.stop()?, 0);
    Ok(())
}
