//! Owns the data of a TIC server: users, their tunnels, the PoPs.

use std::net::{Ipv4Addr, Ipv6Addr};

use crate::broker::Kind;

/// All data that the server provides.
#[derive(Clone, Debug, Default)]
pub struct Registry {
    /// The users.
    pub accounts: Vec<Account>,
    /// The PoPs.
    pub pops: Vec<PopRecord>,
}

/// A user.
#[derive(Clone, Debug)]
pub struct Account {
    /// Login name.
    pub username: String,
    /// Its password.
    pub password: String,
    /// Its tunnels, in the order of the list.
    pub tunnels: Vec<TunnelRecord>,
}

/// A tunnel.
#[derive(Clone, Debug)]
pub struct TunnelRecord {
    /// Name such as `T1`.
    pub id: String,
    /// Its encapsulation.
    pub kind: Kind,
    /// The client's address in it.
    pub address: Ipv6Addr,
    /// The PoP's address in it.
    pub peer: Ipv6Addr,
    /// Prefix length of both addresses.
    pub prefix_length: u8,
    /// The name of its PoP.
    pub pop: String,
    /// The PoP's outer address.
    pub pop4: Ipv4Addr,
    /// The client's registered address, for [`Kind::SixInFour`].
    pub endpoint4: Ipv4Addr,
    /// `enabled`, or another state.
    pub user_state: String,
    /// `enabled`, or another state.
    pub admin_state: String,
    /// Password of AYIYA and of heartbeats.
    pub password: String,
    /// Interval of heartbeats in seconds.
    pub heartbeat_interval: u32,
    /// The tunnel's MTU.
    pub mtu: u32,
    /// Additional lines of `tunnel show`, verbatim.
    pub more: Vec<String>,
}

/// A PoP.
#[derive(Clone, Debug)]
pub struct PopRecord {
    /// Its name.
    pub name: String,
    /// Its IPv4 address.
    pub address4: Ipv4Addr,
    /// Its IPv6 address.
    pub address6: Ipv6Addr,
}

impl Registry {
    /// The tunnel with this ID, of any user.
    pub fn tunnel_mut(&mut self, id: &str) -> Option<&mut TunnelRecord> {
        let tunnels = self.accounts.iter_mut().flat_map(|user| &mut user.tunnels);
        tunnels.into_iter().find(|tunnel| tunnel.id == id)
    }
}

impl TunnelRecord {
    /// The server's value for the client's IPv4 endpoint.
    fn endpoint(&self) -> String {
        match self.kind {
            Kind::Ayiya => "ayiya".to_owned(),
            Kind::Heartbeat => "heartbeat".to_owned(),
            Kind::SixInFour => self.endpoint4.to_string(),
        }
    }

    /// Its line of `tunnel list`.
    pub(super) fn line(&self) -> String {
        format!(
            "{} {} {} {}",
            self.id,
            self.address,
            self.endpoint(),
            self.pop
        )
    }

    /// The lines of `tunnel show`.
    pub(super) fn show(&self) -> Vec<String> {
        let kind = match self.kind {
            Kind::Ayiya => "ayiya",
            Kind::Heartbeat => "6in4-heartbeat",
            Kind::SixInFour => "6in4-static",
        };
        let mut lines = vec![
            format!("TunnelId: {}", self.id),
            format!("Type: {kind}"),
            format!("IPv6 Endpoint: {}", self.address),
            format!("IPv6 POP: {}", self.peer),
            format!("IPv6 PrefixLength: {}", self.prefix_length),
            format!("Tunnel MTU: {}", self.mtu),
            format!("Tunnel Name: {}", self.id),
            format!("POP Id: {}", self.pop),
            format!("IPv4 Endpoint: {}", self.endpoint()),
            format!("IPv4 POP: {}", self.pop4),
            format!("UserState: {}", self.user_state),
            format!("AdminState: {}", self.admin_state),
            format!("Password: {}", self.password),
            format!("Heartbeat_Interval: {}", self.heartbeat_interval),
        ];
        lines.extend(self.more.iter().cloned());
        lines
    }
}

impl PopRecord {
    /// The lines of `pop show`.
    pub(super) fn show(&self) -> Vec<String> {
        vec![
            format!("POPId: {}", self.name),
            "City: Nowhere".to_owned(),
            "Country: zz".to_owned(),
            format!("IPv4: {}", self.address4),
            format!("IPv6: {}", self.address6),
            "Heartbeat Support: Y".to_owned(),
            "Tinc Support: N".to_owned(),
            "Multicast Support: N".to_owned(),
            "ISP Short: Lab".to_owned(),
            "ISP Name: The lab".to_owned(),
            "ISP Website: http://www.example.org/".to_owned(),
            "ISP ASN: 64496".to_owned(),
            "ISP LIR: zz.lab".to_owned(),
        ]
    }
}
