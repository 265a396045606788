//! Packet filters, from the output of nft.

use anyhow::Context as _;
use serde_json::Value;
use sixxs_core::{
    doctor::{
        filters::{Filters, NotListed, Tunnel},
        ruleset::{Action, Chain, Condition, Home, Interfaces, Policy, Reverse, Rule, Tool},
    },
    enforce,
};

use super::{HostView, ip6tables};
use crate::{
    host::listing::output,
    netlink::{RouteQuery, RouteResult},
};

pub(super) async fn filters(view: &HostView) -> Filters {
    let (by_nft, legacy, tunnels) = tokio::join!(by_nft(), ip6tables::legacy(), tunnels(view));
    let uplinks = enforce::uplinks(&view.config, &view.links).into_iter();
    let mut filters = Filters {
        tunnels,
        uplinks: uplinks.map(|uplink| uplink.name.to_string()).collect(),
        ..Filters::default()
    };
    for listed in [by_nft, legacy] {
        match listed {
            Ok(chains) => filters.chains.extend(chains),
            Err(not_listed) => filters.not_listed.push(not_listed),
        }
    }
    filters
}

/// The chains in nftables. Chains that ip6tables made come from ip6tables, if it is installed.
async fn by_nft() -> Result<Vec<Chain>, NotListed> {
    let listed = list().await.map_err(|error| NotListed {
        asked: "nft -j list ruleset",
        why: Some(format!("{error:#}")),
    })?;
    let mut chains = read(&listed);
    if has_xtables(&listed)
        && let Some(better) = ip6tables::in_nft().await
    {
        let is_better = |home: &Home| better.iter().any(|chain| chain.home.table == home.table);
        chains.retain(|chain| chain.home.family != "ip6" || !is_better(&chain.home));
        chains.extend(better);
    }
    Ok(chains)
}

/// The existing tunnels, and whether packets with their sources are routed back into them.
async fn tunnels(view: &HostView) -> Vec<Tunnel> {
    let mut tunnels = Vec::new();
    for tunnel in &view.config.tunnels {
        let link = view.links.by_name(&tunnel.name);
        let (Some(link), Some(source)) = (link, tunnel.sources().next()) else {
            continue;
        };
        let question = RouteQuery {
            source: Some(source.address()),
            ..RouteQuery::default()
        };
        let way = view.netlink.query_route(question).await;
        tunnels.push(Tunnel {
            name: link.kernel_name().to_string(),
            is_led_back: matches!(way, Ok(RouteResult::By(found)) if found.index == Some(link.index)),
        });
    }
    tunnels
}

/// The output of nft; null if nft is not installed, since then it made no rules.
pub(in crate::cli) async fn list() -> anyhow::Result<Value> {
    match output("nft", &["-j", "list", "ruleset"]).await? {
        Some(listed) => serde_json::from_slice(&listed).context("parse the output of nft"),
        None => Ok(Value::Null),
    }
}

/// The chains for IPv6 in the output of nft (libnftables-json(5)).
pub(in crate::cli) fn read(listed: &Value) -> Vec<Chain> {
    let objects = listed["nftables"].as_array();
    let mut chains: Vec<Chain> = Vec::new();
    for object in objects.into_iter().flatten() {
        if let Some(chain) = chain(&object["chain"]) {
            chains.push(chain);
        }
        let Some((home, name)) = home(&object["rule"], "chain") else {
            continue;
        };
        let mut known = chains.iter_mut();
        if let Some(chain) = known.find(|chain| chain.home == home && chain.name == name) {
            chain.rules.extend(rule(&object["rule"]));
        }
    }
    chains
}

/// The table of a chain or a rule, and the chain's name, which is at this key.
fn home(object: &Value, key: &str) -> Option<(Home, String)> {
    let text = |key: &str| object[key].as_str().map(str::to_owned);
    let home = Home {
        tool: Tool::Nft,
        family: text("family").filter(|family| family == "inet" || family == "ip6")?,
        table: text("table")?,
    };
    Some((home, text(key)?))
}

/// A chain. It is a base chain only at `prerouting` and `input`: packets to this host pass there, and `fib`
/// can look up the reverse route.
fn chain(object: &Value) -> Option<Chain> {
    let (home, name) = home(object, "name")?;
    let is_met = object["hook"] == "prerouting" || object["hook"] == "input";
    let policy = match object["policy"] == "drop" {
        true => Policy::Drop,
        false => Policy::Accept,
    };
    Some(Chain {
        home,
        name,
        base: is_met.then_some(policy),
        rules: Vec::new(),
    })
}

/// Whether there are rules from ip6tables.
fn has_xtables(listed: &Value) -> bool {
    let objects = listed["nftables"].as_array();
    let rules = objects.into_iter().flatten().map(|object| &object["rule"]);
    let mut parts = rules
        .filter(|rule| rule["family"] == "ip6")
        .filter_map(|rule| rule["expr"].as_array())
        .flatten();
    parts.any(|part| part.get("xt").is_some())
}

