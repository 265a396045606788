//! Tunnels of kind `wireguard`.

use super::*;
use crate::types::Mtu;

const OWN: &str = "6JE6zdqFNHGENX7+MQVWfqS7VmpKmjrYbKXpisHRElA=";
const PEER: &str = "EubuXzSuUq4meOpuMWC+CK+4/ZQaZZ7e8AjGCv/8p3Q=";
const OTHER: &str = "F+AiHkqYBtJ64XLj7FWoKupndrPEO/+MY650FFSJjU4=";

/// The key of a file, and nothing else.
const KEY_FILE: &str = "/etc/wireguard/key";

/// A section with these lines, beside files with this text for wg-quick and with a key.
fn with_file(lines: &str, quick: &str) -> Result<Config, Invalid> {
    let text = format!("[[tunnel]]\nname = \"wg0\"\nkind = \"wireguard\"\n{lines}");
    let files = |path: &str| match path {
        "/etc/wireguard/wg0.conf" => Ok(quick.as_bytes().to_vec().into()),
        KEY_FILE => Ok(format!("{OWN}\n").into_bytes().into()),
        other => Err(format!("{other}: no such file").into()),
    };
    parse_with("/etc/sixxs/sixxs.toml", &text, &files)
}

const BY_FILE: &str = "config = \"/etc/wireguard/wg0.conf\"\n";

fn quick(more: &str) -> String {
    format!(
        "[Interface]\nPrivateKey = {OWN}\nAddress = 2001:db8:b::2/64\n{more}[Peer]\nPublicKey = {PEER}\n\
         Endpoint = 198.51.100.2:51820\nAllowedIPs = ::/0\n"
    )
}

fn by_keys() -> String {
    format!(
        "address = \"2001:db8:b::2/64\"\nprivate_key = \"{OWN}\"\nlisten_port = 51820\nfwmark = 7\n\
         [[tunnel.peers]]\npublic_key = \"{PEER}\"\npreshared_key = \"{OTHER}\"\n\
         endpoint = \"vpn.example.net:51820\"\nallowed_ips = [\"::/0\", \"192.0.2.0/24\"]\nkeepalive = 25\n\
         [[tunnel.peers]]\npublic_key = \"{OTHER}\"\nallowed_ips = \"2001:db8:c::/48\"\n"
    )
}

fn settings(config: &Config) -> &crate::wireguard::Settings {
    match &config.tunnels[0].kind {
        Kind::WireGuard(wireguard) => &wireguard.settings,
        other => panic!("{other:?}"),
    }
}

#[test]
fn address_and_mtu_come_from_the_file_unless_the_section_has_them() {
    for (lines, more, address, mtu, notes) in [
        ("", "", "2001:db8:b::2", 1420, 0),
        ("", "MTU = 1380\n", "2001:db8:b::2", 1380, 0),
        ("mtu = 1300\n", "MTU = 1380\n", "2001:db8:b::2", 1300, 0),
        (
            "address = \"2001:db8:b::9\"\n",
            "",
            "2001:db8:b::9",
            1420,
            1,
        ),
        ("", "PostUp = true\nDNS = ::1\n", "2001:db8:b::2", 1420, 2),
    ] {
        let config = with_file(&format!("{BY_FILE}{lines}"), &quick(more)).unwrap();
        let tunnel = &config.tunnels[0];
        assert_eq!(tunnel.addresses.len(), 1);
        assert_eq!(tunnel.addresses[0].address.to_string(), address);
        assert_eq!(tunnel.mtu, Some(Mtu(mtu)));
        let found: Vec<_> = config.notes().collect();
        assert_eq!(found.len(), notes, "{found:?}");
        let has_path = |note: &String| note.starts_with("/etc/wireguard/wg0.conf: ");
        assert!(found.iter().all(has_path), "{found:?}");
        assert!(!config.has_secrets(), "the keys are in the other file");
        assert!(tunnel.kind.is_native() && tunnel.kind.connects_to().is_none());
    }
}

#[test]
fn keys_of_our_own() {
    let config = with_file(&by_keys(), "").unwrap();
    let found = settings(&config);
    assert_eq!(found.private_key, OWN.parse().unwrap());
    assert_eq!(found.listen_port.map(|port| port.get()), Some(51820));
    assert_eq!((found.fwmark, found.peers.len()), (7, 2));
    let first = &found.peers[&PEER.parse().unwrap()];
    assert_eq!(
        first.endpoint.as_ref().unwrap().to_string(),
        "vpn.example.net:51820"
    );
    assert_eq!(
        (first.allowed_ips.len(), first.keepalive.unwrap().get()),
        (2, 25)
    );
    assert_eq!(first.preshared_key, Some(OTHER.parse().unwrap()));
    assert!(config.has_secrets());
    assert!(!format!("{config:?}").contains(OWN));
    // The key is in another file.
    let by_key_file = by_keys()
        .replace(
            &format!("private_key = \"{OWN}\""),
            &format!("private_key_file = {KEY_FILE:?}"),
        )
        .replace(&format!("preshared_key = \"{OTHER}\"\n"), "");
    let config = with_file(&by_key_file, "").unwrap();
    assert_eq!(settings(&config).private_key, OWN.parse().unwrap());
    assert!(!config.has_secrets());
}

