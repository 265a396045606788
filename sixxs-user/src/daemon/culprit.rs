//! Who sent what leaked, and why it leaked.

use std::{
    collections::{HashMap, VecDeque},
    fs,
    net::Ipv6Addr,
    os::unix::fs::MetadataExt as _,
    path::{Path, PathBuf},
};

use sixxs_common::{flow::Flow, layout::NO_UID, treatment::Treatment};
use sixxs_core::{
    alert::Leaks,
    explain::{Cause, Circumstances, Endpoint, Packet, cause, rules},
    routing::{
        Step,
        desired::{Place, leading_rule},
    },
    types::{IfIndex, IfName, Prefix},
};

use super::{report::interface_name, state::State};
use crate::api;

/// Directories looked through for a control group, at most.
const DIRECTORIES: usize = 20_000;

/// Searches for control groups in one go, each of which may take milliseconds.
const SEARCHES: usize = 2;

/// Control groups remembered.
const REMEMBERED: usize = 1024;

/// Where control groups are, by their number.
#[derive(Default)]
pub(super) struct ControlGroups {
    known: HashMap<u64, Option<String>>,
    searches: usize,
}

impl ControlGroups {
    /// New leaks are told: there may be searches again.
    pub(super) fn begin(&mut self) {
        self.searches = 0;
    }

    /// Its path below the root; `None`: it is gone, or was not searched for this time.
    fn path(&mut self, number: u64) -> Option<String> {
        if let Some(known) = self.known.get(&number) {
            return known.clone();
        }
        if self.searches == SEARCHES {
            return None;
        }
        self.searches += 1;
        let mounts = fs::read_to_string("/proc/self/mountinfo").unwrap_or_default();
        let path = mounted(&mounts).and_then(|root| search(&root, number));
        if self.known.len() >= REMEMBERED {
            self.known.clear();
        }
        self.known.insert(number, path.clone());
        path
    }
}

/// Where the file system of control groups (version 2) is mounted as a whole, by `mountinfo`
/// (proc_pid_mountinfo(5)).
fn mounted(mountinfo: &str) -> Option<PathBuf> {
    mountinfo.lines().find_map(|line| {
        let (mount, kind) = line.split_once(" - ")?;
        let mut fields = mount.split(' ').skip(3);
        let (root, point) = (fields.next()?, fields.next()?);
        (kind.starts_with("cgroup2 ") && root == "/").then(|| PathBuf::from(point))
    })
}

/// The directory with this inode number, from the top down.
fn search(root: &Path, number: u64) -> Option<String> {
    let mut waiting = VecDeque::from([root.to_owned()]);
    let mut looked = 0;
    while let Some(directory) = waiting.pop_front() {
        looked += 1;
        if looked > DIRECTORIES {
            return None;
        }
        if fs::metadata(&directory).is_ok_and(|found| found.ino() == number) {
            let below = directory.strip_prefix(root).ok()?;
            return Some(format!("/{}", below.to_str()?));
        }
        let entries = fs::read_dir(&directory).into_iter().flatten().flatten();
        let directories = entries.filter(|entry| entry.file_type().is_ok_and(|kind| kind.is_dir()));
        waiting.extend(directories.map(|entry| entry.path()));
    }
    None
}

/// Who sent it, as far as its control group tells.
pub(super) fn sender(groups: &mut ControlGroups, leak: &mut api::Leak) {
    let Some(path) = leak.cgroup.and_then(|number| groups.path(number)) else {
        return;
    };
    let owner = sixxs_core::culprit::Owner::of(&path);
    leak.unit = owner.unit;
    leak.container = owner.container;
    leak.cgroup_path = Some(path);
}

/// That these are outer packets of the tunnel.
pub(super) fn recursion(tunnel: &IfName, flow: &Flow) -> Cause {
    Cause::Recursion {
        tunnel: tunnel.clone(),
        endpoint: Endpoint {
            address: Ipv6Addr::from(flow.remote.octets()),
            port: flow.remote_port,
        },
    }
}

