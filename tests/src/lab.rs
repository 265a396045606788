//! Owns a lab as a whole: built by [`Lab::new`], removed when dropped, whatever happened between.

use std::fs::File;
use std::path::PathBuf;
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};

use crate::dirs::{INTERACTIVE, LabDir, Paths};
use crate::netns::Namespace;
use crate::probe::PingStream;
use crate::topology::{
    FIRST_INDEX, Flavour, GATEWAY, HOST, ISP_RULES, LAN_NODES, NODES, ROUTER_SYSCTLS, ROUTERS,
    SYSCTLS, TUNNEL_MTU, TUNNELS, TunnelPlan, UPLINK, node, wires,
};
use crate::{nft, shell, tun, wait};

/// What kind of lab to build.
#[derive(Clone, Copy, Debug)]
pub struct Spec {
    /// Whether the tunnels have a link layer.
    pub flavour: Flavour,
    /// The tunnels' MTU, at both ends.
    pub mtu: u32,
    /// With a /48 behind the host: one LAN of its own, one on the uplink's wire.
    pub lans: bool,
    /// For people: namespaces are called `sixxs-host` and so on. Only one such lab at a time.
    pub interactive: bool,
}

impl Spec {
    /// A lab for a test: tunnels of this flavour with [`TUNNEL_MTU`], no LANs.
    pub fn new(flavour: Flavour) -> Self {
        Self {
            flavour,
            mtu: TUNNEL_MTU,
            lans: false,
            interactive: false,
        }
    }
}

/// A running lab. Processes and threads that work in it should be gone before it is dropped.
#[derive(Debug)]
pub struct Lab {
    tunnels: [Tunnel; 2],
    spec: Spec,
    outside: Namespace,
    isp: Namespace,
    host: Namespace,
    lans: Option<[Namespace; 2]>,
    // Last: its drop deletes the namespaces.
    dir: LabDir,
}

impl Lab {
    /// Builds a lab and waits until the outside reaches the host by the uplink.
    pub fn new(spec: Spec) -> Result<Self> {
        static NEXT: AtomicU32 = AtomicU32::new(0);
        ensure!(
            nix::unistd::geteuid().is_root(),
            "the lab needs root: it makes network namespaces"
        );
        let (id, prefix) = if spec.interactive {
            (INTERACTIVE.to_owned(), "sixxs".to_owned())
        } else {
            let count = NEXT.fetch_add(1, Ordering::Relaxed);
            let id = format!("{}-{count}", std::process::id());
            let prefix = format!("sixxs-{id}");
            (id, prefix)
        };
        let mut nodes = NODES.to_vec();
        if spec.lans {
            nodes.extend(LAN_NODES);
        }
        let names: Vec<String> = nodes
            .iter()
            .map(|node| format!("{prefix}-{node}"))
            .collect();
        let dir = LabDir::create(&id, &names)?;
        let namespaces = Namespace::create(&names)?;
        let find = |name: &str| {
            let found = nodes
                .iter()
                .zip(&namespaces)
                .find(|(node, _)| **node == name);
            let (_, namespace) = found.with_context(|| format!("the lab has no {name}"))?;
            Ok::<_, anyhow::Error>(namespace.clone())
        };
        for (node, namespace) in nodes.iter().zip(&namespaces) {
            namespace.sysctl(SYSCTLS)?;
            if ROUTERS.contains(node) || (spec.lans && *node == "host") {
                namespace.sysctl(ROUTER_SYSCTLS)?;
            }
        }
        shell::capture_with_input(
            std::process::Command::new("ip").args(["-batch", "-"]),
            &wires(|node| format!("{prefix}-{node}"), spec.lans),
        )?;
        for (name, namespace) in nodes.iter().zip(&namespaces) {
            namespace.hasten_neighbours()?;
            namespace.ip(&node(name, spec.lans))?;
        }
        nft::load(&find("isp")?, ISP_RULES)?;
        let [first, second] = &TUNNELS;
        let tunnel =
            |plan: &'static TunnelPlan| Tunnel::new(plan, &spec, find("host")?, find(plan.pop)?);
        let lab = Self {
            tunnels: [tunnel(first)?, tunnel(second)?],
            spec,
            outside: find("outside")?,
            isp: find("isp")?,
            host: find("host")?,
            lans: if spec.lans {
                Some([find("lan1")?, find("lan2")?])
            } else {
                None
            },
            dir,
        };
        let trial = PingStream::start(&lab.outside, HOST, Duration::from_millis(10))?;
        wait::until(
            "the lab's uplink carries packets",
            Duration::from_secs(5),
            || Ok(trial.state()),
            |state| state.pings.answered > 0,
        )?;
        Ok(lab)
    }

    /// The host of the tunnels.
    pub fn host(&self) -> &Namespace {
        &self.host
    }

    /// The host on the other side of the internet.
    pub fn outside(&self) -> &Namespace {
        &self.outside
    }

