//! What on a host is in the way: findings, each with its fix, from facts that somebody else gathered.
//!
//! * [`host`] – what the kernel has
//! * [`settings`] – sysctls
//! * [`filters`] – packet filters that ask where a packet's source is reached
//! * [`ways`] – rules, programs, addresses and uplinks
//! * [`marked`] – rules that take away what has a mark
//! * [`managers`] – network managers
//! * [`paths`] – what fits through the tunnels
//! * [`brokers`] – the clock and the connect limit
//! * [`daemon`] – what the daemon says, and who else runs

pub mod brokers;
pub mod daemon;
pub mod filters;
pub mod host;
pub mod managers;
pub mod marked;
pub mod paths;
pub mod ruleset;
pub mod settings;
pub mod sockets;
pub mod ways;

pub use host::{has_tcx, too_old};

/// What there is on a host.
#[derive(Clone, Debug, Default)]
pub struct Facts {
    /// The kernel.
    pub host: host::Host,
    /// What is wrong with the configuration.
    pub configuration: Option<Configuration>,
    /// Sysctls.
    pub settings: settings::Settings,
    /// Packet filters.
    pub filters: filters::Filters,
    /// UDP services on the wildcard address.
    pub sockets: sockets::Sockets,
    /// Rules, programs, addresses and uplinks.
    pub ways: ways::Ways,
    /// Network managers.
    pub managers: managers::Managers,
    /// What fits through the tunnels.
    pub paths: Vec<paths::Path>,
    /// The clock and the connect limit.
    pub brokers: brokers::Brokers,
    /// The daemon.
    pub daemon: daemon::Daemon,
}

/// Why a configuration is not to be had.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Configuration {
    /// There is no such file.
    Missing(String),
    /// Whoever asks may not read it.
    NotPermitted(String),
    /// It is wrong, as this says.
    Wrong(String),
}

/// How bad it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// As it should be.
    Good,
    /// It does not hinder; worth knowing.
    Note,
    /// Something is in the way.
    Bad,
}

/// Something that was looked at.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Finding {
    /// What.
    pub about: &'static str,
    /// How it is.
    pub verdict: Verdict,
    /// What was found.
    pub detail: String,
    /// What to do about it.
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

/// What is to be said of a host, in an order for people: what nothing works without comes first.
#[must_use]
pub fn examine(facts: &Facts) -> Vec<Finding> {
    let mut findings = host::findings(&facts.host);
    let configuration = facts.configuration.as_ref();
    findings.extend(configuration.map(|why| self::configuration(why, &facts.daemon)));
    findings.extend(settings::findings(&facts.settings));
    findings.extend(filters::findings(&facts.filters));
    findings.extend(sockets::findings(&facts.sockets));
    findings.extend(ways::findings(&facts.ways));
    findings.extend(managers::findings(&facts.managers));
    findings.extend(paths::findings(&facts.paths));
    findings.extend(brokers::findings(&facts.brokers));
    findings.extend(daemon::findings(&facts.daemon, configuration));
    findings
}

fn configuration(why: &Configuration, daemon: &daemon::Daemon) -> Finding {
    // One that was started for an account alone does without.
    let has_daemon = daemon.problems.is_some();
    let (verdict, detail, fix) = match why {
        Configuration::Missing(file) => (
            if has_daemon {
                Verdict::Note
            } else {
                Verdict::Bad
            },
            format!("there is no {file}"),
            "--config FILE, or write it: docs/reference.md has every key; only sixxs aiccu does without",
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

fn has(about: &'static str, there: Option<bool>, good: &str, bad: &str, fix: &str) -> Finding {
    match there {
        Some(true) => Finding::good(about, good),
        Some(false) => Finding::not(about, Verdict::Bad, bad, fix),
        None => Finding::not(
            about,
            Verdict::Note,
            format!("not found out whether {good}"),
            "run it as root",
        ),
    }
}

#[cfg(test)]
mod tests;
