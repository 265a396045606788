//! Attaches the XDP program to uplinks, by pinned links (`BPF_LINK_TYPE_XDP`, kernel 5.9).
//!
//! Where libxdp's dispatcher is attached, the program joins it.

use std::{
    collections::{BTreeMap, BTreeSet},
    io,
    os::fd::OwnedFd,
    time::{Duration, Instant},
};

use aya::Ebpf;
use sixxs_core::{
    config::XdpChoice,
    enforce::screening::{MERGING_FEATURES, NoXdp, XdpPlace, xdp_place},
    link::{Link, LinkDriver, Links, XdpMode, XdpProgram},
    types::IfIndex,
    xdp_dispatcher::DISPATCHER,
};
use tracing::{debug, warn};

use super::{
    Pins,
    dispatcher::{self, Joined},
    hook::AttachState,
    objects,
    xdp_link::{self, Program},
};
use crate::{host::files, netlink::features};

/// An attempt that failed is repeated after this time, unless something changes before.
const RETRY: Duration = Duration::from_secs(10);

/// The maximum age of a scan.
const SCAN: Duration = Duration::from_secs(1);

/// The XDP programs that are attached.
pub(super) struct XdpLinks {
    pins: Pins,
    attached: BTreeMap<IfIndex, Attached>,
    refused: BTreeMap<IfIndex, Refused>,
    /// Interfaces that lost features when the program was attached.
    lossy: BTreeMap<IfIndex, Vec<String>>,
    /// Programs of this run and of earlier ones, by their IDs. A scan may still show one that has just been detached.
    own: BTreeSet<u32>,
}

/// An attached program.
struct Attached {
    mode: XdpMode,
    /// The choice for which it was attached; `None`: by an earlier run.
    choice: Option<XdpChoice>,
    by: By,
}

/// What keeps a program at an interface.
enum By {
    /// A link, which this descriptor keeps.
    Link(OwnedFd),
    /// A dispatcher, which runs other programs too.
    Dispatcher(Joined),
}

impl Attached {
    fn place(&self) -> XdpPlace {
        XdpPlace {
            mode: self.mode,
            is_shared: matches!(self.by, By::Dispatcher(_)),
        }
    }
}

/// A failed attempt.
struct Refused {
    reason: NoXdp,
    /// The facts about the interface at that time.
    facts: (XdpChoice, Option<XdpProgram>),
    at: Instant,
}

impl XdpLinks {
    pub(super) const fn new(pins: Pins) -> Self {
        Self {
            pins,
            attached: BTreeMap::new(),
            refused: BTreeMap::new(),
            lossy: BTreeMap::new(),
            own: BTreeSet::new(),
        }
    }

    /// Where the program is attached to an interface, or why it is not. `None`: it is not wanted there.
    pub(super) fn state(&self, index: IfIndex) -> Option<Result<XdpPlace, &NoXdp>> {
        match self.attached.get(&index) {
            Some(attached) => Some(Ok(attached.place())),
            None => self.refused.get(&index).map(|refused| Err(&refused.reason)),
        }
    }

    /// The interfaces where a frame that the program sends back arrives. On a veth pair in native mode, that depends on
    /// settings of the other end, which may be in another network namespace.
    pub(super) fn answering(&self, links: &Links) -> BTreeSet<IfIndex> {
        let attached = self.attached.iter().filter(|(index, attached)| {
            let link = links.by_index(**index);
            let is_veth = link.is_none_or(|link| link.driver == LinkDriver::Veth);
            attached.mode == XdpMode::Generic || !is_veth
        });
        attached.map(|(index, _)| *index).collect()
    }

    /// Notes that the kernel does not load the program, with the reason.
    pub(super) fn refuse(
        &mut self,
        link: &Link,
        choice: XdpChoice,
        reason: &str,
    ) -> Result<AttachState, NoXdp> {
        let reason = match choice {
            XdpChoice::Off => NoXdp::Off,
            _ => NoXdp::Refused(reason.to_owned()),
        };
        self.give_up(link, choice, reason)
    }

