//! The decisions of the reply-path enforcer, as pure functions over data.
//!
//! Nothing here does IO, reads a clock or runs a task. Input: bytes, observations and time. Output:
//! plans and texts. The crate `sixxs-user` is the shell around it.
//!
//! * [`config`] – the configuration file, parsed once into [`config::Config`]
//! * [`diagnostics`] – faults in files, by line and key
//! * [`aiccu`] – the configuration file of the AICCU client
//! * [`broker`] – the protocols of tunnel brokers, without IO
//! * [`link_quality`] – evaluates the probes of a link
//! * [`active_link`] – decides which link carries the prefixes of a group
//! * [`secret`] – passwords
//! * [`wireguard`] – the configuration of WireGuard interfaces, desired and observed
//! * [`endpoint`] – the far ends of tunnels
//! * [`remote`] – hosts by address or by name
//! * [`link`] – observed network interfaces
//! * [`routing`] – desired and observed rules and routes, and the plan between them
//! * [`enforce`] – the desired state of the kernel programs' maps
//! * [`tunnel`] – the state of a tunnel, as shown to users
//! * [`leak_lines`] – groups leaks into lines
//! * [`reconcile_limiter`] – the rate limit of reconcile rounds
//! * [`program_poll`] – how often detached programs are looked for
//! * [`echo_health`] – evaluates echo pairing: whether a tunnel answers
//! * [`history`] – the history of tunnels: records of minutes, availability, outages
//! * [`outer_traffic`] – evaluates outer packets: where a silent tunnel is silent
//! * [`deprecation`] – which addresses are deprecated because their link fails
//! * [`correction_limiter`] – limits the reports of repeated corrections
//! * [`alert_limiter`] – limits floods of alerts with one cause
//! * [`cgroup_owner`] – finds the owner of a control group
//! * [`doctor`] – diagnosis of a host
//! * [`inside_test`] – would a ping be answered, and if not, what drops it
//! * [`outside_test`] – packets from one link to another over the internet
//! * [`explain`] – the path of a packet, and faults on it
//! * [`init`] – proposes a configuration
//! * [`host`] – checks the host name of web requests
//! * [`table_names`] – the file with the names of routing tables

pub mod active_link;
pub mod aiccu;
pub mod alert_limiter;
pub mod broker;
pub mod cgroup_owner;
pub mod change;
pub mod config;
pub mod correction_limiter;
pub mod deprecation;
pub mod diagnostics;
pub mod doctor;
pub mod echo_health;
pub mod endpoint;
pub mod enforce;
pub mod explain;
pub mod failure_tracker;
pub mod health;
pub mod history;
pub mod host;
pub mod init;
pub mod inside_test;
pub mod leak_lines;
pub mod link;
pub mod link_quality;
pub mod outer_traffic;
pub mod outside_test;
pub mod program_poll;
pub mod reconcile_limiter;
pub mod remote;
pub mod routing;
pub mod secret;
pub mod state_file;
pub mod table_names;
pub mod tunnel;
pub mod types;
pub mod wireguard;
pub mod xdp_dispatcher;
