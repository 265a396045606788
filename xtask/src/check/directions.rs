//! The allowed dependencies of each crate, checked against cargo's graph.

use std::collections::{BTreeMap, BTreeSet};

use crate::metadata::Metadata;

/// Each package of the workspace, and the workspace's packages that it may depend on.
const ALLOWED: &[(&str, &[&str])] = &[
    ("sixxs-common", &[]),
    ("sixxs-ebpf", &["sixxs-common"]),
    ("sixxs-core", &["sixxs-common"]),
    ("sixxs-user", &["sixxs-common", "sixxs-core"]),
    ("sixxs-tests", &["sixxs-common", "sixxs-core", "sixxs-user"]),
    ("xtask", &[]),
];

/// Crates for eBPF programs, and the only package that may depend on them.
const KERNEL_SIDE: &str = "sixxs-ebpf";
const KERNEL_CRATES: &[&str] = &["aya-ebpf", "aya-log-ebpf"];

/// Packages without effects: no dependency, at any depth, may access a kernel, a file, a socket or a clock.
const PURE: &[&str] = &["sixxs-common", "sixxs-core"];
const EFFECTS: &[&str] = &[
    "async-std",
    "aya",
    "aya-log",
    "axum",
    "chrono",
    "futures-util",
    "getrandom",
    "hyper",
    "jiff",
    "libc",
    "mio",
    "netlink-packet-core",
    "netlink-packet-route",
    "netlink-proto",
    "netlink-sys",
    "nix",
    "rtnetlink",
    "rustix",
    "rustls",
    "sd-notify",
    "smol",
    "socket2",
    "tempfile",
    "time",
    "tokio",
    "tun-rs",
];

/// Dependencies on an effect that are harmless: cpufeatures only queries the processor's instruction sets (by
/// `getauxval`, and only on ARM and LoongArch).
const HARMLESS: &[(&str, &str)] = &[("cpufeatures", "libc")];

/// Dependencies by package name: plain data, so that tests can use an invented graph.
#[derive(Debug, Default)]
pub(crate) struct Graph {
    /// The workspace's own packages.
    members: BTreeSet<String>,
    /// Each package's dependencies of any kind.
    all: BTreeMap<String, BTreeSet<String>>,
    /// The same without dev-dependencies: the packages it is built from.
    product: BTreeMap<String, BTreeSet<String>>,
}

impl From<Metadata> for Graph {
    fn from(metadata: Metadata) -> Self {
        // Two versions of a package are one node here, since only names matter.
        let names: BTreeMap<_, _> = metadata
            .packages
            .into_iter()
            .map(|package| (package.id, package.name))
            .collect();
        let name = |id: &String| names.get(id).unwrap_or(id).clone();
        let mut graph = Self {
            members: metadata.workspace_members.iter().map(name).collect(),
            ..Self::default()
        };
        for node in metadata
            .resolve
            .into_iter()
            .flat_map(|resolve| resolve.nodes)
        {
            for dependency in &node.deps {
                let dev_only = dependency
                    .dep_kinds
                    .iter()
                    .all(|kind| kind.kind.as_deref() == Some("dev"));
                graph.add(&name(&node.id), &name(&dependency.pkg), dev_only);
            }
        }
        graph
    }
}

impl Graph {
    fn add(&mut self, from: &str, to: &str, dev_only: bool) {
        self.all
            .entry(from.to_owned())
            .or_default()
            .insert(to.to_owned());
        if !dev_only {
            self.product
                .entry(from.to_owned())
                .or_default()
                .insert(to.to_owned());
        }
    }

    fn dependencies(&self, package: &str) -> impl Iterator<Item = &String> {
        self.all.get(package).into_iter().flatten()
    }

    /// A shortest path from `package` to `goal` in `product`, without harmless dependencies.
    fn path(&self, package: &str, goal: &str) -> Option<Vec<String>> {
        let mut seen = BTreeSet::from([package]);
        let mut paths = std::collections::VecDeque::from([vec![package]]);
        while let Some(path) = paths.pop_front() {
            let last = *path.last()?;
            if last == goal {
                return Some(path.into_iter().map(str::to_owned).collect());
            }
            for next in self.product.get(last).into_iter().flatten() {
                if !HARMLESS.contains(&(last, next.as_str())) && seen.insert(next) {
                    let mut longer = path.clone();
                    longer.push(next);
                    paths.push_back(longer);
                }
            }
        }
        None
    }
}

/// Violations of the rules, one per line.
pub(crate) fn violations(graph: &Graph) -> Vec<String> {
    let mut found = Vec::new();
    for member in &graph.members {
        let Some((_, allowed)) = ALLOWED.iter().find(|(name, _)| name == member) else {
            found.push(format!(
                "{member} has no line in xtask's table of crate directions"
            ));
            continue;
        };
        for dependency in graph.dependencies(member) {
            if graph.members.contains(dependency) && !allowed.contains(&dependency.as_str()) {
                found.push(format!("{member} must not depend on {dependency}"));
            }
            if KERNEL_CRATES.contains(&dependency.as_str()) && member != KERNEL_SIDE {
                found.push(format!(
                    "{member} must not depend on {dependency}; only {KERNEL_SIDE} may"
                ));
            }
        }
        if PURE.contains(&member.as_str()) {
            for effect in EFFECTS {
                if let Some(path) = graph.path(member, effect) {
                    found.push(format!(
                        "{member} is pure and must not be built from {effect}, but is: {}",
                        path.join(" -> ")
                    ));
                }
            }
        }
    }
    found
}

