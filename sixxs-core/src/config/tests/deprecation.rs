//! `deprecate_when_failing`.

use super::*;
use crate::change::Change;

fn link(more: &str) -> String {
    format!("[[link]]\nname = \"dsl0\"\nkind = \"interface\"\n{more}\n")
}

const OPTION: &str = "deprecate_when_failing = true";

#[test]
fn it_is_off_unless_it_is_asked_for() {
    for (line, expected) in [
        ("", false),
        ("deprecate_when_failing = false", false),
        (OPTION, true),
    ] {
        for address in ["\"auto\"", "\"2001:db8:a::2/64\""] {
            let text = link(&format!("address = {address}\n{line}"));
            let config = parse("f", &text).unwrap();
            assert_eq!(config.tunnels[0].deprecate_when_failing, expected, "{text}");
        }
    }
}

#[test]
fn it_needs_an_address() {
    let prefixes = "prefixes = [\"2001:db8:bb::/48\"]";
    let message = "link[1].deprecate_when_failing: expected only with an address on the interface, found prefixes \
                   alone; add address, or leave the key out";
    for addresses in ["", "address = []\n"] {
        let text = link(&format!("{addresses}{prefixes}\n{OPTION}"));
        let line = text.lines().position(|line| line == OPTION).unwrap() + 1;
        let error = parse("f", &text).unwrap_err().to_string();
        assert_eq!(error, format!("f: line {line}: {message}"));
    }
    let off = link(&format!("{prefixes}\ndeprecate_when_failing = false"));
    assert!(parse("f", &off).is_ok());
    let wrong = link("address = \"auto\"\ndeprecate_when_failing = \"yes\"");
    let error = parse("f", &wrong).unwrap_err().to_string();
    assert!(error.contains("expected true or false"), "{error}");
    // An invalid address is one fault.
    let wrong = link(&format!("address = \"x\"\n{OPTION}"));
    let error = parse("f", &wrong).unwrap_err();
    assert_eq!(error.diagnostics.len(), 1, "{error}");
}

#[test]
fn a_change_restarts_no_tunnel() {
    let [before, after] = ["", OPTION].map(|line| {
        let text = link(&format!("address = \"2001:db8:a::2/64\"\n{line}"));
        parse("f", &text).unwrap()
    });
    let change = Change::between(&before, &after, true);
    assert_eq!(change.altered.len(), 1);
    assert!(change.stops().is_empty() && change.starts().is_empty());
}
