//! A whole lab: [`Lab::new`] builds it, and its drop removes it in every case.

pub mod advertiser;
pub mod carrier;
pub mod delegating_server;
pub mod dirs;
pub mod far_end;
pub mod interactive;
pub mod mounts;
pub mod nat;
pub mod native;
pub mod netns;
pub mod nft;
pub mod offload;
mod spec;
pub mod topology;
pub mod tun;
mod tunnel;
pub mod uplink;
mod wireguard;

use std::net::Ipv4Addr;
use std::path::PathBuf;
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};

use crate::broker::Kind;
use crate::broker::tic::Tic;
use crate::lab::dirs::{INTERACTIVE, LabDir, Paths};
use crate::lab::nat::Nat;
use crate::lab::native::{EXTRA_PREFIX, ExtraTunnel, TUNNEL_IDS};
use crate::lab::netns::Namespace;
use crate::lab::offload::sum_before_sending;
use crate::lab::topology::{
    Flavour, GATEWAY, HOST, HOST4, ISP_RULES, LAN_NODES, NODES, ROUTER_SYSCTLS, ROUTERS, SYSCTLS,
    TIC_SERVER, TUNNELS, TunnelPlan, UPLINK, node, wires,
};
use crate::probe::PingStream;
use crate::{shell, wait};

pub use crate::lab::spec::Spec;
pub use crate::lab::tunnel::Tunnel;

/// A running lab. Stop all processes and threads in it before the drop.
#[derive(Debug)]
pub struct Lab {
    tunnels: [Tunnel; 2],
    tic: Option<Tic>,
    nat: Option<Nat>,
    host4: Mutex<Ipv4Addr>,
    spec: Spec,
    outside: Namespace,
    core: Namespace,
    isp: Namespace,
    host: Namespace,
    lans: Option<[Namespace; 2]>,
    // The last field: its drop deletes the namespaces.
    dir: LabDir,
}

/// Whether the kernel may encapsulate packets itself, by `sit` or by programs. It leaves the checksums of inner packets
/// to the card then.
fn may_carry_in_kernel(spec: &Spec) -> bool {
    let is_in_kernel = |kind: &_| matches!(kind, Some(Kind::SixInFour | Kind::Heartbeat));
    spec.kinds().iter().any(is_in_kernel)
}

/// The name of a lab, and the prefix of its namespaces, which no other lab has.
fn unique_names(interactive: bool) -> (String, String) {
    static NEXT: AtomicU32 = AtomicU32::new(0);
    if interactive {
        return (INTERACTIVE.to_owned(), "sixxs".to_owned());
    }
    let count = NEXT.fetch_add(1, Ordering::Relaxed);
    let id = format!("{}-{count}", std::process::id());
    let prefix = format!("sixxs-{id}");
    (id, prefix)
}

/// The namespaces of a lab that is being built.
struct Nodes {
    nodes: Vec<(&'static str, Namespace)>,
    dir: LabDir,
}

impl Nodes {
    /// Creates them, with their names in the lab's directory.
    fn create(id: &str, prefix: &str, lans: bool) -> Result<Self> {
        let mut nodes = NODES.to_vec();
        if lans {
            nodes.extend(LAN_NODES);
        }
        let names = nodes.iter().map(|node| format!("{prefix}-{node}"));
        let names: Vec<String> = names.collect();
        let dir = LabDir::create(id, &names)?;
        let namespaces = Namespace::create(&names)?;
        Ok(Self {
            nodes: nodes.into_iter().zip(namespaces).collect(),
            dir,
        })
    }

