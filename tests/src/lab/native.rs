//! Additional parts of a lab with native tunnels: the TIC server with one account for both tunnels, the
//! sessions of each PoP, and the configurations.

use std::fs::OpenOptions;
use std::io::Write as _;
use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr};
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use anyhow::{Context as _, Result};

use crate::broker::Kind;
use crate::broker::pop::{Location, Pop};
use crate::broker::session::Setup;
use crate::broker::tic::{self, Account, PopRecord, Registry, Tic, TunnelRecord};
use crate::lab::netns::Namespace;
use crate::lab::topology::{HOST4, SHARED, TIC_SERVER, TUNNELS, TunnelPlan};
use crate::lab::tun::Offloading;

/// User name at the TIC server.
pub const USERNAME: &str = "LAB1-SIXXS";
/// Password at the TIC server.
pub const PASSWORD: &str = "open sesame of the lab";
/// Heartbeat interval that the broker provisions, in seconds.
pub const HEARTBEAT_INTERVAL: u32 = 60;

/// The two tunnels' IDs at the TIC server.
pub const TUNNEL_IDS: [&str; 2] = ["T1", "T2"];
/// Their passwords; the first one looks like hexadecimal digits, but is text too.
pub const TUNNEL_PASSWORDS: [&str; 2] = ["0123456789abcdef0123456789abcdef", "two of the lab"];

/// The prefix of all [`ExtraTunnel`]s, which end at pop0.
pub const EXTRA_PREFIX: &str = "2001:db8:a:100::/56";

/// An additional AYIYA tunnel of pop0, for labs with very many tunnels.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ExtraTunnel(pub u8);

impl ExtraTunnel {
    /// Its interface on the host, which the program makes.
    pub fn interface(self) -> String {
        format!("more{}", self.0)
    }

    /// The client's address in it.
    pub fn address(self) -> Ipv6Addr {
        Ipv6Addr::new(0x2001, 0xdb8, 0xa, 0x100 + u16::from(self.0), 0, 0, 0, 2)
    }

    /// The PoP's address in it.
    pub fn peer(self) -> Ipv6Addr {
        Ipv6Addr::from_bits(self.address().to_bits() - 1)
    }

    /// Its password.
    pub fn password(self) -> String {
        format!("more of the lab: {}", self.0)
    }

    /// Its `[[tunnel]]` in the configuration.
    pub fn config(self, mtu: u32) -> String {
        let [plan, _] = &TUNNELS;
        format!(
            "\n[[tunnel]]\nname = \"{}\"\nkind = \"ayiya\"\nremote4 = \"{}\"\n\
             password = \"{}\"\nheartbeat_interval = {HEARTBEAT_INTERVAL}\n\
             address = \"{}/64\"\npeer = \"{}\"\nmtu = {mtu}\n",
            self.interface(),
            plan.remote4,
            self.password(),
            self.address(),
            self.peer(),
        )
    }

    /// The PoP's end, as a line for `ip -batch`.
    fn pop_end(self) -> String {
        format!("address add {}/64 dev host nodad\n", self.peer())
    }

    fn setup(self) -> Setup {
        Setup {
            kind: Kind::Ayiya,
            address: self.address(),
            peer: self.peer(),
            prefixes: vec![(network(self.address()), 64)],
            password: self.password(),
            registered: None,
        }
    }
}

/// The TIC server for tunnels of these kinds.
pub(crate) fn tic(outside: &Namespace, kinds: [Kind; 2], mtu: u32) -> Result<Tic> {
    let tunnels = TUNNELS
        .iter()
        .zip(kinds)
        .zip(TUNNEL_IDS)
        .zip(TUNNEL_PASSWORDS);
    let tunnels = tunnels.map(|(((plan, kind), id), password)| TunnelRecord {
        id: id.to_owned(),
        kind,
        address: plan.address,
        peer: plan.peer,
        prefix_length: 64,
        pop: plan.pop.to_owned(),
        pop4: plan.remote4,
        endpoint4: HOST4,
        user_state: "enabled".to_owned(),
        admin_state: "enabled".to_owned(),
        password: password.to_owned(),
        heartbeat_interval: HEARTBEAT_INTERVAL,
        mtu,
        more: Vec::new(),
    });
    let registry = Registry {
        accounts: vec![Account {
            username: USERNAME.to_owned(),
            password: PASSWORD.to_owned(),
            tunnels: tunnels.collect(),
        }],
        pops: TUNNELS
            .iter()
            .map(|plan| PopRecord {
                name: plan.pop.to_owned(),
                address4: plan.remote4,
                address6: plan.remote6,
            })
            .collect(),
    };
    Tic::new(
        outside,
        SocketAddr::new(TIC_SERVER.into(), tic::PORT),
        registry,
    )
}

