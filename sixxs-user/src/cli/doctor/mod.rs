//! `sixxs doctor`: finds problems on this host.
//!
//! * `host` – the kernel's features, and the directory for pins
//! * `daemon` – the daemon, and what it needs
//! * `managers` – network managers and other processes
//! * `settings` – sysctls
//! * `filters`, `ip6tables` – packet filters, by nft and ip6tables
//! * `routing` – rules, programs, addresses and uplinks
//! * `delivery` – silent tunnels
//! * `brokers` – paths, the clock and the connect limit
//! * `sockets` – services on the wildcard address

mod brokers;
mod daemon;
mod delivery;
pub(super) mod filters;
mod host;
mod ip6tables;
mod managers;
mod routing;
mod settings;
mod sockets;

use std::{
    fs,
    io::{ErrorKind, Read as _},
    path::Path,
    process::ExitCode,
};

use serde::Serialize;
use sixxs_core::{
    config::Config,
    doctor::{self, Configuration, Facts, Finding, Verdict},
    link::Links,
    routing::{Desired, Observed, diff},
};

use super::{broker_overlay, output};
use crate::{
    control::api::Status,
    control::client,
    host::config_file,
    host::paths::Paths,
    netlink::{Netlink, NoPolicyRules, Scope},
};

/// Maximum size of a file that is read.
const MAX_BYTES: u64 = 1024 * 1024;

/// A finding in the output.
#[derive(Serialize)]
struct ReportedFinding<'a> {
    about: &'a str,
    verdict: &'static str,
    detail: &'a str,
    fix: Option<&'a str>,
}

#[derive(Serialize)]
struct Report<'a> {
    healthy: bool,
    findings: Vec<ReportedFinding<'a>>,
}

pub(super) async fn doctor(paths: &Paths, json: bool) -> anyhow::Result<ExitCode> {
    let findings = doctor::examine(&gather(paths).await);
    let reported = findings.iter().map(|finding| {
        let Finding {
            about,
            verdict,
            detail,
            fix,
        } = finding;
        ReportedFinding {
            about,
            verdict: match verdict {
                Verdict::Good => "good",
                Verdict::Note => "note",
                Verdict::Bad => "bad",
            },
            detail,
            fix: fix.as_deref(),
        }
    });
    let report = Report {
        healthy: findings
            .iter()
            .all(|finding| finding.verdict != Verdict::Bad),
        findings: reported.collect(),
    };
    let shown = if json {
        output::json_line(&report)?
    } else {
        let mut shown = String::new();
        for ReportedFinding {
            about,
            verdict,
            detail,
            fix,
        } in &report.findings
        {
            let verdict = match *verdict {
                "bad" => "BAD",
                other => other,
            };
            shown += &format!("{verdict:<5} {about:<15} {detail}\n");
            if let Some(fix) = fix {
                shown += &format!("{:<21} fix: {fix}\n", "");
            }
        }
        shown
    };
    output::print_and_exit_code(&shown, report.healthy)
}

/// Input of the other files: the configuration with the brokers' parameters, the host's state, and the status.
struct HostView {
    config: Config,
    links: Links,
    netlink: Netlink,
    status: Option<Status>,
    /// Whether rules of this program exist.
    has_rules: bool,
    /// Whether there are tunnels that need a correct clock.
    depends_on_clock: bool,
}

/// Gathers the facts. A fact that cannot be determined is unknown. There need not be a daemon or a
/// configuration.
async fn gather(paths: &Paths) -> Facts {
    let (config, configuration) = match config_file::read(&paths.config) {
        Ok(config) => (Some(config), None),
        Err(wrong) => (None, Some(configuration_fault(wrong))),
    };
    let status = client::status_soon(&paths.socket()).await;
    let mut facts = Facts {
        host: host::host(paths, config.as_ref(), status.as_ref().ok()),
        configuration,
        managers: managers::managers(config.as_ref()),
        daemon: daemon::daemon(paths, config.as_ref(), status.as_ref()).await,
        ..Facts::default()
    };
    let status = status.ok();
    let config = config.unwrap_or_default();
    let depends_on_clock = brokers::depends_on_clock(&config);
    let config = broker_overlay::with_broker_parameters(&config, paths, status.as_ref()).await;
    let (netlink, observed) = match observe(&config).await {
        Ok(observed) => observed,
        Err(error) => {
            facts.host.rules = error.is::<NoPolicyRules>().then_some(false);
            return facts;
        }
    };
    facts.host.rules = Some(true);
    let config = broker_overlay::with_host(config, &observed);
    if facts.daemon.problems.is_none() {
        let plan = diff(&Desired::new(&config, |_| true), &observed);
        facts.daemon.missing = plan.steps.len();
    }
    let view = HostView {
        config,
        has_rules: !observed.rules.is_empty(),
        links: observed.links,
        netlink,
        status,
        depends_on_clock,
    };
    (
        facts.filters,
        facts.paths,
        facts.settings,
        facts.routing,
        facts.delivery,
    ) = tokio::join!(
        filters::filters(&view),
        brokers::paths(&view),
        settings::settings(&view),
        routing::routing(&view),
        delivery::delivery(view.status.as_ref()),
    );
    facts.brokers = brokers::brokers(&view);
    facts.sockets = sockets::sockets(&view);
    facts
}

async fn observe(config: &Config) -> anyhow::Result<(Netlink, Observed)> {
    // Exits matter even if the configuration names the uplinks.
    let scope = Scope {
        exits: true,
        ..Scope::of(config)
    };
    let mut netlink = Netlink::open()?;
    let observed = netlink.observe(&scope).await?;
    Ok((netlink, observed))
}

/// What is wrong with the configuration.
fn configuration_fault(error: config_file::Error) -> Configuration {
    let config_file::Error::Unreadable { file, error: why } = &error else {
        return Configuration::Wrong(error.to_string());
    };
    match why.kind() {
        ErrorKind::NotFound => Configuration::Missing(file.clone()),
        ErrorKind::PermissionDenied => Configuration::NotPermitted(file.clone()),
        _ => Configuration::Wrong(error.to_string()),
    }
}

fn has_native(config: &Config) -> bool {
    config.tunnels.iter().any(|tunnel| tunnel.kind.is_native())
}

/// The contents of a file, up to `MAX_BYTES`; empty if it cannot be read.
fn read(file: impl AsRef<Path>) -> String {
    let text = || -> std::io::Result<String> {
        let file = file.as_ref();
        // Opening a pipe would block.
        if !fs::metadata(file)?.is_file() {
            return Ok(String::new());
        }
        let mut bytes = Vec::new();
        fs::File::open(file)?
            .take(MAX_BYTES)
            .read_to_end(&mut bytes)?;
        Ok(String::from_utf8_lossy(&bytes).into_owned())
    };
    text().unwrap_or_default()
}