    /// Connects them, and configures addresses and routes.
    fn wire(&self, prefix: &str, lans: bool) -> Result<()> {
        for (name, namespace) in &self.nodes {
            namespace.sysctl(SYSCTLS)?;
            if ROUTERS.contains(name) || (lans && *name == "host") {
                namespace.sysctl(ROUTER_SYSCTLS)?;
            }
        }
        shell::capture_with_input(
            std::process::Command::new("ip").args(["-batch", "-"]),
            &wires(|node| format!("{prefix}-{node}"), lans),
        )?;
        for (name, namespace) in &self.nodes {
            namespace.speed_up_neighbour_discovery()?;
            namespace.ip(&node(name, lans))?;
        }
        Ok(())
    }

    fn find(&self, name: &str) -> Result<Namespace> {
        let found = self.nodes.iter().find(|(node, _)| *node == name);
        let (_, namespace) = found.with_context(|| format!("the lab has no {name}"))?;
        Ok(namespace.clone())
    }

    /// Starts the TIC server of a lab with native tunnels, and writes its certificate authority.
    fn start_tic(&self, spec: &Spec) -> Result<Option<Tic>> {
        let Some(kinds) = spec.brokers else {
            return Ok(None);
        };
        let tic = native::tic(&self.find("outside")?, kinds, spec.mtu)?;
        let path = self.dir.paths().tls_ca();
        std::fs::write(&path, tic.authority_pem())
            .with_context(|| format!("write {}", path.display()))?;
        Ok(Some(tic))
    }

    /// Routes the prefix of the additional tunnels to their PoP.
    fn route_extra_tunnels(&self) -> Result<()> {
        let [first, _] = &TUNNELS;
        self.find("core")?.ip(&format!(
            "route add {EXTRA_PREFIX} via fe80::2 dev {}\n",
            first.pop
        ))
    }

    fn start_nat(&self, spec: &Spec) -> Result<Option<Nat>> {
        match spec.nat {
            true => Ok(Some(Nat::new(&self.find("isp")?)?)),
            false => Ok(None),
        }
    }

    fn start_tunnels(&self, spec: &Spec) -> Result<[Tunnel; 2]> {
        let tunnel = |plan: &'static TunnelPlan, kind| {
            Tunnel::new(plan, spec, kind, self.find("host")?, self.find(plan.pop)?)
        };
        let [first, second] = &TUNNELS;
        let kinds = spec.kinds();
        Ok([tunnel(first, kinds[0])?, tunnel(second, kinds[1])?])
    }

    fn lans(&self, spec: &Spec) -> Result<Option<[Namespace; 2]>> {
        match spec.lans {
            true => Ok(Some([self.find("lan1")?, self.find("lan2")?])),
            false => Ok(None),
        }
    }
}

impl Lab {
    /// Builds a lab and waits until the outside reaches the host by the uplink.
    pub fn new(spec: Spec) -> Result<Self> {
        ensure!(
            nix::unistd::geteuid().is_root(),
            "the lab needs root: it makes network namespaces"
        );
        let (id, prefix) = unique_names(spec.interactive);
        let nodes = Nodes::create(&id, &prefix, spec.lans)?;
        nodes.wire(&prefix, spec.lans)?;
        nft::load(&nodes.find("isp")?, ISP_RULES)?;
        let tic = nodes.start_tic(&spec)?;
        if spec.extra_tunnels > 0 {
            nodes.route_extra_tunnels()?;
        }
        let lab = Self {
            nat: nodes.start_nat(&spec)?,
            tunnels: nodes.start_tunnels(&spec)?,
            tic,
            host4: Mutex::new(HOST4),
            spec,
            outside: nodes.find("outside")?,
            core: nodes.find("core")?,
            isp: nodes.find("isp")?,
            host: nodes.find("host")?,
            lans: nodes.lans(&spec)?,
            dir: nodes.dir,
        };
        lab.prepare_uplink()?;
        lab.wait_for_carriers()?;
        lab.wait_for_uplink()?;
        Ok(lab)
    }

    /// Turns off what the host's end of the uplink only pretends to do.
    pub(crate) fn prepare_uplink(&self) -> Result<()> {
        if may_carry_in_kernel(&self.spec) {
            sum_before_sending(&self.host, UPLINK)?;
        }
        Ok(())
    }

