//! x
pub mod bpf;
pub mod netlink;
