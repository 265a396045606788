//! Groups of links, and probes.

use std::time::Duration;

use super::*;
use crate::{config::Probe, types::TableId};

/// Two links, and what follows.
fn with_links(more: &str) -> Result<Config, Invalid> {
    let text = format!(
        "[[link]]\nname = \"he\"\nkind = \"interface\"\naddress = \"2001:db8:a::2/64\"\npeer = \"2001:db8:a::1\"\n\
         [[link]]\nname = \"wg0\"\nkind = \"interface\"\naddress = \"auto\"\ncheck_target = \"2001:db8:f::1\"\n{more}"
    );
    parse("f", &text)
}

/// The first line after the links.
const FIRST: usize = 11;

fn group(lines: &str) -> Result<Config, Invalid> {
    with_links(&format!("[[group]]\n{lines}"))
}

const LINES: &str = "links = [\"he\", \"wg0\"]\nprefixes = [\"2001:db8:bb::/48\"]\n";

#[test]
fn a_group_has_defaults() {
    let config = group(LINES).unwrap();
    let [group] = &config.groups[..] else {
        panic!("one group")
    };
    let names = |links: &[IfName]| links.iter().map(ToString::to_string).collect::<Vec<_>>();
    assert_eq!(group.name.as_str(), "group0");
    assert_eq!(names(&group.links), ["he", "wg0"]);
    assert_eq!(group.prefer, group.links);
    assert_eq!(group.direct, group.prefixes);
    assert_eq!(group.table, TableId(202));
    assert_eq!(group.return_after, Duration::from_secs(60));
    assert_eq!(group.active.as_str(), "he");
    let [(_, tunnel)] = &config.groups_as_tunnels().collect::<Vec<_>>()[..] else {
        panic!("one group")
    };
    assert_eq!((tunnel.name.as_str(), tunnel.table), ("he", TableId(202)));
    assert_eq!(tunnel.sources().collect::<Vec<_>>(), group.prefixes);
    assert!(config.is_in_group(&group.links[1]));
}

#[test]
fn a_group_has_what_the_file_says() {
    let lines = format!(
        "{LINES}name = \"lan\"\nprefer = [\"wg0\"]\ndirect = []\ntable = 300\nreturn_seconds = 0\n"
    );
    let config = group(&lines).unwrap();
    let group = &config.groups[0];
    assert_eq!((group.name.as_str(), group.table), ("lan", TableId(300)));
    let order: Vec<_> = group.in_order().map(IfName::as_str).collect();
    assert_eq!(order, ["wg0", "he"]);
    assert_eq!(
        (group.direct.len(), group.return_after),
        (0, Duration::ZERO)
    );
    let config = with_links(&format!("[[group]]\n{LINES}prefer = []\n")).unwrap();
    assert!(config.groups[0].prefer.is_empty());
}

#[test]
fn with_subtrees_all_share_one_table() {
    let text = "rule_mode = \"subtrees\"\n";
    let links = "[[link]]\nname = \"a\"\nkind = \"interface\"\naddress = \"2001:db8:a::2\"\npeer = \"2001:db8:a::1\"\n";
    let both = [
        links,
        &links.replace("\"a\"", "\"b\"").replace(":a::", ":b::"),
    ]
    .concat();
    let group = "[[group]]\nlinks = [\"a\", \"b\"]\nprefixes = \"2001:db8:bb::/48\"\n";
    let config = parse("f", &format!("{text}{both}{group}")).unwrap();
    assert_eq!(config.groups[0].table, SUBTREES_TABLE);
}

#[test]
fn faults_of_groups_are_named() {
    let links = "links = [\"he\", \"wg0\"]\n";
    let prefixes = "prefixes = [\"2001:db8:bb::/48\"]\n";
    for (lines, line, key, message) in [
        (
            prefixes.to_owned(),
            0,
            "links",
            "missing; expected the names of two links",
        ),
        (
            links.to_owned(),
            0,
            "prefixes",
            "missing; expected the prefixes",
        ),
        (format!("{links}prefixes = []\n"), 0, "prefixes", "missing"),
        (
            format!("links = \"he\"\n{prefixes}"),
            1,
            "links",
            "expected two links or more, found 1",
        ),
        (
            format!("links = [\"he\", \"he\"]\n{prefixes}"),
            1,
            "links",
            "expected each link once, found he again",
        ),
        (
            format!("links = [\"he\", \"sixxs9\"]\n{prefixes}"),
            1,
            "links",
            "expected the name of a [[link]] or [[tunnel]], found sixxs9; there are he, wg0",
        ),
        (
            format!("{LINES}prefer = [\"net0\"]\n"),
            3,
            "prefer",
            "expected one of the group's links, found net0",
        ),
        (
            format!("{LINES}name = \"he\"\n"),
            3,
            "name",
            "expected a name that no interface has",
        ),
        (
            format!("{LINES}table = 201\n"),
            3,
            "table",
            "found 201, which wg0 has",
        ),
        (
            format!("{LINES}table = 254\n"),
            3,
            "table",
            "which is the main table",
        ),
        (
            format!("{links}prefixes = [\"fe80::/64\"]\n"),
            2,
            "prefixes",
            "expected global unicast addresses",
        ),
        (
            format!("{links}prefixes = [\"3000::/4\"]\n"),
            2,
            "prefixes",
            "expected a prefix of 16 bits or more",
        ),
        (
            format!("{links}prefixes = [\"2001:db8:a::2/128\"]\n"),
            2,
            "prefixes",
            "overlaps 2001:db8:a::2 of he",
        ),
        (format!("{LINES}weight = 3\n"), 3, "weight", "unknown key"),
        (
            format!("{LINES}return_seconds = -1\n"),
            3,
            "return_seconds",
            "from 0 to 86400",
        ),
    ] {
        let invalid = group(&lines).unwrap_err();
        let [found] = &invalid.diagnostics[..] else {
            panic!("{lines}: {invalid}")
        };
        assert_eq!(found.line, FIRST + line, "{invalid}");
        assert_eq!(found.key, format!("group[1].{key}"));
        assert!(found.message.contains(message), "{invalid}");
    }
}