    /// The kernel notices up to a second later that the other end of a veth pair is up.
    fn wait_for_carriers(&self) -> Result<()> {
        wait::until(
            "the host's links have a carrier",
            Duration::from_secs(5),
            || self.host.sh("ip -oneline link show type veth up"),
            |links| !links.contains("NO-CARRIER"),
        )?;
        Ok(())
    }

    fn wait_for_uplink(&self) -> Result<()> {
        let trial = PingStream::start(&self.outside, HOST, Duration::from_millis(10))?;
        wait::until(
            "the lab's uplink carries packets",
            Duration::from_secs(5),
            || Ok(trial.state()),
            |state| state.pings.answered > 0,
        )?;
        Ok(())
    }

    /// The host with the tunnels.
    pub fn host(&self) -> &Namespace {
        &self.host
    }

    /// A host on the internet.
    pub fn outside(&self) -> &Namespace {
        &self.outside
    }

    /// The router that connects all other networks.
    pub fn core(&self) -> &Namespace {
        &self.core
    }

    /// The ISP's router.
    pub fn isp(&self) -> &Namespace {
        &self.isp
    }

    /// The host on the separate LAN, and the one on the uplink's link.
    pub fn lans(&self) -> Result<&[Namespace; 2]> {
        self.lans
            .as_ref()
            .context("this lab was built without LANs")
    }

    /// Both tunnels.
    pub fn tunnels(&self) -> &[Tunnel; 2] {
        &self.tunnels
    }

    /// The TIC server of a lab with native tunnels.
    pub fn tic(&self) -> Result<&Tic> {
        self.tic
            .as_ref()
            .context("this lab was built without brokers")
    }

    /// The NAT of a lab that has one.
    pub fn nat(&self) -> Result<&Nat> {
        self.nat
            .as_ref()
            .context("this lab was built without address translation")
    }

    /// Replaces the host's IPv4 address by another one of 192.0.2.0/24, like a provider after a reconnect.
    pub fn move_host4(&self, to: Ipv4Addr) -> Result<()> {
        let mut host4 = self.host4.lock().unwrap_or_else(PoisonError::into_inner);
        // Deleting the last address of a network also deletes its routes.
        self.host.ip(&format!(
            "address delete {host4}/24 dev {UPLINK}\n\
             address add {to}/24 dev {UPLINK}\n\
             route replace default via 192.0.2.1 dev {UPLINK}\n"
        ))?;
        *host4 = to;
        Ok(())
    }

    /// The paths of the program under test.
    pub fn paths(&self) -> &Paths {
        self.dir.paths()
    }

    /// Packets from the host that the ISP's filter dropped.
    pub fn dropped_by_isp(&self) -> Result<u64> {
        nft::read(&self.isp)?.get("filtered")
    }

    /// Packets from the host that passed the ISP's filter.
    pub fn passed(&self) -> Result<u64> {
        nft::read(&self.isp)?.get("passed")
    }

    /// A configuration for this lab; `extra` are additional lines at its top.
    pub fn config(&self, extra: &str) -> String {
        let kinds = self.spec.brokers;
        self.config_of(extra, |index, plan| {
            let kind = kinds.and_then(|kinds| kinds.get(index).copied());
            let kind = kind.map(|kind| native::kind_config(plan, kind));
            kind.unwrap_or("kind = \"interface\"\n".to_owned()) + &self.tunnel_config(plan)
        }) + &self
            .extra_tunnels()
            .map(|more| more.config(self.spec.mtu))
            .collect::<String>()
    }

    /// The additional tunnels.
    pub fn extra_tunnels(&self) -> impl Iterator<Item = ExtraTunnel> + use<> {
        (0..self.spec.extra_tunnels).map(ExtraTunnel)
    }

