//! The lab: the internet that the problem needs, in network namespaces on this machine, and
//! everything a test wants to do in it.
//!
//! ```text
//!  outside (2001:db8:ffff::9) ── core router ── isp ── net0  host  sixxs0, sixxs1
//!                                    │
//!                                    ├── pop0 (198.51.100.1; 2001:db8:a::1)
//!                                    └── pop1 (198.51.100.2; 2001:db8:b::1)
//! ```
//!
//! [`lab::Lab`] builds it and takes it down again; the traffic comes from [`probe`],
//! [`service`] and [`leak`]; [`program`] runs `sixxs` in it the way people do, by its command
//! line and JSON; [`snapshot`] writes down what the kernel holds, to be compared later. In a lab
//! with [`native`] tunnels the program makes those itself, and has [`broker`]s to talk to, perhaps
//! through a [`nat`].
//!
//! Everything stays in namespaces that the lab itself made and uses documentation addresses
//! only. Root is needed.

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
