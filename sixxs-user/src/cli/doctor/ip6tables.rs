//! Packet filters of ip6tables, from its `-save` commands. There are two variants: one puts its rules into
//! nftables, where nft shows only the names of their matches; nft does not show the rules of the other one
//! (`legacy`) at all.

use sixxs_core::doctor::{
    filters::NotListed,
    ruleset::{Action, Chain, Condition, Home, Interfaces, Policy, Reverse, Rule, Tool},
};

use super::read;
use crate::host::listing::output;

/// Tables that may contain `-m rpfilter`.
const TABLES: [&str; 2] = ["raw", "mangle"];

/// Mark in the output of the variant that uses nftables.
const IN_NFT: &str = "(nf_tables)";

/// The rules in nftables; `None` if no command lists them.
pub(super) async fn in_nft() -> Option<Vec<Chain>> {
    let saved = saved(true).await.ok()??;
    Some(saved)
}

/// The rules of the legacy variant.
pub(super) async fn legacy() -> Result<Vec<Chain>, NotListed> {
    // The file lists the tables that were used in this network namespace.
    let tables = read("/proc/net/ip6_tables_names");
    if !tables.lines().any(|table| TABLES.contains(&table)) {
        return Ok(Vec::new());
    }
    let not_listed = |why| NotListed {
        asked: "ip6tables-legacy-save",
        why,
    };
    match saved(false).await {
        Ok(Some(saved)) => Ok(saved),
        Ok(None) => Err(not_listed(None)),
        Err(error) => Err(not_listed(Some(format!("{error:#}")))),
    }
}

/// The output of one of the variants; the command without a suffix may be either.
async fn saved(in_nft: bool) -> anyhow::Result<Option<Vec<Chain>>> {
    let own = if in_nft {
        "ip6tables-nft"
    } else {
        "ip6tables-legacy"
    };
    for command in [own, "ip6tables"] {
        let Some(printed) = output(&format!("{command}-save"), &[]).await? else {
            continue;
        };
        let printed = String::from_utf8_lossy(&printed);
        if command == own || printed.contains(IN_NFT) == in_nft {
            return Ok(Some(parse(command, &printed)));
        }
    }
    Ok(None)
}

/// Parses the format of iptables-restore(8).
fn parse(command: &'static str, printed: &str) -> Vec<Chain> {
    let mut chains: Vec<Chain> = Vec::new();
    let mut home = None;
    for line in printed.lines() {
        if let Some(table) = line.strip_prefix('*') {
            home = Some(Home {
                tool: Tool::Ip6tables(command),
                family: "ip6".to_owned(),
                table: table.to_owned(),
            });
        }
        let Some(home) = &home else {
            continue;
        };
        if let Some(declared) = line.strip_prefix(':') {
            chains.extend(chain(home, declared));
            continue;
        }
        let Some(words) = words(line) else {
            continue;
        };
        let [add, name, rest @ ..] = words.as_slice() else {
            continue;
        };
        let is_it = |chain: &&mut Chain| chain.home == *home && chain.name == *name;
        if add == "-A"
            && let Some(chain) = chains.iter_mut().find(is_it)
        {
            let (conditions, action) = meaning(rest);
            chain.rules.push(Rule {
                number: chain.rules.len() as u64 + 1,
                conditions,
                action,
            });
        }
    }
    chains
}

/// `PREROUTING ACCEPT [0:0]`, or `other - [0:0]`.
fn chain(home: &Home, declared: &str) -> Option<Chain> {
    let mut words = declared.split(' ');
    let (name, policy) = (words.next()?, words.next()?);
    let policy = match policy {
        "DROP" => Policy::Drop,
        _ => Policy::Accept,
    };
    Some(Chain {
        home: home.clone(),
        name: name.to_owned(),
        base: matches!(name, "PREROUTING" | "INPUT").then_some(policy),
        rules: Vec::new(),
    })
}

/// The conditions and the action of a rule.
fn meaning(mut words: &[String]) -> (Vec<Condition>, Action) {
    let mut conditions = Vec::new();
    while let Some((word, rest)) = words.split_first() {
        words = rest;
        match (word.as_str(), words) {
            ("!", [flag, name, rest @ ..]) if flag == "-i" => {
                conditions.push(incoming(true, name));
                words = rest;
            }
            ("-i", [name, rest @ ..]) => {
                conditions.push(incoming(false, name));
                words = rest;
            }
            ("-m", [name, rest @ ..]) if name == "rpfilter" => {
                let options = rest.iter().take_while(|word| word.starts_with("--"));
                let options: Vec<_> = options.map(String::as_str).collect();
                words = &rest[options.len()..];
                conditions.push(reverse(&options));
            }
            ("-m", [name, flag, _, rest @ ..]) if name == "comment" && flag == "--comment" => {
                words = rest;
            }
            // Options of the target follow.
            ("-j", [target, ..]) => return (conditions, action(target, Action::Jump)),
            ("-g", [target, ..]) => return (conditions, action(target, Action::Goto)),
            // Skip any other match, with its options, up to the target.
            _ => {
                conditions.push(Condition::Other);
                let is_target = |word: &String| word == "-j" || word == "-g";
                words = &words[words.iter().position(is_target).unwrap_or(words.len())..];
            }
        }
    }
    (conditions, Action::Continue)
}