    /// Writes an aiccu.conf for each tunnel, and returns a configuration that names them. All other parameters
    /// come from them and from the TIC server.
    pub fn write_aiccu_confs(&self, extra: &str, requiretls: bool) -> Result<String> {
        let paths = [
            self.write_aiccu_conf(0, requiretls)?,
            self.write_aiccu_conf(1, requiretls)?,
        ];
        let tls_ca = self.paths().tls_ca();
        Ok(self.config_of(extra, |index, _| {
            format!(
                "aiccu = \"{}\"\ntls_ca = \"{}\"\n",
                paths[index].display(),
                tls_ca.display()
            )
        }))
    }

    fn config_of(&self, extra: &str, tunnel: impl Fn(usize, &TunnelPlan) -> String) -> String {
        // Without inside tests, nothing pings by itself: most scenarios count pings, or break what would answer.
        let quiet = match extra.contains("inside_test_minutes") {
            true => "",
            false => "inside_test_minutes = 0\n",
        };
        let mut text = format!("uplinks = [\"{UPLINK}\"]\n{quiet}{extra}\n");
        for (index, plan) in TUNNELS.iter().enumerate() {
            let interface = plan.interface;
            text += &format!(
                "\n[[tunnel]]\nname = \"{interface}\"\n{}",
                tunnel(index, plan)
            );
        }
        text
    }

    /// Writes the aiccu.conf of one tunnel and returns its path.
    pub fn write_aiccu_conf(&self, index: usize, requiretls: bool) -> Result<PathBuf> {
        let interface = TUNNELS
            .get(index)
            .context("a lab has two tunnels")?
            .interface;
        let text = native::aiccu_conf(
            interface,
            TUNNEL_IDS[index],
            TIC_SERVER,
            &self.paths().aiccu_pid(interface),
            requiretls,
        );
        native::write_secret(self.paths().aiccu_conf(interface), &text)
    }

    /// The lines of a `[[tunnel]]` that do not depend on its kind: address, peer, MTU…
    pub fn tunnel_config(&self, plan: &TunnelPlan) -> String {
        let mut text = format!(
            "address = \"{}/64\"\npeer = \"{}\"\nmtu = {}\n",
            plan.address, plan.peer, self.spec.mtu
        );
        let kinds = TUNNELS.iter().zip(self.spec.kinds());
        let is_its = |(other, _): &(&TunnelPlan, _)| other.interface == plan.interface;
        let kind = kinds.into_iter().find(is_its).and_then(|(_, kind)| kind);
        if let (Some(Kind::SixInFour | Kind::Heartbeat), Some(carrier)) = (kind, self.spec.carrier)
        {
            text += &format!("carrier = \"{carrier}\"\n");
        }
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

    /// Writes a file of `wg-quick` for each tunnel of a lab with WireGuard, after `edit`, and returns a configuration
    /// by which the program makes the tunnels. Their addresses are in the files.
    pub fn write_quick_files(&self, edit: impl Fn(String) -> String) -> Result<String> {
        let mut paths = Vec::new();
        for tunnel in self.tunnels() {
            let name = format!("{}.conf", tunnel.plan.interface);
            let path = self.paths().config().with_file_name(name);
            paths.push(native::write_secret(path, &edit(tunnel.quick_file()?))?);
        }
        Ok(self.config_of("", |index, plan| {
            let (path, peer, mtu) = (paths[index].display(), plan.peer, self.spec.mtu);
            format!("kind = \"wireguard\"\nconfig = \"{path}\"\npeer = \"{peer}\"\nmtu = {mtu}\n")
        }))
    }

    /// Writes the configuration file of this lab and returns its path.
    pub fn write_config(&self, text: &str) -> Result<PathBuf> {
        let path = self.paths().config();
        if self.spec.brokers.is_some() {
            return native::write_secret(path, text);
        }
        std::fs::write(&path, text).with_context(|| format!("write {}", path.display()))?;
        Ok(path)
    }
}
