//! `sixxs check`: tests whether the tunnels work.

mod filter_rules;
mod filters;
mod inside;
mod outside;

use std::{net::Ipv6Addr, path::Path, process::ExitCode, thread};

use anyhow::bail;
use serde::Serialize;
use sixxs_core::health::UNANSWERED;

use super::output;
use crate::{
    control::api::{Health, InsideTest, OutsideTest, Program, Routing, State, Status, Tunnel},
    control::client,
    host::ping::ping,
};

/// Time limit for a reply; one that is still missing then counts as missing.
const REPLY_LIMIT_SECONDS: f64 = 2.0;

/// The result of one check.
#[derive(Debug, Serialize)]
struct Check {
    tunnel: String,
    check: &'static str,
    pass: bool,
    detail: String,
    /// What the daemon found out by an inside test.
    #[serde(skip_serializing_if = "Option::is_none")]
    inside: Option<InsideTest>,
    /// The same by an outside test.
    #[serde(skip_serializing_if = "Option::is_none")]
    outside: Option<OutsideTest>,
}

#[derive(Serialize)]
struct Report {
    pass: bool,
    checks: Vec<Check>,
}

/// What to test.
#[derive(Clone, Debug, clap::Args)]
pub(super) struct Arguments {
    names: Vec<String>,
    /// Only send packets from one link to another, over the internet: between the two tunnels or uplinks that are named, or from
    /// each to the next.
    #[arg(long, conflicts_with_all = ["tcp", "udp", "let_go", "trace_filters"])]
    outside: bool,
    #[command(flatten)]
    inside: InsideOptions,
}

/// What to test from inside.
#[derive(Clone, Debug, clap::Args)]
pub(super) struct InsideOptions {
    /// Also test whether this TCP port accepts a connection; may be repeated.
    #[arg(long, value_name = "PORT", value_parser = clap::value_parser!(u16).range(1..))]
    tcp: Vec<u16>,
    /// Also test whether this UDP port answers; may be repeated.
    #[arg(long, value_name = "PORT", value_parser = clap::value_parser!(u16).range(1..))]
    udp: Vec<u16>,
    /// Ask as the tunnel's peer, and send the answers to it: tests also what follows behind the programs.
    #[arg(long)]
    let_go: bool,
    /// Repeat failed tests with nftables' tracing, and name table, chain and rule that drop the packet.
    #[arg(long)]
    trace_filters: bool,
}

pub(super) async fn check(socket: &Path, json: bool, asked: Arguments) -> anyhow::Result<ExitCode> {
    let found = if asked.outside {
        outside::checks(socket, &asked.names).await
    } else {
        of_tunnels(socket, &asked.names, asked.inside).await
    };
    let checks = match found {
        Ok(checks) => checks,
        Err(error) if error.is::<client::NoDaemon>() => vec![Check {
            tunnel: "*".to_owned(),
            check: "daemon",
            pass: false,
            detail: error.to_string(),
            inside: None,
            outside: None,
        }],
        Err(error) => return Err(error),
    };
    let report = Report {
        pass: checks.iter().all(|check| check.pass),
        checks,
    };
    let shown = if json {
        output::json_line(&report)?
    } else {
        let line = |check: &Check| {
            let verdict = if check.pass { "pass" } else { "FAIL" };
            format!(
                "{verdict}  {:<15} {:<8} {}\n",
                check.tunnel, check.check, check.detail
            )
        };
        report.checks.iter().map(line).collect()
    };
    output::print_and_exit_code(&shown, report.pass)
}

async fn of_tunnels(
    socket: &Path,
    names: &[String],
    options: InsideOptions,
) -> anyhow::Result<Vec<Check>> {
    let status = client::get::<Status>(socket, "/v1/status").await?;
    let tunnels = select_tunnels(&status, names)?;
    let inside = inside::test(socket, &tunnels, options).await;
    Ok(checks(&tunnels, &inside))
}

fn select_tunnels(status: &Status, names: &[String]) -> anyhow::Result<Vec<Tunnel>> {
    if names.is_empty() {
        return Ok(status.tunnels.clone());
    }
    let mut chosen = Vec::new();
    for name in names {
        match status.tunnels.iter().find(|tunnel| tunnel.name == *name) {
            Some(tunnel) => chosen.push(tunnel.clone()),
            None => {
                let known: Vec<_> = status.tunnels.iter().map(|t| t.name.as_str()).collect();
                bail!("no tunnel {name:?}; there are {}", known.join(", "));
            }
        }
    }
    Ok(chosen)
}

