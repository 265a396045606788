//! `sixxs doctor` and the traps of hosts. Each test sets a trap, expects the finding, runs the fix that is
//! printed, and expects the finding to disappear.

mod host;
mod managers;
mod others;
mod settings;
mod ways;

use std::process::Command;

use anyhow::{Context as _, Result, ensure};
use serde_json::Value;

use crate::setting::Setting;

/// The findings on a subject with other verdicts than `good`.
fn traps(setting: &Setting, about: &str) -> Result<Vec<Value>> {
    let (_, report) = setting.program.json(&["doctor"])?;
    let findings = report[0]["findings"].as_array().context("findings")?;
    let is_one = |finding: &&Value| finding["about"] == about && finding["verdict"] != "good";
    Ok(findings.iter().filter(is_one).cloned().collect())
}

/// The only finding on a subject, with this verdict.
fn trap(setting: &Setting, about: &str, verdict: &str) -> Result<Value> {
    let traps = traps(setting, about)?;
    let [trap] = traps.as_slice() else {
        anyhow::bail!("one about {about} is expected: {traps:#?}");
    };
    ensure!(trap["verdict"] == verdict, "{trap:#}");
    Ok(trap.clone())
}

fn fix(trap: &Value) -> Result<String> {
    let fix = trap["fix"].as_str().context("a fix")?;
    // The text after these separators is an alternative, or a permanent fix.
    let first = fix
        .split("; or ")
        .next()
        .and_then(|fix| fix.split("; for good").next());
    Ok(first.unwrap_or(fix).to_owned())
}

/// Runs the fix in a shell in the program's environment.
fn apply(setting: &Setting, trap: &Value) -> Result<()> {
    setting.program.shell(&fix(trap)?)?;
    Ok(())
}

/// Expects a trap, and that its fix removes it.
fn is_fixed(setting: &Setting, about: &str, verdict: &str) -> Result<()> {
    let trap = trap(setting, about, verdict)?;
    apply(setting, &trap)?;
    let left = traps(setting, about)?;
    ensure!(left.is_empty(), "after {:?}: {left:#?}", trap["fix"]);
    Ok(())
}

/// The output of a command, with any exit status.
fn shell_output(command: &mut Command) -> Result<String> {
    let output = command.output().context("run it")?;
    Ok(String::from_utf8(output.stdout)?)
}
