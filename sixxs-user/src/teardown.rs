//! Removes everything that any run made, with or without a daemon. Objects that only exist while the daemon
//! runs end with it.

use std::{
    collections::BTreeSet,
    fs, io,
    path::Path,
    time::{Duration, Instant},
};

use anyhow::{Context as _, bail};
use nix::fcntl::{Flock, FlockArg};
use sixxs_core::routing::{Desired, diff};
use tokio::time::{sleep, timeout};

use crate::{
    bpf,
    control::client,
    deprecation,
    driver::SessionStore,
    host::files,
    host::namespace,
    host::paths::Paths,
    host::run_dir,
    host::table_names_file,
    netlink::{Netlink, Scope},
};

/// Time limit for the daemon to end.
const DAEMON_END_LIMIT: Duration = Duration::from_secs(70);

/// Ends the daemon if there is one, then removes rules, routes, programs, pins and files.
pub async fn down(paths: &Paths) -> anyhow::Result<()> {
    // Continue even if the daemon hangs.
    let (lock, hanging) = match end_daemon(paths).await {
        Ok(lock) => (lock, None),
        Err(error) if error.is::<client::Silent>() => (None, Some(error)),
        Err(error) => return Err(error),
    };

    let mut netlink = Netlink::open()?;
    let observed = netlink.observe(&Scope::default()).await?;
    // Nothing is desired, so the diff deletes every object with the mark of sixxs.
    let plan = diff(&Desired::default(), &observed);
    let outcome = netlink.apply(&plan).await;
    let mut problems: Vec<_> = outcome.failed.iter().map(ToString::to_string).collect();
    // Continue after errors.
    for removed in [
        deprecation::undo_all(&netlink, &paths.run_dir).await,
        bpf::remove(&paths.pin_dir, &observed.links, &netlink).await,
        netlink.remove_marked(&BTreeSet::new()).await,
        SessionStore::new(&paths.run_dir).remove_all(),
        table_names_file::remove(paths),
        // A daemon that continues to run needs its socket.
        match hanging {
            Some(_) => Ok(()),
            None => files::remove_if_exists(&paths.socket()),
        },
        lock.map_or(Ok(()), |lock| run_dir::remove(paths, lock)),
    ] {
        problems.extend(removed.err().map(|error| format!("{error:#}")));
    }
    problems.extend(hanging.map(|error| {
        format!(
            "{error} Its rules, routes and programs are removed all the same; if it continues to run, it \
             restores them: kill it, and run this again"
        )
    }));
    if problems.is_empty() {
        Ok(())
    } else {
        bail!("{}", problems.join("\n"))
    }
}

/// Ends the daemon and takes its lock, so that no other starts meanwhile. `None`: no daemon ever used this run
/// directory.
async fn end_daemon(paths: &Paths) -> anyhow::Result<Option<Flock<fs::File>>> {
    let path = paths.lock();
    let mut file = match fs::File::options().write(true).open(&path) {
        Ok(file) => file,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(error).with_context(|| format!("open {}", path.display())),
    };
    let begun = Instant::now();
    let mut asked = false;
    loop {
        file = match Flock::lock(file, FlockArg::LockExclusiveNonblock) {
            Ok(lock) => return Ok(Some(lock)),
            Err((file, _)) => file,
        };
        refuse_another_namespace(&path)?;
        if !asked {
            // The response may be lost when the daemon ends; wait for the lock instead.
            let socket = paths.socket();
            let quit = client::post(&socket, "/v1/quit?stop=true", &());
            match timeout(DAEMON_END_LIMIT, quit).await {
                // The daemon does not listen yet: try again.
                Ok(Err(error)) if error.is::<client::NoDaemon>() => {}
                Ok(Err(error)) if error.is::<client::Silent>() => return Err(error),
                _ => asked = true,
            }
        }
        if begun.elapsed() > DAEMON_END_LIMIT {
            bail!("the daemon does not end; kill it, and run this again");
        }
        sleep(Duration::from_millis(10)).await;
    }
}

/// Objects of a daemon can only be removed in its network namespace.
fn refuse_another_namespace(lock: &Path) -> anyhow::Result<()> {
    let Some(holder) = run_dir::holder(lock) else {
        return Ok(());
    };
    if holder.namespace != namespace::cookie()? {
        bail!(
            "the daemon (process {}) runs in another network namespace, and its rules, routes and programs are \
             there; nothing was changed. Remove them there: nsenter --net={} sixxs down",
            holder.process,
            namespace::file_of(holder.process).display()
        );
    }
    Ok(())
}