/// Why a flow leaks; `None` where that is about several, or about a tunnel that is not configured any
/// more.
pub(super) fn why(state: &State, line: &Leaks) -> Option<Cause> {
    let (flow, record) = line.flow.as_ref()?;
    let slots = state.kernel.slots();
    let (name, _) = slots.iter().find(|(_, slot)| **slot == line.tunnel)?;
    let mut tunnels = state.config.tunnels.iter();
    let tunnel = tunnels.find(|tunnel| tunnel.name == *name)?;
    if record.treatment == Treatment::Recursion.raw() {
        return Some(recursion(name, flow));
    }
    let source = Ipv6Addr::from(flow.local.octets());
    let packet = Packet {
        source,
        destination: Ipv6Addr::from(flow.remote.octets()),
        uid: (record.uid != NO_UID).then_some(record.uid),
        mark: Some(record.mark),
        iif: interface_name(record.from_ifindex),
        oif: interface_name(record.bound_ifindex),
    };
    let own = tunnel.sources().filter(|own| own.contains(source));
    let by = own.max_by_key(|own| own.bits())?;
    let rule = leading_rule(&state.config, tunnel, by);
    // What could not be put in place, by the last look.
    let left = |is_it: &dyn Fn(&Step) -> bool| state.plan.steps.iter().any(is_it);
    let lacks_rule = left(&|step| *step == Step::AddRule(rule));
    let lacks_route = left(&|step| match step {
        Step::AddRoute(route) | Step::ReplaceRoute(route) => {
            let Place {
                table: of,
                destination,
                ..
            } = route.place;
            of == rule.table && destination == Prefix::ALL
        }
        _ => false,
    });
    let before = rules::before(state.netlink.others_rules(), &packet, rule.priority);
    let links = &state.observed.links;
    let leaves_by = links.by_index(IfIndex(record.ifindex));
    let found = cause(&Circumstances {
        tunnel: name.clone(),
        bound_to: packet.oif.clone(),
        forwarded_from: packet.iif.clone(),
        wanted: state.is_wanted(tunnel),
        daemon: Some(true),
        rule,
        rule_in_place: !lacks_rule,
        route_in_place: !lacks_route,
        is_own_address: links.iter().any(|link| link.addresses.contains(&source)),
        without_address: leaves_by
            .filter(|link| link.global_addresses().next().is_none())
            .map(|link| link.name.to_string()),
        before: before.map(|(rule, how)| (rule.clone(), how)),
    });
    // What was missing when it leaked may be there again.
    match found {
        Cause::NotAsked => {
            let recent = state.tamper_log.recent(name, state.started.elapsed());
            Some(recent.map_or(Cause::NotAsked, |by| Cause::PutBack { by }))
        }
        found => Some(found),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_whole_file_system_is_found_wherever_it_is_mounted() {
        let mounts = "\
            30 23 0:26 / /sys/fs/cgroup ro,nosuid - tmpfs tmpfs ro,mode=755\n\
            31 30 0:27 /part /sys/fs/part rw - cgroup2 cgroup2 rw\n\
            32 30 0:27 / /sys/fs/cgroup/unified rw,nosuid shared:9 - cgroup2 cgroup2 rw\n";
        let found = mounted(mounts);
        assert_eq!(found, Some(PathBuf::from("/sys/fs/cgroup/unified")));
        assert_eq!(mounted("nonsense"), None);
    }

    #[test]
    fn a_directory_is_found_by_its_number() {
        let root = tempfile::tempdir().unwrap();
        let deep = root.path().join("system.slice/a.service/sub");
        fs::create_dir_all(&deep).unwrap();
        fs::create_dir(root.path().join("user.slice")).unwrap();
        let number = |path: &Path| fs::metadata(path).unwrap().ino();
        let found = search(root.path(), number(&deep));
        assert_eq!(found.as_deref(), Some("/system.slice/a.service/sub"));
        assert_eq!(
            search(root.path(), number(root.path())).as_deref(),
            Some("/")
        );
        assert_eq!(search(root.path(), u64::MAX), None);
    }
}