/// Checks all tunnels in parallel, since a silent target takes seconds.
fn checks(tunnels: &[Tunnel], inside: &Result<Vec<InsideTest>, String>) -> Vec<Check> {
    thread::scope(|scope| {
        let running: Vec<_> = tunnels
            .iter()
            .map(|tunnel| scope.spawn(|| check_tunnel(tunnel, inside)))
            .collect();
        running
            .into_iter()
            .zip(tunnels)
            .flat_map(|(thread, tunnel)| {
                thread.join().unwrap_or_else(|_| {
                    vec![Check {
                        tunnel: tunnel.name.clone(),
                        check: "check",
                        pass: false,
                        detail: "a check panicked; this is a bug".to_owned(),
                        inside: None,
                        outside: None,
                    }]
                })
            })
            .collect()
    })
}

fn check_tunnel(tunnel: &Tunnel, inside: &Result<Vec<InsideTest>, String>) -> Vec<Check> {
    let check = |check, pass, detail| Check {
        tunnel: tunnel.name.clone(),
        check,
        pass,
        detail,
        inside: None,
        outside: None,
    };
    let state = match &tunnel.reason {
        Some(reason) => format!("{}: {reason}", tunnel.state),
        None => tunnel.state.to_string(),
    };
    let mut checks = vec![
        check("state", tunnel.state == State::Up, state),
        check(
            "routing",
            tunnel.routing == Routing::InPlace,
            tunnel.routing.name().replace('_', " "),
        ),
        check(
            "program",
            tunnel.program == Program::Attached,
            tunnel.program.to_string(),
        ),
    ];
    checks.push(check_answers(tunnel));
    checks.extend(inside::checks(&tunnel.name, tunnel.state, inside));
    // Health problems that the other checks do not cover.
    if matches!(tunnel.health, Health::Degraded | Health::Failing) {
        let reasons = tunnel.health_reasons.join("; ");
        checks.push(check(
            "health",
            false,
            format!("{}: {reasons}", tunnel.health),
        ));
    }
    match tunnel.check_target.or(tunnel.peer) {
        Some(target) => {
            for source in &tunnel.addresses {
                checks.push(check_ping(&tunnel.name, *source, target));
            }
        }
        None => checks.push(check(
            "ping",
            true,
            "not tried: neither peer nor check_target is configured".to_owned(),
        )),
    }
    checks
}

fn check_ping(tunnel: &str, source: Ipv6Addr, target: Ipv6Addr) -> Check {
    let (pass, detail) = match ping(source, target) {
        Ok(Some(time)) => (
            true,
            format!(
                "{source} > {target}: answer after {:.1} ms",
                time.as_secs_f64() * 1000.0
            ),
        ),
        Ok(None) => (false, format!("{source} > {target}: no answer")),
        Err(error) => (false, format!("{error:#}")),
    };
    Check {
        tunnel: tunnel.to_owned(),
        check: "ping",
        pass,
        detail,
        inside: None,
        outside: None,
    }
}

/// Whether requests from outside were answered, by the programs' counters. For a tunnel with routed prefixes it
/// always passes: the hosts there need not answer or exist.
fn check_answers(tunnel: &Tunnel) -> Check {
    let echo = &tunnel.echo;
    let (pass, detail) = match (
        echo.last_request_in_seconds_ago,
        echo.last_reply_out_seconds_ago,
    ) {
        (None, _) => (true, "no ping from outside yet".to_owned()),
        (Some(request), None) => (
            request < REPLY_LIMIT_SECONDS && tunnel.proof.unanswered < UNANSWERED,
            format!("{} pings from outside, none answered", echo.requests_in),
        ),
        (Some(request), Some(reply)) => (
            reply < request + REPLY_LIMIT_SECONDS,
            format!(
                "{} pings from outside, {} answered; last {request:.1} s ago, last answer {reply:.1} s ago",
                echo.requests_in, echo.replies_out
            ),
        ),
    };
    Check {
        tunnel: tunnel.name.clone(),
        check: "answers",
        pass: pass || !tunnel.prefixes.is_empty(),
        detail,
        inside: None,
        outside: None,
    }
}
