//! A WireGuard tunnel: makes the keys of both ends and the interfaces, like other software on the host. Its
//! outer packets are UDP over IPv4 through the uplink.

use std::time::Duration;

use anyhow::Result;

use crate::lab::netns::Namespace;
use crate::lab::topology::{HOST4, TUNNELS, TunnelPlan};
use crate::{shell, wait};

/// UDP port of the first tunnel, at both ends; the second tunnel has the next one.
const FIRST_PORT: u16 = 51820;

/// Both ends of one tunnel.
#[derive(Debug)]
pub(crate) struct Pair {
    plan: &'static TunnelPlan,
    host: Keys,
    pop: Keys,
}

/// The keys of one end, in the format of wg(8).
#[derive(Debug)]
struct Keys {
    private: String,
    public: String,
}

impl Keys {
    fn new() -> Result<Self> {
        let wg = || std::process::Command::new("wg");
        let private = shell::capture(wg().arg("genkey"))?;
        let public = shell::capture_with_input(wg().arg("pubkey"), &private)?;
        Ok(Self {
            private,
            public: public.trim_end().to_owned(),
        })
    }
}

impl Pair {
    pub(crate) fn new(plan: &'static TunnelPlan) -> Result<Self> {
        Ok(Self {
            plan,
            host: Keys::new()?,
            pop: Keys::new()?,
        })
    }

    /// Makes the broker's end, without addresses. It accepts every inner source, since the broker's nftables
    /// rules count strays.
    pub(crate) fn create_pop_end(&self, pop: &Namespace) -> Result<()> {
        let endpoint = format!("{HOST4}:{}", self.port());
        create(pop, "host", &self.pop, &self.host, self.port(), &endpoint)
    }

    /// Makes the host's end, without addresses.
    pub(crate) fn create_host_end(&self, host: &Namespace) -> Result<()> {
        let TunnelPlan {
            interface, remote4, ..
        } = self.plan;
        let endpoint = format!("{remote4}:{}", self.port());
        create(
            host,
            interface,
            &self.host,
            &self.pop,
            self.port(),
            &endpoint,
        )
    }

    /// The host's end as a file of `wg-quick`.
    pub(crate) fn quick_file(&self) -> String {
        let TunnelPlan {
            remote4, address, ..
        } = self.plan;
        let (private, public, port) = (self.host.private.trim_end(), &self.pop.public, self.port());
        format!(
            "[Interface]\nPrivateKey = {private}\nListenPort = {port}\nAddress = {address}/64\n\
             [Peer]\nPublicKey = {public}\nEndpoint = {remote4}:{port}\nAllowedIPs = ::/0\n\
             PersistentKeepalive = 10\n"
        )
    }

    /// Waits for a handshake; before it, packets into the tunnel may be lost. Call it when the host's end is
    /// up.
    pub(crate) fn wait(&self, host: &Namespace) -> Result<()> {
        // If the uplink is not ready for the first handshake, WireGuard repeats it after 5 s.
        const LIMIT: Duration = Duration::from_secs(12);
        let query = format!("wg show {} latest-handshakes", self.plan.interface);
        let latest = || host.sh(&query);
        wait::until("WireGuard shakes hands", LIMIT, latest, |latest| {
            latest.split_whitespace().last().is_some_and(|at| at != "0")
        })?;
        Ok(())
    }

    fn port(&self) -> u16 {
        let [first, _] = &TUNNELS;
        FIRST_PORT + u16::from(self.plan.interface != first.interface)
    }
}

fn create(
    at: &Namespace,
    interface: &str,
    own: &Keys,
    other: &Keys,
    port: u16,
    endpoint: &str,
) -> Result<()> {
    at.ip(&format!("link add {interface} type wireguard\n"))?;
    let port = port.to_string();
    let mut wg = at.command("wg");
    wg.args(["set", interface, "listen-port", &port])
        .args(["private-key", "/dev/stdin", "peer", &other.public])
        .args(["allowed-ips", "::/0", "endpoint", endpoint])
        // A new end starts a handshake at once, even without packets to send.
        .args(["persistent-keepalive", "10"]);
    shell::capture_with_input(&mut wg, &own.private)?;
    Ok(())
}
