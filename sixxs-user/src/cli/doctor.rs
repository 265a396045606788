//! `sixxs doctor`: what on this host is in the way.

use std::{
    collections::{BTreeMap, BTreeSet},
    fs,
    path::Path,
    process::ExitCode,
};

use serde::Serialize;
use sixxs_core::{
    doctor::{self, Facts, Finding, Networkd, Verdict},
    enforce,
};

use super::show;
use crate::{
    api::Status,
    bpf, client, config_file, kernel,
    netlink::{Netlink, Scope},
    paths::Paths,
};

/// A finding, as it is told.
#[derive(Serialize)]
struct Told<'a> {
    about: &'a str,
    verdict: &'static str,
    detail: &'a str,
    fix: Option<&'a str>,
}

#[derive(Serialize)]
struct Report<'a> {
    healthy: bool,
    findings: Vec<Told<'a>>,
}

pub(super) async fn doctor(paths: &Paths, json: bool) -> anyhow::Result<ExitCode> {
    let findings = doctor::examine(&gather(paths).await);
    let told = findings.iter().map(|finding| {
        let Finding {
            about,
            verdict,
            detail,
            fix,
        } = finding;
        Told {
            about,
            verdict: match verdict {
                Verdict::Good => "good",
                Verdict::Note => "note",
                Verdict::Bad => "bad",
            },
            detail,
            fix: fix.as_deref(),
        }
    });
    let report = Report {
        healthy: findings
            .iter()
            .all(|finding| finding.verdict != Verdict::Bad),
        findings: told.collect(),
    };
    if json {
        show::print(&show::line(&report)?)?;
    } else {
        for Told {
            about,
            verdict,
            detail,
            fix,
        } in &report.findings
        {
            let verdict = match *verdict {
                "bad" => "BAD",
                other => other,
            };
            show::print(&format!("{verdict:<5} {about:<15} {detail}\n"))?;
            if let Some(fix) = fix {
                show::print(&format!("{:<21} fix: {fix}\n", ""))?;
            }
        }
    }
    Ok(show::exit(report.healthy))
}

/// Looks at the host. What cannot be looked at is not known; the daemon need not run, nor be
/// configured.
async fn gather(paths: &Paths) -> Facts {
    let (config, configuration) = match config_file::read(&paths.config) {
        Ok(config) => (Some(config), None),
        Err(wrong) => (None, Some(wrong.to_string())),
    };
    let scope = config.as_ref().map(Scope::of).unwrap_or_default();
    let observed = match Netlink::open() {
        Ok(mut netlink) => netlink.observe(&scope).await,
        Err(error) => Err(error),
    };
    let rules = match &observed {
        Ok(_) => Some(true),
        Err(error) if format!("{error:#}").contains("no rules for IPv6") => Some(false),
        Err(_) => None,
    };
    let links = observed.map(|observed| observed.links).unwrap_or_default();
    let status = client::get::<Status>(&paths.socket(), "/v1/status").await;
    let processes = processes();
    Facts {
        release: kernel::release(),
        ipv6: kernel::has_ipv6(),
        rules,
        programs: bpf::is_supported(),
        bpffs: read("/proc/filesystems")
            .lines()
            .any(|line| line.ends_with("\tbpf")),
        tun: config
            .as_ref()
            .filter(|config| config.tunnels.iter().any(|tunnel| tunnel.kind.is_native()))
            .map(|_| Path::new("/dev/net/tun").exists()),
        configuration: configuration.filter(|_| paths.config.exists()),
        uplink: config
            .as_ref()
            .map(|config| !enforce::uplinks(config, &links).is_empty()),
        networkd: processes.contains("systemd-network").then(|| networkd("/")),
        network_manager: processes.contains("NetworkManager"),
        problems: status.ok().map(|status| status.problems),
    }
}

fn read(file: &str) -> String {
    fs::read_to_string(file).unwrap_or_default()
}

/// Names of the processes in our network namespace, as far as the kernel keeps them: 15 characters.
fn processes() -> BTreeSet<String> {
    let own = fs::read_link("/proc/self/ns/net").ok();
    let entries = fs::read_dir("/proc").into_iter().flatten().flatten();
    entries
        .filter(|entry| fs::read_link(entry.path().join("ns/net")).ok() == own)
        .filter_map(|entry| fs::read_to_string(entry.path().join("comm")).ok())
        .map(|name| name.trim_end().to_owned())
        .collect()
}

/// What systemd-networkd was told, in the order in which it reads it: the main file, then drop-ins by
/// name, of which a directory nearer to the administrator replaces another's.
fn networkd(root: &str) -> Networkd {
    const DIRECTORIES: [&str; 4] = ["usr/lib", "usr/local/lib", "run", "etc"];
    let at = |directory: &str| Path::new(root).join(directory).join("systemd");
    let main = DIRECTORIES
        .iter()
        .rev()
        .map(|directory| at(directory).join("networkd.conf"))
        .find_map(|file| fs::read_to_string(file).ok());
    let mut dropped = BTreeMap::new();
    for directory in DIRECTORIES {
        let entries = fs::read_dir(at(directory).join("networkd.conf.d"));
        for entry in entries.into_iter().flatten().flatten() {
            let name = entry.file_name();
            if Path::new(&name)
                .extension()
                .is_some_and(|end| end == "conf")
            {
                dropped.insert(name, fs::read_to_string(entry.path()).unwrap_or_default());
            }
        }
    }
    let files = main.iter().chain(dropped.values());
    doctor::read_networkd(files.map(String::as_str))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn drop_ins_come_after_the_main_file_and_replace_each_other_by_name() {
        let root = tempfile::tempdir().unwrap();
        let write = |file: &str, text: &str| {
            let path = root.path().join(file);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(path, text).unwrap();
        };
        let read = || networkd(root.path().to_str().unwrap());
        assert!(read().deletes_rules && read().deletes_routes);
        write("etc/systemd/networkd.conf", "ManageForeignRoutes=no");
        assert!(read().deletes_rules && !read().deletes_routes);
        write(
            "usr/lib/systemd/networkd.conf.d/90-a.conf",
            "ManageForeignRoutes=yes\nManageForeignRoutingPolicyRules=no\n",
        );
        assert!(!read().deletes_rules && read().deletes_routes);
        write("etc/systemd/networkd.conf.d/90-a.conf", "");
        assert!(read().deletes_rules && !read().deletes_routes);
    }
}
