//! Facts about the kernel, and about the directory for pins.

use std::path::Path;

use sixxs_core::{
    config::{self, CarrierChoice, Config, RuleMode, XdpChoice},
    doctor::host::{Host, Pins, Refused},
    routing::{
        Plan, Step, UNREACHABLE_METRIC,
        desired::RouteKey,
        plan::{Route, RouteTarget},
    },
    types::{IfName, Prefix, TableId},
};

use super::read;
use crate::{
    bpf::{self, SeenPins},
    control::api::{Carrier, Kind, Status},
    host::kernel_support,
    host::paths::Paths,
    netlink::{Netlink, wireguard::device::DeviceSocket},
};

/// The bit of `CAP_SYS_ADMIN` (`linux/capability.h`).
const CAP_SYS_ADMIN: u32 = 21;

/// Facts about the kernel. Its rules are unknown: [`super::gather`] tries to list them.
pub(super) fn host(paths: &Paths, config: Option<&Config>, status: Option<&Status>) -> Host {
    let needs_subtrees = config.is_some_and(|config| config.rule_mode == RuleMode::Subtrees);
    let needs = |is_needed: fn(&config::Kind) -> bool| {
        let tunnels = config.iter().flat_map(|config| &config.tunnels);
        tunnels.map(|tunnel| &tunnel.kind).any(is_needed)
    };
    let needs_wireguard = needs(|kind| matches!(kind, config::Kind::WireGuard(_)));
    let needs_tun = needs(|kind| kind.is_native() && !matches!(kind, config::Kind::WireGuard(_)));
    Host {
        release: kernel_support::release(),
        ipv6: kernel_support::has_ipv6(),
        rules: None,
        subtrees: needs_subtrees.then(try_subtrees),
        programs: bpf::is_supported(),
        bpffs: read("/proc/filesystems")
            .lines()
            .any(|line| line.ends_with("\tbpf")),
        pins: pins(&paths.pin_dir, status.is_some()),
        tun: needs_tun.then(|| Path::new("/dev/net/tun").exists()),
        wireguard: needs_wireguard.then(has_wireguard),
        carried_by_daemon: match (config, status) {
            (Some(config), Some(status)) => carried_by_daemon(config, status),
            _ => Vec::new(),
        },
        without_xdp: match (config, status) {
            (Some(config), Some(status)) => without_xdp(config, status),
            _ => Vec::new(),
        },
    }
}

/// Whether the kernel has WireGuard, perhaps as a module.
fn has_wireguard() -> bool {
    DeviceSocket::open().is_ok_and(|socket| socket.is_supported())
}

/// The directory for pins.
fn pins(pin_dir: &Path, has_daemon: bool) -> Pins {
    let SeenPins {
        mounted,
        mount_point,
        left,
        refused,
        strange,
    } = bpf::seen_pins(pin_dir);
    let mut pins = Pins {
        directory: pin_dir.display().to_string(),
        mount_point: mount_point.display().to_string(),
        mounted,
        mountable: can_mount(),
        ..Pins::default()
    };
    if !has_daemon {
        // A running daemon has taken them over.
        pins.left = left;
    }
    if is_privileged() {
        // For an ordinary user the check shows nothing about root.
        pins.refused = refused.map(|(why, read_only)| Refused {
            why,
            read_only: read_only.map(|mount| mount.display().to_string()),
        });
        let strange = strange.iter().map(|path| path.display().to_string());
        pins.strange = strange.collect();
    }
    pins
}

/// The 6in4 tunnels that the daemon carries, although the configuration does not demand it.
fn carried_by_daemon(config: &Config, status: &Status) -> Vec<String> {
    let demands_it = |name: &str| {
        let mut tunnels = config.tunnels.iter();
        tunnels.any(|tunnel| tunnel.name.as_str() == name && tunnel.carrier == CarrierChoice::Tun)
    };
    let tunnels = status.tunnels.iter().filter(|tunnel| {
        let is_six_in_four = matches!(tunnel.kind, Kind::SixInFour | Kind::SixInFourHeartbeat);
        is_six_in_four && tunnel.carrier == Some(Carrier::Tun) && !demands_it(&tunnel.name)
    });
    tunnels.map(|tunnel| tunnel.name.clone()).collect()
}

/// The uplinks without the XDP program, and the reasons, unless the configuration turns it off.
fn without_xdp(config: &Config, status: &Status) -> Vec<(String, String)> {
    let is_off = |name: &str| {
        let name = name.parse::<IfName>();
        name.is_ok_and(|name| config.xdp.of(&name) == XdpChoice::Off)
    };
    let uplinks = status.uplinks.iter().filter(|uplink| !is_off(&uplink.name));
    uplinks
        .filter_map(|uplink| Some((uplink.name.clone(), uplink.xdp.clone()?.reason?)))
        .collect()
}

/// Whether this process could mount a file system; `None` for an ordinary user.
fn can_mount() -> Option<bool> {
    is_privileged().then(has_sys_admin)
}

/// Whether this process may do what an ordinary user may not. Root in a container may lack `CAP_SYS_ADMIN`.
fn is_privileged() -> bool {
    has_sys_admin() || nix::unistd::geteuid().is_root()
}

fn has_sys_admin() -> bool {
    let status = read("/proc/self/status");
    let mut lines = status.lines();
    let bits = lines.find_map(|line| line.strip_prefix("CapEff:"));
    bits.and_then(|bits| u64::from_str_radix(bits.trim(), 16).ok())
        .is_some_and(|bits| bits >> CAP_SYS_ADMIN & 1 == 1)
}

/// Whether the kernel supports source-specific routes: adds one in a new network namespace, which ends with its
/// thread.
fn try_subtrees() -> Option<bool> {
    let tried = std::thread::spawn(|| {
        nix::sched::unshare(nix::sched::CloneFlags::CLONE_NEWNET).ok()?;
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()
            .ok()?;
        let key = RouteKey {
            table: TableId(200),
            metric: UNREACHABLE_METRIC,
            destination: Prefix::ALL,
            source: "2001:db8::1".parse().ok()?,
        };
        let to = RouteTarget::Unreachable;
        let plan = Plan {
            steps: vec![Step::AddRoute(Route { key, to })],
            problems: Vec::new(),
        };
        runtime.block_on(async {
            let outcome = Netlink::open().ok()?.apply(&plan).await;
            Some(outcome.failed.is_empty())
        })
    });
    tried.join().ok()?
}