/// The PoP of one tunnel and of the additional ones; `device` is its end of them.
pub(crate) fn pop(
    plan: &TunnelPlan,
    kind: Kind,
    more: impl Iterator<Item = ExtraTunnel> + Clone,
    namespace: &Namespace,
    device: Offloading,
) -> Result<Pop> {
    namespace.ip(&more.clone().map(ExtraTunnel::pop_end).collect::<String>())?;
    let mut prefixes = vec![(network(plan.address), 64), SHARED];
    if let Some((prefix, length)) = plan.prefix.and_then(|prefix| prefix.split_once('/')) {
        prefixes.push((
            prefix.parse().context("read a prefix")?,
            length.parse().context("read a prefix length")?,
        ));
    }
    let location = Location {
        namespace: namespace.clone(),
        address4: plan.remote4,
        address6: Some(plan.remote6),
        device: Arc::new(device),
    };
    let setup = Setup {
        kind,
        address: plan.address,
        peer: plan.peer,
        prefixes,
        password: password(plan).to_owned(),
        registered: Some(HOST4),
    };
    Pop::new(
        location,
        std::iter::once(setup)
            .chain(more.map(ExtraTunnel::setup))
            .collect(),
    )
}

/// The password of a tunnel.
fn password(plan: &TunnelPlan) -> &'static str {
    let same = |(other, _): &(&TunnelPlan, _)| other.interface == plan.interface;
    let found = TUNNELS.iter().zip(TUNNEL_PASSWORDS).find(same);
    found.map_or("", |(_, password)| password)
}

fn network(address: Ipv6Addr) -> Ipv6Addr {
    Ipv6Addr::from_bits(address.to_bits() & !u128::from(u64::MAX))
}

/// The lines of a `[[tunnel]]` about its encapsulation.
pub(crate) fn kind_config(plan: &TunnelPlan, kind: Kind) -> String {
    let mut text = format!(
        "kind = \"{}\"\nremote4 = \"{}\"\n",
        kind.name(),
        plan.remote4
    );
    if kind != Kind::SixInFour {
        text += &format!(
            "password = \"{}\"\nheartbeat_interval = {HEARTBEAT_INTERVAL}\n",
            password(plan)
        );
    }
    text
}

/// The text of an aiccu.conf; `server` is the TIC server's address.
pub(crate) fn aiccu_conf(
    interface: &str,
    tunnel_id: &str,
    server: Ipv4Addr,
    pid_file: &Path,
    requiretls: bool,
) -> String {
    format!(
        "# One tunnel of the lab\n\
         username {USERNAME}\n\
         password {PASSWORD}\n\
         protocol tic\n\
         server {server}\n\
         ipv6_interface {interface}\n\
         tunnel_id {tunnel_id}\n\
         requiretls {requiretls}\n\
         pidfile {}\n",
        pid_file.display()
    )
}

/// Writes a file that only its owner can read, and returns its path.
pub(crate) fn write_secret(path: PathBuf, text: &str) -> Result<PathBuf> {
    // Remove an old file first: the mode only applies to new files.
    match std::fs::remove_file(&path) {
        Ok(()) => {}
        Err(e) if e.kind() == std::io::ErrorKind::NotFound => {}
        Err(e) => return Err(e).with_context(|| format!("replace {}", path.display())),
    }
    let mut options = OpenOptions::new();
    let mut file = options
        .write(true)
        .create_new(true)
        .mode(0o600)
        .open(&path)
        .with_context(|| format!("make {}", path.display()))?;
    file.write_all(text.as_bytes())
        .with_context(|| format!("write {}", path.display()))?;
    Ok(path)
}
