use proptest::prelude::*;

use super::*;

const OWN: &str = "6JE6zdqFNHGENX7+MQVWfqS7VmpKmjrYbKXpisHRElA=";
const PEER: &str = "EubuXzSuUq4meOpuMWC+CK+4/ZQaZZ7e8AjGCv/8p3Q=";
const OTHER: &str = "F+AiHkqYBtJ64XLj7FWoKupndrPEO/+MY650FFSJjU4=";

fn whole() -> String {
    format!(
        "# the whole syntax\n\
         [interface]\n\
         privatekey={OWN}   # a comment\n\
         ListenPort = 51820\n\
         FwMark = 0xCA6c\n\
         Address = 2001:db8:b::2/64, 10.0.0.2/24\n\
         Address = 2001:db8:b::3\n\
         MTU = 1400\n\
         DNS = 2001:db8::53\n\
         Table = 1234\n\
         PostUp = iptables -A INPUT -i %i -j ACCEPT\n\
         PostUp = echo \"a = b\"\n\
         SaveConfig = true\n\
         \n\
         [PEER]\n\
         PublicKey = {PEER}\n\
         PresharedKey = {OTHER}\n\
         AllowedIPs = ::/0, 0.0.0.0/0\n\
         allowedips = 2001:db8:1::1\n\
         Endpoint = vpn.example.net:51820\n\
         PersistentKeepalive = 25\n\
         [Peer]\n\
         PublicKey = {OTHER}\n\
         AllowedIPs =\n\
         PersistentKeepalive = off\n"
    )
}

#[test]
fn the_whole_syntax() {
    let read = parse("wg0.conf", whole().as_bytes()).unwrap();
    let settings = &read.settings;
    assert_eq!(settings.private_key, OWN.parse().unwrap());
    assert_eq!(settings.listen_port.map(NonZeroU16::get), Some(51820));
    assert_eq!(settings.fwmark, 0xca6c);
    assert_eq!(read.mtu, Some(Mtu(1400)));
    let addresses: Vec<InterfaceAddress> = ["2001:db8:b::2/64", "2001:db8:b::3"]
        .map(|text| text.parse().unwrap())
        .into();
    assert_eq!(read.addresses, addresses);
    let peer = &settings.peers[&PEER.parse().unwrap()];
    assert_eq!(peer.preshared_key, Some(OTHER.parse().unwrap()));
    let allowed: Vec<_> = peer.allowed_ips.iter().map(ToString::to_string).collect();
    assert_eq!(allowed, ["0.0.0.0/0", "::/0", "2001:db8:1::1/128"]);
    assert_eq!(
        peer.endpoint.as_ref().unwrap().to_string(),
        "vpn.example.net:51820"
    );
    assert_eq!(peer.keepalive.map(NonZeroU16::get), Some(25));
    assert_eq!(settings.peers[&OTHER.parse().unwrap()], Peer::default());
    let notes: Vec<_> = read.notes.iter().map(ToString::to_string).collect();
    let begins = [
        "line 6: Address 10.0.0.2/24 has no effect",
        "line 9: DNS has no effect",
        "line 10: Table has no effect",
        "line 11: PostUp has no effect: commands of the file are not run",
        "line 12: PostUp has no effect",
        "line 13: SaveConfig has no effect",
    ];
    assert_eq!(notes.len(), begins.len(), "{notes:#?}");
    for (note, begin) in notes.iter().zip(begins) {
        assert!(note.starts_with(begin), "{note}");
    }
}

#[test]
fn the_least_file() {
    let text = format!("[Interface]\nPrivateKey = {OWN}\nTable = off\nSaveConfig = false\n");
    let read = parse("wg0.conf", text.as_bytes()).unwrap();
    assert_eq!(
        (read.addresses.len(), read.mtu, read.notes.len()),
        (0, None, 0)
    );
    let settings = read.settings;
    assert_eq!((settings.listen_port, settings.fwmark), (None, 0));
    assert!(settings.peers.is_empty());
}

