//! What on a host is in the way: findings, each with its fix, from facts that somebody else gathered.

/// The oldest kernel that everything is tried on.
const OLDEST: (u32, u32) = (6, 1);

/// From this one on programs are attached by TCX.
const TCX: (u32, u32) = (6, 6);

/// What there is on a host. `None`: it could not be found out.
#[derive(Clone, Debug, Default)]
pub struct Facts {
    /// The kernel's release, as `uname -r` has it.
    pub release: String,
    /// Whether it has IPv6.
    pub ipv6: bool,
    /// Whether it has rules for IPv6.
    pub rules: Option<bool>,
    /// Whether it takes programs for traffic control.
    pub programs: Option<bool>,
    /// Whether it has a file system for BPF.
    pub bpffs: bool,
    /// Whether there are TUN devices, where the configuration needs them.
    pub tun: Option<bool>,
    /// What is wrong with the configuration.
    pub configuration: Option<String>,
    /// Whether there is any uplink, by the configuration or by its default route.
    pub uplink: Option<bool>,
    /// systemd-networkd, if it runs.
    pub networkd: Option<Networkd>,
    /// Whether NetworkManager runs.
    pub network_manager: bool,
    /// What the daemon says is wrong; `None`: there is no daemon.
    pub problems: Option<Vec<String>>,
}

/// What systemd-networkd was told about what others made.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Networkd {
    /// `ManageForeignRoutingPolicyRules`: whether it deletes rules.
    pub deletes_rules: bool,
    /// `ManageForeignRoutes`: whether it deletes routes.
    pub deletes_routes: bool,
}

/// How bad it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// As it should be.
    Good,
    /// It does not hinder; worth knowing.
    Note,
    /// Something is in the way.
    Bad,
}

/// Something that was looked at.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Finding {
    /// What.
    pub about: &'static str,
    /// How it is.
    pub verdict: Verdict,
    /// What was found.
    pub detail: String,
    /// What to do about it.
    pub fix: Option<String>,
}

impl Finding {
    fn good(about: &'static str, detail: impl Into<String>) -> Self {
        Self {
            about,
            verdict: Verdict::Good,
            detail: detail.into(),
            fix: None,
        }
    }

    fn not(
        about: &'static str,
        verdict: Verdict,
        detail: impl Into<String>,
        fix: impl Into<String>,
    ) -> Self {
        Self {
            about,
            verdict,
            detail: detail.into(),
            fix: Some(fix.into()),
        }
    }
}

/// What is to be said of a host.
#[must_use]
pub fn examine(facts: &Facts) -> Vec<Finding> {
    let mut findings = vec![
        kernel(&facts.release),
        has(
            "ipv6",
            Some(facts.ipv6),
            "the kernel has IPv6",
            "the kernel has no IPv6",
            "start it without ipv6.disable=1; it needs CONFIG_IPV6",
        ),
        has(
            "rules",
            facts.rules,
            "the kernel has rules for IPv6",
            "the kernel has no rules for IPv6",
            "a kernel with CONFIG_IPV6_MULTIPLE_TABLES",
        ),
        has(
            "programs",
            facts.programs,
            "the kernel takes programs for traffic control",
            "the kernel takes no programs for traffic control",
            "a kernel with CONFIG_BPF_SYSCALL, CONFIG_NET_CLS_ACT and CONFIG_NET_CLS_BPF; in a \
             container, the capabilities CAP_BPF, CAP_NET_ADMIN and CAP_PERFMON",
        ),
        has(
            "bpffs",
            Some(facts.bpffs),
            "programs and maps can be pinned",
            "there is no file system for BPF",
            "a kernel with CONFIG_BPF_SYSCALL",
        ),
    ];
    if let Some(tun) = facts.tun {
        findings.push(has(
            "tun",
            Some(tun),
            "there are TUN devices",
            "there are no TUN devices, and native tunnels are configured",
            "modprobe tun; in a container, pass /dev/net/tun on to it",
        ));
    }
    if let Some(wrong) = &facts.configuration {
        findings.push(Finding::not(
            "configuration",
            Verdict::Bad,
            wrong,
            "correct the file; docs/reference.md has every key",
        ));
    }
    if facts.uplink == Some(false) {
        findings.push(Finding::not(
            "uplink",
            Verdict::Bad,
            "no interface has an IPv6 default route: there is nowhere to catch leaks",
            "name the uplinks in the configuration: uplinks = [\"net0\"]",
        ));
    }
    findings.extend(facts.networkd.map(networkd));
    if facts.network_manager {
        findings.push(Finding::not(
            "NetworkManager",
            Verdict::Note,
            "NetworkManager runs; it leaves our rules alone, and takes routes and addresses from \
             interfaces that it manages",
            "leave tunnels unmanaged: nmcli device set NAME managed no",
        ));
    }
    match &facts.problems {
        None => findings.push(Finding::not(
            "daemon",
            Verdict::Note,
            "no daemon runs; what it put in place before still holds",
            "sixxs run",
        )),
        Some(problems) if problems.is_empty() => {
            findings.push(Finding::good("daemon", "the daemon has no problems"));
        }
        Some(problems) => findings.extend(problems.iter().map(|problem| Finding {
            about: "daemon",
            verdict: Verdict::Bad,
            detail: problem.clone(),
            // The daemon says it in one.
            fix: None,
        })),
    }
    findings
}

