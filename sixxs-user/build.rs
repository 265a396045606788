//! Finds the eBPF object that `cargo xtask build` made, for the binary to embed.

use std::{env, path::PathBuf, process::exit};

fn main() {
    println!("cargo::rerun-if-env-changed=SIXXS_EBPF_OBJECT");
    let object = env::var_os("SIXXS_EBPF_OBJECT").map_or_else(
        || PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../target/ebpf/sixxs-ebpf.o"),
        PathBuf::from,
    );
    println!("cargo::rerun-if-changed={}", object.display());
    match object.canonicalize() {
        Ok(object) => println!("cargo::rustc-env=SIXXS_EBPF_OBJECT={}", object.display()),
        Err(error) => {
            println!(
                "cargo::error=no eBPF object at {}: {error}; run `cargo xtask build`, or set \
                 SIXXS_EBPF_OBJECT to one",
                object.display()
            );
            exit(1);
        }
    }
}