fn rule(object: &Value) -> Option<Rule> {
    let mut rule = Rule {
        number: object["handle"].as_u64()?,
        conditions: Vec::new(),
        action: Action::Continue,
    };
    for part in object["expr"].as_array()? {
        let (kind, what) = part.as_object()?.iter().next()?;
        match kind.as_str() {
            "match" if is_about_ipv6(what) => {}
            "match" => rule.conditions.push(condition(what)),
            // nft does not show the options of an xtables match.
            "xt" if what["name"] == "rpfilter" => {
                rule.conditions
                    .push(Condition::Reverse(Reverse::Strict, false));
            }
            "xt" => rule.conditions.push(Condition::Other),
            "vmap" => rule.action = verdict_map(what),
            _ => rule.action = action(kind, what).unwrap_or(rule.action),
        }
    }
    Some(rule)
}

/// `None` for a statement without a verdict.
fn action(kind: &str, what: &Value) -> Option<Action> {
    let target = || what["target"].as_str().map(str::to_owned);
    match kind {
        "accept" => Some(Action::Accept),
        "drop" | "reject" => Some(Action::Drop),
        "return" => Some(Action::Return),
        "jump" => Some(Action::Jump(target()?)),
        "goto" => Some(Action::Goto(target()?)),
        _ => None,
    }
}

fn condition(what: &Value) -> Condition {
    if let Some(interfaces) = incoming(what) {
        return Condition::Incoming(interfaces);
    }
    let asked = || {
        let reverse = reverse(&what["left"]["fib"])?;
        let is_route = is_route(&what["right"])?;
        match what["op"].as_str()? {
            "==" => Some(Condition::Reverse(reverse, is_route)),
            "!=" => Some(Condition::Reverse(reverse, !is_route)),
            _ => None,
        }
    };
    asked().unwrap_or(Condition::Other)
}

/// `fib saddr … oif`: the interface by which the source is reached; with `iif`, only the incoming interface
/// counts.
fn reverse(fib: &Value) -> Option<Reverse> {
    let flags = fib["flags"].as_array()?;
    let has = |flag: &str| flags.iter().any(|other| other == flag);
    let reverse = match has("iif") {
        true => Reverse::Strict,
        false => Reverse::Loose,
    };
    (fib["result"] == "oif" && has("saddr")).then_some(reverse)
}

/// `exists` or `missing`; older versions print interface 0 for `missing`.
fn is_route(right: &Value) -> Option<bool> {
    match right {
        Value::Bool(there) => Some(*there),
        Value::String(text) => (text == "0").then_some(false),
        other => (other == 0).then_some(false),
    }
}

/// A verdict map of the reverse route; other maps are ignored, since they apply to few packets.
fn verdict_map(what: &Value) -> Action {
    let Some(reverse) = reverse(&what["key"]["fib"]) else {
        return Action::Continue;
    };
    let of = |route: bool| {
        let elements = what["data"]["set"].as_array().into_iter().flatten();
        let mut chosen = elements.filter(|element| is_route(&element[0]) == Some(route));
        let verdict = chosen.next().and_then(|element| element[1].as_object());
        let (kind, what) = verdict?.iter().next()?;
        action(kind, what)
    };
    let [with, without] = [true, false].map(|route| of(route).unwrap_or(Action::Continue));
    Action::ByReverse(reverse, with.into(), without.into())
}

fn is_about_ipv6(what: &Value) -> bool {
    let key = &what["left"]["meta"]["key"];
    let right = &what["right"];
    what["op"] == "=="
        && (key == "nfproto" && right == "ipv6" || key == "protocol" && right == "ip6")
}

/// The incoming interfaces in a match; `None` for other matches.
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
    use sixxs_core::doctor::ruleset::reverse_filters;

    use super::*;

    /// In the format of nft 1.0.6.
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
                r#"{{"nftables": [{{"metainfo": {{}}}}, {{"chain": {{"family": "inet", "table": "t", "name": "c",
                "hook": "prerouting", "policy": "accept"}}}}, {{"rule": {{"family": "inet", "table": "t",
                "chain": "c", "handle": 4, "expr": [{}]}}}}]}}"#,
                parts.join(", ")
            );
            let chains = read(&serde_json::from_str(&listed).unwrap());
            let hits = |interface| reverse_filters(&chains, interface).next().is_some();
            ["net0", "sixxs0"].map(hits)
        };
        let exists = fib.replace("false", "true");
        let vmap = r#"{"vmap": {"key": {"fib": {"result": "oif", "flags": ["saddr", "iif"]}}, "data": {"set": [["0", {"drop": null}]]}}}"#;
        for (parts, hit) in [
            (&[six, fib, counter, drop][..], [true, true]),
            (&[xt, counter, drop], [true, true]),
            (&[others, fib, drop], [false, true]),
            (&[ours, fib, drop], [false, true]),
            (&[vmap], [true, true]),
            (&[&exists, drop], [false, false]),
            (&[four, fib, drop], [false, false]),
            (&[loose, drop], [false, false]),
            (&[fib, counter], [false, false]),
            (&[fib, accept], [false, false]),
            (&[fib], [false, false]),
            (&[drop], [false, false]),
            (&[], [false, false]),
        ] {
            assert_eq!(does(parts), hit, "{parts:?}");
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
