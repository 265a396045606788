//! The attached programs, as the kernel reports them: the daemon's, and foreign ones. Nothing here queries
//! the program under test.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};

use super::fault::{AttachPoint, Port};
use crate::kernel::bpf::{self, Order};
use crate::lab::netns::Namespace;
use crate::lab::topology::UPLINK;

/// The name of the daemon's XDP program.
const XDP: &str = "sixxs_xdp";
/// The handle of the daemon's clsact filters.
const HANDLE: &str = "0x69787873";
/// Most foreign programs at an attach point; a further one replaces the oldest.
const MOST_FOREIGN: usize = 4;
/// Priorities of foreign filters: before the daemon's, if that is missing, and after it.
const BEFORE: u32 = 1;
const AFTER: u32 = 200;

/// How long a foreign XDP program stays.
const XDP_STAYS: Duration = Duration::from_millis(30);

/// The programs of a host.
#[derive(Debug)]
pub struct Programs {
    host: Namespace,
    clsact: bool,
    /// Whether the uplink must have an XDP program.
    xdp: bool,
    pins: PathBuf,
    foreign: BTreeMap<AttachPoint, Vec<Foreign>>,
}

/// A foreign program.
#[derive(Debug)]
enum Foreign {
    /// Attached while this descriptor is open.
    Link(#[expect(dead_code, reason = "held, not used")] OwnedFd),
    /// A filter, identified by its priority.
    Filter(u32),
}

impl Programs {
    /// The programs of a host that are attached by clsact, or else by TCX, and pinned in this directory. `xdp`: the
    /// uplink has an XDP program, too.
    pub fn new(host: &Namespace, clsact: bool, xdp: bool, pins: PathBuf) -> Result<Self> {
        Ok(Self {
            host: host.clone(),
            clsact,
            xdp,
            pins,
            foreign: BTreeMap::new(),
        })
    }

    /// Attach points that do not have exactly one program of the daemon.
    pub fn wrong(&self) -> Result<Vec<String>> {
        let mut wrong = Vec::new();
        for place in AttachPoint::ALL {
            let count = self.ours(place)?;
            if count != 1 {
                wrong.push(format!("{count} programs of ours at {place}"));
            }
        }
        if self.xdp {
            let found = bpf::xdp(&self.host, UPLINK)?.filter(|xdp| xdp.is_native);
            let name = match found {
                Some(found) => bpf::program_name(u32::try_from(found.program)?)?,
                None => None,
            };
            if name.as_deref() != Some(XDP) {
                wrong.push(format!("{name:?} in the driver of {UPLINK}"));
            }
        }
        Ok(wrong)
    }

    /// Detaches the daemon's XDP program by force, if it is attached. Then, if `foreign`, attaches another one for a
    /// moment, unless the daemon is faster.
    pub fn detach_xdp(&self, foreign: bool) -> Result<()> {
        let pins = self.pinned_in("links")?;
        for pin in pins
            .iter()
            .filter(|pin| pin.to_string_lossy().ends_with("-xdp"))
        {
            // The daemon may remove the pin meanwhile.
            let _detached = bpf::detach_pinned(pin);
        }
        if foreign && let Ok(_link) = bpf::attach_xdp(&self.host, UPLINK, true) {
            std::thread::sleep(XDP_STAYS);
        }
        Ok(())
    }

    fn ours(&self, place: AttachPoint) -> Result<usize> {
        let (interface, name) = (place.port.interface(), place.program());
        let links = bpf::tcx_named(&self.host, interface, place.ingress, name)?.len();
        Ok(links + self.our_filters(place)?.len())
    }

    /// Detaches the daemon's program by force, if it is attached.
    pub fn detach(&self, place: AttachPoint) -> Result<()> {
        let interface = place.port.interface();
        for attached in bpf::tcx_named(&self.host, interface, place.ingress, place.program())? {
            bpf::detach(attached.link)?;
        }
        for priority in self.our_filters(place)? {
            let direction = place.direction();
            self.host.sh(&format!(
                "tc filter del dev {interface} {direction} pref {priority} handle {HANDLE} bpf"
            ))?;
        }
        Ok(())
    }

    /// Removes the pin of the link at an attach point, if there is one.
    pub fn delete_link_pin(&self, place: AttachPoint) -> Result<()> {
        let name = self.link_pin(place)?;
        remove(self.pinned()?.iter().filter(|pin| pin.ends_with(&name)))
    }

    fn link_pin(&self, place: AttachPoint) -> Result<String> {
        let interface = place.port.interface();
        let index = self.host.run(|| {
            nix::net::if_::if_nametoindex(interface)
                .with_context(|| format!("find interface {interface}"))
        })?;
        Ok(format!("{index}-{}", place.direction()))
    }

