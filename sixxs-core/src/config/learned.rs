//! What a broker said about a tunnel, laid over what the file says.

use std::{collections::BTreeMap, net::Ipv6Addr, time::Duration};

use super::{Account, Ayiya, Config, Heartbeat, Kind, Remote, SixInFour, Tunnel};
use crate::{
    broker::tic,
    link::{Link, Links},
    secret::Secret,
    types::{IfName, InterfaceAddress, Mtu, Prefix},
};

/// `makebeats no`: AYIYA needs a first beat all the same, and has its packets to show for the rest.
const SELDOM: Duration = Duration::from_secs(24 * 3600);

/// What a broker said about a tunnel.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Learned {
    /// How packets are carried: native, and no account.
    pub kind: Kind,
    /// Our end.
    pub address: InterfaceAddress,
    /// The broker's end.
    pub peer: Ipv6Addr,
    /// The largest packet.
    pub mtu: Mtu,
}

impl Learned {
    /// From a broker's answer, with what the account's file says about it.
    #[must_use]
    pub fn new(account: &Account, parameters: &tic::Parameters) -> Self {
        let aiccu = &account.aiccu;
        let beats = |interval| Heartbeat {
            // There for every kind that has beats.
            password: parameters
                .password
                .clone()
                .unwrap_or_else(|| Secret::from("")),
            interval,
        };
        let interval = parameters.heartbeat_interval;
        let local4 = aiccu.local_ipv4_override;
        let kind = match parameters.kind {
            tic::Kind::SixInFour => Kind::SixInFour(SixInFour {
                local4,
                remote4: parameters.remote4,
                heartbeat: None,
            }),
            tic::Kind::Heartbeat => Kind::SixInFour(SixInFour {
                local4,
                remote4: parameters.remote4,
                heartbeat: aiccu.makebeats.then(|| beats(interval)),
            }),
            tic::Kind::Ayiya => Kind::Ayiya(Ayiya {
                local4,
                remote: Remote::Address(parameters.remote4.into()),
                heartbeat: beats(if aiccu.makebeats { interval } else { SELDOM }),
            }),
        };
        Self {
            kind,
            address: parameters.address,
            peer: parameters.peer,
            mtu: parameters.mtu,
        }
    }
}

impl Tunnel {
    /// With what the broker said. An MTU of the file's may make the broker's smaller, not larger.
    #[must_use]
    pub fn with(&self, learned: &Learned) -> Self {
        Self {
            kind: learned.kind.clone(),
            addresses: vec![learned.address],
            peer: Some(learned.peer),
            mtu: Some(self.mtu.map_or(learned.mtu, |mtu| mtu.min(learned.mtu))),
            ..self.clone()
        }
    }
}

/// What a broker said contradicts the file.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the broker gives it {address}, which is within {source_of_other} of {other}")]
pub struct Conflict {
    /// The tunnel that the broker spoke of.
    pub tunnel: IfName,
    /// Its address.
    pub address: Ipv6Addr,
    /// The address or prefix of the other one.
    pub source_of_other: Prefix,
    /// The other one: a tunnel, or an interface of the host.
    pub other: IfName,
}

impl Config {
    /// With what brokers said, by tunnel; what contradicts other tunnels or takes what the host has
    /// elsewhere is left out and named.
    #[must_use]
    pub fn with(
        &self,
        learned: &BTreeMap<IfName, Learned>,
        links: &Links,
    ) -> (Self, Vec<Conflict>) {
        let mut whole = self.clone();
        let mut conflicts = Vec::new();
        for at in 0..whole.tunnels.len() {
            let tunnel = &whole.tunnels[at];
            let Some(learned) = learned.get(&tunnel.name) else {
                continue;
            };
            let address = learned.address.address;
            let other_tunnel = whole.owner_of(address, &tunnel.name);
            match other_tunnel.or_else(|| whole.host_of(address, links)) {
                Some((source_of_other, other)) => conflicts.push(Conflict {
                    tunnel: tunnel.name.clone(),
                    address: learned.address.address,
                    source_of_other,
                    other,
                }),
                None => whole.tunnels[at] = tunnel.with(learned),
            }
        }
        (whole, conflicts)
    }

    /// What of the host's own the address is within: an address, or the prefix of an uplink, which is
    /// taken to have 64 bits (RFC 4291 §2.5.4).
    fn host_of(&self, address: Ipv6Addr, links: &Links) -> Option<(Prefix, IfName)> {
        let is_tunnel = |link: &&Link| self.tunnels.iter().any(|tunnel| tunnel.name == link.name);
        let is_uplink = |link: &Link| match &self.uplinks {
            Some(uplinks) => uplinks.contains(&link.name),
            None => link.is_exit,
        };
        links
            .iter()
            .filter(|link| !is_tunnel(link))
            .find_map(|link| {
                let bits = if is_uplink(link) { 64 } else { 128 };
                let mut taken = link
                    .addresses
                    .iter()
                    .map(|own| Prefix::containing(*own, bits));
                let taken = taken.find(|taken| taken.contains(address))?;
                Some((taken, link.name.clone()))
            })
    }

    /// The source in which `address` lies, and its tunnel, if it is another one than `but`.
    fn owner_of(&self, address: Ipv6Addr, but: &IfName) -> Option<(Prefix, IfName)> {
        let others = self.tunnels.iter().filter(|other| other.name != *but);
        let mut sources = others.flat_map(|other| other.sources().map(|s| (s, other.name.clone())));
        sources.find(|(source, _)| source.contains(address))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        config::parse,
        link::{Candidate, LinkLayer},
        types::IfIndex,
    };

    fn link(index: u32, name: &str, address: &str, is_exit: bool) -> Link {
        Link {
            index: IfIndex(index),
            name: name.parse().unwrap(),
            up: true,
            mtu: Mtu(1500),
            layer: LinkLayer::None,
            addresses: vec![address.parse().unwrap()],
            carrier: true,
            unusable: BTreeMap::new(),
            is_exit,
            candidate: Candidate::Never,
        }
    }

    #[test]
    fn what_the_host_has_is_no_brokers_to_give() {
        let text =
            "[[tunnel]]\nname = \"sixxs0\"\nkind = \"interface\"\naddress = \"2001:db8:1::2\"";
        let config = parse("f", text).unwrap();
        let links: Links = [
            link(1, "lan0", "2001:db8:cc::1", false),
            link(2, "net0", "2001:db8:ff::5", true),
            link(3, "sixxs0", "2001:db8:a::2", false),
        ]
        .into_iter()
        .collect();
        let name = config.tunnels[0].name.clone();
        for (address, other) in [
            ("2001:db8:ff::5", Some("net0")),
            ("2001:db8:ff::77", Some("net0")),
            ("2001:db8:cc::1", Some("lan0")),
            ("2001:db8:cc::2", None),
            ("2001:db8:a::2", None),
        ] {
            let learned = Learned {
                kind: Kind::Interface,
                address: format!("{address}/64").parse().unwrap(),
                peer: "2001:db8:a::1".parse().unwrap(),
                mtu: Mtu::MINIMUM,
            };
            let (whole, conflicts) =
                config.with(&BTreeMap::from([(name.clone(), learned)]), &links);
            let found = conflicts.first().map(|conflict| conflict.other.as_str());
            assert_eq!(found, other, "{address}");
            let has_it = whole.tunnels[0].addresses[0].address.to_string() == address;
            assert_eq!(has_it, other.is_none(), "{address}");
        }
    }
}
