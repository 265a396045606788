//! `sixxs doctor`: finds problems on this host.
//!
//! * `managers` – network managers and other processes
//! * `settings` – sysctls
//! * `filters`, `ip6tables` – packet filters, by nft and ip6tables
//! * `routing` – rules, programs, addresses and uplinks
//! * `brokers` – paths, the clock and the connect limit

mod brokers;
mod filters;
mod ip6tables;
mod listing;
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
    config::{Config, RuleMode},
    doctor::{
        self, Configuration, Facts, Finding, Verdict,
        daemon::Daemon,
        host::{Host, Pins, Refused},
    },
    link::Links,
    routing::{
        Desired, Observed, Plan, Step, UNREACHABLE_METRIC,
        desired::RouteKey,
        diff,
        plan::{Route, To},
    },
    types::{Prefix, TableId},
};

use super::{broker_overlay, show};
use crate::{
    bpf::{self, SeenPins},
    control::api::{Carrier, Kind, State, Status},
    control::client,
    host::config_file,
    host::kernel_support,
    host::paths::Paths,
    netlink::{Netlink, Scope},
};

/// A finding in the output.
#[derive(Serialize)]
struct Told<'a> {
    about: &'a str,
    verdict: &'static str,
    detail: &'a str,
    fix: Option<&'a str>,
}

#[derive(Serialize)]
struct Report<'a> {
    healthy: bool,
    findings: Vec<Told<'a>>,
}