    /// Removes the pin of one map: the index modulo their number.
    pub fn delete_map_pin(&self, number: usize) -> Result<()> {
        let maps = self.pinned_in("maps")?;
        let chosen = maps.get(number.checked_rem(maps.len()).unwrap_or_default());
        remove(chosen.into_iter())
    }

    /// Removes all pins and their directories.
    pub fn delete_pins(&self) -> Result<()> {
        for entry in directories(&self.pins)? {
            // The daemon may have made a new one meanwhile.
            fs::remove_dir_all(&entry).or_else(|e| match e.kind() {
                std::io::ErrorKind::NotFound | std::io::ErrorKind::DirectoryNotEmpty => Ok(()),
                _ => Err(e).with_context(|| format!("remove {}", entry.display())),
            })?;
        }
        Ok(())
    }

    /// The pins of the maps, by name.
    pub fn pinned_maps(&self) -> Result<BTreeSet<String>> {
        let maps = self.pinned_in("maps")?.into_iter();
        Ok(maps
            .filter_map(|pin| Some(pin.file_name()?.to_string_lossy().into_owned()))
            .collect())
    }

    /// Missing pins; `maps` are the names of all maps.
    pub fn unpinned(&self, maps: &BTreeSet<String>) -> Result<Vec<String>> {
        let pinned = self.pinned_maps()?;
        let mut missing: Vec<_> = maps.difference(&pinned).cloned().collect();
        if self.clsact {
            return Ok(missing);
        }
        let links = self.pinned_in("links")?;
        for place in AttachPoint::ALL {
            let name = self.link_pin(place)?;
            if !links.iter().any(|pin| pin.ends_with(&name)) {
                missing.push(format!("the link at {place}"));
            }
        }
        Ok(missing)
    }

    fn pinned_in(&self, directory: &str) -> Result<Vec<PathBuf>> {
        let mut pinned = self.pinned()?;
        pinned.retain(|pin| {
            pin.parent()
                .is_some_and(|parent| parent.ends_with(directory))
        });
        Ok(pinned)
    }

    fn pinned(&self) -> Result<Vec<PathBuf>> {
        let mut found = Vec::new();
        for version in directories(&self.pins)? {
            files(&version, &mut found)?;
        }
        found.sort();
        Ok(found)
    }

    /// Deletes the clsact qdisc of an interface, if it has one, with all its filters.
    pub fn delete_qdisc(&mut self, port: Port) -> Result<()> {
        let interface = port.interface();
        if self.qdiscs(interface)?.contains("clsact") {
            self.host
                .sh(&format!("tc qdisc del dev {interface} clsact"))?;
        }
        for (place, foreign) in &mut self.foreign {
            if place.port == port {
                foreign.retain(|foreign| matches!(foreign, Foreign::Link(_)));
            }
        }
        Ok(())
    }

    /// Forgets the foreign programs of an interface that was deleted.
    pub fn forget(&mut self, port: Port) {
        self.foreign.retain(|place, _| place.port != port);
    }

    /// Attaches a foreign program.
    pub fn attach_foreign(&mut self, place: AttachPoint, first: bool) -> Result<()> {
        let made = if self.clsact {
            self.foreign_filter(place, first)?.map(Foreign::Filter)
        } else {
            let order = if first { Order::First } else { Order::Last };
            let interface = place.port.interface();
            // Load a new one each time: the kernel does not attach a program twice to one hook.
            let program = bpf::load_empty()?;
            let link = bpf::attach(&self.host, &program, interface, place.ingress, order);
            Some(Foreign::Link(link?))
        };
        let at = self.foreign.entry(place).or_default();
        at.extend(made);
        if at.len() > MOST_FOREIGN
            && let Foreign::Filter(priority) = at.remove(0)
        {
            let (interface, direction) = (place.port.interface(), place.direction());
            self.host.sh(&format!(
                "tc filter del dev {interface} {direction} pref {priority}"
            ))?;
        }
        Ok(())
    }

    /// Adds a filter that passes every packet, on the existing qdisc or a new one. Returns its priority;
    /// `None` if that is in use.
    fn foreign_filter(&self, place: AttachPoint, first: bool) -> Result<Option<u32>> {
        let (interface, direction) = (place.port.interface(), place.direction());
        if !self.qdiscs(interface)?.contains("clsact") {
            // The daemon may add it at the same time.
            let added = self
                .host
                .sh(&format!("tc qdisc add dev {interface} clsact"));
            ensure!(
                added.is_ok() || self.qdiscs(interface)?.contains("clsact"),
                "add a qdisc: {added:?}"
            );
        }
        let taken = self.filters(place)?;
        let lowest = if first { BEFORE } else { AFTER };
        let is_free = |priority: &u32| !taken.iter().any(|filter| filter.priority == *priority);
        let Some(priority) = (lowest..lowest + 10).find(is_free) else {
            return Ok(None);
        };
        if first && priority != BEFORE {
            return Ok(None);
        }
        let add = format!(
            "tc filter add dev {interface} {direction} pref {priority} matchall action continue"
        );
        Ok(self.host.sh(&add).is_ok().then_some(priority))
    }

