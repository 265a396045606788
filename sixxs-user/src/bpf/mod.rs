//! The only place that touches aya: loads the programs, fills their maps, attaches them, and reads
//! what they counted.
//!
//! Order matters, and is kept by [`Kernel::sync`]: load, fill the maps, then attach; and the other
//! way round when something goes. Maps and links are pinned, so that enforcement outlives the
//! daemon and a new one takes over without a moment unattached.

mod carry;
mod decided;
mod hook;
mod object;
mod pins;
mod raw;
mod remove;
mod seen;
mod shape;
mod syscall;
mod tables;
mod tcx;
pub mod test_run;
mod unscoped;

use std::{
    collections::{BTreeMap, BTreeSet},
    os::fd::AsRawFd,
    path::{Path, PathBuf},
    thread,
};

use anyhow::{Context as _, anyhow, ensure};
use aya::{
    Ebpf, EbpfLoader,
    maps::{MapData, RingBuf},
    programs::{Program, SchedClassifier},
};
use sixxs_common::{echo::Times, flow::Flow, layout::FlowRecord, stat::Counters};
use sixxs_core::{
    enforce::{Enforcement, Interface, Role},
    link::Links,
    types::IfName,
};

use tokio::io::{Interest, unix::AsyncFd};
use tracing::warn;

use crate::{
    netlink::{Netlink, tc::Direction},
    removal,
};

pub use decided::decided;
pub use hook::{Hook, HookChoice};
pub use remove::remove;
pub use seen::{Seen, SeenPins, seen_at, seen_pins};

use hook::{Attachments, Found};
use pins::Pins;
use tables::Tables;
use unscoped::Former;

/// The eBPF object, as `cargo xtask build` made it.
static OBJECT: &[u8] = aya::include_bytes_aligned!(env!("SIXXS_EBPF_OBJECT"));

/// Names of the programs in the object.
const EGRESS: &str = "sixxs_egress";
const INGRESS: &str = "sixxs_ingress";

/// The programs in the kernel, with their maps.
pub struct Kernel {
    ebpf: Ebpf,
    tables: Tables,
    attachments: Attachments,
    /// The numbers of the two programs, egress and ingress.
    numbers: [u32; 2],
    pins: Pins,
    /// Every map that is pinned, so that it can be pinned again.
    pinned: Vec<(PathBuf, MapData)>,
    /// Pins of programs with other layouts, which have not been replaced yet.
    others: Vec<Former>,
    /// Why nothing is pinned, in words.
    unpinned: Option<String>,
}

/// The result of [`Kernel::sync`].
#[derive(Debug, Default)]
pub struct Synced {
    /// Failures, in words, that another try may end; all else is in place.
    pub failures: Vec<String>,
    /// What is wrong for the whole run, in words.
    pub problems: Vec<String>,
    /// Programs that were attached again after somebody had detached them.
    pub attached_again: Vec<(IfName, Direction)>,
}

/// What the programs have to say while debugging, through `log`.
pub type Debugging = aya_log::EbpfLogger<&'static dyn log::Log>;

/// Leak events of the programs.
pub type LeakRing = RingBuf<MapData>;

/// Ends of the rings, for the caller to wait on.
pub struct Rings {
    /// Leak events.
    pub events: LeakRing,
    /// Debugging output; `None` when it is off, and then costs nothing.
    pub debugging: Option<Debugging>,
}

/// Lets a task wait until there is something in a ring.
pub fn wait_on<T: RingReader>(ring: T) -> std::io::Result<AsyncFd<T>> {
    // SAFETY: the types that are `RingReader` own their descriptor, give the same one each time, and
    // close it only when they are dropped, which the `AsyncFd` does after deregistering it.
    let registered = unsafe { AsyncFd::register_with_interest(ring, Interest::READABLE) };
    Ok(registered?)
}

/// One of the ends in [`Rings`].
pub trait RingReader: AsRawFd + sealed::Sealed {}

mod sealed {
    pub trait Sealed {}
    impl Sealed for aya::maps::RingBuf<aya::maps::MapData> {}
    impl Sealed for super::Debugging {}
}

impl RingReader for RingBuf<MapData> {}
impl RingReader for Debugging {}

/// Whether the kernel takes programs for traffic control; `None`: it does not say, to us.
#[must_use]
pub fn is_supported() -> Option<bool> {
    aya::sys::is_program_supported(aya::programs::ProgramType::SchedClassifier).ok()
}

