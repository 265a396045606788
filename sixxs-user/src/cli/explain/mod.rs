//! `sixxs explain`: shows the path that a packet would take, and why.
//!
//! * `arguments` – the arguments
//! * `gather` – the facts
//! * `live` – a real packet

mod arguments;
mod gather;
mod live;

use std::{net::Ipv6Addr, process::ExitCode};

use serde::Serialize;
use sixxs_core::{
    explain::{
        live::{Comparison, Fate, Live, compare},
        path::{self, Explanation, Facts, RoutingDecision},
    },
    link::Links,
};

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
    #[serde(skip_serializing_if = "Option::is_none")]
    live: Option<LiveReport<'a>>,
}

/// What the kernel did with a real packet.
#[derive(Serialize)]
struct LiveReport<'a> {
    interface: Option<&'a str>,
    outcome: &'static str,
    reason: Option<&'a str>,
    location: Option<&'a str>,
    sentence: &'a str,
    cure: Option<&'a str>,
    agrees: bool,
    difference: Option<&'a str>,
}

impl<'a> LiveReport<'a> {
    fn new((live, compared): &'a (Live, Comparison)) -> Self {
        let drop = match &live.fate {
            Fate::Lost(drop) => drop.as_ref(),
            Fate::Seen(_) | Fate::Refused(_) => None,
        };
        Self {
            interface: live.interface.as_deref(),
            outcome: compared.outcome,
            reason: drop.map(|drop| drop.reason.as_str()),
            location: drop.and_then(|drop| drop.location.as_deref()),
            sentence: &compared.sentence,
            cure: compared.cure.as_deref(),
            agrees: compared.difference.is_none(),
            difference: compared.difference.as_deref(),
        }
    }
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
    let (facts, links) = gather::gather(paths, &arguments).await?;
    let live = if arguments.live {
        Some(send(paths, &facts, &links).await?)
    } else {
        None
    };
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
            live: live.as_ref().map(LiveReport::new),
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
    if let Some((_, compared)) = &live {
        output::print(&live_text(compared))?;
    }
    Ok(ExitCode::SUCCESS)
}

/// Sends the packet, and describes what the kernel did.
async fn send(paths: &Paths, facts: &Facts, links: &Links) -> anyhow::Result<(Live, Comparison)> {
    let scope = facts.packet.oif.as_ref().and_then(|name| {
        let link = name.parse().ok().and_then(|name| links.by_name(&name));
        link.map(|link| link.index)
    });
    let sent = live::Sent {
        packet: &facts.packet,
        scope,
        bytes: facts.bytes,
    };
    let live = live::live(&paths.socket(), &sent, links).await?;
    let compared = compare(facts, &live);
    Ok((live, compared))
}

fn live_text(compared: &Comparison) -> String {
    let mut text = wrapped("live", &compared.sentence);
    if let Some(cure) = &compared.cure {
        text += &wrapped("cure", cure);
    }
    text += &match &compared.difference {
        None => wrapped("", "as predicted"),
        Some(difference) => wrapped("differs", difference),
    };
    text
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
