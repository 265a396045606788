//! Owns the environment variables that must not reach an inner cargo.
//!
//! `cargo xtask` runs under a cargo that passes its toolchain to its children. An inner cargo of another
//! toolchain would mix the two, and flags for the host would break a build for the kernel.

use std::process::Command;

/// Variables that are passed on although they start with one of [`DROPPED_PREFIXES`]: directories, network,
/// terminal.
const KEPT_PREFIXES: &[&str] = &[
    "CARGO_HOME",
    "CARGO_HTTP_",
    "CARGO_NET_",
    "CARGO_REGISTR",
    "CARGO_SOURCE_",
    "CARGO_TERM_",
    "RUSTUP_AUTO_INSTALL",
    "RUSTUP_DIST_SERVER",
    "RUSTUP_HOME",
    "RUSTUP_UPDATE_ROOT",
];

const DROPPED_PREFIXES: &[&str] = &[
    // `cargo run` adds its toolchain's libraries here.
    "LD_LIBRARY_PATH",
    "CARGO",
    "RUSTC",
    "RUSTDOC",
    "RUSTFLAGS",
    "RUSTUP_",
    "RUST_RECURSION_COUNT",
];

/// Removes the outer toolchain from the environment of `command`.
pub(crate) fn clean(command: &mut Command) -> &mut Command {
    for (name, _value) in std::env::vars_os() {
        if name.to_str().is_some_and(belongs_to_outer_toolchain) {
            command.env_remove(name);
        }
    }
    command
}

fn belongs_to_outer_toolchain(name: &str) -> bool {
    let starts = |prefixes: &[&str]| prefixes.iter().any(|prefix| name.starts_with(prefix));
    starts(DROPPED_PREFIXES) && !starts(KEPT_PREFIXES)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn toolchain_and_flags_stay_out() {
        for name in [
            "CARGO",
            "CARGO_BUILD_TARGET",
            "CARGO_ENCODED_RUSTFLAGS",
            "CARGO_MANIFEST_DIR",
            "CARGO_PKG_NAME",
            "CARGO_TARGET_DIR",
            "LD_LIBRARY_PATH",
            "RUSTC",
            "RUSTC_WORKSPACE_WRAPPER",
            "RUSTC_WRAPPER",
            "RUSTFLAGS",
            "RUSTUP_TOOLCHAIN",
        ] {
            assert!(belongs_to_outer_toolchain(name), "{name}");
        }
    }

    #[test]
    fn places_network_and_terminal_pass() {
        for name in [
            "CARGO_HOME",
            "CARGO_HTTP_PROXY",
            "CARGO_NET_OFFLINE",
            "CARGO_REGISTRIES_X_INDEX",
            "CARGO_REGISTRY_DEFAULT",
            "CARGO_TERM_COLOR",
            "HOME",
            "PATH",
            "RUSTUP_HOME",
            "RUST_BACKTRACE",
        ] {
            assert!(!belongs_to_outer_toolchain(name), "{name}");
        }
    }
}
