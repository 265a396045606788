//! The plan of the lab: its namespaces, links and all addresses, as plain text for `ip -batch` and nftables.
//! Nothing here runs a command.

use std::net::{Ipv4Addr, Ipv6Addr};
use std::sync::atomic::{AtomicU32, Ordering};

/// The host on the internet from which tests send traffic.
pub const OUTSIDE: Ipv6Addr = Ipv6Addr::new(0x2001, 0xdb8, 0xffff, 0, 0, 0, 0, 9);
/// The host's own address from its ISP, on [`UPLINK`].
pub const HOST: Ipv6Addr = Ipv6Addr::new(0x2001, 0xdb8, 1, 0, 0, 0, 0, 1);
/// The host's IPv4 address, also on [`UPLINK`].
pub const HOST4: Ipv4Addr = Ipv4Addr::new(192, 0, 2, 10);
/// The TIC server's address, on the outside host.
pub const TIC_SERVER: Ipv4Addr = Ipv4Addr::new(203, 0, 113, 9);
/// The host's interface to its ISP.
pub const UPLINK: &str = "net0";
/// The host on the separate LAN.
pub const LAN1: Ipv6Addr = Ipv6Addr::new(0x2001, 0xdb8, 0xbb, 1, 0, 0, 0, 2);
/// The host of the LAN that shares the uplink's link.
pub const LAN2: Ipv6Addr = Ipv6Addr::new(0x2001, 0xdb8, 0xbb, 2, 0, 0, 0, 2);
/// A prefix that both brokers accept from the host and route to it, as far as their routers have a route for it.
pub const SHARED: (Ipv6Addr, u8) = (Ipv6Addr::new(0x2001, 0xdb8, 0xcc, 0, 0, 0, 0, 0), 48);
/// The tunnels' MTU, unless a test selects another one.
pub const TUNNEL_MTU: u32 = 1280;

/// The plan of one tunnel.
#[derive(Debug)]
pub struct TunnelPlan {
    /// The host's interface.
    pub interface: &'static str,
    /// The broker's router, also the name of its namespace.
    pub pop: &'static str,
    /// The broker's IPv4 address.
    pub remote4: Ipv4Addr,
    /// The broker's IPv6 address outside the tunnel.
    pub remote6: Ipv6Addr,
    /// The host's address in the tunnel, in a /64.
    pub address: Ipv6Addr,
    /// The broker's address in the tunnel.
    pub peer: Ipv6Addr,
    /// The prefix that the broker routes into the tunnel, in addition to the /64.
    pub prefix: Option<&'static str>,
    /// The sources that the broker accepts from the tunnel.
    own: &'static str,
}

/// Both tunnels, in the order of the configuration file.
pub const TUNNELS: [TunnelPlan; 2] = [
    TunnelPlan {
        interface: "sixxs0",
        pop: "pop0",
        remote4: Ipv4Addr::new(198, 51, 100, 1),
        remote6: Ipv6Addr::new(0x2001, 0xdb8, 0xc0, 0, 0, 0, 0, 1),
        address: Ipv6Addr::new(0x2001, 0xdb8, 0xa, 0, 0, 0, 0, 2),
        peer: Ipv6Addr::new(0x2001, 0xdb8, 0xa, 0, 0, 0, 0, 1),
        prefix: None,
        own: "2001:db8:a::/64",
    },
    TunnelPlan {
        interface: "sixxs1",
        pop: "pop1",
        remote4: Ipv4Addr::new(198, 51, 100, 2),
        remote6: Ipv6Addr::new(0x2001, 0xdb8, 0xc0, 0, 0, 0, 0, 2),
        address: Ipv6Addr::new(0x2001, 0xdb8, 0xb, 0, 0, 0, 0, 2),
        peer: Ipv6Addr::new(0x2001, 0xdb8, 0xb, 0, 0, 0, 0, 1),
        prefix: Some("2001:db8:bb::/48"),
        own: "2001:db8:b::/64, 2001:db8:bb::/48",
    },
];

