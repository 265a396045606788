//! Packet filters of ip6tables, as its `-save` commands print them. There are two of it: one that puts
//! its rules into nftables, where nft sees no more of them than their names, and the old one (`legacy`),
//! whose rules nft does not see.

use sixxs_core::doctor::filters::{Does, FilterRule, Interfaces, NotListed, Tool};

use super::{filters::output, read};

/// Tables in which `-m rpfilter` is allowed.
const TABLES: [&str; 2] = ["raw", "mangle"];

/// What marks what the one that uses nftables prints.
const IN_NFT: &str = "(nf_tables)";

/// What was printed.
#[derive(Debug, Default)]
pub(super) struct Saved {
    tables: Vec<String>,
    /// The rules that matter.
    pub(super) rules: Vec<FilterRule>,
}

impl Saved {
    pub(super) fn has_table(&self, name: &str) -> bool {
        self.tables.iter().any(|table| table == name)
    }
}

/// The rules that are in nftables; `None`: nobody says.
pub(super) async fn in_nft() -> Option<Saved> {
    let saved = saved(true).await.ok()??;
    Some(saved)
}

/// The rules of the old one.
pub(super) async fn legacy() -> Result<Vec<FilterRule>, NotListed> {
    // There once something asked for them in this network namespace.
    let tables = read("/proc/net/ip6_tables_names");
    if !tables.lines().any(|table| TABLES.contains(&table)) {
        return Ok(Vec::new());
    }
    let not_listed = |why| NotListed {
        asked: "ip6tables-legacy-save",
        why,
    };
    match saved(false).await {
        Ok(Some(saved)) => Ok(saved.rules),
        Ok(None) => Err(not_listed(None)),
        Err(error) => Err(not_listed(Some(format!("{error:#}")))),
    }
}

/// What one of the two prints; the name without a suffix may be either's.
async fn saved(in_nft: bool) -> anyhow::Result<Option<Saved>> {
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

/// Reads the format of iptables-restore(8).
fn parse(command: &'static str, printed: &str) -> Saved {
    let mut saved = Saved::default();
    // The chains of the rules of this table so far.
    let mut chains = Vec::new();
    for line in printed.lines() {
        if let Some(table) = line.strip_prefix('*') {
            saved.tables.push(table.to_owned());
            chains.clear();
        }
        let (Some(table), Some(words)) = (saved.tables.last(), words(line)) else {
            continue;
        };
        let [add, chain, rest @ ..] = words.as_slice() else {
            continue;
        };
        if add != "-A" {
            continue;
        }
        chains.push(chain.clone());
        let Some((interfaces, does)) = meaning(rest) else {
            continue;
        };
        saved.rules.push(FilterRule {
            tool: Tool::Ip6tables(command),
            family: "ip6".to_owned(),
            table: table.clone(),
            chain: chain.clone(),
            number: chains.iter().filter(|other| *other == chain).count() as u64,
            interfaces,
            does,
        });
    }
    saved
}

/// What a rule is for and does; `None`: it is for few packets, or none of ours, or does nothing here.
fn meaning(mut words: &[String]) -> Option<(Option<Interfaces>, Does)> {
    let (mut interfaces, mut checks, mut verdict) = (None, None, None);
    while let Some((word, rest)) = words.split_first() {
        words = rest;
        match (word.as_str(), words) {
            ("!", [flag, name, rest @ ..]) if flag == "-i" => {
                interfaces = Some(incoming(true, name));
                words = rest;
            }
            ("-i", [name, rest @ ..]) => {
                interfaces = Some(incoming(false, name));
                words = rest;
            }
            ("-m", [name, rest @ ..]) if name == "rpfilter" => {
                let options = rest.iter().take_while(|word| word.starts_with("--"));
                let options: Vec<_> = options.map(String::as_str).collect();
                words = &rest[options.len()..];
                checks = Some(options);
            }
            ("-m", [name, flag, _, rest @ ..]) if name == "comment" && flag == "--comment" => {
                words = rest;
            }
            // What follows says how.
            ("-j", [target, ..]) => {
                verdict = Some(target.as_str());
                break;
            }
            _ => return None,
        }
    }
    let does = match (verdict?, checks) {
        ("ACCEPT" | "RETURN", None) => Does::Pass,
        ("DROP" | "REJECT", Some(options))
            if options.contains(&"--invert") && !options.contains(&"--loose") =>
        {
            Does::DropUnlessStrict
        }
        _ => return None,
    };
    Some((interfaces, does))
}

/// `+` at the end stands for anything.
fn incoming(not: bool, name: &str) -> Interfaces {
    let name = match name.strip_suffix('+') {
        Some(start) => format!("{start}*"),
        None => name.to_owned(),
    };
    Interfaces {
        not,
        names: vec![name],
    }
}

/// The words of a line; what has blanks in it is in quotes. `None`: a quote is open.
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
    use super::*;

    /// As version 1.8.9 prints them.
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
-A PREROUTING ! -i net0 -m rpfilter --invert -j DROP
-A PREROUTING -m rpfilter -j ACCEPT
COMMIT
# Completed on Mon Nov 23 18:17:55 2026
"#;

    #[test]
    fn rules_are_understood() {
        let saved = parse("ip6tables-legacy", PRINTED);
        assert!(saved.has_table("raw") && saved.has_table("mangle"));
        assert!(!saved.has_table("filter"));
        let shown: Vec<_> = saved
            .rules
            .iter()
            .map(|rule| {
                let interfaces = rule.interfaces.as_ref();
                let interfaces = interfaces
                    .map(|i| format!("{}{}", if i.not { "!" } else { "" }, i.names.join(" ")));
                let interfaces = interfaces.unwrap_or_default();
                (
                    format!("{} {} {}", rule.table, rule.chain, rule.number),
                    interfaces,
                    rule.does,
                )
            })
            .collect();
        let expected = [
            ("mangle PREROUTING 2", "", Does::DropUnlessStrict),
            ("raw other 1", "sixxs*", Does::Pass),
            ("raw PREROUTING 3", "!net0", Does::DropUnlessStrict),
        ];
        let expected = expected.map(|(a, b, c)| (a.to_owned(), b.to_owned(), c));
        assert_eq!(shown, expected);
    }

    #[test]
    fn nonsense_is_nothing() {
        for nonsense in [
            "",
            "-A PREROUTING -j DROP",
            "*raw\n-A",
            "*raw\n-A PREROUTING",
            "*raw\n-A PREROUTING -i",
            "*raw\n-A PREROUTING -m rpfilter --invert -j",
            "*raw\n-A PREROUTING -m comment --comment \"open -m rpfilter --invert -j DROP",
            "*raw\n-A PREROUTING ! -m rpfilter --invert -j DROP",
        ] {
            assert!(parse("ip6tables", nonsense).rules.is_empty(), "{nonsense}");
        }
    }
}
