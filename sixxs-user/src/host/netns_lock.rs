//! Makes sure that only one daemon runs in a network namespace.

use std::io;

use anyhow::{Context as _, bail};
use nix::{
    sys::socket::{getsockopt, sockopt::PeerCredentials},
    unistd::geteuid,
};
use socket2::{Domain, SockAddr, Socket, Type};
use tracing::{debug, warn};

/// The name by which daemons of a network namespace detect each other.
const ABSTRACT_NAME: &str = "\0sixxs-daemon";

/// Makes sure that there is one daemon per network namespace while the returned socket is open: two would undo
/// each other's changes. The name is an abstract Unix socket, which belongs to the namespace and not to a
/// directory. Any user may take it, so it counts only if it belongs to root or to the user of this process.
pub(crate) fn acquire() -> anyhow::Result<Option<Socket>> {
    let name = SockAddr::unix(ABSTRACT_NAME).context("name a socket")?;
    let open = || Socket::new(Domain::UNIX, Type::STREAM.cloexec().nonblocking(), None);
    let socket = open().context("open a socket")?;
    match socket.bind(&name) {
        Ok(()) => {
            socket.listen(1).context("listen to a socket")?;
            return Ok(Some(socket));
        }
        Err(error) if error.kind() == io::ErrorKind::AddrInUse => {}
        Err(error) => return Err(error).context("bind a socket"),
    }
    let client = open().context("open a socket")?;
    let holder = client
        .connect(&name)
        .and_then(|()| Ok(getsockopt(&client, PeerCredentials)?));
    match holder {
        Ok(holder) if holder.uid() == 0 || holder.uid() == geteuid().as_raw() => bail!(
            "another sixxs (process {}) runs in this network namespace, and two would undo each other's \
             changes; stop it, or run this one in a namespace of its own",
            holder.pid()
        ),
        Ok(holder) => warn!(
            "process {} of user {} has taken the name by which daemons detect each other; continuing without it",
            holder.pid(),
            holder.uid()
        ),
        Err(error) => debug!("which process has taken the name of sixxs: {error}"),
    }
    Ok(None)
}
