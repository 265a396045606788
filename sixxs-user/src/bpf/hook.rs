//! Attaches by TCX links if the kernel has them (6.6), else as clsact filters.

use std::{collections::BTreeMap, io, path::Path, str::FromStr};

use anyhow::{Context as _, bail};
use aya::programs::{
    LinkOrder, ProgramError, SchedClassifier,
    links::{FdLink, PinnedLink},
    tc::{SchedClassifierLink, TcAttachOptions},
};
use sixxs_core::{
    link::Links,
    types::{IfIndex, IfName},
};
use tracing::{debug, warn};

use super::{
    AttachPoint, Pins, clsact, program_id,
    tcx::{self, attach_type},
};
use crate::{
    host::files,
    netlink::{Netlink, name_to_index, tc::Direction},
};

/// Number of descriptors to hold for each link.
const DESCRIPTORS: usize = 2;

/// How a program is attached.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Hook {
    /// A TCX link, pinned.
    Tcx,
    /// A filter on the clsact qdisc.
    Clsact,
}

impl Hook {
    /// Its name in JSON.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Tcx => "tcx",
            Self::Clsact => "clsact",
        }
    }
}

/// Which hook to use.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum HookChoice {
    /// TCX; clsact if the kernel refuses TCX.
    #[default]
    Auto,
    /// Only this one.
    Only(Hook),
}

impl FromStr for HookChoice {
    type Err = anyhow::Error;

    fn from_str(text: &str) -> anyhow::Result<Self> {
        match text {
            "auto" => Ok(Self::Auto),
            "tcx" => Ok(Self::Only(Hook::Tcx)),
            "clsact" => Ok(Self::Only(Hook::Clsact)),
            _ => bail!("expected auto, tcx or clsact"),
        }
    }
}

/// A program that is attached.
struct Attached {
    /// Its ID.
    program: u32,
    by: Attachment,
}

/// How a program is attached, and what keeps it so.
enum Attachment {
    /// Descriptors of the link, so that it stays attached if its pin is removed. There are several, since
    /// aya drops the one that could not be pinned.
    Tcx(Vec<FdLink>),
    Clsact,
}

impl Attachment {
    const fn hook(&self) -> Hook {
        match self {
            Self::Tcx(_) => Hook::Tcx,
            Self::Clsact => Hook::Clsact,
        }
    }
}

/// The state of a program before [`Attachments::ensure`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum AttachState {
    /// It was attached.
    InPlace,
    /// It was not attached, and this run had not attached it.
    Missing,
    /// This run had attached it, and other software has detached it.
    Detached,
}

/// The programs that are attached.
pub(super) struct Attachments {
    pins: Pins,
    choice: HookChoice,
    attached: BTreeMap<AttachPoint, Attached>,
    /// Whether filters of earlier runs were already searched for and removed.
    has_swept: bool,
}

impl Attachments {
    pub(super) const fn new(pins: Pins, choice: HookChoice) -> Self {
        Self {
            pins,
            choice,
            attached: BTreeMap::new(),
            has_swept: false,
        }
    }

    pub(super) fn hook(&self, index: IfIndex, direction: Direction) -> Option<Hook> {
        self.attached
            .get(&AttachPoint { index, direction })
            .map(|attached| attached.by.hook())
    }

    /// Attaches the program, unless it is attached. An earlier program of sixxs is replaced.
    /// `by_filter`: prefer a filter, if no link is attached here and the user chose no hook.
    pub(super) async fn ensure(
        &mut self,
        program: &mut SchedClassifier,
        name: &IfName,
        point: AttachPoint,
        by_filter: bool,
        netlink: &Netlink,
    ) -> anyhow::Result<AttachState> {
        // aya attaches by name. If the name belongs to another interface by now, the next round attaches there.
        if name_to_index(name.as_str())? != point.index.0 {
            bail!("the interface was created again meanwhile");
        }
        if self.is_in_place(program, point, netlink).await? {
            // Even if pinning fails, the program is attached.
            self.pin_again(point)?;
            return Ok(AttachState::InPlace);
        }
        let id = program_id(program)?;
        let state = match self.attached.remove(&point) {
            Some(before) if before.program == id => AttachState::Detached,
            // The interface needs another program now.
            Some(_) | None => AttachState::Missing,
        };
        let by = self
            .attach(program, name, point, by_filter, netlink)
            .await?;
        let hook = by.hook();
        self.attached.insert(point, Attached { program: id, by });
        // After a change of hook: the program at the other hook would count every packet twice.
        match hook {
            Hook::Tcx => clsact::remove_filter(netlink, point).await?,
            Hook::Clsact => self.pins.remove_link(point)?,
        }
        Ok(state)
    }