    /// Attaches the program by `choice`, unless it is attached so. `Err`: why it is not.
    pub(super) fn ensure(
        &mut self,
        ebpf: &mut Ebpf,
        link: &Link,
        links: &Links,
        choice: XdpChoice,
    ) -> Result<AttachState, NoXdp> {
        let facts = (choice, link.xdp);
        if let Some(refused) = self.refused.get(&link.index)
            && refused.facts == facts
            && refused.at.elapsed() < RETRY
        {
            return Err(refused.reason.clone());
        }
        match self.attach(ebpf, link, links, choice) {
            Ok(state) => {
                self.refused.remove(&link.index);
                Ok(state)
            }
            Err(reason) => self.give_up(link, choice, reason),
        }
    }

    /// Detaches the program, and notes why.
    fn give_up(
        &mut self,
        link: &Link,
        choice: XdpChoice,
        reason: NoXdp,
    ) -> Result<AttachState, NoXdp> {
        self.detach(link);
        let refused = Refused {
            reason: reason.clone(),
            facts: (choice, link.xdp),
            at: Instant::now(),
        };
        self.refused.insert(link.index, refused);
        Err(reason)
    }

    fn attach(
        &mut self,
        ebpf: &mut Ebpf,
        link: &Link,
        links: &Links,
        choice: XdpChoice,
    ) -> Result<AttachState, NoXdp> {
        let program =
            xdp_link::in_object(ebpf).map_err(|error| NoXdp::Refused(format!("{error:#}")))?;
        self.own.insert(program.id);
        let state = match self.keep(ebpf, &program, link, links, choice)? {
            AttachState::InPlace => return Ok(AttachState::InPlace),
            lost => lost,
        };
        let foreign = self.foreign(link);
        let foreign = foreign.as_ref().map(|(name, mode)| (name.as_str(), *mode));
        let place = xdp_place(choice, link, links, foreign)?;
        let by = if place.is_shared {
            By::Dispatcher(self.join(ebpf, link, None)?)
        } else if choice == XdpChoice::Auto {
            By::Link(self.attach_without_loss(&program, link.index, place.mode)?)
        } else {
            let created = xdp_link::create(&program, link.index, place.mode);
            By::Link(created.map_err(|error| refused(&error))?)
        };
        let attached = Attached {
            mode: place.mode,
            choice: Some(choice),
            by,
        };
        self.attached.insert(link.index, attached);
        self.pin(link.index);
        Ok(state)
    }

    /// Joins the dispatcher of an interface, in the place of the program of an earlier run.
    fn join(&self, ebpf: &mut Ebpf, link: &Link, former: Option<u32>) -> Result<Joined, NoXdp> {
        dispatcher::join(&self.pins, ebpf, link, former)
            .map_err(|error| NoXdp::Dispatcher(format!("{error:#}")))
    }

    /// Attaches the program by a link, unless that costs a feature of the interface.
    fn attach_without_loss(
        &mut self,
        program: &Program,
        index: IfIndex,
        mode: XdpMode,
    ) -> Result<OwnedFd, NoXdp> {
        let features = || features(index).map_err(|error| NoXdp::Features(format!("{error:#}")));
        let before = features()?;
        let mut merging = MERGING_FEATURES.map(str::to_owned).to_vec();
        merging.retain(|feature| before.contains(feature));
        if let Some(lost) = self.lossy.get(&index) {
            merging.clone_from(lost);
        }
        if !merging.is_empty() {
            return Err(NoXdp::Offloads(merging));
        }
        let attached = xdp_link::create(program, index, mode).map_err(|error| refused(&error))?;
        let after = features()?;
        let lost: Vec<_> = before.difference(&after).cloned().collect();
        if lost.is_empty() {
            return Ok(attached);
        }
        self.lossy.insert(index, lost.clone());
        Err(NoXdp::Offloads(lost))
    }