pub(super) async fn doctor(paths: &Paths, json: bool) -> anyhow::Result<ExitCode> {
    let findings = doctor::examine(&gather(paths).await);
    let told = findings.iter().map(|finding| {
        let Finding {
            about,
            verdict,
            detail,
            fix,
        } = finding;
        Told {
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
        findings: told.collect(),
    };
    let shown = if json {
        show::line(&report)?
    } else {
        let mut shown = String::new();
        for Told {
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
    show::verdict(&shown, report.healthy)
}

/// Input of the other files: the configuration with the brokers' parameters, the host's state, and the status.
struct View {
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
        Err(wrong) => (None, Some(why_not(wrong))),
    };
    let status = client::status_soon(&paths.socket()).await;
    let mut facts = Facts {
        host: host(paths, config.as_ref(), status.as_ref().ok()),
        configuration,
        managers: managers::managers(config.as_ref()),
        daemon: daemon(paths, config.as_ref(), status.as_ref()).await,
        ..Facts::default()
    };
    let status = status.ok();
    let config = config.unwrap_or_default();
    let depends_on_clock = brokers::depends_on_clock(&config);
    let config = broker_overlay::overlaid(&config, paths, status.as_ref()).await;
    let (netlink, observed) = match observe(&config).await {
        Ok(observed) => observed,
        Err(error) => {
            let lacks_rules = format!("{error:#}").contains("no rules for IPv6");
            facts.host.rules = lacks_rules.then_some(false);
            return facts;
        }
    };
    facts.host.rules = Some(true);
    let config = broker_overlay::beside(config, &observed);
    if facts.daemon.problems.is_none() {
        let plan = diff(&Desired::new(&config, |_| true), &observed);
        facts.daemon.missing = plan.steps.len();
    }
    let view = View {
        config,
        has_rules: !observed.rules.is_empty(),
        links: observed.links,
        netlink,
        status,
        depends_on_clock,
    };
    (facts.filters, facts.paths, facts.settings, facts.routing) = tokio::join!(
        filters::filters(&view),
        brokers::paths(&view),
        settings::settings(&view),
        routing::routing(&view),
    );
    facts.brokers = brokers::brokers(&view);
    facts.sockets = sockets::sockets(&view);
    facts
}

/// Facts about the daemon, by its status or the reason why there is none.
async fn daemon(
    paths: &Paths,
    config: Option<&Config>,
    status: Result<&Status, &anyhow::Error>,
) -> Daemon {
    let (mut not_asked, mut silent) = (None, None);
    if let Err(error) = status {
        if error.is::<client::Silent>() {
            silent = Some(error.to_string());
        } else if !error.is::<client::NoDaemon>() {
            not_asked = Some(format!("{error:#}"));
        }
    }
    Daemon {
        problems: status.ok().map(problems),
        not_asked,
        silent,
        missing: 0,
        others: managers::other_daemons(paths).await,
        group: managers::group(&paths.group),
        not_writable: config
            .filter(|config| has_native(config))
            .and_then(|_| managers::not_writable(&paths.state_dir)),
    }
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

/// Why there is no valid configuration.
fn why_not(error: config_file::Error) -> Configuration {
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

fn host(paths: &Paths, config: Option<&Config>, status: Option<&Status>) -> Host {
    let SeenPins {
        mounted,
        mount_point,
        left,
        refused,
        strange,
    } = bpf::seen_pins(&paths.pin_dir);
    let has_subtrees = |config: &Config| config.rule_mode == RuleMode::Subtrees;
    let carriers = status.iter().flat_map(|status| &status.tunnels);
    let mut six_in_four =
        carriers.filter(|tunnel| matches!(tunnel.kind, Kind::SixInFour | Kind::SixInFourHeartbeat));
    Host {
        release: kernel_support::release(),
        ipv6: kernel_support::has_ipv6(),
        rules: None,
        subtrees: config
            .filter(|config| has_subtrees(config))
            .map(|_| try_subtrees()),
        programs: bpf::is_supported(),
        bpffs: read("/proc/filesystems")
            .lines()
            .any(|line| line.ends_with("\tbpf")),
        pins: Pins {
            directory: paths.pin_dir.display().to_string(),
            mount_point: mount_point.display().to_string(),
            mounted,
            mountable: has_sys_admin(),
            // A running daemon has taken them over.
            left: left.into_iter().filter(|_| status.is_none()).collect(),
            // For an ordinary user the check shows nothing about root.
            refused: refused
                .filter(|_| has_sys_admin().is_some())
                .map(|(why, read_only)| Refused {
                    why,
                    read_only: read_only.map(|mount| mount.display().to_string()),
                }),
            strange: strange
                .iter()
                .filter(|_| has_sys_admin().is_some())
                .map(|path| path.display().to_string())
                .collect(),
        },
        tun: config
            .filter(|config| has_native(config))
            .map(|_| Path::new("/dev/net/tun").exists()),
        sit: six_in_four
            .any(|tunnel| tunnel.carrier == Some(Carrier::Tun))
            .then_some(false),
    }
}

/// Whether this process has `CAP_SYS_ADMIN` (bit 21), which mounts need. `None`: no, but it is not root either.
fn has_sys_admin() -> Option<bool> {
    let status = read("/proc/self/status");
    let mut lines = status.lines();
    let bits = lines.find_map(|line| line.strip_prefix("CapEff:"));
    let has = bits
        .and_then(|bits| u64::from_str_radix(bits.trim(), 16).ok())
        .is_some_and(|bits| bits >> 21 & 1 == 1);
    (has || nix::unistd::geteuid().is_root()).then_some(has)
}

/// Whether the kernel supports source-specific routes: adds one in a new network namespace, which ends with its
/// thread.
fn try_subtrees() -> Option<bool> {
    let tried = std::thread::spawn(|| {
        nix::sched::unshare(nix::sched::CloneFlags::CLONE_NEWNET).ok()?;
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()
            .ok()?;
        let place = RouteKey {
            table: TableId(200),
            metric: UNREACHABLE_METRIC,
            destination: Prefix::ALL,
            source: "2001:db8::1".parse().ok()?,
        };
        let to = To::Unreachable;
        let plan = Plan {
            steps: vec![Step::AddRoute(Route { place, to })],
            problems: Vec::new(),
        };
        runtime.block_on(async {
            let outcome = Netlink::open().ok()?.apply(&plan).await;
            Some(outcome.failed.is_empty())
        })
    });
    tried.join().ok()?
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

/// Maximum size of a file that is read.
const MAX_BYTES: u64 = 1024 * 1024;

/// The daemon's problems, and the health problems of tunnels that are up.
fn problems(status: &Status) -> Vec<String> {
    let tunnels = status
        .tunnels
        .iter()
        .filter(|tunnel| tunnel.state == State::Up);
    let reasons = tunnels.flat_map(|tunnel| {
        let reasons = tunnel.health_reasons.iter();
        reasons.map(|reason| format!("{} is {}: {reason}", tunnel.name, tunnel.health))
    });
    status.problems.iter().cloned().chain(reasons).collect()
}