/// Replaces a line of the file, and expects this fault in this line.
#[test]
fn wrong_files() {
    let own = format!("privatekey={OWN}   # a comment");
    let peer = format!("PublicKey = {PEER}");
    for (line, good, bad, expected) in [
        (
            3,
            "[interface]",
            "",
            "expected [Interface] before the first key",
        ),
        (
            2,
            "[interface]",
            "[Network]",
            "expected [Interface] or [Peer]",
        ),
        (
            15,
            "[PEER]",
            "[Interface]",
            "expected one section [Interface], found another one",
        ),
        (
            3,
            &own,
            "PrivateKey = geheim",
            "PrivateKey: expected a WireGuard key: not 32 bytes",
        ),
        (
            2,
            &own,
            "",
            "PrivateKey: missing; expected the key of this end",
        ),
        (3, &own, "geheim", "expected Key = value"),
        (
            3,
            &own,
            "geheim = 1",
            "geheim: unknown key in [Interface]; expected one of PrivateKey",
        ),
        (
            4,
            "ListenPort = 51820",
            "ListenPort = 65536",
            "ListenPort: expected a port from 0 to 65535",
        ),
        (4, "ListenPort = 51820", "ListenPort = +1", "found \"+1\""),
        (
            5,
            "0xCA6c",
            "0x",
            "FwMark: expected a number, 0x… or off, found \"0x\"",
        ),
        (5, "0xCA6c", "0x+1", "FwMark: expected"),
        (5, "0xCA6c", "0x100000000", "FwMark: expected"),
        (
            6,
            "2001:db8:b::2/64",
            "2001:db8:b::2/129",
            "Address: expected addresses",
        ),
        (
            6,
            "10.0.0.2/24",
            "nonsense",
            "Address: expected addresses, found \"nonsense\"",
        ),
        (8, "1400", "1279", "MTU: expected 1280 to 65535 bytes"),
        (
            9,
            "DNS = 2001:db8::53",
            "mtu = 1400",
            "MTU: expected once in a section, found in line 8 too",
        ),
        (
            15,
            &peer,
            "",
            "PublicKey: missing; expected the peer's public key",
        ),
        (16, PEER, "short", "PublicKey: expected a WireGuard key"),
        (
            22,
            &format!("PublicKey = {OTHER}\nA"),
            &format!("PublicKey = {PEER}\nA"),
            "Peer: expected one peer for each public key",
        ),
        (
            22,
            "AllowedIPs =\n",
            "AllowedIPs = ::/0\n",
            "Peer: expected each prefix at one peer, found ::/0",
        ),
        (
            17,
            &format!("PresharedKey = {OTHER}"),
            "PresharedKey = geheim",
            "PresharedKey: expected a WireGuard key",
        ),
        (
            18,
            "0.0.0.0/0",
            "0.0.0.0/33",
            "AllowedIPs: expected prefixes, found \"0.0.0.0/33\"",
        ),
        (
            20,
            "vpn.example.net:51820",
            "vpn.example.net",
            "Endpoint: expected address:port or name:port",
        ),
        (20, "vpn.example.net:51820", "2001:db8::1", "needs brackets"),
        (
            21,
            "25",
            "65536",
            "PersistentKeepalive: expected off or seconds from 0 to 65535",
        ),
        (21, "25", "on", "PersistentKeepalive: expected off"),
        (
            21,
            "PersistentKeepalive = 25",
            "MTU = 1400",
            "MTU: unknown key in [Peer]",
        ),
    ] {
        let text = whole().replacen(good, bad, 1);
        assert_ne!(text, whole(), "{good}");
        let error = parse("wg0.conf", text.as_bytes()).unwrap_err();
        let faults: Vec<_> = error.diagnostics.iter().map(ToString::to_string).collect();
        let found = error.diagnostics.iter().find(|fault| fault.line == line);
        let found = found
            .unwrap_or_else(|| panic!("{bad}: {faults:#?}"))
            .to_string();
        assert!(found.contains(expected), "{bad}: {found}");
        assert!(!error.to_string().contains("= geheim"), "{error}");
        assert!(!error.to_string().contains(OWN), "{error}");
    }
}

#[test]
fn a_file_that_is_no_text_or_too_long_is_refused() {
    let long = vec![b'#'; MAX_BYTES + 1];
    for (bytes, expected) in [
        (&b"[Interface]\nPrivateKey = \xff"[..], "not UTF-8"),
        (&long, "expected at most"),
        (b"", "expected a section [Interface], found none"),
        (b"a = b", "expected [Interface] before the first key"),
    ] {
        let error = parse("wg0.conf", bytes).unwrap_err().to_string();
        assert!(error.contains(expected), "{error}");
    }
}

proptest! {
    /// No file causes a panic, and no message contains the key.
    #[test]
    fn any_change_of_the_file(at in 0..1000_usize, with in "[ -~\n]{0,6}", drop in 0..40_usize) {
        let mut text = whole();
        let at = at.min(text.len());
        let end = (at + drop).min(text.len());
        text.replace_range(at..end, &with);
        if let Err(error) = parse("wg0.conf", text.as_bytes()) {
            let message = error.to_string();
            prop_assert!(!message.contains(&OWN[4..30]), "{message}");
        }
    }
}
