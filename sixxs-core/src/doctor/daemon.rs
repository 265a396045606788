//! What the daemon says, and who else runs.

use super::{Configuration, Finding, Verdict};

/// What there is.
#[derive(Clone, Debug, Default)]
pub struct Daemon {
    /// What the daemon says is wrong; `None`: there is no daemon.
    pub problems: Option<Vec<String>>,
    /// Why one that runs was not asked.
    pub not_asked: Option<String>,
    /// What one that runs and says nothing is like.
    pub silent: Option<String>,
    /// Where there is none: how many rules and routes are missing.
    pub missing: usize,
    /// Daemons of this program in this network namespace that work in other directories.
    pub others: Vec<u32>,
    /// Whether the group exists that may ask the daemon.
    pub group: Option<(String, bool)>,
    /// A directory that has to be written to, and cannot be.
    pub not_writable: Option<NotWritable>,
}

/// A directory that cannot be written to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NotWritable {
    /// Which one; it need not be there.
    pub directory: String,
    /// Why.
    pub why: WhyNot,
}

/// Why a directory cannot be written to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum WhyNot {
    /// What is mounted here is read-only.
    ReadOnly(String),
    /// This is there, and no directory.
    InTheWay(String),
    /// Whoever asks may not; who runs the daemon may.
    NotAsked,
    /// What the kernel says.
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
            format!("there is no group {group}: only root may ask the daemon"),
            format!("groupadd --system {group}, then restart the daemon"),
        ));
    }
    for process in &daemon.others {
        findings.push(Finding::not(
            "daemon",
            Verdict::Bad,
            format!(
                "process {process} is a daemon of another run directory: both change the same rules"
            ),
            format!("kill {process}"),
        ));
    }
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
            "no daemon runs; what it put in place before still holds",
            run,
        )),
        Some(problems) if problems.is_empty() => {
            findings.push(Finding::good("daemon", "the daemon has no problems"));
        }
        Some(problems) => findings.extend(problems.iter().map(|problem| Finding {
            about: "daemon",
            verdict: Verdict::Bad,
            detail: problem.clone(),
            // The daemon says it in one.
            fix: None,
        })),
    }
    findings
}

fn not_writable(found: &NotWritable) -> Finding {
    let NotWritable { directory, why } = found;
    let bad = |why: String, fix: String| {
        let detail =
            format!("{directory} cannot be written to: {why}; no broker is connected to without");
        Finding::not("state", Verdict::Bad, detail, fix)
    };
    match why {
        WhyNot::ReadOnly(mounted) => bad(
            format!("what is mounted on {mounted} is read-only"),
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
            format!("not found out whether {directory} can be written to"),
            "run it as root",
        ),
    }
}
