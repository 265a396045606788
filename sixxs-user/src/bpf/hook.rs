//! Attaches by TCX links if the kernel has them (6.6), else as clsact filters.

use std::{collections::BTreeMap, io, path::Path, str::FromStr};

use anyhow::{Context as _, bail};
use aya::programs::{
    LinkOrder, ProgramError, SchedClassifier,
    links::{FdLink, PinnedLink},
    tc::{self, NlOptions, SchedClassifierLink, TcAttachOptions, TcError, TcHandle},
};
use sixxs_core::{
    link::Links,
    types::{IfIndex, IfName},
};
use tracing::{debug, warn};

use super::{
    Pins, program_id,
    tcx::{self, attach_type},
};
use crate::{
    host::files,
    netlink::{
        Netlink, name_to_index,
        tc::{Direction, Filter},
    },
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

/// Handle that identifies our filters: "ixxs".
pub(super) const HANDLE: u32 = 0x6978_7873;

/// Filter priorities to try: the first one, so that no other filter ends the chain before ours; and another
/// one, in case a filter of another kind uses the first.
const PRIORITIES: [u16; 2] = [1, 116];

type AttachPoint = (IfIndex, Direction);

/// A program that is attached.
enum Attached {
    /// Descriptors of the link, so that it stays attached if its pin is removed. There are several, since
    /// aya drops the one that could not be pinned.
    Tcx(Vec<FdLink>),
    Clsact,
}

impl Attached {
    const fn hook(&self) -> Hook {
        match self {
            Self::Tcx(_) => Hook::Tcx,
            Self::Clsact => Hook::Clsact,
        }
    }
}

/// The state that [`Attachments::ensure`] found.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Found {
    /// Our program is attached.
    InPlace,
    /// Our program is missing, and was not expected.
    Nothing,
    /// Our program is missing, although it had been attached.
    TakenAway,
}

/// The programs that are attached.
pub(super) struct Attachments {
    pins: Pins,
    choice: HookChoice,
    attached: BTreeMap<AttachPoint, Attached>,
    /// Whether filters of earlier runs were already searched for and removed.
    swept: bool,
}

impl Attachments {
    pub(super) const fn new(pins: Pins, choice: HookChoice) -> Self {
        Self {
            pins,
            choice,
            attached: BTreeMap::new(),
            swept: false,
        }
    }

    pub(super) fn hook(&self, index: IfIndex, direction: Direction) -> Option<Hook> {
        self.attached.get(&(index, direction)).map(Attached::hook)
    }

    /// Attaches the program, in place of our earlier one if that is there, or finds that it is attached.
    /// `by_filter`: prefer a filter, if no link is attached here and the user chose no hook.
    pub(super) async fn ensure(
        &mut self,
        program: &mut SchedClassifier,
        name: &IfName,
        (index, direction): AttachPoint,
        by_filter: bool,
        netlink: &Netlink,
    ) -> anyhow::Result<Found> {
        // aya attaches by name. If the name belongs to another interface by now, the next round handles it.
        if name_to_index(name.as_str())? != index.0 {
            bail!("the interface was created again meanwhile");
        }
        let place = (index, direction);
        let still_there = match self.attached.get(&place) {
            Some(Attached::Tcx(_)) => tcx::has(program, index, direction)?,
            Some(Attached::Clsact) => {
                let own = program_id(program)?;
                let filter = our_filter(netlink, index, direction).await?;
                // Other software may have put another program into our filter.
                filter.is_some_and(|filter| filter.program == Some(own))
            }
            None => false,
        };
        if still_there {
            // Even if pinning fails, the program is attached.
            self.pin_again(place)?;
            return Ok(Found::InPlace);
        }
        let found = match self.attached.remove(&place) {
            Some(_) => Found::TakenAway,
            None => Found::Nothing,
        };
        let attached = match self.choice {
            HookChoice::Only(Hook::Tcx) => self.tcx(program, name, place)?,
            HookChoice::Only(Hook::Clsact) => self.clsact(program, name, place, netlink).await?,
            // An existing link stays: to detach a link costs as much as to make one.
            HookChoice::Auto
                if by_filter
                    && !tcx::is_attached_here(
                        &self.pins.link(index, direction),
                        index,
                        direction,
                    ) =>
            {
                self.clsact(program, name, place, netlink).await?
            }
            HookChoice::Auto => match self.tcx(program, name, place) {
                Ok(attached) => attached,
                // Kernels before 6.6 have no TCX: EINVAL.
                Err(error) if is_invalid(&error) => {
                    self.clsact(program, name, place, netlink).await?
                }
                Err(error) => return Err(error),
            },
        };
        let hook = attached.hook();
        self.attached.insert(place, attached);
        // After a change of hook: the program at the other hook would count every packet twice.
        match hook {
            Hook::Tcx => remove_filter(netlink, place).await?,
            Hook::Clsact => self.pins.remove_link(index, direction)?,
        }
        Ok(found)
    }

