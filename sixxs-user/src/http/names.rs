//! The host names under which a server answers. They change with the configuration, and end with the server.

use std::sync::Arc;

use nix::sys::utsname::uname;
use sixxs_core::host::HostName;
use tokio::sync::watch;

/// The names in the configuration, and the host's own.
pub(super) type Names = Arc<[HostName]>;

/// Adds the host's own name, if it is a valid host name.
pub(super) fn with_own(names: &[HostName]) -> Names {
    let own = || own().parse().ok();
    names.iter().cloned().chain(own()).collect()
}

/// The name of this host; empty if it has none.
pub(super) fn own() -> String {
    let name = uname().ok();
    let name = name.and_then(|name| name.nodename().to_str().map(str::to_owned));
    name.unwrap_or_default()
}

/// Waits until the server ends that owns these names.
pub(super) async fn closed(names: &mut watch::Receiver<Names>) {
    while names.changed().await.is_ok() {}
}
