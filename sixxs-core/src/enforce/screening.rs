//! Screening: which outer packets the programs check where they arrive, and which uplinks get the XDP program.

use std::{
    collections::BTreeMap,
    net::{IpAddr, Ipv4Addr, Ipv6Addr},
};

use sixxs_common::{packet::UDP, screening::OUTER_ENDS, six_in_four::PROTOCOL};

use super::{Enforcement, Role};
use crate::{
    config::{Config, Kind, Tunnel, XdpChoice},
    endpoint::Endpoint,
    link::{Link, LinkDriver, LinkLayer, Links, XdpMode},
    types::IfName,
    xdp_dispatcher::DISPATCHER,
};

/// Both ends of a native tunnel's outer packets, over IPv4.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct OuterEnds {
    /// This host's address.
    pub local: Ipv4Addr,
    /// The broker's address.
    pub broker: Ipv4Addr,
    /// How the packets are encapsulated.
    pub by: Encapsulation,
}

/// How packets of a native tunnel are encapsulated.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Encapsulation {
    /// By 6in4.
    SixInFour,
    /// By AYIYA.
    Ayiya {
        /// This host's port.
        port: u16,
        /// The identity in the broker's datagrams: its inner address.
        identity: Ipv6Addr,
    },
}

/// What the programs screen.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Screening {
    /// The ends of the tunnels.
    pub ends: BTreeMap<IfName, OuterEnds>,
    /// Whether protocol 41 of strangers passes, since it may be for other software or other hosts.
    pub passes_strangers: bool,
    /// Whether the times of AYIYA datagrams are checked: the daemon's clock is the machine's.
    pub checks_time: bool,
}

/// The ends of native tunnels, from the brokers and local addresses that their drivers report. Tunnels over IPv6 are
/// left out.
#[must_use]
pub fn outer_ends(
    config: &Config,
    by_drivers: &BTreeMap<IfName, (Endpoint, IpAddr)>,
) -> BTreeMap<IfName, OuterEnds> {
    let ends = config.tunnels.iter().filter_map(|tunnel| {
        let (endpoint, local) = by_drivers.get(&tunnel.name)?;
        let (IpAddr::V4(broker), IpAddr::V4(local)) = (endpoint.remote, *local) else {
            return None;
        };
        let by = match endpoint.protocol? {
            PROTOCOL => Encapsulation::SixInFour,
            UDP => Encapsulation::Ayiya {
                port: endpoint.local_port?,
                identity: tunnel.peer?,
            },
            _ => return None,
        };
        let name = tunnel.name.clone();
        Some((name, OuterEnds { local, broker, by }))
    });
    ends.take(OUTER_ENDS as usize).collect()
}

/// Whether protocol 41 may be for others: an interface of other software receives it, a tunnel of the configuration or
/// not; or this host forwards IPv4, perhaps with address translation for hosts that have tunnels of their own.
#[must_use]
pub fn shares_protocol_41(config: &Config, links: &Links) -> bool {
    let is_native = |link: &Link| {
        let mut tunnels = config.tunnels.iter();
        tunnels.any(|tunnel| tunnel.kind.is_native() && tunnel.name == link.name)
    };
    let mut up = links.iter().filter(|link| link.up);
    up.any(|link| link.forwards_ipv4 || link.driver == LinkDriver::Sit && !is_native(link))
}

impl Enforcement {
    /// Has the programs screen the outer packets of these tunnels, where they arrive. The uplinks get the XDP program as
    /// soon as some tunnel may have ends, since drivers report theirs late.
    #[must_use]
    pub fn with_screening(mut self, config: &Config, mut screening: Screening) -> Self {
        let is_started = |name: &IfName| self.tunnels.contains_key(name);
        screening.ends.retain(|name, _| is_started(name));
        // WireGuard drops forged packets by itself.
        let is_screened = |kind: &Kind| kind.is_native() && !matches!(kind, Kind::WireGuard(_));
        let screened = config.tunnels.iter().filter(|t| is_screened(&t.kind));
        let started: Vec<_> = screened.filter(|tunnel| is_started(&tunnel.name)).collect();
        // The broker of a tunnel whose ends are not known yet is no stranger.
        let is_unknown = |tunnel: &&Tunnel| {
            let is_ayiya = matches!(tunnel.kind, Kind::Ayiya(_));
            !is_ayiya && !screening.ends.contains_key(&tunnel.name)
        };
        screening.passes_strangers |= started.iter().any(is_unknown);
        if !started.is_empty() {
            for (name, interface) in &mut self.interfaces {
                interface.xdp = match interface.role {
                    Role::Uplink => Some(XdpWish::Attach(config.xdp.of(name))),
                    // It may have been an uplink a moment ago, and be one again.
                    Role::Newcomer | Role::Candidate | Role::Underlay => Some(XdpWish::Keep),
                    Role::Tunnel => None,
                };
            }
        }
        self.screening = screening;
        self
    }
}