    /// Whether the program is still attached where this run attached it.
    async fn is_in_place(
        &self,
        program: &SchedClassifier,
        point: AttachPoint,
        netlink: &Netlink,
    ) -> anyhow::Result<bool> {
        match self.attached.get(&point).map(|attached| &attached.by) {
            Some(Attachment::Tcx(_)) => tcx::has(program, point.index, point.direction),
            Some(Attachment::Clsact) => clsact::has(program, point, netlink).await,
            None => Ok(false),
        }
    }

    /// Attaches the program at the hook that the user chose, or that suits best.
    async fn attach(
        &self,
        program: &mut SchedClassifier,
        name: &IfName,
        point: AttachPoint,
        by_filter: bool,
        netlink: &Netlink,
    ) -> anyhow::Result<Attachment> {
        match self.choice {
            HookChoice::Only(Hook::Tcx) => return self.attach_tcx(program, name, point),
            HookChoice::Only(Hook::Clsact) => {}
            HookChoice::Auto => {
                // An existing link stays: to detach a link costs as much as to make one.
                let link = self.pins.link(point);
                if !by_filter || tcx::is_attached_here(&link, point.index, point.direction) {
                    match self.attach_tcx(program, name, point) {
                        // Kernels before 6.6 have no TCX.
                        Err(error) if is_einval(&error) => {}
                        outcome => return outcome,
                    }
                }
            }
        }
        clsact::attach(&self.pins, program, name, point, netlink).await?;
        Ok(Attachment::Clsact)
    }

    /// Pins all links again whose pins were removed.
    pub(super) fn pin_all_again(&mut self) {
        let points: Vec<_> = self.attached.keys().copied().collect();
        for point in points {
            if let Err(error) = self.pin_again(point) {
                debug!("{error:#}");
            }
        }
    }

    /// Pins a link again if its pin was removed.
    fn pin_again(&mut self, point: AttachPoint) -> anyhow::Result<()> {
        let path = self.pins.link(point);
        let attached = self.attached.get_mut(&point);
        let Some(Attachment::Tcx(descriptors)) = attached.map(|attached| &mut attached.by) else {
            return Ok(());
        };
        // With only one descriptor the link was never pinned, so the object at its path is foreign.
        let is_pinned = path.exists() && descriptors.len() > 1;
        if !self.pins.is_enabled() || is_pinned {
            return Ok(());
        }
        // aya drops a link that it fails to pin, so check first that it can.
        self.pins.ensure_writable()?;
        files::remove_if_exists(&path)?;
        let link = descriptors
            .pop()
            .context("the link has no descriptor left")?;
        let pinned = link.pin(&path).context("pin the link again")?;
        descriptors.push(pinned.into());
        refill(descriptors, &path);
        Ok(())
    }

    /// Pins links again if another object is pinned in their place; returns the corrections, as messages.
    pub(super) fn restore_pins(&mut self) -> anyhow::Result<Vec<String>> {
        if !self.pins.is_enabled() {
            return Ok(Vec::new());
        }
        let mut removed = Vec::new();
        for (point, attached) in &self.attached {
            let Attachment::Tcx(descriptors) = &attached.by else {
                continue;
            };
            let path = self.pins.link(*point);
            let link = descriptors
                .first()
                .context("the link has no descriptor left")?;
            let own = link.info().context("query a link's ID")?.id();
            let found = tcx::pinned(&path).ok().flatten();
            if path.exists() && found.is_none_or(|found| found.id != own) {
                files::remove_if_exists(&path)?;
                removed.push((*point, path));
            }
        }
        let mut messages = Vec::new();
        for (point, path) in removed {
            self.pin_again(point)?;
            messages.push(format!(
                "pin {} again, where another object was",
                path.display()
            ));
        }
        Ok(messages)
    }

