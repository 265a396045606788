use proptest::prelude::*;

use super::*;

const BROKER: Ipv4Addr = Ipv4Addr::new(198, 51, 100, 1);

/// The tunnel of the examples.
fn expected(kind: DeclaredKind, takes_default_route: bool) -> Declared {
    Declared {
        name: "he-ipv6".parse().unwrap(),
        kind,
        addresses: vec!["2001:db8:a::2/64".parse().unwrap()],
        takes_default_route,
    }
}

#[test]
fn tunnels_of_ifupdown() {
    let text = "# loopback\nauto lo\niface lo inet loopback\n\nauto he-ipv6\niface he-ipv6 inet6 v4tunnel\n\
                \taddress 2001:db8:a::2\n\tnetmask 64\n\tendpoint 198.51.100.1\n\tttl 255\n\n\
                allow-hotplug net0\niface net0 inet6 static\n  address 2001:db8:1::1/64\n  gateway fe80::1\n";
    let sit = DeclaredKind::SixInFour(BROKER);
    assert_eq!(ifupdown(text), [expected(sit, false)]);
    let with_gateway = text.replace("ttl 255", "gateway 2001:db8:a::1");
    assert_eq!(ifupdown(&with_gateway), [expected(sit, true)]);
    let with_command = text.replace("ttl 255", "up ip -6 route add ::/0 dev he-ipv6");
    assert_eq!(ifupdown(&with_command), [expected(sit, true)]);
    let one_line = text.replace("::2\n\tnetmask 64", "::2/64");
    assert_eq!(ifupdown(&one_line), [expected(sit, false)]);
}

#[test]
fn tunnels_of_networkd() {
    let netdev =
        "[NetDev]\nName=he-ipv6\nKind=sit\n[Tunnel]\nIndependent=true\nRemote=198.51.100.1\n";
    let network =
        "[Match]\nName=he-ipv6\n[Network]\nAddress=2001:db8:a::2/64\nAddress=192.0.2.1/24\n";
    let read = |netdev: &str, network: &str| {
        networkd(
            [netdev].into_iter(),
            ["[Match]\nName=net0\n", network].into_iter(),
        )
    };
    let sit = DeclaredKind::SixInFour(BROKER);
    assert_eq!(read(netdev, network), [expected(sit, false)]);
    let gateway = format!("{network}Gateway=2001:db8:a::1\n");
    assert_eq!(read(netdev, &gateway), [expected(sit, true)]);
    let route = format!("{network}[Route]\nDestination=::/0\n");
    assert_eq!(read(netdev, &route), [expected(sit, true)]);
    let wireguard = netdev.replace("sit", "wireguard");
    assert_eq!(
        read(&wireguard, network),
        [expected(DeclaredKind::WireGuard, false)]
    );
    assert_eq!(read(&netdev.replace("sit", "bridge"), network), []);
}

#[test]
fn tunnels_of_network_manager() {
    let text = "[connection]\nid=he\ntype=ip-tunnel\ninterface-name=he-ipv6\n[ip-tunnel]\nmode=3\n\
                remote=198.51.100.1\n[ipv6]\nmethod=manual\naddress1=2001:db8:a::2/64\n";
    let sit = DeclaredKind::SixInFour(BROKER);
    assert_eq!(network_manager(text), Some(expected(sit, false)));
    let gateway = text.replace("::2/64", "::2/64,2001:db8:a::1");
    assert_eq!(network_manager(&gateway), Some(expected(sit, true)));
    let never = format!("{gateway}never-default=true\n");
    assert_eq!(network_manager(&never), Some(expected(sit, false)));
    let gre = text.replace("mode=3", "mode=2");
    assert_eq!(
        network_manager(&gre),
        Some(expected(DeclaredKind::Other, false))
    );
    assert_eq!(
        network_manager("[connection]\ntype=ethernet\ninterface-name=net0\n"),
        None
    );
}

#[test]
fn tunnels_of_wg_quick() {
    let text = "[Interface]\nPrivateKey = x=\nAddress = 10.0.0.2/24, 2001:db8:a::2/64\n[Peer]\nAllowedIPs = 2001:db8::/32\n";
    let wireguard = DeclaredKind::WireGuard;
    assert_eq!(wg_quick("he-ipv6", text), Some(expected(wireguard, false)));
    let all = text.replace("2001:db8::/32", "0.0.0.0/0, ::/0");
    assert_eq!(wg_quick("he-ipv6", &all), Some(expected(wireguard, true)));
    let off = all.replace("[Peer]", "Table = off\n[Peer]");
    assert_eq!(wg_quick("he-ipv6", &off), Some(expected(wireguard, false)));
    assert_eq!(wg_quick("a name that is too long", text), None);
}

#[test]
fn tunnels_of_netplan() {
    let text = "network:\n  version: 2\n  ethernets:\n    net0:\n      addresses: [2001:db8:1::1/64]\n  tunnels:\n    \
                he-ipv6:   # home\n      mode: sit\n      remote: 198.51.100.1\n      addresses:\n        - \"2001:db8:a::2/64\"\n";
    let sit = DeclaredKind::SixInFour(BROKER);
    assert_eq!(netplan(text), [expected(sit, false)]);
    let inline = text.replace(
        "addresses:\n        - \"2001:db8:a::2/64\"",
        "addresses: ['2001:db8:a::2/64']",
    );
    assert_eq!(netplan(&inline), [expected(sit, false)]);
    let gateway = format!("{text}      gateway6: 2001:db8:a::1\n");
    assert_eq!(netplan(&gateway), [expected(sit, true)]);
    let routes =
        format!("{text}      routes:\n        - to: \"::/0\"\n          via: \"2001:db8:a::1\"\n");
    assert_eq!(netplan(&routes), [expected(sit, true)]);
    let two = format!(
        "{text}    wg0:\n      mode: wireguard\n  bridges:\n    br0:\n      addresses: [2001:db8:2::1/64]\n"
    );
    let found = netplan(&two);
    assert_eq!(found.len(), 2, "{found:?}");
    assert_eq!(
        (found[1].kind, found[1].addresses.len()),
        (DeclaredKind::WireGuard, 0)
    );
}

proptest! {
    #[test]
    fn no_text_is_too_strange(text: String) {
        // They must not panic; what they find in random text does not matter.
        let _found = (ifupdown(&text), netplan(&text), wg_quick("wg0", &text), network_manager(&text));
        let _found = networkd([text.as_str()].into_iter(), [text.as_str()].into_iter());
    }
}