    /// Pins all links again whose pins were removed.
    pub(super) fn pin_all_again(&mut self) {
        let places: Vec<_> = self.attached.keys().copied().collect();
        for place in places {
            if let Err(error) = self.pin_again(place) {
                debug!("{error:#}");
            }
        }
    }

    /// Pins a link again if its pin was removed.
    fn pin_again(&mut self, place: AttachPoint) -> anyhow::Result<()> {
        let path = self.pins.link(place.0, place.1);
        let Some(Attached::Tcx(handles)) = self.attached.get_mut(&place) else {
            return Ok(());
        };
        // With only one descriptor the link was never pinned, so the object at its path is foreign.
        let is_pinned = path.exists() && handles.len() > 1;
        if !self.pins.are_kept() || is_pinned {
            return Ok(());
        }
        // aya drops a link that it fails to pin, so check first that it can.
        self.pins.ready()?;
        files::file(&path)?;
        let pinned = handles.pop().context("the link has no handle left")?;
        let pinned = pinned.pin(&path).context("pin the link again")?;
        handles.push(pinned.into());
        refill(handles, &path);
        Ok(())
    }

    /// Pins links again if another object is pinned in their place; returns the corrections, as messages.
    pub(super) fn restore_pins(&mut self) -> anyhow::Result<Vec<String>> {
        let mut restored = Vec::new();
        let pinned = self.attached.iter().filter(|_| self.pins.are_kept());
        for (place, attached) in pinned {
            let Attached::Tcx(handles) = attached else {
                continue;
            };
            let path = self.pins.link(place.0, place.1);
            let own = handles.first().context("the link has no handle left")?;
            let own = own.info().context("query a link's number")?.id();
            let found = tcx::pinned(&path).ok().flatten();
            if path.exists() && found.is_none_or(|found| found.number != own) {
                files::file(&path)?;
                restored.push((*place, path));
            }
        }
        let mut told = Vec::new();
        for (place, path) in restored {
            self.pin_again(place)?;
            told.push(format!(
                "pin {} again, where another object was",
                path.display()
            ));
        }
        Ok(told)
    }

    fn tcx(
        &self,
        program: &mut SchedClassifier,
        name: &IfName,
        (index, direction): AttachPoint,
    ) -> anyhow::Result<Attached> {
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
        let can_pin = self.pins.are_kept() && self.pins.ready().is_ok();
        if can_pin {
            // A link of a deleted interface whose index is in use again, or another object.
            self.pins.remove_link(index, direction)?;
        }
        let link = attach_first(program, name, direction)?;
        // To attach takes milliseconds; the directory may be removed meanwhile.
        if can_pin && self.pins.ready().is_ok() {
            match link.pin(&path) {
                Ok(pinned) => return Ok(tcx_link(pinned.into(), &path)),
                // aya dropped the link, so the program is attached again below.
                Err(error) => debug!("pin the link at {name}: {error}"),
            }
            return Ok(Attached::Tcx(vec![attach_first(program, name, direction)?]));
        }
        if let Err(error) = tcx::detach_former(program, name, index, direction) {
            warn!(
                "a program of an earlier run stays at {name} {}, behind this one: {error:#}",
                direction.name()
            );
        }
        Ok(Attached::Tcx(vec![link]))
    }

    async fn clsact(
        &self,
        program: &mut SchedClassifier,
        name: &IfName,
        (index, direction): AttachPoint,
        netlink: &Netlink,
    ) -> anyhow::Result<Attached> {
        let ours = our_filter(netlink, index, direction).await?;
        // The kernel lists the qdiscs of all interfaces, even if the request names one. Our filter implies the
        // qdisc, so skip the request then.
        if ours.is_none() && !netlink.has_clsact(index).await? {
            // Mark it before it exists: if the daemon dies in between, an unmarked qdisc would stay forever.
            self.pins.mark_clsact(index)?;
            match tc::qdisc_add_clsact(name.as_str()) {
                Ok(()) => {}
                Err(error) => {
                    self.pins.unmark_clsact(index);
                    if !is_there_already(&error) {
                        return Err(error).context("add the clsact qdisc");
                    }
                }
            }
        }
        if let Some(ours) = ours {
            let link = filter(name, direction, ours.priority)?;
            let id = program
                .attach_to_link(link)
                .context("replace our clsact filter")?;
            // Dropping the link would detach it; the filter has to outlive the daemon.
            std::mem::forget(program.take_link(id)?);
        } else {
            let mut tried = None;
            for priority in PRIORITIES {
                let options = NlOptions {
                    priority,
                    handle: TcHandle::from(HANDLE),
                    classid: None,
                };
                let options = TcAttachOptions::Netlink(options);
                match program.attach_with_options(name.as_str(), attach_type(direction), options) {
                    Ok(id) => {
                        std::mem::forget(program.take_link(id)?);
                        tried = None;
                        break;
                    }
                    Err(error) => tried = Some(error),
                }
            }
            if let Some(error) = tried {
                return Err(error).context("add a clsact filter");
            }
        }
        Ok(Attached::Clsact)
    }

