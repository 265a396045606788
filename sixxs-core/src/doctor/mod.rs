//! Diagnosis of a host: findings, each with its fix, from facts that the caller gathered.
//!
//! * [`host`] – the kernel's features
//! * [`settings`] – sysctls
//! * [`filters`] – packet filters with reverse path checks
//! * [`routing`] – rules, programs, addresses and uplinks
//! * [`marked`] – foreign rules that match a mark
//! * [`managers`] – network managers
//! * [`paths`] – the packet sizes that tunnels carry
//! * [`delivery`] – silent tunnels
//! * [`brokers`] – the clock and the connect limit
//! * [`daemon`] – the daemon's problems, and other daemons

pub mod brokers;
pub mod daemon;
pub mod delivery;
pub mod filters;
pub mod host;
pub mod managers;
pub mod marked;
pub mod paths;
pub mod routing;
pub mod ruleset;
pub mod settings;
pub mod sockets;

pub use host::{has_decapsulation, has_tcx, too_old};

/// The facts about a host.
#[derive(Clone, Debug, Default)]
pub struct Facts {
    /// The kernel.
    pub host: host::Host,
    /// The configuration's error, if it has one.
    pub configuration: Option<Configuration>,
    /// Sysctls.
    pub settings: settings::Settings,
    /// Packet filters.
    pub filters: filters::Filters,
    /// UDP services on the wildcard address.
    pub sockets: sockets::Sockets,
    /// Rules, programs, addresses and uplinks.
    pub routing: routing::RoutingFacts,
    /// Network managers.
    pub managers: managers::Managers,
    /// The packet sizes that tunnels carry.
    pub paths: Vec<paths::Path>,
    /// Silent tunnels.
    pub delivery: delivery::Delivery,
    /// The clock and the connect limit.
    pub brokers: brokers::Brokers,
    /// The daemon.
    pub daemon: daemon::Daemon,
}

/// The reason why there is no configuration.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Configuration {
    /// There is no such file.
    Missing(String),
    /// The calling user may not read it.
    NotPermitted(String),
    /// It has errors, with this description.
    Wrong(String),
}

/// The severity of a finding.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// Correct.
    Good,
    /// Harmless, but worth knowing.
    Note,
    /// A fault.
    Bad,
}

/// The result of a check.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Finding {
    /// The subject.
    pub about: &'static str,
    /// The severity.
    pub verdict: Verdict,
    /// The result in words.
    pub detail: String,
    /// The fix.
    pub fix: Option<String>,
}

impl Finding {
    fn good(about: &'static str, detail: impl Into<String>) -> Self {
        Self {
            about,
            verdict: Verdict::Good,
            detail: detail.into(),
            fix: None,
        }
    }

    fn not(
        about: &'static str,
        verdict: Verdict,
        detail: impl Into<String>,
        fix: impl Into<String>,
    ) -> Self {
        Self {
            about,
            verdict,
            detail: detail.into(),
            fix: Some(fix.into()),
        }
    }
}

/// All findings, in an order for users: the prerequisites of everything else come first.
#[must_use]
pub fn examine(facts: &Facts) -> Vec<Finding> {
    let mut findings = host::findings(&facts.host);
    let configuration = facts.configuration.as_ref();
    findings.extend(configuration.map(|why| self::configuration(why, &facts.daemon)));
    findings.extend(settings::findings(&facts.settings));
    findings.extend(filters::findings(&facts.filters));
    findings.extend(sockets::findings(&facts.sockets));
    findings.extend(routing::findings(&facts.routing));
    findings.extend(managers::findings(&facts.managers));
    findings.extend(paths::findings(&facts.paths));
    findings.extend(delivery::findings(&facts.delivery));
    findings.extend(brokers::findings(&facts.brokers));
    findings.extend(daemon::findings(&facts.daemon, configuration));
    findings
}

fn configuration(why: &Configuration, daemon: &daemon::Daemon) -> Finding {
    // A daemon that was started only for an account needs no configuration file.
    let has_daemon = daemon.problems.is_some();
    let (verdict, detail, fix) = match why {
        Configuration::Missing(file) => (
            if has_daemon {
                Verdict::Note
            } else {
                Verdict::Bad
            },
            format!("there is no {file}"),
            "--config FILE, or write it: docs/reference.md has every key; only sixxs aiccu runs without one",
        ),
        Configuration::NotPermitted(file) => (
            Verdict::Note,
            format!("{file} cannot be read: permission denied"),
            "run it as root",
        ),
        Configuration::Wrong(how) => (
            Verdict::Bad,
            how.clone(),
            "correct the file; docs/reference.md has every key",
        ),
    };
    Finding::not("configuration", verdict, detail, fix)
}

fn has(about: &'static str, is_there: Option<bool>, good: &str, bad: &str, fix: &str) -> Finding {
    match is_there {
        Some(true) => Finding::good(about, good),
        Some(false) => Finding::not(about, Verdict::Bad, bad, fix),
        None => Finding::not(
            about,
            Verdict::Note,
            format!("cannot determine whether {good}"),
            "run it as root",
        ),
    }
}

#[cfg(test)]
mod tests;