/// Whether an interface is to have the XDP program.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum XdpWish {
    /// It is an uplink.
    Attach(XdpChoice),
    /// It is none at present: the program stays if it is attached, since drivers may restart for a change.
    Keep,
}

/// Why an uplink has no XDP program. `Display` is a sentence without subject, for users.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum NoXdp {
    /// The configuration turns it off.
    #[error("turned off in the configuration")]
    Off,
    /// It has no Ethernet header.
    #[error("the interface has no Ethernet header")]
    NoEthernet,
    /// Another program is attached.
    #[error("another XDP program is attached: {0}")]
    Foreign(String),
    /// The dispatcher of libxdp is attached, and our program cannot join it.
    #[error("the dispatcher of libxdp is attached; to join it fails: {0}")]
    Dispatcher(String),
    /// The program would run at the ports of the bond.
    #[error("the packets of a bond arrive at its ports")]
    Bond,
    /// A network card may remove the tags of frames before the program gets them.
    #[error("frames of VLANs arrive there, whose tags the program may not receive")]
    Vlans,
    /// The kernel does not report the features that the interface would lose.
    #[error("the kernel does not report the features of the interface: {0}")]
    Features(String),
    /// The other end of the pair would lose an offload.
    #[error("on a veth pair, it would turn segmentation offload off at the other end")]
    Veth,
    /// The interface would lose offloads.
    #[error("it would turn off {}", .0.join(", "))]
    Offloads(Vec<String>),
    /// The kernel refuses it.
    #[error("{0}")]
    Refused(String),
}

/// Where the XDP program of an uplink is attached.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct XdpPlace {
    /// Where it runs.
    pub mode: XdpMode,
    /// Whether libxdp's dispatcher runs it, together with programs of other software.
    pub is_shared: bool,
}

/// Features that drivers turn off for an XDP program: with them, the hardware merges packets.
pub const MERGING_FEATURES: [&str; 2] = ["rx-lro", "rx-gro-hw"];

