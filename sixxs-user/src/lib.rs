//! The daemon, drivers and commands around the decisions of `sixxs-core`.
//!
//! Only [`netlink`] uses rtnetlink, and only [`bpf`] uses aya. One task, in [`daemon`], owns the state.

pub mod api;
pub mod bpf;
pub mod broker;
mod claim;
pub mod cli;
pub mod client;
pub mod clock;
pub mod config_file;
mod connections;
pub mod control;
pub mod daemon;
pub mod down;
pub mod driver;
mod exporter;
mod fd_store;
mod hooks;
mod kernel;
mod memory;
mod metrics;
pub mod namespace;
pub mod netlink;
pub mod paths;
pub mod ping;
mod plain;
pub mod preview;
mod removal;
mod run_dir;
mod shadow;
pub mod table_file;
pub mod text;
pub mod wire;