    /// Checks that exactly the foreign programs and the daemon's are attached.
    pub fn foreign_is_untouched(&self) -> Result<()> {
        for place in AttachPoint::ALL {
            let interface = place.port.interface();
            let links = bpf::tcx(&self.host, interface, place.ingress)?.len();
            let filters = self.filters(place)?.len();
            let theirs = self.foreign.get(&place).map_or(0, Vec::len);
            let ours = self.ours(place)?;
            ensure!(
                links + filters == theirs + ours,
                "at {place} somebody has {theirs} programs; there are {links} links and {filters} \
                 filters, {ours} of them ours"
            );
        }
        Ok(())
    }

    fn our_filters(&self, place: AttachPoint) -> Result<Vec<u32>> {
        let ours = |filter: &Filter| filter.handle.as_deref() == Some(HANDLE);
        let filters = self.filters(place)?.into_iter().filter(ours);
        Ok(filters.map(|filter| filter.priority).collect())
    }

    fn filters(&self, place: AttachPoint) -> Result<Vec<Filter>> {
        if !self.clsact {
            return Ok(Vec::new());
        }
        let (interface, direction) = (place.port.interface(), place.direction());
        let show = format!("tc filter show dev {interface} {direction}");
        // The command fails if the interface does not exist; then there is no filter.
        let shown = self.host.sh(&show).unwrap_or_default();
        Ok(parse_filters(&shown))
    }

    fn qdiscs(&self, interface: &str) -> Result<String> {
        self.host.sh(&format!("tc qdisc show dev {interface}"))
    }
}

/// One filter of `tc filter show`.
#[derive(Debug, PartialEq, Eq)]
struct Filter {
    priority: u32,
    handle: Option<String>,
}

/// tc prints a line without a handle for each priority, before the lines of its filters.
fn parse_filters(shown: &str) -> Vec<Filter> {
    let lines = shown.lines().filter(|line| line.starts_with("filter "));
    let filters = lines.filter_map(|line| {
        let words: Vec<&str> = line.split_whitespace().collect();
        let value = |name: &str| {
            let at = words.iter().position(|word| *word == name)?;
            words.get(at + 1).copied()
        };
        Some(Filter {
            priority: value("pref")?.parse().ok()?,
            handle: value("handle").map(str::to_owned),
        })
    });
    filters.filter(|filter| filter.handle.is_some()).collect()
}

fn remove<'a>(pins: impl Iterator<Item = &'a PathBuf>) -> Result<()> {
    for pin in pins {
        match fs::remove_file(pin) {
            Err(e) if e.kind() != std::io::ErrorKind::NotFound => {
                return Err(e).with_context(|| format!("remove {}", pin.display()));
            }
            // The daemon may have removed it meanwhile.
            _ => {}
        }
    }
    Ok(())
}

/// The directories in the pin directory; a bpffs also has files that the kernel made.
fn directories(pins: &Path) -> Result<Vec<PathBuf>> {
    let mut found = entries(pins)?;
    found.retain(|path| path.is_dir());
    Ok(found)
}

fn files(directory: &Path, found: &mut Vec<PathBuf>) -> Result<()> {
    for path in entries(directory)? {
        if path.is_dir() {
            files(&path, found)?;
        } else {
            found.push(path);
        }
    }
    Ok(())
}

/// The entries of a directory; empty if it does not exist.
fn entries(directory: &Path) -> Result<Vec<PathBuf>> {
    let entries = match fs::read_dir(directory) {
        Err(e) if e.kind() == std::io::ErrorKind::NotFound => return Ok(Vec::new()),
        entries => entries.with_context(|| format!("list {}", directory.display()))?,
    };
    Ok(entries
        .filter_map(Result::ok)
        .map(|entry| entry.path())
        .collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn filters_are_read() {
        let shown = "filter protocol all pref 1 bpf chain 0 \n\
             filter protocol all pref 1 bpf chain 0 handle 0x69787873 sixxs_egress direct-action id 5\n\
             filter protocol all pref 200 matchall chain 0 \n\
             filter protocol all pref 200 matchall chain 0 handle 0x1 \n  not_in_hw\n\
             \taction order 1: gact action continue\n";
        let filter = |priority, handle: &str| Filter {
            priority,
            handle: Some(handle.to_owned()),
        };
        assert_eq!(
            parse_filters(shown),
            [filter(1, HANDLE), filter(200, "0x1")]
        );
    }
}