impl Kernel {
    /// Loads the programs, with the pinned maps of earlier ones where there are any.
    pub fn load(
        pin_dir: &Path,
        hook: HookChoice,
        debugging: bool,
    ) -> anyhow::Result<(Self, Rings)> {
        let load = |pins: &Pins| Self::load_with(pins, hook, debugging);
        let refused = match Pins::prepare(pin_dir).and_then(|pins| load(&pins)) {
            Ok(loaded) => return Ok(loaded),
            Err(error) => error,
        };
        // What keeps programs from being pinned does not keep them from being attached.
        let Ok((mut kernel, rings)) = load(&Pins::none(pin_dir)?) else {
            return Err(refused);
        };
        kernel.unpinned = Some(format!(
            "nothing can be pinned: {refused:#}; programs end with the daemon, and count from zero (`sixxs doctor` \
             says what to do; then start it again)"
        ));
        Ok((kernel, rings))
    }

    fn load_with(pins: &Pins, hook: HookChoice, debugging: bool) -> anyhow::Result<(Self, Rings)> {
        if !pins.are_kept() {
            return Self::load_once(pins, Vec::new(), hook, debugging);
        }
        for strange in pins.set_strange_maps_aside(&object::pinned_maps(OBJECT)?)? {
            warn!("{strange}");
        }
        let mut others = Vec::new();
        for other in pins.others()? {
            pins.adopt(&other)?;
            others.push(Former {
                pins: other,
                is_shared: false,
            });
        }
        let mut tries = 3;
        loop {
            match Self::load_once(pins, others.clone(), hook, debugging) {
                // Somebody took the directories away just now.
                Err(_) if tries > 1 && !pins.are_there() => {
                    tries -= 1;
                    pins.make()?;
                }
                loaded => return loaded,
            }
        }
    }

    fn load_once(
        pins: &Pins,
        others: Vec<Former>,
        hook: HookChoice,
        debugging: bool,
    ) -> anyhow::Result<(Self, Rings)> {
        let level = if debugging {
            aya_log::Level::Debug as u8
        } else {
            0
        };
        let unpinned;
        let object = if pins.are_kept() {
            OBJECT
        } else {
            unpinned = object::without_pins(OBJECT)?;
            bytemuck::cast_slice(&unpinned)
        };
        let are_new = pins.have_no_maps()?;
        let mut ebpf = loader()
            .btf(None)
            .default_map_pin_directory(pins.maps())
            .override_global(aya_log::LEVEL, &level, true)
            .load(object)
            .context("load the eBPF object")?;
        load_programs(&mut ebpf)?;
        let numbers = [
            program_id(program(&mut ebpf, EGRESS)?)?,
            program_id(program(&mut ebpf, INGRESS)?)?,
        ];
        let pinned = if pins.are_kept() {
            pins.pinned_maps()?
        } else {
            Vec::new()
        };
        ensure!(
            !pinned.is_empty() || !pins.are_kept(),
            "the pins were taken away just now"
        );
        let events = RingBuf::try_from(tables::take(&mut ebpf, "EVENTS")?)?;
        let debugging = if debugging {
            let logger = aya_log::EbpfLogger::init(&mut ebpf).context("read the programs' log")?;
            Some(logger)
        } else {
            None
        };
        let tables = Tables::new(&mut ebpf, are_new)?;
        let kernel = Self {
            ebpf,
            tables,
            attachments: Attachments::new(pins.clone(), hook),
            numbers,
            pins: pins.clone(),
            pinned,
            others,
            unpinned: None,
        };
        let rings = Rings { events, debugging };
        Ok((kernel, rings))
    }

    /// Takes over what versions before directories of network namespaces pinned in this one; before the
    /// first [`Kernel::sync`].
    pub async fn take_over(&mut self, netlink: &Netlink) -> anyhow::Result<()> {
        if !self.pins.are_kept() {
            return Ok(());
        }
        self.others
            .splice(0..0, unscoped::take_over(&self.pins, netlink).await?);
        Ok(())
    }

    /// The directories of other network namespaces beside this one's pins.
    pub fn strangers(&self) -> anyhow::Result<Vec<PathBuf>> {
        if !self.pins.are_kept() {
            return Ok(Vec::new());
        }
        let mut unscoped = self.pins.unscoped()?;
        let is_taken = |pins: &Pins| self.others.iter().any(|former| former.pins == *pins);
        unscoped.retain(|pins| !is_taken(pins));
        let unscoped = unscoped.iter().map(Pins::root);
        Ok(unscoped.chain(self.pins.strangers()?).collect())
    }

