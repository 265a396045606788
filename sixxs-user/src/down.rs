//! Takes away everything that any run ever made, with or without a daemon.

use std::{
    fs, io,
    time::{Duration, Instant},
};

use anyhow::{Context as _, bail};
use nix::fcntl::{Flock, FlockArg};
use sixxs_core::routing::{Desired, diff};

use crate::{
    bpf, client,
    daemon::{MADE_DIRECTORY, remove_if_there},
    netlink::{Netlink, Scope},
    paths::Paths,
    table_file,
};

/// How long a daemon may take to end.
const PATIENCE: Duration = Duration::from_secs(70);

/// Ends the daemon if there is one, then removes rules, routes, programs, pins and files.
pub async fn down(paths: &Paths) -> anyhow::Result<()> {
    let lock = end_daemon(paths).await?;

    let mut netlink = Netlink::open()?;
    let observed = netlink.observe(&Scope::of_ours()).await?;
    // Nothing is desired: whatever bears our mark is too much.
    let plan = diff(&Desired::default(), &observed);
    let outcome = netlink.apply(&plan).await;
    bpf::remove(&paths.pin_dir, &observed.links, &netlink).await?;
    table_file::remove(paths)?;
    remove_if_there(&paths.socket())?;
    if let Some(lock) = lock {
        let made_directory = fs::read_to_string(paths.lock())? == MADE_DIRECTORY;
        remove_if_there(&paths.lock())?;
        drop(lock);
        if made_directory {
            remove_if_empty(&paths.run_dir)?;
        }
    }
    if !outcome.failed.is_empty() {
        let failures: Vec<_> = outcome.failed.iter().map(ToString::to_string).collect();
        bail!("{}", failures.join("\n"));
    }
    Ok(())
}

/// Ends the daemon, and holds its lock so that no other starts meanwhile. `None`: none ever ran
/// with this run directory.
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
        if !asked {
            // The answer may be lost when the daemon ends: what counts is that it gives the lock
            // back.
            match client::post(&paths.socket(), "/v1/quit?stop=true", &()).await {
                Err(error) if error.is::<client::NoDaemon>() => {}
                Err(error) if begun.elapsed() > PATIENCE => return Err(error),
                _ => asked = true,
            }
        }
        if begun.elapsed() > PATIENCE {
            bail!("the daemon does not end; end it by force, and call this again");
        }
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
}

fn remove_if_empty(directory: &std::path::Path) -> anyhow::Result<()> {
    match fs::remove_dir(directory) {
        Err(error)
            if !matches!(
                error.kind(),
                io::ErrorKind::NotFound
                    | io::ErrorKind::DirectoryNotEmpty
                    | io::ErrorKind::ResourceBusy
            ) =>
        {
            Err(error).with_context(|| format!("remove {}", directory.display()))
        }
        _ => Ok(()),
    }
}
