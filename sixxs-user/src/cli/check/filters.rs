//! The places where packet filters may drop a ping or its answer, from the output of nft.

use serde_json::Value;
use sixxs_core::doctor::ruleset::reverse_filters;

use crate::cli::doctor::filters::{list, read};

/// The hooks that a request passes before the host answers it.
const IN: &[&str] = &["ingress", "prerouting", "input"];

/// The hooks that its answer passes.
const OUT: &[&str] = &["output", "postrouting", "egress"];

/// The hooks of a cause of the daemon; `None`: it is not about packet filters.
pub(super) fn hooks(cause: &str) -> Option<&'static [&'static str]> {
    match cause {
        "packet_filter_in" => Some(IN),
        "packet_filter_out" => Some(OUT),
        "packet_filter" => Some(&[]),
        _ => None,
    }
}

/// The chains at these hooks, or at all hooks if there are none, that may drop packets of an interface. Empty if nft does not
/// list them.
pub(super) async fn places(device: &str, hooks: &[&str]) -> Vec<String> {
    match list().await {
        Ok(listed) => places_in(&listed, device, hooks),
        Err(_) => Vec::new(),
    }
}

fn places_in(listed: &Value, device: &str, hooks: &[&str]) -> Vec<String> {
    let objects: Vec<_> = listed["nftables"]
        .as_array()
        .into_iter()
        .flatten()
        .collect();
    let rules: Vec<_> = objects.iter().map(|object| &object["rule"]).collect();
    let chains = objects.iter().map(|object| &object["chain"]);
    let chains = chains.filter(|chain| {
        let hook = chain["hook"].as_str();
        let is_ipv6 = ["inet", "ip6", "netdev"]
            .map(Value::from)
            .contains(&chain["family"]);
        is_ipv6 && hook.is_some_and(|hook| hooks.is_empty() || hooks.contains(&hook))
    });
    let mut places: Vec<_> = chains
        .filter(|chain| chain["policy"] == "drop" || may_drop(&rules, chain))
        .map(|chain| {
            let [family, table, name, hook] =
                ["family", "table", "name", "hook"].map(|key| chain[key].as_str().unwrap_or("?"));
            format!("chain {family} {table} {name} at {hook}")
        })
        .collect();
    let chains = read(listed);
    let reverse = reverse_filters(&chains, device);
    places.extend(reverse.map(|dropped| format!("reverse-path filter {}", dropped.place())));
    places
}

/// Whether a rule of a base chain drops packets, or a rule of a chain in its table to which it jumps.
fn may_drop(rules: &[&Value], chain: &Value) -> bool {
    let is_of = |rule: &Value, key: &str| rule[key] == chain[key];
    let in_table = |rule: &&&Value| is_of(rule, "family") && is_of(rule, "table");
    let drops = |rule: &Value| has(rule, &["drop", "reject"]);
    let mut own = rules
        .iter()
        .filter(in_table)
        .filter(|rule| rule["chain"] == chain["name"]);
    let any_drops = || rules.iter().filter(in_table).any(|rule| drops(rule));
    own.any(|rule| drops(rule) || (has(rule, &["jump", "goto"]) && any_drops()))
}

/// Whether the statements of a rule have one of these verdicts, also in a verdict map.
fn has(rule: &Value, verdicts: &[&str]) -> bool {
    let text = rule["expr"].to_string();
    verdicts
        .iter()
        .any(|verdict| text.contains(&format!("\"{verdict}\":")))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// In the format of nft 1.0.6.
    #[test]
    fn chains_that_may_drop_are_named() {
        let text = r#"{"nftables": [{"metainfo": {}},
            {"chain": {"family": "inet", "table": "f", "name": "in", "hook": "input", "policy": "accept"}},
            {"chain": {"family": "inet", "table": "f", "name": "pings"}},
            {"chain": {"family": "inet", "table": "f", "name": "open", "hook": "prerouting", "policy": "accept"}},
            {"chain": {"family": "ip6", "table": "g", "name": "out", "hook": "output", "policy": "drop"}},
            {"chain": {"family": "ip", "table": "h", "name": "old", "hook": "input", "policy": "drop"}},
            {"rule": {"family": "inet", "table": "f", "chain": "in", "handle": 3, "expr": [{"jump": {"target": "pings"}}]}},
            {"rule": {"family": "inet", "table": "f", "chain": "open", "handle": 4, "expr": [{"accept": null}]}},
            {"rule": {"family": "inet", "table": "f", "chain": "pings", "handle": 5, "expr": [{"drop": null}]}}]}"#;
        let listed = serde_json::from_str(text).unwrap();
        let places = |hooks| places_in(&listed, "sixxs0", hooks);
        assert_eq!(places(IN), ["chain inet f in at input"]);
        assert_eq!(places(OUT), ["chain ip6 g out at output"]);
        assert_eq!(places(&[]).len(), 2);
        for nonsense in ["null", "[]", r#"{"nftables": [1, {"chain": 2}]}"#] {
            let nonsense = serde_json::from_str(nonsense).unwrap();
            assert!(places_in(&nonsense, "sixxs0", &[]).is_empty());
        }
    }

    #[test]
    fn reverse_path_filters_are_named() {
        let text = r#"{"nftables": [
            {"chain": {"family": "ip6", "table": "r", "name": "pre", "hook": "prerouting", "policy": "accept"}},
            {"rule": {"family": "ip6", "table": "r", "chain": "pre", "handle": 2, "expr": [{"match": {"op": "==",
            "left": {"fib": {"result": "oif", "flags": ["saddr", "iif"]}}, "right": false}}, {"drop": null}]}}]}"#;
        let listed = serde_json::from_str(text).unwrap();
        let found = places_in(&listed, "sixxs0", IN);
        let expected = [
            "chain ip6 r pre at prerouting",
            "reverse-path filter ip6 r pre, handle 2",
        ];
        assert_eq!(found, expected);
    }

    #[test]
    fn only_causes_about_filters_have_hooks() {
        assert_eq!(hooks("packet_filter_in"), Some(IN));
        assert_eq!(hooks("packet_filter_out"), Some(OUT));
        assert_eq!(hooks("packet_filter"), Some(&[][..]));
        assert_eq!(hooks("echo_ignored"), None);
    }
}