/// The link-local address of every broker at its end of a tunnel with a link layer.
pub const GATEWAY: Ipv6Addr = Ipv6Addr::new(0xfe80, 0, 0, 0, 0, 0, 0, 1);

/// Type of the tunnels' interfaces, if the program under test does not make them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Flavour {
    /// TUN devices: without a link layer, like 6in4, AYIYA and WireGuard.
    Tun,
    /// veth: with MAC addresses and a gateway, like gretap.
    Veth,
    /// WireGuard through the uplink; needs [`crate::kernel::has_wireguard`].
    WireGuard,
}

/// The namespaces of every lab.
pub const NODES: [&str; 6] = ["outside", "core", "isp", "host", "pop0", "pop1"];
/// Additional namespaces of a lab with LANs: `wire` bridges the uplink's link.
pub const LAN_NODES: [&str; 3] = ["wire", "lan1", "lan2"];
/// Namespaces that forward packets; in a lab with LANs the host does too.
pub const ROUTERS: [&str; 4] = ["core", "isp", "pop0", "pop1"];

/// Settings of every namespace, before it has links: no duplicate address detection, no router advertisements
/// or solicitations.
pub const SYSCTLS: &[(&str, &str)] = &[
    ("ipv6/conf/all/accept_dad", "0"),
    ("ipv6/conf/default/accept_dad", "0"),
    ("ipv6/conf/all/accept_ra", "0"),
    ("ipv6/conf/default/accept_ra", "0"),
    ("ipv6/conf/default/router_solicitations", "0"),
    // While a tunnel is missing, packets to it loop between its broker and the core, which then sends
    // redirects to the sender (RFC 4861 §8.2). Linux accepts them for its TCP connections from any router,
    // and so for all packets to that destination: it then sends them to a neighbour that does not exist, for
    // many seconds.
    ("ipv6/conf/all/accept_redirects", "0"),
    ("ipv6/conf/default/accept_redirects", "0"),
    // Tests need every ICMPv6 error that they provoke, without a rate limit.
    ("ipv6/icmp/ratelimit", "0"),
];

/// Additional settings for namespaces that forward packets.
pub const ROUTER_SYSCTLS: &[(&str, &str)] =
    &[("ipv6/conf/all/forwarding", "1"), ("ipv4/ip_forward", "1")];

/// Lowest interface index of the links' first ends, far above the indices that the kernel assigns.
pub const FIRST_INDEX: u32 = 1000;

/// An interface index that no lab has used yet. If an index is reused at once, a new interface sometimes
/// lacks its address's route, as if that had been removed with the old interface's.
pub fn fresh_index() -> u32 {
    static NEXT: AtomicU32 = AtomicU32::new(FIRST_INDEX + 1000);
    NEXT.fetch_add(1, Ordering::Relaxed)
}

/// The links of every lab, for `ip -batch` outside all namespaces. An interface has the name of the node it
/// leads to, except on the host. The first ends have indices from [`FIRST_INDEX`] on: if both ends have the
/// same index, the kernel does not notice that they are two devices, and takes up to a second until the link
/// is up. `ns` returns a node's namespace.
pub fn wires(ns: impl Fn(&str) -> String, lans: bool) -> String {
    let mut index = FIRST_INDEX;
    let mut veth = |a: &str, a_end: &str, b: &str, b_end: &str| {
        let (a, b) = (ns(a), ns(b));
        index += 1;
        format!("link add {a_end} index {index} netns {a} type veth peer name {b_end} netns {b}\n")
    };
    let mut batch = String::new();
    for node in ["outside", "isp", "pop0", "pop1"] {
        batch += &veth("core", node, node, "core");
    }
    if lans {
        batch += &veth("host", UPLINK, "wire", "host");
        batch += &veth("isp", "host", "wire", "isp");
        batch += &veth("lan2", "wire", "wire", "lan2");
        batch += &veth("host", "lan1", "lan1", "host");
    } else {
        batch += &veth("host", UPLINK, "isp", "host");
    }
    batch
}

