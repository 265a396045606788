//! One tunnel of a lab: the host's interface, unless the program makes it, the broker's end, and the link
//! between them.

use std::fs::File;
use std::sync::{Arc, Mutex, PoisonError};

use anyhow::{Result, bail};

use crate::broker::Kind;
use crate::broker::pop::Pop;
use crate::lab::Spec;
use crate::lab::native::{self, EXTRA_PREFIX, ExtraTunnel};
use crate::lab::netns::Namespace;
use crate::lab::topology::{Flavour, TUNNELS, TunnelPlan, fresh_index};
use crate::lab::{nft, tun, wireguard};

/// One tunnel of a lab: the host's interface, the broker's, and the link between them.
#[derive(Debug)]
pub struct Tunnel {
    /// Its names and addresses.
    pub plan: &'static TunnelPlan,
    mtu: u32,
    host: Namespace,
    pop: Namespace,
    link: Link,
}

#[derive(Debug)]
enum Link {
    Tun {
        /// `None` if the tunnel is deleted.
        wire: Mutex<Option<tun::Wire>>,
        pop_end: Arc<File>,
    },
    Veth,
    WireGuard(Box<wireguard::Pair>),
    /// The program under test makes the host's interface.
    Native(Box<Pop>),
}

impl Tunnel {
    /// Its broker's namespace.
    pub fn pop(&self) -> &Namespace {
        &self.pop
    }

    pub(crate) fn new(
        plan: &'static TunnelPlan,
        spec: &Spec,
        kind: Option<Kind>,
        host: Namespace,
        pop: Namespace,
    ) -> Result<Self> {
        let more = if plan.interface == TUNNELS[0].interface {
            spec.extra_tunnels
        } else {
            0
        };
        nft::load(&pop, &plan.pop_rules((more > 0).then_some(EXTRA_PREFIX)))?;
        let link = match (spec.flavour, kind) {
            (_, Some(kind)) => {
                let pop_end = tun::Offloading::create(&pop, "host")?;
                pop.ip(&plan.pop_end(spec.mtu))?;
                Link::Native(Box::new(native::pop(
                    plan,
                    kind,
                    (0..more).map(ExtraTunnel),
                    &pop,
                    pop_end,
                )?))
            }
            (Flavour::Tun, None) => {
                let pop_end = Arc::new(tun::create(&pop, "host")?);
                pop.ip(&plan.pop_end(spec.mtu))?;
                Link::Tun {
                    wire: Mutex::new(None),
                    pop_end,
                }
            }
            (Flavour::Veth, None) => Link::Veth,
            (Flavour::WireGuard, None) => {
                let pair = wireguard::Pair::new(plan)?;
                pair.create_pop_end(&pop)?;
                pop.ip(&plan.pop_end(spec.mtu))?;
                Link::WireGuard(Box::new(pair))
            }
        };
        let tunnel = Self {
            plan,
            mtu: spec.mtu,
            host,
            pop,
            link,
        };
        if kind.is_none() {
            tunnel.create()?;
        }
        Ok(tunnel)
    }

    /// The broker of a native tunnel.
    pub fn broker(&self) -> Result<&Pop> {
        match &self.link {
            Link::Native(pop) => Ok(pop),
            Link::Tun { .. } | Link::Veth | Link::WireGuard(_) => {
                bail!("{} is not native", self.plan.interface)
            }
        }
    }

    /// Makes the host's interface, with its address; `Lab::new` has done it for a new lab. Not for native
    /// tunnels.
    pub fn create(&self) -> Result<()> {
        match &self.link {
            Link::Tun { wire, pop_end } => {
                let near = tun::create(&self.host, self.plan.interface)?;
                let mut wire = wire.lock().unwrap_or_else(PoisonError::into_inner);
                *wire = Some(tun::Wire::new(near, Arc::clone(pop_end))?);
            }
            Link::Veth => {
                // Made from the broker's side, with an index from `fresh_index` there; the kernel assigns a
                // new index on the host.
                self.pop.ip(&format!(
                    "link add host index {} type veth peer name {} netns {}\n",
                    fresh_index(),
                    self.plan.interface,
                    self.host.name()
                ))?;
                self.pop.speed_up_neighbour_discovery()?;
                self.host.speed_up_neighbour_discovery()?;
                self.pop.ip(&self.plan.pop_end(self.mtu))?;
            }
            Link::WireGuard(pair) => pair.create_host_end(&self.host)?,
            Link::Native(_) => bail!("the program makes {} itself", self.plan.interface),
        }
        self.host.ip(&self.plan.host_end(self.mtu))?;
        if let Link::WireGuard(pair) = &self.link {
            pair.wait(&self.host)?;
        }
        Ok(())
    }

    /// The host's end of a WireGuard tunnel as a file of `wg-quick`.
    pub fn quick_file(&self) -> Result<String> {
        match &self.link {
            Link::WireGuard(pair) => Ok(pair.quick_file()),
            _ => bail!("{} is not by WireGuard", self.plan.interface),
        }
    }

    /// Restores the address of the host's interface, and sets it up. Not for native tunnels.
    pub fn raise(&self) -> Result<()> {
        self.host.ip(&self.plan.host_end(self.mtu))
    }

    /// Deletes the host's interface.
    pub fn delete(&self) -> Result<()> {
        // Delete it by name, also a TUN device: its file may still be open in a child that another thread
        // just forked.
        self.host
            .ip(&format!("link delete {}\n", self.plan.interface))?;
        if let Link::Tun { wire, .. } = &self.link {
            wire.lock().unwrap_or_else(PoisonError::into_inner).take();
        }
        Ok(())
    }

    /// Stops the broker's replies, but leaves the tunnel in place.
    pub fn silence(&self) -> Result<()> {
        self.pop
            .ip(&format!("address delete {}/64 dev host\n", self.plan.peer))
    }

    /// The broker's neighbours, addresses and routes, for debugging missing packets.
    pub fn broker_state(&self) -> Result<String> {
        let neighbours = self.pop.sh("ip -6 -statistics neighbour show")?;
        let links = self.pop.sh("ip address show")?;
        Ok(neighbours + &links + &self.pop.sh("ip -6 route show table all")?)
    }

    /// The broker's counters, with the names of its rule set: `from_host`, `replies_from_host`, `strays`,
    /// `rounds`, `to_host`, `requests_to_host`.
    pub fn broker_counters(&self) -> Result<nft::Counters> {
        nft::read(&self.pop)
    }
}
