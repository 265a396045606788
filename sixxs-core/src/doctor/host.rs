//! Checks of the kernel's features, and of the set-up that needs them.

use super::{Finding, Verdict, has};

/// The oldest kernel that everything is tested on.
const OLDEST_TESTED: (u32, u32) = (6, 1);

/// From this version on, programs are attached by TCX.
const TCX: (u32, u32) = (6, 6);

/// From this version on, a program can remove an IPv4 header before an IPv6 packet (`BPF_F_ADJ_ROOM_DECAP_L3_IPV6`).
const DECAPSULATION: (u32, u32) = (6, 3);

/// The kernel's features. `None`: could not be determined.
#[derive(Clone, Debug, Default)]
pub struct Host {
    /// The kernel's release, as in `uname -r`.
    pub release: String,
    /// Whether it has IPv6.
    pub ipv6: bool,
    /// Whether it has IPv6 policy rules.
    pub rules: Option<bool>,
    /// Whether it has source-specific routes; `None` if the configuration does not need them.
    pub subtrees: Option<Option<bool>>,
    /// Whether it accepts traffic control programs.
    pub programs: Option<bool>,
    /// Whether it has the BPF file system.
    pub bpffs: bool,
    /// The directory for pinned programs and maps.
    pub pins: Pins,
    /// Whether there are TUN devices, if the configuration needs them.
    pub tun: Option<bool>,
    /// Whether the kernel has WireGuard; `None`: nobody needs it.
    pub wireguard: Option<bool>,
    /// 6in4 tunnels that the daemon carries, although the configuration does not demand it.
    pub carried_by_daemon: Vec<String>,
    /// Uplinks without the XDP program, and the reasons. Those where the configuration turns it off are left out.
    pub without_xdp: Vec<(String, String)>,
}

/// The directory for pinned programs and maps.
#[derive(Clone, Debug, Default)]
pub struct Pins {
    /// The directory.
    pub directory: String,
    /// The mount point for the BPF file system that contains the directory.
    pub mount_point: String,
    /// Whether the directory is on a BPF file system.
    pub mounted: bool,
    /// Whether this process could mount one; `None`: it runs as an ordinary user, who cannot see
    /// whether there is one, and does not run the daemon.
    pub mountable: Option<bool>,
    /// Directories of other versions of this program.
    pub left: Vec<String>,
    /// The reason why nothing can be pinned.
    pub refused: Option<Refused>,
    /// Foreign pins at the paths of the maps of sixxs.
    pub strange: Vec<String>,
}

/// The reason why nothing can be pinned.
#[derive(Clone, Debug)]
pub struct Refused {
    /// In words.
    pub why: String,
    /// The mount point of the file system, if it is read-only.
    pub read_only: Option<String>,
}

pub(super) fn findings(host: &Host) -> Vec<Finding> {
    let mut findings = vec![kernel(&host.release)];
    findings.extend(routing(host));
    findings.extend(programs(host));
    if host.bpffs {
        findings.extend(pins(&host.pins));
    }
    findings.extend(carriers(host));
    findings
}

/// IPv6, and its rules and routes.
fn routing(host: &Host) -> Vec<Finding> {
    let mut findings = vec![
        has(
            "ipv6",
            Some(host.ipv6),
            "the kernel has IPv6",
            "the kernel has no IPv6",
            "start it without ipv6.disable=1; it needs CONFIG_IPV6",
        ),
        has(
            "rules",
            host.rules,
            "the kernel has rules for IPv6",
            "the kernel has no rules for IPv6",
            "a kernel with CONFIG_IPV6_MULTIPLE_TABLES",
        ),
    ];
    if let Some(subtrees) = host.subtrees {
        findings.push(has(
            "subtrees",
            subtrees,
            "the kernel has source-specific routes",
            "the kernel has no source-specific routes",
            "rule_mode = \"rules\", or a kernel with CONFIG_IPV6_SUBTREES",
        ));
    }
    findings
}

/// Programs, and the file system for their pins.
fn programs(host: &Host) -> [Finding; 2] {
    [
        has(
            "programs",
            host.programs,
            "the kernel accepts programs for traffic control",
            "the kernel accepts no programs for traffic control",
            "a kernel with CONFIG_BPF_SYSCALL, CONFIG_NET_CLS_ACT and CONFIG_NET_CLS_BPF; in a \
             container, the capabilities CAP_BPF, CAP_NET_ADMIN and CAP_PERFMON",
        ),
        has(
            "bpffs",
            Some(host.bpffs),
            "programs and maps can be pinned",
            "there is no file system for BPF",
            "a kernel with CONFIG_BPF_SYSCALL",
        ),
    ]
}