/// Where the XDP program is to be attached. `foreign`: another program that is attached, with its name. With
/// [`XdpChoice::Auto`], the program is attached only if that takes no feature from the interface. To join a dispatcher
/// takes nothing more.
pub fn xdp_place(
    choice: XdpChoice,
    link: &Link,
    links: &Links,
    foreign: Option<(&str, XdpMode)>,
) -> Result<XdpPlace, NoXdp> {
    if choice == XdpChoice::Off {
        return Err(NoXdp::Off);
    }
    if !matches!(link.layer, LinkLayer::Ethernet(_)) {
        return Err(NoXdp::NoEthernet);
    }
    if link.driver == LinkDriver::Bond {
        return Err(NoXdp::Bond);
    }
    if links.iter().any(|other| other.vlan_of == Some(link.index)) {
        return Err(NoXdp::Vlans);
    }
    match foreign {
        Some((DISPATCHER, XdpMode::Generic)) if choice == XdpChoice::Native => {
            return Err(NoXdp::Dispatcher("it is in generic mode".to_owned()));
        }
        Some((DISPATCHER, mode)) => {
            return Ok(XdpPlace {
                mode,
                is_shared: true,
            });
        }
        Some((name, _)) => return Err(NoXdp::Foreign(name.to_owned())),
        None => {}
    }
    let mode = match choice {
        XdpChoice::Generic => XdpMode::Generic,
        XdpChoice::Auto if link.driver == LinkDriver::Veth => return Err(NoXdp::Veth),
        XdpChoice::Auto | XdpChoice::Native | XdpChoice::Off => XdpMode::Native,
    };
    Ok(XdpPlace {
        mode,
        is_shared: false,
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        config::parse,
        types::{IfIndex, Mtu},
    };

    const CONFIG: &str = r#"
        uplinks = ["net0", "net1"]
        xdp = { net1 = "generic" }
        [[tunnel]]
        name = "sixxs0"
        kind = "6in4"
        remote4 = "198.51.100.1"
        address = "2001:db8:a::2/64"
        [[tunnel]]
        name = "sixxs1"
        kind = "ayiya"
        remote = "198.51.100.2"
        address = "2001:db8:b::2/64"
        peer = "2001:db8:b::1"
        password = "secret"
        [[tunnel]]
        name = "sixxs2"
        kind = "6in4"
        remote4 = "198.51.100.3"
        address = "2001:db8:c::2/64"
    "#;

    fn name(text: &str) -> IfName {
        text.parse().unwrap()
    }

    fn link(index: u32, text: &str) -> Link {
        Link {
            layer: LinkLayer::Ethernet([2, 0, 0, 0, 0, 9]),
            ..Link::up(IfIndex(index), name(text), Mtu(1500))
        }
    }

    fn endpoint(remote: &str, protocol: u8, local_port: Option<u16>) -> Endpoint {
        Endpoint {
            remote: remote.parse().unwrap(),
            protocol: Some(protocol),
            remote_port: None,
            local_port,
        }
    }

    #[test]
    fn ends_are_those_of_tunnels_over_ipv4() {
        let config = parse("test", CONFIG).unwrap();
        let local = "192.0.2.10".parse().unwrap();
        let ends = |of: &str, endpoint, local| {
            let by_drivers = [(name(of), (endpoint, local))].into();
            outer_ends(&config, &by_drivers).remove(&name(of))
        };
        let found = ends("sixxs0", endpoint("198.51.100.1", PROTOCOL, None), local);
        assert_eq!(found.map(|ends| ends.by), Some(Encapsulation::SixInFour));
        let datagrams = endpoint("198.51.100.2", UDP, Some(4000));
        let found = ends("sixxs1", datagrams, local).unwrap();
        let expected = Encapsulation::Ayiya {
            port: 4000,
            identity: "2001:db8:b::1".parse().unwrap(),
        };
        assert_eq!(found.by, expected);
        assert_eq!(found.broker.to_string(), "198.51.100.2");
        let none = [
            endpoint("198.51.100.2", UDP, None),
            endpoint("198.51.100.2", 6, Some(4000)),
            endpoint("2001:db8:f::1", UDP, Some(4000)),
        ];
        for endpoint in none {
            assert_eq!(ends("sixxs1", endpoint, local), None, "{endpoint}");
        }
        let six = "2001:db8:1::1".parse().unwrap();
        assert_eq!(ends("sixxs1", datagrams, six), None);
        // Without a peer there is no identity.
        assert_eq!(ends("sixxs0", datagrams, local), None);
    }

    #[test]
    fn uplinks_get_the_xdp_program_once_there_is_something_to_screen() {
        let config = parse("test", CONFIG).unwrap();
        let links: Links = [link(2, "net0"), link(3, "net1"), link(4, "sixxs0")]
            .into_iter()
            .collect();
        let ends = OuterEnds {
            local: "192.0.2.10".parse().unwrap(),
            broker: "198.51.100.1".parse().unwrap(),
            by: Encapsulation::SixInFour,
        };
        let screened = |started: &str| {
            let screening = Screening {
                ends: [(name("sixxs0"), ends)].into(),
                ..Screening::default()
            };
            Enforcement::new(&config, &links, |tunnel| tunnel.name.as_str() == started)
                .with_endpoints(&config, &BTreeMap::new())
                .with_screening(&config, screening)
        };
        let wishes = |found: &Enforcement| {
            let interfaces = found.interfaces.iter();
            interfaces
                .map(|(name, interface)| (name.to_string(), interface.xdp))
                .filter_map(|(name, xdp)| Some((name, xdp?)))
                .collect::<Vec<_>>()
        };
        let expected = [
            ("net0".to_owned(), XdpWish::Attach(XdpChoice::Auto)),
            ("net1".to_owned(), XdpWish::Attach(XdpChoice::Generic)),
        ];
        for (started, ends, passes, expected) in [
            ("sixxs0", 1, false, &expected[..]),
            // Its driver has not reported yet, and it is no 6in4.
            ("sixxs1", 0, false, &expected),
            // The same with 6in4.
            ("sixxs2", 0, true, &expected),
            ("", 0, false, &[]),
        ] {
            let found = screened(started);
            assert_eq!(found.screening.ends.len(), ends, "{started}");
            assert_eq!(found.screening.passes_strangers, passes, "{started}");
            assert_eq!(wishes(&found), expected, "{started}");
        }
    }

    #[test]
    fn other_software_and_other_hosts_receive_protocol_41() {
        let text = CONFIG.to_owned()
            + "[[tunnel]]\nname = \"he-sit\"\nkind = \"interface\"\naddress = \"2001:db8:d::2\"\n";
        let config = parse("test", &text).unwrap();
        let sit = |text: &str, up| Link {
            driver: LinkDriver::Sit,
            up,
            ..link(7, text)
        };
        for (link, expected) in [
            (sit("sixxs0", true), false),
            (sit("he-ipv6", true), true),
            // Other software makes this one, too.
            (sit("he-sit", true), true),
            (sit("sit0", false), false),
            (link(7, "eth0"), false),
            (
                Link {
                    forwards_ipv4: true,
                    ..link(7, "eth0")
                },
                true,
            ),
        ] {
            let links = [link].into_iter().collect();
            let found = shares_protocol_41(&config, &links);
            assert_eq!(found, expected, "{links:?}");
        }
    }

    #[test]
    fn auto_takes_what_costs_nothing() {
        use XdpChoice::{Auto, Generic, Native, Off};
        let plain = link(2, "net0");
        let veth = Link {
            driver: LinkDriver::Veth,
            ..plain.clone()
        };
        let tun = Link {
            layer: LinkLayer::None,
            ..plain.clone()
        };
        let bond = Link {
            driver: LinkDriver::Bond,
            ..plain.clone()
        };
        let vlan = Link {
            vlan_of: Some(IfIndex(2)),
            ..link(3, "net0.7")
        };
        let none = Links::default();
        let with_vlan: Links = [plain.clone(), vlan].into_iter().collect();
        let (native, generic) = (XdpMode::Native, XdpMode::Generic);
        for (choice, link, links, expected) in [
            (Auto, &plain, &none, Ok(native)),
            (Native, &plain, &none, Ok(native)),
            (Generic, &plain, &none, Ok(generic)),
            (Off, &plain, &none, Err(NoXdp::Off)),
            (Auto, &veth, &none, Err(NoXdp::Veth)),
            (Native, &veth, &none, Ok(native)),
            (Native, &tun, &none, Err(NoXdp::NoEthernet)),
            (Native, &bond, &none, Err(NoXdp::Bond)),
            (Native, &plain, &with_vlan, Err(NoXdp::Vlans)),
        ] {
            let found = xdp_place(choice, link, links, None);
            let expected = expected.map(|mode| XdpPlace {
                mode,
                is_shared: false,
            });
            assert_eq!(found, expected, "{choice:?} {link:?}");
        }
        let foreign = NoXdp::Foreign("filter".to_owned());
        let found = xdp_place(Native, &plain, &none, Some(("filter", native)));
        assert_eq!(found, Err(foreign));
        for (choice, mode, is_joined) in [
            (Auto, native, true),
            (Auto, generic, true),
            (Native, native, true),
            (Native, generic, false),
            (Generic, native, true),
            (Off, native, false),
        ] {
            // The other end of the pair has lost the offload already.
            let found = xdp_place(choice, &veth, &none, Some((DISPATCHER, mode)));
            let expected = XdpPlace {
                mode,
                is_shared: true,
            };
            assert_eq!(
                found.ok() == Some(expected),
                is_joined,
                "{choice:?} {mode:?}"
            );
        }
    }
}
