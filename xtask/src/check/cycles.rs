//! No two files of a crate may import each other, directly or through other files.
//!
//! An import of a parent does not count: a module may use the items of its parent modules, and shared types
//! of a folder are in its `mod.rs`.

use std::{
    collections::{BTreeMap, BTreeSet, VecDeque},
    path::{Path, PathBuf},
};

use crate::check::modules::Graph;

/// Circles of imports, a line each.
pub(crate) fn violations(graph: &Graph) -> Vec<String> {
    let mut found = Vec::new();
    let mut left = Imports::new(graph);
    for (from, to) in left.edges() {
        if let Some(route) = left.route(&to, &from) {
            found.push(circle(graph, &from, &route));
            // Each import is reported once, so that one run names all that close a circle.
            left.remove(&from, &to);
        }
    }
    found
}

/// Whether `file` is the module that contains the module of `child`.
fn is_parent(file: &Path, child: &Path) -> bool {
    let is_root = ["mod.rs", "lib.rs", "main.rs"]
        .iter()
        .any(|name| file.ends_with(name));
    let folder = match file.parent() {
        Some(folder) if is_root => folder.to_path_buf(),
        _ => file.with_extension(""),
    };
    child.starts_with(folder)
}

/// A circle as text, with the path of each import.
fn circle(graph: &Graph, from: &Path, route: &[&Path]) -> String {
    let mut text = format!("circle of imports: {}", from.display());
    let mut last = from;
    for file in route {
        let path = graph.imports.get(last).and_then(|to| to.get(*file));
        let path = path.map_or("", String::as_str);
        text += &format!(" -> {} ({path})", file.display());
        last = file;
    }
    text
}

/// Which file imports which.
struct Imports(BTreeMap<PathBuf, BTreeSet<PathBuf>>);

impl Imports {
    fn new(graph: &Graph) -> Self {
        let imports = graph.imports.iter().map(|(from, to)| {
            let to = to.keys().filter(|to| !is_parent(to, from));
            (from.clone(), to.cloned().collect())
        });
        Self(imports.collect())
    }

    fn edges(&self) -> Vec<(PathBuf, PathBuf)> {
        let edges = self
            .0
            .iter()
            .flat_map(|(from, imported)| imported.iter().map(move |to| (from.clone(), to.clone())));
        edges.collect()
    }

    fn remove(&mut self, from: &Path, to: &Path) {
        if let Some(imported) = self.0.get_mut(from) {
            imported.remove(to);
        }
    }

    /// A shortest chain of imports from one file to another, both included.
    fn route<'a>(&'a self, from: &'a Path, to: &Path) -> Option<Vec<&'a Path>> {
        let mut seen = BTreeSet::from([from]);
        let mut routes = VecDeque::from([vec![from]]);
        while let Some(route) = routes.pop_front() {
            let last = *route.last()?;
            if last == to {
                return Some(route);
            }
            for next in self.0.get(last).into_iter().flatten() {
                if seen.insert(next) {
                    routes.push_back([&route[..], &[next]].concat());
                }
            }
        }
        None
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn graph(edges: &[(&str, &str)]) -> Graph {
        let mut graph = Graph::default();
        for (from, to) in edges {
            let imports = graph.imports.entry(from.into()).or_default();
            imports.insert(to.into(), "crate::x".to_owned());
        }
        graph
    }

    const CIRCLE: &[(&str, &str)] = &[("a", "b"), ("b", "c"), ("c", "a"), ("c", "d")];

    #[test]
    fn imports_without_a_circle_pass() {
        let graph = graph(&[("a", "b"), ("a", "c"), ("b", "c")]);
        assert_eq!(violations(&graph), [""; 0]);
    }

    #[test]
    fn an_import_of_a_parent_does_not_count() {
        for parent in ["a/src/b/mod.rs", "a/src/b.rs", "a/src/lib.rs"] {
            let graph = graph(&[("a/src/b/c.rs", parent), (parent, "a/src/b/c.rs")]);
            assert_eq!(violations(&graph), [""; 0], "{parent}");
        }
        let others = graph(&[
            ("a/src/b/c.rs", "a/src/d/mod.rs"),
            ("a/src/d/mod.rs", "a/src/b/c.rs"),
        ]);
        assert_eq!(violations(&others).len(), 1);
    }

    #[test]
    fn a_circle_over_several_files_is_found_once() {
        assert_eq!(
            violations(&graph(CIRCLE)),
            ["circle of imports: a -> b (crate::x) -> c (crate::x) -> a (crate::x)"]
        );
        let two = [CIRCLE, &[("e", "f"), ("f", "e")]].concat();
        assert_eq!(violations(&graph(&two)).len(), 2);
    }
}