    /// Whether a TCX hook of an existing interface has lost our program. The kernel sends no event for that.
    /// `own` returns the program's ID.
    pub(super) fn has_lost(&self, own: impl Fn(Direction) -> u32) -> bool {
        let by_link = self.attached.iter();
        let by_link = by_link.filter(|(_, attached)| matches!(attached, Attached::Tcx(_)));
        by_link.map(|(place, _)| place).any(|(index, direction)| {
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
        let doomed = |(index, direction): &AttachPoint| !keep(*index, *direction);
        let pinned = match self.pins.pinned_links() {
            Ok(pinned) => pinned,
            Err(error) => {
                problems.push(format!("{error:#}"));
                Vec::new()
            }
        };
        for (index, direction) in pinned.into_iter().filter(doomed) {
            if let Err(error) = self.pins.remove_link(index, direction) {
                problems.push(format!("{error:#}"));
            }
        }
        let mut places: Vec<_> = self.attached.keys().copied().filter(doomed).collect();
        if !self.swept {
            // Only the kernel knows the filters of earlier runs.
            let all = links
                .iter()
                .flat_map(|l| Direction::BOTH.map(|d| (l.index, d)));
            places.extend(all.filter(doomed));
            self.swept = true;
        }
        for place in places {
            if !matches!(self.attached.remove(&place), Some(Attached::Tcx(_)))
                && let Err(error) = remove_filter(netlink, place).await
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
                        && let Err(error) = remove_clsact(&self.pins, netlink, index).await
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

fn tcx_link(link: FdLink, pin: &Path) -> Attached {
    let mut handles = vec![link];
    refill(&mut handles, pin);
    Attached::Tcx(handles)
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

/// Our filter, if it exists.
pub(super) async fn our_filter(
    netlink: &Netlink,
    index: IfIndex,
    direction: Direction,
) -> anyhow::Result<Option<Filter>> {
    let filters = netlink.filters(index, direction).await?;
    Ok(filters
        .into_iter()
        .find(|filter| filter.kind == "bpf" && filter.handle == HANDLE))
}

fn filter(
    name: &IfName,
    direction: Direction,
    priority: u16,
) -> anyhow::Result<SchedClassifierLink> {
    SchedClassifierLink::attached(
        name.as_str(),
        attach_type(direction),
        priority,
        TcHandle::from(HANDLE),
        None,
    )
    .with_context(|| format!("look up interface {name}"))
}

/// Removes our filter from an interface, if both exist.
pub(super) async fn remove_filter(
    netlink: &Netlink,
    (index, direction): AttachPoint,
) -> anyhow::Result<()> {
    let Some(name) = crate::netlink::index_to_name(index) else {
        return Ok(());
    };
    if let Some(ours) = our_filter(netlink, index, direction).await? {
        use aya::programs::Link as _;
        filter(&name, direction, ours.priority)?
            .detach()
            .with_context(|| format!("remove our filter from {name} {}", direction.name()))?;
    }
    Ok(())
}

/// Removes the clsact qdisc of an interface if it is ours and has no filters left.
pub(super) async fn remove_clsact(
    pins: &Pins,
    netlink: &Netlink,
    index: IfIndex,
) -> anyhow::Result<()> {
    if crate::netlink::index_to_name(index).is_some() {
        for direction in Direction::BOTH {
            if !netlink.filters(index, direction).await?.is_empty() {
                return Ok(());
            }
        }
        if pins.unmark_clsact(index) && netlink.has_clsact(index).await? {
            netlink.delete_clsact(index).await?;
        }
    } else {
        pins.unmark_clsact(index);
    }
    Ok(())
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

fn is_there_already(error: &TcError) -> bool {
    let mut cause: Option<&dyn std::error::Error> = Some(error);
    while let Some(error) = cause {
        if error
            .downcast_ref::<io::Error>()
            .is_some_and(|error| error.kind() == io::ErrorKind::AlreadyExists)
        {
            return true;
        }
        cause = error.source();
    }
    matches!(error, TcError::AlreadyAttached)
}
