//! The lab: the networks of the problem, in network namespaces on this machine, and the tools of the tests.
//!
//! ```text
//!  outside (2001:db8:ffff::9) ── core router ── isp ── net0  host  sixxs0, sixxs1
//!                                    │
//!                                    ├── pop0 (198.51.100.1; 2001:db8:a::1)
//!                                    └── pop1 (198.51.100.2; 2001:db8:b::1)
//! ```
//!
//! [`lab::Lab`] builds and removes it. The traffic comes from [`probe`], [`service`] and [`leak`].
//! [`program`] runs `sixxs` in it like a user, by its command line and JSON. [`snapshot`] records the
//! kernel's state for comparison. In a lab with [`native`] tunnels the program makes those itself, and
//! connects to [`broker`]s, optionally through a [`nat`].
//!
//! Everything is in namespaces that the lab made, and all addresses are documentation addresses. The lab
//! needs root.

pub mod bare;
pub mod beside;
pub mod bpf;
pub mod broker;
pub mod carrier;
pub mod chaos;
pub mod dirs;
pub mod events;
pub mod fd_store;
pub mod frame;
pub mod interrupt;
pub mod ip6tables;
pub mod kernel;
pub mod lab;
pub mod leak;
pub mod mounts;
pub mod nat;
pub mod native;
pub mod netns;
pub mod nft;
pub mod no_subtrees;
pub mod offload;
pub mod own;
pub mod packets;
pub mod people;
pub mod probe;
pub mod program;
pub mod pty;
pub mod screen;
pub mod service;
pub mod shell;
pub mod snapshot;
pub mod socket_option;
pub mod status;
pub mod svg;
pub mod tmux;
pub mod topology;
pub mod tun;
mod tunnel;
mod unpacked;
pub mod uplink;
pub mod wait;
mod wireguard;