/// The uplink's link, to make it again in a lab without LANs; its interface on the host has this index.
pub fn uplink_wire(ns: impl Fn(&str) -> String, index: u32) -> String {
    let (host, isp) = (ns("host"), ns("isp"));
    format!("link add {UPLINK} index {index} netns {host} type veth peer name host netns {isp}\n")
}

/// The addresses and routes of the host's end of the uplink, for `ip -batch` on the host. Restores all that
/// are missing.
pub fn uplink_host_end() -> String {
    format!(
        "address replace {HOST}/64 dev {UPLINK} nodad\n\
         address replace {HOST4}/24 dev {UPLINK}\n\
         link set {UPLINK} up\n\
         route replace default via 2001:db8:1::fe dev {UPLINK} src {HOST}\n\
         route replace default via 192.0.2.1 dev {UPLINK}\n"
    )
}

/// The addresses of the ISP's end.
pub const UPLINK_ISP_END: &str = "address add 2001:db8:1::fe/64 dev host nodad\n\
     address add 192.0.2.1/24 dev host\n\
     link set host up\n";

/// The addresses and routes of one node, for `ip -batch` inside its namespace. Between routers both IPv6 and
/// IPv4 use link-local next hops: fe80::1 is the core, fe80::2 the other router.
pub fn node(name: &str, lans: bool) -> String {
    let batch = match name {
        "outside" => format!(
            "address add {OUTSIDE}/64 dev core nodad\n\
             address add {TIC_SERVER}/24 dev core\n\
             link set core up\n\
             route add default via 2001:db8:ffff::1 dev core\n\
             route add default via 203.0.113.1 dev core\n"
        ),
        "core" => core(),
        "isp" => {
            "address add fe80::2/64 dev core nodad\n\
             link set core up\n\
             route add default via fe80::1 dev core\n\
             route add 0.0.0.0/0 via inet6 fe80::1 dev core\n"
                .to_owned()
                + UPLINK_ISP_END
        }
        "host" => {
            uplink_host_end()
                + if lans {
                    "address add 2001:db8:bb:2::1/64 dev net0 nodad\n\
                 address add 2001:db8:bb:1::1/64 dev lan1 nodad\n\
                 link set lan1 up\n"
                } else {
                    ""
                }
        }
        "wire" => "link add br0 type bridge mcast_snooping 0\n\
             link set host master br0 up\n\
             link set isp master br0 up\n\
             link set lan2 master br0 up\n\
             link set br0 up\n"
            .to_owned(),
        "lan1" => lan(LAN1, "host", "2001:db8:bb:1::1"),
        "lan2" => lan(LAN2, "wire", "2001:db8:bb:2::1"),
        name => pop(name),
    };
    format!("link set lo up\n{batch}")
}

/// The core router, which connects the outside, the ISP and the brokers.
fn core() -> String {
    let mut batch = "address add 2001:db8:ffff::1/64 dev outside nodad\n\
                 address add 203.0.113.1/24 dev outside\n\
                 link set outside up\n\
                 address add fe80::1/64 dev isp nodad\n\
                 link set isp up\n\
                 route add 2001:db8:1::/64 via fe80::2 dev isp\n\
                 route add 192.0.2.0/24 via inet6 fe80::2 dev isp\n"
        .to_owned();
    for TunnelPlan {
        pop,
        remote4,
        remote6,
        own,
        ..
    } in &TUNNELS
    {
        batch += &format!(
            "address add fe80::1/64 dev {pop} nodad\n\
                     link set {pop} up\n\
                     route add {remote4}/32 via inet6 fe80::2 dev {pop}\n\
                     route add {remote6}/128 via fe80::2 dev {pop}\n"
        );
        for prefix in own.split(", ") {
            batch += &format!("route add {prefix} via fe80::2 dev {pop}\n");
        }
    }
    batch
}

