//! Misconfigurations for `sixxs doctor`: each is set up, found, removed by the printed fix, and no longer
//! found.

mod environment;
mod filters;
mod host;
mod managers;
mod settings;

use std::process::Command;

use anyhow::{Context as _, Result, ensure};
use serde_json::Value;

use crate::fixture::Fixture;

/// What is found that is not as it should be, about something.
fn traps(fixture: &Fixture, about: &str) -> Result<Vec<Value>> {
    let (_, report) = fixture.program.json(&["doctor"])?;
    let findings = report[0]["findings"].as_array().context("findings")?;
    let is_one = |finding: &&Value| finding["about"] == about && finding["verdict"] != "good";
    Ok(findings.iter().filter(is_one).cloned().collect())
}

/// The one trap that is found about something.
fn trap(fixture: &Fixture, about: &str, verdict: &str) -> Result<Value> {
    let traps = traps(fixture, about)?;
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
fn apply(fixture: &Fixture, trap: &Value) -> Result<()> {
    fixture.program.shell(&fix(trap)?)?;
    Ok(())
}

/// A trap is there, its fix takes it away.
fn is_fixed(fixture: &Fixture, about: &str, verdict: &str) -> Result<()> {
    let trap = trap(fixture, about, verdict)?;
    apply(fixture, &trap)?;
    let left = traps(fixture, about)?;
    ensure!(left.is_empty(), "after {:?}: {left:#?}", trap["fix"]);
    Ok(())
}

/// What a command printed, whatever its exit status.
fn shell_output(command: &mut Command) -> Result<String> {
    let output = command.output().context("run it")?;
    Ok(String::from_utf8(output.stdout)?)
}