    /// Attaches the program by TCX: in the place of an earlier one of sixxs, if there is one.
    fn attach_tcx(
        &self,
        program: &mut SchedClassifier,
        name: &IfName,
        point: AttachPoint,
    ) -> anyhow::Result<Attachment> {
        match self.replace_in_place(program, point)? {
            Some(replaced) => Ok(replaced),
            None => self.attach_new(program, name, point),
        }
    }

    /// Puts the program into the pinned link, in one step and without a gap. `None`: there is no such link, or it
    /// does not accept the program.
    fn replace_in_place(
        &self,
        program: &mut SchedClassifier,
        point: AttachPoint,
    ) -> anyhow::Result<Option<Attachment>> {
        let path = self.pins.link(point);
        if !tcx::is_attached_here(&path, point.index, point.direction) {
            return Ok(None);
        }
        let Ok(pinned) = PinnedLink::from_pin(&path) else {
            return Ok(None);
        };
        let link = SchedClassifierLink::try_from(FdLink::from(pinned))?;
        let Ok(id) = program.attach_to_link(link) else {
            return Ok(None);
        };
        let replaced = program.take_link(id)?.try_into()?;
        Ok(Some(tcx_link(replaced, &path)))
    }

    /// Attaches the program by a new link, and pins the link.
    fn attach_new(
        &self,
        program: &mut SchedClassifier,
        name: &IfName,
        point: AttachPoint,
    ) -> anyhow::Result<Attachment> {
        let AttachPoint { index, direction } = point;
        let path = self.pins.link(point);
        // The directory may be removed or read-only now. Then attach the program, and pin the link later.
        let can_pin = self.pins.is_enabled() && self.pins.ensure_writable().is_ok();
        if can_pin {
            // A link of a deleted interface whose index is in use again, or another object.
            self.pins.remove_link(point)?;
        }
        let link = attach_first(program, name, direction)?;
        // To attach takes milliseconds; the directory may be removed meanwhile.
        if can_pin && self.pins.ensure_writable().is_ok() {
            match link.pin(&path) {
                Ok(pinned) => return Ok(tcx_link(pinned.into(), &path)),
                // aya dropped the link, so the program is attached again below.
                Err(error) => debug!("pin the link at {name}: {error}"),
            }
            return Ok(Attachment::Tcx(vec![attach_first(
                program, name, direction,
            )?]));
        }
        if let Err(error) = tcx::detach_earlier(program, name, index, direction) {
            warn!(
                "a program of an earlier run stays at {name} {}, behind this one: {error:#}",
                direction.name()
            );
        }
        Ok(Attachment::Tcx(vec![link]))
    }

    /// Whether a TCX hook of an existing interface has lost the program of sixxs. The kernel sends no event for
    /// that.
    pub(super) fn has_lost(&self) -> bool {
        let is_lost = |point: &AttachPoint, program: u32| {
            // An error means that the interface is gone; the kernel sends an event for that.
            tcx::attached(point.index, point.direction)
                .is_ok_and(|attached| attached.iter().all(|found| found.program != program))
        };
        let mut attached = self.attached.iter();
        attached.any(|(point, attached)| match attached.by {
            Attachment::Tcx(_) => is_lost(point, attached.program),
            Attachment::Clsact => false,
        })
    }

    /// Detaches everything that `keep` does not cover; returns errors as messages.
    pub(super) async fn retain(
        &mut self,
        keep: &impl Fn(AttachPoint) -> bool,
        links: &Links,
        netlink: &Netlink,
    ) -> Vec<String> {
        let mut problems = self.remove_pins(keep);
        problems.extend(self.detach(keep, netlink).await);
        if !self.has_swept {
            problems.extend(sweep_filters(keep, links, netlink).await);
            self.has_swept = true;
        }
        problems.extend(self.remove_qdiscs(keep, netlink).await);
        problems
    }

