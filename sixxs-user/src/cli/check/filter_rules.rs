//! The rules of nftables that drop the packets of failed tests, for `--trace-filters`.

use std::path::Path;

use sixxs_common::packet::{ICMPV6, TCP, UDP};

use crate::{
    control::{
        api::{FilterRule, InsideRequest, InsideTest, InsideTests},
        client,
    },
    host::listing::output,
    netlink::{FilterDrop, FilterTrace},
};

/// Number of tests that are repeated. If more fail, they have the same cause.
const MOST_TRACED: usize = 32;

/// Causes that a packet filter may stand behind.
const CAUSES: [&str; 7] = [
    "packet_filter",
    "packet_filter_in",
    "packet_filter_out",
    "refused",
    "host_silent",
    "unknown",
    "silent",
];

/// Repeats the failed tests with a trace, and adds to each what drops its packets.
pub(super) async fn add(socket: &Path, request: &InsideRequest, tests: &mut [InsideTest]) {
    let may_be_filtered = |test: &&mut InsideTest| {
        let mut causes = CAUSES.iter();
        !test.pass && causes.any(|cause| test.cause.as_deref() == Some(cause))
    };
    let failed = tests.iter_mut().filter(may_be_filtered);
    for test in failed.take(MOST_TRACED) {
        match rules(socket, request, test).await {
            Ok(rules) => {
                test.sentence += &sentence(&rules);
                test.dropped_by = rules;
            }
            Err(error) => {
                test.sentence += &format!("; rules of nftables are not traced: {error:#}");
            }
        }
    }
}

/// The rules that drop packets while a test is repeated.
async fn rules(
    socket: &Path,
    request: &InsideRequest,
    test: &InsideTest,
) -> anyhow::Result<Vec<FilterRule>> {
    let (Some(address), Some(source)) = (test.address, test.source) else {
        return Ok(Vec::new());
    };
    let protocol = match test.protocol.as_deref() {
        Some("tcp") => TCP,
        Some("udp") => UDP,
        _ => ICMPV6,
    };
    let trace = FilterTrace::start([source, address], protocol)?;
    let port = |protocol: &str| {
        let is_it = test.protocol.as_deref() == Some(protocol);
        test.port.filter(|_| is_it).into_iter().collect()
    };
    let again = InsideRequest {
        tunnels: vec![test.tunnel.clone()],
        tcp: port("tcp"),
        udp: port("udp"),
        ..request.clone()
    };
    client::ask::<_, InsideTests>(socket, "/v1/check/inside", &again).await?;
    let mut rules = Vec::new();
    for drop in trace.drops()? {
        rules.push(described(drop).await);
    }
    Ok(rules)
}

async fn described(drop: FilterDrop) -> FilterRule {
    let rule = match drop.handle {
        Some(handle) => text(&drop, handle).await,
        None => None,
    };
    FilterRule {
        family: drop.family.to_owned(),
        table: drop.table,
        chain: drop.chain,
        handle: drop.handle,
        rule,
    }
}

/// The rule as nft prints it, if nft is installed.
async fn text(drop: &FilterDrop, handle: u64) -> Option<String> {
    let FilterDrop {
        family,
        table,
        chain,
        ..
    } = drop;
    let arguments = ["-a", "list", "chain", family, table, chain];
    let listed = output("nft", &arguments).await.ok()??;
    rule_in(&String::from_utf8_lossy(&listed), handle).map(str::to_owned)
}

/// The rule with this handle in what `nft -a list chain` prints.
fn rule_in(listed: &str, handle: u64) -> Option<&str> {
    let mut rules = listed
        .lines()
        .filter_map(|line| line.trim().split_once(" # handle "));
    let found = rules.find(|(_, number)| number.parse() == Ok(handle));
    found.map(|(rule, _)| rule)
}

fn sentence(rules: &[FilterRule]) -> String {
    let described = rules.iter().map(|rule| {
        let FilterRule {
            family,
            table,
            chain,
            ..
        } = rule;
        let what = match (rule.handle, &rule.rule) {
            (None, _) => "the policy".to_owned(),
            (Some(handle), None) => format!("rule {handle}"),
            (Some(handle), Some(text)) => format!("rule {handle} ({text})"),
        };
        format!("{what} of chain {family} {table} {chain}")
    });
    match &described.collect::<Vec<_>>()[..] {
        [] => "; no rule of nftables drops it".to_owned(),
        some => format!("; dropped by {}", some.join(", and by ")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// As nft 1.0.6 prints it.
    const LISTED: &str = "table inet f { # handle 3
	chain c { # handle 1
		type filter hook input priority filter; policy accept;
		icmpv6 type echo-request counter packets 2 bytes 128 drop # handle 12
		ip6 saddr 2001:db8::/32 drop comment \"a # handle 13\" # handle 4
	}
}";

    #[test]
    fn rules_are_found_by_their_handle() {
        let expected = "icmpv6 type echo-request counter packets 2 bytes 128 drop";
        assert_eq!(rule_in(LISTED, 12), Some(expected));
        assert_eq!(rule_in(LISTED, 5), None);
        assert_eq!(rule_in("", 5), None);
    }

    #[test]
    fn sentences_name_table_chain_and_rule() {
        let rule = |handle, text: Option<&str>| FilterRule {
            family: "inet".to_owned(),
            table: "f".to_owned(),
            chain: "c".to_owned(),
            handle,
            rule: text.map(str::to_owned),
        };
        for (rules, expected) in [
            (vec![], "; no rule of nftables drops it"),
            (
                vec![rule(None, None)],
                "; dropped by the policy of chain inet f c",
            ),
            (
                vec![rule(Some(5), Some("udp drop")), rule(Some(6), None)],
                "; dropped by rule 5 (udp drop) of chain inet f c, and by rule 6 of chain inet f c",
            ),
        ] {
            assert_eq!(sentence(&rules), expected);
        }
    }
}
