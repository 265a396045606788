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
    AttachPoint, Pins, clsact,
    tcx::{self, attach_type},
};
use crate::{
    host::files,
    netlink::{Netlink, name_to_index, tc::Direction},
};

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
    attached: BTreeMap<AttachPoint, Attachment>,
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
        self.attached.get(&(index, direction)).map(Attachment::hook)
    }

    /// Attaches the program, unless it is attached. An earlier program of sixxs is replaced.
    /// `by_filter`: prefer a filter, if no link is attached here and the user chose no hook.
    pub(super) async fn ensure(
        &mut self,
        program: &mut SchedClassifier,
        name: &IfName,
        (index, direction): AttachPoint,
        by_filter: bool,
        netlink: &Netlink,
    ) -> anyhow::Result<AttachState> {
        // aya attaches by name. If the name belongs to another interface by now, the next round handles it.
        if name_to_index(name.as_str())? != index.0 {
            bail!("the interface was created again meanwhile");
        }
        let point = (index, direction);
        if self.is_in_place(program, point, netlink).await? {
            // Even if pinning fails, the program is attached.
            self.pin_again(point)?;
            return Ok(AttachState::InPlace);
        }
        let found = match self.attached.remove(&point) {
            Some(_) => AttachState::Detached,
            None => AttachState::Missing,
        };
        let attached = self
            .attach(program, name, point, by_filter, netlink)
            .await?;
        let hook = attached.hook();
        self.attached.insert(point, attached);
        // After a change of hook: the program at the other hook would count every packet twice.
        match hook {
            Hook::Tcx => clsact::remove_filter(netlink, point).await?,
            Hook::Clsact => self.pins.remove_link(index, direction)?,
        }
        Ok(found)
    }

    /// Whether the program is still attached where this run attached it.
    async fn is_in_place(
        &self,
        program: &SchedClassifier,
        point: AttachPoint,
        netlink: &Netlink,
    ) -> anyhow::Result<bool> {
        match self.attached.get(&point) {
            Some(Attachment::Tcx(_)) => tcx::has(program, point.0, point.1),
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
            HookChoice::Only(Hook::Tcx) => return self.tcx(program, name, point),
            HookChoice::Only(Hook::Clsact) => {}
            HookChoice::Auto => {
                // An existing link stays: to detach a link costs as much as to make one.
                let (index, direction) = point;
                let link = self.pins.link(index, direction);
                if !by_filter || tcx::is_attached_here(&link, index, direction) {
                    match self.tcx(program, name, point) {
                        // Kernels before 6.6 have no TCX: EINVAL.
                        Err(error) if is_invalid(&error) => {}
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
        let path = self.pins.link(point.0, point.1);
        let Some(Attachment::Tcx(handles)) = self.attached.get_mut(&point) else {
            return Ok(());
        };
        // With only one descriptor the link was never pinned, so the object at its path is foreign.
        let is_pinned = path.exists() && handles.len() > 1;
        if !self.pins.is_enabled() || is_pinned {
            return Ok(());
        }
        // aya drops a link that it fails to pin, so check first that it can.
        self.pins.ensure_writable()?;
        files::remove_if_exists(&path)?;
        let pinned = handles.pop().context("the link has no handle left")?;
        let pinned = pinned.pin(&path).context("pin the link again")?;
        handles.push(pinned.into());
        refill(handles, &path);
        Ok(())
    }

    /// Pins links again if another object is pinned in their place; returns the corrections, as messages.
    pub(super) fn restore_pins(&mut self) -> anyhow::Result<Vec<String>> {
        let mut restored = Vec::new();
        let pinned = self.attached.iter().filter(|_| self.pins.is_enabled());
        for (point, attached) in pinned {
            let Attachment::Tcx(handles) = attached else {
                continue;
            };
            let path = self.pins.link(point.0, point.1);
            let own = handles.first().context("the link has no handle left")?;
            let own = own.info().context("query a link's ID")?.id();
            let found = tcx::pinned(&path).ok().flatten();
            if path.exists() && found.is_none_or(|found| found.id != own) {
                files::remove_if_exists(&path)?;
                restored.push((*point, path));
            }
        }
        let mut messages = Vec::new();
        for (point, path) in restored {
            self.pin_again(point)?;
            messages.push(format!(
                "pin {} again, where another object was",
                path.display()
            ));
        }
        Ok(messages)
    }

    fn tcx(
        &self,
        program: &mut SchedClassifier,
        name: &IfName,
        (index, direction): AttachPoint,
    ) -> anyhow::Result<Attachment> {
        let path = self.pins.link(index, direction);
        if tcx::is_attached_here(&path, index, direction)
            && let Ok(pinned) = PinnedLink::from_pin(&path)
        {
            let link = SchedClassifierLink::try_from(FdLink::from(pinned))?;
            // The link's program is replaced in one step, without a gap.
            if let Ok(id) = program.attach_to_link(link) {
                return Ok(tcx_link(program.take_link(id)?.try_into()?, &path));
            }
        }
        // The directory may be removed or read-only now. Then attach the program, and pin the link later.
        let can_pin = self.pins.is_enabled() && self.pins.ensure_writable().is_ok();
        if can_pin {
            // A link of a deleted interface whose index is in use again, or another object.
            self.pins.remove_link(index, direction)?;
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
    /// that. `own` returns the program's ID.
    pub(super) fn has_lost(&self, own: impl Fn(Direction) -> u32) -> bool {
        let by_link = self.attached.iter();
        let by_link = by_link.filter(|(_, attached)| matches!(attached, Attachment::Tcx(_)));
        by_link.map(|(point, _)| point).any(|(index, direction)| {
            // An error means that the interface is gone; the kernel sends an event for that.
            let attached = tcx::attached(*index, *direction);
            let own = own(*direction);
            attached.is_ok_and(|attached| attached.iter().all(|found| found.program != own))
        })
    }

    /// Detaches everything that `keep` does not cover; returns errors as messages.
    pub(super) async fn retain(
        &mut self,
        keep: impl Fn(IfIndex, Direction) -> bool,
        links: &Links,
        netlink: &Netlink,
    ) -> Vec<String> {
        let mut problems = Vec::new();
        let is_unwanted = |(index, direction): &AttachPoint| !keep(*index, *direction);
        let pinned = match self.pins.pinned_links() {
            Ok(pinned) => pinned,
            Err(error) => {
                problems.push(format!("{error:#}"));
                Vec::new()
            }
        };
        for (index, direction) in pinned.into_iter().filter(is_unwanted) {
            if let Err(error) = self.pins.remove_link(index, direction) {
                problems.push(format!("{error:#}"));
            }
        }
        let mut points: Vec<_> = self.attached.keys().copied().filter(is_unwanted).collect();
        if !self.has_swept {
            // Only the kernel knows the filters of earlier runs.
            let all = links
                .iter()
                .flat_map(|l| Direction::BOTH.map(|d| (l.index, d)));
            points.extend(all.filter(is_unwanted));
            self.has_swept = true;
        }
        for point in points {
            if !matches!(self.attached.remove(&point), Some(Attachment::Tcx(_)))
                && let Err(error) = clsact::remove_filter(netlink, point).await
            {
                problems.push(format!("{error:#}"));
            }
        }
        match self.pins.marked_clsact() {
            Ok(marked) => {
                for index in marked {
                    if Direction::BOTH
                        .iter()
                        .all(|direction| !keep(index, *direction))
                        && let Err(error) = clsact::remove_clsact(&self.pins, netlink, index).await
                    {
                        problems.push(format!("{error:#}"));
                    }
                }
            }
            Err(error) => problems.push(format!("{error:#}")),
        }
        problems
    }
}

/// Number of descriptors to hold for each link.
const HANDLES: usize = 2;

fn tcx_link(link: FdLink, pin: &Path) -> Attachment {
    let mut handles = vec![link];
    refill(&mut handles, pin);
    Attachment::Tcx(handles)
}

/// Opens more descriptors of a link from its pin, if the pin exists.
fn refill(handles: &mut Vec<FdLink>, pin: &Path) {
    while handles.len() < HANDLES {
        match PinnedLink::from_pin(pin) {
            Ok(pinned) => handles.push(pinned.into()),
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

fn is_invalid(error: &anyhow::Error) -> bool {
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
