//! Owns the harness of the kernel programs for golden packets and benchmarks: they are loaded, but not
//! attached.
//!
//! The thread that loads them has a network and a mount namespace of its own, with a loopback interface
//! and a bpffs. The namespaces end with the thread, so nothing needs cleanup.

use std::net::Ipv6Addr;
use std::os::fd::{AsFd as _, BorrowedFd, OwnedFd};
use std::path::Path;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result};
use nix::mount::{MsFlags, mount};
use nix::sched::{CloneFlags, CpuSet, sched_getcpu, sched_setaffinity, unshare};
use nix::unistd::Pid;
use sixxs_common::layout::LeakEvent;
use sixxs_common::stat::{Counters, Stat};
use sixxs_core::config::OnLeak;
use sixxs_core::enforce::{Enforcement, Home, Interface, RedirectTarget, Role, Source, SourceKind};
use sixxs_core::types::{IfIndex, IfName, Mtu, Prefix};
use sixxs_user::bpf::test_run::{self, Run};
use sixxs_user::bpf::{HookChoice, Kernel, Rings};

/// Interface of the packets of a test run: the loopback interface, which has Ethernet headers.
pub const LOOPBACK: IfIndex = IfIndex(1);

const BPFFS: &str = "/sys/fs/bpf";

/// The loaded programs.
pub struct Programs {
    /// The kernel side: programs and maps.
    pub kernel: Kernel,
    rings: Rings,
    egress: OwnedFd,
    ingress: OwnedFd,
    underlay: OwnedFd,
    xdp: OwnedFd,
    /// Time that the kernel took to load and verify them.
    pub load_time: Duration,
}

/// One of the programs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Direction {
    /// Egress of an uplink or a tunnel.
    Egress,
    /// Ingress of a tunnel.
    Ingress,
    /// Ingress of an uplink, or of another interface that leads to a broker.
    OuterIngress,
    /// XDP of an uplink.
    Xdp,
}

impl Programs {
    /// Loads the programs, with empty maps. Moves the calling thread into new namespaces.
    pub fn load() -> Result<Self> {
        stay_on_this_processor()?;
        unshare(CloneFlags::CLONE_NEWNS | CloneFlags::CLONE_NEWNET)
            .context("make namespaces; this needs root")?;
        let none: Option<&str> = None;
        mount(none, "/", none, MsFlags::MS_REC | MsFlags::MS_PRIVATE, none)
            .context("make mounts private")?;
        mount(Some("bpf"), BPFFS, Some("bpf"), MsFlags::empty(), none)
            .with_context(|| format!("mount bpffs on {BPFFS}"))?;
        let start = Instant::now();
        let pins = Path::new(BPFFS).join("sixxs");
        let (mut kernel, rings) = Kernel::load(&pins, HookChoice::default(), false)?;
        let load_time = start.elapsed();
        let [egress, ingress, underlay] = kernel.programs()?;
        let xdp = kernel.xdp_program()?;
        Ok(Self {
            kernel,
            rings,
            egress,
            ingress,
            underlay,
            xdp,
            load_time,
        })
    }

    /// The descriptor of one program.
    #[must_use]
    pub fn program(&self, direction: Direction) -> BorrowedFd<'_> {
        match direction {
            Direction::Egress => self.egress.as_fd(),
            Direction::Ingress => self.ingress.as_fd(),
            Direction::OuterIngress => self.underlay.as_fd(),
            Direction::Xdp => self.xdp.as_fd(),
        }
    }

    /// Runs one program on a frame, `repeat` times.
    pub fn run(&self, direction: Direction, frame: &[u8], repeat: u32) -> Result<Run> {
        test_run::run(self.program(direction), frame, repeat)
            .with_context(|| format!("run {direction:?} over {} bytes", frame.len()))
    }

    /// All counters of an interface or tunnel.
    pub fn counters(&self, name: &str) -> Result<Counters> {
        let slot = self.kernel.slot(&name.parse()?);
        self.kernel
            .counters(slot.with_context(|| format!("{name} has no slot"))?)
    }

    /// One counter.
    pub fn counter(&self, name: &str, stat: Stat) -> Result<u64> {
        Ok(self.counters(name)?[stat.index()])
    }

    /// The events since the last call.
    pub fn events(&mut self) -> Result<Vec<LeakEvent>> {
        let mut events = Vec::new();
        while let Some(bytes) = self.rings.events.next() {
            let event = bytemuck::try_pod_read_unaligned(&bytes);
            events.push(event.map_err(|error| anyhow::anyhow!("an event of {error}"))?);
        }
        Ok(events)
    }
}

/// Keeps this thread on its processor: the programs have counters and limits for each processor.
fn stay_on_this_processor() -> Result<()> {
    let mut set = CpuSet::new();
    set.set(sched_getcpu().context("ask for the processor")?)?;
    sched_setaffinity(Pid::from_raw(0), &set).context("stay on a processor")
}

/// The state of a host, set by the test instead of observed.
#[derive(Clone, Debug, Default)]
pub struct Host(pub Enforcement);

impl Host {
    /// A host whose loopback interface has this name and this role.
    pub fn new(name: &str, role: Role) -> Result<Self> {
        let mut host = Self::default();
        let interface = Interface {
            index: LOOPBACK,
            role,
            mac: Some([0; 6]),
            own: None,
            is_underlay: false,
            xdp: None,
        };
        host.0.interfaces.insert(name.parse()?, interface);
        Ok(host)
    }

    /// Adds a tunnel without a link layer.
    pub fn tunnel(
        mut self,
        name: &str,
        index: Option<IfIndex>,
        on_leak: OnLeak,
        router: Ipv6Addr,
    ) -> Result<Self> {
        let target = RedirectTarget {
            index,
            mtu: Mtu::MINIMUM,
            on_leak,
            mac: None,
            gateway: None,
            router,
        };
        self.0.tunnels.insert(name.parse()?, target);
        Ok(self)
    }

    /// Adds a source of a tunnel.
    pub fn source(self, prefix: &str, tunnel: &str, home: Home) -> Result<Self> {
        let (prefix, tunnel) = (prefix.parse()?, tunnel.parse()?);
        Ok(self.sources([(prefix, tunnel, home, SourceKind::Own)]))
    }

    /// Adds sources of tunnels and groups.
    #[must_use]
    pub fn sources(
        mut self,
        all: impl IntoIterator<Item = (Prefix, IfName, Home, SourceKind)>,
    ) -> Self {
        let sources = all.into_iter().map(|(prefix, tunnel, home, kind)| Source {
            prefix,
            tunnel,
            home,
            is_routed: false,
            kind,
        });
        self.0.sources.extend(sources);
        // Longest prefix first, as `Enforcement` requires.
        self.0
            .sources
            .sort_by_key(|source| (std::cmp::Reverse(source.prefix.bits()), source.prefix));
        self
    }
}