    /// The host on the LAN of its own, and the one on the uplink's wire.
    pub fn lans(&self) -> Result<&[Namespace; 2]> {
        self.lans
            .as_ref()
            .context("this lab was built without LANs")
    }

    /// Both tunnels.
    pub fn tunnels(&self) -> &[Tunnel; 2] {
        &self.tunnels
    }

    /// What the program under test may write.
    pub fn paths(&self) -> &Paths {
        self.dir.paths()
    }

    /// Packets from the host that the ISP's filter dropped.
    pub fn filtered(&self) -> Result<u64> {
        nft::read(&self.isp)?.get("filtered")
    }

    /// Packets from the host that passed the ISP's filter.
    pub fn passed(&self) -> Result<u64> {
        nft::read(&self.isp)?.get("passed")
    }

    /// A configuration that fits this lab; `extra` are more lines for its top.
    pub fn config(&self, extra: &str) -> String {
        let mut text = format!("uplinks = [\"{UPLINK}\"]\n{extra}\n");
        for plan in &TUNNELS {
            text += &format!(
                "\n[[tunnel]]\nname = \"{}\"\nkind = \"interface\"\n{}",
                plan.interface,
                self.tunnel_config(plan)
            );
        }
        text
    }

    /// The lines of a `[[tunnel]]` of any kind in this lab: address, peer, MTU…
    pub fn tunnel_config(&self, plan: &TunnelPlan) -> String {
        let mut text = format!(
            "address = \"{}/64\"\npeer = \"{}\"\nmtu = {}\n",
            plan.address, plan.peer, self.spec.mtu
        );
        if self.spec.flavour == Flavour::Veth {
            text += &format!("gateway = \"{GATEWAY}\"\n");
        }
        if let Some(prefix) = plan.prefix
            && self.spec.lans
        {
            text += &format!("prefixes = [\"{prefix}\"]\n");
        }
        text
    }

    /// Writes the configuration file of this lab and returns its path.
    pub fn write_config(&self, text: &str) -> Result<PathBuf> {
        let path = self.paths().config();
        std::fs::write(&path, text).with_context(|| format!("write {}", path.display()))?;
        Ok(path)
    }
}

/// One tunnel of a lab: the host's interface, the broker's, and what is between them.
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
        /// `None` while the tunnel is deleted.
        wire: Mutex<Option<tun::Wire>>,
        pop_end: Arc<File>,
    },
    Veth,
}

impl Tunnel {
    fn new(
        plan: &'static TunnelPlan,
        spec: &Spec,
        host: Namespace,
        pop: Namespace,
    ) -> Result<Self> {
        nft::load(&pop, &plan.pop_rules())?;
        let link = match spec.flavour {
            Flavour::Tun => {
                let pop_end = Arc::new(tun::create(&pop, "host")?);
                pop.ip(&plan.pop_end(spec.mtu))?;
                Link::Tun {
                    wire: Mutex::new(None),
                    pop_end,
                }
            }
            Flavour::Veth => Link::Veth,
        };
        let tunnel = Self {
            plan,
            mtu: spec.mtu,
            host,
            pop,
            link,
        };
        tunnel.create()?;
        Ok(tunnel)
    }

    /// Makes the host's interface, with its address; by [`Lab::new`] already done.
    pub fn create(&self) -> Result<()> {
        match &self.link {
            Link::Tun { wire, pop_end } => {
                let near = tun::create(&self.host, self.plan.interface)?;
                let mut wire = wire.lock().unwrap_or_else(PoisonError::into_inner);
                *wire = Some(tun::Wire::new(near, Arc::clone(pop_end))?);
            }
            Link::Veth => {
                // From the broker's side, see `FIRST_INDEX`; the host's end gets a new index.
                self.pop.ip(&format!(
                    "link add host index {FIRST_INDEX} type veth peer name {} netns {}\n",
                    self.plan.interface,
                    self.host.name()
                ))?;
                self.pop.hasten_neighbours()?;
                self.host.hasten_neighbours()?;
                self.pop.ip(&self.plan.pop_end(self.mtu))?;
            }
        }
        self.host.ip(&self.plan.host_end(self.mtu))
    }

    /// Deletes the host's interface.
    pub fn delete(&self) -> Result<()> {
        // By name also for TUN: to close its file is not enough while a process that another
        // thread has just forked still holds it.
        self.host
            .ip(&format!("link delete {}\n", self.plan.interface))?;
        if let Link::Tun { wire, .. } = &self.link {
            wire.lock().unwrap_or_else(PoisonError::into_inner).take();
        }
        Ok(())
    }

    /// Has the broker answer no more, without taking the tunnel away.
    pub fn silence(&self) -> Result<()> {
        self.pop
            .ip(&format!("address delete {}/64 dev host\n", self.plan.peer))
    }

    /// What the broker counted; the names are those of its rule set: `from_host`,
    /// `replies_from_host`, `strays`, `to_host`, `requests_to_host`.
    pub fn seen_at_broker(&self) -> Result<nft::Counters> {
        nft::read(&self.pop)
    }
}