#[test]
#[rustfmt::skip] // one case per line
fn wrong_sections() {
    let replaced = |good: &str, bad: &str| {
        let text = by_keys().replacen(good, bad, 1);
        assert_ne!(text, by_keys(), "{good}");
        text
    };
    let private = format!("private_key = \"{OWN}\"\n");
    let file = |more: &str| format!("{BY_FILE}{more}");
    let whole = quick("");
    for (lines, quick, expected) in [
        (replaced(&private, ""), "", "line 3: tunnel[1].private_key: missing; expected config"),
        (replaced(OWN, "geheim"), "", "line 5: tunnel[1].private_key: expected a WireGuard key"),
        (replaced(&private, "private_key = 1\n"), "", "line 5: tunnel[1].private_key: expected a string"),
        (replaced(&private, "private_key_file = \"nowhere\"\n"), "", "/etc/sixxs/nowhere: no such file"),
        (replaced(&private, &format!("{private}private_key_file = {KEY_FILE:?}\n")), "", "expected only one of"),
        (replaced("51820", "0"), "", "line 6: tunnel[1].listen_port: expected an integer from 1 to 65535"),
        (replaced("fwmark = 7", "fwmark = -1"), "", "line 7: tunnel[1].fwmark: expected an integer"),
        (replaced(PEER, "geheim"), "", "line 9: tunnel[1].peers[1].public_key: expected a WireGuard key"),
        (replaced(&format!("public_key = \"{PEER}\"\n"), ""), "", "line 8: tunnel[1].peers[1].public_key: missing"),
        (replaced(&format!("public_key = \"{OTHER}\""), &format!("public_key = \"{PEER}\"")), "", "peers[2].public_key: expected one peer for each"),
        (replaced("2001:db8:c::/48", "::/0"), "", "peers[2].public_key: expected each prefix at one peer, found ::/0"),
        (replaced("vpn.example.net:51820", "vpn.example.net"), "", "line 11: tunnel[1].peers[1].endpoint: expected address:port"),
        (replaced("\"192.0.2.0/24\"", "\"nonsense\""), "", "line 12: tunnel[1].peers[1].allowed_ips: expected prefixes"),
        (replaced("keepalive = 25", "keepalive = 65536"), "", "line 13: tunnel[1].peers[1].keepalive: expected an integer from 0"),
        (replaced("keepalive = 25", "psk = 1"), "", "line 13: tunnel[1].peers[1].psk: unknown key; expected one of public_key"),
        (replaced("address = \"2001:db8:b::2/64\"\n", ""), "", "line 1: tunnel[1].address: missing"),
        (file(&private), &whole, "line 5: tunnel[1].private_key: remove this key: with config"),
        (file("gateway = \"2001:db8::1\"\n"), &whole, "tunnel[1].gateway: expected only for interfaces with a link layer"),
        (file("carrier = \"tun\"\n"), &whole, "tunnel[1].carrier: expected only with kind"),
        (file("password = \"geheim\"\n"), &whole, "tunnel[1].password: expected only with kind"),
        ("config = \"nowhere\"\n".to_owned(), "", "line 4: tunnel[1].config: /etc/sixxs/nowhere: no such file"),
        (file(""), "[Interface]\n", "tunnel[1].config: /etc/wireguard/wg0.conf: line 1: PrivateKey: missing"),
        (file(""), &whole.replace("/64", "/48"), "line 4: tunnel[1].config: expected a length of 64 to 128"),
        (file(""), &whole.replace("2001:db8:b::2/64", "10.0.0.2/24"), "line 1: tunnel[1].address: missing"),
        (file(""), &whole.replace("2001:db8:b::2/64", "fe80::2/64"), "expected a global unicast address, found fe80::2"),
    ] {
        let error = with_file(&lines, quick).unwrap_err().to_string();
        assert!(error.contains(expected), "expected {expected}, found {error}");
        assert!(!error.contains("geheim") && !error.contains(OWN), "{error}");
    }
}

#[test]
fn keys_of_wireguard_belong_to_no_other_kind() {
    for line in [
        "config = \"wg0.conf\"",
        "private_key = \"a\"",
        "listen_port = 1",
        "fwmark = 1",
    ] {
        let text = format!(
            "[[tunnel]]\nname = \"a\"\nkind = \"interface\"\naddress = \"2001:db8::2\"\n{line}\n"
        );
        let error = parse("f", &text).unwrap_err().to_string();
        assert!(
            error.contains("expected only with kind = \"wireguard\""),
            "{error}"
        );
    }
}

#[test]
fn only_other_addresses_restart_it() {
    let tunnel = |text: &str| with_file(text, "").unwrap().tunnels.remove(0);
    let before = tunnel(&by_keys());
    for (good, bad, restarts) in [
        ("keepalive = 25", "keepalive = 20", false),
        (OWN, PEER, false),
        ("fwmark = 7\n", "", false),
        ("2001:db8:b::2/64", "2001:db8:b::3/64", true),
    ] {
        let after = tunnel(&by_keys().replacen(good, bad, 1));
        assert_ne!(before, after, "{bad}");
        assert_eq!(before.differs_to_driver(&after, true), restarts, "{bad}");
    }
    let mut interface = before.clone();
    interface.kind = Kind::Interface;
    assert!(before.differs_to_driver(&interface, true));
}