    /// Keeps or takes over what fits, with the present program. Detaches what does not fit.
    fn keep(
        &mut self,
        ebpf: &mut Ebpf,
        program: &Program,
        link: &Link,
        links: &Links,
        choice: XdpChoice,
    ) -> Result<AttachState, NoXdp> {
        let index = link.index;
        if !self.attached.contains_key(&index)
            && let Some(earlier) = self.earlier(link)
        {
            self.own.extend(link.xdp.map(|present| present.id));
            self.attached.insert(index, earlier);
        }
        let Some(attached) = self.attached.get_mut(&index) else {
            return Ok(AttachState::Missing);
        };
        if !is_still_at(&mut attached.by, &self.pins, link) {
            self.attached.remove(&index);
            return Ok(AttachState::Detached);
        }
        // What other choices attached may cost what "auto" avoids. Of an earlier run, the choice is not known.
        let was_auto = attached.choice.is_none_or(|before| before == choice);
        let place = attached.place();
        let is_kept = choice != XdpChoice::Auto || was_auto || place.is_shared;
        let foreign = place.is_shared.then_some((DISPATCHER, place.mode));
        if xdp_place(choice, link, links, foreign) != Ok(place) || !is_kept {
            self.detach(link);
            return Ok(AttachState::Missing);
        }
        attached.choice = Some(choice);
        match &attached.by {
            By::Link(present) => {
                let found = objects::link(present).map(|link| link.program);
                if found.is_ok_and(|found| found != program.id) {
                    xdp_link::update(present, program).map_err(|error| refused(&error))?;
                }
            }
            By::Dispatcher(joined) if dispatcher::is_of(ebpf, joined.program) => {}
            By::Dispatcher(joined) => {
                let former = joined.program;
                let joined = self.join(ebpf, link, Some(former))?;
                if let Some(attached) = self.attached.get_mut(&index) {
                    attached.by = By::Dispatcher(joined);
                }
            }
        }
        self.pin(index);
        Ok(AttachState::InPlace)
    }

    /// The program of other software at an interface, as the last scan found it: its name and its mode.
    fn foreign(&self, link: &Link) -> Option<(String, XdpMode)> {
        let found = link.xdp.filter(|found| !self.own.contains(&found.id))?;
        // To read names needs CAP_SYS_ADMIN.
        let name = objects::program_name(found.id).unwrap_or_else(|| {
            if dispatcher::is_pinned(&self.pins, link) {
                DISPATCHER.to_owned()
            } else {
                format!("number {}", found.id)
            }
        });
        Some((name, found.mode))
    }

    /// What an earlier run has pinned, if it is attached to this interface.
    fn earlier(&self, link: &Link) -> Option<Attached> {
        if !self.pins.is_enabled() {
            return None;
        }
        let present = link.xdp?;
        let by = match self.earlier_link(link, present) {
            Some(descriptor) => By::Link(descriptor),
            None => By::Dispatcher(dispatcher::earlier(&self.pins, link)?),
        };
        Some(Attached {
            mode: present.mode,
            choice: None,
            by,
        })
    }

    fn earlier_link(&self, link: &Link, present: XdpProgram) -> Option<OwnedFd> {
        let descriptor = objects::open(&self.pins.xdp_link(link.index)).ok()?;
        if objects::kind(&descriptor) != Some(objects::Kind::Link) {
            return None;
        }
        let found = objects::link(&descriptor).ok()?;
        let is_here = found.kind == xdp_link::KIND
            && found.interface == link.index.0
            && found.program == present.id;
        is_here.then_some(descriptor)
    }

    /// Pins the link of an interface, unless it is pinned. Without a pin, the program ends with the daemon.
    fn pin(&self, index: IfIndex) {
        let Some(Attached {
            by: By::Link(link), ..
        }) = self.attached.get(&index)
        else {
            return; // the pins of a dispatcher belong to all its programs
        };
        let path = self.pins.xdp_link(index);
        if !self.pins.is_enabled() || xdp_link::is_pinned(&path, link) {
            return;
        }
        let pinned = self
            .pins
            .ensure_writable()
            .and_then(|()| files::remove_if_exists(&path))
            .and_then(|()| Ok(xdp_link::pin(link, &path)?));
        if let Err(error) = pinned {
            debug!("pin {}: {error:#}", path.display());
        }
    }