    /// Removes the pins of links, also those of earlier runs.
    fn remove_pins(&self, keep: &impl Fn(AttachPoint) -> bool) -> Vec<String> {
        let pinned = match self.pins.pinned_links() {
            Ok(pinned) => pinned,
            Err(error) => return vec![format!("{error:#}")],
        };
        let unwanted = pinned.into_iter().filter(|point| !keep(*point));
        unwanted
            .filter_map(|point| self.pins.remove_link(point).err())
            .map(|error| format!("{error:#}"))
            .collect()
    }

    /// Detaches the programs that this run has attached.
    async fn detach(
        &mut self,
        keep: &impl Fn(AttachPoint) -> bool,
        netlink: &Netlink,
    ) -> Vec<String> {
        let mut problems = Vec::new();
        let attached: Vec<_> = self.attached.keys().copied().collect();
        for point in attached.into_iter().filter(|point| !keep(*point)) {
            match self.attached.remove(&point).map(|attached| attached.by) {
                // Its pin is removed, so the link ends with its last descriptor.
                Some(Attachment::Tcx(_)) | None => {}
                Some(Attachment::Clsact) => {
                    let removed = clsact::remove_filter(netlink, point).await;
                    problems.extend(removed.err().map(|error| format!("{error:#}")));
                }
            }
        }
        problems
    }

    /// Removes the clsact qdiscs of sixxs from interfaces without a program, if nothing else uses them.
    async fn remove_qdiscs(
        &self,
        keep: &impl Fn(AttachPoint) -> bool,
        netlink: &Netlink,
    ) -> Vec<String> {
        let marked = match self.pins.marked_clsact() {
            Ok(marked) => marked,
            Err(error) => return vec![format!("{error:#}")],
        };
        let mut problems = Vec::new();
        for index in marked {
            if points_of(index).into_iter().any(keep) {
                continue;
            }
            let removed = clsact::remove_clsact(&self.pins, netlink, index).await;
            problems.extend(removed.err().map(|error| format!("{error:#}")));
        }
        problems
    }
}

/// Removes the filters of earlier runs. Only the kernel knows them.
async fn sweep_filters(
    keep: &impl Fn(AttachPoint) -> bool,
    links: &Links,
    netlink: &Netlink,
) -> Vec<String> {
    let mut problems = Vec::new();
    let points = links.iter().flat_map(|link| points_of(link.index));
    for point in points.filter(|point| !keep(*point)) {
        let removed = clsact::remove_filter(netlink, point).await;
        problems.extend(removed.err().map(|error| format!("{error:#}")));
    }
    problems
}

/// Both places of an interface where a program can be attached.
fn points_of(index: IfIndex) -> [AttachPoint; 2] {
    Direction::BOTH.map(|direction| AttachPoint { index, direction })
}

fn tcx_link(link: FdLink, pin: &Path) -> Attachment {
    let mut descriptors = vec![link];
    refill(&mut descriptors, pin);
    Attachment::Tcx(descriptors)
}

/// Opens more descriptors of a link from its pin, if the pin exists.
fn refill(descriptors: &mut Vec<FdLink>, pin: &Path) {
    while descriptors.len() < DESCRIPTORS {
        match PinnedLink::from_pin(pin) {
            Ok(pinned) => descriptors.push(pinned.into()),
            Err(_) => return,
        }
    }
}

/// Attaches a program by TCX, ahead of all others.
fn attach_first(
    program: &mut SchedClassifier,
    name: &IfName,
    direction: Direction,
) -> anyhow::Result<FdLink> {
    let id = program.attach_with_options(
        name.as_str(),
        attach_type(direction),
        TcAttachOptions::TcxOrder(LinkOrder::first()),
    )?;
    Ok(program.take_link(id)?.try_into()?)
}

fn is_einval(error: &anyhow::Error) -> bool {
    error.chain().any(|cause| {
        cause
            .downcast_ref::<io::Error>()
            .is_some_and(|error| error.kind() == io::ErrorKind::InvalidInput)
            || matches!(
                cause.downcast_ref::<ProgramError>(),
                Some(ProgramError::SyscallError(error))
                    if error.io_error.kind() == io::ErrorKind::InvalidInput
            )
    })
}
