//! Boundaries inside `sixxs-user` that Cargo.toml cannot express: a crate may be used in one directory only.

use std::path::Path;

use crate::check::source::File;

/// A directory (or the module file beside it), and crates that only this directory of `sixxs-user/src` may
/// use.
const OWNERS: &[(&str, &[&str])] = &[
    (
        "netlink",
        &[
            "rtnetlink",
            "netlink_packet_core",
            "netlink_packet_route",
            "netlink_packet_utils",
            "netlink_proto",
            "netlink_sys",
        ],
    ),
    ("bpf", &["aya", "aya_log", "aya_obj"]),
];

const SOURCE: &str = "sixxs-user/src";

/// Uses of a crate outside its directory, one per line.
pub(crate) fn violations(files: &[File]) -> Vec<String> {
    let mut found = Vec::new();
    for file in files {
        let Ok(path) = file.path.strip_prefix(SOURCE) else {
            continue;
        };
        if path.extension().is_none_or(|extension| extension != "rs") {
            continue;
        }
        for (owner, crates) in OWNERS {
            if path.starts_with(owner) || path == Path::new(&format!("{owner}.rs")) {
                continue;
            }
            for (index, line) in file.text.lines().enumerate() {
                for name in crates.iter().filter(|name| uses(line, name)) {
                    found.push(format!(
                        "{}:{}: only {SOURCE}/{owner} may use {name}",
                        file.path.display(),
                        index + 1
                    ));
                }
            }
        }
    }
    found
}

/// Whether the line's code has `name` as the first part of a path or after `use`.
fn uses(line: &str, name: &str) -> bool {
    let code = line.split("//").next().unwrap_or_default();
    code.match_indices(name).any(|(at, _)| {
        let (before, rest) = (&code[..at], &code[at + name.len()..]);
        let is_word = |c: char| c.is_alphanumeric() || c == '_';
        if before.ends_with(is_word) || rest.starts_with(is_word) {
            return false;
        }
        // `::aya` is a crate only if no path precedes the colons; `self::aya` is a module.
        let inner_segment = before
            .strip_suffix("::")
            .is_some_and(|before| before.ends_with(is_word));
        let named = matches!(before.split_whitespace().last(), Some("use" | "crate"));
        !inner_segment && (rest.starts_with("::") || named)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn found(path: &str, text: &str) -> usize {
        violations(&[File {
            path: path.into(),
            text: text.into(),
        }])
        .len()
    }

    #[test]
    fn foreign_uses_are_found() {
        assert_eq!(found("sixxs-user/src/state.rs", "use aya::Ebpf;"), 1);
        assert_eq!(
            found("sixxs-user/src/state.rs", "x\nlet e: ::aya::Ebpf;"),
            1
        );
        assert_eq!(found("sixxs-user/src/state.rs", "use rtnetlink;"), 1);
        assert_eq!(
            found("sixxs-user/src/bpf/mod.rs", "netlink_packet_route::rule::X"),
            1
        );
        assert_eq!(
            found("sixxs-user/src/netlink/mod.rs", "use aya_log as _;"),
            1
        );
        assert_eq!(found("sixxs-user/src/main.rs", "pub use aya as b;"), 1);
    }

    #[test]
    fn owners_comments_and_similar_names_are_not() {
        assert_eq!(found("sixxs-user/src/bpf/load.rs", "use aya::Ebpf;"), 0);
        assert_eq!(found("sixxs-user/src/bpf.rs", "use aya::Ebpf;"), 0);
        assert_eq!(
            found("sixxs-user/src/netlink/rules.rs", "use rtnetlink::Handle;"),
            0
        );
        assert_eq!(
            found("sixxs-user/src/state.rs", "// aya::Ebpf is not used here"),
            0
        );
        assert_eq!(found("sixxs-user/src/state.rs", "/// rtnetlink says so"), 0);
        assert_eq!(
            found(
                "sixxs-user/src/state.rs",
                "use crate::bpf::aya::X; maya::x()"
            ),
            0
        );
        assert_eq!(found("tests/src/lib.rs", "use aya::Ebpf;"), 0);
    }
}
