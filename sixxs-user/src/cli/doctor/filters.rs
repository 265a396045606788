//! Packet filters, as nft lists them.

use std::{process::Stdio, time::Duration};

use anyhow::{Context as _, bail, ensure};
use serde_json::Value;
use sixxs_core::doctor::filters::{Does, FilterRule, Filters, Interfaces, NotListed, Tool, Tunnel};
use tokio::{io::AsyncReadExt as _, process::Command, time::timeout};

use super::{View, ip6tables};
use crate::netlink::{Question, Way};

/// How long it may take.
const WITHIN: Duration = Duration::from_secs(2);

/// How much it may say: a rule set that bans 10,000 addresses takes less.
const MAX_BYTES: u64 = 4 * 1024 * 1024;

pub(super) async fn filters(view: &View) -> Filters {
    let (by_nft, legacy, tunnels) = tokio::join!(by_nft(), ip6tables::legacy(), tunnels(view));
    let mut filters = Filters {
        tunnels,
        ..Filters::default()
    };
    for listed in [by_nft, legacy] {
        match listed {
            Ok(rules) => filters.rules.extend(rules),
            Err(not_listed) => filters.not_listed.push(not_listed),
        }
    }
    filters
}

/// What is in nftables. What ip6tables put there it knows best itself, where it is there.
async fn by_nft() -> Result<Vec<FilterRule>, NotListed> {
    let listed = list().await.map_err(|error| NotListed {
        asked: "nft -j list ruleset",
        why: Some(format!("{error:#}")),
    })?;
    let mut rules = read(&listed);
    if has_xtables(&listed)
        && let Some(better) = ip6tables::in_nft().await
    {
        rules.retain(|rule| rule.family != "ip6" || !better.has_table(&rule.table));
        rules.extend(better.rules);
    }
    Ok(rules)
}

/// The tunnels that are there, and whether answers to what comes in by them are led back.
async fn tunnels(view: &View) -> Vec<Tunnel> {
    let mut tunnels = Vec::new();
    for tunnel in &view.config.tunnels {
        let link = view.links.by_name(&tunnel.name);
        let (Some(link), Some(source)) = (link, tunnel.sources().next()) else {
            continue;
        };
        let question = Question {
            source: Some(source.address()),
            ..Question::default()
        };
        let way = view.netlink.way(question).await;
        tunnels.push(Tunnel {
            name: tunnel.name.to_string(),
            is_led_back: matches!(way, Ok(Way::By(found)) if found.index == Some(link.index)),
        });
    }
    tunnels
}

/// What nft lists. Without nft there is nothing of its making.
async fn list() -> anyhow::Result<Value> {
    match output("nft", &["-j", "list", "ruleset"]).await? {
        Some(listed) => serde_json::from_slice(&listed).context("understand what nft lists"),
        None => Ok(Value::Null),
    }
}

/// What a program that lists something prints; `None`: it is not there.
pub(super) async fn output(program: &str, arguments: &[&str]) -> anyhow::Result<Option<Vec<u8>>> {
    let child = Command::new(program)
        .args(arguments)
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .kill_on_drop(true)
        .spawn();
    let mut child = match child {
        Ok(child) => child,
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(error).with_context(|| format!("run {program}")),
    };
    let output = child.stdout.take().context("it has no output")?;
    let finished = async {
        let mut listed = Vec::new();
        output.take(MAX_BYTES + 1).read_to_end(&mut listed).await?;
        ensure!(
            listed.len() as u64 <= MAX_BYTES,
            "{program} lists more than {MAX_BYTES} bytes"
        );
        let status = child.wait().await?;
        ensure!(status.success(), "{program} lists nothing: {status}");
        Ok(Some(listed))
    };
    match timeout(WITHIN, finished).await {
        Ok(listed) => listed,
        Err(_) => bail!("{program} takes longer than {} s", WITHIN.as_secs()),
    }
}

/// The rules that matter, of what nft lists (libnftables-json(5)).
fn read(listed: &Value) -> Vec<FilterRule> {
    let objects = listed["nftables"].as_array();
    let rules = objects.into_iter().flatten().map(|object| &object["rule"]);
    rules.filter_map(rule).collect()
}

/// Whether there are rules that ip6tables put there.
fn has_xtables(listed: &Value) -> bool {
    let objects = listed["nftables"].as_array();
    let rules = objects.into_iter().flatten().map(|object| &object["rule"]);
    let mut parts = rules
        .filter(|rule| rule["family"] == "ip6")
        .filter_map(|rule| rule["expr"].as_array())
        .flatten();
    parts.any(|part| part.get("xt").is_some())
}