    /// Makes maps and attachments what they should be. `names` are all interfaces that may ever
    /// need a slot: every tunnel of the configuration, wanted now or not.
    pub async fn sync(
        &mut self,
        wanted: &Enforcement,
        names: &BTreeSet<IfName>,
        links: &Links,
        netlink: &Netlink,
    ) -> anyhow::Result<Synced> {
        self.tables.write(wanted, names)?;
        // Links first: they keep programs and maps at work, whenever the daemon dies. What could not be pinned is
        // told by the interface, below.
        self.attachments.pin_all_again();
        let mut failures = self.pin_again();
        let mut attached_again = Vec::new();
        for (name, interface) in &wanted.interfaces {
            for direction in directions(interface.role) {
                let program = match direction {
                    Direction::Egress => program(&mut self.ebpf, EGRESS)?,
                    Direction::Ingress => program(&mut self.ebpf, INGRESS)?,
                };
                let attached = self
                    .attachments
                    .ensure(
                        program,
                        name,
                        (interface.index, *direction),
                        wanted.by_filters.contains(name),
                        netlink,
                    )
                    .await;
                match attached {
                    Ok(Found::TakenAway) => attached_again.push((name.clone(), *direction)),
                    Ok(Found::InPlace | Found::Nothing) => {}
                    Err(error) => {
                        let direction = direction.name();
                        failures.push(format!(
                            "attach to {name} {direction}: {error:#}; {}",
                            crate::kernel::why_not_attached()
                        ));
                    }
                }
            }
        }
        let keep = |index, direction| {
            wanted.interfaces.values().any(|interface: &Interface| {
                interface.index == index && directions(interface.role).contains(&direction)
            })
        };
        failures.extend(self.attachments.retain(keep, links, netlink).await);
        self.tables.forget(wanted)?;
        // Until all are replaced, programs go on counting in their own maps.
        if failures.is_empty()
            && let Err(error) = self.carry()
        {
            failures.push(format!("take over what was counted: {error:#}"));
        }
        Ok(Synced {
            failures,
            problems: self.unpinned.iter().cloned().collect(),
            attached_again,
        })
    }

    /// Whether a program was taken off an interface, of which the kernel does not tell where it is
    /// attached by TCX.
    #[must_use]
    pub fn has_lost_a_program(&self) -> bool {
        let [egress, ingress] = self.numbers;
        self.attachments.has_lost(|direction| match direction {
            Direction::Egress => egress,
            Direction::Ingress => ingress,
        })
    }

    /// Takes over what programs of other layouts had counted, which are all replaced now.
    fn carry(&mut self) -> anyhow::Result<()> {
        while let Some(other) = self.others.pop() {
            let counted = carry::counted(&other.pins);
            // Not twice, whatever happens. Those of others have no link of ours any more.
            if !other.is_shared {
                other.pins.remove()?;
            }
            self.tables.carry(&counted?)?;
        }
        Ok(())
    }

    /// Reads back what maps hold, and what is pinned in their places and in those of links: whoever is root may
    /// write there, and nothing tells of it. Puts right what is not as it was left; returns what that was.
    pub fn restore(&mut self) -> anyhow::Result<Vec<String>> {
        let mut restored = Vec::new();
        for (path, map) in &self.pinned {
            let wanted = map.info().context("ask for a map's number")?.id();
            // A pin that is gone is any round's affair.
            if path.exists() && shape::pinned(path).map(|found| found.number) != Some(wanted) {
                removal::file(path)?;
                map.pin(path)
                    .with_context(|| format!("pin {} again", path.display()))?;
                restored.push(format!(
                    "pin {} again, where something else was",
                    path.display()
                ));
            }
        }
        restored.extend(self.attachments.restore_pins()?);
        let maps = self.tables.restore()?;
        let written = maps
            .iter()
            .map(|map| format!("write the map {map} again, which somebody else had written to"));
        restored.extend(written);
        Ok(restored)
    }

    /// Pins maps again whose pins somebody took away; returns what went wrong.
    fn pin_again(&self) -> Vec<String> {
        let made = match self.pins.are_there() {
            true => Ok(()),
            false => self.pins.make(),
        };
        let mut problems: Vec<_> = made.err().map(|e| format!("{e:#}")).into_iter().collect();
        for (path, map) in &self.pinned {
            if !path.exists()
                && let Err(error) = map.pin(path)
            {
                problems.push(format!("pin {} again: {error}", path.display()));
            }
        }
        problems
    }