/// Carriers of native tunnels.
fn carriers(host: &Host) -> Vec<Finding> {
    let mut findings = Vec::new();
    if let Some(tun) = host.tun {
        findings.push(has(
            "tun",
            Some(tun),
            "there are TUN devices",
            "there are no TUN devices, and native tunnels are configured",
            "modprobe tun; in a container, pass /dev/net/tun on to it",
        ));
    }
    if let Some(wireguard) = host.wireguard {
        findings.push(has(
            "wireguard",
            Some(wireguard),
            "the kernel has WireGuard",
            "the kernel has no WireGuard, and tunnels of kind \"wireguard\" are configured",
            "modprobe wireguard, or a kernel with CONFIG_WIREGUARD",
        ));
    }
    let names = &host.carried_by_daemon;
    if !names.is_empty() {
        let (why, fix) = if has_decapsulation(&host.release) {
            (
                "the programs cannot use the interface that leads to the broker",
                "route the broker by an interface with Ethernet or without link layer that is not a tunnel itself; \
                 `carrier = \"tun\"` if this is intended",
            )
        } else {
            (
                "this kernel has no sit, and its programs cannot",
                "modprobe sit (CONFIG_IPV6_SIT), or Linux 6.3 or newer",
            )
        };
        let names = names.join(", ");
        findings.push(Finding::not(
            "carrier",
            Verdict::Note,
            format!("the daemon carries the packets of {names}, which costs processor time: {why}"),
            fix,
        ));
    }
    findings.extend(host.without_xdp.iter().map(|(uplink, reason)| {
        Finding::not(
            "xdp",
            Verdict::Note,
            format!(
                "no XDP program at {uplink}: {reason}; the programs at TC drop forged packets instead, which costs more \
                 processor time in a flood"
            ),
            format!(
                "only if floods matter: remove the cause, or `xdp = {{ {uplink} = \"native\" }}` in spite of it; \
                 `\"off\"` if this is intended"
            ),
        )
    }));
    findings
}

fn pins(pins: &Pins) -> Vec<Finding> {
    let directory = &pins.directory;
    let mut findings = Vec::new();
    if !pins.mounted {
        findings.extend(not_mounted(pins));
    }
    let refused = pins.refused.as_ref();
    findings.extend(refused.map(|refused| not_pinned(directory, refused)));
    if !pins.strange.is_empty() {
        findings.push(Finding::not(
            "pins",
            Verdict::Note,
            format!(
                "other software pinned something in the places of the maps of sixxs: {}",
                pins.strange.join(", ")
            ),
            "sixxs run moves it out of the way",
        ));
    }
    if !pins.left.is_empty() {
        findings.push(Finding::not(
            "pins",
            Verdict::Note,
            format!(
                "another version left {} in {directory}: its programs stay in force until the next start",
                pins.left.join(", ")
            ),
            "sixxs run takes them over, sixxs down removes them",
        ));
    }
    findings
}

/// The directory is not on a BPF file system. `None`: another finding has the reason.
fn not_mounted(pins: &Pins) -> Option<Finding> {
    let directory = &pins.directory;
    match pins.mountable {
        None => Some(Finding::not(
            "pins",
            Verdict::Note,
            format!("cannot determine whether {directory} is on a bpffs"),
            "run it as root",
        )),
        Some(false) => Some(Finding::not(
            "pins",
            Verdict::Bad,
            format!("{directory} is not on a bpffs, and this process may not mount one"),
            format!(
                "mkdir -p {0}; mount -t bpf bpf {0}; or run it with CAP_SYS_ADMIN",
                pins.mount_point
            ),
        )),
        Some(true) if pins.refused.is_none() => Some(Finding::good(
            "pins",
            format!("{directory} is not on a bpffs yet: sixxs run mounts one"),
        )),
        Some(true) => None,
    }
}

fn not_pinned(directory: &str, refused: &Refused) -> Finding {
    let cure = match &refused.read_only {
        Some(mount) => format!("mount -o remount,rw {mount}"),
        None => "make it a directory that root may write to; or choose another --pin-dir".into(),
    };
    Finding::not(
        "pins",
        Verdict::Bad,
        format!(
            "nothing can be pinned in {directory}: {}; programs end with the daemon",
            refused.why
        ),
        format!("{cure}; for good, start the daemon again"),
    )
}

fn kernel(release: &str) -> Finding {
    match version(release) {
        Some(version) if version < OLDEST_TESTED => Finding::not(
            "kernel",
            Verdict::Bad,
            old(release),
            format!("Linux {}.{} or newer", OLDEST_TESTED.0, OLDEST_TESTED.1),
        ),
        Some(version) if version < TCX => Finding::good(
            "kernel",
            format!("Linux {release}: programs are filters of a clsact qdisc"),
        ),
        Some(_) => Finding::good("kernel", format!("Linux {release}: programs are TCX links")),
        None => Finding::not(
            "kernel",
            Verdict::Note,
            format!("Linux {release:?}: unknown version"),
            "none known",
        ),
    }
}

/// The warning for a kernel that is too old.
#[must_use]
pub fn too_old(release: &str) -> Option<String> {
    version(release)
        .is_some_and(|version| version < OLDEST_TESTED)
        .then(|| old(release))
}

fn old(release: &str) -> String {
    let (major, minor) = OLDEST_TESTED;
    format!(
        "Linux {release} is older than {major}.{minor}, the oldest that sixxs is tested on: if its \
         programs are refused, that is why"
    )
}

/// Whether a kernel of this release attaches programs by TCX.
#[must_use]
pub fn has_tcx(release: &str) -> bool {
    version(release).is_some_and(|version| version >= TCX)
}

/// Whether the programs can carry 6in4 tunnels on a kernel of this release: whether they can remove outer headers.
#[must_use]
pub fn has_decapsulation(release: &str) -> bool {
    version(release).is_some_and(|version| version >= DECAPSULATION)
}

/// Major and minor version of a release.
fn version(release: &str) -> Option<(u32, u32)> {
    let mut numbers = release.split(|c: char| !c.is_ascii_digit());
    Some((numbers.next()?.parse().ok()?, numbers.next()?.parse().ok()?))
}
