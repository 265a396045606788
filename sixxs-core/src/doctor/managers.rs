//! Checks whether network managers are configured to leave foreign objects alone.

use super::{Finding, Verdict};

/// The running network managers.
#[derive(Clone, Debug, Default)]
pub struct Managers {
    /// systemd-networkd.
    pub networkd: Option<Networkd>,
    /// NetworkManager: the tunnels that its configuration does not exclude.
    pub network_manager: Option<Vec<String>>,
}

/// systemd-networkd's configuration for foreign objects.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Networkd {
    /// `ManageForeignRoutingPolicyRules`: whether it deletes rules.
    pub deletes_rules: bool,
    /// `ManageForeignRoutes`: whether it deletes routes.
    pub deletes_routes: bool,
}

pub(super) fn findings(managers: &Managers) -> Vec<Finding> {
    let mut findings: Vec<_> = managers.networkd.map(networkd).into_iter().collect();
    findings.extend(managers.network_manager.as_deref().map(network_manager));
    findings
}

fn network_manager(managed: &[String]) -> Finding {
    if managed.is_empty() {
        return Finding::good(
            "NetworkManager",
            "NetworkManager runs, and is configured to leave the tunnels alone",
        );
    }
    let names: Vec<_> = managed
        .iter()
        .map(|name| format!("interface-name:{name}"))
        .collect();
    Finding::not(
        "NetworkManager",
        Verdict::Note,
        format!(
            "NetworkManager runs; it leaves the rules of sixxs alone, and removes routes and \
             addresses from interfaces that it manages, which {} may become",
            managed.join(" and ")
        ),
        format!(
            "printf '[keyfile]\\nunmanaged-devices+={}\\n' > /etc/NetworkManager/conf.d/90-sixxs.conf; \
             nmcli general reload",
            names.join(";")
        ),
    )
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
                "systemd-networkd runs, and leaves foreign rules and routes alone",
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
            "systemd-networkd runs, and deletes {what} that it did not make: the daemon restores them each \
             time"
        ),
        "in /etc/systemd/networkd.conf.d/10-sixxs.conf: [Network] ManageForeignRoutingPolicyRules=no \
         and ManageForeignRoutes=no, then restart systemd-networkd",
    )
}

/// Reads systemd-networkd's configuration for foreign objects, with the file of highest priority
/// last (networkd.conf(5)). An unknown value means its default, which is to delete.
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

/// The interfaces that NetworkManager manages, by its files, with the file of highest priority last
/// (NetworkManager.conf(5)). Only entries that name interfaces are parsed; with other entries an
/// interface counts as managed.
#[must_use]
pub fn left_to_network_manager<'a>(
    files: impl IntoIterator<Item = &'a str>,
    interfaces: &[String],
) -> Vec<String> {
    let mut unmanaged: Vec<String> = Vec::new();
    // For each `[device…]`, its interfaces and whether they are managed.
    let mut devices: Vec<(Vec<String>, Option<bool>)> = Vec::new();
    for file in files {
        let mut section = String::new();
        for line in file.lines().map(str::trim) {
            if let Some(name) = line.strip_prefix('[').and_then(|l| l.strip_suffix(']')) {
                section = name.trim().to_owned();
                if section.starts_with("device") {
                    devices.push((Vec::new(), None));
                }
                continue;
            }
            let Some((key, value)) = line.split_once('=') else {
                continue;
            };
            let (key, value) = (key.trim(), value.trim());
            match (section.as_str(), key, devices.last_mut()) {
                ("keyfile", "unmanaged-devices", _) => unmanaged = listed(value),
                ("keyfile", "unmanaged-devices+", _) => unmanaged.extend(listed(value)),
                (device, "match-device", Some((named, _))) if device.starts_with("device") => {
                    *named = listed(value);
                }
                (device, "managed", Some((_, managed))) if device.starts_with("device") => {
                    *managed = Some(!matches!(value, "0" | "no" | "false" | "off"));
                }
                _ => {}
            }
        }
    }
    let is_left = |name: &&String| {
        let managed = devices.iter().rev().find_map(|(named, managed)| {
            managed.filter(|_| named.is_empty() || is_listed(named, name))
        });
        managed.unwrap_or(true) && !is_listed(&unmanaged, name)
    };
    interfaces.iter().filter(is_left).cloned().collect()
}

/// The parts of a list of devices.
fn listed(value: &str) -> Vec<String> {
    let parts = value.split([';', ',']).map(str::trim);
    parts
        .filter(|part| !part.is_empty())
        .map(str::to_owned)
        .collect()
}

/// Whether a list of devices names an interface; exceptions take precedence.
fn is_listed(list: &[String], name: &str) -> bool {
    let names = |part: &str| match part.strip_prefix("interface-name:") {
        Some(pattern) => is_like(pattern.trim_start_matches('='), name),
        None => part == "*" || part == name,
    };
    let excepted = list
        .iter()
        .filter_map(|part| part.strip_prefix("except:"))
        .any(names);
    !excepted && list.iter().any(|part| names(part))
}