#[cfg(test)]
mod tests {
    use super::*;

    fn graph(edges: &[(&str, &str)], dev_edges: &[(&str, &str)]) -> Graph {
        let mut graph = Graph {
            members: ALLOWED.iter().map(|(name, _)| (*name).to_owned()).collect(),
            ..Graph::default()
        };
        for (from, to) in edges {
            graph.add(from, to, false);
        }
        for (from, to) in dev_edges {
            graph.add(from, to, true);
        }
        graph
    }

    const DESIGN: &[(&str, &str)] = &[
        ("sixxs-common", "bytemuck"),
        ("sixxs-ebpf", "sixxs-common"),
        ("sixxs-ebpf", "aya-ebpf"),
        ("sixxs-core", "sixxs-common"),
        ("sixxs-core", "thiserror"),
        ("sixxs-user", "sixxs-core"),
        ("sixxs-user", "sixxs-common"),
        ("sixxs-user", "aya"),
        ("sixxs-user", "tokio"),
        ("sixxs-tests", "sixxs-user"),
        ("xtask", "anyhow"),
    ];

    fn with(edge: (&str, &str)) -> Vec<String> {
        let mut edges = DESIGN.to_vec();
        edges.push(edge);
        violations(&graph(&edges, &[]))
    }

    #[test]
    fn the_design_passes() {
        assert_eq!(violations(&graph(DESIGN, &[])), [""; 0]);
    }

    #[test]
    fn each_wrong_direction_is_found() {
        for edge in [
            ("sixxs-common", "sixxs-core"),
            ("sixxs-ebpf", "sixxs-core"),
            ("sixxs-core", "sixxs-user"),
            ("sixxs-user", "sixxs-tests"),
            ("sixxs-user", "sixxs-ebpf"),
            ("sixxs-user", "aya-ebpf"),
            ("sixxs-core", "tokio"),
            ("sixxs-common", "libc"),
            ("xtask", "sixxs-user"),
        ] {
            let found = with(edge);
            let names_both = |line: &String| line.contains(edge.0) && line.contains(edge.1);
            assert!(found.iter().any(names_both), "{edge:?}: {found:?}");
        }
    }

    #[test]
    fn effects_are_found_at_any_depth_with_the_way_to_them() {
        let mut edges = DESIGN.to_vec();
        edges.extend([
            ("thiserror", "helper"),
            ("helper", "nix"),
            ("helper", "thiserror"),
        ]);
        assert_eq!(
            violations(&graph(&edges, &[])),
            [
                "sixxs-core is pure and must not be built from nix, but is: \
              sixxs-core -> thiserror -> helper -> nix"
            ]
        );
    }

    #[test]
    fn a_harmless_way_is_none_and_others_to_the_same_place_are() {
        let mut edges = DESIGN.to_vec();
        edges.extend([("thiserror", "cpufeatures"), ("cpufeatures", "libc")]);
        assert_eq!(violations(&graph(&edges, &[])), [""; 0]);
        edges.push(("thiserror", "libc"));
        assert_eq!(violations(&graph(&edges, &[])).len(), 1);
    }

    #[test]
    fn tests_of_a_pure_crate_may_have_effects_but_not_other_crates_of_ours() {
        let dev = [("sixxs-core", "tempfile"), ("tempfile", "rustix")];
        assert_eq!(violations(&graph(DESIGN, &dev)), [""; 0]);
        let found = violations(&graph(DESIGN, &[("sixxs-core", "sixxs-user")]));
        assert_eq!(found, ["sixxs-core must not depend on sixxs-user"]);
    }

    #[test]
    fn a_new_crate_needs_a_line_in_the_table() {
        let mut graph = graph(DESIGN, &[]);
        graph.members.insert("sixxs-extra".into());
        assert_eq!(violations(&graph).len(), 1);
    }

    #[test]
    fn cargos_own_format_is_understood() {
        let text = r#"{"packages": [{"id": "path+a#0.1.0", "name": "sixxs-core", "version": "1.0.0"},
                {"id": "reg#nix@1", "name": "nix", "version": "1.0.0"}, {"id": "reg#proptest@1", "name": "proptest", "version": "1.0.0"}],
            "workspace_members": ["path+a#0.1.0"], "target_directory": "/t",
            "resolve": {"nodes": [{"id": "path+a#0.1.0", "deps": [
                {"name": "nix", "pkg": "reg#nix@1", "dep_kinds": [{"kind": null, "target": null}]},
                {"name": "p", "pkg": "reg#proptest@1", "dep_kinds": [{"kind": "dev"}]}]}]}}"#;
        let metadata: Metadata = serde_json::from_str(text).expect("parses");
        let graph = Graph::from(metadata);
        assert_eq!(graph.all["sixxs-core"].len(), 2);
        assert_eq!(
            violations(&graph),
            ["sixxs-core is pure and must not be built from nix, but is: sixxs-core -> nix"]
        );
    }
}
