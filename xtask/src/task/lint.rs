//! Runs every check that must pass before a commit, and lists the failed ones at the end.

use anyhow::{Result, bail};

use crate::{
    check::{
        boundaries, cycles, directions, layout, modules::Graph, prose, sizes, source, stray_paths,
        times, units,
    },
    metadata::Metadata,
    process,
    product::ebpf,
    setup::{self, cargo_tools, plan::Needs},
    workspace::Workspace,
};

type Check<'a> = (&'a str, &'a dyn Fn() -> Result<()>);

/// Runs the checks; security advisories only on request, because they come from the network.
pub(crate) fn run(workspace: &Workspace, advisories: bool) -> Result<()> {
    setup::ensure(workspace, Needs::LINT)?;
    let checks: [Check<'_>; 13] = [
        ("format", &|| format(workspace)),
        ("crate directions", &|| {
            let found =
                directions::violations(&Metadata::with_dependencies(workspace.cargo())?.into());
            report(&found)
        }),
        ("boundaries inside sixxs-user", &|| {
            report(&boundaries::violations(&source::tree(workspace)?))
        }),
        ("circles of imports", &|| {
            report(&cycles::violations(&Graph::of(&source::tree(workspace)?)))
        }),
        ("sizes of files and functions", &|| {
            report(&sizes::violations(&source::tree(workspace)?))
        }),
        ("layout of modules", &|| {
            report(&layout::violations(&source::tree(workspace)?))
        }),
        ("sums of times", &|| {
            report(&times::violations(&source::tree(workspace)?))
        }),
        ("paths of this machine", &|| {
            report(&stray_paths::violations(&source::tree(workspace)?))
        }),
        ("prose", &|| prose::check(workspace)),
        ("systemd units", &|| units::check(workspace)),
        ("licences, bans, sources", &|| deny(workspace, advisories)),
        ("eBPF clippy", &|| ebpf::lint(workspace)),
        // The last one, because it needs the object, which sixxs-user embeds.
        ("clippy", &|| {
            ebpf::build(workspace)?;
            clippy(workspace)
        }),
    ];
    let mut failed = Vec::new();
    for (name, check) in checks {
        println!("lint: {name}");
        if let Err(error) = check() {
            eprintln!("error: {error:#}");
            failed.push(name);
        }
    }
    if !failed.is_empty() {
        bail!(
            "lint: these checks failed, details above: {}",
            failed.join(", ")
        );
    }
    if advisories {
        println!("lint: all good");
    } else {
        println!("lint: all good (security advisories not asked for; --advisories fetches them)");
    }
    Ok(())
}

fn report(violations: &[String]) -> Result<()> {
    for violation in violations {
        eprintln!("  {violation}");
    }
    match violations.len() {
        0 => Ok(()),
        1 => bail!("1 violation, above"),
        n => bail!("{n} violations, above"),
    }
}

fn format(workspace: &Workspace) -> Result<()> {
    process::run(
        "check the format",
        workspace.cargo().args(["fmt", "--all", "--check"]),
        "`cargo fmt --all` mends it",
    )
}

fn clippy(workspace: &Workspace) -> Result<()> {
    process::run(
        "run clippy",
        workspace
            .cargo()
            .args([
                "clippy",
                "--workspace",
                "--exclude",
                "sixxs-ebpf",
                "--all-targets",
                "--locked",
            ])
            .args(["--", "-D", "warnings"]),
        "mend what it says above; an exception is an `expect` with its reason",
    )
}

fn deny(workspace: &Workspace, advisories: bool) -> Result<()> {
    let mut command = cargo_tools::cargo_deny()?;
    command
        .current_dir(&workspace.root)
        .args(["--workspace", "--locked", "check", "--hide-inclusion-graph"])
        .args(["bans", "licenses", "sources"]);
    if advisories {
        command.arg("advisories");
    }
    process::run(
        "run cargo deny",
        &mut command,
        "deny.toml says what is allowed, and why",
    )
}
