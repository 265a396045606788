//! Completes the configuration with the parameters from brokers.

use std::{
    collections::{BTreeMap, BTreeSet},
    net::Ipv6Addr,
    time::Duration,
};

use super::{Account, Ayiya, Config, Heartbeat, Kind, Remote, SixInFour, Tunnel};
use crate::{
    broker::tic,
    secret::Secret,
    types::{IfName, InterfaceAddress, Mtu, Prefix},
};

/// Heartbeat interval for `makebeats no`. AYIYA needs a first heartbeat in any case; afterwards its data
/// packets show the broker that the client is up.
const RARE_INTERVAL: Duration = Duration::from_secs(24 * 3600);

/// The parameters of a tunnel from its broker.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Learned {
    /// The encapsulation: a native kind, but never an account.
    pub kind: Kind,
    /// The local address in the tunnel.
    pub address: InterfaceAddress,
    /// The broker's address in the tunnel.
    pub peer: Ipv6Addr,
    /// The largest packet.
    pub mtu: Mtu,
}

impl Learned {
    /// From the broker's answer and the settings in the account's file.
    #[must_use]
    pub fn new(account: &Account, parameters: &tic::Parameters) -> Self {
        let aiccu = &account.aiccu;
        let beats = |interval| Heartbeat {
            // The broker sends a password for every kind with heartbeats.
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
                heartbeat: beats(if aiccu.makebeats {
                    interval
                } else {
                    RARE_INTERVAL
                }),
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
    /// This tunnel with the broker's parameters. An MTU in the configuration may reduce the broker's MTU, but
    /// not increase it.
    #[must_use]
    pub fn with_learned(&self, learned: &Learned) -> Self {
        Self {
            kind: learned.kind.clone(),
            addresses: vec![learned.address],
            peer: Some(learned.peer),
            mtu: Some(self.mtu.map_or(learned.mtu, |mtu| mtu.min(learned.mtu))),
            ..self.clone()
        }
    }
}

/// Addresses and networks of the host that no broker may assign, with their interface.
pub type HostPrefixes = BTreeSet<(Prefix, IfName)>;

/// The parameters from a broker contradict the configuration or the host.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the broker assigns it {address}, which is within {source_of_other} of {other}")]
pub struct Conflict {
    /// The tunnel.
    pub tunnel: IfName,
    /// The tunnel's address, or the address of its far end.
    pub address: Ipv6Addr,
    /// The address or prefix that contains it.
    pub source_of_other: Prefix,
    /// The owner of that prefix: another tunnel, or an interface of the host.
    pub other: IfName,
}

impl Config {
    /// This configuration with the parameters from brokers, by tunnel. Parameters that contradict another
    /// tunnel or the host's own networks are not applied, and returned as conflicts. `before` is the previous
    /// result: if the brokers of two tunnels assign the same address, the tunnel that already had it keeps
    /// it.
    #[must_use]
    pub fn with_learned(
        &self,
        learned: &BTreeMap<IfName, Learned>,
        host_prefixes: &HostPrefixes,
        before: &Self,
    ) -> (Self, Vec<Conflict>) {
        let had = |tunnel: &Tunnel| {
            let learned = learned.get(&tunnel.name);
            let before = before.tunnels.iter().find(|b| b.name == tunnel.name);
            let both = before.zip(learned);
            both.is_some_and(|(before, learned)| before.addresses == [learned.address])
        };
        let mut whole = self.clone();
        let mut conflicts = Vec::new();
        let mut order: Vec<_> = (0..whole.tunnels.len()).collect();
        order.sort_by_key(|at| !had(&self.tunnels[*at]));
        for at in order {
            let tunnel = &whole.tunnels[at];
            let Some(learned) = learned.get(&tunnel.name) else {
                continue;
            };
            let (address, peer) = (learned.address.address, learned.peer);
            let owner = |address| {
                let other_tunnel = whole.owner_of(address, &tunnel.name);
                let owner = other_tunnel.or_else(|| owner_among(host_prefixes, address));
                Some((address, owner?))
            };
            match owner(address).or_else(|| owner(peer)) {
                Some((address, (source_of_other, other))) => conflicts.push(Conflict {
                    tunnel: tunnel.name.clone(),
                    address,
                    source_of_other,
                    other,
                }),
                None => whole.tunnels[at] = tunnel.with_learned(learned),
            }
        }
        (whole, conflicts)
    }

    /// The source that contains `address`, and its tunnel or group, among all except the tunnel `but`.
    fn owner_of(&self, address: Ipv6Addr, but: &IfName) -> Option<(Prefix, IfName)> {
        let others = self.tunnels.iter().filter(|other| other.name != *but);
        let sources = others.flat_map(|other| other.sources().map(move |s| (s, &other.name)));
        let mut all = sources.chain(self.group_prefixes());
        let found = all.find(|(source, _)| source.contains(address));
        found.map(|(source, owner)| (source, owner.clone()))
    }
}

/// The longest of the host's own prefixes that contains the address.
fn owner_among(host_prefixes: &HostPrefixes, address: Ipv6Addr) -> Option<(Prefix, IfName)> {
    let within = host_prefixes
        .iter()
        .filter(|(prefix, _)| prefix.contains(address));
    within.max_by_key(|(prefix, _)| prefix.bits()).cloned()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::parse;

    #[test]
    fn a_configured_address_takes_precedence() {
        let tunnel = |name: &str, address: &str| {
            let file = "kind = \"interface\"";
            format!("[[tunnel]]\nname = \"{name}\"\n{file}\naddress = \"{address}\"\n")
        };
        let text = tunnel("sixxs0", "2001:db8:a::2") + &tunnel("sixxs1", "2001:db8:b::2");
        let mut config = parse("f", &text).unwrap();
        config.tunnels.iter_mut().for_each(|t| t.addresses.clear());
        let learned = |address: &str| Learned {
            kind: Kind::Interface,
            address: address.parse().unwrap(),
            peer: "2001:db8:c::1".parse().unwrap(),
            mtu: Mtu::MINIMUM,
        };
        let names = config.tunnels.iter().map(|tunnel| tunnel.name.clone());
        let names: Vec<_> = names.collect();
        let all = |addresses: [&str; 2]| -> BTreeMap<_, _> {
            let learned = addresses.map(learned);
            names.iter().cloned().zip(learned).collect()
        };
        let host_prefixes = HostPrefixes::new();
        let (before, conflicts) = config.with_learned(
            &all(["2001:db8:a::2/64", "2001:db8:b::2/64"]),
            &host_prefixes,
            &config,
        );
        assert_eq!(conflicts, []);
        let both = all(["2001:db8:b::2/64", "2001:db8:b::2/64"]);
        let refused = |before: &Config| {
            let (after, conflicts) = config.with_learned(&both, &host_prefixes, before);
            let refused: Vec<_> = conflicts.iter().map(|c| c.tunnel.to_string()).collect();
            (refused, after)
        };
        let (first, after) = refused(&before);
        assert_eq!(first, ["sixxs0"]);
        assert_eq!(refused(&after).0, ["sixxs0"], "it stays so");
        // Neither tunnel had the address before: the first one in the file gets it.
        assert_eq!(refused(&config).0, ["sixxs1"]);

        let mut peers = all(["2001:db8:a::2/64", "2001:db8:b::2/64"]);
        let second = peers.get_mut(&names[1]).unwrap();
        second.peer = "2001:db8:a::2".parse().unwrap();
        let (_, conflicts) = config.with_learned(&peers, &host_prefixes, &config);
        let refused: Vec<_> = conflicts.iter().map(|c| c.to_string()).collect();
        assert_eq!(
            refused,
            ["the broker assigns it 2001:db8:a::2, which is within 2001:db8:a::2 of sixxs0"]
        );
    }
}
