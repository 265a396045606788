//! What a broker said about a tunnel, laid over what the file says.

use std::{collections::BTreeMap, net::Ipv6Addr, time::Duration};

use super::{Account, Ayiya, Config, Heartbeat, Kind, Remote, SixInFour, Tunnel};
use crate::{
    broker::tic,
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
#[error("{tunnel}: the broker gives it {address}, which is within {source_of_other} of {other}")]
pub struct Conflict {
    /// The tunnel that the broker spoke of.
    pub tunnel: IfName,
    /// Its address.
    pub address: Ipv6Addr,
    /// The address or prefix of the other one.
    pub source_of_other: Prefix,
    /// The other one.
    pub other: IfName,
}

impl Config {
    /// With what brokers said, by tunnel; what contradicts other tunnels is left out and named.
    #[must_use]
    pub fn with(&self, learned: &BTreeMap<IfName, Learned>) -> (Self, Vec<Conflict>) {
        let mut whole = self.clone();
        let mut conflicts = Vec::new();
        for at in 0..whole.tunnels.len() {
            let tunnel = &whole.tunnels[at];
            let Some(learned) = learned.get(&tunnel.name) else {
                continue;
            };
            match whole.owner_of(learned.address.address, &tunnel.name) {
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
    /// The source in which `address` lies, and its tunnel, if it is another one than `but`.
    fn owner_of(&self, address: Ipv6Addr, but: &IfName) -> Option<(Prefix, IfName)> {
        let others = self.tunnels.iter().filter(|other| other.name != *but);
        let mut sources = others.flat_map(|other| other.sources().map(|s| (s, other.name.clone())));
        sources.find(|(source, _)| source.contains(address))
    }
}