    /// Pins all links again whose pins were removed or replaced.
    pub(super) fn pin_all_again(&self) {
        for index in self.attached.keys() {
            self.pin(*index);
        }
    }

    /// Detaches the program from the interfaces that `keep` does not cover.
    pub(super) fn retain(&mut self, links: &Links, keep: &impl Fn(IfIndex) -> bool) {
        let by_links = self.pins.pinned_xdp_links().unwrap_or_default();
        let shared = self.pins.pinned_shared_xdp().unwrap_or_default();
        let unwanted: Vec<_> = by_links
            .into_iter()
            .chain(shared)
            .chain(self.attached.keys().copied())
            .filter(|index| !keep(*index))
            .collect();
        for index in unwanted {
            match links.by_index(index) {
                Some(link) => self.detach(link),
                // With its interface, the program is gone.
                None => self.forget(index),
            }
        }
        self.refused.retain(|index, _| keep(*index));
        self.lossy.retain(|index, _| keep(*index));
    }

    /// Forgets why the program is not attached to an interface.
    pub(super) fn forget_refusal(&mut self, index: IfIndex) {
        self.refused.remove(&index);
    }

    /// Detaches the program: a link ends with its last pin and descriptor, and a dispatcher is left.
    fn detach(&mut self, link: &Link) {
        if let Err(error) = dispatcher::leave(&self.pins, link) {
            warn!("leave the XDP dispatcher at {}: {error:#}", link.name);
        }
        self.forget(link.index);
    }

    /// Removes the pins of an interface's program, and closes its link.
    fn forget(&mut self, index: IfIndex) {
        for pin in [self.pins.xdp_link(index), self.pins.shared_xdp(index)] {
            if self.pins.is_enabled()
                && let Err(error) = files::remove_if_exists(&pin)
            {
                debug!("{error:#}");
            }
        }
        self.attached.remove(&index);
    }

    /// Whether an interface has lost the program, or a failed attempt is due again: the kernel sends no event when a
    /// foreign program with a link goes.
    pub(super) fn has_lost(&self) -> bool {
        let is_due = |refused: &Refused| {
            matches!(refused.reason, NoXdp::Foreign(_)) && refused.at.elapsed() >= RETRY
        };
        // A change of a dispatcher has an event.
        let is_lost = |(index, attached): (&IfIndex, &Attached)| match &attached.by {
            By::Link(link) => !xdp_link::is_at(link, *index),
            By::Dispatcher(joined) => joined.is_doubtful && joined.since.elapsed() >= SCAN,
        };
        self.refused.values().any(is_due) || self.attached.iter().any(is_lost)
    }
}

/// Whether the program is still attached to an interface. Other owners may have replaced its dispatcher.
fn is_still_at(by: &mut By, pins: &Pins, link: &Link) -> bool {
    match by {
        By::Link(present) => xdp_link::is_at(present, link.index),
        By::Dispatcher(joined) => match link.xdp {
            Some(present) if present.id == joined.dispatcher => {
                joined.is_doubtful = false;
                true
            }
            Some(present) if dispatcher::runs(pins, link, joined.program) => {
                joined.dispatcher = present.id;
                joined.is_doubtful = false;
                true
            }
            // The scan may be older than the dispatcher.
            _ => {
                joined.is_doubtful = true;
                joined.since.elapsed() < SCAN
            }
        },
    }
}

fn refused(error: &io::Error) -> NoXdp {
    match error.raw_os_error() {
        Some(libc::EBUSY | libc::EEXIST) => NoXdp::Foreign("its name is not known".to_owned()),
        Some(libc::EOPNOTSUPP) => NoXdp::Refused("the driver has no XDP".to_owned()),
        _ => NoXdp::Refused(format!("the kernel refuses it: {error}")),
    }
}