/// Whether a name matches a pattern, in which `*` matches any text.
pub(super) fn is_like(pattern: &str, name: &str) -> bool {
    let Some((start, rest)) = pattern.split_once('*') else {
        return pattern == name;
    };
    let Some(mut left) = name.strip_prefix(start) else {
        return false;
    };
    let (middle, end) = rest.rsplit_once('*').unwrap_or(("", rest));
    for part in middle.split('*') {
        match left.split_once(part) {
            Some((_, behind)) => left = behind,
            None => return false,
        }
    }
    left.ends_with(end)
}

#[cfg(test)]
mod tests {
    use super::*;

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

    #[test]
    fn patterns() {
        for (pattern, expected) in [
            ("sixxs0", true),
            ("sixxs*", true),
            ("*", true),
            ("*0", true),
            ("s*x*0", true),
            ("s**0", true),
            ("sixxs", false),
            ("sixxs0*0", false),
            ("*1", false),
            ("s*y*0", false),
        ] {
            assert_eq!(is_like(pattern, "sixxs0"), expected, "{pattern}");
        }
    }

    #[test]
    fn interfaces_that_network_manager_manages_are_found() {
        let interfaces = ["sixxs0".to_owned(), "sixxs1".to_owned()];
        let left =
            |files: &[&str]| left_to_network_manager(files.iter().copied(), &interfaces).join(" ");
        assert_eq!(left(&[]), "sixxs0 sixxs1");
        let all = "[keyfile]\nunmanaged-devices=interface-name:sixxs*;interface-name:wg0\n";
        assert_eq!(left(&[all]), "");
        assert_eq!(
            left(&[all, "[keyfile]\nunmanaged-devices=\n"]),
            "sixxs0 sixxs1"
        );
        let more = "[keyfile]\nunmanaged-devices+=interface-name:sixxs1";
        assert_eq!(left(&[more]), "sixxs0");
        let except = "[keyfile]\nunmanaged-devices=*,except:interface-name:sixxs1\n";
        assert_eq!(left(&[except]), "sixxs1");
        let device = "[device-tunnels]\nmatch-device=interface-name:sixxs0\nmanaged=0\n";
        assert_eq!(left(&[device]), "sixxs1");
        // Other sections and broken lines have no effect.
        assert_eq!(
            left(&["[main]\nunmanaged-devices=*\n[\n=\n[]\nmanaged"]),
            "sixxs0 sixxs1"
        );
    }

    #[test]
    fn lists_of_devices() {
        for (list, expected) in [
            ("*", true),
            ("sixxs0", true),
            ("interface-name:sixxs0", true),
            ("interface-name:=sixxs0", true),
            ("interface-name:sixxs*", true),
            ("mac:00:00:5e:00:53:01", false),
            ("sixxs*", false),
            ("sixxs1; sixxs0", true),
            (",,sixxs1,,", false),
            ("*,except:interface-name:sixxs0", false),
            ("*,except:interface-name:sixxs1", true),
            ("except:sixxs1", false),
            ("", false),
        ] {
            assert_eq!(is_listed(&listed(list), "sixxs0"), expected, "{list}");
        }
    }

    #[test]
    fn the_last_section_that_decides_about_a_device_counts() {
        let interfaces = ["sixxs0".to_owned()];
        let is_left = |file: &str| !left_to_network_manager([file], &interfaces).is_empty();
        let section = |name: &str, device: &str, managed: &str| {
            format!("[{name}]\nmatch-device={device}\nmanaged={managed}\n")
        };
        for value in ["0", "no", "false", "off"] {
            assert!(!is_left(&section("device", "sixxs0", value)), "{value}");
        }
        let [no, yes] = ["no", "yes"].map(|value| section("device-a", "sixxs0", value));
        assert!(is_left(&yes));
        assert!(is_left(&format!("{no}{yes}")) && !is_left(&format!("{yes}{no}")));
        assert!(
            is_left(&section("connection", "sixxs0", "no")),
            "another section"
        );
        assert!(
            is_left(&section("device", "sixxs1", "no")),
            "another device"
        );
        assert!(!is_left("[device]\nmanaged=no\n"), "all devices");
        let undecided = format!("{no}[device]\nmatch-device=sixxs0\n");
        assert!(!is_left(&undecided), "the last section decides nothing");
    }

    #[test]
    fn what_networkd_deletes_is_named() {
        for (deletes_rules, deletes_routes, expected) in [
            (true, true, Some("deletes rules and routes that")),
            (true, false, Some("deletes rules that")),
            (false, true, Some("deletes routes that")),
            (false, false, None),
        ] {
            let found = networkd(Networkd {
                deletes_rules,
                deletes_routes,
            });
            assert_eq!(found.verdict == Verdict::Bad, expected.is_some());
            assert!(expected.is_none_or(|words| found.detail.contains(words)));
        }
    }
}