    /// How an interface's programs are attached; `None` while one of them is not.
    #[must_use]
    pub fn hook(&self, interface: &Interface) -> Option<Hook> {
        let mut hook = None;
        for direction in directions(interface.role) {
            hook = Some(self.attachments.hook(interface.index, *direction)?);
        }
        hook
    }

    /// The slot of an interface or tunnel.
    #[must_use]
    pub fn slot(&self, name: &IfName) -> Option<u32> {
        self.tables.slots().get(name).copied()
    }

    /// All slots in use, by name.
    #[must_use]
    pub fn slots(&self) -> &BTreeMap<IfName, u32> {
        self.tables.slots()
    }

    /// The counters of a slot over all processors.
    pub fn counters(&self, slot: u32) -> anyhow::Result<Counters> {
        self.tables.counters(slot)
    }

    /// How long the replies of a tunnel took, over all processors.
    pub fn times(&self, slot: u32) -> anyhow::Result<Times> {
        self.tables.times(slot)
    }

    /// Since when replies of a tunnel are waited for, in nanoseconds of CLOCK_MONOTONIC; 0 for never.
    pub fn watched_ns(&self, slot: u32) -> anyhow::Result<u64> {
        self.tables.watched_ns(slot)
    }

    /// Echo requests that came at this time or later and have no reply yet, by slot.
    pub fn waiting_since(&self, since_ns: u64) -> anyhow::Result<BTreeMap<u32, u64>> {
        self.tables.waiting_since(since_ns)
    }

    /// The kernel's record of a leaking flow.
    #[must_use]
    pub fn flow(&self, flow: &Flow) -> Option<FlowRecord> {
        self.tables.flow(flow)
    }

    /// Descriptors of the two programs, egress and ingress, for test runs.
    pub fn programs(&mut self) -> anyhow::Result<[std::os::fd::OwnedFd; 2]> {
        use std::os::fd::AsFd as _;
        let egress = program(&mut self.ebpf, EGRESS)?
            .fd()?
            .as_fd()
            .try_clone_to_owned()?;
        let ingress = program(&mut self.ebpf, INGRESS)?
            .fd()?
            .as_fd()
            .try_clone_to_owned()?;
        Ok([egress, ingress])
    }

    /// Writes the maps alone, without attaching: for test runs and benchmarks.
    pub fn fill(&mut self, wanted: &Enforcement) -> anyhow::Result<()> {
        let names = wanted.tunnels.keys().cloned().collect();
        self.tables.write(wanted, &names)?;
        self.tables.forget(wanted)
    }
}

/// Which programs a role needs.
const fn directions(role: Role) -> &'static [Direction] {
    match role {
        Role::Uplink | Role::Newcomer | Role::Candidate => &[Direction::Egress],
        Role::Tunnel => &[Direction::Egress, Direction::Ingress],
    }
}

/// Loads all programs side by side: the kernel's verifier takes most of the time of a start.
fn load_programs(ebpf: &mut Ebpf) -> anyhow::Result<()> {
    thread::scope(|scope| {
        let mut programs = ebpf.programs_mut();
        let one_here = programs.next();
        let others: Vec<_> = programs
            .map(|(name, program)| (name, scope.spawn(|| load(program))))
            .collect();
        if let Some((name, program)) = one_here {
            load(program).with_context(|| format!("load the program {name}"))?;
        }
        for (name, load) in others {
            load.join()
                .map_err(|_panic| anyhow!("loading the program {name} panicked"))?
                .with_context(|| format!("load the program {name}"))?;
        }
        Ok(())
    })
}

/// A loader. While it reads the kernel's types, which it does although they are not used (up to aya 0.14),
/// the kernel's features are asked for, which a load needs.
fn loader() -> EbpfLoader<'static> {
    thread::scope(|scope| {
        scope.spawn(aya::features);
        EbpfLoader::new()
    })
}

fn load(program: &mut Program) -> anyhow::Result<()> {
    let program: &mut SchedClassifier = program.try_into()?;
    Ok(program.load()?)
}

fn program<'a>(ebpf: &'a mut Ebpf, name: &str) -> anyhow::Result<&'a mut SchedClassifier> {
    let program = ebpf
        .program_mut(name)
        .ok_or_else(|| anyhow!("the eBPF object has no program {name}"))?;
    Ok(program.try_into()?)
}

fn program_id(program: &SchedClassifier) -> anyhow::Result<u32> {
    Ok(program.info().context("ask for the program's number")?.id())
}