fn rule(rule: &Value) -> Option<FilterRule> {
    let text = |key: &str| rule[key].as_str().map(str::to_owned);
    let family = text("family").filter(|family| family == "inet" || family == "ip6")?;
    let mut interfaces = None;
    let mut is_strict = false;
    let mut verdict = None;
    for part in rule["expr"].as_array()? {
        let (kind, what) = part.as_object()?.iter().next()?;
        match kind.as_str() {
            "match" if is_reverse(what) => is_strict = true,
            "match" if is_about_ipv6(what) => {}
            // Whatever else it asks for makes it one for few packets, or none of ours.
            "match" => interfaces = Some(incoming(what)?),
            "xt" => {
                is_strict = what["name"] == "rpfilter";
                if !is_strict {
                    return None;
                }
            }
            "counter" | "log" | "comment" | "limit" => {}
            verdict_of => verdict = Some(verdict_of.to_owned()),
        }
    }
    let does = match verdict.as_deref() {
        Some("accept" | "return") if !is_strict => Does::Pass,
        Some("drop" | "reject") if is_strict => Does::DropUnlessStrict,
        _ => return None,
    };
    Some(FilterRule {
        tool: Tool::Nft,
        family,
        table: text("table")?,
        chain: text("chain")?,
        number: rule["handle"].as_u64()?,
        interfaces,
        does,
    })
}

/// `fib saddr . iif oif missing`: no route to the source leads out of the interface that it came in by.
fn is_reverse(what: &Value) -> bool {
    let fib = &what["left"]["fib"];
    let flags = fib["flags"]
        .as_array()
        .map(Vec::as_slice)
        .unwrap_or_default();
    let has = |flag: &str| flags.iter().any(|other| other == flag);
    let missing = match &what["right"] {
        Value::Bool(there) => !there,
        Value::String(text) => text == "0",
        other => other == 0,
    };
    fib["result"] == "oif" && has("saddr") && has("iif") && what["op"] == "==" && missing
}

fn is_about_ipv6(what: &Value) -> bool {
    let key = &what["left"]["meta"]["key"];
    let right = &what["right"];
    what["op"] == "=="
        && (key == "nfproto" && right == "ipv6" || key == "protocol" && right == "ip6")
}

/// The incoming interfaces that a match asks for; `None`: it asks for something else.
fn incoming(what: &Value) -> Option<Interfaces> {
    let key = &what["left"]["meta"]["key"];
    if key != "iifname" && key != "iif" {
        return None;
    }
    let names = match &what["right"] {
        Value::String(name) if !name.starts_with('@') => vec![name.clone()],
        right => right["set"]
            .as_array()?
            .iter()
            .map(|name| name.as_str().map(str::to_owned))
            .collect::<Option<_>>()?,
    };
    let not = match what["op"].as_str()? {
        "==" | "in" => false,
        "!=" => true,
        _ => return None,
    };
    Some(Interfaces { not, names })
}

#[cfg(test)]
mod tests {
    use super::*;

    /// As nft 1.0.6 lists them.
    #[test]
    fn rules_are_understood() {
        let fib = r#"{"match": {"op": "==", "left": {"fib": {"result": "oif", "flags": ["saddr", "mark", "iif"]}}, "right": false}}"#;
        let loose = r#"{"match": {"op": "==", "left": {"fib": {"result": "oif", "flags": ["saddr"]}}, "right": false}}"#;
        let six =
            r#"{"match": {"op": "==", "left": {"meta": {"key": "nfproto"}}, "right": "ipv6"}}"#;
        let four =
            r#"{"match": {"op": "==", "left": {"meta": {"key": "nfproto"}}, "right": "ipv4"}}"#;
        let ours = r#"{"match": {"op": "==", "left": {"meta": {"key": "iifname"}}, "right": {"set": ["sixxs0", "sixxs1"]}}}"#;
        let others =
            r#"{"match": {"op": "!=", "left": {"meta": {"key": "iifname"}}, "right": "net0"}}"#;
        let xt = r#"{"xt": {"type": "match", "name": "rpfilter"}}"#;
        let counter = r#"{"counter": {"packets": 0, "bytes": 0}}"#;
        let (drop, accept) = (r#"{"drop": null}"#, r#"{"accept": null}"#);
        let does = |parts: &[&str]| {
            let listed = format!(
                r#"{{"nftables": [{{"metainfo": {{}}}}, {{"rule": {{"family": "inet", "table": "t",
                "chain": "c", "handle": 4, "expr": [{}]}}}}]}}"#,
                parts.join(", ")
            );
            let rules = read(&serde_json::from_str(&listed).unwrap());
            rules.first().map(|rule| {
                let interfaces = rule.interfaces.as_ref();
                let names = interfaces
                    .map(|i| format!("{}{}", if i.not { "!" } else { "" }, i.names.join(" ")));
                (rule.does, names.unwrap_or_default())
            })
        };
        let strict = |names: &str| Some((Does::DropUnlessStrict, names.to_owned()));
        assert_eq!(does(&[six, fib, counter, drop]), strict(""));
        assert_eq!(does(&[xt, counter, drop]), strict(""));
        assert_eq!(does(&[others, fib, drop]), strict("!net0"));
        assert_eq!(
            does(&[ours, accept]),
            Some((Does::Pass, "sixxs0 sixxs1".to_owned()))
        );
        for harmless in [
            &[four, fib, drop][..],
            &[loose, drop],
            &[fib, counter],
            &[fib],
            &[drop],
            &[],
        ] {
            assert_eq!(does(harmless), None, "{harmless:?}");
        }
        for nonsense in [
            "null",
            "[]",
            r#"{"nftables": 1}"#,
            r#"{"nftables": [1, {"rule": 2}]}"#,
        ] {
            assert!(read(&serde_json::from_str(nonsense).unwrap()).is_empty());
        }
    }
}