fn has(about: &'static str, there: Option<bool>, good: &str, bad: &str, fix: &str) -> Finding {
    match there {
        Some(true) => Finding::good(about, good),
        Some(false) => Finding::not(about, Verdict::Bad, bad, fix),
        None => Finding::not(
            about,
            Verdict::Note,
            format!("not found out whether {good}"),
            "run it as root",
        ),
    }
}

fn kernel(release: &str) -> Finding {
    match version(release) {
        Some(version) if version < OLDEST => Finding::not(
            "kernel",
            Verdict::Bad,
            old(release),
            format!("Linux {}.{} or newer", OLDEST.0, OLDEST.1),
        ),
        Some(version) if version < TCX => Finding::good(
            "kernel",
            format!("Linux {release}: programs are filters of a clsact qdisc"),
        ),
        Some(_) => Finding::good("kernel", format!("Linux {release}: programs are TCX links")),
        None => Finding::not(
            "kernel",
            Verdict::Note,
            format!("Linux {release:?}: what that is, nobody knows"),
            "none known",
        ),
    }
}

/// What is to be said of a kernel that is too old, if it is.
#[must_use]
pub fn too_old(release: &str) -> Option<String> {
    version(release)
        .is_some_and(|version| version < OLDEST)
        .then(|| old(release))
}

fn old(release: &str) -> String {
    let (major, minor) = OLDEST;
    format!(
        "Linux {release} is older than {major}.{minor}, the oldest that sixxs is tried on: if its \
         programs are refused, that is why"
    )
}

/// Whether a kernel of this release attaches programs by TCX.
#[must_use]
pub fn has_tcx(release: &str) -> bool {
    version(release).is_some_and(|version| version >= TCX)
}

/// Major and minor version of a release.
fn version(release: &str) -> Option<(u32, u32)> {
    let mut numbers = release.split(|c: char| !c.is_ascii_digit());
    Some((numbers.next()?.parse().ok()?, numbers.next()?.parse().ok()?))
}

fn networkd(networkd: Networkd) -> Finding {
    let Networkd {
        deletes_rules,
        deletes_routes,
    } = networkd;
    let what = match (deletes_rules, deletes_routes) {
        (false, false) => {
            return Finding::good(
                "networkd",
                "systemd-networkd runs, and leaves others' rules and routes alone",
            );
        }
        (true, true) => "rules and routes",
        (true, false) => "rules",
        (false, true) => "routes",
    };
    Finding::not(
        "networkd",
        Verdict::Bad,
        format!(
            "systemd-networkd runs, and deletes {what} that it did not make: each time they are put \
             back"
        ),
        "in /etc/systemd/networkd.conf.d/sixxs.conf: [Network] ManageForeignRoutingPolicyRules=no \
         and ManageForeignRoutes=no, then restart systemd-networkd",
    )
}