fn reverse(options: &[&str]) -> Condition {
    let has = |option| options.contains(&option);
    let reverse = match has("--loose") {
        true => Reverse::Loose,
        false => Reverse::Strict,
    };
    Condition::Reverse(reverse, !has("--invert"))
}

/// Targets without a verdict (`LOG`, `MARK`) become jumps to a chain that does not exist, which have no effect.
fn action(target: &str, to_chain: fn(String) -> Action) -> Action {
    match target {
        "ACCEPT" => Action::Accept,
        "DROP" | "REJECT" => Action::Drop,
        "RETURN" => Action::Return,
        chain => to_chain(chain.to_owned()),
    }
}

/// A `+` at the end is a wildcard.
fn incoming(not: bool, name: &str) -> Condition {
    let name = match name.strip_suffix('+') {
        Some(start) => format!("{start}*"),
        None => name.to_owned(),
    };
    Condition::Incoming(Interfaces {
        not,
        names: vec![name],
    })
}

/// Splits a line into words; words with spaces are in quotes. `None` if a quote is not closed.
fn words(line: &str) -> Option<Vec<String>> {
    let mut words = Vec::new();
    let mut word: Option<String> = None;
    let mut is_quoted = false;
    let mut characters = line.chars();
    while let Some(character) = characters.next() {
        match character {
            '"' => {
                is_quoted = !is_quoted;
                word.get_or_insert_default();
            }
            ' ' if !is_quoted => words.extend(word.take()),
            '\\' if is_quoted => word.get_or_insert_default().extend(characters.next()),
            other => word.get_or_insert_default().push(other),
        }
    }
    words.extend(word);
    (!is_quoted).then_some(words)
}

#[cfg(test)]
mod tests {
    use sixxs_core::doctor::ruleset::reverse_filters;

    use super::*;

    /// In the format of version 1.8.9.
    const PRINTED: &str = r#"# Generated by ip6tables-save v1.8.9 on Mon Nov 23 18:17:55 2026
*mangle
:PREROUTING ACCEPT [0:0]
-A PREROUTING -i eth+ -m rpfilter --loose --invert -j DROP
-A PREROUTING -m rpfilter --validmark --invert -m comment --comment "what \"they\" say" -j DROP
COMMIT
*raw
:PREROUTING ACCEPT [0:0]
:other - [0:0]
-A PREROUTING -p ipv6-icmp -m icmp6 --icmpv6-type 134 -j ACCEPT
-A PREROUTING ! -i net0 -j other
-A other -i sixxs+ -j RETURN
-A other -m rpfilter --invert -j LOG --log-prefix "dropped: "
-A other -m rpfilter --invert -j DROP
-A PREROUTING ! -i net0 -m rpfilter --invert -j DROP
-A PREROUTING -m rpfilter -j ACCEPT
COMMIT
# Completed on Mon Nov 23 18:17:55 2026
"#;

    #[test]
    fn rules_are_understood() {
        let chains = parse("ip6tables-legacy", PRINTED);
        let names: Vec<_> = chains
            .iter()
            .map(|chain| format!("{} {}", chain.home.table, chain.name))
            .collect();
        assert_eq!(names, ["mangle PREROUTING", "raw PREROUTING", "raw other"]);
        let places = |interface| -> Vec<_> {
            let found = reverse_filters(&chains, interface);
            found.map(|dropped| dropped.place()).collect()
        };
        let mangle = "ip6tables-legacy -t mangle, PREROUTING, rule 2";
        let raw = "ip6tables-legacy -t raw, PREROUTING, rule 3";
        let other = "ip6tables-legacy -t raw, other, rule 3";
        assert_eq!(places("net0"), [mangle]);
        assert_eq!(places("sixxs0"), [mangle, raw]);
        assert_eq!(places("eth1"), [mangle, other]);
    }

    #[test]
    fn nonsense_is_nothing() {
        for nonsense in [
            "",
            "-A PREROUTING -j DROP",
            "*raw\n:",
            "*raw\n:PREROUTING",
            "*raw\n:PREROUTING -\n-A",
            "*raw\n:PREROUTING -\n-A PREROUTING",
            "*raw\n:PREROUTING -\n-A PREROUTING -i",
            "*raw\n:PREROUTING -\n-A PREROUTING -m rpfilter --invert -j",
            "*raw\n:PREROUTING -\n-A PREROUTING -m comment --comment \"open -m rpfilter --invert -j DROP",
            "*raw\n:PREROUTING -\n-A PREROUTING ! -m rpfilter --invert -j DROP",
            "*raw\n-A PREROUTING -m rpfilter --invert -j DROP",
        ] {
            let chains = parse("ip6tables", nonsense);
            assert!(
                reverse_filters(&chains, "sixxs0").next().is_none(),
                "{nonsense}"
            );
        }
    }
}
