//! Owns the builds: the eBPF object, the release binaries that embed it, and the Debian package.

pub(crate) mod ebpf;
pub(crate) mod package;
pub(crate) mod release;