/// What the files of systemd-networkd say about what others made, the one that counts most last
/// (networkd.conf(5)). Anything it does not know it takes for its default, which is to delete.
#[must_use]
pub fn read_networkd<'a>(files: impl IntoIterator<Item = &'a str>) -> Networkd {
    let mut networkd = Networkd {
        deletes_rules: true,
        deletes_routes: true,
    };
    for line in files.into_iter().flat_map(str::lines) {
        let Some((key, value)) = line.split_once('=') else {
            continue;
        };
        let deletes = !matches!(
            value.trim().to_ascii_lowercase().as_str(),
            "0" | "no" | "n" | "false" | "f" | "off"
        );
        match key.trim() {
            "ManageForeignRoutingPolicyRules" => networkd.deletes_rules = deletes,
            "ManageForeignRoutes" => networkd.deletes_routes = deletes,
            _ => {}
        }
    }
    networkd
}

#[cfg(test)]
mod tests {
    use super::*;

    fn good() -> Facts {
        Facts {
            release: "6.18.0".to_owned(),
            ipv6: true,
            rules: Some(true),
            programs: Some(true),
            bpffs: true,
            tun: Some(true),
            uplink: Some(true),
            problems: Some(Vec::new()),
            ..Facts::default()
        }
    }

    /// What is found about something.
    fn found(facts: &Facts, about: &str) -> Finding {
        let findings = examine(facts);
        let found = findings.iter().find(|finding| finding.about == about);
        found
            .unwrap_or_else(|| panic!("{about}: {findings:#?}"))
            .clone()
    }

    #[test]
    fn a_good_host_is_called_good() {
        for finding in examine(&good()) {
            assert_eq!(finding.verdict, Verdict::Good, "{finding:?}");
        }
    }

    #[test]
    fn each_trap_is_found_and_has_a_fix() {
        type Trap = fn(&mut Facts);
        let traps: [(&str, Verdict, Trap); 10] = [
            ("configuration", Verdict::Bad, |f| {
                f.configuration = Some("sixxs.toml:3: unknown key".into());
            }),
            ("kernel", Verdict::Bad, |f| f.release = "5.10.0-30".into()),
            ("ipv6", Verdict::Bad, |f| f.ipv6 = false),
            ("rules", Verdict::Bad, |f| f.rules = Some(false)),
            ("programs", Verdict::Bad, |f| f.programs = Some(false)),
            ("programs", Verdict::Note, |f| f.programs = None),
            ("tun", Verdict::Bad, |f| f.tun = Some(false)),
            ("uplink", Verdict::Bad, |f| f.uplink = Some(false)),
            ("networkd", Verdict::Bad, |f| {
                f.networkd = Some(read_networkd([]));
            }),
            ("NetworkManager", Verdict::Note, |f| {
                f.network_manager = true
            }),
        ];
        for (about, verdict, set) in traps {
            let mut facts = good();
            set(&mut facts);
            let finding = found(&facts, about);
            assert_eq!(finding.verdict, verdict, "{finding:?}");
            assert!(finding.fix.is_some(), "{finding:?}");
        }
        let mut facts = good();
        facts.problems = Some(vec!["uplink net9 does not exist".to_owned()]);
        assert_eq!(found(&facts, "daemon").verdict, Verdict::Bad);
    }

    #[test]
    fn the_last_word_to_networkd_counts() {
        let read = |files: &[&str]| read_networkd(files.iter().copied());
        let [both, rules] = [(true, true), (false, true)].map(|(rules, routes)| Networkd {
            deletes_rules: rules,
            deletes_routes: routes,
        });
        assert_eq!(read(&[]), both);
        assert_eq!(read(&["[Network]\n#ManageForeignRoutes=no\n"]), both);
        assert_eq!(read(&["ManageForeignRoutingPolicyRules = No\n"]), rules);
        let twice = ["ManageForeignRoutes=no\n", "ManageForeignRoutes=yes"];
        assert_eq!(read(&twice), both);
    }
}