#[test]
fn a_link_of_a_group_has_to_be_probed() {
    let more = "[[link]]\nname = \"ppp0\"\nkind = \"interface\"\naddress = \"2001:db8:c::2\"\n";
    let group = "[[group]]\nlinks = [\"he\", \"ppp0\"]\nprefixes = \"2001:db8:bb::/48\"\n";
    let fault = |more: &str| {
        with_links(&format!("{more}{group}"))
            .unwrap_err()
            .to_string()
    };
    assert!(
        fault(more).contains("expected a link with check_target"),
        "{}",
        fault(more)
    );
    let local = format!("{more}peer = \"fe80::1\"\n");
    assert!(fault(&local).contains("expected a link with check_target"));
    let routed = more.replace(
        "address = \"2001:db8:c::2\"",
        "check_target = \"2001:db8:f::2\"\nprefixes = \"2001:db8:c::/48\"",
    );
    assert!(
        fault(&routed).contains("an address of its own"),
        "{}",
        fault(&routed)
    );
    let good = format!("{more}check_target = \"2001:db8:f::2\"\n");
    assert!(with_links(&format!("{good}{group}")).is_ok());
    // A link with a fault of its own is not called unknown.
    let faulty = more.replace("2001:db8:c::2", "fe80::2");
    assert!(!fault(&faulty).contains("found ppp0"), "{}", fault(&faulty));
}

#[test]
fn two_groups_do_not_share_prefixes() {
    let text = format!("[[group]]\n{LINES}[[group]]\n{LINES}");
    let invalid = with_links(&text).unwrap_err();
    assert_eq!(invalid.diagnostics.len(), 1, "{invalid}");
    assert!(invalid.to_string().contains("of group0"), "{invalid}");
    let other = LINES.replace(":bb::", ":cc::");
    let config = with_links(&format!("[[group]]\n{LINES}[[group]]\n{other}")).unwrap();
    assert_eq!(config.groups[1].name.as_str(), "group1");
    assert_eq!(config.groups[1].table, TableId(203));
}

#[test]
fn probes_have_limits() {
    let config = with_links("").unwrap();
    assert_eq!(config.tunnels[0].probe, None);
    assert_eq!(config.tunnels[0].probe_if(true), Some(Probe::default()));
    let probe =
        "[link.probe]\ninterval_ms = 100\nwindow_seconds = 2\nloss_percent = 50\nreply_ms = 2000\n";
    let config = with_links(probe).unwrap();
    let probe = config.tunnels[1].probe_if(false).unwrap();
    assert_eq!(
        probe,
        Probe {
            interval: Duration::from_millis(100),
            window: Duration::from_secs(2),
            loss_percent: 50,
            reply: Duration::from_secs(2),
        }
    );
    assert_eq!(probe.timeout(), Duration::from_secs(2));
    assert_eq!(Probe::default().timeout(), Duration::from_secs(1));
    for (lines, key, message) in [
        ("loss_percent = 0\n", "loss_percent", "from 1 to 100"),
        ("interval_ms = 5\n", "interval_ms", "from 100 to 60000"),
        ("loss = 3\n", "loss", "unknown key"),
        (
            "interval_ms = 3000\n",
            "window_seconds",
            "expected at least 4 probes in a window, found 10 s with a probe every 3000 ms",
        ),
    ] {
        let invalid = with_links(&format!("[link.probe]\n{lines}")).unwrap_err();
        let [found] = &invalid.diagnostics[..] else {
            panic!("{invalid}")
        };
        assert_eq!(found.key, format!("link[2].probe.{key}"));
        assert!(found.message.contains(message), "{invalid}");
    }
    let without_target =
        "[[link]]\nname = \"c\"\nkind = \"interface\"\naddress = \"2001:db8:c::2\"\n[link.probe]\n";
    let invalid = with_links(without_target).unwrap_err().to_string();
    assert!(
        invalid.contains("expected check_target beside it"),
        "{invalid}"
    );
}
