//! The daemon, drivers and commands around the decisions of `sixxs-core`.
//!
//! Only [`netlink`] uses rtnetlink, and only [`bpf`] uses aya. One task, in [`daemon`], owns the state.

// All text for a terminal passes through `host::plain`.
#![warn(clippy::print_stdout, clippy::print_stderr)]

pub mod bpf;
pub mod broker;
pub mod cli;
pub mod control;
pub mod daemon;
mod deprecation;
pub mod driver;
mod history;
mod hooks;
pub mod host;
mod http;
mod metrics;
pub mod netlink;
pub mod preview;
mod rule_shadowing;
pub mod teardown;
pub mod web;
pub mod wire;
