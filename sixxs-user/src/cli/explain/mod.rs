//! `sixxs explain`: shows the path that a packet would take, and why.
//!
//! * `arguments` – the arguments
//! * `gather` – the facts

mod arguments;
mod gather;

use std::{net::Ipv6Addr, process::ExitCode};

use serde::Serialize;
use sixxs_core::explain::path::{self, Explanation, RoutingDecision};

use super::output;
use crate::host::paths::Paths;

pub(super) use arguments::{Arguments, BadArgument};

/// The JSON output.
#[derive(Serialize)]
struct Report<'a> {
    source: Ipv6Addr,
    destination: Ipv6Addr,
    tunnel: Option<&'a str>,
    interface: Option<&'a str>,
    steps: Vec<Step<'a>>,
    outcome: &'static str,
    sentence: &'a str,
    cause: Option<&'static str>,
    cure: Option<String>,
}

#[derive(Serialize)]
struct Step<'a> {
    about: &'a str,
    detail: &'a str,
}

pub(super) async fn explain(
    paths: &Paths,
    json: bool,
    arguments: Arguments,
) -> anyhow::Result<ExitCode> {
    let facts = gather::gather(paths, &arguments).await?;
    let Explanation {
        steps,
        outcome,
        sentence,
        cause,
    } = path::explain(&facts);
    let cure = cause.as_ref().map(|cause| cause.cure());
    if json {
        let report = Report {
            source: facts.packet.source,
            destination: facts.packet.destination,
            tunnel: facts.owner.as_ref().map(|(name, _)| name.as_str()),
            interface: match &facts.decision {
                RoutingDecision::Out(route) => Some(route.interface.as_str()),
                RoutingDecision::Here(_) | RoutingDecision::Refused(_) => None,
            },
            steps: steps
                .iter()
                .map(|(about, detail)| Step { about, detail })
                .collect(),
            outcome: outcome.name(),
            sentence: &sentence,
            cause: cause.as_ref().map(|cause| cause.name()),
            cure,
        };
        output::print(&output::json_line(&report)?)?;
        return Ok(ExitCode::SUCCESS);
    }
    let mut before = "";
    for (about, detail) in &steps {
        let label = if *about == before { "" } else { about };
        output::print(&wrapped(label, detail))?;
        before = about;
    }
    output::print(&wrapped("so it", &sentence))?;
    if let Some(cure) = cure {
        output::print(&wrapped("cure", &cure))?;
    }
    Ok(ExitCode::SUCCESS)
}

/// A label, followed by a text that is wrapped to 80 columns.
fn wrapped(label: &str, text: &str) -> String {
    const WIDTH: usize = 80;
    const INDENT: usize = 9;
    let mut out = format!("{label:<INDENT$}");
    let mut column = INDENT;
    // The text's leading spaces stay: they align numbers.
    let start = text.len() - text.trim_start().len();
    out += &text[..start];
    column += start;
    for (number, word) in text[start..].split(' ').enumerate() {
        let length = word.chars().count();
        if number > 0 && column + 1 + length > WIDTH {
            out += &format!("\n{:INDENT$}  ", "");
            column = INDENT + 2;
        } else if number > 0 {
            out.push(' ');
            column += 1;
        }
        out += word;
        column += length;
    }
    out + "\n"
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn long_lines_are_wrapped() {
        let text = wrapped("rule", &format!("    0  {}", "word ".repeat(40).trim_end()));
        assert!(text.lines().count() > 2);
        assert!(text.lines().all(|line| line.len() <= 80), "{text}");
        assert!(text.starts_with("rule         0  word"), "{text}");
        let unbroken = "x".repeat(100);
        assert_eq!(wrapped("", &unbroken).lines().count(), 1);
    }
}
