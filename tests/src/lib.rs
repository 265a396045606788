//! The lab: the networks of the problem, in network namespaces on this machine, and the tools of the tests.
//!
//! ```text
//!  outside (2001:db8:ffff::9) ── core router ── isp ── net0  host  sixxs0, sixxs1
//!                                    │
//!                                    ├── pop0 (198.51.100.1; 2001:db8:a::1)
//!                                    └── pop1 (198.51.100.2; 2001:db8:b::1)
//! ```
//!
//! [`lab::Lab`] builds it and removes it. [`probe`] has the traffic, leaks included. [`program`] runs
//! `sixxs` in it as users do, by its command line and JSON, and records what it changes. [`broker`]
//! has the far ends of native tunnels. [`kernel`] reads the kernel and its BPF programs without the
//! program. [`network_managers`], [`terminal`] and [`browser`] run real network managers, terminals and a browser. [`chaos`] injects
//! random faults.
//!
//! Everything is in namespaces that the lab made, and all addresses are documentation addresses. The lab
//! needs root.

pub mod broker;
pub mod browser;
pub mod chaos;
mod deb_programs;
pub mod ip6tables;
pub mod kernel;
pub mod lab;
pub mod network_managers;
pub mod probe;
pub mod program;
pub mod shell;
pub mod socket_option;
pub mod terminal;
pub mod wait;
