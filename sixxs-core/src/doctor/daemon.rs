//! Checks of the daemon's problems, and of other daemons.

use super::{Configuration, Finding, Verdict};

/// Facts about the daemon.
#[derive(Clone, Debug, Default)]
pub struct Daemon {
    /// Problems that the daemon reports; `None`: there is no daemon.
    pub problems: Option<Vec<String>>,
    /// The reason why a running daemon was not queried.
    pub not_asked: Option<String>,
    /// The state of a running daemon that does not answer.
    pub silent: Option<String>,
    /// Without a daemon: the number of missing rules and routes.
    pub missing: usize,
    /// Daemons of this program in this network namespace that use other directories.
    pub others: Vec<u32>,
    /// The group that may query the daemon, and whether it exists.
    pub group: Option<(String, bool)>,
    /// A required directory that is not writable.
    pub not_writable: Option<NotWritable>,
}

/// A directory that is not writable.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NotWritable {
    /// The directory; it may be missing.
    pub directory: String,
    /// The reason.
    pub why: WhyNot,
}

/// The reason why a directory is not writable.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum WhyNot {
    /// The file system at this mount point is read-only.
    ReadOnly(String),
    /// This path exists, but is not a directory.
    InTheWay(String),
    /// The calling user has no permission; the daemon's user has.
    NotAsked,
    /// The kernel's error.
    Other(String),
}

pub(super) fn findings(daemon: &Daemon, wrong: Option<&Configuration>) -> Vec<Finding> {
    let run = match wrong {
        None | Some(Configuration::NotPermitted(_)) => "sixxs run",
        Some(Configuration::Missing(_)) => "sixxs run, once there is a configuration",
        Some(Configuration::Wrong(_)) => "sixxs run, once the configuration is right",
    };
    let mut findings = Vec::new();
    findings.extend(daemon.not_writable.as_ref().map(not_writable));
    if let Some((group, false)) = &daemon.group {
        findings.push(Finding::not(
            "group",
            Verdict::Note,
            format!("there is no group {group}: only root may query the daemon"),
            format!("groupadd --system {group}, then restart the daemon"),
        ));
    }
    for process in &daemon.others {
        findings.push(Finding::not(
            "daemon",
            Verdict::Bad,
            format!(
                "process {process} is a daemon with another run directory: both change the same rules"
            ),
            format!("kill {process}"),
        ));
    }
    findings.extend(reported(daemon, run));
    findings
}

/// The report of the daemon, or the reason why there is none. `run` is the command that starts it.
fn reported(daemon: &Daemon, run: &str) -> Vec<Finding> {
    let mut findings = Vec::new();
    match &daemon.problems {
        _ if daemon.silent.is_some() || daemon.not_asked.is_some() => {
            let fix = "systemctl restart sixxs";
            let silent = daemon.silent.iter();
            findings.extend(silent.map(|why| Finding::not("daemon", Verdict::Bad, why, fix)));
            let not_asked = daemon.not_asked.iter();
            findings.extend(
                not_asked.map(|why| Finding::not("daemon", Verdict::Note, why, "run it as root")),
            );
        }
        None if daemon.missing > 0 => findings.push(Finding::not(
            "daemon",
            Verdict::Note,
            format!(
                "no daemon runs, and {} of the rules and routes for the tunnels are missing",
                daemon.missing
            ),
            run,
        )),
        None => findings.push(Finding::not(
            "daemon",
            Verdict::Note,
            "no daemon runs; its rules, routes and programs are still in place",
            run,
        )),
        Some(problems) if problems.is_empty() => {
            findings.push(Finding::good("daemon", "the daemon has no problems"));
        }
        Some(problems) => findings.extend(problems.iter().map(|problem| Finding {
            about: "daemon",
            verdict: Verdict::Bad,
            detail: problem.clone(),
            // The daemon's text contains the fix.
            fix: None,
        })),
    }
    findings
}

fn not_writable(found: &NotWritable) -> Finding {
    let NotWritable { directory, why } = found;
    let bad = |why: String, fix: String| {
        let detail = format!(
            "{directory} cannot be written to: {why}; without it, no connect to a broker is made"
        );
        Finding::not("state", Verdict::Bad, detail, fix)
    };
    match why {
        WhyNot::ReadOnly(mounted) => bad(
            format!("the file system on {mounted} is read-only"),
            format!("mount -o remount,rw {mounted}; or --state-dir DIR"),
        ),
        WhyNot::InTheWay(file) => bad(
            format!("{file} is no directory"),
            format!("mv {file} {file}.old; or --state-dir DIR"),
        ),
        WhyNot::Other(words) => bad(
            words.clone(),
            "sixxs --state-dir DIR, which root may write to".to_owned(),
        ),
        WhyNot::NotAsked => Finding::not(
            "state",
            Verdict::Note,
            format!("cannot determine whether {directory} can be written to"),
            "run it as root",
        ),
    }
}
