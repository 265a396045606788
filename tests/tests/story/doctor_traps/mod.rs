//! `sixxs doctor` and the traps that hosts have: each is set, seen, taken away by the fix that is printed,
//! and not seen any more.

mod host;
mod managers;
mod others;
mod settings;
mod ways;

use std::process::Command;

use anyhow::{Context as _, Result, ensure};
use serde_json::Value;

use crate::setting::Setting;

/// What is found that is not as it should be, about something.
fn traps(setting: &Setting, about: &str) -> Result<Vec<Value>> {
    let (_, report) = setting.program.json(&["doctor"])?;
    let findings = report[0]["findings"].as_array().context("findings")?;
    let is_one = |finding: &&Value| finding["about"] == about && finding["verdict"] != "good";
    Ok(findings.iter().filter(is_one).cloned().collect())
}

/// The one trap that is found about something.
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
    // What comes behind is another way, or for good.
    let first = fix
        .split("; or ")
        .next()
        .and_then(|fix| fix.split("; for good").next());
    Ok(first.unwrap_or(fix).to_owned())
}

/// Does what a fix says, in a shell where the program runs.
fn apply(setting: &Setting, trap: &Value) -> Result<()> {
    setting.program.shell(&fix(trap)?)?;
    Ok(())
}

/// A trap is there, its fix takes it away.
fn is_fixed(setting: &Setting, about: &str, verdict: &str) -> Result<()> {
    let trap = trap(setting, about, verdict)?;
    apply(setting, &trap)?;
    let left = traps(setting, about)?;
    ensure!(left.is_empty(), "after {:?}: {left:#?}", trap["fix"]);
    Ok(())
}

/// What a command printed, whatever its exit status.
fn shell_output(command: &mut Command) -> Result<String> {
    let output = command.output().context("run it")?;
    Ok(String::from_utf8(output.stdout)?)
}
