//! The host around the program: files, directories, clocks, limits and the network namespace.
//!
//! Nothing here knows tunnels, brokers or the daemon.

pub mod clock;
pub mod config_file;
pub(crate) mod drop_trace;
pub(crate) mod fd_store;
pub(crate) mod files;
pub(crate) mod kernel_support;
pub(crate) mod listing;
pub(crate) mod memory;
pub mod namespace;
pub(crate) mod netns_lock;
pub mod paths;
pub mod ping;
pub(crate) mod plain;
pub(crate) mod prober;
pub(crate) mod raw_sockets;
pub(crate) mod run_dir;
pub(crate) mod source_address;
pub mod table_names_file;