/// The router of a broker.
fn pop(name: &str) -> String {
    let plan = TUNNELS.iter().find(|t| t.pop == name);
    let addresses = plan.map(
        |TunnelPlan {
             remote4, remote6, ..
         }| {
            format!(
                "address add {remote4}/32 dev core\n\
                     address add {remote6}/128 dev core nodad\n"
            )
        },
    );
    format!(
        "address add fe80::2/64 dev core nodad\n\
                 {}\
                 link set core up\n\
                 route add default via fe80::1 dev core\n\
                 route add 0.0.0.0/0 via inet6 fe80::1 dev core\n",
        addresses.unwrap_or_default()
    )
}

fn lan(address: Ipv6Addr, interface: &str, gateway: &str) -> String {
    format!(
        "address add {address}/64 dev {interface} nodad\n\
         link set {interface} up\n\
         route add default via {gateway} dev {interface}\n"
    )
}

impl TunnelPlan {
    /// The host's end, for `ip -batch` on the host.
    pub fn host_end(&self, mtu: u32) -> String {
        let Self {
            interface, address, ..
        } = self;
        format!(
            "link set {interface} mtu {mtu} txqueuelen 5000\n\
             address replace {address}/64 dev {interface} nodad\n\
             link set {interface} up\n"
        )
    }

    /// The broker's end, for `ip -batch` in the broker's namespace.
    pub fn pop_end(&self, mtu: u32) -> String {
        let Self { peer, address, .. } = self;
        let prefix = self
            .prefix
            .map(|p| format!("route add {p} via {address} dev host\n"));
        format!(
            "link set host mtu {mtu} txqueuelen 5000\n\
             address add {GATEWAY}/64 dev host nodad\n\
             address add {peer}/64 dev host nodad\n\
             link set host up\n\
             {}",
            prefix.unwrap_or_default()
        )
    }

    /// The broker's counters and filter. The filter drops packets with a source that is neither this tunnel's
    /// nor in the prefix `more`. `rounds` counts packets that a broker would send back to the host.
    pub fn pop_rules(&self, more: Option<&str>) -> String {
        let Self { address, own, .. } = self;
        let own = more.map_or(own.to_string(), |more| format!("{own}, {more}"));
        let here = TUNNELS.iter().flat_map(|plan| {
            let address = plan.address.to_string();
            plan.prefix.map(str::to_owned).into_iter().chain([address])
        });
        let here = here.collect::<Vec<_>>().join(", ");
        format!(
            "table ip6 broker {{
                counter from_host {{ }}
                counter replies_from_host {{ }}
                counter strays {{ }}
                counter rounds {{ }}
                counter to_host {{ }}
                counter requests_to_host {{ }}
                chain from_host {{
                    type filter hook prerouting priority raw
                    iifname != \"host\" return
                    ip6 daddr ff00::/8 return
                    ip6 saddr fe80::/10 return
                    icmpv6 type {{ nd-neighbor-solicit, nd-neighbor-advert }} return
                    ip6 daddr {{ {here} }} counter name rounds
                    ip6 saddr != {{ {own} }} counter name strays drop
                    counter name from_host
                    ip6 saddr {address} icmpv6 type echo-reply counter name replies_from_host
                }}
                chain to_host {{
                    type filter hook postrouting priority 300
                    oifname != \"host\" return
                    ip6 daddr != {{ {own} }} return
                    icmpv6 type {{ nd-neighbor-solicit, nd-neighbor-advert }} return
                    counter name to_host
                    ip6 daddr {address} icmpv6 type echo-request counter name requests_to_host
                }}
            }}"
        )
    }
}

/// The ISP's filter (BCP 38): drops and counts packets from the host with a source outside the ISP's prefix.
/// It ignores link-scope packets (multicast, link-local).
pub const ISP_RULES: &str = "table ip6 isp {
    counter filtered { }
    counter passed { }
    chain from_host {
        type filter hook prerouting priority raw
        iifname != \"host\" return
        ip6 daddr ff00::/8 return
        ip6 saddr { fe80::/10, :: } return
        ip6 saddr != 2001:db8:1::/64 counter name filtered drop
        counter name passed
    }
}";
